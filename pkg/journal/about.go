package journal

import (
	"context"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// About is a record of what a case names.
func About(c *authz.Case) *Record {
	return &Record{
		AgentId: authz.DecodeID(string(c.Agent)), SessionId: string(c.Session), DelegationId: string(c.Delegation),
		PrincipalType: c.Principal.Type, PrincipalId: authz.DecodeID(c.Principal.ID), TenantId: authz.DecodeID(string(c.Tenant)),
		ResourceType: c.Resource.Type, ResourceId: authz.DecodeID(c.Resource.ID), Permission: c.Permission,
		ActorToken: ActorTokenOf(c.ActorToken),
	}
}

// ActorTokenOf is what a record holds of an agent's token; nil for none.
func ActorTokenOf(e *authz.ActorToken) *deputyv1.ActorToken {
	if e == nil {
		return nil
	}
	out := &deputyv1.ActorToken{Issuer: e.Issuer, Digest: e.Digest[:], TokenId: e.ID, Transaction: e.Transaction}
	for _, prior := range e.Prior {
		out.PriorActors = append(out.PriorActors, &deputyv1.PriorActor{Issuer: prior.Issuer, Subject: prior.Subject})
	}
	return out
}

// Answered is the record of a case that is answered by a decision, or by an error; explained tells that it lets nobody act. Of the caveat
// context it holds what Context returns.
func (j *Journal) Answered(ctx context.Context, c *authz.Case, d *authz.Decision, err error, explained bool) *Record {
	r := About(c)
	r.Kind, r.Evaluator = deputyv1.RecordKind_RECORD_KIND_DECISION, j.cfg.Evaluator
	if explained {
		r.Kind = deputyv1.RecordKind_RECORD_KIND_EXPLANATION
	}
	r.ActingUnder = actingUnder(c)
	if of := c.ToolCall; of != nil {
		r.ToolCall = j.ToolCall(&deputyv1.ToolCall{Server: of.Server, Method: of.Method, Name: of.Name, ArgumentsHash: of.Arguments})
	}
	var open map[string]any
	if r.ContextHash, open = j.Context(c.Context); len(open) > 0 {
		r.Context, _ = structpb.NewStruct(open) // it came as one
	}
	if err != nil {
		r.Code, r.Reason = Failure(ctx, err)
		return r
	}
	if d.Elsewhere {
		r.Evaluator = deputyv1.Evaluator_EVALUATOR_SPICEDB
	}
	r.Answer, r.RefusedBy, r.MissingContext = permissionship(d.Permissionship), deputyv1.Gate(d.Gate), d.Missing
	if chosen := d.Chosen(); chosen != nil {
		r.AgentChain = make([]string, len(chosen.Agents))
		for i, a := range chosen.Agents {
			r.AgentChain[i] = authz.DecodeID(string(a))
		}
		r.PrincipalType, r.PrincipalId = chosen.Principal.Type, authz.DecodeID(chosen.Principal.ID)
		r.TenantId, r.DelegationId = authz.DecodeID(string(chosen.Tenant)), string(chosen.Delegation())
	}
	return r
}

// permissionship is an answer in the contract's words.
func permissionship(p authz.Permissionship) deputyv1.Permissionship {
	switch p {
	case authz.HasPermission:
		return deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	case authz.ConditionalPermission:
		return deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	default:
		return deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	}
}

// actingUnder is how a case names what the agent acts under.
func actingUnder(c *authz.Case) deputyv1.ActingUnder {
	switch {
	case c.Delegation != "":
		return deputyv1.ActingUnder_ACTING_UNDER_DELEGATION
	case c.Session != "":
		return deputyv1.ActingUnder_ACTING_UNDER_SESSION
	default:
		return deputyv1.ActingUnder_ACTING_UNDER_NEITHER
	}
}
