package rpc

import (
	"context"
	"sync"
	"time"
)

// bounded is a context that ends at a moment. Its timer is only set once somebody waits for it: most calls are over
// before anybody does, and look at Err alone. The moment is not after the deadline of the context that it is made of.
type bounded struct {
	context.Context //nolint:containedctx // it is a context itself
	until           time.Time

	mu sync.Mutex
	// timed is what is waited for, and stop ends it; nil as long as nobody waits.
	timed context.Context //nolint:containedctx // it is a context
	stop  context.CancelFunc
	ended bool
}

// end is the context's CancelFunc.
func (b *bounded) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.stop != nil {
		b.stop()
	}
}

// wait returns what is waited for.
func (b *bounded) wait() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timed == nil {
		b.timed, b.stop = context.WithDeadline(b.Context, b.until)
		if b.ended {
			b.stop()
		}
	}
	return b.timed
}

// Deadline is context.Context's.
func (b *bounded) Deadline() (time.Time, bool) { return b.until, true }

// Done is context.Context's.
func (b *bounded) Done() <-chan struct{} { return b.wait().Done() }

// Err is context.Context's.
func (b *bounded) Err() error {
	b.mu.Lock()
	open := b.timed == nil && !b.ended
	b.mu.Unlock()
	if open && b.Context.Err() == nil && time.Now().Before(b.until) {
		return nil
	}
	return b.wait().Err()
}

// Value is context.Context's. Contexts that are made of this one find by it what is waited for.
func (b *bounded) Value(key any) any {
	b.mu.Lock()
	timed := b.timed
	b.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return b.Context.Value(key)
}
