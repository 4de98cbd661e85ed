package tree

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
)

// unfinished ends the name of a file that is being written. A crash leaves some, which mean nothing.
const unfinished = ".new"

// MaxFile bounds what is read of a file of the tree, in bytes: a bundle that does not compress, and then some.
const MaxFile = maxBundle + 1<<16

// WriteFile writes a file whole, durably but for its name in the directory. Errors leave what was there.
func WriteFile(fs vfs.FS, path string, b []byte) error {
	if err := writeUnfinished(fs, path, b); err != nil {
		return err
	}
	return nameFile(fs, path)
}

// writeUnfinished writes a file, durably, that does not have its name yet.
func writeUnfinished(fs vfs.FS, path string, b []byte) error {
	f, err := fs.Create(path+unfinished, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("cannot create a file: %w", err)
	}
	_, err = f.Write(bytes.Clone(b)) // vfs.File may use as scratch what it is given
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// nameFile gives a file its name that is written.
func nameFile(fs vfs.FS, path string) error {
	if err := fs.Rename(path+unfinished, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// SyncDir makes durable which files a directory has.
func SyncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("cannot open a directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}

// ReadFile reads a file whole. Errors: it is longer than limit bytes, and those of reading.
func ReadFile(fs vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the file
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, nil
}

// read reads a file of the tree.
func (t *Tree) read(path string) ([]byte, error) {
	return ReadFile(t.fs, under(t.fs, t.dir, path), MaxFile)
}

// under is the path with slashes below a directory, as the file system writes it.
func under(fs vfs.FS, dir, path string) string {
	return fs.PathJoin(append([]string{dir}, strings.Split(path, "/")...)...)
}

// syncedAtOnce is how many files are written at the same time: a disk syncs several in little more time than one.
const syncedAtOnce = 8

// writer writes files of the tree, several at the same time. They get their names in the order in which they were given, once all are written, so
// that after a crash there is none without those before it. After the first error none does.
type writer struct {
	fs  vfs.FS
	dir string
	// changed are the directories with a new file, or a new directory.
	changed map[string]struct{}
	// written are files that are written, or under way, and have no names yet.
	written []string
	writing errgroup.Group
	err     error
}

func newWriter(fs vfs.FS, dir string) *writer {
	w := &writer{fs: fs, dir: dir, changed: map[string]struct{}{}}
	w.writing.SetLimit(syncedAtOnce)
	return w
}

// write writes a file, and makes the directories that it needs.
func (w *writer) write(path string, b []byte) {
	if w.err != nil {
		return
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		w.changed[w.fs.PathJoin(append([]string{w.dir}, parts[:i]...)...)] = struct{}{}
	}
	dir := w.fs.PathJoin(append([]string{w.dir}, parts[:len(parts)-1]...)...)
	if w.err = w.fs.MkdirAll(dir, 0o700); w.err == nil {
		file := w.fs.PathJoin(dir, parts[len(parts)-1])
		w.written = append(w.written, file)
		w.writing.Go(func() error {
			return authz.Safely("tree.write", func() error { return writeUnfinished(w.fs, file, b) })
		})
	}
}

// finish waits until the files are written, gives them their names, and makes durable which files there are.
func (w *writer) finish() error {
	w.err = cmp.Or(w.err, w.writing.Wait())
	for _, file := range w.written {
		if w.err == nil {
			w.err = nameFile(w.fs, file)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(w.changed)) {
		if w.err == nil {
			w.err = SyncDir(w.fs, dir)
		}
	}
	return w.err
}

// run is the first number from one on of which a level, or the bundles, have no file.
func (t *Tree) run(kind, suffix string, from uint64) (uint64, error) {
	numbers, err := list(t.fs, t.fs.PathJoin(t.dir, "tile", kind), "", suffix, nil)
	if err != nil {
		return 0, err
	}
	slices.Sort(numbers)
	i, _ := slices.BinarySearch(numbers, from)
	for ; i < len(numbers) && numbers[i] == from; i++ {
		from++
	}
	return from, nil
}

// list appends the numbers of the files under a directory.
func list(fs vfs.FS, dir, prefix, suffix string, numbers []uint64) ([]uint64, error) {
	names, err := fs.List(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return numbers, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "x") && len(name) == len("x000") {
			if numbers, err = list(fs, fs.PathJoin(dir, name), prefix+name+"/", suffix, numbers); err != nil {
				return nil, err
			}
			continue
		}
		base, ok := strings.CutSuffix(name, suffix)
		if n, number := parseNumber(prefix + base); ok && number {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// Prune removes whole bundles before a record, and the tiles of level 0 whose hash stands in a tile of level 1. Proofs for what remains still
// work. What is not saved yet stays. Errors: those of the file system, after which it can be called again.
func (t *Tree) Prune(minimum uint64) error {
	minimum = minimum / Width * Width
	t.mu.Lock()
	minimum = max(min(minimum, t.saved), t.minimum)
	t.minimum = minimum
	t.mu.Unlock()
	if err := t.remove("entries", compressed, minimum/Width); err != nil {
		return err
	}
	return t.remove("0", "", groupStart(minimum))
}

// remove removes the files of a level, or the bundles, before a number, durably.
func (t *Tree) remove(kind, suffix string, before uint64) error {
	root := t.fs.PathJoin(t.dir, "tile", kind)
	numbers, err := list(t.fs, root, "", suffix, nil)
	if err != nil {
		return err
	}
	changed := map[string]struct{}{}
	for _, n := range numbers {
		if n >= before {
			continue
		}
		path := under(t.fs, root, number(n)+suffix)
		if err := t.fs.Remove(path); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return fmt.Errorf("cannot remove %s: %w", path, err)
		}
		changed[t.fs.PathDir(path)] = struct{}{}
	}
	for dir := range changed {
		if err := SyncDir(t.fs, dir); err != nil {
			return err
		}
	}
	return nil
}
