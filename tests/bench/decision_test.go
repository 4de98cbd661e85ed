package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// bare answers a decision without making one: the limit for anything that is asked over gRPC.
type bare struct {
	deputyv1.UnimplementedPermissionsServiceServer
	answer *deputyv1.CheckPermissionResponse
}

// CheckPermission answers what was answered before.
func (b *bare) CheckPermission(context.Context, *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
	return b.answer, nil
}

// serveBare starts a server that does nothing else.
func serveBare(t testing.TB, answer *deputyv1.CheckPermissionResponse) deputyv1.PermissionsServiceClient {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	deputyv1.RegisterPermissionsServiceServer(server, &bare{answer: answer})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return deputyv1.NewPermissionsServiceClient(harness.Dial(t, listener.Addr().String(), harness.ServiceKey))
}

// agentRun is a session of a tenant's first agent for its second user.
type agentRun struct {
	tenant  int
	session string
}

// populate loads the graph and starts a session in each tenant.
func populate(t testing.TB, s *harness.Server, g graph) []agentRun {
	t.Helper()
	s.WriteSchema(t, schemaText())
	// Registered before the graph is there: an id that has left any trace is taken.
	for i := range g.tenants {
		if _, err := s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent(i, 0), OwnerIds: []string{user(i, 0)}}); err != nil {
			t.Fatal(err)
		}
	}
	client := v1.NewPermissionsServiceClient(s.Admin)
	var group errgroup.Group
	group.SetLimit(2)
	for tenant := range g.tenants {
		group.Go(func() error { return importAll(t.Context(), client, messages(tenant)) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	runs := make([]agentRun, g.tenants)
	for i := range runs {
		for _, who := range []string{"tenant:" + tenant(i), "user:" + user(i, 1)} {
			if _, err := s.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)}); err != nil {
				t.Fatal(err)
			}
		}
		d, err := s.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: agent(i, 0), TenantId: tenant(i), Unscoped: true, Ttl: durationpb.New(time.Hour),
			Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:" + user(i, 1))},
		})
		if err != nil {
			t.Fatal(err)
		}
		started, err := s.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
			AgentId: agent(i, 0), Ttl: durationpb.New(time.Hour),
			Targets: []*deputyv1.SessionTarget{{DelegationId: d.GetDelegation().GetDelegationId()}},
		})
		if err != nil {
			t.Fatal(err)
		}
		runs[i] = agentRun{i, started.GetSession().GetSessionId()}
	}
	return runs
}

// TestDecision measures whole decisions, on behalf of a user in a session, about uniformly random documents,
// beside a bare call with the same messages.
func TestDecision(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	s := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}})
	runs := populate(t, s, g)
	ask := func(client deputyv1.PermissionsServiceClient, worker, i int) (*deputyv1.CheckPermissionResponse, error) {
		r := rand.New(rand.NewPCG(uint64(worker), uint64(i)))
		run := runs[r.IntN(len(runs))]
		return client.CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: agent(run.tenant, 0), Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: run.session},
			Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: document(run.tenant, r.IntN(documentsPerTenant))}, Permission: "view",
		})
	}
	deputy := s.Permissions()
	answers := map[deputyv1.Permissionship]int{}
	var allowed *deputyv1.CheckPermissionResponse
	for i := range 400 {
		answer, err := ask(deputy, 0, i)
		if err != nil {
			t.Fatal(err)
		}
		answers[answer.GetPermissionship()]++
		if answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			allowed = answer
		}
	}
	if allowed == nil || len(answers) != 2 {
		t.Fatalf("the workload is answered %v", answers)
	}
	limit := serveBare(t, allowed)
	for _, workers := range []int{1, 32} {
		var ratios, bares, decisions []float64
		for range scaled(5, 1) {
			b := rate(t, workers, lasting(), func(w, i int) error { _, err := ask(limit, w, i); return err })
			d := rate(t, workers, lasting(), func(w, i int) error { _, err := ask(deputy, w, i); return err })
			bares, decisions, ratios = append(bares, b), append(decisions, d), append(ratios, d/b)
		}
		name := fmt.Sprintf("%d workers", workers)
		add(t, "bare gRPC calls, "+name, median(bares), "/s")
		add(t, "decisions on behalf of a user, "+name, median(decisions), "/s")
		add(t, "decisions / bare calls, "+name, median(ratios), "")
	}
}
