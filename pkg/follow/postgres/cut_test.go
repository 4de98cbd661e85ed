package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// cutter is a wire to a PostgreSQL that lets a number of bytes of the server's through, and then is cut, or holds what follows.
type cutter struct {
	target, uri string

	mu    sync.Mutex
	moves *sync.Cond
	// sent is how many bytes of the server's have come through since the wire was armed, and limit how many may; none where it is below 0.
	sent, limit int
	hold        bool
	conns       map[net.Conn]bool
}

func newCutter(t testing.TB, uri string) *cutter {
	t.Helper()
	at, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir is too long for the path of a socket.
	dir, err := os.MkdirTemp("", "cut-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	const socket = ".s.PGSQL.5432"
	c := &cutter{target: filepath.Join(at.Query().Get("host"), socket), limit: -1, conns: map[net.Conn]bool{}}
	c.moves = sync.NewCond(&c.mu)
	at.RawQuery = url.Values{"host": {dir}}.Encode()
	c.uri = at.String()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			down, err := listener.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", c.target)
			if err != nil || !c.take(down, up) {
				_ = down.Close()
				continue
			}
			serving.Go(func() { c.forward(down, up) })
			serving.Go(func() { c.back(down, up) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.let(0, false)
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	return c
}

// let arms the wire: from now on so many bytes of the server's come through, all if it is below 0. Connections that were cut or held are closed.
func (c *cutter) let(limit int, hold bool) (sent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit >= 0 && c.sent >= c.limit || limit == 0 && !hold {
		c.closeLocked()
	}
	sent = c.sent
	c.sent, c.limit, c.hold = 0, limit, hold
	c.moves.Broadcast()
	return sent
}

func (c *cutter) closeLocked() {
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}

// take notes a connection, unless the wire is cut.
func (c *cutter) take(down, up net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit >= 0 && c.sent >= c.limit && !c.hold {
		_ = up.Close()
		return false
	}
	c.conns[down], c.conns[up] = true, true
	return true
}

// forward moves the client's bytes.
func (c *cutter) forward(down, up net.Conn) {
	defer func() { _ = up.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := down.Read(buffer)
		if err != nil {
			return
		}
		if _, err := up.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// back moves the server's bytes.
func (c *cutter) back(down, up net.Conn) {
	defer func() { _ = down.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := up.Read(buffer)
		if err != nil {
			return
		}
		for rest := buffer[:n]; len(rest) > 0; {
			c.mu.Lock()
			for c.limit >= 0 && c.sent >= c.limit && c.hold && c.conns[down] {
				c.moves.Wait()
			}
			some := rest
			if c.limit >= 0 {
				some = rest[:min(len(rest), c.limit-c.sent)]
			}
			if !c.conns[down] {
				c.mu.Unlock()
				return
			}
			c.sent += len(some)
			_, err := down.Write(some)
			if c.limit >= 0 && c.sent >= c.limit && !c.hold {
				c.closeLocked()
				err = net.ErrClosed
			}
			c.mu.Unlock()
			if err != nil {
				return
			}
			rest = rest[len(some):]
		}
	}
}

// everyByte is the stride through the bytes of an answer: so many points in CI, each of them with DEPUTY_TEST_EVERY_BYTE=1.
func everyByte(t testing.TB, total, points int) int {
	t.Helper()
	if text := os.Getenv("DEPUTY_TEST_EVERY_BYTE"); text != "" {
		stride, err := strconv.Atoi(text)
		if err != nil || stride < 1 {
			t.Fatalf("DEPUTY_TEST_EVERY_BYTE is %q, want the distance between two points", text)
		}
		return stride
	}
	return max(1, total/points)
}

// TestCutAtEveryByte cuts the connection to the database after each byte of an answer, and holds it there: while the head is taken, what has
// changed is pulled, and a copy is loaded. Nothing is applied in part, no head is proven that was not read, no failure of the wire is taken for a
// refusal of the database's that costs the copy; and once the wire is whole the copy comes to what the database has.
func TestCutAtEveryByte(t *testing.T) {
	uri := pgtest.Database(t)
	s := open(t, uri)
	direct := s.authority
	const schema = "definition user {}\ndefinition document {\n\trelation viewer: user\n}"
	compiled, err := compiler.Compile(compiler.InputSchema{Source: "test", SchemaString: schema},
		compiler.AllowUnprefixedObjectType())
	if err != nil {
		t.Fatal(err)
	}
	// Every write replaces the schema, takes back what the one before has granted, and grants something else.
	wrote := 10_000
	write := func(t *testing.T) {
		t.Helper()
		wrote++
		commit(t, s.conn, deletes("doc"))
		commit(t, s.conn, writes(fmt.Sprintf("doc%d", wrote), 20))
		tx, err := s.conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), "INSERT INTO relation_tuple_transaction DEFAULT VALUES")
		for _, d := range compiled.ObjectDefinitions {
			encoded, failed := d.MarshalVT()
			_, deleted := tx.Exec(t.Context(), "UPDATE namespace_config SET deleted_xid = pg_current_xact_id() WHERE namespace = $1 AND deleted_xid = "+alive,
				d.GetName())
			_, written := tx.Exec(t.Context(), "INSERT INTO namespace_config (namespace, serialized_config) VALUES ($1, $2)", d.GetName(), encoded)
			err = errors.Join(err, failed, deleted, written)
		}
		if err := errors.Join(err, tx.Commit(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	wire := newCutter(t, uri)
	a, err := Open(t.Context(), Config{URI: wire.uri, Window: time.Hour, Conns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	f, err := follow.Open(follow.Config{
		Dir: "copies", PageSize: 8,
		Store: store.Config{FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, CollectEvery: time.Hour, OpenFiles: 100},
	}, a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	// equal compares what the copy has with the database at the copy's position, and returns that.
	equal := func(t *testing.T) follow.Position {
		t.Helper()
		reached, err := f.Reached()
		if err != nil {
			t.Fatal(err)
		}
		defer reached.Release()
		different, err := follow.Compare(t.Context(), direct.At(reached.Position), reached.Store, reached.Local, time.Now(), 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range different {
			t.Errorf("at %s: %s", reached.Position.State, d)
		}
		return reached.Position
	}
	shows := func(t *testing.T, p, head follow.Position) {
		t.Helper()
		has, err := parseSnapshot(p.State)
		wants, wrong := parseSnapshot(head.State)
		if err != nil || wrong != nil || !has.covers(wants) {
			t.Errorf("the position %s does not show the head %s that was there before it was asked for", p.State, head.State)
		}
	}
	pull := func(ctx context.Context) (follow.Position, error) {
		reached, err := f.Pull(ctx)
		if err != nil {
			return follow.Position{}, err
		}
		defer reached.Release()
		return reached.Position, nil
	}
	if _, err := f.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		points int
		does   func(context.Context) (follow.Position, error)
	}{
		{"the head", 16, func(ctx context.Context) (follow.Position, error) { return a.Head(ctx) }},
		{"a pull", 40, pull},
		{"a pull over a new connection", 30, func(ctx context.Context) (follow.Position, error) {
			a.pool.Reset()
			return pull(ctx)
		}},
		{"a load", 24, func(ctx context.Context) (follow.Position, error) {
			if err := f.Load(ctx); err != nil {
				return follow.Position{}, err
			}
			reached, err := f.Reached()
			if err != nil {
				return follow.Position{}, err
			}
			defer reached.Release()
			return reached.Position, nil
		}},
	} {
		for _, hold := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, held: %v", c.name, hold), func(t *testing.T) {
				// The first time connections are made and statements prepared.
				total := 0
				for range 2 {
					write(t)
					wire.let(-1, false)
					if _, err := c.does(t.Context()); err != nil {
						t.Fatal(err)
					}
					total = wire.let(-1, false)
				}
				stride, patience := everyByte(t, total, c.points), 5*time.Second
				if hold {
					stride, patience = stride*8, 200*time.Millisecond
				}
				tried, failed := 0, 0
				for n := 0; n < total && !t.Failed(); n += stride {
					if _, err := pull(t.Context()); err != nil {
						t.Fatal(err)
					}
					write(t)
					before := equal(t)
					head, err := direct.Head(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					wire.let(n, hold)
					at, err := c.does(ctx)
					cancel()
					wire.let(-1, false)
					tried++
					if err != nil {
						failed++
						for _, refusal := range []error{follow.ErrMissed, follow.ErrOther, follow.ErrTooMany, follow.ErrStandby, follow.ErrMigration} {
							if errors.Is(err, refusal) {
								t.Errorf("after %d bytes of %d: %v", n, total, err)
							}
						}
						if after := equal(t); after.State != before.State {
							t.Errorf("after %d bytes of %d it fails, and the copy has gone from %s to %s", n, total, before.State, after.State)
						}
					} else {
						shows(t, at, head)
						equal(t)
					}
					// The wire is whole.
					if at, err = c.does(t.Context()); err != nil {
						t.Fatalf("once the wire is whole again, after it was cut after %d bytes of %d: %v", n, total, err)
					}
					shows(t, at, head)
					if _, err := pull(t.Context()); err != nil {
						t.Fatal(err)
					}
					shows(t, equal(t), head)
				}
				t.Logf("an answer of %d bytes; tried at %d, of which %d failed", total, tried, failed)
				if failed < tried*9/10 {
					t.Errorf("of %d tries %d failed, and the test tests little", tried, failed)
				}
			})
		}
	}
}
