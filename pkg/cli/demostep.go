package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/structpb"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// How long the demo's delegations hold. A part must not outlast the session that it is a part of, which
// ends an hour after its start.
const (
	demoTTL     = 8 * time.Hour
	demoPartTTL = 10 * time.Minute
)

// demoChapter is a headline with what is done and asked below it.
type demoChapter struct {
	title string
	steps []demoStep
}

// demoStep does one thing in the demo: it changes something, or asks for a decision.
type demoStep interface {
	do(ctx context.Context, r *demoRun) error
}

// demoDelegate creates a delegation. parent is the name of a session, whose only leaf it becomes a
// part of.
type demoDelegate struct {
	name, agent, principal, tenant, grantedBy, parent string
	scope                                             []string
	unscoped, allowDirect                             bool
}

func (s demoDelegate) do(ctx context.Context, r *demoRun) error {
	request := &deputy.CreateDelegationRequest{
		AgentId: s.agent, TenantId: s.tenant, Unscoped: s.unscoped, AllowDirect: s.allowDirect, Ttl: ttl(demoTTL),
	}
	var err error
	if s.principal != "" {
		if request.Principal, err = parseSubject("principal", s.principal, "tenant"); err != nil {
			return err
		}
	}
	if s.grantedBy != "" {
		if request.GrantedBy, err = parseObject("granted by", s.grantedBy); err != nil {
			return err
		}
	}
	if request.Scope, err = parseScope(s.scope); err != nil {
		return err
	}
	if s.parent != "" {
		request.ParentDelegationId, request.Ttl = r.ids["leaf "+s.parent], ttl(demoPartTTL)
	}
	answer, err := r.service.delegations.CreateDelegation(ctx, request)
	if err != nil {
		return err
	}
	r.ids["delegation "+s.name] = answer.GetDelegation().GetDelegationId()
	return nil
}

// demoStart starts a session under one delegation of one principal.
type demoStart struct {
	name, agent, delegation string
	frozen                  bool
}

func (s demoStart) do(ctx context.Context, r *demoRun) error {
	answer, err := r.service.sessions.StartSession(ctx, &deputy.StartSessionRequest{
		AgentId: s.agent,
		Targets: []*deputy.SessionTarget{{DelegationId: r.ids["delegation "+s.delegation]}},
		Frozen:  s.frozen,
	})
	if err != nil {
		return err
	}
	leaves := answer.GetSession().GetLeaves()
	if len(leaves) != 1 {
		return fmt.Errorf("session %s has %d leaves, not one", s.name, len(leaves))
	}
	r.ids["session "+s.name] = answer.GetSession().GetSessionId()
	r.ids["leaf "+s.name] = leaves[0].GetDelegationId()
	return nil
}

// demoWrite writes relationships, in SpiceDB's notation, as an admin.
type demoWrite []string

func (s demoWrite) do(ctx context.Context, r *demoRun) error {
	request := &authzed.WriteRelationshipsRequest{}
	for _, text := range s {
		relationship, err := tuple.ParseV1Rel(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		request.Updates = append(request.Updates, &authzed.RelationshipUpdate{
			Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: relationship,
		})
	}
	_, err := r.admin.relationships.WriteRelationships(ctx, request)
	return err
}

// demoSuspend suspends an agent.
type demoSuspend string

func (s demoSuspend) do(ctx context.Context, r *demoRun) error {
	_, err := r.admin.agents.SuspendAgent(ctx, &deputy.SuspendAgentRequest{AgentId: string(s)})
	return err
}

// demoResume lets an agent act again.
type demoResume string

func (s demoResume) do(ctx context.Context, r *demoRun) error {
	_, err := r.admin.agents.ResumeAgent(ctx, &deputy.ResumeAgentRequest{AgentId: string(s)})
	return err
}

// demoRevoke revokes a delegation.
type demoRevoke string

func (s demoRevoke) do(ctx context.Context, r *demoRun) error {
	_, err := r.service.delegations.RevokeDelegation(ctx, &deputy.RevokeDelegationRequest{DelegationId: r.ids["delegation "+string(s)]})
	return err
}

// demoAlone asks SpiceDB whether a user may do something himself, without any agent.
type demoAlone struct{ user, may, expected string }

func (s demoAlone) do(ctx context.Context, r *demoRun) error {
	permission, resource, _ := strings.Cut(s.may, " ")
	objectType, id, _ := strings.Cut(resource, ":")
	userType, userID, _ := strings.Cut(s.user, ":")
	decision, err := r.service.relationships.CheckPermission(ctx, &authzed.CheckPermissionRequest{
		Consistency: &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    &authzed.ObjectReference{ObjectType: objectType, ObjectId: id},
		Permission:  permission,
		Subject:     &authzed.SubjectReference{Object: &authzed.ObjectReference{ObjectType: userType, ObjectId: userID}},
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", s.user, s.may, err)
	}
	answer := demoRefused
	if decision.GetPermissionship() == authzed.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
		answer = "allowed"
	}
	r.add(demoRow{
		OnBehalfOf: s.user, May: s.may,
		Permissionship: strings.TrimPrefix(decision.GetPermissionship().String(), "PERMISSIONSHIP_"),
		Answer:         answer, Expected: s.expected,
	})
	return nil
}

// demoCheck asks for a decision, and an admin for its explanation. Its fields stand in this order:
// the agent, what it acts under ("session NAME", "frozen NAME" for a frozen one, "delegation NAME" or
// "no session"), the principal, the tenant, permission and object, caveat context ("amount=150") or
// "", and what is expected ("allowed", "conditional", "refused by GATE").
type demoCheck struct {
	agent, under, onBehalfOf, tenant, may, context, expected string
}

func (s demoCheck) do(ctx context.Context, r *demoRun) error {
	request, err := s.request(r)
	if err != nil {
		return err
	}
	decision, err := r.service.permissions.CheckPermission(ctx, request)
	if err != nil {
		return fmt.Errorf("%s %s: %w", s.agent, s.may, err)
	}
	got := demoAnswer(decision.GetPermissionship())
	if got == demoRefused {
		why, err := r.admin.permissions.ExplainPermission(ctx, &deputy.ExplainPermissionRequest{Check: request})
		if err != nil {
			return fmt.Errorf("explaining %s %s: %w", s.agent, s.may, err)
		}
		got += " by " + refusingGate(why)
	}
	r.add(demoRow{
		Agent: s.agent, Under: s.under, OnBehalfOf: s.onBehalfOf, Tenant: s.tenant, May: s.may, Context: s.context,
		Permissionship: permissionship(decision.GetPermissionship()),
		Answer:         got, Expected: s.expected,
	})
	return nil
}

// request turns the names of the story into ids.
func (s demoCheck) request(r *demoRun) (*deputy.CheckPermissionRequest, error) {
	permission, resource, _ := strings.Cut(s.may, " ")
	request := &deputy.CheckPermissionRequest{AgentId: s.agent, TenantId: s.tenant, Permission: permission}
	var err error
	if request.Resource, err = parseObject("resource", resource); err != nil {
		return nil, err
	}
	if request.OnBehalfOf, err = parseObject("principal", s.onBehalfOf); err != nil {
		return nil, err
	}
	switch kind, name, _ := strings.Cut(s.under, " "); kind {
	case "session", "frozen":
		request.Via = &deputy.CheckPermissionRequest_SessionId{SessionId: r.ids["session "+name]}
	case "delegation":
		request.Via = &deputy.CheckPermissionRequest_DelegationId{DelegationId: r.ids["delegation "+name]}
	}
	if name, value, found := strings.Cut(s.context, "="); found {
		number, err := strconv.Atoi(value)
		if err != nil {
			return nil, errors.New("context is NAME=NUMBER")
		}
		if request.Context, err = structpb.NewStruct(map[string]any{name: number}); err != nil {
			return nil, err
		}
	}
	return request, nil
}

// demoRefused is a refusal in an everyday word.
const demoRefused = "refused"

// demoAnswer returns a verdict in an everyday word. What is not known is a refusal.
func demoAnswer(p deputy.Permissionship) string {
	switch p {
	case deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION:
		return "allowed"
	case deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		return "conditional"
	default:
		return demoRefused
	}
}

// refusingGate returns the first gate that says no in the candidate that decided. Where nothing in the
// graph lets the agent act there is no candidate, and it is for want of a delegation.
func refusingGate(e *deputy.ExplainPermissionResponse) string {
	if len(e.GetCandidates()) == 0 {
		return gateName(deputy.Gate_GATE_DELEGATION)
	}
	for _, gate := range e.GetCandidates()[0].GetGates() {
		if gate.GetOutcome() == deputy.Outcome_OUTCOME_NO {
			return gateName(gate.GetGate())
		}
	}
	return "no gate"
}
