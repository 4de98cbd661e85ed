package decision_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// everything looks up all vaults that a way of acting reaches, page by page, and returns the ids of those that are
// reached, and of those that failed, sorted.
func (w *world) everything(c check, limit uint32) (reached, failed []string) {
	w.Helper()
	r := lookup(c, limit)
	r.ResourceObjectType = "vault"
	for {
		found, broken, end, err := w.piece(r)
		w.ok(err)
		for _, f := range found {
			if f.GetPermissionship() != has || f.GetTenantId() != "acme" || f.GetPrincipal().GetObjectId() != "alice" {
				w.Errorf("found %v", f)
			}
			reached = append(reached, f.GetResource().GetObjectId())
		}
		for _, f := range broken {
			failed = append(failed, f.GetResource().GetObjectId())
			// It fails with what a check of it answers.
			one := check{&deputyv1.CheckPermissionRequest{
				AgentId: c.GetAgentId(), Via: c.GetVia(), OnBehalfOf: f.GetPrincipal(), TenantId: f.GetTenantId(),
				Resource: f.GetResource(), Permission: "view", Context: c.GetContext(),
			}}
			_, err := w.Permissions().CheckPermission(w.Context(), one.CheckPermissionRequest)
			w.fails(err, codes.Code(f.GetError().GetCode()), f.GetError().GetReason(), f.GetError().GetField())
			if err == nil || f.GetError().GetMessage() == "" || f.GetDelegationId() == "" {
				w.Errorf("failed with %v, and a check answers %v", f, err)
			}
		}
		if end.GetResults() != uint64(len(found)) || end.GetFailed() != uint64(len(broken)) || limit > 0 && len(found)+len(broken) > int(limit) {
			w.Errorf("%d found and %d failed of at most %d, and the end says %v", len(found), len(broken), limit, end)
		}
		if end.GetComplete() {
			slices.Sort(reached)
			slices.Sort(failed)
			return reached, failed
		}
		r.Cursor = end.GetNext()
	}
}

// TestOneBadObjectDoesNotEndALookup: an object for which there is no answer, because it leads back to itself, or has a
// caveat that cannot be evaluated, is named as failed if it is the tenant's own, and left out if it is not; everything
// else is found, whatever the page size.
func TestOneBadObjectDoesNotEndALookup(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newVaults(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		var good []string
		for i := range 7 {
			id := fmt.Sprintf("good%d", i)
			v := "vault:" + id
			s.Touch(t, v+"#owner@tenant:acme", v+"#reader@user:alice", v+"#reader@agent:bot")
			good = append(good, id)
		}
		want := func(c check, failed ...string) {
			t.Helper()
			for _, limit := range []uint32{0, 1, 3} {
				reached, broken := w.everything(c, limit)
				if !slices.Equal(reached, good) || !slices.Equal(broken, failed) {
					t.Errorf("limit %d: reached %v and failed %v, want %v and %v", limit, reached, broken, good, failed)
				}
			}
		}
		want(under(d))

		// A caveat that cannot be evaluated: on an own object, and on a foreign one.
		s.Touch(t, "vault:halves#owner@tenant:acme", "vault:halves#reader@user:alice", `vault:halves#reader@agent:bot[ratio:{"part":1}]`,
			"vault:others#owner@tenant:globex", "vault:others#reader@user:alice", `vault:others#reader@agent:bot[ratio:{"part":1}]`)
		want(under(d).with(map[string]any{"whole": 0}), "halves")
		s.Delete(t, "vault:halves#owner@tenant:acme", "vault:others#owner@tenant:globex")

		// A folder that is its own parent, and nobody's. What is in it is denied, if a check of it is.
		s.Touch(t, "vault:loop#upper@vault:loop", "vault:loop#reader@user:alice", "vault:loop#reader@agent:bot")
		want(under(d))
		// And one in a circle that is the tenant's, but not the principal's.
		s.Touch(t, "vault:good0#upper@vault:ring1", "vault:ring1#upper@vault:ring2", "vault:ring2#upper@vault:ring1", "vault:ring2#reader@agent:bot")
		reached, failed := w.everything(under(d), 2)
		for _, id := range good {
			resp, err := w.Permissions().CheckPermission(t.Context(), under(d).view("vault:"+id).CheckPermissionRequest)
			allowed := err == nil && resp.GetPermissionship() == has
			if slices.Contains(reached, id) != allowed || slices.Contains(failed, id) != (err != nil) {
				t.Errorf("%s: reached %v, failed %v, but a check answers %v, %v", id, reached, failed, resp, err)
			}
		}
		if len(reached) < len(good)-1 {
			t.Errorf("only %v are reached", reached)
		}
	})
}

// TestOneBadPairDoesNotEndALookupOfAgents: an agent with a principal for which there is no answer is named as failed,
// and the others are found.
func TestOneBadPairDoesNotEndALookupOfAgents(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newVaults(t, s)
		for _, who := range []string{"user:alice", "user:bob", "user:dave"} {
			w.delegate(&deputyv1.CreateDelegationRequest{Principal: subject(who), Unscoped: true, AllowDirect: true})
		}
		s.Touch(t, "vault:own#owner@tenant:acme", "vault:own#reader@agent:bot", "vault:own#reader@user:alice",
			`vault:own#reader@user:bob[ratio:{"part":1,"whole":0}]`, "vault:own#reader@user:dave")
		var found, failed []string
		r := &deputyv1.LookupAgentsRequest{Resource: harness.Ref("vault:own"), Permission: "view", Limit: 1}
		for complete := false; !complete; {
			stream, err := w.Audit().LookupAgents(t.Context(), r)
			w.ok(err)
			for {
				resp, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				w.ok(err)
				switch {
				case resp.GetEnd() != nil:
					complete, r.Cursor = resp.GetEnd().GetComplete(), resp.GetEnd().GetNext()
				case resp.GetFailed() != nil:
					one := resp.GetFailed()
					failed = append(failed, one.GetAgentId()+" for "+one.GetPrincipal().GetObjectId())
					if one.GetError().GetCode() == 0 || one.GetError().GetMessage() == "" || one.GetDelegationId() == "" {
						t.Errorf("failed without a reason: %v", one)
					}
				default:
					found = append(found, resp.GetAgent().GetAgentId()+" for "+resp.GetAgent().GetPrincipal().GetObjectId())
				}
			}
		}
		slices.Sort(found)
		if strings.Join(found, ", ") != "bot for alice, bot for dave" || strings.Join(failed, ", ") != "bot for bob" {
			t.Errorf("found %v, failed %v", found, failed)
		}
	})
}
