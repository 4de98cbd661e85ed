package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// kept is what a snapshot of a copy can do besides: everything that the judge makes use of.
type kept interface {
	authz.Snapshot
	authz.Momentary
	Hold()
	Release()
	Until() (until time.Time, known bool)
	Stamp(filters []authz.Filter) (stamp authz.Stamp, ok bool)
	Current(stamp authz.Stamp) bool
	SubjectsOfEach(ctx context.Context, resources []authz.Object, permission, subjectType string, limit int) ([]authz.SubjectsAnswer, error)
	Through(ctx context.Context, queries []authz.Query, hidden func(authz.Object) (bool, error)) ([]authz.Through, error)
}

// snapshot is a revision of the authority, read in the copy.
type snapshot struct {
	kept

	graph *Graph
	at    *stand
}

// at returns a snapshot of where the copy has stood.
func (g *Graph) at(ctx context.Context, s *stand, moment time.Time) (authz.Snapshot, error) {
	inner, err := s.copy.graph.At(ctx, s.local, moment)
	if err != nil {
		return nil, g.told(s, err)
	}
	local, ok := inner.(kept)
	if !ok {
		return nil, fmt.Errorf("follow: a snapshot of type %T over a copy", inner)
	}
	g.figures.byCopy.Inc()
	return &snapshot{local, g, s}, nil
}

// Revision is the authority's.
func (s *snapshot) Revision() authz.Revision { return s.at.revision }

// FreshAt is authz.Dated's.
func (s *snapshot) FreshAt() time.Time { return s.at.proven }

// told takes in an error of a copy's. One that is damaged is taken out of service.
func (g *Graph) told(s *stand, err error) error {
	if errors.Is(err, store.ErrDamaged) && g.discard(s) {
		g.config.Log.Error("the copy is damaged: it is taken out of service, and a new one is loaded", zap.Error(err))
	}
	return err
}

// Schema is the copy's.
func (s *snapshot) Schema(ctx context.Context) (*authz.Schema, error) {
	schema, err := s.kept.Schema(ctx)
	return schema, s.graph.told(s.at, err)
}

// Read is the copy's.
func (s *snapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	found, err := s.kept.Read(ctx, filters...)
	return found, s.graph.told(s.at, err)
}

// Check is the copy's.
func (s *snapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	answers, err := s.kept.Check(ctx, queries)
	if err != nil {
		return nil, s.graph.told(s.at, err)
	}
	for i := range answers {
		_ = s.graph.told(s.at, answers[i].Err) // it stays in the answer
	}
	return answers, nil
}

// Subjects is the copy's.
func (s *snapshot) Subjects(
	ctx context.Context, resource authz.Object, permission, subjectType string, given map[string]any, limit int,
) ([]authz.SubjectAnswer, error) {
	found, err := s.kept.Subjects(ctx, resource, permission, subjectType, given, limit)
	return found, s.graph.told(s.at, err)
}

// SubjectsOfEach is the copy's.
func (s *snapshot) SubjectsOfEach(
	ctx context.Context, resources []authz.Object, permission, subjectType string, limit int,
) ([]authz.SubjectsAnswer, error) {
	found, err := s.kept.SubjectsOfEach(ctx, resources, permission, subjectType, limit)
	if err != nil {
		return nil, s.graph.told(s.at, err)
	}
	for i := range found {
		_ = s.graph.told(s.at, found[i].Err) // it stays in the answer
	}
	return found, nil
}

// Through is the copy's.
func (s *snapshot) Through(
	ctx context.Context, queries []authz.Query, hidden func(authz.Object) (bool, error),
) ([]authz.Through, error) {
	found, err := s.kept.Through(ctx, queries, hidden)
	return found, s.graph.told(s.at, err)
}

// Stamp returns a stamp that is of this copy; see authz.Stamp.
func (s *snapshot) Stamp(filters []authz.Filter) (authz.Stamp, bool) {
	stamp, ok := s.kept.Stamp(filters)
	stamp.Of = s.at.copy.number
	return stamp, ok
}

// Current reports whether what a stamp is of is the same here. Of another copy's that is not known.
func (s *snapshot) Current(stamp authz.Stamp) bool {
	return stamp.Of == s.at.copy.number && s.kept.Current(stamp)
}

// ofCopy begins the cursors of copies: the authority's engine counts otherwise.
const ofCopy = "copy:"

// Page is the copy's; see authz.Snapshot. A list that the authority's engine began is gone on with there.
func (s *snapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	place, ours := strings.CutPrefix(cursor, ofCopy)
	if cursor != "" && !ours {
		theirs, err := s.theirs(ctx)
		if err != nil {
			return nil, "", err
		}
		return theirs.Page(ctx, f, limit, cursor)
	}
	found, next, err := s.kept.Page(ctx, f, limit, place)
	return found, marked(next), s.graph.told(s.at, err)
}

// Resources is the copy's, as Page.
func (s *snapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	place, ours := strings.CutPrefix(cursor, ofCopy)
	if cursor != "" && !ours {
		theirs, err := s.theirs(ctx)
		if err != nil {
			return nil, "", err
		}
		return theirs.Resources(ctx, r, limit, cursor)
	}
	found, next, err := s.kept.Resources(ctx, r, limit, place)
	for i := range found {
		found[i].After = marked(found[i].After)
	}
	return found, marked(next), s.graph.told(s.at, err)
}

// theirs is the same revision in the authority's engine.
func (s *snapshot) theirs(ctx context.Context) (authz.Snapshot, error) {
	return s.graph.asked(ctx, authz.Freshness{Exactly: s.at.revision})
}

// marked marks a cursor as a copy's.
func marked(next string) string {
	if next == "" {
		return ""
	}
	return ofCopy + next
}

// asked asks the authority's engine for a snapshot.
func (g *Graph) asked(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	var inner authz.Snapshot
	history, err := g.during(ctx, func(of Identity) error {
		if err := sameHistory(of, f.Exactly, f.AtLeast, f.Also); err != nil {
			// Another server may know of a history that this one does not know yet.
			now, unknown := g.identityNow(ctx)
			switch {
			case unknown != nil:
				return unknown
			case now == of:
				return err
			}
			return errChanged
		}
		return g.within(ctx, func() (err error) {
			inner, err = g.config.Engine.Snapshot(ctx, f)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	g.figures.byAuthority.Inc()
	return &ofEngine{inner, g, authz.InHistory(history, inner.Revision().ZedToken())}, nil
}

// within asks the authority's engine something while few others do.
func (g *Graph) within(ctx context.Context, ask func() error) error {
	turn, err := g.asking.Take(ctx, 1, g.config.Wait)
	if err != nil {
		if ctx.Err() != nil {
			return endOf(ctx)
		}
		g.figures.refused.Inc()
		busy := authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable,
			"this server's copy has not reached the primary's state in time, and the primary is asked as much as it may be; try again")
		busy.Err = err
		return busy
	}
	defer turn.Give()
	return ask()
}

// ofEngine is a snapshot of the authority's engine. It is asked while few others are.
type ofEngine struct {
	authz.Snapshot

	graph    *Graph
	revision authz.Revision
}

// Revision is the engine's, with the authority's history.
func (e *ofEngine) Revision() authz.Revision { return e.revision }

// Elsewhere is authz.Elsewhere's.
func (*ofEngine) Elsewhere() bool { return true }

// Schema is the engine's.
func (e *ofEngine) Schema(ctx context.Context) (schema *authz.Schema, err error) {
	err = e.graph.within(ctx, func() (err error) {
		schema, err = e.Snapshot.Schema(ctx)
		return err
	})
	return schema, err
}

// Read is the engine's.
func (e *ofEngine) Read(ctx context.Context, filters ...authz.Filter) (found [][]authz.Relationship, err error) {
	err = e.graph.within(ctx, func() (err error) {
		found, err = e.Snapshot.Read(ctx, filters...)
		return err
	})
	return found, err
}

// Page is the engine's. A list that the copy began cannot be gone on with.
func (e *ofEngine) Page(ctx context.Context, f authz.Filter, limit int, cursor string) (found []authz.Relationship, next string, err error) {
	if strings.HasPrefix(cursor, ofCopy) {
		return nil, "", errMoved()
	}
	err = e.graph.within(ctx, func() (err error) {
		found, next, err = e.Snapshot.Page(ctx, f, limit, cursor)
		return err
	})
	return found, next, err
}

// Check is the engine's.
func (e *ofEngine) Check(ctx context.Context, queries []authz.Query) (answers []authz.Answer, err error) {
	err = e.graph.within(ctx, func() (err error) {
		answers, err = e.Snapshot.Check(ctx, queries)
		return err
	})
	return answers, err
}

// Subjects is the engine's.
func (e *ofEngine) Subjects(
	ctx context.Context, resource authz.Object, permission, subjectType string, given map[string]any, limit int,
) (found []authz.SubjectAnswer, err error) {
	err = e.graph.within(ctx, func() (err error) {
		found, err = e.Snapshot.Subjects(ctx, resource, permission, subjectType, given, limit)
		return err
	})
	return found, err
}

// Resources is the engine's, as Page.
func (e *ofEngine) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) (found []authz.Resource, next string, err error) {
	if strings.HasPrefix(cursor, ofCopy) {
		return nil, "", errMoved()
	}
	err = e.graph.within(ctx, func() (err error) {
		found, next, err = e.Snapshot.Resources(ctx, r, limit, cursor)
		return err
	})
	return found, next, err
}

// errMoved is for a list whose copy this server does not have, or does not have any more.
func errMoved() error {
	return authz.Errorf(authz.OutOfRange, authz.ReasonRevision,
		"the list was begun in a copy that this server does not have, or not any more; begin it again")
}
