package delegate_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// watched is a graph that notes how many updates the largest write had, and takes as many writes as are left.
type watched struct {
	authz.Graph
	largest, left int
}

func (g *watched) Write(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	if g.left--; g.left < 0 {
		return authz.Revision{}, errInterrupted
	}
	g.largest = max(g.largest, len(updates))
	return g.Graph.Write(ctx, updates, must)
}

const plenty = 1 << 30

// TestBrakeIsBounded: one call of a brake does a bounded amount of what is to be done, in writes that an engine takes, and says where to go on.
func TestBrakeIsBounded(t *testing.T) {
	t.Parallel()
	const parts = 150 // within one page, and more than one write takes
	d, _, graph := office(t)
	of := create(t, d, ofAlice)
	start(t, d, under(of))
	part := create(t, d, delegate.Spec{Agent: "sub", Parent: of.ID, Unscoped: true, AllowDirect: true})
	for i := 1; i < parts; i += 50 {
		var updates []authz.Update
		for k := i; k < min(i+50, parts); k++ {
			copied := part
			copied.ID = authz.DelegationID(fmt.Sprintf("%032x", k))
			updates = append(updates, copied.Write(nil)...)
		}
		if _, err := graph.Engine.Write(t.Context(), updates, nil); err != nil {
			t.Fatal(err)
		}
	}
	w := &watched{Graph: graph, left: plenty}
	brakes := delegate.New(w, []byte("key"), time.Hour, time.Now).For("service", authz.Unbounded())
	brakes.SetSweepReads(1) // it looks at a page of sessions first, and at one of delegations in the next call
	bot := authz.AgentID("bot").Object()
	first, err := brakes.Brake(t.Context(), bot, delegate.Place{})
	if err != nil || first.Sessions != 1 || first.Delegations != 0 || first.Next == nil {
		t.Fatalf("the first call came to %+v, %v", first, err)
	}
	second, err := brakes.Brake(t.Context(), bot, *first.Next)
	if err != nil || second.Sessions != 0 || second.Delegations != parts || second.Next != nil {
		t.Errorf("the second call came to %+v, %v", second, err)
	}
	if w.largest > delegate.MaxUpdates || w.largest < delegate.MaxUpdates/2 {
		t.Errorf("the largest write has %d updates, and an engine takes %d", w.largest, delegate.MaxUpdates)
	}
	if got, _, err := d.Delegation(t.Context(), part.ID); err != nil || !got.Stopped || got.AllowDirect || got.Unscoped {
		t.Errorf("a part is %+v, %v", got, err)
	}
}

// TestBrakeThatIsInterrupted: what keeps a brake from going on is an error only where the call has done nothing. Otherwise it says what it did, and
// where to go on. Whatever comes of it, the first write has stopped the agent.
func TestBrakeThatIsInterrupted(t *testing.T) {
	t.Parallel()
	d, _, graph := office(t)
	of := create(t, d, ofAlice)
	run := start(t, d, under(of))
	part := create(t, d, delegate.Spec{Agent: "sub", Parent: of.ID, Unscoped: true})
	w := &watched{Graph: graph, left: 2} // the suspension, and the end of the session
	brakes := delegate.New(w, []byte("key"), time.Hour, time.Now).For("service", authz.Unbounded())
	bot := authz.AgentID("bot").Object()
	by, err := brakes.Brake(t.Context(), bot, delegate.Place{})
	if err != nil || by.Next == nil || by.Sessions != 1 || by.Delegations != 0 || by.At.IsZero() {
		t.Fatalf("a brake that was interrupted came to %+v, %v", by, err)
	}
	if a, _, err := d.Agent(t.Context(), "bot"); err != nil || a.Live() {
		t.Errorf("the agent is %+v, %v", a, err)
	}
	if s, _, err := d.Session(t.Context(), run.ID); err != nil || !s.Stopped {
		t.Errorf("the session is %+v, %v", s, err)
	}
	if again, err := brakes.Brake(t.Context(), bot, *by.Next); err == nil {
		t.Errorf("a call that has done nothing came to %+v", again)
	}
	w.left = plenty
	if rest, err := brakes.Brake(t.Context(), bot, *by.Next); err != nil || rest.Sessions != 0 || rest.Delegations != 1 || rest.Next != nil {
		t.Errorf("the rest came to %+v, %v", rest, err)
	}
	if got, _, err := d.Delegation(t.Context(), part.ID); err != nil || !got.Stopped {
		t.Errorf("the part is %+v, %v", got, err)
	}
	w.left = 0
	if by, err := brakes.Brake(t.Context(), alice.Object, delegate.Place{}); err == nil {
		t.Errorf("a brake whose first write fails came to %+v", by)
	}
}

// TestBrakeLeavesOtherTenants: what an agent has left in a tenant that it is not in any more is not the business of a caller that is bound to
// another one: its brake neither counts nor stops it.
func TestBrakeLeavesOtherTenants(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	theirs := root()
	theirs.Tenant, theirs.Principal = "globex", authz.Subject{Object: user("mallory")}
	var parts []facts.Delegation
	var runs []delegate.Running
	for _, spec := range []delegate.Spec{root(), theirs} {
		of := create(t, d, spec)
		parts = append(parts, create(t, d, delegate.Spec{Agent: "sub", Parent: of.ID, Unscoped: true}))
		runs = append(runs, start(t, d, under(of)))
	}
	tuple(t, graph.Engine, authz.Delete, authz.TypeTenant, "globex", "agent", authz.AgentID("bot").Object())
	confined := delegate.New(graph.Engine, []byte("key"), time.Hour, time.Now).For("of-acme", ofAcme())
	bot := authz.AgentID("bot").Object()
	if reach, err := confined.WouldStop(t.Context(), bot); err != nil || reach.Sessions != 1 || reach.Delegations != 2 {
		t.Errorf("it would stop %+v, %v", reach, err)
	}
	if by, err := confined.Brake(t.Context(), bot, delegate.Place{}); err != nil || by.Sessions != 1 || by.Delegations != 1 || by.Next != nil {
		t.Errorf("it stopped %+v, %v", by, err)
	}
	for i, stopped := range []bool{true, false} {
		part, _, err := d.Delegation(t.Context(), parts[i].ID)
		if err != nil || part.Stopped != stopped {
			t.Errorf("part %d is %+v, %v", i, part, err)
		}
		run, _, err := d.Session(t.Context(), runs[i].ID)
		if err != nil || run.Stopped != stopped {
			t.Errorf("session %d is %+v, %v", i, run, err)
		}
	}
}

// TestPurgeIsBounded: one call of a purge does a bounded amount of the walk, and a caller that is bound to tenants does none of it, nor lists what
// is live in all of them.
func TestPurgeIsBounded(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	of := create(t, d, root())
	run := start(t, d, under(of))
	if _, err := d.End(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	confined := delegate.New(graph.Engine, []byte("key"), time.Hour, time.Now).For("of-acme", ofAcme())
	for _, dry := range []bool{true, false} {
		if did, _, err := confined.Purge(t.Context(), delegate.Purging{DryRun: dry}, delegate.Place{}); authz.KindOf(err) != authz.Denied {
			t.Errorf("of a caller with bounds a purge came to %+v, %v", did, err)
		}
	}
	if indexed, err := confined.Index(t.Context()); indexed || authz.KindOf(err) != authz.Denied {
		t.Errorf("a caller with bounds lists what is live: %t, %v", indexed, err)
	}
	d.SetListReads(1) // the sessions first, and the delegations in the next call
	did, next, err := d.Purge(t.Context(), delegate.Purging{}, delegate.Place{})
	if err != nil || did.Sessions != 1 || next == nil {
		t.Fatalf("the first call came to %+v, %v, %v", did, next, err)
	}
	if did, next, err = d.Purge(t.Context(), delegate.Purging{}, *next); err != nil || did.Sessions != 0 || next != nil {
		t.Errorf("the second call came to %+v, %v, %v", did, next, err)
	}
}
