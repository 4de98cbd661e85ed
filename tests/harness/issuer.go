package harness

import (
	"crypto/ecdsa"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// issuerName is the "iss" of an Issuer's tokens, and audience the server's name there.
const issuerName, audience = "https://login.example.com", "https://deputy.example.com"

// Issuer issues tokens to callers, and has its keys in a file. It is safe for concurrent use.
type Issuer struct{ key *ecdsa.PrivateKey }

// NewIssuer makes an issuer.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	return &Issuer{newKey(t)}
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
	return i.Sign(t, token.DefaultType, i.Claims(subject, map[string]any{"client_id": subject}))
}

// ActorToken is a token that is valid for an hour, in which an agent acts for a subject.
func (i *Issuer) ActorToken(t testing.TB, agent, subject string) string {
	t.Helper()
	return i.Sign(t, token.DefaultType, i.Claims(subject, map[string]any{"act": map[string]any{"sub": agent}}))
}

// Actors say how the tokens of ActorToken name agents.
func (*Issuer) Actors(t testing.TB) actor.Issuer {
	t.Helper()
	agent, err := actor.ParseTemplate(actor.Agent, "{act.sub}")
	if err != nil {
		t.Fatal(err)
	}
	principal, err := actor.ParseTemplate(actor.Principal, "user:{sub}")
	if err != nil {
		t.Fatal(err)
	}
	return actor.Issuer{Issuer: issuerName, Audiences: []string{audience}, Agent: agent, Principal: principal}
}
