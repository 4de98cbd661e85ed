package rpc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestBounded: a bounded context ends when one of the context package would, and for the same reason, whether somebody
// waits for it, asks it, or has made another one of it.
func TestBounded(t *testing.T) {
	t.Parallel()
	type key struct{}
	for _, waits := range []bool{false, true} {
		for name, test := range map[string]struct {
			ends func(parent context.CancelFunc, b *bounded)
			want error
		}{
			"in time":               {func(context.CancelFunc, *bounded) { <-time.After(time.Minute - 1) }, nil},
			"at the moment":         {func(context.CancelFunc, *bounded) { <-time.After(time.Minute) }, context.DeadlineExceeded},
			"with what it is of":    {func(parent context.CancelFunc, _ *bounded) { parent() }, context.Canceled},
			"when the call is over": {func(_ context.CancelFunc, b *bounded) { b.end() }, context.Canceled},
		} {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, 1))
				defer cancel()
				b := &bounded{Context: parent, until: time.Now().Add(time.Minute)}
				defer b.end()
				var child context.Context
				if waits {
					var stop context.CancelFunc
					child, stop = context.WithCancel(b)
					defer stop()
				}
				if err := b.Err(); err != nil {
					t.Errorf("%s: at first it is %v", name, err)
				}
				test.ends(cancel, b)
				synctest.Wait()
				if err := b.Err(); !errors.Is(err, test.want) {
					t.Errorf("%s, waited for: %v: it is %v, want %v", name, waits, err, test.want)
				}
				select {
				case <-b.Done():
					if test.want == nil {
						t.Errorf("%s: it is done", name)
					}
				default:
					if test.want != nil {
						t.Errorf("%s: it is not done", name)
					}
				}
				if waits && !errors.Is(child.Err(), test.want) {
					t.Errorf("%s: what is made of it is %v, want %v", name, child.Err(), test.want)
				}
				if at, ok := b.Deadline(); !ok || !at.Equal(b.until) || b.Value(key{}) != 1 {
					t.Errorf("%s: its deadline is %v, %v, its value %v", name, at, ok, b.Value(key{}))
				}
			})
		}
	}
}
