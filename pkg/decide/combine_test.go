package decide_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

var errEngine = errors.New("the engine failed")

// outcomes are the four that a gate can come to.
var outcomes = []authz.Outcome{authz.Yes, authz.No, authz.Conditional, authz.Failed}

// TestTruthTable goes through every combination of the seven gates' outcomes: exactly one allows.
func TestTruthTable(t *testing.T) {
	total, allowed, conditional, failed := 1, 0, 0, 0
	for range authz.Gates {
		total *= len(outcomes)
	}
	for n := range total {
		var conditions []decide.Condition
		count := map[authz.Outcome]int{}
		var refuses authz.Gate
		for i, g := range authz.Gates {
			o := outcomes[n/pow(len(outcomes), i)%len(outcomes)]
			count[o]++
			if o == authz.No && refuses == 0 {
				refuses = g
			}
			c := authz.Condition{Gate: g, Outcome: o, Side: authz.SideObject}
			switch o {
			case authz.Conditional:
				c.Missing = []string{"ip", g.String()}
			case authz.Failed:
				c.Err = errEngine
			}
			conditions = append(conditions, decide.Condition{Condition: c})
		}
		v := decide.Combine(conditions)
		if v.Err == nil && v.Gate != refuses {
			t.Fatalf("%v: refused by %v, want the first gate that refuses, %v", count, v.Gate, refuses)
		}
		switch {
		case count[authz.Failed] > 0:
			failed++
			if !errors.Is(v.Err, errEngine) || v.Permissionship != authz.NoPermission {
				t.Fatalf("%v: an error must beat everything, got %+v", count, v)
			}
		case v.Err != nil:
			t.Fatalf("%v: failed without an error among the outcomes: %v", count, v.Err)
		case count[authz.No] > 0:
			if v.Permissionship != authz.NoPermission || v.RefusedBy != authz.SideObject || v.Missing != nil {
				t.Fatalf("%v: any no must refuse and say no more, got %+v", count, v)
			}
		case count[authz.Conditional] > 0:
			conditional++
			if v.Permissionship != authz.ConditionalPermission || len(v.Missing) != count[authz.Conditional]+1 || !slices.IsSorted(v.Missing) {
				t.Fatalf("%v: must be conditional on each missing field once, got %+v", count, v)
			}
		default:
			allowed++
			if v.Permissionship != authz.HasPermission {
				t.Fatalf("all yes must allow, got %+v", v)
			}
		}
	}
	if allowed != 1 {
		t.Errorf("%d of %d combinations allow, want exactly 1", allowed, total)
	}
	if want := pow(2, 7) - 1; conditional != want {
		t.Errorf("%d combinations are conditional, want %d", conditional, want)
	}
	if want := pow(4, 7) - pow(3, 7); failed != want {
		t.Errorf("%d combinations fail, want %d", failed, want)
	}
}

func pow(base, n int) int {
	out := 1
	for range n {
		out *= base
	}
	return out
}

// TestZeroValuesRefuse: nothing that was forgotten allows.
func TestZeroValuesRefuse(t *testing.T) {
	var (
		condition authz.Condition
		decision  authz.Decision
		answer    authz.Answer
		verdict   decide.Verdict
	)
	if condition.Outcome != authz.No || answer.Outcome != authz.No {
		t.Error("the zero outcome is not a no")
	}
	if decision.Permissionship != authz.NoPermission || verdict.Permissionship != authz.NoPermission {
		t.Error("the zero permissionship allows")
	}
	if v := decide.Combine(nil); v.Permissionship != authz.NoPermission || v.RefusedBy != authz.SideActor {
		t.Errorf("no conditions come to %+v", v)
	}
	if _, v := decide.Choose(nil); v.Permissionship != authz.NoPermission || v.RefusedBy != authz.SideActor {
		t.Errorf("no candidates come to %+v", v)
	}
	for _, c := range decide.Plan(authz.Case{}, &decide.Facts{}) {
		if c.Outcome == authz.Yes && c.Gate != authz.GateSession && c.Text != "the chain has at most 8 delegations" {
			t.Errorf("zero facts satisfy %q", c.Text)
		}
	}
}

// TestEveryRequiredGateHasToBeThere: leaving a gate out of the conditions is a refusal.
func TestEveryRequiredGateHasToBeThere(t *testing.T) {
	for _, missing := range authz.Gates {
		var conditions []decide.Condition
		for _, g := range authz.Gates {
			if g != missing {
				conditions = append(conditions, decide.Condition{Condition: authz.Condition{Gate: g, Outcome: authz.Yes}})
			}
		}
		v := decide.Combine(conditions)
		// Without delegations there is no scope, and without a frozen session no baseline.
		want := authz.NoPermission
		if missing == authz.GateScope || missing == authz.GateBaseline {
			want = authz.HasPermission
		}
		if v.Permissionship != want {
			t.Errorf("without the %s gate: %s, want %s", missing, v.Permissionship, want)
		}
	}
}

// TestGateOfRefusal: what was judged names the gate before what was not, and what is missing names its own.
func TestGateOfRefusal(t *testing.T) {
	all := func(change map[authz.Gate]authz.Outcome) []decide.Condition {
		var conditions []decide.Condition
		for _, g := range slices.Backward(authz.Gates) { // their order among the conditions says nothing
			o, changed := change[g]
			if !changed {
				o = authz.Yes
			}
			conditions = append(conditions, decide.Condition{Condition: authz.Condition{Gate: g, Outcome: o}})
		}
		return conditions
	}
	for _, test := range []struct {
		name   string
		change map[authz.Gate]authz.Outcome
		want   authz.Gate
	}{
		{"none refuses", nil, 0},
		{"conditional", map[authz.Gate]authz.Outcome{authz.GateAgent: authz.Conditional}, 0},
		{"two refuse", map[authz.Gate]authz.Outcome{authz.GateTenant: authz.No, authz.GateAgent: authz.No}, authz.GateAgent},
		{
			"an earlier one was not judged", map[authz.Gate]authz.Outcome{authz.GateTenant: authz.No, authz.GateAgent: authz.NotJudged},
			authz.GateTenant,
		},
		{"none was judged", map[authz.Gate]authz.Outcome{authz.GateTenant: authz.NotJudged, authz.GateScope: authz.NotJudged}, authz.GateTenant},
	} {
		if v := decide.Combine(all(test.change)); v.Gate != test.want {
			t.Errorf("%s: refused by %v, want %v", test.name, v.Gate, test.want)
		}
	}
	if v := decide.Combine(nil); v.Gate != authz.GateSession {
		t.Errorf("without conditions: refused by %v, want the first gate that has to be there", v.Gate)
	}
	if _, v := decide.Choose(nil); v.Gate != authz.GateDelegation {
		t.Errorf("without candidates: refused by %v", v.Gate)
	}
}

// TestSideOfRefusal: the actor's side wins, so that a refused actor learns nothing about the object.
func TestSideOfRefusal(t *testing.T) {
	for _, c := range []struct {
		name    string
		sides   []authz.Side
		outcome []authz.Outcome
		want    authz.Side
	}{
		{"object only", []authz.Side{authz.SideActor, authz.SideObject}, []authz.Outcome{authz.Yes, authz.No}, authz.SideObject},
		{"actor only", []authz.Side{authz.SideActor, authz.SideObject}, []authz.Outcome{authz.No, authz.Yes}, authz.SideActor},
		{"both", []authz.Side{authz.SideObject, authz.SideActor}, []authz.Outcome{authz.No, authz.No}, authz.SideActor},
		{"actor refuses, object not judged", []authz.Side{authz.SideObject, authz.SideActor}, []authz.Outcome{authz.NotJudged, authz.No}, authz.SideActor},
		{"object not judged", []authz.Side{authz.SideActor, authz.SideObject}, []authz.Outcome{authz.Yes, authz.NotJudged}, authz.SideObject},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conditions []decide.Condition
			for _, g := range authz.Gates {
				conditions = append(conditions, decide.Condition{Condition: authz.Condition{Gate: g, Outcome: authz.Yes}})
			}
			for i := range c.sides {
				conditions = append(conditions, decide.Condition{Condition: authz.Condition{Gate: authz.GateAgent, Outcome: c.outcome[i], Side: c.sides[i]}})
			}
			v := decide.Combine(conditions)
			if v.Permissionship != authz.NoPermission || v.RefusedBy != c.want {
				t.Errorf("got %+v, want a refusal by side %d", v, c.want)
			}
		})
	}
}

// TestChoose: any candidate that has the permission wins, then the first conditional one with its own
// fields; candidates never pool, and an error beats everything.
func TestChoose(t *testing.T) {
	no := decide.Verdict{RefusedBy: authz.SideActor}
	object := decide.Verdict{RefusedBy: authz.SideObject}
	first := decide.Verdict{Permissionship: authz.ConditionalPermission, Missing: []string{"a"}}
	second := decide.Verdict{Permissionship: authz.ConditionalPermission, Missing: []string{"b"}}
	has := decide.Verdict{Permissionship: authz.HasPermission}
	broken := decide.Verdict{Err: errEngine}
	for _, c := range []struct {
		name     string
		verdicts []decide.Verdict
		best     int
		want     authz.Permissionship
		side     authz.Side
		missing  []string
	}{
		{"has beats conditional", []decide.Verdict{first, has}, 1, authz.HasPermission, 0, nil},
		{"first conditional", []decide.Verdict{no, first, second}, 1, authz.ConditionalPermission, 0, []string{"a"}},
		{"all refuse on the actor's side", []decide.Verdict{no, no}, 0, authz.NoPermission, authz.SideActor, nil},
		{"one may act", []decide.Verdict{no, object}, 0, authz.NoPermission, authz.SideObject, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			best, v := decide.Choose(c.verdicts)
			if best != c.best || v.Permissionship != c.want || v.RefusedBy != c.side || !slices.Equal(v.Missing, c.missing) {
				t.Errorf("chose %d %+v", best, v)
			}
		})
	}
	if _, v := decide.Choose([]decide.Verdict{has, broken}); !errors.Is(v.Err, errEngine) || v.Permissionship == authz.HasPermission {
		t.Errorf("an error beside a yes came to %+v", v)
	}
}

// TestOnly: the object's tenant must be that one and no other.
func TestOnly(t *testing.T) {
	acme, globex := authz.SubjectAnswer{ID: "acme"}, authz.SubjectAnswer{ID: "globex"}
	for _, c := range []struct {
		name string
		all  []authz.SubjectAnswer
		want authz.Outcome
	}{
		{"none", nil, authz.No},
		{"that one", []authz.SubjectAnswer{acme}, authz.Yes},
		{"another", []authz.SubjectAnswer{globex}, authz.No},
		{"two", []authz.SubjectAnswer{acme, globex}, authz.No},
		{"two, in the other order", []authz.SubjectAnswer{globex, acme}, authz.No},
		{"conditionally", []authz.SubjectAnswer{{ID: "acme", Conditional: true}}, authz.No},
		{"by a wildcard", []authz.SubjectAnswer{{ID: "*"}}, authz.No},
		{"and by a wildcard", []authz.SubjectAnswer{acme, {ID: "*"}}, authz.No},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decide.Only("acme", c.all); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestErrorsOfForeignObjects: where a condition of the tenant gate does not hold, now or at a baseline, an error of what
// depends on the object is a no; one of the actor's side is not, and without such a condition none is.
func TestErrorsOfForeignObjects(t *testing.T) {
	query := &authz.Query{Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "tenant", Only: true}
	for _, c := range []struct {
		name   string
		border decide.Condition
		side   authz.Side
		failed bool
		by     authz.Side
	}{
		{"a foreign object", decide.Condition{Condition: authz.Condition{Gate: authz.GateTenant, Side: authz.SideObject}, Border: true}, authz.SideObject, false, authz.SideObject},
		{"one that was not asked of", decide.Condition{Condition: authz.Condition{Gate: authz.GateTenant, Side: authz.SideObject, Outcome: authz.NotJudged}, Border: true}, authz.SideObject, false, authz.SideObject},
		{"foreign at a baseline", decide.Condition{Condition: authz.Condition{Gate: authz.GateBaseline, Side: authz.SideObject, Baseline: true}, Border: true}, authz.SideObject, false, authz.SideObject},
		{"no access to the tenant", decide.Condition{Condition: authz.Condition{Gate: authz.GateTenant, Side: authz.SideActor}, Border: true}, authz.SideObject, false, authz.SideActor},
		{"an error of the actor's", decide.Condition{Condition: authz.Condition{Gate: authz.GateTenant, Side: authz.SideObject}, Border: true}, authz.SideActor, true, 0},
		{"another gate", decide.Condition{Condition: authz.Condition{Gate: authz.GateScope, Side: authz.SideObject}}, authz.SideObject, true, 0},
		{"the tenant's own", decide.Condition{Condition: authz.Condition{Gate: authz.GateTenant, Side: authz.SideObject, Outcome: authz.Yes}, Border: true}, authz.SideObject, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conditions []decide.Condition
			for _, g := range authz.Gates {
				conditions = append(conditions, decide.Condition{Condition: authz.Condition{Gate: g, Outcome: authz.Yes}})
			}
			conditions = append(conditions, c.border, decide.Condition{
				Condition: authz.Condition{Gate: authz.GateAgent, Side: c.side, Outcome: authz.Failed, Err: errEngine},
			})
			v := decide.Combine(conditions)
			if (v.Err != nil) != c.failed || v.Permissionship != authz.NoPermission || !c.failed && v.RefusedBy != c.by {
				t.Errorf("came to %+v", v)
			}
		})
	}
	// The tenants cannot be computed: a no, with the reason for an auditor and no cause.
	tenants := decide.Condition{Condition: authz.Condition{Query: query}, Border: true}
	decide.Settle(&tenants, authz.Answer{Outcome: authz.Failed, Err: &authz.Error{Message: "too deep", Err: errEngine}})
	if tenants.Outcome != authz.No || tenants.Err != nil || tenants.Detail != "the tenants of the object cannot be computed: too deep" {
		t.Errorf("tenants that cannot be computed came to %+v", tenants)
	}
	// A caveat that a value does not fit.
	misfit := decide.Condition{Condition: authz.Condition{Query: &authz.Query{}}}
	decide.Settle(&misfit, authz.Answer{Outcome: authz.Failed, Err: authz.Errorf(authz.Invalid, authz.ReasonCaveatParameter, "misfit")})
	if misfit.Outcome != authz.No || misfit.Err != nil {
		t.Errorf("a value that does not fit came to %+v", misfit)
	}
}

// TestStandaloneAsksForAccess: what an exact snapshot has to pass at the head too is everything that does not depend on
// the object, access to the tenant included, for the principal and every agent.
func TestStandaloneAsksForAccess(t *testing.T) {
	c, f := sessionCase()
	planned, now := map[string]bool{}, map[string]bool{}
	for _, condition := range decide.Plan(c, &f) {
		if condition.Side == authz.SideActor {
			planned[condition.Text+", at the head revision"] = true
		}
	}
	asked := 0
	for _, condition := range decide.Standalone(c, &f) {
		if condition.Where != decide.AtHead || condition.Side != authz.SideActor || !planned[condition.Text] {
			t.Errorf("%q is judged at %d", condition.Text, condition.Where)
		}
		now[condition.Text] = true
		if condition.Query != nil {
			asked++
		}
	}
	if len(now) != len(planned) || asked == 0 {
		t.Errorf("at the head are %v, of %v; %d asked", now, planned, asked)
	}
}

// TestSettleUnknownAtBaseline: what the schema did not have then is a no there, and an error now.
func TestSettleUnknownAtBaseline(t *testing.T) {
	unknown := authz.Answer{Outcome: authz.Failed, Err: authz.Errorf(authz.Precondition, authz.ReasonUnknownPermission, "unknown")}
	then := decide.Condition{Condition: authz.Condition{Baseline: true}}
	decide.Settle(&then, unknown)
	if then.Outcome != authz.No || then.Err != nil {
		t.Errorf("at the baseline it came to %s, %v", then.Outcome, then.Err)
	}
	now := decide.Condition{}
	decide.Settle(&now, unknown)
	if now.Outcome != authz.Failed || now.Err == nil {
		t.Errorf("now it came to %s, %v", now.Outcome, now.Err)
	}
	broken := decide.Condition{Condition: authz.Condition{Baseline: true}}
	decide.Settle(&broken, authz.Answer{Outcome: authz.Failed, Err: errEngine})
	if broken.Outcome != authz.Failed {
		t.Errorf("another failure at the baseline came to %s", broken.Outcome)
	}
}
