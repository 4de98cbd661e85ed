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

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
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

// TestCredentialsThatProveNothing: the log says, at the start and whenever the file changes, that certificates are credentials of a server that
// asks for none.
func TestCredentialsThatProveNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	write(t, path, "callers: [{name: svc, "+reader+`, credentials: [{id: c, dns: svc.example.org}]}]`+"\n")
	s := withCallers(t, path, time.Hour)
	const says = "a caller's credential proves nothing here, and there may be more"
	if n := s.log.FilterMessage(says).Len(); n != 1 {
		t.Errorf("at the start the log says so %d times", n)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if n := s.log.FilterMessage(says).Len(); n != 2 {
		t.Errorf("after a reload the log says so %d times", n)
	}
	write(t, path, "callers: []\n")
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if n := s.log.FilterMessage(says).Len(); n != 2 {
		t.Errorf("without such a credential the log says so %d times", n)
	}
}

// TestNamesGiveNoRights: that a caller is named as the server's own gives it nothing of theirs, and none of a server's is.
func TestNamesGiveNoRights(t *testing.T) {
	t.Parallel()
	acme := &authz.Bounds{Tenants: authz.NamesOf("acme")}
	own := caller.Preshared([]string{"key"}, []string{"key"})
	for what, test := range map[string]struct {
		caller *caller.Caller
		seals  bool
	}{
		"the services' preshared keys": {own[0], false},
		"the admins'":                  {own[1], false},
		"one of the services' name":    {&caller.Caller{Name: caller.ServiceName, Roles: own[0].Roles, Bounds: authz.Unbounded()}, true},
		"a confined one of that name":  {&caller.Caller{Name: caller.ServiceName, Roles: own[0].Roles, Bounds: acme}, true},
		"a confined admin":             {&caller.Caller{Name: caller.AdminName, Roles: own[1].Roles, Bounds: acme}, true},
	} {
		if got := rights(caller.With(t.Context(), test.caller)); got.Seals != test.seals {
			t.Errorf("%s: sealed is %v", what, got.Seals)
		}
	}
	for _, name := range []string{caller.ServiceName, caller.AdminName, caller.InProcessName, caller.NobodyName, caller.OtherName} {
		if _, err := caller.NewBook([]*caller.Caller{{Name: name}}, nil); err == nil || !strings.Contains(err.Error(), "no caller can be named") {
			t.Errorf("a caller named %q: %v", name, err)
		}
	}
}
