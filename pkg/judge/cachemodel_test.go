package judge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/schema"
)

// observed is a graph that makes stamps, and notes what is asked of it.
type observed struct {
	authz.Graph
	filters []authz.Filter
	queries []authz.Query
}

func (o *observed) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	s, err := o.Graph.Snapshot(ctx, f)
	if err != nil {
		return nil, err
	}
	return &observedSnapshot{s, s.(stamper), o}, nil
}

type observedSnapshot struct {
	authz.Snapshot
	stamper
	of *observed
}

func (s *observedSnapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	s.of.filters = append(s.of.filters, filters...)
	return s.Snapshot.Read(ctx, filters...)
}

func (s *observedSnapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	s.of.queries = append(s.of.queries, queries...)
	return s.Snapshot.Check(ctx, queries)
}

// governed is a graph over a store, with agents, delegations of every kind of root, and sessions.
type governed struct {
	*observed
	delegates *delegate.Delegate
	// cases are what may be asked, by the kind of root.
	cases map[string][]authz.Case
}

func newGoverned(t *testing.T) *governed {
	t.Helper()
	return newGovernedBy(t, time.Now)
}

// newGovernedBy is newGoverned by a clock.
func newGovernedBy(t *testing.T, now func() time.Time) *governed {
	t.Helper()
	s, err := store.Open("store", store.Config{FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, s)
	if err != nil {
		t.Fatal(err)
	}
	graph := kept.Open(kept.Config{Engine: e, Store: s, Failure: engine.Failure, Log: zap.NewNop()})
	t.Cleanup(func() {
		graph.Close()
		for _, end := range []func() error{e.Close, s.Close} {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + `
definition document {
	relation tenant: tenant
	relation reader: user | agent | service
	relation lent: user with expiration | agent with expiration | service with expiration
	permission view = reader + lent
}
`}); err != nil {
		t.Fatal(err)
	}
	g := &governed{
		observed:  &observed{Graph: graph},
		delegates: delegate.New(graph, []byte("a key for tests of 32 bytes ...."), 24*time.Hour, now).For("service", authz.Unbounded()), cases: map[string][]authz.Case{},
	}
	object := func(text string) authz.Object { return rel(text, "", "").Resource }
	for _, agent := range []authz.AgentID{"bot", "aide"} {
		if _, _, err := g.delegates.Register(t.Context(), agent, []authz.Object{object("user:carol")}, ""); err != nil {
			t.Fatal(err)
		}
	}
	var rels []authz.Relationship
	for _, who := range []string{"user:alice", "service:nightly", "tenant:acme"} {
		if _, _, err := g.delegates.Resume(t.Context(), object(who)); err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range []string{"user:alice", "service:nightly", "agent:bot", "agent:aide"} {
		relation := "member"
		if object(who).Type == authz.TypeAgent {
			relation = "agent"
		}
		rels = append(rels, rel("tenant:acme", relation, who), rel("document:plan", "reader", who))
	}
	touch(t, g, append(rels, rel("tenant:acme", "admin", "user:carol"), rel("service:nightly", "owner", "user:carol"), rel("document:plan", "tenant", "tenant:acme"))...)
	alice, nightly := object("user:alice"), object("service:nightly")
	for _, root := range []struct {
		kind          string
		principal     authz.Subject
		acting, grant authz.Object
	}{
		{"a user", authz.Subject{Object: alice}, alice, alice}, {"a service", authz.Subject{Object: nightly}, nightly, object("user:carol")},
		{"a set", authz.Subject{Object: object("tenant:acme"), Relation: "member"}, alice, object("user:carol")},
	} {
		principal, _ := authz.NewPrincipal(root.acting)
		d, _, err := g.delegates.Create(t.Context(), delegate.Spec{
			Agent: "bot", Principal: root.principal, Tenant: "acme", GrantedBy: root.grant, Unscoped: true, AllowDirect: true, TTL: 3 * time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		part, _, err := g.delegates.Create(t.Context(), delegate.Spec{
			Agent: "aide", Parent: d.ID, GrantedBy: authz.AgentID("bot").Object(), Unscoped: true, AllowDirect: true, TTL: 2 * time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(c authz.Case) {
			c.Resource, c.Permission = object("document:plan"), "view"
			g.cases[root.kind] = append(g.cases[root.kind], c)
		}
		ask(authz.Case{Agent: "bot", Delegation: d.ID, Principal: principal})
		ask(authz.Case{Agent: "aide", Delegation: part.ID, Principal: principal, Tenant: "acme"})
		ask(authz.Case{Agent: "bot", Principal: principal, Tenant: "acme"})
		for _, frozen := range []bool{false, true} {
			s, _, err := g.delegates.StartSession(t.Context(), delegate.Start{
				Agent: "bot", TTL: time.Hour, Frozen: frozen,
				Targets: []delegate.Target{{Delegation: d.ID, Principals: []authz.Principal{principal}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			ask(authz.Case{Agent: "bot", Session: s.ID})
		}
	}
	return g
}

// core returns all relationships of the core's objects.
func (g *governed) core(t *testing.T) []authz.Relationship {
	t.Helper()
	snap, err := g.Graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	var all []authz.Relationship
	for _, kind := range []string{authz.TypeUser, authz.TypeService, authz.TypeAgent, authz.TypeTenant, authz.TypeDelegation, authz.TypeSession} {
		rels, next, err := snap.Page(t.Context(), authz.Filter{Resource: authz.Object{Type: kind}}, 1000, "")
		if err != nil || next != "" {
			t.Fatal(next, err)
		}
		all = append(all, rels...)
	}
	return all
}

// decided is what decisions are compared by.
func decided(t *testing.T, j *Judge, c authz.Case, f authz.Freshness) (string, authz.Permissionship) {
	t.Helper()
	results, at, err := j.Decide(t.Context(), By{Within: authz.Unbounded()}, Questions(c), f, false)
	if err != nil {
		t.Fatal(err)
	}
	results[0].Decision.ID = ""
	return fmt.Sprintf("%+v, %v, at %v", results[0].Decision, results[0].Err, at), results[0].Decision.Permissionship
}

// TestCacheChangesNothing: whatever was written, whatever has expired and at whichever revision, a judge that has decided before
// decides as one that has not. Writes are of single rows of the core, so that every row behind a decision comes and goes.
func TestCacheChangesNothing(t *testing.T) {
	t.Parallel()
	g := newGoverned(t)
	began := time.Now()
	now := began
	clock := func() time.Time { return now }
	old := New(g, nil, clock)
	r := rand.New(rand.NewPCG(12, 34))
	rels := g.core(t)
	var tombstones []authz.Relationship
	for _, one := range rels {
		relation := map[string]string{authz.TypeDelegation: "revoked", authz.TypeSession: "ended"}[one.Resource.Type]
		if relation == "" {
			relation = "suspended"
		}
		stop := authz.Relationship{Resource: one.Resource, Relation: relation, Subject: authz.Subject{Object: one.Resource}}
		if !slices.ContainsFunc(tombstones, func(t authz.Relationship) bool { return t.Resource == stop.Resource }) {
			tombstones = append(tombstones, stop)
		}
	}
	var cases []authz.Case
	for _, kind := range []string{"a user", "a service", "a set"} {
		cases = append(cases, g.cases[kind]...)
	}
	var revisions []authz.Revision
	var broken []authz.Update // what puts right what was written
	write := func(u authz.Update) {
		t.Helper()
		at, err := g.Write(t.Context(), []authz.Update{u}, nil)
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, at)
	}
	outcomes, unread, older := map[authz.Permissionship]int{}, 0, 0
	for step := range 3000 {
		switch n := r.IntN(12); {
		case n == 0:
			now = began.Add(time.Duration(r.IntN(8)) * 30 * time.Minute)
		case n == 1 && len(broken) < 3:
			stop := tombstones[r.IntN(len(tombstones))]
			write(authz.Update{Operation: authz.Touch, Relationship: stop})
			broken = append(broken, authz.Update{Operation: authz.Delete, Relationship: stop})
		case n <= 3 && len(broken) < 3:
			one := rels[r.IntN(len(rels))]
			broken = append(broken, authz.Update{Operation: authz.Touch, Relationship: one})
			change := authz.Update{Operation: authz.Delete, Relationship: one}
			if !one.ExpiresAt.IsZero() && r.IntN(2) == 0 {
				change.Operation, change.Relationship.ExpiresAt = authz.Touch, began.Add(time.Duration(1+r.IntN(240))*time.Minute)
			}
			write(change)
		case n <= 5 && len(broken) > 0:
			i := r.IntN(len(broken))
			write(broken[i])
			broken = slices.Delete(broken, i, i+1)
		}
		var f authz.Freshness
		if len(revisions) > 0 && r.IntN(4) == 0 {
			f.Exactly = revisions[len(revisions)-1-r.IntN(min(len(revisions), 6))]
			older++
		}
		c := cases[r.IntN(len(cases))]
		g.filters = nil
		got, outcome := decided(t, old, c, f)
		if len(g.filters) == 0 {
			unread++
		}
		if want, _ := decided(t, New(g, nil, clock), c, f); got != want {
			t.Fatalf("step %d: %+v at %+v:\n    got %s\nwithout %s", step, c, f, got, want)
		}
		outcomes[outcome]++
	}
	t.Logf("%v; %d decisions read no facts, %d were at an exact revision", outcomes, unread, older)
	if outcomes[authz.HasPermission] < 300 || outcomes[authz.NoPermission] < 300 || unread < 500 || older < 500 {
		t.Errorf("%v; %d decisions read no facts, %d were at an exact revision", outcomes, unread, older)
	}
}

// TestNothingIsFoundOutAgain: as long as nothing has changed, a decision reads no fact again and asks the engine about the
// object and the tenant alone, no matter which of these granted the root: a user, a service's owner, or an admin for a set.
func TestNothingIsFoundOutAgain(t *testing.T) {
	t.Parallel()
	g := newGoverned(t)
	j := New(g, nil, time.Now)
	for kind, cases := range g.cases {
		for i, c := range cases {
			if c.Session == "" && c.Delegation == "" {
				continue // which delegations an agent has is a list over many objects
			}
			frozen := i == len(cases)-1
			for again := range 3 {
				g.filters, g.queries = nil, nil
				if got, outcome := decided(t, j, c, authz.Freshness{}); outcome != authz.HasPermission {
					t.Fatalf("for %s: %s", kind, got)
				}
				if again > 0 && !frozen && len(g.filters) > 0 {
					t.Errorf("for %s, %+v, it reads %v", kind, c, g.filters)
				}
				for _, q := range g.queries {
					if q.Resource.Type != "document" && q.Permission != "access" {
						t.Errorf("for %s, %+v, it asks %s", kind, c, q.Text())
					}
				}
			}
		}
	}
	// Explained, it says of a set what it says of everything that the engine could answer.
	c := g.cases["a set"][0]
	results, _, err := j.Decide(t.Context(), By{Within: authz.Unbounded()}, Questions(c), authz.Freshness{}, true)
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results[0].Err)
	}
	explained := slices.ContainsFunc(results[0].Decision.Candidates[0].Conditions, func(o authz.Condition) bool {
		return o.Query != nil && reflect.DeepEqual(o.Query.Resource, c.Delegation.Object()) && o.Outcome == authz.Yes && o.Explanation != nil
	})
	if !explained {
		t.Errorf("the set is not explained: %+v", results[0].Decision.Candidates[0].Conditions)
	}
}

// TestWhatIsCutForOneIsNotKeptForAll: of a session with leaves for two principals each caller gets those that exist for it, no matter
// which caller asked before.
func TestWhatIsCutForOneIsNotKeptForAll(t *testing.T) {
	t.Parallel()
	g := newGoverned(t)
	s, _, err := g.delegates.StartSession(t.Context(), delegate.Start{Agent: "bot", TTL: time.Hour, Targets: []delegate.Target{
		{Delegation: g.cases["a user"][0].Delegation}, {Delegation: g.cases["a service"][0].Delegation},
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := g.cases["a user"][0]
	c.Delegation, c.Session, c.Principal = "", s.ID, authz.Principal{}
	callers := map[string]*authz.Bounds{"all": authz.Unbounded()}
	for _, kind := range []string{authz.TypeUser, authz.TypeService} {
		b := *authz.Unbounded()
		b.Principals = authz.NamesOf(kind)
		callers[kind] = &b
	}
	says := func(j *Judge, within *authz.Bounds) string {
		t.Helper()
		results, _, err := j.Decide(t.Context(), By{Within: within}, Questions(c), authz.Freshness{}, false)
		if err != nil {
			t.Fatal(err)
		}
		results[0].Decision.ID = ""
		return fmt.Sprintf("%+v, %v", results[0].Decision, results[0].Err)
	}
	answers := map[string]string{}
	for name, within := range callers {
		answers[name] = says(New(g, nil, time.Now), within)
		for other, said := range answers {
			if other != name && said == answers[name] {
				t.Fatalf("%s and %s get the same, so that nothing is shown: %s", name, other, said)
			}
		}
	}
	for first, before := range callers {
		j := New(g, nil, time.Now)
		says(j, before)
		for name, within := range callers {
			if got := says(j, within); got != answers[name] {
				t.Errorf("%s gets after %s\n    %s\nwant %s", name, first, got, answers[name])
			}
		}
	}
}
