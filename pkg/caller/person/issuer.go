package person

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// Issuer says how an issuer's tokens name people. The zero Issuer is none: see Check.
type Issuer struct {
	// Issuer is the "iss" of its tokens. A token.Issuer of that name has its keys.
	Issuer string
	// Principal makes the person of a token's claims: a user.
	Principal actor.Template
	// Tenant makes the tenant of a person's token, in which alone the person can consent. The zero Template makes none: then a person consents in any.
	Tenant actor.Template
	// Consent says how people consent; nil where they do not.
	Consent *Consent
}

// Check refuses what people cannot be known by, or cannot consent by. Errors are *token.IssuerError.
func (i Issuer) Check() error {
	bad := func(key, format string, args ...any) error {
		return &token.IssuerError{Key: key, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case i.Principal.IsZero():
		return bad("principal", "is missing: write which claim names the person, such as user:{sub}")
	case i.Principal.ObjectType() != authz.TypeUser:
		return bad("principal", "is %q, and a person is a user: write user:…, such as user:{sub}", i.Principal)
	case i.Principal.OfActor():
		return bad("principal", "is %q, and a token of a person's own has no actor: write a claim of the token itself, such as {sub}", i.Principal)
	case i.Tenant.OfActor():
		return bad("tenant", "is %q, and a token of a person's own has no actor: write a claim of the token itself", i.Tenant)
	case i.Consent == nil:
		return nil
	}
	c := i.Consent
	switch {
	case len(c.Audiences) == 0:
		return bad("audiences", "is missing: write the names, one or more, that this server has at the issuer for tokens by which people consent")
	case c.Scope == "" && c.Details == "":
		return bad("scope", "is missing, and so is details: write what a scope begins with by which a token consents, such as deputy:delegate")
	case strings.ContainsFunc(c.Scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) || strings.HasSuffix(c.Scope, ":"):
		return bad("scope", "is %q; write what a scope begins with, without the colon after it and without blanks, such as deputy:delegate", c.Scope)
	}
	for key, names := range map[string][]string{"audiences": c.Audiences, "clients": c.Clients} {
		if err := token.CheckNames(key, names); err != nil {
			return err
		}
	}
	const words = "nobody consents by it"
	if slices.ContainsFunc(c.Types, func(name string) bool {
		return strings.TrimPrefix(strings.ToLower(name), "application/") == transaction
	}) {
		return bad("types", "has %q: such a token is for one transaction within the issuer's domain, and %s", transaction, words)
	}
	return token.CheckTypes(c.Types, words)
}

// transaction is the type of a token that agents can act with, and by which nobody consents.
const transaction = "txntoken+jwt"

// Templates lists the issuer's templates.
func (i Issuer) Templates() []actor.Mapped {
	var all []actor.Mapped
	for _, t := range []actor.Template{i.Principal, i.Tenant} {
		if !t.IsZero() {
			all = append(all, actor.Mapped{Issuer: i.Issuer, Template: t})
		}
	}
	return all
}
