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

// TestQuery measures how soon a query by an agent that seldom asks finds its record among ten million, beside how long a decision takes. Where a
// machine is too slow to write so many within fillFor, there are as many as it can.
func TestQuery(t *testing.T) {
	d, runs := startSmall(t, sized(scaled(87_300, 5_000)))
	ask, r := decide(d.decisions, cold(runs)), rand.New(rand.NewPCG(7, 7))
	decision := latency(t, scaled(5_000, 10), func(int) error {
		_, err := ask(t.Context(), r)
		return err
	})

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
	fillJournal(t, j, r, scaled(200_000, 2_000), "")
	half := scaled(5_000_000, 5_000)
	if fits := int(float64(j.Written()) * float64(fillFor) / float64(time.Since(began)) / 2); fits < half {
		half = max(fits, int(j.Written())+1)
		t.Logf("this machine takes more than %s to write, seal and index ten million records: there are fewer", fillFor)
	}
	fillJournal(t, j, r, half, rare)
	fillJournal(t, j, r, 2*half, "")
	n := j.Written()
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

// fillFor is how long it may take to write, seal and index the records that are asked for.
const fillFor = 8 * time.Minute

// fillJournal writes records of decisions until there are so many, and seals them: by the journal's own code, as fast as it seals. The last of them is of
// an agent, unless that is empty.
func fillJournal(t *testing.T, j *journal.Journal, r *rand.Rand, size int, last string) {
	t.Helper()
	const together, ahead = 100, 100_000
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	sealed := func(all int) {
		for j.Sealing().Records < uint64(max(all, 0)) {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal(t.Context().Err())
			}
		}
	}
	for n := int(j.Written()); n < size; {
		records := make([]*journal.Record, min(together, size-n))
		for k := range records {
			records[k] = recorded(r)
		}
		if n += len(records); n == size && last != "" {
			of := records[len(records)-1]
			of.AgentId, of.AgentChain = last, []string{last}
		}
		if _, err := j.Append(t.Context(), journal.Refuse, records...); err != nil {
			t.Fatal(err)
		}
		sealed(n - ahead)
	}
	sealed(size)
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
