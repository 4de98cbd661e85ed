package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

const (
	// MaxEventToken is how long a security event token can be, in bytes.
	MaxEventToken = 32 << 10
	// maxEvents is how many events one can have.
	maxEvents = 16
	// eventType is the "typ" of every security event token (RFC 8417, section 2.3), so that no token of another kind is taken for one.
	eventType = "secevent+jwt"
)

// VerifyEvents is caller.EventVerifier's. Whether the token is for its recipient, and of this time, is for that to say. Its errors are
// Exhausted, too, where too many tokens are being verified.
func (v *Verifier) VerifyEvents(ctx context.Context, issuer, raw string) (caller.EventToken, error) {
	t, err := parse(raw, MaxEventToken)
	if err != nil {
		return caller.EventToken{}, event(err, authz.ReasonSignalInvalid)
	}
	from := v.sources[issuer]
	if t.issuer != issuer || from == nil {
		return caller.EventToken{}, event(refuse(`has an "iss" that is not its transmitter's, which is %.200q`, issuer), authz.ReasonSignalIssuer)
	}
	if mediaType(t.typ) != eventType {
		return caller.EventToken{}, event(refuse("is of the type %.100q, and a security event token is of the type %q", t.typ, eventType),
			authz.ReasonSignalInvalid)
	}
	if _, err := v.proven(ctx, t, from, []string{eventType}); err != nil {
		return caller.EventToken{}, event(err, authz.ReasonSignalKey)
	}
	said, err := events(t)
	said.Leeway = from.issuer.Leeway
	return said, event(err, authz.ReasonSignalInvalid)
}

// events reads what a security event token says, whose signature has been verified.
func events(t unverified) (said caller.EventToken, err error) {
	said.Issuer = t.issuer
	for name, why := range map[string]string{
		"sub": `has a "sub", which could be taken for an access token's: a security event token says in "sub_id" whom it is about`,
		"exp": `has an "exp", which a security event token must not have: what has happened does not expire`,
	} {
		if _, has := t.members[name]; has {
			return said, refuse("%s", why)
		}
	}
	if said.ID, err = text(t.members, "jti"); err != nil {
		return said, refuse(`has no usable "jti": it %w`, err)
	}
	if said.Audiences, err = texts(t.members, "aud"); err != nil {
		return said, refuse(`has no usable "aud": it %w`, err)
	}
	issued, has, err := moment(t.members, "iat")
	if err != nil || !has {
		return said, refuse(`has no usable "iat": it is not there, or is no time`)
	}
	said.Issued = issued
	if said.Happened, _, err = moment(t.members, "toe"); err != nil {
		return said, refuse(`has no usable "toe": it %w`, err)
	}
	said.Subject = t.members["sub_id"]
	if json.Unmarshal(t.members["events"], &said.Events) != nil || len(said.Events) == 0 || len(said.Events) > maxEvents {
		return said, refuse(`has no usable "events": they are an object with 1 to %d members`, maxEvents)
	}
	for name, payload := range said.Events {
		if len(name) > maxText || payload[0] != '{' {
			return said, refuse("has an event that is no object, or whose URI is longer than %d bytes", maxText)
		}
	}
	payload, err := decode(strings.Split(t.raw, ".")[1])
	said.Digest = sha256.Sum256(payload)
	return said, err
}

// event makes a refusal one of a security event token: the call's own credential may be as good as can be. Others, which are not the token's
// fault, stay.
func event(err error, reason string) error {
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != authz.Unauthenticated {
		return err
	}
	return &authz.Error{Kind: authz.Invalid, Reason: reason, Message: "the security event token " + Words(e.Message), Err: e.Err}
}
