package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// hold opens a server without a port, with what the example is about in it.
func hold(t *testing.T) *daemon.Daemon {
	t.Helper()
	d, err := daemon.Open(t.Context(), daemon.Config{
		Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir(), CacheBytes: 8 << 20}, NoListener: true,
	}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	furnish(t.Context(), d.InProcess().Client())
	return d
}

// bound is a caller of some roles that is bound to a tenant.
func bound(tenant string, roles ...caller.Role) *caller.Caller {
	return &caller.Caller{
		Name: tenant + "-app", Roles: caller.RolesOf(roles...),
		Bounds: &authz.Bounds{
			Tenants: authz.NamesOf(tenant), Agents: authz.AllNames(), Principals: authz.AllNames(), Objects: authz.AllNames(),
			IDs: authz.AllPrefixes(), Vouch: true,
		},
	}
}

// The whole life of a delegation, of an agent, of a graph and of a store, without a key, a port, and without Serve.
func TestInProcessDoesEverything(t *testing.T) {
	ctx := t.Context()
	d := hold(t)
	if d.Addr() != nil {
		t.Errorf("the server listens on %s", d.Addr())
	}
	c := d.InProcess().Client()
	delegation, id := entrust(ctx, c, "alice")
	view := client.Question{Resource: client.Object("document", "plan"), Permission: "view"}
	session := c.Session("bot", id, nil)
	expect := func(when string, allowed bool) {
		t.Helper()
		if got, err := session.Check(ctx, view); err != nil || got.Allowed() != allowed {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	expect("at first", true)
	must(c.SuspendAgent(ctx, "bot"))
	expect("while the agent is suspended", false)
	must(c.ResumeAgent(ctx, "bot"))
	must(c.Suspend(ctx, client.User("alice")))
	expect("while Alice is suspended", false)
	must(c.Resume(ctx, client.User("alice")))
	must(c.SuspendTenant(ctx, "acme"))
	expect("while the tenant is suspended", false)
	must(c.ResumeTenant(ctx, "acme"))
	if err := session.Renew(ctx, 0); err != nil {
		t.Error(err)
	}
	expect("once all are resumed", true)

	answers := must(session.CheckBulk(ctx, view, client.Question{Resource: client.Object("document", "plan"), Permission: "lunch"}))
	if !answers[0].Allowed() || client.ReasonOf(answers[1].Err) != client.ReasonUnknownPermission {
		t.Errorf("in bulk: %v", answers)
	}
	view.Agent, view.Session = "bot", id
	if explained := must(c.Explain(ctx, view)); len(explained.GetCandidates()) != 1 {
		t.Errorf("explained: %v", explained)
	}
	reached := must(session.LookupResources(client.ResourceQuery{Type: "document", Permission: "view"}).Collect(ctx))
	if len(reached) != 1 || reached[0].Resource != client.Object("document", "plan") || reached[0].Principal != client.User("alice") {
		t.Errorf("reached: %v", reached)
	}
	reaching := must(c.LookupAgents(client.AgentQuery{Resource: client.Object("document", "plan"), Permission: "view"}).Collect(ctx))
	if len(reaching) != 1 || reaching[0].Agent != "bot" {
		t.Errorf("reaching: %v", reaching)
	}
	for name, list := range map[string]func() (int, error){
		"agents": func() (int, error) { all, err := c.ListAgents(client.Page{}).Collect(ctx); return len(all), err },
		"sessions": func() (int, error) {
			all, err := c.ListSessions(client.SessionQuery{Agent: "bot"}).Collect(ctx)
			return len(all), err
		},
		"delegations": func() (int, error) {
			all, err := c.ListDelegations(client.DelegationQuery{Agent: "bot"}).Collect(ctx)
			return len(all), err
		},
		"candidates": func() (int, error) { all, err := c.ReviewAdoption(client.Page{}).Collect(ctx); return len(all), err },
	} {
		if n, err := list(); err != nil || n != 1 {
			t.Errorf("%d %s, %v", n, name, err)
		}
	}
	if stored := must(c.Statistics(ctx)); !stored.GetWritable() {
		t.Errorf("the store: %v", stored)
	}
	must(c.Compact(ctx))
	var backup bytes.Buffer
	if n, err := c.Backup(ctx, &backup); err != nil || n == 0 || n != int64(backup.Len()) {
		t.Errorf("a backup of %d bytes, %v", n, err)
	}
	if err := session.End(ctx); err != nil {
		t.Error(err)
	}
	view.Agent, view.Session = "", ""
	expect("once the session has ended", false)
	must(c.RevokeDelegation(ctx, delegation))
}

// authzed.api.v1 is served as over a network: calls with one message and with many, with metadata.
func TestInProcessSpiceDB(t *testing.T) {
	ctx := t.Context()
	conn := hold(t).InProcess().Client().Conn()
	rows := authzed.NewPermissionsServiceClient(conn)
	imported, err := rows.ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{"a", "b"} {
		batch := &authzed.ImportBulkRelationshipsRequest{Relationships: []*authzed.Relationship{
			touch("document:" + document + "#reader@user:alice").GetRelationship(),
		}}
		if err := imported.Send(batch); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := imported.CloseAndRecv(); err != nil || n.GetNumLoaded() != 2 {
		t.Errorf("imported: %v, %v", n, err)
	}
	var header, trailer metadata.MD
	read := must(authzed.NewSchemaServiceClient(conn).ReadSchema(
		metadata.AppendToOutgoingContext(ctx, "io.spicedb.requestversion", "true"), &authzed.ReadSchemaRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)))
	if !strings.Contains(read.GetSchemaText(), "definition document") || len(header.Get("io.spicedb.debug.version")) != 1 {
		t.Errorf("the schema is %q, its header %v, its trailer %v", read.GetSchemaText(), header, trailer)
	}
	stream := must(rows.ReadRelationships(ctx, &authzed.ReadRelationshipsRequest{
		RelationshipFilter: &authzed.RelationshipFilter{ResourceType: "document", OptionalRelation: "reader"},
	}))
	n := 0
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 5 {
		t.Errorf("%d readers, want 5", n)
	}
	// What the guard refuses on the wire it refuses here.
	_, err = authzed.NewSchemaServiceClient(conn).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: "definition user {}"})
	if client.ReasonOf(err) != client.ReasonCoreSchemaDiffers {
		t.Errorf("a schema without the core: %v", err)
	}
}

// A watch lasts until its context ends, and sees what is written meanwhile.
func TestInProcessStreamsEnd(t *testing.T) {
	conn := hold(t).InProcess().Client().Conn()
	ctx, cancel := context.WithCancel(t.Context())
	watch := must(authzed.NewWatchServiceClient(conn).Watch(ctx, &authzed.WatchRequest{}))
	update := touch("document:plan#reader@user:bob")
	// Written and deleted until it is seen: a watch begins with what changes after it has begun, and to write again what is there changes nothing.
	seen := make(chan error, 1)
	go func() {
		for {
			got, err := watch.Recv()
			if err != nil || slices.ContainsFunc(got.GetUpdates(), func(u *authzed.RelationshipUpdate) bool {
				return u.GetRelationship().GetSubject().GetObject().GetObjectId() == "bob"
			}) {
				seen <- err
				return
			}
		}
	}()
	for done := false; !done; {
		must(authzed.NewPermissionsServiceClient(conn).WriteRelationships(t.Context(),
			&authzed.WriteRelationshipsRequest{Updates: []*authzed.RelationshipUpdate{update}}))
		if update.Operation == authzed.RelationshipUpdate_OPERATION_TOUCH {
			update.Operation = authzed.RelationshipUpdate_OPERATION_DELETE
		} else {
			update.Operation = authzed.RelationshipUpdate_OPERATION_TOUCH
		}
		select {
		case err := <-seen:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
	}
	for range 2 {
		if err := watch.CloseSend(); err != nil {
			t.Error(err)
		}
	}
	if err := watch.SendMsg(&authzed.WatchRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("a message after the last one: %v", err)
	}
	cancel()
	for {
		if _, err := watch.Recv(); err != nil {
			if status.Code(err) != codes.Canceled {
				t.Errorf("a watch whose context ended: %v", err)
			}
			break
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c := client.New(conn)
	if _, err := c.ListAgents(client.Page{}).Collect(ended); status.Code(err) != codes.Canceled {
		t.Errorf("a call whose context had ended: %v", err)
	}
}

// A caller's roles and bounds hold in the process too.
func TestInProcessCallersAreBound(t *testing.T) {
	ctx := t.Context()
	d := hold(t)
	_, id := entrust(ctx, d.InProcess().Client(), "alice")
	view := authz.Case{
		Agent: "bot", Session: authz.SessionID(id), Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
	}
	question := client.Question{Agent: "bot", Session: id, Resource: client.Object("document", "plan"), Permission: "view"}
	all := []caller.Role{deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_DELEGATOR}
	for _, test := range []struct {
		name     string
		as       *caller.Caller
		allowed  bool
		kind     authz.Kind
		code     codes.Code
		lists    codes.Code
		sessions int
	}{
		{"its own tenant", bound("acme", all...), true, 0, codes.OK, codes.OK, 1},
		{"another tenant", bound("globex", all...), false, authz.NotFound, codes.NotFound, codes.OK, 0},
		{"another role", bound("acme", deputyv1.Role_ROLE_WRITER), false, authz.Denied, codes.PermissionDenied, codes.PermissionDenied, 0},
		{"nobody", nil, false, authz.Unauthenticated, codes.Unauthenticated, codes.Unauthenticated, 0},
		{"a caller without bounds", &caller.Caller{Name: "zero", Roles: caller.RolesOf(all...)}, false, authz.Invalid, codes.InvalidArgument, codes.OK, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			here := d.As(test.as)
			got, err := here.Decide(ctx, view, authz.Freshness{})
			if (got.Permissionship == authz.HasPermission) != test.allowed || test.allowed != (err == nil) || err != nil && authz.KindOf(err) != test.kind {
				t.Errorf("Decide: %v, %v", got.Permissionship, err)
			}
			results, _, err := here.DecideAll(ctx, []authz.Case{view}, authz.Freshness{})
			if err == nil {
				err = results[0].Err
			}
			if test.allowed != (err == nil) || err != nil && authz.KindOf(err) != test.kind {
				t.Errorf("DecideAll: %v", err)
			}
			answer, err := here.Client().Check(ctx, question)
			if status.Code(err) != test.code || answer.Allowed() != test.allowed {
				t.Errorf("Check: %v, %v", answer, err)
			}
			sessions, err := here.Client().ListSessions(client.SessionQuery{Agent: "bot"}).Collect(ctx)
			if status.Code(err) != test.lists || len(sessions) != test.sessions {
				t.Errorf("ListSessions: %d, %v", len(sessions), err)
			}
		})
	}
	// Whose a call is, is not what its context says: neither of another call, nor by a key.
	keyed := must(daemon.Open(ctx, daemon.Config{Engine: engine.Config{Kind: engine.Memory}, AdminPresharedKeys: []string{adminKey}}, zap.NewNop()))
	defer func() { check(keyed.Close()) }()
	key := metadata.Pairs("authorization", "Bearer "+adminKey)
	outer := peer.NewContext(metadata.NewIncomingContext(caller.With(ctx, caller.InProcess()), key), &peer.Peer{})
	for name, ctx := range map[string]context.Context{"an admin's call": outer, "an admin's key": metadata.NewOutgoingContext(outer, key)} {
		if _, err := keyed.As(nil).Client().ListAgents(client.Page{}).Collect(ctx); status.Code(err) != codes.Unauthenticated {
			t.Errorf("nobody, in the context of %s: %v", name, err)
		}
	}
}

// Nothing that the services refuse on the wire passes here: what they do not know, and what is too large.
func TestInProcessRefusesWhatTheWireDoes(t *testing.T) {
	ctx := t.Context()
	c := hold(t).InProcess().Client()
	request := &deputyv1.GetAgentRequest{AgentId: "bot"}
	request.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	if _, err := c.Agents.GetAgent(ctx, request); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "99") {
		t.Errorf("an unknown field: %v", err)
	}
	if _, err := c.Agents.GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: strings.Repeat("a", 40<<10)}); client.ReasonOf(err) != client.ReasonTooLarge {
		t.Errorf("a large message: %v", err)
	}
	if _, err := c.Agents.GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: "*"}); client.FieldOf(err) != "agent_id" {
		t.Errorf("an id that is none: %v", err)
	}
	if err := c.Conn().Invoke(ctx, "/deputy.v1.AgentsService/Unheard", request, request); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that there is not: %v", err)
	}
	// Neither side has the other's message.
	owners := []string{"carol"}
	sent := &deputyv1.RegisterAgentRequest{AgentId: "second-bot", OwnerIds: owners}
	before := proto.CloneOf(sent)
	answer := must(c.Agents.RegisterAgent(ctx, sent))
	answer.Agent.OwnerIds[0] = "mallory"
	if !proto.Equal(sent, before) || must(c.Agents.GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: "second-bot"})).GetAgent().GetOwnerIds()[0] != "carol" {
		t.Error("an answer is the server's own")
	}
}

func TestNoListenerTakesNothingForThoseWhoConnect(t *testing.T) {
	memory := engine.Config{Kind: engine.Memory}
	for name, cfg := range map[string]daemon.Config{
		"Addr":               {Addr: "127.0.0.1:0"},
		"PresharedKeys":      {PresharedKeys: []string{"key-of-the-service"}},
		"AdminPresharedKeys": {AdminPresharedKeys: []string{adminKey}},
		"Issuers":            {Issuers: []token.Issuer{{Issuer: "https://login.example.com"}}},
		"TLSMinVersion":      {TLSMinVersion: "1.2"},
		"TLSClientAuth":      {TLSClientAuth: "request"},
		"SPIFFETrustDomains": {SPIFFETrustDomains: []string{"example.org"}},
		"Insecure":           {Insecure: true},
		"Callers":            {Callers: []*caller.Caller{bound("acme")}},
		"CallersPath":        {CallersPath: "callers.yaml"},
		"TLSCertPath":        {TLSCertPath: "cert.pem"},
	} {
		cfg.Engine, cfg.NoListener = memory, true
		d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
		if err == nil {
			_ = d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without NoListener a key is still needed.
	if d, err := daemon.Open(t.Context(), daemon.Config{Engine: memory}, zap.NewNop()); err == nil {
		_ = d.Close()
		t.Error("a server that nobody could call was opened")
	}
	// Serve keeps health and metrics, and ends when it is told to.
	d := must(daemon.Open(t.Context(), daemon.Config{Engine: memory, NoListener: true, MetricsAddr: "127.0.0.1:0"}, zap.NewNop()))
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(serving) }()
	stop()
	if err := errors.Join(<-served, d.Close()); err != nil {
		t.Error(err)
	}
}
