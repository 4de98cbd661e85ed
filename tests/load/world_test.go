package load

import (
	"crypto/sha256"
	"testing"
	"time"

	"google.golang.org/grpc"
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

// world is a server with one agent, which acts for alice in the tenant acme.
type world struct {
	*harness.Server
	t       *testing.T
	session string
}

func open(t *testing.T, cfg daemon.Config) *world {
	t.Helper()
	w := &world{t: t, Server: harness.Start(t, cfg)}
	w.WriteSchema(t, schema.Core+domain)
	for _, one := range []string{"tenant:acme", "user:alice"} {
		_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(one)})
		w.must(err)
	}
	for _, agent := range []string{"bot", "stray"} {
		_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"alice"}})
		w.must(err)
	}
	w.Touch(t, "tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot", "tenant:acme#agent@agent:stray",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot")
	made, err := deputyv1.NewDelegationsServiceClient(w.Admin).CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, Ttl: durationpb.New(time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
	})
	w.must(err)
	session, err := deputyv1.NewSessionsServiceClient(w.Admin).StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Ttl: durationpb.New(time.Hour),
		Targets: []*deputyv1.SessionTarget{{DelegationId: made.GetDelegation().GetDelegationId()}},
	})
	w.must(err)
	w.session = session.GetSession().GetSessionId()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// question is one that is answered with yes.
func (w *world) question() *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, TenantId: "acme", OnBehalfOf: harness.Ref("user:alice"),
		Resource: harness.Ref("document:plan"), Permission: "view",
	}
}

// item is the same question among others.
func (w *world) item() *deputyv1.CheckBulkPermissionsRequestItem {
	return &deputyv1.CheckBulkPermissionsRequestItem{
		AgentId: "bot", Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: w.session}, TenantId: "acme",
		OnBehalfOf: harness.Ref("user:alice"), Resource: harness.Ref("document:plan"), Permission: "view",
	}
}

// asks is a connection of a caller's.
func (w *world) asks(name string) *grpc.ClientConn {
	return harness.Dial(w.t, w.Addr().String(), keyOf(name))
}

func keyOf(name string) string { return "the-key-of-" + name }

// called returns a caller with a key and no bounds.
func called(name string, limits caller.Limits, roles ...caller.Role) *caller.Caller {
	return &caller.Caller{
		Name: name, Roles: caller.RolesOf(roles...), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(), Limits: limits,
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(keyOf(name)))}},
	}
}
