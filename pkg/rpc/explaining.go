package rpc

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/turns"
)

const (
	// maxExplaining is how many explanations of one caller are made at once, and maxTracing how many of those with SpiceDB's trace; there are
	// some more for callers that have none (pkg/turns). An explanation may walk much more than its check does, and asks of each object that it
	// names whether it exists for the caller. There are no more of them than there are turns for large walks (pkg/evaluate), nor has one caller more of
	// them than of those: those that have such a turn do not wait for each other.
	maxExplaining, maxTracing = 4, 2
	// explainTurn is how long another one waits for its turn.
	explainTurn = 5 * time.Second
)

// explaining are the turns of explanations.
type explaining struct{ all, traced *turns.Set }

func newExplaining() explaining {
	return explaining{turns.New("explanations", maxExplaining), turns.New("explanations with a trace", maxTracing)}
}

// begin waits for the turn of an explanation, which end has to end. Errors: Exhausted, and that of ctx.
func (e explaining) begin(ctx context.Context, traced bool) (end func(), err error) {
	until := time.Now().Add(explainTurn)
	var trace *turns.Turn
	if traced { // those that wait for each other keep no others out
		if trace, err = e.traced.Take(ctx, 1, explainTurn); err != nil {
			return nil, err
		}
	}
	turn, err := e.all.Take(ctx, 1, time.Until(until))
	if err != nil {
		trace.Give()
		return nil, err
	}
	return func() {
		turn.Give()
		trace.Give()
	}, nil
}
