package store

import (
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// iterators keeps iterators of the database that nobody uses, because opening one costs more than a short
// read. An iterator sees the database as it was when it was opened: it serves every revision that was the
// head by then, or earlier. One that does not see the head any more is not kept, since it would keep files
// from being deleted.
type iterators struct {
	mu     sync.Mutex
	idle   []iterator
	closed bool
}

// iterator is an iterator with the head that it surely sees.
type iterator struct {
	*pebble.Iterator
	sees Revision
}

// maxIdle is how many iterators are kept.
const maxIdle = 64

// iterator returns an iterator that sees a revision, without bounds. It is given back with giveBack.
func (s *Store) iterator(at Revision) (iterator, error) {
	if it, ok := s.iterators.take(at); ok {
		return it, nil
	}
	it := iterator{sees: s.head.Load().at}
	var err error
	// What is looked up by its whole key is often not there: that is what filters are for.
	it.Iterator, err = s.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	return it, err
}

// giveBack takes an iterator back, and returns what went wrong while it was used.
func (s *Store) giveBack(it iterator) error {
	if err := it.Error(); err != nil {
		return errors.Join(err, it.Close())
	}
	s.iterators.mu.Lock()
	if it.sees == s.head.Load().at && !s.iterators.closed && len(s.iterators.idle) < maxIdle {
		defer s.iterators.mu.Unlock()
		s.iterators.idle = append(s.iterators.idle, it)
		return nil
	}
	s.iterators.mu.Unlock()
	return it.Close()
}

// take takes an idle iterator that sees a revision.
func (i *iterators) take(at Revision) (iterator, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := len(i.idle)
	if n == 0 || i.idle[n-1].sees < at {
		i.dropLocked()
		return iterator{}, false
	}
	it := i.idle[n-1]
	i.idle = i.idle[:n-1]
	return it, true
}

// drop closes what is idle and does not see a revision.
func (i *iterators) drop(before Revision) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n := len(i.idle); n > 0 && i.idle[n-1].sees < before {
		i.dropLocked()
	}
}

func (i *iterators) dropLocked() {
	for _, it := range i.idle {
		_ = it.Close() // what was wrong with it was said when it was used
	}
	i.idle = i.idle[:0]
}

// close closes what is idle, and keeps nothing from then on.
func (i *iterators) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.dropLocked()
}
