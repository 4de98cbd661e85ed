package rpc

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

type delegations struct {
	deputyv1.UnimplementedDelegationsServiceServer
	border
}

// CreateDelegation writes a delegation.
func (s *delegations) CreateDelegation(ctx context.Context, r *deputyv1.CreateDelegationRequest) (*deputyv1.CreateDelegationResponse, error) {
	spec, err := delegationSpec(r)
	if err != nil {
		return nil, err
	}
	if err := s.passesOn(ctx, spec.Parent); err != nil {
		return nil, err
	}
	if spec.Consent, err = s.consent(ctx, r.GetConsentToken()); err != nil {
		return nil, err
	}
	d, rev, err := s.delegate(ctx).Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &deputyv1.CreateDelegationResponse{Delegation: delegationProto(d), WrittenAt: s.token(ctx, rev)}, nil
}

func delegationSpec(r *deputyv1.CreateDelegationRequest) (delegate.Spec, error) {
	out := delegate.Spec{Unscoped: r.GetUnscoped(), AllowDirect: r.GetAllowDirect(), Key: r.GetIdempotencyKey()}
	var err error
	if out.Agent, err = agentID(r.GetAgentId()); err != nil {
		return out, err
	}
	if out.Principal, err = party("principal", r.GetPrincipal()); err != nil {
		return out, err
	}
	tenant, err := optionalID("tenant_id", r.GetTenantId())
	if err != nil {
		return out, err
	}
	out.Tenant = authz.TenantID(tenant)
	if out.GrantedBy, err = user("granted_by", r.GetGrantedBy(), authz.TypeUser, authz.TypeAgent); err != nil {
		return out, err
	}
	if r.GetParentDelegationId() != "" {
		parent, err := mintedID("parent_delegation_id", r.GetParentDelegationId())
		if err != nil {
			return out, err
		}
		out.Parent = authz.DelegationID(parent)
	}
	if out.Scope, err = grants("scope", r.GetScope()); err != nil {
		return out, err
	}
	if r.GetTtl() == nil && out.Parent == "" && r.GetConsentToken() == "" {
		return out, authz.FieldErrorf("ttl", "is required")
	}
	out.TTL, err = ttl("ttl", r.GetTtl())
	return out, err
}

// GetDelegation reads one delegation.
func (s *delegations) GetDelegation(ctx context.Context, r *deputyv1.GetDelegationRequest) (*deputyv1.GetDelegationResponse, error) {
	name, err := mintedID("delegation_id", r.GetDelegationId())
	if err != nil {
		return nil, err
	}
	d, rev, err := s.delegate(ctx).Delegation(ctx, authz.DelegationID(name))
	if err != nil {
		return nil, err
	}
	return &deputyv1.GetDelegationResponse{Delegation: delegationProto(d), ReadAt: s.token(ctx, rev)}, nil
}

// ListDelegations lists delegations.
func (s *delegations) ListDelegations(ctx context.Context, r *deputyv1.ListDelegationsRequest) (*deputyv1.ListDelegationsResponse, error) {
	choice, err := delegationChoice(r, !caller.Of(ctx).Personal())
	if err != nil {
		return nil, err
	}
	bare := proto.CloneOf(r)
	bare.Limit, bare.Cursor = 0, nil
	page, err := openPage(ctx, s.border, bare, r)
	if err != nil {
		return nil, err
	}
	found, err := s.delegate(ctx).Delegations(ctx, choice, page.from, page.limit)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ListDelegationsResponse{Complete: found.Next == nil, ReadAt: s.Sealer.token(found.At, page.stamp)}
	for _, d := range found.Items {
		out.Delegations = append(out.Delegations, delegationProto(d))
	}
	out.Next, err = page.next(found.Next)
	return out, err
}

// delegationChoice reads which delegations to list: by the narrowest index that is named. One has to be named, unless only one person's are listed.
func delegationChoice(r *deputyv1.ListDelegationsRequest, named bool) (delegate.Choice, error) {
	out := delegate.Choice{Inactive: r.GetIncludeInactive(), Leaves: r.GetIncludeLeaves()}
	agent, err := optionalID("agent_id", r.GetAgentId())
	if err != nil {
		return out, err
	}
	tenant, err := optionalID("tenant_id", r.GetTenantId())
	if err != nil {
		return out, err
	}
	if out.Principal, err = party("principal", r.GetPrincipal()); err != nil {
		return out, err
	}
	if r.GetParentDelegationId() != "" {
		parent, err := mintedID("parent_delegation_id", r.GetParentDelegationId())
		if err != nil {
			return out, err
		}
		out.Parent = authz.DelegationID(parent)
	}
	out.Agent, out.Tenant = authz.AgentID(agent), authz.TenantID(tenant)
	switch {
	case out.Parent != "":
		out.By.Object = out.Parent.Object()
	case out.Principal != authz.Subject{}:
		out.By, out.AsPrincipal = out.Principal, true
	case agent != "":
		out.By.Object = out.Agent.Object()
	case tenant != "":
		out.By.Object = out.Tenant.Object()
	case named:
		return out, authz.FieldErrorf("agent_id", "is required, or principal, tenant_id or parent_delegation_id")
	}
	return out, nil
}

// RevokeDelegation revokes a delegation.
func (s *delegations) RevokeDelegation(ctx context.Context, r *deputyv1.RevokeDelegationRequest) (*deputyv1.RevokeDelegationResponse, error) {
	name, err := mintedID("delegation_id", r.GetDelegationId())
	if err != nil {
		return nil, err
	}
	if err := givenReason(r.GetReason(), false); err != nil {
		return nil, err
	}
	rev, err := s.delegate(ctx).Revoke(ctx, authz.DelegationID(name))
	if err != nil {
		return nil, err
	}
	return &deputyv1.RevokeDelegationResponse{WrittenAt: s.token(ctx, rev)}, nil
}

func delegationProto(d facts.Delegation) *deputyv1.Delegation {
	return &deputyv1.Delegation{
		DelegationId:       string(d.ID),
		AgentId:            authz.DecodeID(string(d.Agent)),
		Principal:          subjectProto(d.Principal),
		TenantId:           authz.DecodeID(string(d.Tenant)),
		GrantedBy:          objectProto(d.GrantedBy),
		ParentDelegationId: string(d.Parent),
		SessionId:          string(d.Session),
		Unscoped:           d.Unscoped,
		AllowDirect:        d.AllowDirect,
		State:              state(d.Life),
		ExpiresAt:          timeProto(d.Until),
		CreatedAt:          timeProto(d.Issued.At),
	}
}
