package decision_test

import (
	"errors"
	"io"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// message returns an error's message, or that there is none.
func message(err error) string {
	if err == nil {
		return "no error"
	}
	return status.Convert(err).Message()
}

// TestErrorsNameTheWord: who misspells a type, a permission or a relation is told which word it was, what there is, and what
// was probably meant; in the same words wherever it is asked.
func TestErrorsNameTheWord(t *testing.T) {
	const (
		types = `: the schema has document, holder, note, risky, user, service, agent, tenant, delegation, session`
		of    = `: document has the permissions view and the relations by_day, reader, tenant`

		noType       = `resource.object_type "documnet" does not exist` + types + `; did you mean "document"?`
		noPermission = `permission "veiw" does not exist` + of + `; did you mean "view"?`
		notNear      = `permission "approve" does not exist` + of
	)
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		ctx := t.Context()
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		for _, c := range []struct{ resource, permission, want string }{
			{"documnet:plan", "view", noType},
			{"document:plan", "veiw", noPermission},
			{"document:absent", "approve", notNear},
		} {
			asked := under(d).view(c.resource)
			asked.Permission = c.permission
			_, check := w.Permissions().CheckPermission(ctx, asked.CheckPermissionRequest)
			_, explain := w.Audit().ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: asked.CheckPermissionRequest})
			bulk, err := w.Permissions().CheckBulkPermissions(ctx, &deputyv1.CheckBulkPermissionsRequest{
				Items: []*deputyv1.CheckBulkPermissionsRequestItem{bulkItem(asked)},
			})
			w.ok(err)
			reach := lookup(asked, 0)
			reach.ResourceObjectType, reach.Permission = asked.GetResource().GetObjectType(), c.permission
			_, _, _, resources := w.piece(reach)
			stream, err := s.Audit().LookupAgents(ctx, &deputyv1.LookupAgentsRequest{Resource: asked.GetResource(), Permission: c.permission})
			w.ok(err)
			_, agents := stream.Recv()
			for method, got := range map[string]string{
				"CheckPermission": message(check), "ExplainPermission": message(explain), "LookupResources": message(resources),
				"LookupAgents": message(agents), "CheckBulkPermissions": bulk.GetPairs()[0].GetError().GetMessage(),
			} {
				if got != c.want {
					t.Errorf("%s: %s\nwant %s", method, got, c.want)
				}
			}
		}
		for _, c := range []struct {
			object, relation, want string
		}{
			{"documnet:plan", "reader", `scope[0].resource.object_type "documnet" does not exist` + types + `; did you mean "document"?`},
			{"document:plan", "raeder", `scope[0].relation "raeder" does not exist` + of + `; did you mean "reader"?`},
			{"document:plan", "view", `scope[0].relation "view" is a permission, which holds no relationships: document has the relations by_day, reader, tenant`},
			{"document:plan", "by_day", `scope[0] grants a relation that does not admit a delegation: ` +
				`document#by_day admits user with office_hours, agent with office_hours, delegation with office_hours`},
		} {
			_, err := w.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
				AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Ttl: hour,
				Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref(c.object), Relation: c.relation}},
			})
			if got := message(err); got != c.want {
				t.Errorf("a scope: %s\nwant %s", got, c.want)
			}
		}
	})
}

// TestNotFoundNamesTheID: what is not found is named, and another agent's delegation is told in no other way than one that
// does not exist.
func TestNotFoundNamesTheID(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	ctx := t.Context()
	start := func(delegation string) string {
		_, err := w.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
			AgentId: "sub", Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}},
		})
		return message(err)
	}
	bots := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true}).GetDelegationId()
	_, create := w.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{AgentId: "scribe", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour})
	_, asleep := w.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{AgentId: "bot", Principal: subject("user:eve"), TenantId: "acme", Unscoped: true, Ttl: hour})
	_, err := w.Principals().Suspend(ctx, &deputyv1.SuspendRequest{Principal: harness.Ref("user:bob")})
	w.ok(err)
	_, stopped := w.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{AgentId: "bot", Principal: subject("user:bob"), TenantId: "acme", Unscoped: true, Ttl: hour})
	_, revoke := w.Delegations().RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: "d1"})
	_, session := w.Sessions().GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: "s1"})
	for _, c := range []struct{ got, want string }{
		{start(bots), `agent:sub holds no delegation with the id "` + bots + `"`},
		{start("d1"), `agent:sub holds no delegation with the id "d1"`},
		{message(revoke), `no delegation has the id "d1"`},
		{message(session), `no session has the id "s1"`},
		{message(create), `no agent is registered as "scribe"`},
		{message(asleep), "user:eve is not active yet; PrincipalsService.Resume lets agents act for it, or in it"},
		{message(stopped), "user:bob is suspended; PrincipalsService.Resume lets agents act again"},
	} {
		if c.got != c.want {
			t.Errorf("%s\nwant %s", c.got, c.want)
		}
	}
}

// TestSpiceDBsWritesNameTheWord: the door tells an admin, whose writes SpiceDB refuses, and a service, whose writes it refuses itself,
// what there is instead.
func TestSpiceDBsWritesNameTheWord(t *testing.T) {
	const (
		types = `: the schema has document, holder, note, risky, user, service, agent, tenant, delegation, session; did you mean "document"?`
		of    = `: document has the permissions view and the relations by_day, reader, tenant; did you mean "reader"?`
	)
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		newWorld(t, s)
		service := v1.NewPermissionsServiceClient(s.Service)
		write := func(conn grpc.ClientConnInterface, relationship string) string {
			_, err := harness.Update(t.Context(), conn, v1.RelationshipUpdate_OPERATION_TOUCH, relationship)
			return message(err)
		}
		_, check := service.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "veiw",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
		stream, err := service.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "documnet"},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, read := stream.Recv()
		if errors.Is(read, io.EOF) {
			read = nil
		}
		for _, c := range []struct{ name, got, want string }{
			{"an admin's type", write(s.Admin, "documnet:plan#reader@user:alice"), "object definition `documnet` not found; " + types[2:]},
			{"an admin's relation", write(s.Admin, "document:plan#raeder@user:alice"), "relation/permission `raeder` not found under definition `document`; " + of[2:]},
			{
				"an admin's subject", write(s.Admin, "document:plan#reader@document:other"),
				"subjects of type `document` are not allowed on relation `document#reader`; document#reader admits user, service, agent, delegation, tenant#member",
			},
			{"a service's type", write(s.Service, "documnet:plan#reader@user:alice"), `updates[0]: type "documnet" does not exist` + types},
			{"a service's relation", write(s.Service, "document:plan#raeder@user:alice"), `updates[0]: relation "raeder" does not exist` + of},
			{"a check", message(check), "relation/permission `veiw` not found under definition `document`; " +
				`document has the permissions view and the relations by_day, reader, tenant; did you mean "view"?`},
			{"a read", message(read), "object definition `documnet` not found; " + types[2:]},
		} {
			if c.got != c.want {
				t.Errorf("%s: %s\nwant %s", c.name, c.got, c.want)
			}
		}
	})
}
