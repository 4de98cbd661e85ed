package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Health is all that is answered without a key, so what it takes is bounded for all clients together, and not for
// each of them.
const (
	// askTime is how long a stranger may take to ask.
	askTime = 5 * time.Second
	// watchTime is how long a stranger may watch.
	watchTime = 10 * time.Minute
	// maxAsking and maxWatching are how many strangers may ask, and watch, at once. One more takes the place of
	// another (see crowd).
	maxAsking, maxWatching = 64, 128
)

// openHealth is grpc.health.v1 for strangers. The states are gRPC's own server's; that one alone would read a
// question of any size, keep it, and watch names that are not served for as long as the client likes.
//
// It is safe for concurrent use.
type openHealth struct {
	*health.Server
	asking, watched places
	watchTime       time.Duration
	stopping        chan struct{}
	stopped         sync.Once
}

func newHealth() *openHealth {
	return &openHealth{
		Server: health.NewServer(),
		asking: places{max: maxAsking}, watched: places{max: maxWatching}, watchTime: watchTime,
		stopping: make(chan struct{}),
	}
}

// unready has every service be NOT_SERVING for good, and tells that to the clients that watch. Their streams go on.
func (h *openHealth) unready() { h.Server.Shutdown() }

// Shutdown has every service be NOT_SERVING for good, tells that to the clients that watch, and ends their streams: a
// server that drains would wait for them.
func (h *openHealth) Shutdown() {
	h.unready()
	h.stopped.Do(func() { close(h.stopping) })
}

// register serves it on a server whose messages rpc.Gate receives. All methods are streams here, which is the same on the wire: a unary
// method's handler would run once its message is there, and a place is taken before.
func (h *openHealth) register(s grpc.ServiceRegistrar) {
	stream := func(name string, handler func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return handler(s) }}
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: healthv1.Health_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Metadata:    healthv1.Health_ServiceDesc.Metadata,
		Streams:     []grpc.StreamDesc{stream("Check", h.check), stream("List", h.list), stream("Watch", h.watch)},
	}, h)
}

// check is Health.Check.
func (h *openHealth) check(stream grpc.ServerStream) error {
	in := &healthv1.HealthCheckRequest{}
	if err := h.ask(stream, in); err != nil {
		return err
	}
	out, err := h.Check(stream.Context(), in)
	if err != nil {
		return err
	}
	return stream.SendMsg(out)
}

// list is Health.List.
func (h *openHealth) list(stream grpc.ServerStream) error {
	in := &healthv1.HealthListRequest{}
	if err := h.ask(stream, in); err != nil {
		return err
	}
	out, err := h.List(stream.Context(), in)
	if err != nil {
		return err
	}
	return stream.SendMsg(out)
}

// watch is Health.Watch. A name that is not served ends it at once, with NOT_FOUND as Check has: names are not
// added while the server runs, and a client that gets SERVICE_UNKNOWN as a message would come back without a pause.
func (h *openHealth) watch(stream grpc.ServerStream) error {
	in := &healthv1.HealthCheckRequest{}
	if err := h.ask(stream, in); err != nil {
		return err
	}
	if _, err := h.Check(stream.Context(), in); err != nil {
		return err
	}
	return h.bounded(stream, &h.watched, h.watchTime, func(ctx context.Context) error {
		err := h.Watch(in, &grpc.GenericServerStream[healthv1.HealthCheckRequest, healthv1.HealthCheckResponse]{ServerStream: within{stream, ctx}})
		select {
		case <-h.stopping:
			_ = stream.SendMsg(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING})
		default:
		}
		return err
	})
}

// ask reads the question.
func (h *openHealth) ask(stream grpc.ServerStream, in proto.Message) error {
	return h.bounded(stream, &h.asking, askTime, func(context.Context) error { return stream.RecvMsg(in) })
}

// bounded does what a call needs within a time and, for a stranger, in one of the places. It returns at the end of
// either, and watches end when the server stops; the call's end is then what ends do.
func (h *openHealth) bounded(stream grpc.ServerStream, in *places, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var (
		given, stopping <-chan struct{}
		over            <-chan time.Time
	)
	if in == &h.watched {
		stopping = h.stopping
	}
	if !caller.Of(ctx).Known() || in == &h.asking {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	if !caller.Of(ctx).Known() {
		place := in.take(ctx)
		defer place.giveBack()
		given = place.given
	}
	done := make(chan error, 1)
	go func() { done <- authz.Safely("daemon.health", func() error { return do(ctx) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-over:
		return statuses.New(codes.DeadlineExceeded, "STREAM_TIME", "", fmt.Sprintf("this call may take %s; call again", limit)).Err()
	case <-given:
		return statuses.New(codes.ResourceExhausted, authz.ReasonBusy, "",
			"too many callers without a key ask for the server's health at once; call again, or bring a key").Err()
	case <-stopping:
		cancel()
		// It still has to say so.
		last := time.NewTimer(time.Second)
		defer last.Stop()
		select {
		case <-done: //nolint:errcheck // how the watch ended
		case <-last.C:
		}
		return statuses.New(codes.Unavailable, "STOPPING", "", "the server stops").Err()
	}
}

// within is a stream with another context.
type within struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has its context
}

func (w within) Context() context.Context { return w.ctx }

// places are how many strangers may do something at once. It is safe for concurrent use.
type places struct {
	max int

	mu    sync.Mutex
	crowd crowd
}

// place is one of them, until it is given back by its holder, or given to another.
type place struct {
	in    *places
	guest guest
	given chan struct{}
}

// take takes a place, if need be another's.
func (p *places) take(ctx context.Context) *place {
	taken := &place{in: p, given: make(chan struct{})}
	taken.guest.leave = func() { close(taken.given) }
	if from, found := peer.FromContext(ctx); found {
		taken.guest.peer = peerOf(from.Addr)
	}
	p.mu.Lock()
	var out *guest
	if p.crowd.size >= p.max {
		out = p.crowd.oldest()
	}
	p.crowd.add(&taken.guest)
	p.mu.Unlock()
	if out != nil {
		out.leave()
	}
	return taken
}

func (p *place) giveBack() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.in.crowd.remove(&p.guest)
}
