package store

import (
	"container/list"
	"sync"
)

// leases are the revisions that somebody reads at: nothing that they show is collected, and what was
// written after them is remembered for transactions.
type leases struct {
	mu sync.Mutex
	// transactions are the leases of transactions under way, in the order in which they began, so that the
	// first has the lowest revision.
	transactions list.List
	// readers count the other leases by revision.
	readers map[Revision]int
	// horizon is the lowest revision that can be read.
	horizon Revision
}

// lease is one hold on a revision.
type lease struct {
	at      Revision
	release func()
}

// takeHead leases the head for a transaction.
func (l *leases) takeHead(s *Store) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := s.head.Load().at
	e := l.transactions.PushBack(at)
	var once sync.Once
	return &lease{at: at, release: func() {
		once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.transactions.Remove(e)
		})
	}}
}

// take leases a revision for a reader; ok is false if it was collected.
func (l *leases) take(at Revision) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at < l.horizon {
		return false
	}
	l.readers[at]++
	return true
}

// give gives back what take took.
func (l *leases) give(at Revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readers[at]--; l.readers[at] <= 0 {
		delete(l.readers, at)
	}
}

// oldestOr returns the lowest revision that a transaction under way reads at, or otherwise if there is
// none.
func (l *leases) oldestOr(otherwise Revision) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.transactions.Front(); first != nil {
		at, _ := first.Value.(Revision)
		return min(at, otherwise)
	}
	return otherwise
}

// raise raises the horizon towards a revision, as far as nobody reads below, and returns it.
func (l *leases) raise(to Revision) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := range l.readers {
		to = min(to, at)
	}
	if first := l.transactions.Front(); first != nil {
		at, _ := first.Value.(Revision)
		to = min(to, at)
	}
	l.horizon = max(l.horizon, to)
	return l.horizon
}

// lowest returns the horizon.
func (l *leases) lowest() Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.horizon
}
