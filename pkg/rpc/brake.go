package rpc

import (
	"context"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxReason is how long a given reason may be, in bytes.
const maxReason = 512

// givenReason checks the reason that a person gives for what takes access away. The journal has it from the request.
func givenReason(given string, required bool) error {
	switch {
	case given == "" && required:
		return authz.FieldErrorf("reason", "is required: say why, in up to %d bytes; the journal keeps it", maxReason)
	case len(given) > maxReason:
		return authz.FieldErrorf("reason", "has %d bytes, more than %d", len(given), maxReason)
	}
	for _, r := range given {
		if !unicode.IsPrint(r) {
			return authz.FieldErrorf("reason", "has the character %U, which cannot be printed: write one line of text", r)
		}
	}
	return nil
}

type brakes struct {
	deputyv1.UnimplementedBrakeServiceServer
	border
}

// Brake stops an agent, a principal, a tenant, a session or a delegation.
func (s *brakes) Brake(ctx context.Context, r *deputyv1.BrakeRequest) (*deputyv1.BrakeResponse, error) {
	target, err := brakeTarget(r)
	if err != nil {
		return nil, err
	}
	if err := givenReason(r.GetReason(), true); err != nil {
		return nil, err
	}
	if r.GetDryRun() {
		return s.wouldStop(ctx, target, r)
	}
	bare := proto.CloneOf(r)
	bare.Reason, bare.Cursor = "", nil
	sum, err := digest(ctx, bare, boundTenants(ctx)...)
	if err != nil {
		return nil, err
	}
	var from delegate.Place
	stamp, err := s.Sealer.place(sum, r.GetCursor(), &from, s.Now())
	if err != nil {
		return nil, err
	}
	by, err := s.delegate(ctx).Brake(ctx, target, from)
	if err != nil {
		return nil, err
	}
	if r.GetCursor().GetToken() == "" {
		stamp = s.Now()
	}
	out := &deputyv1.BrakeResponse{
		WrittenAt: s.Sealer.token(by.At, stamp), Unnamed: named(target) && !by.Named,
		SessionsEnded: uint64(by.Sessions), DelegationsRevoked: uint64(by.Delegations), Complete: by.Next == nil, //nolint:gosec // not negative
	}
	if by.Next != nil {
		out.Next, err = s.Sealer.cursor(sum, stamp, by.Next)
	}
	return out, err
}

// wouldStop says what a brake would stop.
func (s *brakes) wouldStop(ctx context.Context, target authz.Object, r *deputyv1.BrakeRequest) (*deputyv1.BrakeResponse, error) {
	if r.GetCursor().GetToken() != "" {
		return nil, authz.FieldErrorf("cursor", "does not go with dry_run, which begins anew each time")
	}
	reach, err := s.delegate(ctx).WouldStop(ctx, target)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.BrakeReach{
		Agents: uint64(reach.Agents), Sessions: uint64(reach.Sessions), Delegations: uint64(reach.Delegations), //nolint:gosec // not negative
		Complete: reach.Complete,
	}
	for _, id := range reach.FirstAgents {
		out.AgentIds = append(out.AgentIds, authz.DecodeID(string(id)))
	}
	for _, one := range reach.FirstSessions {
		out.FirstSessions = append(out.FirstSessions, sessionProto(one))
	}
	for i := range reach.FirstDelegations {
		out.FirstDelegations = append(out.FirstDelegations, delegationProto(reach.FirstDelegations[i]))
	}
	return &deputyv1.BrakeResponse{Unnamed: named(target) && !reach.Named, WouldStop: out, Complete: true}, nil
}

// named reports whether a target is one that any id will do for.
func named(target authz.Object) bool {
	return target.Type != authz.TypeSession && target.Type != authz.TypeDelegation
}

// brakeTarget reads what to stop.
func brakeTarget(r *deputyv1.BrakeRequest) (authz.Object, error) {
	switch t := r.GetTarget().(type) {
	case *deputyv1.BrakeRequest_AgentId:
		agent, err := agentID(t.AgentId)
		return agent.Object(), err
	case *deputyv1.BrakeRequest_Principal:
		who, err := principal("principal", t.Principal)
		if err == nil && who.IsZero() {
			err = authz.FieldErrorf("principal", "is required")
		}
		return who.Object, err
	case *deputyv1.BrakeRequest_TenantId:
		tenant, err := id("tenant_id", t.TenantId)
		return authz.TenantID(tenant).Object(), err
	case *deputyv1.BrakeRequest_SessionId:
		session, err := mintedID("session_id", t.SessionId)
		return authz.SessionID(session).Object(), err
	case *deputyv1.BrakeRequest_DelegationId:
		delegation, err := mintedID("delegation_id", t.DelegationId)
		return authz.DelegationID(delegation).Object(), err
	default:
		return authz.Object{}, authz.FieldErrorf("target", "is required: one of agent_id, principal, tenant_id, session_id and delegation_id")
	}
}
