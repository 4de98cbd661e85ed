package decision_test

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestBleed: Alice delegated to the bot, Bob did not. Acting for Bob, the bot is refused what Alice can
// see, and what Bob himself can see, through every service of the API.
func TestBleed(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		run := w.start(target(d))
		w.allow(inSession(run).actingFor("user:alice").in("acme").view("document:plan"))
		w.allow(inSession(run).view("document:both"))

		ways := map[string]check{
			"session":    inSession(run).actingFor("user:bob").in("acme"),
			"delegation": under(d).actingFor("user:bob").in("acme"),
			"agent":      asAgent("bot").actingFor("user:bob").in("acme"),
		}
		items := []*deputyv1.CheckBulkPermissionsRequestItem{}
		for name, way := range ways {
			for _, object := range []string{"document:plan", "document:bobs", "document:both"} {
				c := way.view(object)
				w.deny(c, byActor)
				explained, err := w.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest})
				w.ok(err)
				if explained.GetDecision().GetPermissionship() != no {
					t.Errorf("%s: explained as %v", name, explained.GetDecision())
				}
				item := &deputyv1.CheckBulkPermissionsRequestItem{
					AgentId: "bot", OnBehalfOf: c.GetOnBehalfOf(), TenantId: "acme", Resource: c.GetResource(), Permission: "view",
				}
				switch via := c.GetVia().(type) {
				case *deputyv1.CheckPermissionRequest_SessionId:
					item.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: via.SessionId}
				case *deputyv1.CheckPermissionRequest_DelegationId:
					item.Via = &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: via.DelegationId}
				}
				items = append(items, item)
			}
			reached, end := w.reach(way)
			if len(reached) != 0 || !end.GetComplete() {
				t.Errorf("%s: a look-up for bob reaches %v", name, reached)
			}
		}
		bulk, err := w.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{Items: items})
		w.ok(err)
		for i, pair := range bulk.GetPairs() {
			if pair.GetItem().GetPermissionship() != no {
				t.Errorf("bulk item %v: %v", items[i], pair)
			}
		}
		for _, found := range w.reachers("document:both") {
			if found.GetPrincipal().GetObjectId() != "alice" {
				t.Errorf("the document is said to be reached for %v", found)
			}
		}
		// Nor can a session be started, or a part be passed on, for Bob.
		_, err = w.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d, "user:bob")}})
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "targets[0].principals[0]")
		_, err = w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "sub", ParentDelegationId: d.GetDelegationId(), Principal: subject("user:bob"),
		})
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "principal")
		// And nobody can grant it in his place.
		_, err = w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "bot", Principal: subject("user:bob"), TenantId: "acme", GrantedBy: harness.Ref("user:alice"), Unscoped: true, Ttl: hour,
		})
		w.fails(err, codes.FailedPrecondition, "NOT_ENTITLED", "")
	})
}

// reach looks up the documents that a way of acting reaches, page by page.
func (w *world) reach(c check) ([]*deputyv1.ReachedResource, *deputyv1.LookupEnd) {
	w.Helper()
	r := &deputyv1.LookupResourcesRequest{
		AgentId: c.GetAgentId(), OnBehalfOf: c.GetOnBehalfOf(), TenantId: c.GetTenantId(),
		ResourceObjectType: "document", Permission: "view", Context: c.GetContext(), Limit: 2,
	}
	switch via := c.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		r.Via = &deputyv1.LookupResourcesRequest_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		r.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: via.DelegationId}
	}
	var out []*deputyv1.ReachedResource
	for {
		stream, err := w.Permissions().LookupResources(w.Context(), r)
		w.ok(err)
		var end *deputyv1.LookupEnd
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			w.ok(err)
			if resp.GetEnd() != nil {
				end = resp.GetEnd()
				continue
			}
			out = append(out, resp.GetResource())
		}
		if end == nil {
			w.Fatal("the stream has no end")
		}
		if end.GetComplete() {
			return out, end
		}
		r.Cursor = end.GetNext()
	}
}

// reachers looks up who reaches an object, page by page.
func (w *world) reachers(object string) []*deputyv1.ReachingAgent {
	w.Helper()
	r := &deputyv1.LookupAgentsRequest{Resource: harness.Ref(object), Permission: "view", Limit: 1}
	var out []*deputyv1.ReachingAgent
	for {
		stream, err := w.Audit().LookupAgents(w.Context(), r)
		w.ok(err)
		var end *deputyv1.LookupEnd
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			w.ok(err)
			if resp.GetEnd() != nil {
				end = resp.GetEnd()
				continue
			}
			out = append(out, resp.GetAgent())
		}
		if end.GetComplete() {
			return out
		}
		r.Cursor = end.GetNext()
	}
}
