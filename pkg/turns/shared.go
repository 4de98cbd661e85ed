package turns

import (
	"context"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Shared lets callers who ask at the same time share takings of something that changes, such as the head of an engine, because each taking costs
// something.
//
// The invariant: a caller gets the outcome of a taking that started after it asked. So the outcome follows every write that was
// acknowledged before, to any client. One taking is under way at a time; callers who ask meanwhile all wait for the next one, which
// starts when that one ends.
//
// singleflight would be wrong here: it lets callers join what is under way, whose outcome may have been fixed before a write that was
// acknowledged while it was on its way back. Nor is an outcome kept for callers who come after it, for however short a time.
//
// A taking belongs to none of its callers: it has a context of its own, which ends after a limit or once every caller has left, so that
// one that hangs holds nobody up longer than somebody waits for it. The zero value is ready to use, and safe for concurrent use.
type Shared[T any] struct {
	mu sync.Mutex
	// running says that a goroutine is working through the takings.
	running bool
	// next is the taking that has not started, which is what newcomers join; nil if nobody waits for one.
	next *taking[T]
}

// taking is one taking.
type taking[T any] struct {
	take  func(context.Context) (T, error)
	limit time.Duration
	// waiting is how many callers have not left, and cancel ends the taking's context, once it has
	// started. Both are guarded by the lock of its Shared.
	waiting int
	cancel  context.CancelFunc
	// done is closed once outcome and err are set; until then they are the running goroutine's.
	done    chan struct{}
	outcome T
	err     error
}

// Get returns the outcome of a taking that starts from now on: of take, or of that of another caller who waits for the same one. It returns as soon
// as ctx ends, with its error. A taking lasts as long as the longest limit of the callers who wait for it when it starts.
func (s *Shared[T]) Get(ctx context.Context, limit time.Duration, take func(context.Context) (T, error)) (T, error) {
	t := s.join(limit, take)
	select {
	case <-t.done:
		return t.outcome, t.err
	case <-ctx.Done():
		s.leave(t)
		var none T
		return none, ctx.Err()
	}
}

// Waiting is how many callers wait for a taking that has not started.
func (s *Shared[T]) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		return 0
	}
	return s.next.waiting
}

// join adds a caller to the next taking and sees to it that it will start.
func (s *Shared[T]) join(limit time.Duration, take func(context.Context) (T, error)) *taking[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &taking[T]{take: take, limit: limit, done: make(chan struct{})}
	}
	s.next.waiting++
	s.next.limit = max(s.next.limit, limit)
	if !s.running {
		s.running = true
		go s.run()
	}
	return s.next
}

// leave takes a caller away from a taking. One that nobody waits for does not start, or is cancelled.
func (s *Shared[T]) leave(t *taking[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.waiting--
	switch {
	case t.waiting > 0:
	case t == s.next:
		s.next = nil
	default:
		t.cancel()
	}
}

// run works through the takings, one after the other, until nobody waits for one.
func (s *Shared[T]) run() {
	for {
		t, ctx := s.start()
		if t == nil {
			return
		}
		t.run(ctx)
		t.cancel()
	}
}

// start returns the next taking, which nobody can join from here on, and its context; nil if there is
// none.
func (s *Shared[T]) start() (*taking[T], context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.next
	s.next, s.running = nil, t != nil
	if t == nil {
		return nil, nil
	}
	var ctx context.Context
	ctx, t.cancel = context.WithTimeout(context.Background(), t.limit) //nolint:gosec // run calls it
	return t, ctx
}

// run takes. A panic becomes an error, because no call stands above to recover it.
func (t *taking[T]) run(ctx context.Context) {
	defer close(t.done)
	defer authz.Recover("turns.Shared", &t.err)
	t.outcome, t.err = t.take(ctx)
}
