package judge

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// TestReachTakesLittleMemory: an object of a reach takes few bytes, most of which the next one uses again. A collection during a reach counts as live
// what was allocated since it began, so that a server with a large heap would need that much more.
func TestReachTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	const n = 5000
	graph, _ := largeCrowd(t)
	documents(t, graph, n)
	j := New(graph.Graph, nil, time.Now)
	q := &ReachQuery{Agent: "bot", Types: []string{"document"}, Permissions: []string{"view"}, Moment: time.Now()}
	read := func() (has uint64) {
		end, err := j.Reach(t.Context(), authz.Unbounded(), q, ReachPlace{}, ReachTo{
			Party: func(*Party) error { return nil }, Count: func(c *ReachCount) error { has += c.Has; return nil },
		})
		if err != nil || end.Next != nil {
			t.Fatalf("it goes on at %v: %v", end.Next, err)
		}
		return has
	}
	read() // a first time, so that the store has its rows in memory
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	has := read()
	runtime.ReadMemStats(&after)
	if has != n+1 {
		t.Fatalf("%d objects are reached", has)
	}
	if each := (after.TotalAlloc - before.TotalAlloc) / has; each > 1500 {
		t.Errorf("an object takes %d bytes", each)
	} else {
		t.Logf("an object takes %d bytes", each)
	}
}

// TestTenantsOfABatch: the tenants of objects at several revisions, some of them asked for twice, are those that each of them has there alone, in one batch
// after another with the same memory.
func TestTenantsOfABatch(t *testing.T) {
	graph, _ := largeCrowd(t)
	var snaps []authz.Snapshot
	for revision := range 3 {
		for i := range 5 {
			touch(t, graph, rel(fmt.Sprintf("document:d%d", i), "tenant", fmt.Sprintf("tenant:t%d", (i+revision)%4)))
		}
		head, err := graph.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		snaps = append(snaps, head)
	}
	var memory tenantMemory
	for batch := range 3 {
		var all []unanswered
		for i := range 20 {
			query := &authz.Query{Resource: authz.Object{Type: "document", ID: fmt.Sprintf("d%d", (i*batch+i)%6)}, Only: true}
			of := &candidate{at: snaps[(i+batch)%len(snaps)]}
			of.conditions = make([]decide.Condition, 1)
			of.conditions[0].Query, of.conditions[0].Where = query, decide.AtSnapshot
			all = append(all, unanswered{of, 0})
		}
		found, err := memory.of(t.Context(), all, 10)
		if err != nil || len(found) != len(all) {
			t.Fatalf("%d answers: %v", len(found), err)
		}
		for i, u := range all {
			resource := u.condition().Query.Resource
			alone, err := u.of.at.Subjects(t.Context(), resource, authz.TenantMember, authz.TypeTenant, nil, 10)
			if err != nil || found[i].Err != nil || fmt.Sprint(alone) != fmt.Sprint(found[i].Subjects) {
				t.Errorf("batch %d: %s is in %v, and alone in %v: %v, %v", batch, resource.ID, found[i].Subjects, alone, found[i].Err, err)
			}
		}
	}
}
