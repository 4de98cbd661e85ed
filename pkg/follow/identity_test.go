package follow_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestMissed refuses a position that has left the window, and one whose transactions another SpiceDB has collected with a shorter window. The
// deletion that would be missed is not: the copy is loaded anew.
func TestMissed(t *testing.T) {
	w := writer(t, pgtest.Database(t))
	const window = 2 * time.Second
	for _, c := range []struct {
		name   string
		window time.Duration
		until  func(t *testing.T)
		want   error
	}{
		{"by the clock", window, func(t *testing.T) { pass(t, w.uri, window) }, follow.ErrMissed},
		{"by a collection", time.Hour, func(*testing.T) {}, follow.ErrOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := authority(t, w.uri, c.window)
			f := follower(t, inMemory(), a)
			w.update(t, touch("document:plan#viewer@user:alice"))
			follows(t, f, a)
			w.update(t, remove("document:plan#viewer@user:alice"))
			w.update(t, touch("document:other#viewer@user:alice"))
			c.until(t)
			w.collect(t, time.Nanosecond)
			if got := rows(t, w.uri, "document", "plan"); got != 0 {
				t.Fatalf("%d rows of what was deleted: nothing was collected, and the test tests nothing", got)
			}
			if _, err := f.Pull(t.Context()); !errors.Is(err, c.want) {
				t.Fatalf("the pull after a collection: %v, want %v", err, c.want)
			}
			follows(t, f, a)
			reached, err := f.Reached()
			if err != nil {
				t.Fatal(err)
			}
			defer reached.Release()
			if has := strings.Join(relationships(t, reached), " "); strings.Contains(has, "plan") {
				t.Errorf("the copy has %s: what was revoked is in force", has)
			}
		})
	}
}

// TestHalfCollected has a SpiceDB with a shorter window collect, which takes away deleted relationships first and the transactions by which that shows
// afterwards. What has changed since an older position is not told in between: a deletion would be missing.
func TestHalfCollected(t *testing.T) {
	w := writer(t, pgtest.Database(t))
	a := authority(t, w.uri, time.Hour)
	w.update(t, touch("document:plan#viewer@user:alice"))
	from, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from.At = from.At.Add(-2 * time.Minute)
	w.update(t, remove("document:plan#viewer@user:alice"))
	w.update(t, touch("document:other#viewer@user:alice"))
	if c, err := a.ChangesSince(t.Context(), from, 100); err != nil || len(c.Deleted) != 1 {
		t.Fatalf("before a collection: %d deletions, %v, want 1", len(c.Deleted), err)
	}
	collectable := datastore.UnwrapAs[datastore.GarbageCollectableDatastore](w.Datastore)
	gc, err := collectable.BuildGarbageCollector(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gc.Close()
	if locked, err := gc.LockForGCRun(t.Context()); err != nil || !locked {
		t.Fatalf("the collection does not begin: %v, %v", locked, err)
	}
	if n := query(t, w.uri, `WITH gone AS (DELETE FROM relation_tuple WHERE deleted_xid < '9223372036854775807'::xid8 RETURNING 1)
		SELECT count(*)::text FROM gone`); n == "0" {
		t.Fatal("nothing was collected, and the test tests nothing")
	}
	c, err := a.ChangesSince(t.Context(), from, 100)
	if err == nil || errors.Is(err, follow.ErrOther) || errors.Is(err, follow.ErrMissed) {
		t.Errorf("while a collection is half done: %d deletions and %v, want a passing error", len(c.Deleted), err)
	}
	young := from
	young.At = time.Now()
	if _, err := a.ChangesSince(t.Context(), young, 100); err != nil {
		t.Errorf("a position that no collection concerns, while one is under way: %v", err)
	}
	head, err := w.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gc.DeleteBeforeTx(t.Context(), head.Revision); err != nil {
		t.Fatal(err)
	}
	if err := gc.UnlockAfterGCRun(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ChangesSince(t.Context(), from, 100); !errors.Is(err, follow.ErrOther) {
		t.Errorf("after the collection: %v, want %v", err, follow.ErrOther)
	}
}

// TestLeastRole follows with a role that may read SpiceDB's tables and nothing else.
func TestLeastRole(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	w := writer(t, cluster.Create(t, "spicedb"))
	cluster.Exec(t, "spicedb", "CREATE ROLE reader LOGIN")
	cluster.Exec(t, "spicedb", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
	config, err := pgx.ParseConfig(w.uri)
	if err != nil {
		t.Fatal(err)
	}
	uri := strings.Replace(w.uri, config.User+"@", "reader@", 1)
	if uri == w.uri {
		uri = w.uri + "&user=reader"
	}
	a := authority(t, uri, time.Hour)
	f := follower(t, inMemory(), a)
	w.update(t, touch("document:plan#viewer@user:alice"))
	follows(t, f, a)
	from, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from.At = from.At.Add(-2 * time.Minute) // old enough to ask for collections
	w.update(t, remove("document:plan#viewer@user:alice"))
	if c, err := a.ChangesSince(t.Context(), from, 100); err != nil || len(c.Deleted) != 1 {
		t.Errorf("%d deletions, %v", len(c.Deleted), err)
	}
	if who := query(t, uri, "SELECT current_user::text"); who != "reader" {
		t.Errorf("the role is %s, and the test tests nothing", who)
	}
}

// pass waits until a time has passed by the server's clock.
func pass(t *testing.T, uri string, by time.Duration) {
	t.Helper()
	query(t, uri, "SELECT pg_sleep($1)::text", by.Seconds())
}

func query(t testing.TB, uri, sql string, args ...any) string {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	err = conn.QueryRow(context.Background(), sql, args...).Scan(&text)
	if err := errors.Join(err, conn.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
	return text
}

// rows counts the rows of an object, deleted ones included.
func rows(t testing.TB, uri, objectType, id string) int {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	err = conn.QueryRow(context.Background(), "SELECT count(*) FROM relation_tuple WHERE namespace = $1 AND object_id = $2", objectType, id).Scan(&n)
	if err := errors.Join(err, conn.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMigration refuses tables of another migration, and a database without SpiceDB's.
func TestMigration(t *testing.T) {
	uri := pgtest.Database(t)
	refuses := func(about string) {
		t.Helper()
		a, err := postgres.Open(t.Context(), postgres.Config{URI: uri, Window: time.Hour})
		if err == nil {
			a.Close()
		}
		if !errors.Is(err, follow.ErrMigration) || !strings.Contains(err.Error(), about) {
			t.Errorf("the error is %v, want one of the migration that names %q", err, about)
		}
	}
	refuses("deputy migrate")
	w := writer(t, uri)
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	follows(t, f, a)
	execute(t, uri, "UPDATE alembic_version SET version_num = 'add-what-nobody-knows'")
	refuses("add-what-nobody-knows")
	w.update(t, touch("document:plan#viewer@user:alice"))
	if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrMigration) {
		t.Errorf("after a migration the pull says %v", err)
	}
	// The copy is kept: the database may be the one that is wrong.
	execute(t, uri, "UPDATE alembic_version SET version_num = '"+postgres.Migration+"'")
	if _, err := f.Pull(t.Context()); err != nil {
		t.Error(err)
	}
}

func execute(t testing.TB, uri, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(context.Background(), sql)
	if err := errors.Join(err, conn.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
}

// TestIdentity takes no head from a standby, and discards the copy where the history is another one: after a promotion, in a database that was
// made of this one, and where the disk was put back to what it was before.
func TestIdentity(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	w := writer(t, cluster.Create(t, "spicedb"))
	w.update(t, touch("document:plan#viewer@user:alice"))
	a := authority(t, w.uri, time.Hour)

	// other is a follower with a copy of the cluster's, over somebody else.
	other := func(t *testing.T, uri string) (*follow.Follower, follow.Authority) {
		t.Helper()
		config := inMemory()
		f, err := follow.Open(config, a)
		if err != nil {
			t.Fatal(err)
		}
		follows(t, f, a)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		b := authority(t, uri, time.Hour)
		return follower(t, config, b), b
	}
	discards := func(t *testing.T, f *follow.Follower, about string) {
		t.Helper()
		if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrOther) || !strings.Contains(err.Error(), about) {
			t.Errorf("the pull says %v, want another authority, and %q", err, about)
		}
		if _, err := f.Reached(); !errors.Is(err, follow.ErrNoCopy) {
			t.Errorf("the copy is still served: %v", err)
		}
	}

	t.Run("a standby and its promotion", func(t *testing.T) {
		standby := cluster.Standby(t)
		uri := standby.URI("spicedb")
		if _, err := postgres.Open(t.Context(), postgres.Config{URI: uri, Window: time.Hour}); !errors.Is(err, follow.ErrStandby) {
			t.Errorf("a standby is followed: %v", err)
		}
		standby.Promote(t)
		f, b := other(t, uri)
		discards(t, f, "timeline")
		follows(t, f, b)
	})

	t.Run("a database made of this one", func(t *testing.T) {
		// The template must have no connections.
		copied := cluster.Restore(t, "restored", cluster.Dump(t, "spicedb"))
		f, b := other(t, copied)
		discards(t, f, "database")
		follows(t, f, b)
	})

	t.Run("a dump in another cluster", func(t *testing.T) {
		cluster.SpendTransactions(t, 2000) // so that the other one's counter is behind
		w.update(t, touch("document:plan#viewer@user:bob"))
		another := pgtest.NewCluster(t)
		uri := another.Restore(t, "spicedb", cluster.Dump(t, "spicedb"))
		_, err := postgres.Open(t.Context(), postgres.Config{URI: uri, Window: time.Hour})
		if err == nil || !strings.Contains(err.Error(), "deputy migrate repair") {
			t.Errorf("it is followed: %v", err)
		}
	})

	t.Run("a disk that was put back", func(t *testing.T) {
		before := cluster.Copy(t)
		w.update(t, touch("document:lost#viewer@user:alice"))
		// The copy of the files begins where they were copied. Its identity is the same, and it goes on to use the same ids.
		before.Start(t)
		f, b := other(t, before.URI("spicedb"))
		back := opened(t, before.URI("spicedb"))
		again := &written{back, before.URI("spicedb")}
		for range 5 {
			again.update(t, touch("document:found#viewer@user:alice"), remove("document:lost#viewer@user:alice"))
		}
		before.SpendTransactions(t, 50)
		discards(t, f, "transactions")
		follows(t, f, b)
		reached, err := f.Reached()
		if err != nil {
			t.Fatal(err)
		}
		defer reached.Release()
		if has := strings.Join(relationships(t, reached), " "); strings.Contains(has, "lost") || !strings.Contains(has, "found") {
			t.Errorf("the copy has %s", has)
		}
	})
}
