package callers_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/signals/events"
)

const (
	providerName     = "https://idp.example.com"
	providerAudience = "https://deputy.example.com/signals"
)

// transmits is what the transmitters may send.
func transmits() *caller.Signals {
	return &caller.Signals{
		Issuer: providerName, Audiences: []string{providerAudience}, Kinds: authz.AllNames(), MaxSubjects: 10,
		Subjects: map[string]caller.SubjectName{"user": {Type: "user"}, "tenant": {Type: "tenant"}},
	}
}

// provider signs security events.
type provider struct{ *events.Signer }

func newProvider(t *testing.T) *provider {
	t.Helper()
	signer, err := events.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return &provider{signer}
}

// known is the provider as a server knows it.
func (p *provider) known(t *testing.T) token.Issuer {
	t.Helper()
	keys, err := p.Keys()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "idp.json")
	if err := os.WriteFile(path, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return token.Issuer{Issuer: providerName, Audiences: []string{"calls"}, Algorithms: []string{"ES256"}, JWKSFile: path}
}

// event is the token of an event about a user in a tenant that happened long ago, so that it waits, and changes nothing.
func (w *world) event(user, tenant string) string {
	w.t.Helper()
	subject := events.Complex(map[string]any{"user": events.Subject(providerName, user), "tenant": events.Opaque(tenant)})
	token, err := w.provider.Token(events.Event(providerName, providerAudience, rand.Text(), "session-revoked", subject,
		map[string]any{"event_timestamp": 1}))
	w.must(err)
	return token
}

// waiting is the id of such an event that waits, about somebody whom the tenant has and who has no session. It is the same one until it is decided.
func (w *world) waiting(in string) string {
	w.t.Helper()
	if id := w.waits[in]; id != "" {
		return id
	}
	got, err := deputyv1.NewSignalsServiceClient(w.transmitter).ReceiveSignal(w.t.Context(), &deputyv1.ReceiveSignalRequest{Token: w.event("carol-"+in, in)})
	w.must(err)
	w.waits[in] = got.GetSignal().GetSignalId()
	return w.waits[in]
}
