package store

import (
	"bytes"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Rows that are over stay in the database until nobody can read them any more: those that were deleted for the window,
// those that have expired likewise. A list of the few that live among them would step over each of them every time. So the
// first one that does notes where nothing lived, and later ones go on behind it: each row that is over is stepped
// over about once.
//
// Only memory says where: what is written in a database in order leaves the same behind, for Pebble to step over. What it says
// is exact:
//
//   - A void is true from the newest revision of the rows in it on, and from the moment at which the last of them had
//     expired. A read at an older revision, or as of an earlier moment, does not go by it.
//   - Before a revision becomes the head, each key that it writes is cut out of the void that it lies in, see commitGroup.
//   - What was written since the revision of the read that noted a void is cut out of it likewise, when it is noted. As far back as
//     is known what was written: a read at a revision before that notes nothing.
//
// Collection deletes, and brings no row to life.

const (
	// longVoid is how many rows have to be stepped over at once for it to be noted, unless a test takes fewer.
	longVoid = 32
	// maxVoids is how many voids are kept, and voidBytes about how much memory they take. When there are more, every second
	// one is forgotten.
	maxVoids, voidBytes = 4096, 4 << 20
	// maxWritten is of how many keys it is known that they were written, and writtenBytes how many bytes they may have.
	maxWritten, writtenBytes = 8192, 1 << 20
)

// A void is a range of keys without versions in which no row lives: from lo up to, not including, hi.
type void struct {
	lo, hi string
	// from is the first revision of which that is true.
	from Revision
	// expired is the first moment of which it is; zero stands for all.
	expired time.Time
}

// serves reports whether a void is one for a read at a revision, as of a moment.
func (v *void) serves(at Revision, moment time.Time) bool {
	return v.from <= at && !v.expired.After(moment)
}

// voids are what is known of where nothing lives. They are safe for concurrent use.
type voids struct {
	// long is how many rows a void takes.
	long int
	// count is how many there are, for who need not ask.
	count atomic.Int64

	mu sync.RWMutex
	// all are in order and do not overlap; size is about how many bytes they take.
	all  []void
	size int
	// written are the last revisions with the keys that they wrote, held is how many keys these are, and bytes how long they
	// are together; before is the newest revision that is not among them.
	written     []noted
	held, bytes int
	before      Revision
}

// voidSize is about what a void takes beside its keys.
const voidSize = 64

// begin says with which head the store was opened: what was written before is not known.
func (v *voids) begin(head Revision) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.before = max(v.before, head)
}

// find returns the void that a key lies in, if there is one for a read at a revision, as of a moment.
func (v *voids) find(key []byte, at Revision, moment time.Time) (void, bool) {
	if v.count.Load() == 0 {
		return void{}, false
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	// The last one that begins at the key, or before it.
	i := sort.Search(len(v.all), func(i int) bool { return v.all[i].lo > string(key) }) - 1
	if i < 0 || v.all[i].hi <= string(key) || !v.all[i].serves(at, moment) {
		return void{}, false
	}
	return v.all[i], true
}

// note adds a void that was found by a read at a revision.
func (v *voids) note(found void, at Revision) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if at < v.before {
		return
	}
	lo, hi := v.overlapping(found)
	for _, old := range v.all[lo:hi] {
		found.lo, found.hi = min(found.lo, old.lo), max(found.hi, old.hi)
		found.from, found.expired = max(found.from, old.from), later(found.expired, old.expired)
	}
	v.replace(lo, hi, found)
	for i := len(v.written) - 1; i >= 0 && v.written[i].at > at; i-- {
		for _, key := range v.written[i].keys {
			v.cut(key)
		}
	}
	v.count.Store(int64(len(v.all)))
}

// write cuts the keys that a revision writes out of the voids. It has to be called before the revision becomes the head, and in
// the order of revisions.
func (v *voids) write(at Revision, keys []string) {
	if len(keys) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, key := range keys {
		v.cut(key)
	}
	v.count.Store(int64(len(v.all)))
	v.written = append(v.written, noted{at, keys})
	v.held, v.bytes = v.held+len(keys), v.bytes+textLen(keys)
	for v.held > maxWritten || v.bytes > writtenBytes {
		oldest := v.written[0]
		v.before = oldest.at
		v.held, v.bytes = v.held-len(oldest.keys), v.bytes-textLen(oldest.keys)
		v.written[0] = noted{}
		v.written = v.written[1:]
	}
}

func textLen(texts []string) (n int) {
	for _, text := range texts {
		n += len(text)
	}
	return n
}

// overlapping returns which voids have keys of another one. The caller has the lock.
func (v *voids) overlapping(with void) (lo, hi int) {
	lo = sort.Search(len(v.all), func(i int) bool { return v.all[i].hi > with.lo })
	hi = lo + sort.Search(len(v.all)-lo, func(i int) bool { return v.all[lo+i].lo >= with.hi })
	return lo, hi
}

// cut makes of a void that a key lies in what is before the key, and what is after it. The caller has the lock.
func (v *voids) cut(key string) {
	i := sort.Search(len(v.all), func(i int) bool { return v.all[i].hi > key })
	if i == len(v.all) || v.all[i].lo > key {
		return
	}
	before, after := v.all[i], v.all[i]
	before.hi, after.lo = key, key+"\x00"
	parts := make([]void, 0, 2)
	for _, part := range [...]void{before, after} {
		if part.lo < part.hi {
			parts = append(parts, part)
		}
	}
	v.replace(i, i+1, parts...)
}

// replace puts others in the place of some voids, and forgets every second one if there are too many then. The caller has the lock.
func (v *voids) replace(lo, hi int, by ...void) {
	for _, old := range v.all[lo:hi] {
		v.size -= voidSize + len(old.lo) + len(old.hi)
	}
	for _, n := range by {
		v.size += voidSize + len(n.lo) + len(n.hi)
	}
	v.all = slices.Replace(v.all, lo, hi, by...)
	for len(v.all) > maxVoids || v.size > voidBytes {
		second := false
		v.all = slices.DeleteFunc(v.all, func(old void) bool {
			if second = !second; second {
				v.size -= voidSize + len(old.lo) + len(old.hi)
			}
			return second
		})
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// A passage is the part of a walk in which no row lives. It has to be told of each row that is over, and of where one
// is that lives, or is not looked at.
type passage struct {
	voids *voids
	// at and moment are what is read, as those of view.walk.
	at     Revision
	moment time.Time

	// met is how many rows that are over were met since the last one that lives.
	met int
	// lo is the first of them.
	lo []byte
	// from and expired are those of the void that they make.
	from    Revision
	expired time.Time
	// past is where it went on behind a void.
	past []byte
}

// passage begins a walk at a revision, as of a moment.
func (v *voids) passage(at Revision, moment time.Time) passage {
	return passage{voids: v, at: at, moment: moment}
}

// pass moves an iterator on from a row that is over; see over.
func (p *passage) pass(it *pebble.Iterator, key []byte, from Revision, expired time.Time) (valid bool) {
	if past := p.over(key, from, expired); past != nil {
		return it.SeekGE(past)
	}
	return it.NextPrefix()
}

// over notes a row that is over, by its key without a version: from a revision on, and since it expired at a moment, which is
// zero if it was deleted. If the row lies in a void, over returns the key to go on from, which is valid until the next call;
// if not, nil.
func (p *passage) over(key []byte, from Revision, expired time.Time) []byte {
	if p.met == 0 {
		p.lo, p.from, p.expired = append(p.lo[:0], key...), 0, time.Time{}
	}
	p.met++
	p.from, p.expired = max(p.from, from), later(p.expired, expired)
	known, ok := p.voids.find(key, p.at, p.moment)
	if !ok {
		return nil
	}
	p.from, p.expired = max(p.from, known.from), later(p.expired, known.expired)
	p.past = append(p.past[:0], known.hi...)
	return p.past
}

// end ends the passage at a key: that of a row that lives, or is not looked at, or the end of all that is walked.
func (p *passage) end(key []byte) {
	if p.met >= p.voids.long && bytes.Compare(p.lo, key) < 0 {
		p.voids.note(void{lo: string(p.lo), hi: string(key), from: p.from, expired: p.expired}, p.at)
	}
	p.met = 0
}
