// Package tokens has callers prove who they are with tokens of a real OpenID provider.
package tokens

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// provider is a running OpenID provider: see the folder provider.
type provider struct{ issuer string }

// startProvider builds the provider and runs it until the test ends.
func startProvider(t testing.TB) provider {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "provider")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir = "provider"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), binary)
	stdin, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		_ = run.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return provider{strings.TrimSpace(line)}
}

// token asks for a token as a client that has a subject and an audience.
func (p provider) token(t testing.TB, client string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {"secret"}}
	resp, err := http.PostForm(p.issuer+"/oauth/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var said struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Token == "" {
		t.Fatalf("the provider answers with the status %d, %v", resp.StatusCode, err)
	}
	return said.Token
}

// actorToken exchanges a person's token for one in which the agent acts for the person, at an audience.
func (p provider) actorToken(t testing.TB, subjectToken, agent, audience, org string) string {
	t.Helper()
	form := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {subjectToken}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"actor_token": {p.token(t, agent+"@idp")}, "actor_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"audience": {audience}, "scope": {"org:" + org},
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(agent+"@idp"), "secret")
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	var said struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &said); err != nil || said.Token == "" {
		t.Fatalf("the provider answers with the status %d, %s", resp.StatusCode, text)
	}
	return said.Token
}

// rotate has the provider sign with another key.
func (p provider) rotate(t *testing.T) {
	t.Helper()
	resp, err := http.Post(p.issuer+"/rotate", "", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
}

// config is the configuration with which Deputy takes the provider's tokens.
func (p provider) config() token.Issuer {
	return token.Issuer{
		Issuer: p.issuer, Audiences: []string{"deputy"}, Algorithms: []string{"RS256"}, Types: []string{token.PlainType}, LoopbackHTTP: true,
	}
}

// TestProvider: a service gets a token from a real OpenID provider, which Deputy finds by discovery, and asks for a decision with it. What the
// caller may do is its roles' to say, and no other client of the provider's gets in.
func TestProvider(t *testing.T) {
	p := startProvider(t)
	s := harness.Start(t, daemon.Config{
		Engine: engine.Config{Kind: engine.Memory}, Issuers: []token.Issuer{p.config()},
		Callers: []*caller.Caller{{
			Name: "billing", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), Bounds: authz.Unbounded(),
			Credentials: []caller.Credential{{ID: "login", Issuer: p.issuer, Subject: "billing"}},
		}},
	})
	session := furnish(t, s)
	view := func(conn grpc.ClientConnInterface, document string) (*deputyv1.CheckPermissionResponse, error) {
		return deputyv1.NewPermissionsServiceClient(conn).CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session},
			Resource: harness.Ref("document:" + document), Permission: "view",
		})
	}
	dial := func(client string) *grpc.ClientConn { return harness.Dial(t, s.Addr().String(), p.token(t, client)) }

	billing := dial("billing@deputy")
	for document, want := range map[string]deputyv1.Permissionship{
		"plan":    deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION,
		"payroll": deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION,
	} {
		for range 2 { // once verified, and once from the cache
			if decision, err := view(billing, document); err != nil || decision.GetPermissionship() != want {
				t.Errorf("with a token of billing's, %s: %v, %v; want %s", document, decision, err, want)
			}
		}
	}
	_, err := deputyv1.NewAgentsServiceClient(billing).RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "x", OwnerIds: []string{"carol"}})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(status.Convert(err).Message(), "the caller billing has checker") {
		t.Errorf("registering an agent: %v; want PermissionDenied for billing", err)
	}
	for client, want := range map[string]string{
		"billing@files":   `the token is not for this server: its "aud" has none of ["deputy"]`,
		"stranger@deputy": "is no caller of this server",
	} {
		if _, err := view(dial(client), "plan"); status.Code(err) != codes.Unauthenticated || !strings.Contains(status.Convert(err).Message(), want) {
			t.Errorf("with a token of %s: %v; want Unauthenticated, %q", client, err, want)
		}
	}
	changed := []byte(p.token(t, "billing@deputy"))
	changed[len(changed)-10] ^= 1
	_, err = view(harness.Dial(t, s.Addr().String(), string(changed)), "plan")
	if status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), string(changed)) {
		t.Errorf("with a token that was changed: %v; want Unauthenticated", err)
	}
}

// furnish writes a graph in which bot, in a session for Alice, may view plan and not payroll, and returns the session. raw is a token of bot's, if it
// needs one.
func furnish(t testing.TB, s *harness.Server, raw ...string) string {
	t.Helper()
	s.WriteSchema(t, schema.Core+`
		definition document {
			relation tenant: tenant
			relation reader: user | agent
			permission view = reader
		}`)
	for _, one := range []string{"tenant:acme", "user:alice"} {
		if _, err := s.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(one)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, agent := range []string{"bot", "helper"} {
		if _, err := s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"carol"}}); err != nil {
			t.Fatal(err)
		}
	}
	s.Touch(t, "tenant:acme#member@user:alice", "tenant:acme#admin@user:dana", "tenant:acme#agent@agent:helper", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
		"document:payroll#tenant@tenant:acme", "document:payroll#reader@user:alice")
	created, err := s.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme", Unscoped: true,
		Ttl: durationpb.New(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	started, err := s.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: created.GetDelegation().GetDelegationId()}}, ActorToken: strings.Join(raw, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	return started.GetSession().GetSessionId()
}

// TestProviderRotates: a key that the provider signs with from now on is taken as soon as it may be asked again, and then the one before proves
// nothing any more.
func TestProviderRotates(t *testing.T) {
	p := startProvider(t)
	var later atomic.Int64
	v, err := token.Open(t.Context(), []token.Issuer{p.config()}, token.Options{Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	verify := func(raw, want string) {
		t.Helper()
		said, err := v.Verify(t.Context(), raw)
		if want == "" && (err != nil || said.Subject != "billing" || said.Issuer != p.issuer) {
			t.Errorf("%+v, %v; want billing", said, err)
		}
		if want != "" && (authz.KindOf(err) != authz.Unauthenticated || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v, %v; want %q", said, err, want)
		}
	}
	before := p.token(t, "billing@deputy")
	verify(before, "")
	p.rotate(t)
	after := p.token(t, "billing@deputy")
	verify(after, "which is none of")
	verify(before, "")
	later.Store(int64(time.Minute))
	verify(after, "")
	verify(before, "which is none of")
	later.Store(int64(time.Hour))
	verify(after, "expired at")
}
