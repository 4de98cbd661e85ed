package journal

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// metered is a file system that counts how many bytes of segments are read.
type metered struct {
	vfs.FS
	read atomic.Int64
}

func (m *metered) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	f, err := m.FS.Open(name, options...)
	if err == nil && strings.Contains(name, segmentsDir) {
		f = meteredFile{f, m}
	}
	return f, err
}

type meteredFile struct {
	vfs.File
	meter *metered
}

func (f meteredFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.meter.read.Add(int64(n))
	return n, err
}

// TestNewestTail: a query for the newest records does not read a long segment from its beginning, whether they are sealed, and in no bundle
// yet, or not even sealed; and it finds them all, once each, the newest first.
func TestNewestTail(t *testing.T) {
	t.Parallel()
	m := &metered{FS: vfs.NewMem()}
	cfg := testConfig(m)
	cfg.SegmentBytes, cfg.CheckpointInterval = 64<<20, time.Hour
	j := open(t, cfg)
	reader, err := j.Reader(nil)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	more := func(n int) {
		records := make([]*Record, n)
		for i := range records {
			records[i] = numbered(made)
			made++
		}
		if _, err := j.Append(t.Context(), Refuse, records...); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		more(1_000)
	}
	// newest asks for so many of the newest records, and returns how much of the segments was read for it.
	newest := func(n int) int64 {
		t.Helper()
		before, at := m.read.Load(), made
		_, err := reader.Query(t.Context(), &Query{Newest: true}, nil, func(f Found) (bool, error) {
			if at--; f.Record.GetTime() != int64(at) || f.Record.GetSequence() != uint64(at) {
				t.Errorf("record %d is found, with the time %d, where %d comes next", f.Record.GetSequence(), f.Record.GetTime(), at)
			}
			return at > made-n, nil
		})
		if err != nil || at != made-n {
			t.Errorf("%d of %d records are found: %v", made-at, n, err)
		}
		return m.read.Load() - before
	}
	if err := j.sealer.try(); err != nil {
		t.Fatal(err)
	}
	if read := newest(10); read != 0 {
		t.Errorf("%d bytes of segments are read for records that are sealed", read)
	}
	more(1_000)
	if read := newest(10); read > 2*readBuffer {
		t.Errorf("%d bytes of segments are read for the newest of 1,000 records that are not sealed", read)
	}
	newest(made)
	more(3) // the reader goes on where it was, and the sealer where that was
	if err := j.sealer.try(); err != nil {
		t.Fatal(err)
	}
	newest(2_000)
}
