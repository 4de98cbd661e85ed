package follow_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
)

// anything fits.
func anything(follow.Position) error { return nil }

// TestPromote makes a store of the newest complete copy: it has what the copy had, another id than any store before, and takes writes.
func TestPromote(t *testing.T) { eachAuthority(t, promote) }

func promote(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	w.update(t, touch("document:plan#viewer@user:alice"), touch(`document:plan#viewer@user:bob[weekday:{"day":"monday"}]`))
	a := authority(t, w.uri, time.Hour)
	files := vfs.NewMem()
	config := over(files)
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	follows(t, f, a)
	w.update(t, touch("document:last#viewer@user:alice"))
	at := follows(t, f, a)
	copied, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	was, err := copied.Store.UniqueID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copied.Release()
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a copy that is open is promoted: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.update(t, touch("document:late#viewer@user:alice"))
	refused := errors.New("no")
	if _, err := follow.Promote("copies", "graph", config.Store, func(follow.Position) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a copy that does not fit is promoted: %v", err)
	}
	if err := files.MkdirAll("taken", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := follow.Promote("copies", "taken", config.Store, anything); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a copy is promoted to a place that is taken: %v", err)
	}
	// What a crash has left of a newer load does not count.
	if err := files.MkdirAll("copies/copy-7.gone", 0o700); err != nil {
		t.Fatal(err)
	}
	promoted, err := follow.Promote("copies", "graph", config.Store, anything)
	if err != nil {
		t.Fatal(err)
	}
	if promoted.Position.State != at.State || promoted.Position.Authority != at.Authority || promoted.Relationships != 3 {
		t.Errorf("promoted %+v, want the copy at %+v", promoted, at)
	}
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, follow.ErrPromoted) {
		t.Errorf("the copy is promoted again: %v", err)
	}
	if _, err := follow.Promote("copies", "elsewhere", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("a copy that is gone is promoted: %v", err)
	}
	s, err := store.Open("graph", config.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	id, err := s.UniqueID(t.Context())
	if err != nil || id != promoted.Store || id == was || strings.Contains(string(at.Authority), id) {
		t.Errorf("the store's id is %s, want %s, and none of %s: %v", id, promoted.Store, at.Authority, err)
	}
	theirs := &written{s, w.uri}
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	before := &follow.Reached{Store: s, Local: head, Position: at}
	if has := fmt.Sprint(relationships(t, before)); !strings.Contains(has, "last") || strings.Contains(has, "late") {
		t.Errorf("the store has %s", has)
	}
	theirs.update(t, touch("document:new#viewer@user:alice"))
}

// TestPromoteHalf promotes no copy that is not complete.
func TestPromoteHalf(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	fill(t, w, 50)
	files := vfs.NewMem()
	config := over(files)
	config.PageSize = 20
	asked := 0
	stop := errors.New("stop")
	a := &failing{authority(t, w.uri, time.Hour), func() error {
		if asked++; asked > 3 {
			return stop
		}
		return nil
	}}
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Load(t.Context()); !errors.Is(err, stop) {
		t.Fatalf("the load ended with %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("half a copy is promoted: %v", err)
	}
	if _, err := follow.Promote("nowhere", "graph", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("nothing is promoted: %v", err)
	}
}

// completeCopy returns a file system with the complete copy of an authority that has three relationships, closed and synced.
func completeCopy(t *testing.T) *vfs.MemFS {
	t.Helper()
	w := writer(t, served(t, store.Config{}).uri)
	w.update(t, touch("document:plan#viewer@user:alice"), touch("document:plan#viewer@user:bob"), touch("document:last#viewer@user:alice"))
	a := authority(t, w.uri, time.Hour)
	files := vfs.NewCrashableMem()
	f, err := follow.Open(over(files), a)
	if err != nil {
		t.Fatal(err)
	}
	follows(t, f, a)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return files
}

// has3 reports whether a directory has a store of its own with the relationships of completeCopy.
func has3(t *testing.T, files vfs.FS, dir string) bool {
	t.Helper()
	if _, err := files.Stat(dir); err != nil {
		return false
	}
	config := over(files).Store
	s, err := store.Open(dir, config)
	if err != nil {
		t.Errorf("the store in %s cannot be opened: %v", dir, err)
		return false
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	head, err := s.Head()
	if err != nil {
		t.Error(err)
	}
	all, _, err := s.Page(t.Context(), head, "", 10, 1<<20)
	return err == nil && len(all) == 3
}

// TestPromoteFails fails each I/O of a promotion, once or from then on. Afterwards the copy is where it was, and can be promoted, or it is promoted and
// the error says so. After a crash of the machine it is at one of the two places; and where there was no error, at the one that it was promoted to.
func TestPromoteFails(t *testing.T) {
	before := completeCopy(t).CrashClone(vfs.CrashCloneCfg{})
	moved, kept := 0, 0
	for _, lasts := range []bool{false, true} {
		for at := int64(0); ; at++ {
			files := before.CrashClone(vfs.CrashCloneCfg{})
			if err := files.MkdirAll("data", 0o700); err != nil { // its maker has not synced it
				t.Fatal(err)
			}
			var seen, failed atomic.Int64
			failing := errorfs.Wrap(files, errorfs.InjectorFunc(func(errorfs.Op) error {
				if n := seen.Add(1) - 1; n == at || lasts && n > at {
					failed.Add(1)
					return syscall.EIO
				}
				return nil
			}))
			_, err := follow.Promote("copies", "data/graph", over(failing).Store, anything)
			name := fmt.Sprintf("I/O %d fails (and all after it: %t), and the promotion ends with %v", at, lasts, err)
			_, missing := files.Stat("data/graph")
			switch there := missing == nil; {
			case there != (err == nil || errors.Is(err, follow.ErrMoved)):
				t.Errorf("%s: the store is at the place: %t", name, there)
			case there:
				if !has3(t, files, "data/graph") {
					t.Errorf("%s: the store is not the copy", name)
				}
				if err != nil {
					moved++
					if !strings.Contains(err.Error(), "data/graph") {
						t.Errorf("%s: it does not say where the store is", name)
					}
				}
				if _, err := follow.Promote("copies", "data/graph", over(files).Store, anything); !errors.Is(err, follow.ErrPromoted) {
					t.Errorf("%s: called again it returns %v", name, err)
				}
			default:
				kept++
				crashed := files.CrashClone(vfs.CrashCloneCfg{})
				for where, files := range map[string]*vfs.MemFS{"again": files, "after a crash": crashed} {
					if err := files.MkdirAll("data", 0o700); err != nil {
						t.Fatal(err)
					}
					if _, err := follow.Promote("copies", "data/graph", over(files).Store, anything); err != nil || !has3(t, files, "data/graph") {
						t.Errorf("%s: called %s it returns %v", name, where, err)
					}
				}
			}
			if err == nil {
				if crashed := files.CrashClone(vfs.CrashCloneCfg{}); failed.Load() == 0 && !has3(t, crashed, "data/graph") {
					t.Errorf("%s: a crash takes the store away", name)
				}
			}
			if failed.Load() == 0 || t.Failed() {
				break
			}
		}
	}
	t.Logf("the copy was kept %d times, and moved with an error %d times", kept, moved)
	if moved == 0 || kept < 20 {
		t.Errorf("the copy was kept %d times, and moved with an error %d times: the test tests too little", kept, moved)
	}
}

// TestPromoteElsewhere promotes to another file system: the copy stays, the error says why and what to do, and a place on the same one will do.
func TestPromoteElsewhere(t *testing.T) {
	files := completeCopy(t)
	elsewhere := errorfs.Wrap(files, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpRename && op.Path == "copies/copy-1" {
			return &os.LinkError{Op: "rename", Old: op.Path, New: "other/graph", Err: syscall.EXDEV}
		}
		return nil
	}))
	_, err := follow.Promote("copies", "other/graph", over(elsewhere).Store, anything)
	if !errors.Is(err, syscall.EXDEV) || !strings.Contains(err.Error(), "another file system") {
		t.Fatalf("to another file system: %v", err)
	}
	if _, err := follow.Promote("copies", "graph", over(files).Store, anything); err != nil || !has3(t, files, "graph") {
		t.Errorf("called again with a place on the same file system it returns %v", err)
	}
}
