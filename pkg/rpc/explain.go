package rpc

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ExplainPermission decides one case without short cuts and shows every gate: one that is asked here, or one that is in the journal.
func (p *permissions) ExplainPermission(ctx context.Context, r *deputyv1.ExplainPermissionRequest) (*deputyv1.ExplainPermissionResponse, error) {
	switch {
	case r.GetDecisionId() != "":
		return p.explainPast(ctx, r)
	case r.GetCheck() == nil:
		return nil, authz.FieldErrorf("check", "is required, or decision_id")
	case r.GetContext() != nil:
		return nil, authz.FieldErrorf("context", "is for decision_id: a check has a context of its own")
	}
	end, err := p.explaining.begin(ctx, r.GetWithTrace())
	if err != nil {
		return nil, err
	}
	defer end()
	d, stamp, err := p.decide(ctx, r.GetCheck(), true, r.GetWithTrace())
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ExplainPermissionResponse{Decision: p.decision(d, p.Sealer.token(d.CheckedAt, stamp), provenBy(ctx)), Reasons: d.Reasons}
	out.Candidates = candidates(d)
	return out, nil
}

// candidates shows the delegations that a decision weighed.
func candidates(d *authz.Decision) (out []*deputyv1.CandidateExplanation) {
	for i := range d.Candidates {
		out = append(out, candidateProto(&d.Candidates[i]))
	}
	return out
}

func candidateProto(c *authz.Candidate) *deputyv1.CandidateExplanation {
	out := &deputyv1.CandidateExplanation{
		AgentChain:     agentIDs(c.Agents),
		Principal:      objectProto(c.Principal.Object),
		TenantId:       authz.DecodeID(string(c.Tenant)),
		Permissionship: permissionship(c.Permissionship),
	}
	for _, d := range c.Chain {
		out.DelegationChain = append(out.DelegationChain, string(d))
	}
	for _, g := range authz.Gates {
		out.Gates = append(out.Gates, gateProto(g, c.Conditions))
	}
	return out
}

// gateProto shows one gate. A gate without conditions was not judged, except that without a frozen
// session there is nothing to judge.
func gateProto(g authz.Gate, all []authz.Condition) *deputyv1.GateExplanation {
	out := &deputyv1.GateExplanation{Gate: deputyv1.Gate(g)}
	outcome, judged := authz.Yes, false
	for i := range all {
		if all[i].Gate != g {
			continue
		}
		judged = true
		outcome = outcome.Stricter(all[i].Outcome)
		out.Conditions = append(out.Conditions, conditionProto(&all[i]))
	}
	switch {
	case judged:
	case g == authz.GateBaseline:
		out.Conditions = []*deputyv1.ConditionExplanation{{
			Condition: "no session behind this is frozen", Outcome: deputyv1.Outcome_OUTCOME_YES,
		}}
	default:
		outcome = authz.NotJudged
	}
	out.Outcome = outcomeProto(outcome)
	return out
}

func conditionProto(c *authz.Condition) *deputyv1.ConditionExplanation {
	return &deputyv1.ConditionExplanation{
		Condition:      c.Text,
		Outcome:        outcomeProto(c.Outcome),
		Detail:         c.Detail,
		MissingContext: c.Missing,
		AtBaseline:     c.Baseline,
		Trace:          traceProto(c.Explanation),
		Explanation:    explanationProto(c.Explanation),
	}
}

func traceProto(e *authz.Explanation) *deputyv1.CheckTrace {
	if e == nil || e.Trace == nil {
		return nil
	}
	return nodeProto(e.Trace)
}

func nodeProto(t *authz.Trace) *deputyv1.CheckTrace {
	out := &deputyv1.CheckTrace{
		Resource:     objectProto(t.Resource),
		Permission:   t.Permission,
		IsPermission: t.IsPermission,
		Subject:      subjectProto(t.Subject),
		Outcome:      outcomeProto(t.Outcome),
		Caveat:       t.Caveat,
	}
	for i := range t.Children {
		out.Children = append(out.Children, nodeProto(&t.Children[i]))
	}
	return out
}

func outcomeProto(o authz.Outcome) deputyv1.Outcome {
	switch o {
	case authz.Yes:
		return deputyv1.Outcome_OUTCOME_YES
	case authz.Conditional:
		return deputyv1.Outcome_OUTCOME_CONDITIONAL
	case authz.Failed:
		return deputyv1.Outcome_OUTCOME_ERROR
	case authz.NotJudged:
		return deputyv1.Outcome_OUTCOME_NOT_JUDGED
	default:
		return deputyv1.Outcome_OUTCOME_NO
	}
}
