package oracle

import (
	"slices"
	"strings"
	"time"
)

// MaxChain is the most delegations from a root to a leaf, both counted.
const MaxChain = 8

// MaxCandidates is how many delegations one question may leave to choose from.
const MaxCandidates = 16

// Question is what CheckPermission is asked.
type Question struct {
	Agent string
	// Session or Delegation is what the agent acts under; not both.
	Session    string
	Delegation string
	// AnySession asks as if the agent had started a session under the delegation, as LookupAgents does.
	AnySession bool
	// Principal and Tenant may be empty where nothing is left to choose.
	Principal  Object
	Tenant     string
	Resource   Object
	Permission string
	Context    Context
}

// Verdict is an answer's permissionship.
type Verdict int

// The verdicts, from the narrowest.
const (
	Denied Verdict = iota
	Conditional
	Allowed
)

// String returns the verdict as authzed.api.v1 spells it.
func (v Verdict) String() string {
	return [...]string{"NO_PERMISSION", "CONDITIONAL_PERMISSION", "HAS_PERMISSION"}[v]
}

// Side is where a refusal lies.
type Side int

// The sides.
const (
	Neither Side = iota
	ByActor
	ByObject
)

// String returns the side as deputy.v1 spells it.
func (s Side) String() string { return [...]string{"UNSPECIFIED", "ACTOR", "OBJECT"}[s] }

// Failure is why a question has no answer.
type Failure int

// The failures.
const (
	NoFailure Failure = iota
	// NotFound: the session or the delegation does not exist.
	NotFound
	// Invalid: the question leaves a choice open that it has to make.
	Invalid
	// Precondition: the object's type has no tenant, or too many delegations are left to choose from.
	Precondition
)

// String returns the failure as gRPC spells it.
func (f Failure) String() string {
	return [...]string{"OK", "NotFound", "InvalidArgument", "FailedPrecondition"}[f]
}

// Answer is the decision on a Question.
type Answer struct {
	Failure Failure
	Verdict Verdict
	// Side is set where Verdict is Denied.
	Side Side
	// Missing is set where Verdict is Conditional.
	Missing Missing
	// What was decided, unless denied: the principal, the tenant, the agents from the root on, the
	// delegation, and when the first of the delegations and sessions behind it ends.
	Principal  Object
	Tenant     string
	Agents     []string
	Delegation string
	Until      time.Time
}

// foreign is the answer to an agent that quotes another's session or delegation, before anything is said
// about that.
var foreign = Answer{Verdict: Denied, Side: ByActor}

// Decide answers a question at a time.
func (s *State) Decide(q Question, now time.Time) Answer {
	if s.Ask == nil && !slices.Contains([]string{"group", "folder", "document"}, q.Resource.Type) {
		return Answer{Failure: Precondition}
	}
	var candidates []string
	switch {
	case q.Session != "":
		session, ok := s.Sessions[q.Session]
		if !ok {
			return Answer{Failure: NotFound}
		}
		if session.Agent != q.Agent {
			return foreign
		}
		// The leaves that the question may mean; they have to be for one principal in one tenant.
		type pair struct {
			principal Object
			tenant    string
		}
		pairs := map[pair]bool{}
		for _, id := range session.Leaves {
			leaf := s.Delegations[id]
			if q.Principal != (Object{}) && q.Principal != leaf.Principal.Object || q.Tenant != "" && q.Tenant != leaf.Tenant {
				continue
			}
			pairs[pair{leaf.Principal.Object, leaf.Tenant}] = true
			candidates = append(candidates, id)
		}
		if len(pairs) > 1 {
			return Answer{Failure: Invalid}
		}
		for p := range pairs {
			q.Principal, q.Tenant = p.principal, p.tenant
		}
	case q.Delegation != "":
		d, ok := s.Delegations[q.Delegation]
		if !ok {
			return Answer{Failure: NotFound}
		}
		if d.Agent != q.Agent {
			return foreign
		}
		if q.Principal == (Object{}) {
			if d.Principal.Relation != "" {
				return Answer{Failure: Invalid}
			}
			q.Principal = d.Principal.Object
		}
		if q.Tenant == "" {
			q.Tenant = d.Tenant
		}
		candidates = []string{q.Delegation}
	default:
		if q.Principal == (Object{}) || q.Tenant == "" {
			return Answer{Failure: Invalid}
		}
		for id, d := range s.Delegations {
			if d.Agent == q.Agent && d.Tenant == q.Tenant && d.Direct && d.live(now) && s.covers(d, q.Principal, now) {
				candidates = append(candidates, id)
			}
		}
	}
	if len(candidates) > MaxCandidates {
		return Answer{Failure: Precondition}
	}
	// Each candidate is weighed alone: the first that is allowed, else the first that is conditional,
	// else the refusal that says that the actor at least could act.
	slices.Sort(candidates)
	best := Answer{Verdict: Denied, Side: ByActor}
	for _, id := range candidates {
		a := s.Weigh(q, id, now)
		if a.Verdict > best.Verdict || a.Verdict == Denied && best.Verdict == Denied && a.Side == ByObject {
			best = a
		}
	}
	return best
}

// live reports whether a delegation, by itself, is active, not over and not revoked.
func (d Delegation) live(now time.Time) bool {
	return d.Active && !d.Revoked && d.Astray == Subject{} && d.Until.After(now)
}

// live reports whether a session, by itself, is active, not over and not ended.
func (s Session) live(now time.Time) bool { return s.Active && !s.Ended && s.Until.After(now) }

// covers reports whether a delegation has somebody as a principal.
func (s *State) covers(d Delegation, who Object, now time.Time) bool {
	if d.Principal.Relation == "" {
		return d.Principal.Object == who
	}
	return d.Principal.Object == (Object{"tenant", d.Tenant}) && s.stands(d.Tenant, d.Principal.Relation, who, now)
}

// Chain returns a delegation with its parents, the root first; nil where it is broken or too long.
func (s *State) Chain(id string) []Delegation {
	var chain []Delegation
	for id != "" {
		d, ok := s.Delegations[id]
		if !ok || len(chain) == MaxChain {
			return nil
		}
		chain = append(chain, d)
		id = d.Parent
	}
	slices.Reverse(chain)
	return chain
}

// Direct reports whether an agent may act under a delegation without a session: it and every parent of
// it, up to the nearest leaf of a session, allows that.
func Direct(chain []Delegation) bool {
	for i := len(chain) - 1; i >= 0 && (i == len(chain)-1 || chain[i].Session == ""); i-- {
		if !chain[i].Direct {
			return false
		}
	}
	return true
}

// Weigh judges one delegation alone, whatever others there are. The question's principal and tenant are
// needed.
func (s *State) Weigh(q Question, id string, now time.Time) Answer {
	chain := s.Chain(id)
	if chain == nil {
		return Answer{Verdict: Denied, Side: ByActor}
	}
	a := Answer{Principal: q.Principal, Tenant: q.Tenant, Delegation: id}
	var baselines []baseline
	until := func(t time.Time) {
		if a.Until.IsZero() || t.Before(a.Until) {
			a.Until = t
		}
	}

	// What is up to the actor alone.
	actor := true
	if q.Session != "" {
		session := s.Sessions[q.Session]
		actor = actor && session.live(now) && session.Agent == q.Agent && slices.Contains(session.Leaves, id)
		until(session.Until)
	}
	for _, d := range chain {
		a.Agents = append(a.Agents, d.Agent)
		until(d.Until)
	}
	actor = actor && a.Agents[len(a.Agents)-1] == q.Agent
	for i, d := range chain {
		actor = actor && s.entrusted(chain[:i+1], q, now)
		if d.Session == "" {
			continue
		}
		session := s.Sessions[d.Session]
		actor = actor && session.live(now) && session.Agent == d.Agent && slices.Contains(session.Leaves, d.ID)
		until(session.Until)
		if session.Baseline != nil {
			baselines = append(baselines, baseline{session.Baseline, chain[:i+1]})
		}
	}
	actor = actor && (q.Session != "" || q.AnySession || Direct(chain))
	actor = actor && s.mayAct(a.Agents, q, now)

	// What depends on the object.
	object := s.reach(a.Agents, chain, q, now)
	for _, b := range baselines {
		actor = actor && b.state.mayAct(a.Agents, q, now)
		object = and(object, b.state.reach(a.Agents, b.chain, q, now))
	}
	switch {
	case !actor:
		return Answer{Verdict: Denied, Side: ByActor}
	case object.isNo():
		return Answer{Verdict: Denied, Side: ByObject}
	case object.Yes:
		a.Verdict = Allowed
	default:
		a.Verdict, a.Missing = Conditional, object.Missing
	}
	return a
}

// baseline is where a frozen session started, with the delegations from the root to its leaf.
type baseline struct {
	state *State
	chain []Delegation
}

// entrusted reports whether the last delegation of a chain is live, in the tenant, for the principal and
// rightly granted.
func (s *State) entrusted(chain []Delegation, q Question, now time.Time) bool {
	d := chain[len(chain)-1]
	if !d.live(now) || d.Tenant != q.Tenant || !s.covers(d, q.Principal, now) {
		return false
	}
	if len(chain) > 1 {
		parent := chain[len(chain)-2]
		if d.Agent == parent.Agent && d.Session == "" {
			return false
		}
		return d.GrantedBy == Object{"agent", parent.Agent}
	}
	return s.Entitled(d.Principal, d.GrantedBy, now)
}

// Entitled reports whether somebody may grant a delegation for a principal: a user for itself, an owner
// for the service, an admin for the tenant's members or admins.
func (s *State) Entitled(principal Subject, grantor Object, now time.Time) bool {
	if grantor.Type != "user" {
		return false
	}
	switch principal.Type {
	case "user":
		return grantor == principal.Object
	case "service":
		return s.Owners[principal.Object][grantor.ID]
	case "tenant":
		return s.stands(principal.ID, "admin", grantor, now)
	}
	return false
}

// mayAct reports whether agents, principal and tenant are in order, and the first two have access to the
// third. None of it depends on the object.
func (s *State) mayAct(agents []string, q Question, now time.Time) bool {
	tenant := Object{"tenant", q.Tenant}
	ok := s.Active[q.Principal] && !s.Suspended[q.Principal] && s.Active[tenant] && !s.Suspended[tenant]
	ok = ok && s.Check(tenant, "access", q.Principal, Context{}, now).Yes
	for _, id := range agents {
		agent := Object{"agent", id}
		ok = ok && s.Active[agent] && !s.Suspended[agent] && len(s.Owners[agent]) > 0
		ok = ok && s.Check(tenant, "access", agent, Context{}, now).Yes
	}
	return ok
}

// reach answers whether everybody has the permission, on an object of just this tenant: every agent, the
// principal, and every delegation that is scoped.
func (s *State) reach(agents []string, chain []Delegation, q Question, now time.Time) Truth {
	t := truth(slices.Contains(s.Globals, q.Resource.Type) || s.Tenants(q.Resource, now) == q.Tenant)
	t = and(t, s.Check(q.Resource, q.Permission, q.Principal, q.Context, now))
	for _, id := range agents {
		t = and(t, s.Check(q.Resource, q.Permission, Object{"agent", id}, q.Context, now))
	}
	for _, d := range chain {
		if !d.Unscoped {
			t = and(t, s.Check(q.Resource, q.Permission, Object{"delegation", d.ID}, q.Context, now))
		}
	}
	return t
}

// Explain describes a state in relationships, sorted: for the message of a failed test.
func (s *State) Explain() string {
	var lines []string
	for e, c := range s.Edges {
		line := e.Resource.String() + "#" + e.Relation + "@" + e.Subject.String()
		if c != (Condition{}) {
			line += " under a condition"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
