package spicedb

import (
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestUnsoundRequests holds what SpiceDB answers with INTERNAL or UNKNOWN, and that the door names the field instead.
func TestUnsoundRequests(t *testing.T) {
	contradiction := &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "a", OptionalResourceIdPrefix: "a"}
	for name, c := range map[string]struct {
		request proto.Message
		field   string
	}{
		"nothing required":        {&v1.CheckPermissionRequest{Consistency: &v1.Consistency{}}, "consistency"},
		"a false flag":            {&v1.ReadSchemaRequest{}, ""},
		"not fully consistent":    {&v1.LookupSubjectsRequest{Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{}}}, "consistency"},
		"not minimizing":          {&v1.DiffSchemaRequest{Consistency: &v1.Consistency{Requirement: &v1.Consistency_MinimizeLatency{}}}, "consistency"},
		"an empty cursor":         {&v1.ReadRelationshipsRequest{OptionalCursor: &v1.Cursor{}}, "optional_cursor"},
		"an empty export filter":  {&v1.ExportBulkRelationshipsRequest{OptionalRelationshipFilter: &v1.RelationshipFilter{}}, "optional_relationship_filter"},
		"a contradiction":         {&v1.DeleteRelationshipsRequest{RelationshipFilter: contradiction}, "relationship_filter"},
		"in a watch":              {&v1.WatchRequest{OptionalRelationshipFilters: []*v1.RelationshipFilter{{ResourceType: "a"}, contradiction}}, "optional_relationship_filters[1]"},
		"in a precondition":       {&v1.WriteRelationshipsRequest{OptionalPreconditions: []*v1.Precondition{{Filter: contradiction}}}, "optional_preconditions[0].filter"},
		"a zero byte":             {&v1.ComputablePermissionsRequest{DefinitionName: "a\x00"}, "definition_name"},
		"a relation's brackets":   {&v1.ExperimentalDependentRelationsRequest{DefinitionName: "a", PermissionName: "`"}, "permission_name"},
		"a long name":             {&v1.ReflectSchemaRequest{OptionalFilters: []*v1.ReflectionSchemaFilter{{OptionalCaveatNameFilter: strings.Repeat("a", 129)}}}, "optional_filters[0].optional_caveat_name_filter"},
		"a sound filter":          {&v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}}, ""},
		"a sound consistency":     {&v1.CheckPermissionRequest{Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}}, ""},
		"a definition's name":     {&v1.DependentRelationsRequest{DefinitionName: "acme/document", PermissionName: "view"}, ""},
		"no filter in an export":  {&v1.ExportBulkRelationshipsRequest{}, ""},
		"a filter of subjects":    {&v1.ExportBulkRelationshipsRequest{OptionalRelationshipFilter: &v1.RelationshipFilter{OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user"}}}, ""},
		"no consistency in write": {&v1.WriteRelationshipsRequest{}, ""},
	} {
		err := judgeSound(c.request)
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%s: refused: %v", name, err)
		case c.field != "" && (status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), c.field+": ")):
			t.Errorf("%s: got %v, want INVALID_ARGUMENT about %s", name, err, c.field)
		}
	}
}

// TestFirstUnsoundFieldIsNamed holds that of several wrong fields it is always the request's first that is named: an answer that changed
// from one call to the next would differ where nothing that the caller may see does.
func TestFirstUnsoundFieldIsNamed(t *testing.T) {
	contradiction := &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "a", OptionalResourceIdPrefix: "a"}
	unsound := make([]*v1.RelationshipFilter, 8)
	preconditions := make([]*v1.Precondition, 8)
	names := make([]*v1.ReflectionSchemaFilter, 8)
	for i := range unsound {
		unsound[i], preconditions[i] = contradiction, &v1.Precondition{Filter: contradiction}
		names[i] = &v1.ReflectionSchemaFilter{OptionalDefinitionNameFilter: "`", OptionalPermissionNameFilter: "`"}
	}
	for _, c := range []struct {
		request proto.Message
		field   string
	}{
		{&v1.WriteRelationshipsRequest{OptionalPreconditions: preconditions}, "optional_preconditions[0].filter"},
		{&v1.DeleteRelationshipsRequest{RelationshipFilter: contradiction, OptionalPreconditions: preconditions}, "relationship_filter"},
		{&v1.WatchRequest{OptionalRelationshipFilters: unsound}, "optional_relationship_filters[0]"},
		{&v1.ReflectSchemaRequest{OptionalFilters: names}, "optional_filters[0].optional_definition_name_filter"},
		{&v1.ComputablePermissionsRequest{DefinitionName: "`", RelationName: "`", OptionalDefinitionNameFilter: "`"}, "definition_name"},
		{&v1.DependentRelationsRequest{DefinitionName: "`", PermissionName: "`"}, "definition_name"},
	} {
		for range 20 {
			if err := judgeSound(c.request); !strings.HasPrefix(status.Convert(err).Message(), c.field+": ") {
				t.Errorf("%T: got %v, want %s named", c.request, err, c.field)
				break
			}
		}
	}
}

// TestUnprintableMetadata holds that a header which gRPC would fail the call over does not go upstream.
func TestUnprintableMetadata(t *testing.T) {
	kept := keep(metadata.MD{"x-request-id": {"é"}, "x-trace": {"abc"}, "x-raw-bin": {"\x00\xff"}})
	if len(kept) != 2 || kept["x-trace"] == nil || kept["x-raw-bin"] == nil {
		t.Errorf("kept %v", kept)
	}
}
