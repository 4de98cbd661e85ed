package judge

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// What lies outside a caller's bounds is answered as what does not exist. Facts are read, and kept, for all callers alike; what follows is
// applied to them afterwards, in each decision.

// hasSession reports whether a session exists for the caller: its agent does, and one of its leaves.
func hasSession(within *authz.Bounds, s *facts.Session) bool {
	return s.Within(within) && (within.AllActors() || slices.ContainsFunc(s.Leaves, func(l facts.Leaf) bool {
		return hasLeaf(within, l.Principal, l.Tenant)
	}))
}

// hasLeaf reports whether a leaf of a session of an agent within exists for the caller.
func hasLeaf(within *authz.Bounds, p authz.Principal, tenant authz.TenantID) bool {
	return within.HasTenant(tenant) && within.HasPrincipal(p)
}

// admit judges what a case names: the session or delegation, which was found, and the principal and the tenant. The error is that the session
// or delegation does not exist; not to be admitted means that nothing lets the agent act.
func admit(within *authz.Bounds, c authz.Case, s *facts.Session, d *facts.Delegation) (bool, error) {
	switch {
	case c.Delegation != "":
		if d.Purged && within.AllActors() { // whose it was is not known any more
			return false, nil
		}
		if !d.Known || !d.Within(within) {
			return false, authz.NoDelegation(c.Delegation)
		}
	case c.Session != "":
		if s.Purged && within.AllActors() {
			return false, nil
		}
		if !s.Known || !hasSession(within, s) {
			return false, authz.NoSession(c.Session)
		}
	case !within.HasAgent(c.Agent):
		return false, nil
	}
	return (c.Tenant == "" || within.HasTenant(c.Tenant)) && (c.Principal.IsZero() || within.HasPrincipal(c.Principal)), nil
}

// admitKept is admit for facts that were kept, which other callers may have read: it returns those of them that exist for the caller.
func admitKept(within *authz.Bounds, c authz.Case, kept []decide.Facts) ([]decide.Facts, error) {
	if ok, err := admit(within, c, kept[0].Session, kept[0].Leaf()); !ok {
		return nil, err
	}
	return present(within, kept), nil
}

// present leaves out the facts of what does not exist for the caller.
func present(within *authz.Bounds, found []decide.Facts) []decide.Facts {
	for i := range found {
		if !hasFacts(within, &found[i]) {
			return slices.DeleteFunc(slices.Clone(found), func(f decide.Facts) bool { return !hasFacts(within, &f) })
		}
	}
	return found
}

// hasFacts reports whether what facts are of exists for the caller. The delegation's own facts decide, not what a session says of it.
func hasFacts(within *authz.Bounds, f *decide.Facts) bool {
	return hasLeaf(within, f.Principal, f.Tenant) && (!f.Leaf().Known || f.Leaf().Within(within))
}

// hides reports whether an object does not exist for the caller whatever the graph holds of it, so that nothing is asked of it. Objects of a
// global type are in no tenant, and exist for everybody: that is what the operator has listed them for.
func (c *call) hides(o authz.Object) bool {
	return c.hidesType(o.Type) || !c.within.IDs.Match(o.ID)
}

func (c *call) hidesType(objectType string) bool {
	return !c.within.HasType(objectType)
}

// exists reports whether an agent, a user, a service or a tenant exists for the caller.
func (r *reader) exists(ctx context.Context, within *authz.Bounds, o authz.Object) (bool, error) {
	switch {
	case o.Type == authz.TypeTenant:
		return within.HasTenant(authz.TenantID(o.ID)), nil
	case o.Type == authz.TypeAgent && !within.HasAgent(authz.AgentID(o.ID)),
		o.Type != authz.TypeAgent && !within.HasPrincipal(authz.Principal{Object: o}):
		return false, nil
	default:
		return r.placed(ctx, within, o)
	}
}

// placed reports whether an agent, a user or a service is in a tenant of the caller's, if it is confined to some.
func (r *reader) placed(ctx context.Context, within *authz.Bounds, o authz.Object) (bool, error) {
	if !within.Confined() {
		return true, nil
	}
	var places []authz.Filter
	for _, t := range within.Tenants.List() {
		places = append(places, facts.Belongs(authz.TenantID(t), o)...)
	}
	if err := r.prefetch(ctx, places...); err != nil {
		return false, err
	}
	for _, f := range places {
		rels, err := r.read(ctx, f)
		if err != nil || facts.Holds(rels, r.now) {
			return err == nil, err
		}
	}
	return false, nil
}

// conceal makes facts that are going to be explained to a confined caller say of agents and a principal that are in none of its tenants what
// they say of absent ones. The verdict stays: nobody acts in a tenant without access to it. The facts given are not changed.
func (c *call) conceal(ctx context.Context, f *decide.Facts) error {
	if !c.explain || !c.within.Confined() {
		return nil
	}
	r := c.source.reader()
	there, err := r.placed(ctx, c.within, f.Principal.Object)
	if err != nil {
		return err
	}
	var absent []authz.AgentID
	for id := range f.Standing.Agents {
		in, err := r.placed(ctx, c.within, id.Object())
		if err != nil {
			return err
		}
		if !in {
			absent = append(absent, id)
		}
	}
	hide := func(s decide.Standing) decide.Standing {
		if !there {
			s.Principal = facts.Life{}
		}
		if len(absent) > 0 {
			s.Agents = maps.Clone(s.Agents)
		}
		for _, id := range absent {
			s.Agents[id] = &facts.Agent{ID: id}
		}
		return s
	}
	f.Standing = hide(f.Standing)
	for at, s := range f.Baselines {
		f.Baselines[at] = hide(s)
	}
	return nil
}

// beyond stands in an explanation for a condition that names what does not exist for the caller.
const beyond = "a condition about what lies outside the caller's bounds"

// trim takes out of an explained decision what does not exist for a bounded caller: delegations and agents of a chain, parts of
// SpiceDB's traces, and why the object's tenants cannot be computed. Explanations of the evaluator's name nothing of it from the start.
func (c *call) trim(ctx context.Context, d *authz.Decision, candidates []*candidate) error {
	if c.within.Everything() {
		return nil
	}
	known := map[authz.Object]bool{}
	for i := range d.Candidates {
		report := &d.Candidates[i]
		hidden := c.hidden(report, candidates)
		report.Chain = slices.DeleteFunc(report.Chain, func(id authz.DelegationID) bool { return hidden[string(id)] })
		for k := range report.Conditions {
			condition := &report.Conditions[k]
			if condition.Query != nil && condition.Query.Only && condition.Outcome != authz.Yes {
				condition.Detail, condition.Explanation = "", nil
			}
			for name := range hidden {
				if strings.Contains(condition.Text, name) || strings.Contains(condition.Detail, name) {
					condition.Text, condition.Detail, condition.Missing, condition.Explanation = beyond, "", nil, nil
				}
			}
			if condition.Explanation == nil || condition.Explanation.Trace == nil {
				continue
			}
			if _, err := c.prune(ctx, condition.Explanation.Trace, known); err != nil {
				return err
			}
		}
	}
	return nil
}

// hidden returns the names of the delegations, sessions and agents of a candidate that do not exist for the caller.
func (c *call) hidden(report *authz.Candidate, candidates []*candidate) map[string]bool {
	hidden := map[string]bool{}
	for _, t := range candidates {
		for _, one := range t.facts.Chain {
			if slices.Contains(report.Chain, one.ID) && !one.Within(c.within) {
				hidden[string(one.ID)], hidden[string(one.Session)] = true, true
			}
			if !c.within.HasAgent(one.Agent) {
				hidden[authz.Show(one.Agent.Object())] = true
			}
		}
	}
	delete(hidden, "")
	return hidden
}

// prune takes out of a trace the parts of objects that do not exist for the caller. It reports whether its first part's does.
func (c *call) prune(ctx context.Context, t *authz.Trace, known map[authz.Object]bool) (bool, error) {
	there, done := known[t.Resource]
	if !done {
		var err error
		if there, err = c.hasObject(ctx, t.Resource); err != nil {
			return false, err
		}
		known[t.Resource] = there
	}
	kept := t.Children[:0]
	for i := range t.Children {
		in, err := c.prune(ctx, &t.Children[i], known)
		if err != nil {
			return false, err
		}
		if in {
			kept = append(kept, t.Children[i])
		}
	}
	t.Children = kept
	return there, nil
}

// hasObject reports whether an object of a trace exists for the caller.
func (c *call) hasObject(ctx context.Context, o authz.Object) (bool, error) {
	switch t := c.schema.Types[o.Type]; {
	case o.Type == authz.TypeTenant:
		return c.within.HasTenant(authz.TenantID(o.ID)), nil
	case !authz.IsCore(o.Type) && c.hides(o):
		return false, nil
	case !c.within.Confined(), c.global[o.Type]:
		return true, nil
	case t == nil || !t.TenantSafe():
		return false, nil
	}
	tenant, err := c.tenantOf(ctx, o)
	return tenant != "" && c.within.HasTenant(tenant), err
}

// tenantOf returns the one tenant of an object; "" where it has none, several, or some that cannot be computed.
func (c *call) tenantOf(ctx context.Context, o authz.Object) (authz.TenantID, error) {
	tenants, err := c.source.snap.Subjects(ctx, o, authz.TenantMember, authz.TypeTenant, nil, enoughTenants)
	switch {
	case fatal(err) != nil:
		return "", err
	case err != nil || len(tenants) != 1 || tenants[0].Conditional || tenants[0].ID == "*":
		return "", nil //nolint:nilerr // an object whose tenants cannot be computed is in none
	}
	return authz.TenantID(tenants[0].ID), nil
}
