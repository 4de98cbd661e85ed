package decision_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// may expects a check's answer, for a caller.
func (b *boundAtDoor) may(as, check string, want v1.CheckPermissionResponse_Permissionship) {
	b.Helper()
	got, err := b.as(as).CheckPermission(b.Context(), asked(check))
	if err != nil || got.GetPermissionship() != want {
		b.Errorf("%s asks %s: %v, %v, want %v", as, check, got.GetPermissionship(), err, want)
	}
}

const (
	plainYes = v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION
	plainNo  = v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION
)

// refuses expects a status with a reason, and a part of its message.
func (b *boundAtDoor) refuses(what string, err error, code codes.Code, reason, says string) {
	b.Helper()
	st := status.Convert(err)
	if st.Code() != code || statuses.Info(st).GetReason() != reason || !strings.Contains(st.Message(), says) {
		b.Errorf("%s: %v (%s), want %v (%s) that says %q", what, err, statuses.Info(st).GetReason(), code, reason, says)
	}
}

// rows reads relationships, as "document:ours#reader@user:alice".
func (b *boundAtDoor) rows(as string, r *v1.ReadRelationshipsRequest) ([]string, error) {
	b.Helper()
	stream, err := b.as(as).ReadRelationships(b.Context(), r)
	var out []string
	for err == nil {
		var row *v1.ReadRelationshipsResponse
		if row, err = stream.Recv(); err == nil {
			rel := row.GetRelationship()
			out = append(out, rel.GetResource().GetObjectType()+":"+rel.GetResource().GetObjectId()+"#"+rel.GetRelation()+
				"@"+rel.GetSubject().GetObject().GetObjectType()+":"+rel.GetSubject().GetObject().GetObjectId())
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	slices.Sort(out)
	return out, err
}

// TestConfinedCaller: a confined caller asks, reads and writes as before, of what exists for it.
func TestConfinedCaller(t *testing.T) {
	t.Parallel()
	eachBounded(t, func(b *boundAtDoor) {
		for check, want := range map[string]v1.CheckPermissionResponse_Permissionship{
			"document:ours#view@user:alice":               plainYes,
			"document:ours#view@agent:bot":                plainYes,
			"document:ours#view@agent:sub":                plainNo, // beyond the caller's agents
			"document:ours#view@user:carol":               plainNo,
			"document:ours#view@delegation:ours":          plainYes,
			"document:ours#view@delegation:theirs":        plainNo,
			"document:ours#view@agent:far":                plainNo, // in no tenant of the caller's
			"document:ours#view@delegation:sub":           plainNo,
			"document:ours#view@delegation:nightly":       plainNo,
			"session:ours#unfrozen@session:ours":          plainYes,
			"session:theirs#unfrozen@session:theirs":      plainNo,
			"session:sub#unfrozen@session:sub":            plainNo,
			"document:ours#view@user:mallory":             plainNo, // of no tenant of the caller's, whatever the document grants
			"document:open#view@user:carol":               plainYes,
			"document:open#view@user:mallory":             plainYes, // as anybody is
			"document:theirs#view@user:alice":             plainNo,
			"document:shared#view@user:alice":             plainNo, // lies in two tenants
			"document:orphan#view@user:alice":             plainNo, // lies in none
			"document:theirs#reader@document:ours#reader": plainNo,
			"document:ours#reader@document:ours#reader":   plainYes,
			"tenant:acme#access@user:carol":               plainYes,
			"tenant:globex#access@user:mallory":           plainNo,
			"group:theirs#member@user:alice":              plainNo,
		} {
			b.may("acme", check, want)
		}
		b.refused("acme", "document:ours#view@user:alice")

		b.many("acme")

		// A row is shown if both of its objects exist for the caller.
		for object, want := range map[string][]string{
			"document:ours": {"home@tenant:acme", "reader@agent:bot", "reader@delegation:ours", "reader@user:alice"},
			"agent:bot":     {"owner@user:alice"},
			"session:both":  {"agent@agent:bot", "delegation@delegation:ours", "unfrozen@session:both"},
		} {
			for _, as := range []string{"acme", "acme-all"} {
				kind, id, _ := strings.Cut(object, ":")
				rows, err := b.rows(as, reading(kind, id))
				if as == "acme-all" && kind == "document" {
					want = append(want, "reader@agent:sub", "reader@delegation:nightly", "reader@delegation:sub")
				}
				var named []string
				for _, row := range want {
					named = append(named, object+"#"+row)
				}
				slices.Sort(named)
				if err != nil || !slices.Equal(rows, named) {
					b.Errorf("%s reads of %s %q, %v; want %q", as, object, rows, err, named)
				}
			}
		}
		for id, want := range map[string]int{"ours": 4, "theirs": 0, "shared": 0, "absent": 0} {
			rows, err := b.rows("acme", reading("document", id))
			if err != nil || len(rows) != want {
				b.Errorf("document:%s has the rows %q, %v; want %d", id, rows, err, want)
			}
			if slices.Contains(rows, "document:ours#reader@agent:sub") {
				b.Errorf("an agent beyond the bounds is named: %q", rows)
			}
		}
		// A limit counts what the caller sees, and the cursor goes on behind it.
		seen := map[string]bool{}
		var cursor *v1.Cursor
		for range 8 {
			r := reading("document", "ours")
			r.OptionalLimit, r.OptionalCursor = 1, cursor
			stream, err := b.as("acme").ReadRelationships(b.Context(), r)
			if err != nil {
				b.Fatal(err)
			}
			row, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			seen[row.GetRelationship().String()] = true
			cursor = row.GetAfterResultCursor()
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				b.Errorf("after the limit comes %v", err)
			}
		}
		first := reading("document", "ours")
		first.OptionalLimit = 1
		page, err := next(b.as("acme").ReadRelationships(b.Context(), first))
		if err != nil {
			b.Fatal(err)
		}
		first.OptionalCursor = page.GetAfterResultCursor()
		if _, err := b.rows("acme", first); err != nil {
			b.Errorf("an own cursor: %v", err)
		}
		_, err = b.rows("acme-organizer", first)
		b.refuses("another caller's cursor", err, codes.InvalidArgument, authz.ReasonInvalidToken, "optional_cursor")
		if len(seen) != 4 {
			b.Errorf("page by page there are %d rows, want 4: %v", len(seen), seen)
		}

		write := func(as string, r *v1.WriteRelationshipsRequest) error {
			_, err := b.as(as).WriteRelationships(b.Context(), r)
			return err
		}
		ok := func(what string, err error) {
			b.Helper()
			if err != nil {
				b.Errorf("%s: %v", what, err)
			}
		}
		ok("a grant on an own document", write("acme", writing(create, "document:ours#reader@user:carol")))
		b.refuses("the same grant, created again", write("acme", writing(create, "document:ours#reader@user:carol")),
			codes.AlreadyExists, "ERROR_REASON_ATTEMPT_TO_RECREATE_RELATIONSHIP", "")
		ok("its removal", write("acme", writing(remove, "document:ours#reader@user:carol")))
		ok("a grant to an own group", write("acme", writing(touch, "group:ours#member@user:carol")))
		ok("a new document", write("acme", writing(create, "document:new#folder@folder:ours", "document:new#reader@user:alice")))
		b.may("acme", "document:new#view@user:alice", plainYes)
		ok("a new document and its new folder", write("acme", writing(touch,
			"document:newer#folder@folder:new", "folder:new#parent@folder:ours", "folder:new#tenant@tenant:acme")))
		ok("a condition on an own folder", write("acme", provided(v1.Precondition_OPERATION_MUST_MATCH, "folder:ours#tenant@tenant:acme")))
		ok("a condition on a session", write("acme-all", provided(v1.Precondition_OPERATION_MUST_MATCH, "session:both#delegation@delegation:ours")))
		open := writing(touch, "document:ours#reader@user:alice")
		open.OptionalPreconditions = []*v1.Precondition{{
			Operation: v1.Precondition_OPERATION_MUST_MATCH, Filter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "ours"},
		}}
		b.refuses("a condition on any reader, also one beyond", write("acme", open), codes.PermissionDenied, authz.ReasonOutOfBounds, "names no subject")
		unless := writing(create, "document:newest#folder@folder:ours")
		unless.OptionalPreconditions = []*v1.Precondition{{
			Operation: v1.Precondition_OPERATION_MUST_NOT_MATCH, Filter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "newest"},
		}}
		ok("a condition that a placed document is new", write("acme", unless))
		b.refuses("a grant to a user who is nowhere", write("acme", writing(touch, "document:ours#reader@user:bob")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "user:bob does not exist")
		ok("taking a grant from a user who has left", write("acme", writing(remove, "document:ours#reader@user:mallory")))
		b.refuses("a grant to an agent of no tenant of the caller's", write("acme-all", writing(touch, "document:ours#reader@agent:future")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "agent:future does not exist")
		// Ids are one namespace.
		b.refuses("a document whose id is taken", write("acme", writing(create, "document:theirs#home@tenant:acme")),
			codes.PermissionDenied, authz.ReasonRoleRequired, "name already")
		b.refuses("a repetition of what another tenant has", write("acme-organizer", writing(touch, "document:shared#home@tenant:acme")),
			codes.PermissionDenied, authz.ReasonRoleRequired, "name already")
		b.refuses("a document that is not placed", write("acme", writing(create, "document:unplaced#reader@user:alice")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "place a new object")
		b.refuses("a move", write("acme", writing(touch, "document:ours#folder@folder:ours")),
			codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role organizer")
		b.refuses("a grant to an agent", write("acme", writing(touch, "document:ours#reader@agent:bot")),
			codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role organizer")
		b.refuses("a grant to a service", write("acme", writing(touch, "document:ours#reader@service:nightly")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "service:nightly lies outside")

		b.refuses("a grant to what a user beyond leads to", write("acme", writing(touch, "document:ours#reader@user:mallory#active")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "user:mallory does not exist")
		ok("a grant to what a user leads to", write("acme", writing(touch, "document:ours#reader@user:alice#active")))

		ok("an organizer's move", write("acme-organizer", writing(touch, "document:ours#folder@folder:ours")))
		ok("an organizer's grant to an agent", write("acme-organizer", writing(touch, "document:ours#reader@agent:bot")))
		ok("an organizer's scope", write("acme-organizer", writing(touch, "document:open#reader@delegation:ours")))
		b.refuses("a scope of a delegation beyond", write("acme-organizer", writing(touch, "document:open#reader@delegation:theirs")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "delegation:theirs does not exist")
		ok("an organizer's new document", write("acme-organizer", writing(create, "document:third#home@tenant:acme", "document:third#reader@agent:bot")))
		b.may("acme", "document:third#view@agent:bot", plainYes)
		b.refuses("a grant to an agent beyond", write("acme-organizer", writing(touch, "document:ours#reader@agent:sub")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "agent:sub lies outside")
		for _, as := range []string{"acme", "acme-organizer", "acme-admin"} {
			b.refuses(as+" writes to the core", write(as, writing(touch, "tenant:acme#member@user:bob")),
				codes.PermissionDenied, authz.ReasonOutOfBounds, "")
		}
	})
}

// refused asks for a trace of a check, in both ways, and sends what a confined caller may not call.
func (b *boundAtDoor) refused(as, check string) {
	b.Helper()
	traced := asked(check)
	traced.WithTracing = true
	_, err := b.as(as).CheckPermission(b.Context(), traced)
	b.refuses("a trace", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "trace")
	_, err = b.as(as).CheckBulkPermissions(b.Context(), &v1.CheckBulkPermissionsRequest{WithTracing: true, Items: []*v1.CheckBulkPermissionsRequestItem{
		{Resource: traced.GetResource(), Permission: traced.GetPermission(), Subject: traced.GetSubject()},
	}})
	b.refuses("traces", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "trace")
	ctx := metadata.AppendToOutgoingContext(b.Context(), "io.spicedb.requestdebuginfo", "1")
	_, err = b.as(as).CheckPermission(ctx, asked(check))
	b.refuses("a trace, asked for in the metadata", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "trace")
	_, err = b.rows(as, &v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}})
	b.refuses("a read of a type", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "names no resource id")
	_, err = b.rows(as, &v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{OptionalResourceId: "ours"}})
	b.refuses("a read without a type", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "names no resource type")
	_, err = b.as(as).DeleteRelationships(b.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: reading("document", "ours").GetRelationshipFilter()})
	b.refuses("a delete", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
	_, err = b.as(as).ReadSchema(b.Context(), &v1.ReadSchemaRequest{})
	b.refuses("the schema", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
}

// many asks many questions at once, in both ways. Each gets the answer that it gets alone, and is named as it was asked.
func (b *boundAtDoor) many(as string) {
	b.Helper()
	questions := []string{
		"document:ours#view@user:alice", "secret:ours#reader@user:alice", "document:theirs#view@user:alice", "document:ours#view@secret:ours",
		"document:ours#view@user:mallory", "document:ours#view@user:alice",
	}
	wants := []v1.CheckPermissionResponse_Permissionship{plainYes, 0, plainNo, 0, plainNo, plainYes}
	now := &v1.CheckBulkPermissionsRequest{Consistency: head}
	before := &v1.BulkCheckPermissionRequest{Consistency: head}
	for _, q := range questions {
		one := asked(q)
		now.Items = append(now.Items, &v1.CheckBulkPermissionsRequestItem{Resource: one.GetResource(), Permission: one.GetPermission(), Subject: one.GetSubject()})
		//nolint:staticcheck // it is served
		before.Items = append(before.Items, &v1.BulkCheckPermissionRequestItem{Resource: one.GetResource(), Permission: one.GetPermission(), Subject: one.GetSubject()})
	}
	got, err := b.as(as).CheckBulkPermissions(b.Context(), now)
	if err != nil {
		b.Fatal(err)
	}
	old, err := b.as(as).BulkCheckPermission(b.Context(), before) //nolint:staticcheck // it is served
	if err != nil {
		b.Fatal(err)
	}
	if len(got.GetPairs()) != len(questions) || len(old.GetPairs()) != len(questions) {
		b.Fatalf("%d questions have %d and %d answers", len(questions), len(got.GetPairs()), len(old.GetPairs()))
	}
	for i, q := range questions {
		pair, was := got.GetPairs()[i], old.GetPairs()[i]
		item := before.GetItems()[i] //nolint:staticcheck // it is served
		if !proto.Equal(pair.GetRequest(), now.GetItems()[i]) || !proto.Equal(was.GetRequest(), item) {
			b.Errorf("%s was asked, and answered are %v and %v", q, pair.GetRequest(), was.GetRequest())
		}
		if pair.GetItem().GetPermissionship() != wants[i] || was.GetItem().GetPermissionship() != wants[i] {
			b.Errorf("%s: %v and %v, want %v", q, pair, was, wants[i])
		}
		unknown := "object definition `secret` not found"
		if wants[i] == 0 && (pair.GetError().GetMessage() != unknown || was.GetError().GetMessage() != unknown) {
			b.Errorf("%s: %v and %v, want %s", q, pair, was, unknown)
		}
	}
}

// TestBoundsOfTypes: a caller that is bound to types, agents or ids, in all tenants, filters within them.
func TestBoundsOfTypes(t *testing.T) {
	t.Parallel()
	eachBounded(t, func(b *boundAtDoor) {
		for check, want := range map[string]v1.CheckPermissionResponse_Permissionship{
			"document:theirs#view@user:alice":        plainYes,
			"document:ours#view@agent:bot":           plainYes,
			"document:ours#view@agent:sub":           plainNo,
			"document:ours#view@delegation:ours":     plainYes, // bot's
			"tenant:globex#access@user:mallory":      plainYes,
			"tenant:globex#access@agent:spy":         plainNo,
			"document:ours#view@service:nightly":     plainNo,
			"document:theirs#reader@user:mallory":    plainYes,
			"delegation:theirs#principal@user:alice": plainYes,
		} {
			b.may("some-types", check, want)
		}
		for check, want := range map[string]v1.CheckPermissionResponse_Permissionship{
			"document:acme/one#view@user:alice": plainYes, "document:ours#view@user:alice": plainNo, "document:acme/one#view@agent:bot": plainYes,
		} {
			b.may("some-ids", check, want)
			b.may("acme-ids", check, want)
		}
		_, err := b.as("some-types").CheckPermission(b.Context(), asked("folder:ours#reader@user:alice"))
		b.refuses("a check of a type beyond", err, codes.FailedPrecondition, "ERROR_REASON_UNKNOWN_DEFINITION", "object definition `folder` not found; the schema has document")
		if strings.Contains(status.Convert(err).Message(), "secret") {
			b.Errorf("a type beyond is named: %v", err)
		}

		read := func(as string, f *v1.RelationshipFilter) ([]string, error) {
			return b.rows(as, &v1.ReadRelationshipsRequest{Consistency: head, RelationshipFilter: f})
		}
		rows, err := read("some-types", &v1.RelationshipFilter{ResourceType: "document", OptionalRelation: "reader"})
		if err != nil || !slices.Contains(rows, "document:theirs#reader@user:alice") || !slices.Contains(rows, "document:ours#reader@agent:bot") ||
			slices.Contains(rows, "document:ours#reader@agent:sub") {
			b.Errorf("rows of documents: %q, %v", rows, err)
		}
		_, err = read("some-types", &v1.RelationshipFilter{ResourceType: "folder"})
		b.refuses("rows of folders", err, codes.FailedPrecondition, "ERROR_REASON_UNKNOWN_DEFINITION", "")
		_, err = read("some-types", &v1.RelationshipFilter{OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user"}})
		b.refuses("rows of all types", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "names no resource type")
		_, err = read("some-types", &v1.RelationshipFilter{ResourceType: "agent"})
		b.refuses("rows of all agents", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
		rows, err = read("some-ids", &v1.RelationshipFilter{ResourceType: "document", OptionalResourceIdPrefix: "acme/"})
		if err != nil || len(rows) != 3 {
			b.Errorf("rows of acme/: %q, %v", rows, err)
		}
		rows, err = read("some-ids", &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "ours"})
		if err != nil || len(rows) != 0 {
			b.Errorf("rows of an id beyond: %q, %v", rows, err)
		}
		for _, prefix := range []string{"", "acme", "o"} {
			_, err = read("some-ids", &v1.RelationshipFilter{ResourceType: "document", OptionalResourceIdPrefix: prefix})
			b.refuses("rows of "+prefix, err, codes.PermissionDenied, authz.ReasonOutOfBounds, "beginning")
		}

		reach := func(as, kind string) (out []string, err error) {
			stream, err := b.as(as).LookupResources(b.Context(), &v1.LookupResourcesRequest{
				Consistency: head, ResourceObjectType: kind, Permission: "reader", Subject: rowOf("a:a#a@user:alice").GetSubject(),
			})
			for err == nil {
				var one *v1.LookupResourcesResponse
				if one, err = stream.Recv(); err == nil {
					out = append(out, one.GetResourceObjectId())
				}
			}
			return out, err
		}
		if ids, err := reach("some-types", "document"); !errors.Is(err, io.EOF) || len(ids) < 5 {
			b.Errorf("documents: %q, %v", ids, err)
		}
		_, err = reach("some-types", "secret")
		b.refuses("a lookup of a type beyond", err, codes.FailedPrecondition, "ERROR_REASON_UNKNOWN_DEFINITION", "")
		_, err = reach("some-ids", "document")
		b.refuses("a lookup of all ids", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "lists objects beyond")
		subjects := func(as, resource, kind string) (out []string, err error) {
			stream, err := b.as(as).LookupSubjects(b.Context(), &v1.LookupSubjectsRequest{
				Consistency: head, Resource: rowOf(resource + "#a@a:a").GetResource(), Permission: "reader", SubjectObjectType: kind,
			})
			for err == nil {
				var one *v1.LookupSubjectsResponse
				if one, err = stream.Recv(); err == nil {
					out = append(out, one.GetSubject().GetSubjectObjectId())
				}
			}
			return out, err
		}
		if ids, err := subjects("some-types", "document:theirs", "user"); !errors.Is(err, io.EOF) || len(ids) != 2 {
			b.Errorf("users: %q, %v", ids, err)
		}
		if ids, err := subjects("some-ids", "document:ours", "user"); !errors.Is(err, io.EOF) || len(ids) != 0 {
			b.Errorf("users of an id beyond: %q, %v", ids, err)
		}
		_, err = subjects("some-types", "document:ours", "agent")
		b.refuses("a lookup of agents", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "lists objects beyond")
		for _, as := range []string{"some-types", "some-ids"} {
			_, err = b.as(as).ExpandPermissionTree(b.Context(), &v1.ExpandPermissionTreeRequest{
				Resource: rowOf("document:ours#a@a:a").GetResource(), Permission: "view",
			})
			b.refuses("a tree", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
			watch, err := b.as(as).Watch(b.Context(), &v1.WatchRequest{})
			if err == nil {
				_, err = watch.Recv()
			}
			b.refuses("a watch", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
		}

		write := func(as string, r *v1.WriteRelationshipsRequest) error {
			_, err := b.as(as).WriteRelationships(b.Context(), r)
			return err
		}
		if err := write("some-types", writing(touch, "document:theirs#reader@user:bob", "document:theirs#reader@agent:bot")); err != nil {
			b.Error(err)
		}
		b.refuses("a grant to an agent beyond", write("some-types", writing(touch, "document:ours#reader@agent:sub")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "agent:sub")
		b.refuses("a row of a type beyond", write("some-types", writing(touch, "folder:ours#reader@user:bob")),
			codes.FailedPrecondition, authz.ReasonUnknownType, "the schema has document")
		b.refuses("a subject of a type beyond", write("some-types", writing(touch, "document:ours#folder@folder:ours")),
			codes.FailedPrecondition, authz.ReasonUnknownType, "the schema has document")
		for _, as := range []string{"some-ids", "acme-ids"} {
			b.refuses("a new id beyond", write(as, writing(create, "document:fresh#home@tenant:acme")),
				codes.PermissionDenied, authz.ReasonOutOfBounds, "document:fresh lies outside")
			if err := write(as, writing(create, "document:acme/"+as+"#home@tenant:acme")); err != nil {
				b.Errorf("%s: %v", as, err)
			}
		}
		load := func(row string) error {
			stream, err := b.as("some-types").ImportBulkRelationships(b.Context())
			if err != nil {
				return err
			}
			_ = stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{rowOf(row)}})
			_, err = stream.CloseAndRecv()
			return err
		}
		b.refuses("an import of a type beyond", load("folder:ours#reader@user:eve"), codes.FailedPrecondition, authz.ReasonUnknownType, "the schema has document")
		b.refuses("an import of an agent beyond", load("document:ours#reader@agent:spy"), codes.PermissionDenied, authz.ReasonOutOfBounds, "agent:spy")
		b.refuses("an import of a delegation", load("document:ours#reader@delegation:sub"), codes.PermissionDenied, authz.ReasonOutOfBounds, "delegation:sub")
		if err := load("document:ours#reader@user:eve"); err != nil {
			b.Error(err)
		}
		if err := write("some-types", writing(touch, "document:open#reader@delegation:ours")); err != nil {
			b.Error(err)
		}
		b.refuses("a scope of a delegation beyond", write("some-types", writing(touch, "document:open#reader@delegation:sub")),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "delegation:sub does not exist")
		conditional := writing(touch, "document:acme/one#reader@user:eve")
		for id, refused := range map[string]bool{"acme/one": false, "ours": true} {
			conditional.OptionalPreconditions = []*v1.Precondition{{
				Operation: v1.Precondition_OPERATION_MUST_MATCH, Filter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: id},
			}}
			if err := write("some-ids", conditional); refused {
				b.refuses("a condition beyond", err, codes.PermissionDenied, authz.ReasonOutOfBounds, "document:ours")
			} else if err != nil {
				b.Error(err)
			}
		}
		purge := func(as string, f *v1.RelationshipFilter) error {
			_, err := b.as(as).DeleteRelationships(b.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: f})
			return err
		}
		b.refuses("a delete of all ids", purge("some-ids", &v1.RelationshipFilter{ResourceType: "document"}), codes.PermissionDenied, authz.ReasonOutOfBounds, "beginning")
		b.refuses("a delete of an id beyond", purge("some-ids", &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "ours"}),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "document:ours")
		b.refuses("a delete of all agents' grants", purge("some-types", &v1.RelationshipFilter{
			ResourceType: "document", OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "agent"},
		}), codes.PermissionDenied, authz.ReasonOutOfBounds, "subjects beyond")
		b.refuses("a delete of all grants", purge("some-types", &v1.RelationshipFilter{ResourceType: "document"}),
			codes.PermissionDenied, authz.ReasonOutOfBounds, "type of subjects")
		if err := purge("some-types", &v1.RelationshipFilter{
			ResourceType: "document", OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "agent", OptionalSubjectId: "bot"},
		}); err != nil {
			b.Error(err)
		}
		rows, err = read("some-types", &v1.RelationshipFilter{ResourceType: "document", OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "agent"}})
		if err != nil || len(rows) != 0 {
			b.Errorf("bot's grants are deleted, and there are %q, %v", rows, err)
		}
		b.may(caller.AdminName, "document:ours#view@agent:sub", plainYes)
	})
}

// TestOrganizer: an organizer writes all of the domain, and nothing of the core.
func TestOrganizer(t *testing.T) {
	b := newBounded(t, inMemory())
	write := func(as string, op v1.RelationshipUpdate_Operation, row string) error {
		_, err := b.as(as).WriteRelationships(t.Context(), writing(op, row))
		return err
	}
	load := func(as, row string) error {
		stream, err := b.as(as).ImportBulkRelationships(t.Context())
		if err == nil {
			_ = stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{rowOf(row)}})
			_, err = stream.CloseAndRecv()
		}
		return err
	}
	for _, row := range []string{
		"document:ours#folder@folder:theirs", "document:ours#home@tenant:globex", "document:ours#reader@agent:bot",
		"document:ours#reader@delegation:ours", "folder:ours#parent@folder:theirs", "document:ours#reader@document:theirs#reader",
	} {
		for _, op := range []v1.RelationshipUpdate_Operation{remove, create, remove} {
			if err := write("organizer", op, row); err != nil {
				t.Errorf("organizer, %v %s: %v", op, row, err)
			}
			b.refuses(row, write("writer", op, row), codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role organizer")
		}
		b.refuses(row, load("writer", row), codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role organizer")
		if err := load("organizer", row); err != nil {
			t.Errorf("organizer, import of %s: %v", row, err)
		}
	}
	for _, row := range []string{"tenant:acme#member@user:bob", "agent:bot#owner@user:bob", "delegation:ours#agent@agent:bot"} {
		b.refuses(row, write("organizer", touch, row), codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role admin")
		b.refuses(row, load("organizer", row), codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role admin")
	}
	for name, f := range map[string]*v1.RelationshipFilter{
		"a core type": {ResourceType: "tenant"}, "no type": {OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "agent", OptionalSubjectId: "bot"}},
	} {
		_, err := b.as("organizer").DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{RelationshipFilter: f})
		b.refuses(name, err, codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role admin")
	}
	everything := &v1.DeleteRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}}
	_, err := b.as("writer").DeleteRelationships(t.Context(), everything)
	b.refuses("all documents", err, codes.PermissionDenied, authz.ReasonRoleRequired, "takes the role organizer")
	if _, err := b.as("organizer").DeleteRelationships(t.Context(), everything); err != nil {
		t.Error(err)
	}
}

// TestSealedTokens: the tokens of callers are sealed, in each answer, and good in each request. Those of admins, and of the preshared keys'
// service, are SpiceDB's.
func TestSealedTokens(t *testing.T) {
	t.Parallel()
	eachBounded(t, func(b *boundAtDoor) {
		raw, err := b.as(caller.AdminName).WriteRelationships(b.Context(), writing(touch, "document:ours#reader@user:alice"))
		if err != nil {
			b.Fatal(err)
		}
		for _, as := range []string{"acme", "acme-admin", "writer"} {
			ask := func(c *v1.Consistency) (*v1.CheckPermissionResponse, error) {
				r := asked("document:ours#view@user:new-to-" + as)
				r.Consistency = c
				return b.as(as).CheckPermission(b.Context(), r)
			}
			before, err := ask(head)
			if err != nil {
				b.Fatal(err)
			}
			b.Touch(b.T, "tenant:acme#member@user:new-to-"+as)
			written, err := b.as(as).WriteRelationships(b.Context(), writing(touch, "document:ours#reader@user:new-to-"+as))
			if err != nil {
				b.Fatal(err)
			}
			seen, err := ask(after(written.GetWrittenAt()))
			if err != nil || as == "writer" && seen.GetPermissionship() != plainYes {
				b.Errorf("%s, after its write: %v, %v", as, seen, err)
			}
			if seen, err := ask(exactly(before.GetCheckedAt())); err != nil || seen.GetPermissionship() != plainNo {
				b.Errorf("%s, at the snapshot before: %v, %v", as, seen, err)
			}
			_, err = ask(after(raw.GetWrittenAt()))
			b.refuses(as+" with an admin's token", err, codes.InvalidArgument, authz.ReasonInvalidToken, "consistency.at_least_as_fresh")
			_, err = ask(exactly(raw.GetWrittenAt()))
			b.refuses(as+" with an admin's token", err, codes.InvalidArgument, authz.ReasonInvalidToken, "consistency.at_exact_snapshot")
			changed := written.GetWrittenAt().GetToken()
			_, err = ask(after(&v1.ZedToken{Token: changed[:len(changed)-1] + "!"}))
			b.refuses(as+" with a changed token", err, codes.InvalidArgument, authz.ReasonInvalidToken, "")
			for _, other := range []string{caller.AdminName, caller.ServiceName} {
				r := asked("document:ours#view@user:alice")
				r.Consistency = exactly(before.GetCheckedAt())
				if _, err := b.as(other).CheckPermission(b.Context(), r); err == nil {
					b.Errorf("%s reads with a sealed token", other)
				}
				r.Consistency = exactly(raw.GetWrittenAt())
				if _, err := b.as(other).CheckPermission(b.Context(), r); err != nil {
					b.Errorf("%s with its own token: %v", other, err)
				}
			}
			stream, err := b.as(as).ReadRelationships(b.Context(), reading("document", "ours"))
			if err != nil {
				b.Fatal(err)
			}
			row, err := stream.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := ask(exactly(row.GetReadAt())); err != nil {
				b.Errorf("%s, at what it read: %v", as, err)
			}
			bulk, err := b.as(as).CheckBulkPermissions(b.Context(), &v1.CheckBulkPermissionsRequest{
				Consistency: after(written.GetWrittenAt()),
				Items:       []*v1.CheckBulkPermissionsRequestItem{{Resource: asked("document:ours#view@user:alice").GetResource(), Permission: "view", Subject: rowOf("a:a#a@user:alice").GetSubject()}},
			})
			if err != nil || bulk.GetPairs()[0].GetItem().GetPermissionship() != plainYes {
				b.Fatalf("%v, %v", bulk, err)
			}
			if _, err := ask(after(bulk.GetCheckedAt())); err != nil {
				b.Errorf("%s, after a bulk check: %v", as, err)
			}
		}
		// A watch begins and goes on with sealed tokens.
		if b.IsRemote() {
			return
		}
		from, err := b.as("writer").WriteRelationships(b.Context(), writing(touch, "document:ours#reader@user:first"))
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithTimeout(b.Context(), time.Minute)
		defer stop()
		_, err = next(b.as("writer").Watch(ctx, &v1.WatchRequest{OptionalStartCursor: raw.GetWrittenAt()}))
		b.refuses("a watch from an admin's token", err, codes.InvalidArgument, authz.ReasonInvalidToken, "optional_start_cursor")
		if _, err := b.as("writer").WriteRelationships(b.Context(), writing(touch, "document:ours#reader@user:second")); err != nil {
			b.Fatal(err)
		}
		change, err := next(b.as("writer").Watch(ctx, &v1.WatchRequest{OptionalStartCursor: from.GetWrittenAt()}))
		if err != nil || change.GetUpdates()[0].GetRelationship().GetSubject().GetObject().GetObjectId() != "second" {
			b.Fatalf("%v, %v", change, err)
		}
		if _, err := b.as("writer").WriteRelationships(b.Context(), writing(touch, "document:ours#reader@user:third")); err != nil {
			b.Fatal(err)
		}
		change, err = next(b.as("writer").Watch(ctx, &v1.WatchRequest{OptionalStartCursor: change.GetChangesThrough()}))
		if err != nil || change.GetUpdates()[0].GetRelationship().GetSubject().GetObject().GetObjectId() != "third" {
			b.Errorf("%v, %v", change, err)
		}
	})
}

// next returns the first answer of a stream.
func next[M any](stream interface{ Recv() (M, error) }, err error) (M, error) {
	if err != nil {
		var none M
		return none, err
	}
	return stream.Recv()
}

// TestConfinedSnapshots: a confined caller reads no snapshot that is older than a decision's may be, and cannot keep one by asking again.
func TestConfinedSnapshots(t *testing.T) {
	cfg := inMemory()
	cfg.SnapshotMaxAge = time.Nanosecond
	b := newBounded(t, cfg)
	for as, refused := range map[string]bool{"acme": true, "writer": false} {
		r := asked("document:ours#view@user:alice")
		first, err := b.as(as).CheckPermission(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		r.Consistency = exactly(first.GetCheckedAt())
		_, err = b.as(as).CheckPermission(t.Context(), r)
		if refused {
			b.refuses(as, err, codes.OutOfRange, authz.ReasonSnapshotTooOld, "older than")
		} else if err != nil {
			t.Errorf("%s: %v", as, err)
		}
	}
	cfg = inMemory()
	cfg.SnapshotMaxAge = time.Hour
	b = newBounded(t, cfg)
	r := asked("document:ours#view@user:alice")
	first, err := b.as("acme").CheckPermission(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Consistency = exactly(first.GetCheckedAt())
	again, err := b.as("acme").CheckPermission(t.Context(), r)
	if err != nil || again.GetCheckedAt().GetToken() != first.GetCheckedAt().GetToken() {
		t.Errorf("the snapshot was %v, and is %v, %v", first.GetCheckedAt(), again.GetCheckedAt(), err)
	}
}
