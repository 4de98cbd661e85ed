package store

import (
	"bytes"
	"errors"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/cockroachdb/pebble/v2"
)

// A view is a state of the store to be read: that at a revision, with a transaction's own writes over it.
// A view without a transaction is safe for concurrent use; one of a transaction is guarded by it.
type view struct {
	store *Store
	// at is the revision. Somebody keeps it from being collected for as long as the view is used.
	at Revision
	// now is when relationships expire.
	now time.Time
	// own are the writes of the view's transaction, reads is what it has read, and lease what keeps its revision; nil
	// outside of one.
	own   *writes
	reads *readSet
	lease *lease
	// points is an open iterator for get; nil means that there is none yet.
	points *iterator
}

// A span is a range of keys without versions: from lo up to, not including, hi.
type span struct {
	lo, hi []byte
	// ordered says that the span's rows come in the order that the query wants, although the query's spans
	// together do not.
	ordered bool
}

// errStop ends a walk early, without an error.
var errStop = errors.New("stop")

// visitor is called with each live row or record: its key without a version, the revision that it is from
// (0 if it is the transaction's own) and its value. Both slices are valid until it returns.
type visitor func(key []byte, from Revision, value []byte) error

// walk visits what is live in the spans, in their order and then in that of the keys. Rows that have expired at a moment are
// left out; at the zero moment none have. It ends early, with nil, if visit returns errStop.
func (v *view) walk(spans []span, moment time.Time, visit visitor) (err error) {
	if len(spans) == 0 {
		return nil
	}
	if err := v.store.enter(); err != nil {
		return err
	}
	defer v.store.leave()
	iter, err := v.store.iterator(v.at)
	if err != nil {
		return v.store.readFailure(err)
	}
	defer func() {
		if given := v.store.giveBack(iter); err == nil && given != nil {
			err = v.store.readFailure(given)
		}
	}()
	if err := v.stands(); err != nil {
		return err
	}
	base := rows{store: v.store, iter: iter.Iterator, passage: v.store.voids.passage(v.at, moment)}
	for _, s := range spans {
		if err := v.walkSpan(&base, s, visit); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// stands refuses what may have been collected by the time that an iterator was opened.
func (v *view) stands() error {
	if v.lease != nil {
		return v.store.checkOpen(v.lease)
	}
	// What expires is kept for who began to read before it did, for the length of the window.
	old := !v.now.IsZero() && v.store.config.Now().Sub(v.now) > max(v.store.config.Retention+v.store.readGrace(), readerKept)
	if old || v.at < v.store.leases.lowest() {
		return datastore.NewInvalidRevisionErr(v.at, datastore.RevisionStale)
	}
	return nil
}

// walkSpan visits one span: the rows of the store merged with the transaction's own, which win.
func (v *view) walkSpan(base *rows, s span, visit visitor) error {
	own := v.own.between(s)
	base.begin(s)
	for {
		if base.err != nil {
			return v.store.readFailure(base.err)
		}
		if v.store.isClosed() {
			return ErrClosed
		}
		var order int
		switch {
		case !base.valid && len(own) == 0:
			v.reads.span(s.lo, s.hi)
			return nil
		case !base.valid:
			order = 1
		case len(own) == 0:
			order = -1
		default:
			order = bytes.Compare(base.key, own[0].key)
		}
		key, from, value := base.key, base.from, base.value
		over := false
		if order >= 0 {
			key, from, value = own[0].key, 0, own[0].value
			own = own[1:]
			var err error
			if over, _, err = isOver(value, base.passage.moment); err != nil {
				return err
			}
		}
		if !over {
			if err := visit(key, from, value); err != nil {
				v.reads.span(s.lo, append(bytes.Clone(key), terminator))
				return err
			}
		}
		if order <= 0 {
			base.next()
		}
	}
}

// get returns the row or record under a key without version. found is false if it is not live. The value
// is valid until the next get.
func (v *view) get(key []byte) (value []byte, from Revision, found bool, err error) {
	value, from, found, err = v.peek(key)
	v.reads.point(key)
	return value, from, found, err
}

// peek is get for a key that is written next: what a transaction writes it has read, without a note.
func (v *view) peek(key []byte) (value []byte, from Revision, found bool, err error) {
	if own, ok := v.own.get(key); ok {
		return own, 0, !isGone(own), nil
	}
	return v.getBase(key)
}

// exists is peek for what would be created: a row that has expired since it was written is replaced, as if it were gone
// already. One that had expired when it was written exists until it is collected: SpiceDB's suite for datastores demands it.
func (v *view) exists(key []byte) (there []byte, found, exists bool, err error) {
	there, from, found, err := v.peek(key)
	if err != nil || !found {
		return nil, false, false, err
	}
	at, expires, err := expirationOf(there)
	if err != nil {
		return nil, false, false, err
	}
	return there, true, !expires || !v.hasExpired(&at) || !at.After(from.Time()), nil
}

// getBase is get without the transaction's own writes.
func (v *view) getBase(key []byte) (value []byte, from Revision, found bool, err error) {
	if err := v.store.enter(); err != nil {
		return nil, 0, false, err
	}
	defer v.store.leave()
	iter := v.points
	if iter == nil {
		opened, err := v.store.iterator(v.at)
		if err != nil {
			return nil, 0, false, v.store.readFailure(err)
		}
		iter = &opened
		iter.SetBounds(nil, nil)
	}
	if v.reads != nil {
		if err := v.keep(iter); err != nil {
			return nil, 0, false, err
		}
	} else {
		defer func() {
			value = bytes.Clone(value)
			if given := v.store.giveBack(*iter); err == nil && given != nil {
				err = v.store.readFailure(given)
			}
		}()
	}
	if err := v.stands(); err != nil {
		return nil, 0, false, err
	}
	var buf [256]byte
	if !iter.SeekPrefixGE(appendVersion(append(buf[:0], key...), v.at)) {
		if err := iter.Error(); err != nil {
			return nil, 0, false, v.store.readFailure(err)
		}
		return nil, 0, false, nil
	}
	from, ok := versionOf(iter.Key(), len(key))
	if !ok {
		return nil, 0, false, damaged("a key without its version: %q", iter.Key())
	}
	if value, err = iter.ValueAndErr(); err != nil {
		return nil, 0, false, v.store.readFailure(err)
	}
	return value, from, !isGone(value), nil
}

// keep keeps an iterator for the next get, and the database open, until close.
func (v *view) keep(points *iterator) error {
	if v.points == points {
		return nil
	}
	if err := v.store.enter(); err != nil {
		return errors.Join(err, v.store.giveBack(*points))
	}
	v.points = points
	return nil
}

// close releases what the view of a transaction holds.
func (v *view) close() {
	if v.points == nil {
		return
	}
	// Whatever is wrong was said by the read that it belongs to.
	_ = v.store.giveBack(*v.points)
	v.points = nil
	v.store.leave()
}

// rows walks the rows of the database that live at a revision, as of a moment.
type rows struct {
	store   *Store
	iter    *pebble.Iterator
	passage passage

	// hi is the end of the span.
	hi    []byte
	valid bool
	err   error
	// key is the row's key without its version, from is the revision that it is from, value its value; all
	// are valid until the next move.
	key   []byte
	from  Revision
	value []byte

	target []byte
}

// begin moves to the first row of a span.
func (r *rows) begin(s span) {
	r.iter.SetBounds(s.lo, s.hi)
	r.hi, r.passage.met = s.hi, 0
	r.settle(r.iter.SeekGE(s.lo))
}

// next moves to the row after this one.
func (r *rows) next() { r.settle(r.iter.NextPrefix()) }

// settle moves forward from where the iterator is to the first row that lives.
func (r *rows) settle(valid bool) {
	r.valid, r.err = false, nil
	for valid && !r.store.isClosed() {
		key := r.iter.Key()
		n := split(key)
		from, ok := versionOf(key, n)
		if !ok {
			r.err = damaged("a key without its version: %q", key)
			return
		}
		if from > r.passage.at {
			r.target = appendVersion(append(r.target[:0], key[:n]...), r.passage.at)
			valid = r.iter.SeekGE(r.target)
			continue
		}
		var (
			over    bool
			expired time.Time
		)
		if r.value, r.err = r.iter.ValueAndErr(); r.err == nil {
			over, expired, r.err = isOver(r.value, r.passage.moment)
		}
		switch {
		case r.err != nil:
			return
		case !over:
			r.key, r.from, r.valid = append(r.key[:0], key[:n]...), from, true
			r.passage.end(r.key)
			return
		}
		valid = r.passage.pass(r.iter, key[:n], from, expired)
	}
	if r.err = r.iter.Error(); r.err == nil && !valid {
		r.passage.end(r.hi)
	}
}
