package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// step is what a transaction does.
type step = datastore.TxUserFunc

// Steps of transactions.
func writing(updates ...tuple.RelationshipUpdate) step {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	}
}

func querying(f datastore.RelationshipsFilter, opts ...options.QueryOptionsOption) step {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := texts(tx.QueryRelationships(ctx, f, opts...))
		return err
	}
}

func reverseQuerying(f datastore.SubjectsFilter, opts ...options.ReverseQueryOptionsOption) step {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := texts(tx.ReverseQueryRelationships(ctx, f, opts...))
		return err
	}
}

func deleting(f *v1.RelationshipFilter, limit uint64) step {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, _, err := tx.DeleteRelationships(ctx, f, options.WithDeleteLimit(&limit))
		return err
	}
}

func limitOf(n uint64) options.QueryOptionsOption { return options.WithLimit(&n) }

// TestSerializable lets one transaction read, a second one change something and commit, and the first one
// write something else. The first one is refused exactly if what the second one changed could have
// changed what it read.
func TestSerializable(t *testing.T) {
	type filter = datastore.RelationshipsFilter
	user := func(id string, relation datastore.SubjectRelationFilter) []datastore.SubjectsSelector {
		return []datastore.SubjectsSelector{{OptionalSubjectType: "user", OptionalSubjectIds: []string{id}, RelationFilter: relation}}
	}
	anyRelation, ellipsis := datastore.SubjectRelationFilter{}, datastore.SubjectRelationFilter{}.WithEllipsisRelation()
	named := func(names ...string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.LegacyLookupNamespacesWithNames(ctx, names)
			return err
		}
	}
	writeType := func(name string, relations ...string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyWriteNamespaces(ctx, typeNamed(name, relations...))
		}
	}
	writeCaveat := func(name, expression string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed(name, expression)})
		}
	}
	count := func(name string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.CountRelationships(ctx, name)
			return err
		}
	}
	register := func(name, resourceType string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.RegisterCounter(ctx, name, &core.RelationshipFilter{ResourceType: resourceType})
		}
	}
	lookupCounters := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := tx.LookupCounters(ctx)
		return err
	}
	readSchema := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := tx.ReadStoredSchema(ctx)
		return err
	}
	writeSchema := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteStoredSchema(ctx, schemaNamed("second"))
	}
	seed := []tuple.RelationshipUpdate{
		touch("document:a#reader@user:alice"), touch("document:a#reader@user:bob"), touch("document:a#writer@user:alice"),
		touch("document:b#reader@user:alice"), touch("document:b#reader@group:g#member"), touch("document:c#reader@user:carol"),
		touch("folder:f#reader@user:alice"), touch("rota:1#oncall@user:alice"), touch("rota:1#oncall@user:bob"),
	}

	for _, c := range []struct {
		name     string
		reads    step
		meantime step
		conflict bool
	}{
		// Rows that are looked up by their key.
		{"a row that is created is created", writing(create("document:z#reader@user:alice")), writing(create("document:z#reader@user:alice")), true},
		{"a row that is touched is touched", writing(touch("document:a#reader@user:alice[cv1]")), writing(touch("document:a#reader@user:alice[cv2]")), true},
		{"a row that is touched is deleted", writing(touch("document:a#reader@user:alice[cv1]")), writing(remove("document:a#reader@user:alice")), true},
		{"a row that is deleted is touched", writing(remove("document:a#reader@user:alice")), writing(touch("document:a#reader@user:alice[cv2]")), true},
		{"a row that is deleted, and was not there, is created", writing(remove("document:z#reader@user:alice")), writing(create("document:z#reader@user:alice")), true},
		{"a row that is touched is touched as it is", writing(touch("document:a#reader@user:alice[cv1]")), writing(touch("document:a#reader@user:alice")), false},
		{"the row before one that is touched", writing(touch("document:a#reader@user:bob[cv1]")), writing(touch("document:a#reader@user:alice[cv2]")), false},
		{"a row whose key begins as one that is touched", writing(touch("document:a#reader@user:alice[cv1]")), writing(create("document:a#reader@user:alice2")), false},
		{"the same subject's other row", writing(touch("document:a#reader@user:alice[cv1]")), writing(touch("document:b#reader@user:alice[cv2]")), false},

		// Write skew: both read who is on call, and each takes another one off.
		{"write skew", querying(filter{OptionalResourceType: "rota", OptionalResourceIds: []string{"1"}, OptionalResourceRelation: "oncall"}), writing(remove("rota:1#oncall@user:alice")), true},
		{"write skew, reading in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user"}, options.WithResRelation(&options.ResourceRelation{Namespace: "rota", Relation: "oncall"})), writing(remove("rota:1#oncall@user:alice")), true},

		// Phantoms.
		{"a row appears in a resource that is read", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"a"}}), writing(create("document:a#reader@user:zoe")), true},
		{"a row appears in a resource without rows", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"none"}}), writing(create("document:none#reader@user:zoe")), true},
		{"a row appears in the last of several resources", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"a", "c", "none"}}), writing(create("document:none#reader@user:zoe")), true},
		{"a row appears between several resources", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"a", "c"}}), writing(create("document:b#reader@user:zoe")), false},
		{"a row appears in a type that is read", querying(filter{OptionalResourceType: "document"}), writing(create("document:none#reader@user:zoe")), true},
		{"a row appears in a type without rows", querying(filter{OptionalResourceType: "nothing"}), writing(create("nothing:1#reader@user:zoe")), true},
		{"a row appears in another type", querying(filter{OptionalResourceType: "document"}), writing(create("folder:1#reader@user:zoe")), false},
		{"a row appears under a prefix", querying(filter{OptionalResourceType: "document", OptionalResourceIDPrefix: "ab"}), writing(create("document:abc#reader@user:zoe")), true},
		{"a row appears beside a prefix", querying(filter{OptionalResourceType: "document", OptionalResourceIDPrefix: "ab"}), writing(create("document:b2#reader@user:zoe")), false},
		{"a row appears in a relation that is read", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"a"}, OptionalResourceRelation: "reader"}), writing(create("document:a#reader@user:zoe")), true},
		{"a row appears in another relation", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"a"}, OptionalResourceRelation: "reader"}), writing(create("document:a#writer@user:zoe")), false},
		{"a row of a new type appears where all types are read", querying(filter{OptionalResourceIds: []string{"a"}}), writing(create("zebra:a#reader@user:zoe")), true},
		{"a row appears where everything is read", querying(filter{}), writing(create("zebra:a#reader@user:zoe")), true},
		{"a row appears for a subject that is read", querying(filter{OptionalResourceType: "document", OptionalSubjectsSelectors: user("zoe", ellipsis)}), writing(create("document:c#reader@user:zoe")), true},
		{"a row appears for another subject", querying(filter{OptionalResourceType: "document", OptionalSubjectsSelectors: user("zoe", ellipsis)}), writing(create("document:c#reader@user:zed")), false},
		{"a row appears with another subject relation", querying(filter{OptionalSubjectsSelectors: user("zoe", ellipsis)}), writing(create("document:c#reader@user:zoe#friend")), false},
		{"a row appears with a new subject relation where any is read", querying(filter{OptionalSubjectsSelectors: user("zoe", anyRelation)}), writing(create("document:c#reader@user:zoe#friend")), true},
		{"a row appears for a subject in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user", OptionalSubjectIds: []string{"zoe"}, RelationFilter: ellipsis}), writing(create("document:c#reader@user:zoe")), true},
		{"a row disappears for a subject in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user", OptionalSubjectIds: []string{"alice"}, RelationFilter: ellipsis}), writing(remove("folder:f#reader@user:alice")), true},
		{"a row appears for another resource type in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user", OptionalSubjectIds: []string{"alice"}, RelationFilter: ellipsis}, options.WithResRelation(&options.ResourceRelation{Namespace: "folder", Relation: "reader"})), writing(create("document:z#reader@user:alice")), false},
		{"a row appears for a subject type that is read in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "group"}), writing(create("document:z#reader@group:h#member")), true},
		{"a row appears for a subject type without rows in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "robot"}), writing(create("document:z#reader@robot:r")), true},
		{"a subject type appears where all are read in reverse", reverseQuerying(datastore.SubjectsFilter{}), writing(create("document:z#reader@robot:r")), true},
		{"a row appears for another subject in reverse", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user", OptionalSubjectIds: []string{"alice"}}), writing(create("document:a#reader@user:alice2")), false},
		{"a row appears in what is read by subject", querying(filter{OptionalResourceType: "document"}, options.WithSort(options.BySubject)), writing(create("document:z#reader@user:zoe")), true},
		{"a row's caveat changes", querying(filter{OptionalResourceType: "document", OptionalResourceIds: []string{"c"}}), writing(touch("document:c#reader@user:carol[cv1]")), true},

		// Reads that a limit cuts short.
		{"a row appears before the end of a limited read", querying(filter{OptionalResourceType: "document"}, limitOf(2), options.WithSort(options.ByResource)), writing(create("document:a#reader@user:aaron")), true},
		{"the last row of a limited read disappears", querying(filter{OptionalResourceType: "document"}, limitOf(2), options.WithSort(options.ByResource)), writing(remove("document:a#reader@user:bob")), true},
		{"a row appears after a limited read", querying(filter{OptionalResourceType: "document"}, limitOf(2), options.WithSort(options.ByResource)), writing(create("document:a#reader@user:bob2")), false},
		{"a precondition's row disappears", querying(filter{OptionalResourceType: "folder", OptionalResourceIds: []string{"f"}}, limitOf(1)), writing(remove("folder:f#reader@user:alice")), true},
		{"a precondition that holds, more holds", querying(filter{OptionalResourceType: "folder", OptionalResourceIds: []string{"f"}}, limitOf(1)), writing(create("folder:f#reader@user:bob")), false},
		{"a precondition that does not hold comes to hold", querying(filter{OptionalResourceType: "folder", OptionalResourceIds: []string{"g"}}, limitOf(1)), writing(create("folder:g#reader@user:bob")), true},
		{"a limited read by subject, a row appears that would have been first", querying(filter{OptionalResourceType: "document"}, limitOf(1), options.WithSort(options.BySubject)), writing(create("document:z#reader@aardvark:a")), true},
		{"a row appears before the cursor", querying(filter{OptionalResourceType: "document"}, options.WithSort(options.ByResource), options.WithAfter(options.ToCursor(tuple.MustParse("document:b#reader@user:alice")))), writing(create("document:a#reader@user:zoe")), false},
		{"a row appears after the cursor", querying(filter{OptionalResourceType: "document"}, options.WithSort(options.ByResource), options.WithAfter(options.ToCursor(tuple.MustParse("document:b#reader@user:alice")))), writing(create("document:b#reader@user:zoe")), true},
		{"a row appears after a read that its caller left", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			it, err := tx.QueryRelationships(ctx, filter{OptionalResourceType: "document"})
			if err != nil {
				return err
			}
			for _, err := range it {
				return err
			}
			return nil
		}, writing(create("document:c#reader@user:zoe")), false},

		// Deletions by filter.
		{"a row appears for a deletion without matches", deleting(&v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: "none"}, 0), writing(create("document:none#reader@user:zoe")), true},
		{"a row appears for a deletion", deleting(&v1.RelationshipFilter{ResourceType: "document", OptionalRelation: "writer"}, 0), writing(create("document:c#writer@user:zoe")), true},
		{"a row appears after a deletion's limit", deleting(&v1.RelationshipFilter{ResourceType: "document"}, 1), writing(create("document:c#writer@user:zoe")), false},
		{"a row appears for a deletion by subject", deleting(&v1.RelationshipFilter{OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user", OptionalSubjectId: "zoe"}}, 0), writing(create("document:c#writer@user:zoe")), true},
		{"rows appear for a type that is deleted", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyDeleteNamespaces(ctx, []string{"folder"}, datastore.DeleteNamespacesAndRelationships)
		}, writing(create("folder:z#reader@user:zoe")), true},

		// The schema.
		{"a type that is read changes", named("document"), writeType("document", "reader", "writer"), true},
		{"a type that is not there appears", named("nothing"), writeType("nothing"), true},
		{"another type changes", named("document"), writeType("folder", "reader", "writer"), false},
		{"a type is written as it is", named("document"), writeType("document", "reader"), false},
		{"a type appears where all are read", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.LegacyListAllNamespaces(ctx)
			return err
		}, writeType("nothing"), true},
		{"a type that is read is deleted", named("document"), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyDeleteNamespaces(ctx, []string{"document"}, datastore.DeleteNamespacesOnly)
		}, true},
		{"a caveat that is read changes", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, _, err := tx.LegacyReadCaveatByName(ctx, "c1")
			return err
		}, writeCaveat("c1", "changed"), true},
		{"a caveat is written as it is", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, _, err := tx.LegacyReadCaveatByName(ctx, "c1")
			return err
		}, writeCaveat("c1", "x"), false},
		{"a caveat appears where all are read", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.LegacyListAllCaveats(ctx)
			return err
		}, writeCaveat("c2", "x"), true},
		{"the stored schema changes", readSchema, writeSchema, true},
		{"the stored schema changes for one that did not read it", named("document"), writeSchema, false},

		// Counters.
		{"a row appears in what is counted", count("documents"), writing(create("document:c#writer@user:zoe")), true},
		{"a row appears in what is not counted", count("documents"), writing(create("folder:c#writer@user:zoe")), false},
		{"a counter appears where all are read", lookupCounters, register("folders", "folder"), true},
		{"a counter's value is stored", lookupCounters, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.StoreCounterValue(ctx, "documents", 5, Revision(7))
		}, true},
		{"a counter that is registered is registered", register("folders", "folder"), register("folders", "folder"), true},
		{"a counter that is registered, another is", register("folders", "folder"), register("groups", "group"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := opened(t, Config{})
			for _, prepare := range []step{
				writing(seed...), writeType("document", "reader"), writeType("folder", "reader"), writeCaveat("c1", "x"), register("documents", "document"),
				func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
					return tx.WriteStoredSchema(ctx, schemaNamed("first"))
				},
			} {
				commits(t, s, prepare)
			}
			attempts := 0
			first := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				attempts++
				if err := c.reads(ctx, tx); err != nil {
					return err
				}
				commits(t, s, c.meantime)
				return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("log:1#entry@user:first")})
			}
			_, err := s.ReadWriteTx(context.Background(), first, options.WithDisableRetries(true))
			switch {
			case c.conflict && (!errors.Is(err, ErrConflict) || status.Code(err) != codes.Aborted):
				t.Fatalf("the transaction ended with %v, code %v; want a conflict, ABORTED", err, status.Code(err))
			case !c.conflict && err != nil:
				t.Fatalf("the transaction ended with %v; it read nothing that changed", err)
			}
			written := len(queried(t, s.SnapshotReader(headOf(t, s)), filter{OptionalResourceType: "log"}))
			if attempts != 1 || (written == 1) == c.conflict {
				t.Fatalf("%d attempts, %d rows written; conflict: %v", attempts, written, c.conflict)
			}
		})
	}
}

// TestSchemaHashPrecondition: a transaction that names the schema that it knows does not commit once
// there is another one.
func TestSchemaHashPrecondition(t *testing.T) {
	s := opened(t, Config{})
	schema := func(hash string) step {
		return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.WriteStoredSchema(ctx, schemaNamed(hash))
		}
	}
	precondition := func(hash string) options.RWTOptionsOption {
		return func(o *options.RWTOptions) { o.SchemaHashPrecondition = hash }
	}
	if _, err := s.ReadWriteTx(t.Context(), writing(touch("doc:1#reader@user:1")), precondition("h1")); !errors.Is(err, datastore.ErrSchemaNotFound) {
		t.Fatalf("without a schema: %v", err)
	}
	commits(t, s, schema("h1"))
	attempts := 0
	_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if attempts++; attempts == 1 {
			commits(t, s, schema("h2"))
		}
		return writing(touch("doc:1#reader@user:1"))(ctx, tx)
	}, precondition("h1"))
	if !errors.Is(err, datastore.ErrSchemaHashPreconditionFailed) || attempts != 1 {
		t.Fatalf("after %d attempts: %v", attempts, err)
	}
	must(s.ReadWriteTx(t.Context(), writing(touch("doc:1#reader@user:1")), precondition("h2")))(t)
}

// TestRetry: a transaction that conflicts is tried again by itself, and sees what changed.
func TestRetry(t *testing.T) {
	s := opened(t, Config{})
	var seen []string
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		seen = append(seen, fmt.Sprint(must(texts(tx.QueryRelationships(ctx, datastore.RelationshipsFilter{OptionalResourceType: "document"})))(t)))
		if len(seen) < 3 {
			writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", len(seen))))
		}
		return writing(touch("log:1#entry@user:alice"))(ctx, tx)
	})
	same(t, "what each attempt saw", seen, []string{
		"[]", "[document:1#reader@user:alice]", "[document:1#reader@user:alice document:2#reader@user:alice]",
	})
	_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := writing(create("document:9#reader@user:alice"))(ctx, tx); err != nil {
			return err
		}
		writesOf(t, s, create("document:9#reader@user:alice"))
		return nil
	})
	var exists *datastore.CreateRelationshipExistsError
	if !errors.As(err, &exists) && status.Code(err) != codes.AlreadyExists {
		t.Fatalf("of two that create a row the second one got %v", err)
	}
}

// manyKeys is how many rows a large transaction writes.
const manyKeys = 10_000

// TestConflictWithManyKeys: a transaction that wrote much conflicts with who read any of it, and with nobody
// else.
func TestConflictWithManyKeys(t *testing.T) {
	s := opened(t, Config{})
	writesOf(t, s, touch("document:5000#reader@user:u5000"), touch("folder:1#reader@robot:r"))
	for i, c := range []struct {
		name     string
		reads    step
		conflict bool
	}{
		{"a row of it", writing(touch("document:5000#reader@user:u5000[cv1]")), true},
		{"a row that it created", writing(touch("document:77#reader@user:u77[cv1]")), true},
		{"its type", querying(datastore.RelationshipsFilter{OptionalResourceType: "document"}), true},
		{"its subjects", reverseQuerying(datastore.SubjectsFilter{SubjectType: "user", OptionalSubjectIds: []string{"u123"}}), true},
		{"another type", querying(datastore.RelationshipsFilter{OptionalResourceType: "folder"}), false},
		{"another subject type", reverseQuerying(datastore.SubjectsFilter{SubjectType: "robot"}), false},
		{"the schema", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, err := tx.LegacyListAllNamespaces(ctx)
			return err
		}, false},
	} {
		caveat := fmt.Sprintf("[big%d]", i)
		_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			if err := c.reads(ctx, tx); err != nil {
				return err
			}
			updates := make([]tuple.RelationshipUpdate, 0, manyKeys)
			for n := range manyKeys {
				updates = append(updates, touch("document:"+strconv.Itoa(n)+"#reader@user:u"+strconv.Itoa(n)+caveat))
			}
			writesOf(t, s, updates...)
			return writing(touch("log:1#entry@user:alice"+caveat))(ctx, tx)
		}, options.WithDisableRetries(true))
		if c.conflict != errors.Is(err, ErrConflict) || !c.conflict && err != nil {
			t.Errorf("%s: %v; conflict: %v", c.name, err, c.conflict)
		}
	}
}

// TestNoMemoryOfOldWrites: what no transaction under way can conflict with is forgotten.
func TestNoMemoryOfOldWrites(t *testing.T) {
	s := opened(t, Config{})
	for i := range 50 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		for i := range 10 {
			writesOf(t, s, touch(fmt.Sprintf("folder:%d#reader@user:alice", i)))
		}
		return writing(touch("log:1#entry@user:alice"))(ctx, tx)
	})
	writesOf(t, s, touch("document:0#reader@user:bob"))
	if n := len(s.recent.newest) + len(s.recent.commits) + s.recent.held; n > 10 {
		t.Errorf("%d keys and transactions are remembered, and nobody is left to conflict with them", n)
	}
}

// TestMemoryOfWritesIsBounded: a transaction that stays open while others write more than is remembered is
// told to try again; one that began later is not.
func TestMemoryOfWritesIsBounded(t *testing.T) {
	s := opened(t, Config{})
	s.recent.limit = 5 * manyKeys
	var updates []tuple.RelationshipUpdate
	_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		for s.recent.floor == 0 {
			updates = updates[:0]
			for n := range manyKeys {
				updates = append(updates, touch(fmt.Sprintf("document:%d#reader@user:u%d[at%d]", n, n, s.head.Load().at)))
			}
			writesOf(t, s, updates...)
			if s.recent.held > 2*s.recent.limit {
				t.Fatalf("%d keys are remembered", s.recent.held)
			}
		}
		return writing(touch("log:1#entry@user:alice"))(ctx, tx)
	}, options.WithDisableRetries(true))
	if !errors.Is(err, ErrConflict) {
		t.Errorf("a transaction from before what is remembered: %v", err)
	}
	writesOf(t, s, touch("log:1#entry@user:alice"))
}

// TestReaderAmongWriters: a transaction that reads everything, beside writers that never pause, is held up
// only so often.
func TestReaderAmongWriters(t *testing.T) {
	s := opened(t, Config{})
	var updates []tuple.RelationshipUpdate
	for i := range 2000 {
		updates = append(updates, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	writesOf(t, s, updates...)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	wrote := make(chan struct{}, 1)
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := s.ReadWriteTx(ctx, writing(touch(fmt.Sprintf("document:%d#reader@user:w%d[cv%d]", i%100, w, i))))
				if err != nil && ctx.Err() == nil {
					t.Errorf("a writer: %v", err)
					return
				}
				select {
				case wrote <- struct{}{}:
				default:
				}
			}
		})
	}
	attempts := 0
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		attempts++
		all := must(texts(tx.QueryRelationships(ctx, datastore.RelationshipsFilter{})))(t)
		if attempts <= patientAttempts {
			// The writers are always faster than the reader.
			for range 2 {
				<-wrote
			}
		}
		return writing(touch(fmt.Sprintf("total:1#rows@number:%d", len(all))))(ctx, tx)
	})
	if attempts <= patientAttempts {
		t.Errorf("it took %d attempts: nothing was in its way", attempts)
	}
	t.Logf("%d attempts", attempts)
}
