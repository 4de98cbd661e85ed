package store

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestFence changes a file system that was fenced off, by all that a file system offers.
func TestFence(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	f := &files{FS: mem, failed: func(doing string, cause error) { t.Errorf("it failed while %s: %v", doing, cause) }}
	before, err := f.Create("before", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	if !f.fence(time.Minute) {
		t.Fatal("nothing was under way, and the fence was not closed")
	}
	ignoring := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"Create":        ignoring(f.Create("after", vfs.WriteCategoryUnspecified)),
		"ReuseForWrite": ignoring(f.ReuseForWrite("before", "after", vfs.WriteCategoryUnspecified)),
		"OpenReadWrite": ignoring(f.OpenReadWrite("before", vfs.WriteCategoryUnspecified)),
		"Link":          f.Link("before", "after"),
		"Rename":        f.Rename("before", "after"),
		"Remove":        f.Remove("before"),
		"RemoveAll":     f.RemoveAll("before"),
		"MkdirAll":      f.MkdirAll("after", 0o700),
		"Write":         ignoring(before.Write([]byte("more"))),
		"WriteAt":       ignoring(before.WriteAt([]byte("more"), 0)),
		"Preallocate":   before.Preallocate(0, 8),
		"Sync":          before.Sync(),
		"SyncData":      before.SyncData(),
		"SyncTo":        ignoring(before.SyncTo(4)),
	} {
		if !errors.Is(err, errFenced) {
			t.Errorf("%s came to %v", name, err)
		}
	}
	if names, err := f.List(""); err != nil || !slices.Equal(names, []string{"before"}) {
		t.Errorf("there is %q, %v", names, err)
	}
	if content, err := readFile(f, "before"); err != nil || string(content) != "text" {
		t.Errorf("the file has %q, %v", content, err)
	}
}

// TestFenceWaits closes a fence while something is under way.
func TestFenceWaits(t *testing.T) {
	t.Parallel()
	under, proceed := make(chan struct{}), make(chan struct{})
	f := &files{FS: meddle(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpMkdirAll {
			close(under)
			<-proceed
		}
		return nil
	}))}
	made := make(chan error, 1)
	go func() { made <- f.MkdirAll("slow", 0o700) }()
	<-under
	if f.fence(time.Millisecond) {
		t.Error("the fence was closed around something that was under way")
	}
	close(proceed)
	if err := <-made; err != nil {
		t.Error(err)
	}
	if !f.fence(time.Minute) {
		t.Error("the fence was not closed")
	}
}

// TestFailedStore fails a log's sync. The store takes no more writes and goes on reading; its directory can
// be opened again, and what the failed one still does in the background then reaches nothing there.
func TestFailedStore(t *testing.T) {
	t.Parallel()
	o, mem := newOrdeal(), vfs.NewCrashableMem()
	var broken, closed atomic.Bool
	fs := meddle(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch {
		case closed.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite:
			t.Errorf("operation %d on %s, by a store that was closed", op.Kind, op.Path)
		case broken.Load() && isSync(op) && isLog(op.Path):
			return &os.PathError{Op: "ordeal", Path: op.Path, Err: syscall.EIO}
		}
		return nil
	}))
	s, err := Open(ordealDir, o.config(fs))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := errors.Join(o.do(s, o.next()), s.db.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	broken.Store(true)
	for range 2 {
		if err := o.do(s, o.next()); status.Code(err) != codes.Unavailable {
			t.Errorf("a write that cannot be synced came to %v", err)
		}
	}
	if _, err := o.verify(s, o.ledger()); err != nil {
		t.Errorf("reading: %v", err)
	}
	if ready, err := s.ReadyState(t.Context()); err != nil || ready.IsReady || !strings.Contains(ready.Message, "takes no writes") {
		t.Errorf("it says of itself %v, %v", ready, err)
	}
	if err := s.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("it was closed with %v", err)
	}
	closed.Store(true)
	second, err := Open(ordealDir, o.config(mem))
	if err != nil {
		t.Fatalf("opened again: %v", err)
	}
	// The range has rows and no changelog, so that nothing of it waits in memory. Whether this ends is of no
	// interest.
	go func() { _ = s.db.Compact(context.Background(), []byte{kindForward}, []byte{kindForward + 1}, false) }()
	known := o.ledger()
	for i := range 20 {
		if _, err := o.verify(second, known); err != nil {
			t.Fatalf("the %dth time: %v", i, err)
		}
	}
	if err := errors.Join(o.onward(second, known), second.Close()); err != nil {
		t.Error(err)
	}
}
