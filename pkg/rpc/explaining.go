package rpc

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

const (
	// maxExplaining is how many explanations are made at once, and maxTracing how many of those with SpiceDB's trace. An explanation may walk
	// much more than its check does, and asks of each object that it names whether it exists for the caller. There are fewer of them than there are
	// turns for large walks (pkg/evaluate): those that have such a turn do not wait for each other.
	maxExplaining, maxTracing = 4, 2
	// explainTurn is how long another one waits for its turn.
	explainTurn = 5 * time.Second
)

// explaining has an element for each explanation that is being made.
type explaining struct{ all, traced chan struct{} }

func newExplaining() explaining {
	return explaining{make(chan struct{}, maxExplaining), make(chan struct{}, maxTracing)}
}

// begin waits for the turn of an explanation, which end has to end. Errors: Exhausted, and that of ctx.
func (e explaining) begin(ctx context.Context, traced bool) (end func(), err error) {
	patience := time.NewTimer(explainTurn)
	defer patience.Stop()
	taken := make([]chan struct{}, 0, 2)
	end = func() {
		for _, turns := range taken {
			<-turns
		}
	}
	needed := []chan struct{}{e.all}
	if traced { // those that wait for each other keep no others out
		needed = []chan struct{}{e.traced, e.all}
	}
	for _, turns := range needed {
		select {
		case turns <- struct{}{}:
			taken = append(taken, turns)
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-patience.C:
			err = authz.Errorf(authz.Exhausted, authz.ReasonBusy,
				"%d explanations, and %d with a trace, are as many as the server makes at once: try again", maxExplaining, maxTracing)
		}
		end()
		return nil, err
	}
	return end, nil
}
