package rpc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestExplanationsTakeTurns: so many explanations are made at once, and fewer with a trace, which keep those without one from nothing. Another one
// waits, and is refused after a while or when its call ends.
func TestExplanationsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newExplaining()
		begin := func(ctx context.Context, traced bool) func() {
			t.Helper()
			end, err := e.begin(ctx, traced)
			if err != nil {
				t.Fatal(err)
			}
			return end
		}
		busy := func(traced bool) {
			t.Helper()
			var refused *authz.Error
			if _, err := e.begin(t.Context(), traced); !errors.As(err, &refused) || refused.Kind != authz.Exhausted || refused.Reason != authz.ReasonBusy {
				t.Errorf("another explanation gets %v, want BUSY", err)
			}
		}
		var ends []func()
		for range maxTracing {
			ends = append(ends, begin(t.Context(), true))
		}
		busy(true)
		for range maxExplaining - maxTracing {
			ends = append(ends, begin(t.Context(), false))
		}
		busy(false)
		for _, traced := range []bool{true, false} {
			end, err := e.begin(authz.WithCaller(t.Context(), "another"), traced)
			if err != nil {
				t.Fatalf("an explanation of another caller, with a trace %t: %v", traced, err)
			}
			end()
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := e.begin(gone, false); !errors.Is(err, context.Canceled) {
			t.Errorf("one whose caller has left gets %v", err)
		}
		waiting := make(chan func())
		go func() { waiting <- begin(t.Context(), true) }()
		synctest.Wait()
		for _, end := range ends {
			end()
		}
		(<-waiting)()
		if n := e.all.All() - e.all.Free() + e.traced.All() - e.traced.Free(); n != 0 {
			t.Errorf("%d turns are not given back", n)
		}
	})
}
