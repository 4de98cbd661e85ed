package kept

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	authzedv1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/pkg/turns"
)

// Graph is an engine whose checks and small reads are answered straight from its store. It implements
// authz.Graph; what it does not answer itself it leaves to the engine.
type Graph struct {
	authz.Graph
	evaluator *Evaluator
	failure   func(op string, err error) error
	verifier  *verifier

	// expand asks SpiceDB for a tree; nil where it cannot be asked.
	expand func(context.Context, *authzedv1.ExpandPermissionTreeRequest) (*authzedv1.ExpandPermissionTreeResponse, error)
	// lookups and trees are what the methods of authzed.api.v1 take.
	lookups, trees *turns.Set

	schemas versions[*authz.Schema]
	// named is the revision whose token was asked for last: mostly the head's.
	named atomic.Pointer[named]
}

// named is a revision with its token.
type named struct {
	at    store.Revision
	token string
}

// token returns the token of a revision.
func (g *Graph) token(ctx context.Context, at store.Revision) (string, error) {
	if n := g.named.Load(); n != nil && n.at == at {
		return n.token, nil
	}
	token, err := zedtoken.NewFromRevision(ctx, at, datalayer.NoSchemaHashInLegacyMode, g.evaluator.store)
	if err != nil {
		return "", err
	}
	g.named.Store(&named{at, token.GetToken()})
	return token.GetToken(), nil
}

// Config is what a Graph is made of.
type Config struct {
	// Engine is SpiceDB over the store.
	Engine authz.Graph
	// Store is what is evaluated over. It stays its owner's.
	Store *store.Store
	// Failure puts an error of the store or of SpiceDB into the words of authz.
	Failure func(op string, err error) error
	// API is SpiceDB's over the store, which trees are compared with. Without it they are not verified.
	API grpc.ClientConnInterface
	// VerifySample is the share, 0 to 1, of what is answered that SpiceDB is asked too, see verify.go.
	VerifySample float64
	// Log is told of answers that differ.
	Log *zap.Logger
}

// Open returns a Graph. Close ends its verification.
func Open(c Config) *Graph {
	g := &Graph{
		Graph: c.Engine, evaluator: New(c.Store), failure: c.Failure,
		lookups: turns.New("lookups", maxLookups), trees: turns.New("trees", maxTrees),
	}
	if c.API != nil {
		api := authzedv1.NewPermissionsServiceClient(c.API)
		g.expand = func(ctx context.Context, req *authzedv1.ExpandPermissionTreeRequest) (*authzedv1.ExpandPermissionTreeResponse, error) {
			return api.ExpandPermissionTree(ctx, req)
		}
	}
	g.verifier = newVerifier(g, c.VerifySample, c.Log)
	return g
}

// Close ends verification. Nothing may be asked of the Graph any more.
func (g *Graph) Close() { g.verifier.close() }

// Collectors are the figures for Prometheus.
func (g *Graph) Collectors() []prometheus.Collector { return g.verifier.collectors() }

// Degraded reports whether answers have differed from SpiceDB's.
func (g *Graph) Degraded() bool { return g.verifier.count() > 0 }

// answer answers checks by a walk over a revision that is pinned.
func (g *Graph) answer(
	ctx context.Context, w *evaluate.Walk, at *store.Snapshot, token authz.Revision, checks []evaluate.Check,
) []evaluate.Answer {
	answers := w.Check(ctx, checks)
	g.verify(ctx, at, token, checks, answers)
	return answers
}

// verify makes answers stricter where they are to be, and gives a share of them to verification.
func (g *Graph) verify(ctx context.Context, at *store.Snapshot, token authz.Revision, checks []evaluate.Check, answers []evaluate.Answer) {
	g.verifier.stricter(ctx, token, checks, answers)
	g.verifier.sample(answered{at: at.Revision(), token: token, checks: checks, answers: answers})
}

// Snapshot pins a revision; see authz.Graph.
func (g *Graph) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	s := &snapshot{graph: g}
	if f == (authz.Freshness{}) {
		var err error
		if s.at, err = g.evaluator.store.Head(); err == nil {
			s.token.Token, err = g.token(ctx, s.at)
		}
		if err != nil {
			return nil, g.failure("evaluate.Snapshot", err)
		}
		return s, nil
	}
	inner, err := g.Graph.Snapshot(ctx, f)
	if err != nil {
		return nil, err
	}
	s.token, s.inner, s.moment = inner.Revision(), inner, f.Moment
	decoded, err := zedtoken.DecodeRevision(&authzedv1.ZedToken{Token: s.token.ZedToken()}, g.evaluator.store)
	if err != nil {
		return nil, g.failure("evaluate.Snapshot", err)
	}
	at, ok := decoded.Revision.(store.Revision)
	if !ok || decoded.Status != zedtoken.StatusValid {
		return nil, g.failure("evaluate.Snapshot", datastore.NewInvalidRevisionErr(decoded.Revision, datastore.CouldNotDetermineRevision))
	}
	s.at = at
	return s, nil
}

// At returns a snapshot of a revision of the store, which must be readable, as of a moment; see authz.Freshness. It is for a store whose newest
// revision is not the one to be read.
func (g *Graph) At(ctx context.Context, at store.Revision, moment time.Time) (authz.Snapshot, error) {
	token, err := g.token(ctx, at)
	if err != nil {
		return nil, g.failure("evaluate.Snapshot", err)
	}
	return &snapshot{graph: g, at: at, token: authz.Revision{Token: token}, moment: moment}, nil
}

// snapshot is one revision. It implements authz.Snapshot.
type snapshot struct {
	graph *Graph
	at    store.Revision
	token authz.Revision
	// moment is the moment by which relationships expire; zero stands for the clock's. The engine, which knows no other than the clock's, answers
	// nothing then that can be answered here, and is not compared with.
	moment time.Time

	mu    sync.Mutex
	inner authz.Snapshot // opened when it is first needed
	// held counts the readers that hold the snapshot; idle is then what the next one reads with, nil while a reader has it, and
	// resting what the next one walks with.
	held    int
	idle    *store.Snapshot
	resting *evaluate.Walk
	// lookup is one that may go on.
	lookup *begun
	// until is when the first row expires of those that were read so far, zero where none does, and unbounded that this is not known.
	until     time.Time
	unbounded bool
}

// Until returns the moment up to which everything that was asked of the snapshot so far would be answered the same at this revision; zero where that
// has no end. known is false where this is not known.
func (s *snapshot) Until() (until time.Time, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until, !s.unbounded && s.moment.IsZero()
}

// unbound notes that it is not known up to which moment something is answered the same.
func (s *snapshot) unbound() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unbounded = true
}

// Hold keeps open what the snapshot opens to read, and the revision with it, until as many calls of Release. It is for who
// reads at the snapshot several times.
func (s *snapshot) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held++
}

// Release ends a Hold.
func (s *snapshot) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held--; s.held > 0 {
		return
	}
	if s.resting != nil {
		s.resting.Close()
		s.resting = nil
	}
	if s.idle != nil {
		s.idle.Close()
		s.idle = nil
	}
}

// open opens the revision in the store; done takes it back.
func (s *snapshot) open() (*store.Snapshot, error) {
	s.mu.Lock()
	at := s.idle
	s.idle = nil
	s.mu.Unlock()
	if at != nil {
		return at, nil
	}
	return s.graph.evaluator.store.SnapshotOf(s.at, s.moment)
}

// done takes back what open returned.
func (s *snapshot) done(at *store.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := at.Until(); s.until.IsZero() || !at.IsZero() && at.Before(s.until) {
		s.until = at
	}
	if s.held > 0 && s.idle == nil {
		s.idle = at
		return
	}
	at.Close()
}

// walk opens the revision to be walked; rest takes both back.
func (s *snapshot) walk() (*evaluate.Walk, *store.Snapshot, error) {
	at, err := s.open()
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	w := s.resting
	s.resting = nil
	s.mu.Unlock()
	if w != nil {
		w.Over(at)
		return w, at, nil
	}
	p, err := s.graph.evaluator.programAt(s.at)
	if err != nil {
		s.done(at)
		return nil, nil, err
	}
	return p.Walk(at), at, nil
}

// rest takes back what walk returned. What the walk has read stays with it, if somebody holds the snapshot.
func (s *snapshot) rest(w *evaluate.Walk, at *store.Snapshot) {
	s.mu.Lock()
	if s.held > 0 && s.resting == nil {
		s.resting, w = w, nil
	}
	s.mu.Unlock()
	if w != nil {
		w.Close()
	}
	s.done(at)
}

// engine returns the engine's snapshot of the same revision.
func (s *snapshot) engine(ctx context.Context) (authz.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inner == nil {
		inner, err := s.graph.Graph.Snapshot(ctx, authz.Freshness{Exactly: s.token})
		if err != nil {
			return nil, err
		}
		s.inner = inner
	}
	return s.inner, nil
}

// Moment is the moment by which relationships expire; see authz.Momentary.
func (s *snapshot) Moment() time.Time { return s.moment }

// Revision is the revision that everything is read at.
func (s *snapshot) Revision() authz.Revision { return s.token }

// errStray says that a schema is not kept: somebody may remove the rows for which one of its types is refused.
var errStray = errors.New("kept: a type has strays")

// Schema is the schema in force at the revision, read once in each of its versions.
func (s *snapshot) Schema(ctx context.Context) (*authz.Schema, error) {
	found, err := s.graph.schemas.get(s.graph.evaluator.store.SchemaVersion(s.at), func() (*authz.Schema, error) {
		inner, err := s.engine(ctx)
		if err != nil {
			return nil, err
		}
		read, err := inner.Schema(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range read.Types {
			if t.Stray != "" {
				return read, errStray
			}
		}
		return read, nil
	})
	if errors.Is(err, errStray) {
		return found, nil
	}
	return found, err
}

// Check answers each query; see authz.Snapshot. Of the engine no more is asked than its traces, where those are wanted.
func (s *snapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	memory := newMemory()
	defer memory.giveBack()
	memory.checks = sized(memory.checks, len(queries))
	checks := memory.checks
	explained := false
	for i := range queries {
		checks[i] = evaluate.CheckOf(queries[i])
		explained = explained || queries[i].Explain != nil
	}
	w, at, err := s.walk()
	if err != nil {
		return nil, s.graph.failure("evaluate.Check", err)
	}
	defer s.rest(w, at)
	answers := make([]authz.Answer, len(queries))
	if explained {
		memory.answers = s.explain(ctx, w, queries, checks, answers)
	} else {
		memory.answers = w.AppendAnswers(ctx, memory.answers, checks)
	}
	found := memory.answers
	// Of a moment of the past SpiceDB says something else.
	if s.moment.IsZero() {
		s.graph.verify(ctx, at, s.token, checks, found)
	}
	for i, a := range found {
		answers[i].Outcome, answers[i].Missing = a.Outcome, a.Missing
		if a.Err != nil {
			answers[i].Err = s.graph.failure("evaluate.Check", a.Err)
		}
		if why := answers[i].Explanation; why != nil && why.Outcome != a.Outcome {
			answers[i].Explanation = nil // the stricter answer is SpiceDB's, which this does not explain
		}
	}
	// What ends the whole call is its failure, not an answer.
	if err := ctx.Err(); err != nil {
		return nil, s.graph.failure("evaluate.Check", err)
	}
	return answers, s.traces(ctx, queries, answers)
}

// Read returns what matches each filter; see authz.Snapshot. What is asked of one object is read here.
func (s *snapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	for _, f := range filters {
		if f.Resource.Type == "" || f.Resource.ID == "" {
			s.unbound()
			inner, err := s.engine(ctx)
			if err != nil {
				return nil, err
			}
			return inner.Read(ctx, filters...)
		}
	}
	at, err := s.open()
	if err != nil {
		return nil, s.graph.failure("evaluate.Read", err)
	}
	defer s.done(at)
	out := make([][]authz.Relationship, len(filters))
	for i, f := range filters {
		if out[i], err = read(at, f); err != nil {
			return nil, s.graph.failure("evaluate.Read", err)
		}
	}
	return out, nil
}

// read reads what matches a filter that names an object.
func read(at *store.Snapshot, f authz.Filter) (found []authz.Relationship, err error) {
	object := f.Resource
	var rows []store.Row
	switch {
	case f == authz.Filter{Resource: object, SubjectType: f.SubjectType} && f.SubjectType != "":
		rows, err = at.OfSubjectType(object.Type, object.ID, f.SubjectType)
	case f.Relation == "":
		rows, _, err = at.Object(object.Type, object.ID, 0)
	case f.SubjectType != "" && f.SubjectID != "":
		// One row, and what there is of the subject's usersets.
		var row store.Row
		var ok bool
		if row, ok, err = at.Find(object.Type, object.ID, f.Relation, f.SubjectType, f.SubjectRelation, f.SubjectID); err != nil {
			return nil, err
		}
		if f.SubjectRelation == "" {
			rows, err = usersets(at, f)
		}
		if ok {
			rows = append(slices.Clip(rows), row)
		}
	default:
		rows, _, err = at.Relation(object.Type, object.ID, f.Relation, 0)
	}
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, nil
	}
	found = make([]authz.Relationship, 0, len(rows))
	for i := range rows {
		if evaluate.Matches(f, &rows[i]) {
			found = append(found, evaluate.Relationship(object, &rows[i]))
		}
	}
	return found, nil
}

// usersets returns the rows that match a filter which names a relation of an object and a subject, among those whose subject has a relation. It
// holds few of the others at a time, however many there are.
func usersets(at *store.Snapshot, f authz.Filter) (found []store.Row, err error) {
	rows, more, err := at.Usersets(f.Resource.Type, f.Resource.ID, f.Relation, pageSize)
	if err != nil || !more {
		return rows, err
	}
	for after := (*store.Row)(nil); more; {
		if rows, more, err = at.Page(f.Resource.Type, f.Resource.ID, f.Relation, true, after, pageSize); err != nil {
			return nil, err
		}
		for i := range rows {
			if evaluate.Matches(f, &rows[i]) {
				found = append(found, rows[i])
			}
		}
		if more {
			after = &rows[len(rows)-1]
		}
	}
	return found, nil
}

// Stamp returns the stamp of what matches filters at the snapshot, for Current; ok is false if one of them asks for
// anything else than all of an object, all with a type of subject, or a relation of it with one subject.
func (s *snapshot) Stamp(filters []authz.Filter) (stamp authz.Stamp, ok bool) {
	stamp = authz.Stamp{At: uint64(s.at), Slots: make([]uint32, len(filters))}
	for i, f := range filters {
		if stamp.Slots[i], ok = s.graph.evaluator.store.Slot(store.Rows{
			ObjectType: f.Resource.Type, ID: f.Resource.ID, Relation: f.Relation, SubjectType: f.SubjectType, SubjectID: f.SubjectID,
		}); !ok {
			return authz.Stamp{}, false
		}
	}
	return stamp, true
}

// Current reports whether what a stamp is of, made at this or another revision, is the same at the snapshot, expired
// relationships included. False may also mean that this is not known.
func (s *snapshot) Current(stamp authz.Stamp) bool {
	return s.graph.evaluator.store.Unchanged(stamp.Slots, store.Revision(stamp.At), s.at)
}

// Subjects returns subjects of a type that have the permission on the resource; see authz.Snapshot.
func (s *snapshot) Subjects(
	ctx context.Context, resource authz.Object, permission, subjectType string, given map[string]any, limit int,
) ([]authz.SubjectAnswer, error) {
	w, at, err := s.walk()
	if err != nil {
		return nil, s.graph.failure("evaluate.Subjects", err)
	}
	defer s.rest(w, at)
	var answer evaluate.Listing
	answer.Found, answer.Complete, answer.Err = w.FewSubjects(ctx, member(resource, permission), subjectType, given)
	return s.listed(ctx, w, listing{resource, permission, subjectType, given, nil}, answer, limit)
}

// member names a permission of an object.
func member(o authz.Object, permission string) tuple.ObjectAndRelation {
	return tuple.ObjectAndRelation{ObjectType: o.Type, ObjectID: o.ID, Relation: permission}
}

// SubjectsOfEach is Subjects for each of several resources, without caveat context: as many answers as resources, in order. What they have in
// common is walked once.
func (s *snapshot) SubjectsOfEach(
	ctx context.Context, resources []authz.Object, permission, subjectType string, limit int,
) ([]authz.SubjectsAnswer, error) {
	w, at, err := s.walk()
	if err != nil {
		return nil, s.graph.failure("evaluate.Subjects", err)
	}
	defer s.rest(w, at)
	memory := newMemory()
	defer memory.giveBack()
	for _, o := range resources {
		memory.resources = append(memory.resources, member(o, permission))
	}
	memory.listings = sized(memory.listings, len(resources))
	w.FewSubjectsOfEach(ctx, memory.resources, subjectType, nil, memory.listings)
	out := make([]authz.SubjectsAnswer, len(resources))
	for i, answer := range memory.listings {
		out[i].Subjects, out[i].Err = s.listed(ctx, w, listing{resources[i], permission, subjectType, nil, nil}, answer, limit)
	}
	return out, nil
}

// listed turns a list of the walk's into an answer to what was asked, of at most limit subjects. Where the list is not complete, a longer way is gone
// until there are as many.
func (s *snapshot) listed(
	ctx context.Context, w *evaluate.Walk, asked listing, answer evaluate.Listing, limit int,
) ([]authz.SubjectAnswer, error) {
	if answer.Err != nil {
		return nil, s.graph.failure("evaluate.Subjects", answer.Err)
	}
	var some answered
	if !answer.Complete {
		var err error
		if answer.Found, some, err = s.list(ctx, w, member(asked.resource, asked.permission), asked.subjectType, asked.given, limit); err != nil {
			return nil, s.graph.failure("evaluate.Subjects", err)
		}
	}
	if !s.moment.IsZero() {
		return answer.Found[:min(limit, len(answer.Found))], nil
	}
	asked.found = answer.Found
	if err := s.graph.verifier.agreed(ctx, s.token, asked); err != nil {
		return nil, err
	}
	if answer.Complete {
		s.graph.verifier.sampleList(s.at, s.token, asked)
	} else {
		s.graph.verifier.sample(some)
	}
	return answer.Found[:min(limit, len(answer.Found))], nil
}

// someListed is how many subjects of a long list are verified.
const someListed = 16

// errEnough ends a list at its limit.
var errEnough = errors.New("enough")

// list lists subjects, at most limit, where they are many, or a wildcard may be among them. SpiceDB's lists differ from its checks then: some of the checks
// are verified instead.
func (s *snapshot) list(
	ctx context.Context, w *evaluate.Walk, of tuple.ObjectAndRelation, subjectType string, given map[string]any, limit int,
) (found []authz.SubjectAnswer, some answered, err error) {
	some = answered{at: s.at, token: s.token}
	s.unbound() // lists read ids, which do not say when their rows expire
	note := func(f evaluate.Found) error {
		if f.Outcome == authz.Failed {
			return f.Err
		}
		found = append(found, authz.SubjectAnswer{ID: f.ID, Conditional: f.Outcome == authz.Conditional})
		if len(some.checks) < someListed && f.ID != tuple.PublicWildcard {
			some.checks = append(some.checks, evaluate.Check{
				Resource: of, Subject: tuple.ObjectAndRelation{ObjectType: subjectType, ObjectID: f.ID, Relation: tuple.Ellipsis}, Context: given,
			})
			some.answers = append(some.answers, f.Answer)
		}
		if len(found) == limit {
			return errEnough
		}
		return nil
	}
	everybody, err := w.LookupSubjects(ctx, of, evaluate.SubjectKind{Type: subjectType}, given, "", note)
	if err == nil && everybody.Outcome != authz.No {
		err = note(evaluate.Found{ID: tuple.PublicWildcard, Answer: everybody.Answer})
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, some, err
}
