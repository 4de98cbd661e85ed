package client_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/test/bufconn"

	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// holder is a server that holds calls about the agent "held" until it is opened, and answers others at once.
type holder struct {
	deputyv1.UnimplementedAgentsServiceServer

	held, answered atomic.Int32
	open           chan struct{}
}

func (d *holder) GetAgent(ctx context.Context, in *deputyv1.GetAgentRequest) (*deputyv1.GetAgentResponse, error) {
	if in.GetAgentId() != "held" {
		d.answered.Add(1)
		return &deputyv1.GetAgentResponse{}, nil
	}
	d.held.Add(1)
	select {
	case <-d.open:
		return &deputyv1.GetAgentResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve serves until the test ends, or stop is called.
func (d *holder) serve(t *testing.T, l net.Listener) (stop func()) {
	t.Helper()
	s := grpc.NewServer()
	deputyv1.RegisterAgentsServiceServer(s, d)
	is := health.NewServer()
	is.SetServingStatus("deputy.calls", healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(s, is)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s.Stop
}

// TestServerThatComesBackIsFoundSoon: a server that was away, for however long, has calls again within seconds. In a rolling restart the next server stops
// as soon as this one is ready.
func TestServerThatComesBackIsFoundSoon(t *testing.T) {
	for _, away := range []time.Duration{time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var there atomic.Pointer[bufconn.Listener]
			c, err := client.Dial("127.0.0.1:50051", client.WithPresharedKey("s3cret"), client.WithInsecure(), client.WithBalancing(),
				client.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					if l := there.Load(); l != nil {
						return l.DialContext(ctx)
					}
					return nil, errors.New("connection refused")
				})))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			c.Conn().(*grpc.ClientConn).Connect()
			<-time.After(away)
			d := &holder{}
			l := bufconn.Listen(64 << 10)
			defer d.serve(t, l)()
			there.Store(l)
			back := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if _, err := c.Agents.GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: "bot"}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(back); took > 1500*time.Millisecond {
				t.Errorf("a server that was away for %s was found %s after it came back", away, took)
			}
		})
	}
}

// TestServerDiesWithManyCalls: the calls that a server had when it died are answered by another one, up to the 500 that retryThrottling allows.
func TestServerDiesWithManyCalls(t *testing.T) {
	const calls = 400
	var servers [2]*holder
	var stops [2]func()
	names := manual.NewBuilderWithScheme("servers")
	var all []resolver.Address
	for i := range servers {
		servers[i] = &holder{open: make(chan struct{})}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		stops[i] = servers[i].serve(t, l)
		all = append(all, resolver.Address{Addr: l.Addr().String()})
	}
	names.InitialState(resolver.State{Addresses: all})
	resolver.Register(names)
	c, err := client.Dial("servers:///deputy", client.WithPresharedKey("s3cret"), client.WithInsecure(), client.WithBalancing(),
		client.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	get := func(agent string) error {
		_, err := c.Agents.GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: agent}, grpc.WaitForReady(true))
		return err
	}
	eventually(t, "the client is connected to both servers", func() bool {
		if err := get("other"); err != nil {
			t.Fatal(err)
		}
		return servers[0].answered.Load() > 0 && servers[1].answered.Load() > 0
	})
	outcomes := make(chan error, calls)
	for range calls {
		go func() { outcomes <- get("held") }()
	}
	eventually(t, "all calls are under way", func() bool { return servers[0].held.Load()+servers[1].held.Load() == calls })
	if held := servers[0].held.Load(); held < calls/4 {
		t.Fatalf("%d of %d calls are at the server that is to die", held, calls)
	}
	close(servers[1].open)
	stops[0]()
	var failed []error
	for range calls {
		if err := <-outcomes; err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d calls of %d failed, the first with: %v", len(failed), calls, failed[0])
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it did not come about that %s", what)
		}
	}
}
