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

// enoughTenants is how many tenants of an object are looked for to know whether it is in one alone, and explainedTenants to say in which ones it is.
const enoughTenants, explainedTenants = 2, 17

// askTenants settles conditions that ask for the one and only subject; each resource is looked up once at
// each revision.
func (c *call) askTenants(ctx context.Context, all []unanswered) error {
	limit := enoughTenants
	if c.explain {
		limit = explainedTenants
	}
	known, err := tenantsOf(ctx, all, limit)
	if err != nil {
		return err
	}
	for i, u := range all {
		condition, found := u.condition(), known[i]
		answer := authz.Answer{Outcome: authz.Failed, Err: found.Err}
		if found.Err == nil {
			answer.Outcome = decide.Only(condition.Query.Subject.ID, found.Subjects)
		}
		decide.Settle(condition, answer)
		if c.explain && found.Err == nil {
			if err := c.explainTenant(ctx, u.of.snapshot(condition.Where), condition, found.Subjects); err != nil {
				return err
			}
		}
	}
	return nil
}

// crowded is a Snapshot that answers for several resources sooner than one by one. It is safe for concurrent use.
type crowded interface {
	// SubjectsOfEach is Snapshot.Subjects for each of several resources, without caveat context: as many answers as resources, in their order.
	SubjectsOfEach(ctx context.Context, resources []authz.Object, permission, subjectType string, limit int) ([]authz.SubjectsAnswer, error)
}

// tenantsOf looks up the tenants that conditions ask for, at most limit, one answer for each. An error of the engine, and of no object, is its error.
func tenantsOf(ctx context.Context, all []unanswered, limit int) ([]authz.SubjectsAnswer, error) {
	at := func(u unanswered) (authz.Snapshot, authz.Object) {
		return u.of.snapshot(u.condition().Where), u.condition().Query.Resource
	}
	found := make([]authz.SubjectsAnswer, len(all))
	switch len(all) { // a decision has no use for what follows
	case 0:
		return found, nil
	case 1:
		snap, resource := at(all[0])
		found[0].Subjects, found[0].Err = snap.Subjects(ctx, resource, authz.TenantMember, authz.TypeTenant, nil, limit)
		return found, fatal(found[0].Err)
	}
	type place struct {
		revision authz.Revision
		resource authz.Object
	}
	first := make(map[place]int, len(all)) // where each was asked for first
	asked := map[authz.Snapshot][]int{}
	for i, u := range all {
		snap, resource := at(u)
		key := place{snap.Revision(), resource}
		if _, there := first[key]; !there {
			first[key] = i
			asked[snap] = append(asked[snap], i)
		}
	}
	for snap, places := range asked {
		resources := make([]authz.Object, len(places))
		for k, i := range places {
			_, resources[k] = at(all[i])
		}
		answers, err := tenantsAt(ctx, snap, resources, limit)
		if err != nil {
			return nil, err
		}
		for k, i := range places {
			found[i] = answers[k]
		}
	}
	for i, u := range all {
		snap, resource := at(u)
		found[i] = found[first[place{snap.Revision(), resource}]]
		if err := fatal(found[i].Err); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// tenantsAt looks up the tenants of each of several objects at a revision, at most limit of each.
func tenantsAt(ctx context.Context, snap authz.Snapshot, resources []authz.Object, limit int) ([]authz.SubjectsAnswer, error) {
	if together, ok := snap.(crowded); ok && len(resources) > 1 {
		return together.SubjectsOfEach(ctx, resources, authz.TenantMember, authz.TypeTenant, limit)
	}
	found := make([]authz.SubjectsAnswer, len(resources))
	return found, atOnce(ctx, len(resources), func(ctx context.Context, i int) error {
		found[i].Subjects, found[i].Err = snap.Subjects(ctx, resources[i], authz.TenantMember, authz.TypeTenant, nil, limit)
		return fatal(found[i].Err)
	})
}
