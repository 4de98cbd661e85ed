package judge

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

// counted is a real engine that counts what is read of it.
type counted struct {
	authz.Graph
	// rows counts relationships and checks.
	rows atomic.Int64
}

// Snapshot is authz.Graph's.
func (c *counted) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	s, err := c.Graph.Snapshot(ctx, f)
	return &countedSnapshot{s, c}, err
}

type countedSnapshot struct {
	authz.Snapshot
	of *counted
}

// Read is authz.Snapshot's.
func (s *countedSnapshot) Read(ctx context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	lists, err := s.Snapshot.Read(ctx, filters...)
	for _, l := range lists {
		s.of.rows.Add(int64(len(l)))
	}
	return lists, err
}

// Page is authz.Snapshot's.
func (s *countedSnapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	rels, next, err := s.Snapshot.Page(ctx, f, limit, cursor)
	s.of.rows.Add(int64(len(rels)))
	return rels, next, err
}

// Check is authz.Snapshot's.
func (s *countedSnapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	s.of.rows.Add(int64(len(queries)))
	return s.Snapshot.Check(ctx, queries)
}

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | service | agent
	permission view = reader
}
`

// consent is carol's, for all members.
var consent = delegate.Spec{
	Agent: "bot", Principal: authz.Subject{Object: authz.TenantID("acme").Object(), Relation: "member"}, Tenant: "acme",
	GrantedBy: authz.Object{Type: authz.TypeUser, ID: "carol"}, Unscoped: true, AllowDirect: true, TTL: time.Hour,
}

// crowd is an engine where bot acts for alice, a member of acme, directly and by a set, and what writes to it.
func crowd(t *testing.T) (*counted, *delegate.Delegate) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	return crowdIn(t, e, e)
}

// crowdIn is crowd in a graph over an engine, which it closes.
func crowdIn(t testing.TB, e *engine.Engine, g authz.Graph) (*counted, *delegate.Delegate) {
	t.Helper()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := v1.NewSchemaServiceClient(e.Conn()).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + domain}); err != nil {
		t.Fatal(err)
	}
	d := delegate.New(g, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now).For("service", authz.Unbounded())
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := d.Register(t.Context(), "bot", []authz.Object{{Type: authz.TypeUser, ID: "carol"}}, "")
	ok(err)
	for _, o := range []authz.Object{{Type: authz.TypeUser, ID: "alice"}, authz.TenantID("acme").Object()} {
		_, _, err := d.Resume(t.Context(), o)
		ok(err)
	}
	touch(t, g,
		rel("tenant:acme", "admin", "user:carol"), rel("tenant:acme", "member", "user:alice"), rel("tenant:acme", "agent", "agent:bot"),
		rel("document:plan", "tenant", "tenant:acme"), rel("document:plan", "reader", "user:alice"), rel("document:plan", "reader", "agent:bot"))
	_, _, err = d.Create(t.Context(), consent)
	ok(err)
	return &counted{Graph: g}, d
}

func rel(resource, relation, subject string) authz.Relationship {
	object := func(text string) authz.Object {
		for i := range text {
			if text[i] == ':' {
				return authz.Object{Type: text[:i], ID: text[i+1:]}
			}
		}
		return authz.Object{}
	}
	return authz.Relationship{Resource: object(resource), Relation: relation, Subject: authz.Subject{Object: object(subject)}}
}

func touch(t testing.TB, g authz.Graph, rels ...authz.Relationship) {
	t.Helper()
	for len(rels) > 0 {
		n := min(len(rels), 1000)
		updates := make([]authz.Update, n)
		for i, r := range rels[:n] {
			updates[i] = authz.Update{Operation: authz.Touch, Relationship: r}
		}
		if _, err := g.Write(t.Context(), updates, nil); err != nil {
			t.Fatal(err)
		}
		rels = rels[n:]
	}
}

// others are so many live delegations of a set to other agents, as far as a decision looks at them.
func others(from, to int) []authz.Relationship {
	var rels []authz.Relationship
	for i := from; i < to; i++ {
		id := fmt.Sprintf("delegation:other%05d", i)
		direct := rel(id, "allow_direct", "tenant:acme")
		direct.Subject.Relation, direct.ExpiresAt = "member", time.Now().Add(time.Hour)
		set := rel(id, "principal", "tenant:acme")
		set.Subject.Relation = "member"
		active := rel(id, "active", id)
		active.ExpiresAt = time.Now().Add(time.Hour)
		rels = append(rels, direct, set, active, rel(id, "agent", fmt.Sprintf("agent:other%d", i)), rel(id, "tenant", "tenant:acme"))
	}
	return rels
}

// TestByAgentAloneReadsAConstantNumber: a decision by agent alone finds its delegation among those of other agents, and
// however many those are, it reads no more than a constant number of rows, and then says that it is too many.
func TestByAgentAloneReadsAConstantNumber(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, _ := crowd(t)
	j := New(graph, nil, time.Now)
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	c := authz.Case{Agent: "bot", Principal: alice, Tenant: "acme", Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view"}
	const most = 5*(maxMarks+1) + 10*maxRead
	written, own := 0, 0
	for _, step := range []struct {
		others, own int
		tooMany     bool
	}{{0, 0, false}, {10, 0, false}, {100, 0, false}, {500, 0, false}, {600, 0, false}, {600, 300, false}, {600, 600, true}, {1500, 1000, true}} {
		touch(t, graph, others(written, step.others)...)
		for ; own < step.own; own++ {
			// Leaves of sessions that have ended, as far as a decision looks at them.
			touch(t, graph, rel(fmt.Sprintf("delegation:leaf%05d", own), "agent", "agent:bot"))
		}
		written = step.others
		graph.rows.Store(0)
		results, _, err := j.Decide(t.Context(), By{Within: authz.Unbounded()}, Questions(c), authz.Freshness{}, false)
		if err != nil {
			t.Fatal(err)
		}
		d, err := results[0].Decision, results[0].Err
		e, _ := err.(*authz.Error) //nolint:errorlint // as it is returned
		switch {
		case step.tooMany && (e == nil || e.Kind != authz.Precondition || e.Reason != authz.ReasonTooManyCandidates):
			t.Errorf("beside %d others: %v, %v", step.others, d.Permissionship, err)
		case !step.tooMany && (err != nil || d.Permissionship != authz.HasPermission):
			t.Errorf("beside %d others: %v, %v", step.others, d.Permissionship, err)
		}
		if n := graph.rows.Load(); n > most {
			t.Errorf("beside %d others it reads %d rows, more than %d", step.others, n, most)
		}
	}
}

// TestLookupsStopForTheirBudget: a lookup whose candidates come to nothing stops when it has done enough, with a place
// to go on from, and finds what there is in the end.
func TestLookupsStopForTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, d := crowd(t)
	j := New(graph, nil, time.Now)
	j.lookupWork = 400
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	var rels []authz.Relationship
	for i := range 1100 {
		// Readable for both, and nobody's.
		id := fmt.Sprintf("document:a%05d", i)
		rels = append(rels, rel(id, "reader", "user:alice"), rel(id, "reader", "agent:bot"))
	}
	touch(t, graph, rels...)
	c := authz.Case{Agent: "bot", Principal: alice, Tenant: "acme", Resource: authz.Object{Type: "document"}, Permission: "view"}
	follow := func(ask func(Place) (found int, end End, err error)) {
		t.Helper()
		calls, found := 0, 0
		for place := (Place{}); ; calls++ {
			n, end, err := ask(place)
			if err != nil {
				t.Fatal(err)
			}
			if found += n; end.Next == nil {
				break
			}
			if place = *end.Next; calls > 20 {
				t.Fatalf("it does not end: %+v", place)
			}
		}
		if calls < 1 || found != 1 {
			t.Errorf("found %d in %d calls", found, calls+1)
		}
	}
	follow(func(place Place) (found int, end End, err error) {
		end, err = j.Resources(t.Context(), authz.Unbounded(), c, authz.Freshness{}, place, 1000, func(r Reached) error {
			found++
			if r.Err != nil || r.Resource.ID != "plan" {
				t.Errorf("found %+v", r)
			}
			return nil
		})
		return found, end, err
	})
	// The same where the objects of the type are gone through.
	follow(func(place Place) (found int, end End, err error) {
		if place == (Place{}) {
			at, err := graph.Snapshot(t.Context(), authz.Freshness{})
			if err != nil {
				t.Fatal(err)
			}
			candidates, err := j.source(at, time.Now()).candidates(t.Context(), authz.Unbounded(), c)
			if err != nil || len(candidates) != 1 {
				t.Fatalf("%v, %v", candidates, err)
			}
			place = Place{Revision: at.Revision(), Leaf: candidates[0].Leaf().ID, Listed: true}
		}
		end, err = j.Resources(t.Context(), authz.Unbounded(), c, authz.Freshness{}, place, 1000, func(Reached) error { found++; return nil })
		return found, end, err
	})
	// Agents: delegations that do not act, and one for many principals.
	touch(t, graph, others(0, 60)...)
	rels = nil
	for i := range 700 {
		rels = append(rels, rel("tenant:acme", "member", fmt.Sprintf("user:u%05d", i)))
	}
	touch(t, graph, rels...)
	if _, _, err := d.Create(t.Context(), delegate.Spec{
		Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, TTL: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	pairs := map[string]int{}
	calls := 0
	for place := (Place{}); ; calls++ {
		end, err := j.Agents(t.Context(), authz.Unbounded(), authz.Case{Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view"}, authz.Freshness{}, place, 1, func(r Reacher) error {
			pairs[string(r.Candidate.Delegation())+" for "+r.Candidate.Principal.ID]++
			return r.Err
		})
		if err != nil {
			t.Fatal(err)
		}
		if end.Next == nil {
			break
		}
		if place = *end.Next; calls > 40 {
			t.Fatalf("it does not end: %+v", place)
		}
	}
	if calls < 1 || len(pairs) != 2 {
		t.Errorf("found %v in %d calls", pairs, calls+1)
	}
	for pair, times := range pairs {
		if times != 1 {
			t.Errorf("%s was found %d times", pair, times)
		}
	}
}
