package callers_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	people "github.com/deputyauth/deputy/pkg/caller/person"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// kinds are the ways in which a caller proves who it is.
var kinds = []string{"key", "certificate", "JWT"}

// proofs makes what proves the callers of the columns, in each of these ways.
type proofs struct {
	authority *harness.Authority
	issuer    *harness.Issuer
}

func newProofs(t testing.TB) *proofs {
	t.Helper()
	return &proofs{harness.NewAuthority(t, "callers"), harness.NewIssuer(t)}
}

// server has a server take all of them, over TLS.
func (p *proofs) server(t testing.TB, cfg daemon.Config) daemon.Config {
	t.Helper()
	dir := t.TempDir()
	cfg.Issuers = []token.Issuer{p.issuer.Known(t, dir)}
	principal, err := actor.ParseTemplate(actor.Principal, "user:{"+personClaim+"}")
	if err != nil {
		t.Fatal(err)
	}
	cfg.People = []people.Issuer{{Issuer: cfg.Issuers[0].Issuer, Principal: principal}}
	for _, c := range cfg.Callers {
		if isPerson(c.Name) {
			c.Credentials = []caller.Credential{p.issuer.Credential(c.Name)}
			continue
		}
		c.Credentials = append(c.Credentials, caller.Credential{ID: "svid", SPIFFE: spiffeOf(c.Name)}, p.issuer.Credential(c.Name))
	}
	return harness.TLS(t, dir, p.authority, true, cfg)
}

// dial connects as a caller, or as nobody where it has no name.
func (p *proofs) dial(t testing.TB, addr, kind, name string) *grpc.ClientConn {
	t.Helper()
	switch {
	case name == "":
		return harness.DialTLS(t, addr, "", p.authority)
	case isPerson(name):
		own := p.issuer.Sign(t, token.DefaultType, p.issuer.Claims(name, map[string]any{personClaim: "alice-acme"}))
		return harness.DialTLS(t, addr, own, p.authority)
	case kind == "certificate":
		return harness.DialTLS(t, addr, "", p.authority, p.authority.Issue(t, harness.ForURI(spiffeOf(name))))
	case kind == "JWT":
		return harness.DialTLS(t, addr, p.issuer.Token(t, name), p.authority)
	default:
		return harness.DialTLS(t, addr, keyOf(name), p.authority)
	}
}

// dialHTTP connects as a caller likewise, to the door over HTTP.
func (p *proofs) dialHTTP(t testing.TB, addr, protocol, kind, name string) *harness.HTTPConn {
	t.Helper()
	key, config := "", harness.WithTLS(p.authority)
	switch {
	case name == "":
	case isPerson(name):
		key = p.issuer.Sign(t, token.DefaultType, p.issuer.Claims(name, map[string]any{personClaim: "alice-acme"}))
	case kind == "certificate":
		config = harness.WithTLS(p.authority, p.authority.Issue(t, harness.ForURI(spiffeOf(name))))
	case kind == "JWT":
		key = p.issuer.Token(t, name)
	default:
		key = keyOf(name)
	}
	return harness.DialHTTP(t, addr, key, protocol, config)
}

func keyOf(name string) string    { return "the-key-of-" + name }
func spiffeOf(name string) string { return "spiffe://example.org/" + name }

// personClaim is the claim of a token that says which person's own it is. Its subject is the caller's name, as of all tokens here.
const personClaim = "person"

func isPerson(name string) bool { return strings.HasPrefix(name, self+"-") }
