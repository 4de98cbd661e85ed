package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestReach measures the reach of an agent over a million documents, for one principal: how fast it is counted, and how much more memory is live
// meanwhile, in the process of the server and the client, than after two reaches before, which have filled the store's caches. Then, over a smaller graph, how
// long an object takes with its grants, beside a decision.
func TestReach(t *testing.T) {
	d, run := manyDocuments(t, scaled(1_000_000, 3_000))
	all := scaled(1_000_000, 3_000) + documentsPerTenant
	read := func(grants bool) (n int, took time.Duration) {
		began := time.Now()
		n, err := readReach(t.Context(), deputyv1.NewReachServiceClient(d.admin), run.agent, grants)
		if err != nil {
			t.Fatal(err)
		}
		return n, time.Since(began)
	}
	// What is read a second time is kept in the store's memory, up to its bound: that belongs to the base.
	for range 2 {
		if n, _ := read(false); n != all {
			t.Fatalf("%d of %d documents are reached", n, all)
		}
		runtime.GC()
		add(t, "live memory after a reach", float64(live())/(1<<20), "MiB")
	}
	base, stop := live(), make(chan struct{})
	peak := make(chan uint64, 1)
	go func() {
		most := base
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-tick.C:
				most = max(most, live())
			}
		}
	}()
	n, took := read(false)
	close(stop)
	label := fmt.Sprintf(" (%d documents)", n)
	add(t, "reach of an agent, counted"+label, float64(n)/took.Seconds(), "objects/s")
	atMost(t, "live memory beyond the base while a reach is read"+label, float64(<-peak-base)/(1<<20), "MiB", 64)

	small, smallRun := manyDocuments(t, scaled(20_000, 1_000))
	r := contest(t, "a decision", 1, scaled(3, 1), []contender{{name: deputyName, ask: decide(small.decisions, cold([]agentRun{smallRun}))}})
	decisions := make([]float64, len(r[deputyName]))
	for i, s := range r[deputyName] {
		decisions[i] = s.rate
	}
	for _, grants := range []bool{false, true} {
		began := time.Now()
		n, err := readReach(t.Context(), deputyv1.NewReachServiceClient(small.admin), smallRun.agent, grants)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("time of an object of a reach / of a decision, 1 worker (%d documents)", n)
		if grants {
			name = fmt.Sprintf("time of an object of a reach with grants / of a decision, 1 worker (%d documents)", n)
		}
		add(t, name, time.Since(began).Seconds()/float64(n)*median(decisions), "")
	}
}

// live is how many bytes of the heap the last collection found in use.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// manyDocuments starts a server with one tenant of the graph and many documents more, all of which an agent in a session reaches for a user.
func manyDocuments(t *testing.T, n int) (deputy, agentRun) {
	t.Helper()
	server := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}})
	d := dialDeputy(t, server.Addr().String())
	tenants := []governed{of(0, 1)}
	d.prepare(t, tenants)
	importGraph(t, d.checks.client, graph{tenants: 1})
	r := rand.New(rand.NewPCG(11, 0))
	// An import is one transaction, which takes two minutes at most.
	for begun := 0; begun < n; begun += 50_000 {
		var parts []*v1.ImportBulkRelationshipsRequest
		for from := begun; from < min(n, begun+50_000); from += 1000 {
			part := &v1.ImportBulkRelationshipsRequest{}
			for i := from; i < min(n, from+1000); i++ {
				part.Relationships = append(part.Relationships, tuple.ToV1Relationship(tuple.MustParse(
					fmt.Sprintf("document:many-%07d#folder@folder:%s", i, folder(0, r.IntN(foldersPerTenant))))))
			}
			parts = append(parts, part)
		}
		if err := importAll(t.Context(), d.checks.client, parts); err != nil {
			t.Fatal(err)
		}
	}
	everything := tuple.MustParse(fmt.Sprintf("folder:%s#viewer@user:%s", folder(0, 0), tenants[0].users[0]))
	if _, err := d.checks.client.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{
		Updates: []*v1.RelationshipUpdate{tuple.MustUpdateToV1RelationshipUpdate(tuple.Touch(everything))},
	}); err != nil {
		t.Fatal(err)
	}
	return d, d.begin(t, tenants)[0]
}

// readReach counts the documents that an agent may view, from stream to stream.
func readReach(ctx context.Context, client deputyv1.ReachServiceClient, agent string, grants bool) (n int, err error) {
	request := &deputyv1.ReadReachRequest{
		Of: &deputyv1.ReadReachRequest_AgentId{AgentId: agent}, ResourceObjectTypes: []string{"document"}, Permissions: []string{"view"}, WithGrants: grants,
	}
	for {
		stream, err := client.ReadReach(ctx, request)
		if err != nil {
			return 0, err
		}
		var end *deputyv1.ReachEnd
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
			n += int(message.GetCount().GetHas())
			end = message.GetEnd()
		}
		if end.GetComplete() {
			return n, nil
		}
		if request.Cursor = end.GetNext(); request.GetCursor() == nil {
			return 0, errors.New("a stream without an end")
		}
	}
}
