package export

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// Tiles writes the journal that a reader reads into a directory as C2SP tlog-tiles, up to its newest checkpoint: what a static web server serves to
// any client of that format. Entry bundles are not compressed there, and the last tiles and the last bundle are partial. The directory
// must not be there yet. Errors: the journal has no checkpoint or was pruned, and those of reading and writing, after which the directory
// is not complete.
func Tiles(ctx context.Context, r *journal.Reader, dir string) (size uint64, err error) {
	c, err := r.Checkpoint()
	if err != nil {
		return 0, err
	}
	if first := r.First(); first > 0 {
		return 0, fmt.Errorf("journal: records before %d were removed, as the retention says, and a log of tiles begins with the first", first)
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // it is to be served
		return 0, err //nolint:wrapcheck // it names the directory
	}
	t, err := r.Tree(c.Size)
	if err != nil {
		return 0, err
	}
	w := writer{dir: dir}
	for n := uint64(0); n*tree.Width < c.Size; n++ {
		if err := ctx.Err(); err != nil {
			return 0, err //nolint:wrapcheck // it is the caller's
		}
		records, err := t.Bundle(n)
		if err != nil {
			return 0, fmt.Errorf("journal: %w", err)
		}
		width := min(tree.Width, c.Size-n*tree.Width)
		w.write(served(strings.TrimSuffix(tree.BundlePath(n), ".zst"), width), entries(records[:width]))
	}
	for level, count := 0, c.Size; count > 0; level, count = level+1, count/tree.Width {
		for n := uint64(0); n*tree.Width < count; n++ {
			width := min(tree.Width, count-n*tree.Width)
			indexes := make([]int64, width)
			for i := range indexes {
				indexes[i] = tlog.StoredHashIndex(level*8, int64(n*tree.Width)+int64(i))
			}
			hashes, err := t.ReadHashes(indexes)
			if err != nil {
				return 0, fmt.Errorf("journal: %w", err)
			}
			var b []byte
			for _, h := range hashes {
				b = append(b, h[:]...)
			}
			w.write(served(tree.TilePath(level, n), width), b)
		}
	}
	w.write("checkpoint", c.Text) // last: what it names is there by then
	return c.Size, w.err
}

// served is the path of a tile or bundle of so many entries.
func served(path string, width uint64) string {
	if width < tree.Width {
		return fmt.Sprintf("%s.p/%d", path, width)
	}
	return path
}

// entries is an entry bundle, which may be partial.
func entries(records [][]byte) []byte {
	var b []byte
	for _, r := range records {
		b = binary.BigEndian.AppendUint16(b, uint16(len(r))) //nolint:gosec // a record is shorter
		b = append(b, r...)
	}
	return b
}

// writer writes files until the first error.
type writer struct {
	dir string
	err error
}

func (w *writer) write(path string, b []byte) {
	if w.err != nil {
		return
	}
	path = filepath.Join(w.dir, filepath.FromSlash(path))
	w.err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)) //nolint:gosec // they are to be served
}
