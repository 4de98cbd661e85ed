package client

import (
	"context"

	"google.golang.org/grpc"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ResourceQuery asks which objects of a type an agent reaches.
type ResourceQuery struct {
	// Agent, Session and Delegation say who acts, as in a Question. A Session fills them in.
	Agent, Session, Delegation string
	// Principal and Tenant narrow what a session or a delegation holds; without either both are needed.
	Principal Principal
	Tenant    string
	// Type is the type of the objects, and Permission a permission or relation of it.
	Type, Permission string
	// Context is context for caveats.
	Context Context
	// ActorToken is the agent's own token, as in a Question. It has to be good until the last page.
	ActorToken string
	// Conditional lists also what is reached only with more context, see Reached.Missing.
	Conditional bool
	Page
}

// Reached is an object that an agent reaches.
type Reached struct {
	// Resource is the object.
	Resource Resource
	// Principal, Tenant and Delegation are for whom it is reached, in which tenant, and by which delegation.
	Principal          Principal
	Tenant, Delegation string
	// Missing names the context that is missing, if it is reached only with that: nothing may be done yet.
	Missing []string
}

// LookupResources lists the objects of a type that an agent reaches, all at one revision. It is good for 30 s from its first page on, unless
// the server is configured otherwise; then it ends with ReasonSnapshotTooOld.
func (c *Client) LookupResources(q ResourceQuery) *List[Reached] {
	open := func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (grpc.ServerStreamingClient[deputyv1.LookupResourcesResponse], error) {
		request := &deputyv1.LookupResourcesRequest{
			AgentId: q.Agent, TenantId: q.Tenant, ResourceObjectType: q.Type, Permission: q.Permission, Limit: limit, Cursor: from,
			ActorToken: q.ActorToken,
		}
		switch {
		case q.Session != "" && q.Delegation != "":
			return nil, errTwoWays
		case q.Session != "":
			request.Via = &deputyv1.LookupResourcesRequest_SessionId{SessionId: q.Session}
		case q.Delegation != "":
			request.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: q.Delegation}
		}
		var err error
		if request.OnBehalfOf, err = q.Principal.one(); err != nil {
			return nil, err
		}
		if request.Context, err = q.Context.proto(); err != nil {
			return nil, err
		}
		return c.Permissions.LookupResources(ctx, request)
	}
	return streamOf(q.Page, open, func(m *deputyv1.LookupResourcesResponse) (*result[Reached], *end) {
		switch r := m.GetResult().(type) {
		case *deputyv1.LookupResourcesResponse_Resource:
			if !reached(r.Resource.GetPermissionship(), q.Conditional) {
				return nil, nil
			}
			return &result[Reached]{value: Reached{
				Resource: resourceOf(r.Resource.GetResource()), Principal: principalOf(r.Resource.GetPrincipal()),
				Tenant: r.Resource.GetTenantId(), Delegation: r.Resource.GetDelegationId(), Missing: r.Resource.GetMissingContext(),
			}}, nil
		case *deputyv1.LookupResourcesResponse_Failed:
			return &result[Reached]{err: &UnjudgedError{
				Resource: resourceOf(r.Failed.GetResource()), Principal: principalOf(r.Failed.GetPrincipal()),
				Tenant: r.Failed.GetTenantId(), Delegation: r.Failed.GetDelegationId(), Err: itemError(r.Failed.GetError()),
			}}, nil
		case *deputyv1.LookupResourcesResponse_End:
			return nil, endOf(r.End)
		default:
			return nil, nil // of a later version: it names nothing that is reached
		}
	})
}

// AgentQuery asks which agents reach an object.
type AgentQuery struct {
	// Resource is the object, and Permission a permission or relation of its type.
	Resource   Resource
	Permission string
	// Principal narrows it to one, for whom they reach it.
	Principal Principal
	// Context is context for caveats.
	Context Context
	// Conditional lists also those that reach it only with more context, see Reaching.Missing.
	Conditional bool
	Page
}

// Reaching is an agent that reaches an object.
type Reaching struct {
	// Agent is the agent that acts, and Chain all agents of the delegation that it acts under, itself last.
	Agent string
	Chain []string
	// Principal, Tenant and Delegation are for whom it reaches it, in which tenant, and by which delegation.
	Principal          Principal
	Tenant, Delegation string
	// NeedsSession says that it has to start a session to act under the delegation.
	NeedsSession bool
	// Missing names the context that is missing, if it reaches it only with that.
	Missing []string
}

// LookupAgents lists the agents that reach an object, and for whom. It takes an auditor, and is good for as long as LookupResources.
func (c *Client) LookupAgents(q AgentQuery) *List[Reaching] {
	open := func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (grpc.ServerStreamingClient[deputyv1.LookupAgentsResponse], error) {
		request := &deputyv1.LookupAgentsRequest{Resource: q.Resource.proto(), Permission: q.Permission, Limit: limit, Cursor: from}
		var err error
		if request.OnBehalfOf, err = q.Principal.one(); err != nil {
			return nil, err
		}
		if request.Context, err = q.Context.proto(); err != nil {
			return nil, err
		}
		return c.Permissions.LookupAgents(ctx, request)
	}
	return streamOf(q.Page, open, func(m *deputyv1.LookupAgentsResponse) (*result[Reaching], *end) {
		switch r := m.GetResult().(type) {
		case *deputyv1.LookupAgentsResponse_Agent:
			if !reached(r.Agent.GetPermissionship(), q.Conditional) {
				return nil, nil
			}
			return &result[Reaching]{value: Reaching{
				Agent: r.Agent.GetAgentId(), Chain: r.Agent.GetAgentChain(), Principal: principalOf(r.Agent.GetPrincipal()),
				Tenant: r.Agent.GetTenantId(), Delegation: r.Agent.GetDelegationId(), NeedsSession: r.Agent.GetNeedsSession(),
				Missing: r.Agent.GetMissingContext(),
			}}, nil
		case *deputyv1.LookupAgentsResponse_Failed:
			return &result[Reaching]{err: &UnjudgedError{
				Agent: r.Failed.GetAgentId(), Principal: principalOf(r.Failed.GetPrincipal()), Tenant: r.Failed.GetTenantId(),
				Delegation: r.Failed.GetDelegationId(), Err: itemError(r.Failed.GetError()),
			}}, nil
		case *deputyv1.LookupAgentsResponse_End:
			return nil, endOf(r.End)
		default:
			return nil, nil
		}
	})
}

// reached reports whether a result is listed. One of a permissionship that this version does not know is not.
func reached(p deputyv1.Permissionship, conditional bool) bool {
	return p == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION ||
		conditional && p == deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
}

func endOf(e *deputyv1.LookupEnd) *end { return &end{e.GetComplete(), e.GetNext(), e.GetLookedUpAt()} }
