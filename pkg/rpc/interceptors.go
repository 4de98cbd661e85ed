package rpc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// engineTimeout is how long a unary call waits for the engine when its caller sets no deadline.
const engineTimeout = 10 * time.Second

// unhurried are the unary methods that take as long as they take.
var unhurried = map[string]bool{"/deputy.v1.StoreService/Compact": true}

// leaveTime is what part of a caller's time is kept to answer that the engine did not.
func leaveTime(remaining time.Duration) time.Duration {
	return min(max(remaining/20, 5*time.Millisecond), 500*time.Millisecond)
}

// Gate is what every call passes: its caller is identified and judged, its messages are received, the call is judged again as its caller is then,
// panics become Internal, errors become statuses, and each call leaves one line in the log. It is safe for concurrent use once the services are
// registered.
type Gate struct {
	callers  *caller.Callers
	log      *zap.Logger
	receiver *wire.Receiver
	// methods are those of the services that were registered, by full name.
	methods map[string]*wire.Method
	// admission admits calls, fairly.
	admission *admission.Admission
	figures   *Figures
	// journal records every call; nil records none.
	journal *journal.Journal
	open    openStreams
	// strangers lets a line through now and then about callers whose proof is valid, and nobody's.
	strangers authz.Seldom
	// uncounted are the calls of nobody known that no record counts yet.
	uncounted uncounted
	// sealer opens the tokens of answers, so that records hold the engine's revisions.
	sealer *Sealer
}

// NewGate returns the gate of one server. figures and in, where calls are recorded, may be nil.
func NewGate(callers *caller.Callers, admits *admission.Admission, figures *Figures, in *journal.Journal, log *zap.Logger) *Gate {
	g := &Gate{callers: callers, admission: admits, figures: figures, journal: in, log: log, methods: map[string]*wire.Method{}}
	g.receiver = wire.NewReceiver(g.came)
	g.receiver.Admit(wire.Admits{Bytes: messageBytes, Turn: takeTurn})
	g.receiver.Late(g.late)
	return g
}

// Chain is what calls pass through on their way to a handler, in order, whichever way they come in.
type Chain struct {
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
}

// And returns the chain with another one behind it.
func (c Chain) And(then Chain) Chain {
	return Chain{Unary: slices.Concat(c.Unary, then.Unary), Stream: slices.Concat(c.Stream, then.Stream)}
}

// unary is the chain as one interceptor.
func (c Chain) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	for _, one := range slices.Backward(c.Unary) {
		next := handler
		handler = func(ctx context.Context, req any) (any, error) { return one(ctx, req, info, next) }
	}
	return handler(ctx, req)
}

// stream is the chain as one interceptor.
func (c Chain) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	for _, one := range slices.Backward(c.Stream) {
		next := handler
		handler = func(srv any, stream grpc.ServerStream) error { return one(srv, stream, info, next) }
	}
	return handler(srv, stream)
}

// Chain is what every call has to pass through. What belongs to a server's connections comes behind it.
func (g *Gate) Chain(limits StreamLimits) Chain {
	return g.figures.chain().
		And(Chain{Unary: []grpc.UnaryServerInterceptor{g.unary}, Stream: []grpc.StreamServerInterceptor{g.stream}}).
		And(limits.chain())
}

// Options returns the server options with which every call of gRPC passes through a chain, which begins with the gate's.
func (*Gate) Options(through Chain) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(through.Unary...), grpc.ChainStreamInterceptor(through.Stream...), grpc.MaxRecvMsgSize(MaxReceived),
		// Without a handler gRPC answers calls of methods that it does not know past all interceptors, so that they would leave no trace.
		grpc.UnknownServiceHandler(unknown),
	}
}

// unknown is the handler of methods that there are not.
func unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return unserved(method)
}

// Receiver receives the messages of services that do not have them decoded by the gate: the door's.
func (g *Gate) Receiver() *wire.Receiver { return g.receiver }

func (g *Gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	g.figures.begin()
	defer func() {
		RecordingOf(ctx).answers(resp)
		err = g.finish(ctx, info.FullMethod, start, recover(), err)
		if err != nil {
			resp = nil
		}
	}()
	call, err := g.identify(ctx, info.FullMethod)
	ctx = call //nolint:contextcheck // it is made of the call's
	if err != nil {
		return nil, err
	}
	leave, err := g.enter(call)
	if err != nil {
		return nil, err
	}
	defer leave()
	return handler(ctx, req)
}

func (g *Gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx := stream.Context()
	g.figures.begin()
	defer func() { err = g.finish(ctx, info.FullMethod, start, recover(), err) }()
	known := &identified{ServerStream: stream, gate: g, barred: make(chan error, 1)}
	known.call, err = g.identify(ctx, info.FullMethod)
	if ctx = known.call; err != nil {
		return err
	}
	leave, err := g.enter(known.call)
	if err != nil {
		return err
	}
	defer leave()
	defer known.replace(nil, true)
	defer g.open.add(known)()
	if !known.call.basis.Holds(g.callers.Basis(ctx), rejudgeEvery) {
		g.rejudge(known) // it may have come too late to be judged when the book was replaced
	}
	return handler(srv, known)
}

// tellStranger logs, now and then, that a proof is valid and nobody's: it is mostly one that an operator forgot.
func (g *Gate) tellStranger(method string, err error) {
	says, ok := errors.AsType[*caller.Nobodys](err)
	if !ok {
		return
	}
	if kept, ok := g.strangers.Next(); ok {
		g.log.Warn("a call is refused, because a valid proof is no caller's", zap.String("method", method), zap.String("reason", says.Error()),
			zap.Int("more", kept))
	}
}

// identified is a stream whose context carries the caller, and whose messages the gate receives.
type identified struct {
	grpc.ServerStream
	call *call
	gate *Gate
	// barred has the reason why the stream has to end, once its caller may not go on with it.
	barred chan error

	// mu guards message: the call may end while its handler still receives (see StreamLimits).
	mu      sync.Mutex
	message *wire.Message
	over    bool
}

// Context is grpc.ServerStream's.
func (s *identified) Context() context.Context { return s.call }

// RecvMsg is grpc.ServerStream's. The room that a message takes is given back when the next comes, or at the end.
func (s *identified) RecvMsg(m any) (err error) {
	s.replace(nil, false)
	message, err := s.gate.receive(s.call, s.call.method, m)
	s.replace(message, false)
	if err != nil {
		return err
	}
	err = s.gate.proves(s.call, m)
	s.call.recording.asks(m)
	s.call.recording.proven(s.call.proof)
	if err != nil {
		return err
	}
	return s.call.recording.Begin(s.call)
}

// SendMsg is grpc.ServerStream's. What is to be recorded before the message leaves is.
func (s *identified) SendMsg(m any) error {
	if err := s.call.recording.sends(s.call, m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// SendHeader is grpc.ServerStream's. The header of a call that has one answer leaves with that: nothing leaves before the record.
func (s *identified) SendHeader(md metadata.MD) error {
	if s.call.recording != nil && s.call.recording.unary {
		return s.SetHeader(md)
	}
	return s.ServerStream.SendHeader(md)
}

// replace frees the message that there is, and keeps another one instead, unless the call is over.
func (s *identified) replace(by *wire.Message, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.message.Free()
	s.message, s.over = by, s.over || over
	if s.over {
		s.message.Free()
		s.message = nil
	}
}

// finish turns the outcome of a call into a status, records it, counts it and logs it: at debug, or at error where it is the
// server's own fault. Nothing of the request is logged.
func (g *Gate) finish(ctx context.Context, method string, start time.Time, panicked any, err error) (st error) {
	defer func() {
		g.pushBack(ctx, st)
		g.figures.end(caller.Of(ctx), st)
	}()
	recording := RecordingOf(ctx)
	if g.shed(ctx, recording, method, err) {
		recording = nil // it is recorded, or counted
	}
	if panicked == nil && err == nil {
		err = recording.end(ctx, nil)
	}
	if panicked == nil && err == nil && !g.log.Core().Enabled(zap.DebugLevel) {
		return nil
	}
	fields := []zap.Field{
		zap.String("method", method),
		zap.Duration("took", time.Since(start)),
		zap.String("caller", caller.Of(ctx).Label()),
	}
	if panicked != nil {
		st = recording.end(ctx, toStatus(ctx, authz.Errorf(authz.Internal, "", "the call panicked")))
		g.log.Error("call panicked", append(fields, zap.String("panic", fmt.Sprint(panicked)), zap.ByteString("stack", debug.Stack()))...)
		return st
	}
	st = recording.end(ctx, toStatusOf(ctx, method, err))
	fields = append(fields, zap.Stringer("code", status.Code(st)))
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	if status.Code(st) == codes.Internal {
		g.log.Error("call failed", fields...)
		return st
	}
	g.log.Debug("call", fields...)
	return st
}
