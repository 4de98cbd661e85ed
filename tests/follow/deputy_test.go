package follow_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// primary starts a server on the engine embedded that others may follow.
func primary(t *testing.T) *node {
	t.Helper()
	return &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: harness.Followers()})}
}

// followsDeputy starts a server that follows another one.
func followsDeputy(t *testing.T, p *node, change func(*daemon.Config)) *node {
	t.Helper()
	cfg := harness.Following(t, p.Addr().String())
	cfg.MetricsAddr = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	s := harness.Start(t, cfg)
	return &node{s, s.MetricsAddr().String()}
}

// TestRevokedThroughPrimaryOrFollower revokes through the server that is followed, or through one that follows, and asks another one next, while all
// of them write: no answer is older than the acknowledged revocation, and it is the copy that answers.
func TestRevokedThroughPrimaryOrFollower(t *testing.T) {
	t.Parallel()
	p := primary(t)
	a, b := followsDeputy(t, p, nil), followsDeputy(t, p, nil)
	check := a.furnish(t)
	b.wants(t, check, has)
	p.wants(t, check, has)
	noise, quiet := context.WithCancel(t.Context())
	var noisy sync.WaitGroup
	defer noisy.Wait()
	defer quiet()
	for w, n := range []*node{p, a, b} {
		noisy.Go(func() {
			for i := 0; noise.Err() == nil; i++ {
				_, _ = harness.Update(noise, n.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, fmt.Sprintf("document:n%d-%d#tenant@tenant:acme", w, i%50))
			}
		})
	}
	const grant = "document:plan#reader@user:alice"
	rounds, stale, lost := revokes(t), 0, 0
	for i := range rounds {
		by, ask := []*node{p, a, p, b}[i%4], []*node{b, b, a, p}[i%4]
		wanted := func(want deputyv1.Permissionship) bool {
			resp, err := ask.check(t, check)
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			return resp.GetPermissionship() == want
		}
		by.Delete(t, grant)
		if !wanted(no) {
			stale++
		}
		by.Touch(t, grant)
		if !wanted(has) {
			lost++
		}
	}
	if stale+lost > 0 {
		t.Errorf("of %d revocations %d were not seen, and %d grants were not", rounds, stale, lost)
	}
	byCopy, byPrimary := b.answers(t)
	t.Logf("%d rounds; a follower answered %.0f states from its copy and %.0f by the server that it follows", rounds, byCopy, byPrimary)
	if byCopy < 20*byPrimary || byCopy < float64(rounds) {
		t.Errorf("a follower answered %.0f states from its copy and %.0f by the server that it follows", byCopy, byPrimary)
	}
}

// TestDeputyTokensHoldEverywhere has tokens of each server be bounds, and exact revisions, at the others.
func TestDeputyTokensHoldEverywhere(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	p := primary(t)
	a, b := followsDeputy(t, p, nil), followsDeputy(t, p, nil)
	check := a.furnish(t)
	at := func(c *deputyv1.Consistency) *deputyv1.CheckPermissionRequest {
		return &deputyv1.CheckPermissionRequest{
			AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view", Consistency: c,
		}
	}
	exactly := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: token}})
	}
	atLeast := func(token *deputyv1.ZedToken) *deputyv1.CheckPermissionRequest {
		return at(&deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}})
	}
	nodes := map[string]*node{"a follower": a, "another follower": b, "the server that is followed": p}
	for by, n := range nodes {
		before := n.wants(t, check, has).GetCheckedAt()
		n.Delete(t, "document:plan#reader@user:alice")
		after := n.wants(t, check, no).GetCheckedAt()
		for name, other := range nodes {
			t.Run(by+" and "+name, func(t *testing.T) {
				other.wants(t, exactly(before), has)
				other.wants(t, exactly(after), no)
				other.wants(t, atLeast(after), no)
				session := at(nil)
				session.SessionToken = after
				other.wants(t, session, no)
			})
		}
		n.Touch(t, "document:plan#reader@user:alice")
	}
	// Tokens of another store are none of these servers'.
	foreign := primary(t)
	theirs := foreign.furnish(t)
	token := foreign.wants(t, theirs, has).GetCheckedAt()
	for name, n := range nodes {
		for what, r := range map[string]*deputyv1.CheckPermissionRequest{"exactly": exactly(token), "at least": atLeast(token)} {
			if _, err := n.check(t, r); status.Code(err) != codes.OutOfRange {
				t.Errorf("%s takes a token of another store, %s: %v", name, what, err)
			}
		}
		session := at(nil)
		session.SessionToken = token
		if _, err := n.check(t, session); status.Code(err) != codes.OutOfRange {
			t.Errorf("%s takes a session's token of another store: %v", name, err)
		}
	}
}

// TestPrimaryStopped stops the server that is followed: calls that ask for the head are refused in time, those that do not are answered until the copy
// is too old. Once the server is back, so are its followers, by the copies that they have.
func TestPrimaryStopped(t *testing.T) {
	t.Parallel()
	on := harness.Embedded(t)
	first := harness.Start(t, daemon.Config{Engine: on, Callers: harness.Followers()})
	addr := first.Addr().String()
	const maxAge = 5 * time.Second
	n := followsDeputy(t, &node{Server: first}, func(c *daemon.Config) { c.Following.Wait, c.Following.MaxAge = 250*time.Millisecond, maxAge })
	check := n.furnish(t)
	n.wants(t, check, has)
	fast := &deputyv1.CheckPermissionRequest{
		AgentId: check.GetAgentId(), Via: check.GetVia(), Resource: check.GetResource(), Permission: "view",
		Consistency: &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}},
	}
	first.Stop()
	<-first.Stopped
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	n.wants(t, fast, has)
	resp, err := n.check(t, check)
	if err == nil {
		t.Fatalf("without the server that it follows the follower answers %v", resp.GetPermissionship())
	}
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		t.Errorf("without the server that it follows the follower fails with %v", err)
	}
	harness.NotReady(t, n.Nobody)
	if resp, err := n.check(t, fast); err == nil {
		t.Errorf("the copy is older than %s, and the follower answers %v", maxAge, resp.GetPermissionship())
	}
	again := harness.Start(t, daemon.Config{Addr: addr, Engine: on, Callers: harness.Followers()})
	again.Delete(t, "document:plan#reader@user:alice")
	harness.Ready(t, n.Nobody)
	n.wants(t, check, no)
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
		t.Errorf("the copy was loaded %.0f times, want once", loads)
	}
}

// TestOnlyFollowersFollow refuses to follow with the credential of an admin, of a follower that is bound to a tenant, and a server whose engine is not
// embedded.
func TestOnlyFollowersFollow(t *testing.T) {
	t.Parallel()
	bound := harness.Followers()[0]
	narrow := *bound
	narrow.Name, narrow.Bounds = "bound", authz.Unbounded()
	narrow.Bounds.Tenants = authz.NamesOf("acme")
	narrow.Credentials = []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte("key-of-a-bound-follower"))}}
	p := &node{Server: harness.Start(t, daemon.Config{Engine: harness.Embedded(t), Callers: append(harness.Followers(), &narrow)})}
	memory := &node{Server: harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Memory}, Callers: harness.Followers()})}
	p.furnish(t)
	for name, c := range map[string]struct {
		conn *node
		key  string
		want codes.Code
	}{
		"a follower": {p, harness.FollowerKey, codes.OK}, "an admin": {p, harness.AdminKey, codes.PermissionDenied},
		"a service": {p, harness.ServiceKey, codes.PermissionDenied}, "nobody": {p, "", codes.Unauthenticated},
		"a bound follower": {p, "key-of-a-bound-follower", codes.PermissionDenied}, "the engine memory": {memory, harness.FollowerKey, codes.FailedPrecondition},
	} {
		conn := harness.Dial(t, c.conn.Addr().String(), c.key)
		if _, err := deputyv1.NewFollowServiceClient(conn).GetHead(t.Context(), &deputyv1.GetHeadRequest{}); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
