package store

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
)

// rowTexts writes rows of an object as SpiceDB writes relationships.
func rowTexts(objectType, id string, rows []Row) []string {
	all := []string{}
	for _, r := range rows {
		text := fmt.Sprintf("%s:%s#%s@%s:%s", objectType, id, r.Relation, r.SubjectType, r.SubjectID)
		if r.SubjectRelation != "" {
			text += "#" + r.SubjectRelation
		}
		if r.Caveat != "" {
			text += fmt.Sprintf("[%s %v]", r.Caveat, r.Context)
		}
		if !r.ExpiresAt.IsZero() {
			text += " until " + r.ExpiresAt.Format(time.RFC3339)
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// readTexts is what a datastore.Reader finds, written as rowTexts writes it.
func readTexts(t *testing.T, s *Store, at Revision, f datastore.RelationshipsFilter, keep func(tuple.Relationship) bool) []string {
	t.Helper()
	found := must(s.SnapshotReader(at).QueryRelationships(t.Context(), f))(t)
	all := []string{}
	for rel, err := range found {
		if err != nil {
			t.Fatal(err)
		}
		if !keep(rel) {
			continue
		}
		r := Row{Relation: rel.Resource.Relation, SubjectType: rel.Subject.ObjectType, SubjectID: rel.Subject.ObjectID, SubjectRelation: storedRelation(rel.Subject.Relation)}
		if c := rel.OptionalCaveat; c != nil {
			r.Caveat, r.Context = c.GetCaveatName(), c.GetContext().AsMap()
		}
		if rel.OptionalExpiration != nil {
			r.ExpiresAt = *rel.OptionalExpiration
		}
		all = append(all, rowTexts(rel.Resource.ObjectType, rel.Resource.ObjectID, []Row{r})...)
	}
	slices.Sort(all)
	return all
}

// TestSnapshot asks snapshots, whose objects are kept between them, the same as a reader, which keeps nothing:
// at the head and at older revisions, between writes, deletions and steps of the clock past expirations.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	for name, kept := range howMuchIsKept {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSnapshot(t, kept)
		})
	}
}

// howMuchIsKept are sizes with which objects are kept as they are, some of them packed, or all of them.
var howMuchIsKept = map[string]int64{"kept": 0, "some packed": objectShards << 12, "packed": 1}

func testSnapshot(t *testing.T, kept int64) {
	clock := newTestClock()
	config := small(Config{Now: clock.Now, Retention: 100 * time.Hour, KeptBytes: kept})
	s := must(Open("store", config))(t)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	var revisions []Revision
	stamps := stamped{of: map[Rows]stampedRows{}}
	steps := 4000
	if testing.Short() {
		steps = 1000
	}
	for step := range steps {
		if step%500 == 499 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open("store", config))(t)
			clear(stamps.of) // they are that store's
		}
		switch r.IntN(8) {
		case 0, 1:
			rel := tuple.MustParse(fmt.Sprintf("%s:%s#%s@%s", pick("doc", "docs"), pick("a", "a-", "b"), pick("viewer", "view"),
				pick("user:ann", "user:bob", "user:*", "group:g#member", "group:g", "user:ann#friend", "zone:z", "doc:a", "doc:b", "docs:a-#view")))
			update := tuple.Touch(rel)
			switch r.IntN(5) {
			case 0:
				update = tuple.Delete(rel)
			case 1:
				update = tuple.Touch(tuple.MustWithExpiration(rel, clock.Now().Add(time.Duration(r.IntN(3))*time.Minute)))
			case 2:
				update = tuple.Touch(tuple.MustParse(tuple.MustString(rel) + `[lit:{"n":1}]`))
			}
			revisions = append(revisions, writesOf(t, s, update))
		case 2:
			clock.move(time.Duration(r.IntN(40)) * time.Second)
		default:
			if len(revisions) == 0 {
				continue
			}
			at := headOf(t, s)
			if r.IntN(3) == 0 {
				at = revisions[len(revisions)-1-r.IntN(min(len(revisions), 5))]
			}
			compareSnapshot(t, s, at, pick("doc", "docs"), pick("a", "a-", "b"), pick("viewer", "view"), pick("user", "group", "zone"), step, &stamps)
		}
	}
	if stamps.current < steps/40 || stamps.changed < steps/40 {
		t.Errorf("only %d stamps were current, and %d were not", stamps.current, stamps.changed)
	}
}

// stamped is what was read with a stamp, and how often that was current, or not, later.
type stamped struct {
	of               map[Rows]stampedRows
	current, changed int
}

type stampedRows struct {
	rows  []Row
	since Revision
	slot  uint32
}

// compare compares rows that were read at a revision with those that have a stamp, if that is current, and gives them one.
func (st *stamped) compare(t *testing.T, s *Store, sn *Snapshot, step int, of Rows, rows []Row) {
	t.Helper()
	slot, ok := s.Slot(of)
	if !ok {
		t.Fatalf("step %d: %+v cannot be named", step, of)
	}
	if old, ok := st.of[of]; ok {
		if s.Unchanged([]uint32{old.slot}, old.since, sn.at) {
			// What has expired since then is not among the rows any more, and is no change.
			old.rows = slices.DeleteFunc(slices.Clone(old.rows), func(r Row) bool { return expired(&r, sn.now) })
			same(t, fmt.Sprintf("step %d: what was read of %+v", step, of), rowTexts(of.ObjectType, of.ID, old.rows), rowTexts(of.ObjectType, of.ID, rows))
			st.current++
		} else {
			st.changed++
		}
	}
	st.of[of] = stampedRows{rows, sn.at, slot}
}

func compareSnapshot(t *testing.T, s *Store, at Revision, objectType, id, relation, subjectType string, step int, stamps *stamped) {
	t.Helper()
	sn := must(s.Snapshot(at))(t)
	defer sn.Close()
	object := datastore.RelationshipsFilter{OptionalResourceType: objectType, OptionalResourceIds: []string{id}}
	of := object
	of.OptionalResourceRelation = relation
	every := func(tuple.Relationship) bool { return true }
	userset := func(rel tuple.Relationship) bool { return rel.Subject.Relation != tuple.Ellipsis }
	check := func(what string, rows []Row, f datastore.RelationshipsFilter, keep func(tuple.Relationship) bool) {
		t.Helper()
		same(t, fmt.Sprintf("step %d: %s of %s:%s", step, what, objectType, id), rowTexts(objectType, id, rows), readTexts(t, s, at, f, keep))
	}
	// A limit that is too low now and then is not taken for an answer without one.
	limits := []int{1, 3, 100, 0}
	rand.New(rand.NewPCG(uint64(step), 1)).Shuffle(len(limits), func(i, j int) { limits[i], limits[j] = limits[j], limits[i] })
	for _, limit := range limits {
		limited := func(what string, rows []Row, more bool, err error, f datastore.RelationshipsFilter, keep func(tuple.Relationship) bool) {
			t.Helper()
			switch {
			case err != nil:
				t.Fatal(err)
			case limit > 0 && len(rows) > limit:
				t.Fatalf("step %d: with limit %d, %s has %v", step, limit, what, rows)
			case !more:
				check(what, rows, f, keep)
			case limit == 0 || limit == 100 || len(rows) > 0:
				t.Fatalf("step %d: with limit %d, %s has more than %v", step, limit, what, rows)
			}
		}
		rows, more, err := sn.Object(objectType, id, limit)
		limited("object", rows, more, err, object, every)
		for i := range rows {
			subject := datastore.RelationshipsFilter{OptionalResourceType: rows[i].SubjectType, OptionalResourceIds: []string{rows[i].SubjectID}}
			found, more, err := sn.Subject(&rows[i], 100)
			if err != nil || more {
				t.Fatalf("step %d: the subject has more: %v, %v", step, more, err)
			}
			same(t, fmt.Sprintf("step %d: subject of a row of %s:%s", step, objectType, id), rowTexts(rows[i].SubjectType, rows[i].SubjectID, found),
				readTexts(t, s, at, subject, every))
		}
		rows, more, err = sn.Relation(objectType, id, relation, limit)
		limited("relation", rows, more, err, of, every)
		rows, more, err = sn.Usersets(objectType, id, relation, limit)
		limited("usersets", rows, more, err, of, userset)
	}
	all, _, err := sn.Object(objectType, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	stamps.compare(t, s, sn, step, Rows{ObjectType: objectType, ID: id}, all)
	ofType, err := sn.OfSubjectType(objectType, id, subjectType)
	if err != nil {
		t.Fatal(err)
	}
	check("subjects of a type", ofType, object, func(rel tuple.Relationship) bool { return rel.Subject.ObjectType == subjectType })
	stamps.compare(t, s, sn, step, Rows{ObjectType: objectType, ID: id, SubjectType: subjectType}, ofType)
	ofSubject := slices.DeleteFunc(slices.Clone(all), func(r Row) bool {
		return r.Relation != relation || r.SubjectType != "user" || r.SubjectID != "ann"
	})
	stamps.compare(t, s, sn, step,
		Rows{ObjectType: objectType, ID: id, Relation: relation, SubjectType: "user", SubjectID: "ann"}, ofSubject)
	for _, usersets := range []bool{false, true} {
		var all []Row
		var after *Row
		for more := true; more; {
			var rows []Row
			var err error
			if rows, more, err = sn.Page(objectType, id, relation, usersets, after, 2); err != nil {
				t.Fatal(err)
			}
			all = append(all, rows...)
			if more {
				after = &rows[len(rows)-1]
			}
		}
		check("pages", all, of, func(rel tuple.Relationship) bool { return !usersets || userset(rel) })
	}
	for _, subject := range []string{"ann", "*"} {
		row, found, err := sn.Find(objectType, id, relation, "user", "", subject)
		if err != nil {
			t.Fatal(err)
		}
		check("row", slices.Repeat([]Row{row}, map[bool]int{true: 1}[found]), of, func(rel tuple.Relationship) bool {
			return rel.Subject.ObjectType == "user" && rel.Subject.ObjectID == subject && rel.Subject.Relation == tuple.Ellipsis
		})
	}
}

// TestObjectsKeepUp: what was acknowledged is in what is read from then on, however many read meanwhile, and
// keep what they read.
func TestObjectsKeepUp(t *testing.T) {
	t.Parallel()
	for name, kept := range howMuchIsKept {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testObjectsKeepUp(t, kept)
		})
	}
}

func testObjectsKeepUp(t *testing.T, kept int64) {
	s := opened(t, Config{KeptBytes: kept})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	read := func(at Revision) (rows []Row, err error) {
		sn, err := s.Snapshot(at)
		if err != nil {
			return nil, err
		}
		defer sn.Close()
		rows, _, err = sn.Object("document", "a", 10)
		if err != nil {
			return nil, err
		}
		row, found, err := sn.Find("document", "a", "viewer", "user", "", "ann")
		if found != (len(rows) == 1) || found && row.SubjectID != rows[0].SubjectID {
			err = fmt.Errorf("at %d: the object has %v, the row is there: %v", at, rows, found) //nolint:err113 // a test's
		}
		return rows, err
	}
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				head, err := s.HeadRevision(context.Background())
				if err == nil {
					at, _ := head.Revision.(Revision)
					_, err = read(at)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rel := tuple.MustParse("document:a#viewer@user:ann")
	for i := range 2000 {
		update := tuple.Touch(rel)
		if i%2 == 1 {
			update = tuple.Delete(rel)
		}
		at := writesOf(t, s, update)
		if rows := must(read(at))(t); len(rows) != 1-i%2 {
			t.Fatalf("after write %d there are %v", i, rows)
		}
	}
	close(stop)
	readers.Wait()
}

// TestSnapshotPins: what an open snapshot shows is not collected, and once it is closed it is.
func TestSnapshotPins(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now})
	first := writesOf(t, s, touch("document:a#viewer@user:ann"))
	writesOf(t, s, remove("document:a#viewer@user:ann"))
	sn := must(s.Snapshot(first))(t)
	clock.move(2 * s.config.Retention)
	writesOf(t, s, touch("document:b#viewer@user:bob")) // a newer head
	collects := func() {
		t.Helper()
		if err := runCollection(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	collects()
	s.iterators.drop(math.MaxUint64) // one from before would see what is not there any more
	if rows, _, err := sn.Relation("document", "a", "viewer", 10); err != nil || len(rows) != 1 {
		t.Errorf("an open snapshot shows %v, %v", rows, err)
	}
	sn.Close()
	collects()
	if n := keyCount(t, s, kindForward); n != 1 {
		t.Errorf("%d rows are left, want 1", n)
	}
	if again, err := s.Snapshot(first); err == nil {
		again.Close()
		t.Error("a revision that was collected can be opened")
	}
}

// TestSchemaVersion: revisions have the same version as long as no definition is written or deleted, also after
// the store was opened again.
func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	config := small(Config{})
	s := must(Open("store", config))(t)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	type change = func(context.Context, datastore.ReadWriteTransaction) error
	var revisions []Revision
	for _, c := range []change{
		func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyWriteNamespaces(ctx, typeNamed("document", "viewer"))
		},
		writing(touch("document:a#viewer@user:ann")),
		func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed("late", "x")})
		},
		writing(touch("document:b#viewer@user:ann")),
		func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyDeleteNamespaces(ctx, []string{"document"}, datastore.DeleteNamespacesOnly)
		},
	} {
		revisions = append(revisions, commits(t, s, c))
	}
	want := []Revision{revisions[0], revisions[0], revisions[2], revisions[2], revisions[4]}
	for _, when := range []string{"before", "after"} {
		for i, at := range revisions {
			if got := s.SchemaVersion(at); got != want[i] {
				t.Errorf("%s opening again revision %d has the schema of %d, want %d", when, at, got, want[i])
			}
		}
		if got := s.SchemaVersion(revisions[0] - 1); got != 0 {
			t.Errorf("%s the first definition the schema is of %d", when, got)
		}
		if when == "before" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open("store", config))(t)
		}
	}
}

// TestSubjectFromBefore: a row leads to what its subject was at the snapshot's revision, not to what another one found
// there later.
func TestSubjectFromBefore(t *testing.T) {
	t.Parallel()
	for name, kept := range howMuchIsKept {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSubjectFromBefore(t, kept)
		})
	}
}

func testSubjectFromBefore(t *testing.T, kept int64) {
	s := opened(t, Config{KeptBytes: kept})
	before := writesOf(t, s, touch("document:a#folder@folder:x"), touch("folder:x#viewer@user:ann"))
	subject := func(at Revision, want ...string) {
		t.Helper()
		sn := must(s.Snapshot(at))(t)
		defer sn.Close()
		rows, _, err := sn.Object("document", "a", 10)
		if err != nil || len(rows) != 1 {
			t.Fatalf("%v, %v", rows, err)
		}
		found, _, err := sn.Subject(&rows[0], 10)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("at %d", at), rowTexts("folder", "x", found), want)
	}
	first, second := "folder:x#viewer@user:ann", "folder:x#viewer@user:bob"
	subject(before, first)
	after := writesOf(t, s, touch(second))
	for range 2 {
		subject(after, first, second)
		subject(before, first)
	}
}
