package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// TestSignals measures how long it takes from when a transmitter begins to send a security event until the first check is refused, by itself and
// while others ask for decisions, and how many signals a second are taken.
func TestSignals(t *testing.T) {
	const issuer, audience, key = "https://idp.example.com", "https://deputy.example.com/signals", "the-key-of-the-transmitter"
	signer, err := events.NewSigner()
	must(t, err)
	keys, err := signer.Keys()
	must(t, err)
	file := filepath.Join(t.TempDir(), "jwks.json")
	must(t, os.WriteFile(file, keys, 0o600))
	cfg := daemon.Config{
		Engine: harness.Embedded(t), HTTPAddr: "127.0.0.1:0",
		Issuers: []token.Issuer{{Issuer: issuer, Audiences: []string{"calls"}, Algorithms: []string{"ES256"}, JWKSFile: file}},
		Callers: []*caller.Caller{{
			Name: "idp", Roles: caller.RolesOf(deputyv1.Role_ROLE_TRANSMITTER), Bounds: authz.Unbounded(),
			Signals: &caller.Signals{
				Issuer: issuer, Audiences: []string{audience}, Kinds: authz.AllNames(), MaxSubjects: 1,
				Subjects: map[string]caller.SubjectName{"user": {Type: "user"}},
			},
			Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(key))}},
		}},
	}
	cfg.Engine.CacheBytes = 0
	g := sized(scaled(87_300, 5_000))
	server := harness.Start(t, cfg)
	d := dialDeputy(t, server.Addr().String())
	runs := d.settle(t, g)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	send := func(name, sub string, payload map[string]any) error {
		text, err := signer.Token(events.Event(issuer, audience, rand.Text(), name, events.Subject(issuer, sub), payload))
		if err != nil {
			return err
		}
		got, err := events.Push(client, "http://"+server.HTTPAddr().String()+"/signals", key, text)
		if err == nil && got.Status != http.StatusAccepted {
			err = fmt.Errorf("%+v", got)
		}
		return err
	}
	refused := func(name string, times int) {
		var took []float64
		for n := range times {
			who := n % g.tenants
			owner := 1 + usersPerRun + n/g.tenants%10
			run := agentRun{number: who, tenant: tenant(who), agent: agent(who, 0), user: user(who, owner)}
			_, err := server.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:" + run.user)})
			must(t, err)
			must(t, d.run(t.Context(), &run))
			q := question{run, owned(t, who, owner)}
			begun := time.Now()
			r := untilRefused(t, func(context.Context) error {
				begun = time.Now()
				return send("account-disabled", run.user, nil)
			}, func(ctx context.Context) (bool, error) {
				return decide(d.decisions, func(*mathrand.Rand) question { return q })(ctx, nil)
			})
			if r.stale > 0 {
				t.Errorf("%d checks were allowed after the signal was answered", r.stale)
			}
			took = append(took, float64(time.Since(begun).Microseconds())/1000)
		}
		slices.Sort(took)
		add(t, "from a signal that is sent to the first refused check, median: "+name, median(took), "ms")
		add(t, "from a signal that is sent to the first refused check, p99: "+name, took[(len(took)*99)/100], "ms")
	}
	refused("alone", scaled(300, 2))
	stop := crowd(t, 8, decide(d.decisions, cold(runs)))
	refused("beside 8 workers", scaled(300, 2))
	stop()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
