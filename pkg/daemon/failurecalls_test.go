package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// scene is a server, furnished, whose engine is about to fail, and what calls to it name.
type scene struct {
	*harness.Server
	delegation, session string
	// seen is the token of a decision.
	seen *deputyv1.ZedToken
}

// furnished returns a scene on a server.
func furnished(t *testing.T, s *harness.Server) *scene {
	t.Helper()
	admin := must(client.Dial(s.Addr().String(), client.WithPresharedKey(harness.AdminKey), client.WithInsecure()))
	t.Cleanup(func() { _ = admin.Close() })
	// A SpiceDB elsewhere shares a look-up of its head, the health check's too, and may show the schema from before the write.
	s.WriteSchema(t, schema.Core)
	for end := time.Now().Add(time.Minute); ; {
		_, err := admin.Principals.Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:alice")})
		if err == nil {
			break
		}
		if status.Code(err) != codes.FailedPrecondition || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	furnish(t.Context(), admin)
	delegation, session := entrust(t.Context(), admin, "alice")
	scene := &scene{Server: s, delegation: delegation, session: session}
	scene.seen = must(s.Permissions().CheckPermission(t.Context(), scene.question(nil))).GetCheckedAt()
	return scene
}

// asked is one method of one of the two APIs, as it is called while the engine fails.
type asked struct {
	name string
	// writes says that the call writes, endless that it does not end by itself, and stale that it does not ask for the head.
	writes, endless, stale bool
	call                   func(context.Context, *scene) error
}

// drained reads a stream to its end.
func drained[M any](stream interface{ Recv() (M, error) }, err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// dropped leaves an answer out.
func dropped[M any](_ M, err error) error { return err }

// question is what bot asks of document:plan in its session.
func (s *scene) question(consistency *deputyv1.Consistency) *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: s.session},
		Resource: harness.Ref("document:plan"), Permission: "view", Consistency: consistency,
	}
}

var (
	head          = &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}}
	alice         = &authzed.SubjectReference{Object: object("user:alice")}
	reader        = &authzed.Relationship{Resource: object("document:plan"), Relation: "reader", Subject: &authzed.SubjectReference{Object: object("user:bob")}}
	everyDocument = &authzed.RelationshipFilter{ResourceType: "document"}
)

// inPair returns the error of a bulk check, or of its items.
func inPair(resp *authzed.CheckBulkPermissionsResponse, err error) error {
	for _, pair := range resp.GetPairs() {
		if e := pair.GetError(); e != nil {
			return status.FromProto(e).Err()
		}
	}
	return err
}

// inResult is inPair for deputy.v1.
func inResult(resp *deputyv1.CheckBulkPermissionsResponse, err error) error {
	if err != nil {
		return err
	}
	for _, pair := range resp.GetPairs() {
		if e := pair.GetError(); e != nil {
			st := status.New(codes.Code(e.GetCode()), e.GetMessage())
			return must(st.WithDetails(&errdetails.ErrorInfo{Reason: e.GetReason(), Domain: authz.ErrorDomain})).Err()
		}
	}
	return nil
}

func plain(s *scene) authzed.PermissionsServiceClient {
	return authzed.NewPermissionsServiceClient(s.Admin)
}

// writes counts what write writes, so that it always writes something new.
var writes atomic.Int64

func write(ctx context.Context, s *scene) error {
	return dropped(plain(s).WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{Updates: []*authzed.RelationshipUpdate{
		{Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: &authzed.Relationship{
			Resource: object(fmt.Sprintf("document:%d", writes.Add(1))), Relation: "reader", Subject: alice,
		}},
	}}))
}

// methods are those of both APIs that ask the engine for something.
var methods = []asked{
	{name: "deputy CheckPermission", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Permissions().CheckPermission(ctx, s.question(nil)))
	}},
	{name: "deputy CheckPermission, at_least_as_fresh", stale: true, call: func(ctx context.Context, s *scene) error {
		return dropped(s.Permissions().CheckPermission(ctx, s.question(&deputyv1.Consistency{
			Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: s.seen},
		})))
	}},
	{name: "deputy CheckBulkPermissions", call: func(ctx context.Context, s *scene) error {
		q := s.question(nil)
		return inResult(s.Permissions().CheckBulkPermissions(ctx, &deputyv1.CheckBulkPermissionsRequest{Items: []*deputyv1.CheckBulkPermissionsRequestItem{{
			AgentId: q.GetAgentId(), Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: s.session}, Resource: q.GetResource(), Permission: "view",
		}}}))
	}},
	{name: "deputy ExplainPermission", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Audit().ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: s.question(nil)}))
	}},
	{name: "deputy WatchPermission", endless: true, call: func(ctx context.Context, s *scene) error {
		return drained(s.Permissions().WatchPermission(ctx, &deputyv1.WatchPermissionRequest{Check: s.question(nil)}))
	}},
	{name: "deputy LookupResources", call: func(ctx context.Context, s *scene) error {
		return drained(s.Permissions().LookupResources(ctx, &deputyv1.LookupResourcesRequest{
			AgentId: "bot", Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: s.session}, ResourceObjectType: "document", Permission: "view",
		}))
	}},
	{name: "deputy LookupAgents", call: func(ctx context.Context, s *scene) error {
		return drained(s.Audit().LookupAgents(ctx, &deputyv1.LookupAgentsRequest{Resource: harness.Ref("document:plan"), Permission: "view"}))
	}},
	{name: "deputy StartSession", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(s.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
			AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: s.delegation}},
		}))
	}},
	{name: "deputy GetSession", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Sessions().GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: s.session}))
	}},
	{name: "deputy ListSessions", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Sessions().ListSessions(ctx, &deputyv1.ListSessionsRequest{AgentId: "bot"}))
	}},
	{name: "deputy CreateDelegation", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(s.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
			AgentId: "bot", TenantId: "acme", Unscoped: true, Ttl: durationpb.New(time.Hour),
			Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
		}))
	}},
	{name: "deputy ListDelegations", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Delegations().ListDelegations(ctx, &deputyv1.ListDelegationsRequest{AgentId: "bot"}))
	}},
	{name: "deputy ListAgents", call: func(ctx context.Context, s *scene) error {
		return dropped(s.Agents().ListAgents(ctx, &deputyv1.ListAgentsRequest{}))
	}},
	{name: "deputy Suspend", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(s.Principals().Suspend(ctx, &deputyv1.SuspendRequest{Principal: harness.Ref("user:nobody")}))
	}},
	{name: "authzed CheckPermission", call: func(ctx context.Context, s *scene) error {
		return dropped(plain(s).CheckPermission(ctx, &authzed.CheckPermissionRequest{
			Consistency: head, Resource: object("document:plan"), Permission: "view", Subject: alice,
		}))
	}},
	{name: "authzed CheckPermission, traced", call: func(ctx context.Context, s *scene) error {
		return dropped(plain(s).CheckPermission(ctx, &authzed.CheckPermissionRequest{
			Consistency: head, Resource: object("document:plan"), Permission: "view", Subject: alice, WithTracing: true,
		}))
	}},
	{name: "authzed CheckBulkPermissions", call: func(ctx context.Context, s *scene) error {
		return inPair(plain(s).CheckBulkPermissions(ctx, &authzed.CheckBulkPermissionsRequest{Consistency: head, Items: []*authzed.CheckBulkPermissionsRequestItem{
			{Resource: object("document:plan"), Permission: "view", Subject: alice},
			{Resource: object("tenant:acme"), Permission: "access", Subject: alice},
		}}))
	}},
	{name: "authzed BulkCheckPermission", call: func(ctx context.Context, s *scene) error {
		client := authzed.NewExperimentalServiceClient(s.Admin)
		//nolint:staticcheck // it is served, so it fails too
		resp, err := client.BulkCheckPermission(ctx, &authzed.BulkCheckPermissionRequest{Consistency: head, Items: []*authzed.BulkCheckPermissionRequestItem{
			{Resource: object("document:plan"), Permission: "view", Subject: alice},
		}})
		for _, pair := range resp.GetPairs() {
			if e := pair.GetError(); e != nil {
				return status.FromProto(e).Err()
			}
		}
		return err
	}},
	{name: "authzed ExpandPermissionTree", call: func(ctx context.Context, s *scene) error {
		return dropped(plain(s).ExpandPermissionTree(ctx, &authzed.ExpandPermissionTreeRequest{
			Consistency: head, Resource: object("document:plan"), Permission: "view",
		}))
	}},
	{name: "authzed LookupResources", call: func(ctx context.Context, s *scene) error {
		return drained(plain(s).LookupResources(ctx, &authzed.LookupResourcesRequest{
			Consistency: head, ResourceObjectType: "document", Permission: "view", Subject: alice,
		}))
	}},
	{name: "authzed LookupSubjects", call: func(ctx context.Context, s *scene) error {
		return drained(plain(s).LookupSubjects(ctx, &authzed.LookupSubjectsRequest{
			Consistency: head, Resource: object("document:plan"), Permission: "view", SubjectObjectType: "user",
		}))
	}},
	{name: "authzed ReadRelationships", call: func(ctx context.Context, s *scene) error {
		return drained(plain(s).ReadRelationships(ctx, &authzed.ReadRelationshipsRequest{Consistency: head, RelationshipFilter: everyDocument}))
	}},
	{name: "authzed WriteRelationships", writes: true, call: write},
	{name: "authzed WriteRelationships, a service's", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewPermissionsServiceClient(s.Service).WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{
			Updates: []*authzed.RelationshipUpdate{{Operation: authzed.RelationshipUpdate_OPERATION_TOUCH, Relationship: reader}},
		}))
	}},
	{name: "authzed DeleteRelationships", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(plain(s).DeleteRelationships(ctx, &authzed.DeleteRelationshipsRequest{RelationshipFilter: &authzed.RelationshipFilter{
			ResourceType: "document", OptionalResourceId: "payroll",
		}}))
	}},
	{name: "authzed ImportBulkRelationships", writes: true, call: func(ctx context.Context, s *scene) error {
		stream, err := plain(s).ImportBulkRelationships(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&authzed.ImportBulkRelationshipsRequest{Relationships: []*authzed.Relationship{
			{Resource: object("document:imported"), Relation: "reader", Subject: alice},
		}})
		return dropped(stream.CloseAndRecv())
	}},
	{name: "authzed ExportBulkRelationships", call: func(ctx context.Context, s *scene) error {
		return drained(plain(s).ExportBulkRelationships(ctx, &authzed.ExportBulkRelationshipsRequest{Consistency: head}))
	}},
	{name: "authzed BulkExportRelationships", call: func(ctx context.Context, s *scene) error {
		client := authzed.NewExperimentalServiceClient(s.Admin)
		//nolint:staticcheck // it is served, so it fails too
		return drained(client.BulkExportRelationships(ctx, &authzed.BulkExportRelationshipsRequest{Consistency: head}))
	}},
	{name: "authzed ReadSchema", call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewSchemaServiceClient(s.Admin).ReadSchema(ctx, &authzed.ReadSchemaRequest{}))
	}},
	{name: "authzed WriteSchema", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewSchemaServiceClient(s.Admin).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: schema.Core + `
			definition document {
				relation tenant: tenant
				relation reader: user | agent
				relation other: user
				permission view = reader
			}`}))
	}},
	{name: "authzed ReflectSchema", call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewSchemaServiceClient(s.Admin).ReflectSchema(ctx, &authzed.ReflectSchemaRequest{Consistency: head}))
	}},
	{name: "authzed ComputablePermissions", call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewSchemaServiceClient(s.Admin).ComputablePermissions(ctx, &authzed.ComputablePermissionsRequest{
			Consistency: head, DefinitionName: "document", RelationName: "reader",
		}))
	}},
	{name: "authzed ExperimentalRegisterRelationshipCounter", writes: true, call: func(ctx context.Context, s *scene) error {
		return dropped(authzed.NewExperimentalServiceClient(s.Admin).ExperimentalRegisterRelationshipCounter(ctx,
			&authzed.ExperimentalRegisterRelationshipCounterRequest{Name: "documents", RelationshipFilter: everyDocument}))
	}},
	{name: "authzed Watch", endless: true, call: func(ctx context.Context, s *scene) error {
		return drained(authzed.NewWatchServiceClient(s.Admin).Watch(ctx, &authzed.WatchRequest{}))
	}},
}
