package facts

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Consent identifies a person's token by which the person consented to a delegation, once. It is the beginning of a SHA-256 digest, so that it
// shows neither the token's id nor its issuer. It stands on no secret of a server's: every server of one graph, now and after a key was
// changed, knows a token that was used by the same Consent.
type Consent string

// NewConsent returns what identifies a token by its issuer and its id (iss and jti), which no two tokens have in common.
func NewConsent(issuer, id string) Consent {
	h := sha256.New()
	for _, part := range []string{"deputy consent", issuer, id} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return Consent(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Object is what the graph remembers the token by: a delegation that there never was. No delegation has such an id: ids are minted in hexadecimal.
func (c Consent) Object() authz.Object {
	return authz.Object{Type: authz.TypeDelegation, ID: "=consent/" + string(c)}
}

// Use is the write that uses the token up. It fails if the token was used before. It belongs into the one write of what the person consented to.
//
//	delegation:=consent/0123…#purged@delegation:=consent/0123…
//
// The tombstone stays, as all do. It has no end, although the token has: a server whose clock is late must not take the token again.
func (c Consent) Use() authz.Update {
	return authz.Update{Operation: authz.Create, Relationship: mark(c.Object(), relPurged)}
}

// UsedFilter selects what there is if the token was used.
func (c Consent) UsedFilter() authz.Filter {
	return authz.Filter{Resource: c.Object(), Relation: relPurged}
}
