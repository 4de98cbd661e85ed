// Package decide is the rule: which conditions a question comes to, and what their outcomes come to.
// It is pure: no context, no clock, no I/O; the time is a value in Facts. pkg/judge reads the facts,
// asks the engine, and calls Plan and Combine.
package decide

import (
	"fmt"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Facts is all that the graph holds about one candidate: a chain of delegations with its agents, its
// principal and its tenant, at one revision. What is missing is zero and refuses.
type Facts struct {
	// Now is the one moment that expirations are compared with.
	Now time.Time
	// Principal and Tenant are whom and where the candidate acts.
	Principal authz.Principal
	Tenant    authz.TenantID
	// Session is the session that the request names, or nil.
	Session *facts.Session
	// Chain holds the delegations from the root to the one that acts.
	Chain []*facts.Delegation
	// Broken says why the chain ends before a root; empty where it does not.
	Broken string
	// Entitled tells that the root was granted by a subject that may grant it: always looked up, though for a user's
	// own delegation it is the user.
	Entitled bool
	// Sessions holds the sessions that minted a leaf of the chain.
	Sessions map[authz.SessionID]*facts.Session
	// Members tells, of each set that a delegation of the chain is for, whether the principal is in it. Of one that it does
	// not tell the engine is asked.
	Members map[authz.Subject]bool
	// Standing is what agents, principal and tenant are at the revision.
	Standing Standing
	// Baselines holds what stood where each frozen session started; see Frozen. A baseline that it does not hold cannot be read, and refuses.
	Baselines map[authz.Revision]Standing
	// Gone says why a baseline cannot be read, and what to do.
	Gone map[authz.Revision]string
	// Global tells that the resource's type belongs to no tenant.
	Global bool
	// AnySession asks what the candidate reaches once its agent has started a session, for look-ups:
	// whether it may act directly is left out.
	AnySession bool
	// Brief makes a plan that is not going to be explained: without texts, and of each gate with one of the facts that
	// hold. It comes to the same verdict.
	Brief bool
}

// Leaf is the delegation that acts; zero without a chain.
func (f *Facts) Leaf() *facts.Delegation {
	if len(f.Chain) == 0 {
		return &facts.Delegation{}
	}
	return f.Chain[len(f.Chain)-1]
}

// Standing is what agents, principal and tenant are at a revision.
type Standing struct {
	Agents    map[authz.AgentID]*facts.Agent
	Principal facts.Life
	Tenant    facts.Life
}

// Baseline is where a frozen session started.
type Baseline struct {
	Revision authz.Revision
	// Depth is how many delegations of the chain, from the root, had been granted by then: up to and
	// including the session's leaf. Later ones have no scope there.
	Depth int
}

// Frozen returns where the frozen sessions behind the candidate started, each revision once: the
// session that is named, and every session that minted a leaf of the chain.
func Frozen(f *Facts) []Baseline {
	var out []Baseline
	add := func(s *facts.Session, depth int) {
		if s == nil {
			s = &facts.Session{}
		}
		if s.Unfrozen {
			return
		}
		for i := range out {
			if out[i].Revision == s.Baseline {
				out[i].Depth = max(out[i].Depth, depth)
				return
			}
		}
		out = append(out, Baseline{s.Baseline, depth})
	}
	if f.Session != nil {
		add(f.Session, len(f.Chain))
	}
	for i, d := range f.Chain {
		if d.Session != "" {
			add(f.Sessions[d.Session], i+1)
		}
	}
	return out
}

// Where a condition is judged. The baseline with index i of Frozen is AtBaseline+i.
const (
	// AtHead is the head revision, which an exact snapshot has to pass too.
	AtHead = -1
	// AtSnapshot is the revision of the decision.
	AtSnapshot = 0
	// AtBaseline is the first baseline.
	AtBaseline = 1
)

// Plan returns every condition of the case for one candidate: those that facts decide with their outcome, the others with
// a Query. It is total: it never skips a gate, whatever the facts are; see Facts.Brief for what it leaves out.
func Plan(c authz.Case, f *Facts) []Condition {
	p := newPlan(c, f)
	p.session()
	p.delegation()
	p.standing(&f.Standing)
	p.permissions(len(f.Chain))
	for i, b := range Frozen(f) {
		p.where = AtBaseline + i
		standing, there := f.Baselines[b.Revision]
		if !there {
			// Nothing is known of what held there, so nothing is said of it. The tenants of the object are not known either: it is a condition of that gate.
			p.fact(authz.GateTenant, false, "what held when the session started can be read", f.Gone[b.Revision])
			continue
		}
		p.standing(&standing)
		p.permissions(b.Depth)
	}
	return p.conditions
}

// Standalone returns the conditions that do not depend on an object: session, delegation, registration and
// suspension, whether a principal is in a set, and access to the tenant. An exact snapshot has to pass them
// at the head revision too, so they are marked AtHead.
func Standalone(c authz.Case, f *Facts) []Condition {
	p := newPlan(c, f)
	p.where = AtHead
	p.session()
	p.delegation()
	p.standing(&f.Standing)
	p.access()
	return p.conditions
}

// Condition is a condition of the plan.
type Condition struct {
	authz.Condition
	// Where is the revision at which it is judged.
	Where int
	// Border tells that it is one of the tenant gate's, there or where a frozen session started: if it does not hold,
	// the object is foreign, and errors of what depends on it are not told.
	Border bool
}

// plan is a plan that is being made.
type plan struct {
	c     authz.Case
	f     *Facts
	where int

	conditions []Condition
	// held are the gates, a bit each, of which a condition that holds is there.
	held int
	// queries are those of conditions, which point into it: one place in memory for all of them.
	queries []authz.Query
}

// newPlan returns an empty plan, with room for what a plan usually has: a chain of few delegations, and nothing frozen.
func newPlan(c authz.Case, f *Facts) *plan {
	n := len(f.Chain)
	usual := 10 + n
	if !f.Brief {
		usual = 16 + 8*n
	}
	return &plan{c: c, f: f, conditions: make([]Condition, 0, usual), queries: make([]authz.Query, 0, 5+n)}
}

// fact adds a condition that is already decided, and depends on no object.
func (p *plan) fact(gate authz.Gate, holds bool, text, detail string) {
	c := authz.Condition{Gate: gate, Text: text, Side: authz.SideActor}
	if holds {
		c.Outcome = authz.Yes
	} else {
		c.Detail = detail
	}
	p.add(c)
}

// name names something in a text; it is empty where texts are left out, and a text that begins with it is then
// only its constant end.
func (p *plan) name(kind, id string) string {
	if p.f.Brief {
		return ""
	}
	return kind + id
}

// ask adds a condition that the engine has to answer.
func (p *plan) ask(gate authz.Gate, side authz.Side, q authz.Query) {
	if !q.Only {
		q.Context = p.c.Context
	}
	p.queries = append(p.queries, q)
	text := ""
	if !p.f.Brief {
		text = q.Text()
	}
	p.add(authz.Condition{Gate: gate, Text: text, Outcome: authz.NotJudged, Side: side, Query: &p.queries[len(p.queries)-1]})
}

// add adds a condition. A plan that nobody reads gets one of each gate that holds already: others would change nothing.
func (p *plan) add(c authz.Condition) {
	border := c.Gate == authz.GateTenant
	switch {
	case p.where >= AtBaseline:
		c.Gate, c.Baseline = authz.GateBaseline, true
	case p.where == AtHead && !p.f.Brief:
		c.Text += ", at the head revision"
	}
	if c.Outcome == authz.Yes && p.f.Brief {
		if p.held&(1<<c.Gate) != 0 {
			return
		}
		p.held |= 1 << c.Gate
	}
	p.conditions = append(p.conditions, Condition{Condition: c, Where: p.where, Border: border})
}

// life adds the condition that an object is live.
func (p *plan) life(gate authz.Gate, what string, l *facts.Life) {
	p.lifeOf(gate, what, l, "")
}

// lifeOf is life for an object that becomes live by a step of its own: never is what to say of one with which that was not done.
func (p *plan) lifeOf(gate authz.Gate, what string, l *facts.Life, never string) {
	detail := "it is live"
	switch {
	case l.Purged:
		detail = "it was purged"
	case l.Malformed == "" && !l.Stopped && !l.Active && never != "":
		detail = never
	case !l.Known:
		detail = "the graph does not know it"
	case l.Malformed != "":
		detail = l.Malformed
	case l.Stopped:
		detail = "it was stopped"
	case !l.Active:
		detail = "it is not active, or no longer"
	}
	p.fact(gate, l.Live(), what+" is live", detail)
}

// session adds the conditions of the session that the request names. Sessions behind leaves are the
// delegation gate's.
func (p *plan) session() {
	s := p.f.Session
	if p.c.Session == "" && s == nil {
		p.fact(authz.GateSession, true, "no session is named", "")
		return
	}
	if s == nil {
		s = &facts.Session{}
	}
	p.minted(authz.GateSession, s, p.f.Leaf())
	p.fact(authz.GateSession, s.ID == p.c.Session, "the session is the one that is named", "it is another one")
}

// minted adds the conditions under which a session backs a leaf.
func (p *plan) minted(gate authz.Gate, s *facts.Session, leaf *facts.Delegation) {
	if s == nil {
		s = &facts.Session{}
	}
	p.life(gate, p.name("session ", string(s.ID)), &s.Life)
	p.fact(gate, s.Agent != "" && s.Agent == leaf.Agent, "the session's agent is the delegation's", "it is another agent's session")
	p.fact(gate, s.Holds(leaf.ID), "the session holds the delegation", "it does not")
}

var chainBound = fmt.Sprintf("the chain has at most %d delegations", facts.MaxDepth)

// delegation adds the conditions of every delegation of the chain and of the links between them.
func (p *plan) delegation() {
	const gate = authz.GateDelegation
	chain := p.f.Chain
	p.fact(gate, len(chain) > 0 && p.f.Broken == "", "the chain leads to a root", p.f.Broken)
	p.fact(gate, len(chain) <= facts.MaxDepth, chainBound, "it is deeper")
	p.fact(gate, p.f.Leaf().Agent != "" && p.f.Leaf().Agent == p.c.Agent, "the delegation is the acting agent's", "it is another agent's")
	for i, d := range chain {
		name := p.name("delegation ", string(d.ID))
		p.life(gate, name, &d.Life)
		if d.Purged { // that refuses, and nothing else is known of it, nor of what the next one stands on
			continue
		}
		p.fact(gate, d.Tenant != "" && d.Tenant == p.f.Tenant, name+" is in the tenant", "it is in another one")
		if d.Set() {
			p.member(d)
		} else {
			mine := !p.f.Principal.IsZero() && d.Principal.Object == p.f.Principal.Object
			p.fact(gate, mine, name+" is for the principal", "it is for another one")
		}
		switch {
		case i == 0:
			p.root(d)
		case !chain[i-1].Purged:
			p.link(chain[i-1], d)
		}
		if d.Session != "" {
			p.minted(gate, p.f.Sessions[d.Session], d)
		}
	}
	if p.c.Session == "" && !p.f.AnySession {
		p.direct()
	}
}

// Direct reports whether the candidate's agent may act without a session.
func Direct(f *Facts) bool {
	p := plan{f: f}
	p.direct()
	return !Refused(p.conditions)
}

// member adds the condition that the principal is in a delegation's set. It has a query, so that it can be explained, and
// with what the facts say of it there is no need to ask.
func (p *plan) member(d *facts.Delegation) {
	p.ask(authz.GateDelegation, authz.SideActor, d.PrincipalQuery(p.f.Principal))
	c := &p.conditions[len(p.conditions)-1]
	switch in, known := p.f.Members[d.Principal]; {
	case in:
		c.Outcome = authz.Yes
	case known:
		c.Outcome = authz.No
	}
}

// root adds the condition that the chain's first delegation was granted by a subject that may grant it.
func (p *plan) root(d *facts.Delegation) {
	const gate = authz.GateDelegation
	name := p.name("delegation ", string(d.ID))
	p.fact(gate, d.Parent == "" && d.Session == "", name+" is a root", "it is a part of another one")
	granted := d.GrantedBy.Type == authz.TypeUser
	if granted && !d.Set() && d.Principal.Type == authz.TypeUser {
		granted = d.GrantedBy == d.Principal.Object
	}
	p.fact(gate, granted && p.f.Entitled, name+" was granted by a subject that may grant it",
		"the principal itself, an owner of the service or a direct admin of the tenant has to")
}

// link adds the conditions between a delegation and the one that it is a part of.
func (p *plan) link(parent, d *facts.Delegation) {
	const gate = authz.GateDelegation
	name := p.name("delegation ", string(d.ID))
	p.fact(gate, d.Parent == parent.ID, name+" is a part of the one before", "it is not")
	p.fact(gate, parent.Agent != "" && d.GrantedBy == parent.Agent.Object(), name+" was granted by its parent's agent", "it was granted by another one")
	// An agent that passes on to itself is a session's leaf: without its session it would shed the
	// session's end and its baseline.
	p.fact(gate, d.Agent != parent.Agent || d.Session != "", name+" is not an agent's own without a session", "the session that minted it is missing")
}

// direct adds the condition that the agent may act without a session: so must the delegation say, and
// all that it is a part of, up to one that a session backs.
func (p *plan) direct() {
	for _, d := range slices.Backward(p.f.Chain) {
		if d.Session != "" && d.ID != p.f.Leaf().ID {
			return
		}
		if d.Purged {
			continue
		}
		p.fact(authz.GateDelegation, d.AllowDirect, p.name("delegation ", string(d.ID))+" allows acting without a session", "it does not")
	}
}

// standing adds what agents, principal and tenant are, apart from any object.
func (p *plan) standing(s *Standing) {
	for _, id := range p.agents() {
		a := s.Agents[id]
		if a == nil {
			a = &facts.Agent{}
		}
		name := ""
		if !p.f.Brief {
			name = "agent:" + authz.DecodeID(string(id))
		}
		p.lifeOf(authz.GateAgent, name, &a.Life, "it is not registered: deputy agent register does that")
		p.fact(authz.GateAgent, len(a.Owners) > 0, name+" has an owner", "nobody answers for it")
	}
	show := func(o authz.Object) string {
		if p.f.Brief {
			return ""
		}
		return authz.Show(o)
	}
	p.lifeOf(authz.GatePrincipal, show(p.f.Principal.Object), &s.Principal,
		"it is not active: agents act for it only after deputy principal resume")
	p.lifeOf(authz.GateTenant, show(p.f.Tenant.Object()), &s.Tenant,
		"it is not active: agents act in it only after deputy principal resume")
}

// permissions adds what has to be asked of the engine: the permission for every subject, the object's
// tenant, and access to it. depth is how many delegations have to have the permission themselves.
func (p *plan) permissions(depth int) {
	on := func(s authz.Object) authz.Query {
		return authz.Query{Resource: p.c.Resource, Permission: p.c.Permission, Subject: authz.Subject{Object: s}}
	}
	for _, id := range p.agents() {
		p.ask(authz.GateAgent, authz.SideObject, on(id.Object()))
	}
	p.ask(authz.GatePrincipal, authz.SideObject, on(p.f.Principal.Object))
	if !p.f.Global {
		p.ask(authz.GateTenant, authz.SideObject, authz.Query{
			Resource: p.c.Resource, Permission: authz.TenantMember, Subject: authz.Subject{Object: p.f.Tenant.Object()}, Only: true,
		})
	}
	p.access()
	for i, d := range p.f.Chain {
		switch {
		case i >= depth:
		case d.Unscoped:
			p.add(authz.Condition{
				Gate: authz.GateScope, Text: p.name("delegation ", string(d.ID)) + " is unscoped", Outcome: authz.Yes, Side: authz.SideObject,
			})
		default:
			p.ask(authz.GateScope, authz.SideObject, on(d.ID.Object()))
		}
	}
}

// access adds that the principal and every agent have access to the tenant, whatever the object.
func (p *plan) access() {
	to := func(s authz.Object) {
		p.ask(authz.GateTenant, authz.SideActor, authz.Query{
			Resource: p.f.Tenant.Object(), Permission: facts.PermissionAccess, Subject: authz.Subject{Object: s},
		})
	}
	to(p.f.Principal.Object)
	for _, id := range p.agents() {
		to(id.Object())
	}
}

// agents lists the agents of the chain, each once, the root's first. Without any it is the agent
// that acts, so that the agent gate is never empty. A delegation without an agent refuses by itself, and the engine
// cannot be asked about nobody.
func (p *plan) agents() []authz.AgentID {
	out := []authz.AgentID{}
	for _, d := range p.f.Chain {
		if d.Agent != "" && !slices.Contains(out, d.Agent) {
			out = append(out, d.Agent)
		}
	}
	if len(out) == 0 {
		out = append(out, p.c.Agent)
	}
	return out
}
