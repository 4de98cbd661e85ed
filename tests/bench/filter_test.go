package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// filtered is how many objects one request of TestFilter asks about: as many as a bulk check takes.
const filtered = 1000

// TestFilter measures the three ways to find out which of a tenant's documents an agent in a session may view: a filter of 1,000 ids, a bulk check of
// the same, and a lookup of all. On a server without a journal, and on one as it is shipped.
func TestFilter(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	for _, server := range []struct{ name, journal string }{{"--journal=off", journalOff}, {"as shipped", ""}} {
		t.Run(server.name, func(t *testing.T) {
			d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: t.TempDir(), Journal: server.journal}))
			ask := filters{d.decisions, d.settle(t, g)}
			ask.agree(t)
			const bulkName, filterName, lookupName = "CheckBulkPermissions", "FilterResources", "LookupResources"
			workload := "documents of a tenant, " + server.name
			all := []contender{
				{name: bulkName, ask: ask.bulk, makes: filtered}, {name: filterName, ask: ask.filter, makes: filtered},
			}
			r := contest(t, workload, 32, scaled(5, 1), all)
			atLeast(t, "documents filtered / checked in bulk, "+server.name+", 32 workers", r.over(filterName, bulkName), "", 2)
			r = contest(t, workload, 1, scaled(5, 1), append(all, contender{name: lookupName, ask: ask.lookup, makes: documentsPerTenant}))
			atLeast(t, "documents filtered / checked in bulk, "+server.name+", 1 worker", r.over(filterName, bulkName), "", 2)
			add(t, "time of a lookup of all / of a filter of half of them, "+server.name+", 1 worker", r.slower(lookupName, filterName), "")
		})
	}
}

// filters ask about documents of the tenants of runs.
type filters struct {
	client deputyv1.PermissionsServiceClient
	runs   []agentRun
}

// draw draws a run and documents of its tenant, each of them once.
func (f filters) draw(r *rand.Rand) (agentRun, []string) {
	run := f.runs[r.IntN(len(f.runs))]
	ids := make([]string, filtered)
	for i, n := range r.Perm(documentsPerTenant)[:filtered] {
		ids[i] = document(run.number, n)
	}
	return run, ids
}

func (f filters) filter(ctx context.Context, r *rand.Rand) (bool, error) {
	allowed, err := f.filtered(ctx, r)
	return len(allowed) > 0, err
}

// filtered returns what a filter allows.
func (f filters) filtered(ctx context.Context, r *rand.Rand) ([]string, error) {
	run, ids := f.draw(r)
	answer, err := f.client.FilterResources(ctx, &deputyv1.FilterResourcesRequest{
		AgentId: run.agent, Via: &deputyv1.FilterResourcesRequest_SessionId{SessionId: run.session},
		ResourceObjectType: "document", ResourceObjectIds: ids, Permission: "view",
	})
	if failed := answer.GetFailed(); len(failed) > 0 {
		return nil, fmt.Errorf("a document failed: %s", failed[0])
	}
	return answer.GetAllowedObjectIds(), err
}

func (f filters) bulk(ctx context.Context, r *rand.Rand) (bool, error) {
	allowed, err := f.bulked(ctx, r)
	return len(allowed) > 0, err
}

// bulked returns what a bulk check allows.
func (f filters) bulked(ctx context.Context, r *rand.Rand) (allowed []string, err error) {
	run, ids := f.draw(r)
	request := &deputyv1.CheckBulkPermissionsRequest{}
	for _, id := range ids {
		request.Items = append(request.Items, &deputyv1.CheckBulkPermissionsRequestItem{
			AgentId: run.agent, Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: run.session},
			Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: id}, Permission: "view",
		})
	}
	answer, err := f.client.CheckBulkPermissions(ctx, request)
	for _, pair := range answer.GetPairs() {
		if failed := pair.GetError(); failed != nil {
			return nil, fmt.Errorf("a decision failed: %s", failed)
		}
		if pair.GetItem().GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			allowed = append(allowed, pair.GetRequest().GetResource().GetObjectId())
		}
	}
	return allowed, err
}

// lookup looks up all documents that a session reaches.
func (f filters) lookup(ctx context.Context, r *rand.Rand) (bool, error) {
	run, _ := f.draw(r)
	stream, err := f.client.LookupResources(ctx, &deputyv1.LookupResourcesRequest{
		AgentId: run.agent, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: run.session},
		ResourceObjectType: "document", Permission: "view", Limit: 10_000,
	})
	if err != nil {
		return false, err
	}
	for found := 0; ; found++ {
		message, err := stream.Recv()
		if err != nil {
			return false, err
		}
		if end := message.GetEnd(); end != nil {
			if !end.GetComplete() {
				return false, errors.New("a lookup did not find everything")
			}
			return found > 0, nil
		}
	}
}

// agree asks for the same documents in bulk and by a filter: both have to allow the same, in the same order, some and not all.
func (f filters) agree(t *testing.T) {
	t.Helper()
	some := false
	for i := range uint64(10) {
		checked, err := f.bulked(t.Context(), rand.New(rand.NewPCG(7, i)))
		if err != nil {
			t.Fatal(err)
		}
		allowed, err := f.filtered(t.Context(), rand.New(rand.NewPCG(7, i)))
		if err != nil || !slices.Equal(checked, allowed) {
			t.Fatalf("a bulk check allows %d documents, a filter %d, and %v", len(checked), len(allowed), err)
		}
		some = some || len(allowed) > 0 && len(allowed) < filtered
	}
	if !some {
		t.Fatal("no filter allowed some documents and refused others")
	}
}
