package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// readsOf is how many answers were read from the database so far.
func readsOf(s *Store) uint64 {
	_, _, reads := s.objects.figures()
	return reads
}

// fillObjects writes so many objects with zero to five rows, and returns what each has.
func fillObjects(t *testing.T, s *Store, n int) map[string][]string {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 8))
	want := map[string][]string{}
	var updates []tuple.RelationshipUpdate
	for i := range n {
		id := fmt.Sprint("d", i)
		want[id] = []string{}
		for j := range r.IntN(6) {
			rel := fmt.Sprintf("document:%s#%s@user:u%d", id, []string{"reader", "owner"}[r.IntN(2)], r.IntN(1000))
			if j == 0 {
				rel = fmt.Sprintf("document:%s#reader@group:g%d#member", id, r.IntN(1000))
			}
			updates = append(updates, touch(rel))
			if !slices.Contains(want[id], rel) {
				want[id] = append(want[id], rel)
			}
		}
		slices.Sort(want[id])
		if len(updates) > 500 || i == n-1 {
			writesOf(t, s, updates...)
			updates = nil
		}
	}
	return want
}

// readObjects reads all objects, and compares what they have.
func readObjects(t *testing.T, s *Store, want map[string][]string) {
	t.Helper()
	sn := must(s.Snapshot(headOf(t, s)))(t)
	defer sn.Close()
	for id, rels := range want {
		rows, _, err := sn.Object("document", id, 32)
		if err != nil {
			t.Fatal(err)
		}
		same(t, id, rowTexts("document", id, rows), rels)
	}
}

// TestPacked: what finds no room is packed, and not read again; what is written is thrown away, and nothing else.
func TestPacked(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{KeptBytes: 1})
	want := fillObjects(t, s, 3000)
	readObjects(t, s, want)
	read := readsOf(s)
	if read != uint64(len(want)) {
		t.Fatalf("%d objects were read by %d reads", len(want), read)
	}
	for range 3 {
		readObjects(t, s, want)
	}
	if again := readsOf(s) - read; again != 0 {
		t.Errorf("%d objects were read again", again)
	}
	for i := range 100 {
		id := fmt.Sprint("d", i*7)
		rel := "document:" + id + "#reader@user:new"
		want[id] = append(want[id], rel)
		slices.Sort(want[id])
		writesOf(t, s, touch(rel))
	}
	readObjects(t, s, want)
	if again := readsOf(s) - read; again != 100 {
		t.Errorf("100 objects were written, and %d were read again", again)
	}
}

// TestWhatPackingWouldLoseIsNotPacked: however often it is read, and though it was read ahead, an object with a caveat, one that expires, and one with
// more rows than were asked for say the same as at first.
func TestWhatPackingWouldLoseIsNotPacked(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{KeptBytes: 1})
	soon := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	writesOf(t, s, touch(`document:limited#reader@user:ann[at_most:{"amount":5}]`), expiring("document:lent#reader@user:ann", soon))
	var wide []tuple.RelationshipUpdate
	for i := range 33 {
		wide = append(wide, touch(fmt.Sprintf("document:wide#reader@user:u%d", i)))
	}
	writesOf(t, s, wide...)
	state := aheadState{key: []byte{kindForward}}
	for done := false; !done; {
		done = must(s.readSlice(&state))(t)
	}
	sn := must(s.Snapshot(headOf(t, s)))(t)
	defer sn.Close()
	for range 3 {
		for id, want := range map[string]string{
			"limited": "document:limited#reader@user:ann[at_most map[amount:5]]",
			"lent":    "document:lent#reader@user:ann until " + soon.Format(time.RFC3339),
		} {
			rows, more, err := sn.Object("document", id, 32)
			if err != nil || more {
				t.Fatal(id, more, err)
			}
			same(t, id, rowTexts("document", id, rows), []string{want})
		}
		if rows, more, err := sn.Object("document", "wide", 32); err != nil || !more {
			t.Errorf("of 33 rows, with a limit of 32, there are %d, more: %v, %v", len(rows), more, err)
		}
	}
}

// TestWritesReachBothGenerations: what is written is thrown away, whichever generation it is packed in.
func TestWritesReachBothGenerations(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{KeptBytes: 1, PackedBytes: 512 << 10})
	want := fillObjects(t, s, 5000)
	readObjects(t, s, want)
	recent, old := 0, 0
	for i := range s.objects.shards {
		recent += len(s.objects.shards[i].packed.new.index)
		old += len(s.objects.shards[i].packed.old.index)
	}
	if recent < 1000 || old < 1000 {
		t.Fatalf("%d objects are in the new generation and %d in the old one", recent, old)
	}
	var updates []tuple.RelationshipUpdate
	for id := range want {
		rel := "document:" + id + "#reader@user:new"
		want[id] = append(want[id], rel)
		slices.Sort(want[id])
		if updates = append(updates, touch(rel)); len(updates) == 500 {
			writesOf(t, s, updates...)
			updates = nil
		}
	}
	readObjects(t, s, want)
}

// TestPackedIsBounded: however much is read, what is packed takes no more than it may; what is asked for now and then stays.
func TestPackedIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	const limit = 1 << 20
	s := opened(t, Config{KeptBytes: 1, PackedBytes: limit})
	want := fillObjects(t, s, 30_000)
	var wide []tuple.RelationshipUpdate
	for i := range 500 { // more than a generation of its shard can have
		wide = append(wide, touch(fmt.Sprintf("document:wide#reader@user:u%d", i)))
	}
	writesOf(t, s, wide...)
	often := map[string][]string{}
	for i := range 100 {
		id := fmt.Sprint("d", i)
		often[id] = want[id]
	}
	n, missed, most := 0, uint64(0), 0
	sn := must(s.Snapshot(headOf(t, s)))(t)
	defer sn.Close()
	for id := range want {
		if _, _, err := sn.Object("document", id, 32); err != nil {
			t.Fatal(err)
		}
		if n++; n%2000 == 0 {
			before := readsOf(s)
			readObjects(t, s, often)
			missed += readsOf(s) - before
			_, size, _ := s.objects.figures()
			most = max(most, size)
		}
	}
	if most > limit || most < limit/4 {
		t.Errorf("%d bytes are packed, and %d may be", most, limit)
	}
	if missed > 150 {
		t.Errorf("100 objects that were asked for 15 times were read %d times", missed)
	}
	if rows, _, err := sn.Object("document", "wide", 0); err != nil || len(rows) != 500 {
		t.Fatal(len(rows), err)
	}
	for i := range s.objects.shards {
		p := &s.objects.shards[i].packed
		if bytes := cap(p.new.bytes) + cap(p.old.bytes); bytes > limit/objectShards {
			t.Errorf("what is packed of a shard holds %d bytes", bytes)
		}
	}
}

// TestManyNames: relations beyond those that are numbered are read as before.
func TestManyNames(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{KeptBytes: 1})
	var n names
	for i := range maxNames {
		if number, ok := n.of(&Row{Relation: fmt.Sprint("r", i), SubjectType: "user"}); !ok || number != uint32(i) {
			t.Fatalf("the name %d is %d, %v", i, number, ok)
		}
	}
	s.objects.names.known.Store(n.known.Load())
	want := fillObjects(t, s, 50)
	readObjects(t, s, want)
	readObjects(t, s, want)
	with := slices.DeleteFunc(slices.Collect(func(yield func([]string) bool) {
		for _, rels := range want {
			if !yield(rels) {
				return
			}
		}
	}), func(rels []string) bool { return len(rels) == 0 })
	if reads := readsOf(s); reads != uint64(len(want)+len(with)) {
		t.Errorf("%d objects, %d of them with rows, were read %d times", len(want), len(with), reads)
	}
}

// TestReadAhead: after a start everything is found in memory that there is room for, as it is at the head, while others write.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	config := small(Config{})
	s := must(Open("store", config))(t)
	want := fillObjects(t, s, 5000)
	for i := range 100 { // expired
		id := fmt.Sprint("d", 10_000+i)
		want[id] = []string{}
		writesOf(t, s, expiring("document:"+id+"#reader@user:ann", time.Now().Add(-time.Hour)))
	}
	wide := make([]tuple.RelationshipUpdate, 100)
	for i := range wide {
		wide[i] = touch(fmt.Sprintf("document:wide#reader@user:u%d", i))
	}
	writesOf(t, s, wide...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config.ReadAhead = true
	s = must(Open("store", config))(t)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	written := 0
	for deadline := time.Now().Add(patience); !s.aheadOver.Load() || written < 20; written++ {
		id := fmt.Sprint("d", written%5000)
		rel := fmt.Sprintf("document:%s#owner@user:new%d", id, written)
		writesOf(t, s, touch(rel))
		want[id] = append(want[id], rel)
		slices.Sort(want[id])
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	none := 0
	for _, rels := range want {
		if len(rels) == 0 {
			none++
		}
	}
	readObjects(t, s, want)
	// An object without rows is not met, and one is not packed whose shard was written to while it was read.
	if reads := readsOf(s); reads > uint64(none+written+len(want)/5) {
		t.Errorf("%d objects, %d without rows, were read %d times beside %d writes", len(want), none, reads, written)
	}
	sn := must(s.Snapshot(headOf(t, s)))(t)
	defer sn.Close()
	rows, more, err := sn.Object("document", "wide", 0)
	if len(rows) != 100 || more || err != nil {
		t.Errorf("the wide object has %d rows: %v", len(rows), err)
	}
}

// TestReadAheadEnds: closing a store ends the reading, wherever it is, and a small memory does not read all of a large store.
func TestReadAheadEnds(t *testing.T) {
	t.Parallel()
	config := small(Config{})
	s := must(Open("store", config))(t)
	var updates []tuple.RelationshipUpdate
	for i := range 20_000 {
		updates = append(updates, touch(fmt.Sprintf("document:d%d%s#reader@user:ann", i, strings.Repeat("x", 200))))
	}
	writesOf(t, s, updates...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config.ReadAhead = true
	for range 5 {
		s = must(Open("store", config))(t)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.readSlice(&aheadState{key: []byte{kindForward}}); !errors.Is(err, ErrClosed) {
			t.Fatalf("a closed store is read: %v", err)
		}
	}
	config.ReadAhead, config.PackedBytes = false, 1<<20
	s = opened(t, Config{FS: config.FS, PackedBytes: 1 << 20})
	state := aheadState{key: []byte{kindForward}}
	for done := false; !done; {
		done = must(s.readSlice(&state))(t)
	}
	if state.rows < 4000 || state.rows > 16_000 {
		t.Errorf("with room for about 5,000 relationships %d were read", state.rows)
	}
}

// TestReadAheadOfWhatWasWritten: rows that were read ahead before a write to their object are not packed after it, and those that were
// packed before it are thrown away.
func TestReadAheadOfWhatWasWritten(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{KeptBytes: 1})
	before := writesOf(t, s, touch("document:a#reader@user:ann"))
	rows := []Row{{Relation: "reader", SubjectType: "user", SubjectID: "ann"}}
	key := appendComponents([]byte{kindForward}, "document", "a")
	s.objects.putAhead(key, kept{rows: rows, from: before})
	readObjects(t, s, map[string][]string{"a": {"document:a#reader@user:ann"}})
	if reads := readsOf(s); reads != 0 {
		t.Fatalf("what was read ahead was read %d times", reads)
	}
	writesOf(t, s, remove("document:a#reader@user:ann"))
	s.objects.putAhead(key, kept{rows: rows, from: before})
	readObjects(t, s, map[string][]string{"a": {}})
}
