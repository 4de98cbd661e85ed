package authz

import (
	"fmt"
	"time"
)

// Outcome is what one condition came to. The zero value is No.
type Outcome uint8

// The outcomes. Their order is not a ranking; see And, Or, Not and Stricter for how they combine.
const (
	// No: the condition does not hold.
	No Outcome = iota
	// Yes: the condition holds.
	Yes
	// Conditional: the condition depends on caveat context that was not given.
	Conditional
	// Failed: the condition could not be judged.
	Failed
	// NotJudged: an earlier condition left nothing to ask. It counts as No.
	NotJudged
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case Yes:
		return "yes"
	case Conditional:
		return "conditional"
	case Failed:
		return "error"
	case NotJudged:
		return "not judged"
	default:
		return "no"
	}
}

// And is what two conditions come to that both have to hold: No wins, whatever the other one is, then what has no answer
// (Failed before NotJudged), then Conditional.
func (o Outcome) And(p Outcome) Outcome { return o.with(p, No, Yes) }

// Or is what two conditions come to of which one has to hold: Yes wins, whatever the other one is, then what has no answer
// (Failed before NotJudged), then Conditional.
func (o Outcome) Or(p Outcome) Outcome { return o.with(p, Yes, No) }

// with returns what wins if one outcome is that, other if both are, else the more uncertain of the rest.
func (o Outcome) with(p, wins, other Outcome) Outcome {
	o, p = o.known(), p.known()
	for _, first := range [...]Outcome{wins, Failed, NotJudged, Conditional} {
		if o == first || p == first {
			return first
		}
	}
	return other
}

// Not is what the opposite of a condition comes to. The opposite of what has no answer has none either: nothing is allowed
// because of it.
func (o Outcome) Not() Outcome {
	switch o {
	case Yes:
		return No
	case No:
		return Yes
	default:
		return o
	}
}

// Stricter returns which of two outcomes lets less happen: an error beats a refusal, that what was not judged, that a
// condition, and only two times Yes is Yes. Unlike And it never hides an error behind a No.
func (o Outcome) Stricter(p Outcome) Outcome {
	o, p = o.known(), p.known()
	for _, first := range [...]Outcome{Failed, No, NotJudged, Conditional} {
		if o == first || p == first {
			return first
		}
	}
	return Yes
}

// known returns the outcome, or Failed for a number that is none.
func (o Outcome) known() Outcome {
	if o > NotJudged {
		return Failed
	}
	return o
}

// Permissionship is the verdict of a decision. The zero value refuses.
type Permissionship uint8

// The verdicts, named as in authzed.api.v1.
const (
	NoPermission Permissionship = iota
	HasPermission
	ConditionalPermission
)

// String returns the verdict as authzed.api.v1 spells it, without the prefix.
func (p Permissionship) String() string {
	switch p {
	case HasPermission:
		return "HAS_PERMISSION"
	case ConditionalPermission:
		return "CONDITIONAL_PERMISSION"
	default:
		return "NO_PERMISSION"
	}
}

// Gate is one condition of the rule. The zero value is no gate.
type Gate uint8

// The gates, in the order in which they are explained.
const (
	_ Gate = iota
	GateSession
	GateDelegation
	GateAgent
	GatePrincipal
	GateTenant
	GateScope
	GateBaseline
)

// Gates lists every gate in order.
var Gates = []Gate{GateSession, GateDelegation, GateAgent, GatePrincipal, GateTenant, GateScope, GateBaseline}

// String returns the gate's name in lower case.
func (g Gate) String() string {
	names := [...]string{"", "session", "delegation", "agent", "principal", "tenant", "scope", "baseline"}
	if int(g) >= len(names) {
		return fmt.Sprintf("gate %d", g)
	}
	return names[g]
}

// Side tells on which side a refusal lies, and no more.
type Side uint8

// The sides.
const (
	// SideNone: not refused.
	SideNone Side = iota
	// SideActor: session, delegation, registration, suspension or access to the tenant, whatever the
	// object.
	SideActor
	// SideObject: anything that depends on the object, its absence included.
	SideObject
)

// Condition is one fact or one check behind a gate, with its outcome. A decision makes a dozen of them, and what it allocates
// is most of what it costs beside others on all cores: so its small fields lie together.
type Condition struct {
	Gate Gate
	// Outcome is what it came to; the zero value refuses.
	Outcome Outcome
	// Side is where a refusal by this condition lies.
	Side Side
	// Baseline tells that it was judged where a frozen session started.
	Baseline bool
	// Text says what must hold, such as "document:plan#view@user:alice".
	Text string
	// Detail says why, for an auditor; never shown to the service that checks.
	Detail string
	// Missing names the caveat context that was not given, when Outcome is Conditional.
	Missing []string
	// Err is why it could not be judged, when Outcome is Failed.
	Err error
	// Query is what to ask the engine; nil for a condition that facts alone decide.
	Query *Query
	// Explanation says why a check came to its outcome; nil unless it was asked for.
	Explanation *Explanation
}

// Case is one question: may this agent, acting for this principal, in this tenant, do this to this
// object? Session or Delegation may name what it acts under, not both. Principal and Tenant may be
// zero where that leaves no choice.
type Case struct {
	Agent      AgentID
	Session    SessionID
	Delegation DelegationID
	Principal  Principal
	Tenant     TenantID
	Resource   Object
	Permission string
	// Context is caveat context: JSON values.
	Context map[string]any
	// ActorToken is what is recorded of the token of the agent that acts; nil where it came without. It has no part in the decision.
	ActorToken *ActorToken
	// ToolCall is the call of a tool for which the question is asked; nil for none. It is recorded, and has no part in the decision.
	ToolCall *ToolCall
}

// Decision is the answer to a Case. The zero value refuses.
type Decision struct {
	// ID is unique to this decision.
	ID string
	// Permissionship is the verdict.
	Permissionship Permissionship
	// RefusedBy is the side of a refusal.
	RefusedBy Side
	// Gate is the first gate that refuses, in the order of Gates; 0 unless refused. It is for operators: the service that checks is not
	// told.
	Gate Gate
	// CheckedAt is the one revision that every gate was judged at.
	CheckedAt Revision
	// Elsewhere says that another evaluator than the graph's own answered; see Elsewhere.
	Elsewhere bool
	// FreshAt is a moment at which the revision was the newest, where the engine answers from a copy and knows it; else zero. See Dated.
	FreshAt time.Time
	// ValidUntil is when the decision ends by itself, whatever else happens. Zero unless allowed.
	ValidUntil time.Time
	// Missing names the caveat context that was not given, sorted.
	Missing []string
	// Candidates holds what was weighed, the candidate that decided first. Empty when nothing in the
	// graph lets the agent act.
	Candidates []Candidate
	// Reasons says why nothing in the graph lets the agent act, in sentences for people; only where it was asked to be explained.
	Reasons []string
}

// Chosen returns the candidate that decided, or nil.
func (d *Decision) Chosen() *Candidate {
	if len(d.Candidates) == 0 {
		return nil
	}
	return &d.Candidates[0]
}

// Candidate is one delegation that was weighed, alone.
type Candidate struct {
	// Chain holds the delegations from the root to the one that acts.
	Chain []DelegationID
	// Agents holds their agents.
	Agents    []AgentID
	Principal Principal
	Tenant    TenantID
	// Permissionship is the verdict for this candidate.
	Permissionship Permissionship
	RefusedBy      Side
	ValidUntil     time.Time
	Missing        []string
	// Conditions holds everything that was judged, by gate; only where it was asked to be explained.
	Conditions []Condition
}

// Delegation returns the delegation that acts, or "".
func (c *Candidate) Delegation() DelegationID {
	if len(c.Chain) == 0 {
		return ""
	}
	return c.Chain[len(c.Chain)-1]
}
