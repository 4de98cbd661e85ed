package client

import (
	"context"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// AgentSpec is an agent to be registered.
type AgentSpec struct {
	// Agent is its id: an ordinary id, a SPIFFE id or a URL.
	Agent string
	// Owners are the ids of the users who answer for it: 1 to 32.
	Owners []string
	// Adopt takes an id that relationships name already. The agent then holds what they grant.
	Adopt bool
	// IdempotencyKey makes a retry of the same request succeed: up to 128 bytes, this caller's own.
	IdempotencyKey string
}

// RegisterAgent makes an agent known. It takes an admin.
func (c *Client) RegisterAgent(ctx context.Context, spec AgentSpec) (*deputyv1.RegisterAgentResponse, error) {
	return c.Agents.RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{
		AgentId: spec.Agent, OwnerIds: spec.Owners, Adopt: spec.Adopt, IdempotencyKey: spec.IdempotencyKey,
	})
}

// ListAgents lists the registered agents, by id: first those with an active mark, then those that are suspended.
func (c *Client) ListAgents(of Page) *List[*deputyv1.Agent] {
	return listOf(of, func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (*deputyv1.ListAgentsResponse, error) {
		return c.Agents.ListAgents(ctx, &deputyv1.ListAgentsRequest{Limit: limit, Cursor: from})
	}, (*deputyv1.ListAgentsResponse).GetAgents)
}

// SuspendAgent stops an agent, and everything that it passed on. It takes a responder. The answer says whether no relationship named the agent:
// then check the id.
func (c *Client) SuspendAgent(ctx context.Context, id string) (*deputyv1.SuspendAgentResponse, error) {
	return c.Agents.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: id})
}

// ResumeAgent lifts an agent's suspension. It takes an admin.
func (c *Client) ResumeAgent(ctx context.Context, id string) (*deputyv1.ResumeAgentResponse, error) {
	return c.Agents.ResumeAgent(ctx, &deputyv1.ResumeAgentRequest{AgentId: id})
}

// Suspend stops every agent from acting for a user or a service. It takes a responder.
func (c *Client) Suspend(ctx context.Context, p Principal) (*deputyv1.SuspendResponse, error) {
	one, err := p.one()
	if err != nil {
		return nil, err
	}
	return c.Principals.Suspend(ctx, &deputyv1.SuspendRequest{Principal: one})
}

// Resume lets agents act for a user or a service: again, or for the first time. It takes an admin.
func (c *Client) Resume(ctx context.Context, p Principal) (*deputyv1.ResumeResponse, error) {
	one, err := p.one()
	if err != nil {
		return nil, err
	}
	return c.Principals.Resume(ctx, &deputyv1.ResumeRequest{Principal: one})
}

// SuspendTenant stops every agent from acting in a tenant. It takes a responder.
func (c *Client) SuspendTenant(ctx context.Context, id string) (*deputyv1.SuspendResponse, error) {
	return c.Principals.Suspend(ctx, &deputyv1.SuspendRequest{Principal: Object("tenant", id).proto()})
}

// ResumeTenant lets agents act in a tenant: again, or for the first time. It takes an admin.
func (c *Client) ResumeTenant(ctx context.Context, id string) (*deputyv1.ResumeResponse, error) {
	return c.Principals.Resume(ctx, &deputyv1.ResumeRequest{Principal: Object("tenant", id).proto()})
}
