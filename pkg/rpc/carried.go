package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Carrier is one call as it comes in through a door that is no gRPC server. Its methods wait for the client. One goroutine at a time receives,
// and one sends; both may do so at once.
type Carrier interface {
	// Receive returns the client's next message, as it was sent, and io.EOF after the last one. It reads nothing before it is called, so that the
	// caller is known by then. Before it holds more than a few kilobytes it asks for room. Errors: *authz.Error, or a status; any other means
	// that the call broke off.
	Receive(room func(bytes int) error) ([]byte, error)
	// JSON reports whether messages are JSON.
	JSON() bool
	// Send sends a message.
	Send(m any) error
	// StopReceiving and StopSending have what waits in Receive, or in Send, return soon. They may be called while it waits.
	StopReceiving()
	StopSending()
}

// Carried has the services of a server called through doors that read requests themselves: by the same handlers as gRPC's server, through the same
// chain, with every message received by pkg/rpc/wire once its caller is known. Services are registered before the first call. It is safe for
// concurrent use then.
type Carried struct {
	handlers
	through Chain
}

// Carried returns a server for doors. The chain is that of gRPC's server, and the services are to be registered at a Guarded server of the gate
// too, because there the gate comes to know them.
func (g *Gate) Carried(through Chain) *Carried {
	return &Carried{handlers: g.handlers(), through: through}
}

// Limit returns how many bytes a message of a method may have; that of a method that there is not is small.
func (c *Carried) Limit(method string) int {
	if known, ok := c.gate.methods[method]; ok {
		return known.Bytes
	}
	return wire.Small.Bytes
}

// Services returns the services that are carried, by their names.
func (c *Carried) Services() []protoreflect.ServiceDescriptor {
	all := map[string]protoreflect.ServiceDescriptor{}
	for method := range c.servers {
		name, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		if found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name)); err == nil {
			all[name], _ = found.(protoreflect.ServiceDescriptor)
		}
	}
	var services []protoreflect.ServiceDescriptor
	for _, name := range slices.Sorted(maps.Keys(all)) {
		services = append(services, all[name])
	}
	return services
}

// Serve has a call answered. ctx has the peer, the metadata and the deadline of the call, as gRPC's server would have put them there, and nothing of
// another call. It returns the trailers of the call and how the call ended, nil or a status, once nothing waits for the client any more.
func (c *Carried) Serve(ctx context.Context, method string, by Carrier) (trailer metadata.MD, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call := &carriedCall{carried: c, method: method, by: by, cancel: cancel}
	call.ctx = grpc.NewContextWithServerTransportStream(ctx, call)
	stop := context.AfterFunc(ctx, call.interrupt)
	defer func() {
		stop()
		call.finish()
		trailer, err = call.trailer, toStatus(ctx, call.ended(err))
	}()
	return nil, authz.Safely("rpc.Carried", call.serve)
}

// carriedCall is one call. It is grpc.ServerTransportStream, and what pkg/rpc/wire receives from.
type carriedCall struct {
	carried *Carried
	method  string
	by      Carrier
	ctx     context.Context //nolint:containedctx // a call has its context
	cancel  context.CancelFunc

	// receiving and sending are held while something waits for the client. over says that nothing may wait any more; both guard it.
	receiving, sending sync.Mutex
	over               bool
	// message is the one that is being received.
	message []byte

	mu      sync.Mutex
	trailer metadata.MD
	// held gives back the room that a message took, until it is handed over; nil without.
	held func()
	// barred is the status that the call is ended with before its handler has ended.
	barred *status.Status
}

// serve calls the handler.
func (c *carriedCall) serve() error {
	h := c.carried.handlers
	if unary, found := h.unary[c.method]; found {
		answer, err := unary(h.servers[c.method], c.ctx, nil, c.carried.through.unary)
		if err = c.ended(err); err != nil {
			return err
		}
		return c.send(answer)
	}
	handler, found := h.streams[c.method]
	if !found {
		handler = unknown
	}
	return c.carried.through.stream(h.servers[c.method], (*carriedStream)(c), &grpc.StreamServerInfo{FullMethod: c.method, IsServerStream: true}, handler)
}

// finish has nothing wait for the client any more: a handler may still run whose time is over.
func (c *carriedCall) finish() {
	for _, one := range []struct {
		waits *sync.Mutex
		stop  func()
	}{{&c.receiving, c.by.StopReceiving}, {&c.sending, c.by.StopSending}} {
		if !one.waits.TryLock() {
			one.stop()
			one.waits.Lock()
		}
		defer one.waits.Unlock()
	}
	c.over = true
	if giveBack := c.Held(); giveBack != nil {
		giveBack()
	}
}

// interrupt ends what waits for the client of a call whose time is over, or whose client is gone. An answer that is the only one is not cut off.
func (c *carriedCall) interrupt() {
	if !c.receiving.TryLock() {
		c.by.StopReceiving()
	} else {
		c.receiving.Unlock()
	}
	if _, unary := c.carried.unary[c.method]; unary {
		return
	}
	if !c.sending.TryLock() {
		c.by.StopSending()
	} else {
		c.sending.Unlock()
	}
}

// ended is how a call ends whose handler ended.
func (c *carriedCall) ended(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.barred != nil {
		return c.barred.Err()
	}
	return err
}

// isOver is what is told to a handler that goes on after its call has ended.
func isOver() error { return statuses.New(codes.Canceled, "", "", "the call is over").Err() }

func (c *carriedCall) send(m any) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.over {
		return isOver()
	}
	if _, unary := c.carried.unary[c.method]; !unary && c.ctx.Err() != nil {
		return status.FromContextError(c.ctx.Err()).Err()
	}
	return c.by.Send(m)
}

// Method is grpc.ServerTransportStream's.
func (c *carriedCall) Method() string { return c.method }

// SetHeader is grpc.ServerTransportStream's. No service that is carried has a header of its own.
func (*carriedCall) SetHeader(metadata.MD) error {
	return flaw("a header is set, which this door does not send")
}

// SendHeader is grpc.ServerTransportStream's.
func (*carriedCall) SendHeader(md metadata.MD) error {
	if md.Len() > 0 {
		return flaw("a header is sent, which this door does not send")
	}
	return nil
}

// SetTrailer is grpc.ServerTransportStream's.
func (c *carriedCall) SetTrailer(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trailer = metadata.Join(c.trailer, md)
	return nil
}

// ReadMessageHeader waits for the next message, and says how long it is, as five bytes do on the wire of gRPC.
func (c *carriedCall) ReadMessageHeader(header []byte) error {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	if c.over {
		return isOver()
	}
	if err := c.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	message, err := c.by.Receive(c.room)
	if err := c.ended(nil); err != nil {
		return err
	}
	if errors.Is(err, io.EOF) || err != nil && c.ctx.Err() == nil {
		return err
	}
	if err != nil {
		return status.FromContextError(c.ctx.Err()).Err()
	}
	c.message = message
	header[0] = 0
	binary.BigEndian.PutUint32(header[1:], uint32(len(message))) //nolint:gosec // no method's messages may be that long
	return nil
}

// room takes room for a message, once.
func (c *carriedCall) room(bytes int) error {
	giveBack, err := c.carried.gate.receiver.Room(c.ctx, bytes)
	if err != nil {
		return err
	}
	if was := c.Held(); was != nil {
		was() // a door that asks twice
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = giveBack
	return nil
}

// Held hands over the room that the message took.
func (c *carriedCall) Held() (giveBack func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	giveBack, c.held = c.held, nil
	return giveBack
}

// JSON reports whether messages are JSON.
func (c *carriedCall) JSON() bool { return c.by.JSON() }

// Read returns the bytes of the message.
func (c *carriedCall) Read(n int) (mem.BufferSlice, error) {
	if n > len(c.message) {
		return nil, io.ErrUnexpectedEOF
	}
	read := c.message[:n]
	c.message = nil
	return mem.BufferSlice{mem.SliceBuffer(read)}, nil
}

// RecvCompress says that nothing is compressed: the door has unpacked it.
func (*carriedCall) RecvCompress() string { return "" }

// WriteStatus ends the call.
func (c *carriedCall) WriteStatus(st *status.Status) error {
	c.mu.Lock()
	c.barred = st
	c.mu.Unlock()
	c.by.StopReceiving()
	c.cancel()
	return nil
}

// carriedStream is the call as a stream's handler has it.
type carriedStream carriedCall

func (s *carriedStream) call() *carriedCall { return (*carriedCall)(s) }

// SetHeader is grpc.ServerStream's.
func (s *carriedStream) SetHeader(md metadata.MD) error { return s.call().SendHeader(md) }

// SendHeader is grpc.ServerStream's.
func (s *carriedStream) SendHeader(md metadata.MD) error { return s.call().SendHeader(md) }

// SetTrailer is grpc.ServerStream's.
func (s *carriedStream) SetTrailer(md metadata.MD) { _ = s.call().SetTrailer(md) }

// Context is grpc.ServerStream's.
func (s *carriedStream) Context() context.Context { return s.ctx }

// SendMsg is grpc.ServerStream's. It waits until the client takes the message.
func (s *carriedStream) SendMsg(m any) error { return s.call().send(m) }

// RecvMsg is grpc.ServerStream's. Every service receives through pkg/rpc/wire.
func (*carriedStream) RecvMsg(any) error {
	return authz.Errorf(authz.Internal, "INTERNAL", "a message is received past the gate")
}
