package actor

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
)

// Tokens are written with the standard library alone, so that what this package reads is not written by what it reads with.

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

var (
	edKey  = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	rsaKey = must(rsa.GenerateKey(rand.Reader, 2048))
	noon   = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
)

// keys is the JWK Set of both keys.
func keys(t testing.TB) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"keys": []any{
		map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": encode(edKey.Public().(ed25519.PublicKey))},
		map[string]any{"kty": "RSA", "kid": "rs", "use": "sig", "n": encode(rsaKey.N.Bytes()), "e": encode(big.NewInt(int64(rsaKey.E)).Bytes())},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sign returns the token of a header and claims. Members that are nil are left out.
func sign(header, claims map[string]any) string {
	all := map[string]any{"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}
	maps.Copy(all, header)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	claims = maps.Clone(claims)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	input := encode(must(json.Marshal(all))) + "." + encode(must(json.Marshal(claims)))
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	switch all["alg"] {
	case "EdDSA":
		signature = ed25519.Sign(edKey, []byte(input))
	case "RS256":
		signature = must(rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, digest[:]))
	case "HS256": // signed with the public key, which everybody has
		public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey.Public()))})
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	}
	return input + "." + encode(signature)
}

// with returns claims with others laid over them.
func with(claims map[string]any, others ...any) map[string]any {
	out := maps.Clone(claims)
	for i := 0; i < len(others); i += 2 {
		out[others[i].(string)] = others[i+1]
	}
	return out
}

const idp = "https://idp.example"

// claimsAtNoon are what a token says of bot, which acts for alice at acme.
func claimsAtNoon() map[string]any {
	return map[string]any{
		"iss": idp, "sub": "alice", "aud": "deputy", "iat": noon.Unix(), "exp": noon.Add(5 * time.Minute).Unix(), "org_id": "acme",
		"act": map[string]any{"sub": "bot"}, "jti": "token-1", "txn": "trip-1",
	}
}

// nested is an act of so many actors.
func nested(depth int) map[string]any {
	act := map[string]any{"sub": "actor-" + string(rune('0'+depth))}
	for i := depth - 1; i > 0; i-- {
		act = map[string]any{"sub": "actor-" + string(rune('0'+i)), "act": act}
	}
	return act
}

// clock is a clock that tests turn, while a verifier's goroutines read it.
type clock struct{ at atomic.Pointer[time.Time] }

// clockAt returns a clock that stands at a moment.
func clockAt(at time.Time) *clock {
	c := &clock{}
	c.turn(at)
	return c
}

func (c *clock) turn(to time.Time) { c.at.Store(&to) }

func (c *clock) now() time.Time { return *c.at.Load() }

// verifier returns a verifier of an issuer with some settings.
func verifier(t testing.TB, c *clock, change func(*Issuer)) *Verifier {
	t.Helper()
	from := token.Issuer{
		Issuer: idp, Algorithms: []string{"EdDSA", "RS256"}, JWKSFile: keys(t), OtherPurposes: true,
	}
	tokens, err := token.Open(t.Context(), []token.Issuer{from}, token.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Close)
	i := Issuer{
		Issuer: idp, Audiences: []string{"deputy"}, Agent: template(t, Agent, "{act.sub}"), Principal: template(t, Principal, "user:{sub}"),
		Tenant: template(t, Tenant, "{org_id}"),
	}
	if change != nil {
		change(&i)
	}
	v, err := New(tokens, []Issuer{i})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// refuses asserts that a token is refused, with words that say why and do not show it.
func refuses(t *testing.T, v *Verifier, raw string, audiences []string, says string) {
	t.Helper()
	actor, err := v.Verify(t.Context(), raw, audiences)
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || actor != nil || e.Kind != authz.Denied || e.Reason != authz.ReasonActorTokenInvalid || e.Field != "actor_token" ||
		!strings.Contains(e.Message, says) || strings.HasPrefix(e.Message, "the token") {
		t.Errorf("the verifier says %+v, %v; want it refused: %s", actor, err, says)
		return
	}
	for part := range strings.SplitSeq(raw, ".") {
		if len(part) > 12 && strings.Contains(err.Error(), part) {
			t.Errorf("the message shows a part of the token: %v", err)
		}
	}
}

// TestVerify: a token names agent, principal and tenant, and its earlier actors are evidence.
func TestVerify(t *testing.T) {
	t.Parallel()
	v := verifier(t, clockAt(noon), nil)
	raw := sign(nil, with(claimsAtNoon(), "act", map[string]any{
		"sub": "bot", "act": map[string]any{"sub": "planner", "iss": "https://other.example", "act": map[string]any{"client_id": "x"}},
	}))
	for range 2 { // once verified, and once from the cache
		actor, err := v.Verify(t.Context(), raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		if actor.Agent != "bot" || actor.AgentName != "bot" || actor.Principal.String() != "user:alice" || actor.Tenant != "acme" ||
			!actor.Ends.Equal(noon.Add(5*time.Minute)) {
			t.Errorf("the token says %+v", actor)
		}
		e := actor.Evidence
		want := []authz.PriorActor{{Issuer: "https://other.example", Subject: "planner"}, {}}
		if e.Issuer != idp || e.ID != "token-1" || e.Transaction != "trip-1" || e.Digest != sha256.Sum256([]byte(raw)) || len(e.Prior) != 2 ||
			e.Prior[0] != want[0] || e.Prior[1] != want[1] {
			t.Errorf("the evidence is %+v", e)
		}
	}
	actor, err := v.Verify(t.Context(), sign(nil, with(claimsAtNoon(), "sub", "alice@example.com")), nil)
	if err != nil || actor.Principal.ID != "=alice=40example=2Ecom" || actor.PrincipalName != "alice@example.com" {
		t.Errorf("an id with other letters is read as %+v, %v", actor, err)
	}
}

// TestRefused: a token that proves nothing is refused, and its caller is told why.
func TestRefused(t *testing.T) {
	t.Parallel()
	v := verifier(t, clockAt(noon), nil)
	c := claimsAtNoon()
	unsigned := sign(map[string]any{"alg": "none", "kid": "ed"}, c)
	for name, one := range map[string]struct{ raw, says string }{
		"expired":           {sign(nil, with(c, "exp", noon.Add(-time.Second).Unix())), "expired at 2026-11-28T11:59:59Z"},
		"ends now":          {sign(nil, with(c, "exp", noon.Unix())), "expired at"},
		"early":             {sign(nil, with(c, "nbf", noon.Add(time.Hour).Unix())), "is valid from 2026-11-28T13:00:00Z on only"},
		"without an end":    {sign(nil, with(c, "exp", nil)), `has no usable "exp"`},
		"another audience":  {sign(nil, with(c, "aud", "files")), "is not for this server"},
		"no audience":       {sign(nil, with(c, "aud", nil)), `has no usable "aud"`},
		"another issuer":    {sign(nil, with(c, "iss", "https://evil.example")), "none of this server's issuers"},
		"another type":      {sign(map[string]any{"typ": "JWT"}, c), `is of the type "JWT"`},
		"a consent":         {sign(map[string]any{"typ": "secevent+jwt"}, c), "is of the type"},
		"no type":           {sign(map[string]any{"typ": nil}, c), "is of the type"},
		"alg none":          {unsigned, `is signed with the algorithm "none"`},
		"alg none, no sig":  {unsigned[:strings.LastIndexByte(unsigned, '.')+1], `is signed with the algorithm "none"`},
		"HS256 with public": {sign(map[string]any{"alg": "HS256", "kid": "rs"}, c), `is signed with the algorithm "HS256"`},
		"another key":       {sign(map[string]any{"kid": "rs"}, c), "which the issuer's key"},
		"a key it brings":   {sign(map[string]any{"jwk": map[string]any{"kty": "OKP"}}, c), `has "jwk" in its header`},
		"no actor":          {sign(nil, with(c, "act", nil)), `has no "act.sub", of which the agent is made`},
		"a wrong actor":     {sign(nil, with(c, "act", "bot")), `has no usable "act"`},
		"no principal":      {sign(nil, with(c, "sub", nil)), `has no usable "sub", of which the principal is made`},
		"no tenant":         {sign(nil, with(c, "org_id", nil)), `has no usable "org_id", of which the tenant is made`},
		"a wildcard":        {sign(nil, with(c, "sub", "*")), `names a principal whose id must name one object`},
		"a long name":       {sign(nil, with(c, "sub", strings.Repeat("a", 513))), "is 513 bytes long"},
		"invisible":         {sign(nil, with(c, "sub", "al\u200bice")), "invisible character"},
		"another's actor":   {sign(nil, with(c, "act", map[string]any{"sub": "bot", "iss": "https://evil.example"})), `has an "act" of another issuer`},
		"five actors":       {sign(nil, with(c, "act", nested(5))), "names more than 4 actors"},
		"nine actors":       {sign(nil, with(c, "act", nested(9))), "names more than 4 actors"},
		"a proof of a key":  {sign(nil, with(c, "cnf", map[string]any{"jkt": "x"})), `has a "cnf" that this server cannot verify`},
		"twice":             {sign(nil, c) + "." + sign(nil, c), "is not a signed JSON Web Token"},
		"no token":          {"bot", "is not a signed JSON Web Token"},
		"too long":          {sign(nil, with(c, "x", strings.Repeat("a", 9000))), "it can have 8192"},
		"a wrong jti":       {sign(nil, with(c, "jti", 7)), `has no usable "jti"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuses(t, v, one.raw, nil, one.says)
		})
	}
	changed := []byte(sign(nil, c))
	changed[len(changed)-10] ^= 1
	refuses(t, v, string(changed), nil, "is not signed with the key")
}

// TestDepth: as many actors as the issuer's settings say are accepted, and never more than eight.
func TestDepth(t *testing.T) {
	t.Parallel()
	for most := 1; most <= MaxDepth; most++ {
		v := verifier(t, clockAt(noon), func(i *Issuer) { i.MaxDepth = most })
		actor, err := v.Verify(t.Context(), sign(nil, with(claimsAtNoon(), "act", nested(most))), nil)
		if err != nil || actor.Agent != "actor-1" || len(actor.Evidence.Prior) != most-1 {
			t.Errorf("%d actors of %d: %+v, %v", most, most, actor, err)
		}
		refuses(t, v, sign(nil, with(claimsAtNoon(), "act", nested(most+1))), nil, "names more than")
	}
	if err := (Issuer{Agent: template(t, Agent, "{act.sub}"), MaxDepth: 9}).Check(); err == nil {
		t.Error("nine actors can be let through")
	}
}

// TestAudience: a caller's own audience is accepted of that caller alone.
func TestAudience(t *testing.T) {
	t.Parallel()
	v := verifier(t, clockAt(noon), nil)
	raw := sign(nil, with(claimsAtNoon(), "aud", []string{"billing", "gateway"}))
	if _, err := v.Verify(t.Context(), raw, []string{"gateway"}); err != nil {
		t.Errorf("of the caller that it was made for: %v", err)
	}
	refuses(t, v, raw, []string{"desk"}, "is not for this server, and not for the caller that sends it")
	refuses(t, v, raw, nil, "is not for this server")
}

// TestEnds: a token that was verified before ends at its end, to the second.
func TestEnds(t *testing.T) {
	t.Parallel()
	c := clockAt(noon)
	v := verifier(t, c, nil)
	raw := sign(nil, claimsAtNoon())
	for _, at := range []time.Duration{0, 5*time.Minute - 1} {
		c.turn(noon.Add(at))
		if _, err := v.Verify(t.Context(), raw, nil); err != nil {
			t.Errorf("%s after: %v", at, err)
		}
	}
	c.turn(noon.Add(5 * time.Minute))
	refuses(t, v, raw, nil, "expired at 2026-11-28T12:05:00Z")
}

// TestOtherShapes: the tokens of issuers that name the parties elsewhere.
func TestOtherShapes(t *testing.T) {
	t.Parallel()
	t.Run("WorkOS inverts act", func(t *testing.T) {
		t.Parallel()
		v := verifier(t, clockAt(noon), func(i *Issuer) {
			i.Agent, i.Principal = template(t, Agent, "workos/{sub}"), template(t, Principal, "user:workos/{act.sub}")
		})
		actor, err := v.Verify(t.Context(), sign(nil, with(claimsAtNoon(), "sub", "agent_01", "act", map[string]any{"sub": "user_01"})), nil)
		if err != nil || actor.AgentName != "workos/agent_01" || actor.PrincipalName != "workos/user_01" {
			t.Errorf("%+v, %v", actor, err)
		}
		refuses(t, v, sign(nil, with(claimsAtNoon(), "act", nil)), nil, `has no "act.sub", of which the principal is made`)
	})
	entra := with(claimsAtNoon(), "act", nil, "oid", "person-1", "tid", "org-1", "azp", "client-1", "preferred_username", "alice@example.com")
	t.Run("Entra", func(t *testing.T) {
		t.Parallel()
		v := verifier(t, clockAt(noon), func(i *Issuer) {
			i.Agent, i.Principal, i.Tenant = template(t, Agent, "{azp}"), template(t, Principal, "user:{oid}@{tid}"), template(t, Tenant, "{tid}")
		})
		actor, err := v.Verify(t.Context(), sign(nil, entra), nil)
		if err != nil || actor.AgentName != "client-1" || actor.PrincipalName != "person-1@org-1" || actor.TenantName != "org-1" {
			t.Errorf("%+v, %v", actor, err)
		}
		// Somebody acts for the client: the templates would pass it by.
		refuses(t, v, sign(nil, with(entra, "act", map[string]any{"sub": "other"})), nil, "neither the agent nor the principal")
	})
	t.Run("the actor's issuer", func(t *testing.T) {
		t.Parallel()
		v := verifier(t, clockAt(noon), func(i *Issuer) { i.Agent = template(t, Agent, "{act.iss}|{act.sub}") })
		actor, err := v.Verify(t.Context(), sign(nil, with(claimsAtNoon(), "act", map[string]any{"sub": "bot", "iss": "https://b.example"})), nil)
		if err != nil || actor.AgentName != "https://b.example|bot" {
			t.Errorf("%+v, %v", actor, err)
		}
		refuses(t, v, sign(nil, claimsAtNoon()), nil, `has no usable "act.iss"`)
	})
}

// certificate is a client certificate with a digest.
type certificate [sha256.Size]byte

func (c certificate) Verify(time.Time) (caller.Identity, error) { return caller.Identity{}, nil }
func (c certificate) Authorities() any                          { return nil }
func (c certificate) Digest() [sha256.Size]byte                 { return c }
func (c certificate) ClientCertificate() caller.Certificate     { return c }
func (c certificate) AuthType() string                          { return "tls" }

var _ credentials.AuthInfo = certificate{}

// TestConfirmation: a token that is bound to a client certificate is taken from the caller that has it, also when it was verified before.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	v := verifier(t, clockAt(noon), nil)
	mine, others := certificate{1}, certificate{2}
	raw := sign(nil, with(claimsAtNoon(), "cnf", map[string]any{"x5t#S256": encode(mine[:])}))
	from := func(c certificate) context.Context { return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: c}) }
	for range 2 {
		if _, err := v.Verify(from(others), raw, nil); err == nil || !strings.Contains(err.Error(), "bound to another client certificate") {
			t.Errorf("with another certificate: %v", err)
		}
		refuses(t, v, raw, nil, "the call comes without one")
		if _, err := v.Verify(from(mine), raw, nil); err != nil {
			t.Errorf("with its certificate: %v", err)
		}
	}
}

// TestNew: two issuers that could make one id are refused, with both named.
func TestNew(t *testing.T) {
	t.Parallel()
	first := Issuer{Issuer: "https://a.example", Agent: template(t, Agent, "{sub}")}
	second := Issuer{Issuer: "https://b.example", Agent: template(t, Agent, "b/{sub}")}
	for _, issuers := range [][]Issuer{{first, second}, {second, first}} {
		_, err := New(nil, issuers)
		if err == nil || !strings.Contains(err.Error(), "https://a.example") || !strings.Contains(err.Error(), "https://b.example") {
			t.Errorf("%v; want both issuers named", err)
		}
	}
	first.Agent = template(t, Agent, "a/{sub}")
	if _, err := New(nil, []Issuer{first, second}); err != nil {
		t.Errorf("issuers apart: %v", err)
	}
}

// FuzzVerify: whatever its issuer signs, nothing panics, and a token that is accepted says what a second reading of its claims says.
func FuzzVerify(f *testing.F) {
	f.Add(string(must(json.Marshal(claimsAtNoon()))))
	f.Add(string(must(json.Marshal(with(claimsAtNoon(), "act", nested(4))))))
	f.Add(string(must(json.Marshal(with(claimsAtNoon(), "act", nested(9))))))
	f.Add(string(must(json.Marshal(with(claimsAtNoon(), "act", map[string]any{"sub": "bot", "iss": idp})))))
	f.Add(`{"act":{"act":null}}`)
	v := verifier(f, clockAt(noon), nil)
	header := encode([]byte(`{"alg":"EdDSA","kid":"ed","typ":"at+jwt"}`))
	f.Fuzz(func(t *testing.T, payload string) {
		input := header + "." + encode([]byte(payload))
		raw := input + "." + encode(ed25519.Sign(edKey, []byte(input)))
		actor, err := v.Verify(t.Context(), raw, nil)
		again, errAgain := v.Verify(t.Context(), raw, nil)
		if (err == nil) != (errAgain == nil) || err == nil && *actor != *again {
			t.Fatalf("first %+v, %v, then %+v, %v", actor, err, again, errAgain)
		}
		if err != nil {
			return
		}
		var second struct {
			Iss, Sub string
			Exp      float64
			Org      string `json:"org_id"`
			Act      struct {
				Sub, Iss string
				Act      json.RawMessage
			}
		}
		if json.Unmarshal([]byte(payload), &second) != nil || second.Iss != idp || second.Sub != actor.PrincipalName || second.Act.Sub != actor.AgentName ||
			second.Org != actor.TenantName || second.Exp <= float64(noon.Unix()) || second.Act.Iss != "" && second.Act.Iss != idp ||
			(second.Act.Act != nil) != (len(actor.Evidence.Prior) > 0) || len(actor.Evidence.Prior) > DefaultDepth-1 {
			t.Errorf("%s says %+v, and in the second reading %+v", payload, actor, second)
		}
	})
}
