package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
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
type stalled struct{ authz.Graph }

// Snapshot is authz.Graph's.
func (g *stalled) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if authz.CallerOf(ctx) != "greedy" {
		return g.Graph.Snapshot(ctx, f)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOneCallerHoldsNotAll: one caller makes 200 calls of a kind of which the server does few at once, and none of them ends. A call of another caller
// is answered, and sooner than those that wait are refused. pkg/evaluate, pkg/evaluate/kept, pkg/engine and pkg/delegate have the same for what they do
// few of.
func TestOneCallerHoldsNotAll(t *testing.T) { // one kind after the other, because they share the greedy caller's turns
	const greedy, bound = 200, 3 * time.Second
	w := open(t, daemon.Config{
		Engine: harness.Embedded(t), PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		JudgeOver: func(graph authz.Graph) authz.Graph { return &stalled{graph} },
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
				t.Logf("%d calls of another caller are there, and %d were refused; the answer took %v", greedy, refused.Load(), took)
			}
			cancel()
			calls.Wait()
		})
	}
}

// TestStreamsPay: a caller with a rate reads no faster than that, however much one stream has, and a short stream costs what a call does.
func TestStreamsPay(t *testing.T) {
	t.Parallel()
	limits := caller.Limits{Rate: 10, Burst: 10}
	w := served(t, called("desk", limits, checker, auditor, writer), called("short", limits, checker, auditor, writer),
		called("shop", caller.Limits{}, checker, auditor, writer))
	const documents = 2_000
	for from := 0; from < documents; from += 500 {
		var rows []string
		for i := range 500 {
			rows = append(rows, fmt.Sprintf("document:d%d#reader@user:bob", from+i))
		}
		w.Touch(t, rows...)
	}
	read := func(name, id string) (n int, took time.Duration) {
		t.Helper()
		began := time.Now()
		stream, err := v1.NewPermissionsServiceClient(w.asks(name)).ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: id, OptionalRelation: "reader"},
		})
		w.must(err)
		for {
			if _, err = stream.Recv(); errors.Is(err, io.EOF) {
				return n, time.Since(began)
			}
			w.must(err)
			n++
		}
	}
	// At least an object each: 20 of the rate or more, of which the burst has 10.
	if n, took := read("desk", ""); n < documents || took < 900*time.Millisecond {
		t.Errorf("at 10 a second, and 100 objects for one, a caller read %d relationships in %v", n, took)
	}
	if n, took := read("shop", ""); n < documents {
		t.Errorf("a caller without a rate read %d relationships in %v", n, took)
	}
	for range 9 {
		if n, _ := read("short", "plan"); n != 2 {
			t.Errorf("the plan has %d readers", n)
		}
	}
}
