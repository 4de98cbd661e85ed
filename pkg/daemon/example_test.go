package daemon_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
)

const adminKey = "key-of-the-admin"

// A program holds Deputy itself: without a port, without a key, without a second process.
func ExampleDaemon_Decide() {
	ctx := context.Background()
	dir := must(os.MkdirTemp("", "deputy-"))
	defer os.RemoveAll(dir)

	deputy := must(daemon.Open(ctx, daemon.Config{
		Engine:     engine.Config{Kind: engine.Embedded, Dir: filepath.Join(dir, "data")}, // the journal's keys are beside it
		NoListener: true,
	}, zap.NewNop()))
	defer func() { check(deputy.Close()) }()

	// The program may do everything, with the Go client, whose calls stay in the process.
	admin := deputy.InProcess().Client()
	furnish(ctx, admin)                                 // a schema, Alice, the bot, two documents
	delegation, session := entrust(ctx, admin, "alice") // Alice lets the bot act for her, in a session

	// What comes from outside is encoded on its way into a question.
	view := func(document string) authz.Case {
		return authz.Case{
			Agent: must(authz.NewAgentID("bot")), Session: must(authz.NewSessionID(session)),
			Principal: must(authz.NewUser("alice")), Tenant: must(authz.NewTenantID("acme")),
			Resource: must(authz.NewObject("document", document)), Permission: "view",
		}
	}

	// One decision, at the head revision.
	decision, err := deputy.Decide(ctx, view("plan"), authz.Freshness{})
	if err != nil {
		log.Fatal(err) // There is no answer: do not act.
	}
	fmt.Println("one:", decision.Permissionship)

	// Several at one revision, each with an answer or an error of its own. The bot cannot view the payroll, though Alice can.
	results, _, err := deputy.DecideAll(ctx, []authz.Case{view("plan"), view("payroll")}, authz.Freshness{})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println("several:", r.Decision.Permissionship, r.Err)
	}

	// A caller that is bound to another tenant, and what it gets: acme's session does not exist for it.
	other := deputy.As(&caller.Caller{
		Name: "globex-app", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER),
		Bounds: &authz.Bounds{
			Tenants: authz.NamesOf("globex"), Agents: authz.AllNames(), Principals: authz.AllNames(), Objects: authz.AllNames(), IDs: authz.AllPrefixes(),
		},
	})
	_, err = other.Decide(ctx, view("plan"), authz.Freshness{})
	fmt.Println("another tenant:", authz.KindOf(err) == authz.NotFound)

	// A revocation is seen by the next decision.
	must(admin.RevokeDelegation(ctx, delegation))
	decision, err = deputy.Decide(ctx, view("plan"), authz.Freshness{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revoked:", decision.Permissionship)

	// Output:
	// one: HAS_PERMISSION
	// several: HAS_PERMISSION <nil>
	// several: NO_PERMISSION <nil>
	// another tenant: true
	// revoked: NO_PERMISSION
}

// furnish writes what the example is about.
func furnish(ctx context.Context, admin *client.Client) {
	must(authzed.NewSchemaServiceClient(admin.Conn()).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: schema.Core + `
		definition document {
			relation tenant: tenant
			relation reader: user | agent
			permission view = reader
		}`}))
	must(admin.ResumeTenant(ctx, "acme"))
	must(admin.Resume(ctx, client.User("alice")))
	must(admin.RegisterAgent(ctx, client.AgentSpec{Agent: "bot", Owners: []string{"carol"}}))
	request := &authzed.WriteRelationshipsRequest{}
	for _, text := range []string{
		"tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
		"document:payroll#tenant@tenant:acme", "document:payroll#reader@user:alice",
	} {
		request.Updates = append(request.Updates, touch(text))
	}
	must(authzed.NewPermissionsServiceClient(admin.Conn()).WriteRelationships(ctx, request))
}

// entrust has a user let the bot act for them in acme, and starts a session of the bot's.
func entrust(ctx context.Context, c *client.Client, user string) (delegation, session string) { //nolint:unparam // the reader sees who grants
	created := must(c.CreateDelegation(ctx, client.DelegationSpec{
		Agent: "bot", Principal: client.User(user), Tenant: "acme", Unscoped: true, TTL: time.Hour,
	}))
	delegation = created.GetDelegation().GetDelegationId()
	started := must(c.StartSession(ctx, client.SessionSpec{Agent: "bot", Targets: []client.Target{{Delegation: delegation}}}))
	return delegation, started.ID()
}

// touch makes an update of a relationship's text.
func touch(text string) *authzed.RelationshipUpdate {
	resource, subject, _ := strings.Cut(text, "@")
	resource, relation, _ := strings.Cut(resource, "#")
	return &authzed.RelationshipUpdate{
		Operation: authzed.RelationshipUpdate_OPERATION_TOUCH,
		Relationship: &authzed.Relationship{
			Resource: object(resource), Relation: relation, Subject: &authzed.SubjectReference{Object: object(subject)},
		},
	}
}

func object(text string) *authzed.ObjectReference {
	objectType, id, _ := strings.Cut(text, ":")
	return &authzed.ObjectReference{ObjectType: objectType, ObjectId: id}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
