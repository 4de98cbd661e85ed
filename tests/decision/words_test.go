package decision_test

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/authzed/authzed-go/pkg/requestmeta"
	"github.com/authzed/authzed-go/pkg/responsemeta"
	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
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
		names        = `: a name has 3 to 64 lower-case letters, digits and underscores, and begins with a letter`
		notNear      = `permission "approve" does not exist` + of
	)
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		ctx := t.Context()
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		for _, c := range []struct{ resource, permission, want string }{
			{"documnet:plan", "view", noType},
			{"document:plan", "veiw", noPermission},
			{"document:absent", "approve", notNear},
			{"Document:plan", "view", `resource.object_type "Document" cannot be the name of a type` + names},
			{"document:plan", "view all", `permission "view all" cannot be the name of a permission or relation` + names},
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
				want := c.want
				if method == "LookupResources" {
					want = strings.Replace(want, "resource.object_type", "resource_object_type", 1) // as its field is called
				}
				if got != want {
					t.Errorf("%s: %s\nwant %s", method, got, want)
				}
			}
		}
		for _, c := range []struct {
			object, relation, want string
		}{
			{"documnet:plan", "reader", `scope[0].resource.object_type "documnet" does not exist` + types + `; did you mean "document"?`},
			{"document:plan", "raeder", `scope[0].relation "raeder" does not exist: document has the relations by_day, reader, tenant; did you mean "reader"?`},
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
		{message(asleep), "user:eve is not active yet; PrincipalsService.Resume (deputy principal resume user:eve) lets agents act for it, or in it"},
		{message(stopped), "user:bob is suspended; PrincipalsService.Resume (deputy principal resume user:bob) lets agents act again"},
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
		of    = `: document has the relations by_day, reader, tenant; did you mean "reader"?`
	)
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		newWorld(t, s)
		service := v1.NewPermissionsServiceClient(s.Service)
		write := func(conn grpc.ClientConnInterface, relationship string) string {
			_, err := harness.Update(t.Context(), conn, v1.RelationshipUpdate_OPERATION_TOUCH, relationship)
			return message(err)
		}
		// SpiceDB's own reads may be of a revision from before the schema, if nobody says which one they need.
		written, err := harness.Update(t.Context(), s.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, "document:plan#reader@user:alice")
		if err != nil {
			t.Fatal(err)
		}
		fresh := &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: &v1.ZedToken{Token: written}}}
		_, check := service.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
			Consistency: fresh,
			Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "veiw",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
		stream, err := service.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			Consistency:        fresh,
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

// TestMissingContextIsNamedOnce: a parameter that a caveat misses in two places is named once, in order, by every evaluator and through every
// API.
func TestMissingContextIsNamedOnce(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		ctx := t.Context()
		s.WriteSchema(t, schema.Core+domain+`
caveat weekday(hour int, day string) { hour > 9 && day != "sunday" && hour < 17 }

definition shift {
	relation tenant: tenant
	relation worker: user with weekday
	relation agent: agent
	permission work = worker + agent
}`)
		s.Touch(t, "shift:early#tenant@tenant:acme", "shift:early#worker@user:alice[weekday]", "shift:early#agent@agent:bot")
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		asked := under(d).view("shift:early")
		asked.Permission = "work"
		check, err := w.Permissions().CheckPermission(ctx, asked.CheckPermissionRequest)
		w.ok(err)
		explained, err := w.Audit().ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: asked.CheckPermissionRequest})
		w.ok(err)
		got := map[string][]string{"CheckPermission": check.GetMissingContext()}
		for _, gate := range explained.GetCandidates()[0].GetGates() {
			for i, c := range gate.GetConditions() {
				if len(c.GetMissingContext()) > 0 {
					got[fmt.Sprintf("ExplainPermission, condition %d of %s", i, gate.GetGate())] = c.GetMissingContext()
				}
			}
		}

		early, alice := &v1.ObjectReference{ObjectType: "shift", ObjectId: "early"}, &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}
		spicedb, subject := v1.NewPermissionsServiceClient(s.Service), &v1.SubjectReference{Object: alice}
		head := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
		one, err := spicedb.CheckPermission(ctx, &v1.CheckPermissionRequest{Consistency: head, Resource: early, Permission: "work", Subject: subject})
		w.ok(err)
		got["authzed.api.v1 CheckPermission"] = one.GetPartialCaveatInfo().GetMissingRequiredContext()
		traced, err := spicedb.CheckPermission(ctx, &v1.CheckPermissionRequest{Consistency: head, Resource: early, Permission: "work", Subject: subject, WithTracing: true})
		w.ok(err)
		got["authzed.api.v1 CheckPermission with a trace"] = traced.GetPartialCaveatInfo().GetMissingRequiredContext()
		bulk, err := spicedb.CheckBulkPermissions(ctx, &v1.CheckBulkPermissionsRequest{
			Consistency: head, Items: []*v1.CheckBulkPermissionsRequestItem{{Resource: early, Permission: "work", Subject: subject}},
		})
		w.ok(err)
		got["authzed.api.v1 CheckBulkPermissions"] = bulk.GetPairs()[0].GetItem().GetPartialCaveatInfo().GetMissingRequiredContext()
		resources, err := spicedb.LookupResources(ctx, &v1.LookupResourcesRequest{Consistency: head, ResourceObjectType: "shift", Permission: "work", Subject: subject})
		w.ok(err)
		resource, err := resources.Recv()
		w.ok(err)
		got["authzed.api.v1 LookupResources"] = resource.GetPartialCaveatInfo().GetMissingRequiredContext()
		subjects, err := spicedb.LookupSubjects(ctx, &v1.LookupSubjectsRequest{Consistency: head, Resource: early, Permission: "work", SubjectObjectType: "user"})
		w.ok(err)
		found, err := subjects.Recv()
		w.ok(err)
		got["authzed.api.v1 LookupSubjects"] = found.GetSubject().GetPartialCaveatInfo().GetMissingRequiredContext()
		if len(got) != 7 {
			t.Errorf("%d answers name missing context: %v", len(got), got)
		}
		for where, names := range got {
			if !slices.Equal(names, []string{"day", "hour"}) {
				t.Errorf("%s: %v", where, names)
			}
		}
	})
}

// TestSpiceDBsVersion: zed asks for the version with each call, and warns of any that is no release. Wherever the call is answered, and also
// where the content of one that the caller may make is refused, the version is SpiceDB's, marked as a build of Deputy's.
func TestSpiceDBsVersion(t *testing.T) {
	release := regexp.MustCompile(`^v1\.[0-9]+\.[0-9]+\+deputy$`)
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		if s.IsRemote() {
			return // it says itself what it is
		}
		newWorld(t, s)
		ctx := requestmeta.AddRequestHeaders(t.Context(), requestmeta.RequestServerVersion)
		permissions := v1.NewPermissionsServiceClient(s.Service)
		plan := &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}
		subject := &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}}
		for name, call := range map[string]func(...grpc.CallOption) error{
			"a check": func(o ...grpc.CallOption) error {
				_, err := permissions.CheckPermission(ctx, &v1.CheckPermissionRequest{Resource: plan, Permission: "view", Subject: subject}, o...)
				return err
			},
			"a check with a trace": func(o ...grpc.CallOption) error {
				_, err := permissions.CheckPermission(ctx, &v1.CheckPermissionRequest{Resource: plan, Permission: "view", Subject: subject, WithTracing: true}, o...)
				return err
			},
			"the schema": func(o ...grpc.CallOption) error {
				_, err := v1.NewSchemaServiceClient(s.Service).ReadSchema(ctx, &v1.ReadSchemaRequest{}, o...)
				return err
			},
			"a refusal": func(o ...grpc.CallOption) error {
				_, err := permissions.WriteRelationships(ctx, writing(touch, "tenant:acme#member@user:alice"), o...)
				if status.Code(err) != codes.PermissionDenied {
					return fmt.Errorf("%w, not refused", err)
				}
				return nil
			},
		} {
			var header, trailer metadata.MD
			if err := call(grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for where, md := range map[string]metadata.MD{"header": header, "trailer": trailer} {
				if got := md.Get(string(responsemeta.ServerVersion)); len(got) != 1 || !release.MatchString(got[0]) {
					t.Errorf("%s: the version in the %s is %q", name, where, got)
				}
			}
		}
	})
}

// TestWriteSchemaSaysWhatIsWrong: of a schema that the server refuses it is said what is wrong with it and where, or what is missing.
func TestWriteSchemaSaysWhatIsWrong(t *testing.T) {
	const cycle = "permissions of loop are names for each other, in a circle, and say nothing else: "
	loop := func(members string) string {
		return schema.Core + "definition loop {\n\trelation reader: user\n" + members + "}\n"
	}
	wrong := func(line int) string {
		return fmt.Sprintf("schema: is wrong at line %d: %s", strings.Count(schema.Core, "\n")+line, cycle)
	}
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		admin := v1.NewSchemaServiceClient(s.Admin)
		for name, c := range map[string]struct {
			text string
			code codes.Code
			want string
		}{
			"without the core": {
				"definition document {}", codes.FailedPrecondition,
				"schema: the schema lacks Deputy's core: caveat baseline, caveat issued, caveat leaf, definition agent, definition delegation, definition service, " +
					"definition session, definition tenant, definition user; deputy schema write FILE adds what is missing",
			},
			"a user of one's own": {
				strings.Replace(schema.Core, "\trelation active: tenant\n", "", 1), codes.FailedPrecondition,
				"schema: the core definitions differ from core.zed: definition tenant: missing relation, active; " + authz.LeaveCoreOut() +
					"; an older Deputy's core lacks some: after an upgrade run deputy schema write FILE once, with your own definitions",
			},
			"names in a circle": {
				loop("\tpermission one = two\n\tpermission two = three\n\tpermission three = one\n"), codes.InvalidArgument,
				wrong(3) + "one = two = three = one",
			},
			"a name that leads into a circle": {
				loop("\tpermission view = one\n\tpermission one = one\n"), codes.InvalidArgument,
				wrong(4) + "one = one",
			},
			"a circle that says something": {loop("\tpermission one = two + reader\n\tpermission two = one\n"), codes.OK, ""},
			"names of names":               {loop("\tpermission one = two\n\tpermission two = three\n\tpermission three = reader\n"), codes.OK, ""},
		} {
			_, err := admin.WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: c.text})
			if got := status.Convert(err).Message(); status.Code(err) != c.code || got != c.want {
				t.Errorf("%s: %s %s\nwant %s %s", name, status.Code(err), got, c.code, c.want)
			}
		}
	})
}
