package kept

import (
	"context"
	"strings"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// pageSize is the most that a page of relationships has, as in the other engines.
const pageSize = 1000

// listedAt begins the cursors of Page, so that one of another engine is not taken for a place.
const listedAt = "row "

// Page returns a page of the relationships that match the filter, in the order of the store's keys; see authz.Snapshot. A cursor is the relationship
// that it stands behind, so that a page neither repeats nor misses one that is there, also where that one has expired meanwhile.
func (s *snapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	s.unbound()
	if known, err := s.knows(ctx, f); err != nil {
		return nil, "", err
	} else if !known {
		// The engine says what is wrong with it.
		inner, err := s.engine(ctx)
		if err != nil {
			return nil, "", err
		}
		return inner.Page(ctx, f, limit, cursor)
	}
	var after *tuple.Relationship
	if cursor != "" {
		text, ok := strings.CutPrefix(cursor, listedAt)
		last, err := tuple.Parse(text)
		if !ok || err != nil {
			return nil, "", authz.ForeignCursor()
		}
		after = &last
	}
	at, err := s.open()
	if err != nil {
		return nil, "", s.graph.failure("evaluate.Page", err)
	}
	defer s.done(at)
	limit = min(limit, pageSize)
	found, err := at.Relationships(filterOf(f), after, limit)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, "", s.graph.failure("evaluate.Page", err)
	}
	rels := make([]authz.Relationship, len(found))
	for i := range found {
		rels[i] = relationship(&found[i])
	}
	if len(found) < limit {
		return rels, "", nil
	}
	return rels, listedAt + tuple.StringWithoutCaveatOrExpiration(found[len(found)-1]), nil
}

// knows reports whether the schema has all that a filter names.
func (s *snapshot) knows(ctx context.Context, f authz.Filter) (bool, error) {
	schema, err := s.Schema(ctx)
	if err != nil {
		return false, err
	}
	has := func(objectType, member string) bool {
		t := schema.Types[objectType]
		if t == nil || member == "" {
			return t != nil || objectType == "" && member == ""
		}
		_, ok := t.Members[member]
		return ok
	}
	return has(f.Resource.Type, f.Relation) && has(f.SubjectType, f.SubjectRelation), nil
}

// filterOf puts a filter into the words of the store.
func filterOf(f authz.Filter) datastore.RelationshipsFilter {
	out := datastore.RelationshipsFilter{OptionalResourceType: f.Resource.Type, OptionalResourceRelation: f.Relation}
	if f.Resource.ID != "" {
		out.OptionalResourceIds = []string{f.Resource.ID}
	}
	if f.SubjectType == "" {
		return out
	}
	subject := datastore.SubjectsSelector{OptionalSubjectType: f.SubjectType}
	if f.SubjectID != "" {
		subject.OptionalSubjectIds = []string{f.SubjectID}
	}
	if f.SubjectRelation != "" {
		subject.RelationFilter = subject.RelationFilter.WithNonEllipsisRelation(f.SubjectRelation)
	}
	out.OptionalSubjectsSelectors = []datastore.SubjectsSelector{subject}
	return out
}

// relationship puts a relationship of the store into the words of authz.
func relationship(rel *tuple.Relationship) authz.Relationship {
	out := authz.Relationship{
		Resource: authz.Object{Type: rel.Resource.ObjectType, ID: rel.Resource.ObjectID}, Relation: rel.Resource.Relation,
		Subject: authz.Subject{Object: authz.Object{Type: rel.Subject.ObjectType, ID: rel.Subject.ObjectID}},
	}
	if rel.Subject.Relation != tuple.Ellipsis {
		out.Subject.Relation = rel.Subject.Relation
	}
	if c := rel.OptionalCaveat; c != nil {
		out.Caveat = c.GetCaveatName()
		if c.GetContext() != nil {
			out.CaveatContext = c.GetContext().AsMap()
		}
	}
	if at := rel.OptionalExpiration; at != nil {
		out.ExpiresAt = *at
	}
	return out
}
