package delegate_test

import (
	"context"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/facts"
	"github.com/deputyauth/deputy/schema"
)

// interposed is a real engine before whose next write somebody else gets in: after the writer has
// looked, and before it writes.
type interposed struct {
	*engine.Engine
	before func()
}

// Write lets the other one go first, once.
func (g *interposed) Write(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	if before := g.before; before != nil {
		g.before = nil
		before()
	}
	return g.Engine.Write(ctx, updates, must)
}

var (
	user   = func(id string) authz.Object { return authz.Object{Type: authz.TypeUser, ID: id} }
	alice  = authz.Principal{Object: user("alice")}
	people = []authz.Object{user("alice"), user("carol"), {Type: authz.TypeService, ID: "nightly"}, {Type: authz.TypeTenant, ID: "acme"}}
)

// office is an engine with agents bot and sub, alice and carol (an admin) in acme, and alice's service.
// d writes without anybody in between, raced through graph.
func office(t *testing.T) (d, raced *delegate.Delegate, graph *interposed) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + paper}); err != nil {
		t.Fatal(err)
	}
	graph = &interposed{Engine: e}
	key := []byte("a key for tests of 32 bytes ....")
	d = delegate.New(e, key, time.Hour, time.Now).For("service", authz.Unbounded())
	for _, id := range []authz.AgentID{"bot", "sub"} {
		if _, _, err := d.Register(t.Context(), id, []authz.Object{user("carol")}, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range people {
		if _, _, err := d.Resume(t.Context(), who); err != nil {
			t.Fatal(err)
		}
	}
	tuple(t, e, authz.Touch, "tenant", "acme", "admin", user("carol"))
	tuple(t, e, authz.Touch, "tenant", "acme", "member", user("alice"))
	tuple(t, e, authz.Touch, "service", "nightly", "owner", user("alice"))
	return d, delegate.New(graph, key, time.Hour, time.Now).For("service", authz.Unbounded()), graph
}

func tuple(t *testing.T, e authz.Graph, op authz.Operation, kind, id, relation string, subject authz.Object) {
	t.Helper()
	_, err := e.Write(t.Context(), []authz.Update{{Operation: op, Relationship: authz.Relationship{
		Resource: authz.Object{Type: kind, ID: id}, Relation: relation, Subject: authz.Subject{Object: subject},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatAWriterStandsOnIsJudgedAgain: each write is refused when something that it stands on changed
// between its look and its write.
func TestWhatAWriterStandsOnIsJudgedAgain(t *testing.T) {
	set := authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember}
	own := delegate.Spec{Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, AllowDirect: true, TTL: time.Hour}
	ofSet, ofService := own, own
	ofSet.Principal, ofSet.GrantedBy = set, user("carol")
	ofService.Principal, ofService.GrantedBy = authz.Subject{Object: people[2]}, user("alice")
	type scene struct {
		d      *delegate.Delegate
		graph  *interposed
		parent facts.Delegation
		run    delegate.Running
	}
	create := func(spec delegate.Spec) func(*scene, *delegate.Delegate) error {
		return func(_ *scene, raced *delegate.Delegate) error {
			_, _, err := raced.Create(context.Background(), spec)
			return err
		}
	}
	part := func(s *scene, raced *delegate.Delegate) error {
		_, _, err := raced.Create(context.Background(), delegate.Spec{Agent: "sub", Parent: s.parent.ID, Unscoped: true})
		return err
	}
	ofLeaf := func(s *scene, raced *delegate.Delegate) error {
		_, _, err := raced.Create(context.Background(), delegate.Spec{Agent: "sub", Parent: s.run.Leaves[0].Delegation, Unscoped: true})
		return err
	}
	start := func(frozen bool) func(*scene, *delegate.Delegate) error {
		return func(s *scene, raced *delegate.Delegate) error {
			_, _, err := raced.StartSession(context.Background(), delegate.Start{
				Agent: "bot", Targets: []delegate.Target{{Delegation: s.parent.ID, Principals: []authz.Principal{alice}}}, Frozen: frozen,
			})
			return err
		}
	}
	renew := func(s *scene, raced *delegate.Delegate) error {
		_, _, err := raced.Renew(context.Background(), s.run.ID, 0)
		return err
	}
	suspend := func(o authz.Object) func(*scene) error {
		return func(s *scene) error { _, _, err := s.d.Suspend(context.Background(), o); return err }
	}
	suspendAgent := func(id authz.AgentID) func(*scene) error {
		return func(s *scene) error { _, _, err := s.d.Suspend(context.Background(), id.Object()); return err }
	}
	revoke := func(s *scene) error { _, err := s.d.Revoke(context.Background(), s.parent.ID); return err }
	end := func(s *scene) error { _, err := s.d.End(context.Background(), s.run.ID); return err }
	forget := func(kind, id, relation string, subject authz.Object) func(*scene) error {
		return func(s *scene) error { tuple(t, s.graph.Engine, authz.Delete, kind, id, relation, subject); return nil }
	}
	for name, c := range map[string]struct {
		write func(*scene, *delegate.Delegate) error
		other func(*scene) error
	}{
		"delegation, agent suspended":         {create(own), suspendAgent("bot")},
		"delegation, principal suspended":     {create(own), suspend(user("alice"))},
		"delegation, tenant suspended":        {create(own), suspend(people[3])},
		"for a set, admin dismissed":          {create(ofSet), forget("tenant", "acme", "admin", user("carol"))},
		"for a service, owner dismissed":      {create(ofService), forget("service", "nightly", "owner", user("alice"))},
		"for a service, service suspended":    {create(ofService), suspend(people[2])},
		"part, parent revoked":                {part, revoke},
		"part, agent suspended":               {part, suspendAgent("sub")},
		"part of a leaf, its session ended":   {ofLeaf, end},
		"session, agent suspended":            {start(false), suspendAgent("bot")},
		"session, delegation revoked":         {start(false), revoke},
		"session, principal suspended":        {start(false), suspend(user("alice"))},
		"frozen session, delegation revoked":  {start(true), revoke},
		"frozen session, principal suspended": {start(true), suspend(user("alice"))},
		"renewal, session ended":              {renew, end},
		"renewal, agent suspended":            {renew, suspendAgent("bot")},
	} {
		t.Run(name, func(t *testing.T) {
			d, raced, graph := office(t)
			s := &scene{d: d, graph: graph}
			var err error
			if s.parent, _, err = d.Create(t.Context(), own); err != nil {
				t.Fatal(err)
			}
			if s.run, _, err = d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: s.parent.ID}}}); err != nil {
				t.Fatal(err)
			}
			if err := c.write(s, raced); err != nil {
				t.Fatalf("undisturbed: %v", err)
			}
			graph.before = func() {
				if err := c.other(s); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.write(s, raced); authz.KindOf(err) != authz.Precondition {
				t.Errorf("got %v, want a precondition that does not hold", err)
			}
		})
	}
}

// TestRegisteringIsJudgedAgain: an id that somebody grants something to in between is not registered.
func TestRegisteringIsJudgedAgain(t *testing.T) {
	d, raced, graph := office(t)
	graph.before = func() {
		if _, _, err := d.Register(context.Background(), "newcomer", []authz.Object{user("alice")}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := raced.Register(t.Context(), "newcomer", []authz.Object{user("carol")}, ""); authz.KindOf(err) != authz.Exists {
		t.Errorf("two registered one id: %v", err)
	}
	graph.before = func() {
		tuple(t, graph.Engine, authz.Touch, "tenant", "acme", "agent", authz.AgentID("later").Object())
	}
	if _, _, err := raced.Register(t.Context(), "later", []authz.Object{user("carol")}, ""); authz.KindOf(err) != authz.Exists {
		t.Errorf("an id with a grant was registered: %v", err)
	}
}

// TestFrozenSessionThatWasInterrupted: between its two steps it does not act; a retry with the same key
// finishes it, and its baseline covers what the first step wrote.
func TestFrozenSessionThatWasInterrupted(t *testing.T) {
	d, raced, graph := office(t)
	parent, _, err := d.Create(t.Context(), delegate.Spec{Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	want := delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: parent.ID}}, Frozen: true, Key: "k"}
	interrupted, cut := context.WithCancel(t.Context())
	graph.before = func() { graph.before = cut }
	if _, _, err := raced.StartSession(interrupted, want); err == nil {
		t.Fatal("the interrupted start succeeded")
	}
	list, err := d.Sessions(t.Context(), "bot", true, delegate.Place{}, 10)
	if err != nil || len(list.Items) != 1 || list.Items[0].Live() {
		t.Fatalf("after the first step: %+v, %v", list.Items, err)
	}
	got, _, err := d.StartSession(t.Context(), want)
	if err != nil || got.ID != list.Items[0].ID || got.Baseline.IsZero() {
		t.Fatalf("the retry made %+v, %v", got, err)
	}
	read, _, err := d.Session(t.Context(), got.ID)
	if err != nil || !read.Live() {
		t.Errorf("after the retry: %+v, %v", read, err)
	}
}

// failing is a graph of which no list of relationships can be read, or whose writes meet others.
type failing struct {
	authz.Graph
	reads, writes error
}

// Snapshot is the graph's, with reads that fail.
func (f failing) Snapshot(ctx context.Context, at authz.Freshness) (authz.Snapshot, error) {
	snap, err := f.Graph.Snapshot(ctx, at)
	return failingSnapshot{snap, f.reads}, err
}

// Write is the graph's, or fails.
func (f failing) Write(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	if f.writes != nil {
		return authz.Revision{}, f.writes
	}
	return f.Graph.Write(ctx, updates, must)
}

type failingSnapshot struct {
	authz.Snapshot
	err error
}

// Page is the snapshot's, or fails.
func (s failingSnapshot) Page(ctx context.Context, f authz.Filter, limit int, after string) ([]authz.Relationship, string, error) {
	if s.err != nil {
		return nil, "", s.err
	}
	return s.Snapshot.Page(ctx, f, limit, after)
}

// TestSuspendingNeedsNoReads: a graph that cannot be listed keeps nobody from suspending.
func TestSuspendingNeedsNoReads(t *testing.T) {
	t.Parallel()
	whole, _, graph := office(t)
	damaged := failing{Graph: graph.Engine, reads: authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "damaged")}
	d := delegate.New(damaged, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now).For("service", authz.Unbounded())
	if _, _, err := d.Suspend(t.Context(), user("alice")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := whole.Create(t.Context(), delegate.Spec{
		Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, TTL: time.Minute,
	}); authz.KindOf(err) != authz.Precondition {
		t.Errorf("alice is not suspended: %v", err)
	}
}

// TestRegisteringMeetsAnotherWrite: that two writes met says nothing about the id, and nobody is advised to adopt it.
func TestRegisteringMeetsAnotherWrite(t *testing.T) {
	t.Parallel()
	_, _, graph := office(t)
	met := failing{Graph: graph.Engine, writes: authz.Errorf(authz.Aborted, authz.ReasonConflict, "two writes met")}
	d := delegate.New(met, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now).For("service", authz.Unbounded())
	if _, _, err := d.Register(t.Context(), "fresh", []authz.Object{user("carol")}, ""); authz.KindOf(err) != authz.Aborted {
		t.Errorf("%v, want the conflict", err)
	}
}

// paper is a domain beside the core.
const paper = `
definition paper {
	relation tenant: tenant
	relation reader: agent | user | delegation
	permission view = reader
}
`
