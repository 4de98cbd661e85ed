package kept

import (
	"context"
	"errors"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

// begun is a lookup that can go on at its cursor. Any lookup can go on with its cursor alone, but then the rows that lead to candidates are
// walked again.
type begun struct {
	of         authz.Reachable
	cursor     string
	candidates *evaluate.Candidates
	// size is how many candidates were asked for the last time.
	size int
}

// firstPage is how many candidates are looked for first, so that the first result comes soon. Each further page is twice as large, up to the
// limit.
const firstPage = 8

// take returns the lookup that goes on at a cursor; nil if there is none.
func (s *snapshot) take(of authz.Reachable, cursor string) *begun {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lookup
	if l == nil || l.cursor != cursor || l.of.ResourceType != of.ResourceType || !slices.Equal(l.of.Holders, of.Holders) {
		return nil
	}
	s.lookup = nil
	return l
}

// Resources returns a page of the objects that all holders may reach, in the order of ids; see authz.Snapshot.
func (s *snapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	s.unbound()
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
	l := s.take(r, cursor)
	if l == nil {
		p, err := s.graph.evaluator.programAt(s.at)
		if err != nil {
			return nil, "", err
		}
		l = &begun{of: authz.Reachable{ResourceType: r.ResourceType, Holders: slices.Clone(r.Holders)}, size: firstPage / 2}
		if l.candidates, err = p.Reach(r); err != nil {
			return nil, "", err
		}
		if s.graph.verifier.doubts(r) {
			l.candidates.TakeAll()
		}
	}
	l.size *= 2
	found, next, err := l.candidates.Page(ctx, at, min(limit, l.size), cursor)
	if err != nil {
		return nil, "", err
	}
	if next != "" {
		l.cursor, l.size = next, min(limit, l.size)
		s.mu.Lock()
		s.lookup = l
		s.mu.Unlock()
	}
	if s.moment.IsZero() {
		s.graph.verifier.sampleAbsent(at, s.at, s.token, r, cursor, found, next)
	}
	return found, next, nil
}
