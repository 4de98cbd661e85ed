package http_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent
	permission view = reader
}
`

// check is a question whose answer is yes, and the path at which it is asked.
const (
	check     = `{"agentId":"bot","onBehalfOf":{"objectType":"user","objectId":"alice"},"tenantId":"acme","resource":{"objectType":"document","objectId":"plan"},"permission":"view"}`
	checkPath = "/deputy.v1.PermissionsService/CheckPermission"
	bulkPath  = "/deputy.v1.PermissionsService/CheckBulkPermissions"
)

const auditorKey = "the-key-of-the-auditor"

// world is a server with one agent that may view one document for one user.
type world struct {
	*harness.Server
	t   *testing.T
	url string
}

func open(t *testing.T, change ...func(*daemon.Config)) *world {
	t.Helper()
	cfg := daemon.Config{
		Engine: harness.Embedded(t), HTTPAddr: "127.0.0.1:0", PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	}
	cfg.Callers = []*caller.Caller{{
		Name: "audits", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(),
		Credentials: []caller.Credential{{ID: "key", Key: digest(auditorKey)}},
	}}
	for _, one := range change {
		one(&cfg)
	}
	w := &world{Server: harness.Start(t, cfg), t: t}
	w.url = "http://" + w.HTTPAddr().String()
	w.WriteSchema(t, schema.Core+domain)
	for _, one := range []string{"tenant:acme", "user:alice"} {
		_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(one)})
		w.must(err)
	}
	_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"alice"}})
	w.must(err)
	w.Touch(t, "tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot", "document:plan#tenant@tenant:acme",
		"document:plan#reader@user:alice", "document:plan#reader@agent:bot")
	_, err = w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, AllowDirect: true, Ttl: durationpb.New(time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
	})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// answered is what a request came to.
type answered struct {
	status int
	header http.Header
	text   string
	// The fields of Connect's error.
	Code, Message string
	Details       []struct {
		Type  string
		Debug map[string]any
	}
}

// reason is that of the error's ErrorInfo.
func (a answered) reason() string {
	for _, d := range a.Details {
		if d.Type == "google.rpc.ErrorInfo" {
			reason, _ := d.Debug["reason"].(string)
			return reason
		}
	}
	return ""
}

// send sends a request. Headers come in pairs.
func (w *world) send(method, path string, body io.Reader, headers ...string) answered {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, body)
	w.must(err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	got, err := http.DefaultClient.Do(r)
	w.must(err)
	defer func() { _ = got.Body.Close() }()
	text, err := io.ReadAll(got.Body)
	w.must(err)
	a := answered{status: got.StatusCode, header: got.Header, text: string(text)}
	if got.StatusCode != http.StatusOK {
		_ = json.Unmarshal(text, &a)
	}
	return a
}

// json calls a method as the service, with JSON.
func (w *world) json(path, body string, headers ...string) answered {
	w.t.Helper()
	return w.send(http.MethodPost, path, bytes.NewBufferString(body),
		append([]string{"Content-Type", "application/json", "Authorization", "Bearer " + harness.ServiceKey}, headers...)...)
}

// stillAnswers fails unless a client that does everything right is answered yes.
func (w *world) stillAnswers() {
	w.t.Helper()
	if got := w.json(checkPath, check); got.status != http.StatusOK || !strings.Contains(got.text, "PERMISSIONSHIP_HAS_PERMISSION") {
		w.t.Errorf("a right question is answered %d %s", got.status, got.text)
	}
}

// limited are callers with limits of their own.
func limited(limits caller.Limits) func(*daemon.Config) {
	return func(cfg *daemon.Config) {
		cfg.Callers = append(cfg.Callers, &caller.Caller{
			Name: "limited", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), Bounds: authz.Unbounded(), Limits: limits,
			Credentials: []caller.Credential{{ID: "key", Key: digest("the-key-of-the-limited-one")}},
		})
	}
}
