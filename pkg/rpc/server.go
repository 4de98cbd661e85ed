// Package rpc is the server's border: the gRPC services of deputy.v1, who may call them, sealed tokens,
// and the one place that turns errors into statuses. Nothing that comes in is trusted until this
// package has checked it. Its sub-package door serves authzed.api.v1.
package rpc

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/judge"
	"github.com/deputyauth/deputy/pkg/signal"
)

// Config is what the services stand on.
type Config struct {
	Judge *judge.Judge
	// Delegate is nobody's: each call takes it for its caller.
	Delegate *delegate.Delegate
	// Callers are those in force.
	Callers *caller.Callers
	Sealer  *Sealer
	Log     *zap.Logger
	// Figures counts decisions; nil counts none.
	Figures *Figures
	// Now is the clock that tokens are stamped with.
	Now func() time.Time
	// Store looks after the durable store; nil means that the engine has none of its own.
	Store Keeper
	// Copies knows the copy that the server decides from; nil means that it decides from its engine itself.
	Copies Copier
	// Follow answers servers that follow this one; nil means that the engine has no store of its own.
	Follow deputyv1.FollowServiceServer
	// Journal reads the records; nil means that there are none.
	Journal *journal.Reader
	// Signals keeps the signals that were received; nil means that the server takes none. Events verifies their tokens.
	Signals *signal.Ledger
	Events  func(ctx context.Context, issuer, token string) (caller.EventToken, error)
	// SnapshotMaxAge is how old an exact snapshot, or a lookup that is continued, may be.
	SnapshotMaxAge time.Duration
	// Staleness is how far a revision may lie behind the head that the engine chose for a call that does not need the head, where the answer does not
	// tell since when.
	Staleness time.Duration
}

// Register adds the services of deputy.v1 to servers of one gate, of which one is Guarded. All of them have the same services, so that what a
// service keeps, such as how much it works on at once, is kept for all ways in together.
func (g *Gate) Register(cfg Config, at ...grpc.ServiceRegistrar) {
	b := border{cfg}
	g.sealer = cfg.Sealer
	s := servers(at)
	deputyv1.RegisterPermissionsServiceServer(s, &permissions{
		border: b, explaining: newExplaining(), watches: newWatches(cfg.Judge, cfg.Figures),
	})
	deputyv1.RegisterSessionsServiceServer(s, &sessions{border: b})
	deputyv1.RegisterDelegationsServiceServer(s, &delegations{border: b})
	deputyv1.RegisterAgentsServiceServer(s, &agents{border: b})
	deputyv1.RegisterPrincipalsServiceServer(s, &principals{border: b})
	deputyv1.RegisterAdoptionServiceServer(s, &adoptions{border: b})
	deputyv1.RegisterBrakeServiceServer(s, &brakes{border: b})
	deputyv1.RegisterStoreServiceServer(s, &stores{border: b})
	deputyv1.RegisterCopyServiceServer(s, &copies{border: b})
	deputyv1.RegisterFollowServiceServer(s, followed(cfg.Follow))
	deputyv1.RegisterJournalServiceServer(s, &journals{border: b})
	deputyv1.RegisterRetentionServiceServer(s, &retention{border: b})
	deputyv1.RegisterReachServiceServer(s, &reaches{border: b})
	deputyv1.RegisterSignalsServiceServer(s, &signals{border: b})
}

// servers are several that have the same services.
type servers []grpc.ServiceRegistrar

// RegisterService is grpc.ServiceRegistrar's.
func (all servers) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, one := range all {
		one.RegisterService(desc, impl)
	}
}

// border is what all services share.
type border struct{ Config }

// delegate is the lifecycle for the caller of a call.
func (b border) delegate(ctx context.Context) *delegate.Delegate {
	c := caller.Of(ctx)
	of := b.Delegate.For(c.Name, c.Bounds)
	if c.Services() {
		return of.First()
	}
	return of
}

// by is the call, as the judge has it.
func by(ctx context.Context) judge.By {
	return judge.By{Within: caller.Of(ctx).Bounds, Account: accountOf(ctx)}
}
