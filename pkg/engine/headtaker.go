package engine

import (
	"context"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// headTimeout bounds a shared taking of the head: as long as a call waits for the engine whose caller
// sets no deadline.
const headTimeout = 10 * time.Second

// head is the head revision and the schema, as one taking found them.
type head struct {
	token authz.Revision
	model model
}

// headTaker lets concurrent callers share takings of the head, since each costs the engine a write.
//
// The invariant: whoever asks gets the outcome of a taking that started after they asked. So it follows
// every write that was acknowledged before, to whomever. One taking is under way at a time; those who
// ask meanwhile all wait for the next one, which starts when it ends.
//
// singleflight would be wrong here: it lets callers join what is under way, whose revision may have been
// fixed before a write that was acknowledged while it was on its way back. Nor is an outcome kept for
// those who come after it, for however short a time.
//
// A taking belongs to none of its callers: it has a context of its own, which ends after headTimeout or
// once every caller has left, so that one that hangs holds nobody up longer than somebody waits for it.
// The zero value is ready to use.
type headTaker struct {
	mu sync.Mutex
	// running says that a goroutine is working through the takings.
	running bool
	// next is the taking that has not started, which is what newcomers join; nil if nobody waits for one.
	next *taking
}

// taking is one taking of the head.
type taking struct {
	take func(context.Context) (head, error)
	// waiting is how many callers have not left, and cancel ends the taking's context, once it has
	// started. Both are guarded by the headTaker's lock.
	waiting int
	cancel  context.CancelFunc
	// done is closed once head and err are set; until then they are the running goroutine's.
	done chan struct{}
	head head
	err  error
}

// get returns the outcome of a taking that starts from now on: of take, or of that of another caller who
// waits for the same one. It returns as soon as ctx ends.
func (h *headTaker) get(ctx context.Context, take func(context.Context) (head, error)) (head, error) {
	t := h.join(take) //nolint:contextcheck // a taking belongs to none of its callers
	select {
	case <-t.done:
		return t.head, t.err
	case <-ctx.Done():
		h.leave(t)
		return head{}, Failure("engine.Snapshot", ctx.Err())
	}
}

// join adds a caller to the next taking and sees to it that it will start.
func (h *headTaker) join(take func(context.Context) (head, error)) *taking {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = &taking{take: take, done: make(chan struct{})}
	}
	h.next.waiting++
	if !h.running {
		h.running = true
		go h.run()
	}
	return h.next
}

// leave takes a caller away from a taking. One that nobody waits for does not start, or is cancelled.
func (h *headTaker) leave(t *taking) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.waiting--
	switch {
	case t.waiting > 0:
	case t == h.next:
		h.next = nil
	default:
		t.cancel()
	}
}

// run works through the takings, one after the other, until nobody waits for one.
func (h *headTaker) run() {
	for {
		t, ctx := h.start()
		if t == nil {
			return
		}
		t.run(ctx)
		t.cancel()
	}
}

// start returns the next taking, which nobody can join from here on, and its context; nil if there is
// none.
func (h *headTaker) start() (*taking, context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.next
	h.next, h.running = nil, t != nil
	if t == nil {
		return nil, nil
	}
	var ctx context.Context
	ctx, t.cancel = context.WithTimeout(context.Background(), headTimeout)
	return t, ctx
}

// run takes the head. A panic becomes an error, because no call stands above to recover it.
func (t *taking) run(ctx context.Context) {
	defer close(t.done)
	defer authz.Recover("engine.Snapshot", &t.err)
	t.head, t.err = t.take(ctx)
}
