package journal

import (
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// breakable is a disk whose writing fails while it is broken.
func breakable(fs vfs.FS) (broken *atomic.Bool, disk vfs.FS) {
	broken = &atomic.Bool{}
	return broken, failing(fs, func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	})
}

// TestFailedSyncIsNotForgotten syncs again after a sync that failed, which the disk says it did: nothing is taken for durable that is not.
func TestFailedSyncIsNotForgotten(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	broken, disk := breakable(mem)
	cfg := testConfig(disk)
	cfg.CheckpointInterval = time.Hour
	j := open(t, cfg)
	add(t, j, Refuse, numbered(0))
	broken.Store(true)
	for range 2 {
		if durable, err := j.Sync(); err == nil || durable != 0 {
			t.Fatalf("%d records are durable, %v", durable, err)
		}
		broken.Store(false)
	}
	add(t, j, Refuse, numbered(1))
	if durable, err := j.Sync(); err != nil || durable != 2 {
		t.Fatalf("%d records are durable, %v", durable, err)
	}
	if found, err := readAll(mem.CrashClone(vfs.CrashCloneCfg{})); err != nil || len(found) < 2 {
		t.Errorf("after a power cut there are %v, %v", found, err)
	}
}

// TestBatchThatWaitsWhileMended has a batch wait while the journal fails and is mended: its sequences are given again, so it is refused.
func TestBatchThatWaitsWhileMended(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	j := open(t, testConfig(mem))
	j.writing <- struct{}{}
	done := make(chan error)
	go func() {
		_, err := j.Append(t.Context(), Refuse, numbered(0))
		done <- err
	}()
	eventually(t, "a batch waits", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.pending != nil
	})
	j.fail(syscall.EIO)
	if err := j.mend(); err != nil {
		t.Fatal(err)
	}
	<-j.writing
	refused(t, <-done)
	add(t, j, Refuse, numbered(1))
	found, err := readAll(mem)
	if err != nil || len(found) == 0 || found[0].GetPermission() != "view 1" {
		t.Errorf("there are %v, %v", found, err)
	}
}

// TestSeveralOutages keeps records in memory several times: each is written once.
func TestSeveralOutages(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	broken, disk := breakable(mem)
	j := open(t, testConfig(disk))
	for i := range 4 {
		broken.Store(true)
		add(t, j, Keep, numbered(i))
		broken.Store(false)
		tryAgain(j)
	}
	found, err := readAll(mem)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, r := range found {
		times[r.GetPermission()]++
	}
	for i := range 4 {
		if n := times[numbered(i).GetPermission()]; n != 1 {
			t.Errorf("record %d is there %d times", i, n)
		}
	}
}

// unlocked is a file system without locks, as the death of a process leaves it.
type unlocked struct{ vfs.FS }

type nothing struct{}

func (nothing) Close() error { return nil }

func (unlocked) Lock(string) (io.Closer, error) { return nothing{}, nil }

// TestPowerCutAfterKill goes on with a journal whose process was killed before it synced, and cuts the power once that is synced: the segment of
// the process before is whole.
func TestPowerCutAfterKill(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	cfg := testConfig(unlocked{mem})
	cfg.CheckpointInterval, cfg.SegmentBytes = time.Hour, 1<<20
	killed := open(t, cfg)
	for i := range 10 {
		add(t, killed, Refuse, numbered(i))
	}
	j := open(t, cfg)
	add(t, j, Refuse, numbered(10))
	if _, err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	if found, err := readAll(mem.CrashClone(vfs.CrashCloneCfg{})); err != nil || len(found) != 11 {
		t.Errorf("there are %d records, want 11: %v", len(found), err)
	}
}
