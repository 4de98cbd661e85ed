package decision_test

import (
	"strings"
	"testing"

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
