package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestMissingEnd cuts the log of a store that was closed. Nothing can have been torn in it.
func TestMissingEnd(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s := must(Open(ordealDir, small(Config{FS: fs})))(t)
	for i := range 3 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files := imageOf(t, fs)
	tried := 0
	for name, content := range files {
		if !isLog(name) || len(content) == 0 {
			continue
		}
		for _, left := range []int{0, len(content) / 2} {
			tried++
			fs := files.with(name, content[:left:left]).restore(t)
			if s, err := Open(ordealDir, small(Config{FS: fs})); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s cut to %d bytes: %v, %v", name, left, s, err)
			}
		}
	}
	if tried == 0 {
		t.Error("there was no log to cut")
	}
	whole := must(Open(ordealDir, small(Config{FS: files.restore(t)})))(t)
	if err := whole.Close(); err != nil {
		t.Error(err)
	}
}

// TestMissingRevision takes one revision out of the changelog, in the middle, at the beginning, and where
// collection ended.
func TestMissingRevision(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		collect bool
		missing int
		damaged bool
	}{
		{"none", false, -1, false},
		{"none, collected", true, -1, false},
		{"in the middle", false, 3, true},
		{"the first", false, 0, true},
		{"after what was collected", true, 4, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs, clock := vfs.NewMem(), newTestClock()
			config := small(Config{FS: fs, Now: clock.Now})
			s := must(Open("store", config))(t)
			var written []Revision
			for i := range 6 {
				if c.collect && i == 3 {
					clock.move(2 * s.config.Retention)
					collects(t, s)
				}
				written = append(written, writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i))))
			}
			if c.missing >= 0 {
				if err := s.db.Delete(changelogKey(written[c.missing], 0), pebble.Sync); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, err := Open("store", config)
			if errors.Is(err, ErrDamaged) != c.damaged || !c.damaged && err != nil {
				t.Errorf("got %v", err)
			}
			if err == nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFlushIsNoted: once a table is written DEPUTY says how far the store has come, and that is on the disk.
func TestFlushIsNoted(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s := opened(t, Config{FS: fs})
	before := s.db.Metrics().Flush.Count
	for i := 0; s.db.Metrics().Flush.Count == before; i++ {
		updates := make([]tuple.RelationshipUpdate, 100)
		for j := range updates {
			updates[j] = touch(fmt.Sprintf("document:%d-%d%s#reader@user:alice", i, j, strings.Repeat("x", 500)))
		}
		writesOf(t, s, updates...)
	}
	head := headOf(t, s)
	eventually(t, "the flush to be noted", func() bool {
		d, _, err := readDescription(fs, "store")
		return err == nil && d.reached > 0 && d.reached <= head && s.history.attested.Load() > 0
	})
}

// TestCollectionNotes: a store that is never closed and has written no table says how far it came all the same.
func TestCollectionNotes(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s := opened(t, Config{FS: fs, CollectEvery: time.Millisecond})
	at := writesOf(t, s, touch("document:a#reader@user:alice"))
	eventually(t, "the head to be noted", func() bool {
		d, _, err := readDescription(fs, "store")
		return err == nil && d.reached >= at
	})
	if n := s.history.flushes.Load(); n > 0 {
		t.Errorf("%d flushes noted it", n)
	}
}
