package daemon_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// What a call comes to: its status' code and reason.
const (
	fine        = "OK"
	unavailable = "Unavailable ENGINE_UNAVAILABLE"
	refused     = "Unavailable ENGINE_REFUSED"
	full        = "ResourceExhausted DISK_FULL"
	// late is the client's own status, where its deadline passes.
	late = "DeadlineExceeded "
)

// failing is an engine, and how it fails.
type failing struct {
	name string
	// open returns the engine, which is well until fail.
	open func(t *testing.T) (cfg daemon.Config, fail func(*scene))
	// want is what a method comes to, "" for one that is not called.
	want func(asked) string
	// limit is the callers' deadline, 0 without.
	limit time.Duration
}

// nothing is want where nothing is answered.
func nothing(asked) string { return unavailable }

// written is want where reads are answered and writes are not.
func written(outcome string) func(asked) string {
	return func(m asked) string {
		switch {
		case m.writes:
			return outcome
		case m.endless:
			return ""
		default:
			return fine
		}
	}
}

// headless is written for a SpiceDB elsewhere, where the head revision is taken by a write.
func headless(outcome string) func(asked) string {
	return func(m asked) string {
		if m.writes || strings.HasPrefix(m.name, "deputy ") && !m.stale {
			return outcome
		}
		return written(outcome)(m)
	}
}

// ownPostgres is a database in a cluster of the test's own.
func ownPostgres(t *testing.T) (*pgtest.Cluster, engine.Config) {
	t.Helper()
	c := pgtest.NewCluster(t)
	cfg := engine.Config{Kind: engine.Postgres, URI: c.Create(t, "deputy")}
	if err := engine.Migrate(t.Context(), cfg, "head"); err != nil {
		t.Fatal(err)
	}
	return c, cfg
}

// overPostgres returns a failing database's engine.
func overPostgres(fail func(*testing.T, *pgtest.Cluster)) func(*testing.T) (daemon.Config, func(*scene)) {
	return func(t *testing.T) (daemon.Config, func(*scene)) {
		c, cfg := ownPostgres(t)
		return daemon.Config{Engine: cfg}, func(*scene) { fail(t, c) }
	}
}

// remotePostgres is overPostgres for a SpiceDB elsewhere over the database.
func remotePostgres(fail func(*testing.T, *pgtest.Cluster)) func(*testing.T) (daemon.Config, func(*scene)) {
	return func(t *testing.T) (daemon.Config, func(*scene)) {
		c, cfg := ownPostgres(t)
		remote, _ := harness.RemoteOver(t, datastore.WithEngine(datastore.PostgresEngine), datastore.WithURI(cfg.URI))
		return daemon.Config{Engine: remote}, func(*scene) { fail(t, c) }
	}
}

// wired is an engine behind a wire.
func wired(open func(testing.TB) engine.Config, fail func(*harness.Wire)) func(*testing.T) (daemon.Config, func(*scene)) {
	return func(t *testing.T) (daemon.Config, func(*scene)) {
		cfg := open(t)
		wire := harness.Between(t, &cfg)
		return daemon.Config{Engine: cfg}, func(*scene) {
			t.Cleanup(wire.Cut) // before the server is closed, which waits for the engine
			fail(wire)
		}
	}
}

func crash(t *testing.T, c *pgtest.Cluster) { c.Crash(t) }

// fill has every transaction fail as PostgreSQL does where its disk is full.
func fill(t *testing.T, c *pgtest.Cluster) {
	for _, statement := range []string{
		`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'could not extend file "base/16384/16385": No space left on device' USING ERRCODE = 'disk_full'; END $$`,
		`CREATE TRIGGER full_disk BEFORE INSERT ON relation_tuple_transaction FOR EACH STATEMENT EXECUTE FUNCTION full_disk()`,
	} {
		c.Exec(t, "deputy", statement)
	}
}

func makeReadOnly(t *testing.T, c *pgtest.Cluster) {
	c.Exec(t, "postgres", "ALTER SYSTEM SET default_transaction_read_only = on")
	c.Exec(t, "postgres", "SELECT pg_reload_conf()")
	// Each backend takes the setting between two statements.
	for end := time.Now().Add(time.Minute); c.Query(t, "deputy", "SHOW default_transaction_read_only") != "on"; {
		if time.Now().After(end) {
			t.Fatal("the database still takes writes")
		}
	}
}

// unreadable takes a table away that everything but the schema and the head is read from.
func unreadable(t *testing.T, c *pgtest.Cluster) {
	c.Exec(t, "deputy", "ALTER TABLE relation_tuple RENAME TO gone")
	c.Exec(t, "deputy", "ALTER TABLE namespace_config RENAME TO gone_too")
}

// onDisk is the engine embedded on a disk of the test's.
func onDisk(t *testing.T, disk vfs.FS) daemon.Config {
	return daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir(), CacheBytes: 8 << 20}}.On(disk)
}

var failures = []failing{
	{name: "embedded on a full disk", want: written(full), open: func(t *testing.T) (daemon.Config, func(*scene)) {
		disk := &tightDisk{FS: vfs.Default}
		disk.mebibytes.Store(10_000)
		return onDisk(t, disk), func(s *scene) {
			disk.mebibytes.Store(60)
			for status.Code(write(t.Context(), s)) == codes.OK { // the store looks at its disk ten times a second
			}
		}
	}},
	{name: "embedded on a disk that only reads", want: written(unavailable), open: func(t *testing.T) (daemon.Config, func(*scene)) {
		var readOnly atomic.Bool
		disk := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if readOnly.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				return &os.PathError{Op: "write", Path: op.Path, Err: syscall.EROFS}
			}
			return nil
		}))
		return onDisk(t, disk), func(s *scene) { s.Failed = true; readOnly.Store(true) }
	}},
	{name: "postgres killed", want: nothing, open: overPostgres(crash)},
	{name: "postgres cut off", want: nothing, open: wired(harness.Postgres, (*harness.Wire).Cut)},
	{name: "postgres paused", want: nothing, open: wired(harness.Postgres, (*harness.Wire).Hold)},
	{name: "postgres full", want: written(full), open: overPostgres(fill)},
	{name: "postgres read-only", want: written(unavailable), open: overPostgres(makeReadOnly)},
	{name: "postgres without its tables", want: func(m asked) string {
		if m.endless {
			return ""
		}
		return refused
	}, open: overPostgres(unreadable)},
	{name: "remote stopped", want: nothing, open: func(t *testing.T) (daemon.Config, func(*scene)) {
		cfg, stop := harness.RemoteOver(t, datastore.WithEngine(datastore.MemoryEngine))
		return daemon.Config{Engine: cfg}, func(*scene) { stop() }
	}},
	{name: "remote cut off", want: nothing, open: wired(harness.Remote, (*harness.Wire).Cut)},
	{name: "remote paused", limit: 4 * time.Second, open: wired(harness.Remote, (*harness.Wire).Hold), want: func(m asked) string {
		if strings.HasPrefix(m.name, "authzed ") || strings.Contains(m.name, "Lookup") {
			return late
		}
		return unavailable
	}},
	{name: "remote over a database that was killed", want: nothing, open: remotePostgres(crash)},
	{name: "remote over a full database", want: headless(unavailable), open: remotePostgres(fill)},
	{name: "remote over a database that only reads", want: headless(unavailable), open: remotePostgres(makeReadOnly)},
}

// internals matches what no caller should read: where the database is, what its driver says, where code is.
var internals = regexp.MustCompile(`SQLSTATE|ERROR:|postgres:|host=|user=|127\.0\.0\.1|/tmp/|PGSQL|unix|dial|pgx|relation_|namespace_|` +
	`\.sst|goroutine|\.go:|rpc error|middleware|read-only mode`)

// advice matches what a caller, or somebody whom they ask, can do.
var advice = regexp.MustCompile(`try again|operator|opened again|until there is room`)

// TestFailures: whatever happens to an engine, each call that needs it ends, in both APIs, with a status that says what to do and
// tells no internals; and the log does not fill with errors.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zap.WarnLevel)
			cfg, fail := f.open(t)
			s := furnished(t, harness.StartLogging(t, cfg, zap.New(core)))
			fail(s)
			var calls sync.WaitGroup
			for _, m := range methods {
				if want := f.want(m); want != "" {
					calls.Go(func() { comesTo(t, s, m, f.limit, want) })
				}
			}
			calls.Wait()
			if lines := logs.FilterLevelExact(zap.ErrorLevel).All(); len(lines) > 1 {
				t.Errorf("%d lines at level error, the last one: %s %v", len(lines), lines[len(lines)-1].Message, lines[len(lines)-1].ContextMap())
			}
			if lines := logs.All(); len(lines) > 8 {
				t.Errorf("%d lines for %d calls, the last one: %s %v", len(lines), len(methods), lines[len(lines)-1].Message, lines[len(lines)-1].ContextMap())
			}
		})
	}
}

// comesTo calls a method and compares its status.
func comesTo(t *testing.T, s *scene, m asked, limit time.Duration, want string) {
	ctx := t.Context()
	if limit > 0 {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = bounded
	}
	st := status.Convert(m.call(ctx, s))
	got := fine
	if st.Code() != codes.OK {
		got = st.Code().String() + " " + statuses.Info(st).GetReason()
	}
	if got != want {
		t.Errorf("%s: %s: %s, want %s", m.name, got, st.Message(), want)
	}
	if found := internals.FindString(st.Message()); found != "" {
		t.Errorf("%s tells %q: %s", m.name, found, st.Message())
	}
	if st.Code() != codes.OK && got != late && !advice.MatchString(st.Message()) {
		t.Errorf("%s does not say what to do: %s", m.name, st.Message())
	}
}
