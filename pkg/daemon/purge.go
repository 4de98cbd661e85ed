package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const (
	// indexEvery is how often it is looked whether all that is live is listed, and indexAgain while it is not.
	indexEvery, indexAgain = time.Minute, time.Second
	// purgeRest is how long a walk that purges rests between two of its parts, each of which takes some seconds at most.
	purgeRest = time.Second
	// Of the time after which something is purged a walk begins this often, within bounds.
	purgesPerAge               = 10
	purgeOftenest, purgeRarest = time.Second, time.Hour
)

// keepIndexed lists what is live and is not listed, until ctx ends: what an older Deputy has written, and what was written past
// the services. Until it has, lists read what is over, too. The journal has no record of it: nobody asked for it, and it writes rows of the
// lists only, which no permission reads and which follow from rows whose writing was recorded.
func (d *Daemon) keepIndexed(ctx context.Context) {
	of := d.delegate.For(caller.InProcessName, caller.InProcess().Bounds)
	for {
		wait := indexAgain
		indexed, err := of.Index(ctx)
		switch {
		case indexed:
			wait = indexEvery
		case err != nil:
			d.log.Debug("not everything that is live is listed yet", zap.Error(err))
		}
		if !rest(ctx, wait) {
			return
		}
	}
}

// purge purges what has been over for long, until ctx ends, if that is configured. It asks as the program that holds the
// server, so that the journal has what it did. Several servers may do so beside each other: what one has purged the others no
// longer find.
func (d *Daemon) purge(ctx context.Context) {
	if d.cfg.PurgeAfter == 0 {
		return
	}
	every := min(max(d.cfg.PurgeAfter/purgesPerAge, purgeOftenest), purgeRarest)
	for rest(ctx, every/2+rand.N(every)) { //nolint:gosec // servers that were started together purge at different times
		if err := d.purgeOnce(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("what is over could not be purged; it is tried again", zap.Error(err))
		}
	}
}

// purgeOnce goes through everything once.
func (d *Daemon) purgeOnce(ctx context.Context) error {
	var sessions, delegations uint64
	request := &deputyv1.PurgeRequest{OlderThan: durationpb.New(d.cfg.PurgeAfter)}
	for {
		did, err := d.program.Client().Retention.Purge(ctx, request)
		if status.Code(err) == codes.OutOfRange {
			return nil // the walk took longer than its revision can be read; the next one begins anew
		}
		if err != nil {
			return err //nolint:wrapcheck // it is logged as it is
		}
		sessions, delegations = sessions+did.GetSessions(), delegations+did.GetDelegations()
		if did.GetNext() == nil {
			break
		}
		if request.Cursor = did.GetNext(); !rest(ctx, purgeRest) {
			return nil
		}
	}
	if sessions+delegations > 0 {
		d.log.Info("purged what has been over for long", zap.Uint64("sessions", sessions), zap.Uint64("delegations", delegations))
	}
	return nil
}

// rest waits, and reports whether ctx goes on.
func rest(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
