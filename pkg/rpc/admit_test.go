package rpc

import (
	"context"
	"errors"
	"testing"

	_ "github.com/authzed/authzed-go/proto/authzed/api/v1" // whose contract says which methods have one answer
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
)

// oneStream is a stream that has nothing but a context.
type oneStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has its context
}

func (s *oneStream) Context() context.Context { return s.ctx }

// TestGateCountsCalls: the gate counts calls of both kinds, gives each back when it ends, also with an error or a panic, and does not count what
// anybody may call.
func TestGateCountsCalls(t *testing.T) {
	t.Parallel()
	book, err := caller.NewBook(caller.Preshared([]string{"key"}, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	gate := NewGate(caller.NewCallers(book), admission.New(admission.Settings{Callers: caller.Limits{Concurrent: 3, Streams: 2}}), nil, nil, zap.NewNop())
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer key"))
	const (
		check  = "/deputy.v1.PermissionsService/CheckPermission"
		lookup = "/deputy.v1.PermissionsService/LookupResources"
		read   = "/authzed.api.v1.SchemaService/ReadSchema" // the door serves it as a stream, and it is none
		probe  = "/grpc.health.v1.Health/Watch"
	)
	unary := func(inside func() error) error {
		_, err := gate.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: check}, func(context.Context, any) (any, error) { return nil, inside() })
		return err
	}
	stream := func(method string) func(inside func() error) error {
		return func(inside func() error) error {
			return gate.stream(nil, &oneStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { return inside() })
		}
	}
	nothing := func() error { return nil }
	within := func(calls ...func(func() error) error) error {
		inside := nothing
		for _, one := range calls {
			last := inside
			inside = func() error { return one(last) }
		}
		return inside()
	}
	for range 10 {
		if err := within(unary, stream(read), unary, stream(lookup), stream(lookup), stream(probe), stream(probe), stream(probe)); err != nil {
			t.Fatalf("three calls and two streams at once: %v", err)
		}
		if err := unary(func() error { return errors.New("failed") }); status.Code(err) != codes.Internal {
			t.Fatal(err)
		}
		if err := stream(lookup)(func() error { panic("a flaw") }); status.Code(err) != codes.Internal {
			t.Fatal(err)
		}
	}
	for name, calls := range map[string][]func(func() error) error{
		"a fourth call":                    {unary, unary, unary, unary},
		"a fourth call, through the door":  {stream(read), unary, unary, unary},
		"a third stream":                   {stream(lookup), stream(lookup), stream(lookup)},
		"a third stream beside some calls": {stream(lookup), unary, stream(lookup), unary, stream(lookup)},
	} {
		if err := within(calls...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := gate.admission.UnderWay(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
}
