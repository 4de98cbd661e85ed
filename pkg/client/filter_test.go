package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestFilter: what a filter asks goes over the wire whole, in a session with its agent and its newest token; its answer keeps apart what is allowed, what
// depends on context, and what failed; and with an error nothing is allowed.
func TestFilter(t *testing.T) {
	var got *deputyv1.FilterResourcesRequest
	var fails error
	c := serve(t, &answers{filter: func(_ context.Context, r *deputyv1.FilterResourcesRequest) (*deputyv1.FilterResourcesResponse, error) {
		got = r
		return &deputyv1.FilterResourcesResponse{
			CheckedAt: token("filtered"), AllowedObjectIds: []string{"b", "a", "b"},
			Conditional: []*deputyv1.ConditionalObject{{ObjectId: "c", MissingContext: []string{"hour"}}},
			Failed:      []*deputyv1.FailedObject{{ObjectId: "d", Error: &deputyv1.ErrorStatus{Code: int32(codes.FailedPrecondition)}}, {ObjectId: "e"}},
			RefusedBy:   deputyv1.RefusedBy_REFUSED_BY_ACTOR,
		}, fails
	}})
	q := FilterQuery{
		Principal: User("alice"), Tenant: "acme", Type: "document", Permission: "view", Context: Context{"hour": 9},
	}
	s := start(t, c)
	found, err := s.FilterResources(t.Context(), q, "b", "a", "b", "c", "d", "e", "f")
	if err != nil {
		t.Fatal(err)
	}
	const asked = "agent_id:'bot' session_id:'s1' on_behalf_of:{object_type:'user' object_id:'alice'} tenant_id:'acme' resource_object_type:'document' " +
		"resource_object_ids:'b' resource_object_ids:'a' resource_object_ids:'b' resource_object_ids:'c' resource_object_ids:'d' resource_object_ids:'e' " +
		"resource_object_ids:'f' permission:'view' context:{fields:{key:'hour' value:{number_value:9}}} session_token:{token:'started'}"
	if text := strings.ReplaceAll(strings.Join(strings.Fields(got.String()), " "), `"`, "'"); text != asked {
		t.Errorf("asked %s", text)
	}
	if fmt.Sprint(found.Allowed, found.Conditional, found.ActorRefused) != "[b a b] [{c [hour]}] true" || found.At.GetToken() != "filtered" || s.Token() != found.At {
		t.Errorf("found %+v, and the session knows of %v", found, s.Token())
	}
	if len(found.Failed) != 2 || found.Failed[0].ID != "d" || status.Code(found.Failed[0].Err) != codes.FailedPrecondition || found.Failed[1].Err == nil {
		t.Errorf("failed %+v", found.Failed)
	}

	if _, err := s.Snapshot(token("then")).FilterResources(t.Context(), q, "a"); err != nil || got.GetConsistency().GetAtExactSnapshot().GetToken() != "then" {
		t.Errorf("at a snapshot: %v, %v", got, err)
	}
	q.Agent, q.Delegation = "bot", "d1"
	if _, err := c.FilterResources(t.Context(), q, "a"); err != nil || got.GetDelegationId() != "d1" || got.GetAgentId() != "bot" {
		t.Errorf("under a delegation: %v, %v", got, err)
	}
	got = nil
	if _, err := s.FilterResources(t.Context(), q, "a"); err == nil || got != nil {
		t.Errorf("a session asks for another actor: %v, %v", got, err)
	}
	q.Session = "s1"
	if _, err := c.FilterResources(t.Context(), q, "a"); err == nil || got != nil {
		t.Errorf("in a session and under a delegation: %v, %v", got, err)
	}
	q.Session, fails = "", status.Error(codes.Unavailable, "later")
	if found, err := c.FilterResources(t.Context(), q, "a"); status.Code(err) != codes.Unavailable || found.Allowed != nil {
		t.Errorf("%+v, %v", found, err)
	}
}
