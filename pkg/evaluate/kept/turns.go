package kept

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/turns"
)

// Lookups and trees of authzed.api.v1 are as long as the graph makes them. So each has an end, and only some are under way at once: as SpiceDB's
// are, see pkg/engine.
const (
	// callTime is how long a lookup or a tree may take, and turnTime how long another one waits for its turn.
	callTime, turnTime = 30 * time.Second, 5 * time.Second
	// maxLookups is how many lookups one caller has under way at once, and maxTrees the same for trees. A lookup notes what it has reached
	// (see evaluate.Candidates), and a tree is held as a whole.
	maxLookups, maxTrees = 32, 4
)

// turn is what one call has taken, until it leaves. It belongs to the call's goroutine.
type turn struct {
	of     *turns.Set
	has    *turns.Turn
	cancel context.CancelFunc
}

// take waits for a turn, and gives the call its end. Its error is a status.
func take(ctx context.Context, of *turns.Set) (context.Context, *turn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	has, err := of.Take(ctx, 1, turnTime)
	if err != nil {
		cancel()
		return nil, nil, statusOf(statuses.Raised(err)).Err()
	}
	return ctx, &turn{of, has, cancel}, nil
}

// leave gives the turn back, and ends the call's context.
func (t *turn) leave() {
	t.cancel()
	t.has.Give()
}

// without calls f, which may wait for the client, while others have the turn, and then waits for one again, for as long as the call may take. So
// clients that do not read keep no turns. Its error is f's, or a status.
func (t *turn) without(ctx context.Context, f func() error) error {
	t.has.Give()
	if err := f(); err != nil {
		return err
	}
	has, err := t.of.Take(ctx, 1, callTime)
	if err != nil {
		return statusOf(statuses.Raised(err)).Err()
	}
	t.has = has
	return nil
}
