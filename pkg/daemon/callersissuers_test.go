package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/codes"
)

// TestIssuersOfTheFile: tokens of an issuer that stands in the file prove who calls, from when it is there until it is not. Its keys are in a
// file beside.
func TestIssuersOfTheFile(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: "1"}},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: "https://login.example.com", Subject: "svc", Audience: jwt.Audience{"deputy"},
		IssuedAt: jwt.NewNumericDate(time.Now()), Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "callers.yaml")
	write(t, filepath.Join(filepath.Dir(path), "keys.json"), string(keys))

	if err := syscall.Mkfifo(filepath.Join(filepath.Dir(path), "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}

	const with = `issuers:
  - {issuer: "https://login.example.com", audiences: [deputy], algorithms: [ES256], jwks_file: keys.json}
callers:
  - {name: svc, ` + reader + `, credentials: [{id: t, issuer: "https://login.example.com", subject: svc}]}
`
	write(t, path, "callers: []\n")
	s := withCallers(t, path, time.Hour)
	if is := s.call(t, token); is != codes.Unauthenticated {
		t.Errorf("without the issuer a token gets %s", is)
	}
	for range 2 { // what verifies tokens comes and goes
		write(t, path, with)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		if is := s.call(t, token); is != codes.OK {
			t.Errorf("a token gets %s", is)
		}
		verifies := s.callers.tokens
		write(t, path, with+"# the issuers are the same\n")
		if err := s.Reload(); err != nil || s.callers.tokens != verifies || s.call(t, token) != codes.OK {
			t.Errorf("with the same issuers: %v, %v, %s", err, s.callers.tokens != verifies, s.call(t, token))
		}
		write(t, path, strings.Replace(with, "keys.json", "no.json", 1))
		if err := s.Reload(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "jwks_file") {
			t.Errorf("without a file of keys: %v", err)
		}
		if is := s.call(t, token); is != codes.OK {
			t.Errorf("with a wrong file a token gets %s", is)
		}
		write(t, path, strings.Replace(with, "keys.json", "pipe", 1))
		if err := s.Reload(); err == nil || !strings.Contains(err.Error(), "is no regular file") {
			t.Errorf("with a named pipe of keys: %v", err)
		}
		write(t, path, "callers: []\n")
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		if is := s.call(t, token); is != codes.Unauthenticated {
			t.Errorf("once the issuer is gone a token gets %s", is)
		}
	}
}

// TestCloseDuringReload: a reload that does not end holds up no end of the server, and puts nothing in force afterwards.
func TestCloseDuringReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	write(t, path, "callers: []\n")
	s := withCallers(t, path, time.Hour)
	s.callers.reloading.Lock()
	defer s.callers.reloading.Unlock()
	if err := s.Close(); err != nil {
		t.Errorf("the end: %v", err)
	}
	book := s.callers.Book()
	if err := s.callers.put(s.callers.life, told{}); err == nil || s.callers.Book() != book {
		t.Errorf("afterwards: %v, another book: %v", err, s.callers.Book() != book)
	}
}
