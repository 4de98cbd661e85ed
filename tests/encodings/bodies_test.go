//go:build unix

package encodings

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cursor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// domain of the tests: lookups of a document's permission check, because of the intersection.
const domain = `
caveat fits(x int) {
	x < 10
}

definition folder {
	relation tenant: tenant
	relation reader: user
}

definition document {
	relation folder: folder
	relation reader: user | user with fits | user with expiration
	relation allowed: user
	permission view = reader & allowed
	permission tenant = folder.all(tenant)
}
`

// besideKey is the key of a caller that may do what an admin may not: read the journal, send security events, and follow.
const besideKey = "key-of-the-caller-beside"

// start starts a server with the domain and a document that alice can view.
func start(t *testing.T) *harness.Server {
	t.Helper()
	s := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Memory}, Callers: []*caller.Caller{{
		Name: "beside", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR, deputyv1.Role_ROLE_TRANSMITTER, deputyv1.Role_ROLE_FOLLOWER), Bounds: authz.Unbounded(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(besideKey))}},
	}}})
	s.WriteSchema(t, schema.Core+domain)
	s.Touch(t, "folder:f#tenant@tenant:acme", "document:plan#folder@folder:f", "document:plan#reader@user:alice", "document:plan#allowed@user:alice",
		"document:memo#folder@folder:f", "document:memo#reader@user:alice", "document:memo#allowed@user:alice")
	return s
}

// answers asserts that the server still does its work.
func answers(t *testing.T, s *harness.Server) {
	t.Helper()
	got, err := v1.NewPermissionsServiceClient(s.Service).CheckPermission(t.Context(), &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
	})
	if err != nil || got.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
		t.Fatalf("the server does not answer any more: %v %v", got, err)
	}
}

// oddBodies are encodings that no client writes, by what is odd about them: each is refused by every method whose request has
// messages or strings in it.
func oddBodies(number protowire.Number) map[string][]byte {
	group := []byte{0x93, 0x03, 0x9c, 0x03} // begins as field 50 and ends as field 51
	whole := []byte{0x93, 0x03, 0x94, 0x03}
	var nested []byte
	for range 3000 {
		nested = field(number, nested...)
	}
	at := fmt.Sprintf(" in field %d", number)
	return map[string][]byte{
		"a group that ends as another field's":      group,
		"a group that ends as another field's" + at: field(number, group...),
		"the same, two deep" + at:                   field(number, field(1, group...)...),
		"an unknown group":                          whole,
		"an unknown group" + at:                     field(number, whole...),
		"a group for a message" + at:                append(protowire.AppendTag(nil, number, protowire.StartGroupType), protowire.AppendTag(nil, number, protowire.EndGroupType)...),
		"a group that never ends" + at:              protowire.AppendTag(nil, number, protowire.StartGroupType),
		"an end without a group" + at:               protowire.AppendTag(nil, number, protowire.EndGroupType),
		"a fixed number" + at:                       append(protowire.AppendTag(nil, number, protowire.Fixed32Type), 1, 2, 3, 4),
		"a length beyond the end" + at:              append(protowire.AppendTag(nil, number, protowire.BytesType), 0xff, 0xff, 0xff, 0x7f),
		"a length that wraps" + at:                  append(protowire.AppendTag(nil, number, protowire.BytesType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"a varint that never ends" + at:             append(protowire.AppendTag(nil, number, protowire.VarintType), slices.Repeat([]byte{0xff}, 12)...),
		"field zero":                                {0x00, 0x01},
		"wire type seven":                           {0x0f, 0x01},
		"a field of a newer client":                 append(protowire.AppendTag(nil, 999, protowire.VarintType), 1),
		"a field of a newer client" + at:            field(number, append(protowire.AppendTag(nil, 999, protowire.VarintType), 1)...),
		"thousands of levels" + at:                  nested,
	}
}

// TestOddBodies sends each odd encoding to each method of both APIs, with both kinds of key and without.
func TestOddBodies(t *testing.T) {
	s := start(t)
	for _, m := range methods(t) {
		for number := protowire.Number(1); number <= 12; number++ {
			f := m.input.Fields().ByNumber(number)
			if f != nil && f.Message() == nil {
				continue // of scalars there is nothing odd within
			}
			if f == nil && number > 1 {
				continue
			}
			for what, body := range oddBodies(number) {
				for key, conn := range map[string]*grpc.ClientConn{"a service": s.Service, "an admin": s.Admin} {
					refused(t, fmt.Sprintf("%s as %s: %s", m.path, key, what), send(t, conn, m, body))
				}
				if err := send(t, s.Nobody, m, body); status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s without a key: %s: %v", m.path, what, err)
				}
			}
		}
		for what, body := range map[string][]byte{"not UTF-8": field(stringField(m), 0xff), "not compressed, it says": {0x0a}} {
			if stringField(m) == 0 && what == "not UTF-8" {
				continue
			}
			refused(t, m.path+": "+what, send(t, s.Admin, m, body))
		}
	}
	answers(t, s)
}

// stringField returns the number of a string in a method's request, or 0.
func stringField(m method) protowire.Number {
	for i := range m.input.Fields().Len() {
		if f := m.input.Fields().Get(i); f.Kind().String() == "string" {
			return f.Number()
		}
	}
	return 0
}

// TestUnknownFieldsAreNamed: a field that this server does not know is refused with its number and place, because it may narrow what is
// asked.
func TestUnknownFieldsAreNamed(t *testing.T) {
	s := start(t)
	beside := harness.Dial(t, s.Daemon.Addr().String(), besideKey)
	unknown := append(protowire.AppendTag(nil, 77, protowire.VarintType), 1)
	for _, m := range methods(t) {
		conn := s.Admin
		if caller.MethodOf(m.path).WithoutAdmin {
			conn = beside
		}
		err := send(t, conn, m, unknown)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "the number 77") {
			t.Errorf("%s: %v", m.path, err)
		}
		for i := range m.input.Fields().Len() {
			f := m.input.Fields().Get(i)
			if f.Message() == nil {
				continue
			}
			at := string(f.Name())
			if f.IsList() {
				at += "[0]"
			}
			err := send(t, conn, m, field(f.Number(), unknown...))
			if message := status.Convert(err).Message(); status.Code(err) != codes.InvalidArgument || !strings.Contains(message, "the number 77") || !strings.HasPrefix(message, at) {
				t.Errorf("%s, in %s: %v", m.path, at, err)
			}
		}
	}
	// Health and reflection are gRPC's own.
	health := method{path: "/grpc.health.v1.Health/Check", stream: grpc.StreamDesc{ServerStreams: true}}
	if err := send(t, s.Nobody, health, unknown); err != nil {
		t.Errorf("health: %v", err)
	}
}

// rel is a relationship of the domain.
func rel(context *structpb.Struct) *v1.Relationship {
	return &v1.Relationship{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "new"}, Relation: "reader",
		Subject:        &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "bob"}},
		OptionalCaveat: &v1.ContextualizedCaveat{CaveatName: "fits", Context: context},
	}
}

func number(v float64) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewNumberValue(v)}}
}

// TestOddValues sends what is a sound encoding, and was seen to panic in SpiceDB, or is of that kind.
func TestOddValues(t *testing.T) {
	s := start(t)
	permissions := v1.NewPermissionsServiceClient(s.Service)
	for what, context := range map[string]*structpb.Struct{
		"no number": number(math.NaN()), "infinite": number(math.Inf(1)),
		"a value of no kind": {Fields: map[string]*structpb.Value{"x": {}}},
		"a list of such":     {Fields: map[string]*structpb.Value{"x": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{{}}})}},
	} {
		// Twice the same relationship: SpiceDB writes it into its error, as JSON.
		update := &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: rel(context)}
		_, err := permissions.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{update, update}})
		refused(t, "a write with "+what, err)
		unknown := rel(context)
		unknown.OptionalCaveat.CaveatName = "nowhere"
		_, err = permissions.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{
			{Operation: v1.RelationshipUpdate_OPERATION_CREATE, Relationship: unknown},
		}})
		refused(t, "an unknown caveat with "+what, err)
		_, err = permissions.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
			Resource: rel(nil).GetResource(), Permission: "view", Subject: rel(nil).GetSubject(), Context: context, WithTracing: true,
		})
		refused(t, "a check with "+what, err)
		_, err = s.Permissions().CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: harness.Ref("document:plan"), Permission: "view", Context: context,
		})
		refused(t, "a decision with "+what, err)
	}
	for what, at := range map[string]*timestamppb.Timestamp{
		"the last second": {Seconds: math.MaxInt64}, "the first second": {Seconds: math.MinInt64}, "no nanoseconds": {Seconds: 1e10, Nanos: math.MinInt32},
		"the year 10000": {Seconds: 253402300800},
	} {
		expiring := rel(nil)
		expiring.OptionalCaveat, expiring.OptionalExpiresAt = nil, at
		update := &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: expiring}
		_, err := permissions.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{update, update}})
		refused(t, "an expiration at "+what, err)
	}
	answers(t, s)
}

// TestDeepSchemas: SpiceDB's parser calls itself for each bracket, and no recovery helps against a stack that overflows.
func TestDeepSchemas(t *testing.T) {
	s := start(t)
	const n = 500_000 // takes over a gigabyte of stack
	for what, text := range map[string]string{
		"parentheses": "definition user {}\ndefinition a {\n\trelation rel: user\n\tpermission perm = " + strings.Repeat("(", n) + "rel" + strings.Repeat(")", n) + "\n}",
		"a few":       "definition user {}\ndefinition a {\n\trelation rel: user\n\tpermission perm = " + strings.Repeat("(", 100) + "rel" + strings.Repeat(")", 100) + "\n}",
		"lists":       "caveat c(x " + strings.Repeat("list<", n/10) + "int" + strings.Repeat(">", n/10) + ") { x == 1 }",
		"operators":   "definition user {}\ndefinition a {\n\trelation rel: user\n\tpermission perm = rel" + strings.Repeat(" + rel", 2000) + "\n}",
		"types":       "definition user {}\ndefinition a {\n\trelation rel: user" + strings.Repeat(" | user", 2000) + "\n}",
		"a long text": "definition user {}\n" + strings.Repeat("// words\n", 200_000),
	} {
		_, err := v1.NewSchemaServiceClient(s.Service).DiffSchema(t.Context(), &v1.DiffSchemaRequest{ComparisonSchema: text})
		refused(t, "a comparison of "+what, err)
		_, err = v1.NewExperimentalServiceClient(s.Service).ExperimentalDiffSchema(t.Context(), &v1.ExperimentalDiffSchemaRequest{ComparisonSchema: text}) //nolint:staticcheck // it is served
		refused(t, "an old comparison of "+what, err)
		_, err = v1.NewSchemaServiceClient(s.Admin).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + text})
		refused(t, "a write of "+what, err)
	}
	answers(t, s)
}

// TestCursors: a lookup goes on from its cursor, and only from its own: SpiceDB indexes a list with what a cursor says.
func TestCursors(t *testing.T) {
	s := start(t)
	permissions := v1.NewPermissionsServiceClient(s.Service)
	lookup := func(from *v1.Cursor) (*v1.LookupResourcesResponse, error) {
		stream, err := permissions.LookupResources(t.Context(), &v1.LookupResourcesRequest{
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			ResourceObjectType: "document", Permission: "view", OptionalLimit: 1, OptionalCursor: from,
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
		if err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	first, err := lookup(nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := lookup(first.GetAfterResultCursor())
	if err != nil || second.GetResourceObjectId() == first.GetResourceObjectId() {
		t.Fatalf("after %v: %v %v", first, second, err)
	}
	mac, own, sealed := strings.Cut(first.GetAfterResultCursor().GetToken(), ".")
	if !sealed {
		own = first.GetAfterResultCursor().GetToken()
	}
	decoded, err := cursor.Decode(&v1.Cursor{Token: own})
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"-7", "1", "999999"} {
		forged := proto.CloneOf(decoded)
		for i := range forged.GetV1().GetSections() {
			forged.GetV1().Sections[i] = section
		}
		token, err := cursor.Encode(forged)
		if err != nil {
			t.Fatal(err)
		}
		for what, token := range map[string]string{"unsealed": token.GetToken(), "with another's seal": mac + "." + token.GetToken(), "with none": "." + token.GetToken()} {
			_, err := lookup(&v1.Cursor{Token: token})
			refused(t, "a forged cursor "+what, err)
		}
	}
	stream, err := permissions.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}, OptionalCursor: first.GetAfterResultCursor(), OptionalLimit: 1,
	})
	if err == nil {
		_, err = stream.Recv()
	}
	refused(t, "a cursor of another method", err)
	answers(t, s)
}

// TestOddTokens: revisions are tokens that callers hold, and decoded by SpiceDB's own code.
func TestOddTokens(t *testing.T) {
	s := start(t)
	permissions := v1.NewPermissionsServiceClient(s.Service)
	for what, b := range map[string][]byte{
		"a group that ends as another's": {0x93, 0x03, 0x9c, 0x03}, "the same, within": field(1, 0x93, 0x03, 0x9c, 0x03), "the same, in the newer form": field(2, 0x93, 0x03, 0x9c, 0x03),
		"thousands of levels": slices.Repeat([]byte{0x0b}, 3000), "nothing": nil,
	} {
		token := &v1.ZedToken{Token: base64.StdEncoding.EncodeToString(b)}
		for _, consistency := range []*v1.Consistency{
			{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: token}}, {Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token}},
		} {
			stream, err := permissions.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
				Consistency: consistency, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"},
			})
			if err == nil {
				_, err = stream.Recv()
			}
			// Some are tokens to SpiceDB, of a revision that was or was not; one that was can be from before the schema.
			known := []codes.Code{codes.OK, codes.InvalidArgument, codes.OutOfRange, codes.FailedPrecondition}
			if code := status.Code(err); !slices.Contains(known, code) {
				t.Errorf("a token of %s: %v", what, err)
			}
		}
	}
	answers(t, s)
}

// TestOddMetadata: what goes upstream with a call is bounded by gRPC alone, and changes no more than the answer.
func TestOddMetadata(t *testing.T) {
	s := start(t)
	for _, pairs := range [][]string{
		{"io.spicedb.requestoverlapkey", strings.Repeat(",", 4000)},
		{"io.spicedb.requestoverlapkey", ""},
		{"io.spicedb.requestdebuginfo", "what"},
		{"io.spicedb.requestversion", "yes", "io.spicedb.requestversion", "no"},
		{"x-request-id", strings.Repeat("x", 4000)},
		{"x-request-id", ""},
		{"x-request-id-bin", "\x00\xff"},
		{"traceparent", "00-00000000000000000000000000000000-0000000000000000-ff"},
		{"baggage", strings.Repeat("a=b,", 2000)},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
		_, err := v1.NewPermissionsServiceClient(s.Service).ExpandPermissionTree(ctx, &v1.ExpandPermissionTreeRequest{
			Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
		})
		if err != nil {
			t.Errorf("%q: %v", pairs[0], err)
		}
	}
	answers(t, s)
}
