package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// marks commits a marked transaction.
func marks(t fataler, s *Store, follows, mark []byte, updates ...tuple.RelationshipUpdate) Revision {
	t.Helper()
	return must(s.WriteMarked(context.Background(), follows, mark, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	}))(t)
}

// markAt returns a mark as text, "none" if there is none.
func markAt(t fataler, s *Store, at Revision) string {
	t.Helper()
	mark, found, err := s.Mark(at)
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		return "none"
	}
	return string(mark)
}

// TestMarks: a revision has the mark of the newest marked transaction up to it, and one that follows another mark is not committed.
func TestMarks(t *testing.T) {
	s := opened(t, Config{})
	before := headOf(t, s)
	first := marks(t, s, nil, []byte("one"), touch("document:a#reader@user:alice"))
	between := writesOf(t, s, touch("document:b#reader@user:alice"))
	second := marks(t, s, []byte("one"), []byte(""), remove("document:a#reader@user:alice"))
	for at, want := range map[Revision]string{before: "none", first: "one", between: "one", second: ""} {
		if got := markAt(t, s, at); got != want {
			t.Errorf("at %d the mark is %q, want %q", at, got, want)
		}
	}
	for _, follows := range [][]byte{nil, []byte("one"), []byte("two")} {
		_, err := s.WriteMarked(t.Context(), follows, []byte("three"), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:c#reader@user:alice")})
		})
		if !errors.Is(err, ErrMark) {
			t.Errorf("a transaction that follows %q is answered %v", follows, err)
		}
	}
	failed := errors.New("no")
	if _, err := s.WriteMarked(t.Context(), []byte(""), []byte("three"), func(context.Context, datastore.ReadWriteTransaction) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a transaction that fails is answered %v", err)
	}
	if head := headOf(t, s); head != second || markAt(t, s, head) != "" {
		t.Errorf("what was refused has left a mark: %q at %d", markAt(t, s, head), head)
	}
	if got := atHead(t, s); !slices.Equal(got, []string{"document:b#reader@user:alice"}) {
		t.Errorf("the store has %v", got)
	}
}

// TestMarksRace: of transactions that follow the same mark, each of which has read it, one is committed.
func TestMarksRace(t *testing.T) {
	s := opened(t, Config{})
	marks(t, s, nil, []byte("0"))
	const writers = 8
	var reading, group sync.WaitGroup
	reading.Add(writers)
	committed := make(chan int, writers)
	for i := range writers {
		group.Go(func() {
			var once sync.Once
			_, err := s.WriteMarked(context.Background(), []byte("0"), []byte(strconv.Itoa(i+1)),
				func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
					once.Do(func() { reading.Done(); reading.Wait() })
					return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch(fmt.Sprintf("document:%d#reader@user:alice", i+1))})
				})
			switch {
			case err == nil:
				committed <- i + 1
			case !errors.Is(err, ErrMark):
				t.Error(err)
			}
		})
	}
	group.Wait()
	close(committed)
	var won []int
	for i := range committed {
		won = append(won, i)
	}
	if len(won) != 1 {
		t.Fatalf("%d transactions follow the same mark", len(won))
	}
	if got := markAt(t, s, headOf(t, s)); got != strconv.Itoa(won[0]) {
		t.Errorf("the mark is %s, want %d", got, won[0])
	}
	if got := atHead(t, s); len(got) != 1 || got[0] != fmt.Sprintf("document:%d#reader@user:alice", won[0]) {
		t.Errorf("the store has %v", got)
	}
}

// TestMarksCrash: before each sync, what a crash leaves has the relationships of its mark and no others.
func TestMarksCrash(t *testing.T) {
	for _, kept := range []int{0, 50, 100} {
		mem, rng := vfs.NewCrashableMem(), rand.New(rand.NewPCG(uint64(kept), 5))
		var mu sync.Mutex
		acknowledged, crashes := 0, 0
		crash := func() {
			mu.Lock()
			defer mu.Unlock()
			crashes++
			left, err := Open("store", small(Config{FS: mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng})}))
			if err != nil {
				t.Errorf("crash %d: %v", crashes, err)
				return
			}
			defer func() { _ = left.Close() }()
			mark, has := markAt(t, left, headOf(t, left)), atHead(t, left)
			want := []string{}
			n := 0
			if mark != "none" {
				n, _ = strconv.Atoi(mark)
				want = []string{fmt.Sprintf("document:%d#reader@user:alice", n)}
			}
			if !slices.Equal(has, want) || n < acknowledged {
				t.Errorf("crash %d leaves the mark %s, and %v; %d was acknowledged", crashes, mark, has, acknowledged)
			}
		}
		s := must(Open("store", small(Config{FS: meddle(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if isSync(op) && !t.Failed() {
				crash()
			}
			return nil
		}))})))(t)
		var follows []byte
		for n := 1; n <= 20; n++ {
			mark := []byte(strconv.Itoa(n))
			marks(t, s, follows, mark, touch(fmt.Sprintf("document:%d#reader@user:alice", n)), remove(fmt.Sprintf("document:%d#reader@user:alice", n-1)))
			follows = mark
			mu.Lock()
			acknowledged = n
			mu.Unlock()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if crashes < 20 {
			t.Errorf("only %d crashes", crashes)
		}
	}
}

// TestEach lists relationships at a revision, expired ones too, of a type or of all.
func TestEach(t *testing.T) {
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now})
	at := writesOf(t, s, touch("document:b#reader@user:alice[weekday]"), touch("document:a#reader@user:alice"), touch("documents:a#reader@user:alice"),
		expiring("document:c#reader@user:alice", clock.Now().Add(time.Minute)))
	clock.move(time.Hour)
	writesOf(t, s, remove("document:a#reader@user:alice"))
	list := func(resourceType string) (all []string) {
		err := s.Each(t.Context(), at, resourceType, func(rel tuple.Relationship) error {
			all = append(all, tuple.StringONR(rel.Resource)+rel.OptionalCaveat.GetCaveatName())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	documents := []string{"document:a#reader", "document:b#readerweekday", "document:c#reader"}
	if got := list("document"); !slices.Equal(got, documents) {
		t.Errorf("of documents it lists %v, want %v", got, documents)
	}
	if got, want := list(""), append(slices.Clone(documents), "documents:a#reader"); !slices.Equal(got, want) {
		t.Errorf("of all types it lists %v, want %v", got, want)
	}
	failed := errors.New("no")
	if err := s.Each(t.Context(), at, "", func(tuple.Relationship) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("it returns %v", err)
	}
	if err := s.Each(t.Context(), headOf(t, s)+1, "", func(tuple.Relationship) error { return nil }); err == nil {
		t.Error("it lists a revision of the future")
	}
}

// TestMarkIsNotInABackup: a store that was restored is no copy.
func TestMarkIsNotInABackup(t *testing.T) {
	s := opened(t, Config{})
	marks(t, s, nil, []byte("one"), touch("document:a#reader@user:alice"))
	var backup bytes.Buffer
	must(s.Backup(t.Context(), &backup))(t)
	config := small(Config{})
	must(Restore(t.Context(), &backup, "restored", config))(t)
	restored := must(Open("restored", config))(t)
	defer func() { _ = restored.Close() }()
	if got := markAt(t, restored, headOf(t, restored)); got != "none" {
		t.Errorf("the restored store has the mark %q", got)
	}
	if got := atHead(t, restored); len(got) != 1 {
		t.Errorf("the restored store has %v", got)
	}
}
