package store

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
)

// many commits updates, so many at a time.
func many(t fataler, s *Store, n int, update func(int) tuple.RelationshipUpdate) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		updates := make([]tuple.RelationshipUpdate, 0, 500)
		for i := from; i < min(n, from+500); i++ {
			updates = append(updates, update(i))
		}
		writesOf(t, s, updates...)
	}
}

// listed reads what a subject is listed with, as a list does: from the subject.
func listed(t fataler, s *Store, at Revision, subject string) []string {
	t.Helper()
	return must(texts(s.SnapshotReader(at).ReverseQueryRelationships(context.Background(),
		datastore.SubjectsFilter{SubjectType: "agent", OptionalSubjectIds: []string{subject}},
		options.WithResRelation(&options.ResourceRelation{Namespace: "session", Relation: "listed"}))))(t)
}

// moves returns how often a reading had Pebble move an iterator, in it and below.
func moves(s *Store, reading func()) int {
	s.iterators.drop(math.MaxUint64)
	reading()
	s.iterators.mu.Lock()
	defer s.iterators.mu.Unlock()
	n := 0
	for _, it := range s.iterators.idle {
		stats := it.Stats()
		for kind := pebble.InterfaceCall; kind <= pebble.InternalIterCall; kind++ {
			n += stats.ForwardSeekCount[kind] + stats.ForwardStepCount[kind]
		}
	}
	return n
}

// aList is a way to list rows that are written as its text says, with what they are listed by and which one it is.
type aList struct {
	text string
	of   func(t fataler, s *Store, at Revision, of string) []string
}

var lists = map[string]aList{
	"from the subject": {"session:%[2]d#listed@agent:%[1]s", listed},
	"of a relation": {"tenant:%[1]s#member@user:%[2]d", func(t fataler, s *Store, at Revision, of string) []string {
		return queried(t, s.SnapshotReader(at), datastore.RelationshipsFilter{
			OptionalResourceType: "tenant", OptionalResourceIds: []string{of}, OptionalResourceRelation: "member",
		})
	}},
	"by a snapshot": {"tenant:%[1]s#admin@user:%[2]d", func(t fataler, s *Store, at Revision, of string) []string {
		sn := must(s.Snapshot(at))(t)
		defer sn.Close()
		rows, _, err := sn.Page("tenant", of, "admin", false, nil, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		return rowTexts("tenant", of, rows)
	}},
	"ids of resources": byIDs("session:%[2]s#listed@agent:%[1]s", func(sn *Snapshot, of string) ([]string, bool, error) {
		return sn.ResourceIDs("agent", "", of, "session", "listed", "", 10_000)
	}),
	"ids of subjects": byIDs("tenant:%[1]s#member@user:%[2]s", func(sn *Snapshot, of string) ([]string, bool, error) {
		return sn.SubjectIDs("tenant", of, "member", "user", "", "", 10_000)
	}),
	"ids of a type": byIDs("kind_%[1]s:%[2]s#reader@user:a", func(sn *Snapshot, of string) ([]string, bool, error) {
		return sn.ObjectIDs("kind_"+of, "", 10_000)
	}),
	"ids that are named": byIDs("document:a#reader@kind_%[1]s:%[2]s#member", func(sn *Snapshot, of string) ([]string, bool, error) {
		return sn.NamedIDs("kind_"+of, "member", "", 10_000)
	}),
}

// byIDs is a list of ids, each of which stands in a row that is written as text says.
func byIDs(text string, read func(sn *Snapshot, of string) ([]string, bool, error)) aList {
	return aList{strings.ReplaceAll(text, "%[2]s", "%[2]d"), func(t fataler, s *Store, at Revision, of string) []string {
		sn := must(s.Snapshot(at))(t)
		defer sn.Close()
		found, _, err := read(sn, of)
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range found {
			found[i] = fmt.Sprintf(text, of, id)
		}
		return found
	}}
}

// TestListsStepOverWhatIsOverOnce: a list of three that live moves as often beside 3000 rows that were deleted or have expired as
// beside 300, from its second time on; also when some more have lived in between.
func TestListsStepOverWhatIsOverOnce(t *testing.T) {
	t.Parallel()
	for name, list := range lists {
		var counts [2][2]int
		for i, n := range []int{300, 3000} {
			clock := newTestClock()
			s := opened(t, Config{Now: clock.Now, longVoid: longVoid, Retention: 100 * time.Hour})
			row := func(i int) string { return fmt.Sprintf(list.text, "it", i) }
			// One in a hundred of the first ones lives, of the others one half is deleted, and the other one expires.
			lives := func(i int) bool { return i < 300 && i%100 == 50 }
			many(t, s, n, func(i int) tuple.RelationshipUpdate {
				if lives(i) || i%2 == 0 {
					return touch(row(i))
				}
				return expiring(row(i), clock.Now().Add(time.Minute))
			})
			before := headOf(t, s)
			deleted := 0
			many(t, s, n, func(i int) tuple.RelationshipUpdate {
				if lives(i) || i%2 == 1 {
					return touch("document:other#reader@user:somebody")
				}
				deleted++
				return remove(row(i))
			})
			clock.move(2 * time.Minute)
			look := func(at Revision, want int) (moved int) {
				return moves(s, func() {
					if found := list.of(t, s, at, "it"); len(found) != want {
						t.Errorf("%s: %d are listed beside %d that are over, not %d", name, len(found), n, want)
					}
				})
			}
			if first := look(headOf(t, s), 3); first < n {
				t.Errorf("%s: the first list makes %d moves beside %d that are over", name, first, n)
			}
			counts[0][i] = look(headOf(t, s), 3)
			look(before, 3+deleted)
			for i := range 10 {
				writesOf(t, s, touch(row(20*i)))
				look(headOf(t, s), 4)
				writesOf(t, s, remove(row(20*i)))
			}
			counts[1][i] = look(headOf(t, s), 3)
			t.Logf("%s beside %d that are over: %d moves, after ten more %d", name, n, counts[0][i], counts[1][i])
		}
		for _, c := range counts {
			if c[0] != c[1] || c[0] > 100 {
				t.Errorf("%s: a list makes %d moves beside 300 that are over, and %d beside 3000", name, c[0], c[1])
			}
		}
	}
}

// TestVoidsAmongWriters: who reads at the head finds what was written before, and not what was deleted before, while others read
// the same range at older revisions, and others write into it.
func TestVoidsAmongWriters(t *testing.T) {
	t.Parallel()
	for name, list := range lists {
		s := opened(t, Config{})
		row := func(writer, i int) string { return fmt.Sprintf(list.text, "it", 1000*writer+i) }
		const writers = 4
		for w := range writers {
			many(t, s, 100, func(i int) tuple.RelationshipUpdate { return touch(row(w, i)) })
			many(t, s, 100, func(i int) tuple.RelationshipUpdate { return remove(row(w, i)) })
		}
		var (
			writing, reading sync.WaitGroup
			done             atomic.Bool
		)
		for range 2 {
			reading.Go(func() {
				random := rand.New(rand.NewPCG(1, 2))
				for !done.Load() {
					at := headOf(t, s)
					for range random.IntN(4) { // the head has moved on by then
						list.of(t, s, at, "it")
					}
				}
			})
		}
		for w := range writers {
			writing.Go(func() {
				random := rand.New(rand.NewPCG(3, uint64(w)))
				for range 50 {
					i := 100 + random.IntN(800)
					for want, update := range []tuple.RelationshipUpdate{remove(row(w, i)), touch(row(w, i)), remove(row(w, i))} {
						at := writesOf(t, s, update)
						if found := slices.Contains(list.of(t, s, headOf(t, s), "it"), row(w, i)); found != (want == 1) {
							t.Errorf("%s: after %v at %d it is found at the head: %t", name, update.Operation, at, found)
							return
						}
					}
				}
			})
		}
		writing.Wait()
		done.Store(true)
		reading.Wait()
	}
}

// TestVoidIsOldWhenItIsNoted: what was written while somebody walked over what was over is found afterwards.
func TestVoidIsOldWhenItIsNoted(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, maxWritten} {
		s := opened(t, Config{})
		many(t, s, 100, func(i int) tuple.RelationshipUpdate { return touch(fmt.Sprintf("session:%d#listed@agent:it", i)) })
		writesOf(t, s, touch("session:-#listed@agent:it")) // the first in order
		many(t, s, 100, func(i int) tuple.RelationshipUpdate { return remove(fmt.Sprintf("session:%d#listed@agent:it", i)) })
		it := must(s.SnapshotReader(headOf(t, s)).ReverseQueryRelationships(t.Context(),
			datastore.SubjectsFilter{SubjectType: "agent", OptionalSubjectIds: []string{"it"}}))(t)
		n := 0
		for _, err := range it {
			if err != nil {
				t.Fatal(err)
			}
			n++
			writesOf(t, s, touch("session:50#listed@agent:it"))
			many(t, s, others, func(i int) tuple.RelationshipUpdate { return touch(fmt.Sprintf("document:%d#reader@user:a", i)) })
		}
		if n != 1 {
			t.Fatalf("%d are listed, not 1", n)
		}
		if noted := s.voids.count.Load(); (noted > 0) != (others == 0) {
			t.Errorf("with %d rows written meanwhile, %d voids are noted", others, noted)
		}
		if found := listed(t, s, headOf(t, s), "it"); !slices.Equal(found, []string{"session:-#listed@agent:it", "session:50#listed@agent:it"}) {
			t.Errorf("after a list that began before, these are listed: %q", found)
		}
	}
}

// TestVoidsServe: a void is none for who reads at a revision before it, or as of a moment before it.
func TestVoidsServe(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now, Retention: 100 * time.Hour})
	soon := clock.Now().Add(time.Minute)
	one := writesOf(t, s, touch("session:a#listed@agent:it"), expiring("session:b#listed@agent:it", soon))
	writesOf(t, s, remove("session:a#listed@agent:it"))
	clock.move(2 * time.Minute)
	head := headOf(t, s)
	for range 2 {
		if found := listed(t, s, head, "it"); len(found) != 0 {
			t.Errorf("these are over, and listed: %q", found)
		}
	}
	if s.voids.count.Load() == 0 {
		t.Fatal("nothing is noted")
	}
	if found := listed(t, s, one, "it"); !slices.Equal(found, []string{"session:a#listed@agent:it"}) {
		t.Errorf("at the revision before the deletion these are listed: %q", found)
	}
	clock.move(-2 * time.Minute)
	if found := listed(t, s, head, "it"); len(found) != 1 {
		t.Errorf("with the clock set back these are listed: %q", found)
	}
	// A deletion finds what has expired.
	clock.move(2 * time.Minute)
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		deleted, _, err := tx.DeleteRelationships(ctx, &v1.RelationshipFilter{ResourceType: "session", OptionalRelation: "listed"})
		if err == nil && deleted != 1 {
			t.Errorf("%d are deleted, not the one that has expired", deleted)
		}
		return err
	})
}

// TestVoidsJoin: a void that is made of others is one from the newest revision and the last moment of all of them on.
func TestVoidsJoin(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	noted := voids{long: 1}
	noted.note(void{lo: "a", hi: "c", from: 5, expired: late}, 7)
	noted.note(void{lo: "b", hi: "d", from: 3, expired: early}, 7)
	jumped := voids{long: 1}
	jumped.note(void{lo: "b", hi: "d", from: 5, expired: late}, 7)
	p := jumped.passage(7, late)
	if past := p.over([]byte("a"), 3, early); past != nil {
		t.Errorf("from a one goes on from %q", past)
	}
	if past := p.over([]byte("c"), 3, early); string(past) != "d" {
		t.Errorf("from c one goes on from %q, not from d", past)
	}
	jumped.replace(0, 1) // it is forgotten meanwhile
	p.end([]byte("d"))
	for name, v := range map[string]*voids{"noted one after the other": &noted, "noted after a jump": &jumped} {
		for _, key := range []string{"a", "b", "c"} {
			for at := Revision(4); at <= 5; at++ {
				for _, moment := range []time.Time{{}, early, late} {
					if _, found := v.find([]byte(key), at, moment); found != (at == 5 && moment.Equal(late)) {
						t.Errorf("%s: %s lies in a void at %d, as of %v: %t", name, key, at, moment, found)
					}
				}
			}
		}
	}
}

// TestVoidsAreBounded: neither many voids nor long keys take more memory than there is for them, and what is left is in order.
func TestVoidsAreBounded(t *testing.T) {
	t.Parallel()
	for _, length := range []int{8, 3000} {
		v := voids{long: 1}
		key := func(i int) string { return fmt.Sprintf("%0*d", length, i) }
		for i := range 3 * maxVoids {
			v.note(void{lo: key(10 * i), hi: key(10*i + 5), from: 1}, Revision(1+i))
			v.write(Revision(2+i), []string{key(10*i + 2)})
		}
		size, written := 0, 0
		for i, one := range v.all {
			size += voidSize + len(one.lo) + len(one.hi)
			if one.lo >= one.hi || i > 0 && v.all[i-1].hi > one.lo {
				t.Fatalf("the void %d is out of order", i)
			}
		}
		for _, w := range v.written {
			written += textLen(w.keys)
		}
		if len(v.all) > maxVoids || size > voidBytes || size != v.size || len(v.all) == 0 {
			t.Errorf("%d voids take %d bytes, and are counted as %d", len(v.all), size, v.size)
		}
		if v.held > maxWritten || written > writtenBytes || written != v.bytes || v.held != len(v.written) || v.held == 0 {
			t.Errorf("%d keys that were written, counted as %d, take %d bytes, counted as %d", len(v.written), v.held, written, v.bytes)
		}
	}
}
