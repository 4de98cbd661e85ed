package store

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// smallDisk is a file system that takes so many bytes and no more.
type smallDisk struct {
	vfs.FS
	left atomic.Int64
	// full counts the writes that were too much.
	full atomic.Int64
}

type smallDiskFile struct {
	vfs.File
	disk *smallDisk
}

func (d *smallDisk) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &smallDiskFile{f, d}, nil
}

func (d *smallDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(d.FS.Create(name, category))
}

func (d *smallDisk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(d.FS.ReuseForWrite(oldname, newname, category))
}

func (d *smallDisk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(d.FS.OpenReadWrite(name, category, opts...))
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(max(d.left.Load(), 0)), TotalBytes: 1 << 40}, nil
}

func (f *smallDiskFile) Write(p []byte) (int, error) {
	if f.disk.left.Add(-int64(len(p))) < 0 {
		f.disk.left.Add(int64(len(p)))
		f.disk.full.Add(1)
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

// TestDiskNearlyFull writes until a store takes no more, which is before the disk is full; reads go on, and
// writes too once there is room.
func TestDiskNearlyFull(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	const mebibyte = 1 << 20
	disk := &smallDisk{FS: vfs.NewMem()}
	disk.left.Store(48 * mebibyte)
	o := newOrdeal()
	config := o.config(disk)
	config.DiskReserve, config.MemTableBytes = 32*mebibyte, mebibyte
	s, err := Open(ordealDir, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for round := range 2 {
		writes := 0
		for ; ; writes++ {
			d := o.bulkOf(500, 500)
			if err = o.do(s, d); err != nil {
				break
			}
		}
		if writes < 3 {
			t.Errorf("round %d: only %d writes", round, writes)
		}
		// The directory is the operator's business: the log says it, a caller is not told.
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "the disk is nearly full") ||
			strings.Contains(err.Error(), ordealDir) {
			t.Errorf("round %d: a write was refused with %v", round, err)
		}
		if n := disk.full.Load(); n > 0 {
			t.Errorf("round %d: %d writes found the disk full", round, n)
		}
		// Refused is refused, not only the first time.
		if err := o.do(s, o.next()); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("round %d: a small write came to %v", round, err)
		}
		present, err := o.verify(s, o.ledger())
		if err != nil {
			t.Errorf("round %d: reading: %v", round, err)
		}
		for _, d := range o.deeds {
			if d.undone = d.at == 0; d.undone && present[d.name] {
				t.Errorf("round %d: %s was refused and is there", round, d.name)
			}
		}
		if ready, err := s.ReadyState(t.Context()); err != nil || !ready.IsReady {
			t.Errorf("round %d: not ready: %v, %v", round, ready, err)
		}
		disk.left.Store(48 * mebibyte)
		if err := o.do(s, o.next()); err != nil {
			t.Errorf("round %d: with room again: %v", round, err)
		}
	}
	if _, err := o.verify(s, o.ledger()); err != nil {
		t.Error(err)
	}
}

// TestDiskFull fills the disk up behind the store's back: writes are refused before long, go on once there is room,
// and nothing is lost by it, nor by closing the store meanwhile.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	o, mem := newOrdeal(), vfs.NewCrashableMem()
	disk := &smallDisk{FS: mem}
	disk.left.Store(64 << 20)
	s, err := Open(ordealDir, o.config(disk))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := o.do(s, o.next()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		disk.left.Store(3000)
		for err = nil; err == nil; {
			err = o.do(s, o.next())
		}
		if s.hasFailed() {
			t.Fatalf("the store has failed: %v", s.failure.cause)
		}
		disk.left.Store(64 << 20)
		eventually(t, "a write that is taken", func() bool { return o.do(s, o.next()) == nil })
	}
	disk.left.Store(3000)
	for err = nil; err == nil; {
		err = o.do(s, o.next())
	}
	if code := status.Code(err); code != codes.ResourceExhausted && code != codes.Unavailable {
		t.Errorf("a write to a full disk came to %v", err)
	}
	if _, err := o.verify(s, o.ledger()); err != nil {
		t.Errorf("reading: %v", err)
	}
	_ = s.Close()
	if s, err := Open(ordealDir, o.config(disk)); err == nil {
		_ = s.Close()
	} else if errors.Is(err, ErrDamaged) || errors.Is(err, ErrInUse) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("opened on a full disk: %v", err)
	}
	disk.left.Store(64 << 20)
	if _, err := o.reopened(disk, o.ledger()); err != nil {
		t.Errorf("opened with room again: %v", err)
	}
}
