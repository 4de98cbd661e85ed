package judge

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// unanswered is one condition that the engine has to answer.
type unanswered struct {
	of    *candidate
	index int
}

// condition is the condition itself.
func (u unanswered) condition() *decide.Condition { return &u.of.conditions[u.index] }

// ask asks the engine what facts do not decide: one bulk request for each revision. A candidate that a
// fact refuses already is left out, unless everything is to be explained.
//
// The tenants of objects come first: of an object that is not the tenant's nothing else is asked, so that it costs no
// more than one that does not exist, and cannot fail in another way. To a confined caller nothing else of it is explained either.
func (c *call) ask(ctx context.Context, candidates []*candidate) error {
	if !c.explain {
		possible := make([]*candidate, 0, len(candidates))
		for _, t := range candidates {
			if !decide.Refused(t.conditions) {
				possible = append(possible, t)
			}
		}
		candidates = possible
	}
	var tenants []unanswered
	for _, t := range candidates {
		for i := range t.conditions {
			if query := t.conditions[i].Query; query != nil && query.Only && !t.hidden && t.snapshot(t.conditions[i].Where) != nil {
				tenants = append(tenants, unanswered{t, i})
			}
		}
	}
	if err := c.askTenants(ctx, tenants); err != nil {
		return err
	}
	return c.askRest(ctx, candidates)
}

// usual is about how many conditions of a candidate the engine answers.
const usual = 8

// askRest asks everything but the tenants of objects, which are known by now. What facts have answered, whether a principal is
// in a set, is asked only to be explained: an auditor wants to know why.
func (c *call) askRest(ctx context.Context, candidates []*candidate) error {
	type revision struct {
		snap   authz.Snapshot
		checks []unanswered
	}
	// Frozen sessions each bring a snapshot of their own; the order of asking does not matter.
	var others map[authz.Revision]*revision
	own := make([]unanswered, 0, usual*len(candidates))
	for _, t := range candidates {
		foreign := t.hidden || (!c.explain || c.within.Confined()) && t.foreign()
		for i := range t.conditions {
			condition := &t.conditions[i]
			switch {
			case condition.Query == nil, condition.Query.Only, foreign && condition.Side == authz.SideObject:
				continue
			case condition.Outcome != authz.NotJudged && !c.explain:
				continue
			}
			switch snap := t.snapshot(condition.Where); snap {
			case nil:
			case c.source.snap:
				own = append(own, unanswered{t, i})
			default:
				at := others[snap.Revision()]
				if at == nil {
					if others == nil {
						others = map[authz.Revision]*revision{}
					}
					at = &revision{snap: snap}
					others[snap.Revision()] = at
				}
				at.checks = append(at.checks, unanswered{t, i})
			}
		}
	}
	if err := c.check(ctx, c.source.snap, own); err != nil {
		return err
	}
	for _, at := range others {
		if err := c.check(ctx, at.snap, at.checks); err != nil {
			return err
		}
	}
	return nil
}

// foreign reports whether the object turned out not to be the tenant's alone, before anything else was asked.
func (t *candidate) foreign() bool {
	for i := range t.conditions {
		if c := &t.conditions[i]; c.Query != nil && c.Query.Only && c.Outcome != authz.Yes {
			return true
		}
	}
	return false
}

// check settles conditions at one revision.
func (c *call) check(ctx context.Context, snap authz.Snapshot, all []unanswered) error {
	if len(all) == 0 {
		return nil
	}
	explaining := c.explaining(ctx)
	queries := make([]authz.Query, len(all))
	for i, u := range all {
		queries[i] = *u.condition().Query
		queries[i].Explain = explaining
	}
	answers, err := snap.Check(ctx, queries)
	if err != nil {
		return err
	}
	for i, u := range all {
		decide.Settle(u.condition(), answers[i])
	}
	return nil
}

// askTenants settles conditions that ask for the one and only subject; each resource is looked up once at
// each revision.
func (c *call) askTenants(ctx context.Context, all []unanswered) error {
	type lookup struct {
		revision authz.Revision
		resource authz.Object
	}
	type list struct {
		subjects []authz.SubjectAnswer
		err      error
	}
	var known map[lookup]list
	if len(all) > 1 {
		known = make(map[lookup]list, len(all))
	}
	for _, u := range all {
		condition := u.condition()
		snap, query := u.of.snapshot(condition.Where), condition.Query
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
		if c.explain && found.err == nil {
			if err := c.explainTenant(ctx, snap, condition, found.subjects); err != nil {
				return err
			}
		}
	}
	return nil
}
