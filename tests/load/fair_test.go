package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// stalled is a graph on which nothing that one caller asks for comes to an end, until its call does.
type stalled struct {
	authz.Graph
	begun *atomic.Int64
}

// Snapshot is authz.Graph's.
func (g *stalled) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if authz.CallerOf(ctx) != "greedy" {
		return g.Graph.Snapshot(ctx, f)
	}
	g.begun.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOneCallerHoldsNotAll: one caller makes 200 calls of a kind of which the server does few at once, and none of them ends. A call of another caller
// is answered, and sooner than those that wait are refused. pkg/evaluate, pkg/evaluate/kept, pkg/engine and pkg/delegate have the same for what they do
// few of.
func TestOneCallerHoldsNotAll(t *testing.T) {
	t.Parallel()
	const greedy, bound = 200, 3 * time.Second
	var begun atomic.Int64
	w := open(t, daemon.Config{
		Engine: harness.Embedded(t), PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		JudgeOver: func(graph authz.Graph) authz.Graph { return &stalled{graph, &begun} },
		Callers: []*caller.Caller{
			called("greedy", caller.Limits{}, checker, auditor), called("modest", caller.Limits{}, checker, auditor),
		},
	})
	given, err := structpb.NewStruct(map[string]any{"note": "a context of some length, so that the message takes room"})
	w.must(err)
	items := make([]*deputyv1.CheckBulkPermissionsRequestItem, 1000)
	for i := range items {
		items[i] = w.item()
		items[i].Context = given
	}
	explain := func(trace bool) func(context.Context, *grpc.ClientConn) error {
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := deputyv1.NewPermissionsServiceClient(conn).ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{
				Check: w.question(), WithTrace: trace,
			})
			return err
		}
	}
	for _, kind := range []struct {
		name string
		call func(context.Context, *grpc.ClientConn) error
	}{
		{"explanations", explain(false)},
		{"explanations with a trace", explain(true)},
		{"large messages", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := deputyv1.NewPermissionsServiceClient(conn).CheckBulkPermissions(ctx, &deputyv1.CheckBulkPermissionsRequest{Items: items})
			return err
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			greedyConn, modestConn := w.asks("greedy"), w.asks("modest")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var calls sync.WaitGroup
			var refused atomic.Int64
			for range greedy {
				calls.Go(func() {
					if client.ReasonOf(kind.call(ctx, greedyConn)) == client.ReasonBusy {
						refused.Add(1)
					}
				})
			}
			eventually(t, "the server does as many as it does at once for one caller", func() bool { return refused.Load() > 0 })
			began := time.Now()
			err := kind.call(ctx, modestConn)
			if took := time.Since(began); err != nil || took > bound {
				t.Errorf("beside %d calls of another caller: %v after %v, want an answer within %v", greedy, err, took, bound)
			} else {
				t.Log(fmt.Sprintf("%d calls of another caller are there, %d of them began and %d were refused; the answer took %v", greedy, begun.Load(), refused.Load(), took))
			}
			cancel()
			calls.Wait()
		})
	}
}
