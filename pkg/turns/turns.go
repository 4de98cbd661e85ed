package turns

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

const (
	// maxWaiting is how many calls of one caller wait at a set. Another one is refused at once.
	maxWaiting = 1024
	// retryAfter is the time after which a refused call is to be made again.
	retryAfter = time.Second
	// maxIdle is how many callers are remembered before those that have nothing and wait for nothing are forgotten.
	maxIdle = 1024
)

// Set hands out turns. It is safe for concurrent use.
type Set struct {
	of string
	// most is how many one caller can have, and apart how many there are besides, for callers that have none.
	most, apart int64

	mu sync.Mutex
	// free is how many nobody has.
	free  int64
	known map[string]*share
	// line are the callers that wait, in no order, and clock counts what happened to their places in it.
	line  []*share
	clock uint64
}

// share is what one caller has of a set.
type share struct {
	held    int64
	waiting []*waiter
	// since is when the caller was served, or began to wait, whichever is later.
	since uint64
}

// waiter is a call that waits.
type waiter struct {
	amount int64
	// given is closed once the call has its turns.
	given chan struct{}
	has   bool
}

// New returns a set of which one caller can have so many turns, at least 1. There are a quarter more, and at least one more, which callers get that
// have none. of says in the plural what there are few of, for the message of a refusal: "lookups".
func New(of string, most int64) *Set {
	most = max(most, 1)
	apart := max(most/4, 1)
	return &Set{of: of, most: most, apart: apart, free: most + apart, known: map[string]*share{}}
}

// Most is how many turns one caller can have.
func (s *Set) Most() int64 { return s.most }

// All is how many turns there are.
func (s *Set) All() int64 { return s.most + s.apart }

// Free is how many turns nobody has now.
func (s *Set) Free() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}

// Turn is what one call has taken. The nil Turn has nothing.
type Turn struct {
	set    *Set
	share  *share
	amount int64
	given  bool
}

// Take takes so many turns for the caller of ctx, or Most where they are more, and waits for them until ctx ends or patience is over; 0 does not
// wait. Give gives them back. Errors: that of ctx; Exhausted with the reason BUSY and the time after which to try again.
func (s *Set) Take(ctx context.Context, amount int64, patience time.Duration) (*Turn, error) {
	amount = min(max(amount, 1), s.most)
	s.mu.Lock()
	own := s.shareLocked(authz.CallerOf(ctx))
	turn := &Turn{set: s, share: own, amount: amount}
	if len(s.line) == 0 && s.mayLocked(own, amount) {
		s.takeLocked(own, amount)
		s.mu.Unlock()
		return turn, nil
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	if len(own.waiting) >= maxWaiting {
		s.mu.Unlock()
		return nil, s.busy()
	}
	w := &waiter{amount: amount, given: make(chan struct{})}
	s.waitLocked(own, w)
	s.serveLocked()
	if !w.has && patience <= 0 {
		s.leaveLocked(own, w)
		s.mu.Unlock()
		return nil, s.busy()
	}
	has := w.has
	s.mu.Unlock()
	if has {
		return turn, nil
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-w.given:
		return turn, nil
	case <-over.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.has { // it came at the same time
		return turn, nil
	}
	s.leaveLocked(own, w)
	s.serveLocked() // it may have kept those behind it waiting
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, s.busy()
}

// Give gives back what was taken, once: giving back again does nothing.
func (t *Turn) Give() {
	if t == nil {
		return
	}
	s := t.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.given {
		return
	}
	t.given = true
	t.share.held -= t.amount
	s.free += t.amount
	s.serveLocked()
}

// busy is the error of a call that did not get its turn.
func (s *Set) busy() error {
	err := authz.Errorf(authz.Exhausted, authz.ReasonBusy,
		"too many %s are under way: the server makes %d at once, and %d of one caller; try again", s.of, s.All(), s.most)
	err.RetryAfter = retryAfter
	return err
}

// shareLocked returns a caller's share.
func (s *Set) shareLocked(caller string) *share {
	own, found := s.known[caller]
	if !found {
		if len(s.known) >= maxIdle {
			for name, one := range s.known {
				if one.held == 0 && len(one.waiting) == 0 {
					delete(s.known, name)
				}
			}
		}
		own = &share{}
		s.known[caller] = own
	}
	return own
}

// mayLocked reports whether a caller may have so many turns now.
func (s *Set) mayLocked(own *share, amount int64) bool {
	if own.held == 0 {
		return amount <= s.free
	}
	return amount <= s.free-s.apart
}

func (s *Set) takeLocked(own *share, amount int64) {
	own.held += amount
	s.free -= amount
}

// waitLocked puts a call at the end of its caller's.
func (s *Set) waitLocked(own *share, w *waiter) {
	if len(own.waiting) == 0 {
		s.placeLocked(own)
		s.line = append(s.line, own)
	}
	own.waiting = append(own.waiting, w)
}

// placeLocked puts a caller behind those that have as many turns.
func (s *Set) placeLocked(own *share) {
	s.clock++
	own.since = s.clock
}

// leaveLocked takes out a call that waits no longer.
func (s *Set) leaveLocked(own *share, w *waiter) {
	at := slices.Index(own.waiting, w)
	if at < 0 {
		return
	}
	own.waiting = slices.Delete(own.waiting, at, at+1)
	if len(own.waiting) == 0 {
		own.waiting = nil
		at := slices.Index(s.line, own)
		s.line = slices.Delete(s.line, at, at+1)
	}
}

// serveLocked gives the turns that are free to those whose turn it is. If the first in line needs more than are free, nobody behind it is served: one
// that needs many would never be.
func (s *Set) serveLocked() {
	for len(s.line) > 0 {
		first := s.line[0]
		for _, other := range s.line[1:] {
			if other.held < first.held || other.held == first.held && other.since < first.since {
				first = other
			}
		}
		w := first.waiting[0]
		if !s.mayLocked(first, w.amount) {
			return
		}
		s.takeLocked(first, w.amount)
		s.placeLocked(first)
		s.leaveLocked(first, w)
		w.has = true
		close(w.given)
	}
}
