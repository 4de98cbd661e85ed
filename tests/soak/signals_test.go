//go:build linux

package soak

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

const (
	providerName     = "https://idp.example.com"
	providerAudience = "https://deputy.example.com/signals"
	providerKey      = "key-of-the-provider"
)

// provider transmits security events to a server.
type provider struct {
	*events.Signer
	addr   string
	client *http.Client
}

// newProvider makes a provider, and a file of callers that has it.
func newProvider(t *testing.T, dir string) (p *provider, callers string) {
	t.Helper()
	signer, err := events.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signer.Keys()
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = &provider{signer, l.Addr().String(), &http.Client{Timeout: patience}}
	_ = l.Close() // the server takes the port
	callers = filepath.Join(dir, "callers.yaml")
	for path, text := range map[string]string{
		filepath.Join(dir, "idp.json"): string(keys),
		callers: fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [calls], algorithms: [ES256], jwks_file: idp.json}
callers:
  - name: idp
    roles: [transmitter]
    tenants: all
    signals: {issuer: %q, audiences: [%q], subjects: {user: "user:{id}"}}
    credentials: [{id: key, key: "sha256:%x"}]
`, providerName, providerName, providerAudience, sha256.Sum256([]byte(providerKey))),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p, callers
}

// push sends a token.
func (p *provider) push(token string) error {
	got, err := events.Push(p.client, "http://"+p.addr+"/signals", providerKey, token)
	if err == nil && got.Status != http.StatusAccepted {
		err = fmt.Errorf("%+v", got)
	}
	return err
}

// signals has a provider disable the account of a user, whom an admin resumes, and sends the same token again.
func (l *load) signals(ctx context.Context, name string) {
	id, ok := l.delegate(ctx, name)
	if !ok {
		return
	}
	event := func(what string) string {
		token, err := l.provider.Token(events.Event(providerName, providerAudience, rand.Text(), what, events.Subject(providerName, name), nil))
		if err != nil {
			l.faultf("signing: %v", err)
		}
		return token
	}
	every(ctx, 250*time.Millisecond, func(int) {
		disabled := event("account-disabled")
		push := func(token string) func(context.Context) error {
			return func(context.Context) error { return l.provider.push(token) }
		}
		if l.call(ctx, "signal", push(disabled)) {
			l.expect(ctx, "after a signal", false, under(name, id))
		}
		if l.call(ctx, "signal that changes nothing", push(event("account-enabled"))) {
			l.expect(ctx, "after a signal", false, under(name, id))
		}
		if !l.call(ctx, "resume user", func(ctx context.Context) error {
			_, err := deputyv1.NewPrincipalsServiceClient(l.admin).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref("user:" + name)})
			return err
		}) {
			return
		}
		if l.call(ctx, "signal that is sent again", push(disabled)) {
			l.expect(ctx, "after a signal that was sent again", true, under(name, id))
		}
	})
}
