package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFill fills one store, and writes the same to another one as any transaction does, with ordinary writes in between. Both have the same at each
// revision, from either end of the rows, and say that the same has changed; both count as many relationships, and collect the same.
func TestFill(t *testing.T) {
	clock := newTestClock()
	config := Config{Now: clock.Now, Retention: time.Hour}
	filled, written := opened(t, config), opened(t, config)
	rng := rand.New(rand.NewPCG(1, 2))
	mark := []byte(nil)
	var revisions [][2]Revision
	for step := range 30 {
		var updates []tuple.RelationshipUpdate
		var rels []tuple.Relationship
		for _, n := range rng.Perm(60)[:rng.IntN(30)] {
			rel := tuple.MustParse(fmt.Sprintf("document:%d#reader@user:%d", n%12, n/12))
			switch rng.IntN(4) {
			case 0:
				rel = tuple.MustWithExpiration(rel, clock.Now().Add(time.Duration(rng.IntN(200)-60)*time.Minute).Truncate(time.Microsecond))
			case 1:
				rel = tuple.MustParse(tuple.MustString(rel) + `[weekday:{"place":"` + strconv.Itoa(n%2) + `"}]`)
			}
			rels, updates = append(rels, rel), append(updates, tuple.Touch(rel))
		}
		clock.move(time.Minute)
		next := []byte(strconv.Itoa(step))
		var at [2]Revision
		at[1] = marks(t, written, mark, next, updates...)
		if step%3 == 2 {
			at[0] = marks(t, filled, mark, next, updates...)
		} else {
			at[0] = must(filled.Fill(t.Context(), mark, next, rels, step > 0))(t)
		}
		mark = next
		revisions = append(revisions, at)
		gone := fmt.Sprintf("document:%d#reader@user:%d", rng.IntN(12), rng.IntN(5))
		revisions = append(revisions, [2]Revision{writesOf(t, filled, remove(gone)), writesOf(t, written, remove(gone))})
	}
	compare := func() {
		t.Helper()
		for _, at := range revisions[len(revisions)-10:] {
			same(t, "the rows", everything(t, filled.SnapshotReader(at[0])), everything(t, written.SnapshotReader(at[1])))
			same(t, "the mark", []string{markAt(t, filled, at[0])}, []string{markAt(t, written, at[1])})
			for subject := range 5 {
				of := func(s *Store, at Revision) []string {
					return must(texts(s.SnapshotReader(at).ReverseQueryRelationships(t.Context(), datastore.SubjectsFilter{
						SubjectType: "user", OptionalSubjectIds: []string{strconv.Itoa(subject)},
					})))(t)
				}
				same(t, "the rows of a subject", of(filled, at[0]), of(written, at[1]))
			}
			a, b := must(filled.ChangesSince(t.Context(), at[0], 1000, 1<<30))(t), must(written.ChangesSince(t.Context(), at[1], 1000, 1<<30))(t)
			same(t, "what was written", namesOf(a.Written), namesOf(b.Written))
			same(t, "what was deleted", namesOf(a.Deleted), namesOf(b.Deleted))
		}
		a, b := must(filled.Statistics(t.Context()))(t), must(written.Statistics(t.Context()))(t)
		if a.EstimatedRelationshipCount != b.EstimatedRelationshipCount {
			t.Errorf("%d relationships are counted, want %d", a.EstimatedRelationshipCount, b.EstimatedRelationshipCount)
		}
	}
	compare()
	clock.move(30 * time.Minute)
	for _, s := range []*Store{filled, written} {
		writesOf(t, s, touch("document:last#reader@user:0"))
		letGo(t, s)
	}
	clock.move(4 * time.Hour)
	for _, s := range []*Store{filled, written} {
		collects(t, s)
	}
	for _, kind := range []byte{kindForward, kindReverse, kindExpiration} {
		if a, b := keyCount(t, filled, kind), keyCount(t, written, kind); a != b {
			t.Errorf("%d keys of kind %c are left after collection, want %d", a, kind, b)
		}
	}
	same(t, "what is left", atHead(t, filled), atHead(t, written))
}

func namesOf(rels []tuple.Relationship) []string {
	names := make([]string, len(rels))
	for i := range rels {
		names[i] = tuple.MustString(rels[i])
	}
	return names
}

// TestFillRefuses: what is refused leaves nothing: another mark, a relationship that is named twice or lacks a part, one call's worth of too much, and a
// caller that has gone.
func TestFillRefuses(t *testing.T) {
	s := opened(t, Config{TransactionBytes: 1 << 20})
	marks(t, s, nil, []byte("one"), touch("document:a#reader@user:alice"))
	head := headOf(t, s)
	rel := tuple.MustParse("document:b#reader@user:alice")
	many := make([]tuple.Relationship, 20_000)
	for i := range many {
		many[i] = tuple.MustParse(fmt.Sprintf("document:%d#reader@user:alice", i))
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, test := range map[string]struct {
		ctx     context.Context //nolint:containedctx // a case
		follows string
		rels    []tuple.Relationship
		want    func(error) bool
	}{
		"another mark": {t.Context(), "two", []tuple.Relationship{rel}, func(err error) bool { return errors.Is(err, ErrMark) }},
		"named twice": {t.Context(), "one", []tuple.Relationship{rel, many[0], rel}, func(err error) bool {
			return strings.Contains(err.Error(), "twice: document:b#reader@user:alice")
		}},
		"an empty part": {t.Context(), "one", []tuple.Relationship{{}}, func(err error) bool { return strings.Contains(err.Error(), "empty part") }},
		"too much":      {t.Context(), "one", many, func(err error) bool { return strings.Contains(err.Error(), "MiB of memory") }},
		"gone":          {gone, "one", many[:1], func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		for _, looked := range []bool{true, false} {
			if _, err := s.Fill(test.ctx, []byte(test.follows), []byte("three"), test.rels, looked); err == nil || !test.want(err) {
				t.Errorf("%s, looked up %v: the answer is %v", name, looked, err)
			}
		}
	}
	if got := headOf(t, s); got != head {
		t.Errorf("what was refused has left a revision: %d after %d", got, head)
	}
	if got := s.pending.Load(); got != 0 {
		t.Errorf("%d bytes are still counted", got)
	}
	must(s.Fill(t.Context(), []byte("one"), []byte("two"), []tuple.Relationship{rel}, false))(t)
	same(t, "the rows", atHead(t, s), []string{"document:a#reader@user:alice", "document:b#reader@user:alice"})
}

// TestFillConflicts: a transaction that has read what is filled meanwhile is not committed with it.
func TestFillConflicts(t *testing.T) {
	s := opened(t, Config{})
	marks(t, s, nil, []byte("0"))
	tries := 0
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		tries++
		if found := everything(t, tx); tries == 1 {
			if len(found) > 0 {
				t.Errorf("found %v", found)
			}
			must(s.Fill(ctx, []byte("0"), []byte("1"), []tuple.Relationship{tuple.MustParse("document:a#reader@user:alice")}, false))(t)
		}
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:b#reader@user:alice")})
	})
	if tries != 2 {
		t.Errorf("the transaction was tried %d times, want 2", tries)
	}
}

// TestCloseMakesNoTables: a store that is closed while a table is written does not wait for the rest of it. What the table would have held is there
// when it is opened again.
func TestCloseMakesNoTables(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	var holds atomic.Bool
	held, release := make(chan struct{}, 1), make(chan struct{})
	var after atomic.Int64
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if holds.Load() && op.Kind == errorfs.OpFileWrite && filepath.Ext(op.Path) == ".sst" {
			select {
			case held <- struct{}{}:
			default:
			}
			<-release
			after.Add(1)
		}
		return nil
	}))
	s := must(Open("store", small(Config{FS: fs, MemTableBytes: 1 << 20})))(t)
	rng, letters := rand.New(rand.NewPCG(1, 2)), []byte("0123456789abcdef")
	var rels []tuple.Relationship
	for range 4000 {
		id := make([]byte, 300) // does not compress well
		for i := range id {
			id[i] = letters[rng.IntN(len(letters))]
		}
		rels = append(rels, tuple.MustParse(fmt.Sprintf("document:%s#reader@user:alice", id)))
	}
	holds.Store(true)
	must(s.Fill(t.Context(), nil, []byte("0"), rels, false))(t) // more than a memtable holds, so that tables are made of it
	<-held
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	eventually(t, "the store to be closing", s.files.ending.Load)
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	// What was handed to the disk when it was held, and no more: the table takes dozens of writes.
	if n := after.Load(); n > 2 {
		t.Errorf("%d writes to tables while the store was closed", n)
	}
	again := must(Open("store", small(Config{FS: mem})))(t)
	if found := len(atHead(t, again)); found != len(rels) {
		t.Errorf("%d relationships are there of %d", found, len(rels))
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
