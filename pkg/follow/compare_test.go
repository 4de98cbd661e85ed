package follow_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestCompareFinds changes a copy behind its follower's back, in each way in which it could be wrong, and has Compare find just that.
func TestCompareFinds(t *testing.T) { eachAuthority(t, compareFinds) }

func compareFinds(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	fill(t, w, 30)
	w.update(t, expiring("document:1#viewer@user:over", time.Now().Add(-time.Minute)))
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.RegisterCounter(ctx, "documents", &core.RelationshipFilter{ResourceType: "document"})
	})
	a := authority(t, w.uri, time.Hour)
	later := time.Now().Add(2 * time.Hour)
	for _, c := range []struct {
		name   string
		meddle func(context.Context, datastore.ReadWriteTransaction) error
		want   []string
	}{
		{"nothing", rewrite(), nil},
		{"a relationship less", rewrite(remove("document:3#viewer@user:u3")), []string{"relationship document:3#viewer@user:u3"}},
		{"a relationship more", rewrite(touch("document:3#viewer@user:mallory")), []string{"relationship document:3#viewer@user:mallory"}},
		{"one of a type that nobody has", rewrite(touch("group:g#member@user:mallory")), []string{"relationship group:g#member@user:mallory"}},
		{"another caveat's context", rewrite(touch(`document:3#viewer@user:c3[weekday:{"day":"monday","hours":[3,2.5]}]`)), []string{"relationship document:3#viewer@user:c3"}},
		{"no caveat", rewrite(touch("document:3#viewer@user:c3")), []string{"relationship document:3#viewer@user:c3"}},
		{"another expiration", rewrite(expiring("document:3#viewer@user:e0", later)), []string{"relationship document:3#viewer@user:e0"}},
		{"no expiration", rewrite(touch("document:3#viewer@user:e0")), []string{"relationship document:3#viewer@user:e0"}},
		{"what has expired is over", rewrite(remove("document:1#viewer@user:over")), nil},
		{
			"two of one bucket or of two", rewrite(remove("document:3#viewer@user:u3"), remove("document:4#viewer@user:u4")),
			[]string{"relationship document:3#viewer@user:u3", "relationship document:4#viewer@user:u4"},
		},
		{"a type", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyDeleteNamespaces(ctx, []string{"group"}, datastore.DeleteNamespacesOnly)
		}, []string{"type group"}},
		{"a caveat", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{{Name: "weekday"}})
		}, []string{"caveat weekday"}},
		{"a counter", func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.UnregisterCounter(ctx, "documents")
		}, []string{"counter documents"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := follower(t, inMemory(), a)
			follows(t, f, a)
			reached, err := f.Reached()
			if err != nil {
				t.Fatal(err)
			}
			defer reached.Release()
			at, err := reached.Store.ReadWriteTx(t.Context(), c.meddle)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range compared(t, a, reached) {
				t.Errorf("at the revision before, which is pinned: %s", d)
			}
			reached.Local = revision(t, at)
			var got []string
			for _, d := range compared(t, a, reached) {
				got = append(got, d.What+" "+d.Name)
				if d.Authority == d.Copy {
					t.Errorf("the difference does not say what differs: %s", d)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func rewrite(updates ...tuple.RelationshipUpdate) func(context.Context, datastore.ReadWriteTransaction) error {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	}
}

// TestDigestsAgree has PostgreSQL and this package digest relationships whose contexts are as hard to write as SpiceDB lets them be. They agree on
// each of them, so no bucket has to be listed.
func TestDigestsAgree(t *testing.T) { eachAuthority(t, digestsAgree) }

func digestsAgree(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	nested := map[string]any{"zz": []any{}, "a": map[string]any{"b": nil, "": true}, "long": []any{map[string]any{"x": 1.0}}}
	contexts := []map[string]any{
		nil, {}, {"day": ""}, {"day": "\"\\/\b\f\n\r\t\x01\x1f\x7f<>&'"}, {"day": "дня \u2028 🙂"}, {"bb": 1.0, "a": 2.0, "ccc": 3.0, "ab": 4.0, "Z": 5.0},
		{"n": 0.1}, {"n": 1e21}, {"n": 1e-7}, {"n": -1.5e300}, {"n": 123456789012345680.0}, {"n": math.Copysign(0, -1)}, nested,
	}
	var updates []tuple.RelationshipUpdate
	for i, c := range contexts {
		given, err := structpb.NewStruct(c)
		if err != nil {
			t.Fatal(err)
		}
		rel := tuple.MustParse(fmt.Sprintf("document:%d#viewer@user:alice", i))
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: "weekday", Context: given}
		updates = append(updates, tuple.Touch(rel))
	}
	base := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, at := range []time.Duration{0, time.Microsecond, 999_999 * time.Microsecond} {
		updates = append(updates, expiring(fmt.Sprintf("document:e%d#viewer@user:alice", i), base.Add(at)))
	}
	updates = append(updates, touch("document:w/_|-=+#viewer@user:*"), touch("document:g#viewer@group:g#member"))
	w.update(t, updates...)
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	quiet := &noBuckets{State: a.At(reached.Position)}
	different, err := follow.Compare(t.Context(), quiet, reached.Store, reached.Local, time.Now(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(different) > 0 || len(quiet.asked) > 0 {
		t.Errorf("differences %v, buckets that were listed %v", different, quiet.asked)
	}
	if n := len(relationships(t, reached)); n != len(updates) {
		t.Errorf("the copy has %d relationships of %d", n, len(updates))
	}
}

// noBuckets notes which buckets are listed.
type noBuckets struct {
	follow.State

	asked []follow.Bucket
}

func (n *noBuckets) Bucket(ctx context.Context, b follow.Bucket, moment time.Time, limit int, fn func(*tuple.Relationship) error) error {
	n.asked = append(n.asked, b)
	return n.State.Bucket(ctx, b, moment, limit, fn)
}

// lying is a state whose digests are wrong, and that counts what is asked of its buckets. Where endless is set, each bucket has relationships without end
// that nobody else has.
type lying struct {
	follow.State

	// wrong is how many of its digests are wrong.
	wrong   int
	endless bool
	// buckets is how many were asked for, sent how many relationships of them were taken.
	buckets, sent int
}

func (l *lying) Digests(ctx context.Context, moment time.Time) ([]follow.Digest, error) {
	all, err := l.State.Digests(ctx, moment)
	for i := range min(len(all), l.wrong) {
		all[i].Sum++
	}
	return all, err
}

func (l *lying) Bucket(ctx context.Context, b follow.Bucket, moment time.Time, limit int, fn func(*tuple.Relationship) error) error {
	l.buckets++
	if !l.endless {
		return l.State.Bucket(ctx, b, moment, limit, func(rel *tuple.Relationship) error {
			l.sent++
			return fn(rel)
		})
	}
	for i := range limit {
		if l.sent++; l.sent > 1_000_000 {
			return errors.New("it is taken without end")
		}
		rel := tuple.MustParse(fmt.Sprintf("document:endless-%d#viewer@user:mallory", i))
		if err := fn(&rel); err != nil {
			return err
		}
	}
	return nil
}

// TestCompareIsBounded: a comparison ends once it has found as many differences as it was asked for, looks into few buckets, and takes no more of one than
// the copy has of it, and so many. Where digests differ in more than it has looked into, and nothing else does, it knows nothing.
func TestCompareIsBounded(t *testing.T) { eachAuthority(t, compareIsBounded) }

func compareIsBounded(t *testing.T, database func(testing.TB) string) {
	const most, documents = 10, 300
	w := writer(t, database(t))
	fill(t, w, documents)
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	compare := func(l *lying, local store.Revision) ([]follow.Difference, error) {
		l.State = a.At(reached.Position)
		return follow.Compare(t.Context(), l, reached.Store, local, time.Now(), most)
	}
	wrong := &lying{wrong: math.MaxInt}
	if found, err := compare(wrong, reached.Local); err == nil || wrong.buckets > 32 {
		t.Errorf("all digests differ, and nothing else: %d differences, %v, after %d buckets", len(found), err, wrong.buckets)
	}
	one := &lying{wrong: 1, endless: true}
	if found, err := compare(one, reached.Local); err == nil || one.buckets != 1 {
		t.Errorf("one bucket without an end of what is not there: %d differences, %v, after %d buckets", len(found), err, one.buckets)
	}
	endless := &lying{wrong: math.MaxInt, endless: true}
	if found, err := compare(endless, reached.Local); err == nil || endless.sent > 32*(most+1)+3*documents {
		t.Errorf("buckets without an end of what is not there: %d differences, %v, after %d relationships", len(found), err, endless.sent)
	}
	at, err := reached.Store.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		for _, name := range []string{"document", "group"} {
			if err := deleteAll(name)(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	empty := &lying{}
	found, err := compare(empty, revision(t, at))
	if err != nil || len(found) != most || empty.sent > most*(most+1) {
		t.Errorf("the copy has nothing: %d differences, %v, after %d relationships of %d buckets", len(found), err, empty.sent, empty.buckets)
	}
}

// TestLongDifferences: what is kept, and logged, of a difference is not as long as a database has it, and is found again by it.
func TestLongDifferences(t *testing.T) {
	long := func(kind string) string { return kind + strings.Repeat("x", 1<<20) }
	d := follow.Difference{What: "relationship", Name: long("document:"), Authority: long("it with "), Copy: long("it until ")}.Cut(500)
	if text := d.String(); len(text) > 2000 || !strings.HasPrefix(d.Name, "document:xxx") {
		t.Errorf("the text has %d bytes", len(text))
	}
	w := writer(t, served(t, store.Config{}).uri)
	name := "document:" + strings.Repeat("x", 1000) + "#viewer@user:" + strings.Repeat("y", 1000)
	context, err := structpb.NewStruct(map[string]any{"day": strings.Repeat("z", 100_000)})
	if err != nil {
		t.Fatal(err)
	}
	rel := tuple.MustParse(name)
	rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: "weekday", Context: context}
	w.update(t, tuple.Touch(rel))
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	at, err := reached.Store.ReadWriteTx(t.Context(), deleteAll("document"))
	if err != nil {
		t.Fatal(err)
	}
	reached.Local = revision(t, at)
	found := compared(t, a, reached)
	if len(found) != 1 || found[0].Name != name || len(found[0].Authority) > 5000 {
		t.Errorf("found %.3000v", found)
	}
}

// TestExpiredAndCollected: neither an expiration between two comparisons nor a collection on either side is a difference.
func TestExpiredAndCollected(t *testing.T) {
	w := writer(t, pgtest.Database(t))
	a := authority(t, w.uri, time.Hour)
	f := follower(t, inMemory(), a)
	var updates []tuple.RelationshipUpdate
	for i := range 20 {
		updates = append(updates, expiring(fmt.Sprintf("document:%d#viewer@user:alice", i), time.Now().Add(time.Duration(i-10)*100*time.Millisecond)))
	}
	w.update(t, updates...)
	follows(t, f, a)
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	for range 6 {
		// While they expire, and once they have.
		equal(t, a, reached)
		pass(t, w.uri, 200*time.Millisecond)
	}
	execute(t, w.uri, "DELETE FROM relation_tuple WHERE expiration < now()") // as SpiceDB's collection does, once its window has passed
	if n := rows(t, w.uri, "document", "1"); n != 0 {
		t.Fatal("nothing was collected")
	}
	equal(t, a, reached)
	// Written again after it was collected, and again with another expiration.
	w.update(t, create("document:1#viewer@user:alice"), expiring("document:2#viewer@user:alice", time.Now().Add(time.Hour)))
	follows(t, f, a)
	after, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	defer after.Release()
	if has := strings.Join(relationships(t, after), "\n"); !strings.Contains(has, "document:1#viewer@user:alice\n") {
		t.Errorf("the copy has\n%s", has)
	}
}
