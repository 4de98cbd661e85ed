package judge

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// candidate is one delegation that a case may be decided by, weighed alone.
type candidate struct {
	c authz.Case
	// hidden says that the object does not exist for the caller, whatever the graph holds of it.
	hidden bool
	facts  decide.Facts
	// head are its facts at the head revision, where they have to hold too; else nil.
	head *decide.Facts
	// conditions are those of the plan, the ones at the head revision last.
	conditions []decide.Condition
	// at and atHead are the revisions at which conditions are asked; baselines are those of frozen sessions, nil where
	// one is gone.
	at, atHead authz.Snapshot
	baselines  []authz.Snapshot
}

// ofLeaf plans one delegation for a case.
func (c *call) ofLeaf(ctx context.Context, one authz.Case, l leaf) (*candidate, error) {
	f, err := c.source.facts(ctx, one, l)
	if err != nil {
		return nil, err
	}
	return c.plan(ctx, one, f)
}

// plan plans the conditions of a candidate with its facts.
func (c *call) plan(ctx context.Context, one authz.Case, f decide.Facts) (*candidate, error) {
	f.Now, f.Global, f.Brief = c.source.now, c.global[one.Resource.Type], !c.explain
	t := &candidate{c: one, hidden: c.hides(one.Resource), facts: f, at: c.source.snap}
	if c.head != nil {
		head, err := c.head.facts(ctx, one, leaf{f.Leaf().ID, f.Principal, f.Tenant})
		if err != nil {
			return nil, err
		}
		t.head, t.atHead = &head, c.head.snap
	}
	if len(decide.Frozen(&t.facts)) > 0 && (c.explain || !decide.Refused(decide.Standalone(one, &t.facts))) {
		if err := c.baselines(ctx, t); err != nil {
			return nil, err
		}
	}
	if err := c.conceal(ctx, &t.facts); err != nil {
		return nil, err
	}
	if t.head != nil {
		if err := c.conceal(ctx, t.head); err != nil {
			return nil, err
		}
	}
	t.plan()
	return t, nil
}

// Why a baseline cannot be read, for callers to whom a decision is explained.
const (
	noBaseline      = "the session has no baseline: start it anew"
	leftBaseline    = "its state has left the retention, or is of before the database was restored, promoted or replaced: start the session anew"
	anotherBaseline = "its state belongs to another history of the database, which was failed over, restored or replaced since: start the session anew"
)

// baselines reads what stood where frozen sessions started. One whose revision is gone is left out, and
// refuses.
func (c *call) baselines(ctx context.Context, t *candidate) error {
	t.facts.Baselines, t.facts.Gone = map[authz.Revision]decide.Standing{}, map[authz.Revision]string{}
	frozen := decide.Frozen(&t.facts)
	t.baselines = make([]authz.Snapshot, len(frozen))
	for i, b := range frozen {
		if b.Revision.IsZero() {
			t.facts.Gone[b.Revision] = noBaseline
			continue
		}
		f := authz.Freshness{Exactly: b.Revision}
		if c.past {
			f.Moment = c.source.now
		}
		snap, err := c.graph.Snapshot(ctx, f)
		var standing decide.Standing
		if err == nil { // an engine elsewhere may find out only when it is read
			standing, err = c.Judge.source(snap, c.source.now).reader().standing(ctx, t.c, &t.facts)
		}
		if authz.KindOf(err) == authz.OutOfRange && !c.past { // then it may have been there
			t.facts.Gone[b.Revision] = leftBaseline
			if h := b.Revision.History(); h != "" && h != c.source.snap.Revision().History() {
				t.facts.Gone[b.Revision] = anotherBaseline
			}
			continue
		}
		if err != nil {
			return err
		}
		t.facts.Baselines[b.Revision], t.baselines[i] = standing, snap
	}
	return nil
}

// plan plans all conditions anew.
func (t *candidate) plan() {
	t.conditions = decide.Plan(t.c, &t.facts)
	if t.head != nil {
		t.conditions = append(t.conditions, decide.Standalone(t.c, t.head)...)
	}
}

// snapshot returns the revision at which a condition is asked; nil if it is gone.
func (t *candidate) snapshot(where int) authz.Snapshot {
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

// report says how a candidate was weighed, with the agents that exist for the caller. Its conditions have texts, and are worth to be
// kept, only where it is explained.
func (c *call) report(t *candidate, v decide.Verdict) authz.Candidate {
	out := authz.Candidate{
		Principal: t.facts.Principal, Tenant: t.facts.Tenant,
		Permissionship: v.Permissionship, RefusedBy: v.RefusedBy, Missing: v.Missing,
	}
	for _, d := range t.facts.Chain {
		out.Chain = append(out.Chain, d.ID)
		if c.within.HasAgent(d.Agent) {
			out.Agents = append(out.Agents, d.Agent)
		}
	}
	for i := range t.conditions {
		if c.explain {
			out.Conditions = append(out.Conditions, t.conditions[i].Condition)
		}
	}
	if v.Permissionship == authz.HasPermission {
		out.ValidUntil = decide.ValidUntil(&t.facts)
		if t.head != nil {
			out.ValidUntil = earliest(out.ValidUntil, decide.ValidUntil(t.head))
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
