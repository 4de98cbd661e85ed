package callers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// The issuer of the callers' tokens, and the server's name there.
const (
	issuer   = "https://login.example.com"
	audience = "https://deputy.example.com"
)

// proofs makes what proves the callers of the columns, in each way that there is.
type proofs struct {
	authority *harness.Authority
	key       *ecdsa.PrivateKey
	signer    jose.Signer
}

func newProofs(t testing.TB) *proofs {
	t.Helper()
	p := &proofs{authority: harness.NewAuthority(t, "callers")}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "one"}}
	if p.signer, err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType(token.DefaultType)); err != nil {
		t.Fatal(err)
	}
	return p
}

// server is a server that takes all of them, over TLS.
func (p *proofs) server(t testing.TB, cfg daemon.Config) daemon.Config {
	t.Helper()
	dir := t.TempDir()
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: p.key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "jwks.json")
	if err := os.WriteFile(file, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Issuers = []token.Issuer{{
		Issuer: issuer, Audiences: []string{audience}, Algorithms: []string{string(jose.ES256)}, JWKSFile: file,
	}}
	return harness.TLS(t, dir, p.authority, true, cfg)
}

// credentials are those of a caller, by what names it.
func credentials(name string) []caller.Credential {
	return []caller.Credential{
		{ID: "key", Key: digest(keyOf(name))},
		{ID: "svid", SPIFFE: spiffeOf(name)},
		{ID: "token", Issuer: issuer, Subject: name},
	}
}

func keyOf(name string) string    { return "the-key-of-" + name }
func spiffeOf(name string) string { return "spiffe://example.org/" + name }

// token is a token of a caller's.
func (p *proofs) token(t testing.TB, name string) string {
	t.Helper()
	now := time.Now()
	said, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": name, "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": fmt.Sprint(now.UnixNano()),
		"client_id": name,
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := p.signer.Sign(said)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// kinds are the ways in which a caller proves who it is.
var kinds = []string{"key", "certificate", "JWT"}

// dial connects as a caller, or as nobody where it has no name.
func (p *proofs) dial(t testing.TB, addr, kind, name string) *grpc.ClientConn {
	t.Helper()
	switch {
	case name == "":
		return harness.DialTLS(t, addr, "", p.authority)
	case kind == "certificate":
		return harness.DialTLS(t, addr, "", p.authority, p.authority.Issue(t, harness.ForURI(spiffeOf(name))))
	case kind == "JWT":
		return harness.DialTLS(t, addr, p.token(t, name), p.authority)
	default:
		return harness.DialTLS(t, addr, keyOf(name), p.authority)
	}
}
