//go:build unix

package signals

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// TestMain is the command line when the binary is called by its name, and else the tests.
func TestMain(m *testing.M) { process.Main(m.Run) }

const (
	issuer   = "https://idp.example.com"
	other    = "https://other.example.com"
	audience = "https://deputy.example.com/signals"

	// The keys of callers: a transmitter that is not bound to tenants, one that is bound to acme, one that may have nothing but sessions end, a
	// responder of acme's, and one that is no transmitter.
	wideKey, acmeKey, sessionsKey, respondsKey, checksKey = "key-of-the-wide-one", "key-of-the-acme-one", "key-of-the-sessions-one",
		"key-of-the-responder", "key-of-the-checker"
)

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent
	permission view = reader
}
`

// acts are who acts for whom, and where.
var acts = []act{
	{"bot", "alice", "acme"}, {"bot", "carol", "acme"}, {"bot", "carol", "globex"}, {"helper", "alice", "acme"}, {"helper", "erin", "globex"},
}

type act struct{ agent, user, tenant string }

// world is a server that takes signals, and transmitters of them.
type world struct {
	*harness.Server
	t      *testing.T
	signer *events.Signer
	// rogue has a key that the server does not know.
	rogue *events.Signer
	// sessions are those of acts, and direct their delegations that take no session.
	sessions, direct map[act]string
}

// known writes the keys of a signer into a file, and is the issuer as a server knows it.
func known(t testing.TB, name string, s *events.Signer) token.Issuer {
	t.Helper()
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	return token.Issuer{Issuer: name, Audiences: []string{"https://deputy.example.com"}, Algorithms: []string{"ES256"}, JWKSFile: path}
}

func newSigner(t testing.TB) *events.Signer {
	t.Helper()
	s, err := events.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// may is what a transmitter may send.
func may(most int, kinds ...string) *caller.Signals {
	s := &caller.Signals{
		Issuer: issuer, Audiences: []string{audience}, Kinds: authz.AllNames(), MaxSubjects: most,
		Subjects: map[string]caller.SubjectName{
			"user": {Type: "user"}, "tenant": {Type: "tenant"}, "application": {Type: "agent"}, "run": {Type: "session"},
		},
	}
	if len(kinds) > 0 {
		s.Kinds = authz.NamesOf(kinds...)
	}
	return s
}

// callers are those of every world.
func callers() []*caller.Caller {
	acme := authz.Unbounded()
	acme.Tenants = authz.NamesOf("acme")
	transmitter := caller.RolesOf(deputyv1.Role_ROLE_TRANSMITTER)
	all := []*caller.Caller{
		{Name: "wide", Roles: transmitter, Bounds: authz.Unbounded(), Signals: may(3)},
		{Name: "acme", Roles: transmitter, Bounds: acme, Signals: may(100)},
		{Name: "sessions", Roles: transmitter, Bounds: authz.Unbounded(), Signals: may(100, "session-revoked")},
		{Name: "responds", Roles: caller.RolesOf(deputyv1.Role_ROLE_RESPONDER), Bounds: acme},
		{Name: "checks", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), Bounds: authz.Unbounded()},
	}
	for i, key := range []string{wideKey, acmeKey, sessionsKey, respondsKey, checksKey} {
		all[i].Credentials = []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(key))}}
	}
	return all
}

func open(t *testing.T, change func(*daemon.Config)) *world {
	t.Helper()
	w := &world{t: t, signer: newSigner(t), rogue: newSigner(t)}
	cfg := daemon.Config{
		Engine: harness.Embedded(t), HTTPAddr: "127.0.0.1:0", Callers: callers(),
		Issuers: []token.Issuer{known(t, issuer, w.signer), known(t, other, w.signer)},
	}
	if change != nil {
		change(&cfg)
	}
	w.Server = harness.Start(t, cfg)
	w.fill()
	return w
}

// overMemory has the graph in memory.
func overMemory(t *testing.T) func(*daemon.Config) {
	t.Helper()
	return func(cfg *daemon.Config) {
		cfg.Engine, cfg.SignalsDir = engine.Config{Kind: engine.Memory}, t.TempDir()
	}
}

// fill writes the graph, and has every act begin.
func (w *world) fill() {
	w.WriteSchema(w.t, schema.Core+domain)
	for _, one := range []string{"tenant:acme", "tenant:globex", "user:alice", "user:carol", "user:erin"} {
		w.resume(one)
	}
	for _, agent := range []string{"bot", "helper"} {
		_, err := w.Agents().RegisterAgent(w.t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"alice"}})
		w.must(err)
	}
	for _, a := range acts {
		w.Touch(w.t, "tenant:"+a.tenant+"#member@user:"+a.user, "tenant:"+a.tenant+"#agent@agent:"+a.agent,
			"document:"+a.tenant+"#tenant@tenant:"+a.tenant, "document:"+a.tenant+"#reader@user:"+a.user, "document:"+a.tenant+"#reader@agent:"+a.agent)
	}
	w.begin()
}

// begin has every act begin that can.
func (w *world) begin() {
	w.sessions, w.direct = map[act]string{}, map[act]string{}
	for _, a := range acts {
		made, err := deputyv1.NewDelegationsServiceClient(w.Admin).CreateDelegation(w.t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: a.agent, TenantId: a.tenant, Unscoped: true, AllowDirect: true, Ttl: durationpb.New(time.Hour),
			Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:" + a.user)},
		})
		w.must(err)
		w.direct[a] = made.GetDelegation().GetDelegationId()
		started, err := deputyv1.NewSessionsServiceClient(w.Admin).StartSession(w.t.Context(), &deputyv1.StartSessionRequest{
			AgentId: a.agent, Ttl: durationpb.New(time.Hour), Targets: []*deputyv1.SessionTarget{{DelegationId: w.direct[a]}},
		})
		w.must(err)
		w.sessions[a] = started.GetSession().GetSessionId()
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// resume lets agents act for something again.
func (w *world) resume(one string) {
	w.t.Helper()
	_, err := w.Principals().Resume(w.t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(one)})
	w.must(err)
}

// may reports whether an act is allowed, in its session or by its delegation.
func (w *world) may(a act, inSession bool) bool {
	w.t.Helper()
	q := &deputyv1.CheckPermissionRequest{
		AgentId: a.agent, TenantId: a.tenant, OnBehalfOf: harness.Ref("user:" + a.user), Resource: harness.Ref("document:" + a.tenant), Permission: "view",
		Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: w.direct[a]},
	}
	if inSession {
		q.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.sessions[a]}
	}
	got, err := w.Permissions().CheckPermission(w.t.Context(), q)
	w.must(err)
	return got.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
}

// stands returns what is allowed now: "bot for alice in acme" directly, and with "in a session" besides.
func (w *world) stands() (all []string) {
	w.t.Helper()
	for _, a := range acts {
		name := a.agent + " for " + a.user + " in " + a.tenant
		if w.may(a, false) {
			all = append(all, name)
		}
		if w.may(a, true) {
			all = append(all, name+" in a session")
		}
	}
	slices.Sort(all)
	return all
}

// push sends a token.
func (w *world) push(key, token string) events.Answer {
	w.t.Helper()
	got, err := events.Push(http.DefaultClient, "http://"+w.HTTPAddr().String()+"/signals", key, token)
	w.must(err)
	return got
}

// event is the claims of an event that is new.
func event(name string, subject any, payload map[string]any) events.Claims {
	return events.Event(issuer, audience, rand.Text(), name, subject, payload)
}

// sign signs claims.
func (w *world) sign(claims events.Claims) string {
	w.t.Helper()
	token, err := w.signer.Token(claims)
	w.must(err)
	return token
}

// send sends an event, which is to be taken.
func (w *world) send(key string, claims events.Claims) {
	w.t.Helper()
	if got := w.push(key, w.sign(claims)); got.Status != http.StatusAccepted {
		w.t.Fatalf("the event was answered %d %s: %s", got.Status, got.Err, got.Description)
	}
}

// waits are the signals that wait, as a caller has them.
func (w *world) waits(key string) []*deputyv1.Signal {
	w.t.Helper()
	got, err := deputyv1.NewSignalsServiceClient(harness.Dial(w.t, w.Addr().String(), key)).ListSignals(w.t.Context(), &deputyv1.ListSignalsRequest{})
	w.must(err)
	return got.GetSignals()
}

func user(sub string) map[string]any { return events.Subject(issuer, sub) }
func tenant(id string) map[string]any {
	return events.Complex(map[string]any{"tenant": events.Opaque(id)})
}
func members(of map[string]any) map[string]any { return events.Complex(of) }
