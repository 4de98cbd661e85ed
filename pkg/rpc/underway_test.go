package rpc

import (
	"context"
	"slices"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Calls of services stop short of those that take access away, and those stop short of admins': whatever checks are under
// way, a session can be ended, and whatever services do, an admin can suspend. A responder that is bound to some tenants is no admin in this.
func TestCallsUnderWay(t *testing.T) {
	const (
		check = "/deputy.v1.PermissionsService/CheckPermission"
		end   = "/deputy.v1.SessionsService/EndSession"
		agent = "/deputy.v1.AgentsService/SuspendAgent"
		user  = "/deputy.v1.PrincipalsService/Suspend"
		brake = "/deputy.v1.BrakeService/Brake"
		probe = "/grpc.health.v1.Health/Check"

		checker, responder = deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_RESPONDER
	)
	u := &underWay{most: 80}
	confined := authz.Unbounded()
	confined.Tenants = authz.NamesOf("acme")
	fillAs := func(role caller.Role, bounds *authz.Bounds, method string) (ends []func()) {
		t.Helper()
		for {
			end, err := u.begin(caller.With(t.Context(), &caller.Caller{Name: "x", Roles: caller.RolesOf(role), Bounds: bounds}), method)
			if err != nil {
				if authz.KindOf(err) != authz.Exhausted {
					t.Fatal(err)
				}
				return ends
			}
			if ends = append(ends, end); len(ends) > 1000 {
				t.Fatal("calls have no bound")
			}
		}
	}
	fill := func(role caller.Role, method string) []func() { return fillAs(role, authz.Unbounded(), method) }
	for _, method := range []string{end, agent, user, brake} {
		checks, confinedChecks := fill(checker, check), fillAs(responder, confined, check)
		narrowing := fillAs(responder, confined, method)
		admins := fill(responder, check)
		if len(checks) != 60 || len(confinedChecks) != 0 || len(narrowing) != 10 || len(admins) != 10 {
			t.Errorf("%d checks, %d more of a confined responder, %d of its %s, %d of admins; want 60, 0, 10, 10",
				len(checks), len(confinedChecks), len(narrowing), method, len(admins))
		}
		for _, done := range slices.Concat(checks, narrowing, admins) {
			done()
		}
	}
	checks := fill(checker, check)
	if narrowing, admins := fill(checker, end), fill(responder, check); len(checks) != 60 || len(narrowing) != 10 || len(admins) != 10 {
		t.Errorf("%d checks, %d calls that take access away, %d of admins; want 60, 10, 10", len(checks), len(narrowing), len(admins))
	}
	if _, err := u.begin(t.Context(), probe); err != nil {
		t.Errorf("health: %v", err)
	}
	for _, done := range checks {
		done()
	}
	if again := fill(checker, check); len(again) != 40 {
		t.Errorf("%d checks beside 20 others, want 40", len(again))
	}
}

// oneStream is a stream that has nothing but a context.
type oneStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has its context
}

func (s *oneStream) Context() context.Context { return s.ctx }

// The gate counts calls of both kinds, and gives each back when it ends.
func TestGateCountsCalls(t *testing.T) {
	book, err := caller.NewBook(caller.Preshared([]string{"key"}, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	gate := NewGate(caller.NewCallers(book), nil, nil, zap.NewNop())
	gate.underWay.most = 4 // of which services have 3
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer key"))
	const method = "/deputy.v1.PermissionsService/CheckPermission"
	unary := func(inside func() error) error {
		_, err := gate.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) { return nil, inside() })
		return err
	}
	stream := func(inside func() error) error {
		return gate.stream(nil, &oneStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { return inside() })
	}
	nothing := func() error { return nil }
	for range 10 {
		if err := unary(func() error { return stream(func() error { return unary(nothing) }) }); err != nil {
			t.Fatalf("three calls at once: %v", err)
		}
	}
	for name, fourth := range map[string]func(func() error) error{"unary": unary, "stream": stream} {
		err := unary(func() error { return stream(func() error { return unary(func() error { return fourth(nothing) }) }) })
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a fourth call at once, %s: %v", name, err)
		}
	}
}
