package bench

import (
	"context"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestActorToken measures decisions with the agent's own token beside decisions without, over loopback: with one that was verified before, and with one
// that the server sees for the first time.
func TestActorToken(t *testing.T) {
	issuer, dir := harness.NewIssuer(t), t.TempDir()
	s := harness.Start(t, daemon.Config{
		Engine: harness.Embedded(t), Issuers: []token.Issuer{issuer.Known(t, dir)}, Actors: []actor.Issuer{issuer.Actors(t)},
	})
	d := dialDeputy(t, s.Addr().String())
	runs := d.settle(t, sized(scaled(87_300, 5_000)))
	runs = runs[:min(len(runs), 1000)] // as many tokens, which the server remembers
	draw := cold(runs)
	tokens := map[string]string{}
	for _, run := range runs {
		tokens[run.session] = issuer.ActorToken(t, run.agent, run.user)
	}
	ask := func(proof func(q question) string) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			q := draw(r)
			request := q.request()
			request.ActorToken = proof(q)
			answer, err := d.decisions.CheckPermission(ctx, request)
			return answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, err
		}
	}
	without := contender{name: "without a token", ask: ask(func(question) string { return "" })}
	known := contender{name: "with a token that was verified before", ask: ask(func(q question) string { return tokens[q.session] })}
	agree(t, 60, []contender{{}, without, known})
	for _, run := range runs { // all are verified before
		if _, err := d.decisions.CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			ActorToken: tokens[run.session], Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: run.session},
			Resource: harness.Ref("document:" + document(run.number, 0)), Permission: "view",
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, workers := range []int{1, 32} {
		r := contest(t, "decisions, agents' tokens", workers, scaled(11, 1), []contender{without, known})
		atMost(t, known.name+" / without, time of a call"+workersOf(known, workers), r.slower(known.name, without.name), "", 1.15)
	}

	// Processor time is the server's and the client's together, in this process, in turns.
	blocks, calls := scaled(40, 2), scaled(500, 5)
	spent := func(one contender, seed uint64) time.Duration {
		random, before := rand.New(rand.NewPCG(seed, 1)), processorTime(t)
		for range calls {
			if _, err := one.ask(t.Context(), random); err != nil {
				t.Fatal(err)
			}
		}
		return processorTime(t) - before
	}
	ratios := make([]float64, blocks)
	for i := range ratios {
		of := spent(without, uint64(i))
		ratios[i] = float64(spent(known, uint64(i))) / float64(of)
	}
	atMost(t, known.name+" / without, processor time", median(ratios), "", 1.15)

	fresh := make([]time.Duration, scaled(500, 5))
	random := rand.New(rand.NewPCG(5, 5))
	for i := range fresh {
		q := draw(random)
		request := q.request()
		request.ActorToken = issuer.ActorToken(t, q.agent, q.user)
		began := time.Now()
		if _, err := d.decisions.CheckPermission(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		fresh[i] = time.Since(began)
	}
	add(t, "a decision with a token (ES256) that the server sees for the first time, p50", float64(median(fresh).Nanoseconds())/1000, "µs")
}

// processorTime is how much this process has used.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
