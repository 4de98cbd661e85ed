package daemon_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
)

const adminKey = "key-of-the-admin"

// A program holds Deputy itself, and decides without gRPC. The rest is asked for over gRPC, here on loopback.
func ExampleDaemon_Decide() {
	ctx := context.Background()
	dir := must(os.MkdirTemp("", "deputy-"))
	defer os.RemoveAll(dir)

	deputy := must(daemon.Open(ctx, daemon.Config{
		Engine:             engine.Config{Kind: engine.Embedded, Dir: dir},
		AdminPresharedKeys: []string{adminKey},
	}, zap.NewNop()))
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- deputy.Serve(serving) }()
	defer func() {
		stop()
		check(<-served)
		check(deputy.Close())
	}()

	admin := must(client.Dial(deputy.Addr().String(), client.WithPresharedKey(adminKey), client.WithInsecure()))
	defer admin.Close()
	furnish(ctx, admin)                                 // a schema, Alice, the bot, two documents
	delegation, session := entrust(ctx, admin, "alice") // Alice lets the bot act for her, in a session

	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	view := func(document string) authz.Case {
		return authz.Case{
			Agent: "bot", Session: session, Principal: alice, Tenant: "acme",
			Resource: authz.Object{Type: "document", ID: document}, Permission: "view",
		}
	}

	// One decision, at the head revision.
	decision, err := deputy.Decide(ctx, view("plan"), authz.Freshness{})
	if err != nil {
		log.Fatal(err) // Nobody could tell: do not act.
	}
	fmt.Println("one:", decision.Permissionship)

	// Several at one revision, each with an answer or an error of its own. The bot may not view the payroll, Alice may.
	results, _, err := deputy.DecideAll(ctx, []authz.Case{view("plan"), view("payroll")}, authz.Freshness{})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println("several:", r.Decision.Permissionship, r.Err)
	}

	// A revocation is seen by the next decision, here as over gRPC.
	must(admin.Delegations.RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: delegation}))
	decision, err = deputy.Decide(ctx, view("plan"), authz.Freshness{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revoked:", decision.Permissionship)

	// Output:
	// one: HAS_PERMISSION
	// several: HAS_PERMISSION <nil>
	// several: NO_PERMISSION <nil>
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
	for _, who := range []*deputyv1.ObjectReference{{ObjectType: "tenant", ObjectId: "acme"}, {ObjectType: "user", ObjectId: "alice"}} {
		must(admin.Principals.Resume(ctx, &deputyv1.ResumeRequest{Principal: who}))
	}
	must(admin.Agents.RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"carol"}}))
	request := &authzed.WriteRelationshipsRequest{}
	for _, text := range []string{
		"tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
		"document:payroll#tenant@tenant:acme", "document:payroll#reader@user:alice",
	} {
		resource, subject, _ := strings.Cut(text, "@")
		resource, relation, _ := strings.Cut(resource, "#")
		request.Updates = append(request.Updates, &authzed.RelationshipUpdate{
			Operation: authzed.RelationshipUpdate_OPERATION_TOUCH,
			Relationship: &authzed.Relationship{
				Resource: object(resource), Relation: relation, Subject: &authzed.SubjectReference{Object: object(subject)},
			},
		})
	}
	must(authzed.NewPermissionsServiceClient(admin.Conn()).WriteRelationships(ctx, request))
}

// entrust has a user let the bot act for them in acme, and starts a session of the bot's.
func entrust(ctx context.Context, c *client.Client, user string) (delegation string, session authz.SessionID) {
	created := must(c.Delegations.CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
		AgentId:   "bot",
		Principal: &deputyv1.SubjectReference{Object: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: user}},
		TenantId:  "acme", Unscoped: true, Ttl: durationpb.New(time.Hour),
	}))
	delegation = created.GetDelegation().GetDelegationId()
	started := must(c.Sessions.StartSession(ctx, &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}},
	}))
	return delegation, authz.SessionID(started.GetSession().GetSessionId())
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
