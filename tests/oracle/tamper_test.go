package oracle_test

import (
	"slices"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/tests/oracle"
)

// issued is the caveat on facts that say since when they hold.
func issued() *v1.ContextualizedCaveat {
	context, err := structpb.NewStruct(map[string]any{"at": time.Now().UTC().Format(time.RFC3339Nano)})
	if err != nil {
		panic(err)
	}
	return &v1.ContextualizedCaveat{CaveatName: "issued", Context: context}
}

// drawTampering changes one fact of the core past Deputy's services, as an admin may: a link that is
// gone, a mark, another agent, another principal. What no service would write has an answer as well.
func (r *random) drawTampering() {
	ids := slices.Concat(r.grants, r.leaves())
	if len(ids) == 0 {
		return
	}
	r.tampered = true
	d := r.state.Delegations[pick(r, ids)]
	object := oracle.Object{Type: "delegation", ID: d.ID}
	self := oracle.Subject{Object: object}
	as := subject
	replace := func(of oracle.Object, relation string, was, is oracle.Subject, caveat *v1.ContextualizedCaveat) {
		r.remove(of, relation, was)
		r.touch(of, relation, is, caveat, time.Time{})
	}
	switch r.below(14) {
	case 0:
		is := oracle.Subject{Object: pick(r, slices.Concat(r.users, r.agents))}
		replace(object, "granted_by", oracle.Subject{Object: d.GrantedBy}, is, issued())
		d.GrantedBy = is.Object
	case 1:
		if d.Session != "" {
			r.remove(object, "session", as("session", d.Session))
			d.Session = ""
		}
	case 2:
		if d.Parent != "" {
			r.remove(object, "parent", as("delegation", d.Parent))
			d.Parent = ""
		}
	case 3:
		r.remove(object, "unscoped", self)
		d.Unscoped = false
	case 4:
		r.remove(object, "allow_direct", d.Principal)
		d.Direct = false
	case 5:
		if d.Session != "" {
			session := r.state.Sessions[d.Session]
			r.remove(oracle.Object{Type: "session", ID: d.Session}, "delegation", self)
			session.Leaves = slices.DeleteFunc(slices.Clone(session.Leaves), func(id string) bool { return id == d.ID })
			r.state.Sessions[d.Session] = session
		}
	case 6:
		if d.Session != "" {
			session := r.state.Sessions[d.Session]
			is := pick(r, r.agents).ID
			replace(oracle.Object{Type: "session", ID: d.Session}, "agent", as("agent", session.Agent), as("agent", is), issued())
			session.Agent = is
			r.state.Sessions[d.Session] = session
		}
	case 7:
		agent := oracle.Object{Type: "agent", ID: d.Agent}
		for owner := range r.state.Owners[agent] {
			r.disown(agent, oracle.Object{Type: "user", ID: owner})
		}
	case 8:
		is := pick(r, r.agents).ID
		replace(object, "agent", as("agent", d.Agent), as("agent", is), nil)
		d.Agent = is
	case 9:
		// A leaf's tenant and principal are repeated by its session.
		if d.Session == "" {
			is := pick(r, r.tenants).ID
			replace(object, "tenant", as("tenant", d.Tenant), as("tenant", is), nil)
			d.Tenant = is
		}
	case 10:
		if d.Session == "" {
			// What allows acting directly repeats the principal, and now does not.
			is := oracle.Subject{Object: pick(r, r.users)}
			d.Direct = d.Direct && is == d.Principal
			replace(object, "principal", d.Principal, is, nil)
			d.Principal = is
		}
	case 11:
		// A tombstone refuses whatever is active, and nothing is active without the mark.
		r.touch(object, "revoked", self, nil, time.Time{})
		d.Revoked = true
	case 12:
		r.remove(object, "active", self)
		d.Active = false
	case 13:
		if d.Session != "" {
			session, run := r.state.Sessions[d.Session], oracle.Object{Type: "session", ID: d.Session}
			if r.chance(50) {
				r.touch(run, "ended", oracle.Subject{Object: run}, nil, time.Time{})
				session.Ended = true
			} else {
				r.remove(run, "active", oracle.Subject{Object: run})
				session.Active = false
			}
			r.state.Sessions[d.Session] = session
		}
	}
	r.state.Delegations[d.ID] = d
	r.flush()
}
