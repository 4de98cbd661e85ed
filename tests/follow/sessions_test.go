package follow_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestSessionsMove has sessions go round among three nodes with their tokens: what is done at one, the next question at each other one sees.
func TestSessionsMove(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	e := harness.Postgres(t)
	nodes := []*node{follows(t, e, nil), follows(t, e, nil), follows(t, e, nil)}
	delegation := nodes[0].furnish(t).GetDelegationId()
	start := func(n *node, frozen bool) (*deputyv1.CheckPermissionRequest, *deputyv1.ZedToken) {
		t.Helper()
		resp, err := n.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
			AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}, Ttl: durationpb.New(time.Hour), Frozen: frozen,
		})
		if err != nil {
			t.Fatal(err)
		}
		return &deputyv1.CheckPermissionRequest{
			AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: resp.GetSession().GetSessionId()},
			Resource: harness.Ref("document:plan"), Permission: "view",
		}, resp.GetWrittenAt()
	}
	const grant = "document:plan#reader@user:alice"
	for i, first := range nodes {
		second, third := nodes[(i+1)%3], nodes[(i+2)%3]
		t.Run(fmt.Sprintf("from node %d", i), func(t *testing.T) {
			check, token := start(first, false)
			// The session goes on elsewhere, and takes the newest token along.
			ask := func(n *node, want deputyv1.Permissionship) {
				t.Helper()
				check.SessionToken = token
				token = n.wants(t, check, want).GetCheckedAt()
			}
			ask(second, has)
			ask(third, has)
			first.Delete(t, grant)
			ask(second, no)
			ask(third, no)
			second.Touch(t, grant)
			ask(third, has)
			ask(first, has)
			frozen, _ := start(second, true)
			late := fmt.Sprintf("document:late%d", i)
			third.Touch(t, late+"#tenant@tenant:acme", late+"#reader@user:alice", late+"#reader@agent:bot")
			frozen.Resource, check.Resource = harness.Ref(late), harness.Ref(late)
			for _, n := range nodes {
				ask(n, has)
				n.wants(t, frozen, no) // it was granted after the start
			}
			if _, err := third.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: check.GetSessionId()}); err != nil {
				t.Fatal(err)
			}
			ask(first, no)
			ask(second, no)
		})
	}
	// The baselines of frozen sessions are the database's to answer, where the copy has not stood at that very revision.
	for i, n := range nodes {
		if byCopy, byDatabase := n.answers(t); byCopy < 2*byDatabase {
			t.Errorf("node %d answered %.0f states from its copy and %.0f by the database", i, byCopy, byDatabase)
		}
	}
}
