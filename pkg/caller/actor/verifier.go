package actor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// Verifier verifies agents' tokens; it is a caller.Actors. A token that was verified before costs a digest and a look into a map. It is safe for
// concurrent use.
type Verifier struct {
	issuers map[string]Issuer
	reader  *token.Reader[*said]
}

var _ caller.Actors = (*Verifier)(nil)

// said is what a token says.
type said struct {
	actor     caller.Actor
	audiences []string
}

// New returns a verifier of the agents' tokens of the issuers, whose keys a verifier of tokens has. Errors name the issuer, and are
// *token.IssuerError behind that where an Issuer is wrong by itself.
func New(keys *token.Verifier, issuers []Issuer) (*Verifier, error) {
	v := &Verifier{issuers: map[string]Issuer{}}
	types := map[string][]string{}
	var templates []Mapped
	for _, one := range issuers {
		if err := one.Check(); err != nil {
			return nil, fmt.Errorf("the agents' tokens of the issuer %q: %w", one.Issuer, err)
		}
		if _, twice := v.issuers[one.Issuer]; twice {
			return nil, fmt.Errorf("the agents' tokens of the issuer %q are there twice", one.Issuer)
		}
		templates = append(templates, one.Templates()...)
		one = one.complete()
		v.issuers[one.Issuer], types[one.Issuer] = one, one.Types
	}
	if err := Conflict(templates); err != nil {
		return nil, err
	}
	v.reader = token.NewReader(keys, types, v.read)
	return v, nil
}

// Verify is caller.Actors's.
func (v *Verifier) Verify(ctx context.Context, raw string, audiences []string) (*caller.Actor, error) {
	is, err := v.reader.Read(ctx, raw)
	if err != nil {
		return nil, refused(err)
	}
	own := v.issuers[is.actor.Evidence.Issuer].Audiences
	if !slices.ContainsFunc(is.audiences, func(one string) bool { return slices.Contains(own, one) || slices.Contains(audiences, one) }) {
		return nil, refused(token.Refused(`is not for this server, and not for the caller that sends it: its "aud" has none of %q`, slices.Concat(own, audiences)))
	}
	return &is.actor, nil
}

// refused returns what a caller is told of an agent's token that proves nothing. The caller itself is known, so that it is not told that it is
// nobody.
func refused(err error) error {
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != authz.Unauthenticated {
		return err
	}
	return &authz.Error{Kind: authz.Denied, Reason: authz.ReasonActorTokenInvalid, Field: "actor_token", Message: token.Words(e.Message), Err: e.Err}
}

// read reads what a token says, which its issuer signed.
func (v *Verifier) read(claims *token.Claims) (*said, error) {
	issuer := v.issuers[claims.Issuer]
	actors, err := actorsOf(claims, issuer.MaxDepth)
	if err != nil {
		return nil, err
	}
	var acting *token.Claims
	if len(actors) > 0 {
		acting = actors[0]
		if err := issuer.admits(acting); err != nil {
			return nil, err
		}
	}
	is := &said{audiences: claims.Audiences}
	is.actor.Ends = claims.Ends
	if scopes, err := claims.Scopes(); err == nil { // a token with another kind of scopes is refused where it needs one
		is.actor.Scope = strings.Join(slices.DeleteFunc(scopes, func(one string) bool { return strings.Contains(one, " ") }), " ")
	}
	if is.actor.Agent, is.actor.AgentName, err = agentOf(issuer.Agent, claims, acting); err != nil {
		return nil, err
	}
	if !issuer.Principal.IsZero() {
		if is.actor.Principal, is.actor.PrincipalName, err = PrincipalOf(issuer.Principal, claims, acting); err != nil {
			return nil, err
		}
	}
	if !issuer.Tenant.IsZero() {
		if is.actor.Tenant, is.actor.TenantName, err = TenantOf(issuer.Tenant, claims, acting); err != nil {
			return nil, err
		}
	}
	is.actor.Evidence, err = evidence(claims, actors)
	return is, err
}

// admits refuses an actor that the templates would take for another one. An actor of another issuer than the token's has a name in that one's
// namespace (its "iss"), which only a template that names it tells apart; and a template that passes the actor by would take a token in which
// somebody acts for its subject for one of the subject's own.
func (i Issuer) admits(acting *token.Claims) error {
	if !i.Agent.OfActor() && !i.Principal.OfActor() {
		return token.Refused(`has an "act", and neither the agent nor the principal of its issuer's tokens is made of it`)
	}
	if acting.Has("iss") && !i.Agent.names("act.iss") && !i.Principal.names("act.iss") {
		if of, err := acting.Text("iss"); err != nil || of != i.Issuer {
			return token.Refused(`has an "act" of another issuer than its own`)
		}
	}
	return nil
}

// evidence is what is recorded of a token.
func evidence(claims *token.Claims, actors []*token.Claims) (*authz.ActorToken, error) {
	e := &authz.ActorToken{Issuer: claims.Issuer, Digest: claims.Digest}
	var err error
	if e.ID, err = optional(claims, "jti"); err != nil {
		return nil, err
	}
	if e.Transaction, err = optional(claims, "txn"); err != nil {
		return nil, err
	}
	for n, prior := range actors {
		if n == 0 {
			continue
		}
		var one authz.PriorActor
		if one.Issuer, err = optional(prior, "iss"); err != nil {
			return nil, err
		}
		if one.Subject, err = optional(prior, "sub"); err != nil {
			return nil, err
		}
		e.Prior = append(e.Prior, one)
	}
	return e, nil
}

func agentOf(t Template, claims, acting *token.Claims) (authz.AgentID, string, error) {
	id, name, err := encoded(t, claims, acting)
	return authz.AgentID(id), name, err
}

// PrincipalOf returns the principal that a template makes of a token's claims, and its id as callers know it. Errors are of a token that is refused.
func PrincipalOf(t Template, claims, acting *token.Claims) (authz.Principal, string, error) {
	id, name, err := encoded(t, claims, acting)
	if err != nil {
		return authz.Principal{}, "", err
	}
	return authz.Principal{Object: authz.Object{Type: t.ObjectType(), ID: id}}, name, nil
}

// TenantOf returns the tenant that a template makes of a token's claims, and its id as callers know it. Errors are of a token that is refused.
func TenantOf(t Template, claims, acting *token.Claims) (authz.TenantID, string, error) {
	id, name, err := encoded(t, claims, acting)
	return authz.TenantID(id), name, err
}

// encoded returns the stored id that a template makes, and the id as callers know it.
func encoded(t Template, claims, acting *token.Claims) (id, name string, err error) {
	var actor Texts
	if acting != nil {
		actor = acting
	}
	if name, err = t.Render(claims, actor); err != nil {
		return "", "", token.Refused("%w", err)
	}
	if id, err = authz.EncodeID(name); err != nil {
		return "", "", token.Refused("names a %s whose id %w", t.kind, err)
	}
	return id, name, nil
}
