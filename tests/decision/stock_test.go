package decision_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/authzed-go/v1"
	"github.com/authzed/grpcutil"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestStockClient: AuthZed's own client works against Deputy as against SpiceDB: schema, bulk import,
// checks, look-ups, reads, export and watch.
func TestStockClient(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		client, err := authzed.NewClient(s.Addr().String(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpcutil.WithInsecureBearerToken(harness.AdminKey))
		if err != nil {
			t.Fatal(err)
		}
		written, err := client.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + domain})
		if err != nil {
			t.Fatal(err)
		}
		read, err := client.ReadSchema(ctx, &v1.ReadSchemaRequest{})
		if err != nil || !strings.Contains(read.GetSchemaText(), "definition document") {
			t.Fatalf("the schema reads %q, %v", read.GetSchemaText(), err)
		}
		watch, err := client.Watch(ctx, &v1.WatchRequest{OptionalObjectTypes: []string{"document"}, OptionalStartCursor: written.GetWrittenAt()})
		if err != nil {
			t.Fatal(err)
		}
		const documents = 300
		load, err := client.ImportBulkRelationships(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range 3 {
			req := &v1.ImportBulkRelationshipsRequest{}
			for i := range documents / 3 {
				for _, text := range []string{"document:d%d#reader@user:alice", "document:d%d#tenant@tenant:acme"} {
					req.Relationships = append(req.Relationships, tuple.MustParseV1Rel(fmt.Sprintf(text, chunk*documents/3+i)))
				}
			}
			if err := load.Send(req); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := load.CloseAndRecv()
		if err != nil || loaded.GetNumLoaded() != 2*documents {
			t.Fatalf("loaded %v, %v", loaded, err)
		}
		full := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
		alice := &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}}
		checked, err := client.CheckPermission(ctx, &v1.CheckPermissionRequest{
			Consistency: full, Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "d7"}, Permission: "view", Subject: alice,
		})
		if err != nil || checked.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("check: %v, %v", checked, err)
		}
		lookup, err := client.LookupResources(ctx, &v1.LookupResourcesRequest{Consistency: full, ResourceObjectType: "document", Permission: "view", Subject: alice})
		if n := count(t, lookup, err); n != documents {
			t.Errorf("looks up %d of %d", n, documents)
		}
		subjects, err := client.LookupSubjects(ctx, &v1.LookupSubjectsRequest{Consistency: full, Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "d7"}, Permission: "view", SubjectObjectType: "user"})
		if n := count(t, subjects, err); n != 1 {
			t.Errorf("looks up %d subjects", n)
		}
		relationships, err := client.ReadRelationships(ctx, &v1.ReadRelationshipsRequest{Consistency: full, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}})
		if n := count(t, relationships, err); n != 2*documents {
			t.Errorf("reads %d relationships", n)
		}
		export, err := client.ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{Consistency: full})
		if err != nil {
			t.Fatal(err)
		}
		exported := 0
		for {
			resp, err := export.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			exported += len(resp.GetRelationships())
		}
		if exported != 2*documents {
			t.Errorf("exports %d relationships", exported)
		}
		seen := 0
		for seen < 2*documents {
			resp, err := watch.Recv()
			if err != nil {
				t.Fatalf("watched %d of %d: %v", seen, 2*documents, err)
			}
			seen += len(resp.GetUpdates())
		}
		_, err = client.CheckPermission(ctx, &v1.CheckPermissionRequest{
			Consistency: full, Resource: &v1.ObjectReference{ObjectType: "spaceship", ObjectId: "d7"}, Permission: "view", Subject: alice,
		})
		if statusOf(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "spaceship") {
			t.Errorf("SpiceDB's own error came as %v", err)
		}
		health, err := healthv1.NewHealthClient(s.Nobody).Check(ctx, &healthv1.HealthCheckRequest{})
		if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health: %v, %v", health, err)
		}
		reflection, err := reflectionv1.NewServerReflectionClient(s.Service).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ask := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "authzed.api.v1.PermissionsService"}}
		if err := reflection.Send(ask); err != nil {
			t.Fatal(err)
		}
		if resp, err := reflection.Recv(); err != nil || len(resp.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("reflection: %v, %v", resp, err)
		}
	})
}

// count receives to the end of a stream.
func count[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
}

// TestServicesCannotWriteTheCore: through the SpiceDB door a service writes domain data, and nothing
// that decisions stand on.
func TestServicesCannotWriteTheCore(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		touch := v1.RelationshipUpdate_OPERATION_TOUCH
		if _, err := harness.Update(t.Context(), s.Service, touch, "document:plan#reader@user:bob"); err != nil {
			t.Errorf("a service cannot grant to a user: %v", err)
		}
		for _, core := range []string{
			"tenant:globex#member@user:alice", "user:mallory#active@user:mallory", "document:plan#tenant@tenant:globex",
			"document:bobs#reader@agent:sub", "document:bobs#reader@delegation:00", "service:nightly#owner@user:bob",
			"delegation:00#parent@delegation:01",
		} {
			_, err := harness.Update(t.Context(), s.Service, touch, "document:plan#reader@user:bob", core)
			if statusOf(err) != codes.PermissionDenied {
				t.Errorf("%s: %v", core, err)
			}
			for name, filter := range map[string]*v1.RelationshipFilter{
				"core":       {ResourceType: strings.SplitN(core, ":", 2)[0]},
				"everything": {OptionalResourceIdPrefix: "a"},
				"subject":    {OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "agent"}},
			} {
				_, err := v1.NewPermissionsServiceClient(s.Service).DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: filter})
				if statusOf(err) != codes.PermissionDenied {
					t.Errorf("deleting by %s, %v: %v", name, filter, err)
				}
			}
			load, err := v1.NewPermissionsServiceClient(s.Service).ImportBulkRelationships(t.Context())
			w.ok(err)
			_ = load.Send(&v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{tuple.MustParseV1Rel(core)}})
			if _, err := load.CloseAndRecv(); statusOf(err) != codes.PermissionDenied {
				t.Errorf("loading %s: %v", core, err)
			}
		}
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		w.allow(under(d).view("document:plan"))
		w.deny(under(d).by("sub").view("document:bobs"), byActor)
	})
}
