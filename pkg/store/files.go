package store

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/authz"
)

// files is the file system that Pebble gets: that of the configuration, and three things more.
//
// Pebble panics when it cannot write, sync or begin a log or sync a directory, in part while it has
// unlocked what it will unlock again, so that nothing could catch it: the process would end, and with it
// the reads that could go on. So those errors do not reach it. The store fails, see commit.go, and the
// goroutine in which it happened is held for good; it holds locks of Pebble's that writing needs, and none
// that reading does. What it holds in memory is only free when the process ends.
//
// While Pebble opens, that is so for everything that it writes, and for the list of files that it ends with:
// where it gives up it frees what its own background still uses, which panics too.
//
// An error that may pass, see trouble.go, is not one of those: beginning a log or a manifest is tried again, and a write
// to one goes on where it ended. A sync is never tried again, since a system may have thrown away what it could
// not write. Where a table cannot be written Pebble tries again at once, so its errors are kept from it for a pause.
//
// What a failed store still does in the background must not touch the directory once another Store has
// opened it: fence sees to that.
//
// Pebble syncs the directory once for a new manifest and for the marker that names it. A file system that
// keeps the second name and not the first would leave a marker that leads nowhere, so a manifest's own
// name is synced when it is made.
type files struct {
	vfs.FS
	failed func(doing string, cause error)
	// opening is set while Pebble opens to write.
	opening atomic.Bool
	// closing ends what waits for an error to pass.
	closing <-chan struct{}
	// ending is set once Pebble is being closed: it waits for the tables that it is writing.
	ending atomic.Bool
	// stalled is told how long a log or manifest has been waited for, recovered that it was written.
	stalled   func(doing string, cause error, lasted time.Duration)
	recovered func(*trouble)
	// waiting are the failures of logs and manifests that are tried again, tables those of the rest.
	waiting, tables trouble
	firstPause      time.Duration
	// saying keeps what Pebble says again and again from filling the log.
	saying, repeated authz.Seldom

	// changing is held, shared, by what changes the disk.
	changing sync.RWMutex
	fenced   bool
}

// errEnding is what the writing of a table gets while the store is closed. Pebble waits for it, and a compaction may take a minute. What the table would
// have held is in the log, or in the tables that it is made of, and these are still there.
var errEnding = errors.New("store: it is being closed, and makes no tables any more")

// isTable reports whether a file is one of Pebble's tables.
func isTable(name string) bool { return strings.HasSuffix(name, ".sst") }

// errFenced is what a closed store's background gets.
var errFenced = errors.New("store: it is closed, and its directory may be another's")

// fence keeps all that is still under way from changing the disk any more. It returns false if something
// does not end within patience.
func (f *files) fence(patience time.Duration) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.changing.Lock()
		defer f.changing.Unlock()
		f.fenced = true
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}

// change calls what changes the disk. If it is vital and fails it never returns.
func (f *files) change(vital bool, name string, fn func() error) error {
	if f.ending.Load() && isTable(name) {
		return errEnding
	}
	return f.settle(vital, name, f.unlessFenced(fn))
}

// insist is change for what is tried again until it succeeds, or fails with an error that does not pass, or the store
// is closed.
func (f *files) insist(vital bool, name string, fn func() error) error {
	for tries := 1; ; tries++ {
		err := f.unlessFenced(fn)
		if err == nil {
			if tries > 1 {
				f.recovered(&f.waiting)
			}
			return nil
		}
		if f.opening.Load() || !passes(err) {
			return f.settle(vital, name, err)
		}
		lasted, _ := f.waiting.failed(err)
		f.stalled("writing "+f.PathBase(name), err, lasted)
		if !f.rest(pause(f.firstPause, tries)) {
			return f.settle(vital, name, err)
		}
	}
}

// settle returns an error to Pebble: not at all if Pebble cannot have it, else after a pause.
func (f *files) settle(vital bool, name string, err error) error {
	if err == nil || errors.Is(err, errFenced) {
		return err
	}
	if vital || f.opening.Load() {
		f.giveUp("writing "+f.PathBase(name), err)
	}
	f.tables.failed(err)
	f.rest(pause(f.firstPause, f.tables.count()))
	return err
}

// rest waits, and returns false if the store is closed meanwhile.
func (f *files) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.closing:
		return false
	}
}

// giveUp fails the store and holds the goroutine.
func (f *files) giveUp(doing string, cause error) {
	f.failed(doing, cause)
	select {}
}

func (f *files) unlessFenced(fn func() error) error {
	f.changing.RLock()
	defer f.changing.RUnlock()
	if f.fenced {
		return errFenced
	}
	return fn()
}

// isLog reports whether a file is one of Pebble's logs.
func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// isManifest reports whether a file is one of Pebble's manifests.
func (f *files) isManifest(name string) bool { return strings.HasPrefix(f.PathBase(name), "MANIFEST-") }

// isMarker reports whether a file's name is what says which manifest counts.
func (f *files) isMarker(name string) bool { return strings.HasPrefix(f.PathBase(name), "marker.") }

// insists reports whether writing a file is tried again by files. Pebble takes any error for fatal.
func (f *files) insists(name string) bool {
	return isLog(name) || f.isManifest(name) || f.isMarker(name)
}

// made wraps a file that was opened to be written.
func (f *files) made(name string, open func() (vfs.File, error)) (vfs.File, error) {
	var made vfs.File
	attempt := func() (err error) {
		made, err = open()
		return err
	}
	change := f.change
	if f.insists(name) {
		change = f.insist
	}
	err := change(isLog(name), name, attempt)
	if err != nil {
		return nil, err
	}
	return &file{File: made, files: f, name: name, vital: isLog(name), insists: f.insists(name)}, nil
}

// Create is vfs.FS's.
func (f *files) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.made(name, func() (vfs.File, error) {
		made, err := f.FS.Create(name, category)
		if err != nil || !f.isManifest(name) {
			return made, err
		}
		if err := syncDir(f.FS, f.PathDir(name)); err != nil {
			return nil, errors.Join(err, made.Close())
		}
		return made, nil
	})
}

// ReuseForWrite is vfs.FS's.
func (f *files) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	tried := false
	return f.made(newname, func() (vfs.File, error) {
		if tried {
			// It may have its new name, and could not be opened.
			if _, err := f.Stat(oldname); isNotExist(err) {
				return f.FS.Create(newname, category)
			}
		}
		tried = true
		return f.FS.ReuseForWrite(oldname, newname, category)
	})
}

// OpenReadWrite is vfs.FS's.
func (f *files) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.made(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, category, opts...) })
}

// OpenDir is vfs.FS's.
func (f *files) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &file{File: dir, files: f, name: name, vital: true}, nil
}

// Link is vfs.FS's.
func (f *files) Link(oldname, newname string) error {
	return f.change(false, newname, func() error { return f.FS.Link(oldname, newname) })
}

// Remove is vfs.FS's.
func (f *files) Remove(name string) error {
	return f.unlessFenced(func() error { return f.FS.Remove(name) })
}

// RemoveAll is vfs.FS's.
func (f *files) RemoveAll(name string) error {
	return f.unlessFenced(func() error { return f.FS.RemoveAll(name) })
}

// Rename is vfs.FS's.
func (f *files) Rename(oldname, newname string) error {
	return f.change(false, newname, func() error { return f.FS.Rename(oldname, newname) })
}

// MkdirAll is vfs.FS's.
func (f *files) MkdirAll(dir string, perm os.FileMode) error {
	return f.change(false, dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

// Open is vfs.FS's.
func (f *files) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	opened, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, f.unread(err)
	}
	return &readable{opened, f}, nil
}

// unread returns an error of a read, after a pause.
func (f *files) unread(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && !isNotExist(err) && !f.opening.Load() {
		f.rest(f.firstPause)
	}
	return err
}

// List is vfs.FS's.
func (f *files) List(dir string) ([]string, error) {
	names, err := f.FS.List(dir)
	if err != nil && f.opening.Load() {
		f.giveUp("listing "+dir, err)
	}
	return names, err
}

// Lock is vfs.FS's. The store holds the directory's lock itself.
func (f *files) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

// Unwrap is vfs.FS's.
func (f *files) Unwrap() vfs.FS { return f.FS }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// readable is a file that was opened to be read.
type readable struct {
	vfs.File
	files *files
}

// Read is vfs.File's.
func (f *readable) Read(p []byte) (n int, err error) {
	n, err = f.File.Read(p)
	return n, f.files.unread(err)
}

// ReadAt is vfs.File's.
func (f *readable) ReadAt(p []byte, at int64) (n int, err error) {
	n, err = f.File.ReadAt(p, at)
	return n, f.files.unread(err)
}

// file is an open file of files, or a directory.
type file struct {
	vfs.File
	files *files
	name  string
	vital bool
	// insists says that a write goes on where it ended, if that may help.
	insists bool
}

// Write is vfs.File's.
func (f *file) Write(p []byte) (n int, err error) {
	change := f.files.change
	if f.insists {
		change = f.files.insist
	}
	err = change(f.vital, f.name, func() error {
		written, err := f.File.Write(p[n:])
		n += min(max(written, 0), len(p)-n)
		return err
	})
	return n, err
}

// WriteAt is vfs.File's.
func (f *file) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.files.change(f.vital, f.name, func() (err error) {
		n, err = f.File.WriteAt(p, at)
		return err
	})
	return n, err
}

// Preallocate is vfs.File's. Nothing depends on it.
func (f *file) Preallocate(offset, length int64) error {
	return f.files.unlessFenced(func() error { return f.File.Preallocate(offset, length) })
}

// Sync is vfs.File's.
func (f *file) Sync() error { return f.files.change(f.vital, f.name, f.File.Sync) }

// SyncData is vfs.File's.
func (f *file) SyncData() error { return f.files.change(f.vital, f.name, f.File.SyncData) }

// SyncTo is vfs.File's.
func (f *file) SyncTo(length int64) (full bool, err error) {
	err = f.files.change(f.vital, f.name, func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Stat is vfs.File's.
func (f *file) Stat() (info vfs.FileInfo, err error) {
	if info, err = f.File.Stat(); err != nil && f.vital {
		return info, f.files.change(true, f.name, func() error { return err })
	}
	return info, err
}

// Close is vfs.File's.
func (f *file) Close() error {
	if err := f.File.Close(); err != nil {
		return f.files.change(f.vital, f.name, func() error { return err })
	}
	return nil
}
