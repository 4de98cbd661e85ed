package tree_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// record is the n-th record of the trees of these tests.
func record(n uint64) []byte {
	r := rand.New(rand.NewPCG(n, 7))
	b := make([]byte, r.IntN(60))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return fmt.Appendf(b, "record %d", n)
}

// open opens the tree of a file system.
func open(t testing.TB, fs vfs.FS, minimum uint64) *tree.Tree {
	t.Helper()
	made, err := tree.Open(fs, "journal", minimum, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// fill adds records until there are so many, and saves.
func fill(t testing.TB, to *tree.Tree, size uint64) {
	t.Helper()
	for n := to.Size(); n < size; n++ {
		if err := to.Add(record(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Save(); err != nil {
		t.Fatal(err)
	}
}

// reference is golang.org/x/mod's tree of the same records.
type reference struct {
	hashes []tlog.Hash
	size   uint64
}

func (r *reference) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = r.hashes[index]
	}
	return out, nil
}

// root is the root of the first records.
func (r *reference) root(t testing.TB, size uint64) tlog.Hash {
	t.Helper()
	for ; r.size < size; r.size++ {
		hashes, err := tlog.StoredHashes(int64(r.size), record(r.size), r)
		if err != nil {
			t.Fatal(err)
		}
		r.hashes = append(r.hashes, hashes...)
	}
	root, err := tlog.TreeHash(int64(size), r)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestTree: roots, proofs and bundles of trees of many sizes, saved and opened again at each, are those of golang.org/x/mod.
func TestTree(t *testing.T) {
	t.Parallel()
	var want reference
	fs := vfs.NewMem()
	made := open(t, fs, 0)
	for _, size := range []uint64{0, 1, 2, 255, 256, 257, 511, 512, 700, 256*256 - 1, 256 * 256, 256*256 + 1, 256*256 + 256*3 + 5} {
		fill(t, made, size)
		for _, of := range []*tree.Tree{made, open(t, fs, 0)} {
			saved := size / tree.Width * tree.Width
			if of.Size() < saved || of.Saved() != saved {
				t.Fatalf("of %d records a tree has %d, and %d of them are saved", size, of.Size(), of.Saved())
			}
			fill(t, of, size)
			check(t, of, &want, size)
		}
	}
}

// check compares a tree with the reference.
func check(t *testing.T, of *tree.Tree, want *reference, size uint64) {
	t.Helper()
	for _, older := range []uint64{0, 1, 256, size / 2, size - size/3, size} {
		if older > size {
			continue
		}
		root, err := of.Root(older)
		if err != nil || root != want.root(t, older) {
			t.Fatalf("the root of %d of %d records is %s (%v), want %s", older, size, root, err, want.root(t, older))
		}
		proof, err := of.ProveConsistency(size, older)
		if err != nil {
			t.Fatal(err)
		}
		if older > 0 {
			if err := tlog.CheckTree(proof, int64(size), want.root(t, size), int64(older), root); err != nil {
				t.Fatalf("from %d to %d: %v", older, size, err)
			}
		}
		if older < size {
			hashes, err := of.Prove(older, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(hashes, int64(size), want.root(t, size), int64(older), tlog.RecordHash(record(older))); err != nil {
				t.Fatalf("record %d of %d: %v", older, size, err)
			}
			records, err := of.Bundle(older / tree.Width)
			if err != nil || !bytes.Equal(records[older%tree.Width], record(older)) {
				t.Fatalf("record %d of %d is not the one that was added (%v)", older, size, err)
			}
		}
	}
	if _, err := of.Root(size + 1); !errors.Is(err, tree.ErrAbsent) {
		t.Fatalf("the root of more records than there are: %v", err)
	}
	if _, err := of.Bundle((size + tree.Width - 1) / tree.Width); !errors.Is(err, tree.ErrAbsent) {
		t.Fatalf("a bundle behind the last one: %v", err)
	}
}

// TestPrune: without its first bundles a tree still has its roots, and proofs of what remains, also once it is opened again.
func TestPrune(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	const size = 256*256 + 256*40 + 9
	for _, minimum := range []uint64{256, 256 * 200, 256 * 256, 256*256 + 256*3} {
		fs := vfs.NewMem()
		made := open(t, fs, 0)
		fill(t, made, size)
		if err := made.Prune(minimum + 17); err != nil {
			t.Fatal(err)
		}
		reopened := open(t, fs, minimum)
		fill(t, reopened, size)
		var want reference
		for _, of := range []*tree.Tree{made, reopened} {
			if of.Minimum() != minimum {
				t.Fatalf("the minimum is %d, want %d", of.Minimum(), minimum)
			}
			if root, err := of.Root(size); err != nil || root != want.root(t, size) {
				t.Fatalf("without the first %d records the root is another one (%v)", minimum, err)
			}
			for _, n := range []uint64{minimum, minimum + 300, size - 1} {
				hashes, err := of.Prove(n, size)
				if err != nil {
					t.Fatal(err)
				}
				if err := tlog.CheckRecord(hashes, size, want.root(t, size), int64(n), tlog.RecordHash(record(n))); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := of.Bundle(minimum/tree.Width - 1); !errors.Is(err, tree.ErrPruned) {
				t.Fatalf("a bundle that was removed: %v", err)
			}
		}
		if names, err := fs.List("journal/tile/entries"); err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		if _, err := fs.Stat("journal/" + tree.BundlePath(minimum/tree.Width-1)); err == nil {
			t.Fatal("the last bundle that was to be removed is there")
		}
		fill(t, reopened, size+1000)
		if root, err := reopened.Root(size + 1000); err != nil || root != want.root(t, size+1000) {
			t.Fatalf("a tree goes on with another root after it was pruned (%v)", err)
		}
	}
}

// TestFailures: whichever operation of the file system fails, a tree saves when it is asked again, and is then whole, in memory and on disk; and
// a crash at that point loses nothing that Save counted. The second tree gets its first tile of level 1.
func TestFailures(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	for _, test := range []struct {
		first, size uint64
		step        int
	}{{100, 256*3 + 7, 1}, {256*256 - 100, 256*256 + 300, 9}} {
		base := vfs.NewCrashableMem()
		if err := errors.Join(base.MkdirAll("journal", 0o700), tree.SyncDir(base, "")); err != nil {
			t.Fatal(err)
		}
		fill(t, open(t, base, 0), test.first)
		var want reference
		root := want.root(t, test.size)
		operations := 0
		for ; fails(t, base, operations, test.size, root); operations += test.step {
		}
		if operations < 20 {
			t.Fatalf("only %d operations were counted", operations)
		}
	}
}

// fails reports whether saving has so many operations that one of a number fails, and checks what comes of it.
func fails(t *testing.T, base *vfs.MemFS, operation int, size uint64, root tlog.Hash) bool {
	t.Helper()
	mem := base.CrashClone(vfs.CrashCloneCfg{})
	const unarmed = 1 << 40
	var left atomic.Int64 // files are written several at a time
	left.Store(unarmed)
	of := open(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
		if left.Add(-1) == -1 {
			return errors.New("the disk fails")
		}
		return nil
	})), 0)
	for n := of.Size(); n < size; n++ {
		if err := of.Add(record(n)); err != nil {
			t.Fatal(err)
		}
	}
	before := of.Saved()
	left.Store(int64(operation))
	err := of.Save()
	failed := left.Swap(unarmed) < 0
	if err != nil && of.Saved() != before {
		t.Fatalf("operation %d failed, and %d records count as saved", operation, of.Saved())
	}
	crashed := open(t, mem.CrashClone(vfs.CrashCloneCfg{}), 0)
	if crashed.Saved() < of.Saved() {
		t.Fatalf("after a crash at operation %d there are %d of %d records", operation, crashed.Saved(), of.Saved())
	}
	for _, again := range []*tree.Tree{of, crashed} {
		fill(t, again, size)
		if got, err := again.Root(size); err != nil || got != root {
			t.Fatalf("operation %d: another root (%v)", operation, err)
		}
	}
	reopened := open(t, mem, 0)
	if fill(t, reopened, size); reopened.Saved() != size/tree.Width*tree.Width {
		t.Fatalf("operation %d: %d records are on disk", operation, reopened.Saved())
	}
	if got, err := reopened.Root(size); err != nil || got != root {
		t.Fatalf("operation %d: another root on disk (%v)", operation, err)
	}
	return failed
}

// TestPaths: numbers are written as C2SP tlog-tiles has it, and nothing else is read.
func TestPaths(t *testing.T) {
	t.Parallel()
	for path, n := range map[string]uint64{"tile/0/000": 0, "tile/0/x001/x234/067": 1234067, "tile/0/x001/000": 1000} {
		if got := tree.TilePath(0, n); got != path {
			t.Errorf("tile %d is %s, want %s", n, got, path)
		}
		if level, got, ok := tree.ParsePath(path); !ok || level != 0 || got != n {
			t.Errorf("%s is tile %d of level %d (%t)", path, got, level, ok)
		}
	}
	if level, n, ok := tree.ParsePath(tree.BundlePath(70000)); !ok || level != -1 || n != 70000 {
		t.Errorf("bundle 70000 is read as %d of level %d (%t)", n, level, ok)
	}
	for _, path := range []string{
		"", "tile", "tile/0", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/-1/000", "tile/9/000", "tile/0/x000/001", "tile/0/1000",
		"tile/0/x1/000", "tile/0/000.p/3", "tile/entries/000", "tile/entries/000.zst.new", "tile/0/000.zst", "tile/0/x001/x002",
		"tile/0/18446744073709551616",
	} {
		if level, n, ok := tree.ParsePath(path); ok {
			t.Errorf("%q is read as %d of level %d", path, n, level)
		}
	}
}

// meeting is a file system on which a sync of a file waits until others are under way at the same time, up to so many.
type meeting struct {
	vfs.FS
	mu    sync.Mutex
	under int
	met   chan struct{}
	want  int
}

func (m *meeting) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := m.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return meetingFile{f, m}, nil
}

type meetingFile struct {
	vfs.File
	meeting *meeting
}

func (f meetingFile) Sync() error {
	m := f.meeting
	m.mu.Lock()
	if m.under++; m.under == m.want {
		close(m.met)
	}
	m.mu.Unlock()
	select {
	case <-m.met:
		return f.File.Sync()
	case <-time.After(time.Minute):
		return errors.New("the syncs wait for each other")
	}
}

// TestSyncsTogether: several files of a tree are synced at the same time.
func TestSyncsTogether(t *testing.T) {
	t.Parallel()
	fill(t, open(t, &meeting{FS: vfs.NewMem(), met: make(chan struct{}), want: 4}, 0), 2*tree.Width)
}

// TestNamesInOrder: where one file cannot be written, no file that comes after it has its name, and once it can be, all have.
func TestNamesInOrder(t *testing.T) {
	t.Parallel()
	const bundles = 6
	for bad := range uint64(bundles) {
		fs, fails := vfs.NewMem(), true
		disk := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if fails && op.Kind == errorfs.OpFileSync && strings.HasPrefix(op.Path, "journal/"+tree.BundlePath(bad)) {
				return errorfs.ErrInjected
			}
			return nil
		}))
		made := open(t, disk, 0)
		for n := range uint64(bundles * tree.Width) {
			if err := made.Add(record(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := made.Save(); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("it comes to %v", err)
		}
		named := func(n uint64) bool {
			_, err := fs.Stat("journal/" + tree.BundlePath(n))
			return err == nil
		}
		for n := bad; n < bundles; n++ {
			if named(n) {
				t.Errorf("bundle %d is there, and bundle %d is not", n, bad)
			}
		}
		fails = false
		if err := made.Save(); err != nil {
			t.Fatal(err)
		}
		for n := range uint64(bundles) {
			if !named(n) {
				t.Errorf("bundle %d is missing", n)
			}
		}
	}
}
