package consent

import (
	"crypto/sha256"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/person"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	// audience is the server's name for tokens by which people consent. The one for callers' tokens is another.
	audience = "https://deputy.example.com/consent"
	deskKey  = "the-key-of-the-desk"
	otherKey = "the-key-of-another-desk"
	// auditorKey is of a caller that reads the journal.
	auditorKey = "the-key-of-the-auditor"
)

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent | delegation
	permission view = reader
}
`

// people says how the issuer's tokens name people, and how people consent by them.
func people(t testing.TB, issuer string) person.Issuer {
	t.Helper()
	template := func(kind actor.Kind, text string) actor.Template {
		made, err := actor.ParseTemplate(kind, text)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	return person.Issuer{
		Issuer: issuer, Principal: template(actor.Principal, "user:{sub}"),
		Consent: &person.Consent{Audiences: []string{audience}, Scope: "deputy:delegate", Details: "deputy_delegation", Clients: []string{"an-app"}},
	}
}

// world is a server with an issuer of tokens, agents triage-bot and other-bot, and alice and bob in acme and globex.
type world struct {
	*harness.Server
	issuer *harness.Issuer
}

// config is the configuration of a server that knows the issuer: with desks that may not vouch, and people.
func config(t testing.TB, issuer *harness.Issuer, on engine.Config) daemon.Config {
	t.Helper()
	known := issuer.Known(t, t.TempDir())
	desk := func(name, key string) *caller.Caller {
		bounds := authz.Unbounded()
		bounds.Vouch = false
		return &caller.Caller{
			Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_DELEGATOR), Bounds: bounds,
			Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(key))}},
		}
	}
	all := authz.Unbounded()
	all.Vouch = false
	return daemon.Config{
		Engine: on, Issuers: []token.Issuer{known}, People: []person.Issuer{people(t, known.Issuer)},
		Callers: []*caller.Caller{
			desk("desk", deskKey), desk("other-desk", otherKey),
			{
				Name: "people", Roles: caller.RolesOf(deputyv1.Role_ROLE_SELF), Bounds: all,
				Credentials: []caller.Credential{{ID: "people", Issuer: known.Issuer, People: true}},
			},
			{
				Name: "auditor", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(),
				Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(auditorKey))}},
			},
		},
	}
}

// newWorld starts a server and fills its graph.
func newWorld(t testing.TB, on engine.Config) *world {
	t.Helper()
	issuer := harness.NewIssuer(t)
	w := &world{harness.Start(t, config(t, issuer, on)), issuer}
	w.fill(t)
	return w
}

func (w *world) fill(t testing.TB) {
	t.Helper()
	w.WriteSchema(t, schema.Core+domain)
	for _, id := range []string{"triage-bot", "other-bot"} {
		if _, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: []string{"bob"}}); err != nil {
			t.Fatal(err)
		}
	}
	w.Touch(t,
		"user:alice#active@user:alice", "user:bob#active@user:bob", "tenant:acme#active@tenant:acme", "tenant:globex#active@tenant:globex",
		"tenant:acme#member@user:alice", "tenant:acme#member@user:bob", "tenant:acme#admin@user:bob", "tenant:globex#member@user:alice",
		"tenant:acme#agent@agent:triage-bot", "tenant:acme#agent@agent:other-bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:triage-bot",
	)
}

// says are the claims of a token by which alice consents to a delegation for triage-bot in acme. details are added to the authorization details,
// or set instead.
func (w *world) says(details map[string]any) map[string]any {
	one := map[string]any{"type": "deputy_delegation", "agent": "triage-bot", "tenant": "acme"}
	maps.Copy(one, details)
	return w.issuer.Claims("alice", map[string]any{"aud": audience, "authorization_details": []any{one}})
}

// consent is such a token.
func (w *world) consent(t testing.TB, details map[string]any) string {
	t.Helper()
	return w.issuer.Sign(t, token.DefaultType, w.says(details))
}

func (w *world) dial(t testing.TB, key string) deputyv1.DelegationsServiceClient {
	t.Helper()
	return deputyv1.NewDelegationsServiceClient(harness.Dial(t, w.Addr().String(), key))
}

// asks is a request for a delegation as far as a consent names it.
func asks(consent string) *deputyv1.CreateDelegationRequest {
	return &deputyv1.CreateDelegationRequest{AgentId: "triage-bot", ConsentToken: consent}
}

// outcome is the code and the reason of an answer.
func outcome(err error) (codes.Code, string) {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return st.Code(), info.GetReason()
		}
	}
	return st.Code(), ""
}

func ended(err error) bool { return status.Code(err) == codes.OK }

func hour() *durationpb.Duration { return durationpb.New(time.Hour) }

// same reports whether two answers are the same, but for the ids that they were asked about.
func same(err, other error, id, otherID string) bool {
	return err != nil && other != nil && strings.ReplaceAll(err.Error(), id, otherID) == other.Error()
}
