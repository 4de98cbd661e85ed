package journal

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/journal/index"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// indexDir is where the index lies within the directory of a journal.
const indexDir = "index"

// maxBundleFile bounds what is read of a bundle: one that does not compress, and then some.
const maxBundleFile = tree.Width*(2+MaxRecord) + 1<<16

// ErrNoRecord says that a journal does not have a record: it was removed, as the retention says, or was never written.
var ErrNoRecord = errors.New("the journal does not have this record")

// Persons opens what is sealed for persons, and finds it.
type Persons interface {
	// Open fills in what is sealed in a record; false where that cannot be opened any more, or not with these keys.
	Open(r *Record) (opened bool, err error)
	// Terms appends the terms by which the index finds what is sealed in a record.
	Terms(r *Record, terms []index.Term) []index.Term
	// Asked returns the terms by which the index finds records in which a principal, or an object, is sealed. An empty tenant stands for all. known
	// is false where any record may be one.
	Asked(field index.Field, kind, id, tenant string) (terms []index.Term, known bool)
	// Under returns the digest that a record which is sealed with a key has in place of another one; nil where that key is not there.
	Under(key []byte, purpose string, digest []byte) []byte
}

// Reader reads the records of a journal: beside the process that writes them, or of a copy of its directory. With the journal's secret it checks
// that the journal wrote those that are in no bundle yet; it verifies nothing else, see package verify. It is safe for concurrent use.
type Reader struct {
	fs     vfs.FS
	dir    string
	origin string
	tag    [8]byte
	// live is the journal of this process; nil for a directory.
	live *Journal
	// ids are those of its decisions; nil where the secret is not known.
	ids *IDs
	// macs is the key of the MACs of frames; nil where the secret is not known.
	macs []byte
	// arguments is the key of the digests of tools' arguments; nil where the secret is not known.
	arguments []byte
	index     *index.Index
	persons   Persons

	mu sync.Mutex
	// first is the first bundle that there is, and bundles the one after the last.
	first, bundles uint64
}

// ReaderConfig is which journal is read; Dir is required.
type ReaderConfig struct {
	// Dir is the directory of the journal.
	Dir string
	// FS is where it lies; nil means the operating system's.
	FS vfs.FS
	// Secret is the journal's, which finds records by the ids of decisions, makes those, and checks the MACs of segments; nil where it is not known.
	Secret []byte
	// Persons opens what is sealed; nil leaves it so.
	Persons Persons
}

// OpenReader opens the journal in a directory to be read. Errors: the directory is no journal's, or cannot be read.
func OpenReader(cfg ReaderConfig) (*Reader, error) {
	fs, dir := cfg.FS, cfg.Dir
	if fs == nil {
		fs = tree.Disk
	}
	text, err := tree.ReadFile(fs, fs.PathJoin(dir, originFile), maxOrigin)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("journal: %s is not the directory of a journal: it has no file %q", dir, originFile)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: cannot read the name of the journal: %w", err)
	}
	origin, whole := strings.CutSuffix(string(text), "\n")
	if !whole || origin == "" || strings.ContainsAny(origin, "\n\r") {
		return nil, fmt.Errorf("journal: the file %s does not hold the name of a journal", fs.PathJoin(dir, originFile))
	}
	r := &Reader{fs: fs, dir: dir, origin: origin, tag: Tag(origin), persons: cfg.Persons}
	if len(cfg.Secret) > 0 {
		if r.ids, err = NewIDs(cfg.Secret); err != nil {
			return nil, err
		}
		if r.macs, err = macKey(cfg.Secret, origin); err != nil {
			return nil, err
		}
		if r.arguments, err = argumentsKey(cfg.Secret); err != nil {
			return nil, err
		}
	}
	if r.index, err = index.Read(fs, fs.PathJoin(dir, indexDir)); err != nil {
		return nil, err
	}
	return r, r.survey()
}

// newSegments returns what reads the segments from their beginning.
func (r *Reader) newSegments() *SegmentReader {
	segments := NewSegmentReader(r.fs, r.dir)
	if r.macs != nil {
		segments.mac = newFrameMAC(r.macs)
	}
	return segments
}

// Origin is the journal's name.
func (r *Reader) Origin() string { return r.origin }

// ID returns the id of a record; empty without the journal's secret.
func (r *Reader) ID(sequence uint64) string {
	if r.ids == nil {
		return ""
	}
	return r.ids.Of(r.tag, sequence)
}

// Find returns the sequence of the record that an id of a decision stands for; false for one that is not of this journal, and without the
// journal's secret. Whether there is such a record is another question.
func (r *Reader) Find(id string) (sequence uint64, ok bool) {
	if r.ids == nil {
		return 0, false
	}
	tag, sequence, ok := r.ids.Find(id)
	return sequence, ok && tag == r.tag
}

// survey finds out which bundles there are.
func (r *Reader) survey() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, err := firstBundle(r.fs, r.fs.PathJoin(r.dir, "tile", "entries"), "", math.MaxUint64)
	if err != nil {
		return fmt.Errorf("journal: cannot list the bundles: %w", err)
	}
	if first == math.MaxUint64 {
		first = 0
	}
	r.first = first
	if r.bundles > first {
		return nil
	}
	// The segments begin where the bundles end, or before.
	r.bundles = first
	if oldest, found, err := NewSegmentReader(r.fs, r.dir).First(); err == nil && found {
		r.bundles = max(r.bundles, oldest/tree.Width)
		return nil
	}
	// A copy without segments: there are as many as follow each other.
	step := uint64(1)
	for ; r.has(r.bundles + step); step *= 2 {
		r.bundles += step
	}
	for ; step > 0; step /= 2 {
		if r.has(r.bundles + step) {
			r.bundles += step
		}
	}
	if r.has(r.bundles) {
		r.bundles++
	}
	return nil
}

// has reports whether there is a bundle.
func (r *Reader) has(n uint64) bool {
	_, err := r.fs.Stat(r.bundlePath(n))
	return err == nil
}

func (r *Reader) bundlePath(n uint64) string {
	return r.fs.PathJoin(append([]string{r.dir}, strings.Split(tree.BundlePath(n), "/")...)...)
}

// firstBundle returns the lowest number of a bundle in a directory, or else most.
func firstBundle(fs vfs.FS, dir, prefix string, most uint64) (uint64, error) {
	names, err := fs.List(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return most, nil
	}
	if err != nil {
		return 0, err //nolint:wrapcheck // the caller says what it was for
	}
	slices.Sort(names)
	var deeper []string
	for _, name := range names {
		if strings.HasPrefix(name, "x") {
			deeper = append(deeper, name)
			continue
		}
		if level, n, ok := tree.ParsePath("tile/entries/" + prefix + name); ok && level < 0 {
			most = min(most, n)
			break // those that follow have higher numbers
		}
	}
	for _, name := range deeper {
		if most, err = firstBundle(fs, fs.PathJoin(dir, name), prefix+name+"/", most); err != nil {
			return 0, err
		}
	}
	return most, nil
}

// saved returns the first bundle and the one after the last, by what there is now.
func (r *Reader) saved() (first, bundles uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.has(r.bundles) {
		r.bundles++
	}
	return r.first, r.bundles
}

// First returns the first record that the journal still has.
func (r *Reader) First() uint64 {
	first, _ := r.saved()
	return first * tree.Width
}

// End returns how many records were written, by now.
func (r *Reader) End() (uint64, error) {
	if r.live != nil {
		return r.live.Written(), nil
	}
	for {
		_, bundles := r.saved()
		from := bundles * tree.Width
		end, found, err := r.endOfSegments(from)
		if found && err == nil {
			return end, nil
		}
		if moved, lookErr := r.moved(bundles); lookErr != nil || !moved {
			return max(end, from), errors.Join(err, lookErr) // without an error: of a copy that has no more
		}
	}
}

// endOfSegments returns the sequence behind the records that the segments have from one on; false where they begin with a later one.
func (r *Reader) endOfSegments(from uint64) (end uint64, found bool, err error) {
	segments := r.newSegments()
	oldest, found, err := segments.First()
	if errors.Is(err, iofs.ErrNotExist) || err == nil && (!found || oldest > from) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	end, err = segments.Read(from, math.MaxUint64, func(uint64, []byte) error { return nil })
	return end, true, err
}

// moved looks again in the tree, once the segments do not have a record, and reports whether there are more bundles than so many: a segment is
// removed when bundles have all of it, which may happen between looking at the one and at the other. The caller looks again as
// long as that is so.
func (r *Reader) moved(bundles uint64) (bool, error) {
	if _, now := r.saved(); now > bundles {
		return true, nil
	}
	if err := r.survey(); err != nil { // the retention may have removed all bundles that were known of
		return false, err
	}
	_, now := r.saved()
	return now > bundles, nil
}

// Get returns a record, in which all that can be opened is open, and its encoding as it was written. Errors: ErrNoRecord, and those of reading.
func (r *Reader) Get(sequence uint64) (f Found, encoded []byte, err error) {
	if encoded, err = r.Record(sequence); err != nil {
		return Found{}, nil, err
	}
	f.Record = &Record{}
	f.Erased, err = r.open(encoded, f.Record)
	return f, encoded, err
}

// Record returns the encoding of a record. Errors: ErrNoRecord, and those of reading.
func (r *Reader) Record(sequence uint64) ([]byte, error) {
	end, err := r.End()
	if err != nil {
		return nil, err
	}
	if sequence >= end {
		return nil, ErrNoRecord
	}
	w := r.walk()
	records, err := w.chunk(sequence/tree.Width, end)
	if err != nil {
		return nil, err
	}
	if at := sequence % tree.Width; at < uint64(len(records)) {
		return slices.Clone(records[at]), nil
	}
	return nil, ErrNoRecord
}

// walk reads records, up to tree.Width at once, which are called a chunk, whether they are in a bundle yet or in segments. It is not safe for
// concurrent use.
type walk struct {
	*Reader
	bundles  tree.Bundles
	segments *SegmentReader
	// marks are the states of segments before chunks, so that going back is no reading from the beginning. They are kept where backward is set.
	backward bool
	marks    map[uint64]SegmentReader
	records  [][]byte
	room     []byte
}

func (r *Reader) walk() *walk {
	return &walk{Reader: r, segments: r.newSegments(), marks: map[uint64]SegmentReader{}}
}

// chunk returns the records of a chunk before end. They are good until the next call. Errors: ErrNoRecord where it was removed.
func (w *walk) chunk(n, end uint64) ([][]byte, error) {
	for again := false; ; {
		first, bundles := w.saved()
		if n < first {
			return nil, ErrNoRecord
		}
		if n >= bundles {
			records, err := w.tail(n, bundles, end)
			if err == nil {
				return records, nil
			}
			if moved, lookErr := w.moved(bundles); lookErr != nil || !moved {
				return nil, errors.Join(err, lookErr)
			}
			continue
		}
		b, err := tree.ReadFile(w.fs, w.bundlePath(n), maxBundleFile)
		if errors.Is(err, iofs.ErrNotExist) && !again {
			if err := w.survey(); err != nil {
				return nil, err
			}
			again = true
			continue // it may have been removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("journal: cannot read a bundle: %w", err)
		}
		records, err := w.bundles.Decode(b)
		if err != nil {
			return nil, fmt.Errorf("journal: the bundle %s cannot be read: %w: see deputy journal verify", w.bundlePath(n), err)
		}
		return records[:min(tree.Width, end-n*tree.Width)], nil
	}
}

// tail reads a chunk that is not in a bundle. bundles is the first of those.
func (w *walk) tail(n, bundles, end uint64) ([][]byte, error) {
	from, until := n*tree.Width, min(end, (n+1)*tree.Width)
	w.records, w.room = w.records[:0], w.room[:0]
	var place segmentPlace
	if w.live != nil {
		var known [][]byte
		known, place = w.live.sealer.unsealed(n)
		w.records = append(w.records, known[:min(uint64(len(known)), until-from)]...)
		if from += uint64(len(w.records)); from == until {
			return w.records, nil
		}
	}
	if mark, found := w.marks[n]; found {
		*w.segments = mark
	} else if w.backward {
		if place.next > bundles*tree.Width {
			w.segments.skip(place, from)
			bundles = (place.next + tree.Width - 1) / tree.Width
		}
		for before := bundles; before < n; before++ {
			w.mark(before)
			if _, err := w.segments.Read(before*tree.Width, (before+1)*tree.Width, func(uint64, []byte) error { return nil }); err != nil {
				return nil, err
			}
		}
	}
	w.segments.skip(place, from)
	w.mark(n)
	var ends []int
	next, err := w.segments.Read(from, until, func(_ uint64, record []byte) error {
		w.room = append(w.room, record...)
		ends = append(ends, len(w.room))
		return nil
	})
	if err == nil && next < until {
		err = fmt.Errorf("journal: record %d is missing in %s: see deputy journal verify", next, w.dir)
	}
	start := 0
	for _, end := range ends {
		w.records = append(w.records, w.room[start:end:end])
		start = end
	}
	return w.records, err
}

// mark keeps the state of the segments before a chunk.
func (w *walk) mark(n uint64) {
	if w.backward {
		w.marks[n] = *w.segments
	}
}

// open decodes a record, and opens what is sealed in it.
func (r *Reader) open(encoded []byte, into *Record) (erased bool, err error) {
	proto.Reset(into)
	if err := proto.Unmarshal(encoded, into); err != nil {
		return false, fmt.Errorf("journal: a record cannot be decoded: %w", err)
	}
	if len(into.GetPersonal()) == 0 || r.persons == nil {
		return false, nil // it is sealed, and nobody here knows whether its key is gone
	}
	opened, err := r.persons.Open(into)
	return !opened, err
}

// pace is how long a reader that follows waits at least before it looks again, and pollEvery how often it looks at a directory that another
// process writes.
const (
	pace      = 20 * time.Millisecond
	pollEvery = 250 * time.Millisecond
)

// wait waits until there are more records than so many, or ctx ends.
func (r *Reader) wait(ctx context.Context, than uint64) error {
	if r.live != nil {
		if err := r.live.await(ctx, than); err != nil {
			return err
		}
		return rest(ctx, pace) // so that many writes cost one look
	}
	for {
		if err := rest(ctx, pollEvery); err != nil {
			return err
		}
		if end, err := r.End(); err != nil || end > than {
			return err
		}
	}
}

// rest waits.
func rest(ctx context.Context, how time.Duration) error {
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // it is what is asked for
	}
}
