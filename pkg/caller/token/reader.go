package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Claims are what a token says whose signature has been verified, where it is read for something else than who calls. They are immutable.
type Claims struct {
	// Issuer is its "iss", and Audiences its "aud", which the Reader's own function has to judge.
	Issuer    string
	Audiences []string
	// Ends is when it ends, without leeway.
	Ends time.Time
	// Digest is of the token as it was sent.
	Digest [sha256.Size]byte

	members map[string]json.RawMessage
}

// Has reports whether the token has a claim, of whatever kind.
func (c *Claims) Has(name string) bool {
	_, has := c.members[name]
	return has
}

// Text returns a claim that is a text and not empty, of up to 1,024 bytes. The error goes on after the words that name the claim.
func (c *Claims) Text(name string) (string, error) { return text(c.members, name) }

// Raw returns a claim as it is written, nil where the token does not have it. It is valid JSON in which no object has a name twice, and is not to
// be changed.
func (c *Claims) Raw(name string) json.RawMessage { return c.members[name] }

// Scopes lists the scopes of a token. "scope" is RFC 8693's, and some issuers write "scp"; both as one text with blanks, or as an array. The error
// goes on after the words that name the token.
func (c *Claims) Scopes() ([]string, error) {
	var all []string
	for _, claim := range []string{"scope", "scp"} {
		if !c.Has(claim) {
			continue
		}
		raw := c.Raw(claim)
		var one string
		var several []string
		switch {
		case json.Unmarshal(raw, &one) == nil:
			several = strings.Split(one, " ")
		case json.Unmarshal(raw, &several) == nil:
		default:
			return nil, fmt.Errorf("has a %q that is neither a text nor an array of texts", claim)
		}
		for _, scope := range several {
			if scope != "" && !slices.Contains(all, scope) {
				all = append(all, scope)
			}
		}
	}
	return all, nil
}

// Object returns the members of a claim that is an object. The error goes on after the words that name the claim.
func (c *Claims) Object(name string) (*Claims, error) {
	raw, has := c.members[name]
	if !has {
		return nil, fmt.Errorf("is missing")
	}
	members, err := object(raw)
	if err != nil {
		return nil, err
	}
	return &Claims{Issuer: c.Issuer, members: members}, nil
}

// Names returns the names of the claims, sorted.
func (c *Claims) Names() []string { return slices.Sorted(maps.Keys(c.members)) }

// Reader reads tokens for one purpose besides proving who calls, with the keys of a Verifier. What it reads of a token is kept as long as what a
// Verifier keeps. It is safe for concurrent use.
type Reader[T any] struct {
	verifier *Verifier
	types    map[string][]string
	read     func(*Claims) (T, error)
	before   cache[readToken[T]]
}

// readToken is a token that was read before.
type readToken[T any] struct {
	proof

	is T
}

// NewReader returns a reader. types are the "typ" that tokens may have, by issuer: those of other issuers are refused, and so are those that the
// verifier does not know. They should not be types of tokens that serve another purpose. read makes of a token's claims what Read returns; its
// errors are answered as they are, and it must not keep the claims' members for longer than it lives itself.
//
// A verifier that was made by Reopen needs readers of its own.
func NewReader[T any](v *Verifier, types map[string][]string, read func(*Claims) (T, error)) *Reader[T] {
	if types == nil {
		types = map[string][]string{}
	}
	return &Reader[T]{verifier: v, types: types, read: read}
}

// Read returns what a token says to the call that brings it, once its issuer, type, signature and times have been verified, and the client
// certificate that it is bound to. Its end is exact: no leeway goes beyond it. Whom the token is for is not looked at. Errors: those of
// Verifier.Verify, and of the reader's own.
func (r *Reader[T]) Read(ctx context.Context, raw string) (is T, err error) {
	var none T
	digest := sha256.Sum256([]byte(raw))
	v := r.verifier
	if known := r.before.get(digest); known != nil && known.current(v.options.Now()) {
		if err := known.sentBy(ctx); err != nil {
			return none, err
		}
		return known.is, nil
	}
	t, from, k, err := v.signed(ctx, raw, r.types)
	if err != nil {
		return none, err
	}
	found := &readToken[T]{proof: proof{source: from, key: k}}
	claims := &Claims{Issuer: t.issuer, Digest: digest, members: t.members}
	if claims.Audiences, err = audiencesOf(t); err != nil {
		return none, err
	}
	leeway := from.issuer.Leeway
	if claims.Ends, err = found.read(t, leeway); err != nil {
		return none, err
	}
	found.until = claims.Ends
	if err := found.now(v.options.Now(), leeway, 0); err != nil {
		return none, err
	}
	if found.is, err = r.read(claims); err != nil {
		return none, err
	}
	r.before.put(digest, found)
	if err := found.sentBy(ctx); err != nil {
		return none, err
	}
	return found.is, nil
}

// Refused returns what is said of a token that is refused: the words go on after the words that name the token, and never show it.
func Refused(format string, args ...any) error { return refuse(format, args...) }

// Words returns why a token is refused, to go on after other words that name the token.
func Words(refusal string) string { return strings.TrimPrefix(refusal, refusalPrefix) }
