package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// program is the address of a peer in this process: it is a caller without any proof. No peer that came over a network has it.
type program struct{ caller *caller.Caller }

// Network is net.Addr's.
func (program) Network() string { return "in-process" }

// String is net.Addr's.
func (program) String() string { return "in-process" }

var _ net.Addr = program{}

// who returns whose a call is.
func (g *Gate) who(ctx context.Context) (*caller.Caller, error) {
	if from, ok := peer.FromContext(ctx); ok {
		if here, ok := from.Addr.(program); ok {
			return here.caller, nil
		}
	}
	return g.callers.Identify(ctx)
}

// Local has the services of a server called by the program that it is part of: without a connection, a key or a port, but through the
// same gate. What is sent is encoded and received as from a network, so that neither shares a message with the other, and everything that a
// service refuses is refused here too. A stream lasts as long as its context.
//
// Services are registered before the first call. It is safe for concurrent use then.
type Local struct {
	handlers
	codec encoding.CodecV2
}

// handlers are those of services that no gRPC server calls, by the full names of their methods.
type handlers struct {
	gate  *Gate
	unary map[string]grpc.MethodHandler
	// streams are those of the door too, whose unary methods are streams to the server.
	streams map[string]grpc.StreamHandler
	servers map[string]any
}

func (g *Gate) handlers() handlers {
	return handlers{gate: g, unary: map[string]grpc.MethodHandler{}, streams: map[string]grpc.StreamHandler{}, servers: map[string]any{}}
}

// Local returns a server for this process, whose codec is that of the door. The services of deputy.v1 are to be registered at a Guarded
// server of the gate too, no matter what serves that, because there the gate comes to know them.
func (g *Gate) Local(codec encoding.CodecV2) *Local {
	return &Local{handlers: g.handlers(), codec: codec}
}

// RegisterService is grpc.ServiceRegistrar's.
func (h handlers) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		full := "/" + desc.ServiceName + "/" + m.MethodName
		h.unary[full], h.servers[full] = h.gate.later(full, m.Handler), impl
	}
	for _, s := range desc.Streams {
		full := "/" + desc.ServiceName + "/" + s.StreamName
		h.streams[full], h.servers[full] = s.Handler, impl
	}
}

// As returns the connection of a caller, whose roles and bounds hold as for one over a network. It needs not be closed.
func (l *Local) As(c *caller.Caller) grpc.ClientConnInterface { return localConn{l, c} }

type localConn struct {
	local  *Local
	caller *caller.Caller
}

// Invoke is grpc.ClientConnInterface's.
func (c localConn) Invoke(ctx context.Context, method string, request, answer any, opts ...grpc.CallOption) error {
	call, err := c.open(ctx, method)
	if err != nil {
		return err
	}
	defer call.cancel()
	if handler, found := c.local.unary[method]; found {
		err = call.function(handler, c.local.servers[method], request, answer)
	} else {
		call.start(c.local.servers[method], c.local.streams[method], &grpc.StreamServerInfo{FullMethod: method}) //nolint:contextcheck // it has the call's
		err = call.exchange(request, answer)
	}
	call.tell(opts)
	return err
}

// NewStream is grpc.ClientConnInterface's.
func (c localConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	handler, found := c.local.streams[method]
	if !found {
		return nil, unserved(method)
	}
	call, err := c.open(ctx, method)
	if err != nil {
		return nil, err
	}
	call.opts = opts
	call.start(c.local.servers[method], handler, &grpc.StreamServerInfo{ //nolint:contextcheck // it has the call's
		FullMethod: method, IsClientStream: desc.ClientStreams, IsServerStream: desc.ServerStreams,
	})
	return (*localClient)(call), nil
}

// open makes a call. What the program's context carries for calls over a network is not passed on by the server to its engine, and what it
// carries of a call that the program itself answers is not taken for this one's.
func (c localConn) open(ctx context.Context, method string) (*localCall, error) {
	_, unary := c.local.unary[method]
	if _, stream := c.local.streams[method]; !unary && !stream {
		return nil, unserved(method)
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	sent, _ := metadata.FromOutgoingContext(ctx)
	l := &localCall{
		local: c.local, method: method, outer: ctx, up: make(chan []byte, 1), down: make(chan mem.BufferSlice), began: make(chan struct{}),
		over: make(chan struct{}),
	}
	ctx, l.cancel = context.WithCancel(ctx)
	ctx = metadata.NewOutgoingContext(metadata.NewIncomingContext(ctx, sent), metadata.MD{})
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: program{c.caller}})
	l.ctx = grpc.NewContextWithServerTransportStream(caller.With(ctx, nil), (*localTransport)(l))
	return l, nil
}

// unserved says that there is no such method.
func unserved(method string) error {
	return statuses.New(codes.Unimplemented, authz.ReasonMethodNotServed, "", "there is no method "+strings.ToValidUTF8(method, "\uFFFD")).Err()
}

// flaw is what does not happen with services that were registered whole.
func flaw(text string) error { return statuses.New(codes.Internal, "INTERNAL", "", text).Err() }

// localCall is one call, between a client and a handler.
type localCall struct {
	local  *Local
	method string
	// outer is the context that the call was made with, and ctx the handler's.
	outer, ctx context.Context //nolint:containedctx // a call has its context
	cancel     context.CancelFunc
	opts       []grpc.CallOption
	// up are the client's messages, encoded, and down the handler's.
	up   chan []byte
	down chan mem.BufferSlice
	// sent is the client's message that is being read.
	sent []byte
	// began is closed once there is a header, and over once the handler has ended, with err.
	began, over chan struct{}
	err         error
	// closed says that the client sends no more; sending guards it, and up's end.
	sending sync.Mutex
	closed  bool

	mu              sync.Mutex
	header, trailer metadata.MD
	headed          bool
	// barred is the status that the server ended the call with before its handler did.
	barred *status.Status
}

// function calls a unary method, in the client's goroutine.
func (l *localCall) function(handler grpc.MethodHandler, server, request, answer any) error {
	if err := l.send(request); err != nil {
		return err
	}
	close(l.up)
	got, err := handler(server, l.ctx, nil, l.local.gate.unary)
	if err := l.ended(err); err != nil {
		return err
	}
	encoded, err := l.local.codec.Marshal(got)
	if err != nil {
		return flaw("the answer cannot be encoded")
	}
	return l.decode(encoded, answer)
}

// start runs the handler of a stream.
func (l *localCall) start(server any, handler grpc.StreamHandler, info *grpc.StreamServerInfo) {
	go func() {
		defer l.cancel()
		defer close(l.over)
		err := authz.Safely("rpc.Local", func() error {
			return l.ended(l.local.gate.stream(server, (*localServer)(l), info, handler))
		})
		l.err = toStatus(l.ctx, err)
	}()
}

// exchange sends the one message of a call, and receives the one of its answer.
func (l *localCall) exchange(request, answer any) error {
	stream := (*localClient)(l)
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(answer); err != nil {
		if errors.Is(err, io.EOF) {
			return flaw("the call ended without an answer")
		}
		return err
	}
	if next, err := l.next(); err == nil {
		next.Free()
		return flaw("the call has more than one answer")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// send encodes a message and has the handler receive it.
func (l *localCall) send(m any) error {
	encoded, err := l.local.codec.Marshal(m)
	if err != nil {
		return flaw("the request cannot be encoded")
	}
	defer encoded.Free()
	select {
	case l.up <- encoded.Materialize():
		return nil
	case <-l.over:
		return io.EOF // RecvMsg says how
	case <-l.ctx.Done():
		return io.EOF
	}
}

// decode decodes an answer, and frees its encoding.
func (l *localCall) decode(encoded mem.BufferSlice, into any) error {
	defer encoded.Free()
	if err := l.local.codec.Unmarshal(encoded, into); err != nil {
		return flaw("the answer cannot be decoded")
	}
	return nil
}

// next returns the handler's next message. Errors: io.EOF at a good end, and the call's status.
func (l *localCall) next() (mem.BufferSlice, error) {
	select {
	case m := <-l.down:
		return m, nil
	case <-l.over:
		if l.err != nil {
			return nil, l.err
		}
		return nil, io.EOF
	case <-l.outer.Done():
		return nil, status.FromContextError(l.outer.Err()).Err()
	}
}

// ended is how a call ends whose handler ended.
func (l *localCall) ended(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.barred != nil {
		return l.barred.Err()
	}
	return err
}

// tell gives the program the metadata that it asked for.
func (l *localCall) tell(opts []grpc.CallOption) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, opt := range opts {
		switch o := opt.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = l.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = l.trailer
		}
	}
}

// localTransport is the call as grpc.ServerTransportStream, and as what pkg/rpc/wire receives from.
type localTransport localCall

// Method is grpc.ServerTransportStream's.
func (t *localTransport) Method() string { return t.method }

// SetHeader is grpc.ServerTransportStream's.
func (t *localTransport) SetHeader(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.headed {
		return flaw("the header was sent already")
	}
	t.header = metadata.Join(t.header, md)
	return nil
}

// SendHeader is grpc.ServerTransportStream's.
func (t *localTransport) SendHeader(md metadata.MD) error {
	if err := t.SetHeader(md); err != nil {
		return err
	}
	t.begin()
	return nil
}

// begin says that there is a header now.
func (t *localTransport) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.headed {
		t.headed = true
		close(t.began)
	}
}

// SetTrailer is grpc.ServerTransportStream's.
func (t *localTransport) SetTrailer(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trailer = metadata.Join(t.trailer, md)
	return nil
}

// ReadMessageHeader waits for the next message, and says how long it is, as five bytes do on the wire.
func (t *localTransport) ReadMessageHeader(header []byte) error {
	select {
	case m, more := <-t.up:
		if !more {
			return io.EOF
		}
		t.sent = m
		header[0] = 0
		binary.BigEndian.PutUint32(header[1:], uint32(len(m))) //nolint:gosec // a message of more than 4 GiB is too long at any length
		return nil
	case <-t.ctx.Done():
		return status.FromContextError(t.ctx.Err()).Err()
	}
}

// Read returns the bytes of the message.
func (t *localTransport) Read(n int) (mem.BufferSlice, error) {
	if n > len(t.sent) {
		return nil, io.ErrUnexpectedEOF
	}
	return mem.BufferSlice{mem.SliceBuffer(t.sent[:n])}, nil
}

// RecvCompress says that nothing is compressed.
func (*localTransport) RecvCompress() string { return "" }

// WriteStatus ends the call.
func (t *localTransport) WriteStatus(st *status.Status) error {
	t.mu.Lock()
	t.barred = st
	t.mu.Unlock()
	t.cancel()
	return nil
}

// localServer is the call as a stream's handler has it.
type localServer localCall

func (s *localServer) transport() *localTransport { return (*localTransport)(s) }

// SetHeader is grpc.ServerStream's.
func (s *localServer) SetHeader(md metadata.MD) error { return s.transport().SetHeader(md) }

// SendHeader is grpc.ServerStream's.
func (s *localServer) SendHeader(md metadata.MD) error { return s.transport().SendHeader(md) }

// SetTrailer is grpc.ServerStream's.
func (s *localServer) SetTrailer(md metadata.MD) { _ = s.transport().SetTrailer(md) }

// Context is grpc.ServerStream's.
func (s *localServer) Context() context.Context { return s.ctx }

// SendMsg is grpc.ServerStream's. It waits until the client takes the message.
func (s *localServer) SendMsg(m any) error {
	encoded, err := s.local.codec.Marshal(m)
	if err != nil {
		return flaw("the answer cannot be encoded")
	}
	s.transport().begin()
	select {
	case s.down <- encoded:
		return nil
	case <-s.ctx.Done():
		encoded.Free()
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// RecvMsg is grpc.ServerStream's. Every service receives through pkg/rpc/wire.
func (*localServer) RecvMsg(any) error {
	return authz.Errorf(authz.Internal, "INTERNAL", "a message is received past the gate")
}

// localClient is the call as its client has it.
type localClient localCall

func (c *localClient) call() *localCall { return (*localCall)(c) }

// Header is grpc.ClientStream's.
func (c *localClient) Header() (metadata.MD, error) {
	select {
	case <-c.began:
	case <-c.over:
	case <-c.outer.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header, nil
}

// Trailer is grpc.ClientStream's.
func (c *localClient) Trailer() metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trailer
}

// CloseSend is grpc.ClientStream's.
func (c *localClient) CloseSend() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if !c.closed {
		c.closed = true
		close(c.up)
	}
	return nil
}

// Context is grpc.ClientStream's.
func (c *localClient) Context() context.Context { return c.outer }

// SendMsg is grpc.ClientStream's. After CloseSend it is an error.
func (c *localClient) SendMsg(m any) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.closed {
		return flaw("a message is sent after the stream was closed for sending")
	}
	return c.call().send(m)
}

// RecvMsg is grpc.ClientStream's.
func (c *localClient) RecvMsg(m any) error {
	encoded, err := c.call().next()
	if err != nil {
		c.call().tell(c.opts)
		return err
	}
	return c.call().decode(encoded, m)
}
