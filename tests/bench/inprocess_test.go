package bench

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestInProcess measures decisions that are asked for in the server's own process, without gRPC, beside bare
// calls to another process.
func TestInProcess(t *testing.T) {
	server := harness.Start(t, daemon.Config{
		Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}, Evaluator: daemon.EvaluatorNative,
	})
	d := dialDeputy(t, server.Addr().String())
	runs := d.settle(t, sized(scaled(87_300, 5_000)))
	draw := cold(runs)
	limit, _ := startLimit(t, d, draw, leg{"tenant", tenant(0), "access", "user", user(0, 1)})
	drawCase := func(draw drawing, r *rand.Rand) authz.Case {
		q := draw(r)
		return authz.Case{
			Agent: authz.AgentID(q.agent), Session: authz.SessionID(q.session),
			Resource: authz.Object{Type: "document", ID: q.document}, Permission: "view",
		}
	}
	hereOf := func(draw drawing) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			decision, err := server.Decide(ctx, drawCase(draw, r), authz.Freshness{})
			return decision.Permissionship == authz.HasPermission, err
		}
	}
	here := hereOf(draw)
	bare := contender{name: bareName, ask: decide(limit, draw)}
	agree(t, 60, []contender{bare, {name: deputyName, ask: decide(d.decisions, draw)}, {name: "Deputy, in process", ask: here}})

	allCores := contender{name: "Deputy, in process, all cores", ask: here, workers: runtime.GOMAXPROCS(0)}
	oneCore := contender{name: "Deputy, in process, 1 worker", ask: here, workers: 1}
	r := contest(t, "decisions, cold", 32, scaled(5, 1), []contender{bare, allCores, oneCore})
	atLeast(t, "decisions in process, all cores / bare calls, 32 workers", r.over(allCores.name, bareName), "", 0.8)

	allocations := func(of string, draw drawing) {
		cases := make([]authz.Case, scaled(20_000, 50))
		random := rand.New(rand.NewPCG(6, 6))
		for i := range cases {
			cases[i] = drawCase(draw, random)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, c := range cases {
			if _, err := server.Decide(t.Context(), c, authz.Freshness{}); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		add(t, "allocations of a decision in process"+of, float64(after.Mallocs-before.Mallocs)/float64(len(cases)), "")
		add(t, "bytes that a decision in process allocates"+of, float64(after.TotalAlloc-before.TotalAlloc)/float64(len(cases)), "bytes")
	}
	allocations("", draw)

	// The same users' documents, by the root that a session stands on.
	consented, scheduled := cold(d.consented(t, runs)), cold(d.scheduled(t, runs))
	roots := []contender{
		{name: "the user's own delegation", ask: here}, {name: "an admin's consent", ask: hereOf(consented)},
		{name: "a service's delegation", ask: hereOf(scheduled)},
	}
	contest(t, "decisions in process, by root", 1, scaled(5, 1), roots)
	allocations(", under an admin's consent", consented)
	allocations(", for a service", scheduled)
}
