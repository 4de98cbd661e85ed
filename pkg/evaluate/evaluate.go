package evaluate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

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

// Check answers checks over rows: as many answers as checks, in order. Each is answered as if it were asked alone; what ends the
// whole call, as ctx does, fails all of them.
func (p *Program) Check(ctx context.Context, rows Rows, checks []Check) []Answer {
	w := p.Walk(rows)
	defer w.Close()
	return w.Check(ctx, checks)
}

// Resolve returns why there is no answer to a check, whatever the rows: a type, permission or relation that the schema does not
// have, an id that is none, or a wildcard as subject; nil if there is one. Errors have SpiceDB's status.
func (p *Program) Resolve(c *Check) error {
	_, _, err := p.resolve(c)
	return err
}

// asked is one check of a walk.
type asked struct {
	question int
	of       memberKey
	subject  uint8
}

// Check answers checks, see Program.Check. They take as many rounds as their subjects need: what one has read the next one does
// not read again.
func (w *Walk) Check(ctx context.Context, checks []Check) []Answer {
	answers, _ := w.checkAll(ctx, checks) // which says in each answer what the error is
	return answers
}

// AppendAnswers is Check, and appends the answers to others.
func (w *Walk) AppendAnswers(ctx context.Context, to []Answer, checks []Check) []Answer {
	n := len(to)
	to = slices.Grow(to, len(checks))[:n+len(checks)]
	clear(to[n:])
	_ = w.checkInto(ctx, checks, to[n:]) // as above
	return to
}

// checkAll is Check, and returns what ended the whole call.
func (w *Walk) checkAll(ctx context.Context, checks []Check) ([]Answer, error) {
	answers := make([]Answer, len(checks))
	return answers, w.checkInto(ctx, checks, answers)
}

// checkInto is checkAll with the answers in place of as many zero ones.
func (w *Walk) checkInto(ctx context.Context, checks []Check, answers []Answer) (err error) {
	w.begin(ctx)
	defer w.end()
	for done := 0; done < len(checks); {
		if done > 0 {
			w.rest()
		}
		done += w.check(checks[done:], answers[done:])
	}
	return w.err
}

// check answers checks until the walk has too many subjects, and returns how many.
func (w *Walk) check(checks []Check, answers []Answer) (n int) {
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
func (p *Program) resolve(c *Check) (m *member, s subject, err error) {
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
		return nil, s, statuses.New(codes.InvalidArgument, authz.ReasonInvalidField, "", "an object's id is empty, or has a zero byte").Err()
	}
	return m, s, nil
}

// add adds a subject; ok is false if there is no room for it.
func (w *Walk) add(s subject) (i uint8, ok bool) {
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

// answer answers what is asked: each member of an object once, for all subjects that are asked about.
func (w *Walk) answer(checks []Check, answers []Answer) {
	slices.SortFunc(w.asked, func(a, b asked) int {
		if a.of.of != b.of.of {
			return cmp.Or(cmp.Compare(a.of.of.of.name, b.of.of.of.name), cmp.Compare(a.of.of.name, b.of.of.name))
		}
		return cmp.Or(cmp.Compare(a.of.id, b.of.id), cmp.Compare(a.question, b.question))
	})
	for rest := w.asked; len(rest) > 0 && w.err == nil; {
		key, who, n := rest[0].of, set(0), 0
		for n < len(rest) && rest[n].of == key {
			who |= 1 << rest[n].subject
			n++
		}
		w.read = 0
		v, _ := w.member(key.of, w.object(key.of.of, key.id), who, maxDepth)
		if tooMuch(w.err) { // which is about this question alone
			for _, a := range rest[:n] {
				answers[a.question] = Answer{Outcome: authz.Failed, Err: w.err}
			}
			w.err, w.conditions = nil, 0
			w.letGo()
			rest = rest[n:]
			continue
		}
		for _, a := range rest[:n] {
			answers[a.question] = w.conclude(&v, a.subject, circumstances{program: w.program, given: checks[a.question].Context})
		}
		rest = rest[n:]
	}
	w.read = 0
	if w.err != nil {
		for i := range w.asked {
			answers[w.asked[i].question] = Answer{Outcome: authz.Failed, Err: w.err}
		}
	}
}

// conclude makes an answer of what a subject is.
func (w *Walk) conclude(v *value, s uint8, c circumstances) Answer {
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

// CheckOf puts a query into SpiceDB's words.
func CheckOf(q authz.Query) Check {
	return Check{
		Resource: tuple.ObjectAndRelation{ObjectType: q.Resource.Type, ObjectID: q.Resource.ID, Relation: q.Permission},
		Subject:  tuple.ObjectAndRelation{ObjectType: q.Subject.Type, ObjectID: q.Subject.ID, Relation: cmp.Or(q.Subject.Relation, tuple.Ellipsis)},
		Context:  q.Context,
	}
}

// Query is the inverse of CheckOf.
func (c Check) Query() authz.Query {
	q := authz.Query{
		Resource:   authz.Object{Type: c.Resource.ObjectType, ID: c.Resource.ObjectID},
		Permission: c.Resource.Relation,
		Subject:    authz.Subject{Object: authz.Object{Type: c.Subject.ObjectType, ID: c.Subject.ObjectID}, Relation: c.Subject.Relation},
		Context:    c.Context,
	}
	if q.Subject.Relation == tuple.Ellipsis {
		q.Subject.Relation = ""
	}
	return q
}

// String returns the check as SpiceDB writes it.
func (c Check) String() string {
	return fmt.Sprintf("%s@%s", tuple.StringONR(c.Resource), tuple.StringONR(c.Subject))
}
