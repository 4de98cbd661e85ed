package client

import (
	"context"
	"errors"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Brake says what to stop: exactly one of Agent, Principal, Tenant, Session and Delegation.
type Brake struct {
	// Agent is the id of an agent. It is suspended, its sessions end, and what it passed on is revoked.
	Agent string
	// Principal is a user or a service. It is suspended, its part of every session ends, and what agents passed on in its name is revoked.
	Principal Principal
	// Tenant is the id of a tenant. It is suspended, and what agents do in it ends likewise.
	Tenant string
	// Session is the id of a session, which ends.
	Session string
	// Delegation is the id of a delegation, which is revoked.
	Delegation string
	// Reason is why: 1 to 512 bytes of printable text. The journal keeps it.
	Reason string
}

// Brake stops an agent, a principal, a tenant, a session or a delegation, and ends what was begun under it. It takes a responder. It calls the
// server again until all of that is ended, and returns what all the calls came to. From the answer's written_at on every check refuses.
//
// Where an answer comes with an error, what the brake is about is stopped, and not everything below it has ended: the same brake, applied
// again, goes on.
func (c *Client) Brake(ctx context.Context, b Brake) (*deputyv1.BrakeResponse, error) {
	request, err := b.request()
	if err != nil {
		return nil, err
	}
	all, err := c.Brakes.Brake(ctx, request)
	if err != nil {
		return nil, err
	}
	for !all.GetComplete() {
		if all.GetNext().GetToken() == "" {
			return all, errors.New("client: the server did not say where the brake goes on")
		}
		request.Cursor = all.GetNext()
		more, err := c.Brakes.Brake(ctx, request)
		if err != nil {
			return all, err
		}
		all.SessionsEnded += more.GetSessionsEnded()
		all.DelegationsRevoked += more.GetDelegationsRevoked()
		all.Complete, all.Next = more.GetComplete(), more.GetNext()
	}
	return all, nil
}

// WouldBrake says what a brake would stop, and changes nothing. It takes a responder.
func (c *Client) WouldBrake(ctx context.Context, b Brake) (*deputyv1.BrakeReach, error) {
	request, err := b.request()
	if err != nil {
		return nil, err
	}
	request.DryRun = true
	answer, err := c.Brakes.Brake(ctx, request)
	return answer.GetWouldStop(), err
}

// request is the brake as a server takes it.
func (b Brake) request() (*deputyv1.BrakeRequest, error) {
	r := &deputyv1.BrakeRequest{Reason: b.Reason}
	named := 0
	if b.Agent != "" {
		named++
		r.Target = &deputyv1.BrakeRequest_AgentId{AgentId: b.Agent}
	}
	if b.Principal != (Principal{}) {
		one, err := b.Principal.one()
		if err != nil {
			return nil, err
		}
		named++
		r.Target = &deputyv1.BrakeRequest_Principal{Principal: one}
	}
	if b.Tenant != "" {
		named++
		r.Target = &deputyv1.BrakeRequest_TenantId{TenantId: b.Tenant}
	}
	if b.Session != "" {
		named++
		r.Target = &deputyv1.BrakeRequest_SessionId{SessionId: b.Session}
	}
	if b.Delegation != "" {
		named++
		r.Target = &deputyv1.BrakeRequest_DelegationId{DelegationId: b.Delegation}
	}
	if named != 1 {
		return nil, errors.New("client: a brake names exactly one of Agent, Principal, Tenant, Session and Delegation")
	}
	return r, nil
}
