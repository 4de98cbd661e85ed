package store

import (
	"container/list"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// leases are the revisions that somebody reads at: nothing that they show is collected, and what was
// written after them is remembered for transactions. Nobody holds one for ever:
//
//	snapshots, backups   until they are closed
//	transactions         until they end, or were open for too long; then they cannot be committed any more
//	readers              for readerKept. SpiceDB does not close them, and when Go's collector finds that nobody has one
//	                     any more is no measure: it may be set to run only when memory is short. After that they
//	                     read as long as their revision is above the horizon, which it is as long as it lies in
//	                     the window; then they are refused.
//
// What is refused is found after the iterator was opened: an iterator goes on to see what was there when it was opened,
// and deletions come after the horizon was raised.
type leases struct {
	mu sync.Mutex
	// transactions are the leases of transactions under way, in the order in which they began, so that the
	// first has the lowest revision.
	transactions list.List
	// closed count the leases of those that are closed, by what they pin.
	closed map[pin]int
	// recent is what the readers of the last seconds pin.
	recent [readerSlots]readerSlot
	// horizon is the lowest revision that can be read.
	horizon atomic.Uint64
}

// readerKept is for how long a reader keeps what it can see from being collected. It is counted in slots, so it may
// be longer by one.
const (
	readerKept  = time.Minute
	slotLength  = 10 * time.Second
	readerSlots = int(readerKept/slotLength) + 2
)

// A transaction may be open for as long as the window, but for at least and at most so long.
const (
	minOpen = time.Minute
	maxOpen = time.Hour
)

// readerSlot is what the readers that were made in some seconds pin.
type readerSlot struct {
	// number counts slots since 1970; used says that there was a reader.
	number int64
	used   bool
	pin    pin
}

// pin is what a lease keeps from being collected: what the revision shows, and of that also what expires
// only after the time, in seconds since 1970.
type pin struct {
	at  Revision
	now int64
}

// lease is a transaction's hold on a revision.
type lease struct {
	at      Revision
	now     time.Time
	release func()
	// lapsed says that it was open for too long, and nothing is kept for it any more.
	lapsed atomic.Bool
}

// takeHead leases the head for a transaction.
func (l *leases) takeHead(s *Store) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := &lease{at: s.head.Load().at, now: s.config.Now()}
	e := l.transactions.PushBack(taken)
	var once sync.Once
	taken.release = func() {
		once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.transactions.Remove(e) // nothing, if it has lapsed
		})
	}
	return taken
}

// maxOpen is how long a transaction may be open.
func (s *Store) maxOpen() time.Duration { return max(min(s.config.Retention, maxOpen), minOpen) }

// checkOpen refuses a transaction that was open for too long.
func (s *Store) checkOpen(l *lease) error {
	if l.lapsed.Load() || s.config.Now().Sub(l.now) > s.maxOpen() {
		return &refused{code: codes.ResourceExhausted, reason: authz.ReasonTooLarge, message: "the transaction was open for longer than " + s.maxOpen().String() +
			", and nothing of it was written; write in several transactions"}
	}
	return nil
}

// take leases a revision until give; ok is false if it was collected.
func (l *leases) take(p pin) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.at < l.lowest() {
		return false
	}
	l.closed[p]++
	return true
}

// give gives back what take took.
func (l *leases) give(p pin) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed[p]--; l.closed[p] <= 0 {
		delete(l.closed, p)
	}
}

// grace leases a revision for a reader that begins now; ok is false if it was collected.
func (l *leases) grace(p pin) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.at < l.lowest() {
		return false
	}
	number := slotOf(p.now)
	slot := &l.recent[number%int64(readerSlots)]
	if !slot.used || slot.number != number {
		*slot = readerSlot{number, true, p}
	}
	slot.pin = pin{min(slot.pin.at, p.at), min(slot.pin.now, p.now)}
	return true
}

func slotOf(seconds int64) int64 { return max(0, seconds) / int64(slotLength/time.Second) }

// each calls fn with every pin that lasts at a moment, and ends the others: fn is called under the lock.
func (l *leases) each(now time.Time, open time.Duration, fn func(pin)) {
	for p := range l.closed {
		fn(p)
	}
	for e := l.transactions.Front(); e != nil; {
		t, next := e.Value.(*lease), e.Next() //nolint:forcetypeassert,errcheck // nothing else is in it
		if now.Sub(t.now) > open {
			t.lapsed.Store(true)
			l.transactions.Remove(e)
		} else {
			fn(pin{t.at, t.now.Unix()})
		}
		e = next
	}
	// One of a time to come is there where the clock was set back.
	last := slotOf(now.Unix())
	for i := range l.recent {
		if slot := &l.recent[i]; slot.used && slot.number <= last && slot.number >= last-int64(readerKept/slotLength) {
			fn(slot.pin)
		}
	}
}

// earliest returns when the first of the reads under way began, in seconds since 1970; if there is none, a time
// after all others.
func (l *leases) earliest(now time.Time, open time.Duration) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := int64(math.MaxInt64)
	l.each(now, open, func(p pin) { first = min(first, p.now) })
	return first
}

// oldestOr returns the lowest revision that a transaction under way reads at, or otherwise if there is
// none.
func (l *leases) oldestOr(otherwise Revision) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.transactions.Front(); first != nil {
		t, _ := first.Value.(*lease)
		return min(t.at, otherwise)
	}
	return otherwise
}

// raise raises the horizon towards a revision, as far as nobody reads below, and returns it.
func (l *leases) raise(to Revision, now time.Time, open time.Duration) Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.each(now, open, func(p pin) { to = min(to, p.at) })
	l.horizon.Store(max(l.horizon.Load(), uint64(to)))
	return l.lowest()
}

// lowest returns the horizon.
func (l *leases) lowest() Revision { return Revision(l.horizon.Load()) }
