package rpc

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/statuses"
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
	if err := r.end(t.Context(), nil); status.Code(err) != codes.Unavailable ||
		!strings.HasSuffix(status.Convert(err).Message(), "that is recorded as soon as the journal takes records again") {
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

// TestEndBeyondTheShare ends a call that has written, whose caller has used up its share of the journal and what is kept in reserve since the call
// began: its caller is told that the end is counted, which is so, and not that it is recorded later, which nothing does.
func TestEndBeyondTheShare(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	j, err := journal.Open(journal.Config{
		Dir: "journal", FS: fs, Store: "store", Secret: make([]byte, journal.MinSecret), ReserveBytes: 1 << 12, CheckpointInterval: time.Hour,
		QuotaBytes: 1 << 18,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	r := &Recording{
		gate: &Gate{journal: j}, account: j.Account("desk", "Service/Method"), manner: manner{effect: deputyv1.Effect_EFFECT_WRITES, unary: true},
	}
	if err := r.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, duty := range []journal.Duty{journal.Refuse, journal.Reserve} {
		for err = nil; err == nil; {
			_, err = j.Append(t.Context(), duty, &journal.Record{Caller: "desk"})
		}
		if authz.KindOf(err) != authz.Exhausted {
			t.Fatal(err)
		}
	}
	written := j.Written()
	err = r.end(t.Context(), nil)
	said := status.Convert(err)
	if said.Code() != codes.ResourceExhausted || statuses.Info(said).GetReason() != authz.ReasonJournalShare ||
		!strings.HasPrefix(said.Message(), "it was written; ") || !strings.HasSuffix(said.Message(), "only its beginning is recorded, and the end is counted") {
		t.Errorf("it ends with %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	ends := 0
	if _, err := journal.NewSegmentReader(fs, "journal").Read(written, 1<<62, func(_ uint64, b []byte) error {
		var r journal.Record
		if err := proto.Unmarshal(b, &r); err != nil {
			return err
		}
		if r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_ENDED {
			ends++
		}
		return nil
	}); err != nil || ends > 0 {
		t.Errorf("%d ends are recorded later: %v", ends, err)
	}
}
