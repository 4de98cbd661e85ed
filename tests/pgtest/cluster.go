//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Cluster is a PostgreSQL server of one test's own, which it may stop, start, copy, promote and restore
// into. It is gone when the test ends. Its methods fail the test where PostgreSQL fails; they are not for
// concurrent use.
type Cluster struct {
	c        *cluster
	settings []string
	running  bool
	// paused are the processes that Pause has stopped.
	paused []int
}

// NewCluster starts a new cluster. Settings are PostgreSQL's, as "name=value". It skips the test where the
// machine has no PostgreSQL server.
func NewCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c, err := newDirectory()
	if errors.Is(err, errNoServer) {
		Skip(t, err.Error())
	}
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	own := &Cluster{c: c, settings: settings}
	own.cleanUp(t)
	own.program(t, "initdb", "--pgdata="+c.data, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
		"--no-sync", "--no-instructions")
	own.Start(t)
	return own
}

// Copy copies the cluster as it is now (pg_basebackup), as a physical backup does. The copy is started with
// Start or StartAt, and is then a primary of its own.
func (c *Cluster) Copy(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	return c.copy(t, settings)
}

// Standby copies the cluster as it is now and starts the copy as a hot standby of it. With the setting
// "recovery_min_apply_delay=1h" it takes connections and goes on showing what the cluster held when it was
// copied.
func (c *Cluster) Standby(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	standby := c.copy(t, settings, "--write-recovery-conf")
	standby.Start(t)
	return standby
}

func (c *Cluster) copy(t testing.TB, settings []string, flags ...string) *Cluster {
	t.Helper()
	copied, err := newDirectory()
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	own := &Cluster{c: copied, settings: settings}
	own.cleanUp(t)
	own.program(t, "pg_basebackup", append([]string{
		"--host=" + c.c.socket, "--username=postgres", "--pgdata=" + copied.data, "--checkpoint=fast", "--no-sync",
	}, flags...)...)
	return own
}

func (c *Cluster) cleanUp(t testing.TB) {
	t.Cleanup(func() {
		c.Resume(t)
		if c.running {
			if err := c.c.end(syscall.SIGINT); err != nil {
				t.Errorf("PostgreSQL: %v", err)
			}
		}
		if err := os.RemoveAll(c.c.dir); err != nil {
			t.Errorf("PostgreSQL: %v", err)
		}
	})
}

// Start starts the server after Stop.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	c.StartAt(t, c)
}

// StartAt starts the server where another cluster, which is stopped, has been reached: at its URI.
func (c *Cluster) StartAt(t testing.TB, other *Cluster) {
	t.Helper()
	if err := c.c.launch(other.c.dir, c.settings...); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	c.running = true
}

// RestoreAt starts a copy that has not been started yet where another cluster, which is stopped, has been reached, as a restore to a point in time
// does: once it takes connections it is a primary with a timeline of its own.
func (c *Cluster) RestoreAt(t testing.TB, other *Cluster) {
	t.Helper()
	signal := filepath.Join(c.c.data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	if c.c.as != nil {
		if err := os.Chown(signal, int(c.c.as.Uid), int(c.c.as.Gid)); err != nil {
			t.Fatalf("PostgreSQL: %v", err)
		}
	}
	c.settings = append(c.settings, "restore_command=false") // there is nothing to restore after the copy
	c.StartAt(t, other)
	c.until(t, "SELECT pg_is_in_recovery()::text", "false")
}

// Stop ends the server, and every connection to it.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	c.end(t, syscall.SIGINT)
}

// Crash ends the server without a word: what it has not written is lost.
func (c *Cluster) Crash(t testing.TB) {
	t.Helper()
	c.end(t, syscall.SIGQUIT)
}

func (c *Cluster) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := c.c.end(signal); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	c.running = false
}

// Promote makes a standby a primary, and returns once it is one.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	if got := c.Query(t, "postgres", "SELECT pg_promote(true, 60)::text"); got != "true" {
		t.Fatalf("PostgreSQL: pg_promote answers %s", got)
	}
}

// Create creates an empty database and returns its URI.
func (c *Cluster) Create(t testing.TB, database string) string {
	t.Helper()
	c.Exec(t, "postgres", "CREATE DATABASE "+pgx.Identifier{database}.Sanitize())
	return c.URI(database)
}

// URI is the connection string of a database of the cluster.
func (c *Cluster) URI(database string) string { return URI(database, c) }

// URI is a connection string that names several clusters, in this order.
func URI(database string, clusters ...*Cluster) string {
	hosts := make([]string, len(clusters))
	for i, c := range clusters {
		hosts[i] = c.c.socket
	}
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {strings.Join(hosts, ",")}}.Encode(),
	}
	return u.String()
}

// Exec runs one statement in a database.
func (c *Cluster) Exec(t testing.TB, database, statement string) {
	t.Helper()
	if err := c.c.execIn(context.Background(), database, statement); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
}

// Query returns the one value, a text, that a statement comes to.
func (c *Cluster) Query(t testing.TB, database, statement string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URI(database))
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	var value string
	err = conn.QueryRow(ctx, statement).Scan(&value)
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatalf("PostgreSQL: %s: %v", statement, err)
	}
	return value
}

// Dump writes a database into a file, as `pg_dump --format=custom` does, and returns its path.
func (c *Cluster) Dump(t testing.TB, database string) string {
	t.Helper()
	file := filepath.Join(c.c.dir, database+".dump")
	c.program(t, "pg_dump", "--host="+c.c.socket, "--username=postgres", "--format=custom", "--file="+file, database)
	return file
}

// Restore creates a database of what Dump wrote, as pg_restore does, and returns its URI.
func (c *Cluster) Restore(t testing.TB, database, file string) string {
	t.Helper()
	uri := c.Create(t, database)
	c.program(t, "pg_restore", "--host="+c.c.socket, "--username=postgres", "--dbname="+database, "--exit-on-error", file)
	return uri
}

// SpendTransactions advances the cluster's counter of transactions by n.
func (c *Cluster) SpendTransactions(t testing.TB, n int) {
	t.Helper()
	c.Exec(t, "postgres", fmt.Sprintf(
		"DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); ROLLBACK; END LOOP; END $$", n))
}

func (c *Cluster) program(t testing.TB, name string, args ...string) {
	t.Helper()
	if err := c.c.program(name, args...); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
}
