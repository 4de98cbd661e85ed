package journal

import (
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// disk is a file system that fails as disks do: a write that fails has written half of it, and a file of which a sync failed takes every later
// one for done, without doing it.
type disk struct {
	vfs.FS
	fails errorfs.Injector
}

// failing returns a file system over another, that asks fails before each operation.
func failing(fs vfs.FS, fails func(op errorfs.Op) error) *disk {
	injector := errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData:
			return nil // these are diskFile's
		}
		return fails(op)
	})
	return &disk{FS: errorfs.Wrap(fs, injector), fails: errorfs.InjectorFunc(fails)}
}

func (d *disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, path: name}, nil
}

func (d *disk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, path: name}, nil
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, disk: d, path: name}, nil
}

type diskFile struct {
	vfs.File
	disk *disk
	path string
	lost bool
}

func (f *diskFile) Write(b []byte) (int, error) {
	if err := f.disk.fails.MaybeError(errorfs.Op{Kind: errorfs.OpFileWrite, Path: f.path}); err != nil {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, err
	}
	return f.File.Write(b)
}

func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.disk.fails.MaybeError(errorfs.Op{Kind: errorfs.OpFileWriteAt, Path: f.path, Offset: at}); err != nil {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.File.WriteAt(b, at)
}

func (f *diskFile) sync(kind errorfs.OpKind, sync func() error) error {
	if err := f.disk.fails.MaybeError(errorfs.Op{Kind: kind, Path: f.path}); err != nil {
		f.lost = true
		return err
	}
	if f.lost {
		return nil
	}
	return sync()
}

func (f *diskFile) Sync() error     { return f.sync(errorfs.OpFileSync, f.File.Sync) }
func (f *diskFile) SyncData() error { return f.sync(errorfs.OpFileSyncData, f.File.SyncData) }

// smallDisk is a file system with room for so many bytes.
type smallDisk struct {
	vfs.FS
	left atomic.Int64
}

func (d *smallDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return &smallFile{File: f, disk: d}, nil
}

func (d *smallDisk) Remove(name string) error {
	if info, err := d.Stat(name); err == nil {
		d.left.Add(info.Size())
	}
	return d.FS.Remove(name)
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(max(d.left.Load(), 0)), TotalBytes: 1 << 40}, nil
}

type smallFile struct {
	vfs.File
	disk *smallDisk
	// at is where the next Write goes, and size how long the file is.
	at, size int64
}

func (f *smallFile) Write(b []byte) (int, error) {
	if err := f.grow(f.at + int64(len(b))); err != nil {
		return 0, err
	}
	f.at += int64(len(b))
	return f.File.Write(b)
}

func (f *smallFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.grow(at + int64(len(b))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

// grow takes room for a file that is so long.
func (f *smallFile) grow(size int64) error {
	more := max(0, size-f.size)
	if f.disk.left.Add(-more) < 0 {
		f.disk.left.Add(more)
		return syscall.ENOSPC
	}
	f.size += more
	return nil
}
