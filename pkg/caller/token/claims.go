package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// proof is what a token whose signature has been verified is good for.
type proof struct {
	// from is when the token begins, zero where it does not say, and until when it ends, both with leeway where there is any.
	from, until time.Time
	// source has the key that it was signed with, by id and as it was.
	source *source
	key    *key
	// certificate is the digest of the client certificate that the token is bound to (RFC 8705), nil where it is bound to none.
	certificate *[sha256.Size]byte
}

// verified is what a token says that proves who calls.
type verified struct {
	proof

	said caller.Token
}

// claims reads what a token says, which its issuer signed, and refuses a token that is not for this server, or says what cannot be verified
// here. Whether it is valid now is for proof.now to say.
func (i Issuer) claims(t unverified) (v verified, err error) {
	v.said.Issuer = i.Issuer
	if v.said.Subject, err = text(t.members, "sub"); err != nil {
		return v, refuse(`has no usable "sub": it %w`, err)
	}
	audiences, err := audiencesOf(t)
	if err != nil {
		return v, err
	}
	if !slices.ContainsFunc(audiences, func(one string) bool { return slices.Contains(i.Audiences, one) }) {
		return v, refuse(`is not for this server: its "aud" has none of %q`, i.Audiences)
	}
	if _, has := t.members["act"]; has {
		return v, refuse(`has an "act": it says that another party acts for its subject, and so does not prove that the subject calls`)
	}
	ends, err := v.read(t, i.Leeway)
	v.until = ends.Add(i.Leeway)
	v.said.Expires = v.until
	return v, err
}

// audiencesOf reads whom a token is for.
func audiencesOf(t unverified) ([]string, error) {
	audiences, err := texts(t.members, "aud")
	if err != nil {
		return nil, refuse(`has no usable "aud": it %w`, err)
	}
	return audiences, nil
}

// read reads when a token is valid, and the certificate that it is bound to. It returns when it ends.
func (p *proof) read(t unverified, leeway time.Duration) (ends time.Time, err error) {
	ends, has, err := moment(t.members, "exp")
	if err == nil && !has {
		err = errors.New("is missing")
	}
	if err != nil {
		return ends, refuse(`has no usable "exp": it %w`, err)
	}
	for _, name := range []string{"nbf", "iat"} {
		begins, has, err := moment(t.members, name)
		if err != nil {
			return ends, refuse("has no usable %q: it %w", name, err)
		}
		if has && begins.Add(-leeway).After(p.from) {
			p.from = begins.Add(-leeway)
		}
	}
	if raw, has := t.members["cnf"]; has {
		if p.certificate, err = confirmation(raw); err != nil {
			return ends, err
		}
	}
	return ends, nil
}

// now refuses a token that is not valid at a time. before and after are the leeway that its beginning and its end have, for what it says.
func (p *proof) now(at time.Time, before, after time.Duration) error {
	switch {
	case !at.Before(p.until):
		return refuse("expired at %s", p.until.Add(-after).UTC().Format(time.RFC3339))
	case at.Before(p.from):
		return refuse("is valid from %s on only", p.from.Add(before).UTC().Format(time.RFC3339))
	}
	return nil
}

// told returns what the token says to the call that brings it.
func (v *verified) told(ctx context.Context) (caller.Token, error) {
	if err := v.sentBy(ctx); err != nil {
		return caller.Token{}, err
	}
	return v.said, nil
}

// sentBy refuses a call that brings the token, if the token is bound to another client certificate than the call's. The TLS handshake has proven
// that the client has the certificate's key, no matter which authority signed the certificate.
func (p *proof) sentBy(ctx context.Context) error {
	if p.certificate == nil {
		return nil
	}
	presented := caller.ProofOf(ctx).Certificate
	if presented == nil {
		return refuse("is bound to a client certificate, and the call comes without one")
	}
	if presented.Digest() != *p.certificate {
		return refuse("is bound to another client certificate than the call's")
	}
	return nil
}

// confirmation reads a "cnf" (RFC 7800): the digest of a client certificate (RFC 8705, section 3.1). Any other proof of possession cannot be
// verified here, so the token is refused.
func confirmation(raw json.RawMessage) (*[sha256.Size]byte, error) {
	members, err := object(raw)
	if err != nil {
		return nil, refuse(`has no usable "cnf": it %w`, err)
	}
	const thumbprint = "x5t#S256"
	if _, has := members[thumbprint]; !has || len(members) != 1 {
		return nil, refuse(`has a "cnf" that this server cannot verify: it verifies %q, the digest of a client certificate, alone`, thumbprint)
	}
	encoded, err := text(members, thumbprint)
	if err != nil {
		return nil, refuse("has no usable %q: it %w", thumbprint, err)
	}
	digest, err := decode(encoded)
	if err != nil || len(digest) != sha256.Size {
		return nil, refuse("has no usable %q: it is not a digest of %d bytes in base64url without padding", thumbprint, sha256.Size)
	}
	return (*[sha256.Size]byte)(digest), nil
}

// texts reads a member that is a string, or an array of strings. The error goes on after "it".
func texts(members map[string]json.RawMessage, name string) ([]string, error) {
	raw, has := members[name]
	if !has || raw[0] != '[' {
		one, err := text(members, name)
		return []string{one}, err
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return nil, errors.New("is not an array")
	}
	all := make([]string, 0, len(items))
	for _, item := range items {
		one, err := text(map[string]json.RawMessage{"": item}, "")
		if err != nil {
			return nil, fmt.Errorf("has an item that %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}

// lastMoment is the last second that RFC 3339 can write.
const lastMoment = 253402300799

// moment reads a NumericDate (RFC 7519, section 2): seconds since 1970, in UTC, with a fraction or without, and whether there is one. The
// error goes on after "it".
func moment(members map[string]json.RawMessage, name string) (time.Time, bool, error) {
	raw, has := members[name]
	if !has {
		return time.Time{}, false, nil
	}
	var seconds float64
	if (raw[0] != '-' && (raw[0] < '0' || raw[0] > '9')) || json.Unmarshal(raw, &seconds) != nil {
		return time.Time{}, true, errors.New("is not a number of seconds")
	}
	if !(seconds >= 0 && seconds <= lastMoment) {
		return time.Time{}, true, errors.New("is no time from 1970 to 9999")
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), true, nil
}

// refuse returns what the caller is told of a token that proves nothing. The words go on after "the token", and never show it.
func refuse(format string, args ...any) *authz.Error {
	return authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, refusalPrefix+"%v", fmt.Errorf(format, args...))
}

const refusalPrefix = "the token "
