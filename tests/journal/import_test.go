package journal_test

import (
	"context"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestHalfAnImport: an import that comes to nothing after it has begun, because its caller leaves or one of its relationships is refused, has a
// record of its beginning, with what it was about to write, and one of its end, which says that it failed and wrote nothing. One that succeeds
// says how many it wrote, over all of its messages.
func TestHalfAnImport(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	message := func(documents ...string) *v1.ImportBulkRelationshipsRequest {
		r := &v1.ImportBulkRelationshipsRequest{}
		for _, id := range documents {
			r.Relationships = append(r.Relationships, &v1.Relationship{
				Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: id}, Relation: "reader",
				Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
			})
		}
		return r
	}
	for _, c := range []struct {
		name, first string
		second      *v1.ImportBulkRelationshipsRequest
		want        codes.Code
		results     uint64
	}{
		{"a caller that leaves", "left", nil, codes.Canceled, 0},
		{"a relationship that is there", "refused", message("x", "plan"), codes.AlreadyExists, 0},
		{"a whole one", "whole", message("y", "z"), codes.OK, 3},
	} {
		w.ledger.fresh()
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := v1.NewPermissionsServiceClient(w.Admin).ImportBulkRelationships(ctx)
		w.must(err)
		w.must(stream.Send(message(c.first)))
		var records []*deputyv1.Record
		for len(records) == 0 && t.Context().Err() == nil { // it has begun
			records = w.ledger.fresh()
		}
		if c.second == nil {
			cancel()
			// Without a half-close, which could arrive before the end of the call and make the import a whole one.
			err = stream.RecvMsg(&v1.ImportBulkRelationshipsResponse{})
		} else if err = stream.Send(c.second); err == nil {
			_, err = stream.CloseAndRecv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s is answered %v", c.name, err)
		}
		for len(records) < 2 && t.Context().Err() == nil { // its end is recorded too where nobody waits for it
			records = append(records, w.ledger.fresh()...)
		}
		cancel()
		if len(records) != 2 {
			t.Fatalf("%s has the records %v", c.name, records)
		}
		begun, ended := records[0], records[1]
		if begun.GetStage() != deputyv1.RecordStage_RECORD_STAGE_BEGUN || len(begun.GetRelationships()) != 1 || len(begun.GetRequestHash()) == 0 ||
			begun.GetRelationships()[0] != "create document:"+c.first+"#reader@user:alice" {
			t.Errorf("%s begins with %v", c.name, begun)
		}
		if ended.GetStage() != deputyv1.RecordStage_RECORD_STAGE_ENDED || ended.GetBegun() != begun.GetSequence() ||
			ended.GetCode() != int32(c.want) || ended.GetResults() != c.results {
			t.Errorf("%s ends with %v", c.name, ended)
		}
		check, err := v1.NewPermissionsServiceClient(w.Admin).CheckPermission(t.Context(), &v1.CheckPermissionRequest{
			Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			Resource:    &v1.ObjectReference{ObjectType: "document", ObjectId: c.first}, Permission: "view",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		})
		w.must(err)
		if wrote := check.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION; wrote != (c.want == codes.OK) {
			t.Errorf("%s has written: %t", c.name, wrote)
		}
	}
}

// TestAFailedDecisionNamesWhatItAsked: a check that fails as a whole, before anybody judges it, has one record, with what it was about and why.
func TestAFailedDecisionNamesWhatItAsked(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	asked := question("document:plan")
	asked.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: &deputyv1.ZedToken{Token: "forged"}}}
	w.ledger.fresh()
	if _, err := w.Permissions().CheckPermission(t.Context(), asked); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	records := w.ledger.fresh()
	if len(records) != 1 {
		t.Fatalf("it has the records %v", records)
	}
	if r := records[0]; r.GetCode() != int32(codes.InvalidArgument) || r.GetReason() == "" || r.GetAgentId() != "bot" || r.GetResourceId() != "plan" ||
		r.GetPermission() != "view" || r.GetPrincipalId() != "alice" || r.GetTenantId() != "acme" {
		t.Errorf("its record is %v", r)
	}
}
