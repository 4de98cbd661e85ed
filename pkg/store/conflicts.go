package store

import (
	"bytes"
	"hash/maphash"
)

// A readSet is what a transaction has read: if any of it is changed before the transaction commits, what
// it decided may be wrong. nil is a read set that nobody will ask for.
type readSet struct {
	// keys were looked up, whether there or not.
	keys map[string]struct{}
	// spans were walked, as far as they were.
	spans []readSpan
}

// readSpan is a range of keys without versions: from lo up to, not including, hi.
type readSpan struct{ lo, hi string }

func (r *readSet) point(key []byte) {
	if r == nil {
		return
	}
	if _, known := r.keys[string(key)]; !known {
		r.keys[string(key)] = struct{}{}
	}
}

func (r *readSet) span(lo, hi []byte) {
	if r == nil || bytes.Compare(lo, hi) >= 0 {
		return
	}
	r.spans = append(r.spans, readSpan{string(lo), string(hi)})
}

// recent are the keys that were written lately: after the oldest revision at which a transaction under
// way reads. The committer alone uses it.
//
// A transaction that began after the newest of them, as one writer's always did, is told so at once. So
// the keys are indexed only when somebody else asks: by their hashes, since that two of them are equal costs
// at worst a retry, and an index in order would cost more than the ranges that it speeds up, which are
// compared with each key instead.
type recent struct {
	seed maphash.Seed
	// commits are in the order of their revisions; those from indexed on are not in newest yet.
	commits []noted
	indexed int
	// newest is by the hash of a key the revision that wrote it last.
	newest map[uint64]Revision
	// held is how many keys there are, floor up to which revision they were forgotten although a transaction
	// might ask: one that has read before it conflicts.
	held  int
	floor Revision
	// limit is how many keys are held for a transaction that stays open.
	limit int
}

// maxHeld is the limit, unless a test has less patience.
const maxHeld = 1 << 20

// noted are the keys that a revision wrote.
type noted struct {
	at   Revision
	keys []string
}

func newRecent() recent {
	return recent{seed: maphash.MakeSeed(), newest: map[uint64]Revision{}, limit: maxHeld}
}

// note remembers what a revision wrote.
func (r *recent) note(at Revision, keys []string) {
	if len(keys) == 0 {
		return
	}
	r.commits = append(r.commits, noted{at, keys})
	if r.held += len(keys); r.held > r.limit {
		r.floor = r.commits[len(r.commits)/2].at
		r.forget(r.floor)
	}
}

// forget drops what no transaction can conflict with any more: revisions up to and including oldest.
func (r *recent) forget(oldest Revision) {
	n := 0
	for ; n < len(r.commits) && r.commits[n].at <= oldest; n++ {
		r.held -= len(r.commits[n].keys)
		if n >= r.indexed {
			continue
		}
		for _, key := range r.commits[n].keys {
			if h := maphash.String(r.seed, key); r.newest[h] == r.commits[n].at {
				delete(r.newest, h)
			}
		}
	}
	r.commits = append(r.commits[:0], r.commits[n:]...)
	r.indexed = max(0, r.indexed-n)
}

// index brings the index up to date.
func (r *recent) index() {
	for _, c := range r.commits[r.indexed:] {
		for _, key := range c.keys {
			r.newest[maphash.String(r.seed, key)] = c.at
		}
	}
	r.indexed = len(r.commits)
}

// conflict reports whether anything that a transaction has read, and written, was written by others after
// the revision at which it read.
func (r *recent) conflict(readAt Revision, set *readSet, own *writes) bool {
	if readAt < r.floor {
		return true
	}
	if n := len(r.commits); n == 0 || r.commits[n-1].at <= readAt {
		return false
	}
	r.index()
	for key := range own.byKey {
		if r.newest[maphash.String(r.seed, key)] > readAt {
			return true
		}
	}
	for key := range set.keys {
		if r.newest[maphash.String(r.seed, key)] > readAt {
			return true
		}
	}
	if len(set.spans) == 0 {
		return false
	}
	for i := len(r.commits) - 1; i >= 0 && r.commits[i].at > readAt; i-- {
		for _, key := range r.commits[i].keys {
			for _, s := range set.spans {
				if s.lo <= key && key < s.hi {
					return true
				}
			}
		}
	}
	return false
}
