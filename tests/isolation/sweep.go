// Package isolation makes the decisions that nobody wrote down, for every agent, principal, tenant, object and permission of a
// fixture, and compares each with tests/oracle, which has the rule from its words alone, and single checks from the evaluator.
//
//	sweep.go  which decisions are made, and what none of them may be
//	state.go  what the oracle has to know of a graph
//	files.go  fixtures to be swept: the support desk, and files at random
//
// That is Deputy's to prove, whatever the schema. What a schema can get wrong pkg/fixture/isolate looks for, in every user's run.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/judge"
	"github.com/deputyauth/deputy/tests/oracle"
)

// forever is when what does not end ends.
var forever = At.AddDate(100, 0, 0)

// Sweep is what a sweep came to.
type Sweep struct {
	// Findings are what does not hold, in order, each in lines: one for each property and permission. The properties are "legs":
	// a decision is what the rule makes of single checks; "cross-tenant": it is about an object of just its tenant, for those who
	// have access to it; and "widened": what is passed on reaches no more than what it is a part of, and a frozen session no more
	// than the same one unfrozen.
	Findings []string
	// Decisions counts those that were made, and Allowed those that were not refused.
	Decisions, Allowed int
}

// Limit is how many decisions a sweep makes at most. Those that tell most come first.
const Limit = 20_000

// graph is one sweep of a graph.
type graph struct {
	authz.Graph
	suite     *fixture.Suite
	baselines map[string]*oracle.State
	state     *oracle.State
	now       time.Time
	// failed is set once a single check has no answer: then the rule has none.
	failed bool
	found  map[string]bool
	out    *Sweep
}

// target is a permission on an object.
type target struct {
	resource   authz.Object
	permission string
}

// Run sweeps a suite. Decisions are made through a graph, which may differ from the suite's own in what it answers.
func Run(ctx context.Context, s *fixture.Suite, through authz.Graph) (*Sweep, error) {
	g := &graph{
		Graph: s.Graph(), suite: s, baselines: map[string]*oracle.State{}, now: s.World.Now(), found: map[string]bool{}, out: &Sweep{},
	}
	head, err := g.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return nil, err
	}
	if g.state, err = g.read(ctx, head); err != nil {
		return nil, err
	}
	cases := g.cases()
	const bulk = 4096
	for chunk := range slices.Chunk(cases, bulk) {
		results, _, err := judge.New(through, s.File.Globals, s.World.Now).Decide(ctx, judge.By{Within: authz.Unbounded()}, judge.Questions(chunk...), authz.Freshness{}, false)
		if err != nil {
			return nil, err
		}
		for i := range results {
			g.compare(&chunk[i], &results[i])
		}
	}
	g.out.Decisions = len(cases)
	return g.out, ctx.Err()
}

// targets are the permissions on objects of the domain that decisions are made about.
func (g *graph) targets() (all []target) {
	named := g.suite.World.Named()
	for _, m := range g.suite.Rules.Schema.Members {
		t := g.suite.Rules.Model.Types[m.Type]
		if slices.Contains(authz.CoreTypes, m.Type) || !m.IsPermission() || m.Member == "tenant" || t.UnsafeShape != "" ||
			!t.TenantSafe() && !slices.Contains(g.suite.File.Globals, m.Type) {
			continue
		}
		for _, id := range named[m.Type] {
			all = append(all, target{authz.Object{Type: m.Type, ID: id}, m.Member})
		}
	}
	return all
}

// cases are the decisions to be made, as many as the limit allows. A way that may act is tried on all targets; one that may not, on
// one in the tenant and one outside that agent and principal may both: where something else would refuse anyway, it shows nothing.
// Such tempting ones come first, so that the limit cuts the many.
func (g *graph) cases() []authz.Case {
	targets := g.targets()
	var tempting, others []authz.Case
	add := func(to *[]authz.Case, c authz.Case, t target) {
		c.Resource, c.Permission = t.resource, t.permission
		if len(tempting)+len(others) < Limit {
			*to = append(*to, c)
		}
	}
	for _, way := range g.ways() {
		first := g.first(targets, way)
		acts := false
		for _, t := range append(first, targets[:min(1, len(targets))]...) {
			c := way
			c.Resource, c.Permission = t.resource, t.permission
			acts = acts || g.decide(&c).Side != oracle.ByActor
		}
		for _, t := range first {
			add(&tempting, way, t)
		}
		for _, t := range targets {
			if acts && !slices.Contains(first, t) {
				add(&others, way, t)
			}
		}
	}
	return append(tempting, others...)
}

// ways are all ways in which an agent could act for a principal in a tenant: by itself, in each session, under each delegation.
func (g *graph) ways() (all []authz.Case) {
	named := g.suite.World.Named()
	for _, agent := range named[authz.TypeAgent] {
		for _, of := range []string{authz.TypeUser, authz.TypeService} {
			for _, id := range named[of] {
				for _, tenant := range named[authz.TypeTenant] {
					alone := authz.Case{
						Agent: authz.AgentID(agent), Principal: authz.Principal{Object: authz.Object{Type: of, ID: id}}, Tenant: authz.TenantID(tenant),
					}
					all = append(all, alone)
					for _, session := range named[authz.TypeSession] {
						if _, there := g.state.Sessions[session]; !there {
							continue
						}
						in := alone
						in.Session = authz.SessionID(session)
						all = append(all, in)
					}
					for _, delegation := range named[authz.TypeDelegation] {
						if _, there := g.state.Delegations[delegation]; !there {
							continue
						}
						under := alone
						under.Delegation = authz.DelegationID(delegation)
						all = append(all, under)
					}
				}
			}
		}
	}
	return all
}

// first are the first target of a tenant and the first one that is not, among those that the agent and the principal may both.
func (g *graph) first(targets []target, way authz.Case) (found []target) {
	seen := map[bool]bool{}
	for _, t := range targets {
		has := func(who authz.Object) bool {
			return g.state.Check(object(t.resource), t.permission, object(who), oracle.Context{}, g.now) != oracle.No
		}
		within := g.state.Tenants(object(t.resource), g.now) == string(way.Tenant)
		if !seen[within] && has(way.Agent.Object()) && has(way.Principal.Object) {
			seen[within] = true
			found = append(found, t)
		}
	}
	return found
}

// question is a case in the oracle's words.
func question(c *authz.Case) oracle.Question {
	return oracle.Question{
		Agent: string(c.Agent), Session: string(c.Session), Delegation: string(c.Delegation), Principal: object(c.Principal.Object),
		Tenant: string(c.Tenant), Resource: object(c.Resource), Permission: c.Permission,
	}
}

// decide is what the rule says.
func (g *graph) decide(c *authz.Case) oracle.Answer { return g.state.Decide(question(c), g.now) }

// verdicts are permissionships in the oracle's words.
var verdicts = map[authz.Permissionship]oracle.Verdict{
	authz.NoPermission: oracle.Denied, authz.ConditionalPermission: oracle.Conditional, authz.HasPermission: oracle.Allowed,
}

// compare looks at one decision.
func (g *graph) compare(c *authz.Case, result *judge.Result) {
	g.failed = false
	want := g.decide(c)
	about := fmt.Sprintf("%s acts for %s: %s on %s", authz.Show(c.Agent.Object()), acts(c), c.Permission, authz.Show(c.Resource))
	if result.Err != nil {
		failure, ok := errors.AsType[*authz.Error](result.Err)
		tooMany := ok && failure.Reason == authz.ReasonTooManyCandidates && want.Failure == oracle.Precondition
		if !tooMany && !g.failed {
			g.find("legs", c, "cannot be decided, though each of its legs can", about, "the decision fails: "+result.Err.Error())
		}
		return
	}
	got := verdicts[result.Decision.Permissionship]
	about += " is " + got.String()
	if got != oracle.Denied {
		g.out.Allowed++
		if crossed := g.crossing(c); crossed != "" {
			g.find("cross-tenant", c, "is answered across tenants", about, crossed)
		}
		if chosen := result.Decision.Chosen(); chosen != nil {
			if widened := g.widening(c, chosen.Delegation(), got); widened != "" {
				g.find("widened", c, "reaches more than what it is a part of", about, widened)
			}
		}
	}
	if got != want.Verdict && !g.failed {
		g.find("legs", c, "is not decided by its legs", about, "the rule says "+want.Verdict.String()+": "+g.legs(c))
	}
}

// acts shows how an agent acts to people, without the agent.
func acts(c *authz.Case) string {
	text := authz.Show(c.Principal.Object) + " in " + authz.Show(c.Tenant.Object())
	switch {
	case c.Session != "":
		text += " (" + authz.Show(c.Session.Object()) + ")"
	case c.Delegation != "":
		text += " (" + authz.Show(c.Delegation.Object()) + ")"
	}
	return text
}

// find notes a finding, unless there is one of this kind about the permission already.
func (g *graph) find(property string, c *authz.Case, what string, lines ...string) {
	head := property + ": " + c.Resource.Type + "#" + c.Permission + " " + what
	if !g.found[head] {
		g.found[head] = true
		g.out.Findings = append(g.out.Findings, g.suite.Words(strings.Join(append([]string{head}, lines...), "\n  ")))
	}
}

// legs says what the agent and the principal have by themselves, and which tenant the object has.
func (g *graph) legs(c *authz.Case) string {
	has := func(who authz.Object) string {
		switch g.state.Check(object(c.Resource), c.Permission, object(who), oracle.Context{}, g.now) {
		case oracle.Yes:
			return "yes"
		case oracle.No:
			return "no"
		default:
			return "conditional"
		}
	}
	return fmt.Sprintf("agent: %s, principal: %s, tenant: %q", has(c.Agent.Object()), has(c.Principal.Object), g.state.Tenants(object(c.Resource), g.now))
}

// crossing says what is of another tenant in a decision that is not a refusal; "" if nothing is.
func (g *graph) crossing(c *authz.Case) string {
	tenant := authz.Show(c.Tenant.Object())
	if of := g.state.Tenants(object(c.Resource), g.now); !slices.Contains(g.suite.File.Globals, c.Resource.Type) && of != string(c.Tenant) {
		return fmt.Sprintf("%s is not of %s alone, but of: %q", authz.Show(c.Resource), tenant, of)
	}
	for _, o := range []authz.Object{c.Principal.Object, c.Agent.Object()} {
		if g.state.Check(object(c.Tenant.Object()), "access", object(o), oracle.Context{}, g.now) != oracle.Yes {
			return authz.Show(o) + " has no access to " + tenant
		}
	}
	for _, d := range g.state.Delegations {
		if d.Active && d.Agent == string(c.Agent) && d.Tenant == string(c.Tenant) {
			return ""
		}
	}
	return "nothing lets it act in " + tenant
}

// widening says what the delegation behind a decision is a part of and reaches more than; "" if it does not.
func (g *graph) widening(c *authz.Case, id authz.DelegationID, got oracle.Verdict) string {
	unfrozen := *g.state
	unfrozen.Sessions = map[string]oracle.Session{}
	for id, s := range g.state.Sessions {
		s.Baseline = nil
		unfrozen.Sessions[id] = s
	}
	q := question(c)
	if v := unfrozen.Weigh(q, string(id), g.now).Verdict; v < got && g.frozen(string(id)) {
		return "unfrozen, it comes to " + v.String()
	}
	parent := g.state.Delegations[string(id)].Parent
	if parent == "" {
		return ""
	}
	q.Session, q.Delegation, q.Agent, q.AnySession = "", parent, g.state.Delegations[parent].Agent, true
	if v := g.state.Weigh(q, parent, g.now).Verdict; v < got {
		return fmt.Sprintf("it is a part of delegation:%s, which comes to %s", parent, v)
	}
	return ""
}

// frozen reports whether a session that a delegation stands on is.
func (g *graph) frozen(id string) bool {
	return slices.ContainsFunc(g.state.Chain(id), func(d oracle.Delegation) bool {
		return d.Session != "" && g.state.Sessions[d.Session].Baseline != nil
	})
}
