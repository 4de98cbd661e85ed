package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// passingFault is an error that comes and goes, for some operations.
type passingFault struct {
	now   atomic.Bool
	tries atomic.Int64
	errno syscall.Errno
	hits  func(op errorfs.Op) bool
}

func (f *passingFault) MaybeError(op errorfs.Op) error {
	if !f.now.Load() || !f.hits(op) {
		return nil
	}
	f.tries.Add(1)
	return &passingError{op.Path, f.errno}
}

func (f *passingFault) String() string { return f.errno.Error() }

type passingError struct {
	path  string
	errno syscall.Errno
}

func (e *passingError) Error() string { return "open " + e.path + ": " + e.errno.Error() }
func (e *passingError) Unwrap() error { return e.errno }

func creates(ext string) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		return (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite) && filepath.Ext(op.Path) == ext
	}
}

func writesTo(ext string) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWrite && filepath.Ext(op.Path) == ext }
}

// TestPassingErrors: what the system refuses for a while, in whatever the store writes, ends no writing for good. As long
// as it lasts writes are refused in bounded time, with what is wrong; the store is not opened again for them to go
// on, nothing that was acknowledged is lost, and nobody keeps a core busy with trying.
func TestPassingErrors(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*passingFault{
		"no descriptor for a table":   {errno: syscall.EMFILE, hits: creates(".sst")},
		"no descriptor in the system": {errno: syscall.ENFILE, hits: creates(".sst")},
		"no descriptor for a log":     {errno: syscall.EMFILE, hits: creates(".log")},
		"no room for a table":         {errno: syscall.ENOSPC, hits: writesTo(".sst")},
		"no room for a log":           {errno: syscall.ENOSPC, hits: writesTo(".log")},
		"a quota":                     {errno: syscall.EDQUOT, hits: writesTo(".log")},
		"no memory":                   {errno: syscall.ENOMEM, hits: writesTo(".sst")},
		"no descriptor for anything, or a read": {errno: syscall.EMFILE, hits: func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpOpen || op.Kind == errorfs.OpOpenDir || op.Kind == errorfs.OpReuseForWrite
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewCrashableMem()
			s := must(Open("store", small(Config{FS: errorfs.Wrap(mem, f), firstPause: time.Millisecond, patience: 100 * time.Millisecond})))(t)
			acknowledged := 0
			write := func() error {
				_, err := s.ReadWriteTx(t.Context(), writing(touch(fmt.Sprintf("document:%d%s#reader@user:alice", acknowledged, strings.Repeat("x", 900)))))
				if err == nil {
					acknowledged++
				}
				return err
			}
			for range 10 {
				if err := write(); err != nil {
					t.Fatal(err)
				}
			}
			f.now.Store(true)
			begun := time.Now()
			var refusal error
			for refusal == nil && acknowledged < 100_000 {
				refusal = write()
			}
			if code := status.Code(refusal); code != codes.Unavailable && code != codes.ResourceExhausted || !strings.Contains(refusal.Error(), "goes on by itself") {
				t.Errorf("write %d got %v", acknowledged, refusal)
			}
			// Longer than it may last for any other error.
			within(t, "the store to say so", s.impasse.reached())
			if err := write(); err == nil || s.hasFailed() {
				t.Errorf("while it lasts a write got %v; the store has failed: %v", err, s.hasFailed())
			}
			if most := int64(20 + 4*time.Since(begun)/time.Millisecond); f.tries.Load() > most {
				t.Errorf("it was tried %d times in %s", f.tries.Load(), time.Since(begun))
			}
			f.now.Store(false)
			eventually(t, "a write to be taken again", func() bool { return write() == nil })
			for range 1500 { // some more logs and tables
				if err := write(); err != nil {
					t.Fatalf("after it had passed: %v", err)
				}
			}
			if found := len(atHead(t, s)); found < acknowledged {
				t.Errorf("%d relationships can be read of %d", found, acknowledged)
			}
			left := mem.CrashClone(vfs.CrashCloneCfg{})
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			for what, fs := range map[string]vfs.FS{"closed": mem, "crashed": left} {
				again := must(Open("store", small(Config{FS: fs})))(t)
				if found := len(atHead(t, again)); found < acknowledged {
					t.Errorf("%s: %d relationships are there of %d", what, found, acknowledged)
				}
				if err := again.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestCloseWhileAnErrorLasts: a store that waits for an error to pass can be closed, and nothing is lost.
func TestCloseWhileAnErrorLasts(t *testing.T) {
	t.Parallel()
	for _, ext := range []string{".sst", ".log"} {
		f := &passingFault{errno: syscall.EMFILE, hits: creates(ext)}
		mem := vfs.NewCrashableMem()
		s := must(Open("store", small(Config{FS: errorfs.Wrap(mem, f)})))(t)
		f.now.Store(true)
		acknowledged := 0
		for acknowledged < 100_000 {
			if _, err := s.ReadWriteTx(t.Context(), writing(touch(fmt.Sprintf("document:%d%s#reader@user:alice", acknowledged, strings.Repeat("x", 900))))); err != nil {
				break
			}
			acknowledged++
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			_ = s.Close() // it may say that it is not clean
		}()
		within(t, "the store to be closed, with "+ext, closed)
		f.now.Store(false)
		again := must(Open("store", small(Config{FS: mem})))(t)
		if found := len(atHead(t, again)); found < acknowledged {
			t.Errorf("%s: %d relationships are there of %d", ext, found, acknowledged)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestReadWithoutDescriptors: a table that cannot be opened to be read is that call's error, UNAVAILABLE; the store
// is not damaged, takes writes, and reads again as soon as it can.
func TestReadWithoutDescriptors(t *testing.T) {
	t.Parallel()
	f := &passingFault{errno: syscall.EMFILE, hits: func(op errorfs.Op) bool { return op.Kind == errorfs.OpOpen && filepath.Ext(op.Path) == ".sst" }}
	s := opened(t, Config{FS: errorfs.Wrap(vfs.NewMem(), f)})
	f.now.Store(true) // so that what is flushed cannot be opened by anybody
	for i := range 100 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d%s#reader@user:alice", i, strings.Repeat("x", 900))))
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	failed := func() error {
		at := headOf(t, s)
		if _, err := texts(s.SnapshotReader(at).QueryRelationships(t.Context(), datastore.RelationshipsFilter{})); err != nil {
			return err
		}
		sn := must(s.Snapshot(at))(t)
		defer sn.Close()
		_, _, err := sn.Object("document", "1"+strings.Repeat("x", 900), 0)
		return err
	}
	if err := failed(); status.Code(err) != codes.Unavailable || errors.Is(err, ErrDamaged) {
		t.Errorf("a read got %v", err)
	}
	if s.hasFailed() {
		t.Error("the store has failed")
	}
	f.now.Store(false)
	if err := failed(); err != nil {
		t.Errorf("a read got %v afterwards", err)
	}
	writesOf(t, s, touch("document:later#reader@user:alice"))
}

// TestManifestWithoutDescriptors: a new manifest, and the marker that names it, are waited for, since Pebble takes
// their errors for fatal; a write goes on where it ended.
func TestManifestWithoutDescriptors(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"MANIFEST-000007", "marker.manifest.000002.MANIFEST-000007", "000008.log"} {
		left := atomic.Int64{}
		left.Store(5)
		mem := vfs.NewMem()
		inner := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpCreate, errorfs.OpOpenDir, errorfs.OpReuseForWrite:
				if left.Add(-1) >= 0 {
					return syscall.EMFILE
				}
			}
			return nil
		}))
		f := &files{
			FS: inner, failed: func(doing string, err error) { t.Errorf("%s: %s: %v", name, doing, err) }, closing: t.Context().Done(),
			stalled: func(string, error, time.Duration) {}, recovered: (*trouble).over,
			waiting: trouble{now: time.Now}, tables: trouble{now: time.Now}, firstPause: time.Microsecond,
		}
		made := must(f.Create(name, vfs.WriteCategoryUnspecified))(t)
		if left.Load() > 0 || f.waiting.why() != nil {
			t.Errorf("%s: %d failures are left, and %v is waited for", name, left.Load(), f.waiting.why())
		}
		if err := made.Close(); err != nil {
			t.Error(err)
		}
		if !isLog(name) {
			continue
		}
		left.Store(3)
		reused := must(f.ReuseForWrite(name, "000009.log", vfs.WriteCategoryUnspecified))(t)
		if err := reused.Close(); err != nil {
			t.Error(err)
		}
		// Renamed, and then not opened.
		if err := mem.Rename("000009.log", "000010.log"); err != nil {
			t.Fatal(err)
		}
		left.Store(1)
		again := must(f.ReuseForWrite("000009.log", "000010.log", vfs.WriteCategoryUnspecified))(t)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// halfDisk takes half of each write while it is full.
type halfDisk struct {
	vfs.File
	full *atomic.Int64
}

func (d halfDisk) Write(p []byte) (int, error) {
	if d.full.Add(-1) >= 0 {
		n, _ := d.File.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return d.File.Write(p)
}

// TestWriteGoesOnWhereItEnded: of a write that found no room for all of it, the rest is written, and once.
func TestWriteGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	mem, full := vfs.NewMem(), &atomic.Int64{}
	f := &files{
		FS: mem, failed: func(doing string, err error) { t.Errorf("%s: %v", doing, err) }, closing: t.Context().Done(),
		stalled: func(string, error, time.Duration) {}, recovered: (*trouble).over,
		waiting: trouble{now: time.Now}, tables: trouble{now: time.Now}, firstPause: time.Microsecond,
	}
	made := must(mem.Create("000001.log", vfs.WriteCategoryUnspecified))(t)
	log := &file{File: halfDisk{made, full}, files: f, name: "000001.log", vital: true, insists: true}
	full.Store(4)
	const text = "what was acknowledged has to be there, and nothing twice"
	if n, err := log.Write([]byte(text)); n != len(text) || err != nil {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if got := string(must(readFile(mem, "000001.log"))(t)); got != text {
		t.Errorf("the log has %q", got)
	}
}
