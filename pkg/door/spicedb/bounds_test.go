package spicedb

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// judgedByGuards are the requests whose guard judges them for a caller with bounds as well.
var judgedByGuards = map[protoreflect.Name]bool{
	"WriteRelationshipsRequest": true, "DeleteRelationshipsRequest": true, "ImportBulkRelationshipsRequest": true, "BulkImportRelationshipsRequest": true,
}

// TestNothingExists: a caller for whom nothing exists gets nothing from any method, also from one that is added, and writes nothing.
func TestNothingExists(t *testing.T) {
	h := openEngine(t)
	admin := h.client(t, adminKey)
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(t.Context(), updates("document:plan#reader@user:alice")))
	requests := map[protoreflect.Name]proto.Message{
		"CheckPermissionRequest":    &v1.CheckPermissionRequest{Resource: object("document:plan"), Permission: "view", Subject: subject("user:alice")},
		"WriteRelationshipsRequest": updates("document:plan#reader@user:bob"),
		"DeleteRelationshipsRequest": &v1.DeleteRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{
			ResourceType: "document", OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user"},
		}},
		"ImportBulkRelationshipsRequest": &v1.ImportBulkRelationshipsRequest{Relationships: relationships("document:plan#reader@user:bob")},
		"BulkImportRelationshipsRequest": &v1.BulkImportRelationshipsRequest{Relationships: relationships("document:plan#reader@user:bob")},
		"ReadRelationshipsRequest":       &v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "plan"}},
		"LookupResourcesRequest":         &v1.LookupResourcesRequest{ResourceObjectType: "document", Permission: "view", Subject: subject("user:alice")},
		"LookupSubjectsRequest":          &v1.LookupSubjectsRequest{Resource: object("document:plan"), Permission: "view", SubjectObjectType: "user"},
	}
	bulk := &v1.CheckBulkPermissionsRequest{}
	oldBulk := &v1.BulkCheckPermissionRequest{}
	protoregistry.GlobalFiles.RangeFilesByPackage(apiPackage, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				request := requests[m.Input().Name()]
				if request == nil {
					request = messageType(m.Input()).New().Interface()
				}
				if proto.Equal(request, bulk) || proto.Equal(request, oldBulk) {
					continue // no items are no question
				}
				err := h.confined(t.Context(), string(f.Services().Get(i).Name())+"/"+string(m.Name()), request)
				reason := statuses.Info(status.Convert(err)).GetReason()
				if reason != authz.ReasonOutOfBounds && reason != authz.ReasonUnknownType && reason != v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION.String() &&
					(!judgedByGuards[m.Input().Name()] || status.Code(err) != codes.PermissionDenied) {
					t.Errorf("%s: %v (%s)", m.FullName(), err, reason)
				}
			}
		}
		return true
	})
	// An import cannot say that its objects are new, so that it takes all tenants, whatever the method's table says.
	loading := requests["ImportBulkRelationshipsRequest"]
	bounds := *authz.Unbounded()
	bounds.Tenants = authz.NamesOf("acme")
	err := h.judged(t.Context(), Rights{Core: true, Feeds: true, Bounds: &bounds}, "PermissionsService/ImportBulkRelationships", loading)
	if statuses.Info(status.Convert(err)).GetReason() != authz.ReasonOutOfBounds {
		t.Errorf("an import by a confined caller: %v", err)
	}
	if err := h.confined(t.Context(), "PermissionsService/CheckPermission", &v1.Cursor{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a request that nobody thought of: %v", err)
	}
}

// TestJudgedWhereAnswered: a confined caller's check is answered at the revision at which its objects were found to exist for it, whatever is
// written meanwhile.
func TestJudgedWhereAnswered(t *testing.T) {
	h := openEngine(t)
	admin, service := h.client(t, adminKey), h.client(t, confinedKey)
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(t.Context(), updates(
		"tenant:acme#member@user:alice", "folder:ours#tenant@tenant:acme", "document:plan#folder@folder:ours")))
	h.hold()
	moved := updates("folder:ours#tenant@tenant:globex", "document:plan#reader@user:alice")
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(t.Context(), moved))
	item := &v1.CheckBulkPermissionsRequestItem{Resource: object("document:plan"), Permission: "view", Subject: subject("user:alice")}
	one := must[*v1.CheckPermissionResponse](t)(service.CheckPermission(t.Context(), &v1.CheckPermissionRequest{
		Consistency: fully, Resource: item.GetResource(), Permission: item.GetPermission(), Subject: item.GetSubject(),
	}))
	many := must[*v1.CheckBulkPermissionsResponse](t)(service.CheckBulkPermissions(t.Context(), &v1.CheckBulkPermissionsRequest{
		Consistency: fully, Items: []*v1.CheckBulkPermissionsRequestItem{item},
	}))
	for _, got := range []v1.CheckPermissionResponse_Permissionship{one.GetPermissionship(), many.GetPairs()[0].GetItem().GetPermissionship()} {
		if got != v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION {
			t.Errorf("%v, from after the move", got)
		}
	}
	read, err := service.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
		Consistency: fully, RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "plan", OptionalRelation: "reader"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if row, err := read.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, %v, from after the move", row, err)
	}
}

// TestCursorsTellNoAge: what a confined caller reads with a cursor may be of any age, so that the token it gets for it opens no snapshot:
// nobody keeps an old one by paging on.
func TestCursorsTellNoAge(t *testing.T) {
	h := openEngine(t)
	admin, service := h.client(t, adminKey), h.client(t, confinedKey)
	must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(t.Context(), updates(
		"tenant:acme#member@user:alice", "tenant:acme#member@user:bob",
		"folder:ours#tenant@tenant:acme", "document:plan#folder@folder:ours", "document:plan#reader@user:alice", "document:plan#reader@user:bob")))
	request := &v1.ReadRelationshipsRequest{
		Consistency: fully, OptionalLimit: 1,
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "plan", OptionalRelation: "reader"},
	}
	d := *h.door
	d.cfg.SnapshotMaxAge = time.Hour
	d.cfg.Rights = func(context.Context) Rights {
		bounds := *authz.Unbounded()
		bounds.Tenants = authz.NamesOf("acme")
		return Rights{Bounds: &bounds, Seals: true}
	}
	for page, want := range []string{"", authz.ReasonSnapshotTooOld} {
		stream, err := service.ReadRelationships(t.Context(), request)
		rows := collect(t, stream, err)
		if len(rows) != 1 {
			t.Fatalf("page %d has %d rows, want 1", page+1, len(rows))
		}
		err = d.call(t.Context(), &route{}).openOne(t.Context(), exactField, proto.CloneOf(rows[0].GetReadAt()))
		if got := statuses.Info(status.Convert(err)).GetReason(); got != want {
			t.Errorf("a snapshot by the token of page %d: %v, want the reason %q", page+1, err, want)
		}
		request.OptionalCursor = rows[0].GetAfterResultCursor()
	}
}

// TestStaleAnswersTellTheirAge: a revision that SpiceDB chose may have been the newest some time ago, and counts as that old as a snapshot.
func TestStaleAnswersTellTheirAge(t *testing.T) {
	for staleness, want := range map[time.Duration]string{0: "", 2 * time.Hour: authz.ReasonSnapshotTooOld} {
		h := openEngine(t)
		h.door.cfg.Staleness = staleness
		admin, service := h.client(t, adminKey), h.client(t, confinedKey)
		must[*v1.WriteRelationshipsResponse](t)(admin.WriteRelationships(t.Context(), updates(
			"tenant:acme#member@user:alice", "folder:ours#tenant@tenant:acme", "document:plan#folder@folder:ours", "document:plan#reader@user:alice")))
		stream, err := service.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "plan", OptionalRelation: "reader"},
			Consistency:        fully,
		})
		rows := collect(t, stream, err)
		if len(rows) != 1 {
			t.Fatalf("%d rows, want 1", len(rows))
		}
		d := *h.door
		d.cfg.SnapshotMaxAge = time.Hour
		d.cfg.Rights = func(context.Context) Rights {
			bounds := *authz.Unbounded()
			bounds.Tenants = authz.NamesOf("acme")
			return Rights{Bounds: &bounds, Seals: true}
		}
		err = d.call(t.Context(), &route{}).openOne(t.Context(), exactField, rows[0].GetReadAt())
		if got := statuses.Info(status.Convert(err)).GetReason(); got != want {
			t.Errorf("a revision that may be %s old, as a snapshot: %v, want the reason %q", staleness, err, want)
		}
	}
}

// confined judges a request of a method as that of a caller with the zero Rights.
func (h *house) confined(ctx context.Context, key string, request proto.Message) error {
	return h.judged(ctx, Rights{}, key, request)
}

// judged judges a request of a method as that of a caller with rights.
func (h *house) judged(ctx context.Context, rights Rights, key string, request proto.Message) error {
	d := *h.door
	d.cfg.Rights = func(context.Context) Rights { return rights }
	c := d.call(ctx, &route{path: "/authzed.api.v1." + key, guard: guards[key]})
	return c.judge(ctx, 0, request)
}
