package decide_test

import (
	"slices"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	alice = authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}}
	live  = facts.Life{Known: true, Active: true, Until: now.Add(time.Hour)}
)

// sessionCase is a session of agent bot for alice in acme: root delegation d1, leaf l1. Every check of
// it says yes unless a test bends it.
func sessionCase() (authz.Case, decide.Facts) {
	c := authz.Case{
		Agent: "bot", Session: "s1", Principal: alice, Tenant: "acme",
		Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
	}
	root := facts.Delegation{
		ID: "d1", Life: live, Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme",
		GrantedBy: alice.Object,
	}
	leaf := root
	leaf.ID, leaf.Parent, leaf.Session, leaf.Unscoped = "l1", "d1", "s1", true
	leaf.GrantedBy = authz.AgentID("bot").Object()
	s := facts.Session{
		ID: "s1", Life: live, Agent: "bot", Unfrozen: true,
		Leaves: []facts.Leaf{{Delegation: "l1", Principal: alice, Tenant: "acme"}},
	}
	minting := s
	return c, decide.Facts{
		Now: now, Principal: alice, Tenant: "acme", Session: &s, Entitled: true,
		Chain:    []*facts.Delegation{&root, &leaf},
		Sessions: map[authz.SessionID]*facts.Session{"s1": &minting},
		Standing: decide.Standing{
			Agents:    map[authz.AgentID]*facts.Agent{"bot": {ID: "bot", Life: live, Owners: []authz.Object{alice.Object}}},
			Principal: live, Tenant: live,
		},
	}
}

// answer settles every query with yes and combines.
func answer(c authz.Case, f decide.Facts) decide.Verdict {
	conditions := decide.Plan(c, &f)
	for i := range conditions {
		if conditions[i].Query != nil {
			decide.Settle(&conditions[i], authz.Answer{Outcome: authz.Yes})
		}
	}
	return decide.Combine(conditions)
}

func TestSessionCaseHolds(t *testing.T) {
	c, f := sessionCase()
	if v := answer(c, f); v.Permissionship != authz.HasPermission {
		t.Fatalf("the unbent case is refused: %+v %+v", v, decide.Plan(c, &f))
	}
	full := len(decide.Plan(c, &f))
	f.Brief = true
	if brief := len(decide.Plan(c, &f)); brief > full/2 {
		t.Errorf("a plan that is not explained has %d of %d conditions", brief, full)
	}
}

// TestQueries: a decision asks for the permission of every agent, the principal and every scoped
// delegation, for the object's tenant, and for access, all with the case's context.
func TestQueries(t *testing.T) {
	c, f := sessionCase()
	c.Context = map[string]any{"ip": "10.0.0.1"}
	var got []string
	for _, condition := range decide.Plan(c, &f) {
		if q := condition.Query; q != nil {
			got = append(got, condition.Gate.String()+" "+q.Text())
			if (q.Context == nil) != q.Only {
				t.Errorf("%s carries the context %v", q.Text(), q.Context)
			}
		}
	}
	want := []string{
		"agent document:plan#view@agent:bot",
		"principal document:plan#view@user:alice",
		"tenant document:plan#tenant is tenant:acme and no other",
		"tenant tenant:acme#access@user:alice",
		"tenant tenant:acme#access@agent:bot",
		"scope document:plan#view@delegation:d1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("asks\n%q, want\n%q", got, want)
	}
}

// TestMembers: whether the principal is in the set that a delegation is for is taken from the facts, if they tell, and asked
// of the engine if not. It is explained as a question either way, and refuses alone.
func TestMembers(t *testing.T) {
	members := authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember}
	admins := members
	admins.Relation = facts.RelationAdmin
	for _, test := range []struct {
		facts map[authz.Subject]bool
		want  authz.Outcome
	}{
		{nil, authz.NotJudged}, {map[authz.Subject]bool{admins: true}, authz.NotJudged},
		{map[authz.Subject]bool{members: true}, authz.Yes}, {map[authz.Subject]bool{members: false, admins: true}, authz.No},
	} {
		c, f := sessionCase()
		f.Chain[0].Principal, f.Members = members, test.facts
		conditions := decide.Plan(c, &f)
		asks := slices.IndexFunc(conditions, func(c decide.Condition) bool {
			return c.Query != nil && c.Query.Text() == "delegation:d1#principal@user:alice"
		})
		if asks < 0 || conditions[asks].Outcome != test.want || conditions[asks].Side != authz.SideActor {
			t.Fatalf("with %v: condition %d of %+v, want %v", test.facts, asks, conditions, test.want)
		}
		if decide.Refused(conditions) {
			t.Errorf("with %v a fact alone refuses: nothing else would be asked", test.facts)
		}
		for i := range conditions {
			if conditions[i].Query != nil && i != asks {
				decide.Settle(&conditions[i], authz.Answer{Outcome: authz.Yes})
			}
		}
		if v := decide.Combine(conditions); (v.Permissionship == authz.HasPermission) != (test.want == authz.Yes) {
			t.Errorf("with %v it comes to %+v", test.facts, v)
		}
	}
}

// TestFactsThatRefuse bends one fact at a time; with every check answering yes, each must refuse, at
// the gate that the design names, on the actor's side.
func TestFactsThatRefuse(t *testing.T) {
	service := authz.Object{Type: authz.TypeService, ID: "nightly"}
	set := authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember}
	rename := func(f *decide.Facts, bend func(*facts.Session)) {
		s := *f.Sessions["s1"]
		bend(&s)
		f.Session, f.Sessions["s1"] = &s, &s
	}
	for _, b := range []struct {
		name string
		gate authz.Gate
		bend func(*authz.Case, *decide.Facts)
	}{
		{"session unknown", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { f.Session = nil }},
		{"session ended", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { rename(f, func(s *facts.Session) { s.Stopped = true }) }},
		{"session inactive", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { rename(f, func(s *facts.Session) { s.Active = false }) }},
		{"session malformed", authz.GateSession, func(_ *authz.Case, f *decide.Facts) {
			rename(f, func(s *facts.Session) { s.Malformed = "two agents" })
		}},
		{"session of another agent", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { rename(f, func(s *facts.Session) { s.Agent = "other" }) }},
		{"session without the leaf", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { rename(f, func(s *facts.Session) { s.Leaves = nil }) }},
		{"another session", authz.GateSession, func(_ *authz.Case, f *decide.Facts) { rename(f, func(s *facts.Session) { s.ID = "s2" }) }},
		{"leaf's own session ended", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) {
			s := *f.Sessions["s1"]
			s.Stopped = true
			f.Sessions["s1"] = &s
		}},
		{"leaf's session unknown", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Sessions = nil }},
		{"another agent acts", authz.GateDelegation, func(c *authz.Case, _ *decide.Facts) { c.Agent = "other" }},
		{"no chain", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain = nil }},
		{"broken chain", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Broken = "it leads nowhere" }},
		{"root revoked", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Stopped = true }},
		{"root inactive", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Active = false }},
		{"root malformed", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Malformed = "two parents" }},
		{"root in another tenant", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Tenant = "globex" }},
		{"root for another principal", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Principal.ID = "bob" }},
		{"leaf for another principal", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[1].Principal.ID = "bob" }},
		{"root granted by another user", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].GrantedBy.ID = "bob" }},
		{"root granted by an agent", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].GrantedBy = authz.AgentID("bot").Object() }},
		{"root of a service granted by no owner", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) {
			f.Principal.Object, f.Entitled = service, false
			f.Chain[0].Principal.Object, f.Chain[1].Principal.Object = service, service
		}},
		{"root of a set granted by no admin", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Principal, f.Entitled = set, false }},
		{"root that is a part", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[0].Parent = "d0" }},
		{"leaf of another delegation", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[1].Parent = "d0" }},
		{"leaf granted by another agent", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[1].GrantedBy.ID = "other" }},
		{"leaf that lost its session", authz.GateDelegation, func(_ *authz.Case, f *decide.Facts) { f.Chain[1].Session = "" }},
		{"session dropped from the request", authz.GateDelegation, func(c *authz.Case, f *decide.Facts) { c.Session, f.Session = "", nil }},
		{"agent unknown", authz.GateAgent, func(_ *authz.Case, f *decide.Facts) { f.Standing.Agents = nil }},
		{"agent suspended", authz.GateAgent, func(_ *authz.Case, f *decide.Facts) {
			a := f.Standing.Agents["bot"]
			a.Stopped = true
			f.Standing.Agents["bot"] = a
		}},
		{"agent without owner", authz.GateAgent, func(_ *authz.Case, f *decide.Facts) {
			a := f.Standing.Agents["bot"]
			a.Owners = nil
			f.Standing.Agents["bot"] = a
		}},
		{"principal suspended", authz.GatePrincipal, func(_ *authz.Case, f *decide.Facts) { f.Standing.Principal.Stopped = true }},
		{"principal never active", authz.GatePrincipal, func(_ *authz.Case, f *decide.Facts) { f.Standing.Principal = facts.Life{} }},
		{"tenant suspended", authz.GateTenant, func(_ *authz.Case, f *decide.Facts) { f.Standing.Tenant.Stopped = true }},
		{"frozen, and the baseline is gone", authz.GateBaseline, func(_ *authz.Case, f *decide.Facts) {
			rename(f, func(s *facts.Session) { s.Unfrozen, s.Baseline = false, authz.Revision{Token: "r1"} })
		}},
		{"frozen, and the agent was not registered then", authz.GateBaseline, func(_ *authz.Case, f *decide.Facts) {
			r := authz.Revision{Token: "r1"}
			rename(f, func(s *facts.Session) { s.Unfrozen, s.Baseline = false, r })
			f.Baselines = map[authz.Revision]decide.Standing{r: {Principal: live, Tenant: live}}
		}},
	} {
		t.Run(b.name, func(t *testing.T) {
			c, f := sessionCase()
			b.bend(&c, &f)
			v := answer(c, f)
			if v.Err != nil || v.Permissionship != authz.NoPermission || v.RefusedBy != authz.SideActor {
				t.Fatalf("came to %+v", v)
			}
			f.Brief = true
			if brief := answer(c, f); brief.Err != nil || brief.Permissionship != v.Permissionship || brief.RefusedBy != v.RefusedBy {
				t.Errorf("a plan that is not explained comes to %+v, and not to %+v", brief, v)
			}
			f.Brief = false
			refusing := slices.ContainsFunc(decide.Plan(c, &f), func(c decide.Condition) bool {
				return c.Query == nil && c.Outcome == authz.No && c.Gate == b.gate
			})
			if !refusing {
				t.Errorf("the %s gate does not refuse", b.gate)
			}
		})
	}
}

// TestEveryCheckCounts: with all facts right, each check alone can refuse, make conditional and fail; only that the
// object's tenants cannot be computed is a no.
func TestEveryCheckCounts(t *testing.T) {
	c, f := sessionCase()
	r := authz.Revision{Token: "r1"}
	s := *f.Session
	s.Unfrozen, s.Baseline = false, r
	f.Session, f.Sessions["s1"] = &s, &s
	f.Baselines = map[authz.Revision]decide.Standing{r: f.Standing}
	asked := 0
	for at, condition := range decide.Plan(c, &f) {
		if condition.Query == nil {
			continue
		}
		asked++
		for _, o := range []authz.Outcome{authz.No, authz.Conditional, authz.Failed} {
			conditions := decide.Plan(c, &f)
			for i := range conditions {
				if conditions[i].Query == nil {
					continue
				}
				a := authz.Answer{Outcome: authz.Yes}
				if i == at {
					a = authz.Answer{Outcome: o, Missing: []string{"ip"}, Err: errEngine}
				}
				decide.Settle(&conditions[i], a)
			}
			v := decide.Combine(conditions)
			if condition.Query.Only && o == authz.Failed {
				o = authz.No
			}
			switch {
			case o == authz.No && (v.Err != nil || v.Permissionship != authz.NoPermission),
				o == authz.Conditional && v.Permissionship != authz.ConditionalPermission,
				o == authz.Failed && v.Err == nil:
				t.Errorf("%s at %d: %s came to %+v", condition.Text, condition.Where, o, v)
			}
		}
	}
	if asked != 12 {
		t.Errorf("a frozen session of depth two asks %d checks, want 6 now and 6 at its baseline", asked)
	}
}

// TestBaselineThatCannotBeRead: of what held at a baseline that cannot be read nothing is said but that, and why.
func TestBaselineThatCannotBeRead(t *testing.T) {
	c, f := sessionCase()
	r := authz.Revision{Token: "r1"}
	s := *f.Session
	s.Unfrozen, s.Baseline = false, r
	f.Session, f.Sessions["s1"] = &s, &s
	f.Gone = map[authz.Revision]string{r: "it has gone"}
	var then []decide.Condition
	for _, condition := range decide.Plan(c, &f) {
		if condition.Baseline {
			then = append(then, condition)
		}
	}
	if len(then) != 1 || then[0].Outcome != authz.No || then[0].Detail != "it has gone" || !then[0].Border {
		t.Errorf("of the baseline it says %+v, want one condition that does not hold", then)
	}
}

// TestBaselineScope: delegations that were passed on after a frozen session started have no scope
// there; those up to its leaf have.
func TestBaselineScope(t *testing.T) {
	c, f := sessionCase()
	r := authz.Revision{Token: "r1"}
	s := *f.Sessions["s1"]
	s.Unfrozen, s.Baseline = false, r
	f.Sessions["s1"] = &s
	part := facts.Delegation{
		ID: "d3", Life: live, Agent: "sub", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme",
		GrantedBy: authz.AgentID("bot").Object(), Parent: "l1", AllowDirect: true,
	}
	f.Chain = append(f.Chain, &part)
	f.Session, c.Session, c.Agent = nil, "", "sub"
	f.Standing.Agents["sub"] = &facts.Agent{ID: "sub", Life: live, Owners: []authz.Object{alice.Object}}
	f.Baselines = map[authz.Revision]decide.Standing{r: f.Standing}
	if got := decide.Frozen(&f); len(got) != 1 || got[0].Depth != 2 {
		t.Fatalf("baselines %+v, want one of depth 2", got)
	}
	if v := answer(c, f); v.Permissionship != authz.HasPermission {
		t.Fatalf("came to %+v", v)
	}
	var then []string
	for _, condition := range decide.Plan(c, &f) {
		if condition.Baseline && condition.Query != nil && condition.Query.Subject.Type == authz.TypeDelegation {
			then = append(then, condition.Query.Subject.ID)
		}
	}
	if !slices.Equal(then, []string{"d1"}) {
		t.Errorf("at the baseline the scope of %q is asked for, want d1 alone", then)
	}
	// What it was passed on from must not be shed: not allowed directly, it needs a session of its own.
	f.Chain[2].AllowDirect = false
	if v := answer(c, f); v.Permissionship != authz.NoPermission {
		t.Errorf("without allow_direct it came to %+v", v)
	}
}

// TestDirectNeedsEveryAncestor: a part of a delegation that needs a session needs one too.
func TestDirectNeedsEveryAncestor(t *testing.T) {
	c, f := sessionCase()
	c.Session, f.Session, f.Sessions = "", nil, nil
	part := facts.Delegation{
		ID: "d2", Life: live, Agent: "sub", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme",
		GrantedBy: authz.AgentID("bot").Object(), Parent: "d1", AllowDirect: true, Unscoped: true,
	}
	f.Chain[1] = &part
	c.Agent = "sub"
	f.Standing.Agents["sub"] = &facts.Agent{ID: "sub", Life: live, Owners: []authz.Object{alice.Object}}
	if v := answer(c, f); v.Permissionship != authz.NoPermission || decide.Direct(&f) {
		t.Errorf("under a root that needs a session it came to %+v", v)
	}
	f.Chain[0].AllowDirect = true
	if v := answer(c, f); v.Permissionship != authz.HasPermission || !decide.Direct(&f) {
		t.Errorf("under a root that does not it came to %+v", v)
	}
}

// TestDepth: a chain of eight may act, one of nine may not.
func TestDepth(t *testing.T) {
	for depth, want := range map[int]authz.Permissionship{8: authz.HasPermission, 9: authz.NoPermission} {
		c, f := sessionCase()
		c.Session, f.Session, f.Sessions = "", nil, nil
		f.Chain = nil
		for i := range depth {
			d := facts.Delegation{
				ID: authz.DelegationID(rune('a' + i)), Life: live, Agent: authz.AgentID(rune('A' + i)), Tenant: "acme",
				Principal: authz.Subject{Object: alice.Object}, GrantedBy: alice.Object, AllowDirect: true, Unscoped: true,
			}
			if i > 0 {
				d.Parent, d.GrantedBy = f.Chain[i-1].ID, f.Chain[i-1].Agent.Object()
			}
			f.Chain = append(f.Chain, &d)
			f.Standing.Agents[d.Agent] = &facts.Agent{ID: d.Agent, Life: live, Owners: []authz.Object{alice.Object}}
			c.Agent = d.Agent
		}
		if v := answer(c, f); v.Permissionship != want {
			t.Errorf("depth %d came to %+v, want %s", depth, v, want)
		}
	}
}

// TestValidUntil is the first end of all that the candidate stands on.
func TestValidUntil(t *testing.T) {
	_, f := sessionCase()
	soon := now.Add(time.Minute)
	if got := decide.ValidUntil(&f); !got.Equal(now.Add(time.Hour)) {
		t.Errorf("got %s", got)
	}
	f.Chain[0].Until = soon
	if got := decide.ValidUntil(&f); !got.Equal(soon) {
		t.Errorf("with a root that ends sooner: %s", got)
	}
	_, f = sessionCase()
	s := *f.Sessions["s1"]
	s.Until = soon
	f.Sessions["s1"] = &s
	if got := decide.ValidUntil(&f); !got.Equal(soon) {
		t.Errorf("with a session behind a leaf that ends sooner: %s", got)
	}
}

// TestAgentsOwnPart: an id that appears twice in a chain is asked for once.
func TestAgentsOwnPart(t *testing.T) {
	c, f := sessionCase()
	n := 0
	for _, condition := range decide.Plan(c, &f) {
		if condition.Query != nil && condition.Query.Text() == "document:plan#view@agent:bot" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the agent's permission is asked for %d times", n)
	}
}
