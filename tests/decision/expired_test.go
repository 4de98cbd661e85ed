package decision_test

import (
	"errors"
	"io"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestExpiredIsNotInTheWay: on the engine embedded a relationship that has expired, which nobody can see, stands in the way neither of
// a write that creates it nor of an import, and a delete by a filter takes it away. The other engines are SpiceDB's.
func TestExpiredIsNotInTheWay(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	s.WriteSchema(t, schema.Core+`
		definition document {
			relation tenant: tenant
			relation reader: user with expiration
			permission view = reader
		}`)
	client := v1.NewPermissionsServiceClient(s.Admin)
	filter := &v1.RelationshipFilter{ResourceType: "document"}
	const plain = "document:plan#reader@user:alice"
	later := tuple.MustParseV1Rel(plain + "[expiration:2999-01-01T00:00:00Z]")
	for name, do := range map[string]func() error{
		"create": func() error {
			_, err := client.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{
				{Operation: v1.RelationshipUpdate_OPERATION_CREATE, Relationship: later},
			}})
			return err
		},
		"import": func() error {
			stream, err := client.ImportBulkRelationships(t.Context())
			if err != nil {
				return err
			}
			if err := stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{later}}); err != nil {
				return err
			}
			_, err = stream.CloseAndRecv()
			return err
		},
		"delete": func() error {
			answer, err := client.DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: filter})
			if err == nil && answer.GetRelationshipsDeletedCount() != 1 {
				t.Errorf("delete: %d relationships were deleted of 1", answer.GetRelationshipsDeletedCount())
			}
			return err
		},
	} {
		// It is there first, and then it has expired.
		for lasts := 100 * time.Millisecond; ; lasts *= 2 {
			s.Touch(t, plain+"[expiration:"+time.Now().Add(lasts).UTC().Format(time.RFC3339Nano)+"]")
			if seen(t, client, filter) {
				break
			}
		}
		for seen(t, client, filter) {
		}
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.Delete(t, plain)
	}
}

// seen reports whether a relationship that matches is read.
func seen(t *testing.T, client v1.PermissionsServiceClient, filter *v1.RelationshipFilter) bool {
	t.Helper()
	stream, err := client.ReadRelationships(t.Context(), &v1.ReadRelationshipsRequest{
		Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		RelationshipFilter: filter,
	})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return err == nil
}
