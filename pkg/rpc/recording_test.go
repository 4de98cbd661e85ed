package rpc

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// recorded is the recording of a call, in a journal whose disk does before each write what the test says.
func recorded(t *testing.T, effect deputyv1.Effect, write func() error) (*journal.Journal, *Recording) {
	t.Helper()
	j, err := journal.Open(journal.Config{
		Dir: "journal", Store: "store", Secret: make([]byte, journal.MinSecret), ReserveBytes: 1 << 12, CheckpointInterval: time.Hour,
		FS: errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate {
				return write()
			}
			return nil
		})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, &Recording{gate: &Gate{journal: j}, account: j.Account("desk", "Service/Method"), manner: manner{effect: effect, unary: true}}
}

// TestEndOfACancelledCall records how a call ends whose caller has gone: that is waited for, though others are written first.
func TestEndOfACancelledCall(t *testing.T) {
	t.Parallel()
	var held atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	j, r := recorded(t, deputyv1.Effect_EFFECT_READS, func() error {
		if held.CompareAndSwap(true, false) {
			close(entered)
			<-release
		}
		return nil
	})
	held.Store(true)
	other := make(chan error, 1)
	go func() {
		_, err := j.Append(context.Background(), journal.Refuse, &journal.Record{})
		other <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	if err := r.end(ctx, status.Error(codes.NotFound, "there is none")); status.Code(err) != codes.NotFound {
		t.Errorf("a call whose caller has gone ends with %v", err)
	}
	if err := <-other; err != nil || j.Written() != 2 {
		t.Errorf("%d records are written, want 2: %v", j.Written(), err)
	}
}

// TestEndIsCountedOnce ends a call that has written while the disk fails: its caller is told, and the record is written later, once.
func TestEndIsCountedOnce(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	j, r := recorded(t, deputyv1.Effect_EFFECT_WRITES, func() error {
		if broken.Load() {
			return syscall.EIO
		}
		return nil
	})
	if err := r.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if err := r.end(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("a write whose end is not recorded is answered %v", err)
	}
	if s := j.Stats(); s.Refused != 0 || s.Late != 1 || s.InMemory != 1 || s.Lost != 0 {
		t.Errorf("the journal counts %+v", s)
	}
	broken.Store(false)
	for deadline := time.Now().Add(time.Minute); j.Written() < 3 && time.Now().Before(deadline); runtime.Gosched() {
		continue // until there is its beginning, its end, and a note that this is late
	}
	if s := j.Stats(); s.Records != 3 || s.InMemory != 0 {
		t.Errorf("once the disk is well: %+v", s)
	}
}
