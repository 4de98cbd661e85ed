package journal

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// moving is a file system in which, just before a reader looks at a segment, or at which there are, the next bundle is saved and the segments that
// have no other records are removed: the worst moment for it.
type moving struct {
	vfs.FS
	t *testing.T

	mu    sync.Mutex
	moves int
}

// List is vfs.FS's.
func (m *moving) List(dir string) ([]string, error) {
	m.move(dir)
	return m.FS.List(dir)
}

// Open is vfs.FS's.
func (m *moving) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	m.move(name)
	return m.FS.Open(name, opts...)
}

// move saves a bundle, and removes segments, as the sealer does.
func (m *moving) move(path string) {
	if !strings.Contains(path, segmentsDir) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	saved, err := tree.Open(m.FS, testDir, 0, math.MaxUint64)
	if err != nil {
		m.t.Fatal(err)
	}
	next := saved.Saved() + tree.Width
	end, err := NewSegmentReader(m.FS, testDir).Read(saved.Saved(), next, func(_ uint64, record []byte) error { return saved.Add(record) })
	if err != nil {
		m.t.Fatal(err)
	}
	if end < next {
		return // what is left is no whole bundle
	}
	if err := saved.Save(); err != nil {
		m.t.Fatal(err)
	}
	if _, err := dropSegments(m.FS, testDir, saved.Saved()); err != nil {
		m.t.Fatal(err)
	}
	m.moves++
}

// TestReadersLookAgain: each time that a reader looks at segments, another bundle is saved, and the segments that it has are gone. It finds all
// records nevertheless: forward and backward, the last one, each one by itself, and the tree over them.
func TestReadersLookAgain(t *testing.T) {
	t.Parallel()
	const records = 8*tree.Width + 40
	cfg := signedConfig(t, vfs.NewMem())
	cfg.SegmentBytes, cfg.CheckpointInterval = 4<<10, time.Hour
	j := open(t, cfg)
	want := make([]uint64, records)
	for i := range records {
		want[i] = add(t, j, Refuse, numbered(i))
	}
	newest := slices.Clone(want)
	slices.Reverse(newest)
	for name, look := range map[string]func(t *testing.T, r *Reader) error{
		"forward": func(t *testing.T, r *Reader) error {
			t.Helper()
			if got := pages(t, r, &Query{}, 100); !slices.Equal(got, want) {
				return fmt.Errorf("it finds %d records", len(got))
			}
			return nil
		},
		"backward": func(t *testing.T, r *Reader) error {
			t.Helper()
			if got := pages(t, r, &Query{Newest: true}, 100); !slices.Equal(got, newest) {
				return fmt.Errorf("it finds %d records", len(got))
			}
			return nil
		},
		"the end": func(_ *testing.T, r *Reader) error {
			end, err := r.End()
			if err == nil && end != records {
				err = fmt.Errorf("it ends with record %d", end)
			}
			return err
		},
		"a record": func(_ *testing.T, r *Reader) error { _, err := r.Record(300); return err },
		"the tree": func(_ *testing.T, r *Reader) error {
			made, err := r.Tree(records)
			if err == nil && made.Size() != records {
				err = fmt.Errorf("it has %d records", made.Size())
			}
			return err
		},
	} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %v", name, live), func(t *testing.T) {
				t.Parallel()
				fs := &moving{FS: copyOf(t, cfg.FS), t: t}
				r, err := OpenReader(ReaderConfig{Dir: testDir, FS: fs.FS, Secret: cfg.Keys.Secret()})
				if err != nil {
					t.Fatal(err)
				}
				if r.fs = fs; live {
					r.live = j // which says how many records are written
				}
				if err := look(t, r); err != nil {
					t.Error(err)
				}
				if fs.moves < 2 && (!live || name != "the end") {
					t.Errorf("%d bundles were saved meanwhile", fs.moves)
				}
			})
		}
	}
}
