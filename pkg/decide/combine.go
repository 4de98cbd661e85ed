package decide

import (
	"errors"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// required are the gates without which there is no decision: a plan that lacks one of them refuses.
var required = []authz.Gate{
	authz.GateSession, authz.GateDelegation, authz.GateAgent, authz.GatePrincipal, authz.GateTenant,
}

// Verdict is what the conditions of one candidate come to. The zero Verdict refuses.
type Verdict struct {
	Permissionship authz.Permissionship
	// RefusedBy is the side of a refusal: the actor's, where anything on it refuses.
	RefusedBy authz.Side
	// Gate is the first gate that refuses, in the order of authz.Gates; 0 unless refused. One that was judged goes before one that
	// was not.
	Gate authz.Gate
	// Missing names the caveat context that is missing, sorted, when conditional.
	Missing []string
	// Err is set where a condition could not be judged: it beats every outcome.
	Err error
}

// Combine turns outcomes into a verdict. An error beats everything, except that those of what depends on a
// foreign object count as a no; then any no (and whatever was not judged) refuses; then anything conditional
// makes it conditional; only all yes allows. No conditions, or none of a required gate, refuse.
func Combine(conditions []Condition) Verdict {
	var out Verdict
	refuse := func(side authz.Side) {
		if out.RefusedBy != authz.SideActor {
			out.RefusedBy = side
		}
	}
	all := authz.Yes
	present := 0 // a bit for each gate
	foreign := Foreign(conditions)
	for i := range conditions {
		c := &conditions[i]
		present |= 1 << c.Gate
		outcome := c.Outcome
		if foreign && outcome == authz.Failed && c.Side == authz.SideObject {
			outcome = authz.No
		}
		all = all.Stricter(outcome)
		switch outcome {
		case authz.Yes:
		case authz.Conditional:
			out.Missing = append(out.Missing, c.Missing...)
		case authz.Failed:
			if out.Err == nil {
				out.Err = c.Err
			}
		case authz.NotJudged:
			// It is only left unjudged because something else refuses; alone it refuses for its side.
			if out.RefusedBy == authz.SideNone {
				refuse(c.Side)
			}
		default:
			refuse(c.Side)
		}
	}
	for _, g := range required {
		if present&(1<<g) == 0 {
			all = all.Stricter(authz.No)
			refuse(authz.SideActor)
		}
	}
	switch all {
	case authz.Yes:
		out.Permissionship = authz.HasPermission
	case authz.Conditional:
		out.Permissionship = authz.ConditionalPermission
	case authz.Failed:
		if out.Err == nil {
			out.Err = &authz.Error{Op: "decide.Combine", Message: "a condition could not be judged"}
		}
		return Verdict{Err: out.Err}
	default:
		if out.RefusedBy == authz.SideNone {
			out.RefusedBy = authz.SideActor
		}
		out.Gate, out.Missing = refusing(conditions, foreign), nil
	}
	out.Missing = authz.Distinct(out.Missing)
	return out
}

// refusing returns the first gate that refuses, in the order of authz.Gates: one of which a condition was judged, else one of which a condition
// was not, else a required one that has no condition.
func refusing(conditions []Condition, foreign bool) authz.Gate {
	var judged, unjudged, present [8]bool // by gate
	for i := range conditions {
		c := &conditions[i]
		present[c.Gate&7] = true
		switch {
		case c.Outcome == authz.No, foreign && c.Outcome == authz.Failed && c.Side == authz.SideObject:
			judged[c.Gate&7] = true
		case c.Outcome == authz.NotJudged:
			unjudged[c.Gate&7] = true
		}
	}
	for _, refuses := range [][8]bool{judged, unjudged} {
		for _, g := range authz.Gates {
			if refuses[g] {
				return g
			}
		}
	}
	for _, g := range required {
		if !present[g] {
			return g
		}
	}
	return 0
}

// Refused reports whether a fact refuses already, so that nothing has to be asked.
func Refused(conditions []Condition) bool {
	for i := range conditions {
		if c := &conditions[i]; c.Query == nil && c.Outcome != authz.Yes {
			return true
		}
	}
	return false
}

// Foreign reports whether a condition of the tenant gate does not hold: the object is then another tenant's, or
// nobody's, or of a tenant that the actor has no access to. The caller must not learn from an error that it exists.
func Foreign(conditions []Condition) bool {
	for i := range conditions {
		if c := &conditions[i]; c.Border && (c.Outcome == authz.No || c.Outcome == authz.NotJudged) {
			return true
		}
	}
	return false
}

// Settle turns the engine's answer into the condition's outcome. A no, with a detail that says so, is
//   - a type or permission that was unknown where a frozen session started;
//   - an object whose tenants cannot be computed: it is in none;
//   - a caveat that a value of the context does not fit. The context was compared with all caveats that can be met
//     (see judge), so another one of them takes the value.
//
// What ends the whole call is not an answer, and never comes here.
func Settle(c *Condition, a authz.Answer) {
	c.Outcome, c.Missing, c.Err, c.Explanation = a.Outcome, a.Missing, a.Err, a.Explanation
	if a.Outcome != authz.Failed {
		return
	}
	switch {
	case c.Baseline && authz.IsUnknown(a.Err):
		c.Outcome, c.Err, c.Detail = authz.No, nil, "it was not in the schema then"
	case c.Query != nil && c.Query.Only:
		c.Outcome, c.Err, c.Detail = authz.No, nil, "the tenants of the object cannot be computed: "+reason(a.Err)
	case authz.Misfits(a.Err):
		c.Outcome, c.Err, c.Detail = authz.No, nil, reason(a.Err)
	default:
		c.Detail = reason(a.Err)
	}
}

// reason is what an error says to an auditor: nothing of its causes, which are internals.
func reason(err error) string {
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Message != "" {
		return e.Message
	}
	return "the engine failed"
}

// Only judges whether a subject is the one and only one, from the list of all.
func Only(id string, all []authz.SubjectAnswer) authz.Outcome {
	found := false
	for _, s := range all {
		if s.ID != id || s.Conditional {
			return authz.No
		}
		found = true
	}
	if !found {
		return authz.No
	}
	return authz.Yes
}

// ValidUntil is when the candidate ends by itself: the first end of a delegation or a session that it
// stands on.
func ValidUntil(f *Facts) time.Time {
	var until time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (until.IsZero() || t.Before(until)) {
			until = t
		}
	}
	if f.Session != nil {
		earlier(f.Session.Until)
	}
	for _, d := range f.Chain {
		earlier(d.Until)
		if s, ok := f.Sessions[d.Session]; ok {
			earlier(s.Until)
		}
	}
	return until
}

// Choose orders candidates: any that has the permission first, then the conditional ones, each by id.
// It returns the verdict of all together. An error of any candidate beats everything.
func Choose(verdicts []Verdict) (best int, v Verdict) {
	best = -1
	side := authz.SideActor
	for i := range verdicts {
		if verdicts[i].Err != nil {
			return i, Verdict{Err: verdicts[i].Err}
		}
		if verdicts[i].RefusedBy == authz.SideObject {
			side = authz.SideObject
		}
		if best < 0 || rank(verdicts[i]) > rank(verdicts[best]) {
			best = i
		}
	}
	if best < 0 {
		return -1, Verdict{RefusedBy: authz.SideActor, Gate: authz.GateDelegation} // nothing lets the agent act
	}
	v = verdicts[best]
	if v.Permissionship == authz.NoPermission {
		v.RefusedBy = side
	}
	return best, v
}

func rank(v Verdict) int {
	switch v.Permissionship {
	case authz.HasPermission:
		return 2
	case authz.ConditionalPermission:
		return 1
	default:
		return 0
	}
}
