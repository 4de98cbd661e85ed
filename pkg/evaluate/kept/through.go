package kept

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

// Through answers queries of one subject with one context, and says by which relationships the subject has each permission; see
// evaluate.Walk.Through. An object that hidden reports does not exist for the caller; nil hides nothing.
func (s *snapshot) Through(ctx context.Context, queries []authz.Query, hidden func(authz.Object) (bool, error)) ([]authz.Through, error) {
	checks := make([]evaluate.Check, len(queries))
	for i, q := range queries {
		checks[i] = evaluate.CheckOf(q)
	}
	w, at, err := s.walk()
	if err != nil {
		return nil, s.graph.failure("evaluate.Through", err)
	}
	defer s.rest(w, at)
	found, err := w.Through(ctx, checks, hidden)
	if err != nil {
		return nil, s.graph.failure("evaluate.Through", err)
	}
	return found, nil
}
