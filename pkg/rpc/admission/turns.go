package admission

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// turns hands out turns to work, to the queues of callers. It is start-time fair queueing (Goyal, Vin and Cheng, 1996): the virtual time goes on
// with what is served, each queue's next call starts where its last one ended, and the call that starts first is served first. So callers that
// have calls waiting are served in proportion to their weights, counted in cost, whatever the server's speed is and however it changes; a
// caller that comes back does not get what it left unused; and a large call is paid for by its own caller, which waits afterwards.
//
// While turns are free and nobody waits, a turn is two compare-and-swaps, and no lock is taken. It is safe for concurrent use.
type turns struct {
	// most is how many turns there are, and share how many of them one caller can have: the others find a turn however long the calls of one
	// take.
	most, share int64
	// patience is how long a call waits at most.
	patience time.Duration
	// now is the clock.
	now func() time.Time

	// running is how many turns are taken, and waiting how many calls wait. Where a call waits, a turn is given back under mu, and no call
	// takes one past those that wait.
	running, waiting atomic.Int64

	mu sync.Mutex
	// ready are the queues that may be given a turn, by the start of their first call.
	ready byStart
	// virtual is the virtual time: the start of the call that was served last.
	virtual float64
	// weights and cost are those of all queues with calls that wait.
	weights, cost int64
	pace          pace
}

func newTurns(most int, patience time.Duration, now func() time.Time) *turns {
	most = max(most, 1)
	return &turns{most: int64(most), share: int64(max(most/2, 1)), patience: patience, now: now}
}

// queue is the calls of one caller that wait in one lane. Its fields but running are guarded by the mu of its turns.
type queue struct {
	running atomic.Int64

	waiting []*waiter
	// cost is that of all that wait, and weight what it was when they began to.
	cost, weight int64
	// ended is where the last call that was served ended, in virtual time.
	ended float64
	// at is the place in ready; -1 where it is not there. The zero value is nowhere, see placed.
	at     int
	placed bool
}

// waiter is a call that waits.
type waiter struct {
	cost int64
	// given is closed once the call has its turn.
	given chan struct{}
	has   bool
}

// take waits for a turn, which give gives back. cost is 1 or more, and weight is the caller's. Errors: Exhausted with the time after which to
// try again; the context's.
func (t *turns) take(ctx context.Context, q *queue, weight, cost int64) error {
	if t.waiting.Load() == 0 && t.free(q) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	limit := t.patience
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, deadline.Sub(t.now()))
	}
	if wait := t.expectedLocked(q, weight); wait > limit {
		t.mu.Unlock()
		return overloaded(wait)
	}
	w := &waiter{cost: cost, given: make(chan struct{})}
	t.addLocked(q, w, weight)
	t.serveLocked()
	has := w.has
	t.mu.Unlock()
	if has {
		return nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.given:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.has { // it came at the same time
		return nil
	}
	wait := t.expectedLocked(q, weight)
	t.dropLocked(q, w)
	t.serveLocked()
	if err := ctx.Err(); err != nil {
		return err
	}
	return overloaded(max(wait, t.patience/2))
}

// free takes a turn if one is free, and one of the caller's.
func (t *turns) free(q *queue) bool {
	if !raise(&q.running, t.share) {
		return false
	}
	if raise(&t.running, t.most) {
		return true
	}
	q.running.Add(-1)
	return false
}

// raise counts one more, up to most.
func raise(n *atomic.Int64, most int64) bool {
	for {
		was := n.Load()
		if was >= most {
			return false
		}
		if n.CompareAndSwap(was, was+1) {
			return true
		}
	}
}

// give gives a turn back. Where calls wait, the turn becomes free and its caller is placed in one step: if the turn were free first, another call
// that is given back at that moment would hand it to somebody else, and a caller that has all of its share would lose it to one whose turn it is not.
func (t *turns) give(q *queue) {
	if t.waiting.Load() == 0 {
		t.freed(q)
		if t.waiting.Load() == 0 {
			return // a call that begins to wait now looks for free turns afterwards
		}
		t.mu.Lock()
	} else {
		t.mu.Lock()
		t.freed(q)
	}
	defer t.mu.Unlock()
	t.placeLocked(q) // it may have had all of its share
	t.serveLocked()
}

func (t *turns) freed(q *queue) {
	q.running.Add(-1)
	t.running.Add(-1)
}

// addLocked puts a call at the end of its caller's queue.
func (t *turns) addLocked(q *queue, w *waiter, weight int64) {
	if len(q.waiting) == 0 {
		q.weight = weight
		q.ended = max(q.ended, t.virtual)
		t.weights += weight
	}
	q.waiting = append(q.waiting, w)
	q.cost += w.cost
	t.cost += w.cost
	if t.waiting.Add(1) == 1 {
		t.pace.begin(t.now())
	}
	t.placeLocked(q)
}

// placeLocked has a queue be served, if a call waits there.
func (t *turns) placeLocked(q *queue) {
	if len(q.waiting) > 0 && !q.placed {
		q.placed = true
		heap.Push(&t.ready, q)
	}
}

// serveLocked gives the turns that are free to those whose turn it is.
func (t *turns) serveLocked() {
	for len(t.ready) > 0 {
		q := t.ready[0]
		if !raise(&q.running, t.share) {
			heap.Pop(&t.ready) // the one that gives back a turn of that caller's puts it back: it sees that a call waits
			q.placed = false
			continue
		}
		if !raise(&t.running, t.most) {
			q.running.Add(-1)
			return
		}
		w := q.waiting[0]
		t.virtual = max(t.virtual, q.ended)
		q.ended += float64(w.cost) / float64(q.weight)
		t.pace.served(t.now(), w.cost)
		t.removeLocked(q, 0)
		w.has = true
		close(w.given)
	}
}

// dropLocked takes out a call that waits no longer.
func (t *turns) dropLocked(q *queue, w *waiter) {
	for i := range q.waiting {
		if q.waiting[i] == w {
			t.removeLocked(q, i)
			return
		}
	}
}

func (t *turns) removeLocked(q *queue, i int) {
	w := q.waiting[i]
	if i == 0 {
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
	} else {
		q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
	}
	q.cost -= w.cost
	t.cost -= w.cost
	t.waiting.Add(-1)
	if len(q.waiting) == 0 {
		q.waiting = nil
		t.weights -= q.weight
		if q.placed {
			q.placed = false
			heap.Remove(&t.ready, q.at)
		}
		return
	}
	if q.placed {
		heap.Fix(&t.ready, q.at)
	}
}

// expected is expectedLocked for a call that comes now.
func (t *turns) expected(q *queue, weight int64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expectedLocked(q, weight)
}

// expectedLocked is how long a call that comes now would wait, by how fast calls were served lately: until the virtual time is where it would
// start, or until everything that waits is served, whichever is sooner. It is 0 where nobody waits, and where the pace is not known.
func (t *turns) expectedLocked(q *queue, weight int64) time.Duration {
	rate := t.pace.rate(t.now())
	if rate <= 0 || t.waiting.Load() == 0 {
		return 0
	}
	weights := t.weights
	if len(q.waiting) == 0 {
		weights += weight
	}
	start := max(q.ended, t.virtual) + float64(q.cost)/float64(weight)
	own := (start - t.virtual) * float64(weights)
	return time.Duration(min(own, float64(t.cost)) / rate * float64(time.Second))
}

// pace is how much cost was served in a second lately, while calls waited. The zero value knows nothing. The lock of the turns that it belongs
// to guards it.
type pace struct {
	// from is when counting began, and cost what was served since.
	from time.Time
	cost int64
	// last is the pace, as it was at lastAt.
	last   float64
	lastAt time.Time
}

// How long the pace is counted for at once, and how long it counts as lately.
const (
	paceSpan  = 50 * time.Millisecond
	paceStale = 2 * time.Second
)

// begin counts anew: calls begin to wait.
func (p *pace) begin(now time.Time) { p.from, p.cost = now, 0 }

// served counts what is served.
func (p *pace) served(now time.Time, cost int64) {
	p.cost += cost
	span := now.Sub(p.from)
	if span < paceSpan {
		return
	}
	measured := float64(p.cost) / span.Seconds()
	if p.rate(now) > 0 {
		measured = (p.last + measured) / 2
	}
	p.last, p.lastAt, p.from, p.cost = measured, now, now, 0
}

// rate is the pace; 0 where it is not known.
func (p *pace) rate(now time.Time) float64 {
	if now.Sub(p.lastAt) > paceStale {
		return 0
	}
	return p.last
}

// byStart is a heap of queues.
type byStart []*queue

// Len is heap.Interface's.
func (h *byStart) Len() int { return len(*h) }

// Less is heap.Interface's.
func (h *byStart) Less(i, j int) bool { return (*h)[i].ended < (*h)[j].ended }

// Swap is heap.Interface's.
func (h *byStart) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].at, all[j].at = i, j
}

// Push is heap.Interface's.
func (h *byStart) Push(x any) {
	q, _ := x.(*queue)
	q.at = len(*h)
	*h = append(*h, q)
}

// Pop is heap.Interface's.
func (h *byStart) Pop() any {
	last := len(*h) - 1
	q := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return q
}

// overloaded refuses a call that would wait for too long.
func overloaded(wait time.Duration) error {
	return refusal(authz.ReasonOverloaded, wait, "the server has too much to do; try again after the time that the status says, with back-off")
}
