package bench

import (
	"context"
	"math/rand/v2"
	"net"
	nethttp "net/http"
	"runtime"
	"testing"

	"google.golang.org/grpc/metadata"
	from "google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/door/http"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/rpc"
	"github.com/deputyauth/deputy/tests/harness"
)

// bareCalls are calls that come in through the door over HTTP and are answered by nobody: a message is received and another one sent.
type bareCalls struct {
	answer *deputyv1.CheckPermissionResponse
}

// Serve is http.Calls'.
func (b bareCalls) Serve(_ context.Context, _ string, by rpc.Carrier) (metadata.MD, error) {
	if _, err := by.Receive(func(int) error { return nil }); err != nil {
		return nil, err
	}
	return nil, by.Send(b.answer)
}

// Limit is http.Calls'.
func (bareCalls) Limit(string) int { return 32 << 10 }

// TestHTTP measures decisions that are asked for over HTTP, beside the same door with a bare handler behind it, which reads a question and sends an
// answer that is ready, and beside decisions in process: what both take together is what a decision over HTTP has to take.
func TestHTTP(t *testing.T) {
	server := harness.Start(t, daemon.Config{
		Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}, Evaluator: daemon.EvaluatorNative, HTTPAddr: "127.0.0.1:0",
	})
	d := dialDeputy(t, server.Addr().String())
	draw := cold(d.settle(t, sized(scaled(87_300, 5_000))))
	q := draw(rand.New(rand.NewPCG(1, 1)))
	answer, err := d.decisions.CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
		AgentId: q.agent, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: q.session}, Resource: harness.Ref("document:" + q.document), Permission: "view",
	})
	must(t, err)
	bareAddr := bareDoor(t, bareCalls{answer})
	here := func(ctx context.Context, r *rand.Rand) (bool, error) {
		q := draw(r)
		decision, err := server.Decide(ctx, authz.Case{
			Agent: authz.AgentID(q.agent), Session: authz.SessionID(q.session), Resource: authz.Object{Type: "document", ID: q.document}, Permission: "view",
		}, authz.Freshness{})
		return decision.Permissionship == authz.HasPermission, err
	}
	for _, protocol := range []string{"Connect JSON", "Connect"} {
		over := func(addr string) asking {
			return decide(deputyv1.NewPermissionsServiceClient(harness.DialHTTP(t, addr, harness.ServiceKey, protocol, nil)), draw)
		}
		bare := contender{name: protocol + ", bare handler", ask: over(bareAddr)}
		whole := contender{name: protocol, ask: over(server.HTTPAddr().String())}
		inProcess := contender{name: "in process, all cores", ask: here, workers: runtime.GOMAXPROCS(0)}
		agree(t, 60, []contender{bare, whole, inProcess})
		r := contest(t, "decisions over HTTP", 32, scaled(5, 1), []contender{bare, whole, inProcess})
		ratios := make([]float64, len(r[whole.name]))
		for i := range ratios {
			follows := 1 / (1/r[bare.name][i].rate + 1/r[inProcess.name][i].rate)
			ratios[i] = r[whole.name][i].rate / follows
		}
		atLeast(t, "decisions over "+protocol+" / the rate that follows from a bare handler and a decision in process", median(ratios), "", 0.85)
	}
}

// bareDoor serves a door without a server behind it, and returns where.
func bareDoor(t *testing.T, calls http.Calls) string {
	t.Helper()
	door, err := http.New(http.Config{
		Calls: calls, Services: []protoreflect.ServiceDescriptor{deputyv1.File_deputy_v1_permissions_proto.Services().ByName("PermissionsService")},
		Peer: func(*nethttp.Request) *from.Peer { return &from.Peer{} }, Old: func(*nethttp.Request) bool { return false },
		Ready: func(context.Context) bool { return true },
	})
	must(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	bare := door.Server(false)
	go func() { _ = bare.Serve(listener) }()
	t.Cleanup(func() { _ = bare.Close() })
	return listener.Addr().String()
}
