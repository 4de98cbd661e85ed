package kept

import (
	"context"
	"errors"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

// listed is a lookup with the cursor to go on with. A cursor alone is enough to go on, but then what leads to candidates is found
// anew.
type listed struct {
	of         authz.Reachable
	cursor     string
	candidates *evaluate.Candidates
}

// take returns the lookup that goes on at a cursor; nil if there is none.
func (s *snapshot) take(of authz.Reachable, cursor string) *evaluate.Candidates {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listed
	if l == nil || l.cursor != cursor || l.of.ResourceType != of.ResourceType || !slices.Equal(l.of.Holders, of.Holders) {
		return nil
	}
	s.listed = nil
	return l.candidates
}

// Resources returns a page of what all holders may reach, in the order of ids; see authz.Snapshot.
func (s *snapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	found, next, err := s.resources(ctx, r, limit, cursor)
	if _, ours := errors.AsType[*authz.Error](err); err != nil && !ours {
		err = s.graph.failure("evaluate.Resources", err)
	}
	return found, next, err
}

func (s *snapshot) resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	at, err := s.open()
	if err != nil {
		return nil, "", err
	}
	defer s.done(at)
	c := s.take(r, cursor)
	if c == nil {
		p, err := s.graph.evaluator.programAt(s.at)
		if err != nil {
			return nil, "", err
		}
		if c, err = p.Reach(r); err != nil {
			return nil, "", err
		}
		if s.graph.verifier.doubts(r) {
			c.TakeAll()
		}
	}
	found, next, err := c.Page(ctx, at, limit, cursor)
	if err != nil {
		return nil, "", err
	}
	if next != "" {
		of := r
		of.Holders, of.Context = slices.Clone(r.Holders), nil
		s.mu.Lock()
		s.listed = &listed{of, next, c}
		s.mu.Unlock()
	}
	if s.moment.IsZero() {
		s.graph.verifier.sampleAbsent(at, s.at, s.token, r, cursor, found, next)
	}
	return found, next, nil
}
