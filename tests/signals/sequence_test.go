//go:build unix

package signals

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/tests/signals/events"
)

// drawn is how many sequences of signals are drawn.
const drawn = 6

// TestNeverWidens: over random sequences of all sorts of signals, fresh, repeated, old and out of order, nothing that was refused is ever allowed.
func TestNeverWidens(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DEPUTY_SIGNALS_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("DEPUTY_SIGNALS_SEED=%d", seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	pick := func(of ...string) string { return of[draw.IntN(len(of))] }
	for range drawn {
		w := open(t, overMemory(t))
		before := w.stands()
		var sent []string
		for range 25 {
			of := map[string]any{}
			if draw.IntN(3) > 0 {
				of["user"] = user(pick("alice", "carol", "erin", "nobody"))
			}
			if draw.IntN(3) == 0 {
				of["tenant"] = events.Opaque(pick("acme", "globex", "nowhere"))
			}
			if draw.IntN(4) == 0 {
				of["application"] = events.Opaque(pick("bot", "helper"))
			}
			if draw.IntN(6) == 0 {
				of["device"] = events.Opaque("x")
			}
			name := pick("session-revoked", "token-claims-change", "credential-change", "risk-level-change", "account-disabled", "account-enabled",
				"account-enabled", "risk-level-change", "session-established", "verification")
			says := map[string]any{
				"previous_level": pick("LOW", "MEDIUM", "HIGH"), "current_level": pick("LOW", "MEDIUM", "HIGH"),
				"change_type": pick("create", "revoke", "update", "delete"), "event_timestamp": time.Now().Unix() - draw.Int64N(200_000),
			}
			token := w.sign(event(name, members(of), says))
			if len(sent) > 0 && draw.IntN(4) == 0 {
				token = sent[draw.IntN(len(sent))]
			}
			sent = append(sent, token)
			got := w.push([]string{wideKey, acmeKey, sessionsKey}[draw.IntN(3)], token)
			if got.Status != http.StatusAccepted && got.Status != http.StatusBadRequest {
				t.Fatalf("%s of %v: %+v", name, of, got)
			}
			now := w.stands()
			for _, one := range now {
				if !slices.Contains(before, one) {
					t.Fatalf("after %s of %v %s is allowed, which was not before", name, of, one)
				}
			}
			before = now
		}
	}
}

// TestKilled: a server that is killed while signals come in forgets none that it has answered, and each takes effect once.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	signer := newSigner(t)
	file := filepath.Join(dir, "callers.yaml")
	keys := known(t, issuer, signer)
	text := fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [x], algorithms: [ES256], jwks_file: %q}
callers:
  - name: idp
    roles: [transmitter]
    tenants: all
    signals: {issuer: %q, audiences: [%q], subjects: {user: "user:{id}"}}
    credentials: [{id: key, key: "sha256:%x"}]
`, issuer, keys.JWKSFile, issuer, audience, digest(wideKey))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, dir, file)
	resumed := map[string]bool{}
	var answered []string
	for round := range 8 {
		// Signals about new users, one after the other, until the server is gone in the middle of them.
		stopped, enough := make(chan []string), make(chan struct{})
		most := 3 + rand.IntN(30)
		go func() {
			var ok []string
			for n := 0; ; n++ {
				who := fmt.Sprintf("user-%d-%d", round, n)
				token, err := signer.Token(events.Event(issuer, audience, who, "account-disabled", user(who), nil))
				if err != nil {
					t.Error(err)
				}
				got, err := events.Push(http.DefaultClient, s.url, wideKey, token)
				if err != nil {
					break
				}
				if got.Status != http.StatusAccepted {
					t.Errorf("%+v", got)
					break
				}
				if ok = append(ok, who); len(ok) == most {
					close(enough) // and goes on, so that the kill meets it anywhere
				}
			}
			stopped <- ok
		}()
		<-enough
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		answered = append(answered, <-stopped...)
		s = serve(t, dir, file)
		for i, who := range answered {
			if !s.suspended(t, who) != resumed[who] {
				t.Fatalf("the signal about %s was answered; suspended: %v, resumed by a person: %v", who, s.suspended(t, who), resumed[who])
			}
			if i%3 == 0 && !resumed[who] { // a person lets it go again, and no replay takes it back
				s.resume(t, who)
				resumed[who] = true
			}
			if i%5 == 0 {
				token, err := signer.Token(events.Event(issuer, audience, who, "account-disabled", user(who), nil))
				if err != nil {
					t.Fatal(err)
				}
				// Its "iat" is another second's by now: so it is no replay, and says that it is none.
				got, err := events.Push(http.DefaultClient, s.url, wideKey, token)
				if err != nil || got.Status != http.StatusAccepted && !strings.Contains(got.Description, `"jti" of another one`) {
					t.Fatalf("%+v, %v", got, err)
				}
			}
		}
	}
	t.Logf("%d signals were answered, and %d kills", len(answered), 8)
	if len(answered) < 8 {
		t.Errorf("only %d signals were answered: the kills came too early to show anything", len(answered))
	}
}
