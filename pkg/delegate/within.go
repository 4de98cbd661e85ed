package delegate

import (
	"context"
	"errors"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// What exists for a caller is judged here, for everything that the view reads: what lies outside its bounds is answered as what does not
// exist. A caller that is bound to tenants costs more reads; any other costs none.
//
// What such a caller's write stands on besides, that a tenant within has the agents and principals that it names, is judged again with the
// write (see Delegate.write). Two things cannot be, because preconditions are filters. A scope's object may be moved to another tenant
// meanwhile: a decision looks at the tenants of the object anyway. And an agent or a principal that is suspended, or resumed, may be given
// to another tenant meanwhile: that tenant gave rights to what was suspended, or was about to be resumed, at the same moment.

// tenantsAtOnce is of how many tenants one read asks whether they have an agent or a principal.
const tenantsAtOnce = 64

// exists reports whether an agent, a user, a service or a tenant exists for the caller, as far as tenants and bounds go: whether it has
// been registered, or is active, is another question.
func (v *view) exists(ctx context.Context, o authz.Object) (bool, error) {
	switch o.Type {
	case authz.TypeTenant:
		return v.within.HasTenant(authz.TenantID(o.ID)), nil
	case authz.TypeAgent:
		if !v.within.HasAgent(authz.AgentID(o.ID)) {
			return false, nil
		}
	default:
		if p, ok := authz.NewPrincipal(o); !ok || !v.within.HasPrincipal(p) {
			return false, nil
		}
	}
	return v.belongs(ctx, o)
}

// belongs reports whether a tenant within has an agent, a user or a service. For a caller that is not confined it is not looked for.
func (v *view) belongs(ctx context.Context, o authz.Object) (bool, error) {
	if !v.within.Confined() {
		return true, nil
	}
	home, err := v.home(ctx, o)
	return home != "", err
}

// home returns the first tenant within, by id, that has an agent, a user or a service; "" if none has. Each is looked for once.
func (v *view) home(ctx context.Context, o authz.Object) (authz.TenantID, error) {
	if home, known := v.homes[o]; known {
		return home, nil
	}
	for some := range slices.Chunk(v.tenants, tenantsAtOnce) {
		var filters []authz.Filter
		for _, tenant := range some {
			filters = append(filters, facts.Belongs(tenant, o)...)
		}
		v.reads += len(filters)
		lists, err := v.snap.Read(ctx, filters...)
		if err != nil {
			return "", err
		}
		for i, rels := range lists {
			if facts.Holds(rels, v.now) {
				v.homes[o] = authz.TenantID(filters[i].Resource.ID)
				v.stands = append(v.stands, authz.MustHold{Filter: filters[i], Exists: true})
				return v.homes[o], nil
			}
		}
	}
	v.homes[o] = ""
	return "", nil
}

// object reports whether a domain object of a type exists for the caller: its type and id lie within and, for a confined caller, its
// tenants are exactly one, which lies within. One whose tenants cannot be computed exists for no confined caller.
func (v *view) object(ctx context.Context, o authz.Object, t *authz.Type) (bool, error) {
	switch {
	case !v.within.HasObject(o):
		return false, nil
	case !v.within.Confined():
		return true, nil
	case !t.TenantSafe():
		return false, nil
	}
	v.reads++
	found, err := v.snap.Subjects(ctx, o, authz.TenantMember, authz.TypeTenant, nil, 2)
	if err != nil {
		if _, ok := errors.AsType[refusal](unanswered(err, "")); ok {
			return false, nil
		}
		return false, err
	}
	return len(found) == 1 && !found[0].Conditional && found[0].ID != "*" && v.within.HasTenant(authz.TenantID(found[0].ID)), nil
}

// whole refuses to stop or resume an agent, a user, a service or a tenant that does not exist for the caller, or that other tenants have
// too: a caller that is bound to some tenants must not decide for others. That is the one thing that a confined caller learns of other tenants.
func (v *view) whole(ctx context.Context, o authz.Object) error {
	switch exists, err := v.exists(ctx, o); {
	case err != nil:
		return err
	case !exists && o.Type == authz.TypeAgent:
		return authz.NoAgent(authz.AgentID(o.ID))
	case !exists:
		return authz.NoPrincipal(o)
	case !v.within.Confined() || o.Type == authz.TypeTenant:
		return nil
	}
	// No more rows than the tenants within can have come before one that lies beyond, but for those that have just expired.
	for cursor, more := "", true; more; more = cursor != "" {
		rels, next, err := v.snap.Page(ctx, facts.Tenants(o), listPage, cursor)
		if err != nil {
			return err
		}
		for _, rel := range rels {
			expired := !rel.ExpiresAt.IsZero() && !rel.ExpiresAt.After(v.now)
			if !expired && !v.within.HasTenant(authz.TenantID(rel.Resource.ID)) {
				return outOfBounds("%s has rights in tenants besides those that the caller %s is bound to: revoke its delegations and end its "+
					"sessions in yours, or ask a caller that is not bound to tenants", authz.Show(o), v.caller)
			}
		}
		cursor = next
	}
	return nil
}

// shownAgent is an agent as it is told to the caller: with the owners that exist for it.
func (v *view) shownAgent(ctx context.Context, a facts.Agent) (facts.Agent, error) {
	if !v.within.Confined() {
		return a, nil
	}
	owners := a.Owners
	a.Owners = nil
	for _, o := range owners {
		if ok, err := v.belongs(ctx, o); err != nil {
			return a, err
		} else if ok {
			a.Owners = append(a.Owners, o)
		}
	}
	return a, nil
}

// shown is a delegation as it is told to the caller: one that an agent outside passed on is a part of nothing that exists for the caller.
func (v *view) shown(ctx context.Context, d facts.Delegation) (facts.Delegation, error) {
	if d.GrantedBy.Type == authz.TypeAgent && !v.within.HasAgent(authz.AgentID(d.GrantedBy.ID)) {
		d.GrantedBy, d.Parent = authz.Object{}, ""
	}
	one := []facts.Delegation{d}
	err := v.orphan(ctx, one)
	return one[0], err
}

// orphan makes delegations that exist for the caller parts of nothing, where they are parts of one that does not. A part is in its parent's
// tenant, and who granted it is its parent's agent: so only a parent for a set is looked for, whose other types may lie outside.
func (v *view) orphan(ctx context.Context, parts []facts.Delegation) error {
	if v.within.AllPrincipals() {
		return nil
	}
	var filters []authz.Filter
	at := map[authz.DelegationID]int{}
	for i := range parts {
		if id := parts[i].Parent; id != "" {
			if _, seen := at[id]; !seen {
				at[id] = len(filters)
				filters = append(filters, facts.Object(id.Object()))
			}
		}
	}
	if len(filters) == 0 {
		return nil
	}
	v.reads += len(filters)
	lists, err := v.snap.Read(ctx, filters...)
	if err != nil {
		return err
	}
	for i := range parts {
		id := parts[i].Parent
		if id == "" {
			continue
		}
		if parent := facts.ReadDelegation(id, lists[at[id]], v.now); !parent.Known || !parent.Within(v.within) {
			parts[i].Parent = ""
		}
	}
	return nil
}

// lists reports whether any of the delegations that are chosen can exist for the caller: so that a list by what does not exist takes no
// time for what others have.
func (v *view) lists(ctx context.Context, c Choice) (bool, error) {
	b := v.within
	switch {
	case b.AllActors():
		return true, nil
	case c.Agent != "" && !b.HasAgent(c.Agent), c.Tenant != "" && !b.HasTenant(c.Tenant):
		return false, nil
	case c.Principal != authz.Subject{} && !facts.HasParty(b, c.Principal):
		return false, nil
	case c.Principal.Type == authz.TypeTenant && !b.HasTenant(authz.TenantID(c.Principal.ID)):
		return false, nil
	case c.Parent == "":
		return true, nil
	}
	_, err := v.delegation(ctx, c.Parent)
	if authz.KindOf(err) == authz.NotFound {
		return false, nil
	}
	return err == nil, err
}

// wholly refuses a caller with bounds, for what is about everything that there is.
func (d *Delegate) wholly() error {
	if b := d.within; b.AllActors() && b.Objects.All() && b.IDs.All() {
		return nil
	}
	return outOfBounds("an adoption is about all agents, principals and objects, and the caller %s is bound to some", d.caller)
}

func outOfBounds(format string, args ...any) error {
	return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, format, args...)
}
