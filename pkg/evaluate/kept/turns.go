package kept

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Lookups and trees of authzed.api.v1 are as long as the graph makes them. So each has an end, and only some are under way at once: as SpiceDB's
// are, see pkg/engine.
const (
	// callTime is how long a lookup or a tree may take, and turnTime how long another one waits for its turn.
	callTime, turnTime = 30 * time.Second, 5 * time.Second
	// maxLookups is how many lookups are under way at once, and maxTrees the same for trees. A lookup notes what it has reached
	// (see evaluate.Candidates), and a tree is held as a whole.
	maxLookups, maxTrees = 32, 4
)

// turns are what calls of one kind take, so that so many are under way at once.
type turns struct {
	of    string
	taken chan struct{}
}

func newTurns(of string, n int) turns { return turns{of, make(chan struct{}, n)} }

// turn is what one call has taken, until it leaves. It belongs to the call's goroutine.
type turn struct {
	of     turns
	cancel context.CancelFunc
	held   bool
}

// take waits for a turn, and gives the call its end. Its error is a status.
func (t turns) take(ctx context.Context) (context.Context, *turn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	over := time.NewTimer(turnTime)
	defer over.Stop()
	var err error
	select {
	case t.taken <- struct{}{}:
		return ctx, &turn{of: t, cancel: cancel, held: true}, nil
	case <-ctx.Done():
		err = statusOf(ctx.Err()).Err()
	case <-over.C:
		err = statuses.Retry(statuses.New(codes.ResourceExhausted, authz.ReasonBusy, "",
			fmt.Sprintf("%d %s are under way, which is as many as the server makes at once: try again", cap(t.taken), t.of)), time.Second).Err()
	}
	cancel()
	return nil, nil, err
}

// leave gives the turn back, and ends the call's context.
func (t *turn) leave() {
	t.cancel()
	t.pause()
}

func (t *turn) pause() {
	if t.held {
		t.held = false
		<-t.of.taken
	}
}

// without calls f, which may wait for the client, while others have the turn, and then waits for one again, for as long as the call may take. So
// clients that do not read keep no turns. Its error is f's, or a status.
func (t *turn) without(ctx context.Context, f func() error) error {
	t.pause()
	if err := f(); err != nil {
		return err
	}
	select {
	case t.of.taken <- struct{}{}:
		t.held = true
		return nil
	case <-ctx.Done():
		return statusOf(ctx.Err()).Err()
	}
}
