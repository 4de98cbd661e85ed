package kept

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
)

// explain answers queries one by one. It puts the explanations of those that ask for one into answers.
func (s *snapshot) explain(
	ctx context.Context, w *evaluate.Walk, queries []authz.Query, checks []evaluate.Check, answers []authz.Answer,
) []evaluate.Answer {
	found := make([]evaluate.Answer, len(checks))
	past := expired{snapshot: s}
	defer past.close()
	for i, q := range queries {
		if q.Explain == nil {
			found[i] = w.Check(ctx, checks[i:i+1])[0]
			continue
		}
		how := evaluate.Explaining{Hidden: q.Explain.Hidden, Expired: past.find}
		found[i], answers[i].Explanation = w.Explain(ctx, checks[i], how)
	}
	return found
}

// ever is a moment by which nothing has expired.
var ever = time.Unix(0, 1)

// expired finds relationships that have expired, as long as the store has them.
type expired struct {
	*snapshot
	at *store.Snapshot
}

// find finds a row of a relation, whether or not it has expired.
func (e *expired) find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (evaluate.Row, bool, error) {
	if e.at == nil {
		var err error
		if e.at, err = e.graph.evaluator.store.SnapshotOf(e.snapshot.at, ever); err != nil {
			return evaluate.Row{}, false, err
		}
	}
	return e.at.Find(objectType, id, relation, subjectType, subjectRelation, subjectID)
}

func (e *expired) close() {
	if e.at != nil {
		e.at.Close()
	}
}

// traces adds SpiceDB's traces to the explanations that ask for them. SpiceDB has none for a moment of the past.
func (s *snapshot) traces(ctx context.Context, queries []authz.Query, answers []authz.Answer) error {
	var traced []authz.Query
	var of []int
	for i, q := range queries {
		if q.Explain != nil && q.Explain.Trace && s.moment.IsZero() {
			traced, of = append(traced, q), append(of, i)
		}
	}
	if len(traced) == 0 {
		return nil
	}
	inner, err := s.engine(ctx)
	if err != nil {
		return err
	}
	second, err := inner.Check(ctx, traced)
	if err != nil {
		return err
	}
	for i, n := range of {
		if second[i].Explanation == nil {
			continue
		}
		if answers[n].Explanation == nil {
			answers[n].Explanation = &authz.Explanation{Outcome: answers[n].Outcome, Missing: answers[n].Missing}
		}
		answers[n].Explanation.Trace = second[i].Explanation.Trace
	}
	return nil
}
