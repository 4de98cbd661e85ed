package judge

import (
	"context"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// trial is one candidate being weighed.
type trial struct {
	c          authz.Case
	facts      decide.Facts
	head       *decide.Facts
	conditions []decide.Condition
	// room is where they are, to be given back; nil for those of a look-up, which come and go.
	room *[]decide.Condition
	// snaps holds the revisions at which conditions are asked, by decide.Condition.Where.
	snaps map[int]authz.Snapshot
}

// plans keeps what conditions were laid out in, by pointer, so that keeping costs nothing.
var plans = sync.Pool{New: func() any { return new([]decide.Condition) }}

// done gives the room of a trial's conditions back, if it has one; they are gone then.
func (t *trial) done() {
	if t.room == nil {
		return
	}
	clear(t.conditions)
	*t.room = t.conditions[:0]
	plans.Put(t.room)
	t.room, t.conditions = nil, nil
}

// plan lays out all conditions, those at the head revision last.
func (t *trial) plan() {
	if t.room == nil {
		t.conditions = decide.Plan(t.c, t.facts)
	} else {
		t.conditions = decide.AppendPlan((*t.room)[:0], t.c, t.facts)
	}
	if t.head != nil {
		t.conditions = append(t.conditions, decide.Standalone(t.c, *t.head)...)
	}
}

// question is one condition that the engine has to answer.
type question struct {
	trial *trial
	index int
}

// hear asks the engine what facts do not decide: one bulk request for each revision. A trial that a
// fact refuses already is left out, unless everything is to be explained.
func (c *court) hear(ctx context.Context, trials []*trial) error {
	type at struct {
		snap   authz.Snapshot
		checks []question
	}
	// Frozen sessions each bring a snapshot of their own; the order of asking does not matter.
	revisions := map[authz.Revision]*at{}
	var only []question
	for _, t := range trials {
		if !c.explain && decide.Refused(t.conditions) {
			continue
		}
		for i := range t.conditions {
			snap := t.snaps[t.conditions[i].Where]
			if t.conditions[i].Query == nil || snap == nil {
				continue
			}
			q := question{t, i}
			if t.conditions[i].Query.Only {
				only = append(only, q)
				continue
			}
			if revisions[snap.Revision()] == nil {
				revisions[snap.Revision()] = &at{snap: snap}
			}
			revisions[snap.Revision()].checks = append(revisions[snap.Revision()].checks, q)
		}
	}
	for _, r := range revisions {
		if err := c.ask(ctx, r.snap, r.checks); err != nil {
			return err
		}
	}
	return c.askOnly(ctx, only)
}

// ask settles conditions at one revision.
func (c *court) ask(ctx context.Context, snap authz.Snapshot, questions []question) error {
	queries := make([]authz.Query, len(questions))
	for i, q := range questions {
		queries[i] = *q.trial.conditions[q.index].Query
		queries[i].Trace = c.explain
	}
	answers, err := snap.Check(ctx, queries)
	if err != nil {
		return err
	}
	for i, q := range questions {
		decide.Settle(&q.trial.conditions[q.index], answers[i])
	}
	return nil
}

// askOnly settles conditions that ask for the one and only subject; each resource is looked up once at
// each revision.
func (c *court) askOnly(ctx context.Context, questions []question) error {
	type lookup struct {
		revision authz.Revision
		resource authz.Object
	}
	known := map[lookup]authz.Answer{}
	lists := map[lookup][]authz.SubjectAnswer{}
	for _, q := range questions {
		condition := &q.trial.conditions[q.index]
		snap, query := q.trial.snaps[condition.Where], condition.Query
		key := lookup{snap.Revision(), query.Resource}
		if _, ok := known[key]; !ok {
			list, err := snap.Subjects(ctx, query.Resource, query.Permission, query.Subject.Type, nil)
			if fatal(err) != nil {
				return err
			}
			known[key], lists[key] = authz.Answer{}, list
			if err != nil {
				known[key] = authz.Answer{Outcome: authz.Failed, Err: err}
			}
		}
		answer := known[key]
		if answer.Err == nil {
			answer.Outcome = decide.Only(query.Subject.ID, lists[key])
		}
		decide.Settle(condition, answer)
	}
	return nil
}

// candidate reports the trial as it went.
// Its conditions have texts, and are worth to be kept, only where it is explained.
func (t *trial) candidate(v decide.Verdict, explain bool) authz.Candidate {
	out := authz.Candidate{
		Principal: t.facts.Principal, Tenant: t.facts.Tenant,
		Permissionship: v.Permissionship, RefusedBy: v.RefusedBy, Missing: v.Missing,
	}
	for _, d := range t.facts.Chain {
		out.Chain = append(out.Chain, d.ID)
		out.Agents = append(out.Agents, d.Agent)
	}
	for i := range t.conditions {
		if explain {
			out.Conditions = append(out.Conditions, t.conditions[i].Condition)
		}
	}
	if v.Permissionship == authz.HasPermission {
		out.ValidUntil = decide.ValidUntil(t.facts)
		if t.head != nil {
			out.ValidUntil = earliest(out.ValidUntil, decide.ValidUntil(*t.head))
		}
	}
	return out
}

// earliest returns the earlier of two times, a zero time being none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
