package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// DelegationSpec is a delegation to be created: a principal lets an agent act for it, in one tenant, until a time.
type DelegationSpec struct {
	// Agent is the agent that is to act.
	Agent string
	// Principal is for whom. With a Parent it may be left out, and is the parent's.
	Principal Principal
	// Tenant is the tenant's id. With a Parent it may be left out, and is the parent's.
	Tenant string
	// GrantedBy is the id of the user who grants: the principal itself, where it is left out; an owner of the service; or, for a set, an
	// admin of the tenant. With a Parent its agent grants. The caller vouches for it, unless there is a ConsentToken.
	GrantedBy string
	// Parent is the id of the delegation that this one is to be a part of, or empty.
	Parent string
	// Scope is all that the delegation reaches, up to 500 grants, and Unscoped all that its agent does. With neither it reaches nothing.
	Scope    []Grant
	Unscoped bool
	// AllowDirect lets the agent act without a session.
	AllowDirect bool
	// TTL is how long it holds. It may be left out with a Parent or a ConsentToken, and is never longer than that one's.
	TTL time.Duration
	// ConsentToken is the person's own token by which the person consents to the delegation, which is no more than the token says and uses it up. A
	// caller that may not vouch needs one, unless there is a Parent. Principal and Tenant may be left out then.
	ConsentToken string
	// IdempotencyKey makes a retry of the same request return the same delegation: up to 128 bytes, this caller's own.
	IdempotencyKey string
	// ActorToken is the token of the agent that asks, as in a Question; empty for none. With a Parent that is the parent's agent.
	ActorToken string
}

// Grant is one thing that a scope reaches: a relation to an object, which admits delegations.
type Grant struct {
	// Resource is the object.
	Resource Resource
	// Relation is the relation.
	Relation string
}

// CreateDelegation writes a delegation. It holds from the answer's written_at on.
func (c *Client) CreateDelegation(ctx context.Context, spec DelegationSpec) (*deputyv1.CreateDelegationResponse, error) {
	request := &deputyv1.CreateDelegationRequest{
		AgentId: spec.Agent, Principal: spec.Principal.subject(), TenantId: spec.Tenant, ParentDelegationId: spec.Parent,
		Scope: scope(spec.Scope), Unscoped: spec.Unscoped, AllowDirect: spec.AllowDirect, Ttl: duration(spec.TTL),
		IdempotencyKey: spec.IdempotencyKey, ConsentToken: spec.ConsentToken, ActorToken: spec.ActorToken,
	}
	if spec.GrantedBy != "" {
		request.GrantedBy = &deputyv1.ObjectReference{ObjectType: "user", ObjectId: spec.GrantedBy}
	}
	return c.Delegations.CreateDelegation(ctx, request)
}

// RevokeDelegation ends a delegation and all that was passed on from it. Revoking a revoked one succeeds. From the revision that it returns on
// every check refuses.
func (c *Client) RevokeDelegation(ctx context.Context, id string) (writtenAt *deputyv1.ZedToken, err error) {
	response, err := c.Delegations.RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: id})
	return response.GetWrittenAt(), err
}

// DelegationQuery asks for delegations: by at least one of agent, principal, tenant and parent. With several, a delegation matches all.
type DelegationQuery struct {
	// Agent and Tenant are ids, and Parent the id of the delegation that they are direct parts of.
	Agent, Tenant, Parent string
	// Principal is the principal that they name.
	Principal Principal
	// Inactive lists also those that were revoked or have run out, and Leaves those that sessions minted.
	Inactive, Leaves bool
	Page
}

// ListDelegations lists delegations, by id.
func (c *Client) ListDelegations(q DelegationQuery) *List[*deputyv1.Delegation] {
	return listOf(q.Page, func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (*deputyv1.ListDelegationsResponse, error) {
		return c.Delegations.ListDelegations(ctx, &deputyv1.ListDelegationsRequest{
			AgentId: q.Agent, Principal: q.Principal.subject(), TenantId: q.Tenant, ParentDelegationId: q.Parent,
			IncludeInactive: q.Inactive, IncludeLeaves: q.Leaves, Limit: limit, Cursor: from,
		})
	}, (*deputyv1.ListDelegationsResponse).GetDelegations)
}

func scope(grants []Grant) []*deputyv1.ScopeGrant {
	var out []*deputyv1.ScopeGrant
	for _, g := range grants {
		out = append(out, &deputyv1.ScopeGrant{Resource: g.Resource.proto(), Relation: g.Relation})
	}
	return out
}

// duration leaves out 0. A negative one is the server's to refuse.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
