package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// startFollower starts a server that follows a database, and waits until its copy serves.
func startFollower(t testing.TB, uri string) deputy {
	t.Helper()
	d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: t.TempDir(), URI: uri, Journal: journalOff}))
	harness.Ready(t, d.service)
	return d
}

// TestFollow measures servers that follow a PostgreSQL beside one with an embedded store, all without a journal. Server, database and client share
// the machine.
func TestFollow(t *testing.T) {
	if !havePostgres(t) {
		return
	}
	g := sized(scaled(87_300, 5_000))
	uri := harness.Postgres(t).URI
	embedded := dialDeputy(t, start(t, served{Kind: "deputy", Dir: t.TempDir(), Journal: journalOff}))
	node, other := startFollower(t, uri), startFollower(t, uri)
	const embeddedName, headName, freshName = "Deputy, embedded", "Deputy, --follow, head", "Deputy, --follow, at_least_as_fresh"
	embeddedRuns, runs := embedded.settle(t, g), node.settle(t, g)
	analyze(t, uri)
	postgres := startSpiceDB(t, g, served{Datastore: "postgres", URI: harness.Postgres(t).URI})
	draw := cold(runs)
	local := contender{name: embeddedName, ask: decide(embedded.decisions, cold(embeddedRuns))}
	head := contender{name: headName, ask: decide(node.decisions, draw)}
	peer := contender{name: spicedbPostgres + fourLegsOfOneAsk, ask: legs(postgres, draw)}
	agree(t, 60, []contender{{}, local, head, peer})

	r := contest(t, "decisions, cold, idle database", 32, scaled(5, 1), []contender{local, head, peer})
	atLeast(t, "decisions of a follower / of an embedded store, idle database, 32 workers", r.over(headName, embeddedName), "", 0.6)
	atLeast(t, "decisions of a follower / SpiceDB's on the same PostgreSQL, 32 workers", r.over(headName, peer.name), "", 50)
	r = contest(t, "decisions, cold, idle database", 256, scaled(5, 1), []contender{local, head})
	atLeast(t, "decisions of a follower / of an embedded store, idle database, 256 workers", r.over(headName, embeddedName), "", 0.6)

	fresh := contender{name: freshName, ask: atLeastAsFresh(t, node, draw)}
	for _, workers := range []int{32, 256} {
		stop, written := writes(t, other, 200)
		before, began := written.Load(), time.Now()
		r = contest(t, "decisions, cold, beside writes", workers, scaled(5, 1), []contender{local, head, fresh})
		rate := float64(written.Load()-before) / time.Since(began).Seconds()
		stop()
		add(t, fmt.Sprintf("writes meanwhile, %d workers", workers), rate, "/s")
		atLeast(t, fmt.Sprintf("a follower at_least_as_fresh / an embedded store, beside writes, %d workers", workers), r.over(freshName, embeddedName), "", 0.4)
		atLeast(t, fmt.Sprintf("a follower at the head / an embedded store, beside writes, %d workers", workers), r.over(headName, embeddedName), "", 0.1)
	}

	trip, theirs := roundTrips(t, uri)
	add(t, "the database's head: one round trip, p50", trip, "ms")
	add(t, "the database's head, as SpiceDB's datastore reads it, p50", theirs, "ms")
	var all []revoked
	for n := range scaled(100, 2) {
		who, owner := n%g.tenants, 1+usersPerRun+n/g.tenants
		run := agentRun{number: who, tenant: tenant(who), agent: agent(who, 0), user: user(who, owner)}
		if err := node.run(t.Context(), &run); err != nil {
			t.Fatal(err)
		}
		q := question{run, owned(t, who, owner)}
		all = append(all, untilRefused(t, func(ctx context.Context) error {
			_, err := deputyv1.NewDelegationsServiceClient(node.service).RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: run.delegation})
			return err
		}, func(ctx context.Context) (bool, error) {
			return decide(other.decisions, func(*rand.Rand) question { return q })(ctx, nil)
		}))
	}
	took, stale := summary(all)
	add(t, "from an acknowledged revocation to the first refusal of another node, p50", took, "ms")
	atMost(t, "... / the head's round trip", took/trip, "", 10)
	atMost(t, "... / the head as SpiceDB's datastore reads it", took/theirs, "", 10)
	atMost(t, "answers of another node that still said yes after it", stale, "", 0)
}

// atLeastAsFresh asks for decisions at the revision of an answer before, or a newer one.
func atLeastAsFresh(t testing.TB, d deputy, draw drawing) asking {
	t.Helper()
	first, err := d.decisions.CheckPermission(t.Context(), draw(rand.New(rand.NewPCG(9, 9))).request())
	if err != nil {
		t.Fatal(err)
	}
	bound := &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: first.GetCheckedAt()}}
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		request := draw(r).request()
		request.Consistency = bound
		answer, err := d.decisions.CheckPermission(ctx, request)
		return answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, err
	}
}

// writes has a server write so many relationships a second, each in a transaction of its own, until stop is called. written counts them.
func writes(t testing.TB, d deputy, perSecond int) (stop func(), written *atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	written = &atomic.Int64{}
	ended := make(chan struct{})
	turns := make(chan struct{}, perSecond)
	go func() {
		defer close(turns)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				select {
				case turns <- struct{}{}:
				default: // the database is behind
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	const writers = 4
	go func() {
		defer close(ended)
		done := make(chan struct{}, writers)
		for w := range writers {
			go func() {
				defer func() { done <- struct{}{} }()
				for range turns {
					n := written.Add(1)
					update := tuple.MustUpdateToV1RelationshipUpdate(tuple.Touch(tuple.MustParse(
						fmt.Sprintf("document:written-%d-%d#viewer@user:%s", w, n, user(0, int(n)%usersPerTenant)))))
					_, err := d.checks.client.WriteRelationships(ctx, &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{update}})
					if err != nil && ctx.Err() == nil {
						t.Errorf("a write beside decisions: %v", err)
						return
					}
				}
			}()
		}
		for range writers {
			<-done
		}
	}()
	return func() {
		cancel()
		<-ended
	}, written
}

// roundTrips are the median times, in milliseconds, in which the database says what its head is: in a statement alone, and as SpiceDB's datastore
// asks for it.
func roundTrips(t testing.TB, uri string) (alone, theirs float64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	ds, err := datastore.NewDatastore(t.Context(), datastore.WithEngine(datastore.PostgresEngine), datastore.WithURI(uri),
		datastore.WithEnableDatastoreMetrics(false))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ds.Close() }()
	timed := func(ask func() error) float64 {
		times := make([]float64, scaled(200, 5))
		for i := range times {
			began := time.Now()
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			times[i] = float64(time.Since(began).Microseconds()) / 1000
		}
		return median(times)
	}
	return timed(func() error {
			var head string
			return conn.QueryRow(t.Context(), "SELECT pg_current_snapshot()::text").Scan(&head)
		}), timed(func() error {
			_, err := ds.HeadRevision(t.Context())
			return err
		})
}
