package client_test

import (
	"context"
	"log"
	"slices"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
)

// domain is what the examples protect.
const domain = `
caveat capped(amount int, most int) { amount <= most }

definition document {
	relation tenant: tenant
	relation reader: user | agent
	relation approver: user | agent with capped
	permission view = reader
	permission approve = approver
}
`

// desk is a running server over the memory engine, with a user, an agent and a few documents in it.
type desk struct {
	// Addr and Key are how a service reaches the server.
	Addr, Key string
	// Service and Admin are connected to it, with the two kinds of key.
	Service, Admin *client.Client

	closers []func()
}

// openDesk starts the server. Examples have nobody to report to: what fails here ends the process.
func openDesk(ctx context.Context) *desk {
	d := &desk{Key: "key-of-the-service"}
	server := must(daemon.Open(ctx, daemon.Config{
		PresharedKeys: []string{d.Key}, AdminPresharedKeys: []string{"key-of-the-admin"},
		Engine: engine.Config{Kind: engine.Memory},
	}, zap.NewNop()))
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.Serve(serving) }()
	d.closers = append(d.closers, func() {
		stop()
		check(<-done)
		check(server.Close())
	})
	d.Addr = server.Addr().String()
	d.Service, d.Admin = d.dial(d.Key), d.dial("key-of-the-admin")

	must(authzed.NewSchemaServiceClient(d.Admin.Conn()).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: schema.Core + domain}))
	must(d.Admin.ResumeTenant(ctx, "acme"))
	must(d.Admin.Resume(ctx, client.User("alice")))
	must(d.Admin.Resume(ctx, client.User("bob")))
	must(d.Admin.RegisterAgent(ctx, client.AgentSpec{Agent: "bot", Owners: []string{"carol"}}))
	d.Grant(ctx,
		"tenant:acme#member@user:alice", "tenant:acme#member@user:bob", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@user:bob", "document:plan#reader@agent:bot",
		"document:payroll#tenant@tenant:acme",
		"document:refunds#tenant@tenant:acme", "document:refunds#approver@user:alice", "document:refunds#approver@agent:bot[capped]",
	)
	return d
}

// Close stops the server.
func (d *desk) Close() {
	for _, closer := range slices.Backward(d.closers) {
		closer()
	}
}

func (d *desk) dial(key string) *client.Client {
	c := must(client.Dial(d.Addr, client.WithPresharedKey(key)))
	d.closers = append(d.closers, func() { check(c.Close()) })
	return c
}

// Entrust has a user let the bot act for them in acme, also without a session, and returns the
// delegation's id.
func (d *desk) Entrust(ctx context.Context, user string) string {
	created := must(d.Service.CreateDelegation(ctx, client.DelegationSpec{
		Agent: "bot", Principal: client.User(user), Tenant: "acme", Unscoped: true, AllowDirect: true, TTL: time.Hour,
	}))
	return created.GetDelegation().GetDelegationId()
}

// Session starts a session of the bot's for a user.
func (d *desk) Session(ctx context.Context, user string) *client.Session {
	return must(d.Service.StartSession(ctx, client.SessionSpec{
		Agent: "bot", Targets: []client.Target{{Delegation: d.Entrust(ctx, user)}},
	}))
}

// Grant writes relationships, as an admin. "[capped]" is the caveat, with 500 as the most.
func (d *desk) Grant(ctx context.Context, relationships ...string) {
	request := &authzed.WriteRelationshipsRequest{}
	for _, text := range relationships {
		text, capped := strings.CutSuffix(text, "[capped]")
		resource, subject, _ := strings.Cut(text, "@")
		resource, relation, _ := strings.Cut(resource, "#")
		r := &authzed.Relationship{
			Resource: object(resource), Relation: relation, Subject: &authzed.SubjectReference{Object: object(subject)},
		}
		if capped {
			most := must(structpb.NewStruct(map[string]any{"most": 500}))
			r.OptionalCaveat = &authzed.ContextualizedCaveat{CaveatName: "capped", Context: most}
		}
		request.Updates = append(request.Updates, &authzed.RelationshipUpdate{
			Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: r,
		})
	}
	must(authzed.NewPermissionsServiceClient(d.Admin.Conn()).WriteRelationships(ctx, request))
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
