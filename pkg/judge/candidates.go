package judge

import (
	"context"
	"slices"
	"strings"

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
// the case leaves a choice that it has to make.
func (b *book) candidates(ctx context.Context, c authz.Case) ([]leaf, error) {
	var (
		leaves []leaf
		err    error
	)
	switch {
	case c.Delegation != "":
		leaves, err = b.ofDelegation(ctx, c)
	case c.Session != "":
		if leaves, err = b.ofSession(ctx, c); err == nil {
			err = unambiguous(leaves)
		}
	default:
		leaves, err = b.ofAgent(ctx, c)
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
func (b *book) ofDelegation(ctx context.Context, c authz.Case) ([]leaf, error) {
	d, err := b.delegation(ctx, c.Delegation)
	if err != nil {
		return nil, err
	}
	if !d.Known {
		return nil, authz.Errorf(authz.NotFound, authz.ReasonDelegationNotFound, "there is no such delegation")
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
func (b *book) ofSession(ctx context.Context, c authz.Case) ([]leaf, error) {
	s, err := b.session(ctx, c.Session)
	if err != nil {
		return nil, err
	}
	if !s.Known {
		return nil, authz.Errorf(authz.NotFound, authz.ReasonSessionNotFound, "there is no such session")
	}
	if s.Agent != c.Agent {
		// Another agent's session: say no more than that it does not act.
		return nil, nil
	}
	var out []leaf
	for _, l := range s.Leaves {
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
func (b *book) ofAgent(ctx context.Context, c authz.Case) ([]leaf, error) {
	switch {
	case c.Principal.IsZero():
		return nil, authz.FieldErrorf("on_behalf_of", "is required without a session or a delegation")
	case c.Tenant == "":
		return nil, authz.FieldErrorf("tenant_id", "is required without a session or a delegation")
	}
	ids, err := b.direct(ctx, c)
	if err != nil {
		return nil, err
	}
	filters := make([]authz.Filter, len(ids))
	for i, id := range ids {
		filters[i] = facts.Object(id.Object())
	}
	if _, err := b.fetch(ctx, filters...); err != nil {
		return nil, err
	}
	var out []leaf
	for _, id := range ids {
		d, err := b.delegation(ctx, id)
		if err != nil {
			return nil, err
		}
		if d.Live() && d.Agent == c.Agent && d.Tenant == c.Tenant {
			out = append(out, leaf{id, c.Principal, c.Tenant})
		}
	}
	// A set may cover the principal or not: one that does not is no candidate, so that sets do not
	// fill the places. The gates judge it again.
	return b.covering(ctx, c, out)
}

// direct returns, by id, the delegations that let the agent, and perhaps others, act directly for the principal: found by
// the principal and the tenant's sets, or where those have very many by the agent.
func (b *book) direct(ctx context.Context, c authz.Case) ([]authz.DelegationID, error) {
	set := func(relation string) authz.Filter {
		return facts.DirectFilter(authz.Subject{Object: c.Tenant.Object(), Relation: relation}, maxMarks+1)
	}
	pages, err := b.fetch(ctx,
		facts.DirectFilter(authz.Subject{Object: c.Principal.Object}, maxMarks+1),
		set(facts.RelationMember), set(facts.RelationAdmin))
	if err != nil {
		return nil, err
	}
	var ids []authz.DelegationID
	crowded := false
	for _, p := range pages {
		crowded = crowded || len(p.rels) > maxMarks
		ids = append(ids, resources(p)...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case crowded:
		byAgent := facts.ListFilter(authz.Subject{Object: c.Agent.Object()}, false)
		byAgent.Limit = maxMarks + 1
		p, err := b.one(ctx, byAgent)
		if err != nil {
			return nil, err
		}
		if len(p.rels) > maxMarks {
			return nil, tooMany(maxMarks)
		}
		ids = resources(p)
		slices.Sort(ids)
		return b.only(ctx, ids, func(id authz.DelegationID) authz.Query { return facts.DirectQuery(id, c.Principal) })
	case len(ids) > maxCandidates:
		return b.only(ctx, ids, func(id authz.DelegationID) authz.Query { return facts.AgentQuery(id, c.Agent) })
	default:
		return ids, nil
	}
}

// resources lists the delegations that a page is of.
func resources(p *page) []authz.DelegationID {
	ids := make([]authz.DelegationID, len(p.rels))
	for i := range p.rels {
		ids[i] = authz.DelegationID(p.rels[i].Resource.ID)
	}
	return ids
}

// only keeps the delegations for which a query holds, as long as those are few enough to be read.
func (b *book) only(ctx context.Context, ids []authz.DelegationID, query func(authz.DelegationID) authz.Query) ([]authz.DelegationID, error) {
	queries := make([]authz.Query, len(ids))
	for i, id := range ids {
		queries[i] = query(id)
	}
	answers, err := b.snap.Check(ctx, queries)
	if err != nil {
		return nil, err
	}
	var kept []authz.DelegationID
	for i, a := range answers {
		switch a.Outcome {
		case authz.No:
		case authz.Failed:
			return nil, a.Err
		default:
			kept = append(kept, ids[i])
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

// covering drops the sets that do not hold the principal.
func (b *book) covering(ctx context.Context, c authz.Case, leaves []leaf) ([]leaf, error) {
	var queries []authz.Query
	for _, l := range leaves {
		d, err := b.delegation(ctx, l.id)
		if err != nil {
			return nil, err
		}
		if d.Set() {
			queries = append(queries, d.PrincipalQuery(c.Principal))
		}
	}
	if len(queries) == 0 {
		return leaves, nil
	}
	answers, err := b.snap.Check(ctx, queries)
	if err != nil {
		return nil, err
	}
	outside := map[string]bool{}
	for i, a := range answers {
		if a.Outcome == authz.No {
			outside[queries[i].Resource.ID] = true
		}
	}
	return slices.DeleteFunc(leaves, func(l leaf) bool { return outside[string(l.id)] }), nil
}

// validate checks what the schema says of the case, whatever the object.
func (j *Judge) validate(schema *authz.Schema, c authz.Case) error {
	resourceType, permission := c.Resource.Type, c.Permission
	t := schema.Types[resourceType]
	if t == nil {
		return &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonUnknownType, Field: "resource.object_type", Message: "is not a type of the schema",
		}
	}
	if _, ok := t.Members[permission]; !ok {
		return &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonUnknownPermission, Field: "permission",
			Message: "is not a permission or relation of " + resourceType,
		}
	}
	if !t.TenantSafe() && !j.global[resourceType] {
		return authz.Errorf(authz.Precondition, authz.ReasonNotTenantSafe,
			"%s has no tenant relation or permission, so that its objects belong to nobody; give it one, or list it as global", resourceType)
	}
	if t.UnsafeShape != "" {
		return authz.Errorf(authz.Precondition, authz.ReasonUnsafeShape,
			"%s admits a caveat or an expiration beside a userset of the same type, which SpiceDB evaluates wrongly", strings.TrimSpace(t.UnsafeShape))
	}
	if t.Stray != "" {
		return authz.Errorf(authz.Precondition, authz.ReasonExpiredRows,
			"%s admits no expiration but holds relationships that have one, and SpiceDB would count them after they have expired; "+
				"let the relation admit the expiration again, or delete its relationships and write those that are to hold", t.Stray)
	}
	return fits(schema, c)
}

// fits refuses a value of the context that no caveat on the way takes: which caveats those are depends on the type and
// the permission alone, so that the error says nothing about the object. A value that one caveat takes and another one
// with a parameter of the same name does not is let through; see decide.Settle.
func fits(schema *authz.Schema, c authz.Case) error {
	if len(c.Context) == 0 || schema.Parameters == nil {
		return nil
	}
	known := schema.Parameters(c.Resource.Type, c.Permission)
	first := ""
	for name, value := range c.Context {
		taken := func(p authz.Parameter) bool { return p.Fits(value) }
		if p := known[name]; len(p) > 0 && !slices.ContainsFunc(p, taken) && (first == "" || name < first) {
			first = name
		}
	}
	if first == "" {
		return nil
	}
	var wanted []string
	for _, p := range known[first] {
		wanted = append(wanted, p.Type+" for the caveat "+p.Caveat)
	}
	slices.Sort(wanted)
	return authz.FieldErrorf("context."+first, "must be %s", strings.Join(wanted, ", or "))
}
