package person

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// Verifier verifies people's tokens; it is a caller.People. A token that was verified before costs a digest and a look into a map. It is safe for
// concurrent use.
type Verifier struct {
	issuers  map[string]Issuer
	people   *token.Reader[authz.Principal]
	consents *token.Reader[*caller.Consent]
}

var _ caller.People = (*Verifier)(nil)

// New returns a verifier of the people's tokens of the issuers, whose keys a verifier of tokens has. known are the token.Issuers: a token that
// proves who calls is of one of their types. Errors name the issuer, and are *token.IssuerError behind that where an Issuer is wrong by itself.
func New(keys *token.Verifier, known []token.Issuer, issuers []Issuer) (*Verifier, error) {
	v := &Verifier{issuers: map[string]Issuer{}}
	people, consents := map[string][]string{}, map[string][]string{}
	for _, one := range issuers {
		if err := one.Check(); err != nil {
			return nil, fmt.Errorf("the people's tokens of the issuer %q: %w", one.Issuer, err)
		}
		if _, twice := v.issuers[one.Issuer]; twice {
			return nil, fmt.Errorf("the people's tokens of the issuer %q are there twice", one.Issuer)
		}
		at := slices.IndexFunc(known, func(k token.Issuer) bool { return k.Issuer == one.Issuer })
		if at < 0 {
			return nil, fmt.Errorf("the issuer %q, which names people, is none of the server's issuers", one.Issuer)
		}
		v.issuers[one.Issuer] = one
		people[one.Issuer] = orDefault(known[at].Types)
		if one.Consent != nil {
			consents[one.Issuer] = orDefault(one.Consent.Types)
		}
	}
	v.people, v.consents = token.NewReader(keys, people, v.person), token.NewReader(keys, consents, v.consent)
	return v, nil
}

func orDefault(types []string) []string {
	if len(types) == 0 {
		return []string{token.DefaultType}
	}
	return types
}

// Knows is caller.People's.
func (v *Verifier) Knows(issuer string) bool {
	_, knows := v.issuers[issuer]
	return knows
}

// Person is caller.People's.
func (v *Verifier) Person(ctx context.Context, raw string) (authz.Principal, error) {
	return v.people.Read(ctx, raw)
}

// Consent is caller.People's.
func (v *Verifier) Consent(ctx context.Context, raw string) (*caller.Consent, error) {
	c, err := v.consents.Read(ctx, raw)
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Kind == authz.Unauthenticated {
		// The caller itself is known, so that it is not told that it is nobody.
		return nil, &authz.Error{Kind: authz.Denied, Reason: authz.ReasonConsentToken, Field: "consent_token", Message: token.Words(e.Message), Err: e.Err}
	}
	return c, err
}

// person reads which person's own a token is.
func (v *Verifier) person(claims *token.Claims) (authz.Principal, error) {
	if err := own(claims); err != nil {
		return authz.Principal{}, err
	}
	p, _, err := actor.PrincipalOf(v.issuers[claims.Issuer].Principal, claims, nil)
	return p, err
}

// consent reads what a person consents to by a token.
func (v *Verifier) consent(claims *token.Claims) (*caller.Consent, error) {
	issuer := v.issuers[claims.Issuer]
	by := issuer.Consent
	if !slices.ContainsFunc(claims.Audiences, func(one string) bool { return slices.Contains(by.Audiences, one) }) {
		return nil, token.Refused(`is not for this server: its "aud" has none of %q`, by.Audiences)
	}
	person, err := v.person(claims)
	if err != nil {
		return nil, err
	}
	if err := by.admits(claims); err != nil {
		return nil, err
	}
	id, err := claims.Text("jti")
	if err != nil {
		return nil, token.Refused(`has no usable "jti", by which it is known once it was used: it %w`, err)
	}
	c, err := by.terms(claims)
	if err != nil {
		return nil, token.Refused("%w", err)
	}
	if !issuer.Tenant.IsZero() {
		tenant, name, err := actor.TenantOf(issuer.Tenant, claims, nil)
		if err != nil {
			return nil, err
		}
		if tenant != c.Tenant {
			return nil, token.Refused("is of the tenant %.200q, and consents in another one", name)
		}
	}
	c.Issuer, c.ID, c.Person, c.Ends = claims.Issuer, id, person, claims.Ends
	return c, nil
}

// own refuses a token that is not a person's own: one with which somebody else acts, or that was made for a client itself.
func own(claims *token.Claims) error {
	if claims.Has("act") {
		return token.Refused(`has an "act": it says that another party acts for its subject, and is not the subject's own`)
	}
	subject, err := claims.Text("sub")
	if err != nil {
		return token.Refused(`has no usable "sub": it %w`, err)
	}
	clients, err := clientsOf(claims)
	if err != nil {
		return err
	}
	if slices.Contains(clients, subject) {
		return token.Refused("is of a client itself: its subject is the client, and not a person")
	}
	for claim, persons := range kinds {
		if !claims.Has(claim) {
			continue
		}
		if kind, err := claims.Text(claim); err != nil || !persons(kind) {
			return token.Refused("is no person's, as its %q says", claim)
		}
	}
	return nil
}

// kinds are claims by which issuers say what kind of subject a token has, with whether it is a person: sub_profile (draft-mcguinness-oauth-actor-profile),
// idtyp (Entra) and gty (Auth0).
var kinds = map[string]func(kind string) bool{
	"sub_profile": func(kind string) bool { return kind == "user" },
	"idtyp":       func(kind string) bool { return kind == "user" },
	"gty":         func(kind string) bool { return kind != "client-credentials" && kind != "client_credentials" },
}

// clientsOf lists the clients that a token says it was made for: its client_id (RFC 9068), its azp (OpenID Connect), its
// appid (Entra) and its cid (Okta).
func clientsOf(claims *token.Claims) ([]string, error) {
	var all []string
	for _, claim := range []string{"client_id", "azp", "appid", "cid"} {
		if !claims.Has(claim) {
			continue
		}
		client, err := claims.Text(claim)
		if err != nil {
			return nil, token.Refused("has no usable %q: it %w", claim, err)
		}
		all = append(all, client)
	}
	return all, nil
}

// admits refuses a token that was made for another client than those that people consent with.
func (c *Consent) admits(claims *token.Claims) error {
	if len(c.Clients) == 0 {
		return nil
	}
	clients, err := clientsOf(claims)
	if err != nil {
		return err
	}
	if len(clients) == 0 || slices.ContainsFunc(clients, func(one string) bool { return !slices.Contains(c.Clients, one) }) {
		return token.Refused("was not made for a client with which people consent: its client_id or azp has to be among %q", c.Clients)
	}
	return nil
}
