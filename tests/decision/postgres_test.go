//go:build unix

package decision_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// sealKey is the token key of every server in these tests: as on several nodes, it is the same.
var sealKey = []byte("a token key of at least 32 bytes")

// postgresAt is the configuration over a database that has been migrated.
func postgresAt(uri string) engine.Config { return engine.Config{Kind: engine.Postgres, URI: uri} }

// newDatabase creates a database in a cluster and migrates it.
func newDatabase(t *testing.T, c *pgtest.Cluster) engine.Config {
	t.Helper()
	cfg := postgresAt(c.Create(t, "deputy"))
	if err := engine.Migrate(t.Context(), cfg, "head"); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// refusedStart opens a server that has to refuse to start, and returns the error.
func refusedStart(t *testing.T, cfg engine.Config) error {
	t.Helper()
	d, err := daemon.Open(t.Context(), daemon.Config{Engine: cfg, PresharedKeys: []string{harness.ServiceKey}, TokenKey: sealKey}, zaptest.NewLogger(t))
	if err == nil {
		_ = d.Close()
		t.Fatal("the server starts")
	}
	return err
}

// until waits for a condition, and fails the test if it never holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// answers asks and returns the answer, or 0 if there was none: then the error is that of an engine that does not answer.
func (w *world) answers(c check) deputyv1.Permissionship {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
	defer cancel()
	resp, err := w.Permissions().CheckPermission(ctx, c.CheckPermissionRequest)
	if err != nil {
		w.gone(err)
		return 0
	}
	return resp.GetPermissionship()
}

// gone asserts that an error says that the engine does not answer.
func (w *world) gone(err error) {
	w.Helper()
	if code := statusOf(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		w.Errorf("without its database the server answers %v (%v), want %v", code, err, codes.Unavailable)
	}
}

// endUntilDone ends a session, again and again until the server says that it is ended.
func (w *world) endUntilDone(s *deputyv1.Session) {
	w.Helper()
	until(w.T, "the session is ended", func() bool {
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		defer cancel()
		_, err := w.Sessions().EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: s.GetSessionId()})
		if err != nil {
			w.gone(err)
		}
		return err == nil
	})
}

// neverAllowed asks many times, and fails for each answer that allows.
func (w *world) neverAllowed(c check) {
	w.Helper()
	allowed := 0
	for range 30 {
		if w.answers(c) == has {
			allowed++
		}
	}
	if allowed > 0 {
		w.Errorf("%d of 30 checks allow what was ended", allowed)
	}
}

// opened starts a session for alice under a delegation of its own.
func (w *world) opened() *deputyv1.Session {
	w.Helper()
	return w.start(target(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true}), "user:alice"))
}

// TestRestoredDumpIsRefusedUntilItIsRepaired: a dump that is restored into a cluster whose counter of
// transactions is lower holds rows of "future" transactions. What was ended there would be active again, and
// what is ended from then on would stay active. So the server does not start over it, and once it is repaired
// everything is as it was when it was dumped.
func TestRestoredDumpIsRefusedUntilItIsRepaired(t *testing.T) {
	t.Parallel()
	old := pgtest.NewCluster(t)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: newDatabase(t, old)}))
	ended, open := w.opened(), w.opened()
	revoked := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	suspendedBot := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", Unscoped: true, AllowDirect: true})
	w.Touch(t, "document:plan#reader@agent:sub")
	for _, c := range []check{inSession(ended), inSession(open), under(revoked), under(suspendedBot)} {
		w.allow(c.view("document:plan"))
	}
	// The new cluster's counter will lie between what was granted and what was taken back.
	old.SpendTransactions(t, 40_000)
	_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: ended.GetSessionId()})
	w.ok(err)
	_, err = w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: revoked.GetDelegationId()})
	w.ok(err)
	_, err = w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "sub"})
	w.ok(err)
	before := w.deny(inSession(ended).view("document:plan"), byActor).GetCheckedAt()

	restored := pgtest.NewCluster(t)
	restored.SpendTransactions(t, 20_000)
	cfg := postgresAt(restored.Restore(t, "deputy", old.Dump(t, "deputy")))
	old.SpendTransactions(t, 20_000)
	behind := w.allow(inSession(open).view("document:plan")).GetCheckedAt()
	if err := refusedStart(t, cfg); !strings.Contains(err.Error(), "deputy migrate repair") {
		t.Errorf("the server does not say the way out: %v", err)
	}

	spent, err := engine.Repair(t.Context(), cfg, nil)
	w.ok(err)
	if spent < 10_000 {
		t.Errorf("the repair advanced the counter by %d, fewer than it was behind", spent)
	}
	again := &world{t, harness.Start(t, daemon.Config{Engine: cfg})}
	for _, c := range []check{inSession(ended), under(revoked), under(suspendedBot)} {
		again.deny(c.view("document:plan"), byActor)
	}
	again.allow(inSession(open).view("document:plan"))
	again.allow(inSession(open).view("document:plan").after(before))
	_, err = again.Permissions().CheckPermission(t.Context(), inSession(open).view("document:plan").after(behind).CheckPermissionRequest)
	if code := statusOf(err); code != codes.OutOfRange {
		t.Errorf("a token from after the dump: %v (%v), want %v", code, err, codes.OutOfRange)
	}
	again.endUntilDone(open)
	again.deny(inSession(open).view("document:plan"), byActor)
	if spent, err := engine.Repair(t.Context(), cfg, nil); err != nil || spent != 0 {
		t.Errorf("a second repair advances the counter by %d (%v), want nothing", spent, err)
	}
}

// TestRepairHonoursWhatWasWrittenBefore: a server that knew nothing of all this has run over the restored database,
// and ended sessions in transactions whose ids lie below those of the dump. The repair keeps what it wrote.
func TestRepairHonoursWhatWasWrittenBefore(t *testing.T) {
	t.Parallel()
	old := pgtest.NewCluster(t)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: newDatabase(t, old)}))
	open := w.opened()
	w.allow(inSession(open).view("document:plan"))
	old.SpendTransactions(t, 40_000)
	w.Touch(t, "tenant:acme#member@user:erin")

	restored := pgtest.NewCluster(t)
	restored.SpendTransactions(t, 20_000)
	cfg := postgresAt(restored.Restore(t, "deputy", old.Dump(t, "deputy")))
	// What EndSession amounts to, in the tables of SpiceDB.
	restored.Exec(t, "deputy", "WITH tx AS (INSERT INTO relation_tuple_transaction DEFAULT VALUES RETURNING xid) "+
		"UPDATE relation_tuple SET deleted_xid = tx.xid FROM tx WHERE namespace = 'session' AND relation = 'active' AND object_id = '"+
		open.GetSessionId()+"' AND deleted_xid = '9223372036854775807'::xid8")
	_, err := engine.Repair(t.Context(), cfg, nil)
	w.ok(err)
	again := &world{t, harness.Start(t, daemon.Config{Engine: cfg})}
	again.deny(inSession(open).view("document:plan"), byActor)
}

// TestStandbyIsRefusedAtTheStart: a standby shows what was, so no decision is made on one.
func TestStandbyIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewCluster(t)
	cfg := newDatabase(t, primary)
	standby := primary.Standby(t)
	if err := refusedStart(t, postgresAt(standby.URI("deputy"))); !strings.Contains(err.Error(), "standby") {
		t.Errorf("the server does not say that it is a standby: %v", err)
	}
	// With both, in either order, it is the primary that counts.
	cfg.URI = pgtest.URI("deputy", standby, primary)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	w.allow(inSession(w.opened()).view("document:plan"))
}

// TestReadsStayWithThePrimary: while the primary is down its connections are made anew, and the standby takes them. What
// is ended once the primary is back must not be judged on a standby that lags.
func TestReadsStayWithThePrimary(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewCluster(t)
	cfg := newDatabase(t, primary)
	first := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	s := first.opened()
	standby := primary.Standby(t, "recovery_min_apply_delay=1h")
	cfg.URI = pgtest.URI("deputy", primary, standby)
	w := &world{t, harness.Start(t, daemon.Config{Engine: cfg})}
	w.allow(inSession(s).view("document:plan"))

	primary.Stop(t)
	// Its pool comes back, if it does, with whatever takes connections.
	for range 30 {
		if w.answers(inSession(s).view("document:plan")) == has {
			t.Error("a check is answered while there is no primary")
			break
		}
	}
	primary.Start(t)
	w.endUntilDone(s)
	w.neverAllowed(inSession(s).view("document:plan"))
	until(t, "the checks are answered again", func() bool { return w.answers(inSession(s).view("document:plan")) == no })
}

// TestFailoverToAPromotedStandby: what is ended is refused afterwards, before the failover and behind it.
func TestFailoverToAPromotedStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewCluster(t)
	cfg := newDatabase(t, primary)
	standby := primary.Standby(t)
	cfg.URI = pgtest.URI("deputy", primary, standby)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	before, behind := w.opened(), w.opened()
	w.endUntilDone(before)
	// The standby has all of it.
	at := primary.Query(t, "deputy", "SELECT pg_current_wal_flush_lsn()::text")
	until(t, "the standby has replayed", func() bool {
		return standby.Query(t, "deputy", "SELECT (pg_last_wal_replay_lsn() >= '"+at+"')::text") == "true"
	})
	primary.Stop(t)
	standby.Promote(t)
	until(t, "the checks are answered again", func() bool { return w.answers(inSession(behind).view("document:plan")) == has })
	w.neverAllowed(inSession(before).view("document:plan"))
	w.endUntilDone(behind)
	w.neverAllowed(inSession(behind).view("document:plan"))
	if got := w.answers(inSession(behind).view("document:plan")); got != no {
		t.Errorf("the promoted server's answer is %v, want %v", got, no)
	}
}

// TestPrimaryThatCrashes: ids of transactions that failed shortly before a crash are given out again. Nothing that was
// acknowledged is lost with them, so the server goes on.
func TestPrimaryThatCrashes(t *testing.T) {
	t.Parallel()
	primary := pgtest.NewCluster(t)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: newDatabase(t, primary)}))
	s, other := w.opened(), w.opened()
	w.endUntilDone(other)
	for range 20 {
		primary.SpendTransactions(t, 100)
		w.allow(inSession(s).view("document:plan"))
	}
	primary.Crash(t)
	primary.Start(t)
	until(t, "the checks are answered again", func() bool { return w.answers(inSession(s).view("document:plan")) == has })
	w.neverAllowed(inSession(other).view("document:plan"))
}

// TestOlderCopyUnderARunningServer: the cluster is replaced, under the same address, by a copy that is older than
// what the server has acknowledged: restored to a point in time, or dumped and restored. What was ended is not
// active again.
func TestOlderCopyUnderARunningServer(t *testing.T) {
	t.Parallel()
	for name, older := range map[string]func(*testing.T, *pgtest.Cluster) *pgtest.Cluster{
		"physical": func(t *testing.T, c *pgtest.Cluster) *pgtest.Cluster { return c.Copy(t) },
		"dump": func(t *testing.T, c *pgtest.Cluster) *pgtest.Cluster {
			file := c.Dump(t, "deputy")
			restored := pgtest.NewCluster(t)
			restored.Restore(t, "deputy", file)
			restored.Stop(t)
			return restored
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.NewCluster(t)
			cfg := newDatabase(t, cluster)
			w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
			s := w.opened()
			w.allow(inSession(s).view("document:plan"))
			copied := older(t, cluster)
			cluster.SpendTransactions(t, 10_000)
			w.endUntilDone(s)
			cluster.Stop(t)
			copied.StartAt(t, cluster)
			w.neverAllowed(inSession(s).view("document:plan"))
			_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: s.GetSessionId()})
			if code := statusOf(err); code != codes.Unavailable {
				t.Errorf("a write over the older copy is %v (%v), want %v", code, err, codes.Unavailable)
			}
		})
	}
}

// TestTokenFromBeforeAPointInTime: a cluster is restored to an older point in time, and a server starts over it. A
// token of what happened after that point is out of range: no revision of the new history is taken for it.
func TestTokenFromBeforeAPointInTime(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	cfg := newDatabase(t, cluster)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	s := w.opened()
	older := cluster.Copy(t)
	cluster.SpendTransactions(t, 10_000)
	later := w.allow(inSession(s).view("document:plan")).GetCheckedAt()
	older.Start(t)
	again := &world{t, harness.Start(t, daemon.Config{Engine: postgresAt(older.URI("deputy"))})}
	again.allow(inSession(s).view("document:plan"))
	for name, c := range map[string]check{
		"exact": inSession(s).view("document:plan").at(later), "session token": inSession(s).view("document:plan").after(later),
	} {
		_, err := again.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
		if code := statusOf(err); code != codes.OutOfRange {
			t.Errorf("%s: %v (%v), want %v", name, code, err, codes.OutOfRange)
		}
	}
}

// TestHealthIsThatOfTheServersOwnConnections: other clients use up the slots of the database. The server has its
// connections and answers, and says so.
func TestHealthIsThatOfTheServersOwnConnections(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, "max_connections=50")
	cfg := newDatabase(t, cluster)
	e, err := engine.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	until(t, "no slot is left", func() bool {
		conn, err := pgx.Connect(t.Context(), cfg.URI)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		}
		return err != nil
	})
	for range 3 {
		if err := e.Ready(t.Context()); err != nil {
			t.Errorf("the engine answers, and says that it is not ready: %v", err)
		}
	}
	cluster.Stop(t)
	until(t, "it says that the database is gone", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return e.Ready(ctx) != nil
	})
}

// TestCounterIsWatched: the counter of transactions falls below what the database holds while the server runs, as it
// does where a copy of another cluster's rows arrives. No decision is made until it is beyond them again.
func TestCounterIsWatched(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	cfg := newDatabase(t, cluster)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	c := inSession(w.opened()).view("document:plan")
	w.allow(c)
	cluster.Exec(t, "deputy", "INSERT INTO relation_tuple_transaction (xid) VALUES ('50000'::xid8)")
	until(t, "no check is answered", func() bool { return w.answers(c) == 0 })
	_, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
	w.fails(err, codes.Unavailable, "ENGINE_UNAVAILABLE", "")
	if _, err := engine.Repair(t.Context(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the checks are answered again", func() bool { return w.answers(c) == has })
}

// TestPoolsAreAsLargeAsTheyAreSet: a server takes no more connections than it is told, and works with the fewest.
func TestPoolsAreAsLargeAsTheyAreSet(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	cfg := newDatabase(t, cluster)
	cfg.ReadConns, cfg.WriteConns = engine.MinReadConns, engine.MinWriteConns
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg}))
	sessions := make(chan *deputyv1.Session, 64)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range cap(sessions) / 8 {
				s := w.opened()
				w.allow(inSession(s).view("document:plan"))
				sessions <- s
			}
		})
	}
	work.Wait()
	close(sessions)
	for s := range sessions {
		w.endUntilDone(s)
		w.deny(inSession(s).view("document:plan"), byActor)
	}
	const count = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'deputy' AND pid <> pg_backend_pid()"
	if got, want := cluster.Query(t, "deputy", count), strconv.Itoa(engine.MinReadConns+engine.MinWriteConns+1); got != want {
		t.Errorf("the server has %s connections, want %s", got, want)
	}
	cfg.URI += "&pool_max_conns=4"
	if err := refusedStart(t, cfg); !strings.Contains(err.Error(), "--datastore-conn-pool-read-max-open") {
		t.Errorf("the server does not say what to set instead: %v", err)
	}
}

// TestNodesWithOneTokenKey: two servers over one database make one delegation of one idempotency key, and take each
// other's tokens.
func TestNodesWithOneTokenKey(t *testing.T) {
	t.Parallel()
	cfg := harness.Postgres(t)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: cfg, TokenKey: sealKey}))
	other := &world{t, harness.Start(t, daemon.Config{Engine: cfg, TokenKey: sealKey})}
	request := &deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true, IdempotencyKey: "once"}
	first, again := w.delegate(request), other.delegate(request)
	if first.GetDelegationId() != again.GetDelegationId() {
		t.Errorf("one key makes %s and %s", first.GetDelegationId(), again.GetDelegationId())
	}
	token := w.allow(under(first).view("document:plan")).GetCheckedAt()
	other.allow(under(first).view("document:plan").after(token))
	// A third one, whose file was made by itself, is told.
	d, err := daemon.Open(t.Context(), daemon.Config{
		Engine: cfg, PresharedKeys: []string{harness.ServiceKey}, TokenKey: []byte("a key that no other server knows of"),
	}, zaptest.NewLogger(t))
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "the same --token-key-file") {
		t.Errorf("a server with another token key: %v, want an error that says so", err)
	}
}
