package spicedb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	authzed "github.com/authzed/authzed-go/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
	"github.com/deputyauth/deputy/schema"
)

// infoOf returns the error's ErrorInfo, or nil.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// wants says what a guard answers: a code, Deputy's reason, the offending field.
func wants(t *testing.T, name string, err error, code codes.Code, reason, field string) {
	t.Helper()
	info := infoOf(err)
	if status.Code(err) != code || info.GetReason() != reason || info.GetMetadata()["field"] != field || info.GetDomain() != "deputy.dev" {
		t.Errorf("%s: %v, %v; want %s %s %s", name, err, info, code, reason, field)
	}
	if !strings.Contains(status.Convert(err).Message(), field) {
		t.Errorf("%s: the message does not name %s: %v", name, field, err)
	}
}

// TestEveryMethodIsClassified: a method is a read or guarded, never both; and nothing else is listed.
func TestEveryMethodIsClassified(t *testing.T) {
	all := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage(apiPackage, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				name := string(s.Name()) + "/" + string(s.Methods().Get(j).Name())
				all[name] = true
				if _, guarded := guards[name]; guarded == reads[name] {
					t.Errorf("%s: guarded %t, a read %t: find out what it writes, and add it to exactly one of the lists in methods.go", name, guarded, reads[name])
				}
			}
		}
		return true
	})
	if len(all) < 26 {
		t.Errorf("only %d methods were found", len(all))
	}
	for name := range reads {
		if !all[name] {
			t.Errorf("%s is listed as a read, and does not exist", name)
		}
	}
	for name := range guards {
		if !all[name] {
			t.Errorf("%s is guarded, and does not exist", name)
		}
	}
}

// TestUnknownMethodIsRefused gives the door a service with a method that no list has.
func TestUnknownMethodIsRefused(t *testing.T) {
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Syntax: new("proto3"), Name: new("next.proto"), Package: new(string(apiPackage)),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Any")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: new("NextService"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: new("WriteAll"), InputType: new(".authzed.api.v1.Any"), OutputType: new(".authzed.api.v1.Any")},
		}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	called := false
	d, err := New(Config{
		Upstream: refusing(func(string) { called = true }),
		Receiver: wire.NewReceiver(nil),
		Schema:   func(context.Context) (*authz.Schema, error) { return &authz.Schema{}, nil },
		Model:    func(string) (*authz.Schema, error) { return &authz.Schema{}, nil },
		Rights:   func(context.Context) Rights { return Rights{Core: true, Feeds: true, Bounds: authz.Unbounded()} },
	})
	if err != nil {
		t.Fatal(err)
	}
	desc := d.describe(file, file.Services().Get(0))
	err = desc.Streams[0].Handler(d, nil)
	if status.Code(err) != codes.Unimplemented || infoOf(err).GetReason() != "METHOD_NOT_SERVED" || called {
		t.Errorf("%v, went upstream: %t", err, called)
	}
}

// refusing is a connection that has no other end.
type refusing func(method string)

func (r refusing) Invoke(_ context.Context, method string, _, _ any, _ ...grpc.CallOption) error {
	r(method)
	return errors.New("no other end")
}

func (r refusing) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	r(method)
	return nil, errors.New("no other end")
}

// guarded holds what relationships a service may not write; the last of each list is the offence.
var guarded = []struct {
	name string
	list []string
	code codes.Code
}{
	{"nothing", nil, codes.OK},
	{"the domain's own", []string{"note:n#author@user:alice", "document:d#reader@user:alice"}, codes.OK},
	{"a relation of a type whose tenant comes from another", []string{"folder:f#reader@user:alice"}, codes.OK},
	{"a user", []string{"user:alice#active@user:alice"}, codes.PermissionDenied},
	{"a service", []string{"service:s#owner@user:alice"}, codes.PermissionDenied},
	{"an agent's owner", []string{"note:n#author@user:alice", "agent:bot#owner@user:mallory"}, codes.PermissionDenied},
	{"a tenant's admin", []string{"tenant:acme#admin@user:mallory"}, codes.PermissionDenied},
	{"a delegation's mark", []string{"delegation:d#unscoped@delegation:d"}, codes.PermissionDenied},
	{"a session", []string{"session:s#unfrozen@session:s"}, codes.PermissionDenied},
	{"a grant to an agent", []string{"note:n#author@user:a", "note:n#author@user:b", "note:n#author@user:c", "document:d#reader@agent:bot"}, codes.PermissionDenied},
	{"a grant to all agents", []string{"note:n#reader@agent:*"}, codes.PermissionDenied},
	{"a grant to an agent's owners", []string{"note:n#reader@agent:bot#owner"}, codes.PermissionDenied},
	{"a grant to a delegation", []string{"document:d#reader@delegation:d"}, codes.PermissionDenied},
	{"an agent in a group", []string{"group:g#member@agent:bot"}, codes.PermissionDenied},
	{"a tenant", []string{"folder:f#tenant@tenant:acme"}, codes.PermissionDenied},
	{"where a tenant comes from", []string{"document:d#folder@folder:theirs"}, codes.PermissionDenied},
	{"a grant to a group that can hold agents", []string{"document:d#reader@group:g#member"}, codes.PermissionDenied},
	{"an unknown type", []string{"nothing:n#reader@user:alice"}, codes.FailedPrecondition},
	{"an unknown relation", []string{"note:n#tenant@tenant:acme"}, codes.FailedPrecondition},
	{"no type", []string{":n#reader@user:alice"}, codes.FailedPrecondition},
}

// TestGuardedWrites tries each list as a write, a deletion by updates, and a load; as a service and as an
// admin.
func TestGuardedWrites(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	reason := map[codes.Code]string{codes.PermissionDenied: authz.ReasonRoleRequired, codes.FailedPrecondition: authz.ReasonUnknownType}
	// These objects are there, so that nothing places them.
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(ctx, updates("folder:f#reader@user:first", "document:d#reader@user:first")))
	for _, g := range guarded {
		deletions := updates(g.list...)
		for _, u := range deletions.GetUpdates() {
			u.Operation = v1.RelationshipUpdate_OPERATION_DELETE
		}
		last := len(g.list) - 1
		for way, c := range map[string]struct {
			do    func(*authzed.ClientWithExperimental) error
			field string
		}{
			"write": {func(c *authzed.ClientWithExperimental) error {
				_, err := c.WriteRelationships(ctx, updates(g.list...))
				return err
			}, fmt.Sprintf("updates[%d]", last)},
			"delete": {func(c *authzed.ClientWithExperimental) error {
				_, err := c.WriteRelationships(ctx, deletions)
				return err
			}, fmt.Sprintf("updates[%d]", last)},
			"load": {func(c *authzed.ClientWithExperimental) error {
				_, err := load(ctx, c, relationships("folder:"+fresh(t)+"#reader@user:alice"), relationships(g.list...))
				return err
			}, fmt.Sprintf("messages[1].relationships[%d]", last)},
			"old load": {func(c *authzed.ClientWithExperimental) error {
				stream, err := c.BulkImportRelationships(ctx) //nolint:staticcheck // it is served, so it is tested
				if err == nil {
					_ = stream.Send(&v1.BulkImportRelationshipsRequest{Relationships: relationships(g.list...)}) // CloseAndRecv knows better
					_, err = stream.CloseAndRecv()
				}
				return err
			}, fmt.Sprintf("messages[0].relationships[%d]", last)},
		} {
			err := c.do(service)
			if g.code != codes.OK {
				wants(t, g.name+", "+way, err, g.code, reason[g.code], c.field)
			} else if infoOf(err).GetDomain() == "deputy.dev" {
				t.Errorf("%s, %s: %v", g.name, way, err)
			}
			// Of an admin the door asks nothing; SpiceDB may still refuse what makes no sense.
			if err := c.do(admin); infoOf(err).GetDomain() == "deputy.dev" {
				t.Errorf("%s, %s, as an admin: %v", g.name, way, err)
			}
			// What the admin has written, a service could repeat.
			if _, err := admin.WriteRelationships(ctx, deletions); infoOf(err).GetDomain() == "deputy.dev" {
				t.Errorf("%s, %s: %v", g.name, way, err)
			}
		}
	}
}

// fresh returns an id that was not used before.
func fresh(t *testing.T) string {
	t.Helper()
	ids++
	return fmt.Sprintf("fresh%d", ids)
}

var ids int

// filter is a deletion's, short.
func filter(resourceType, id, prefix, relation, subjectType, subjectID string) *v1.RelationshipFilter {
	f := &v1.RelationshipFilter{ResourceType: resourceType, OptionalResourceId: id, OptionalResourceIdPrefix: prefix, OptionalRelation: relation}
	if subjectType != "" {
		f.OptionalSubjectFilter = &v1.SubjectFilter{SubjectType: subjectType, OptionalSubjectId: subjectID}
	}
	return f
}

func TestGuardedDeletes(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	for _, c := range []struct {
		name   string
		filter *v1.RelationshipFilter
		code   codes.Code
	}{
		{"no filter", nil, codes.PermissionDenied},
		{"an empty filter", &v1.RelationshipFilter{}, codes.PermissionDenied},
		{"only an id", filter("", "n", "", "", "user", ""), codes.PermissionDenied},
		{"only a prefix", filter("", "", "n", "", "user", ""), codes.PermissionDenied},
		{"only a relation", filter("", "", "", "author", "user", ""), codes.PermissionDenied},
		{"only a subject", filter("", "", "", "", "user", "alice"), codes.PermissionDenied},
		{"a core type", filter("tenant", "acme", "", "member", "user", "alice"), codes.PermissionDenied},
		{"a core type by prefix", filter("session", "", "a", "", "user", ""), codes.PermissionDenied},
		{"agents' grants", filter("note", "n", "", "reader", "agent", "bot"), codes.PermissionDenied},
		{"delegations' grants", filter("document", "d", "", "reader", "delegation", ""), codes.PermissionDenied},
		{"anybody's grants", filter("note", "n", "", "reader", "", ""), codes.PermissionDenied},
		{"anything of a note", filter("note", "n", "", "", "", ""), codes.PermissionDenied},
		{"a tenant", filter("folder", "f", "", "tenant", "tenant", "acme"), codes.PermissionDenied},
		{"where a tenant comes from", filter("document", "d", "", "folder", "folder", ""), codes.PermissionDenied},
		{"any relation of a type with a tenant", filter("document", "d", "", "", "user", ""), codes.PermissionDenied},
		{"any relation of a type with a tenant, by prefix", filter("folder", "", "f", "", "user", ""), codes.PermissionDenied},
		{"an unknown type", filter("nothing", "", "", "", "user", ""), codes.FailedPrecondition},
		{"an unknown relation", filter("note", "", "", "tenant", "tenant", ""), codes.FailedPrecondition},
		{"users' grants", filter("document", "d", "", "reader", "user", ""), codes.OK},
		{"one user's, by prefix", filter("document", "", "d", "reader", "user", "alice"), codes.OK},
		{"users' of a type without a tenant", filter("note", "", "", "", "user", ""), codes.OK},
		{"a group's that can hold agents", filter("document", "", "", "reader", "group", ""), codes.PermissionDenied},
		{"the same group's objects", &v1.RelationshipFilter{ResourceType: "document", OptionalRelation: "reader", OptionalSubjectFilter: &v1.SubjectFilter{
			SubjectType: "group", OptionalRelation: &v1.SubjectFilter_RelationFilter{},
		}}, codes.OK},
	} {
		req := &v1.DeleteRelationshipsRequest{RelationshipFilter: c.filter, OptionalLimit: 10, OptionalAllowPartialDeletions: true}
		_, err := service.DeleteRelationships(ctx, req)
		switch c.code {
		case codes.OK:
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		case codes.PermissionDenied:
			wants(t, c.name, err, c.code, authz.ReasonRoleRequired, "relationship_filter")
		default:
			wants(t, c.name, err, c.code, authz.ReasonUnknownType, "relationship_filter")
		}
		if _, err := admin.DeleteRelationships(ctx, req); infoOf(err).GetDomain() == "deputy.dev" {
			t.Errorf("%s, as an admin: %v", c.name, err)
		}
	}
}

// TestPreconditionsAreReads: they may name what a service may not write.
func TestPreconditionsAreReads(t *testing.T) {
	h := openEngine(t)
	req := updates("note:n#author@user:alice")
	req.OptionalPreconditions = []*v1.Precondition{{
		Operation: v1.Precondition_OPERATION_MUST_NOT_MATCH,
		Filter:    filter("tenant", "acme", "", "admin", "user", ""),
	}}
	if _, err := h.client(t, serviceKey).WriteRelationships(context.Background(), req); err != nil {
		t.Error(err)
	}
}

func TestGuardedSchema(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	admin := h.client(t, adminKey)
	write := func(c *authzed.ClientWithExperimental, text string) error {
		_, err := c.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text})
		return err
	}
	good := schema.Core + testDomain
	for name, text := range map[string]string{
		"another core": strings.Replace(good, "relation revoked: delegation", "relation revoked: delegation | user", 1),
		"no core":      testDomain[:0] + "definition user {}\n",
		"nothing":      "",
		"a lost mark":  strings.Replace(good, "\trelation suspended: tenant\n", "", 1),
	} {
		wants(t, name, write(admin, text), codes.FailedPrecondition, authz.ReasonCoreSchema, "schema")
	}
	err := write(admin, good+"definition broken {")
	wants(t, "broken", err, codes.InvalidArgument, authz.ReasonInvalidField, "schema")
	if !strings.Contains(err.Error(), "line 1") {
		t.Errorf("the message does not say where: %v", err)
	}
	if err := write(admin, "// another comment\n"+good); err != nil {
		t.Errorf("a comment: %v", err)
	}
}

// TestGuardFollowsTheSchema: what feeds tenant is taken from the schema in force, not from an older one.
func TestGuardFollowsTheSchema(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	service, admin := h.client(t, serviceKey), h.client(t, adminKey)
	write := func() error {
		_, err := service.WriteRelationships(ctx, updates("note:n#author@user:"+fresh(t)))
		return err
	}
	for range 3 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		must[*v1.WriteSchemaResponse](t)(admin.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core +
			strings.Replace(testDomain, "relation author: user", "relation author: user\n\tpermission tenant = author", 1)}))
		wants(t, "after the schema", write(), codes.PermissionDenied, authz.ReasonRoleRequired, "updates[0]")
		must[*v1.WriteSchemaResponse](t)(admin.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + testDomain}))
	}
}

// TestRefusedLoadLeavesNothing: a stream that is refused in the middle is rolled back.
func TestRefusedLoadLeavesNothing(t *testing.T) {
	h := openEngine(t)
	ctx := context.Background()
	service := h.client(t, serviceKey)
	_, err := load(ctx, service,
		relationships("note:one#author@user:alice"), relationships("note:two#author@user:alice"),
		relationships("note:three#author@user:alice", "tenant:acme#admin@user:mallory"))
	wants(t, "load", err, codes.PermissionDenied, authz.ReasonRoleRequired, "messages[2].relationships[1]")
	read, err := service.ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
		Consistency: fully, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "note"},
	})
	if got := collect(t, read, err); len(got) != 0 {
		t.Errorf("it left %v", got)
	}
}
