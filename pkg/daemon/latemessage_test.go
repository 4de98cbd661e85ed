package daemon

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
)

// withoutJudge serves a file until the test ends, and never judges its open streams again by itself: what is left is what is judged when a
// message comes, which on a server that judges is a matter of who is first.
func withoutJudge(t *testing.T, path string) *callersServer {
	t.Helper()
	d, err := Open(t.Context(), Config{
		AdminPresharedKeys: []string{testAdminKey}, CallersPath: path, Engine: engine.Config{Kind: engine.Memory}, MetricsAddr: "127.0.0.1:0",
	}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	s := &callersServer{Daemon: d}
	d.callers.Now = func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.listener) }()
	go d.metrics.serve()
	if s.conn, err = grpc.NewClient(d.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.conn.Close()
		d.server.Stop()
		<-served
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestCallsAreJudgedWhenTheirMessageComes: a call that was opened before its caller changed, and whose message comes afterwards, is answered as a
// call that is made afterwards, by both APIs.
func TestCallsAreJudgedWhenTheirMessageComes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	const rights = "roles: [auditor], tenants: all, authzed_api: [ReadRelationships]"
	bound := strings.Replace(rights, "tenants: all", "tenants: [acme]", 1)
	later := ", expires: " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	callers := []struct {
		name, before, after string
		// changes says that its calls get another answer afterwards.
		changes bool
	}{
		{"same", entry("same", rights, ""), entry("same", rights, ""), false},
		{"gone", entry("gone", rights, ""), "", true},
		{"revoked", entry("revoked", rights, "", ""), strings.Replace(entry("revoked", rights, "", ""), "{id: k1", "{id: k0, expires: 2000-01-01T00:00:00Z", 1), true},
		{"roleless", entry("roleless", rights, ""), entry("roleless", strings.Replace(rights, "auditor", "schema-admin", 1), ""), true},
		{"narrower", entry("narrower", rights, ""), entry("narrower", bound, ""), true},
		{"wider", entry("wider", bound, ""), entry("wider", rights, ""), true},
		{"renamed", entry("renamed", rights, ""), strings.Replace(entry("renamed", bound, ""), "name: renamed", "name: another", 1), true},
		{"expired", entry("expired", rights, later), entry("expired", rights, later), true},
	}
	before, after := "callers:\n", "callers:\n"
	for _, one := range callers {
		before, after = before+one.before, after+one.after
	}
	write(t, path, before)
	s := withoutJudge(t, path)
	admin := bearing(t, testAdminKey)
	if _, err := authzed.NewSchemaServiceClient(s.conn).WriteSchema(admin, &authzed.WriteSchemaRequest{Schema: schema.Core}); err != nil {
		t.Fatal(err)
	}
	for objectType, id := range map[string]string{"tenant": "globex", "user": "gina"} {
		if _, err := deputyv1.NewPrincipalsServiceClient(s.conn).Resume(admin, &deputyv1.ResumeRequest{
			Principal: &deputyv1.ObjectReference{ObjectType: objectType, ObjectId: id},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := deputyv1.NewAgentsServiceClient(s.conn).RegisterAgent(admin, &deputyv1.RegisterAgentRequest{
		AgentId: "bot", OwnerIds: []string{"gina"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := authzed.NewPermissionsServiceClient(s.conn).WriteRelationships(admin, &authzed.WriteRelationshipsRequest{
		Updates: []*authzed.RelationshipUpdate{{Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: agentOf("globex", "bot")}},
	}); err != nil {
		t.Fatal(err)
	}

	methods := []struct {
		path   string
		sends  proto.Message
		answer func() proto.Message
	}{
		{"/deputy.v1.AgentsService/GetAgent", &deputyv1.GetAgentRequest{AgentId: "bot"}, func() proto.Message { return &deputyv1.GetAgentResponse{} }},
		{"/authzed.api.v1.PermissionsService/ReadRelationships", &authzed.ReadRelationshipsRequest{
			Consistency: &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &authzed.RelationshipFilter{
				ResourceType: "tenant", OptionalResourceId: "globex",
			},
		}, func() proto.Message { return &authzed.ReadRelationshipsResponse{} }},
	}
	// ends is what a call gets, without what differs from call to call.
	ends := func(call grpc.ClientStream, sends, answer proto.Message) string {
		if err := call.SendMsg(sends); err == nil {
			_ = call.CloseSend() // what comes says it
		}
		if err := call.RecvMsg(answer); err != nil {
			return endOf(err)
		}
		text, err := protojson.Marshal(withoutTokens(answer))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	open := func(name, method string) grpc.ClientStream {
		ctx, cancel := context.WithTimeout(bearing(t, "key-of-"+name+"-1"), 30*time.Second)
		t.Cleanup(cancel)
		call, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	was, opened := map[string]string{}, map[string]grpc.ClientStream{}
	for _, method := range methods {
		for _, one := range callers {
			id := method.path + " of " + one.name
			was[id] = ends(open(one.name, method.path), method.sends, method.answer())
			opened[id] = open(one.name, method.path)
		}
	}
	until(t, "all calls are open", func() bool { return strings.Contains(s.figures(t), "\ndeputy_calls_in_flight 16\n") })
	write(t, path, after)
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	s.ahead.Store(int64(2 * time.Hour))
	for _, method := range methods {
		for _, one := range callers {
			id := method.path + " of " + one.name
			want := ends(open(one.name, method.path), method.sends, method.answer())
			if got := ends(opened[id], method.sends, method.answer()); got != want {
				t.Errorf("%s: a late message gets %s, and a new call %s", id, got, want)
			}
			if (was[id] != want) != one.changes {
				t.Errorf("%s: before %s, and afterwards %s", id, was[id], want)
			}
		}
	}
}

func agentOf(tenant, agent string) *authzed.Relationship {
	return &authzed.Relationship{
		Resource: &authzed.ObjectReference{ObjectType: "tenant", ObjectId: tenant}, Relation: "agent",
		Subject: &authzed.SubjectReference{Object: &authzed.ObjectReference{ObjectType: "agent", ObjectId: agent}},
	}
}

// withoutTokens takes out of an answer what says when it was given.
func withoutTokens(answer proto.Message) proto.Message {
	switch m := answer.(type) {
	case *deputyv1.GetAgentResponse:
		m.ReadAt = nil
	case *authzed.ReadRelationshipsResponse:
		m.ReadAt, m.AfterResultCursor = nil, nil
	}
	return answer
}

// TestImportsAreJudgedUntilTheirEnd: an import whose caller may not go on with it takes no further message, and is not written at its end.
func TestImportsAreJudgedUntilTheirEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "callers.yaml")
	const rights = "roles: [admin], tenants: all, authzed_api: [ImportBulkRelationships]"
	later := ", expires: " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	good := "callers:\n" + entry("importer", rights, later)
	write(t, path, good)
	s := withoutJudge(t, path)
	admin := bearing(t, testAdminKey)
	if _, err := authzed.NewSchemaServiceClient(s.conn).WriteSchema(admin, &authzed.WriteSchemaRequest{Schema: schema.Core}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		tenant, after string
		ahead         time.Duration
		// more says that another message comes before the end.
		more bool
		want string
	}{
		{"same", good + entry("another", rights, ""), 2 * time.Minute, true, "OK"},
		{"revoked", "callers: []\n", 0, true, "UNAUTHENTICATED/UNAUTHENTICATED"},
		{"ended", "callers: []\n", 0, false, "UNAUTHENTICATED/UNAUTHENTICATED"},
		{"narrower", "callers:\n" + entry("importer", rights+", agents: [x]", ""), 0, true, "UNAVAILABLE/CALLER_CHANGED"},
		{"expired", good, 2 * time.Hour, false, "UNAUTHENTICATED/UNAUTHENTICATED"},
	} {
		write(t, path, good)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		imports, err := authzed.NewPermissionsServiceClient(s.conn).ImportBulkRelationships(bearing(t, "key-of-importer-1"))
		if err != nil {
			t.Fatal(err)
		}
		batch := func(agent string) *authzed.ImportBulkRelationshipsRequest {
			return &authzed.ImportBulkRelationshipsRequest{Relationships: []*authzed.Relationship{agentOf(test.tenant, agent)}}
		}
		if err := imports.Send(batch("first")); err != nil {
			t.Fatal(err)
		}
		until(t, "the import is open", func() bool { return strings.Contains(s.figures(t), "\ndeputy_calls_in_flight 1\n") })
		write(t, path, test.after)
		if err := s.Reload(); err != nil {
			t.Fatal(err)
		}
		s.ahead.Store(int64(test.ahead))
		if test.more {
			_ = imports.Send(batch("second")) // what comes says it
		}
		got := "OK"
		if _, err := imports.CloseAndRecv(); err != nil {
			got = endOf(err)
		}
		if got != test.want {
			t.Errorf("%s: the import ends with %s, want %s", test.tenant, got, test.want)
		}
		rows, err := authzed.NewPermissionsServiceClient(s.conn).ReadRelationships(admin, &authzed.ReadRelationshipsRequest{
			Consistency:        &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &authzed.RelationshipFilter{ResourceType: "tenant", OptionalResourceId: test.tenant},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rows.Recv(); test.want == "OK" && err != nil || test.want != "OK" && !errors.Is(err, io.EOF) {
			t.Errorf("%s: the rows are %v", test.tenant, err)
		}
	}
}
