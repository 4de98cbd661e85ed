package oracle_test

import (
	"testing"
	"time"

	"github.com/deputyauth/deputy/tests/oracle"
)

// TestOracleByHand holds the oracle itself to answers that were worked out by hand: it starts from a state
// in which the reply bot may view the plan for Alice, by a chain of three delegations, and changes one
// thing.
func TestOracleByHand(t *testing.T) {
	now := time.Now()
	later, past := now.Add(time.Hour), now.Add(-time.Hour)
	user := func(id string) oracle.Object { return oracle.Object{Type: "user", ID: id} }
	agent := func(id string) oracle.Object { return oracle.Object{Type: "agent", ID: id} }
	acme, plan := oracle.Object{Type: "tenant", ID: "acme"}, oracle.Object{Type: "document", ID: "plan"}
	shelf := oracle.Object{Type: "folder", ID: "shelf"}
	edge := func(resource oracle.Object, relation string, who oracle.Object) oracle.Edge {
		return oracle.Edge{Resource: resource, Relation: relation, Subject: oracle.Subject{Object: who}}
	}
	start := func() (*oracle.State, *oracle.Question) {
		s := oracle.NewState()
		for _, o := range []oracle.Object{user("alice"), user("bob"), acme, agent("triage"), agent("reply")} {
			s.Active[o] = true
		}
		for _, a := range []string{"triage", "reply"} {
			s.Owners[agent(a)] = map[string]bool{"carol": true}
			s.Standing[oracle.Standing{Tenant: "acme", Relation: "agent", Who: agent(a)}] = time.Time{}
			s.Edges[edge(shelf, "viewer", agent(a))] = oracle.Condition{}
		}
		for _, u := range []string{"alice", "bob"} {
			s.Standing[oracle.Standing{Tenant: "acme", Relation: "member", Who: user(u)}] = later
			s.Edges[edge(shelf, "viewer", user(u))] = oracle.Condition{}
		}
		s.Edges[edge(shelf, "tenant", acme)] = oracle.Condition{}
		s.Edges[edge(plan, "folder", shelf)] = oracle.Condition{}
		s.Edges[edge(plan, "viewer", oracle.Object{Type: "delegation", ID: "part"})] = oracle.Condition{}
		alice := oracle.Subject{Object: user("alice")}
		s.Delegations["root"] = oracle.Delegation{ID: "root", Agent: "triage", Principal: alice, Tenant: "acme", GrantedBy: user("alice"), Unscoped: true, Active: true, Until: later}
		s.Delegations["leaf"] = oracle.Delegation{ID: "leaf", Agent: "triage", Principal: alice, Tenant: "acme", GrantedBy: agent("triage"), Parent: "root", Session: "run", Unscoped: true, Active: true, Until: later}
		s.Delegations["part"] = oracle.Delegation{ID: "part", Agent: "reply", Principal: alice, Tenant: "acme", GrantedBy: agent("triage"), Parent: "leaf", Direct: true, Active: true, Until: later}
		s.Sessions["run"] = oracle.Session{ID: "run", Agent: "triage", Active: true, Until: later, Leaves: []string{"leaf"}}
		return s, &oracle.Question{Agent: "reply", Delegation: "part", Principal: user("alice"), Tenant: "acme", Resource: plan, Permission: "view"}
	}
	change := func(id string, f func(*oracle.Delegation)) func(*oracle.State, *oracle.Question) {
		return func(s *oracle.State, _ *oracle.Question) {
			d := s.Delegations[id]
			f(&d)
			s.Delegations[id] = d
		}
	}
	run := func(f func(*oracle.Session)) func(*oracle.State, *oracle.Question) {
		return func(s *oracle.State, _ *oracle.Question) {
			session := s.Sessions["run"]
			f(&session)
			s.Sessions["run"] = session
		}
	}
	without := func(e oracle.Edge) func(*oracle.State, *oracle.Question) {
		return func(s *oracle.State, _ *oracle.Question) { delete(s.Edges, e) }
	}
	for _, test := range []struct {
		name   string
		change func(*oracle.State, *oracle.Question)
		want   string
	}{
		{"nothing", func(*oracle.State, *oracle.Question) {}, "HAS_PERMISSION UNSPECIFIED"},
		{"nobody named", func(_ *oracle.State, q *oracle.Question) { q.Principal, q.Tenant = oracle.Object{}, "" }, "HAS_PERMISSION UNSPECIFIED"},
		{"by agent alone", func(_ *oracle.State, q *oracle.Question) { q.Delegation = "" }, "HAS_PERMISSION UNSPECIFIED"},
		{"the session's agent", func(_ *oracle.State, q *oracle.Question) { q.Delegation, q.Session, q.Agent = "", "run", "triage" }, "HAS_PERMISSION UNSPECIFIED"},
		{"for Bob", func(_ *oracle.State, q *oracle.Question) { q.Principal = user("bob") }, "NO_PERMISSION ACTOR"},
		{"in another tenant", func(_ *oracle.State, q *oracle.Question) { q.Tenant = "globex" }, "NO_PERMISSION ACTOR"},
		{"another agent", func(_ *oracle.State, q *oracle.Question) { q.Agent = "triage" }, "NO_PERMISSION ACTOR"},
		{"another agent's session", func(_ *oracle.State, q *oracle.Question) { q.Delegation, q.Session = "", "run" }, "NO_PERMISSION ACTOR"},
		{"the leaf without its session", func(_ *oracle.State, q *oracle.Question) { q.Delegation, q.Agent = "leaf", "triage" }, "NO_PERMISSION ACTOR"},
		{"the root without a session", func(_ *oracle.State, q *oracle.Question) { q.Delegation, q.Agent = "root", "triage" }, "NO_PERMISSION ACTOR"},
		{"revoked root", change("root", func(d *oracle.Delegation) { d.Revoked = true }), "NO_PERMISSION ACTOR"},
		{"inactive leaf", change("leaf", func(d *oracle.Delegation) { d.Active = false }), "NO_PERMISSION ACTOR"},
		{"expired root", change("root", func(d *oracle.Delegation) { d.Until = past }), "NO_PERMISSION ACTOR"},
		{"root granted by another", change("root", func(d *oracle.Delegation) { d.GrantedBy = user("bob") }), "NO_PERMISSION ACTOR"},
		{"part granted by itself", change("part", func(d *oracle.Delegation) { d.GrantedBy = agent("reply") }), "NO_PERMISSION ACTOR"},
		{"leaf without session", change("leaf", func(d *oracle.Delegation) { d.Session, d.Direct = "", true }), "NO_PERMISSION ACTOR"},
		{"part not direct", change("part", func(d *oracle.Delegation) { d.Direct = false }), "NO_PERMISSION ACTOR"},
		{"part cut off", change("part", func(d *oracle.Delegation) { d.Parent = "" }), "NO_PERMISSION ACTOR"},
		{"part for somebody else", change("part", func(d *oracle.Delegation) { d.Principal = oracle.Subject{Object: user("bob")} }), "NO_PERMISSION ACTOR"},
		{"ended session", run(func(s *oracle.Session) { s.Ended = true }), "NO_PERMISSION ACTOR"},
		{"expired session", run(func(s *oracle.Session) { s.Until = past }), "NO_PERMISSION ACTOR"},
		{"session without the leaf", run(func(s *oracle.Session) { s.Leaves = nil }), "NO_PERMISSION ACTOR"},
		{"session of another agent", run(func(s *oracle.Session) { s.Agent = "reply" }), "NO_PERMISSION ACTOR"},
		{"suspended tenant", func(s *oracle.State, _ *oracle.Question) { s.Suspended[acme] = true }, "NO_PERMISSION ACTOR"},
		{"inactive user", func(s *oracle.State, _ *oracle.Question) { delete(s.Active, user("alice")) }, "NO_PERMISSION ACTOR"},
		{"suspended agent in the middle", func(s *oracle.State, _ *oracle.Question) { s.Suspended[agent("triage")] = true }, "NO_PERMISSION ACTOR"},
		{"agent without owner", func(s *oracle.State, _ *oracle.Question) { s.Owners[agent("reply")] = nil }, "NO_PERMISSION ACTOR"},
		{"user has left", func(s *oracle.State, _ *oracle.Question) {
			s.Standing[oracle.Standing{Tenant: "acme", Relation: "member", Who: user("alice")}] = past
		}, "NO_PERMISSION ACTOR"},
		{"user may not", without(edge(shelf, "viewer", user("alice"))), "NO_PERMISSION OBJECT"},
		{"agent in the middle may not", without(edge(shelf, "viewer", agent("triage"))), "NO_PERMISSION OBJECT"},
		{"out of scope", without(edge(plan, "viewer", oracle.Object{Type: "delegation", ID: "part"})), "NO_PERMISSION OBJECT"},
		{"no tenant", without(edge(shelf, "tenant", acme)), "NO_PERMISSION OBJECT"},
		{"two tenants", func(s *oracle.State, _ *oracle.Question) {
			s.Edges[edge(shelf, "tenant", oracle.Object{Type: "tenant", ID: "globex"})] = oracle.Condition{}
		}, "NO_PERMISSION OBJECT"},
		{"banned", func(s *oracle.State, _ *oracle.Question) {
			s.Edges[edge(plan, "banned", user("alice"))] = oracle.Condition{}
		}, "NO_PERMISSION OBJECT"},
		{"banned under a condition", func(s *oracle.State, _ *oracle.Question) {
			s.Edges[edge(plan, "banned", user("alice"))] = oracle.Condition{Cap: 10}
		}, "CONDITIONAL_PERMISSION UNSPECIFIED"},
		{"frozen before the grants", run(func(s *oracle.Session) { s.Baseline = oracle.NewState() }), "NO_PERMISSION ACTOR"},
		{"frozen with them", func(s *oracle.State, _ *oracle.Question) {
			session := s.Sessions["run"]
			session.Baseline = s.Clone()
			s.Sessions["run"] = session
		}, "HAS_PERMISSION UNSPECIFIED"},
	} {
		s, q := start()
		test.change(s, q)
		a := s.Decide(*q, now)
		if got := a.Verdict.String() + " " + a.Side.String(); a.Failure != oracle.NoFailure || got != test.want {
			t.Errorf("%s: %s %s, want %s", test.name, a.Failure, got, test.want)
		}
	}
}
