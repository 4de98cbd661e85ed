package store

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// fault fails I/O number at, counted from 0, and those after it too if it lasts.
type fault struct {
	at     int64
	writes bool
	lasts  bool

	seen   atomic.Int64
	failed atomic.Int64
	healed atomic.Bool
	where  atomic.Pointer[string]
}

// MaybeError is errorfs.Injector's.
func (f *fault) MaybeError(op errorfs.Op) error {
	if f.healed.Load() || f.writes && op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	n := f.seen.Add(1) - 1
	if n < f.at || n > f.at && !f.lasts {
		return nil
	}
	if f.failed.Add(1) == 1 {
		where := fmt.Sprintf("operation %d on %s", op.Kind, op.Path)
		f.where.Store(&where)
	}
	return &os.PathError{Op: "ordeal", Path: op.Path, Err: syscall.EIO}
}

// String is errorfs.Injector's.
func (f *fault) String() string {
	if where := f.where.Load(); where != nil {
		return fmt.Sprintf("I/O %d, %s", f.at, *where)
	}
	return fmt.Sprintf("I/O %d", f.at)
}

// TestFailingIO fails each I/O of an ordeal, once or from then on. Whatever happens is an error or nothing:
// nothing panics, nothing hangs, what is read is right, a store that failed can be closed and opened again
// in the same process, and what was acknowledged is there afterwards, also if the machine crashes.
func TestFailingIO(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		writes, lasts bool
		stride        int
	}{
		{"any once", false, false, 59},
		{"any from then on", false, true, 61},
		{"writes once", true, false, 31},
		{"writes from then on", true, true, 37},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stride := int64(everyPoint(t, c.stride))
			runs := 0
			for at := int64(0); !t.Failed(); at += stride {
				f := &fault{at: at, writes: c.writes, lasts: c.lasts}
				failIO(t, f)
				if f.failed.Load() == 0 {
					break
				}
				runs++
			}
			t.Logf("%d runs", runs)
			if runs < 10 {
				t.Errorf("only %d runs: the ordeal is too short", runs)
			}
		})
	}
}

// failIO goes through an ordeal with one fault.
func failIO(t *testing.T, f *fault) {
	t.Helper()
	o, mem := newOrdeal(), vfs.NewCrashableMem()
	fs := meddle(mem, f)
	bounded(t, f, "the ordeal", func() {
		unopened, settled := int64(0), 0
		o.live(fs, func(did ordealStep, s *Store, err error) bool {
			switch {
			case errors.Is(err, errWrong), errors.Is(err, ErrInUse), errors.Is(err, ErrClosed):
				t.Errorf("%s: %s: %v", f, did, err)
			case err != nil && f.failed.Load() == 0:
				t.Errorf("%s: %s failed before anything did: %v", f, did, err)
			case did == didOpen && err != nil:
				if unopened++; unopened > f.failed.Load() {
					t.Errorf("%s: it cannot be opened again: %v", f, err)
				}
				return !f.lasts && !t.Failed()
			case s != nil && f.failed.Load() > 0 && (settled < 4 || did == didOpen):
				settled++
				o.settle(t, f, s, did)
			}
			return !t.Failed()
		})
	})
	if t.Failed() {
		return
	}
	f.healed.Store(true)
	known := o.ledger()
	left := mem.CrashClone(vfs.CrashCloneCfg{})
	bounded(t, f, "opening it again", func() {
		for what, fs := range map[string]vfs.FS{"again": fs, "after a crash": left} {
			if _, err := o.reopened(fs, known); err != nil {
				t.Errorf("%s: opened %s: %v", f, what, err)
			}
		}
	})
}

// settle reads a store after something failed. What is there and was not acknowledged stays there; what a
// reopened store does not have it never will.
func (o *ordeal) settle(t *testing.T, f *fault, s *Store, did ordealStep) {
	t.Helper()
	present, err := o.verify(s, o.ledger())
	if errors.Is(err, errWrong) {
		t.Errorf("%s: after %s: %v", f, did, err)
	}
	if err != nil {
		return // it says that it cannot be read
	}
	if s.hasFailed() {
		refused := o.next()
		if err := o.do(s, refused); err == nil {
			t.Errorf("%s: after %s a failed store took a write", f, did)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.deeds {
		d.done = d.done || present[d.name]
		d.undone = d.undone || did == didOpen && !present[d.name]
	}
}

// bounded runs what must end.
func bounded(t *testing.T, what fmt.Stringer, doing string, fn func()) {
	t.Helper()
	done := make(chan bool, 1)
	go func() {
		returned := false
		defer func() { done <- returned }()
		fn()
		returned = true
	}()
	select {
	case returned := <-done:
		if !returned {
			t.Errorf("%s: the goroutine of %s was ended", what, doing)
		}
	case <-time.After(time.Minute):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s: %s hangs\n%s", what, doing, stacks[:runtime.Stack(stacks, true)])
	}
}
