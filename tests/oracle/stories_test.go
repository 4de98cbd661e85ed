package oracle_test

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/generator"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
)

// decisions is schema/supportdesk/decisions.yaml; docs/testing.md has the format.
type decisions struct {
	Schema        string `yaml:"schemaFile"`
	Relationships string `yaml:"relationshipsFile"`
	Steps         []step `yaml:"steps"`
}

// step is one of its steps: exactly one of its fields is set.
type step struct {
	About    string `yaml:"about"`
	Delegate *struct {
		Name        string   `yaml:"name"`
		Agent       string   `yaml:"agent"`
		Principal   string   `yaml:"principal"`
		Tenant      string   `yaml:"tenant"`
		GrantedBy   string   `yaml:"granted_by"`
		Parent      string   `yaml:"parent"`
		Scope       []string `yaml:"scope"`
		Unscoped    bool     `yaml:"unscoped"`
		AllowDirect bool     `yaml:"allow_direct"`
		TTL         string   `yaml:"ttl"`
	} `yaml:"delegate"`
	Start *struct {
		Name        string   `yaml:"name"`
		Agent       string   `yaml:"agent"`
		Delegations []string `yaml:"delegations"`
		Targets     []struct {
			Delegation string   `yaml:"delegation"`
			Principals []string `yaml:"principals"`
			Scope      []string `yaml:"scope"`
		} `yaml:"targets"`
		Frozen bool   `yaml:"frozen"`
		TTL    string `yaml:"ttl"`
	} `yaml:"start"`
	End     string   `yaml:"end"`
	Revoke  string   `yaml:"revoke"`
	Suspend string   `yaml:"suspend"`
	Resume  string   `yaml:"resume"`
	Write   []string `yaml:"write"`
	Delete  []string `yaml:"delete"`
	// AssertTrue is about one subject, without an agent.
	AssertTrue string `yaml:"assertTrue"`
	Decide     *struct {
		Agent      string         `yaml:"agent"`
		Session    string         `yaml:"session"`
		Delegation string         `yaml:"delegation"`
		OnBehalfOf string         `yaml:"on_behalf_of"`
		Tenant     string         `yaml:"tenant"`
		Resource   string         `yaml:"resource"`
		Permission string         `yaml:"permission"`
		Context    map[string]any `yaml:"context"`
		Expect     string         `yaml:"expect"`
		RefusedBy  string         `yaml:"refused_by"`
		Gate       string         `yaml:"gate"`
		Missing    []string       `yaml:"missing"`
	} `yaml:"decide"`
}

// teller runs stories against a server.
type teller struct {
	*deputy
	t   *testing.T
	ctx context.Context //nolint:containedctx // a teller lives as long as its test
	// ids are what the server calls what the stories call something else.
	ids map[string]string
	// changed is what a story has to undo: suspensions, and relationships written or deleted.
	changed map[string]bool
	// met counts the kinds of answers.
	met map[string]int
}

// id returns the server's id for a name.
func (s *teller) id(name string) string {
	s.t.Helper()
	if name == "" {
		return ""
	}
	if s.ids[name] == "" {
		s.t.Fatalf("nothing is called %q yet", name)
	}
	return s.ids[name]
}

// named gives what the server created a name.
func (s *teller) named(name, id string) {
	s.t.Helper()
	if name == "" || s.ids[name] != "" {
		s.t.Fatalf("the name %q is empty or taken", name)
	}
	s.ids[name] = id
}

// objectRef parses "type:id"; "" is none.
func objectRef(text string) *deputyv1.ObjectReference {
	typ, id, ok := strings.Cut(text, ":")
	if !ok {
		return nil
	}
	return &deputyv1.ObjectReference{ObjectType: typ, ObjectId: id}
}

// scopeRefs parses "type:id#relation".
func scopeRefs(scope []string) []*deputyv1.ScopeGrant {
	var all []*deputyv1.ScopeGrant
	for _, text := range scope {
		object, relation, _ := strings.Cut(text, "#")
		all = append(all, &deputyv1.ScopeGrant{Resource: objectRef(object), Relation: relation})
	}
	return all
}

// lasting parses a duration; "" is an hour.
func (s *teller) lasting(text string) *durationpb.Duration {
	s.t.Helper()
	if text == "" {
		text = "1h"
	}
	d, err := time.ParseDuration(text)
	s.ok(err)
	return durationpb.New(d)
}

// ok fails the story on an error.
func (s *teller) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// step runs one step.
func (s *teller) step(step step) {
	s.t.Helper()
	switch {
	case step.Delegate != nil:
		d := step.Delegate
		request := &deputyv1.CreateDelegationRequest{
			AgentId: d.Agent, TenantId: d.Tenant, GrantedBy: objectRef(d.GrantedBy), ParentDelegationId: s.id(d.Parent),
			Scope: scopeRefs(d.Scope), Unscoped: d.Unscoped, AllowDirect: d.AllowDirect, Ttl: s.lasting(d.TTL),
		}
		if object, relation, _ := strings.Cut(d.Principal, "#"); object != "" {
			request.Principal = &deputyv1.SubjectReference{Object: objectRef(object), OptionalRelation: relation}
		}
		response, err := s.delegations.CreateDelegation(s.ctx, request)
		s.ok(err)
		s.named(d.Name, response.Delegation.DelegationId)
	case step.Start != nil:
		st := step.Start
		request := &deputyv1.StartSessionRequest{AgentId: st.Agent, Frozen: st.Frozen, Ttl: s.lasting(st.TTL)}
		for _, name := range st.Delegations {
			request.Targets = append(request.Targets, &deputyv1.SessionTarget{DelegationId: s.id(name)})
		}
		for _, t := range st.Targets {
			target := &deputyv1.SessionTarget{DelegationId: s.id(t.Delegation), Scope: scopeRefs(t.Scope)}
			for _, p := range t.Principals {
				target.Principals = append(target.Principals, objectRef(p))
			}
			request.Targets = append(request.Targets, target)
		}
		response, err := s.sessions.StartSession(s.ctx, request)
		s.ok(err)
		s.named(st.Name, response.Session.SessionId)
		for _, leaf := range response.Session.Leaves {
			s.named(fmt.Sprintf("%s/%s/%s:%s", st.Name, leaf.TenantId, leaf.Principal.ObjectType, leaf.Principal.ObjectId), leaf.DelegationId)
		}
	case step.End != "":
		_, err := s.sessions.EndSession(s.ctx, &deputyv1.EndSessionRequest{SessionId: s.id(step.End)})
		s.ok(err)
	case step.Revoke != "":
		_, err := s.delegations.RevokeDelegation(s.ctx, &deputyv1.RevokeDelegationRequest{DelegationId: s.id(step.Revoke)})
		s.ok(err)
	case step.Suspend != "":
		s.changed[step.Suspend] = true
		var err error
		if o := objectRef(step.Suspend); o.ObjectType == "agent" {
			_, err = s.agents.SuspendAgent(s.ctx, &deputyv1.SuspendAgentRequest{AgentId: o.ObjectId})
		} else {
			_, err = s.principals.Suspend(s.ctx, &deputyv1.SuspendRequest{Principal: o})
		}
		s.ok(err)
	case step.Resume != "":
		delete(s.changed, step.Resume)
		var err error
		if o := objectRef(step.Resume); o.ObjectType == "agent" {
			_, err = s.agents.ResumeAgent(s.ctx, &deputyv1.ResumeAgentRequest{AgentId: o.ObjectId})
		} else {
			_, err = s.principals.Resume(s.ctx, &deputyv1.ResumeRequest{Principal: o})
		}
		s.ok(err)
	case len(step.Write) > 0:
		s.write(v1.RelationshipUpdate_OPERATION_TOUCH, step.Write)
	case len(step.Delete) > 0:
		s.write(v1.RelationshipUpdate_OPERATION_DELETE, step.Delete)
	case step.Decide != nil:
		s.decide(step)
	case step.AssertTrue != "":
		s.assert(step.AssertTrue)
	default:
		s.t.Fatal("a step that does nothing")
	}
}

// write writes or deletes relationships with the admin's key, and keeps what the story has to undo.
func (s *teller) write(operation v1.RelationshipUpdate_Operation, texts []string) {
	s.t.Helper()
	request := &v1.WriteRelationshipsRequest{}
	for _, text := range texts {
		if s.changed[text] {
			delete(s.changed, text)
		} else {
			s.changed[text] = true
		}
		rel, err := tuple.ParseV1Rel(text)
		s.ok(err)
		if rel.Subject.Object.ObjectType == "delegation" {
			rel.Subject.Object.ObjectId = s.id(rel.Subject.Object.ObjectId)
		}
		request.Updates = append(request.Updates, &v1.RelationshipUpdate{Operation: operation, Relationship: rel})
	}
	_, err := s.graph.WriteRelationships(s.ctx, request)
	s.ok(err)
}

// assert asks SpiceDB's API whether a relationship of a permission holds, for its subject alone.
func (s *teller) assert(text string) {
	s.t.Helper()
	rel, err := tuple.ParseV1Rel(text)
	s.ok(err)
	got, err := s.graph.CheckPermission(s.ctx, &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    rel.Resource, Permission: rel.Relation, Subject: rel.Subject,
	})
	s.ok(err)
	if got.Permissionship != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
		s.t.Errorf("%s: %v", text, got.Permissionship)
	}
}

// decide asks for one decision, and for its explanation.
func (s *teller) decide(step step) {
	s.t.Helper()
	c := step.Decide
	request := &deputyv1.CheckPermissionRequest{
		AgentId: c.Agent, OnBehalfOf: objectRef(c.OnBehalfOf), TenantId: c.Tenant, Resource: objectRef(c.Resource), Permission: c.Permission,
	}
	switch {
	case c.Session != "":
		request.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: s.id(c.Session)}
	case c.Delegation != "":
		request.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: s.id(c.Delegation)}
	}
	if c.Context != nil {
		context, err := structpb.NewStruct(c.Context)
		s.ok(err)
		request.Context = context
	}
	got, err := s.permissions.CheckPermission(s.ctx, request)
	s.ok(err)
	explained, err := s.audit.ExplainPermission(s.ctx, &deputyv1.ExplainPermissionRequest{Check: request})
	s.ok(err)
	describe := func(r *deputyv1.CheckPermissionResponse) string {
		if c.RefusedBy == "" {
			r.RefusedBy = deputyv1.RefusedBy_REFUSED_BY_UNSPECIFIED // the step does not say
		}
		return strings.TrimSpace(strings.TrimPrefix(r.Permissionship.String(), "PERMISSIONSHIP_") + " " +
			strings.TrimPrefix(strings.TrimPrefix(r.RefusedBy.String(), "REFUSED_BY_"), "UNSPECIFIED") + strings.Join(r.MissingContext, ","))
	}
	want := strings.TrimSpace(c.Expect + " " + c.RefusedBy + strings.Join(c.Missing, ","))
	if describe(got) != want || describe(explained.Decision) != want {
		s.t.Errorf("%+v:\ngot %s, explained as %s", *c, describe(got), describe(explained.Decision))
	}
	gate := ""
	if got.Permissionship == deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION {
		gate = refusingGate(explained)
	}
	if gate != c.Gate {
		s.t.Errorf("%+v:\nrefused by gate %q", *c, gate)
	}
	s.met[strings.TrimSpace(c.Expect+" "+c.RefusedBy+" "+c.Gate)]++
}

// refusingGate returns the first gate that refuses in the first candidate of an explanation, and
// "delegation" where there is no candidate.
func refusingGate(r *deputyv1.ExplainPermissionResponse) string {
	if len(r.Candidates) == 0 {
		return "delegation"
	}
	for _, g := range r.Candidates[0].Gates {
		if g.Outcome == deputyv1.Outcome_OUTCOME_NO {
			return strings.ToLower(strings.TrimPrefix(g.Gate.String(), "GATE_"))
		}
	}
	return "none"
}

// TestSupportDeskStories tells the stories of the example domain to a server, and holds it to what they
// expect.
func TestSupportDeskStories(t *testing.T) {
	files, err := fs.Sub(schema.SupportDesk, "supportdesk")
	if err != nil {
		t.Fatal(err)
	}
	text := func(name string) string {
		t.Helper()
		b, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var all decisions
	decoder := yaml.NewDecoder(strings.NewReader(text("decisions.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile(compiler.InputSchema{Source: "supportdesk.zed", SchemaString: text(all.Schema)},
		compiler.AllowUnprefixedObjectType(), compiler.SourceFS(files))
	if err != nil {
		t.Fatal(err)
	}
	flat, _, err := generator.GenerateSchema(t.Context(), compiled.OrderedDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	s := &teller{t: t, ctx: t.Context(), deputy: openDeputy(t, flat), ids: map[string]string{}, changed: map[string]bool{}, met: map[string]int{}}
	var lines []string
	for line := range strings.SplitSeq(text(all.Relationships), "\n") {
		if line != "" && !strings.HasPrefix(line, "//") {
			lines = append(lines, line)
		}
	}
	s.write(v1.RelationshipUpdate_OPERATION_TOUCH, lines)
	clear(s.changed)
	// A part of the story goes from one heading to the next.
	var parts [][]step
	for _, step := range all.Steps {
		if step.About != "" {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], step)
	}
	for _, part := range parts {
		t.Run(part[0].About, func(t *testing.T) {
			s.t = t
			for _, step := range part[1:] {
				s.step(step)
			}
			if len(s.changed) > 0 {
				t.Errorf("this part leaves behind %v", s.changed)
			}
		})
	}
	want := []string{
		"HAS_PERMISSION", "CONDITIONAL_PERMISSION", "NO_PERMISSION ACTOR session", "NO_PERMISSION ACTOR delegation",
		"NO_PERMISSION ACTOR agent", "NO_PERMISSION ACTOR principal", "NO_PERMISSION ACTOR tenant", "NO_PERMISSION OBJECT agent",
		"NO_PERMISSION OBJECT principal", "NO_PERMISSION OBJECT tenant", "NO_PERMISSION OBJECT scope", "NO_PERMISSION OBJECT baseline",
	}
	if missing := slices.DeleteFunc(want, func(kind string) bool { return s.met[kind] > 0 }); len(missing) > 0 {
		t.Errorf("no story ends in %q", missing)
	}
}
