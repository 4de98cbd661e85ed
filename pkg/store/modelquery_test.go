package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
	"pgregory.net/rapid"
)

// A question is a query that both sides are asked.
type question struct {
	filter  datastore.RelationshipsFilter
	reverse bool
	resRel  *options.ResourceRelation
	sort    options.SortOrder
	page    uint64
	// skip says that caveats and expirations can be left out. The store never does that: SpiceDB says so
	// where it is wrong.
	skip bool
}

func drawSelector(t *rapid.T) datastore.SubjectsSelector {
	s := datastore.SubjectsSelector{}
	if !chance(t, 3, "any subject type") {
		s.OptionalSubjectType = one(t, modelSubjects, "subject type")
	}
	if chance(t, 2, "subject ids given") {
		s.OptionalSubjectIds = some(t, modelSIDs, "subject ids")
	}
	switch rapid.IntRange(0, 5).Draw(t, "relation filter") {
	case 0:
		s.RelationFilter = s.RelationFilter.WithEllipsisRelation()
	case 1:
		s.RelationFilter = s.RelationFilter.WithOnlyNonEllipsisRelations()
	case 2:
		s.RelationFilter = s.RelationFilter.WithNonEllipsisRelation("member")
	case 3:
		s.RelationFilter = s.RelationFilter.WithNonEllipsisRelation("member").WithEllipsisRelation()
	}
	return s
}

func drawQuestion(t *rapid.T) question {
	q := question{
		reverse: rapid.Bool().Draw(t, "reverse"),
		sort:    rapid.SampledFrom([]options.SortOrder{options.Unsorted, options.ByResource, options.BySubject, options.ChooseEfficient}).Draw(t, "sort"),
		page:    rapid.Uint64Range(1, 7).Draw(t, "page"),
		skip:    chance(t, 4, "skip"),
	}
	if q.reverse {
		q.filter.OptionalSubjectsSelectors = []datastore.SubjectsSelector{drawSelector(t)}
		if rapid.Bool().Draw(t, "resource relation given") {
			q.resRel = &options.ResourceRelation{Namespace: one(t, modelTypes, "type"), Relation: one(t, modelRelations, "relation")}
		}
		return q
	}
	f := &q.filter
	if !chance(t, 3, "any type") {
		f.OptionalResourceType = one(t, modelTypes, "type")
	}
	switch rapid.IntRange(0, 3).Draw(t, "ids or prefix") {
	case 0:
		f.OptionalResourceIds = some(t, modelIDs, "ids")
	case 1:
		f.OptionalResourceIDPrefix = one(t, []string{"a", "ab", "x", "0"}, "prefix")
	}
	if rapid.Bool().Draw(t, "relation given") {
		f.OptionalResourceRelation = one(t, modelRelations, "relation")
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 1, 2}).Draw(t, "selectors") {
		f.OptionalSubjectsSelectors = append(f.OptionalSubjectsSelectors, drawSelector(t))
	}
	switch rapid.IntRange(0, 5).Draw(t, "caveat filter") {
	case 0:
		f.OptionalCaveatNameFilter = datastore.WithNoCaveat()
	case 1:
		f.OptionalCaveatNameFilter = datastore.WithCaveatName(one(t, modelCaveats, "caveat"))
	}
	f.OptionalExpirationOption = rapid.SampledFrom([]datastore.ExpirationFilterOption{
		datastore.ExpirationFilterOptionNone, datastore.ExpirationFilterOptionNone,
		datastore.ExpirationFilterOptionHasExpiration, datastore.ExpirationFilterOptionNoExpiration,
	}).Draw(t, "expiration filter")
	return q
}

// admits is the model's predicate.
func (q *question) admits(r modelRow, v modelValue) bool {
	f := q.filter
	if f.OptionalResourceType != "" && f.OptionalResourceType != r.rtype {
		return false
	}
	if q.resRel != nil && (q.resRel.Namespace != r.rtype || q.resRel.Relation != r.rel) {
		return false
	}
	if len(f.OptionalResourceIds) > 0 && !slices.Contains(f.OptionalResourceIds, r.rid) {
		return false
	}
	if !strings.HasPrefix(r.rid, f.OptionalResourceIDPrefix) {
		return false
	}
	if f.OptionalResourceRelation != "" && f.OptionalResourceRelation != r.rel {
		return false
	}
	if len(f.OptionalSubjectsSelectors) > 0 {
		fits := false
		for _, s := range f.OptionalSubjectsSelectors {
			rf := s.RelationFilter
			typeFits := s.OptionalSubjectType == "" || s.OptionalSubjectType == r.stype
			idFits := len(s.OptionalSubjectIds) == 0 || slices.Contains(s.OptionalSubjectIds, r.sid)
			unrestricted := rf == datastore.SubjectRelationFilter{}
			relationFits := unrestricted ||
				rf.OnlyNonEllipsisRelations && r.srel != "..." ||
				rf.IncludeEllipsisRelation && r.srel == "..." ||
				rf.NonEllipsisRelation != "" && rf.NonEllipsisRelation == r.srel
			fits = fits || typeFits && idFits && relationFits
		}
		if !fits {
			return false
		}
	}
	switch f.OptionalCaveatNameFilter.Option {
	case datastore.CaveatFilterOptionNoCaveat:
		if v.caveat != "" {
			return false
		}
	case datastore.CaveatFilterOptionHasMatchingCaveat:
		if v.caveat != f.OptionalCaveatNameFilter.CaveatName {
			return false
		}
	}
	switch f.OptionalExpirationOption {
	case datastore.ExpirationFilterOptionHasExpiration:
		return v.expires != 0
	case datastore.ExpirationFilterOptionNoExpiration:
		return v.expires == 0
	}
	return true
}

// inOrder sorts rows as an order says. In it an ellipsis comes before every other relation.
func inOrder(rows []modelRow, order options.SortOrder) {
	relation := func(s string) string { return strings.TrimPrefix(s, "...") }
	slices.SortFunc(rows, func(a, b modelRow) int {
		resource := cmp.Or(strings.Compare(a.rtype, b.rtype))
		subject := cmp.Or(strings.Compare(a.stype, b.stype), strings.Compare(relation(a.srel), relation(b.srel)), strings.Compare(a.sid, b.sid))
		if order == options.BySubject {
			return cmp.Or(subject, resource, strings.Compare(a.rel, b.rel), strings.Compare(a.rid, b.rid))
		}
		return cmp.Or(resource, strings.Compare(a.rid, b.rid), strings.Compare(a.rel, b.rel), subject)
	})
}

// answer is the model's, in the given order.
func (q *question) answer(s *modelState, now int64, order options.SortOrder) []string {
	var rows []modelRow
	for r, v := range s.rows {
		if v.visible(now) && q.admits(r, v) {
			rows = append(rows, r)
		}
	}
	inOrder(rows, order)
	answer := make([]string, len(rows))
	for i, r := range rows {
		answer[i] = text(r, s.rows[r])
	}
	return answer
}

// ask asks the store.
func (q *question) ask(t *rapid.T, r datastore.Reader, limit uint64, after, before options.Cursor) []tuple.Relationship {
	var (
		it  datastore.RelationshipIterator
		err error
	)
	if q.reverse {
		s := q.filter.OptionalSubjectsSelectors[0]
		opts := []options.ReverseQueryOptionsOption{
			options.WithSortForReverse(q.sort), options.WithAfterForReverse(after),
			options.WithSkipCaveatsForReverse(q.skip), options.WithSkipExpirationForReverse(q.skip),
		}
		if limit > 0 {
			opts = append(opts, options.WithLimitForReverse(&limit))
		}
		if q.resRel != nil {
			opts = append(opts, options.WithResRelation(q.resRel))
		}
		it, err = r.ReverseQueryRelationships(context.Background(), datastore.SubjectsFilter{
			SubjectType: s.OptionalSubjectType, OptionalSubjectIds: s.OptionalSubjectIds, RelationFilter: s.RelationFilter,
		}, opts...)
	} else {
		opts := []options.QueryOptionsOption{
			options.WithSort(q.sort), options.WithAfter(after), options.WithBeforeOrEqual(before),
			options.WithSkipCaveats(q.skip), options.WithSkipExpiration(q.skip),
		}
		if limit > 0 {
			opts = append(opts, options.WithLimit(&limit))
		}
		it, err = r.QueryRelationships(context.Background(), q.filter, opts...)
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := datastore.IteratorToSlice(it)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func textsOf(rels []tuple.Relationship) []string {
	out := make([]string, len(rels))
	for i, rel := range rels {
		out[i] = textOf(rel)
	}
	return out
}

// compare asks both sides one question in all ways.
func (q *question) compare(t *rapid.T, r datastore.Reader, s *modelState, now int64) {
	whole := q.ask(t, r, 0, nil, nil)
	got := textsOf(whole)
	order := q.sort
	want := q.answer(s, now, order)
	if order != options.ByResource && order != options.BySubject {
		// The order is open; it is the one that pages have to come in.
		same(t, "the answer, sorted", slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want)))
	} else {
		same(t, "the answer", got, want)
	}
	if order == options.Unsorted {
		limited := textsOf(q.ask(t, r, q.page, nil, nil))
		if len(limited) != min(int(q.page), len(want)) {
			t.Fatalf("%d rows of %d with a limit of %d", len(limited), len(want), q.page)
		}
		for i, one := range limited {
			if !slices.Contains(want, one) || slices.Contains(limited[:i], one) {
				t.Fatalf("%s is not in the answer, or twice", one)
			}
		}
		return
	}
	var (
		paged []tuple.Relationship
		after options.Cursor
	)
	for {
		page := q.ask(t, r, q.page, after, nil)
		paged = append(paged, page...)
		if len(page) > int(q.page) || len(paged) > len(whole) {
			t.Fatalf("pages of %d gave too much: %v", q.page, textsOf(paged))
		}
		if len(page) < int(q.page) {
			break
		}
		after = options.ToCursor(page[len(page)-1])
	}
	same(t, "the pages", textsOf(paged), got)
	if len(whole) == 0 {
		return
	}
	from, to := rapid.IntRange(-1, len(whole)-1).Draw(t, "after"), len(whole)-1
	after = nil
	if from >= 0 {
		after = options.ToCursor(whole[from])
	}
	var before options.Cursor
	if !q.reverse {
		to = rapid.IntRange(0, len(whole)-1).Draw(t, "before")
		before = options.ToCursor(whole[to])
	}
	same(t, "between two cursors", textsOf(q.ask(t, r, 0, after, before)), got[min(from, to)+1:to+1])
}

// compareSchema compares everything but rows.
func compareSchema(t *rapid.T, r datastore.Reader, s *modelState) {
	ctx := context.Background()
	types := map[string]string{}
	for _, d := range must(r.LegacyListAllNamespaces(ctx))(t) {
		types[d.Definition.GetName()] = d.Definition.GetRelation()[0].GetName()
	}
	if !maps.Equal(types, s.types) {
		t.Fatalf("types:\n got %v\nwant %v", types, s.types)
	}
	caveats := map[string]string{}
	for _, d := range must(r.LegacyListAllCaveats(ctx))(t) {
		caveats[d.Definition.GetName()] = string(d.Definition.GetSerializedExpression())
	}
	if !maps.Equal(caveats, s.caveats) {
		t.Fatalf("caveats:\n got %v\nwant %v", caveats, s.caveats)
	}
	names := append(slices.Clone(modelTypes), "nothing")
	found := must(r.LegacyLookupNamespacesWithNames(ctx, names))(t)
	if len(found) != len(s.types) {
		t.Fatalf("%d types looked up of %v", len(found), s.types)
	}
	for _, name := range names {
		d, _, err := r.LegacyReadNamespaceByName(ctx, name)
		switch relation, there := s.types[name]; {
		case there && (err != nil || d.GetRelation()[0].GetName() != relation):
			t.Fatalf("type %s: %v, %v, want relation %s", name, d, err, relation)
		case !there && !errors.As(err, &datastore.NamespaceNotFoundError{}):
			t.Fatalf("type %s: %v, %v, want none", name, d, err)
		}
	}
	stored, err := r.ReadStoredSchema(ctx)
	switch {
	case s.schema == "" && !errors.Is(err, datastore.ErrSchemaNotFound):
		t.Fatalf("the schema: %v, want none", err)
	case s.schema != "" && (err != nil || stored.Get().GetV1().GetSchemaHash() != s.schema):
		t.Fatalf("the schema: %v, %v, want %s", stored, err, s.schema)
	}
	counters := map[string]string{}
	for _, c := range must(r.LookupCounters(ctx))(t) {
		counters[c.Name] = fmt.Sprint(c.Filter.GetResourceType(), " ", c.Count, " ", c.ComputedAtRevision)
	}
	if !maps.Equal(counters, s.counters) {
		t.Fatalf("counters:\n got %v\nwant %v", counters, s.counters)
	}
}

// compareCounts compares what counters count.
func compareCounts(t *rapid.T, r datastore.Reader, s *modelState, now int64) {
	for name, c := range s.counters {
		resourceType, _, _ := strings.Cut(c, " ")
		q := question{filter: datastore.RelationshipsFilter{OptionalResourceType: resourceType}}
		want := len(q.answer(s, now, options.ByResource))
		if got := must(r.CountRelationships(context.Background(), name))(t); got != want {
			t.Fatalf("counter %s: %d, want %d", name, got, want)
		}
	}
	if _, err := r.CountRelationships(context.Background(), "none"); !errors.As(err, &datastore.CounterNotRegisteredError{}) {
		t.Fatalf("a counter that is not there: %v", err)
	}
}
