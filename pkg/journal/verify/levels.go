package verify

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// climb computes the hashes of each level from those of the level below, and compares the tiles on disk with them.
func (v *run) climb() error {
	// Where records were removed, so were the tiles of level 0 whose hashes stand in a whole tile of level 1: that one was read instead.
	for level := 1; len(v.levels[level]) >= tree.Width; level++ {
		hashes := v.levels[level]
		above := make([]tlog.Hash, 0, len(hashes)/tree.Width)
		for ; len(hashes) >= tree.Width; hashes = hashes[tree.Width:] {
			n := uint64(len(above))
			above = append(above, tree.RootOfTile(hashes[:tree.Width]))
			stored, err := v.tile(level, n)
			if err != nil {
				return err
			}
			if stored == nil {
				continue
			}
			for i := range stored {
				if stored[i] != hashes[i] {
					v.problemf(first(level, n*tree.Width+uint64(i)), tree.TilePath(level, n), "its hash %d is not that of what is below it", i)
					break
				}
			}
		}
		v.levels = append(v.levels, above)
	}
	return nil
}

// listForeign notes tiles and bundles over more records than there are. Those over records that the segments have too were not finished by a
// process that was killed, or are about to be: they are computed anew.
func (v *run) listForeign() {
	for level, numbers := range v.files.levels {
		for _, n := range numbers {
			if n >= v.report.Records/first(level, tree.Width) {
				v.foreign(tree.TilePath(level, n))
			}
		}
	}
	for _, n := range v.files.bundles {
		if n >= v.report.Records/tree.Width {
			v.foreign(tree.BundlePath(n))
		}
	}
	slices.Sort(v.report.Foreign)
}

// foreign notes a file that is not part of the journal.
func (v *run) foreign(path string) { v.report.Foreign = append(v.report.Foreign, path) }

// first is the first record that a hash of a level is over.
func first(level int, n uint64) uint64 {
	for range level {
		n *= tree.Width
	}
	return n
}

// ReadHashes reads hashes that were computed from the records: it is a tlog.HashReader.
func (v *run) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		count := uint64(1) << (level % 8)
		from := uint64(n) * count //nolint:gosec // not negative
		row, err := v.row(level/8, from)
		if err != nil {
			return nil, err
		}
		at := from % tree.Width
		if at+count > uint64(len(row)) {
			return nil, tree.ErrAbsent
		}
		hashes[i] = tree.RootOfTile(row[at : at+count])
	}
	return hashes, nil
}

// row returns the hashes of a level that would stand in one tile with the n-th, as many as there are.
func (v *run) row(level int, n uint64) ([]tlog.Hash, error) {
	start := n / tree.Width * tree.Width
	if level > 0 {
		if level >= len(v.levels) || start >= uint64(len(v.levels[level])) {
			return nil, tree.ErrAbsent
		}
		row := v.levels[level][start:]
		return row[:min(tree.Width, len(row))], nil
	}
	if whole := v.bundles * tree.Width; start >= whole {
		if start-whole >= uint64(len(v.tail)) {
			return nil, tree.ErrAbsent
		}
		row := v.tail[start-whole:]
		return row[:min(tree.Width, len(row))], nil
	}
	if start < v.report.Minimum {
		return nil, tree.ErrPruned
	}
	return v.leavesOf(start / tree.Width)
}

// leavesOf returns the hashes of the records of a bundle.
func (v *run) leavesOf(n uint64) ([]tlog.Hash, error) {
	if v.leaves != nil && v.leavesBundle == n {
		return v.leaves, nil
	}
	b, err := tree.ReadFile(v.FS, v.FS.PathJoin(v.Dir, tree.BundlePath(n)), tree.MaxFile)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the file
	}
	records, err := tree.DecodeBundle(b)
	if err != nil {
		return nil, err //nolint:wrapcheck // it is in the report already
	}
	v.leaves, v.leavesBundle = make([]tlog.Hash, len(records)), n
	for i, record := range records {
		v.leaves[i] = tlog.RecordHash(record)
	}
	return v.leaves, nil
}
