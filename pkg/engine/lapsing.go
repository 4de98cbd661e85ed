package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/authzed/spicedb/pkg/datalayer"
	"google.golang.org/grpc"
)

// quiet is how long SpiceDB lets a stream say nothing. An import, which answers last, may take two minutes; it is not much
// more than that because of what lapse is about.
const quiet = 3 * time.Minute

// lapse gives each stream of SpiceDB's a context that lets go of the call when it is over.
//
// SpiceDB's limit for a stream's silence is a timer that nobody stops when the call ends (internal/middleware/
// streamtimeout), so that for the time of the limit it holds the call's context, and by it the request, the transport's
// stream and what the middlewares left: some 5 KiB for every read. What a lapsed context holds instead is the same for all.
func (g *gate) lapse(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := &lapsing{record: callOf(stream.Context())}
	ctx.current.Store(&stillOpen{stream.Context()})
	defer ctx.current.Store(&stillOpen{g.over(stream.Context())})
	return handler(srv, &recorded{stream, ctx})
}

// over is the context of all calls that are over. It has ended, and has the data layer, which what SpiceDB left behind
// in a goroutine may look for, and panics if there is none.
func (g *gate) over(ctx context.Context) context.Context {
	g.overOnce.Do(func() {
		layer := datalayer.FromContext(ctx)
		if a, ok := layer.(*attached); ok {
			layer = a.DataLayer
		}
		ended, end := context.WithCancel(context.Background())
		end()
		g.overCtx = datalayer.ContextWithDataLayer(ended, layer)
	})
	return g.overCtx
}

// lapsing is a context that stands for another one, until that is over.
type lapsing struct {
	current atomic.Pointer[stillOpen]
	// record is the call's, which bounds what is left of it, too.
	record *call
}

// stillOpen is what a context stands for; an atomic pointer needs a type of its own for an interface.
type stillOpen struct {
	context.Context //nolint:containedctx // it is what a lapsing context stands for
}

// Deadline is context.Context's.
func (l *lapsing) Deadline() (time.Time, bool) { return l.current.Load().Deadline() }

// Done is context.Context's. The channel of a call that is over is closed soon after it, by the gate.
func (l *lapsing) Done() <-chan struct{} { return l.current.Load().Done() }

// Err is context.Context's.
func (l *lapsing) Err() error { return l.current.Load().Err() }

// Value is context.Context's.
func (l *lapsing) Value(key any) any {
	if key == (callKey{}) {
		return l.record
	}
	return l.current.Load().Value(key)
}

// lapsed is what lapse needs once.
type lapsed struct {
	overOnce sync.Once
	overCtx  context.Context //nolint:containedctx // it is of no call
}
