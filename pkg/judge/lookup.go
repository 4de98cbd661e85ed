package judge

import (
	"context"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// lookupPage is how many candidates a lookup asks the engine for, and decides, at a time.
const lookupPage = 500

// Place is where a lookup stopped. The zero Place is its beginning.
type Place struct {
	// Revision pins the lookup.
	Revision authz.Revision `json:"r"`
	// Leaf is the delegation that was being looked at (LookupResources).
	Leaf authz.DelegationID `json:"l,omitempty"`
	// Engine is the engine's cursor at the start of the page that was being looked at.
	Engine string `json:"e,omitempty"`
	// Skip is how many of that page had been decided.
	Skip int `json:"s,omitempty"`
}

// End is how a lookup ended.
type End struct {
	// At is the revision of all results.
	At authz.Revision
	// Next is where to go on; nil when everything was found.
	Next *Place
}

// Reached is one object that an acting party reaches.
type Reached struct {
	Resource       authz.Object
	Permissionship authz.Permissionship
	Missing        []string
	Principal      authz.Principal
	Tenant         authz.TenantID
	Delegation     authz.DelegationID
}

// Resources calls yield for up to limit objects of c.Resource.Type that the case's acting party
// reaches with c.Permission: for each of its delegations alone, in the order of ids. c.Resource.ID is
// ignored, and so may c.Principal and c.Tenant be left out with a session. A place other than the zero
// one pins the lookup's revision; what does not depend on an object then has to hold at the head
// revision too. An error of yield ends the lookup.
func (j *Judge) Resources(ctx context.Context, c authz.Case, f authz.Freshness, from Place, limit int, yield func(Reached) error) (End, error) {
	court, err := j.resume(ctx, f, from)
	if err != nil {
		return End{}, err
	}
	if err := j.validate(court.schema, c.Resource.Type, c.Permission); err != nil {
		return End{}, err
	}
	leaves, err := court.leaves(ctx, c)
	if err != nil {
		return End{}, err
	}
	l := lookup{court: court, limit: limit}
	for _, one := range leaves {
		if one.id < from.Leaf {
			continue
		}
		place := Place{Revision: court.book.snap.Revision(), Leaf: one.id}
		if one.id == from.Leaf {
			place = from
		}
		next, err := l.leaf(ctx, c, one, place, yield)
		if err != nil {
			return End{}, err
		}
		if next != nil {
			return End{At: court.book.snap.Revision(), Next: next}, nil
		}
	}
	return End{At: court.book.snap.Revision()}, nil
}

// resume opens a lookup at its revision.
func (j *Judge) resume(ctx context.Context, f authz.Freshness, from Place) (*court, error) {
	if !from.Revision.IsZero() {
		f = authz.Freshness{Exactly: from.Revision}
	}
	return j.open(ctx, f)
}

// leaves lists the delegations that a lookup goes through, by id. Unlike a decision it may go through
// leaves of several principals, one after the other.
func (c *court) leaves(ctx context.Context, one authz.Case) ([]leaf, error) {
	if one.Session != "" {
		return c.book.ofSession(ctx, one)
	}
	return c.book.candidates(ctx, one)
}

// lookup is one lookup's progress.
type lookup struct {
	*court
	limit int
	found int
}

// leaf streams what one delegation reaches, and returns where it stopped at the limit.
func (l *lookup) leaf(ctx context.Context, c authz.Case, one leaf, from Place, yield func(Reached) error) (*Place, error) {
	t, err := l.try(ctx, c, one)
	if err != nil {
		return nil, err
	}
	if decide.Refused(t.conditions) {
		return nil, nil //nolint:nilnil // nothing is reached, and nothing is left
	}
	reachable := authz.Reachable{
		ResourceType: c.Resource.Type, Permission: c.Permission, Context: c.Context,
		Subject: authz.Subject{Object: narrowest(t.facts)},
	}
	seen := map[string]bool{}
	for {
		ids, next, err := l.book.snap.Resources(ctx, reachable, lookupPage, from.Engine)
		if err != nil {
			return nil, err
		}
		// SpiceDB names a resource once for each way in which it is reached. What an earlier stream
		// decided of this page is not decided again.
		done := min(from.Skip, len(ids))
		for _, id := range ids[:done] {
			seen[id] = true
		}
		trials := make([]*trial, 0, len(ids))
		for _, id := range ids[done:] {
			again := *t
			again.c.Resource.ID = id
			again.plan()
			trials = append(trials, &again)
		}
		if err := l.hear(ctx, trials); err != nil {
			return nil, err
		}
		for _, again := range trials {
			if l.found == l.limit {
				return &from, nil
			}
			from.Skip++
			v := decide.Combine(again.conditions)
			switch {
			case v.Err != nil:
				return nil, v.Err
			case v.Permissionship == authz.NoPermission || seen[again.c.Resource.ID]:
				continue
			}
			seen[again.c.Resource.ID] = true
			l.found++
			reached := Reached{again.c.Resource, v.Permissionship, v.Missing, one.principal, one.tenant, one.id}
			if err := yield(reached); err != nil {
				return nil, err
			}
		}
		if next == "" {
			return nil, nil //nolint:nilnil // nothing is left
		}
		from.Engine, from.Skip = next, 0
	}
}

// narrowest is the subject that probably reaches least: the last delegation with a scope, else the
// principal. Which one it is changes the work, not the result.
func narrowest(f decide.Facts) authz.Object {
	for _, d := range slices.Backward(f.Chain) {
		if !d.Unscoped {
			return d.ID.Object()
		}
	}
	return f.Principal.Object
}

// Reacher is one agent that reaches an object for a principal.
type Reacher struct {
	Candidate authz.Candidate
	// NeedsSession tells that the agent has to start a session first.
	NeedsSession bool
}

// Agents calls yield for up to limit (agent, principal) pairs that reach the case's object with its
// permission: every live delegation in the object's tenant, leaves of sessions aside, for every
// principal it covers, as if its agent had started a session. c.Agent, c.Session and c.Delegation are
// ignored; c.Principal narrows.
func (j *Judge) Agents(ctx context.Context, c authz.Case, f authz.Freshness, from Place, limit int, yield func(Reacher) error) (End, error) {
	court, err := j.resume(ctx, f, from)
	if err != nil {
		return End{}, err
	}
	if err := j.validate(court.schema, c.Resource.Type, c.Permission); err != nil {
		return End{}, err
	}
	snap := court.book.snap
	// An object of a global type may be reached in any tenant.
	filter := facts.ListFilter(authz.Subject{Object: authz.Object{Type: authz.TypeTenant}}, false)
	if !j.global[c.Resource.Type] {
		tenants, err := snap.Subjects(ctx, c.Resource, "tenant", authz.TypeTenant, nil)
		if err != nil {
			return End{}, err
		}
		if len(tenants) != 1 || tenants[0].Conditional || tenants[0].ID == "*" {
			return End{At: snap.Revision()}, nil
		}
		filter = facts.ListFilter(authz.Subject{Object: authz.TenantID(tenants[0].ID).Object()}, false)
	}
	l := lookup{court: court, limit: limit}
	place := Place{Revision: snap.Revision(), Engine: from.Engine, Skip: from.Skip}
	for {
		rels, next, err := snap.Page(ctx, filter, lookupPage, place.Engine)
		if err != nil {
			return End{}, err
		}
		stopped, err := l.delegations(ctx, c, rels, &place, yield)
		if err != nil {
			return End{}, err
		}
		if stopped {
			return End{At: snap.Revision(), Next: &place}, nil
		}
		if next == "" {
			return End{At: snap.Revision()}, nil
		}
		place.Engine, place.Skip = next, 0
	}
}

// delegations decides a page of delegations, each for all its principals, and reports whether the
// limit stopped it.
func (l *lookup) delegations(ctx context.Context, c authz.Case, rels []authz.Relationship, place *Place, yield func(Reacher) error) (bool, error) {
	var trials []*trial
	for _, rel := range rels {
		more, err := l.reachers(ctx, c, authz.DelegationID(rel.Resource.ID))
		if err != nil {
			return false, err
		}
		trials = append(trials, more...)
	}
	trials = trials[min(place.Skip, len(trials)):]
	for page := range slices.Chunk(trials, lookupPage) {
		if l.found == l.limit {
			return true, nil
		}
		if err := l.hear(ctx, page); err != nil {
			return false, err
		}
		for _, t := range page {
			if l.found == l.limit {
				return true, nil
			}
			place.Skip++
			v := decide.Combine(t.conditions)
			if v.Err != nil {
				return false, v.Err
			}
			if v.Permissionship == authz.NoPermission {
				continue
			}
			l.found++
			if err := yield(Reacher{t.candidate(v, false), !decide.Direct(t.facts)}); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// reachers plans one delegation for every principal that it covers.
func (l *lookup) reachers(ctx context.Context, c authz.Case, id authz.DelegationID) ([]*trial, error) {
	d, err := l.book.delegation(ctx, id)
	if err != nil || !d.Live() || d.Session != "" {
		return nil, err
	}
	principals, err := l.principals(ctx, c, d)
	if err != nil {
		return nil, err
	}
	c.Agent, c.Session, c.Delegation = d.Agent, "", d.ID
	var out []*trial
	for _, p := range principals {
		t, err := l.try(ctx, c, leaf{d.ID, p, d.Tenant})
		if err != nil {
			return nil, err
		}
		t.facts.AnySession = true
		if t.head != nil {
			t.head.AnySession = true
		}
		if err := l.baselines(ctx, t); err != nil {
			return nil, err
		}
		t.plan()
		if !decide.Refused(t.conditions) {
			out = append(out, t)
		}
	}
	return out, nil
}

// principals lists whom a delegation covers, as far as the case asks for them, by type and id.
func (l *lookup) principals(ctx context.Context, c authz.Case, d *facts.Delegation) ([]authz.Principal, error) {
	if !c.Principal.IsZero() {
		return []authz.Principal{c.Principal}, nil
	}
	if p, ok := authz.NewPrincipal(d.Principal.Object); ok {
		return []authz.Principal{p}, nil
	}
	var out []authz.Principal
	for _, kind := range []string{authz.TypeService, authz.TypeUser} {
		q := d.PrincipalQuery(authz.Principal{})
		members, err := l.book.snap.Subjects(ctx, q.Resource, q.Permission, kind, nil)
		if err != nil {
			return nil, err
		}
		first := len(out)
		for _, m := range members {
			if p, ok := authz.NewPrincipal(authz.Object{Type: kind, ID: m.ID}); ok {
				out = append(out, p)
			}
		}
		slices.SortFunc(out[first:], func(a, b authz.Principal) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
	}
	return out, nil
}
