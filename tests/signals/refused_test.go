//go:build unix

package signals

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// reason is the reason of a status.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// TestRefused: what is forged, or is no security event for this server, changes nothing, and is answered with RFC 8935's code.
func TestRefused(t *testing.T) {
	w := open(t, overMemory(t))
	claims := func(change func(events.Claims)) events.Claims {
		c := event("account-disabled", user("alice"), nil)
		change(c)
		return c
	}
	signed := func(change func(events.Claims)) string { return w.sign(claims(change)) }
	typed := func(typ string, change func(events.Claims)) string {
		token, err := w.signer.Sign(typ, claims(change))
		w.must(err)
		return token
	}
	nothing := func(events.Claims) {}
	set := func(name string, value any) func(events.Claims) {
		return func(c events.Claims) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		}
	}
	rogue, err := w.rogue.Token(claims(nothing))
	w.must(err)
	good := signed(nothing)
	parts := strings.Split(good, ".")
	for name, test := range map[string]struct{ token, err string }{
		"no token":                             {"", "invalid_request"},
		"garbage":                              {"garbage", "invalid_request"},
		"an unknown key":                       {rogue, "invalid_key"},
		"another payload":                      {parts[0] + "." + strings.Split(signed(set("jti", "x")), ".")[1] + "." + parts[2], "invalid_key"},
		"alg none":                             {unsigned(t, claims(nothing)), "invalid_key"},
		"HS256 with the public key":            {shared(t, w.signer, claims(nothing)), "invalid_key"},
		"an access token":                      {typed("at+jwt", nothing), "invalid_request"},
		"any token":                            {typed("JWT", nothing), "invalid_request"},
		"another issuer that the server knows": {signed(set("iss", other)), "invalid_issuer"},
		"an issuer that nobody knows":          {signed(set("iss", "https://evil.example.com")), "invalid_issuer"},
		"another audience":                     {signed(set("aud", "https://somebody.example.com")), "invalid_audience"},
		"the audience of calls":                {signed(set("aud", "https://deputy.example.com")), "invalid_audience"},
		"no audience":                          {signed(set("aud", nil)), "invalid_request"},
		"a sub":                                {signed(set("sub", "alice")), "invalid_request"},
		"an exp":                               {signed(set("exp", time.Now().Add(time.Hour).Unix())), "invalid_request"},
		"no jti":                               {signed(set("jti", nil)), "invalid_request"},
		"no iat":                               {signed(set("iat", nil)), "invalid_request"},
		"of the future":                        {signed(set("iat", time.Now().Add(5*time.Minute).Unix())), "invalid_request"},
		"of last week":                         {signed(set("iat", time.Now().Add(-7*24*time.Hour).Unix())), "invalid_request"},
		"no events":                            {signed(set("events", map[string]any{})), "invalid_request"},
		"an event that is a number":            {signed(set("events", map[string]any{events.URI("account-disabled"): 1})), "invalid_request"},
		"no subject":                           {signed(set("sub_id", nil)), "invalid_request"},
		"a mail address":                       {signed(set("sub_id", map[string]any{"format": "email", "email": "alice"})), "invalid_request"},
		"another issuer's subject":             {signed(set("sub_id", events.Subject(other, "alice"))), "invalid_request"},
		"everything":                           {signed(set("sub_id", members(map[string]any{}))), "invalid_request"},
		"a device alone":                       {signed(set("sub_id", members(map[string]any{"device": events.Opaque("x")}))), "invalid_request"},
		"a star":                               {signed(set("sub_id", user("*"))), "invalid_request"},
		"aliases of two":                       {signed(set("sub_id", map[string]any{"format": "aliases", "identifiers": []any{user("alice"), user("carol")}})), "invalid_request"},
		"a session that is none":               {signed(set("sub_id", members(map[string]any{"run": events.Opaque("*")}))), "invalid_request"},
	} {
		got := w.push(wideKey, test.token)
		if got.Status != http.StatusBadRequest || got.Err != test.err || got.Description == "" {
			t.Errorf("%s: %+v; want %s", name, got, test.err)
		}
	}
	if got := w.stands(); !slices.Equal(got, everything) {
		t.Errorf("what was refused changed something: %q", got)
	}
	if waits := w.waits(harness.AdminKey); len(waits) > 0 {
		t.Errorf("what was refused waits: %v", waits)
	}
	if got := w.push(wideKey, good); got.Status != http.StatusAccepted { // so nothing but what was changed was refused
		t.Errorf("a good token is answered %+v", got)
	}
	if got, want := w.stands(), without("alice"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// unsigned is a token without a signature.
func unsigned(t *testing.T, claims events.Claims) string {
	return encoded(t, map[string]any{"alg": "none", "typ": "secevent+jwt", "kid": "one"}) + "." + encoded(t, claims) + "."
}

// shared is a token that is signed with a public key, as if it were a secret.
func shared(t *testing.T, s *events.Signer, claims events.Claims) string {
	t.Helper()
	text := encoded(t, map[string]any{"alg": "HS256", "typ": "secevent+jwt", "kid": "one"}) + "." + encoded(t, claims)
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, keys)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// TestOnce: a token takes effect once, no matter which transmitter sends it how often.
func TestOnce(t *testing.T) {
	w := open(t, overMemory(t))
	claims := event("account-disabled", user("alice"), nil)
	token := w.sign(claims)
	answers := make(chan events.Answer)
	for range 8 {
		go func() {
			got, err := events.Push(http.DefaultClient, "http://"+w.HTTPAddr().String()+"/signals", wideKey, token)
			if err != nil {
				t.Error(err)
			}
			answers <- got
		}()
	}
	for range 8 {
		if got := <-answers; got.Status != http.StatusAccepted {
			t.Errorf("%+v", got)
		}
	}
	if got, want := w.stands(), without("alice"); !slices.Equal(got, want) {
		t.Fatalf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
	w.resume("user:alice")
	for _, again := range []string{token, w.sign(claims)} { // ES256 signs differently each time
		if got := w.push(wideKey, again); got.Status != http.StatusAccepted {
			t.Errorf("%+v", got)
		}
	}
	if got, want := w.stands(), without("alice in a session"); !slices.Equal(got, want) {
		t.Errorf("a replay took effect:\n%q\nwant\n%q", got, want)
	}
	another := maps.Clone(claims)
	another["sub_id"] = user("carol")
	if got := w.push(wideKey, w.sign(another)); got.Status != http.StatusBadRequest || got.Err != "invalid_request" {
		t.Errorf("another token of the same name is answered %+v", got)
	}
	if got, want := w.stands(), without("alice in a session"); !slices.Equal(got, want) {
		t.Errorf("another token of the same name took effect:\n%q\nwant\n%q", got, want)
	}
}

// TestOnceEach: a token that came from one transmitter takes effect again from another of the same issuer, which may do more with it. Else a
// transmitter that may do less could keep a signal from taking effect, by sending it first.
func TestOnceEach(t *testing.T) {
	for name, first := range map[string]string{"one for which the subject does not exist": acmeKey, "one whose signals of the kind wait": sessionsKey} {
		t.Run(name, func(t *testing.T) {
			w := open(t, overMemory(t))
			token := w.sign(event("account-disabled", user("erin"), nil))
			if got := w.push(first, token); got.Status != http.StatusAccepted {
				t.Fatalf("%+v", got)
			}
			if got := w.stands(); !slices.Equal(got, everything) {
				t.Fatalf("after the first transmitter:\n%q", got)
			}
			for range 2 {
				if got := w.push(wideKey, token); got.Status != http.StatusAccepted {
					t.Fatalf("%+v", got)
				}
				if got, want := w.stands(), without("erin"); !slices.Equal(got, want) {
					t.Errorf("after the second one:\n%q\nwant\n%q", got, want)
				}
			}
			w.resume("user:erin")
			if got := w.push(wideKey, token); got.Status != http.StatusAccepted {
				t.Fatalf("%+v", got)
			}
			if got, want := w.stands(), without("erin in a session"); !slices.Equal(got, want) {
				t.Errorf("a replay took effect:\n%q\nwant\n%q", got, want)
			}
		})
	}
}
