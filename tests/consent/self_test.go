package consent

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/caller/token"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestSelf: a person's own token lists and revokes that person's delegations, and ends the person's part of sessions. Nothing else exists for it.
func TestSelf(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	ctx := t.Context()
	create := func(principal, relation, grantedBy, tenant string) string {
		t.Helper()
		r := &deputyv1.CreateDelegationRequest{
			AgentId: "triage-bot", TenantId: tenant, Principal: &deputyv1.SubjectReference{Object: harness.Ref(principal), OptionalRelation: relation}, Unscoped: true,
			GrantedBy: harness.Ref(grantedBy), Ttl: hour(),
		}
		made, err := w.Delegations().CreateDelegation(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return made.GetDelegation().GetDelegationId()
	}
	alices, bobs, everybodys := create("user:alice", "", "user:alice", "acme"), create("user:bob", "", "user:bob", "acme"), create("tenant:acme", "member", "user:bob", "acme")
	started, err := w.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{AgentId: "triage-bot", Targets: []*deputyv1.SessionTarget{{
		DelegationId: everybodys, Principals: []*deputyv1.ObjectReference{harness.Ref("user:alice"), harness.Ref("user:bob")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	session := started.GetSession().GetSessionId()

	conn := harness.Dial(t, w.Addr().String(), w.issuer.Token(t, "nobody"))
	if _, err := deputyv1.NewDelegationsServiceClient(conn).ListDelegations(ctx, &deputyv1.ListDelegationsRequest{}); err == nil {
		t.Error("a client that is its own subject calls as a person")
	}
	alice := w.issuer.Sign(t, token.DefaultType, w.issuer.Claims("alice", nil))
	self := w.dial(t, alice)
	sessions := deputyv1.NewSessionsServiceClient(harness.Dial(t, w.Addr().String(), alice))
	list := func(r *deputyv1.ListDelegationsRequest) (ids []string) {
		t.Helper()
		found, err := self.ListDelegations(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found.GetDelegations() {
			if d.GetPrincipal().GetObject().GetObjectId() != "alice" || d.GetParentDelegationId() != "" {
				t.Errorf("alice is told of %v", d)
			}
			ids = append(ids, d.GetDelegationId())
		}
		return ids
	}
	bob := &deputyv1.SubjectReference{Object: harness.Ref("user:bob")}
	for name, c := range map[string]struct {
		asks *deputyv1.ListDelegationsRequest
		want int
	}{
		"all":                 {&deputyv1.ListDelegationsRequest{}, 1},
		"with leaves":         {&deputyv1.ListDelegationsRequest{IncludeLeaves: true}, 2},
		"by agent":            {&deputyv1.ListDelegationsRequest{AgentId: "triage-bot"}, 1},
		"by another agent":    {&deputyv1.ListDelegationsRequest{AgentId: "other-bot"}, 0},
		"by tenant":           {&deputyv1.ListDelegationsRequest{TenantId: "acme"}, 1},
		"by another tenant":   {&deputyv1.ListDelegationsRequest{TenantId: "globex"}, 0},
		"bob's":               {&deputyv1.ListDelegationsRequest{Principal: bob, IncludeLeaves: true, IncludeInactive: true}, 0},
		"bob's, by parent":    {&deputyv1.ListDelegationsRequest{ParentDelegationId: everybodys, IncludeLeaves: true}, 0},
		"bob's, by a tenant":  {&deputyv1.ListDelegationsRequest{Principal: bob, TenantId: "acme"}, 0},
		"everybody's, by set": {&deputyv1.ListDelegationsRequest{Principal: &deputyv1.SubjectReference{Object: harness.Ref("tenant:acme"), OptionalRelation: "member"}}, 0},
	} {
		if got := list(c.asks); len(got) != c.want {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
	const absent = "0123456789abcdef0123456789abcdef"
	_, none := self.GetDelegation(ctx, &deputyv1.GetDelegationRequest{DelegationId: absent})
	for _, id := range []string{bobs, everybodys, absent} {
		if _, err := self.GetDelegation(ctx, &deputyv1.GetDelegationRequest{DelegationId: id}); !same(err, none, id, absent) {
			t.Errorf("reading %s: %v", id, err)
		}
		if _, err := self.RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: id}); !same(err, none, id, absent) {
			t.Errorf("revoking %s: %v", id, err)
		}
	}
	for name, call := range map[string]func() error{
		"create": func() error { _, err := self.CreateDelegation(ctx, asks(w.consent(t, nil))); return err },
		"start":  func() error { _, err := sessions.StartSession(ctx, &deputyv1.StartSessionRequest{}); return err },
		"check": func() error {
			_, err := deputyv1.NewPermissionsServiceClient(harness.Dial(t, w.Addr().String(), alice)).CheckPermission(ctx, &deputyv1.CheckPermissionRequest{})
			return err
		},
	} {
		if code, reason := outcome(call()); code != codes.PermissionDenied || reason != "ROLE_REQUIRED" {
			t.Errorf("%s: %v %s", name, code, reason)
		}
	}

	got, err := sessions.GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: session})
	if err != nil || len(got.GetSession().GetLeaves()) != 1 || got.GetSession().GetLeaves()[0].GetPrincipal().GetObjectId() != "alice" {
		t.Errorf("alice's part of a session: %v, %v", got, err)
	}
	if _, err := sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: session}); err != nil {
		t.Error(err)
	}
	acts := func(person string) bool {
		t.Helper()
		w.Touch(t, "document:plan#reader@user:"+person)
		check, err := w.Permissions().CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
			AgentId: "triage-bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session}, OnBehalfOf: harness.Ref("user:" + person), TenantId: "acme",
			Resource: harness.Ref("document:plan"), Permission: "view",
		})
		if err != nil {
			t.Fatal(err)
		}
		return check.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	}
	if acts("alice") || !acts("bob") {
		t.Errorf("after alice has ended her part of the session, the agent acts for her: %v, and for bob: %v", acts("alice"), acts("bob"))
	}
	if _, err := self.RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: alices}); err != nil {
		t.Error(err)
	}
	if left := list(&deputyv1.ListDelegationsRequest{}); len(left) != 0 {
		t.Errorf("after alice has revoked it: %v", left)
	}
	if left, err := w.Delegations().GetDelegation(ctx, &deputyv1.GetDelegationRequest{DelegationId: bobs}); err != nil ||
		left.GetDelegation().GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_ACTIVE {
		t.Errorf("bob's: %v, %v", left, err)
	}
}

// TestNotOneself: tokens that are valid, and no person's own, prove nobody's calls.
func TestNotOneself(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	for name, more := range map[string]map[string]any{
		"on behalf of alice": {"act": map[string]any{"sub": "triage-bot"}}, "a client's own": {"client_id": "alice"}, "an agent's": {"sub_profile": "ai_agent"},
		"a consent": {"aud": audience},
	} {
		raw := w.issuer.Sign(t, token.DefaultType, w.issuer.Claims("alice", more))
		_, err := w.dial(t, raw).ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{})
		if code, _ := outcome(err); code != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}
