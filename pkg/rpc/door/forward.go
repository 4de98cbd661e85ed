package door

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// route is one method: where its calls go and what judges them.
type route struct {
	path   string
	stream grpc.StreamDesc
	// guard judges every message that the caller sends; nil for a read.
	guard guard
	// answer answers what it can by itself; nil for most methods.
	answer Answer
	// readsSchema and writesSchema name the two methods that expectations of the schema are about.
	readsSchema, writesSchema bool
}

// forward passes one call on: its messages, half-close, deadline and cancellation up, headers,
// messages, status and trailers down. A message is read on one side only once the one before it has
// been taken by the other, so flow control reaches from end to end.
//
// A refusal by the guard ends the call at once, and cancels it upstream before any half-close: SpiceDB
// rolls a bulk load back whose stream breaks off.
func (d *Door) forward(r route, down grpc.ServerStream) error {
	// The first message comes before the call upstream, so that what is refused never reaches it. No
	// method of this API answers before it was asked.
	first, err := d.receive(r, down, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answered, err := r.tryAnswer(first, down); answered {
		return err
	}
	md, err := d.expectation(r, down)
	if err != nil {
		first.free()
		return err
	}
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(down.Context(), md))
	defer cancel(nil)
	up, err := d.cfg.Upstream.NewStream(ctx, &r.stream, r.path,
		grpc.ForceCodecV2(Codec()),
		grpc.MaxCallRecvMsgSize(math.MaxInt32), // the limits are the server's and the engine's own
		grpc.MaxCallSendMsgSize(math.MaxInt32),
	)
	if err != nil {
		first.free()
		return upstreamFailure(err)
	}
	if r.stream.ClientStreams {
		// It outlives this function by as long as it takes gRPC to end RecvMsg on a finished call.
		late := &lateness{idle: d.cfg.ImportIdle, end: cancel}
		defer time.AfterFunc(d.cfg.ImportTime, func() { cancel(errSlow(d.cfg.ImportTime)) }).Stop()
		go func() {
			if err := authz.Safely("door.ask", func() error { return d.ask(r, down, up, first, late) }); err != nil {
				cancel(err)
			}
		}()
	} else if err := d.ask(r, down, up, first, nil); err != nil {
		return err
	}
	if err := answer(up, down); err != nil {
		var refusal interface{ GRPCStatus() *status.Status }
		if errors.As(context.Cause(ctx), &refusal) {
			return refusal.GRPCStatus().Err()
		}
		if panicked, ok := errors.AsType[*authz.Error](context.Cause(ctx)); ok {
			return panicked
		}
		return err
	}
	return nil
}

// tryAnswer answers a call whose one message has come, if the route can.
func (r route) tryAnswer(request *frame, down grpc.ServerStream) (answered bool, err error) {
	if r.answer == nil || request == nil {
		return false, nil
	}
	response, ok, err := r.answer(down.Context(), request.data.Materialize())
	if !ok {
		return false, nil
	}
	request.free()
	if err != nil {
		return true, err
	}
	f := &frame{data: mem.BufferSlice{mem.SliceBuffer(response)}}
	defer f.free()
	return true, down.SendMsg(f)
}

// receive reads the caller's next message and has it judged. It returns io.EOF after the last.
func (d *Door) receive(r route, down grpc.ServerStream, n int) (*frame, error) {
	f := new(frame)
	err := down.RecvMsg(f)
	if err == nil && r.guard != nil {
		err = r.guard(down.Context(), d, n, f)
	}
	if err != nil {
		f.free()
		return nil, err
	}
	return f, nil
}

// ask passes the caller's messages up, from the first on, which is nil if there is none, and then the
// half-close. It returns why the call has to end, if that is not for upstream to say. late is about the caller of a
// stream, and nil for others.
func (d *Door) ask(r route, down grpc.ServerStream, up grpc.ClientStream, next *frame, late *lateness) error {
	for n := 1; next != nil; n++ {
		err := up.SendMsg(next)
		next.free()
		switch {
		case errors.Is(err, io.EOF): // upstream has ended the call, and the answer says how
			return nil
		case err != nil:
			return upstreamFailure(err)
		case !r.stream.ClientStreams:
			return nil // the one message closes
		}
		stop := late.watch()
		next, err = d.receive(r, down, n)
		stop()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return up.CloseSend()
}

// lateness ends a call whose caller leaves it open and says nothing: an import is a transaction of the engine's, which
// keeps everything that has been overwritten or deleted since it began.
type lateness struct {
	idle time.Duration
	end  context.CancelCauseFunc
}

// watch watches until stop for the caller to be late.
func (l *lateness) watch() (stop func()) {
	timer := time.AfterFunc(l.idle, func() { l.end(errIdle(l.idle)) })
	return func() { timer.Stop() }
}

// answer passes headers, messages and trailers down until the call ends, and returns its status.
func answer(up grpc.ClientStream, down grpc.ServerStream) error {
	header, err := up.Header()
	if err != nil {
		return upstreamFailure(err)
	}
	if header != nil { // nil: it ended without; RecvMsg knows how
		if err := down.SendHeader(keep(header)); err != nil {
			return err
		}
	}
	for {
		f := new(frame)
		if err := up.RecvMsg(f); err != nil {
			f.free()
			down.SetTrailer(keep(up.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return upstreamFailure(err)
		}
		err := down.SendMsg(f)
		f.free()
		if err != nil {
			return err
		}
	}
}

// forwarded is the metadata of the call that goes upstream.
func forwarded(ctx context.Context) metadata.MD {
	md, _ := metadata.FromIncomingContext(ctx)
	return keep(md)
}

// connectionOnly lists metadata that belongs to one connection or that proves to Deputy who calls.
var connectionOnly = map[string]bool{
	"authorization": true, "proxy-authorization": true, "proxy-authenticate": true, "cookie": true, "set-cookie": true,
	"connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "host": true, "forwarded": true, "via": true,
	"user-agent": true, "content-type": true, "content-length": true, "content-encoding": true,
	"accept-encoding": true, "server": true, "date": true,
}

// keep returns what of the metadata crosses the door: all but gRPC's own, HTTP/2's pseudo-headers and
// connectionOnly. So SpiceDB's io.spicedb.* keys, request ids and trace contexts do.
func keep(md metadata.MD) metadata.MD {
	kept := make(metadata.MD, len(md))
	for key, values := range md {
		if !connectionOnly[key] && !strings.HasPrefix(key, ":") && !strings.HasPrefix(key, "grpc-") && !strings.HasPrefix(key, "x-forwarded-") {
			kept[key] = values
		}
	}
	return kept
}
