package decision_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

var hour = durationpb.New(time.Hour)

// TestHoles: every hole that was found in a first design, each closed.
func TestHoles(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		run := w.start(target(d))
		w.allow(inSession(run).view("document:plan"))

		t.Run("the engine's own token is not believed", func(t *testing.T) {
			w := &world{t, s}
			raw := s.Touch(t, "document:scrap#tenant@tenant:acme")
			for _, forged := range []string{raw, "", "x", strings.Repeat("A", 100)} {
				token := &deputyv1.ZedToken{Token: forged}
				_, err := w.Permissions().CheckPermission(t.Context(), inSession(run).view("document:plan").at(token).CheckPermissionRequest)
				w.fails(err, codes.InvalidArgument, "INVALID_TOKEN", "consistency.at_exact_snapshot")
				if forged == "" {
					continue
				}
				_, err = w.Permissions().CheckPermission(t.Context(), inSession(run).view("document:plan").after(token).CheckPermissionRequest)
				w.fails(err, codes.InvalidArgument, "INVALID_TOKEN", "session_token")
			}
		})
		t.Run("dropping the session from a request", func(t *testing.T) {
			w := &world{t, s}
			leaf := run.GetLeaves()[0].GetDelegationId()
			c := asAgent("bot").view("document:plan")
			c.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: leaf}
			w.deny(c, byActor)
			w.deny(under(d).view("document:plan"), byActor)
			w.deny(asAgent("bot").actingFor("user:alice").in("acme").view("document:plan"), byActor)
		})
		t.Run("another agent quoting a session's id", func(t *testing.T) {
			w := &world{t, s}
			s.Touch(t, "document:plan#reader@agent:sub")
			w.deny(inSession(run).by("sub").view("document:plan"), byActor)
			w.deny(inSession(run).by("sub").actingFor("user:alice").in("acme").view("document:plan"), byActor)
			w.deny(inSession(run).by("nobody").view("document:plan"), byActor)
		})
		t.Run("a resource in two tenants", func(t *testing.T) {
			w := &world{t, s}
			s.Touch(t, "document:torn#tenant@tenant:acme", "document:torn#reader@user:alice", "document:torn#reader@agent:bot")
			w.allow(inSession(run).view("document:torn"))
			s.Touch(t, "document:torn#tenant@tenant:globex")
			w.deny(inSession(run).view("document:torn"), byObject)
			s.Delete(t, "document:torn#tenant@tenant:acme", "document:torn#tenant@tenant:globex")
			w.deny(inSession(run).view("document:torn"), byObject)
		})
		t.Run("two parents on one delegation", func(t *testing.T) {
			w := &world{t, s}
			own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
			run := w.start(target(own))
			w.allow(inSession(run).view("document:plan"))
			s.Touch(t, "delegation:"+run.GetLeaves()[0].GetDelegationId()+"#parent@delegation:"+d.GetDelegationId())
			w.deny(inSession(run).view("document:plan"), byActor)
		})
		for fact, subjects := range map[string][2]string{
			"agent": {"agent:bot", "agent:sub"}, "tenant": {"tenant:acme", "tenant:globex"}, "principal": {"user:alice", "user:bob"},
		} {
			t.Run("two of a kind on one delegation: "+fact, func(t *testing.T) {
				w := &world{t, s}
				own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
				w.allow(under(own).view("document:plan"))
				s.Touch(t, "delegation:"+own.GetDelegationId()+"#"+fact+"@"+subjects[1])
				for _, c := range []check{under(own).view("document:plan"), under(own).by("sub").view("document:plan"), under(own).actingFor("user:bob").in("acme").view("document:both")} {
					w.deny(c, byActor)
				}
			})
		}
		t.Run("a session with two agents", func(t *testing.T) {
			w := &world{t, s}
			two := w.start(target(d))
			s.Touch(t, "session:"+two.GetSessionId()+`#agent@agent:sub[issued:{"at":"2026-01-01T00:00:00Z"}]`)
			w.deny(inSession(two).view("document:plan"), byActor)
			w.deny(inSession(two).by("sub").view("document:plan"), byActor)
		})
		t.Run("a set of principals of another tenant", func(t *testing.T) {
			w := &world{t, s}
			_, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
				AgentId: "bot", Principal: subject("tenant:globex#member"), TenantId: "acme", GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true, Ttl: hour,
			})
			w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "principal")
			// Even when it is written past the service.
			own := w.delegate(&deputyv1.CreateDelegationRequest{
				Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true,
			})
			s.Touch(t, "document:daves#tenant@tenant:acme", "document:daves#reader@user:dave", "document:daves#reader@agent:bot")
			w.allow(under(own).actingFor("user:dave").view("document:daves"))
			id := "delegation:" + own.GetDelegationId()
			s.Delete(t, id+"#principal@tenant:acme#member")
			s.Delete(t, id+"#allow_direct@tenant:acme#member")
			s.Touch(t, id+"#principal@tenant:globex#member",
				id+"#allow_direct@tenant:globex#member[expiration:"+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+"]")
			w.deny(under(own).actingFor("user:dave").view("document:daves"), byActor)
		})
		t.Run("a chain whose child reaches a principal that it was not given", func(t *testing.T) {
			w := &world{t, s}
			all := w.delegate(&deputyv1.CreateDelegationRequest{
				Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true,
			})
			s.Touch(t, "document:both#reader@agent:sub")
			part := w.delegate(&deputyv1.CreateDelegationRequest{
				AgentId: "sub", ParentDelegationId: all.GetDelegationId(), Principal: subject("user:alice"), Unscoped: true, AllowDirect: true,
			})
			w.allow(under(part).view("document:both"))
			w.deny(under(part).actingFor("user:bob").view("document:both"), byActor)
			// And the other way round: a child that names more than its parent.
			narrow := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
			wide := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: narrow.GetDelegationId(), Unscoped: true, AllowDirect: true})
			id := "delegation:" + wide.GetDelegationId()
			s.Delete(t, id+"#principal@user:alice")
			s.Touch(t, id+"#principal@tenant:acme#member")
			s.Delete(t, id+"#allow_direct@user:alice")
			w.deny(under(wide).actingFor("user:bob").view("document:both"), byActor)
		})
		t.Run("an id used again after deletion", func(t *testing.T) {
			w := &world{t, s}
			_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "temp", OwnerIds: []string{"carol"}})
			w.ok(err)
			s.Touch(t, "document:plan#reader@agent:temp")
			_, err = v1.NewPermissionsServiceClient(s.Admin).DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{
				RelationshipFilter: &v1.RelationshipFilter{ResourceType: "agent", OptionalResourceId: "temp"},
			})
			w.ok(err)
			for _, again := range []string{"temp", "bot"} {
				_, err = w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: again, OwnerIds: []string{"mallory"}})
				w.fails(err, codes.AlreadyExists, "ALREADY_EXISTS", "")
			}
		})
		t.Run("refusals that tell absent from foreign", func(t *testing.T) {
			w := &world{t, s}
			var first *deputyv1.CheckPermissionResponse
			for _, object := range []string{"document:nowhere", "document:foreign", "document:bobs"} {
				resp := w.deny(inSession(run).view(object), byObject)
				if resp.GetDecisionId() == "" || resp.GetCheckedAt() == nil {
					t.Errorf("%s: lacks an id or a token: %v", object, resp)
				}
				// When the copy was last known to be the newest differs from check to check, whatever it asks.
				resp.DecisionId, resp.CheckedAt, resp.FreshAt = "", nil, nil
				if first == nil {
					first = resp
				}
				if !proto.Equal(first, resp) {
					t.Errorf("%s answers %v, unlike %v", object, resp, first)
				}
			}
			// Nor by what is missing: the context is not asked for where the object is out of reach.
			s.Touch(t, "document:hidden#tenant@tenant:globex", `document:hidden#by_day@user:alice[office_hours]`, "document:hidden#reader@agent:bot")
			w.deny(inSession(run).view("document:hidden"), byObject)
		})
		t.Run("half of a pair of marks", func(t *testing.T) {
			w := &world{t, s}
			for _, drop := range []string{"delegation:%s#active@delegation:%s", "delegation:%s#unscoped@delegation:%s"} {
				own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
				w.allow(under(own).view("document:plan"))
				s.Delete(t, strings.ReplaceAll(drop, "%s", own.GetDelegationId()))
				if resp := w.decide(under(own).view("document:plan")); resp.GetPermissionship() != no {
					t.Errorf("without %s: %v", drop, resp)
				}
			}
			// A revoked delegation stays so when somebody takes the tombstone away, or puts the mark back.
			own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
			_, err := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: own.GetDelegationId()})
			w.ok(err)
			id := "delegation:" + own.GetDelegationId()
			s.Delete(t, id+"#revoked@"+id)
			w.deny(under(own).view("document:plan"), byActor)
			s.Touch(t, id+"#revoked@"+id, id+"#active@"+id+"[expiration:"+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+"]",
				id+"#allow_direct@user:alice[expiration:"+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+"]")
			w.deny(under(own).view("document:plan"), byActor)
		})
	})
}

// TestExpiryOnAnIdleEngine: a session that is polled without anything being written ends when its time
// is over, not when a cache says so.
func TestExpiryOnAnIdleEngine(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		run := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(d)}, Ttl: durationpb.New(4 * time.Second)})
		end := run.GetExpiresAt().AsTime()
		allowed := 0
		for {
			before := time.Now()
			resp := w.decide(inSession(run).view("document:plan"))
			if resp.GetPermissionship() == has {
				allowed++
				if before.After(end) {
					t.Fatalf("allowed %s after the session's end", before.Sub(end))
				}
				if until := resp.GetValidUntil().AsTime(); until.After(end) {
					t.Fatalf("valid until %s, after the session's end at %s", until, end)
				}
				continue
			}
			if before.Before(end.Add(-time.Second)) && allowed == 0 {
				t.Fatalf("refused before its end: %s", w.why(inSession(run).view("document:plan")))
			}
			break
		}
		if allowed == 0 {
			t.Error("it was never allowed, so nothing was tested")
		}
		w.deny(inSession(run).view("document:plan"), byActor)
		got, err := w.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
		w.ok(err)
		if state := got.GetSession().GetState(); state != deputyv1.LifecycleState_LIFECYCLE_STATE_INACTIVE {
			t.Errorf("the session is %s", state)
		}
		_, err = w.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: run.GetSessionId()})
		w.fails(err, codes.FailedPrecondition, "NOT_ACTIVE", "")
	})
}

// TestCoreSchemaDiffers: while the core definitions are not Deputy's, everything refuses; and the door
// does not let them become so.
func TestCoreSchemaDiffers(t *testing.T) {
	s := harness.Start(t, inMemory())
	w := newWorld(t, s)
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	w.allow(under(d).view("document:plan"))
	bent := strings.Replace(schema.Core, "permission access = member + admin + agent", "permission access = member + admin + agent + suspended", 1)
	if bent == schema.Core {
		t.Fatal("the core has no such permission")
	}
	_, err := v1.NewSchemaServiceClient(s.Admin).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: bent + domain})
	w.fails(err, codes.FailedPrecondition, "CORE_SCHEMA_DIFFERS", "schema")
	w.allow(under(d).view("document:plan"))
	// Behind the door's back.
	_, err = v1.NewSchemaServiceClient(s.Engine()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: bent + domain})
	w.ok(err)
	_, err = w.Permissions().CheckPermission(t.Context(), under(d).view("document:plan").CheckPermissionRequest)
	w.fails(err, codes.FailedPrecondition, "CORE_SCHEMA_DIFFERS", "")
	_, err = w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Ttl: hour})
	w.fails(err, codes.FailedPrecondition, "CORE_SCHEMA_DIFFERS", "")
}

// TestEveryMethodNeedsAKey: no method of any service answers a caller without a valid key, whatever
// kind of call it is, except health; and those of an admin refuse a service.
func TestEveryMethodNeedsAKey(t *testing.T) {
	s := harness.Start(t, inMemory())
	w := newWorld(t, s)
	wrong := harness.Dial(t, s.Addr().String(), "wrong")
	methods := methodsOf(t)
	if len(methods) < 40 {
		t.Fatalf("only %d methods are known", len(methods))
	}
	for _, method := range methods {
		if strings.HasPrefix(method, "/grpc.health.") {
			continue
		}
		for name, conn := range map[string]clientConn{"no key": s.Nobody, "a wrong key": wrong} {
			if err := callEmpty(t, conn, method); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", method, name, err)
			}
		}
	}
	for _, method := range []string{
		"/deputy.v1.PermissionsService/ExplainPermission", "/deputy.v1.PermissionsService/LookupAgents",
		"/deputy.v1.AgentsService/RegisterAgent", "/deputy.v1.AgentsService/SuspendAgent", "/deputy.v1.AgentsService/ResumeAgent",
		"/deputy.v1.PrincipalsService/Suspend", "/deputy.v1.PrincipalsService/Resume",
		"/deputy.v1.AdoptionService/ReviewAdoption", "/deputy.v1.AdoptionService/ConfirmAdoption", "/authzed.api.v1.SchemaService/WriteSchema",
	} {
		w.fails(callEmpty(t, s.Service, method), codes.PermissionDenied, "ROLE_REQUIRED", "")
	}
	if err := callEmpty(t, s.Nobody, "/grpc.health.v1.Health/Check"); err != nil {
		t.Errorf("health needs a key: %v", err)
	}
}

// TestUnsafeShapes: types that SpiceDB evaluates wrongly, or that belong to nobody, are not decided on.
func TestUnsafeShapes(t *testing.T) {
	s := harness.Start(t, inMemory())
	w := newWorld(t, s)
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	for object, reason := range map[string]string{
		"note:n1": "NOT_TENANT_SAFE", "user:alice": "NOT_TENANT_SAFE", "risky:r1": "UNSAFE_SCHEMA_SHAPE", "holder:h1": "UNSAFE_SCHEMA_SHAPE",
	} {
		c := under(d).view(object)
		if object == "user:alice" {
			c.Permission = "active"
		}
		_, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
		w.fails(err, codes.FailedPrecondition, reason, "")
	}
	cfg := inMemory()
	cfg.GlobalTypes = []string{"note"}
	w = newWorld(t, harness.Start(t, cfg))
	d = w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	w.Touch(t, "note:n1#reader@user:alice", "note:n1#reader@agent:bot")
	w.allow(under(d).view("note:n1"))
	w.Delete(t, "tenant:acme#agent@agent:bot")
	w.deny(under(d).view("note:n1"), byActor)
}

// TestUnsafeShapesOverTheStore: Deputy's own store returns what SpiceDB would skip, so there such a type is
// decided on, and the caveat counts.
func TestUnsafeShapesOverTheStore(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	w := newWorld(t, s)
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	s.Touch(t, "risky:r1#tenant@tenant:acme", "risky:r1#reader@user:alice[office_hours]", "risky:r1#reader@agent:bot",
		"holder:h1#tenant@tenant:acme", "holder:h1#holds@risky:r1")
	for _, object := range []string{"risky:r1", "holder:h1"} {
		if got := w.decide(under(d).view(object)).GetPermissionship(); got != conditional {
			t.Errorf("%s without an hour: %v", object, got)
		}
		w.allow(under(d).view(object).with(map[string]any{"hour": 10}))
		w.deny(under(d).view(object).with(map[string]any{"hour": 20}), byObject)
	}
}
