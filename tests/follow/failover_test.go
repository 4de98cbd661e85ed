package follow_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// eventually waits until a condition holds, and fails the test where it does not within a minute. It returns how long that took.
func eventually(t *testing.T, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(began) > time.Minute {
			t.Fatalf("a minute has passed, and still not: %s", what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// primaryWith is a cluster with an empty database of SpiceDB's, and another one that is written to all the time.
func primaryWith(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c := pgtest.NewCluster(t)
	if err := engine.Migrate(t.Context(), engine.Config{Kind: engine.Postgres, URI: c.Create(t, "deputy")}, "head"); err != nil {
		t.Fatal(err)
	}
	c.KeepWriting(t, "busy")
	return c
}

// over is the engine over a database of several clusters, of which the primary is taken.
func over(clusters ...*pgtest.Cluster) engine.Config {
	return engine.Config{Kind: engine.Postgres, URI: pgtest.URI("deputy", clusters...)}
}

// surviving starts a server that follows and whose database will fail.
func surviving(t *testing.T, e engine.Config, change func(*daemon.Config)) *node {
	t.Helper()
	n := follows(t, e, change)
	n.Failed = true // its heartbeat may be cut off
	return n
}

// of is a check of the same actor on another document.
func of(check *deputyv1.CheckPermissionRequest, document string) *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: check.GetAgentId(), Via: check.GetVia(), Permission: "view", Resource: harness.Ref("document:" + document),
	}
}

// grants are the relationships by which the actor of furnish may view a document.
func grants(document string) []string {
	return []string{
		"document:" + document + "#tenant@tenant:acme", "document:" + document + "#reader@user:alice", "document:" + document + "#reader@agent:bot",
	}
}

// reader is the relationship that is deleted to revoke a document.
func reader(document string) string { return "document:" + document + "#reader@user:alice" }

// answer is what a node says; an error is none.
func (n *node) answer(t *testing.T, check *deputyv1.CheckPermissionRequest) deputyv1.Permissionship {
	t.Helper()
	resp, err := n.check(t, check)
	if err != nil {
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Errorf("a check fails with %v", err)
		}
		return deputyv1.Permissionship_PERMISSIONSHIP_UNSPECIFIED
	}
	return resp.GetPermissionship()
}

// lossy is a failover to a replica that lagged: two nodes over a primary, which has acknowledged writes that its replica does not have.
type lossy struct {
	primary, replica *pgtest.Cluster
	a, b             *node
	check            *deputyv1.CheckPermissionRequest
	// lost is how many transactions of SpiceDB's that were acknowledged the replica lacks.
	lost int
	// next is the transaction id that the primary would have used next.
	next string
	// token is one of the lost time.
	token *deputyv1.ZedToken
}

// The documents of a lossy failover, and what the actor may do with them by the replica: kept and ended are as they were. What was done to granted,
// lost-19 and revoked is lost.
var afterLoss = map[string]deputyv1.Permissionship{"kept": has, "ended": no, "granted": no, "lost-19": no, "revoked": has}

// losing acknowledges writes that the replica does not get. Nothing is promoted yet.
func losing(t *testing.T) *lossy {
	t.Helper()
	l := &lossy{primary: primaryWith(t)}
	l.replica = l.primary.Standby(t)
	e := over(l.primary, l.replica)
	l.a, l.b = surviving(t, e, nil), surviving(t, e, nil)
	l.check = l.a.furnish(t)
	for _, document := range []string{"kept", "ended", "revoked"} {
		l.a.Touch(t, grants(document)...)
	}
	l.a.Delete(t, reader("ended"))
	l.replica.CatchUp(t, l.primary)
	l.replica.Detach(t)
	const count = "SELECT count(*)::text FROM relation_tuple_transaction"
	before := l.replica.Query(t, "deputy", count)
	l.a.Touch(t, grants("granted")...)
	l.a.Delete(t, reader("revoked"))
	for i := range 20 {
		l.a.Touch(t, grants(fmt.Sprintf("lost-%d", i))...)
	}
	for _, n := range []*node{l.a, l.b} {
		n.wants(t, of(l.check, "granted"), has)
		n.wants(t, of(l.check, "lost-19"), has)
		l.token = n.wants(t, of(l.check, "revoked"), no).GetCheckedAt()
	}
	var had, has int
	if _, err := fmt.Sscan(before+" "+l.primary.Query(t, "deputy", count), &had, &has); err != nil {
		t.Fatal(err)
	}
	l.lost = has - had
	t.Logf("the replica lacks %d transactions of SpiceDB's", l.lost)
	if l.lost < 22 {
		t.Fatalf("the replica lacks %d transactions, and the test tests nothing", l.lost)
	}
	return l
}

// fail kills the primary and promotes the replica.
func (l *lossy) fail(t *testing.T) {
	t.Helper()
	l.next = l.primary.Query(t, "postgres", "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
	l.primary.Crash(t)
	l.replica.Promote(t)
}

// reuse has SpiceDB use the ids of the lost transactions again, by a server that knows nothing of them, and as many ids of others.
func (l *lossy) reuse(t *testing.T) {
	t.Helper()
	plain := harness.Start(t, daemon.Config{Engine: over(l.replica)})
	for i := range l.lost {
		plain.Touch(t, fmt.Sprintf("document:later-%d#tenant@tenant:acme", i))
	}
	const beyond = "SELECT (pg_snapshot_xmin(pg_current_snapshot()) > '%s'::xid8)::text"
	for l.replica.Query(t, "postgres", fmt.Sprintf(beyond, l.next)) != "true" {
		l.replica.SpendTransactions(t, 100)
	}
	for range 5 {
		plain.Touch(t, "document:later-0#tenant@tenant:acme")
	}
}

// settled checks what a node answers once it serves again.
func (l *lossy) settled(t *testing.T, n *node) {
	t.Helper()
	// While the copy is loaded the database answers, and for minimize_latency at a state that may be some seconds old.
	eventually(t, "the copy serves", func() bool { return n.figure(t, "deputy_follow_serves") == 1 })
	for document, want := range afterLoss {
		n.wants(t, of(l.check, document), want)
		stale := of(l.check, document)
		stale.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}}
		n.wants(t, stale, want)
	}
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 2 {
		t.Errorf("the copy was loaded %.0f times, want twice: at first, and of the history that is true now", loads)
	}
}

// watched asks nodes for the head, again and again, until stop is called, and fails the test where an answer shows a write that was lost.
func (l *lossy) watched(t *testing.T) (stop func()) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for _, n := range []*node{l.a, l.b} {
		for _, document := range []string{"granted", "revoked", "ended", "lost-19"} {
			asking.Go(func() {
				for ctx.Err() == nil {
					resp, err := n.Permissions().CheckPermission(ctx, of(l.check, document))
					if err == nil && resp.GetPermissionship() != afterLoss[document] {
						t.Errorf("after the failover %s is answered %v", document, resp.GetPermissionship())
						return
					}
					select {
					case <-ctx.Done():
					case <-time.After(5 * time.Millisecond): // the machine is others' too
					}
				}
			})
		}
	}
	var once sync.Once
	stop = func() { once.Do(func() { end(); asking.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// TestFailoverLosesWrites fails over to a replica that lagged, and has the new primary use the ids of the lost transactions again. No answer shows
// a write that was lost: a lost grant is gone, and a revocation that was lost has never been, which is what the database says. The copies are
// loaded anew.
func TestFailoverLosesWrites(t *testing.T) {
	t.Parallel()
	l := losing(t)
	l.fail(t)
	stop := l.watched(t)
	l.reuse(t)
	for _, n := range []*node{l.a, l.b} {
		took := eventually(t, "the server answers again", func() bool { return n.answer(t, of(l.check, "kept")) == has })
		t.Logf("it answers %s after the ids were used again", took.Round(time.Millisecond))
		l.settled(t, n)
	}
	stop()
	// What is written from now on is seen as ever.
	l.a.Delete(t, reader("revoked"))
	l.b.wants(t, of(l.check, "revoked"), no)
	l.b.Touch(t, reader("revoked"))
	l.a.wants(t, of(l.check, "revoked"), has)
}

// TestFailoverLosesNothing fails over to a replica that has every commit before it is acknowledged, while grants are revoked and given. Everything
// that was acknowledged is in force afterwards, and tokens of before are refused.
func TestFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	primary := primaryWith(t)
	replica := primary.Standby(t)
	primary.Synchronous(t)
	e := over(primary, replica)
	a, b := surviving(t, e, nil), surviving(t, e, nil)
	check := a.furnish(t)
	const documents = 200
	for i := range documents {
		a.Touch(t, grants(fmt.Sprintf("d%d", i))...)
	}
	// Each document is revoked once, one after the other, until the primary is gone: acknowledged ones are 0 to acked-1.
	type revoked struct {
		n     int
		token *deputyv1.ZedToken
	}
	progress, ended := make(chan revoked, documents), make(chan struct{})
	go func() {
		defer close(ended)
		for i := range documents {
			if _, err := harness.Update(t.Context(), a.Admin, v1.RelationshipUpdate_OPERATION_DELETE, reader(fmt.Sprintf("d%d", i))); err != nil {
				return // it may have taken place or not
			}
			resp, err := b.Permissions().CheckPermission(t.Context(), of(check, fmt.Sprintf("d%d", i)))
			if err != nil {
				progress <- revoked{i + 1, nil}
				return
			}
			if resp.GetPermissionship() != no {
				t.Errorf("d%d was revoked, and is answered %v", i, resp.GetPermissionship())
			}
			progress <- revoked{i + 1, resp.GetCheckedAt()}
		}
	}()
	var tokens []*deputyv1.ZedToken
	acked := 0
	take := func(r revoked) {
		acked = r.n
		if r.token != nil {
			tokens = append(tokens, r.token)
		}
	}
	for acked < documents/10 {
		take(<-progress)
	}
	primary.Crash(t)
	<-ended
	close(progress)
	for r := range progress {
		take(r)
	}
	if acked == documents {
		t.Fatal("all were revoked before the primary was gone, and the test tests nothing")
	}
	replica.Promote(t)
	replica.KeepWriting(t, "busy-again")
	t.Logf("%d of %d revocations were acknowledged", acked, documents)
	stale, lost := 0, 0
	for name, n := range map[string]*node{"a": a, "b": b} {
		took := eventually(t, "the server answers again", func() bool { return n.answer(t, of(check, "plan")) == has })
		t.Logf("%s answers %s after the promotion", name, took.Round(time.Millisecond))
		for i := range documents {
			switch got := n.answer(t, of(check, fmt.Sprintf("d%d", i))); {
			case i < acked && got != no:
				stale++
			case i > acked && got != has: // the one that was under way is either
				lost++
			}
		}
		if loads := n.figure(t, "deputy_follow_loads_total"); loads != 2 {
			t.Errorf("the copy was loaded %.0f times, want twice", loads)
		}
	}
	if stale+lost > 0 {
		t.Errorf("after the failover %d acknowledged revocations are not in force, and %d grants are gone", stale, lost)
	}
	if len(tokens) == 0 {
		t.Fatal("no token of before the failover is known, and the test tests nothing of them")
	}
	for i, token := range tokens[max(0, len(tokens)-10):] {
		i += max(0, len(tokens)-10)
		for name, c := range map[string]*deputyv1.Consistency{
			"exactly":  {Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: token}},
			"at least": {Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}},
		} {
			then := of(check, fmt.Sprintf("d%d", i))
			then.Consistency = c
			// Nothing was lost, but the promotion has begun another history, which nobody can tell from one that lost something.
			if resp, err := b.check(t, then); status.Code(err) != codes.OutOfRange {
				t.Errorf("%s at a token of before: %v, %v; want OUT_OF_RANGE", name, resp.GetPermissionship(), err)
			}
		}
	}
	a.Touch(t, reader("d0"))
	b.wants(t, of(check, "d0"), has)
}

// TestRestored puts the database back to a copy of its files. A server that is started over the copy that it had discards it; one that runs answers
// nothing before the database's counter is past what the server has seen, and has discarded its copy by then.
func TestRestored(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	cluster := primaryWith(t)
	e, dir := over(cluster), t.TempDir()
	l := &lossy{primary: cluster, a: surviving(t, e, nil), b: surviving(t, e, nil)}
	l.check = l.a.furnish(t)
	for _, document := range []string{"kept", "ended", "revoked"} {
		l.a.Touch(t, grants(document)...)
	}
	l.a.Delete(t, reader("ended"))
	backup := cluster.Copy(t)
	l.a.Touch(t, grants("granted")...)
	l.a.Delete(t, reader("revoked"))
	for i := range 20 {
		l.a.Touch(t, grants(fmt.Sprintf("lost-%d", i))...)
	}
	t.Run("a server that is stopped", func(t *testing.T) {
		n := surviving(t, e, func(c *daemon.Config) { c.Following.Dir = dir })
		n.wants(t, of(l.check, "granted"), has)
	})
	for _, n := range []*node{l.a, l.b} {
		n.wants(t, of(l.check, "granted"), has)
	}
	l.next = cluster.Query(t, "postgres", "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
	cluster.Stop(t)
	backup.StartAt(t, cluster)
	stop := l.watched(t)
	t.Run("a server that is started again", func(t *testing.T) {
		n := surviving(t, e, func(c *daemon.Config) { c.Following.Dir = dir })
		for document, want := range afterLoss {
			n.wants(t, of(l.check, document), want)
		}
		if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
			t.Errorf("the copy was loaded %.0f times, want once: what there was is of what was lost", loads)
		}
	})
	l.replica, l.lost = backup, 25
	l.reuse(t)
	for _, n := range []*node{l.a, l.b} {
		eventually(t, "the server answers again", func() bool { return n.answer(t, of(l.check, "kept")) == has })
		l.settled(t, n)
	}
	stop()
}

// TestDatabasePaused has the database's processes hang, connections open: calls that ask for the head are refused in time, those that do not are
// answered until the copy is too old. Once the processes go on, so does the server, by the copy that it has.
func TestDatabasePaused(t *testing.T) {
	t.Parallel()
	cluster := primaryWith(t)
	const maxAge = 3 * time.Second
	n := surviving(t, over(cluster), func(c *daemon.Config) { c.Following.Wait, c.Following.MaxAge = 250*time.Millisecond, maxAge })
	check := n.furnish(t)
	n.wants(t, check, has)
	fast := of(check, "plan")
	fast.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}}
	cluster.Pause(t)
	paused := time.Now()
	n.wants(t, fast, has)
	for _, deadline := range []time.Duration{time.Second, 5 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		began := time.Now()
		resp, err := n.Permissions().CheckPermission(ctx, check)
		cancel()
		if err == nil {
			t.Fatalf("without its database the server answers %v", resp.GetPermissionship())
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Errorf("without its database the server fails with %v", err)
		}
		if took := time.Since(began); took > deadline+2*time.Second {
			t.Errorf("a call with a deadline of %s fails after %s", deadline, took)
		}
	}
	eventually(t, "the copy is too old", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.Permissions().CheckPermission(ctx, fast)
		return err != nil
	})
	if since := time.Since(paused); since < maxAge-time.Second {
		t.Errorf("the copy is not used any more after %s, and may be %s old", since, maxAge)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		resp, err := n.Permissions().CheckPermission(ctx, fast)
		cancel()
		if err == nil {
			t.Errorf("the copy is older than %s, and the server answers %v", maxAge, resp.GetPermissionship())
		}
	}
	cluster.Resume(t)
	harness.Ready(t, n.Nobody)
	eventually(t, "the head is answered", func() bool { return n.answer(t, check) == has })
	n.Delete(t, reader("plan"))
	n.wants(t, check, no)
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
		t.Errorf("the copy was loaded %.0f times, want once", loads)
	}
}

// TestStandbyIsNotFollowed starts a replica where the primary was reached. Its head is behind what was acknowledged, and is never taken.
func TestStandbyIsNotFollowed(t *testing.T) {
	t.Parallel()
	primary := primaryWith(t)
	replica := primary.Standby(t)
	n := surviving(t, over(primary), func(c *daemon.Config) { c.Following.Wait = 250 * time.Millisecond })
	check := n.furnish(t)
	replica.CatchUp(t, primary)
	replica.Detach(t)
	n.Delete(t, reader("plan"))
	n.wants(t, check, no)
	primary.Stop(t)
	replica.Stop(t)
	replica.StartAt(t, primary)
	for range 20 {
		if resp, err := n.check(t, check); err == nil {
			t.Fatalf("a standby that lags is the database, and the server answers %v", resp.GetPermissionship())
		} else if !strings.Contains(err.Error(), "Unavailable") && !strings.Contains(err.Error(), "DeadlineExceeded") {
			t.Errorf("over a standby the server fails with %v", err)
		}
	}
	replica.Stop(t)
	primary.Start(t)
	eventually(t, "the server answers again", func() bool { return n.answer(t, check) == no })
	if loads := n.figure(t, "deputy_follow_loads_total"); loads != 1 {
		t.Errorf("the copy was loaded %.0f times, want once", loads)
	}
}
