package rpc

import (
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// explanationProto shows why a check came to its outcome.
func explanationProto(e *authz.Explanation) *deputyv1.CheckExplanation {
	if e == nil || e.Reason == nil {
		return nil
	}
	out := &deputyv1.CheckExplanation{
		Outcome: outcomeProto(e.Outcome), MissingContext: e.Missing, Reason: reasonProto(e.Reason), Cut: e.Cut,
	}
	for _, set := range e.Nearest {
		missing := &deputyv1.MissingGrants{}
		for _, g := range set {
			missing.Grants = append(missing.Grants, &deputyv1.MissingGrant{
				Resource: objectProto(g.Resource), Relation: g.Relation, Subject: subjectProto(g.Subject), Caveat: g.Caveat, NeedsExpiration: g.Expires,
			})
		}
		out.Nearest = append(out.Nearest, missing)
	}
	return out
}

// reasonKinds are the kinds of the contract.
var reasonKinds = map[authz.ReasonKind]deputyv1.ReasonKind{
	authz.ReasonMember: deputyv1.ReasonKind_REASON_KIND_MEMBER, authz.ReasonRelationship: deputyv1.ReasonKind_REASON_KIND_RELATIONSHIP,
	authz.ReasonOperation: deputyv1.ReasonKind_REASON_KIND_OPERATION, authz.ReasonSelf: deputyv1.ReasonKind_REASON_KIND_SELF,
	authz.ReasonAbsent: deputyv1.ReasonKind_REASON_KIND_ABSENT, authz.ReasonCycle: deputyv1.ReasonKind_REASON_KIND_CYCLE,
	authz.ReasonAbove: deputyv1.ReasonKind_REASON_KIND_ABOVE, authz.ReasonDepth: deputyv1.ReasonKind_REASON_KIND_DEPTH,
	authz.ReasonHidden: deputyv1.ReasonKind_REASON_KIND_HIDDEN, authz.ReasonCut: deputyv1.ReasonKind_REASON_KIND_CUT,
}

// relationshipProto shows a relationship without what was written with its caveat.
func relationshipProto(rel *authz.Relationship) *deputyv1.Relationship {
	return &deputyv1.Relationship{
		Resource: objectProto(rel.Resource), Relation: rel.Relation, Subject: subjectProto(rel.Subject), Caveat: rel.Caveat,
		ExpiresAt: timeProto(rel.ExpiresAt),
	}
}

func reasonProto(r *authz.Reason) *deputyv1.Reason {
	out := &deputyv1.Reason{
		Kind: reasonKinds[r.Kind], Outcome: outcomeProto(r.Outcome), Object: objectProto(r.Object), Relation: r.Member,
		Expression: r.Expression, Operation: r.Operation, Subtracted: r.Subtracted, Admits: r.Admits, Detail: r.Detail,
		Others: uint32(max(0, r.Others)), //nolint:gosec // a few thousand
	}
	if rel := r.Relationship; rel != nil {
		out.Relationship = relationshipProto(rel)
	}
	if c := r.Caveat; c != nil {
		out.Caveat = &deputyv1.CaveatReason{Name: c.Name, Outcome: outcomeProto(c.Outcome), Missing: c.Missing}
		for _, v := range c.Values {
			value, err := structpb.NewValue(v.Value)
			if err != nil {
				continue // the values are JSON, so this does not happen
			}
			out.Caveat.Values = append(out.Caveat.Values, &deputyv1.CaveatValue{Name: v.Name, Value: value, Written: v.Written})
		}
	}
	for _, c := range r.Children {
		out.Children = append(out.Children, reasonProto(c))
	}
	return out
}
