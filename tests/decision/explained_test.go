package decision_test

import (
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestEveryCheckIsExplained: on each engine every check behind a gate has an explanation that comes to the check's outcome, whether it
// refuses or not, and SpiceDB's trace where it was asked for and nowhere else.
func TestEveryCheckIsExplained(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		run := w.start(target(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})))
		for _, c := range []check{
			inSession(run).actingFor("user:alice").in("acme").view("document:plan"),
			inSession(run).actingFor("user:alice").in("acme").view("document:bobs"),
			inSession(run).actingFor("user:alice").in("acme").view("document:absent"),
		} {
			for _, traced := range []bool{false, true} {
				got, err := w.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest, WithTrace: traced})
				w.ok(err)
				checks := 0
				for _, gate := range got.GetCandidates()[0].GetGates() {
					for _, one := range gate.GetConditions() {
						isCheck := strings.Contains(one.GetCondition(), "#") && strings.Contains(one.GetCondition(), "@")
						switch why := one.GetExplanation(); {
						case !isCheck:
							continue
						case why.GetReason() == nil || why.GetOutcome() != one.GetOutcome() || why.GetReason().GetOutcome() != one.GetOutcome():
							t.Errorf("%s came to %s, and is explained by %v", one.GetCondition(), one.GetOutcome(), why)
						case (one.GetTrace() != nil) != traced:
							t.Errorf("%s: with a trace %v, want %v", one.GetCondition(), one.GetTrace() != nil, traced)
						}
						checks++
					}
				}
				if checks < 4 {
					t.Errorf("only %d checks: %v", checks, got)
				}
			}
		}
	})
}

// TestNearestTenant: of an object in no tenant the explanation names the relationship that puts it into the tenant, and then the condition
// holds. Of an object in another tenant it names none, because no relationship makes the tenant the only one.
func TestNearestTenant(t *testing.T) {
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t)}))
	run := w.start(target(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})))
	condition := func(document string) *deputyv1.ConditionExplanation {
		t.Helper()
		c := inSession(run).actingFor("user:alice").in("acme").view(document)
		got, err := w.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest})
		w.ok(err)
		for _, gate := range got.GetCandidates()[0].GetGates() {
			for _, one := range gate.GetConditions() {
				if one.GetCondition() == document+"#tenant is tenant:acme and no other" {
					return one
				}
			}
		}
		t.Fatalf("%s: there is no such condition in %v", document, got)
		return nil
	}
	if foreign := condition("document:foreign"); foreign.GetOutcome() != deputyv1.Outcome_OUTCOME_NO || len(foreign.GetExplanation().GetNearest()) != 0 {
		t.Errorf("an object of globex: %v", foreign)
	}
	nowhere := condition("document:nowhere")
	if nowhere.GetOutcome() != deputyv1.Outcome_OUTCOME_NO || len(nowhere.GetExplanation().GetNearest()) != 1 {
		t.Fatalf("an object in no tenant: %v", nowhere)
	}
	for _, g := range nowhere.GetExplanation().GetNearest()[0].GetGrants() {
		w.Touch(t, g.GetResource().GetObjectType()+":"+g.GetResource().GetObjectId()+"#"+g.GetRelation()+"@"+
			g.GetSubject().GetObject().GetObjectType()+":"+g.GetSubject().GetObject().GetObjectId())
	}
	if nowhere = condition("document:nowhere"); nowhere.GetOutcome() != deputyv1.Outcome_OUTCOME_YES {
		t.Errorf("after the grants that the explanation named: %v", nowhere)
	}
}
