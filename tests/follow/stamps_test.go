package follow_test

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// stampOf reads the moment that a token is stamped with: 8 bytes, big endian, nanoseconds since 1970, after two others.
func stampOf(t *testing.T, token *deputyv1.ZedToken) time.Time {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(token.GetToken())
	if err != nil || len(b) < 10 {
		t.Fatalf("%q is no token: %v", token.GetToken(), err)
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b[2:10])))
}

// lastOf reads a stream to its end, and returns its last message.
func lastOf[M any](t *testing.T, stream grpc.ServerStreamingClient[M], err error) *M {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var last *M
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last
		}
		if err != nil {
			t.Fatal(err)
		}
		last = m
	}
}

// TestStampsOfStaleAnswers stops the server that is followed. Nothing that its follower answers from then on was the newest state at a later moment,
// and so no token of any answer is stamped with one, nor is that of the next page.
func TestStampsOfStaleAnswers(t *testing.T) { //nolint:tparallel // they share the servers
	t.Parallel()
	first := harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: harness.Followers()})
	n := followsDeputy(t, &node{Server: first}, func(c *daemon.Config) { c.Following.Wait, c.Following.MaxAge = 250*time.Millisecond, time.Hour })
	check := n.furnish(t)
	n.Touch(t, grants("next")...)
	n.wants(t, of(check, "next"), has)
	first.Stop()
	<-first.Stopped
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	stale := func() *deputyv1.Consistency {
		return &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}}
	}
	checkOf := func() *deputyv1.CheckPermissionRequest {
		r := of(check, "plan")
		r.Consistency = stale()
		return r
	}
	lookup := func(t *testing.T, r *deputyv1.LookupResourcesRequest) *deputyv1.LookupEnd {
		t.Helper()
		r.AgentId, r.ResourceObjectType, r.Permission, r.Limit = "bot", "document", "view", 1
		r.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: check.GetDelegationId()}
		stream, err := n.Permissions().LookupResources(t.Context(), r)
		return lastOf(t, stream, err).GetEnd()
	}
	for name, ask := range map[string]func(t *testing.T) (*deputyv1.ZedToken, error){
		"CheckPermission": func(t *testing.T) (*deputyv1.ZedToken, error) {
			resp, err := n.Permissions().CheckPermission(t.Context(), checkOf())
			return resp.GetCheckedAt(), err
		},
		"CheckBulkPermissions": func(t *testing.T) (*deputyv1.ZedToken, error) {
			resp, err := n.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{
				Consistency: stale(), Items: []*deputyv1.CheckBulkPermissionsRequestItem{{
					AgentId: "bot", Via: &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: check.GetDelegationId()},
					Resource: check.GetResource(), Permission: "view",
				}},
			})
			return resp.GetCheckedAt(), err
		},
		"ExplainPermission": func(t *testing.T) (*deputyv1.ZedToken, error) {
			resp, err := n.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: checkOf()})
			return resp.GetDecision().GetCheckedAt(), err
		},
		"FilterResources": func(t *testing.T) (*deputyv1.ZedToken, error) {
			resp, err := n.Permissions().FilterResources(t.Context(), &deputyv1.FilterResourcesRequest{
				AgentId: "bot", Via: &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: check.GetDelegationId()},
				ResourceObjectType: "document", ResourceObjectIds: []string{"plan"}, Permission: "view", Consistency: stale(),
			})
			return resp.GetCheckedAt(), err
		},
		"LookupResources": func(t *testing.T) (*deputyv1.ZedToken, error) {
			return lookup(t, &deputyv1.LookupResourcesRequest{Consistency: stale()}).GetLookedUpAt(), nil
		},
		"LookupAgents": func(t *testing.T) (*deputyv1.ZedToken, error) {
			stream, err := n.Audit().LookupAgents(t.Context(), &deputyv1.LookupAgentsRequest{
				Resource: check.GetResource(), Permission: "view", Consistency: stale(),
			})
			return lastOf(t, stream, err).GetEnd().GetLookedUpAt(), nil
		},
		"ReadReach": func(t *testing.T) (*deputyv1.ZedToken, error) {
			stream, err := deputyv1.NewReachServiceClient(n.Admin).ReadReach(t.Context(), &deputyv1.ReadReachRequest{
				Of: &deputyv1.ReadReachRequest_AgentId{AgentId: "bot"}, Consistency: stale(),
			})
			return lastOf(t, stream, err).GetEnd().GetLookedUpAt(), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := ask(t)
			if err != nil {
				t.Fatal(err)
			}
			if late := stampOf(t, token).Sub(stopped); late > 0 {
				t.Errorf("the token is stamped %s after the last moment at which its revision can have been the newest", late)
			}
		})
	}
	t.Run("the next page of LookupResources", func(t *testing.T) {
		end := lookup(t, &deputyv1.LookupResourcesRequest{Consistency: stale()})
		if end.GetNext() == nil {
			t.Fatal("the first page has everything, and the test tests nothing")
		}
		b, err := base64.RawURLEncoding.DecodeString(end.GetNext().GetToken())
		if err != nil || len(b) < 10 {
			t.Fatalf("%q is no cursor: %v", end.GetNext().GetToken(), err)
		}
		if late := time.Unix(0, int64(binary.BigEndian.Uint64(b[2:10]))).Sub(stopped); late > 0 {
			t.Errorf("the cursor is stamped %s too late", late)
		}
	})
}
