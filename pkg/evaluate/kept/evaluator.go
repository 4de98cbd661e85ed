package kept

import (
	"context"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/store"
)

// Evaluator answers checks from a store, under the schema in force at each revision. It is safe for concurrent use.
type Evaluator struct {
	store *store.Store

	programs versions[*evaluate.Program]
}

// New returns an evaluator of a store. The store stays its owner's.
func New(s *store.Store) *Evaluator { return &Evaluator{store: s} }

// Pinned answers checks at one revision, which stays readable until it is closed. It is not safe for concurrent use.
type Pinned struct {
	program *evaluate.Program
	*store.Snapshot
}

var _ evaluate.Rows = (*store.Snapshot)(nil)

// At pins a revision. Errors: those of store.Store.Snapshot, and a schema that cannot be evaluated.
func (e *Evaluator) At(at store.Revision) (*Pinned, error) {
	s, err := e.store.Snapshot(at)
	if err != nil {
		return nil, err
	}
	p, err := e.programAt(at)
	if err != nil {
		s.Close()
		return nil, err
	}
	return &Pinned{p, s}, nil
}

// programAt returns the program of the schema at a revision, which is pinned.
func (e *Evaluator) programAt(at store.Revision) (*evaluate.Program, error) {
	return e.programs.get(e.store.SchemaVersion(at), func() (*evaluate.Program, error) {
		namespaces, caveats, err := e.store.Definitions(at)
		if err != nil {
			return nil, err
		}
		read, err := schema.Read(namespaces)
		if err != nil {
			return nil, err
		}
		return evaluate.Compile(read, caveats)
	})
}

// Check answers checks; see evaluate.Program.Check.
func (s *Pinned) Check(ctx context.Context, checks []evaluate.Check) []evaluate.Answer {
	return s.program.Check(ctx, s.Snapshot, checks)
}

// LookupResources lists the objects on which a subject has a permission; see evaluate.Walk.LookupResources.
func (s *Pinned) LookupResources(
	ctx context.Context, resourceType string, h evaluate.Holder, given map[string]any, after string, yield func(evaluate.Found) error,
) error {
	w := s.program.Walk(s.Snapshot)
	defer w.Close()
	return w.LookupResources(ctx, resourceType, h, given, after, yield)
}

// LookupSubjects lists the subjects that have a permission on an object; see evaluate.Walk.LookupSubjects.
func (s *Pinned) LookupSubjects(
	ctx context.Context, resource tuple.ObjectAndRelation, of evaluate.SubjectKind, given map[string]any, after string,
	yield func(evaluate.Found) error,
) (evaluate.Wildcard, error) {
	w := s.program.Walk(s.Snapshot)
	defer w.Close()
	return w.LookupSubjects(ctx, resource, of, given, after, yield)
}

// Expand returns the tree by which a permission is computed; see evaluate.Program.Expand.
func (s *Pinned) Expand(ctx context.Context, resource tuple.ObjectAndRelation) (*v1.PermissionRelationshipTree, error) {
	return s.program.Expand(ctx, s.Snapshot, resource)
}

// Explain answers a check and says why; see evaluate.Walk.Explain.
func (s *Pinned) Explain(ctx context.Context, c evaluate.Check, how evaluate.Explaining) (evaluate.Answer, *authz.Explanation) {
	w := s.program.Walk(s.Snapshot)
	defer w.Close()
	return w.Explain(ctx, c, how)
}
