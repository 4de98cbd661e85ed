package oracle_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/oracle"
)

// tally counts the kinds of answers that a property met, so that it cannot hold for want of cases. It is
// safe for concurrent use.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	total  int
}

// add counts answers.
func (c *tally) add(answers []oracle.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	for _, a := range answers {
		kind := a.Verdict.String() + " " + a.Side.String()
		if a.Failure != oracle.NoFailure {
			kind = a.Failure.String()
		}
		c.counts[kind]++
		c.total++
	}
}

// wantAll asserts that enough answers were of each kind, unless the caller of the tests chose how many
// worlds to try.
func (c *tally) wantAll(t *testing.T, kinds ...string) {
	t.Helper()
	t.Logf("%d answers: %v", c.total, c.counts)
	for _, kind := range kinds {
		if (c.counts[kind] == 0 || c.counts[kind]*400 < c.total) && chosenChecks == "" {
			t.Errorf("only %d of %d answers were %s: the worlds no longer try it", c.counts[kind], c.total, kind)
		}
	}
}

// TestDecisionEqualsOracle draws worlds with delegations passed on, sessions frozen and not, lets things
// happen to them that a service does, and then some that only an admin could do, and asks. Every answer,
// by CheckPermission and by CheckBulkPermissions, is the oracle's: verdict, side, missing fields, and
// what was decided for.
func TestDecisionEqualsOracle(t *testing.T) {
	drawnDecisions(t, openDeputy(t, domain), 30).wantAll(t,
		"HAS_PERMISSION UNSPECIFIED", "CONDITIONAL_PERMISSION UNSPECIFIED", "NO_PERMISSION ACTOR", "NO_PERMISSION OBJECT")
}

// TestDecisionOfFollowerEqualsOracle is TestDecisionEqualsOracle on servers that follow a database, and another Deputy, with a copy. The oracle knows of
// no copy: it holds what was written to the server. In make test each kind of copy is asked about few worlds, which are the same in every run; make soak
// has more, by DEPUTY_RAPID_CHECKS.
func TestDecisionOfFollowerEqualsOracle(t *testing.T) {
	for name, open := range harness.Copies() {
		t.Run(name, func(t *testing.T) {
			drawnDecisions(t, openFollower(t, domain, open), 6).wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION ACTOR", "NO_PERMISSION OBJECT")
		})
	}
}

// drawnDecisions is what TestDecisionEqualsOracle says, in so many worlds. It returns what the answers were.
func drawnDecisions(t *testing.T, d *deputy, worlds int) *tally {
	t.Helper()
	var met tally
	try(t, worlds, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, usual)
		for range 3 + r.below(6) {
			r.drawDelegation()
			if r.chance(60) {
				r.drawSession()
			}
		}
		// What was allowed is asked again after whatever happens; used are the delegations behind it.
		var allowed []oracle.Question
		var used []string
		ask := func(questions []oracle.Question) {
			questions = append(questions, allowed...)
			answers := r.compare(questions)
			met.add(answers)
			allowed, used = nil, nil
			for i, a := range answers {
				if a.Verdict != oracle.Denied && len(allowed) < 20 {
					allowed = append(allowed, questions[i])
					for _, d := range r.state.Chain(a.Delegation) {
						used = append(used, d.ID)
					}
				}
			}
		}
		ask(r.drawQuestions(40))
		for range r.below(5) {
			r.drawChange()
			if r.chance(30) {
				r.drawDelegation()
			}
			if r.chance(20) {
				r.drawSession()
			}
			ask(r.drawQuestions(15))
		}
		for range r.below(7) {
			r.drawTampering(used)
			ask(r.drawQuestions(5))
		}
	})
	return &met
}

// TestDeepChains passes a delegation on through eight agents, and no further. Every member of the chain
// answers as the oracle does, with everything in order and with one thing out of order.
func TestDeepChains(t *testing.T) {
	d := openDeputy(t, domain)
	var met tally
	try(t, 20, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 1, users: 2, agents: 8, folders: 1, documents: 2})
		// Everybody belongs and may view, so that what refuses is the chain.
		folder, tenant, user := r.folders[0], r.tenants[0], r.users[0]
		r.grant(folder, "tenant", oracle.Subject{Object: tenant}, oracle.Condition{})
		for _, o := range append([]oracle.Object{tenant}, r.users...) {
			r.enlist(o)
		}
		for _, u := range r.users {
			r.stand(tenant, "member", u, time.Time{})
			r.grant(folder, "viewer", oracle.Subject{Object: u}, oracle.Condition{})
		}
		for _, a := range r.agents {
			r.stand(tenant, "agent", a, time.Time{})
			r.grant(folder, "viewer", oracle.Subject{Object: a}, r.condition("agent", "viewer"))
		}
		r.flush()
		depth := 2 + r.below(oracle.MaxChain-1)
		id := ""
		for i := range depth {
			want := oracle.Delegation{Agent: r.agents[i].ID, Principal: oracle.Subject{Object: user}, Tenant: tenant.ID, GrantedBy: user, Parent: id, Direct: true}
			if want.Unscoped = r.chance(70); want.Unscoped {
				id = r.mustDelegate(want)
			} else {
				id = r.mustDelegate(want, scopeGrant{folder, "viewer"})
			}
		}
		if depth == oracle.MaxChain {
			_, err := r.delegate(oracle.Delegation{Agent: r.agents[0].ID, Principal: oracle.Subject{Object: user}, Tenant: tenant.ID, Parent: id, Unscoped: true}, time.Minute)
			if !refused(err) {
				rt.Fatalf("a ninth delegation in a chain: %v", err)
			}
		}
		ask := func() {
			var questions []oracle.Question
			for _, id := range r.grants {
				for _, document := range append(r.documents, folder) {
					questions = append(questions, oracle.Question{
						Agent: r.state.Delegations[id].Agent, Delegation: id, Principal: user, Tenant: tenant.ID,
						Resource: document, Permission: "view", Context: oracle.Context{Region: "eu"},
					})
				}
			}
			met.add(r.compare(questions))
		}
		ask()
		broken := pick(r, r.grants)
		switch r.below(5) {
		case 0:
			r.revoke(broken)
		case 1:
			r.expire(oracle.Object{Type: "delegation", ID: broken})
		case 2:
			r.suspend(oracle.Object{Type: "agent", ID: r.state.Delegations[broken].Agent})
		case 3:
			r.leave(oracle.Standing{Tenant: tenant.ID, Relation: "agent", Who: oracle.Object{Type: "agent", ID: r.state.Delegations[broken].Agent}})
		default:
			r.leave(oracle.Standing{Tenant: tenant.ID, Relation: "member", Who: user})
			r.leave(oracle.Standing{Tenant: tenant.ID, Relation: "admin", Who: user})
		}
		r.flush()
		ask()
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION ACTOR", "NO_PERMISSION OBJECT")
}

// everything returns the questions about every object, permission and principal of a world, with and
// without context, for a party that is set on each.
func (r *random) everything(party oracle.Question, principals []oracle.Object) []oracle.Question {
	amount := 50
	var all []oracle.Question
	for _, o := range append(r.folders, r.documents...) {
		for _, permission := range []string{"view", "edit", "sign"} {
			if permission == "sign" && o.Type != "document" {
				continue
			}
			for _, p := range principals {
				for _, ctx := range []oracle.Context{{}, {Amount: &amount, Region: "eu"}} {
					q := party
					q.Resource, q.Permission, q.Principal, q.Context = o, permission, p, ctx
					all = append(all, q)
				}
			}
		}
	}
	return all
}

// party returns how to act under a delegation: by a session that holds it if it is a leaf, directly if
// that is allowed, else by a session that is started for it.
func (r *random) party(id string) (oracle.Question, bool) {
	d := r.state.Delegations[id]
	q := oracle.Question{Agent: d.Agent, Tenant: d.Tenant}
	switch {
	case d.Session != "":
		q.Session = d.Session
	case d.Direct:
		q.Delegation = id
	default:
		t := target{delegation: id, principals: []oracle.Object{d.Principal.Object}}
		if d.Principal.Relation != "" {
			t.principals = nil
			for _, p := range r.principals() {
				if r.state.Check(d.Principal.Object, d.Principal.Relation, p, oracle.Context{}, time.Now()).Yes {
					t.principals = append(t.principals, p)
				}
			}
		}
		session, err := r.start(d.Agent, false, t)
		if err != nil {
			return q, false
		}
		q.Session = session
	}
	return q, true
}

// TestChildReachesNoMoreThanParent draws worlds and compares, in the server alone and for every object,
// permission and principal, each delegation that is a part of another with that other: whatever the one
// reaches, the other reaches as well.
func TestChildReachesNoMoreThanParent(t *testing.T) {
	d := openDeputy(t, domain)
	var met tally
	try(t, 10, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 2, users: 2, services: 1, agents: 3, groups: 1, folders: 2, documents: 2})
		for range 3 + r.below(4) {
			r.drawDelegation()
			if r.chance(60) {
				r.drawSession()
			}
		}
		for range r.below(3) {
			r.drawChange()
		}
		for _, id := range append(append([]string(nil), r.grants...), r.leaves()...) {
			child := r.state.Delegations[id]
			if child.Parent == "" {
				continue
			}
			lower, ok := r.party(id)
			if !ok {
				continue
			}
			upper, ok := r.party(child.Parent)
			principals := r.principals()
			below, errs := r.askAll(r.everything(lower, principals))
			var above []answer
			if ok {
				above, _ = r.askAll(r.everything(upper, principals))
			}
			for i, q := range r.everything(lower, principals) {
				switch {
				case errs[i] != nil:
					rt.Fatalf("%s: %v", show(q), errs[i])
				case below[i].Delegation != id && below[i].Verdict != oracle.Denied:
					// A session answered by another of its leaves.
				case !ok && below[i].Verdict > oracle.Denied:
					r.fail("a part reaches what the whole cannot even act under", q)
				case ok && below[i].Verdict > above[i].Verdict:
					r.fail(fmt.Sprintf("a part: %s, the whole: %s", below[i].Verdict, above[i].Verdict), q)
				}
				met.add([]oracle.Answer{{Verdict: below[i].Verdict, Side: below[i].Side}})
			}
		}
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION OBJECT")
}

// TestFrozenOnlyNarrows starts two sessions alike, one of them frozen, and lets things happen. The frozen
// one never answers wider than it did at its start, and never wider than the other; both are the
// oracle's answers.
func TestFrozenOnlyNarrows(t *testing.T) {
	d := openDeputy(t, domain)
	var met, narrowed tally
	try(t, 30, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 1, users: 2, agents: 2, groups: 1, folders: 2, documents: 3})
		user, tenant, agent := r.users[0], r.tenants[0], r.agents[0]
		// What is needed to start at all.
		r.enlist(user)
		r.enlist(tenant)
		r.stand(tenant, "member", user, time.Time{})
		r.stand(tenant, "agent", agent, time.Time{})
		r.flush()
		root := oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: user}, Tenant: tenant.ID, GrantedBy: user, Unscoped: r.chance(50)}
		var id string
		if root.Unscoped {
			id = r.mustDelegate(root)
		} else {
			id = r.mustDelegate(root, r.scope()...)
		}
		frozen := oracle.Question{Agent: agent.ID, Tenant: tenant.ID, Session: r.mustStart(agent.ID, true, target{delegation: id})}
		free := oracle.Question{Agent: agent.ID, Tenant: tenant.ID, Session: r.mustStart(agent.ID, false, target{delegation: id})}
		questions := r.everything(frozen, []oracle.Object{user})
		twins := r.everything(free, []oracle.Object{user})
		first := r.compare(questions)
		for range 1 + r.below(6) {
			r.drawChange()
		}
		later, other := r.compare(questions), r.compare(twins)
		for i, q := range questions {
			if later[i].Verdict > first[i].Verdict {
				r.fail(fmt.Sprintf("%s at the start of a frozen session, %s later", first[i].Verdict, later[i].Verdict), q)
			}
			// Unless what happened is that the other one was stopped itself.
			twin := r.state.Sessions[free.Session]
			leaf := r.state.Delegations[twin.Leaves[0]]
			alive := twin.Active && twin.Until.After(time.Now()) && leaf.Active && leaf.Until.After(time.Now())
			if alive && later[i].Verdict > other[i].Verdict {
				r.fail(fmt.Sprintf("%s by a frozen session, %s by one that is not", later[i].Verdict, other[i].Verdict), q)
			}
			if later[i].Verdict < other[i].Verdict {
				narrowed.add([]oracle.Answer{later[i]})
			}
		}
		met.add(later)
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "NO_PERMISSION ACTOR", "NO_PERMISSION OBJECT")
	if narrowed.total == 0 && chosenChecks == "" {
		t.Error("no frozen session ever answered narrower than its twin: the worlds no longer try it")
	}
}

// TestFailures asserts the statuses of questions that have no answer: by CheckPermission and, for the
// item alone, by CheckBulkPermissions.
func TestFailures(t *testing.T) {
	w := newWorld(t.Context(), t, openDeputy(t, domain))
	alice, bob, tenant, agent, document := w.office()
	all := oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: tenant, Relation: "member"}, Tenant: tenant.ID, GrantedBy: alice, Unscoped: true, Direct: true}
	consent := w.mustDelegate(all)
	run := w.mustStart(agent.ID, false, target{delegation: consent, principals: []oracle.Object{alice, bob}})
	good := oracle.Question{Agent: agent.ID, Delegation: consent, Principal: alice, Tenant: tenant.ID, Resource: document, Permission: "view"}
	for _, test := range []struct {
		name  string
		spoil func(*oracle.Question)
		want  codes.Code
	}{
		{"nothing", func(*oracle.Question) {}, codes.OK},
		{"unknown session", func(q *oracle.Question) { q.Delegation, q.Session = "", "0123456789abcdef0123456789abcdef" }, codes.NotFound},
		{"unknown delegation", func(q *oracle.Question) { q.Delegation = "0123456789abcdef0123456789abcdef" }, codes.NotFound},
		{"a set without a principal", func(q *oracle.Question) { q.Principal = oracle.Object{} }, codes.InvalidArgument},
		{"a session for two without a principal", func(q *oracle.Question) { q.Delegation, q.Session, q.Principal = "", run, oracle.Object{} }, codes.InvalidArgument},
		{"by agent alone without a principal", func(q *oracle.Question) { q.Delegation, q.Principal = "", oracle.Object{} }, codes.InvalidArgument},
		{"by agent alone without a tenant", func(q *oracle.Question) { q.Delegation, q.Tenant = "", "" }, codes.InvalidArgument},
		{"a type without tenant", func(q *oracle.Question) { q.Resource = w.object("note", "n") }, codes.FailedPrecondition},
		{"a wildcard", func(q *oracle.Question) { q.Resource.ID = "*" }, codes.InvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := good
			test.spoil(&q)
			_, err := w.ask(q)
			if status.Code(err) != test.want {
				t.Errorf("check: %v, want %s", err, test.want)
			}
			_, errs := w.askAll([]oracle.Question{good, q, good})
			if status.Code(errs[1]) != test.want || errs[0] != nil || errs[2] != nil {
				t.Errorf("bulk: %v, want %s in the middle", errs, test.want)
			}
		})
	}
}

// office is the smallest world in which something is allowed: alice, who is an admin, and bob are
// members, and both and the agent may view the document.
func (w *world) office() (alice, bob, tenant, agent, document oracle.Object) {
	alice, bob = w.object("user", "alice"), w.object("user", "bob")
	tenant, agent, document = w.object("tenant", "acme"), w.object("agent", "bot"), w.object("document", "plan")
	folder := w.object("folder", "shelf")
	for _, o := range []oracle.Object{alice, bob, tenant} {
		w.enlist(o)
	}
	w.stand(tenant, "admin", alice, time.Time{})
	w.stand(tenant, "member", alice, time.Time{})
	w.stand(tenant, "member", bob, time.Time{})
	w.stand(tenant, "agent", agent, time.Time{})
	w.grant(folder, "tenant", oracle.Subject{Object: tenant}, oracle.Condition{})
	w.grant(document, "folder", oracle.Subject{Object: folder}, oracle.Condition{})
	for _, o := range []oracle.Object{alice, bob, agent} {
		w.grant(document, "viewer", oracle.Subject{Object: o}, oracle.Condition{})
	}
	w.register(agent, alice)
	w.flush()
	return alice, bob, tenant, agent, document
}
