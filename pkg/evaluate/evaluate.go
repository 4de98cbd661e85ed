package evaluate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// Evaluator answers checks from a store. It is safe for concurrent use.
type Evaluator struct {
	store *store.Store

	programs versions[*program]
}

// New returns an evaluator of a store. The store stays its owner's.
func New(s *store.Store) *Evaluator { return &Evaluator{store: s} }

// Snapshot answers checks at one revision, and has to be closed. It is not safe for concurrent use.
type Snapshot struct {
	program *program
	*store.Snapshot
}

// Check is a question: has the subject the permission on the resource?
type Check struct {
	// Resource names the object and the permission, or relation.
	Resource tuple.ObjectAndRelation
	// Subject is a subject; its relation is "..." if it is an object.
	Subject tuple.ObjectAndRelation
	// Context is what caveats are evaluated with.
	Context map[string]any
}

// Answer is what a Check came to. The zero value is a refusal.
type Answer struct {
	Outcome authz.Outcome
	// Missing names, in order, the parameters of caveats that would have to be given, when Conditional.
	Missing []string
	// Err is why there is no answer, with SpiceDB's gRPC status, when Failed.
	Err error
}

// At pins a revision. Errors: those of store.Store.Snapshot, and a schema that cannot be evaluated.
func (e *Evaluator) At(at store.Revision) (*Snapshot, error) {
	s, err := e.store.Snapshot(at)
	if err != nil {
		return nil, err
	}
	p, err := e.programAt(at)
	if err != nil {
		s.Close()
		return nil, err
	}
	return &Snapshot{program: p, Snapshot: s}, nil
}

// programAt returns the program of the schema at a revision, which is pinned.
func (e *Evaluator) programAt(at store.Revision) (*program, error) {
	return e.programs.get(e.store.SchemaVersion(at), func() (*program, error) {
		namespaces, caveats, err := e.store.Definitions(at)
		if err != nil {
			return nil, err
		}
		return compile(namespaces, caveats)
	})
}

// Check answers checks: as many answers as checks, in order. Each is answered as if it were asked alone; what
// ends the whole call, as ctx does, fails all of them.
func (s *Snapshot) Check(ctx context.Context, checks []Check) []Answer {
	w := newWalk(ctx, s, len(checks))
	defer w.free()
	return w.checks(checks)
}

// asked is one check of a walk.
type asked struct {
	question int
	of       memberKey
	subject  uint8
}

// checks answers checks, in as many walks as their subjects take. What one has read the next one does not read again.
func (w *walk) checks(checks []Check) []Answer {
	answers := make([]Answer, len(checks))
	for done := 0; done < len(checks); {
		if done > 0 {
			w.rest()
		}
		done += w.check(checks[done:], answers[done:])
	}
	return answers
}

// check answers checks until the walk has too many subjects, and returns how many.
func (w *walk) check(checks []Check, answers []Answer) (n int) {
	for ; n < len(checks); n++ {
		m, sub, err := w.program.resolve(&checks[n])
		if err != nil {
			answers[n] = Answer{Outcome: authz.Failed, Err: err}
			continue
		}
		i, ok := w.add(sub)
		if !ok {
			break
		}
		w.asked = append(w.asked, asked{n, memberKey{m, checks[n].Resource.ObjectID}, i})
	}
	w.answer(checks, answers[:n])
	return n
}

// resolve finds what a check is about. Errors have SpiceDB's status.
func (p *program) resolve(c *Check) (m *member, s subject, err error) {
	if m, err = p.member(c.Resource.ObjectType, c.Resource.Relation); err != nil {
		return nil, s, err
	}
	s = subject{of: p.types[c.Subject.ObjectType], id: c.Subject.ObjectID}
	if s.of == nil {
		return nil, s, noType(c.Subject.ObjectType)
	}
	if c.Subject.Relation != tuple.Ellipsis {
		s.relation = c.Subject.Relation
		if _, err := p.member(s.of.name, s.relation); err != nil {
			return nil, s, err
		}
	}
	switch {
	case s.id == wildcard:
		return nil, s, spiceerrors.WithCodeAndReason(errors.New("cannot perform check on wildcard subject"), //nolint:err113 // its kind is the reason
			codes.InvalidArgument, v1.ErrorReason_ERROR_REASON_WILDCARD_NOT_ALLOWED)
	case s.id == "" || c.Resource.ObjectID == "" || strings.IndexByte(s.id+c.Resource.ObjectID, 0) >= 0:
		return nil, s, status.Error(codes.InvalidArgument, "an object's id is empty, or has a zero byte")
	}
	return m, s, nil
}

// walks keeps the maps and slices of walks that are over, and wideWalks those of walks that met many objects: emptying
// a map costs what it once held.
var (
	walks     = sync.Pool{New: func() any { return &walk{objects: map[objectKey]*object{}} }}
	wideWalks = sync.Pool{New: func() any { return &walk{objects: map[objectKey]*object{}, wide: true} }}
)

const (
	// maxKept and maxWide are how many objects a walk may have met that is used again.
	maxKept, maxWide = 128, 4096
	// manyChecks are so many that the walk will probably be a wide one.
	manyChecks = 32
)

// newWalk begins a walk for a number of checks.
func newWalk(ctx context.Context, s *Snapshot, checks int) *walk {
	pool := &walks
	if checks >= manyChecks {
		pool = &wideWalks
	}
	w, _ := pool.Get().(*walk)
	w.ctx, w.program, w.snapshot = ctx, s.program, s.Snapshot
	return w
}

// again reports whether the walk may be used again.
func (w *walk) again() bool { return len(w.objects) <= maxKept || w.wide && len(w.objects) <= maxWide }

// rest ends a walk so that another one at the same revision can begin where it has read: all but rows is gone.
func (w *walk) rest() {
	for _, o := range w.learned {
		for _, k := range o.known {
			*k.known = known{}
			w.blanks = append(w.blanks, k.known)
		}
		clear(o.known)
		o.known = o.known[:0]
	}
	clear(w.learned)
	clear(w.asked)
	clear(w.subjects)
	*w = walk{
		ctx: w.ctx, program: w.program, snapshot: w.snapshot, wide: w.wide, err: w.err, steps: w.steps,
		objects: w.objects, learned: w.learned[:0], asked: w.asked[:0], subjects: w.subjects[:0], blanks: w.blanks, unread: w.unread,
	}
}

// free gives the walk back.
func (w *walk) free() {
	if !w.again() {
		return
	}
	w.rest()
	for _, o := range w.objects {
		clear(o.relations)
		*o = object{known: o.known, relations: o.relations[:0]}
		w.unread = append(w.unread, o)
	}
	clear(w.objects)
	*w = walk{
		wide: w.wide, objects: w.objects, learned: w.learned, asked: w.asked, subjects: w.subjects, blanks: w.blanks, unread: w.unread,
	}
	if w.wide {
		wideWalks.Put(w)
	} else {
		walks.Put(w)
	}
}

// add adds a subject; ok is false if there is no room for it.
func (w *walk) add(s subject) (i uint8, ok bool) {
	for i := range w.subjects {
		if w.subjects[i] == s {
			return uint8(i), true
		}
	}
	if len(w.subjects) == maxSubjects {
		return 0, false
	}
	i = uint8(len(w.subjects)) //nolint:gosec // as above
	w.subjects = append(w.subjects, s)
	if s.relation != "" {
		w.usersets |= 1 << i
	}
	return i, true
}

// answer answers what is asked: each member of an object once, for all who are asked about.
func (w *walk) answer(checks []Check, answers []Answer) {
	slices.SortStableFunc(w.asked, func(a, b asked) int {
		if a.of.of != b.of.of {
			return cmp.Or(cmp.Compare(a.of.of.of.name, b.of.of.of.name), cmp.Compare(a.of.of.name, b.of.of.name))
		}
		return cmp.Compare(a.of.id, b.of.id)
	})
	for rest := w.asked; len(rest) > 0 && w.err == nil; {
		key, who, n := rest[0].of, set(0), 0
		for n < len(rest) && rest[n].of == key {
			who |= 1 << rest[n].subject
			n++
		}
		v, _ := w.member(key.of, w.object(key.of.of, key.id), who, maxDepth)
		for _, a := range rest[:n] {
			answers[a.question] = w.conclude(&v, a.subject, checks[a.question].Context)
		}
		rest = rest[n:]
	}
	if w.err != nil {
		for i := range w.asked {
			answers[w.asked[i].question] = Answer{Outcome: authz.Failed, Err: w.err}
		}
	}
}

// conclude makes an answer of what a subject is.
func (w *walk) conclude(v *value, s uint8, given map[string]any) Answer {
	bit := set(1) << s
	switch {
	case v.yes&bit != 0:
		return Answer{Outcome: authz.Yes}
	case v.unknown&bit != 0:
		if err := w.wrong[s]; err != nil {
			return Answer{Outcome: authz.Failed, Err: err}
		}
		return Answer{Outcome: authz.Failed, Err: tooDeep()}
	case v.maybe&bit != 0:
		c := circumstances{program: w.program, given: given}
		j := c.judge(v.of(s))
		a := Answer{Outcome: j.outcome, Err: j.err}
		if a.Outcome == authz.Conditional {
			a.Missing = j.names()
		}
		return a
	default:
		return Answer{}
	}
}

// String returns the check as SpiceDB writes it.
func (c Check) String() string {
	return fmt.Sprintf("%s@%s", tuple.StringONR(c.Resource), tuple.StringONR(c.Subject))
}
