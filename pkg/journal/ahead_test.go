package journal

import (
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// lengthOf is how long the journal's segment is as a file.
func lengthOf(t *testing.T, j *Journal) int64 {
	t.Helper()
	info, err := j.fs.Stat(j.segment.path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestRoomAhead: a journal that syncs each write makes its segment longer now and then only, on the operating system's files as well, and what
// is behind the last record when the process ends is taken for what it is: no record, and no write that was cut off.
func TestRoomAhead(t *testing.T) {
	t.Parallel()
	for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(fs)
			if fs == nil {
				cfg.Dir = t.TempDir()
			}
			cfg.SegmentBytes, cfg.Sync = 1<<20, true
			j := open(t, cfg)
			const records = 300
			lengths := map[int64]bool{}
			for i := range records {
				add(t, j, Refuse, numbered(i))
				lengths[lengthOf(t, j)] = true
			}
			if size := j.segment.size; len(lengths) > 1+int(size/(1<<20/aheadShare)) {
				t.Errorf("%d records, %d bytes, made the file longer %d times", records, size, len(lengths))
			}
			if rest := lengthOf(t, j) - j.segment.size; rest <= 0 {
				t.Errorf("there are %d bytes behind the last record", rest)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			seen, logged := observer.New(zap.WarnLevel)
			cfg.Log = zap.New(seen)
			again := open(t, cfg)
			if n := again.Written(); n != records {
				t.Errorf("%d records are found again, not %d", n, records)
			}
			for _, entry := range logged.All() {
				t.Errorf("it says %q", entry.Message)
			}
		})
	}
}

// TestNoRoomAhead: where no room can be made ahead, records are written and synced without.
func TestNoRoomAhead(t *testing.T) {
	t.Parallel()
	tried := newCounter()
	cfg := testConfig(failing(vfs.NewMem(), func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt {
			tried.next()
			return syscall.ENOSPC
		}
		return nil
	}))
	cfg.SegmentBytes, cfg.Sync = 1<<20, true
	j := open(t, cfg)
	for i := range 20 {
		add(t, j, Refuse, numbered(i))
	}
	if n := tried.next(); n != 1 || j.Err() != nil {
		t.Errorf("it was tried %d times, and the journal fails with %v", n, j.Err())
	}
	if found, err := readAll(cfg.FS); err != nil || len(found) != 20 {
		t.Errorf("%d records are there: %v", len(found), err)
	}
}
