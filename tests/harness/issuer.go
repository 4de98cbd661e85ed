package harness

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// issuerName is the "iss" of an Issuer's tokens, and audience the server's name there.
const issuerName, audience = "https://login.example.com", "https://deputy.example.com"

// Issuer issues tokens to callers, and has its keys in a file. It is safe for concurrent use.
type Issuer struct {
	key    *ecdsa.PrivateKey
	signer jose.Signer
}

// NewIssuer makes an issuer.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{key: newKey(t)}
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "one"}}
	var err error
	if i.signer, err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType(token.DefaultType)); err != nil {
		t.Fatal(err)
	}
	return i
}

// Known is the issuer as a server knows it, with a file of its keys in a directory.
func (i *Issuer) Known(t testing.TB, dir string) token.Issuer {
	t.Helper()
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: i.key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "jwks.json")
	if err := os.WriteFile(file, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return token.Issuer{Issuer: issuerName, Audiences: []string{audience}, Algorithms: []string{string(jose.ES256)}, JWKSFile: file}
}

// Credential is what a subject's tokens prove.
func (*Issuer) Credential(subject string) caller.Credential {
	return caller.Credential{ID: "token", Issuer: issuerName, Subject: subject}
}

// Token is a token of a subject's that is valid for an hour.
func (i *Issuer) Token(t testing.TB, subject string) string {
	t.Helper()
	now := time.Now()
	said, err := json.Marshal(map[string]any{
		"iss": issuerName, "sub": subject, "aud": audience, "client_id": subject, "jti": fmt.Sprint(now.UnixNano()),
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := i.signer.Sign(said)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
