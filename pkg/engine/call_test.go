package engine

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// TestCallersShareTheGate: of each kind of call that takes turns, one caller has so many under way, and another one begins at once. The name of the
// caller crosses the connection, and a name that a client sends is not believed.
func TestCallersShareTheGate(t *testing.T) {
	t.Parallel()
	short := usual
	short.turn = 10 * time.Millisecond
	g := newGate(&short, nil)
	over := func(caller, claims string) context.Context {
		sent, cancel := (&teller{bounds: &short, own: g.own}).limited(authz.WithCaller(t.Context(), caller), expandTree)
		t.Cleanup(cancel)
		md, _ := metadata.FromOutgoingContext(sent)
		if claims != "" {
			md = metadata.Join(metadata.Pairs(callerHeader, claims), md)
		}
		return metadata.NewIncomingContext(t.Context(), md)
	}
	for method, most := range map[string]int{expandTree: short.trees, lookupSubjects: short.subjects, lookupResources: short.lookups} {
		var leaves []func()
		for n := 0; ; n++ {
			ctx, leave, err := g.enter(over("greedy", "modest"), method, nil)
			if err != nil {
				st := status.Convert(err)
				if n != most || st.Code() != codes.ResourceExhausted || statuses.Info(st).GetReason() != authz.ReasonBusy || statuses.RetryAfter(st) <= 0 {
					t.Errorf("%s: after %d calls of one caller %v, want BUSY after %d", method, n, err, most)
				}
				break
			}
			if got := authz.CallerOf(ctx); got != "greedy" {
				t.Fatalf("%s: the call is %q's", method, got)
			}
			leaves = append(leaves, leave)
		}
		_, leave, err := g.enter(over("modest", ""), method, nil)
		if err != nil {
			t.Errorf("%s: another caller: %v", method, err)
			continue
		}
		for _, leave := range append(leaves, leave) {
			leave()
		}
	}
}
