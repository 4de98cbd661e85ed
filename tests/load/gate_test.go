package load

import (
	"context"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/deputyauth/deputy/pkg/authz"
)

// gate is a graph that lets so many decisions through in a second, one after the other.
type gate struct {
	authz.Graph
	pace *rate.Limiter
}

// gated returns what puts a gate before the graph of a server.
func gated(decisions int) func(authz.Graph) authz.Graph {
	return func(graph authz.Graph) authz.Graph {
		return &gate{graph, rate.NewLimiter(rate.Limit(decisions), max(decisions/100, 1))}
	}
}

// Snapshot is authz.Graph's. A decision takes one.
func (g *gate) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if g.pace.Wait(ctx) != nil {
		return nil, context.DeadlineExceeded // it does not even wait where that would be too late
	}
	return g.Graph.Snapshot(ctx, f)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-end:
			t.Fatalf("it took more than 30 s until %s", what)
		case <-tick.C:
		}
	}
}
