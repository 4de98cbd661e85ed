package store

import (
	"container/list"
	"math"
	"sync"
	"time"
)

// leases are the revisions that somebody reads at: nothing that they show is collected, and what was
// written after them is remembered for transactions.
type leases struct {
	mu sync.Mutex
	// transactions are the pins of transactions under way, in the order in which they began, so that the
	// first has the lowest revision.
	transactions list.List
	// readers count the other leases by what they pin.
	readers map[pin]int
	// horizon is the lowest revision that can be read.
	horizon Revision
}

// pin is what a lease keeps from being collected: what the revision shows, and of that also what expires
// only after the time, in seconds since 1970.
type pin struct {
	at  Revision
	now int64
}

// lease is one hold on a revision.
type lease struct {
	at      Revision
	now     time.Time
	release func()
}

// takeHead leases the head for a transaction.
func (l *leases) takeHead(s *Store) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, now := s.head.Load().at, s.config.Now()
	e := l.transactions.PushBack(pin{at, now.Unix()})
	var once sync.Once
	return &lease{at: at, now: now, release: func() {
		once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.transactions.Remove(e)
		})
	}}
}

// take leases a revision for a reader; ok is false if it was collected.
func (l *leases) take(p pin) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.at < l.horizon {
		return false
	}
	l.readers[p]++
	return true
}

// give gives back what take took.
func (l *leases) give(p pin) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readers[p]--; l.readers[p] <= 0 {
		delete(l.readers, p)
	}
}

// earliest returns when the first of those who read began, in seconds since 1970; if nobody reads, a time
// after all others.
func (l *leases) earliest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := int64(math.MaxInt64)
	for p := range l.readers {
		first = min(first, p.now)
	}
	for e := l.transactions.Front(); e != nil; e = e.Next() {
		if p, ok := e.Value.(pin); ok {
			first = min(first, p.now)
		}
	}
	return first
}

// oldestOr returns the lowest revision that a transaction under way reads at, or otherwise if there is
// none.
func (l *leases) oldestOr(otherwise Revision) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.transactions.Front(); first != nil {
		p, _ := first.Value.(pin)
		return min(p.at, otherwise)
	}
	return otherwise
}

// raise raises the horizon towards a revision, as far as nobody reads below, and returns it.
func (l *leases) raise(to Revision) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.readers {
		to = min(to, p.at)
	}
	if first := l.transactions.Front(); first != nil {
		p, _ := first.Value.(pin)
		to = min(to, p.at)
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
