package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// engineTimeout is how long a unary call waits for the engine when its caller sets no deadline.
const engineTimeout = 10 * time.Second

// unhurried are the unary methods that take as long as they take.
var unhurried = map[string]bool{"/deputy.v1.StoreService/Compact": true}

// leaveTime is what part of a caller's time is kept to answer that the engine did not.
func leaveTime(remaining time.Duration) time.Duration {
	return min(max(remaining/20, 5*time.Millisecond), 500*time.Millisecond)
}

// gate is what every call passes: panics become Internal, callers get a role, errors become statuses,
// and each call leaves one line in the log.
type gate struct {
	keys *Keys
	log  *zap.Logger
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() {
		err = g.finish(ctx, info.FullMethod, start, recover(), err)
		if err != nil {
			resp = nil
		}
	}()
	if ctx, err = g.keys.authenticate(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if unhurried[info.FullMethod] {
		return handler(ctx, req)
	}
	budget := engineTimeout
	if deadline, ok := ctx.Deadline(); ok {
		remaining := time.Until(deadline)
		budget = remaining - leaveTime(remaining)
	}
	until := &bounded{Context: ctx, until: time.Now().Add(budget)}
	defer until.end()
	return handler(until, req) //nolint:contextcheck // it is made of the call's
}

func (g *gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx := stream.Context()
	defer func() { err = g.finish(ctx, info.FullMethod, start, recover(), err) }()
	if ctx, err = g.keys.authenticate(ctx, info.FullMethod); err != nil {
		return err
	}
	return handler(srv, &identified{stream, ctx})
}

// identified is a stream whose context carries the caller's role.
type identified struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has its context
}

func (s *identified) Context() context.Context { return s.ctx }

// finish turns the outcome of a call into a status and logs it: at debug, or at error where it is the
// server's own fault. Nothing of the request is logged.
func (g *gate) finish(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	if panicked == nil && err == nil && !g.log.Core().Enabled(zap.DebugLevel) {
		return nil
	}
	fields := []zap.Field{
		zap.String("method", method),
		zap.Duration("took", time.Since(start)),
		zap.Stringer("caller", RoleOf(ctx)),
	}
	if panicked != nil {
		err = status.Error(codes.Internal, "internal error")
		g.log.Error("call panicked", append(fields, zap.String("panic", fmt.Sprint(panicked)), zap.ByteString("stack", debug.Stack()))...)
		return err
	}
	st := toStatus(ctx, err)
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
