package judge

import (
	"context"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// unanswered is one condition that the engine has to answer.
type unanswered struct {
	of    *candidate
	index int
}

// batchMemory is memory that a call uses for one batch of candidates after another, because a lookup has very many of them. It holds nothing that is needed
// between two of them.
type batchMemory struct {
	possible   []*candidate
	unanswered []unanswered
	queries    []authz.Query
	tenants    tenantMemory
}

// tenantMemory is the part of that for questions about the tenants of objects.
type tenantMemory struct {
	found []authz.SubjectsAnswer
	// first is where each object was asked about first, at each revision. same has that for each question, and order has each such place once.
	first       map[objectAt]int
	same, order []int
	objects     []authz.Object
}

// objectAt is an object at a revision.
type objectAt struct {
	revision authz.Revision
	object   authz.Object
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
		c.memory.possible = slices.Grow(c.memory.possible[:0], len(candidates))
		for _, t := range candidates {
			if !decide.Refused(t.conditions) {
				c.memory.possible = append(c.memory.possible, t)
			}
		}
		candidates = c.memory.possible
	}
	c.memory.unanswered = c.memory.unanswered[:0]
	for _, t := range candidates {
		for i := range t.conditions {
			if query := t.conditions[i].Query; query != nil && query.Only && !t.hidden && t.snapshot(t.conditions[i].Where) != nil {
				c.memory.unanswered = append(c.memory.unanswered, unanswered{t, i})
			}
		}
	}
	if err := c.askTenants(ctx, c.memory.unanswered); err != nil {
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
	own := slices.Grow(c.memory.unanswered[:0], usual*len(candidates))
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
	c.memory.unanswered = own
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
	c.memory.queries = slices.Grow(c.memory.queries[:0], len(all))
	for _, u := range all {
		query := *u.condition().Query
		query.Explain = explaining
		c.memory.queries = append(c.memory.queries, query)
	}
	answers, err := snap.Check(ctx, c.memory.queries)
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
	known, err := c.memory.tenants.of(ctx, all, limit)
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

// of looks up the tenants that conditions ask for, at most limit, one answer for each; they last until the next batch. An error of the engine, and of
// no object, is its error.
func (b *tenantMemory) of(ctx context.Context, all []unanswered, limit int) ([]authz.SubjectsAnswer, error) {
	at := func(i int) (authz.Snapshot, authz.Object) {
		return all[i].of.snapshot(all[i].condition().Where), all[i].condition().Query.Resource
	}
	b.found = slices.Grow(b.found[:0], len(all))[:len(all)]
	clear(b.found)
	switch len(all) { // a decision has no use for what follows
	case 0:
		return nil, nil
	case 1:
		snap, resource := at(0)
		b.found[0].Subjects, b.found[0].Err = snap.Subjects(ctx, resource, authz.TenantMember, authz.TypeTenant, nil, limit)
		return b.found, fatal(b.found[0].Err)
	}
	b.sort(len(all), at)
	for rest := b.order; len(rest) > 0; {
		snap, _ := at(rest[0])
		b.objects = b.objects[:0]
		n := 0
		for k, i := range rest { // those at this revision come first from here on
			if other, object := at(i); other == snap {
				b.objects = append(b.objects, object)
				rest[n], rest[k] = rest[k], rest[n]
				n++
			}
		}
		answers, err := tenantsAt(ctx, snap, b.objects, limit)
		if err != nil {
			return nil, err
		}
		for k, i := range rest[:n] {
			b.found[i] = answers[k]
		}
		rest = rest[n:]
	}
	for i, first := range b.same {
		b.found[i] = b.found[first]
		if err := fatal(b.found[i].Err); err != nil {
			return nil, err
		}
	}
	return b.found, nil
}

// sort finds which of n questions are about the same object at the same revision.
func (b *tenantMemory) sort(n int, at func(i int) (authz.Snapshot, authz.Object)) {
	if b.first == nil {
		b.first = make(map[objectAt]int, n)
	}
	clear(b.first)
	b.same, b.order = slices.Grow(b.same[:0], n), slices.Grow(b.order[:0], n)
	for i := range n {
		snap, object := at(i)
		key := objectAt{snap.Revision(), object}
		first, there := b.first[key]
		if !there {
			first = i
			b.first[key] = i
			b.order = append(b.order, i)
		}
		b.same = append(b.same, first)
	}
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
