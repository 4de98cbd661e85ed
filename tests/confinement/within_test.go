package confinement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestWithin says what callers with bounds do get, where a comparison with another server or another name would not show it.
func TestWithin(t *testing.T) {
	ofSub := one("of-sub", own, func(b *authz.Bounds) { b.Agents = authz.NamesOf("acme-sub") }, checker, auditor)
	ofSecond := one("of-second", own, func(b *authz.Bounds) { b.IDs = authz.PrefixesOf("acme-f2") }, checker)
	s := harness.Start(t, daemon.Config{
		Engine: harness.Engines()["memory"](t), Callers: append(callers(), ofSub, ofSecond), GlobalTypes: []string{"tool"},
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	grants := fill(t, s)
	as := func(name string) deputyv1.PermissionsServiceClient {
		return deputyv1.NewPermissionsServiceClient(harness.Dial(t, s.Addr().String(), keyOf(name)))
	}
	find := func(of func(grant) bool) grant { return grants[slices.IndexFunc(grants, of)] }
	root := find(func(g grant) bool {
		return g.agent == "both-bot" && g.tenant == own && g.principal == "user:both-dan" && g.delegation != ""
	})
	part := find(func(g grant) bool { return g.agent == "acme-sub" && g.delegation != "" })
	run := find(func(g grant) bool { return g.beyond })
	s.Touch(t, "folder:acme-f1#reader@user:both-dan", "folder:acme-f1#reader@agent:acme-sub", "document:acme-d3#folder@folder:acme-f1")
	explain := func(name string, r *deputyv1.CheckPermissionRequest) *deputyv1.ExplainPermissionResponse {
		t.Helper()
		got, err := as(name).ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: r})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	silent := func(what string, m proto.Message, names ...string) {
		t.Helper()
		for _, name := range names {
			if text := prototext.Format(m); strings.Contains(text, name) {
				t.Errorf("%s names %s:\n%s", what, name, text)
			}
		}
	}

	t.Run("an agent outside is left out of a chain that it is part of", func(t *testing.T) {
		got := explain("of-sub", &deputyv1.CheckPermissionRequest{
			AgentId: part.agent, Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: part.delegation},
			OnBehalfOf: harness.Ref("user:both-dan"), TenantId: own, Resource: harness.Ref("folder:acme-f1"), Permission: "view",
		})
		// Several delegations of both-bot's are alike: the one that this is a part of is the one that has to be silent.
		whole, err := s.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: part.delegation})
		if err != nil || whole.GetDelegation().GetParentDelegationId() == "" {
			t.Fatalf("%v, %v, want a part", whole, err)
		}
		silent("the explanation", got, "both-bot", whole.GetDelegation().GetParentDelegationId())
		if len(got.GetCandidates()) != 1 || !slices.Equal(got.GetCandidates()[0].GetAgentChain(), []string{"acme-sub"}) ||
			!slices.Equal(got.GetCandidates()[0].GetDelegationChain(), []string{part.delegation}) {
			t.Errorf("candidates %v, want one whose chains have acme-sub and its delegation alone", got.GetCandidates())
		}
	})
	t.Run("leaves in another tenant are no reason", func(t *testing.T) {
		got := explain("acme-auditor", &deputyv1.CheckPermissionRequest{
			AgentId: run.agent, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: run.session},
			OnBehalfOf: harness.Ref("user:acme-ann"), Resource: harness.Ref("document:acme-d4"), Permission: "view",
		})
		silent("the explanation", got, other)
		if !strings.Contains(fmt.Sprint(got.GetReasons()), "it acts for user:both-dan in tenant:acme") {
			t.Errorf("reasons %v, want the leaf in the caller's own tenant", got.GetReasons())
		}
	})
	t.Run("parts of a trace that are another tenant's are left out", func(t *testing.T) {
		s.Touch(t, "document:acme-d4#reader@group:globex-g1#member")
		r := &deputyv1.CheckPermissionRequest{
			AgentId: root.agent, Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: root.delegation},
			OnBehalfOf: harness.Ref("user:both-dan"), TenantId: own, Resource: harness.Ref("document:acme-d4"), Permission: "edit",
		}
		silent("the explanation", explain("acme-auditor", r), other)
	})
	// What is asked of the evaluator, which the engine memory does not have.
	native := harness.Start(t, daemon.Config{
		Engine: harness.Engines()["embedded"](t), Callers: callers(), GlobalTypes: []string{"tool"},
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	there := fill(t, native)
	dan := there[slices.IndexFunc(there, func(g grant) bool {
		return g.agent == "both-bot" && g.tenant == own && g.principal == "user:both-dan" && g.delegation != ""
	})]
	native.Touch(t, "document:acme-d9#folder@folder:acme-f1", "document:acme-d4#reader@group:globex-g1#member", "document:acme-d9#reader@group:globex-g1#member")
	audit := deputyv1.NewPermissionsServiceClient(harness.Dial(t, native.Addr().String(), keyOf("acme-auditor")))
	because := func(t *testing.T, resource, permission, condition string) *deputyv1.CheckExplanation {
		t.Helper()
		got, err := audit.ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: &deputyv1.CheckPermissionRequest{
			AgentId: dan.agent, Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: dan.delegation},
			OnBehalfOf: harness.Ref("user:both-dan"), TenantId: own, Resource: harness.Ref(resource), Permission: permission,
		}})
		if err != nil {
			t.Fatal(err)
		}
		silent("the explanation", got, other)
		for _, gate := range got.GetCandidates()[0].GetGates() {
			for _, c := range gate.GetConditions() {
				if c.GetCondition() == condition && c.GetExplanation().GetReason() != nil {
					return c.GetExplanation()
				}
			}
		}
		t.Fatalf("%s is not explained: %v", condition, got)
		return nil
	}
	t.Run("what leads through another tenant is something that the auditor may not see", func(t *testing.T) {
		why := because(t, "document:acme-d4", "edit", "document:acme-d4#edit@user:both-dan")
		if !strings.Contains(why.String(), "REASON_KIND_HIDDEN") || why.GetOutcome() != deputyv1.Outcome_OUTCOME_YES {
			t.Errorf("%v, want a yes by something hidden", why)
		}
	})
	t.Run("a way that the auditor may see is shown in its place", func(t *testing.T) {
		why := because(t, "document:acme-d9", "view", "document:acme-d9#view@user:both-dan")
		if strings.Contains(why.String(), "REASON_KIND_HIDDEN") || !strings.Contains(why.String(), "acme-f1") {
			t.Errorf("%v, want the way by the folder", why)
		}
	})
	t.Run("of a refusal nothing of another tenant is left, not a number either", func(t *testing.T) {
		why := because(t, "document:acme-d4", "edit", "document:acme-d4#edit@agent:both-bot")
		if text := why.String(); strings.Contains(text, "REASON_KIND_HIDDEN") || strings.Contains(text, "others") || len(why.GetNearest()) != 1 {
			t.Errorf("%v, want the nearest grant, and no word of the group", why)
		}
	})
	t.Run("an object of a global type exists for everybody", func(t *testing.T) {
		got, err := as("acme-checker").CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: run.agent, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: run.session}, Resource: harness.Ref("tool:acme-t1"), Permission: "use",
		})
		if err != nil || got.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("%v, %v, want it to be allowed", got, err)
		}
	})
	t.Run("a type and an id outside do not exist", func(t *testing.T) {
		r := &deputyv1.CheckPermissionRequest{
			AgentId: root.agent, Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: root.delegation}, Resource: harness.Ref("folder:acme-f1"), Permission: "view",
		}
		if got, err := as("acme-checker-of-users").CheckPermission(t.Context(), r); err != nil || got.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("within: %v, %v", got, err)
		}
		r.Resource = harness.Ref("document:acme-d1")
		_, err := as("acme-checker-of-folders").CheckPermission(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), `"document" does not exist: the schema has folder, group, user`) {
			t.Errorf("a type outside: %v", err)
		}
		r.Resource = harness.Ref("folder:acme-f1")
		got, err := as("of-second").CheckPermission(t.Context(), r)
		if err != nil || got.GetRefusedBy() != deputyv1.RefusedBy_REFUSED_BY_OBJECT {
			t.Errorf("an id outside: %v, %v, want a refusal by the object", got, err)
		}
		// Neither a filter nor a lookup has it, where those of another caller do.
		m, err := methodOf("/deputy.v1.PermissionsService/LookupResources")
		if err != nil {
			t.Fatal(err)
		}
		for name, within := range map[string]bool{"acme-checker-of-users": true, "of-second": false} {
			found, err := as(name).FilterResources(t.Context(), &deputyv1.FilterResourcesRequest{
				AgentId: root.agent, Via: &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: root.delegation},
				ResourceObjectType: "folder", ResourceObjectIds: []string{"acme-f1"}, Permission: "view",
			})
			if err != nil || slices.Contains(found.GetAllowedObjectIds(), "acme-f1") != within || len(found.GetFailed()) > 0 {
				t.Errorf("%s filters %v, %v", name, found, err)
			}
			listed := m.ask(t.Context(), harness.Dial(t, s.Addr().String(), keyOf(name)), &deputyv1.LookupResourcesRequest{
				AgentId: root.agent, Via: &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: root.delegation},
				ResourceObjectType: "folder", Permission: "view",
			})
			if len(listed.messages) == 0 || slices.ContainsFunc(listed.messages, func(m proto.Message) bool {
				return strings.Contains(prototext.Format(m), "acme-f1")
			}) != within {
				t.Errorf("%s looks up %v", name, listed.messages)
			}
		}
	})
	t.Run("a lookup that is full is complete where nothing follows", func(t *testing.T) {
		m, err := methodOf("/deputy.v1.PermissionsService/LookupResources")
		if err != nil {
			t.Fatal(err)
		}
		conn := harness.Dial(t, s.Addr().String(), keyOf("acme-checker"))
		r := &deputyv1.LookupResourcesRequest{
			AgentId: run.agent, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: run.session}, ResourceObjectType: "folder", Permission: "view",
		}
		found := len(m.ask(t.Context(), conn, r).messages) - 1
		r.Limit = uint32(max(1, found))
		if a := m.ask(t.Context(), conn, r); found < 2 || a.Pages != 1 {
			t.Errorf("%d folders in %d pages, want at least 2 in one", found, a.Pages)
		}
	})
}
