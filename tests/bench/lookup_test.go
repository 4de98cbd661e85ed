package bench

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestLookup measures lookups of Deputy's own evaluator beside those of Deputy over SpiceDB's, on the same graph in the same run.
func TestLookup(t *testing.T) {
	const native, spicedb = "Deputy", "Deputy, --evaluator=spicedb"
	serving := map[string]deputy{}
	running := map[string][]agentRun{}
	for name, evaluator := range map[string]string{native: daemon.EvaluatorNative, spicedb: daemon.EvaluatorSpiceDB} {
		server := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}, Evaluator: evaluator})
		d := dialDeputy(t, server.Addr().String())
		serving[name], running[name] = d, d.settle(t, sized(scaled(87_300, 5_000)))
	}
	// Both have the same sessions, each with ids of its own.
	reach := func(name string, limit uint32, found *int) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			run := running[name][r.IntN(len(running[name]))]
			n, err := reached(ctx, serving[name].decisions, run, limit)
			*found += n
			return n > 0, err
		}
	}
	both := func(ask func(name string) asking) []contender {
		return []contender{{name: native, ask: ask(native)}, {name: spicedb, ask: ask(spicedb)}}
	}
	var objects, calls int
	count := func(name string) asking {
		if name != native {
			return reach(name, 0, new(int))
		}
		ask := reach(name, 0, &objects)
		return func(ctx context.Context, r *rand.Rand) (bool, error) { calls++; return ask(ctx, r) }
	}
	for i := range scaled(20, 3) {
		var one, other int
		for name, found := range map[string]*int{native: &one, spicedb: &other} {
			if _, err := reach(name, 0, found)(t.Context(), rand.New(rand.NewPCG(0, uint64(i)))); err != nil {
				t.Fatal(err)
			}
		}
		if one != other || one == 0 {
			t.Fatalf("lookup %d: %d objects, over SpiceDB %d", i, one, other)
		}
	}
	r := contest(t, "LookupResources of deputy.v1", 1, scaled(3, 1), both(count))
	rates := make([]float64, len(r[native]))
	for i, s := range r[native] {
		rates[i] = s.rate * float64(objects) / float64(max(calls, 1))
	}
	add(t, "LookupResources of deputy.v1, 1 worker: objects", median(rates), "/s")
	atLeast(t, "LookupResources of deputy.v1 / with --evaluator=spicedb, 1 worker", r.over(native, spicedb), "", 8)

	draw := cold(running[native])
	first := contest(t, "the first object of a lookup, and a decision", 1, scaled(3, 1), []contender{
		{name: "a decision", ask: decide(serving[native].decisions, draw)},
		{name: "LookupResources, limit 1", ask: reach(native, 1, new(int))},
	})
	atMost(t, "p50 of LookupResources with limit 1 / of a decision, 1 worker", first.slower("LookupResources, limit 1", "a decision"), "", 5)

	r = contest(t, "LookupSubjects of authzed.api.v1", 1, scaled(3, 1), both(func(name string) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			run := running[name][r.IntN(len(running[name]))]
			n, err := viewers(ctx, serving[name].checks.client, document(run.number, r.IntN(documentsPerTenant)))
			return n > 0, err
		}
	}))
	add(t, "LookupSubjects of authzed.api.v1 / with --evaluator=spicedb, 1 worker", r.over(native, spicedb), "")
}

// reached counts what a session reaches.
func reached(ctx context.Context, client deputyv1.PermissionsServiceClient, run agentRun, limit uint32) (found int, err error) {
	stream, err := client.LookupResources(ctx, &deputyv1.LookupResourcesRequest{
		AgentId: run.agent, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: run.session},
		ResourceObjectType: "document", Permission: "view", Limit: limit,
	})
	if err != nil {
		return 0, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		if response.GetResource() != nil {
			found++
		}
	}
}

// viewers counts who views a document.
func viewers(ctx context.Context, client v1.PermissionsServiceClient, document string) (found int, err error) {
	stream, err := client.LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: document}, Permission: "view", SubjectObjectType: "user",
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil {
		return 0, err
	}
	for ; ; found++ {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return found, err
		}
	}
}
