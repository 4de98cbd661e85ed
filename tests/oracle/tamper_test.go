package oracle_test

import (
	"slices"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/tests/oracle"
)

// issued is the caveat on facts that say since when they hold.
func issued() *v1.ContextualizedCaveat {
	fields, err := structpb.NewStruct(map[string]any{"at": time.Now().UTC().Format(time.RFC3339Nano)})
	if err != nil {
		panic(err)
	}
	return &v1.ContextualizedCaveat{CaveatName: "issued", Context: fields}
}

// tampered is one delegation whose facts an admin changes past Deputy's services, with what to put in
// the place of what was there.
type tampered struct {
	*world
	d                   oracle.Delegation
	user, agent, tenant oracle.Object
}

// object is the delegation as an object.
func (x *tampered) object() oracle.Object { return oracle.Object{Type: "delegation", ID: x.d.ID} }

// run is the session that minted the delegation as an object.
func (x *tampered) run() oracle.Object { return oracle.Object{Type: "session", ID: x.d.Session} }

// replace puts one subject in the place of another.
func (x *tampered) replace(of oracle.Object, relation string, was, is oracle.Subject, with *v1.ContextualizedCaveat) {
	x.remove(of, relation, was)
	x.touch(of, relation, is, with, time.Time{})
}

// session changes what the state holds of the session that minted the delegation.
func (x *tampered) session(change func(*oracle.Session)) {
	s := x.state.Sessions[x.d.Session]
	change(&s)
	x.state.Sessions[x.d.Session] = s
}

// tamperings are the ways to change one fact that a delegation depends on: a link, a mark, an agent, a
// principal. Those for leaves alone do nothing to any other.
var tamperings = []struct {
	name string
	leaf bool
	do   func(*tampered)
}{
	{"granted by another user", false, func(x *tampered) {
		x.replace(x.object(), "granted_by", oracle.Subject{Object: x.d.GrantedBy}, oracle.Subject{Object: x.user}, issued())
		x.d.GrantedBy = x.user
	}},
	{"granted by another agent", false, func(x *tampered) {
		x.replace(x.object(), "granted_by", oracle.Subject{Object: x.d.GrantedBy}, oracle.Subject{Object: x.agent}, issued())
		x.d.GrantedBy = x.agent
	}},
	{"without its parent", false, func(x *tampered) {
		if x.d.Parent != "" {
			x.remove(x.object(), "parent", subject("delegation", x.d.Parent))
			x.d.Parent = ""
		}
	}},
	{"without unscoped", false, func(x *tampered) {
		x.remove(x.object(), "unscoped", oracle.Subject{Object: x.object()})
		x.d.Unscoped = false
	}},
	{"without allow_direct", false, func(x *tampered) {
		x.remove(x.object(), "allow_direct", x.d.Principal)
		x.d.Direct = false
	}},
	{"of another agent", false, func(x *tampered) {
		x.replace(x.object(), "agent", subject("agent", x.d.Agent), oracle.Subject{Object: x.agent}, nil)
		x.d.Agent = x.agent.ID
	}},
	{"an agent without owners", false, func(x *tampered) {
		agent := oracle.Object{Type: "agent", ID: x.d.Agent}
		for owner := range x.state.Owners[agent] {
			x.disown(agent, oracle.Object{Type: "user", ID: owner})
		}
	}},
	{"in another tenant", false, func(x *tampered) {
		// A leaf's tenant and principal are repeated by its session.
		if x.d.Session == "" {
			x.replace(x.object(), "tenant", subject("tenant", x.d.Tenant), oracle.Subject{Object: x.tenant}, nil)
			x.d.Tenant = x.tenant.ID
		}
	}},
	{"for another principal", false, func(x *tampered) {
		// What allows acting directly repeats the principal, and now does not, or does so again.
		if is := (oracle.Subject{Object: x.user}); x.d.Session == "" {
			direct := x.d.Astray
			if x.d.Direct {
				direct = x.d.Principal
			}
			x.replace(x.object(), "principal", x.d.Principal, is, nil)
			x.d.Principal, x.d.Direct, x.d.Astray = is, direct == is, direct
			if x.d.Direct {
				x.d.Astray = oracle.Subject{}
			}
		}
	}},
	{"with the tombstone alone", false, func(x *tampered) {
		x.touch(x.object(), "revoked", oracle.Subject{Object: x.object()}, nil, time.Time{})
		x.d.Revoked = true
	}},
	{"without the mark alone", false, func(x *tampered) {
		x.remove(x.object(), "active", oracle.Subject{Object: x.object()})
		x.d.Active = false
	}},
	{"without its session", true, func(x *tampered) {
		x.remove(x.object(), "session", subject("session", x.d.Session))
		x.d.Session = ""
	}},
	{"not held by its session", true, func(x *tampered) {
		x.remove(x.run(), "delegation", oracle.Subject{Object: x.object()})
		x.session(func(s *oracle.Session) {
			s.Leaves = slices.DeleteFunc(slices.Clone(s.Leaves), func(id string) bool { return id == x.d.ID })
		})
	}},
	{"in the session of another agent", true, func(x *tampered) {
		was := x.state.Sessions[x.d.Session].Agent
		x.replace(x.run(), "agent", subject("agent", was), oracle.Subject{Object: x.agent}, issued())
		x.session(func(s *oracle.Session) { s.Agent = x.agent.ID })
	}},
	{"in a session with the tombstone alone", true, func(x *tampered) {
		x.touch(x.run(), "ended", oracle.Subject{Object: x.run()}, nil, time.Time{})
		x.session(func(s *oracle.Session) { s.Ended = true })
	}},
	{"in a session without the mark alone", true, func(x *tampered) {
		x.remove(x.run(), "active", oracle.Subject{Object: x.run()})
		x.session(func(s *oracle.Session) { s.Active = false })
	}},
}

// tamper changes one fact, in the server and in the state.
func (x *tampered) tamper(n int) {
	x.t.Helper()
	if tamperings[n].leaf && x.d.Session == "" {
		return
	}
	tamperings[n].do(x)
	x.state.Delegations[x.d.ID] = x.d
	x.flush()
}

// drawTampering changes one fact of the core past Deputy's services, as an admin may. What no service
// would write has an answer as well. It is mostly about a delegation that something depends on.
func (r *random) drawTampering(used []string) {
	ids := slices.Concat(r.grants, r.leaves())
	if len(ids) == 0 {
		return
	}
	r.tampered = true
	x := &tampered{world: r.world, user: pick(r, r.users), agent: pick(r, r.agents), tenant: pick(r, r.tenants)}
	x.d = r.state.Delegations[mostly(r, ids, func(id string) bool { return slices.Contains(used, id) })]
	x.tamper(r.below(len(tamperings)))
}

// TestTamperedChain lets an agent act for Alice by a chain of four: her delegation, the leaf of a session,
// a part for a second agent, and the leaf of that one's session. Each fact of each of the four is
// changed past the services, in a world of its own, and everybody along the chain answers as the oracle.
func TestTamperedChain(t *testing.T) {
	d := openDeputy(t, domain)
	for n, tampering := range tamperings {
		t.Run(tampering.name, func(t *testing.T) {
			refused := 0
			for at := range 4 {
				w := newWorld(t.Context(), t, d)
				alice, bob, acme, first, document := w.office()
				second, third, globex := w.object("agent", "second"), w.object("agent", "third"), w.object("tenant", "globex")
				for _, a := range []oracle.Object{second, third} {
					w.register(a, bob)
					w.stand(acme, "agent", a, time.Time{})
					w.grant(document, "viewer", oracle.Subject{Object: a}, oracle.Condition{})
				}
				w.enlist(globex)
				w.flush()
				root := w.mustDelegate(oracle.Delegation{
					Agent: first.ID, Principal: oracle.Subject{Object: alice}, Tenant: acme.ID, GrantedBy: alice, Unscoped: true, Direct: true,
				})
				one := w.state.Sessions[w.mustStart(first.ID, false, target{delegation: root})]
				part := w.mustDelegate(oracle.Delegation{
					Agent: second.ID, Principal: oracle.Subject{Object: alice}, Tenant: acme.ID, Parent: one.Leaves[0], Unscoped: true, Direct: true,
				})
				two := w.state.Sessions[w.mustStart(second.ID, false, target{delegation: part})]
				chain := []string{root, one.Leaves[0], part, two.Leaves[0]}
				questions := []oracle.Question{
					{Agent: second.ID, Session: two.ID}, {Agent: second.ID, Delegation: part}, {Agent: second.ID},
					{Agent: first.ID, Session: one.ID}, {Agent: first.ID, Delegation: root}, {Agent: first.ID},
				}
				for i := range questions {
					questions[i].Principal, questions[i].Tenant, questions[i].Resource, questions[i].Permission = alice, acme.ID, document, "view"
				}
				for i, a := range w.compare(questions) {
					if a.Verdict != oracle.Allowed {
						t.Fatalf("%s: %s", show(questions[i]), a.Verdict)
					}
				}
				x := &tampered{world: w, d: w.state.Delegations[chain[at]], user: bob, agent: third, tenant: globex}
				x.tamper(n)
				for _, a := range w.compare(questions) {
					if a.Verdict == oracle.Denied {
						refused++
					}
				}
			}
			if refused == 0 {
				t.Error("nothing is refused")
			}
		})
	}
}
