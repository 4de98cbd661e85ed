package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"
)

// Tree is a tree on disk, with a tail in memory. One goroutine adds and saves; all else is safe for concurrent use with it.
type Tree struct {
	fs  vfs.FS
	dir string

	mu sync.RWMutex
	// size is how many records were added.
	size uint64
	// minimum is the first record that is still there: a multiple of Width.
	minimum uint64
	// saved is the first record that is not in a bundle on disk: a multiple of Width. records are those from there on.
	saved   uint64
	records [][]byte
	// levels[l] are the hashes of level l, each over Width^l records, that are not in a tile on disk.
	levels []unsaved
}

// unsaved are hashes of one level, from the first on: a multiple of Width.
type unsaved struct {
	first  uint64
	hashes []tlog.Hash
}

// ErrPruned says that a record is older than what is kept.
var ErrPruned = errors.New("it was removed, as the retention says")

// ErrAbsent says that a tree does not have a record, or does not have one yet.
var ErrAbsent = errors.New("the tree does not reach that far")

// Open opens the tree in a journal's directory, or begins one. minimum is the first record that was not pruned, which the directory does not
// say reliably by itself. Bundles with records from most on are taken as if they were not there. What follows the last whole bundle has to be
// added again, from Size on, and takes the place of those. Errors: a file that cannot be read, or tiles
// without which the hashes above them are not known.
func Open(fs vfs.FS, dir string, minimum, most uint64) (*Tree, error) {
	if minimum%Width != 0 {
		return nil, fmt.Errorf("the minimum %d is not a multiple of %d", minimum, Width)
	}
	t := &Tree{fs: fs, dir: dir, minimum: minimum}
	bundles, err := t.run("entries", compressed, minimum/Width)
	if err != nil {
		return nil, err
	}
	tiles, err := t.run("0", "", groupStart(minimum))
	if err != nil {
		return nil, err
	}
	full := max(min(bundles, tiles, most/Width), minimum/Width)
	if tiles < full {
		return nil, fmt.Errorf("%s is missing", TilePath(0, tiles))
	}
	t.saved, t.size = full*Width, full*Width
	t.levels = []unsaved{{first: t.size}}
	for level := 1; full > 0; level++ {
		// full is how many whole tiles the level below has, and so how many hashes this one has.
		whole, err := t.run(strconv.Itoa(level), "", 0)
		if err != nil {
			return nil, err
		}
		whole = min(whole, full/Width)
		u := unsaved{first: whole * Width}
		for n := u.first; n < full; n++ {
			tile, err := t.tile(level-1, n)
			if err != nil {
				return nil, err
			}
			u.hashes = append(u.hashes, root(tile))
		}
		t.levels = append(t.levels, u)
		full /= Width
	}
	return t, nil
}

// groupStart is the first tile of level 0 that is kept when records before a minimum are pruned: those of its whole tile of level 1 are.
func groupStart(minimum uint64) uint64 { return minimum / Width / Width * Width }

// Size is how many records the tree has.
func (t *Tree) Size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.size
}

// Minimum is the first record that was not pruned.
func (t *Tree) Minimum() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.minimum
}

// Saved is how many records are in bundles on disk, durably, with their tiles: a multiple of Width.
func (t *Tree) Saved() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.saved
}

// Add adds records, which it copies. They are in memory until Save.
func (t *Tree) Add(records ...[]byte) error {
	for _, r := range records {
		if len(r) > MaxRecord {
			return fmt.Errorf("a record of %d bytes is longer than a bundle can hold", len(r))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		t.records = append(t.records, slices.Clone(r))
		t.size++
		hash := tlog.RecordHash(r)
		for level := 0; ; level++ {
			if level == len(t.levels) {
				t.levels = append(t.levels, unsaved{})
			}
			u := &t.levels[level]
			u.hashes = append(u.hashes, hash)
			if len(u.hashes)%Width != 0 {
				break
			}
			hash = root(u.hashes[len(u.hashes)-Width:])
		}
	}
	return nil
}

// Save writes the whole bundles and tiles that are not on disk yet, durably. After an error it can be called again.
func (t *Tree) Save() error {
	t.mu.RLock()
	first, records, levels := t.saved, t.records, slices.Clone(t.levels)
	t.mu.RUnlock()
	whole := len(records) / Width * Width
	if whole == 0 {
		return nil
	}
	w := newWriter(t.fs, t.dir)
	// Bundles come last: where one is, after a process was killed, so are the tiles over it.
	for level, u := range slices.Backward(levels) {
		for i := 0; i+Width <= len(u.hashes); i += Width {
			w.write(TilePath(level, u.first/Width+uint64(i/Width)), join(u.hashes[i:i+Width]))
		}
	}
	for i := 0; i < whole; i += Width {
		b, err := EncodeBundle(records[i : i+Width])
		if err != nil {
			w.err = cmp.Or(w.err, err)
			break
		}
		w.write(BundlePath(first/Width+uint64(i/Width)), b)
	}
	if err := w.finish(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.saved += uint64(whole)
	t.records = slices.Clone(t.records[whole:]) // so that the others can be freed
	for level := range levels {
		u := &t.levels[level]
		n := len(levels[level].hashes) / Width * Width
		u.first, u.hashes = u.first+uint64(n), slices.Clone(u.hashes[n:])
	}
	return nil
}

// Bundle returns the Width records of a bundle, or fewer of the one that is not whole yet. Errors: ErrPruned, ErrAbsent, and those of reading.
func (t *Tree) Bundle(n uint64) ([][]byte, error) {
	t.mu.RLock()
	minimum, saved, records := t.minimum, t.saved, t.records
	t.mu.RUnlock()
	first := n * Width
	switch {
	case first < minimum:
		return nil, ErrPruned
	case first >= saved+uint64(len(records)):
		return nil, ErrAbsent
	case first >= saved:
		records = records[first-saved:]
		return records[:min(Width, len(records))], nil
	}
	b, err := t.read(BundlePath(n))
	if err != nil {
		return nil, err
	}
	if records, err = DecodeBundle(b); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", BundlePath(n), err)
	}
	return records, nil
}

// Root is the root of the tree as it was when it had so many records.
func (t *Tree) Root(size uint64) (tlog.Hash, error) {
	if size > t.Size() {
		return tlog.Hash{}, ErrAbsent
	}
	return tlog.TreeHash(int64(size), t) //nolint:gosec,wrapcheck // sizes are below 2^63; the error is from ReadHashes
}

// Prove proves that a record is in the tree of a size.
func (t *Tree) Prove(index, size uint64) (tlog.RecordProof, error) {
	if size > t.Size() || index >= size {
		return nil, ErrAbsent
	}
	return tlog.ProveRecord(int64(size), int64(index), t) //nolint:gosec,wrapcheck // as in Root
}

// ProveConsistency proves that the tree of a size begins with that of an older one.
func (t *Tree) ProveConsistency(size, older uint64) (tlog.TreeProof, error) {
	if size > t.Size() || older > size {
		return nil, ErrAbsent
	}
	if older == 0 || older == size {
		return nil, nil
	}
	return tlog.ProveTree(int64(size), int64(older), t) //nolint:gosec,wrapcheck // as in Root
}

// ReadHashes reads hashes of the tree: it is a tlog.HashReader. Errors: ErrAbsent for one over records that the tree does not have, ErrPruned,
// and those of reading.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	var tile []tlog.Hash
	tileLevel, tileNumber := -1, uint64(0)
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		// It is the root of so many hashes of a level that has tiles, from first on, which lie in one tile.
		count := uint64(1) << (level % 8)
		first := uint64(n) * count //nolint:gosec // not negative
		if level/8 != tileLevel || first/Width != tileNumber {
			var err error
			if tile, err = t.tile(level/8, first/Width); err != nil {
				return nil, err
			}
			tileLevel, tileNumber = level/8, first/Width
		}
		if end := first%Width + count; end <= uint64(len(tile)) {
			hashes[i] = root(tile[first%Width : end])
			continue
		}
		return nil, ErrAbsent
	}
	return hashes, nil
}

// tile returns the hashes of a tile, or those that there are of one that is not whole yet.
func (t *Tree) tile(level int, n uint64) ([]tlog.Hash, error) {
	t.mu.RLock()
	var u unsaved
	if level < len(t.levels) {
		u = t.levels[level]
	}
	minimum := t.minimum
	t.mu.RUnlock()
	if first := n * Width; first >= u.first {
		if first-u.first >= uint64(len(u.hashes)) {
			return nil, ErrAbsent
		}
		hashes := u.hashes[first-u.first:]
		return hashes[:min(Width, len(hashes))], nil
	}
	if level == 0 && n < groupStart(minimum) {
		return nil, ErrPruned
	}
	b, err := t.read(TilePath(level, n))
	if err != nil {
		return nil, err
	}
	hashes, err := DecodeTile(b)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", TilePath(level, n), err)
	}
	return hashes, nil
}

// DecodeTile returns the hashes of a whole tile as it lies on disk. Errors: it does not have the length of one.
func DecodeTile(b []byte) ([]tlog.Hash, error) {
	if len(b) != Width*tlog.HashSize {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(b), Width*tlog.HashSize)
	}
	hashes := make([]tlog.Hash, Width)
	for i := range hashes {
		copy(hashes[i][:], b[i*tlog.HashSize:])
	}
	return hashes, nil
}

// join is the reverse of DecodeTile.
func join(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// root is the root over a power of two of hashes.
func root(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(root(hashes[:half]), root(hashes[half:]))
}

// RootOfTile is the hash that the level above has of a whole tile.
func RootOfTile(hashes []tlog.Hash) tlog.Hash { return root(hashes) }
