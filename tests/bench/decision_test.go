package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// hotQuestions is how many questions the hot set has.
const hotQuestions = 64

// hall is all that is measured over the graph at 87,300 relationships, each in a process of its own.
type hall struct {
	graph graph
	runs  []agentRun
	deputy
	// names are those of the peers that are here, in the order of the report.
	names []string
	peers map[string]peer
}

const (
	bareName         = "a bare gRPC call"
	deputyName       = "Deputy"
	spicedbMemory    = "SpiceDB, memory"
	spicedbPostgres  = "SpiceDB, PostgreSQL"
	openfgaMemory    = "OpenFGA, memory"
	openfgaPostgres  = "OpenFGA, PostgreSQL"
	coldDecisions    = "decisions, cold"
	fourLegsOfOneAsk = ", 4 checks in one request"
)

// open starts everybody.
func open(t *testing.T) *hall {
	t.Helper()
	h := &hall{graph: sized(scaled(87_300, 5_000)), peers: map[string]peer{}}
	h.deputy, h.runs = startSmall(t, h.graph)
	add := func(name string, p peer) { h.names, h.peers[name] = append(h.names, name), p }
	postgres := havePostgres(t)
	add(spicedbMemory, startSpiceDB(t, h.graph, served{Datastore: "memory"}))
	if postgres {
		add(spicedbPostgres, startSpiceDB(t, h.graph, served{Datastore: "postgres", URI: harness.Postgres(t).URI}))
	}
	if *openfgaBinary != "" {
		add(openfgaMemory, startOpenFGA(t, h.graph, ""))
		if postgres {
			add(openfgaPostgres, startOpenFGA(t, h.graph, pgtest.Database(t)))
		}
	}
	return h
}

func wire(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCold measures Deputy with its journal off, and as it is shipped, beside the bare call.
func TestCold(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	open := func(journal string) (deputy, []agentRun) {
		d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: t.TempDir(), Journal: journal}))
		return d, d.settle(t, g)
	}
	off, runs := open(journalOff)
	shipped, others := open("")
	draw := cold(runs)
	limit, _ := startLimit(t, off, draw, leg{"tenant", tenant(0), "access", "user", user(0, 1)})
	const offName, onName = "Deputy, --journal=off", "Deputy, as shipped"
	all := []contender{
		{name: bareName, ask: decide(limit, draw)}, {name: offName, ask: decide(off.decisions, draw)}, {name: onName, ask: decide(shipped.decisions, cold(others))},
	}
	agree(t, 60, all)
	r := contest(t, coldDecisions, 32, scaled(11, 1), all)
	atLeast(t, "whole decisions / bare calls, cold, 32 workers, --journal=off", r.over(offName, bareName), "", 0.65)
	add(t, "whole decisions / bare calls, cold, 32 workers, as shipped", r.over(onName, bareName), "")
	r = contest(t, coldDecisions, 1, scaled(11, 1), all)
	atMost(t, "p50 of a decision / of a bare call, cold, 1 worker, --journal=off", r.slower(offName, bareName), "", 1.3)
	add(t, "p50 of a decision / of a bare call, cold, 1 worker, as shipped", r.slower(onName, bareName), "")
}

// TestDecision measures Deputy beside the bare call and beside its peers.
func TestDecision(t *testing.T) {
	h := open(t)
	draw := cold(h.runs)
	limit, limitChecks := startLimit(t, h.deputy, draw, leg{"tenant", tenant(0), "access", "user", user(0, 1)})

	decisions := func(draw drawing) []contender {
		all := []contender{{name: bareName, ask: decide(limit, draw)}, {name: deputyName, ask: decide(h.decisions, draw)}}
		for _, name := range h.names {
			all = append(all, contender{name: name + fourLegsOfOneAsk, ask: legs(h.peers[name], draw)})
		}
		return all
	}
	checks := func(draw func(r *rand.Rand) leg) []contender {
		all := []contender{{name: bareName, ask: check(limitChecks, draw)}, {name: deputyName, ask: check(h.checks, draw)}}
		for _, name := range h.names {
			all = append(all, contender{name: name, ask: check(h.peers[name], draw)})
		}
		return all
	}

	t.Run("cold", func(t *testing.T) {
		all := decisions(draw)
		agree(t, 60, all)
		r := contest(t, coldDecisions, 32, scaled(5, 1), all)
		add(t, "whole decisions / bare calls, cold, 32 workers, as shipped", r.over(deputyName, bareName), "")
		if postgres := spicedbPostgres + fourLegsOfOneAsk; r[postgres] != nil {
			atLeast(t, "whole decisions / SpiceDB's on PostgreSQL, cold, 32 workers", r.over(deputyName, postgres), "", 150)
		}
		r = contest(t, coldDecisions, 1, scaled(5, 1), all)
		add(t, "p50 of a decision / of a bare call, cold, 1 worker, as shipped", r.slower(deputyName, bareName), "")
	})
	t.Run("hot", func(t *testing.T) {
		for _, workers := range []int{32, 1} {
			contest(t, fmt.Sprintf("decisions, %d hot", hotQuestions), workers, scaled(3, 1), decisions(hot(draw, hotQuestions)))
		}
	})
	t.Run("check", func(t *testing.T) {
		all := checks(h.graph.views)
		agree(t, 60, all)
		for _, workers := range []int{32, 1} {
			contest(t, "checks of a document, cold", workers, scaled(3, 1), all)
		}
	})
	t.Run("best", func(t *testing.T) {
		for _, workers := range []int{32, 1} {
			r := contest(t, "checks of a direct membership, hot", workers, scaled(3, 1), checks(h.graph.members))
			if workers == 1 {
				continue
			}
			best := r.over(deputyName, spicedbMemory)
			if r[spicedbPostgres] != nil {
				best = min(best, r.over(deputyName, spicedbPostgres))
			}
			atLeast(t, "a direct membership, hot, 32 workers: Deputy / the better SpiceDB", best, "", 3)
		}
	})
	t.Run("bulk", func(t *testing.T) {
		const bulkName = "Deputy, 100 in one request"
		r := contest(t, "decisions in bulk, cold", 32, scaled(5, 1), []contender{
			{name: bareName, ask: decide(limit, draw)},
			{name: bulkName, ask: bulk(h.decisions, 100, draw), makes: 100},
		})
		atLeast(t, "decisions in bulk / bare calls, 32 workers", r.over(bulkName, bareName), "", 1.2)
	})
	t.Run("lookup", func(t *testing.T) {
		look := func(s spicedb) asking {
			return func(ctx context.Context, r *rand.Rand) (bool, error) {
				found, err := s.lookup(ctx, user(r.IntN(h.graph.tenants), 1+r.IntN(usersPerTenant-1)))
				return found > 0, err
			}
		}
		all := []contender{{name: deputyName, ask: look(h.checks)}}
		for _, name := range h.names {
			if s, ok := h.peers[name].(spicedb); ok {
				all = append(all, contender{name: name, ask: look(s)})
			}
		}
		contest(t, "LookupResources", 1, scaled(3, 1), all)
	})
	t.Run("revocation", func(t *testing.T) { revocation(t, h) })
}
