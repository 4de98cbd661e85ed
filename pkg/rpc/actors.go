package rpc

import (
	"context"
	"fmt"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// An agent's token is turned into names here, once the message has come and before its service is called. Services see the names in the request's
// own fields, as if the caller had written them, and none sees a token.

// proof is what the token of one question proved.
type proof struct {
	// actor is what it says; nil where there is none.
	actor *caller.Actor
	// err is why an item of a bulk check is not answered.
	err error
}

// until is the earlier of a moment and the end of the token; zero is no moment.
func (p proof) until(t time.Time) time.Time {
	if p.actor != nil && (t.IsZero() || p.actor.Ends.Before(t)) {
		return p.actor.Ends
	}
	return t
}

// lasts refuses to go on once the token has ended.
func (p proof) lasts(now time.Time) error {
	if p.actor == nil || now.Before(p.actor.Ends) {
		return nil
	}
	return &authz.Error{
		Kind: authz.Denied, Reason: authz.ReasonActorTokenInvalid, Field: "actor_token",
		Message: "expired at " + p.actor.Ends.UTC().Format(time.RFC3339) + ", before all was answered",
	}
}

// evidence is what is recorded of the token; nil where there is none.
func (p proof) evidence() *authz.ActorToken {
	if p.actor == nil {
		return nil
	}
	return p.actor.Evidence
}

// provenBy is what the token of a call proved.
func provenBy(ctx context.Context) proof {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.proof
	}
	return proof{}
}

// itemProofs returns what the tokens of a bulk check's items proved, one for each of so many. It is an error where the gate did not read as many: then
// nothing says that an item needs no token.
func itemProofs(ctx context.Context, items int) ([]proof, error) {
	if c, ok := ctx.Value(callKey{}).(*call); ok && len(c.items) == items {
		return c.items, nil
	}
	return nil, authz.Errorf(authz.Internal, "INTERNAL", "the tokens of the items were not read at the gate")
}

// actingFields are the fields of a question that say who acts.
type actingFields struct {
	token, agent, tenant *string
	principal            **deputyv1.ObjectReference
}

// actingOf returns those fields of a request, or an item, whose agent acts; false for any other message.
func actingOf(m any) (actingFields, bool) {
	switch r := m.(type) {
	case *deputyv1.CheckPermissionRequest:
		return actingFields{&r.ActorToken, &r.AgentId, &r.TenantId, &r.OnBehalfOf}, true
	case *deputyv1.CheckBulkPermissionsRequestItem:
		return actingFields{&r.ActorToken, &r.AgentId, &r.TenantId, &r.OnBehalfOf}, true
	case *deputyv1.FilterResourcesRequest:
		return actingFields{&r.ActorToken, &r.AgentId, &r.TenantId, &r.OnBehalfOf}, true
	case *deputyv1.RecordToolRefusalRequest:
		return actingFields{&r.ActorToken, &r.AgentId, &r.TenantId, &r.OnBehalfOf}, true
	case *deputyv1.LookupResourcesRequest:
		return actingFields{&r.ActorToken, &r.AgentId, &r.TenantId, &r.OnBehalfOf}, true
	default:
		return actingFields{}, false
	}
}

// proves verifies the tokens that a request carries, takes them out of it, and has it name what they say. It refuses a token that disagrees with the
// request, and a request without one where its caller or its agent needs one.
func (g *Gate) proves(ctx context.Context, request any) error {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return authz.Errorf(authz.Internal, "INTERNAL", "a message is received past the gate")
	}
	v := &prover{ctx: ctx, by: caller.Of(ctx), acting: g.acting()}
	c.acting = v.acting
	var err error
	switch r := request.(type) {
	case *deputyv1.CheckBulkPermissionsRequest:
		c.items, err = v.items(r)
	case *deputyv1.ExplainPermissionRequest:
		if check := r.GetCheck(); check != nil { // it lets nobody act, so that none is required
			p, _ := actingOf(check)
			c.proof.actor, err = v.question(p, false)
		}
	case *deputyv1.WatchPermissionRequest:
		if check := r.GetCheck(); check != nil {
			p, _ := actingOf(check)
			raw := *p.token
			if c.proof.actor, err = v.question(p, true); err == nil {
				c.acts.Store(&acts{agent: *p.agent, raw: raw, actor: c.proof.actor})
			}
		}
	case *deputyv1.StartSessionRequest:
		c.proof.actor, err = v.session(r)
	case *deputyv1.CreateDelegationRequest:
		c.proof.actor, err = v.delegation(r)
	default:
		if p, acts := actingOf(request); acts {
			c.proof.actor, err = v.question(p, true)
		}
	}
	return err
}

// acting says how agents prove that they act now.
func (g *Gate) acting() caller.Acting {
	if book := g.callers.Book(); book != nil {
		return book.Acting
	}
	return caller.Acting{}
}

// acts is the agent for which a watch was begun, with the token that proved it, "" for none. It is immutable.
type acts struct {
	agent, raw string
	actor      *caller.Actor
}

// goOn refuses to go on where the watch could not be begun any more: without a token, because the agent or the caller has been bound to one since, and
// with one, because its issuer has withdrawn the key, or the file of callers says something else of the issuer.
func (a *acts) goOn(v *prover) error {
	if a.raw == "" {
		return v.missing(a.agent)
	}
	is, err := v.verify(a.raw)
	if err != nil {
		return err
	}
	if is.AgentName != a.actor.AgentName || is.Principal != a.actor.Principal || is.Tenant != a.actor.Tenant {
		return mismatch("actor_token", "names another agent, principal or tenant now than when the watch began: call again")
	}
	return nil
}

// prover verifies the tokens of one message.
type prover struct {
	ctx    context.Context //nolint:containedctx // a message has its call's
	by     *caller.Caller
	acting caller.Acting
}

// verify returns what a token says.
func (v *prover) verify(raw string) (*caller.Actor, error) {
	if v.acting.Tokens == nil {
		return nil, &authz.Error{
			Kind: authz.Denied, Reason: authz.ReasonActorTokenInvalid, Field: "actor_token",
			Message: "is of no use here: no issuer's tokens name agents to this server; its operator adds actors to an issuer of the callers file",
		}
	}
	return v.acting.Tokens.Verify(v.ctx, raw, v.by.ActorToken.Audiences)
}

// question verifies the token of one question. Where required is not set, none is needed whatever the caller and the agent are bound to.
func (v *prover) question(p actingFields, required bool) (*caller.Actor, error) {
	raw := *p.token
	*p.token = ""
	if raw == "" {
		if !required {
			return nil, nil //nolint:nilnil // no token proves nothing
		}
		return nil, v.missing(*p.agent)
	}
	actor, err := v.verify(raw)
	if err != nil {
		return nil, err
	}
	return actor, agree(p, actor)
}

// agree has a question name what its token says, which must not be anything else.
func agree(p actingFields, actor *caller.Actor) error {
	if err := agreeText(p.agent, actor.AgentName, "agent_id", "agent"); err != nil {
		return err
	}
	if err := agreePrincipal(p.principal, actor, "on_behalf_of"); err != nil {
		return err
	}
	return agreeText(p.tenant, actor.TenantName, "tenant_id", "tenant")
}

// agreeText has a field say what a token does, which says nothing where said is empty.
func agreeText(field *string, said, name, what string) error {
	switch {
	case said == "" || *field == said:
		return nil
	case *field == "":
		*field = said
		return nil
	}
	return mismatch(name, "is %.200q, and the %s of the actor_token is %.200q", *field, what, said)
}

// agreePrincipal has a field name the principal that a token does.
func agreePrincipal(field **deputyv1.ObjectReference, actor *caller.Actor, name string) error {
	switch given := *field; {
	case actor.Principal.IsZero():
		return nil
	case given == nil:
		*field = &deputyv1.ObjectReference{ObjectType: actor.Principal.Type, ObjectId: actor.PrincipalName}
		return nil
	case given.GetObjectType() == actor.Principal.Type && given.GetObjectId() == actor.PrincipalName:
		return nil
	default:
		return mismatch(name, "is %.100s:%.200s, and the principal of the actor_token is %s:%.200s", given.GetObjectType(), given.GetObjectId(),
			actor.Principal.Type, actor.PrincipalName)
	}
}

func mismatch(field, format string, args ...any) error {
	return &authz.Error{Kind: authz.Denied, Reason: authz.ReasonActorTokenMismatch, Field: field, Message: fmt.Sprintf(format, args...)}
}

// missing refuses a request without a token, where its caller or its agent needs one.
func (v *prover) missing(agent string) error {
	if v.by.ActorToken.Required {
		return tokenRequired("is required: the caller %s may name no agent without a token of the agent's", v.by.Name)
	}
	if v.acting.Asks() {
		if stored, err := authz.EncodeID(agent); err == nil {
			return v.missingOf(authz.AgentID(stored))
		}
	}
	return nil
}

// missingOf refuses a request without a token of an agent that needs one. One that does not exist for the caller is refused as such.
func (v *prover) missingOf(agent authz.AgentID) error {
	if v.by.Bounds.HasAgent(agent) && v.acting.Requires(agent) {
		return tokenRequired("is required: the agent %.200q acts with a token of its own only", authz.DecodeID(string(agent)))
	}
	return nil
}

func tokenRequired(format string, args ...any) error {
	return &authz.Error{Kind: authz.Denied, Reason: authz.ReasonActorTokenRequired, Field: "actor_token", Message: fmt.Sprintf(format, args...)}
}

// maxTokens is how many different tokens a bulk check can carry: a signature takes long to verify.
const maxTokens = 100

// items verifies the tokens of a bulk check. An item whose own token is wrong fails alone.
func (v *prover) items(r *deputyv1.CheckBulkPermissionsRequest) ([]proof, error) {
	of := r.GetActorToken()
	r.ActorToken = ""
	if len(r.GetItems()) > maxBulkItems {
		return nil, nil // its service refuses it
	}
	known := map[string]proof{}
	if of != "" {
		actor, err := v.verify(of)
		if err != nil {
			return nil, err
		}
		known[of] = proof{actor: actor}
	}
	proofs := make([]proof, len(r.GetItems()))
	for i, item := range r.GetItems() {
		if item == nil {
			continue
		}
		raw := item.GetActorToken()
		item.ActorToken = ""
		if raw == "" {
			raw = of
		}
		if raw == "" {
			proofs[i].err = v.missing(item.GetAgentId())
			continue
		}
		one, found := known[raw]
		if !found {
			if len(known) == maxTokens {
				return nil, authz.FieldErrorf("items", "carry more than %d different tokens", maxTokens)
			}
			one.actor, one.err = v.verify(raw)
			known[raw] = one
		}
		if one.err == nil {
			p, _ := actingOf(item)
			one.err = agree(p, one.actor)
		}
		proofs[i] = one
	}
	return proofs, nil
}

// session verifies the token with which a session is started. The session acts for the token's principal only: see sessionStart for its tenant.
func (v *prover) session(r *deputyv1.StartSessionRequest) (*caller.Actor, error) {
	raw := r.GetActorToken()
	r.ActorToken = ""
	if raw == "" {
		return nil, v.missing(r.GetAgentId())
	}
	actor, err := v.verify(raw)
	if err != nil {
		return nil, err
	}
	if err := agreeText(&r.AgentId, actor.AgentName, "agent_id", "agent"); err != nil {
		return nil, err
	}
	if actor.Principal.IsZero() {
		return actor, nil
	}
	for i, target := range r.GetTargets() {
		if target == nil {
			continue
		}
		if len(target.GetPrincipals()) == 0 {
			target.Principals = make([]*deputyv1.ObjectReference, 1)
		}
		for n := range target.GetPrincipals() {
			if err := agreePrincipal(&target.Principals[n], actor, fmt.Sprintf("targets[%d].principals[%d]", i, n)); err != nil {
				return nil, err
			}
		}
	}
	return actor, nil
}

// delegation verifies the token with which a delegation is asked for: of the agent that passes a part on, or of the one that is to act. Without a
// parent no agent acts yet, so that none is required because of the agent.
func (v *prover) delegation(r *deputyv1.CreateDelegationRequest) (*caller.Actor, error) {
	raw := r.GetActorToken()
	r.ActorToken = ""
	if raw == "" {
		if v.by.ActorToken.Required {
			return nil, v.missing("")
		}
		return nil, nil //nolint:nilnil // no token proves nothing
	}
	actor, err := v.verify(raw)
	if err != nil {
		return nil, err
	}
	if r.GetParentDelegationId() == "" {
		err = agreeText(&r.AgentId, actor.AgentName, "agent_id", "agent")
	} else {
		err = agreeGrantor(r, actor)
	}
	if err != nil {
		return nil, err
	}
	if !actor.Principal.IsZero() {
		if r.GetPrincipal() == nil {
			r.Principal = &deputyv1.SubjectReference{}
		}
		if set := r.GetPrincipal().GetOptionalRelation(); set != "" {
			return nil, mismatch("principal", "is a set, and the actor_token is for one principal")
		}
		if err := agreePrincipal(&r.Principal.Object, actor, "principal"); err != nil {
			return nil, err
		}
	}
	return actor, agreeText(&r.TenantId, actor.TenantName, "tenant_id", "tenant")
}

// agreeGrantor has a part of a delegation be granted by the token's agent, which has to be the one that acts under the parent: pkg/delegate sees to it.
func agreeGrantor(r *deputyv1.CreateDelegationRequest, actor *caller.Actor) error {
	given := r.GetGrantedBy()
	if given == nil {
		r.GrantedBy = &deputyv1.ObjectReference{ObjectType: authz.TypeAgent, ObjectId: actor.AgentName}
		return nil
	}
	if given.GetObjectType() != authz.TypeAgent || given.GetObjectId() != actor.AgentName {
		return mismatch("granted_by", "is %.100s:%.200s, and the agent of the actor_token is %.200q", given.GetObjectType(), given.GetObjectId(), actor.AgentName)
	}
	return nil
}

// passesOn refuses to pass on a part of a delegation without a token, where the agent that acts under it needs one.
func (s *delegations) passesOn(ctx context.Context, parent authz.DelegationID) error {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok || parent == "" || c.proof.actor != nil || !c.acting.Asks() {
		return nil
	}
	of, _, err := s.delegate(ctx).Delegation(ctx, parent)
	if err != nil {
		return nil //nolint:nilerr // creating the part fails in its own words
	}
	return (&prover{ctx: ctx, by: caller.Of(ctx), acting: c.acting}).missingOf(of.Agent)
}
