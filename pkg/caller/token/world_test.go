package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// signer is a key of an issuer. Tokens and key sets are written with the standard library alone, so that what this package reads is not
// written by what it reads with.
type signer struct {
	kid, alg string
	key      crypto.Signer
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk is the public key, as the issuer publishes it.
func (s signer) jwk() map[string]any {
	out := map[string]any{"kid": s.kid, "use": "sig", "alg": s.alg}
	switch k := s.key.Public().(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", encode(k.N.Bytes()), encode(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		out["kty"], out["crv"], out["x"], out["y"] = "EC", k.Params().Name, encode(point[1:1+half]), encode(point[1+half:])
	case ed25519.PublicKey:
		out["kty"], out["crv"], out["x"] = "OKP", "Ed25519", encode(k)
	}
	return out
}

// sign returns the token of a header and a payload, as they are.
func (s signer) sign(header, payload string) string {
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	var (
		signature []byte
		err       error
	)
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(s.alg, "PS") {
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, digest[:])
		}
	case *ecdsa.PrivateKey:
		r, t, failed := ecdsa.Sign(rand.Reader, k, digest[:])
		half := (k.Params().BitSize + 7) / 8
		signature, err = make([]byte, 2*half), failed
		if err == nil {
			r.FillBytes(signature[:half])
			t.FillBytes(signature[half:])
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(input))
	}
	if err != nil {
		panic(err)
	}
	return input + "." + encode(signature)
}

// token signs claims. Members of header lie over the usual ones; those that are nil are left out of either.
func (s signer) token(header, claims map[string]any) string {
	all := map[string]any{"alg": s.alg, "kid": s.kid, "typ": "at+jwt"}
	maps.Copy(all, header)
	return s.sign(jsonOf(all), jsonOf(claims))
}

func jsonOf(members map[string]any) string {
	out := map[string]any{}
	for name, value := range members {
		if value != nil {
			out[name] = value
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// with returns the claims with others laid over them.
func with(claims map[string]any, others ...any) map[string]any {
	out := maps.Clone(claims)
	for i := 0; i < len(others); i += 2 {
		out[others[i].(string)] = others[i+1]
	}
	return out
}

// The keys of all tests. Those that can be are the same in every process, so that what one process that fuzzes has found is signed in the others.
var (
	rs256 = signer{"rs", "RS256", must(rsa.GenerateKey(rand.Reader, 2048))}
	ps256 = signer{"ps", "PS256", must(rsa.GenerateKey(rand.Reader, 2048))}
	es256 = signer{"es", "ES256", must(ecdsa.ParseRawPrivateKey(elliptic.P256(), seed("es")))}
	eddsa = signer{"ed", "EdDSA", ed25519.NewKeyFromSeed(seed("ed"))}
	other = signer{"other", "ES256", must(ecdsa.ParseRawPrivateKey(elliptic.P256(), seed("other")))}
)

func seed(name string) []byte {
	digest := sha256.Sum256([]byte(name))
	return digest[:]
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// keySetOf is a JWK Set.
func keySetOf(keys ...map[string]any) []byte {
	return must(json.Marshal(map[string]any{"keys": keys}))
}

func jwks(signers ...signer) []byte {
	var keys []map[string]any
	for _, s := range signers {
		keys = append(keys, s.jwk())
	}
	return keySetOf(keys...)
}

// jwksFile writes a key set into a file.
func jwksFile(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// login is the issuer of most tests, and claims what its tokens say at a time.
var login = Issuer{
	Issuer: "https://login.example.com", Audiences: []string{"deputy", "deputy-old"}, Algorithms: []string{"RS256", "PS256", "ES256", "EdDSA"},
	JWKSURL: "https://login.example.com/keys",
}

func claimsAt(now time.Time) map[string]any {
	return map[string]any{
		"iss": login.Issuer, "sub": "billing", "aud": "deputy", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
}

// provider answers questions for keys in memory.
type provider struct {
	mu    sync.Mutex
	text  []byte
	fails bool
	asked int
	// hold, if it is not nil, is closed to let answers out.
	hold chan struct{}
}

// RoundTrip is http.RoundTripper's.
func (p *provider) RoundTrip(req *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked++
	text, fails, hold := p.text, p.fails, p.hold
	p.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if fails {
		return nil, errors.New("no route to the issuer")
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(text))), Request: req}, nil
}

// publish changes what is answered; nil has questions fail.
func (p *provider) publish(text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.fails = text, text == nil
}

func (p *provider) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// open opens a verifier that is closed at the end of the test.
func open(t testing.TB, o Options, issuers ...Issuer) *Verifier {
	t.Helper()
	v, err := Open(t.Context(), issuers, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// refused asserts that a token is refused for a reason, and that nothing of it is shown.
func refused(t testing.TB, v *Verifier, raw string, kind authz.Kind, want string) {
	t.Helper()
	said, err := v.Verify(context.Background(), raw)
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != kind || !strings.Contains(e.Message, want) {
		t.Errorf("the verifier says %+v, %v; want an error of kind %d with %q", said, err, kind, want)
		return
	}
	if len(e.Message) > 2000 {
		t.Errorf("the message has %d bytes", len(e.Message))
	}
	for part := range strings.SplitSeq(raw, ".") {
		if len(part) > 12 && strings.Contains(e.Message, part) {
			t.Errorf("the message shows a part of the token: %s", e.Message)
		}
	}
	if said.Issuer != "" || said.Subject != "" || !said.Expires.IsZero() {
		t.Errorf("a refused token says %+v", said)
	}
}

// accepted asserts that a token is accepted, and returns what it says.
func accepted(t testing.TB, v *Verifier, raw string) {
	t.Helper()
	said, err := v.Verify(context.Background(), raw)
	if err != nil || said.Issuer != login.Issuer || said.Subject != "billing" {
		t.Errorf("the verifier says %+v, %v; want billing of %s", said, err, login.Issuer)
	}
}
