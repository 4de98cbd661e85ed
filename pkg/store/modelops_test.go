package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"
)

// errMeant is what a transaction fails with that is meant to.
var errMeant = errors.New("this transaction is meant to fail")

// transact runs a random transaction on both sides.
func (m *model) transact(t *rapid.T) {
	var opts []options.RWTOptionsOption
	metadata := 0
	if chance(t, 3, "metadata") {
		metadata = rapid.IntRange(1, 3).Draw(t, "metadata is")
		opts = append(opts, options.WithMetadata(&structpb.Struct{Fields: map[string]*structpb.Value{"n": structpb.NewNumberValue(float64(metadata))}}))
	}
	precondition := ""
	if chance(t, 5, "precondition") {
		precondition = one(t, []string{"h1", "h2"}, "hash")
		opts = append(opts, func(o *options.RWTOptions) { o.SchemaHashPrecondition = precondition })
	}
	fails := chance(t, 6, "fails")
	draft := m.head().clone()
	draft.metadata = metadata
	before, ran := m.head().at, 0
	at, err := m.s.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		ran++
		for range rapid.IntRange(1, 4).Draw(t, "operations") {
			if err := m.operate(ctx, t, tx, draft); err != nil {
				return err
			}
			if chance(t, 3, "look") {
				q := drawQuestion(t)
				q.compare(t, tx, draft, m.now())
				compareCounts(t, tx, draft, m.now())
			}
		}
		compareSchema(t, tx, draft)
		if fails {
			return errMeant
		}
		return nil
	}, opts...)
	switch {
	case precondition != "" && m.head().schema == "":
		if !errors.Is(err, datastore.ErrSchemaNotFound) || ran != 0 {
			t.Fatalf("a precondition without a schema: %v", err)
		}
	case precondition != "" && m.head().schema != precondition:
		if !errors.Is(err, datastore.ErrSchemaHashPreconditionFailed) || ran != 0 {
			t.Fatalf("a precondition that does not hold: %v", err)
		}
	case ran != 1:
		t.Fatalf("the transaction ran %d times", ran)
	case err != nil:
		if !errors.Is(err, errMeant) {
			t.Fatal(err)
		}
	default:
		draft.settle(m.head())
		m.add(t, draft, at.(Revision))
		if got := headOf(t, m.s); got != at {
			t.Fatalf("the head is %v after %v was acknowledged", got, at)
		}
		return
	}
	if got := headOf(t, m.s); got != before {
		t.Fatalf("the head moved from %v to %v without a commit", before, got)
	}
}

// settle fills in the changes: what differs from the state before.
func (s *modelState) settle(before *modelState) {
	diff := func(kind string, now, was map[string]string) {
		for name, v := range now {
			if old, there := was[name]; !there || old != v {
				s.changes[kind+name] = v
			}
		}
		for name := range was {
			if _, there := now[name]; !there {
				s.changes[kind+name] = "gone"
			}
		}
	}
	rows := func(of map[modelRow]modelValue) map[string]string {
		out := map[string]string{}
		for r, v := range of {
			out[text(r, modelValue{})] = text(r, v)
		}
		return out
	}
	diff("row ", rows(s.rows), rows(before.rows))
	diff("type ", s.types, before.types)
	diff("caveat ", s.caveats, before.caveats)
}

// touchRow writes a row in the draft. Where it is not certain that the row was still there, whether that
// is a change is open.
func (m *model) touchRow(draft *modelState, r modelRow, v modelValue) {
	if old, there := draft.rows[r]; there && m.uncertain(old) {
		draft.maybe(r, text(r, v))
	}
	draft.rows[r], draft.own[r] = v, true
}

func (m *model) deleteRow(draft *modelState, r modelRow) {
	if old, there := draft.rows[r]; there && m.uncertain(old) {
		draft.maybe(r, "gone")
	}
	delete(draft.rows, r)
}

// maybe notes a change that may be missing, or be there although the model sees none.
func (s *modelState) maybe(r modelRow, change string) {
	key := "row " + text(r, modelValue{})
	s.optional[key] = true
	s.optional[key+" -> "+change] = true
}

// operate does one random thing in a transaction, on both sides. It returns an error that the transaction
// fails with; then the draft is not used.
func (m *model) operate(ctx context.Context, t *rapid.T, tx datastore.ReadWriteTransaction, draft *modelState) error {
	switch rapid.SampledFrom([]string{
		"touch", "touch", "touch", "create", "delete", "delete where", "load", "type", "delete type", "caveat", "delete caveat", "schema",
		"register", "unregister", "store count",
	}).Draw(t, "operation") {
	case "touch":
		var updates []tuple.RelationshipUpdate
		for range rapid.IntRange(1, 8).Draw(t, "how many") {
			r, v := drawRow(t), m.drawValue(t)
			updates = append(updates, tuple.Touch(relationship(r, v)))
			m.touchRow(draft, r, v)
		}
		if err := tx.WriteRelationships(ctx, updates); err != nil {
			t.Fatal(err)
		}
	case "create":
		r, v := drawRow(t), m.drawValue(t)
		return m.created(t, draft, map[modelRow]modelValue{r: v}, false, tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{tuple.Create(relationship(r, v))}))
	case "load":
		rows := map[modelRow]modelValue{}
		source := &slowSource{}
		twice := false
		for range rapid.IntRange(0, 5).Draw(t, "how many") {
			r, v := drawRow(t), m.drawValue(t)
			_, there := rows[r]
			twice = twice || there
			rows[r] = v
			source.left = append(source.left, relationship(r, v))
		}
		n, err := tx.BulkLoad(ctx, source)
		if err == nil && int(n) != len(rows) {
			t.Fatalf("%d rows loaded of %d", n, len(rows))
		}
		return m.created(t, draft, rows, twice, err)
	case "delete":
		r := drawRow(t)
		if len(draft.rows) > 0 && rapid.Bool().Draw(t, "one that is there") {
			rows := slices.Collect(maps.Keys(draft.rows))
			inOrder(rows, options.ByResource)
			r = rapid.SampledFrom(rows).Draw(t, "row")
		}
		if err := tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{tuple.Delete(relationship(r, modelValue{}))}); err != nil {
			t.Fatal(err)
		}
		m.deleteRow(draft, r)
	case "delete where":
		m.deleteWhere(ctx, t, tx, draft)
	case "type":
		name, relation := one(t, modelTypes, "type"), one(t, modelRelations, "relation")
		if err := tx.LegacyWriteNamespaces(ctx, typeNamed(name, relation)); err != nil {
			t.Fatal(err)
		}
		draft.types[name] = relation
	case "delete type":
		name, option := one(t, modelTypes, "type"), rapid.SampledFrom([]datastore.DeleteNamespacesRelationshipsOption{
			datastore.DeleteNamespacesOnly, datastore.DeleteNamespacesAndRelationships,
		}).Draw(t, "with relationships")
		err := tx.LegacyDeleteNamespaces(ctx, []string{name}, option)
		if _, there := draft.types[name]; !there {
			if !errors.As(err, &datastore.NamespaceNotFoundError{}) {
				t.Fatalf("deleting a type that is not there: %v", err)
			}
			return errMeant
		}
		if err != nil {
			t.Fatal(err)
		}
		delete(draft.types, name)
		if option == datastore.DeleteNamespacesAndRelationships {
			for r := range draft.rows {
				if r.rtype == name {
					m.deleteRow(draft, r)
				}
			}
		}
	case "caveat":
		name, expression := one(t, modelCaveats, "caveat"), one(t, []string{"x", "y"}, "expression")
		if err := tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed(name, expression)}); err != nil {
			t.Fatal(err)
		}
		draft.caveats[name] = expression
	case "delete caveat":
		name := one(t, modelCaveats, "caveat")
		if err := tx.LegacyDeleteCaveats(ctx, []string{name}); err != nil {
			t.Fatal(err)
		}
		delete(draft.caveats, name)
	case "schema":
		draft.schema = one(t, []string{"h1", "h2"}, "hash")
		if err := tx.WriteStoredSchema(ctx, schemaNamed(draft.schema)); err != nil {
			t.Fatal(err)
		}
	case "register":
		name, resourceType := one(t, []string{"one", "two"}, "counter"), one(t, modelTypes, "type")
		err := tx.RegisterCounter(ctx, name, &core.RelationshipFilter{ResourceType: resourceType})
		if _, there := draft.counters[name]; there {
			if !errors.As(err, &datastore.CounterAlreadyRegisteredError{}) {
				t.Fatalf("registering a counter twice: %v", err)
			}
			return errMeant
		}
		if err != nil {
			t.Fatal(err)
		}
		draft.counters[name] = fmt.Sprint(resourceType, " 0 ", datastore.NoRevision)
	case "unregister", "store count":
		name, count := one(t, []string{"one", "two"}, "counter"), rapid.IntRange(-1, 5).Draw(t, "count")
		c, there := draft.counters[name]
		err := tx.UnregisterCounter(ctx, name)
		if count >= 0 && err == nil {
			resourceType, _, _ := strings.Cut(c, " ")
			err = errors.Join(tx.RegisterCounter(ctx, name, &core.RelationshipFilter{ResourceType: resourceType}),
				tx.StoreCounterValue(ctx, name, count, m.head().at))
			draft.counters[name] = fmt.Sprint(resourceType, " ", count, " ", m.head().at)
		} else {
			delete(draft.counters, name)
		}
		if !there {
			if !errors.As(err, &datastore.CounterNotRegisteredError{}) {
				t.Fatalf("a counter that is not there: %v", err)
			}
			return errMeant
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

// created judges how the creation of rows ended.
func (m *model) created(t *rapid.T, draft *modelState, rows map[modelRow]modelValue, twice bool, err error) error {
	exists, uncertain := twice, false
	for r := range rows {
		if old, there := draft.rows[r]; there {
			switch from := m.writtenAt(draft, r); {
			case old.visible(m.now()):
				exists = true
			case from != 0 && old.visible(int64(from)):
				// It has expired since it was written.
			case m.uncertain(old):
				uncertain = true
			default:
				exists = true
			}
		}
	}
	switch {
	case err == nil && exists:
		t.Fatalf("rows of %v were created that exist", rows)
	case err != nil && !exists && !uncertain:
		t.Fatalf("rows of %v were not created: %v", rows, err)
	case err != nil:
		if status.Code(err) != codes.AlreadyExists {
			t.Fatalf("creating what exists: %v", err)
		}
		return errMeant
	}
	for r, v := range rows {
		m.touchRow(draft, r, v)
	}
	return nil
}

// writtenAt is the revision at which a row was written, as it is in the draft; 0 for one that the draft's own transaction wrote.
func (m *model) writtenAt(draft *modelState, r modelRow) (at Revision) {
	if draft.own[r] {
		return 0
	}
	for _, s := range slices.Backward(m.states) {
		if v, there := s.rows[r]; !there || v != draft.rows[r] {
			break
		}
		at = s.at
	}
	return at
}

// deleteWhere deletes by a filter. Which rows a limit leaves is the store's choice.
func (m *model) deleteWhere(ctx context.Context, t *rapid.T, tx datastore.ReadWriteTransaction, draft *modelState) {
	f := &v1.RelationshipFilter{ResourceType: one(t, modelTypes, "type")}
	q := question{filter: datastore.RelationshipsFilter{OptionalResourceType: f.GetResourceType()}}
	if chance(t, 3, "an id") {
		f.OptionalResourceId = one(t, modelIDs, "id")
		q.filter.OptionalResourceIds = []string{f.GetOptionalResourceId()}
	} else if chance(t, 3, "a prefix") {
		f.OptionalResourceIdPrefix = "a"
		q.filter.OptionalResourceIDPrefix = "a"
	}
	if chance(t, 2, "a relation") {
		f.OptionalRelation = one(t, modelRelations, "relation")
		q.filter.OptionalResourceRelation = f.GetOptionalRelation()
	}
	if chance(t, 3, "a subject") {
		s := datastore.SubjectsSelector{OptionalSubjectType: one(t, modelSubjects, "subject type")}
		f.OptionalSubjectFilter = &v1.SubjectFilter{SubjectType: s.OptionalSubjectType}
		if rapid.Bool().Draw(t, "a subject id") {
			f.OptionalSubjectFilter.OptionalSubjectId = one(t, modelSIDs, "subject id")
			s.OptionalSubjectIds = []string{f.GetOptionalSubjectFilter().GetOptionalSubjectId()}
			if rapid.Bool().Draw(t, "any type") {
				f.ResourceType, q.filter.OptionalResourceType = "", ""
			}
		}
		switch rapid.IntRange(0, 2).Draw(t, "subject relation") {
		case 0:
			f.OptionalSubjectFilter.OptionalRelation = &v1.SubjectFilter_RelationFilter{}
			s.RelationFilter = s.RelationFilter.WithEllipsisRelation()
		case 1:
			f.OptionalSubjectFilter.OptionalRelation = &v1.SubjectFilter_RelationFilter{Relation: "member"}
			s.RelationFilter = s.RelationFilter.WithNonEllipsisRelation("member")
		}
		q.filter.OptionalSubjectsSelectors = []datastore.SubjectsSelector{s}
	}
	matches := q.answer(draft, math.MinInt64, options.ByResource)
	limit := rapid.Uint64Range(0, 6).Draw(t, "limit")
	deleted, limited, err := tx.DeleteRelationships(ctx, f, options.WithDeleteLimit(&limit))
	if err != nil || limit > 0 && deleted > limit {
		t.Fatalf("deleted %d, limited %v, %v; %d match, the limit is %d", deleted, limited, err, len(matches), limit)
	}
	var left []string
	if err := tx.(*transaction).view.answer(&query{expired: true}, func(rel tuple.Relationship) error {
		left = append(left, textOf(rel))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Of what has expired for long nobody knows whether it was there.
	gone, maybe, visible, stays := uint64(0), uint64(0), uint64(0), uint64(0)
	for r, v := range draft.rows {
		matching, there := slices.Contains(matches, text(r, v)), slices.Contains(left, text(r, v))
		switch {
		case there && matching && v.visible(m.now()):
			stays++
		case there, !matching && m.uncertain(v):
		case !matching:
			t.Fatalf("%s was deleted and does not match", text(r, v))
		default:
			if m.uncertain(v) {
				maybe++
			} else {
				gone++
			}
			if v.visible(m.now()) {
				visible++
			}
			m.deleteRow(draft, r)
		}
	}
	switch {
	case deleted < gone || deleted > gone+maybe:
		t.Fatalf("%d rows are gone, and perhaps %d more; %d were said to be deleted", gone, maybe, deleted)
	case limited != (limit > 0 && visible == limit):
		t.Fatalf("limited is %v with %d rows deleted that were visible, the limit is %d", limited, visible, limit)
	case stays > 0 && visible != limit:
		t.Fatalf("%d rows that match stay, after %d with a limit of %d", stays, visible, limit)
	}
}

// slowSource is a bulk load that uses the same memory for every relationship.
type slowSource struct {
	left []tuple.Relationship
	one  tuple.Relationship
}

// Next is datastore.BulkWriteRelationshipSource's.
func (s *slowSource) Next(context.Context) (*tuple.Relationship, error) {
	if len(s.left) == 0 {
		return nil, nil //nolint:nilnil // the interface says so
	}
	s.one, s.left = s.left[0], s.left[1:]
	return &s.one, nil
}
