package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// readBundles reads all bundles and the tiles of level 0, in parallel, and leaves the hashes of level 1.
func (v *run) readBundles(ctx context.Context) error {
	first := v.report.Minimum / tree.Width
	// A directory with one bundle of a huge number is no reason to fill the memory.
	v.bundles = v.missing(first)
	v.report.Records = v.bundles * tree.Width
	level1 := make([]tlog.Hash, v.bundles)
	if err := v.readPruned(level1[:first]); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	var next, done atomic.Uint64
	next.Store(first)
	var mu sync.Mutex
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			var r reader
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= v.bundles {
					return nil
				}
				stored, problems, err := r.bundle(v, n)
				if err != nil {
					return err
				}
				level1[n] = stored
				finished := done.Add(1)
				if len(problems) == 0 && (v.Progress == nil || finished%64 != 0) {
					continue
				}
				mu.Lock()
				v.report.Problems = append(v.report.Problems, problems...)
				if len(v.report.Problems) > 2*maxProblems {
					v.sort()
				}
				if v.Progress != nil {
					v.Progress(finished*tree.Width, (v.bundles-first)*tree.Width)
				}
				mu.Unlock()
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err //nolint:wrapcheck // it names the file, or is the context's
	}
	v.levels = [][]tlog.Hash{nil, level1}
	return nil
}

// missing is the first bundle that is missing, from one on. What a process that was killed has not finished lies in the segments too: a bundle
// without its tile counts as missing there, and one that is missing is no problem.
func (v *run) missing(first uint64) uint64 {
	inSegments := func(n uint64) bool {
		_, found := v.inSegments(n * tree.Width)
		return found
	}
	want := first
	for _, n := range v.files.bundles {
		switch {
		case n < want:
			continue
		case n > want:
			if !inSegments(want) {
				v.problemf(want*tree.Width, tree.BundlePath(want), "it is missing")
			}
			return want
		case inSegments(n) && !v.files.has(0, n):
			return want
		}
		want++
	}
	return want
}

// readPruned reads the hashes of level 1 over records that were removed.
func (v *run) readPruned(level1 []tlog.Hash) error {
	count := uint64(len(level1))
	whole := count / tree.Width * tree.Width
	for n := uint64(0); n < whole; n += tree.Width {
		hashes, err := v.tile(1, n/tree.Width)
		if err != nil {
			return err
		}
		copy(level1[n:], hashes)
	}
	for n := whole; n < count; n++ {
		hashes, err := v.tile(0, n)
		if err != nil {
			return err
		}
		if hashes != nil {
			level1[n] = tree.RootOfTile(hashes)
		}
	}
	return nil
}

// tile reads a tile; nil where it is missing or has a wrong length, which is noted.
func (v *run) tile(level int, n uint64) ([]tlog.Hash, error) {
	path := tree.TilePath(level, n)
	sequence := n * tree.Width
	for range level {
		sequence *= tree.Width
	}
	if !v.files.has(level, n) {
		v.problemf(sequence, path, "it is missing")
		return nil, nil
	}
	b, err := tree.ReadFile(v.FS, v.FS.PathJoin(v.Dir, path), tree.MaxFile)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the file
	}
	hashes, err := tree.DecodeTile(b)
	if err != nil {
		v.problemf(sequence, path, "%v", err)
		return nil, nil
	}
	return hashes, nil
}

// reader is what one goroutine reads bundles with.
type reader struct {
	bundles tree.Bundles
	leaf    []byte
	hashes  [tree.Width]tlog.Hash
}

// bundle verifies one bundle against its tile, and returns the root of the records as they are.
func (r *reader) bundle(v *run, n uint64) (root tlog.Hash, problems []Problem, err error) {
	path, first := tree.BundlePath(n), n*tree.Width
	problem := func(i int, file, format string, args ...any) {
		problems = append(problems, Problem{Sequence: first + uint64(i), File: file, Message: fmt.Sprintf(format, args...)}) //nolint:gosec // an index
	}
	b, err := tree.ReadFile(v.FS, v.FS.PathJoin(v.Dir, path), tree.MaxFile)
	if err != nil {
		return root, nil, err //nolint:wrapcheck // it names the file
	}
	records, damage := r.bundles.Decode(b)
	if damage != nil {
		// What can be read all the same says which record it is.
		records = r.bundles.Salvage(b)
	}
	var tile []byte
	tilePath := tree.TilePath(0, n)
	if v.files.has(0, n) {
		if tile, err = tree.ReadFile(v.FS, v.FS.PathJoin(v.Dir, tilePath), tree.MaxFile); err != nil {
			return root, nil, err //nolint:wrapcheck // it names the file
		}
	}
	whole := len(tile) == tree.Width*tlog.HashSize
	if !whole {
		problem(0, tilePath, "it is missing, or does not have %d hashes", tree.Width)
	}
	differs := -1
	for i, record := range records {
		r.hashes[i] = r.hash(record)
		if sequence, ok := sequenceOf(record); !ok || sequence != first+uint64(i) {
			problem(i, path, "it has another record in the place of record %d", first+uint64(i))
		} else if whole && differs < 0 && !bytes.Equal(r.hashes[i][:], tile[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			differs = i
		}
		if other, found := v.inSegments(first + uint64(i)); found && other != r.hashes[i] {
			problem(i, "segments/"+v.files.segmentOf(first+uint64(i)), "record %d is another one than in %s", first+uint64(i), path)
		}
	}
	switch {
	case damage != nil && differs >= 0:
		problem(differs, path, "the file is damaged (%v), and record %d is not as it was written", damage, first+uint64(differs))
	case damage != nil && len(records) == tree.Width:
		problem(0, path, "the file is damaged: %v", damage)
	case damage != nil:
		problem(min(len(records), tree.Width-1), path, "the file is damaged: %v", damage)
	case differs >= 0:
		problem(differs, path, "")
		problems[len(problems)-1].tile = tilePath
	}
	if len(records) < tree.Width && whole {
		hashes, err := tree.DecodeTile(tile)
		if err != nil {
			return root, nil, errors.New("a tile of the right length cannot be read")
		}
		return tree.RootOfTile(hashes), problems, nil // so that only this bundle is in the report
	}
	return tree.RootOfTile(r.hashes[:]), problems, nil
}

// hash is the RFC 6962 hash of a leaf.
func (r *reader) hash(record []byte) tlog.Hash {
	r.leaf = append(append(r.leaf[:0], 0), record...)
	return sha256.Sum256(r.leaf)
}

// sequenceOf is the sequence that a record's encoding begins with: field 1, a fixed number of 64 bits.
func sequenceOf(record []byte) (uint64, bool) {
	const tag = 1<<3 | 1
	if len(record) < 9 || record[0] != tag {
		return 0, false
	}
	return binary.LittleEndian.Uint64(record[1:9]), true
}
