package bench

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// rare is an agent that has one record among all, in the middle.
const rare = "rare"

// TestQuery measures how soon a query by an agent that seldom asks finds its record among ten million, beside how long a decision takes.
func TestQuery(t *testing.T) {
	d, runs := startSmall(t, sized(scaled(87_300, 5_000)))
	ask, r := decide(d.decisions, cold(runs)), rand.New(rand.NewPCG(7, 7))
	decision := latency(t, scaled(5_000, 10), func(int) error {
		_, err := ask(t.Context(), r)
		return err
	})

	n := scaled(10_000_000, 10_000)
	dir := t.TempDir()
	keys, err := journal.OpenKeys(filepath.Join(dir, "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Config{Dir: filepath.Join(dir, "journal"), Store: "bench", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	reader, err := j.Reader(nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const together = 100
	records := make([]*journal.Record, together)
	for i := 0; i < n; i += together {
		for k := range records {
			records[k] = recorded(r)
		}
		if i == n/2 {
			records[together/2].AgentId, records[together/2].AgentChain = rare, []string{rare}
		}
		if _, err := j.Append(t.Context(), journal.Refuse, records...); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for j.Sealing().Records < uint64(n) {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	add(t, fmt.Sprintf("writing, sealing and indexing %d records of decisions", n), time.Since(began).Seconds(), "s")

	for _, newest := range []bool{false, true} {
		took := latency(t, scaled(21, 1), func(int) error {
			found := 0
			_, err := reader.Query(t.Context(), &journal.Query{Agent: rare, Newest: newest}, nil, func(f journal.Found) (bool, error) {
				found++
				if f.Record.GetAgentId() != rare {
					t.Errorf("a record of %s is found", f.Record.GetAgentId())
				}
				return false, nil
			})
			if found != 1 {
				t.Errorf("%d records are found", found)
			}
			return err
		})
		from := map[bool]string{false: "oldest", true: "newest"}[newest]
		atMost(t, fmt.Sprintf("a rare agent's record among %d, from the %s on / a decision, 1 worker", n, from),
			float64(took)/float64(decision), "", 100)
	}
}

// recorded is a record of a decision as the other benchmarks have them.
func recorded(r *rand.Rand) *journal.Record {
	of := r.IntN(300)
	agent := fmt.Sprintf("t%da%d", of, r.IntN(3))
	return &journal.Record{
		Time: time.Now().UnixNano(), Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE,
		Caller: "default", Method: "deputy.v1.PermissionsService/CheckPermission", AgentId: agent, AgentChain: []string{agent},
		PrincipalType: "user", PrincipalId: fmt.Sprintf("t%du%d", of, r.IntN(10)), TenantId: fmt.Sprintf("t%d", of),
		SessionId: fmt.Sprintf("%032x", of*10+r.IntN(10)), DelegationId: fmt.Sprintf("%032x", 1_000_000+of*10+r.IntN(10)),
		ResourceType: "document", ResourceId: fmt.Sprintf("t%dd%d", of, r.IntN(documentsPerTenant)), Permission: "view",
		Answer:      deputyv1.Permissionship(1 + r.IntN(2)),
		ActingUnder: deputyv1.ActingUnder_ACTING_UNDER_SESSION, Revision: "GhUKEzE3NjQzNTQ2OTUxMjM0NTY3ODk=", Schema: []byte("12345678"),
		Evaluator: deputyv1.Evaluator_EVALUATOR_NATIVE, Latency: 100_000 + r.Int64N(100_000),
	}
}
