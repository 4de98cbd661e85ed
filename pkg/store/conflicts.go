package store

import (
	"bytes"

	"github.com/tidwall/btree"
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
type recent struct {
	// newest is the newest revision that is noted.
	newest Revision
	// keys are by key the revision that wrote it last.
	keys btree.Map[string, Revision]
	// wide are ranges written by transactions that wrote too much to note each key.
	wide []wideWrite
	// order is what to forget, the oldest first.
	order []noted
}

// wideWrite is a range of keys, both ends included.
type wideWrite struct {
	lo, hi string
	at     Revision
}

// noted are the keys that a revision wrote.
type noted struct {
	at   Revision
	keys []string
}

// wideFrom is how many keys a transaction writes before only the ranges that they lie in are noted: one
// for each kind of key and type of object. Noting a range instead of its keys can refuse a transaction
// that would have been right; it is tried again.
const wideFrom = 20_000

// note remembers what a revision wrote.
func (r *recent) note(at Revision, keys []string) {
	if len(keys) == 0 {
		return
	}
	r.newest = at
	if len(keys) < wideFrom {
		for _, key := range keys {
			r.keys.Set(key, at)
		}
		r.order = append(r.order, noted{at, keys})
		return
	}
	ranges := map[string]*wideWrite{}
	for _, key := range keys {
		group := key[:1]
		if i := indexTerminator(key); i >= 0 {
			group = key[:i]
		}
		w := ranges[group]
		if w == nil {
			ranges[group] = &wideWrite{lo: key, hi: key, at: at}
			continue
		}
		w.lo, w.hi = min(w.lo, key), max(w.hi, key)
	}
	for _, w := range ranges {
		r.wide = append(r.wide, *w)
	}
	r.order = append(r.order, noted{at: at})
}

func indexTerminator(key string) int {
	for i := range len(key) {
		if key[i] == terminator {
			return i
		}
	}
	return -1
}

// forget drops what no transaction can conflict with any more: revisions up to and including oldest.
func (r *recent) forget(oldest Revision) {
	n := 0
	for ; n < len(r.order) && r.order[n].at <= oldest; n++ {
		for _, key := range r.order[n].keys {
			if at, ok := r.keys.Get(key); ok && at == r.order[n].at {
				r.keys.Delete(key)
			}
		}
	}
	if n == 0 {
		return
	}
	r.order = append(r.order[:0], r.order[n:]...)
	kept := r.wide[:0]
	for _, w := range r.wide {
		if w.at > oldest {
			kept = append(kept, w)
		}
	}
	r.wide = kept
}

// conflict reports whether anything in a read set was written after the revision at which it was read.
func (r *recent) conflict(readAt Revision, set *readSet) bool {
	if r.newest <= readAt {
		return false
	}
	if len(set.keys) <= r.keys.Len() {
		for key := range set.keys {
			if at, ok := r.keys.Get(key); ok && at > readAt {
				return true
			}
		}
	} else {
		found := false
		r.keys.Scan(func(key string, at Revision) bool {
			if at > readAt {
				_, found = set.keys[key]
			}
			return !found
		})
		if found {
			return true
		}
	}
	for _, s := range set.spans {
		found := false
		r.keys.Ascend(s.lo, func(key string, at Revision) bool {
			found = key < s.hi && at > readAt
			return key < s.hi && !found
		})
		if found {
			return true
		}
	}
	for _, w := range r.wide {
		if w.at > readAt && w.touches(set) {
			return true
		}
	}
	return false
}

// touches reports whether anything in a read set lies in the range.
func (w *wideWrite) touches(set *readSet) bool {
	for key := range set.keys {
		if w.lo <= key && key <= w.hi {
			return true
		}
	}
	for _, s := range set.spans {
		if s.lo <= w.hi && w.lo < s.hi {
			return true
		}
	}
	return false
}
