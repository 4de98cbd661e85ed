package tokens

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// signed makes an issuer whose keys are in a file, and a token of it for billing.
func signed(t testing.TB) (token.Issuer, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: string(jose.EdDSA), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: "k"}},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: "https://login.example.com", Subject: "billing", Audience: jwt.Audience{"deputy"}, Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token.Issuer{
		Issuer: "https://login.example.com", Audiences: []string{"deputy"}, Algorithms: []string{"EdDSA"}, JWKSFile: file,
	}, raw
}

// BenchmarkCall: a decision for a caller with a preshared key, and for one with a token that was verified before, over loopback, in turns. It
// reports the quickest hundred of each.
func BenchmarkCall(b *testing.B) {
	issuer, raw := signed(b)
	s := harness.Start(b, daemon.Config{
		Engine: harness.Embedded(b), Issuers: []token.Issuer{issuer},
		Callers: []*caller.Caller{{
			Name: "billing", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), Bounds: authz.Unbounded(),
			Credentials: []caller.Credential{{ID: "login", Issuer: issuer.Issuer, Subject: "billing"}},
		}},
	})
	session := furnish(b, s)
	hundred := func(conn *grpc.ClientConn) time.Duration {
		client, began := deputyv1.NewPermissionsServiceClient(conn), time.Now()
		for range 100 {
			decision, err := client.CheckPermission(b.Context(), &deputyv1.CheckPermissionRequest{
				AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session},
				Resource: harness.Ref("document:plan"), Permission: "view",
			})
			if err != nil || decision.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
				b.Fatal(decision, err)
			}
		}
		return time.Since(began) / 100
	}
	withToken := harness.Dial(b, s.Addr().String(), raw)
	byKey, byToken := hundred(s.Service), hundred(withToken)
	for b.Loop() {
		byKey, byToken = min(byKey, hundred(s.Service)), min(byToken, hundred(withToken))
	}
	b.ReportMetric(float64(byKey), "key-ns/call")
	b.ReportMetric(float64(byToken), "token-ns/call")
	b.ReportMetric(float64(byToken)/float64(byKey), "token/key")
}
