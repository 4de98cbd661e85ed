package callers_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

const domain = `
definition folder {
	relation tenant: tenant
	relation reader: user | agent | delegation
}

definition document {
	relation folder: folder
	relation reader: user | agent | delegation
	permission tenant = folder.all(tenant)
	permission view = reader + folder->reader
}
`

// The tenants by what they are to a caller that is bound to acme. Nowhere is none: what has its name belongs to no tenant.
const (
	acme    = "acme"
	globex  = "globex"
	nowhere = "nowhere"
)

// The agents of each tenant by what they are to a caller that is bound to bots and helpers.
const (
	bot    = "bot"
	helper = "helper"
	rival  = "rival"
)

// world is a server with the same things in two tenants and in none: people, agents, a folder with a document, and for each agent of a
// tenant a delegation and a session.
type world struct {
	*harness.Server
	t *testing.T
	// delegations and sessions by agent.
	delegations, sessions map[string]string
	n                     int
	// provider signs security events, and transmitter sends them; nil where no call is about them.
	provider    *provider
	transmitter *grpc.ClientConn
	// waits are the ids of signals that wait, by tenant.
	waits map[string]string
	// follower reads the store's position; nil where no call is about one.
	follower *grpc.ClientConn
}

func newWorld(t *testing.T, cfg daemon.Config) *world {
	t.Helper()
	w := &world{t: t, Server: harness.Start(t, cfg), delegations: map[string]string{}, sessions: map[string]string{}, waits: map[string]string{}}
	w.WriteSchema(t, schema.Core+domain)
	for _, in := range []string{acme, globex, nowhere} {
		principals := []string{"user:alice-" + in, "user:carol-" + in}
		rows := []string{
			"document:plan-" + in + "#folder@folder:inbox-" + in, "folder:inbox-" + in + "#reader@user:alice-" + in,
			"folder:inbox-" + in + "#reader@agent:bot-" + in, "folder:inbox-" + in + "#reader@agent:rival-" + in,
		}
		if in != nowhere {
			principals = append(principals, "tenant:"+in)
			rows = append(
				rows, "tenant:"+in+"#member@user:alice-"+in, "tenant:"+in+"#admin@user:carol-"+in, "tenant:"+in+"#agent@agent:bot-"+in,
				"tenant:"+in+"#agent@agent:rival-"+in, "tenant:"+in+"#agent@agent:helper-"+in, "folder:inbox-"+in+"#tenant@tenant:"+in,
				"folder:archive-"+in+"#tenant@tenant:"+in,
			)
		}
		for _, one := range principals {
			_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(one)})
			w.must(err)
		}
		for _, kind := range []string{bot, helper, rival} {
			_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: kind + "-" + in, OwnerIds: []string{"carol-" + in}})
			w.must(err)
		}
		w.Touch(t, rows...)
		if in == nowhere {
			continue
		}
		for _, kind := range []string{bot, rival} {
			w.delegate(kind + "-" + in)
			w.start(kind + "-" + in)
		}
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// tenantOf is the tenant that an agent is named after.
func tenantOf(agent string) string {
	_, tenant, _ := strings.Cut(agent, "-")
	return tenant
}

// delegate has alice let an agent act for her, as an admin says.
func (w *world) delegate(agent string) {
	w.t.Helper()
	in := tenantOf(agent)
	made, err := deputyv1.NewDelegationsServiceClient(w.Admin).CreateDelegation(w.t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: agent, TenantId: in, Unscoped: true, AllowDirect: true, Ttl: durationpb.New(time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice-" + in)},
	})
	w.must(err)
	w.delegations[agent] = made.GetDelegation().GetDelegationId()
}

// start starts an agent's session.
func (w *world) start(agent string) {
	w.t.Helper()
	made, err := deputyv1.NewSessionsServiceClient(w.Admin).StartSession(w.t.Context(), &deputyv1.StartSessionRequest{
		AgentId: agent, Targets: []*deputyv1.SessionTarget{{DelegationId: w.delegations[agent]}}, Ttl: durationpb.New(time.Hour),
	})
	w.must(err)
	w.sessions[agent] = made.GetSession().GetSessionId()
}

// bound are the bounds of a caller that is bound to acme, and to bots and helpers.
func bound() *authz.Bounds {
	b := authz.Unbounded()
	b.Tenants = authz.NamesOf(acme)
	b.Agents = authz.NamesOf("bot-acme", "bot-globex", "bot-nowhere", "helper-acme", "helper-globex", "helper-nowhere")
	return b
}
