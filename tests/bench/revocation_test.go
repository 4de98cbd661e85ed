package bench

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// revoked is how one revocation went.
type revoked struct {
	// took is from its acknowledgement to the first refusal, in milliseconds; stale is how many answers
	// in between still said yes.
	took  float64
	stale int
}

// untilRefused revokes what was just granted, and asks until the answer is no.
func untilRefused(t testing.TB, revoke func(context.Context) error, ask func(context.Context) (bool, error)) (r revoked) {
	t.Helper()
	if yes, err := ask(t.Context()); err != nil || !yes {
		t.Fatalf("before it is revoked: %v %v", yes, err)
	}
	if err := revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for ; ; r.stale++ {
		yes, err := ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !yes {
			r.took = float64(time.Since(start).Microseconds()) / 1000
			return r
		}
	}
}

// summary is the median of the times, and the sum of the stale answers.
func summary(all []revoked) (took, stale float64) {
	times := make([]float64, len(all))
	for i, r := range all {
		times[i] = r.took
		stale += float64(r.stale)
	}
	return median(times), stale
}

// revocation measures how long after it was acknowledged a revocation is seen. Deputy's is of a session's
// delegation, by itself and while others ask for decisions; a peer's is of a membership, asked for with
// the consistency that it has by default.
func revocation(t *testing.T, h *hall) {
	next := 0
	deputys := func(times int) (all []revoked) {
		for range times {
			who := next % h.graph.tenants
			owner := 1 + usersPerRun + next/h.graph.tenants
			next++
			run := agentRun{number: who, tenant: tenant(who), agent: agent(who, 0), user: user(who, owner)}
			if err := h.run(t.Context(), &run); err != nil {
				t.Fatal(err)
			}
			q := question{run, owned(t, who, owner)}
			all = append(all, untilRefused(t, func(ctx context.Context) error {
				_, err := deputyv1.NewDelegationsServiceClient(h.service).RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: run.delegation})
				return err
			}, func(ctx context.Context) (bool, error) {
				return decide(h.decisions, func(*rand.Rand) question { return q })(ctx, nil)
			}))
		}
		return all
	}
	report := func(name string, all []revoked, exact bool) {
		took, stale := summary(all)
		add(t, "from an acknowledged revocation to the first refusal: "+name, took, "ms")
		what := "answers that still said yes after it: " + name
		if exact {
			atMost(t, what, stale, "", 0)
		} else {
			add(t, what, stale/float64(len(all)), "a revocation")
		}
	}
	report("Deputy", deputys(scaled(100, 2)), true)
	stop := crowd(t, 8, decide(h.decisions, cold(h.runs)))
	report("Deputy, beside 8 workers", deputys(scaled(100, 2)), true)
	stop()

	for _, name := range h.names {
		var all []revoked
		for i := range scaled(3, 1) {
			l := leg{"tenant", tenant(i % h.graph.tenants), "access", "user", user(i%h.graph.tenants, usersPerTenant-1-i)}
			membership := l
			membership.permission = "member"
			all = append(all, untilRefused(t,
				func(ctx context.Context) error { return h.peers[name].revoke(ctx, membership) },
				func(ctx context.Context) (bool, error) { return h.peers[name].check(ctx, l) },
			))
		}
		report(name, all, false)
	}
}

// owned returns a document that a user owns.
func owned(t testing.TB, tenant, owner int) string {
	t.Helper()
	document := ""
	_ = eachOf(tenant, func(r tuple.Relationship) error {
		if r.Resource.ObjectType == "document" && r.Resource.Relation == "owner" && r.Subject.ObjectID == user(tenant, owner) {
			document = r.Resource.ObjectID
		}
		return nil
	})
	if document == "" {
		t.Fatalf("%s owns nothing", user(tenant, owner))
	}
	return document
}

// crowd asks from some goroutines until stop is called.
func crowd(t testing.TB, workers int, ask asking) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(9, uint64(w)))
			for ctx.Err() == nil {
				if _, err := ask(ctx, r); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}
