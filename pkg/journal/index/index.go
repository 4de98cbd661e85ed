package index

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sealed appends the terms of what is sealed in a record.
type Sealed func(record []byte, terms []Term) []Term

// Index is the index of a journal. It is safe for concurrent use: one adds while others search.
type Index struct {
	fs  vfs.FS
	dir string
	// sealed may be nil.
	sealed Sealed

	// adding is held by the goroutine that adds, and guards what follows. collect is nil where nothing is added.
	adding  sync.Mutex
	collect *collector
	// file is the part's; nil where it has to be written anew.
	file vfs.File
	// aside is a group that had a file once, and gets one again; nil while there is none.
	aside *building
	// closed has Add do nothing.
	closed bool

	mu sync.RWMutex
	// first is the first bundle that the journal has.
	first uint64
	// groups are those that have a file, sorted.
	groups []uint64
	// part is the group after them.
	part *building
}

// building is a group that is not whole.
type building struct {
	group uint64
	// next is the bundle that it lacks next.
	next    uint64
	bundles [Wide]bundle
}

// begin begins a group at a bundle.
func begin(number uint64) *building { return &building{group: number / Wide, next: number} }

// whole reports whether nothing is lacking.
func (b *building) whole() bool { return b.next == (b.group+1)*Wide }

const (
	partSuffix = ".part"
	unfinished = ".new"
)

func groupName(group uint64) string { return fmt.Sprintf("%020d", group) }

func (x *Index) path(group uint64, suffix string) string {
	return x.fs.PathJoin(x.dir, groupName(group)+suffix)
}

// Open opens the index in a directory, or begins one. What is wrong with its files makes it a smaller index, which Missing tells, and is no error. sealed may
// be nil.
func Open(fs vfs.FS, dir string, sealed Sealed) (*Index, error) {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: cannot make the directory of the index: %w", err)
	}
	x := &Index{fs: fs, dir: dir, sealed: sealed, collect: new(collector)}
	return x, x.load()
}

// Read opens the index in a directory to search it only: beside a server that adds to it, or in a copy. There need not be one.
func Read(fs vfs.FS, dir string) (*Index, error) {
	x := &Index{fs: fs, dir: dir}
	return x, x.load()
}

// load reads which groups there are, and the part.
func (x *Index) load() error {
	x.part = begin(0)
	names, err := x.fs.List(x.dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("journal: cannot list the index: %w", err)
	}
	for _, name := range names {
		if number, err := strconv.ParseUint(name, 10, 64); err == nil && groupName(number) == name {
			x.groups = append(x.groups, number)
		}
	}
	slices.Sort(x.groups)
	if n := len(x.groups); n > 0 {
		x.part = begin((x.groups[n-1] + 1) * Wide)
	}
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, partSuffix), 10, 64)
		if err == nil && groupName(number)+partSuffix == name && number >= x.part.group {
			x.loadPart(number)
		}
	}
	return nil
}

// loadPart reads a part up to where it is not as it was written.
func (x *Index) loadPart(group uint64) {
	file, err := x.fs.Open(x.path(group, partSuffix))
	if err != nil {
		return
	}
	b, err := io.ReadAll(io.LimitReader(file, Wide*(partHead+maxTerms*8+4)))
	if err = errors.Join(err, file.Close()); err != nil {
		return
	}
	var part *building
	for {
		number, one, n := nextEntry(b)
		if n == 0 || number/Wide != group || part != nil && number != part.next {
			break
		}
		if part == nil {
			part = begin(number)
		}
		part.bundles[number%Wide], part.next = one, number+1
		b = b[n:]
	}
	if part != nil {
		x.part = part
	}
}

// Missing returns the bundle that Add has to be told of next, given how many bundles were made; false if none is missing.
func (x *Index) Missing(made uint64) (number uint64, some bool) {
	x.adding.Lock()
	defer x.adding.Unlock()
	if lost, some := x.lost(); some {
		if from := max(lost*Wide, x.first); x.aside == nil || x.aside.group != lost || x.aside.next < from {
			x.aside = begin(from)
		}
		return x.aside.next, x.aside.next < made
	}
	x.aside = nil
	return x.part.next, x.part.next < made
}

// lost returns a group before the part that has no file.
func (x *Index) lost() (group uint64, some bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	expected := x.first / Wide
	for _, g := range x.groups {
		if g > expected {
			return expected, true
		}
		expected = g + 1
	}
	return expected, expected < x.part.group
}

// Add adds a bundle: the one that Missing names, or the one after the last that was added. It does nothing for any other one. With an error
// the bundle may be missing, and is to be added again.
func (x *Index) Add(number uint64, records [][]byte) error {
	x.adding.Lock()
	defer x.adding.Unlock()
	if x.closed {
		return nil
	}
	to := x.part
	if x.aside != nil && x.aside.next == number {
		to = x.aside
	}
	if to.whole() { // its file could not be written
		if err := x.finish(to); err != nil {
			return err
		}
		to = x.part
	}
	if to.next != number {
		return nil
	}
	one := x.collect.collect(records, x.sealed)
	x.mu.Lock()
	to.bundles[number%Wide] = one
	to.next++
	x.mu.Unlock()
	if to.whole() {
		return x.finish(to)
	}
	if to == x.aside {
		return nil
	}
	return x.save(number, &one)
}

// save writes a bundle into the part's file.
func (x *Index) save(number uint64, one *bundle) (err error) {
	var b []byte
	if x.file == nil {
		if x.file, err = x.fs.Create(x.path(x.part.group, partSuffix), vfs.WriteCategoryUnspecified); err != nil {
			return fmt.Errorf("journal: cannot create a part of the index: %w", err)
		}
		for place := range x.part.bundles { // what there is, the new one among it
			if known := &x.part.bundles[place]; known.known {
				b = appendEntry(b, x.part.group*Wide+uint64(place), known)
			}
		}
	} else {
		b = appendEntry(nil, number, one)
	}
	if _, err := x.file.Write(b); err != nil {
		x.closePart()
		return fmt.Errorf("journal: cannot write the index: %w", err)
	}
	return nil
}

// closePart has the part's file be written anew when it is needed next.
func (x *Index) closePart() {
	if x.file != nil {
		_ = x.file.Close() // what it lacks is added again
		x.file = nil
	}
}

// finish writes the file of a group that is whole.
func (x *Index) finish(of *building) error {
	path := x.path(of.group, "")
	file, err := x.fs.Create(path+unfinished, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("journal: cannot create a group of the index: %w", err)
	}
	_, err = file.Write(encodeGroup(of.group, &of.bundles))
	if err = errors.Join(err, file.Close()); err == nil {
		// It is not synced: what a power cut leaves of it is seen by its sums.
		err = x.fs.Rename(path+unfinished, path)
	}
	if err != nil {
		return fmt.Errorf("journal: cannot write the index: %w", err)
	}
	x.mu.Lock()
	if at, found := slices.BinarySearch(x.groups, of.group); !found {
		x.groups = slices.Insert(x.groups, at, of.group)
	}
	if of == x.part {
		x.part = begin(of.next)
	}
	x.mu.Unlock()
	if of == x.aside {
		x.aside = nil
		return nil
	}
	x.closePart()
	_ = x.fs.Remove(x.path(of.group, partSuffix)) // it means nothing any more
	return nil
}

// Prune forgets the bundles before one. It has to be called before Missing where the journal does not begin with bundle 0.
func (x *Index) Prune(first uint64) error {
	x.adding.Lock()
	defer x.adding.Unlock()
	x.mu.Lock()
	x.first = max(x.first, first)
	keep := 0
	for keep < len(x.groups) && (x.groups[keep]+1)*Wide <= first {
		keep++
	}
	gone := x.groups[:keep]
	x.groups = slices.Clone(x.groups[keep:])
	if x.part.next < first {
		gone = append(slices.Clone(gone), x.part.group)
		x.part = begin(first)
		x.closePart()
	}
	x.mu.Unlock()
	var errs []error
	for _, group := range gone {
		for _, suffix := range []string{"", partSuffix} {
			if suffix == partSuffix && group == x.part.group {
				continue
			}
			if err := x.fs.Remove(x.path(group, suffix)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("journal: cannot delete from the index: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// Close closes the files. The Index can be searched afterwards, and Add does nothing.
func (x *Index) Close() error {
	x.adding.Lock()
	defer x.adding.Unlock()
	x.closePart()
	x.closed = true
	return nil
}

// May returns which bundles of a group may have records that are looked for: all of a group, or bundles of it, that the index does not have.
func (x *Index) May(group uint64, q *Query) Bundles {
	x.mu.RLock()
	_, whole := slices.BinarySearch(x.groups, group)
	if !whole {
		defer x.mu.RUnlock()
		return x.mayPart(group, q)
	}
	x.mu.RUnlock()
	file, err := x.fs.Open(x.path(group, ""), vfs.RandomReadsOption)
	if err == nil {
		defer func() { _ = file.Close() }()
		var may Bundles
		if may, err = mayGroup(file, group, q); err == nil {
			return may
		}
	}
	if errors.Is(err, errDamaged) || errors.Is(err, iofs.ErrNotExist) {
		x.lose(group)
	}
	return allBundles
}

// mayPart is May of a group without a file. mu is held.
func (x *Index) mayPart(group uint64, q *Query) Bundles {
	if group != x.part.group {
		return allBundles
	}
	var may Bundles
	for place := range x.part.bundles {
		if x.part.bundles[place].may(q) {
			may.add(place)
		}
	}
	return may
}

// lose forgets a group whose file is not as it was written, so that it is made again.
func (x *Index) lose(group uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at, found := slices.BinarySearch(x.groups, group); found {
		x.groups = slices.Delete(x.groups, at, at+1)
	}
}
