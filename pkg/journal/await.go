package journal

import (
	"context"
	"sync/atomic"
)

// news tells the readers that wait that records were written. It costs the writer one look where no reader waits. The zero value is ready.
// It is safe for concurrent use.
type news struct{ waiting atomic.Pointer[chan struct{}] }

// tell tells all that wait by now.
func (n *news) tell() {
	if n.waiting.Load() == nil {
		return
	}
	if c := n.waiting.Swap(nil); c != nil {
		close(*c)
	}
}

// next is closed at the next tell.
func (n *news) next() <-chan struct{} {
	for {
		if c := n.waiting.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		if n.waiting.CompareAndSwap(nil, &c) {
			return c
		}
	}
}

// await waits until more than so many records are written, or ctx ends.
func (j *Journal) await(ctx context.Context, than uint64) error {
	for {
		next := j.news.next() // before looking, so that nothing is missed
		if j.Written() > than {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // it is what is asked for
		}
	}
}
