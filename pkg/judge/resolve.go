package judge

import (
	"context"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

const (
	// maxCandidates is how many delegations one decision weighs.
	maxCandidates = 16
	// maxMarks is how many delegations of a principal, and of each set of a tenant, are looked through for those of an
	// agent, or of the agent for those of the principal, and maxRead how many of what is found are read.
	maxMarks, maxRead = 512, 64
)

// leaf is one delegation that a case may be decided by, with whom and where it would act.
type leaf struct {
	id        authz.DelegationID
	principal authz.Principal
	tenant    authz.TenantID
}

// candidates lists what the case may be decided by, in the order of ids. None means that nothing in
// the graph lets the agent act. Errors: NotFound for an unknown session or delegation, Invalid where
// the case leaves a choice that it has to make, among what exists for the caller.
func (r *reader) candidates(ctx context.Context, within *authz.Bounds, c authz.Case) ([]leaf, error) {
	var (
		leaves []leaf
		err    error
	)
	switch {
	case c.Delegation != "":
		leaves, err = r.ofDelegation(ctx, within, c)
	case c.Session != "":
		if leaves, err = r.ofSession(ctx, within, c); err == nil {
			err = unambiguous(leaves)
		}
	default:
		leaves, err = r.ofAgent(ctx, within, c)
	}
	if err != nil {
		return nil, err
	}
	if len(leaves) > maxCandidates {
		return nil, tooMany(maxCandidates)
	}
	return leaves, nil
}

// ofDelegation is the delegation that is named, for the principal that is named or its own.
func (r *reader) ofDelegation(ctx context.Context, within *authz.Bounds, c authz.Case) ([]leaf, error) {
	d, err := r.delegation(ctx, c.Delegation)
	if err != nil {
		return nil, err
	}
	if ok, err := admit(within, c, nil, d); !ok {
		return nil, err
	}
	l := leaf{d.ID, c.Principal, c.Tenant}
	if l.tenant == "" {
		l.tenant = d.Tenant
	}
	if l.principal.IsZero() {
		p, ok := authz.NewPrincipal(d.Principal.Object)
		switch {
		case d.Agent != c.Agent:
			// Another agent's delegation: say no more than that it does not act.
			return nil, nil
		case !ok || d.Set():
			return nil, authz.FieldErrorf("on_behalf_of", "is required: the delegation is for a set of principals")
		}
		l.principal = p
	}
	return []leaf{l}, nil
}

// ofSession is every leaf of the session that is named, as far as it is for the principal and the
// tenant that are named.
func (r *reader) ofSession(ctx context.Context, within *authz.Bounds, c authz.Case) ([]leaf, error) {
	s, err := r.session(ctx, c.Session)
	if err != nil {
		return nil, err
	}
	if ok, err := admit(within, c, s, nil); !ok {
		return nil, err
	}
	if s.Agent != c.Agent {
		// Another agent's session: say no more than that it does not act.
		return nil, nil
	}
	var out []leaf
	for _, l := range s.Leaves {
		if !hasLeaf(within, l.Principal, l.Tenant) {
			r.partial = true
			continue
		}
		if (c.Principal.IsZero() || c.Principal == l.Principal) && (c.Tenant == "" || c.Tenant == l.Tenant) && !l.Principal.IsZero() {
			out = append(out, leaf{l.Delegation, l.Principal, l.Tenant})
		}
	}
	return out, nil
}

// unambiguous refuses leaves of several principals or tenants: they never pool.
func unambiguous(leaves []leaf) error {
	for _, l := range leaves {
		switch {
		case l.principal != leaves[0].principal:
			return authz.FieldErrorf("on_behalf_of", "is required: the session acts for several principals")
		case l.tenant != leaves[0].tenant:
			return authz.FieldErrorf("tenant_id", "is required: the session acts in several tenants")
		}
	}
	return nil
}

// ofAgent is every live delegation that lets the agent act directly for the principal in the tenant:
// granted by the principal itself, or for a set of the tenant. Whether the principal is in the set is
// for the gates. However many there are for other agents, no more than a constant number is read.
func (r *reader) ofAgent(ctx context.Context, within *authz.Bounds, c authz.Case) ([]leaf, error) {
	switch {
	case c.Principal.IsZero():
		return nil, authz.FieldErrorf("on_behalf_of", "is required without a session or a delegation")
	case c.Tenant == "":
		return nil, authz.FieldErrorf("tenant_id", "is required without a session or a delegation")
	}
	if ok, err := admit(within, c, nil, nil); !ok {
		return nil, err
	}
	ids, err := r.direct(ctx, c)
	if err != nil {
		return nil, err
	}
	filters := make([]authz.Filter, len(ids))
	for i, id := range ids {
		filters[i] = facts.Object(id.Object())
	}
	if err := r.prefetch(ctx, filters...); err != nil {
		return nil, err
	}
	var out []leaf
	for _, id := range ids {
		d, err := r.delegation(ctx, id)
		if err != nil {
			return nil, err
		}
		if !d.Live() || d.Agent != c.Agent || d.Tenant != c.Tenant || !d.Within(within) {
			continue
		}
		// A set may cover the principal or not: one that does not is no candidate, so that sets do not
		// fill the places. The gates judge it again.
		if d.Set() {
			if in, err := r.member(ctx, d.Principal, c.Principal); err != nil {
				return nil, err
			} else if !in {
				continue
			}
		}
		out = append(out, leaf{id, c.Principal, c.Tenant})
	}
	return out, nil
}

// listing returns the filter by which the delegations of an agent, or in a tenant, are listed: the live ones alone, where the graph lists them.
func (r *reader) listing(ctx context.Context, of authz.Object) (authz.Filter, error) {
	rels, err := r.read(ctx, facts.IndexFilter())
	if err != nil {
		return authz.Filter{}, err
	}
	if facts.Indexed(rels) {
		return facts.LiveFilter(authz.Subject{Object: of}, false), nil
	}
	return facts.ListFilter(authz.Subject{Object: of}, false), nil
}

// direct returns, by id, the delegations that let the agent, and perhaps others, act directly for the principal: found by
// the principal and the tenant's sets, or where those have very many by the agent.
func (r *reader) direct(ctx context.Context, c authz.Case) ([]authz.DelegationID, error) {
	members := authz.Subject{Object: c.Tenant.Object(), Relation: facts.RelationMember}
	admins := authz.Subject{Object: c.Tenant.Object(), Relation: facts.RelationAdmin}
	var filters []authz.Filter
	for _, principal := range []authz.Subject{{Object: c.Principal.Object}, members, admins} {
		filters = append(filters, facts.DirectFilter(principal, maxMarks+1))
	}
	if err := r.prefetch(ctx, filters...); err != nil {
		return nil, err
	}
	var ids []authz.DelegationID
	crowded := false
	for _, f := range filters {
		rels, err := r.read(ctx, f)
		if err != nil {
			return nil, err
		}
		crowded = crowded || len(rels) > maxMarks
		ids = append(ids, resources(rels)...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case crowded:
		byAgent, err := r.listing(ctx, c.Agent.Object())
		if err != nil {
			return nil, err
		}
		byAgent.Limit = maxMarks + 1
		rels, err := r.read(ctx, byAgent)
		if err != nil {
			return nil, err
		}
		if len(rels) > maxMarks {
			return nil, tooMany(maxMarks)
		}
		ids = resources(rels)
		slices.Sort(ids)
		return r.only(ctx, ids, c.Tenant, func(id authz.DelegationID) authz.Query { return facts.DirectQuery(id, c.Principal) })
	case len(ids) > maxCandidates:
		return r.only(ctx, ids, c.Tenant, func(id authz.DelegationID) authz.Query { return facts.AgentQuery(id, c.Agent) })
	default:
		return ids, nil
	}
}

// resources lists the delegations that relationships are of.
func resources(rels []authz.Relationship) []authz.DelegationID {
	ids := make([]authz.DelegationID, len(rels))
	for i := range rels {
		ids[i] = authz.DelegationID(rels[i].Resource.ID)
	}
	return ids
}

// only keeps the delegations of a tenant for which a query holds, as long as those are few enough to be read. How many there are in
// other tenants changes nothing.
func (r *reader) only(
	ctx context.Context, ids []authz.DelegationID, tenant authz.TenantID, query func(authz.DelegationID) authz.Query,
) ([]authz.DelegationID, error) {
	queries := make([]authz.Query, 0, 2*len(ids))
	for _, id := range ids {
		queries = append(queries, query(id), facts.TenantQuery(id, tenant))
	}
	answers, err := r.snap.Check(ctx, queries)
	if err != nil {
		return nil, err
	}
	var kept []authz.DelegationID
	for i, id := range ids {
		switch of, in := answers[2*i], answers[2*i+1]; {
		case of.Outcome == authz.No, in.Outcome == authz.No:
		case of.Outcome == authz.Failed:
			return nil, of.Err
		case in.Outcome == authz.Failed:
			return nil, in.Err
		default:
			kept = append(kept, id)
		}
	}
	if len(kept) > maxRead {
		return nil, tooMany(maxRead)
	}
	return kept, nil
}

func tooMany(most int) error {
	return authz.Errorf(authz.Precondition, authz.ReasonTooManyCandidates,
		"more than %d delegations could decide this; name a session or a delegation", most)
}
