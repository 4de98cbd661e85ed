package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// Those who are measured by TestLookup.
const (
	nativeName   = "Deputy"
	shippedName  = "Deputy, as shipped"
	borrowedName = "Deputy, --evaluator=spicedb"
)

// TestLookup measures lookups of Deputy's own evaluator, without a journal and as shipped, beside those of Deputy over SpiceDB's and of SpiceDB over
// PostgreSQL, on the same graph in the same run.
func TestLookup(t *testing.T) {
	l := openLookups(t)
	l.agree(t)
	t.Run("an agent", l.ofAgents)
	t.Run("a user", l.ofUsers)
	t.Run("first", l.first)
	t.Run("subjects", l.subjects)
	t.Run("over", l.over)
}

// lookups are the servers that look up.
type lookups struct {
	graph   graph
	serving map[string]deputy
	// running are the sessions: all servers have the same, each with ids of its own.
	running map[string][]agentRun
	// postgres is SpiceDB's client; nil where there is no PostgreSQL.
	postgres *spicedb
}

func openLookups(t *testing.T) *lookups {
	t.Helper()
	l := &lookups{graph: sized(scaled(87_300, 5_000)), serving: map[string]deputy{}, running: map[string][]agentRun{}}
	for name, s := range map[string]served{
		nativeName: {Journal: journalOff}, shippedName: {}, borrowedName: {Journal: journalOff, Evaluator: daemon.EvaluatorSpiceDB},
	} {
		s.Kind, s.Dir = "deputy", t.TempDir()
		d := dialDeputy(t, start(t, s))
		l.serving[name], l.running[name] = d, d.settle(t, l.graph)
	}
	if havePostgres(t) {
		s := startSpiceDB(t, l.graph, served{Datastore: "postgres", URI: harness.Postgres(t).URI})
		l.postgres = &s
	}
	return l
}

// reach looks up what a session of an agent reaches, and counts it.
func (l *lookups) reach(name string, limit uint32, made *atomic.Int64) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		run := l.running[name][r.IntN(len(l.running[name]))]
		found, err := reached(ctx, l.serving[name].decisions, run, limit)
		made.Add(int64(len(found)))
		return len(found) > 0, err
	}
}

// look looks up what a user views over authzed.api.v1, and counts it.
func (l *lookups) look(s spicedb, made *atomic.Int64) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		n, err := s.lookup(ctx, user(r.IntN(l.graph.tenants), 1+r.IntN(usersPerTenant-1)))
		made.Add(int64(n))
		return n > 0, err
	}
}

// agree has all look up the same: they have to find the same. A lookup over SpiceDB may name an object again on a later page.
func (l *lookups) agree(t *testing.T) {
	t.Helper()
	for i := range uint64(scaled(20, 3)) {
		var all [][]string
		for _, name := range []string{nativeName, shippedName, borrowedName} {
			found, err := reached(t.Context(), l.serving[name].decisions, l.running[name][int(i*7)%len(l.running[name])], everything)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(found)
			if all = append(all, slices.Compact(found)); !slices.Equal(all[0], all[len(all)-1]) || len(all[0]) == 0 {
				t.Fatalf("lookup %d for an agent: %s finds %d objects, %s %d", i, nativeName, len(all[0]), name, len(all[len(all)-1]))
			}
		}
		count := func(ask func(made *atomic.Int64) asking) int64 {
			var made atomic.Int64
			if _, err := ask(&made)(t.Context(), rand.New(rand.NewPCG(0, i))); err != nil {
				t.Fatal(err)
			}
			return made.Load()
		}
		if l.postgres == nil {
			continue
		}
		one, other := count(func(made *atomic.Int64) asking { return l.look(l.serving[nativeName].checks, made) }),
			count(func(made *atomic.Int64) asking { return l.look(*l.postgres, made) })
		if one != other || one == 0 {
			t.Fatalf("lookup %d for a user: %d objects, of SpiceDB over PostgreSQL %d", i, one, other)
		}
	}
}

// ofAgents measures what sessions of agents reach.
func (l *lookups) ofAgents(t *testing.T) {
	var all []contender
	for _, name := range []string{nativeName, shippedName, borrowedName} {
		var made atomic.Int64
		all = append(all, contender{name: name, ask: l.reach(name, everything, &made), made: &made})
	}
	r := contest(t, "objects of LookupResources of deputy.v1", 1, scaled(5, 1), all)
	atLeast(t, "objects of LookupResources of deputy.v1 / with --evaluator=spicedb, 1 worker", r.over(nativeName, borrowedName), "", 8)
}

// ofUsers measures what users view, as SpiceDB is asked for it.
func (l *lookups) ofUsers(t *testing.T) {
	all := l.overSpiceDBsAPI(func(s spicedb, made *atomic.Int64) asking { return l.look(s, made) })
	r := contest(t, "objects of LookupResources of authzed.api.v1", 1, scaled(5, 1), all)
	add(t, "objects of LookupResources of authzed.api.v1 / with --evaluator=spicedb, 1 worker", r.over(nativeName, borrowedName), "")
	if l.postgres != nil {
		atLeast(t, "objects of LookupResources of authzed.api.v1 / SpiceDB's on PostgreSQL, 1 worker", r.over(nativeName, spicedbPostgres), "", 20)
	}
}

// overSpiceDBsAPI are those that are asked over authzed.api.v1.
func (l *lookups) overSpiceDBsAPI(ask func(s spicedb, made *atomic.Int64) asking) (all []contender) {
	for _, name := range []string{nativeName, shippedName, borrowedName} {
		var made atomic.Int64
		all = append(all, contender{name: name, ask: ask(l.serving[name].checks, &made), made: &made})
	}
	if l.postgres != nil {
		var made atomic.Int64
		all = append(all, contender{name: spicedbPostgres, ask: ask(*l.postgres, &made), made: &made})
	}
	return all
}

// first measures how soon there is a first object.
func (l *lookups) first(t *testing.T) {
	for _, name := range []string{nativeName, shippedName} {
		decision, lookup := "a decision, "+name, "LookupResources, limit 1, "+name
		r := contest(t, "the first object of a lookup, and a decision", 1, scaled(5, 1), []contender{
			{name: decision, ask: decide(l.serving[name].decisions, cold(l.running[name]))},
			{name: lookup, ask: l.reach(name, 1, new(atomic.Int64))},
		})
		atMost(t, "p50 of LookupResources with limit 1 / of a decision, 1 worker, "+name, r.slower(lookup, decision), "", 5)
	}
}

// subjects measures who views a document.
func (l *lookups) subjects(t *testing.T) {
	r := contest(t, "subjects of LookupSubjects of authzed.api.v1", 1, scaled(5, 1), l.overSpiceDBsAPI(func(s spicedb, made *atomic.Int64) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			n, err := viewers(ctx, s.client, document(r.IntN(l.graph.tenants), r.IntN(documentsPerTenant)))
			made.Add(int64(n))
			return n > 0, err
		}
	}))
	add(t, "subjects of LookupSubjects of authzed.api.v1 / with --evaluator=spicedb, 1 worker", r.over(nativeName, borrowedName), "")
	if l.postgres != nil {
		add(t, "subjects of LookupSubjects of authzed.api.v1 / SpiceDB's on PostgreSQL, 1 worker", r.over(nativeName, spicedbPostgres), "")
	}
}

// over measures a lookup of the one document that a user owns, beside very many that it does not own any more.
func (l *lookups) over(t *testing.T) {
	checks := l.serving[nativeName].checks
	const leaver, newcomer = "leaver", "newcomer"
	owns := func(user, document string) *v1.Relationship {
		return &v1.Relationship{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: document}, Relation: "owner",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}},
		}
	}
	gone := scaled(100_000, 2_000)
	var load []*v1.ImportBulkRelationshipsRequest
	for from := 0; from < gone; from += 1000 {
		message := &v1.ImportBulkRelationshipsRequest{}
		for i := range 1000 {
			message.Relationships = append(message.Relationships, owns(leaver, fmt.Sprintf("over-%06d", from+i)))
		}
		load = append(load, message)
	}
	if err := importAll(t.Context(), checks.client, load); err != nil {
		t.Fatal(err)
	}
	for left := true; left; {
		answer, err := checks.client.DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{
				ResourceType: "document", OptionalRelation: "owner",
				OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user", OptionalSubjectId: leaver},
			},
			OptionalLimit: 1000, OptionalAllowPartialDeletions: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		left = answer.GetDeletionProgress() == v1.DeleteRelationshipsResponse_DELETION_PROGRESS_PARTIAL
	}
	if err := importAll(t.Context(), checks.client, []*v1.ImportBulkRelationshipsRequest{{
		Relationships: []*v1.Relationship{owns(leaver, "zz-leaver"), owns(newcomer, "zz-newcomer")},
	}}); err != nil {
		t.Fatal(err)
	}
	of := func(user string) asking {
		return func(ctx context.Context, _ *rand.Rand) (bool, error) {
			n, err := checks.lookup(ctx, user)
			if err == nil && n != 1 {
				err = fmt.Errorf("%s views %d documents", user, n)
			}
			return true, err
		}
	}
	beside := fmt.Sprintf("beside %d that were deleted", gone)
	r := contest(t, "LookupResources of one document", 1, scaled(5, 1), []contender{
		{name: "beside no other", ask: of(newcomer)}, {name: beside, ask: of(leaver)},
	})
	atMost(t, "p50 of a lookup of one document, "+beside+" / beside no other, 1 worker", r.slower(beside, "beside no other"), "", 1.5)
}

// everything is more than any session reaches.
const everything = 10_000

// reached returns what a session reaches, up to a limit, also where that takes several pages.
func reached(ctx context.Context, client deputyv1.PermissionsServiceClient, run agentRun, limit uint32) (found []string, err error) {
	var cursor *deputyv1.Cursor
	for {
		stream, err := client.LookupResources(ctx, &deputyv1.LookupResourcesRequest{
			AgentId: run.agent, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: run.session},
			ResourceObjectType: "document", Permission: "view", Limit: limit, Cursor: cursor,
		})
		if err != nil {
			return found, err
		}
		var end *deputyv1.LookupEnd
		for end == nil {
			response, err := stream.Recv()
			if err != nil {
				return found, err
			}
			if failed := response.GetFailed(); failed != nil {
				return found, fmt.Errorf("a document failed: %s", failed)
			}
			if end = response.GetEnd(); end == nil {
				found = append(found, response.GetResource().GetResource().GetObjectId())
			}
		}
		if end.GetComplete() || len(found) >= int(limit) {
			return found, nil
		}
		cursor = end.GetNext()
	}
}

// viewers counts who views a document.
func viewers(ctx context.Context, client v1.PermissionsServiceClient, document string) (found int, err error) {
	stream, err := client.LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: document}, Permission: "view", SubjectObjectType: "user",
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil {
		return 0, err
	}
	for ; ; found++ {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return found, err
		}
	}
}
