package decision_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// filter is a check of documents with the ids.
func filter(c check, ids ...string) *deputyv1.FilterResourcesRequest {
	r := &deputyv1.FilterResourcesRequest{
		AgentId: c.GetAgentId(), OnBehalfOf: c.GetOnBehalfOf(), TenantId: c.GetTenantId(), Permission: "view", Context: c.GetContext(),
		ResourceObjectType: "document", ResourceObjectIds: ids, Consistency: c.GetConsistency(), SessionToken: c.GetSessionToken(),
	}
	switch via := c.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		r.Via = &deputyv1.FilterResourcesRequest_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		r.Via = &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: via.DelegationId}
	}
	return r
}

// filtered filters, and shows the answer in a line.
func (w *world) filtered(r *deputyv1.FilterResourcesRequest) string {
	w.Helper()
	resp, err := w.Permissions().FilterResources(w.Context(), r)
	w.ok(err)
	line := fmt.Sprint(resp.GetAllowedObjectIds())
	for _, c := range resp.GetConditional() {
		line += fmt.Sprint(", ", c.GetObjectId(), " if ", c.GetMissingContext())
	}
	for _, f := range resp.GetFailed() {
		line += fmt.Sprintf(", %s fails with %s %s %s", f.GetObjectId(), codes.Code(f.GetError().GetCode()), f.GetError().GetReason(), f.GetError().GetField())
	}
	if resp.GetRefusedBy() != deputyv1.RefusedBy_REFUSED_BY_UNSPECIFIED {
		line += ", " + resp.GetRefusedBy().String()
	}
	return line
}

// TestFilter filters documents in every way that a check can be asked: what is absent, foreign and forbidden is left out alike, and the actor is judged
// at the head at an exact snapshot too.
func TestFilter(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		session := w.start(target(d))
		frozen := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: true})
		s.Touch(t, "document:late#tenant@tenant:acme", "document:late#reader@user:alice", "document:late#reader@agent:bot")
		ids := []string{"late", "daily", "both", "foreign", "bobs", "none", "*", "plan", "both"}
		const rest = ", daily if [hour], * fails with InvalidArgument INVALID_FIELD resource_object_ids[6]"
		for name, c := range map[string]check{
			"a session": inSession(session), "a delegation": under(d), "the agent alone": asAgent("bot").actingFor("user:alice").in("acme"),
			"a case for one principal": inSession(session).actingFor("user:alice").in("acme"),
		} {
			if got := w.filtered(filter(c, ids...)); got != "[late both plan both]"+rest {
				t.Errorf("%s: %s", name, got)
			}
		}
		if got := w.filtered(filter(inSession(frozen), ids...)); got != "[both plan both]"+rest {
			t.Errorf("a frozen session: %s", got)
		}
		if got := w.filtered(filter(under(d).with(map[string]any{"hour": 10}), "daily", "none")); got != "[daily]" {
			t.Errorf("with context: %s", got)
		}
		omitting := filter(under(d), "daily", "plan")
		omitting.OmitConditional = true
		if got := w.filtered(omitting); got != "[plan]" {
			t.Errorf("without what is conditional: %s", got)
		}
		if got := w.filtered(filter(under(d), "", "*")); got != "[],  fails with InvalidArgument INVALID_FIELD resource_object_ids[0], * fails with InvalidArgument INVALID_FIELD resource_object_ids[1]" {
			t.Errorf("ids that are none: %s", got)
		}
		if got := w.filtered(filter(under(d).by("sub"), "plan")); got != "[], REFUSED_BY_ACTOR" {
			t.Errorf("another agent: %s", got)
		}
		fails := func(r *deputyv1.FilterResourcesRequest, code codes.Code, reason, field string) {
			t.Helper()
			_, err := w.Permissions().FilterResources(t.Context(), r)
			w.fails(err, code, reason, field)
		}
		fails(filter(under(d)), codes.InvalidArgument, "INVALID_FIELD", "resource_object_ids")
		fails(filter(under(d), slices.Repeat([]string{"plan"}, 10_001)...), codes.InvalidArgument, "INVALID_FIELD", "resource_object_ids")
		fails(filter(asAgent("bot"), "plan"), codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of")
		typeless := filter(under(d), "plan")
		typeless.ResourceObjectType = "starship"
		fails(typeless, codes.InvalidArgument, "UNKNOWN_TYPE", "resource_object_type")

		// At an exact snapshot what was granted since is not there, and a session that has ended since refuses.
		at := w.decide(under(d).view("document:plan")).GetCheckedAt()
		s.Delete(t, "document:both#reader@user:alice")
		if got := w.filtered(filter(inSession(session).at(at), "both", "plan")); got != "[both plan]" {
			t.Errorf("at a snapshot: %s", got)
		}
		if got := w.filtered(filter(inSession(session), "both", "plan")); got != "[plan]" {
			t.Errorf("at the head: %s", got)
		}
		_, err := s.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: session.GetSessionId()})
		w.ok(err)
		if got := w.filtered(filter(inSession(session).at(at), "both", "plan")); got != "[], REFUSED_BY_ACTOR" {
			t.Errorf("in a session that has ended since: %s", got)
		}
	})
}

// TestFilterOfManyObjects filters as many objects as one call takes, many pages of them, weighed under several delegations, of which one allows some
// and the other one others.
func TestFilterOfManyObjects(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	w := newWorld(t, s)
	for _, what := range []string{"document:plan", "document:both"} {
		w.delegate(&deputyv1.CreateDelegationRequest{AllowDirect: true, Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref(what), Relation: "reader"}}})
	}
	kinds := []string{"plan", "none", "foreign", "both", "bobs", "daily", "both"}
	var ids, want []string
	for i := range 10_000 {
		id := kinds[(i*i+i/7)%len(kinds)]
		ids = append(ids, id)
		if id == "plan" || id == "both" {
			want = append(want, id)
		}
	}
	resp, err := w.Permissions().FilterResources(t.Context(), filter(asAgent("bot").actingFor("user:alice").in("acme"), ids...))
	w.ok(err)
	if got := resp.GetAllowedObjectIds(); !slices.Equal(got, want) || len(resp.GetConditional())+len(resp.GetFailed()) > 0 || len(want) < 2000 {
		t.Errorf("%d of %d are allowed, %v, %v", len(got), len(want), resp.GetConditional(), resp.GetFailed())
	}
}
