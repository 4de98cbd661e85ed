package oracle_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/tests/oracle"
)

// random is a world that rapid fills. Everything that it draws is drawn from sorted lists, so that a
// failing draw can be made smaller.
type random struct {
	*world
	rt *rapid.T
	// The world's inventory.
	tenants, users, services, agents, groups, folders, documents []oracle.Object
	// tampered tells that the core no longer is what the services wrote.
	tampered bool
}

// below draws a number from 0 to n-1, each as likely as the other: rapid's own ranges prefer their ends.
// A failing draw gets smaller towards 0.
func (r *random) below(n int) int {
	const bits = 10
	drawn := 0
	for range bits {
		drawn <<= 1
		if rapid.Bool().Draw(r.rt, "bit") {
			drawn |= 1
		}
	}
	return drawn * n >> bits
}

// chance draws whether something with a likelihood of n in 100 happens.
func (r *random) chance(n int) bool { return r.below(100) >= 100-n }

// pick draws one of a list; the zero value of an empty one.
func pick[T any](r *random, from []T) T {
	var zero T
	if len(from) == 0 {
		return zero
	}
	return from[r.below(len(from))]
}

// mostly draws one of those in a list that fit, or now and then any one of it.
func mostly[T any](r *random, from []T, fits func(T) bool) T {
	var fitting []T
	for _, one := range from {
		if fits(one) {
			fitting = append(fitting, one)
		}
	}
	if len(fitting) == 0 || r.chance(8) {
		fitting = from
	}
	return pick(r, fitting)
}

// in reports, for use with mostly, whether somebody is active and has access to a tenant.
func (r *random) in(tenant string) func(oracle.Object) bool {
	return func(o oracle.Object) bool {
		access := r.state.Check(oracle.Object{Type: "tenant", ID: tenant}, "access", o, oracle.Context{}, time.Now())
		return access.Yes && r.state.Active[o] && !r.state.Suspended[o]
	}
}

// some returns n objects of a type with numbered names.
func (r *random) some(typ string, n int) []oracle.Object {
	var all []oracle.Object
	for i := range n {
		all = append(all, r.object(typ, fmt.Sprintf("%s%d", typ, i)))
	}
	return all
}

// principals returns the users and services.
func (r *random) principals() []oracle.Object { return slices.Concat(r.users, r.services) }

// size is how big a random world is.
type size struct{ tenants, users, services, agents, groups, folders, documents int }

// usual is big enough for every part of the rule to matter.
var usual = size{tenants: 2, users: 3, services: 1, agents: 4, groups: 2, folders: 3, documents: 4}

// newRandom draws a world's domain: who belongs where, and who may what. Delegations and sessions come
// later.
func newRandom(ctx context.Context, rt *rapid.T, d *deputy, n size) *random {
	r := &random{world: newWorld(ctx, rt, d), rt: rt}
	r.tenants, r.users, r.services = r.some("tenant", n.tenants), r.some("user", n.users), r.some("service", n.services)
	r.agents, r.groups = r.some("agent", n.agents), r.some("group", n.groups)
	r.folders, r.documents = r.some("folder", n.folders), r.some("document", n.documents)

	for _, o := range slices.Concat(r.tenants, r.users, r.services) {
		if r.chance(98) {
			r.enlist(o)
		}
	}
	for _, s := range r.services {
		r.own(s, pick(r, r.users))
	}
	for i, t := range r.tenants {
		// The first tenant is where most of them are.
		likely := 95
		if i > 0 {
			likely = 60
		}
		for _, p := range r.principals() {
			if r.chance(likely) {
				r.stand(t, "member", p, r.end())
			}
		}
		r.stand(t, "admin", pick(r, r.users), time.Time{})
		for _, a := range r.agents {
			if r.chance(likely) {
				r.stand(t, "agent", a, r.end())
			}
		}
	}
	for i, g := range r.groups {
		r.grant(g, "tenant", oracle.Subject{Object: pick(r, r.tenants)}, oracle.Condition{})
		for _, p := range r.principals() {
			if r.chance(30) {
				r.grant(g, "member", oracle.Subject{Object: p}, oracle.Condition{})
			}
		}
		// Groups nest without cycles.
		if i > 0 && r.chance(50) {
			r.grant(g, "member", oracle.Subject{Object: r.groups[i-1], Relation: "member"}, oracle.Condition{})
		}
	}
	for i, f := range r.folders {
		r.belong(f)
		if i > 0 && r.chance(70) {
			r.grant(f, "parent", oracle.Subject{Object: pick(r, r.folders[:i])}, oracle.Condition{})
		}
		r.share(f, 75)
	}
	for _, o := range r.documents {
		r.grant(o, "folder", oracle.Subject{Object: pick(r, r.folders)}, oracle.Condition{})
		if r.chance(10) {
			r.grant(o, "folder", oracle.Subject{Object: pick(r, r.folders)}, oracle.Condition{})
		}
		r.share(o, 30)
		for _, p := range slices.Concat(r.principals(), r.agents) {
			if r.chance(60) {
				r.grant(o, "approver", oracle.Subject{Object: p}, r.condition(p.Type, "approver"))
			}
		}
	}
	// An agent's id has to be new when it is registered: its grants come afterwards.
	for _, a := range r.agents {
		r.register(a, pick(r, r.users))
	}
	r.flush()
	return r
}

// end draws when a standing ends: never, in an hour, or a minute ago.
func (r *random) end() time.Time {
	switch n := r.below(20); {
	case n < 14:
		return time.Time{}
	case n < 19:
		return time.Now().Add(time.Hour).Truncate(time.Second)
	default:
		return time.Now().Add(-time.Minute).Truncate(time.Second)
	}
}

// belong draws the tenant of a folder: nearly always one, sometimes what there should not be.
func (r *random) belong(f oracle.Object) {
	tenant := pick(r, r.tenants[:1])
	if r.chance(20) {
		tenant = pick(r, r.tenants)
	}
	switch r.below(40) {
	case 39:
		r.grant(f, "tenant", oracle.Subject{Object: tenant}, oracle.Condition{Cap: 10})
	case 38:
		r.grant(f, "tenant", subject("tenant", "*"), oracle.Condition{})
	case 37:
		for _, t := range r.tenants {
			r.grant(f, "tenant", oracle.Subject{Object: t}, oracle.Condition{})
		}
	case 36: // it belongs to nobody
	default:
		r.grant(f, "tenant", oracle.Subject{Object: tenant}, oracle.Condition{})
	}
}

// condition draws a caveat for a grant to somebody. Agents have one on the region, all others on the
// amount.
func (r *random) condition(typ, relation string) oracle.Condition {
	if !r.chance(18) || typ == "service" && relation == "approver" || typ == "agent" && relation == "banned" {
		return oracle.Condition{}
	}
	if typ == "agent" {
		return oracle.Condition{Region: pick(r, []string{"eu", "us"})}
	}
	return oracle.Condition{Cap: pick(r, []int{10, 100})}
}

// share draws who may do what with a folder or a document, with how much likelihood.
func (r *random) share(o oracle.Object, likely int) {
	for _, p := range slices.Concat(r.principals(), r.agents) {
		if r.chance(likely) {
			relation := pick(r, []string{"viewer", "editor"})
			r.grant(o, relation, oracle.Subject{Object: p}, r.condition(p.Type, relation))
		}
		if p.Type != "service" && r.chance(3) {
			r.grant(o, "banned", oracle.Subject{Object: p}, r.condition(p.Type, "banned"))
		}
	}
	for _, g := range r.groups {
		if r.chance(likely) {
			r.grant(o, pick(r, []string{"viewer", "editor"}), oracle.Subject{Object: g, Relation: "member"}, oracle.Condition{})
		}
	}
	if r.chance(likely / 4) {
		r.grant(o, "viewer", oracle.Subject{Object: pick(r, r.tenants), Relation: "member"}, oracle.Condition{})
	}
	if r.chance(likely / 4) {
		r.grant(o, "viewer", subject(pick(r, []string{"user", "agent"}), "*"), oracle.Condition{})
	}
}

// scope draws grants to a delegation: on folders and documents, mostly broad ones.
func (r *random) scope() []scopeGrant {
	var scope []scopeGrant
	for _, f := range r.folders {
		if r.chance(80) {
			scope = append(scope, scopeGrant{f, pick(r, []string{"viewer", "editor"})})
		}
	}
	for _, d := range r.documents {
		if r.chance(25) {
			scope = append(scope, scopeGrant{d, pick(r, []string{"viewer", "editor", "approver"})})
		}
	}
	return scope
}

// drawDelegation draws a delegation and tries to create it, as a root or as a part of another.
func (r *random) drawDelegation() {
	r.rt.Helper()
	want := oracle.Delegation{Tenant: r.tenants[0].ID, Direct: r.chance(70)}
	if r.chance(25) {
		want.Tenant = pick(r, r.tenants).ID
	}
	want.Agent = mostly(r, r.agents, r.in(want.Tenant)).ID
	var scope []scopeGrant
	if r.chance(70) {
		want.Unscoped = true
	} else {
		scope = r.scope()
	}
	parents := slices.Sorted(maps.Keys(r.state.Delegations))
	if len(parents) > 0 && r.chance(60) {
		parent := r.state.Delegations[r.recent(r.grants, r.leaves())]
		want.Parent, want.Tenant, want.Principal = parent.ID, parent.Tenant, parent.Principal
		if parent.Principal.Relation != "" && r.chance(50) {
			want.Principal = oracle.Subject{Object: mostly(r, r.principals(), r.coveredBy(parent))}
		}
		// Passed on to another agent; what a session mints alone has the same one.
		others := slices.DeleteFunc(slices.Clone(r.agents), func(a oracle.Object) bool { return a.ID == parent.Agent })
		want.Agent = mostly(r, others, r.in(want.Tenant)).ID
		want.Direct = want.Direct && (parent.Direct || parent.Session != "")
	} else {
		switch n := r.below(10); {
		case n < 6:
			want.Principal = oracle.Subject{Object: mostly(r, r.users, r.in(want.Tenant))}
			want.GrantedBy = want.Principal.Object
		case n < 7 && len(r.services) > 0:
			want.Principal = oracle.Subject{Object: pick(r, r.services)}
			want.GrantedBy = pick(r, r.users)
		default:
			tenant := oracle.Object{Type: "tenant", ID: want.Tenant}
			want.Principal = oracle.Subject{Object: tenant, Relation: pick(r, []string{"member", "member", "admin"})}
			want.GrantedBy = pick(r, r.users)
		}
		// A user who may grant it does, nearly always.
		if owners := r.grantors(want); len(owners) > 0 && r.chance(90) {
			want.GrantedBy = pick(r, owners)
		}
	}
	certain := r.certain(want)
	_, err := r.delegate(want, r.ttl(want.Parent), scope...)
	r.accept("delegation", err, certain)
}

// coveredBy reports, for use with mostly, whether somebody is a principal of a delegation.
func (r *random) coveredBy(d oracle.Delegation) func(oracle.Object) bool {
	return func(o oracle.Object) bool {
		if d.Principal.Relation == "" {
			return o == d.Principal.Object
		}
		return r.state.Check(d.Principal.Object, d.Principal.Relation, o, oracle.Context{}, time.Now()).Yes
	}
}

// recent draws an id from lists, mostly from the end of them, so that chains grow.
func (r *random) recent(lists ...[]string) string {
	all := slices.Concat(lists...)
	if r.chance(50) {
		return all[len(all)-1]
	}
	return pick(r, all)
}

// leaves returns the leaves of all sessions in the order in which they were minted.
func (r *random) leaves() []string {
	var all []string
	for _, id := range r.runs {
		all = append(all, r.state.Sessions[id].Leaves...)
	}
	return all
}

// grantors returns the users who may grant a root delegation now.
func (r *random) grantors(d oracle.Delegation) []oracle.Object {
	var all []oracle.Object
	for _, u := range r.users {
		if r.state.Entitled(d.Principal, u, time.Now()) {
			all = append(all, u)
		}
	}
	return all
}

// certain reports whether nothing at all speaks against a delegation: then it has to be created.
func (r *random) certain(d oracle.Delegation) bool {
	now := time.Now()
	if !r.sound(d.Agent, d.Tenant, d.Principal) {
		return false
	}
	if d.Parent == "" {
		return r.state.Entitled(d.Principal, d.GrantedBy, now)
	}
	return r.usable(d.Parent, d.Principal) && len(r.state.Chain(d.Parent)) < oracle.MaxChain
}

// sound reports whether an agent, a tenant and a principal are all in order.
func (r *random) sound(agent, tenant string, principal oracle.Subject) bool {
	now := time.Now()
	for _, o := range []oracle.Object{{Type: "agent", ID: agent}, {Type: "tenant", ID: tenant}, principal.Object} {
		if !r.state.Active[o] || r.state.Suspended[o] {
			return false
		}
	}
	in := oracle.Object{Type: "tenant", ID: tenant}
	for _, o := range []oracle.Object{{Type: "agent", ID: agent}, principal.Object} {
		if o != in && !r.state.Check(in, "access", o, oracle.Context{}, now).Yes {
			return false
		}
	}
	return true
}

// usable reports whether a delegation with all that it is a part of is in order for a principal.
func (r *random) usable(id string, principal oracle.Subject) bool {
	now := time.Now()
	for _, d := range r.state.Chain(id) {
		if !d.Active || d.Revoked || !d.Until.After(now) || !r.sound(d.Agent, d.Tenant, principal) {
			return false
		}
		if d.Principal.Relation != "" && principal.Relation == "" &&
			!r.state.Check(oracle.Object{Type: "tenant", ID: d.Tenant}, d.Principal.Relation, principal.Object, oracle.Context{}, now).Yes {
			return false
		}
		if d.Principal.Relation == "" && d.Principal != principal || d.Principal.Relation != "" && principal.Relation != "" && d.Principal != principal {
			return false
		}
		if d.Parent == "" && !r.state.Entitled(d.Principal, d.GrantedBy, now) {
			return false
		}
		if d.Session != "" {
			if s := r.state.Sessions[d.Session]; !s.Active || s.Ended || !s.Until.After(now) {
				return false
			}
		}
	}
	return true
}

// accept judges what became of a creation: the server may refuse what is not certain, with an error that
// says so. Whatever it accepts, decisions have to agree with the oracle.
func (r *random) accept(what string, err error, certain bool) {
	r.rt.Helper()
	switch {
	case err == nil:
	case certain && !r.tampered:
		r.rt.Fatalf("%s refused, although nothing speaks against it: %v", what, err)
	case !refused(err):
		r.rt.Fatalf("%s failed: %v", what, err)
	}
}

// drawSession draws a session and tries to start it.
func (r *random) drawSession() {
	r.rt.Helper()
	if len(r.grants) == 0 {
		return
	}
	first := mostly(r, r.grants, func(id string) bool { return r.usable(id, r.state.Delegations[id].Principal) })
	agent := r.state.Delegations[first].Agent
	ids := []string{first}
	for _, id := range r.grants {
		if id != first && r.state.Delegations[id].Agent == agent && r.chance(70) {
			ids = append(ids, id)
		}
	}
	certain := true
	var targets []target
	for _, id := range ids {
		d := r.state.Delegations[id]
		t := target{delegation: id}
		if d.Principal.Relation != "" {
			for _, p := range r.principals() {
				if r.coveredBy(d)(p) && r.chance(70) || r.chance(2) {
					t.principals = append(t.principals, p)
				}
			}
			if len(t.principals) == 0 {
				t.principals = r.users[:1]
			}
		} else {
			t.principals = []oracle.Object{d.Principal.Object}
		}
		if r.chance(20) {
			t.scope = r.scope()
		}
		for _, p := range t.principals {
			certain = certain && r.usable(id, oracle.Subject{Object: p}) && len(r.state.Chain(id)) < oracle.MaxChain
		}
		targets = append(targets, t)
	}
	_, err := r.start(agent, r.chance(35), targets...)
	r.accept("session", err, certain)
}

// drawChange draws something that happens later.
func (r *random) drawChange() {
	switch r.below(18) {
	case 0, 1:
		r.suspend(pick(r, pick(r, [][]oracle.Object{r.tenants, r.principals(), r.agents})))
	case 2:
		if stopped := sortedObjects(r.state.Suspended); len(stopped) > 0 {
			r.resume(pick(r, stopped))
		}
	case 3:
		if ids := slices.Concat(r.grants, r.leaves()); len(ids) > 0 {
			r.revoke(pick(r, ids))
		}
	case 4:
		if len(r.runs) > 0 {
			r.world.end(pick(r, r.runs))
		}
	case 5:
		if ids := slices.Concat(r.grants, r.leaves()); len(ids) > 0 {
			if id := pick(r, ids); !r.state.Delegations[id].Revoked {
				r.expire(oracle.Object{Type: "delegation", ID: id})
			}
		}
	case 6:
		if len(r.runs) > 0 {
			if id := pick(r, r.runs); !r.state.Sessions[id].Ended {
				r.expire(oracle.Object{Type: "session", ID: id})
			}
		}
	case 7:
		r.leave(oracle.Standing{Tenant: pick(r, r.tenants).ID, Relation: pick(r, []string{"member", "admin"}), Who: pick(r, r.users)})
	case 8:
		r.stand(pick(r, r.tenants), pick(r, []string{"member", "admin"}), pick(r, r.users), r.end())
	case 9:
		if r.chance(50) {
			r.leave(oracle.Standing{Tenant: pick(r, r.tenants).ID, Relation: "agent", Who: pick(r, r.agents)})
		} else {
			r.stand(pick(r, r.tenants), "agent", pick(r, r.agents), r.end())
		}
	case 10:
		if len(r.services) > 0 {
			s := pick(r, r.services)
			r.disown(s, pick(r, r.users))
			if r.chance(50) {
				r.own(s, pick(r, r.users))
			}
		}
	case 11, 12, 13:
		// Take a grant away.
		if edges := r.edges(); len(edges) > 0 {
			r.ungrant(pick(r, edges))
		}
	default:
		// Grant something: to a person, an agent or a delegation.
		to := slices.Concat(r.users, r.agents)
		for _, id := range slices.Concat(r.grants, r.leaves()) {
			to = append(to, oracle.Object{Type: "delegation", ID: id})
		}
		p, relation := pick(r, to), pick(r, []string{"viewer", "editor"})
		r.grant(pick(r, slices.Concat(r.folders, r.documents)), relation, oracle.Subject{Object: p}, r.condition(p.Type, relation))
	}
	r.flush()
}

// edges returns the domain's grants in a stable order.
func (r *random) edges() []oracle.Edge {
	edges := slices.Collect(maps.Keys(r.state.Edges))
	return slices.SortedFunc(slices.Values(edges), func(a, b oracle.Edge) int {
		return compareText(fmt.Sprint(a), fmt.Sprint(b))
	})
}

// sortedObjects returns the keys of a set of objects in a stable order.
func sortedObjects(set map[oracle.Object]bool) []oracle.Object {
	return slices.SortedFunc(maps.Keys(set), func(a, b oracle.Object) int { return compareText(a.String(), b.String()) })
}

// compareText orders two texts.
func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// drawQuestions draws questions about the world as it is.
func (r *random) drawQuestions(n int) []oracle.Question {
	var questions []oracle.Question
	for range n {
		questions = append(questions, r.drawQuestion())
	}
	return questions
}

// drawQuestion draws one question: mostly one that could be allowed.
func (r *random) drawQuestion() oracle.Question {
	q := oracle.Question{Permission: pick(r, []string{"view", "view", "view", "edit"}), Context: r.drawContext()}
	var d oracle.Delegation
	kind := r.below(10)
	switch {
	case kind < 5 && len(r.runs) > 0:
		q.Session = r.recent(r.runs)
		d = r.state.Delegations[pick(r, r.state.Sessions[q.Session].Leaves)]
		if d.ID == "" {
			// Its leaf was taken from it.
			d = r.state.Delegations[pick(r, r.leaves())]
		}
		if d.ID == "" {
			d = r.state.Delegations[pick(r, r.grants)]
		}
		q.Principal, q.Tenant = d.Principal.Object, d.Tenant
	case len(r.grants) > 0:
		q.Delegation = mostly(r, r.grants, func(id string) bool { return oracle.Direct(r.state.Chain(id)) })
		d = r.state.Delegations[q.Delegation]
		q.Principal, q.Tenant = mostly(r, r.principals(), r.coveredBy(d)), d.Tenant
		if leaves := r.leaves(); len(leaves) > 0 && r.chance(5) {
			q.Delegation = pick(r, leaves)
		}
		if kind >= 8 {
			// By agent alone.
			q.Delegation = ""
		}
	default:
		q.Principal, q.Tenant, d.Agent = pick(r, r.users), pick(r, r.tenants).ID, pick(r, r.agents).ID
	}
	q.Agent = d.Agent
	q.Resource = mostly(r, slices.Concat(r.documents, r.documents, r.folders), func(o oracle.Object) bool {
		return r.state.Tenants(o, time.Now()) == q.Tenant
	})
	if q.Resource.Type == "document" && r.chance(20) {
		q.Permission = "sign"
	}
	if r.chance(3) {
		q.Resource = r.object("document", "nowhere")
	}
	// Ask something else now and then.
	switch r.below(25) {
	case 0:
		q.Agent = pick(r, r.agents).ID
	case 1:
		q.Principal = pick(r, r.principals())
	case 2:
		q.Tenant = pick(r, r.tenants).ID
	case 3:
		q.Principal, q.Tenant = oracle.Object{}, ""
	case 4:
		q.Tenant = ""
	case 5:
		if q.Session != "" {
			q.Session = "0123456789abcdef0123456789abcdef"
		}
	case 6:
		q.Agent = r.prefix + "stranger"
	}
	return q
}

// drawContext draws what a question carries for caveats: often nothing.
func (r *random) drawContext() oracle.Context {
	var c oracle.Context
	if r.chance(60) {
		amount := pick(r, []int{1, 50, 500})
		c.Amount = &amount
	}
	if r.chance(60) {
		c.Region = pick(r, []string{"eu", "us"})
	}
	return c
}
