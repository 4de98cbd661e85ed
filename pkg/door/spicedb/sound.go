package spicedb

import (
	"fmt"
	"iter"
	"regexp"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
)

// judgeSound refuses requests that SpiceDB v1.56.2 does not check and then fails over, with INTERNAL or UNKNOWN and texts of its
// insides: a consistency that asks for nothing, an empty cursor, a filter that filters nothing or contradicts itself, an imported
// resource that is a wildcard, and names that no schema can have. They are the caller's mistakes, and say so here.
func judgeSound(request proto.Message) error {
	if r, ok := request.(interface{ GetConsistency() *v1.Consistency }); ok {
		if err := soundConsistency(r.GetConsistency()); err != nil {
			return err
		}
	}
	if r, ok := request.(interface{ GetOptionalCursor() *v1.Cursor }); ok {
		if c := r.GetOptionalCursor(); c != nil && c.GetToken() == "" {
			return unsound("optional_cursor", "is empty; leave it out to begin, or send the cursor of an earlier answer")
		}
	}
	// What a delete without any condition comes to is for its guard and for SpiceDB.
	_, deletes := request.(*v1.DeleteRelationshipsRequest)
	for field, filter := range filtersOf(request) {
		if err := soundFilter(field, filter, deletes && field == "relationship_filter"); err != nil {
			return err
		}
	}
	if r, ok := request.(interface{ GetRelationships() []*v1.Relationship }); ok {
		for i, rel := range r.GetRelationships() {
			if rel.GetResource().GetObjectId() == "*" {
				return unsound(fmt.Sprintf("relationships[%d].resource.object_id", i), "is *, which stands for all subjects of a type; name one resource")
			}
		}
	}
	for _, n := range namesOf(request) {
		if !possibleName.MatchString(n.name) {
			return unsound(n.field, "is no name that a schema can have: a name holds lower-case letters, digits, underscores and slashes, at most 128")
		}
	}
	return nil
}

func unsound(field, message string) error {
	return failure(codes.InvalidArgument, authz.ReasonInvalidField, field, message)
}

// soundConsistency refuses a consistency that names no requirement, or a requirement that is false.
func soundConsistency(c *v1.Consistency) error {
	if c == nil {
		return nil
	}
	required := true
	switch r := c.GetRequirement().(type) {
	case *v1.Consistency_MinimizeLatency:
		required = r.MinimizeLatency
	case *v1.Consistency_FullyConsistent:
		required = r.FullyConsistent
	case nil:
		required = false
	}
	if !required {
		return unsound("consistency", "asks for nothing; set exactly one requirement, a flag to true, or leave consistency out")
	}
	return nil
}

// filtersOf yields the relationship filters of a request and the names of their fields, in the request's order, so that of several
// mistakes it is always the same one that is told.
func filtersOf(request proto.Message) iter.Seq2[string, *v1.RelationshipFilter] {
	return func(yield func(string, *v1.RelationshipFilter) bool) {
		if r, ok := request.(interface{ GetRelationshipFilter() *v1.RelationshipFilter }); ok {
			if !yield("relationship_filter", r.GetRelationshipFilter()) {
				return
			}
		}
		if r, ok := request.(interface{ GetOptionalRelationshipFilter() *v1.RelationshipFilter }); ok {
			if !yield("optional_relationship_filter", r.GetOptionalRelationshipFilter()) {
				return
			}
		}
		if r, ok := request.(interface {
			GetOptionalRelationshipFilters() []*v1.RelationshipFilter
		}); ok {
			for i, f := range r.GetOptionalRelationshipFilters() {
				if !yield(fmt.Sprintf("optional_relationship_filters[%d]", i), f) {
					return
				}
			}
		}
		if r, ok := request.(interface{ GetOptionalPreconditions() []*v1.Precondition }); ok {
			for i, p := range r.GetOptionalPreconditions() {
				if !yield(fmt.Sprintf("optional_preconditions[%d].filter", i), p.GetFilter()) {
					return
				}
			}
		}
	}
}

func soundFilter(field string, f *v1.RelationshipFilter, mayBeEmpty bool) error {
	switch {
	case f == nil: // SpiceDB says whether it may be left out
		return nil
	case f.GetOptionalResourceId() != "" && f.GetOptionalResourceIdPrefix() != "":
		return unsound(field, "has both optional_resource_id and optional_resource_id_prefix; set one of them")
	case !mayBeEmpty && f.GetResourceType() == "" && f.GetOptionalResourceId() == "" && f.GetOptionalResourceIdPrefix() == "" &&
		f.GetOptionalRelation() == "" && f.GetOptionalSubjectFilter() == nil:
		return unsound(field, "is empty; set at least one of its fields")
	}
	return nil
}

// possibleName matches whatever the reflection of a schema could find, and beginnings of it.
var possibleName = regexp.MustCompile(`^[a-z0-9_/]{0,128}$`)

// fieldName is a name of a schema that a request asks about, and the field that holds it.
type fieldName struct{ field, name string }

// namesOf returns the names by which a request looks things up in a schema, in the request's order, as [filtersOf] does.
func namesOf(request proto.Message) []fieldName {
	switch r := request.(type) {
	case *v1.ReflectSchemaRequest:
		return filterNames(r.GetOptionalFilters())
	case *v1.ExperimentalReflectSchemaRequest:
		return filterNames(r.GetOptionalFilters())
	case *v1.ComputablePermissionsRequest:
		return computableNames(r)
	case *v1.ExperimentalComputablePermissionsRequest:
		return computableNames(r)
	case *v1.DependentRelationsRequest:
		return dependentNames(r)
	case *v1.ExperimentalDependentRelationsRequest:
		return dependentNames(r)
	default:
		return nil
	}
}

// reflectionFilter is what the two filters of a schema's reflection have in common.
type reflectionFilter interface {
	GetOptionalDefinitionNameFilter() string
	GetOptionalCaveatNameFilter() string
	GetOptionalRelationNameFilter() string
	GetOptionalPermissionNameFilter() string
}

func filterNames[F reflectionFilter](filters []F) []fieldName {
	names := make([]fieldName, 0, 4*len(filters))
	for i, f := range filters {
		field := fmt.Sprintf("optional_filters[%d].", i)
		names = append(names,
			fieldName{field + "optional_definition_name_filter", f.GetOptionalDefinitionNameFilter()},
			fieldName{field + "optional_caveat_name_filter", f.GetOptionalCaveatNameFilter()},
			fieldName{field + "optional_relation_name_filter", f.GetOptionalRelationNameFilter()},
			fieldName{field + "optional_permission_name_filter", f.GetOptionalPermissionNameFilter()})
	}
	return names
}

func computableNames(r interface {
	GetDefinitionName() string
	GetRelationName() string
	GetOptionalDefinitionNameFilter() string
},
) []fieldName {
	return []fieldName{
		{"definition_name", r.GetDefinitionName()},
		{"relation_name", r.GetRelationName()},
		{"optional_definition_name_filter", r.GetOptionalDefinitionNameFilter()},
	}
}

func dependentNames(r interface {
	GetDefinitionName() string
	GetPermissionName() string
},
) []fieldName {
	return []fieldName{{"definition_name", r.GetDefinitionName()}, {"permission_name", r.GetPermissionName()}}
}
