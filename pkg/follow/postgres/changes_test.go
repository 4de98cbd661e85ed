package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// spicedb is a database with SpiceDB's tables, an authority over it, and a connection that writes as SpiceDB does.
type spicedb struct {
	authority *Authority
	conn      *pgx.Conn
	// planned says that pages has its statement prepared on the connection.
	planned bool
}

func open(t testing.TB, uri string) *spicedb {
	t.Helper()
	if err := engine.Migrate(t.Context(), engine.Config{Kind: engine.Postgres, URI: uri}, "head"); err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), Config{URI: uri, Window: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return &spicedb{authority: a, conn: connected(t, uri)}
}

func connected(t testing.TB, uri string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// writes are what a transaction of SpiceDB's does that writes n relationships of a kind of documents.
func writes(kind string, n int) string {
	return fmt.Sprintf(`INSERT INTO relation_tuple_transaction DEFAULT VALUES;
		INSERT INTO relation_tuple (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation, caveat_name)
			SELECT 'document', '%s-' || i, 'viewer', 'user', 'alice', '...', '' FROM generate_series(1, %d) AS i`, kind, n)
}

// deletes are what one does that deletes all relationships of a kind of documents.
func deletes(kind string) string {
	return fmt.Sprintf(`INSERT INTO relation_tuple_transaction DEFAULT VALUES;
		UPDATE relation_tuple SET deleted_xid = pg_current_xact_id() WHERE object_id LIKE '%s%%' AND deleted_xid = %s`, kind, alive)
}

// commit runs statements in one transaction.
func commit(t testing.TB, conn *pgx.Conn, statements string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "BEGIN; "+statements+"; COMMIT"); err != nil {
		t.Fatal(err)
	}
}

// eachWay does something while pulls are taken to find nothing, and then while they are taken to find changes, which are asked for in other ways.
func (s *spicedb) eachWay(do func()) {
	for _, share := range []float64{0, 1} {
		s.authority.mu.Lock()
		s.authority.changing = share
		s.authority.mu.Unlock()
		do()
	}
}

// since returns what has changed since a position, in words, and where that leads to. Both ways to ask for it have to say the same.
func (s *spicedb) since(t testing.TB, from follow.Position) (text string, to follow.Position) {
	t.Helper()
	var texts []string
	s.eachWay(func() {
		c, err := s.authority.ChangesSince(t.Context(), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%d transactions;", c.Transactions)
		for _, rel := range c.Written {
			text += " +" + tuple.MustString(rel)
		}
		for _, rel := range c.Deleted {
			text += " -" + tuple.MustString(rel)
		}
		texts, to = append(texts, text), c.To
	})
	if texts[0] != texts[1] {
		t.Errorf("asked first whether anything has changed it is %q, and asked at once %q", texts[0], texts[1])
	}
	return texts[0], to
}

// pages is how many pages of its tables and indexes the database looks at to tell what has changed since a position. The statement is prepared the
// first time, as on the authority's own connections.
func (s *spicedb) pages(t testing.TB, from follow.Position) int {
	t.Helper()
	var pages int
	if err := pgx.BeginFunc(t.Context(), s.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), pulling); err != nil {
			return err
		}
		if !s.planned {
			if _, err := tx.Exec(t.Context(), "PREPARE pull AS "+changesQuery, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			s.planned = true
		}
		var known [2]string
		for i := range known {
			known[i] = "'0', '2026-01-01Z'"
		}
		for i, k := range from.Known {
			known[i] = fmt.Sprintf("'%d', '%s'", k.ID, k.Began.Format(time.RFC3339Nano))
		}
		var text string
		explain := fmt.Sprintf("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE pull('%s', %s, %s, 100)", from.State, known[0], known[1])
		if err := tx.QueryRow(t.Context(), explain, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
			return err
		}
		var explained []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal([]byte(text), &explained); err != nil {
			return err
		}
		pages = explained[0].Plan.Hit + explained[0].Plan.Read
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return pages
}

// TestLongTransactions keeps a transaction open, in another database of the cluster and in this one, while much is written and deleted. What a pull
// reads does not grow with what has changed since that transaction began; and what the transaction has written comes once it is committed.
func TestLongTransactions(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	s := open(t, cluster.Create(t, "spicedb"))
	other := connected(t, cluster.Create(t, "other"))
	for _, c := range []struct {
		name   string
		in     *pgx.Conn
		begins string
		// Once it is committed there is this too.
		written string
	}{
		{"in another database", other, "CREATE TABLE numbers (n int)", "0 transactions;"},
		{"in this database", connected(t, cluster.URI("spicedb")), writes("held", 1), "1 transactions; +document:held-1#viewer@user:alice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.in.Exec(t.Context(), "BEGIN; "+c.begins); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = c.in.Exec(context.Background(), "ROLLBACK") }()
			const many = 20
			for n := range many {
				commit(t, s.conn, writes(fmt.Sprintf("many%d", n), 1000))
			}
			for n := range many / 2 {
				commit(t, s.conn, deletes(fmt.Sprintf("many%d", n)))
			}
			commit(t, s.conn, writes("old", 1))
			from, err := s.authority.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if shown, err := parseSnapshot(from.State); err != nil || len(shown.running) != 1 || shown.xmax < shown.xmin+many {
				t.Fatalf("the position is %q, %v, and the test tests nothing", from.State, err)
			}
			commit(t, s.conn, writes("new", 1))
			commit(t, s.conn, deletes("old"))
			got, at := s.since(t, from)
			if want := "2 transactions; +document:new-1#viewer@user:alice -document:old-1#viewer@user:alice"; got != want {
				t.Errorf("while it is open: %s, want %s", got, want)
			}
			if pages := s.pages(t, from); pages > 100 {
				t.Errorf("of two changes the database looks at %d pages", pages)
			}
			if _, err := c.in.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			if got, _ := s.since(t, at); got != c.written {
				t.Errorf("once it is committed: %s, want %s", got, c.written)
			}
			commit(t, s.conn, deletes("new"))
			commit(t, s.conn, deletes("many"))
		})
	}
}

// TestPlannedOnce: the plan that a connection keeps is good for what comes later. A pull is planned over tables that hold nothing, and reads after
// the tables have grown what has changed and no more.
func TestPlannedOnce(t *testing.T) {
	s := open(t, pgtest.Database(t))
	at, err := s.authority.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.pages(t, at)
	for range 10 {
		_, at = s.since(t, at)
	}
	commit(t, s.conn, writes("many", 50_000))
	if _, err := s.authority.ChangesSince(t.Context(), at, 100); !errors.Is(err, follow.ErrTooMany) {
		t.Fatalf("50,000 changes, where 100 are the most: %v", err)
	}
	for _, analyzed := range []string{"", "ANALYZE"} {
		if _, err := s.conn.Exec(t.Context(), analyzed); err != nil {
			t.Fatal(err)
		}
		if at, err = s.authority.Head(t.Context()); err != nil {
			t.Fatal(err)
		}
		commit(t, s.conn, writes("new", 1))
		commit(t, s.conn, deletes("new"))
		commit(t, s.conn, writes("new", 1))
		if pages := s.pages(t, at); pages > 100 {
			t.Errorf("of two changes the database looks at %d pages", pages)
		}
		commit(t, s.conn, deletes("new"))
	}
}

// TestStandby has a standby take the primary's place at its address: its head is refused, and so is what it says has changed, though the authority
// was opened over the primary.
func TestStandby(t *testing.T) {
	primary := pgtest.NewCluster(t)
	s := open(t, primary.Create(t, "spicedb"))
	commit(t, s.conn, writes("old", 1))
	standby := primary.Standby(t)
	standby.CatchUp(t, primary)
	standby.Detach(t)
	from, err := s.authority.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s.conn, deletes("old"))
	primary.Stop(t)
	standby.Stop(t)
	standby.StartAt(t, primary)
	s.authority.pool.Reset()
	if at, err := s.authority.Head(t.Context()); !errors.Is(err, follow.ErrStandby) {
		t.Errorf("a standby's head is taken: %v, %v", at, err)
	}
	s.eachWay(func() {
		if c, err := s.authority.ChangesSince(t.Context(), from, 100); !errors.Is(err, follow.ErrStandby) {
			t.Errorf("what a standby says has changed is taken: %v, %v", c, err)
		}
	})
	if _, err := s.authority.At(from).Page(t.Context(), "", 10); !errors.Is(err, follow.ErrStandby) {
		t.Errorf("a standby's relationships are taken: %v", err)
	}
}

// TestOtherHistory asks what has changed since positions that the server has not shown: they are refused, in whichever way it is asked.
func TestOtherHistory(t *testing.T) {
	s := open(t, pgtest.Database(t))
	commit(t, s.conn, writes("old", 1))
	from, err := s.authority.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, later, lost := from, from, from
	other.Authority += " of another"
	later.State = "999999999:999999999:"
	lost.Known = slices.Clone(from.Known)
	lost.Known[0].Began = lost.Known[0].Began.Add(time.Microsecond)
	for what, p := range map[string]follow.Position{"another authority": other, "a later state": later, "a transaction that there is not": lost} {
		s.eachWay(func() {
			if c, err := s.authority.ChangesSince(t.Context(), p, 100); !errors.Is(err, follow.ErrOther) {
				t.Errorf("%s: %v, %v", what, c, err)
			}
		})
	}
}

// TestExecModes follows over connections that keep nothing prepared, as a connection string may ask for.
func TestExecModes(t *testing.T) {
	uri := pgtest.Database(t)
	s := open(t, uri)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		a, err := Open(t.Context(), Config{URI: uri + "&default_query_exec_mode=" + mode, Window: time.Hour})
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		defer a.Close()
		over := &spicedb{authority: a, conn: s.conn}
		from, err := a.Head(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		commit(t, s.conn, writes(mode, 1))
		if got, want := first(over.since(t, from)), "1 transactions; +document:"+mode+"-1#viewer@user:alice"; got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// BenchmarkChangesSince asks what has changed, where nothing has and after one write, over 200,000 relationships, and for one round trip of a
// connection that has it prepared.
func BenchmarkChangesSince(b *testing.B) {
	s := open(b, pgtest.Database(b))
	commit(b, s.conn, writes("many", 200_000))
	if _, err := s.conn.Exec(b.Context(), "VACUUM ANALYZE"); err != nil { // which the server would begin by itself, meanwhile
		b.Fatal(err)
	}
	at, err := s.authority.Head(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.authority.ChangesSince(b.Context(), at, 100); err != nil {
				b.Fatal(err)
			}
		}
	})
	commit(b, s.conn, writes("new", 1))
	b.Run("after a write", func(b *testing.B) {
		for b.Loop() {
			if c, err := s.authority.ChangesSince(b.Context(), at, 100); err != nil || len(c.Written) != 1 {
				b.Fatal(len(c.Written), err)
			}
		}
	})
	b.Run("the head", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.authority.Head(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a round trip", func(b *testing.B) {
		for b.Loop() {
			var head string
			if err := s.conn.QueryRow(b.Context(), "SELECT pg_current_snapshot()::text").Scan(&head); err != nil {
				b.Fatal(err)
			}
		}
	})
}
