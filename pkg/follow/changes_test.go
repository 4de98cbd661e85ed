package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestOverlappingTransactions holds three transactions of SpiceDB's open at the same time and commits them in every order, while a fourth one takes
// back what the first to commit has granted. After each commit the copy follows. Every change is delivered once, and the copy is at each of its
// positions what the authority was.
func TestOverlappingTransactions(t *testing.T) { eachAuthority(t, overlappingTransactions) }

func overlappingTransactions(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	a := authority(t, w.uri, time.Hour)
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			f := follower(t, inMemory(), a)
			name := func(i int) string {
				return fmt.Sprintf("document:%d-of-%d%d%d#viewer@user:alice", i, order[0], order[1], order[2])
			}
			at := follows(t, f, a)
			delivered := map[string]int{}
			pull := func() {
				t.Helper()
				changes, err := a.ChangesSince(context.Background(), at, 100)
				if err != nil {
					t.Fatal(err)
				}
				for _, rel := range changes.Written {
					delivered["write "+tuple.MustString(rel)]++
				}
				for _, rel := range changes.Deleted {
					delivered["delete "+tuple.MustString(rel)]++
				}
				at = changes.To
				follows(t, f, a)
			}
			var all []*held
			for i := range 3 {
				all = append(all, w.hold(t, create(name(i))))
			}
			pull()
			if len(delivered) > 0 {
				t.Fatalf("of transactions that are not committed the authority tells %v", delivered)
			}
			all[order[0]].commit(t)
			pull()
			w.update(t, remove(name(order[0])))
			pull()
			all[order[1]].commit(t)
			pull()
			all[order[2]].commit(t)
			pull()
			want := map[string]int{"delete " + name(order[0]): 1}
			for i := range 3 {
				want["write "+name(i)] = 1
			}
			if fmt.Sprint(delivered) != fmt.Sprint(want) {
				t.Errorf("delivered %v, want %v", delivered, want)
			}
			reached, err := f.Reached()
			if err != nil {
				t.Fatal(err)
			}
			defer reached.Release()
			has := relationships(t, reached)
			w.asSpiceDB(t, f)
			for i := range 3 {
				if got, want := slices.Contains(has, name(i)), i != order[0]; got != want {
					t.Errorf("the copy has %s: %v, want %v", name(i), got, want)
				}
			}
		})
	}
}

// TestOtherDatabases is the trap of a head that is the cluster's: after writes to another database it is newer than every transaction of
// SpiceDB's and stays so. A copy reaches it all the same, at once and without a commit of its own.
func TestOtherDatabases(t *testing.T) {
	cluster := pgtest.NewCluster(t)
	w := writer(t, cluster.Create(t, "spicedb"))
	cluster.Create(t, "other")
	cluster.Exec(t, "other", "CREATE TABLE numbers (n int)")
	w.update(t, touch("document:plan#viewer@user:alice"))
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	before := follows(t, f, a)
	first, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	for n := range 20 {
		cluster.Exec(t, "other", fmt.Sprintf("INSERT INTO numbers VALUES (%d)", n))
	}
	cluster.SpendTransactions(t, 100)
	reached, err := f.Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	if reached.Position.State == before.State {
		t.Errorf("the head is %s as before: the other database's writes were not in it, and the test tests nothing", before.State)
	}
	if reached.Local != first.Local {
		t.Error("the copy made a commit, and nothing of SpiceDB's has changed")
	}
	equal(t, a, reached)

	w.update(t, remove("document:plan#viewer@user:alice"))
	follows(t, f, a)
	after, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Release()
	if left := relationships(t, after); len(left) > 0 {
		t.Errorf("the copy still has %v", left)
	}
}

// TestEveryKindOfChange follows the authority through each kind of write that SpiceDB's datastore has, and several at once.
func TestEveryKindOfChange(t *testing.T) { eachAuthority(t, everyKindOfChange) }

func everyKindOfChange(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	follows(t, f, a)
	soon := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	counter := &core.RelationshipFilter{ResourceType: "document"}
	tx := func(fn func(ctx context.Context, tx datastore.ReadWriteTransaction) error) func(testing.TB) {
		return func(t testing.TB) { w.write(t, fn) }
	}
	update := func(updates ...tuple.RelationshipUpdate) func(testing.TB) {
		return func(t testing.TB) { w.update(t, updates...) }
	}
	for _, step := range []struct {
		name  string
		write func(testing.TB)
		want  []string
	}{
		{"create", update(create("document:a#viewer@user:alice")), []string{"document:a#viewer@user:alice"}},
		{"touch what is there", update(touch("document:a#viewer@user:alice")), []string{"document:a#viewer@user:alice"}},
		{
			"touch with a caveat", update(touch(`document:a#viewer@user:alice[weekday:{"day":"monday"}]`)),
			[]string{`document:a#viewer@user:alice[weekday:{"day":"monday"}]`},
		},
		{
			"touch with another context", update(touch(`document:a#viewer@user:alice[weekday:{"day":"friday","hours":[1,2.5]}]`)),
			[]string{`document:a#viewer@user:alice[weekday:{"day":"friday","hours":[1,2.5]}]`},
		},
		{
			"touch with an expiration", update(expiring("document:a#viewer@user:alice", soon)),
			[]string{tuple.MustString(tuple.MustWithExpiration(tuple.MustParse("document:a#viewer@user:alice"), soon))},
		},
		{
			"a wildcard and a userset", update(remove("document:a#viewer@user:alice"), touch("document:a#viewer@user:*"), touch("document:a#viewer@group:g#member")),
			[]string{"document:a#viewer@group:g#member", "document:a#viewer@user:*"},
		},
		{"delete by a filter", tx(deleteAll("document")), nil},
		{
			"several transactions between two pulls", func(t testing.TB) {
				w.update(t, touch("document:b#viewer@user:alice"), touch("document:c#viewer@user:alice"))
				w.update(t, remove("document:b#viewer@user:alice"))
				w.update(t, touch("document:b#viewer@user:alice"), touch("document:d#viewer@user:alice"))
				w.update(t, remove("document:d#viewer@user:alice"))
			}, []string{"document:b#viewer@user:alice", "document:c#viewer@user:alice"},
		},
		{
			"delete and write again between two pulls", func(t testing.TB) {
				w.update(t, remove("document:b#viewer@user:alice"))
				w.update(t, create(`document:b#viewer@user:alice[weekday:{"day":"monday"}]`))
			}, []string{`document:b#viewer@user:alice[weekday:{"day":"monday"}]`, "document:c#viewer@user:alice"},
		},
		{
			"a transaction that came to nothing", func(t testing.TB) {
				_, err := w.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
					return errors.Join(tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:z#viewer@user:alice")}), errors.New("no"))
				})
				if err == nil {
					t.Fatal("it was committed")
				}
			}, []string{`document:b#viewer@user:alice[weekday:{"day":"monday"}]`, "document:c#viewer@user:alice"},
		},
		{"a new type and another caveat", func(t testing.TB) {
			w.define(t, strings.Replace(schema, `day == "monday"`, `day == "sunday"`, 1)+"\ndefinition folder {\n relation owner: user\n}\n")
			w.update(t, touch("folder:f#owner@user:alice"))
		}, []string{
			`document:b#viewer@user:alice[weekday:{"day":"monday"}]`, "document:c#viewer@user:alice", "folder:f#owner@user:alice",
		}},
		{"a type with its relationships deleted", tx(func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyDeleteNamespaces(ctx, []string{"folder"}, datastore.DeleteNamespacesAndRelationships)
		}), []string{`document:b#viewer@user:alice[weekday:{"day":"monday"}]`, "document:c#viewer@user:alice"}},
		{"a caveat deleted, and its relationships", func(t testing.TB) {
			w.write(t, deleteAll("document"))
			w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				return tx.LegacyDeleteCaveats(ctx, []string{"weekday"})
			})
		}, nil},
		{"a type deleted and written again between two pulls", func(t testing.TB) {
			w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				return tx.LegacyDeleteNamespaces(ctx, []string{"document"}, datastore.DeleteNamespacesAndRelationships)
			})
			w.define(t, schema)
			w.update(t, touch("document:b#viewer@user:alice"))
		}, []string{"document:b#viewer@user:alice"}},
		{"a counter", tx(func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.RegisterCounter(ctx, "documents", counter)
		}), []string{"document:b#viewer@user:alice"}},
		{"a counter that is gone", tx(func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.UnregisterCounter(ctx, "documents")
		}), []string{"document:b#viewer@user:alice"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.write(t)
			follows(t, f, a)
			reached, err := f.Reached()
			if err != nil {
				t.Fatal(err)
			}
			defer reached.Release()
			if got := relationships(t, reached); !slices.Equal(got, step.want) {
				t.Errorf("the copy has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(step.want, "\n\t"))
			}
			w.asSpiceDB(t, f)
			// What Compare says would be worth little if it took the copy's word for the definitions.
			types, caveats, err := reached.Store.Definitions(reached.Local)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := w.HeadRevision(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			reader := w.SnapshotReader(theirs.Revision)
			listed, err := reader.LegacyListAllNamespaces(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			listedCaveats, err := reader.LegacyListAllCaveats(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(types) != len(listed) || len(caveats) != len(listedCaveats) {
				t.Errorf("the copy has %d types and %d caveats, SpiceDB %d and %d", len(types), len(caveats), len(listed), len(listedCaveats))
			}
		})
	}
}

// storeOf is the copy that is served.
func storeOf(t *testing.T, f *follow.Follower) *store.Store {
	t.Helper()
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	return reached.Store
}

// TestTooMany refuses more changes than one local commit holds, and follows again: in several commits where the authority tells changes in parts, else by
// a load.
func TestTooMany(t *testing.T) { eachAuthority(t, tooMany) }

func tooMany(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	a := authority(t, w.uri, time.Hour)
	config := inMemory()
	config.MaxChanges = 10
	f := follower(t, config, a)
	follows(t, f, a)
	many := func(operation func(string) tuple.RelationshipUpdate, n int) {
		var updates []tuple.RelationshipUpdate
		for i := range n {
			updates = append(updates, operation(fmt.Sprintf("document:%d#viewer@user:alice", i)))
		}
		w.update(t, updates...)
	}
	for i := range 5 { // more than will change
		var more []tuple.RelationshipUpdate
		for k := range 10 {
			more = append(more, touch(fmt.Sprintf("document:%d-%d#viewer@user:bob", i, k)))
		}
		w.update(t, more...)
		follows(t, f, a)
	}
	many(touch, 10)
	if _, err := f.Pull(t.Context()); err != nil {
		t.Fatalf("ten relationships written, where ten are the most: %v", err)
	}
	many(remove, 10)
	if _, err := f.Pull(t.Context()); err != nil {
		t.Fatalf("ten relationships deleted, where ten are the most: %v", err)
	}
	for _, operation := range []func(string) tuple.RelationshipUpdate{touch, remove} {
		many(operation, 11)
		if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrTooMany) {
			t.Fatalf("eleven relationships, where ten are the most: %v", err)
		}
		before := storeOf(t, f)
		follows(t, f, a)
		if _, parted := a.(follow.Parted); parted != (storeOf(t, f) == before) {
			t.Errorf("the copy is the one that it was: %t; the authority tells changes in parts: %t", !parted, parted)
		}
	}
}
