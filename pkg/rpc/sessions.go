package rpc

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

type sessions struct {
	deputyv1.UnimplementedSessionsServiceServer
	border
}

// StartSession starts a session.
func (s *sessions) StartSession(ctx context.Context, r *deputyv1.StartSessionRequest) (*deputyv1.StartSessionResponse, error) {
	start, err := sessionStart(r)
	if err != nil {
		return nil, err
	}
	if proven := provenBy(ctx); proven.actor != nil {
		start.Tenant = proven.actor.Tenant
	}
	running, rev, err := s.delegate(ctx).StartSession(ctx, start)
	if err != nil {
		return nil, err
	}
	return &deputyv1.StartSessionResponse{Session: sessionProto(running), WrittenAt: s.token(ctx, rev)}, nil
}

func sessionStart(r *deputyv1.StartSessionRequest) (delegate.Start, error) {
	out := delegate.Start{Frozen: r.GetFrozen(), Key: r.GetIdempotencyKey()}
	var err error
	if out.Agent, err = agentID(r.GetAgentId()); err != nil {
		return out, err
	}
	if out.TTL, err = ttl("ttl", r.GetTtl()); err != nil {
		return out, err
	}
	for i, t := range r.GetTargets() {
		at := fmt.Sprintf("targets[%d]", i)
		name, err := mintedID(at+".delegation_id", t.GetDelegationId())
		if err != nil {
			return out, err
		}
		target := delegate.Target{Delegation: authz.DelegationID(name)}
		for n, given := range t.GetPrincipals() {
			field := fmt.Sprintf("%s.principals[%d]", at, n)
			who, err := principal(field, given)
			if err != nil {
				return out, err
			}
			if who.IsZero() {
				return out, authz.FieldErrorf(field, "is required")
			}
			target.Principals = append(target.Principals, who)
		}
		if target.Scope, err = grants(at+".scope", t.GetScope()); err != nil {
			return out, err
		}
		out.Targets = append(out.Targets, target)
	}
	return out, nil
}

// GetSession reads one session.
func (s *sessions) GetSession(ctx context.Context, r *deputyv1.GetSessionRequest) (*deputyv1.GetSessionResponse, error) {
	name, err := mintedID("session_id", r.GetSessionId())
	if err != nil {
		return nil, err
	}
	running, rev, err := s.delegate(ctx).Session(ctx, authz.SessionID(name))
	if err != nil {
		return nil, err
	}
	return &deputyv1.GetSessionResponse{Session: sessionProto(running), ReadAt: s.token(ctx, rev)}, nil
}

// ListSessions lists an agent's sessions.
func (s *sessions) ListSessions(ctx context.Context, r *deputyv1.ListSessionsRequest) (*deputyv1.ListSessionsResponse, error) {
	agent, err := agentID(r.GetAgentId())
	if err != nil {
		return nil, err
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor = 0, nil
	page, err := openPage(ctx, s.border, bare, r)
	if err != nil {
		return nil, err
	}
	found, err := s.delegate(ctx).Sessions(ctx, agent, r.GetIncludeInactive(), page.from, page.limit)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ListSessionsResponse{Complete: found.Next == nil, ReadAt: s.Sealer.token(found.At, page.stamp)}
	for _, running := range found.Items {
		out.Sessions = append(out.Sessions, sessionProto(running))
	}
	out.Next, err = page.next(found.Next)
	return out, err
}

// RenewSession moves a session's end.
func (s *sessions) RenewSession(ctx context.Context, r *deputyv1.RenewSessionRequest) (*deputyv1.RenewSessionResponse, error) {
	name, err := mintedID("session_id", r.GetSessionId())
	if err != nil {
		return nil, err
	}
	length, err := ttl("ttl", r.GetTtl())
	if err != nil {
		return nil, err
	}
	running, rev, err := s.delegate(ctx).Renew(ctx, authz.SessionID(name), length)
	if err != nil {
		return nil, err
	}
	return &deputyv1.RenewSessionResponse{Session: sessionProto(running), WrittenAt: s.token(ctx, rev)}, nil
}

// EndSession ends a session.
func (s *sessions) EndSession(ctx context.Context, r *deputyv1.EndSessionRequest) (*deputyv1.EndSessionResponse, error) {
	name, err := mintedID("session_id", r.GetSessionId())
	if err != nil {
		return nil, err
	}
	if err := givenReason(r.GetReason(), false); err != nil {
		return nil, err
	}
	rev, err := s.delegate(ctx).End(ctx, authz.SessionID(name))
	if err != nil {
		return nil, err
	}
	return &deputyv1.EndSessionResponse{WrittenAt: s.token(ctx, rev)}, nil
}

func sessionProto(r delegate.Running) *deputyv1.Session {
	out := &deputyv1.Session{
		SessionId: string(r.ID),
		AgentId:   authz.DecodeID(string(r.Agent)),
		State:     state(r.Life),
		ExpiresAt: timeProto(r.Until),
		StartedAt: timeProto(r.Issued.At),
		Frozen:    !r.Unfrozen,
		// Only GetSession looks for it.
		BaselineLost: r.Lost,
	}
	for _, l := range r.Leaves {
		out.Leaves = append(out.Leaves, &deputyv1.SessionLeaf{
			DelegationId:       string(l.Delegation),
			ParentDelegationId: string(r.Parents[l.Delegation]),
			Principal:          objectProto(l.Principal.Object),
			TenantId:           authz.DecodeID(string(l.Tenant)),
		})
	}
	return out
}
