package rpc

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// MaxReceived is the largest message, in bytes, that gRPC itself may receive on a server whose services are all Guarded:
// none is received so.
const MaxReceived = 4 << 10

// limits are the methods whose messages may be larger than wire.Small.
var limits = map[string]wire.Limit{
	// 1,000 items, each with a context.
	"/deputy.v1.PermissionsService/CheckBulkPermissions": wire.Large,
	// 10,000 ids.
	"/deputy.v1.PermissionsService/FilterResources": wire.Large,
	// 500 grants, or as many principals.
	"/deputy.v1.SessionsService/StartSession":        wire.Medium,
	"/deputy.v1.DelegationsService/CreateDelegation": wire.Medium,
	"/deputy.v1.AgentsService/RegisterAgent":         wire.Medium,
	// 1,000 relationships.
	"/deputy.v1.FollowService/ReadRows": wire.Large,
	// 100 objects, or 20 with their owners.
	"/deputy.v1.AdoptionService/ReviewAdoption":  wire.Medium,
	"/deputy.v1.AdoptionService/ConfirmAdoption": wire.Medium,
}

// Guarded registers services on a gRPC server so that nothing of a call is read before its caller is known, and every
// message is received by pkg/rpc/wire. Services are registered before the server serves.
type Guarded struct {
	*grpc.Server
	gate *Gate
}

// Guard returns the server as services are to be registered on it. The server was built with the gate's Options.
func (g *Gate) Guard(s *grpc.Server) *Guarded { return &Guarded{s, g} }

// RegisterService registers a service whose messages Deputy receives. A method that is not in the process's protobuf
// registry receives none, and fails.
func (s *Guarded) RegisterService(desc *grpc.ServiceDesc, impl any) {
	guarded := *desc
	guarded.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		s.gate.know(desc.ServiceName, m.MethodName)
		guarded.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: s.gate.later("/"+desc.ServiceName+"/"+m.MethodName, m.Handler)}
	}
	for _, m := range desc.Streams {
		s.gate.know(desc.ServiceName, m.StreamName)
	}
	s.Server.RegisterService(&guarded, impl)
}

// know prepares a method to be received.
func (g *Gate) know(service, name string) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return
	}
	described, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return
	}
	m := described.Methods().ByName(protoreflect.Name(name))
	if m == nil {
		return
	}
	full := "/" + service + "/" + name
	limit, larger := limits[full]
	if !larger {
		limit = wire.Small
	}
	g.methods[full] = &wire.Method{
		Type: wire.TypeOf(m.Input()), Limit: limit, Streams: m.IsStreamingClient(),
		// Health and reflection are gRPC's own, and their clients may be newer.
		Tolerant: tolerant(service),
	}
}

// tolerant reports whether a service is gRPC's own.
func tolerant(service string) bool { return strings.HasPrefix(service, "grpc.health.") }

// later makes a handler of a unary method that has gRPC's, which decodes before it runs interceptors, decode after.
func (g *Gate) later(method string, handler grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, _ func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		decide := func(ctx context.Context, _ any) (any, error) {
			message := &received{gate: g, ctx: ctx, method: method}
			defer message.free()
			return handler(srv, ctx, message.into, g.hurry)
		}
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: method}
		if interceptor == nil {
			return nil, authz.Errorf(authz.Internal, "INTERNAL", "the server was built without the gate's options")
		}
		return interceptor(ctx, nil, info, decide)
	}
}

// received is the message of a unary call.
type received struct {
	gate    *Gate
	ctx     context.Context //nolint:containedctx // a call's message has its context
	method  string
	message *wire.Message
}

// into decodes the message.
func (r *received) into(m any) (err error) {
	r.message, err = r.gate.receive(r.ctx, r.method, m)
	return err
}

func (r *received) free() { r.message.Free() }

// receive decodes a call's next message. What it returns is freed once the call is done with the message.
func (g *Gate) receive(ctx context.Context, method string, into any) (*wire.Message, error) {
	known, ok := g.methods[method]
	target, isMessage := into.(proto.Message)
	if !ok || !isMessage {
		return nil, authz.Errorf(authz.Internal, "INTERNAL", "the method is not known")
	}
	message, err := g.receiver.Receive(ctx, known)
	if err != nil {
		return nil, err
	}
	if err := message.Decode(target); err != nil {
		message.Free()
		return nil, err
	}
	return message, nil
}

// hurry bounds the time of a unary method, from when its message has come. One that writes is recorded first.
func (g *Gate) hurry(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	recording := RecordingOf(ctx)
	err := g.proves(ctx, req)
	recording.asks(req)
	recording.proven(provenBy(ctx))
	if err != nil {
		return nil, err
	}
	if unhurried[info.FullMethod] {
		if err := recording.Begin(ctx); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	until := waiting(ctx)
	defer until.end()
	if err := recording.Begin(until); err != nil { //nolint:contextcheck // it is made of the call's
		return nil, err
	}
	return handler(until, req) //nolint:contextcheck // it is made of the call's
}

// waiting is the context of one answer, which waits for the engine as long as the caller's time allows. It is to be ended.
func waiting(ctx context.Context) *bounded {
	budget := engineTimeout
	if deadline, ok := ctx.Deadline(); ok {
		remaining := time.Until(deadline)
		budget = remaining - leaveTime(remaining)
	}
	return &bounded{Context: ctx, until: time.Now().Add(budget)}
}
