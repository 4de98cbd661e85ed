package harness

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Claims are those of a token of a subject's that is valid for an hour, with an id of its own, for the server's name as audience. more are set
// besides, or instead; nil takes a claim out.
func (i *Issuer) Claims(subject string, more map[string]any) map[string]any {
	now := time.Now()
	said := map[string]any{
		"iss": issuerName, "sub": subject, "aud": audience, "client_id": "an-app", "jti": fmt.Sprint(rand.Uint64()),
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, value := range more {
		if said[name] = value; value == nil {
			delete(said, name)
		}
	}
	return said
}

// Sign makes a token of a type, of claims.
func (i *Issuer) Sign(t testing.TB, typ string, claims map[string]any) string {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "one"}}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
