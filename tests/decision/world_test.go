// Package decision tests what services get from a running server, on every engine.
package decision_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// domain is a small domain beside the core.
const domain = `
caveat office_hours(hour int) {
	hour >= 9 && hour < 17
}

definition document {
	relation tenant: tenant
	relation reader: user | service | agent | delegation | tenant#member
	relation by_day: user with office_hours | agent with office_hours | delegation with office_hours
	permission view = reader + by_day
}

definition note {
	relation reader: user | agent | delegation
	permission view = reader
}

definition risky {
	relation tenant: tenant
	relation reader: user with office_hours | user#active | agent | delegation
	permission view = reader
}

definition holder {
	relation tenant: tenant
	relation holds: risky
	permission view = holds->view
}
`

// world is a server with two tenants and their people: alice, bob and carol (an admin) in acme,
// mallory (an admin) in globex, dave in both; the agents bot and sub act in both.
type world struct {
	*testing.T
	*harness.Server
}

func newWorld(t *testing.T, s *harness.Server) *world {
	t.Helper()
	w := &world{t, s}
	s.WriteSchema(t, schema.Core+domain)
	for _, who := range []string{
		"user:alice", "user:bob", "user:carol", "user:dave", "user:mallory", "service:nightly", "tenant:acme", "tenant:globex",
	} {
		_, err := s.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		w.ok(err)
	}
	for _, id := range []string{"bot", "sub"} {
		_, err := s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: []string{"carol"}})
		w.ok(err)
	}
	s.Touch(t,
		"tenant:acme#member@user:alice", "tenant:acme#member@user:bob", "tenant:acme#member@user:dave",
		"tenant:acme#member@service:nightly", "tenant:acme#admin@user:carol",
		"tenant:globex#member@user:dave", "tenant:globex#admin@user:mallory",
		"tenant:acme#agent@agent:bot", "tenant:acme#agent@agent:sub",
		"tenant:globex#agent@agent:bot", "tenant:globex#agent@agent:sub",
		"service:nightly#owner@user:alice",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
		"document:bobs#tenant@tenant:acme", "document:bobs#reader@user:bob", "document:bobs#reader@agent:bot",
		"document:both#tenant@tenant:acme", "document:both#reader@user:alice", "document:both#reader@user:bob", "document:both#reader@agent:bot",
		"document:foreign#tenant@tenant:globex", "document:foreign#reader@user:alice", "document:foreign#reader@user:dave", "document:foreign#reader@agent:bot",
		"document:daily#tenant@tenant:acme", `document:daily#by_day@user:alice[office_hours]`, "document:daily#reader@agent:bot",
	)
	return w
}

// ok ends the test unless there is no error.
func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// delegate creates a delegation; fields that a test does not care for get an hour and alice in acme.
func (w *world) delegate(r *deputyv1.CreateDelegationRequest) *deputyv1.Delegation {
	w.Helper()
	if r.GetTtl() == nil && r.GetParentDelegationId() == "" {
		r.Ttl = durationpb.New(time.Hour)
	}
	if r.GetAgentId() == "" {
		r.AgentId = "bot"
	}
	if r.GetParentDelegationId() == "" {
		if r.GetPrincipal() == nil {
			r.Principal = subject("user:alice")
		}
		if r.GetTenantId() == "" {
			r.TenantId = "acme"
		}
	}
	resp, err := w.Delegations().CreateDelegation(w.Context(), r)
	w.ok(err)
	return resp.GetDelegation()
}

// start starts bot's session under the delegations.
func (w *world) start(targets ...*deputyv1.SessionTarget) *deputyv1.Session {
	w.Helper()
	return w.startWith(&deputyv1.StartSessionRequest{Targets: targets})
}

func (w *world) startWith(r *deputyv1.StartSessionRequest) *deputyv1.Session {
	w.Helper()
	if r.GetAgentId() == "" {
		r.AgentId = "bot"
	}
	resp, err := w.Sessions().StartSession(w.Context(), r)
	w.ok(err)
	return resp.GetSession()
}

func target(d *deputyv1.Delegation, principals ...string) *deputyv1.SessionTarget {
	t := &deputyv1.SessionTarget{DelegationId: d.GetDelegationId()}
	for _, p := range principals {
		t.Principals = append(t.Principals, harness.Ref(p))
	}
	return t
}

func subject(text string) *deputyv1.SubjectReference {
	object, relation, _ := strings.Cut(text, "#")
	return &deputyv1.SubjectReference{Object: harness.Ref(object), OptionalRelation: relation}
}

// check reads as a sentence: inSession(s).for("user:alice").view("document:plan").
type check struct {
	*deputyv1.CheckPermissionRequest
}

func asAgent(id string) check {
	return check{&deputyv1.CheckPermissionRequest{AgentId: id, Permission: "view"}}
}

func inSession(s *deputyv1.Session) check {
	c := asAgent(s.GetAgentId())
	c.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: s.GetSessionId()}
	return c
}

func under(d *deputyv1.Delegation) check {
	c := asAgent(d.GetAgentId())
	c.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: d.GetDelegationId()}
	return c
}

func (c check) by(agent string) check            { c.AgentId = agent; return c }
func (c check) actingFor(who string) check       { c.OnBehalfOf = harness.Ref(who); return c }
func (c check) in(tenant string) check           { c.TenantId = tenant; return c }
func (c check) view(what string) check           { c.Resource = harness.Ref(what); return c }
func (c check) after(t *deputyv1.ZedToken) check { c.SessionToken = t; return c }

func (c check) with(context map[string]any) check {
	s, err := structpb.NewStruct(context)
	if err != nil {
		panic(err)
	}
	c.Context = s
	return c
}

func (c check) at(t *deputyv1.ZedToken) check {
	c.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: t}}
	return c
}

const (
	has         = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	no          = deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	conditional = deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	byActor     = deputyv1.RefusedBy_REFUSED_BY_ACTOR
	byObject    = deputyv1.RefusedBy_REFUSED_BY_OBJECT
)

// decide asks and expects an answer.
func (w *world) decide(c check) *deputyv1.CheckPermissionResponse {
	w.Helper()
	resp, err := w.Permissions().CheckPermission(w.Context(), c.CheckPermissionRequest)
	if err != nil {
		w.Fatalf("%v: %v", c, err)
	}
	return resp
}

func (w *world) allow(c check) *deputyv1.CheckPermissionResponse {
	w.Helper()
	resp := w.decide(c)
	if resp.GetPermissionship() != has {
		w.Errorf("%v: %v, want it allowed\n%s", c, resp, w.why(c))
	}
	return resp
}

func (w *world) deny(c check, side deputyv1.RefusedBy) *deputyv1.CheckPermissionResponse {
	w.Helper()
	resp := w.decide(c)
	if resp.GetPermissionship() != no || resp.GetRefusedBy() != side {
		w.Errorf("%v: %v, want it refused by %s\n%s", c, resp, side, w.why(c))
	}
	return resp
}

// why explains a decision, for a failing test.
func (w *world) why(c check) string {
	resp, err := w.Audit().ExplainPermission(context.WithoutCancel(w.Context()), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, candidate := range resp.GetCandidates() {
		for _, g := range candidate.GetGates() {
			for _, condition := range g.GetConditions() {
				if condition.GetOutcome() != deputyv1.Outcome_OUTCOME_YES {
					b.WriteString(g.GetGate().String() + ": " + condition.GetCondition() + ": " + condition.GetOutcome().String() + " " + condition.GetDetail() + "\n")
				}
			}
		}
	}
	return b.String()
}

// gates returns the gates that refuse, for an auditor.
func (w *world) gates(c check) []deputyv1.Gate {
	w.Helper()
	resp, err := w.Audit().ExplainPermission(w.Context(), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest})
	w.ok(err)
	var out []deputyv1.Gate
	for _, candidate := range resp.GetCandidates() {
		for _, g := range candidate.GetGates() {
			if g.GetOutcome() == deputyv1.Outcome_OUTCOME_NO {
				out = append(out, g.GetGate())
			}
		}
	}
	return out
}

// fails expects a status with a reason, and a field where one is named.
func (w *world) fails(err error, code codes.Code, reason, field string) {
	w.Helper()
	st := status.Convert(err)
	var info *errdetails.ErrorInfo
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			info = i
		}
	}
	if st.Code() != code || info.GetReason() != reason || info.GetMetadata()["field"] != field {
		w.Errorf("got %s %q, reason %s, field %q; want %s, reason %s, field %q",
			st.Code(), st.Message(), info.GetReason(), info.GetMetadata()["field"], code, reason, field)
	}
}
