package spicedb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	authzed "github.com/authzed/authzed-go/v1"
	"github.com/authzed/grpcutil"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
	schemaguard "github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/schema"
)

// domain of the tests: a folder has a tenant, its documents have the folder's, a note has none.
const testDomain = `
definition group {
	relation member: user | agent
}

definition folder {
	relation tenant: tenant
	relation reader: user | agent
}

definition document {
	relation folder: folder
	relation reader: user | user with expiration | group#member | agent | delegation
	permission view = reader + folder->reader
	permission tenant = folder.all(tenant)
}

definition note {
	relation author: user
	relation reader: user | agent | agent:*
}
`

// The kinds of key.
const (
	adminKey   = "an-admin"
	serviceKey = "a-service"
	// confinedKey is that of a service which is bound to the tenant acme.
	confinedKey = "a-confined-service"
)

// rightsOf stands for the interceptor that knows the callers.
func rightsOf(ctx context.Context) Rights {
	shows := func(key string) bool {
		return slices.Contains(metadata.ValueFromIncomingContext(ctx, "authorization"), "Bearer "+key)
	}
	bounds := *authz.Unbounded()
	if shows(confinedKey) {
		bounds.Tenants = authz.NamesOf("acme")
	}
	return Rights{Core: shows(adminKey), Feeds: shows(adminKey), Bounds: &bounds, Seals: shows(confinedKey)}
}

// house is a server with a door in front of an engine.
type house struct {
	addr string
	conn *grpc.ClientConn // without a key
	door *Door
	// hold has the door look at the graph as it is now from now on, until the test ends.
	hold func()
}

// open starts a server with the door that cfg describes.
func open(t *testing.T, cfg Config, options ...grpc.ServerOption) *house {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(options, grpc.ForceServerCodecV2(Codec()))...)
	Register(s, d)
	// Typed services beside the door have to work under its codec.
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	addr := serveOn(t, s)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &house{addr: addr, conn: conn, door: d}
}

func serveOn(t *testing.T, s *grpc.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return listener.Addr().String()
}

// openEngine starts a memory engine behind a door, with the core and the tests' domain written to it.
func openEngine(t *testing.T) *house {
	t.Helper()
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Config{Kind: engine.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	var held atomic.Pointer[authz.Snapshot]
	h := open(t, Config{
		Upstream: e.Conn(),
		Receiver: wire.NewReceiver(nil),
		Schema: func(ctx context.Context) (*authz.Schema, error) {
			s, err := e.Snapshot(ctx, authz.Freshness{})
			if err != nil {
				return nil, err
			}
			return s.Schema(ctx)
		},
		Snapshot: func(ctx context.Context, _ authz.Freshness) (authz.Snapshot, error) {
			if snap := held.Load(); snap != nil {
				return *snap, nil
			}
			return e.Snapshot(ctx, authz.Freshness{})
		},
		Model:  schemaguard.Requested,
		Rights: rightsOf,
	})
	h.hold = func() {
		snap := must[authz.Snapshot](t)(e.Snapshot(ctx, authz.Freshness{}))
		held.Store(&snap)
	}
	if _, err := h.client(t, adminKey).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + testDomain}); err != nil {
		t.Fatal(err)
	}
	return h
}

// client is the one that everybody uses.
func (h *house) client(t *testing.T, key string) *authzed.ClientWithExperimental {
	t.Helper()
	c, err := authzed.NewClientWithExperimentalAPIs(h.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpcutil.WithInsecureBearerToken(key))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func object(s string) *v1.ObjectReference {
	objectType, id, _ := strings.Cut(s, ":")
	return &v1.ObjectReference{ObjectType: objectType, ObjectId: id}
}

func subject(s string) *v1.SubjectReference {
	of, relation, _ := strings.Cut(s, "#")
	return &v1.SubjectReference{Object: object(of), OptionalRelation: relation}
}

// relationship reads "resource:id#relation@subject:id#relation".
func relationship(s string) *v1.Relationship {
	left, right, _ := strings.Cut(s, "@")
	resource, relation, _ := strings.Cut(left, "#")
	return &v1.Relationship{Resource: object(resource), Relation: relation, Subject: subject(right)}
}

func relationships(list ...string) []*v1.Relationship {
	out := make([]*v1.Relationship, len(list))
	for i, s := range list {
		if strings.HasSuffix(s, "]") { // with a caveat or an expiration
			out[i] = tuple.MustParseV1Rel(s)
			continue
		}
		out[i] = relationship(s)
	}
	return out
}

func updates(list ...string) *v1.WriteRelationshipsRequest {
	req := &v1.WriteRelationshipsRequest{}
	for _, r := range relationships(list...) {
		req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: r})
	}
	return req
}

var fully = &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}

// must returns v or ends the test.
func must[T any](t *testing.T) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// collect reads a stream to its end.
func collect[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) []*T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var all []*T
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
}

// load imports in batches, and returns what the server counted.
func load(ctx context.Context, c v1.PermissionsServiceClient, batches ...[]*v1.Relationship) (uint64, error) {
	stream, err := c.ImportBulkRelationships(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range batches {
		if err := stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: b}); err != nil {
			break // CloseAndRecv knows why
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetNumLoaded(), err
}

// TestStockClient runs everything that SpiceDB's own client can do, through the door.
func TestStockClient(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	admin, service := h.client(t, adminKey), h.client(t, serviceKey)

	loaded := must[uint64](t)(load(ctx, admin,
		relationships("folder:f#tenant@tenant:acme", "document:plan#folder@folder:f"),
		relationships("document:plan#reader@agent:bot", "folder:f#reader@user:alice"),
		relationships("document:plan#reader@user:bob"),
	))
	if loaded != 5 {
		t.Errorf("loaded %d", loaded)
	}
	checked := must[*v1.CheckPermissionResponse](t)(service.CheckPermission(ctx, &v1.CheckPermissionRequest{
		Consistency: fully, Resource: object("document:plan"), Permission: "view", Subject: subject("user:alice"), WithTracing: true,
	}))
	if checked.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION || checked.GetDebugTrace() == nil {
		t.Errorf("check: %v", checked)
	}
	bulk := must[*v1.CheckBulkPermissionsResponse](t)(service.CheckBulkPermissions(ctx, &v1.CheckBulkPermissionsRequest{
		Consistency: fully, Items: []*v1.CheckBulkPermissionsRequestItem{
			{Resource: object("document:plan"), Permission: "tenant", Subject: subject("tenant:acme")},
			{Resource: object("document:plan"), Permission: "view", Subject: subject("user:mallory")},
			{Resource: object("nothing:plan"), Permission: "view", Subject: subject("user:bob")},
		},
	}))
	if p := bulk.GetPairs(); len(p) != 3 ||
		p[0].GetItem().GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION ||
		p[1].GetItem().GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION ||
		p[2].GetError() == nil {
		t.Errorf("bulk check: %v", bulk)
	}
	resources, err := service.LookupResources(ctx, &v1.LookupResourcesRequest{
		Consistency: fully, ResourceObjectType: "document", Permission: "view", Subject: subject("user:alice"),
	})
	if got := collect(t, resources, err); len(got) != 1 || got[0].GetResourceObjectId() != "plan" {
		t.Errorf("lookup resources: %v", got)
	}
	subjects, err := service.LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Consistency: fully, Resource: object("document:plan"), Permission: "view", SubjectObjectType: "user",
	})
	if got := collect(t, subjects, err); len(got) != 2 {
		t.Errorf("lookup subjects: %v", got)
	}
	read, err := service.ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
		Consistency: fully, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"},
	})
	if got := collect(t, read, err); len(got) != 3 {
		t.Errorf("read: %v", got)
	}
	must[*v1.DeleteRelationshipsResponse](t)(service.DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{
		RelationshipFilter: filter("document", "nobody", "", "reader", "user", ""),
	}))
	exported, err := service.ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{Consistency: fully})
	count := 0
	for _, m := range collect(t, exported, err) {
		count += len(m.GetRelationships())
	}
	if count != 5 {
		t.Errorf("exported %d", count)
	}
	tree := must[*v1.ExpandPermissionTreeResponse](t)(service.ExpandPermissionTree(ctx, &v1.ExpandPermissionTreeRequest{
		Consistency: fully, Resource: object("document:plan"), Permission: "view",
	}))
	if tree.GetTreeRoot().GetExpandedObject().GetObjectId() != "plan" {
		t.Errorf("expand: %v", tree)
	}

	text := must[*v1.ReadSchemaResponse](t)(service.ReadSchema(ctx, &v1.ReadSchemaRequest{})).GetSchemaText()
	if !strings.Contains(text, "definition note") {
		t.Errorf("read schema: %s", text)
	}
	reflected := must[*v1.ReflectSchemaResponse](t)(service.ReflectSchema(ctx, &v1.ReflectSchemaRequest{Consistency: fully}))
	if len(reflected.GetDefinitions()) != len(authz.CoreTypes)+4 {
		t.Errorf("reflect: %d definitions", len(reflected.GetDefinitions()))
	}
	diff := must[*v1.DiffSchemaResponse](t)(service.DiffSchema(ctx, &v1.DiffSchemaRequest{Consistency: fully, ComparisonSchema: schema.Core}))
	if len(diff.GetDiffs()) != 4 {
		t.Errorf("diff: %v", diff)
	}
	dependent := must[*v1.DependentRelationsResponse](t)(service.DependentRelations(ctx, &v1.DependentRelationsRequest{
		Consistency: fully, DefinitionName: "document", PermissionName: "tenant",
	}))
	if len(dependent.GetRelations()) == 0 {
		t.Error("dependent relations: none")
	}
	must[*v1.ComputablePermissionsResponse](t)(service.ComputablePermissions(ctx, &v1.ComputablePermissionsRequest{
		Consistency: fully, DefinitionName: "document", RelationName: "reader",
	}))

	// The older names for the same, and counters.
	old, err := admin.BulkImportRelationships(ctx) //nolint:staticcheck // it is served, so it is tested
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Send(&v1.BulkImportRelationshipsRequest{Relationships: relationships("folder:g#tenant@tenant:acme")}); err != nil {
		t.Fatal(err)
	}
	must[*v1.BulkImportRelationshipsResponse](t)(old.CloseAndRecv())
	oldCheck := must[*v1.BulkCheckPermissionResponse](t)(service.BulkCheckPermission(ctx, &v1.BulkCheckPermissionRequest{ //nolint:staticcheck // as above
		Consistency: fully, Items: []*v1.BulkCheckPermissionRequestItem{{ //nolint:staticcheck // as above
			Resource: object("folder:g"), Permission: "tenant", Subject: subject("tenant:acme"),
		}},
	}))
	if oldCheck.GetPairs()[0].GetItem().GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
		t.Errorf("old bulk check: %v", oldCheck)
	}
	must[*v1.ExperimentalRegisterRelationshipCounterResponse](t)(admin.ExperimentalRegisterRelationshipCounter(ctx,
		&v1.ExperimentalRegisterRelationshipCounterRequest{Name: "documents", RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}}))
	counted := must[*v1.ExperimentalCountRelationshipsResponse](t)(service.ExperimentalCountRelationships(ctx,
		&v1.ExperimentalCountRelationshipsRequest{Name: "documents"}))
	if counted.GetReadCounterValue().GetRelationshipCount() != 3 && !counted.GetCounterStillCalculating() {
		t.Errorf("count: %v", counted)
	}
	must[*v1.ExperimentalUnregisterRelationshipCounterResponse](t)(admin.ExperimentalUnregisterRelationshipCounter(ctx,
		&v1.ExperimentalUnregisterRelationshipCounterRequest{Name: "documents"}))
}

func TestWatch(t *testing.T) {
	h := openEngine(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	service := h.client(t, serviceKey)
	start := must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates("note:n#author@user:alice")))
	watch, err := service.Watch(ctx, &v1.WatchRequest{OptionalStartCursor: start.GetWrittenAt()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		must[*v1.WriteRelationshipsResponse](t)(service.WriteRelationships(ctx, updates(fmt.Sprintf("note:n%d#author@user:alice", i))))
		event, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := event.GetUpdates()[0].GetRelationship().GetResource().GetObjectId(); got != fmt.Sprintf("n%d", i) {
			t.Errorf("event %d is about %s", i, got)
		}
	}
	cancel()
	if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the cancellation: %v", err)
	}
}

// TestFailuresKeepTheirDetails: SpiceDB's own error arrives as SpiceDB made it.
func TestFailuresKeepTheirDetails(t *testing.T) {
	h := openEngine(t)
	for name, call := range map[string]func(*authzed.ClientWithExperimental) error{
		"unary": func(c *authzed.ClientWithExperimental) error {
			_, err := c.CheckPermission(context.Background(), &v1.CheckPermissionRequest{
				Resource: object("nothing:a"), Permission: "view", Subject: subject("user:alice"),
			})
			return err
		},
		"stream": func(c *authzed.ClientWithExperimental) error {
			stream, err := c.LookupResources(context.Background(), &v1.LookupResourcesRequest{
				ResourceObjectType: "nothing", Permission: "view", Subject: subject("user:alice"),
			})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		err := call(h.client(t, serviceKey))
		if info := infoOf(err); status.Code(err) != codes.FailedPrecondition || info.GetDomain() != "authzed.com" ||
			info.GetReason() != "ERROR_REASON_UNKNOWN_DEFINITION" || info.GetMetadata()["definition_name"] != "nothing" {
			t.Errorf("%s: %v, %v", name, err, info)
		}
	}
}

// TestTypedServices: what stands beside the door works under its codec, and reflection knows the door.
func TestTypedServices(t *testing.T) {
	h := openEngine(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	healthy, err := healthpb.NewHealthClient(h.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || healthy.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", healthy, err)
	}
	info, err := reflectionpb.NewServerReflectionClient(h.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"PermissionsService", "SchemaService", "WatchService", "ExperimentalService"} {
		if err := info.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: "authzed.api.v1." + service,
		}}); err != nil {
			t.Fatal(err)
		}
		resp, err := info.Recv()
		if err != nil || len(resp.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s: %v %v", service, resp, err)
		}
	}
}

func TestNewWantsAll(t *testing.T) {
	full := Config{
		Upstream: &grpc.ClientConn{},
		Receiver: wire.NewReceiver(nil),
		Schema:   func(context.Context) (*authz.Schema, error) { return &authz.Schema{}, nil },
		Model:    func(string) (*authz.Schema, error) { return &authz.Schema{}, nil },
		Rights:   func(context.Context) Rights { return Rights{Core: true, Feeds: true, Bounds: authz.Unbounded()} },
	}
	if _, err := New(full); err != nil {
		t.Error(err)
	}
	for name, take := range map[string]func(*Config){
		"Upstream": func(c *Config) { c.Upstream = nil },
		"Receiver": func(c *Config) { c.Receiver = nil },
		"Schema":   func(c *Config) { c.Schema = nil },
		"Model":    func(c *Config) { c.Model = nil },
		"Rights":   func(c *Config) { c.Rights = nil },
	} {
		cfg := full
		take(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("without %s it is built", name)
		}
	}
}
