//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Synchronous has the cluster acknowledge a commit only once a standby has it on its disk, and returns once a standby that streams is such a one.
func (c *Cluster) Synchronous(t testing.TB) {
	t.Helper()
	c.set(t, "synchronous_standby_names", "*")
	c.until(t, "SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync')::text", "true")
}

// Detach has a standby receive nothing more from its primary: what the primary commits from now on the standby lacks when it is promoted. It returns
// once the connection is closed.
func (c *Cluster) Detach(t testing.TB) {
	t.Helper()
	c.set(t, "primary_conninfo", "")
	c.until(t, "SELECT count(*)::text FROM pg_stat_wal_receiver", "0")
}

// PauseReplay has a standby show no more of what it receives, until ResumeReplay or Promote.
func (c *Cluster) PauseReplay(t testing.TB) {
	t.Helper()
	c.Query(t, "postgres", "SELECT pg_wal_replay_pause()::text")
	c.until(t, "SELECT pg_get_wal_replay_pause_state()", "paused")
}

// ResumeReplay ends PauseReplay.
func (c *Cluster) ResumeReplay(t testing.TB) {
	t.Helper()
	c.Query(t, "postgres", "SELECT pg_wal_replay_resume()::text")
	c.until(t, "SELECT pg_get_wal_replay_pause_state()", "not paused")
}

// CatchUp returns once a standby shows all that its primary has committed by now.
func (c *Cluster) CatchUp(t testing.TB, primary *Cluster) {
	t.Helper()
	at := primary.Query(t, "postgres", "SELECT pg_current_wal_lsn()::text")
	c.until(t, fmt.Sprintf("SELECT (pg_last_wal_replay_lsn() >= '%s')::text", at), "true")
}

// Pause stops the server's processes where they are, as a machine that hangs does: connections stay open, and nobody answers. Resume has them go on.
func (c *Cluster) Pause(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URI("postgres"))
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	server := c.c.cmd.Process.Pid
	// The first one starts no others once it is stopped, so that the list stays complete.
	if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	c.paused = []int{server}
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("PostgreSQL: %v", err)
		}
		c.paused = append(c.paused, pid)
	}
}

// Resume ends Pause. It does nothing where the server is not paused.
func (c *Cluster) Resume(t testing.TB) {
	t.Helper()
	for _, pid := range c.paused {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("PostgreSQL: %v", err)
		}
	}
	c.paused = nil
}

// set changes a setting of the running server.
func (c *Cluster) set(t testing.TB, name, value string) {
	t.Helper()
	c.Exec(t, "postgres", fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value))
	c.Exec(t, "postgres", "SELECT pg_reload_conf()")
}

// until waits until a statement comes to a value.
func (c *Cluster) until(t testing.TB, statement, value string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		got := c.Query(t, "postgres", statement)
		if got == value {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL: %s is still %s after %v, want %s", statement, got, patience, value)
		}
		<-tick.C
	}
}

// KeepWriting has a database of its own in the cluster written to, one short transaction after the other, until stop is called or the test ends: it
// uses up the cluster's transaction ids. stop returns how many there were.
func (c *Cluster) KeepWriting(t testing.TB, database string) (stop func() int) {
	t.Helper()
	uri := c.Create(t, database)
	c.Exec(t, database, "CREATE TABLE numbers (n int)")
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	written := 0
	go func() {
		defer close(ended)
		conn, err := pgx.Connect(ctx, uri)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close(context.Background()) }()
		for ctx.Err() == nil {
			if _, err := conn.Exec(ctx, "INSERT INTO numbers VALUES (1)"); err != nil {
				return // the server was stopped
			}
			written++
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond): // the machine is others' too
			}
		}
	}()
	var once sync.Once
	stop = func() int {
		once.Do(func() { end(); <-ended })
		return written
	}
	t.Cleanup(func() { stop() })
	return stop
}
