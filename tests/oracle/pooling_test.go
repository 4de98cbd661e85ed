package oracle_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/tests/oracle"
)

// TestInterleavedPrincipalsAndTenants runs one session for three principals in three tenants each, and
// asks from many sides at once. Each answer is that of one principal in one tenant: what the oracle says,
// which never saw the others.
func TestInterleavedPrincipalsAndTenants(t *testing.T) {
	d := openDeputy(t, domain)
	var met tally
	try(t, 4, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 3, users: 3, agents: 1, groups: 2, folders: 4, documents: 5})
		agent := r.agents[0]
		for _, o := range append(append([]oracle.Object(nil), r.tenants...), r.users...) {
			r.enlist(o)
		}
		// Every tenant has folders of its own, and everybody is everywhere.
		for i, f := range r.folders[1:] {
			for e := range r.state.Edges {
				if e.Resource == f && (e.Relation == "tenant" || e.Relation == "parent") {
					r.ungrant(e)
				}
			}
			r.grant(f, "tenant", oracle.Subject{Object: r.tenants[i]}, oracle.Condition{})
		}
		for _, tenant := range r.tenants {
			r.stand(tenant, "agent", agent, time.Time{})
			for _, u := range r.users {
				r.stand(tenant, "member", u, time.Time{})
			}
		}
		r.flush()
		var targets []target
		for _, tenant := range r.tenants {
			for _, u := range r.users {
				targets = append(targets, target{delegation: r.mustDelegate(oracle.Delegation{
					Agent: agent.ID, Principal: oracle.Subject{Object: u}, Tenant: tenant.ID, GrantedBy: u, Unscoped: true,
				})})
			}
		}
		run := r.mustStart(agent.ID, r.chance(30), targets...)
		var questions []oracle.Question
		for _, tenant := range r.tenants {
			questions = append(questions, r.everything(oracle.Question{Agent: agent.ID, Session: run, Tenant: tenant.ID}, r.users)...)
		}
		now := time.Now()
		want := make([]oracle.Answer, len(questions))
		for i, q := range questions {
			want[i] = r.state.Decide(q, now)
		}
		met.add(want)

		const askers = 16
		seed := rapid.Uint64().Draw(rt, "order")
		differences := make(chan string, askers)
		var group sync.WaitGroup
		for asker := range askers {
			group.Go(func() {
				// Each asker has a world of its own to report to, and starts somewhere else.
				quiet := &recorder{}
				w := *r.world
				w.t = quiet
				order := rand.New(rand.NewPCG(seed, uint64(asker))).Perm(len(questions))[:40]
				if asker%2 == 0 {
					for _, i := range order {
						got, err := w.ask(questions[i])
						if d := difference(got, err, want[i]); d != "" {
							quiet.Errorf("check: %s\n%s", d, show(questions[i]))
						}
					}
				} else {
					var mine []oracle.Question
					for _, i := range order {
						mine = append(mine, questions[i])
					}
					got, errs := w.askAll(mine)
					for j, i := range order {
						if d := difference(got[j], errs[j], want[i]); d != "" {
							quiet.Errorf("bulk: %s\n%s", d, show(questions[i]))
						}
					}
				}
				if quiet.first != "" {
					differences <- quiet.first
				}
			})
		}
		group.Wait()
		close(differences)
		for d := range differences {
			rt.Fatalf("%s", d)
		}
	})
	met.wantAll(t, "HAS_PERMISSION UNSPECIFIED", "CONDITIONAL_PERMISSION UNSPECIFIED", "NO_PERMISSION OBJECT")
}

// recorder keeps the first failure of a goroutine, which may not fail the test itself.
type recorder struct{ first string }

// Helper does nothing.
func (*recorder) Helper() {}

// Logf does nothing.
func (*recorder) Logf(string, ...any) {}

// Errorf keeps the first failure.
func (r *recorder) Errorf(format string, args ...any) {
	if r.first == "" {
		r.first = fmt.Sprintf(format, args...)
	}
}

// Fatalf keeps the first failure.
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }

// TestCandidatesNeverPool gives an agent two scoped delegations by the same user, each of which covers
// one half of what signing takes. By agent alone neither is enough, and the two together are not looked
// at; a third with both halves is.
func TestCandidatesNeverPool(t *testing.T) {
	w := newWorld(t.Context(), t, openDeputy(t, domain))
	alice, _, tenant, agent, document := w.office()
	for _, o := range []oracle.Object{alice, agent} {
		w.grant(document, "approver", oracle.Subject{Object: o}, oracle.Condition{})
	}
	w.flush()
	grant := oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: alice}, Tenant: tenant.ID, GrantedBy: alice, Direct: true}
	sign := oracle.Question{Agent: agent.ID, Principal: alice, Tenant: tenant.ID, Resource: document, Permission: "sign"}
	want := func(what string, verdict oracle.Verdict) {
		t.Helper()
		if a := w.compare([]oracle.Question{sign})[0]; a.Verdict != verdict {
			t.Errorf("%s: %s, want %s", what, a.Verdict, verdict)
		}
	}
	want("no delegation", oracle.Denied)
	w.mustDelegate(grant, scopeGrant{document, "viewer"})
	w.mustDelegate(grant, scopeGrant{document, "approver"})
	want("two halves", oracle.Denied)
	// Nor do the leaves of one session pool.
	run := w.mustStart(agent.ID, false, target{delegation: w.grants[0]}, target{delegation: w.grants[1]})
	sign.Session = run
	want("two halves in a session", oracle.Denied)
	sign.Session = ""
	whole := w.mustDelegate(grant, scopeGrant{document, "viewer"}, scopeGrant{document, "approver"})
	want("the whole beside the halves", oracle.Allowed)
	w.revoke(whole)
	want("the halves again", oracle.Denied)
}

// TestConditionalCandidates lets the first conditional candidate by id answer with its own fields, and
// one that needs nothing before it.
func TestConditionalCandidates(t *testing.T) {
	w := newWorld(t.Context(), t, openDeputy(t, domain))
	alice, bob, tenant, agent, document := w.office()
	grant := oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: bob}, Tenant: tenant.ID, GrantedBy: bob, Direct: true}
	question := oracle.Question{Agent: agent.ID, Principal: bob, Tenant: tenant.ID, Resource: document, Permission: "view"}
	for range 3 {
		id := w.mustDelegate(grant)
		w.grant(document, "viewer", subject("delegation", id), oracle.Condition{Cap: 10})
	}
	w.flush()
	if a := w.compare([]oracle.Question{question})[0]; a.Verdict != oracle.Conditional {
		t.Errorf("three conditional candidates: %s", a.Verdict)
	}
	w.grant(document, "viewer", oracle.Subject{Object: agent}, oracle.Condition{Region: "eu"})
	w.flush()
	if a := w.compare([]oracle.Question{question})[0]; len(a.Missing.Names()) != 2 {
		t.Errorf("two fields are missing, got %v", a.Missing.Names())
	}
	w.grant(document, "viewer", oracle.Subject{Object: agent}, oracle.Condition{})
	w.flush()
	grant.Unscoped = true
	w.mustDelegate(grant)
	if a := w.compare([]oracle.Question{question})[0]; a.Verdict != oracle.Allowed {
		t.Errorf("three conditional candidates and one allowed: %s", a.Verdict)
	}
	_ = alice
}

// TestTooManyCandidates refuses to choose among more than sixteen delegations.
func TestTooManyCandidates(t *testing.T) {
	w := newWorld(t.Context(), t, openDeputy(t, domain))
	_, bob, tenant, agent, document := w.office()
	grant := oracle.Delegation{Agent: agent.ID, Principal: oracle.Subject{Object: bob}, Tenant: tenant.ID, GrantedBy: bob, Direct: true}
	for range oracle.MaxCandidates {
		w.mustDelegate(grant)
	}
	question := oracle.Question{Agent: agent.ID, Principal: bob, Tenant: tenant.ID, Resource: document, Permission: "view"}
	w.compare([]oracle.Question{question})
	last := w.mustDelegate(grant)
	if a := w.compare([]oracle.Question{question})[0]; a.Failure != oracle.Precondition {
		t.Errorf("seventeen candidates: %s, %s", a.Failure, a.Verdict)
	}
	w.revoke(last)
	w.compare([]oracle.Question{question})
}

// TestConsentCoversMembersOnly lets an admin consent for all members of a tenant: it covers exactly
// those who are members, ends for one who leaves, and for all when the admin is no longer one.
func TestConsentCoversMembersOnly(t *testing.T) {
	ctx := t.Context()
	w := newWorld(ctx, t, openDeputy(t, domain))
	alice, bob, tenant, agent, document := w.office()
	eve := w.object("user", "eve")
	elsewhere := w.object("tenant", "elsewhere")
	w.enlist(eve)
	w.enlist(elsewhere)
	w.stand(elsewhere, "member", eve, time.Time{})
	w.stand(elsewhere, "agent", agent, time.Time{})
	w.grant(document, "viewer", oracle.Subject{Object: eve}, oracle.Condition{})
	w.flush()
	consent := w.mustDelegate(oracle.Delegation{
		Agent: agent.ID, Principal: oracle.Subject{Object: tenant, Relation: "member"}, Tenant: tenant.ID, GrantedBy: alice, Unscoped: true, Direct: true,
	})
	run := w.mustStart(agent.ID, false, target{delegation: consent, principals: []oracle.Object{alice, bob}})
	expect := func(when string, want map[oracle.Object]oracle.Verdict) {
		t.Helper()
		for _, who := range []oracle.Object{alice, bob, eve} {
			for _, party := range []oracle.Question{{}, {Delegation: consent}, {Session: run}} {
				for _, in := range []oracle.Object{tenant, elsewhere} {
					q := party
					q.Agent, q.Principal, q.Tenant, q.Resource, q.Permission = agent.ID, who, in.ID, document, "view"
					verdict := want[who]
					if in == elsewhere || who == eve && q.Session != "" {
						verdict = oracle.Denied
					}
					if a := w.compare([]oracle.Question{q})[0]; a.Verdict != verdict {
						t.Errorf("%s: %s: %s, want %s", when, show(q), a.Verdict, verdict)
					}
				}
			}
		}
	}
	expect("consented", map[oracle.Object]oracle.Verdict{alice: oracle.Allowed, bob: oracle.Allowed})
	w.leave(oracle.Standing{Tenant: tenant.ID, Relation: "member", Who: bob})
	w.flush()
	expect("bob has left", map[oracle.Object]oracle.Verdict{alice: oracle.Allowed})
	w.stand(tenant, "member", bob, time.Now().Add(time.Hour).Truncate(time.Second))
	w.flush()
	expect("bob is back", map[oracle.Object]oracle.Verdict{alice: oracle.Allowed, bob: oracle.Allowed})
	w.leave(oracle.Standing{Tenant: tenant.ID, Relation: "admin", Who: alice})
	w.flush()
	expect("alice is no admin", nil)
	// Another admin does not stand in for the one who consented.
	w.stand(tenant, "admin", bob, time.Time{})
	w.flush()
	expect("bob is admin", nil)
	w.stand(tenant, "admin", alice, time.Time{})
	w.flush()
	expect("alice is admin again", map[oracle.Object]oracle.Verdict{alice: oracle.Allowed, bob: oracle.Allowed})
}
