package store

import (
	"bytes"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
)

// A query is what both of SpiceDB's kinds of query come down to: some rows, in some order, from some
// place on.
type query struct {
	resourceType     string
	resourceIDs      []string
	resourceIDPrefix string
	relation         string
	// subjects are alternatives; none means any subject.
	subjects []datastore.SubjectsSelector
	caveat   datastore.CaveatNameFilter
	expiry   datastore.ExpirationFilterOption
	// expired says that relationships that have expired are asked for too, which nobody else sees.
	expired bool
	// reverse says that the query starts from its subjects.
	reverse bool

	order  options.SortOrder
	limit  uint64 // 0 means none
	after  options.Cursor
	before options.Cursor // inclusive
}

// selects reports whether a relationship is one that the query asks for.
func (q *query) selects(rel *tuple.Relationship) bool {
	switch {
	case q.resourceType != "" && rel.Resource.ObjectType != q.resourceType,
		len(q.resourceIDs) > 0 && !slices.Contains(q.resourceIDs, rel.Resource.ObjectID),
		q.resourceIDPrefix != "" && !hasPrefix(rel.Resource.ObjectID, q.resourceIDPrefix),
		q.relation != "" && rel.Resource.Relation != q.relation,
		len(q.subjects) > 0 && !slices.ContainsFunc(q.subjects, func(s datastore.SubjectsSelector) bool { return selectsSubject(s, rel.Subject) }):
		return false
	}
	switch q.caveat.Option {
	case datastore.CaveatFilterOptionHasMatchingCaveat:
		if rel.OptionalCaveat == nil || rel.OptionalCaveat.GetCaveatName() != q.caveat.CaveatName {
			return false
		}
	case datastore.CaveatFilterOptionNoCaveat:
		if rel.OptionalCaveat != nil {
			return false
		}
	case datastore.CaveatFilterOptionNone:
	}
	switch q.expiry {
	case datastore.ExpirationFilterOptionHasExpiration:
		return rel.OptionalExpiration != nil
	case datastore.ExpirationFilterOptionNoExpiration:
		return rel.OptionalExpiration == nil
	case datastore.ExpirationFilterOptionNone:
	}
	return true
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// selectsSubject reports whether a selector means a subject. Where it names both the ellipsis and a
// relation it means either.
func selectsSubject(s datastore.SubjectsSelector, subject tuple.ObjectAndRelation) bool {
	if s.OptionalSubjectType != "" && subject.ObjectType != s.OptionalSubjectType ||
		len(s.OptionalSubjectIds) > 0 && !slices.Contains(s.OptionalSubjectIds, subject.ObjectID) {
		return false
	}
	f := s.RelationFilter
	switch {
	case f.IsEmpty():
		return true
	case f.OnlyNonEllipsisRelations:
		return subject.Relation != datastore.Ellipsis
	default:
		return f.IncludeEllipsisRelation && subject.Relation == datastore.Ellipsis ||
			f.NonEllipsisRelation != "" && subject.Relation == f.NonEllipsisRelation
	}
}

// A plan says where a query's rows are: in which spans, all of forward or all of reverse keys.
type plan struct {
	spans []span
	// sorted says that walking the spans yields the rows in the order that the query wants.
	sorted bool
}

// plan finds the spans that hold what the query asks for, and as little else as keys can tell.
func (v *view) plan(q *query) (plan, error) {
	for _, c := range q.parts() {
		if err := checkComponent(c); err != nil {
			return plan{}, err
		}
	}
	reverse := q.reverse
	if !reverse && len(q.resourceIDs) == 0 && q.resourceIDPrefix == "" && len(q.subjects) > 0 {
		// The subjects are known and the resources are not.
		reverse = !slices.ContainsFunc(q.subjects, func(s datastore.SubjectsSelector) bool {
			return s.OptionalSubjectType == "" || len(s.OptionalSubjectIds) == 0
		})
	}
	var (
		spans []span
		err   error
	)
	if reverse {
		spans, err = v.reverseSpans(q)
	} else {
		spans, err = v.forwardSpans(q)
	}
	if err != nil {
		return plan{}, err
	}
	spans = disjoint(spans)
	natural := options.ByResource
	if reverse {
		natural = options.BySubject
	}
	sorted := q.order == natural || q.order == options.Unsorted || q.order == options.ChooseEfficient ||
		len(spans) == 1 && spans[0].ordered && q.after == nil && q.before == nil
	return plan{spans: spans, sorted: sorted}, nil
}

// parts are the texts of a query that go into keys.
func (q *query) parts() []string {
	all := append([]string{q.resourceType, q.resourceIDPrefix, q.relation}, q.resourceIDs...)
	for _, s := range q.subjects {
		all = append(append(all, s.OptionalSubjectType, s.RelationFilter.NonEllipsisRelation), s.OptionalSubjectIds...)
	}
	return all
}

// forwardSpans narrows a query from its resources: by type, then by id, relation and subject.
func (v *view) forwardSpans(q *query) ([]span, error) {
	types := []string{q.resourceType}
	if q.resourceType == "" {
		var err error
		if types, err = v.distinct([]byte{kindForward}); err != nil {
			return nil, err
		}
	}
	var spans []span
	for _, t := range types {
		key := appendComponents([]byte{kindForward}, t)
		switch {
		case len(q.resourceIDs) > 0:
			for _, id := range q.resourceIDs {
				spans = append(spans, q.resourceSpans(appendComponents(bytes.Clone(key), id))...)
			}
		case q.resourceIDPrefix != "":
			spans = append(spans, under(append(key, q.resourceIDPrefix...), false))
		default:
			spans = append(spans, under(key, false))
		}
	}
	return spans, nil
}

// resourceSpans narrows a query below one resource.
func (q *query) resourceSpans(resource []byte) []span {
	if q.relation == "" {
		return []span{under(resource, false)}
	}
	key := appendComponents(resource, q.relation)
	if len(q.subjects) == 0 {
		// One resource and relation: by subject is the order of the keys.
		return []span{under(key, true)}
	}
	var spans []span
	for _, s := range q.subjects {
		relations, known := subjectRelations(s.RelationFilter)
		switch {
		case s.OptionalSubjectType == "":
			return []span{under(key, true)}
		case !known:
			spans = append(spans, under(appendComponents(bytes.Clone(key), s.OptionalSubjectType), true))
		default:
			for _, relation := range relations {
				subject := appendComponents(bytes.Clone(key), s.OptionalSubjectType, relation)
				if len(s.OptionalSubjectIds) == 0 {
					spans = append(spans, under(subject, true))
				}
				for _, id := range s.OptionalSubjectIds {
					spans = append(spans, under(appendComponents(bytes.Clone(subject), id), true))
				}
			}
		}
	}
	return spans
}

// subjectRelations returns the relations that a filter names, as they are stored; known is false if it
// does not name them all.
func subjectRelations(f datastore.SubjectRelationFilter) (relations []string, known bool) {
	if f.IsEmpty() || f.OnlyNonEllipsisRelations {
		return nil, false
	}
	if f.IncludeEllipsisRelation {
		relations = append(relations, storedRelation(datastore.Ellipsis))
	}
	if f.NonEllipsisRelation != "" {
		relations = append(relations, storedRelation(f.NonEllipsisRelation))
	}
	return relations, true
}

// reverseSpans narrows a query from its subjects: by type, relation and id, then by resource type and
// relation.
func (v *view) reverseSpans(q *query) ([]span, error) {
	var spans []span
	for _, s := range q.subjects {
		types := []string{s.OptionalSubjectType}
		if s.OptionalSubjectType == "" {
			var err error
			if types, err = v.distinct([]byte{kindReverse}); err != nil {
				return nil, err
			}
		}
		for _, t := range types {
			key := appendComponents([]byte{kindReverse}, t)
			relations, known := subjectRelations(s.RelationFilter)
			if !known {
				var err error
				if relations, err = v.distinct(key); err != nil {
					return nil, err
				}
			}
			for _, relation := range relations {
				spans = append(spans, q.subjectSpans(appendComponents(bytes.Clone(key), relation), s.OptionalSubjectIds)...)
			}
		}
	}
	return spans, nil
}

// subjectSpans narrows a query below one subject type and relation.
func (q *query) subjectSpans(key []byte, ids []string) []span {
	if len(ids) == 0 {
		return []span{under(key, false)}
	}
	spans := make([]span, 0, len(ids))
	for _, id := range ids {
		subject := appendComponents(bytes.Clone(key), id)
		if q.resourceType != "" {
			subject = appendComponents(subject, q.resourceType)
			if q.relation != "" {
				// One subject, type and relation: by resource is the order of the keys.
				spans = append(spans, under(appendComponents(subject, q.relation), true))
				continue
			}
		}
		spans = append(spans, under(subject, false))
	}
	return spans
}

// distinct returns the components that follow a key, each once, by a seek for each.
func (v *view) distinct(key []byte) ([]string, error) {
	var found []string
	next := span{lo: key, hi: end(key)}
	for {
		component := ""
		ended := true
		err := v.walk([]span{next}, time.Time{}, func(k []byte, _ Revision, _ []byte) error {
			ended = false
			i := bytes.IndexByte(k[len(key):], terminator)
			component = string(k[len(key) : len(key)+i])
			return errStop
		})
		if err != nil {
			return nil, err
		}
		if ended {
			return found, nil
		}
		found = append(found, component)
		next.lo = end(appendComponents(bytes.Clone(key), component))
	}
}

// under is the span of all keys that begin with a prefix.
func under(prefix []byte, ordered bool) span {
	return span{lo: prefix, hi: end(prefix), ordered: ordered}
}

// disjoint sorts spans and joins those that overlap.
func disjoint(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.lo, b.lo) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && bytes.Compare(s.lo, out[n-1].hi) < 0 {
			if bytes.Compare(out[n-1].hi, s.hi) < 0 {
				out[n-1].hi = s.hi
				out[n-1].ordered = false
			}
			continue
		}
		out = append(out, s)
	}
	return out
}
