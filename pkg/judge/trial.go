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
	c     authz.Case
	facts decide.Facts
	head  *decide.Facts
	// conditions are on the sheet, those at the head revision behind it.
	conditions []decide.Condition
	sheet      decide.Sheet
	// at and atHead are the revisions at which conditions are asked; baselines are those of frozen sessions, nil where
	// one is gone.
	at, atHead authz.Snapshot
	baselines  []authz.Snapshot
}

// trials keeps trials that are over, for what they laid out.
var trials = sync.Pool{New: func() any { return new(trial) }}

// done ends a trial: its conditions are gone.
func (t *trial) done() {
	t.sheet.Conditions = t.conditions
	t.sheet.Clear()
	clear(t.baselines)
	*t = trial{sheet: t.sheet, baselines: t.baselines[:0]}
	trials.Put(t)
}

// snapshot returns the revision at which a condition is asked; nil if it is gone.
func (t *trial) snapshot(where int) authz.Snapshot {
	switch {
	case where == decide.AtSnapshot:
		return t.at
	case where == decide.AtHead:
		return t.atHead
	case where-decide.AtBaseline < len(t.baselines):
		return t.baselines[where-decide.AtBaseline]
	}
	return nil
}

// plan lays out all conditions, those at the head revision last. A trial that is a copy of another one, or that is
// planned again, has a sheet of its own then.
func (t *trial) plan() {
	if len(t.sheet.Conditions) > 0 {
		t.sheet = decide.Sheet{}
	}
	t.sheet.Plan(t.c, t.facts)
	t.conditions = t.sheet.Conditions
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
//
// The tenants of objects come first: of an object that is not the tenant's nothing else is asked, so that it costs no
// more than one that does not exist, and cannot fail in another way.
func (c *court) hear(ctx context.Context, trials []*trial) error {
	var only []question
	open := trials
	if !c.explain {
		open = make([]*trial, 0, len(trials))
		for _, t := range trials {
			if !decide.Refused(t.conditions) {
				open = append(open, t)
			}
		}
	}
	for _, t := range open {
		for i := range t.conditions {
			if query := t.conditions[i].Query; query != nil && query.Only && t.snapshot(t.conditions[i].Where) != nil {
				only = append(only, question{t, i})
			}
		}
	}
	if err := c.askOnly(ctx, only); err != nil {
		return err
	}
	return c.askRest(ctx, open)
}

// askRest asks everything but the tenants of objects, which are known by now.
func (c *court) askRest(ctx context.Context, trials []*trial) error {
	type at struct {
		snap   authz.Snapshot
		checks []question
	}
	// Frozen sessions each bring a snapshot of their own; the order of asking does not matter.
	revisions := map[authz.Revision]*at{}
	own := &at{snap: c.book.snap, checks: make([]question, 0, usual*len(trials))}
	revisions[own.snap.Revision()] = own
	for _, t := range trials {
		foreign := !c.explain && t.foreign()
		for i := range t.conditions {
			condition := &t.conditions[i]
			if condition.Query == nil || condition.Query.Only || foreign && condition.Side == authz.SideObject {
				continue
			}
			switch snap := t.snapshot(condition.Where); snap {
			case nil:
			case own.snap:
				own.checks = append(own.checks, question{t, i})
			default:
				r := revisions[snap.Revision()]
				if r == nil {
					r = &at{snap: snap}
					revisions[snap.Revision()] = r
				}
				r.checks = append(r.checks, question{t, i})
			}
		}
	}
	for _, r := range revisions {
		if len(r.checks) == 0 {
			continue
		}
		if err := c.ask(ctx, r.snap, r.checks); err != nil {
			return err
		}
	}
	return nil
}

// foreign reports whether the object turned out not to be the tenant's alone, before anything else was asked.
func (t *trial) foreign() bool {
	for i := range t.conditions {
		if c := &t.conditions[i]; c.Query != nil && c.Query.Only && c.Outcome != authz.Yes {
			return true
		}
	}
	return false
}

// usual is about how many conditions of a trial the engine answers.
const usual = 8

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
	type list struct {
		subjects []authz.SubjectAnswer
		err      error
	}
	var known map[lookup]list
	if len(questions) > 1 {
		known = make(map[lookup]list, len(questions))
	}
	for _, q := range questions {
		condition := &q.trial.conditions[q.index]
		snap, query := q.trial.snapshot(condition.Where), condition.Query
		key := lookup{snap.Revision(), query.Resource}
		found, ok := known[key]
		if !ok {
			found.subjects, found.err = snap.Subjects(ctx, query.Resource, query.Permission, query.Subject.Type, nil)
			if fatal(found.err) != nil {
				return found.err
			}
			if known != nil {
				known[key] = found
			}
		}
		answer := authz.Answer{Outcome: authz.Failed, Err: found.err}
		if found.err == nil {
			answer.Outcome = decide.Only(query.Subject.ID, found.subjects)
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
