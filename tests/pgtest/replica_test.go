//go:build unix

package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestReplica: what a standby shows, and what it has when it is promoted, is what the methods say.
func TestReplica(t *testing.T) {
	t.Parallel()
	primary := NewCluster(t)
	primary.Create(t, "d")
	primary.Exec(t, "d", "CREATE TABLE numbers (n int)")
	standby := primary.Standby(t)
	const count = "SELECT count(*)::text FROM numbers"
	add := func() { t.Helper(); primary.Exec(t, "d", "INSERT INTO numbers VALUES (1)") }
	shows := func(want string) {
		t.Helper()
		if got := standby.Query(t, "d", count); got != want {
			t.Errorf("the standby shows %s, want %s", got, want)
		}
	}
	add()
	standby.CatchUp(t, primary)
	shows("1")
	primary.Synchronous(t)
	standby.PauseReplay(t)
	add() // is acknowledged, because the standby has it
	shows("1")
	standby.ResumeReplay(t)
	standby.CatchUp(t, primary)
	shows("2")
	primary.set(t, "synchronous_standby_names", "")
	standby.Detach(t)
	add()
	primary.Crash(t)
	standby.Promote(t)
	shows("2")
	conn, err := pgx.Connect(t.Context(), URI("d", primary, standby)+"&target_session_attrs=read-write")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "INSERT INTO numbers VALUES (1)"); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	shows("3")
}

// TestPause: a server that is paused takes a connection and does not answer; one that goes on does.
func TestPause(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	stop := c.KeepWriting(t, "busy")
	conn, err := pgx.Connect(t.Context(), c.URI("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	c.Pause(t)
	answer := make(chan error, 1)
	go func() { _, err := conn.Exec(context.Background(), "SELECT 1"); answer <- err }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if another, err := pgx.Connect(ctx, c.URI("postgres")); err == nil {
		_ = another.Close(context.Background())
		t.Error("a server that is paused takes a connection")
	}
	select {
	case err := <-answer:
		t.Errorf("a server that is paused answers: %v", err)
	default:
	}
	c.Resume(t)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if n := stop(); n == 0 {
		t.Error("the other database was not written to")
	}
}
