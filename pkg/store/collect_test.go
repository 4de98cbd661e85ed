package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// windowed opens a store with a clock and a window of an hour.
func windowed(t *testing.T) (*Store, *testClock) {
	t.Helper()
	clock := newTestClock()
	return opened(t, Config{Retention: time.Hour, Now: clock.Now}), clock
}

// passed moves the clock past the window and everything that is granted beyond it.
func passed(clock *testClock) { clock.move(2 * time.Hour) }

// TestRewritesLeaveNothing: what is written again and again takes as many keys as what is written once.
func TestRewritesLeaveNothing(t *testing.T) {
	s, clock := windowed(t)
	write := func(round int) {
		commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			for i := range 5 {
				at := clock.Now().Add(1000 * time.Hour)
				if err := tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{
					touch(fmt.Sprintf("document:%d#reader@user:alice[cv%d]", i, round)),
					expiring(fmt.Sprintf("session:%d#reader@user:alice", i), at),
					touch(fmt.Sprintf("document:%d-%d#reader@user:alice", round, i)),
					remove(fmt.Sprintf("document:%d-%d#reader@user:alice", round-1, i)),
				}); err != nil {
					return err
				}
			}
			if err := tx.LegacyWriteNamespaces(ctx, typeNamed("document", "r"+strconv.Itoa(round))); err != nil {
				return err
			}
			if err := tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed("caveat", strconv.Itoa(round))}); err != nil {
				return err
			}
			if err := tx.WriteStoredSchema(ctx, schemaNamed(strconv.Itoa(round))); err != nil {
				return err
			}
			if round == 0 {
				return tx.RegisterCounter(ctx, "counter", &core.RelationshipFilter{ResourceType: "document"})
			}
			return tx.StoreCounterValue(ctx, "counter", round, Revision(round))
		})
	}
	for round := range 50 {
		write(round)
		passed(clock)
		if round%5 == 4 {
			collects(t, s)
		}
	}
	// The head is as old as the window, and shows everything that there is.
	collects(t, s)
	for kind, want := range map[byte]int{
		kindForward: 15, kindReverse: 15, kindExpiration: 5, kindNamespace: 1, kindCaveat: 1, kindSchema: 1,
		kindSchemaHash: 1, kindCounter: 1,
	} {
		// One round is not collected: the revision at which the window begins shows the one before it.
		if got := keyCount(t, s, kind); got > 2*want {
			t.Errorf("%d keys of kind %c, where %d would do", got, kind, want)
		}
	}
	if got := keyCount(t, s, kindChangelog); got > 3 {
		t.Errorf("%d keys of changelog", got)
	}
	if got := len(atHead(t, s)); got != 15 {
		t.Errorf("%d relationships of 15", got)
	}
}

// TestReadersPin: what a reader can see stays for as long as a reader may take, however short the window is; after that it
// sees what it saw as long as its revision lies in the window, and is refused once it has left it.
func TestReadersPin(t *testing.T) {
	clock := newTestClock()
	s := opened(t, Config{Retention: time.Second, Now: clock.Now})
	first := commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyWriteNamespaces(ctx, typeNamed("document", "reader")); err != nil {
			return err
		}
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{
			touch("document:a#reader@user:alice"), touch("document:b#reader@user:alice"),
			expiring("document:c#reader@user:alice", clock.Now().Add(10*time.Second)),
		})
	})
	reader := s.SnapshotReader(first)
	seen := everything(t, reader)
	if len(seen) != 3 {
		t.Fatalf("the reader saw %v", seen)
	}
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyDeleteNamespaces(ctx, []string{"document"}, datastore.DeleteNamespacesOnly); err != nil {
			return err
		}
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:a#reader@user:alice[caveat]"), remove("document:b#reader@user:alice")})
	})
	for range 5 {
		clock.move(readerKept / 5)
		writesOf(t, s, touch("document:d#reader@user:alice"))
		if err := runCollection(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		same(t, "what a reader sees after collections", everything(t, reader), seen)
		must(reader.LegacyListAllNamespaces(t.Context()))(t)
		if _, _, err := reader.LegacyReadNamespaceByName(t.Context(), "document"); err != nil {
			t.Fatalf("a type that the reader saw: %v", err)
		}
	}
	// The revision itself has left the window: nobody else gets a reader for it.
	refusedAs(t, s.CheckRevision(t.Context(), first), datastore.RevisionStale)
	_, err := texts(s.SnapshotReader(first).QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))
	refusedAs(t, err, datastore.RevisionStale)

	// The reader is still there, and holds nothing any more.
	clock.move(readerKept)
	if err := runCollection(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if got := keyCount(t, s, kindForward); got != 2 {
		t.Errorf("%d versions of rows are left once the reader's time is over, want those of document:a and document:d", got)
	}
	same(t, "the head", atHead(t, s), []string{"document:a#reader@user:alice[caveat]", "document:d#reader@user:alice"})
	_, err = texts(reader.QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))
	refusedAs(t, err, datastore.RevisionStale)
	_, _, err = reader.LegacyReadNamespaceByName(t.Context(), "document")
	refusedAs(t, err, datastore.RevisionStale)
	_, err = reader.LegacyListAllNamespaces(t.Context())
	refusedAs(t, err, datastore.RevisionStale)
}

// TestReaderSeesWhatHasExpiredSince: a reader whose revision is still the head is refused too once rows are gone that
// expired after it began.
func TestReaderSeesWhatHasExpiredSince(t *testing.T) {
	s, clock := windowed(t)
	at := writesOf(t, s, expiring("document:c#reader@user:alice", clock.Now().Add(time.Second)))
	reader := s.SnapshotReader(at)
	for range 10 {
		clock.move(10 * time.Minute)
		if err := runCollection(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		got, err := texts(reader.QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))
		if err != nil {
			refusedAs(t, err, datastore.RevisionStale)
			if keyCount(t, s, kindForward) > 0 {
				continue
			}
			return
		}
		same(t, "what the reader sees", got, []string{"document:c#reader@user:alice[expiration:2030-01-02T03:04:06Z]"})
	}
	t.Error("the row that has expired is never collected")
}

// TestTransactionsPin: what a transaction under way reads stays as well, for as long as it may be open; then it is refused,
// and holds nothing.
func TestTransactionsPin(t *testing.T) {
	clock := newTestClock()
	s := opened(t, Config{Retention: time.Second, Now: clock.Now})
	first := writesOf(t, s, touch("document:a#reader@user:alice"), touch("document:b#reader@user:alice"),
		expiring("document:c#reader@user:alice", clock.Now().Add(10*time.Second)))
	_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		before := everything(t, tx)
		writesOf(t, s, touch("document:a#reader@user:alice[caveat]"), remove("document:b#reader@user:alice"))
		clock.move(minOpen)
		writesOf(t, s, touch("document:d#reader@user:alice"))
		if err := runCollection(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		same(t, "what a transaction sees after a collection", everything(t, tx), before)
		if err := tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:e#reader@user:alice")}); err != nil {
			t.Errorf("a transaction that may still be open: %v", err)
		}
		clock.move(time.Second)
		letGo(t, s)
		if err := runCollection(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if at := s.leases.lowest(); at <= first {
			t.Errorf("the horizon is still at %d, where the transaction began", at)
		}
		if err := tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:f#reader@user:alice")}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a write of a transaction that was open for too long: %v", err)
		}
		if _, err := texts(tx.QueryRelationships(ctx, datastore.RelationshipsFilter{})); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a read of a transaction that was open for too long: %v", err)
		}
		return nil
	})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "write in several") {
		t.Errorf("committing a transaction that was open for too long: %v", err)
	}
	same(t, "the head", atHead(t, s), []string{"document:a#reader@user:alice[caveat]", "document:d#reader@user:alice"})
}

// TestHorizonWithoutGarbageCollector: space is given back also where Go's collector never runs.
func TestHorizonWithoutGarbageCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	s, clock := windowed(t)
	for i := range 100 {
		r := s.SnapshotReader(writesOf(t, s, touch("document:a#reader@user:alice[cv"+strconv.Itoa(i)+"]")))
		everything(t, r)
	}
	passed(clock)
	last := writesOf(t, s, touch("document:b#reader@user:alice"))
	if err := runCollection(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	clock.move(2 * time.Hour)
	if err := runCollection(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if at := s.leases.lowest(); at != last {
		t.Errorf("the horizon is at %d, and nobody reads below %d", at, last)
	}
	if n := keyCount(t, s, kindForward); n != 2 {
		t.Errorf("%d versions are left of 2 rows", n)
	}
}

// TestCollectionIsLinear: a row that was written k times costs k deletions, and as many bytes of the log for each,
// also in a store that is opened again in the middle of it.
func TestCollectionIsLinear(t *testing.T) {
	t.Parallel()
	logged := map[int]uint64{}
	for _, k := range []int{500, 1000, 4000} {
		s, clock := windowed(t)
		for i := range k {
			writesOf(t, s, touch("document:a#reader@user:alice[cv"+strconv.Itoa(i%2)+"]"))
		}
		passed(clock)
		writesOf(t, s, touch("document:b#reader@user:alice"))
		letGo(t, s)
		before := s.db.Metrics().WAL.BytesIn
		counts := must(s.collect(t.Context(), headOf(t, s)))(t)
		logged[k] = (s.db.Metrics().WAL.BytesIn - before) / uint64(k)
		if counts.Relationships != int64(k-1) {
			t.Errorf("%d writes of a row were %d deletions", k, counts.Relationships)
		}
		if n := keyCount(t, s, kindForward); n != 2 {
			t.Errorf("%d versions are left of 2 rows", n)
		}
	}
	if logged[4000] > 2*logged[500] || logged[4000] > 400 {
		t.Errorf("bytes of the log by writes: %v", logged)
	}
}

// TestCollectionOfADeletedRowCutByACrash: a row that was deleted does not come back, wherever a crash cuts off the
// collection of its many versions.
func TestCollectionOfADeletedRowCutByACrash(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	mem, clock := vfs.NewCrashableMem(), newTestClock()
	config := small(Config{FS: mem, Retention: time.Hour, Now: clock.Now})
	config.MemTableBytes = 64 << 20 // so that no log is synced because it is full
	s := must(Open("store", config))(t)
	long := strings.Repeat("x", 1000)
	for i := range 700 { // more than one batch
		writesOf(t, s, touch("document:"+long+"#reader@user:alice[cv"+strconv.Itoa(i)+"]"))
	}
	writesOf(t, s, remove("document:"+long+"#reader@user:alice"))
	passed(clock)
	writesOf(t, s, touch("document:b#reader@user:alice"))
	letGo(t, s)
	counts := must(s.collect(t.Context(), headOf(t, s)))(t)
	if counts.Relationships != 701 {
		t.Errorf("%d versions were deleted of 701", counts.Relationships)
	}
	cut := 0
	for seed := range uint64(8) {
		config.FS = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 97, RNG: rand.New(rand.NewPCG(seed, seed))})
		again := must(Open("store", config))(t)
		if again.collector.collected < s.collector.collected {
			cut++
		}
		same(t, "the head after a crash", atHead(t, again), []string{"document:b#reader@user:alice"})
		collects(t, again)
		same(t, "the head after the second collection", atHead(t, again), []string{"document:b#reader@user:alice"})
		if n := keyCount(t, again, kindForward); n != 1 {
			t.Errorf("%d versions are left of 1 row", n)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if cut < 2 {
		t.Errorf("only %d crashes cut the collection", cut)
	}
}

// TestHorizonUnderLoad: while one row is written as fast as can be, the horizon goes on following the window.
func TestHorizonUnderLoad(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	s := opened(t, Config{Retention: time.Minute, Now: clock.Now, CollectEvery: time.Millisecond})
	for i := range 8000 {
		clock.move(100 * time.Millisecond) // 13 minutes in all
		writesOf(t, s, touch("document:a#reader@user:alice[cv"+strconv.Itoa(i%2)+"]"))
		if i%100 == 99 {
			limit := s.oldest(3 * time.Minute)
			eventually(t, fmt.Sprintf("the horizon to follow, after %d writes", i+1), func() bool {
				return i < 2000 || s.leases.lowest() > limit
			})
		}
	}
	eventually(t, "most versions to be collected", func() bool { return keyCount(t, s, kindForward) < 2500 })
}

// TestExpiredRows: a row that has expired is seen by nobody from then on, is there until it has been
// expired for as long as the window, and then is gone with all that it replaced.
func TestExpiredRows(t *testing.T) {
	s, clock := windowed(t)
	at := clock.Now().Add(10 * time.Minute)
	before := writesOf(t, s, touch("document:a#reader@user:alice"), expiring("document:b#reader@user:alice", at))
	// The expiring row replaces one that does not expire.
	expires := writesOf(t, s, expiring("document:a#reader@user:alice", at))
	full := "document:a#reader@user:alice[expiration:" + at.Format(time.RFC3339) + "]"
	beside := "document:b#reader@user:alice[expiration:" + at.Format(time.RFC3339) + "]"
	same(t, "before it expires", atHead(t, s), []string{full, beside})
	clock.move(10*time.Minute - time.Nanosecond)
	same(t, "a moment before it expires", atHead(t, s), []string{full, beside})
	clock.move(time.Nanosecond)
	same(t, "when it expires", atHead(t, s), []string{})
	same(t, "where it was not expiring", everything(t, s.SnapshotReader(before)), []string{"document:a#reader@user:alice"})
	same(t, "an older revision", everything(t, s.SnapshotReader(expires)), []string{})

	for _, by := range []time.Duration{0, 30 * time.Minute, 29 * time.Minute} {
		clock.move(by)
		collects(t, s)
		if got := keyCount(t, s, kindExpiration); got != 2 {
			t.Fatalf("%v after they have expired %d rows of 2 are not collected", clock.Now().Sub(at), got)
		}
		same(t, "after it has expired", atHead(t, s), []string{})
	}
	clock.move(5 * time.Minute)
	writesOf(t, s, touch("document:z#reader@user:alice"))
	collects(t, s)
	same(t, "after it was collected", atHead(t, s), []string{"document:z#reader@user:alice"})
	for _, kind := range []byte{kindForward, kindReverse} {
		if got := keyCount(t, s, kind); got != 1 {
			t.Errorf("%d keys of kind %c are left, want those of one row", got, kind)
		}
	}
	if got := keyCount(t, s, kindExpiration); got != 0 {
		t.Errorf("%d expirations are left", got)
	}
	writesOf(t, s, create("document:a#reader@user:alice"))
	stats := must(s.Statistics(t.Context()))(t)
	if stats.EstimatedRelationshipCount != 2 {
		t.Errorf("%d relationships are counted of 2", stats.EstimatedRelationshipCount)
	}
}

// TestExpiredRowIsNotInTheWay: what has expired and is not collected stands in the way of nothing: it is created anew, loaded, and
// deleted by a filter, and counted once.
func TestExpiredRowIsNotInTheWay(t *testing.T) {
	again := "document:a#reader@user:alice"
	loads := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := tx.BulkLoad(ctx, &slowSource{left: []tuple.Relationship{tuple.MustParse(again)}})
		return err
	}
	filter := &v1.RelationshipFilter{ResourceType: "document"}
	deletes := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		n, limited, err := tx.DeleteRelationships(ctx, filter)
		if n != 1 || limited {
			t.Errorf("%d rows are deleted of 1, limited %v", n, limited)
		}
		return err
	}
	for name, test := range map[string]struct {
		do   datastore.TxUserFunc
		want []string
	}{
		"create": {writing(create(again)), []string{again}}, "load": {loads, []string{again}}, "delete": {deletes, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			s, clock := windowed(t)
			writesOf(t, s, expiring(again, clock.Now().Add(time.Minute)))
			if _, err := s.ReadWriteTx(t.Context(), writing(create(again))); status.Code(err) != codes.AlreadyExists {
				t.Fatalf("a row that has not expired was created anew: %v", err)
			}
			clock.move(time.Minute)
			at := must(s.ReadWriteTx(t.Context(), test.do))(t)
			same(t, "then", everything(t, s.SnapshotReader(at)), test.want)
			if got := must(s.Statistics(t.Context()))(t).EstimatedRelationshipCount; got != uint64(len(test.want)) {
				t.Errorf("%d relationships are counted of %d", got, len(test.want))
			}
		})
	}
	t.Run("a transaction has no room for all", func(t *testing.T) {
		clock := newTestClock()
		s := opened(t, Config{Retention: time.Hour, Now: clock.Now, TransactionBytes: 2*writeBytes + 512})
		for _, id := range []string{"a", "b", "c"} {
			writesOf(t, s, expiring("document:"+id+"#reader@user:alice", clock.Now().Add(time.Minute)))
		}
		clock.move(time.Minute)
		writesOf(t, s, touch("document:z#reader@user:alice"))
		at := must(s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			_, _, err := tx.DeleteRelationships(ctx, filter)
			return err
		}))(t)
		same(t, "then", everything(t, s.SnapshotReader(at)), []string{})
	})
	t.Run("a limit is for what is seen", func(t *testing.T) {
		s, clock := windowed(t)
		for _, id := range []string{"a", "b", "c"} {
			writesOf(t, s, expiring("document:"+id+"#reader@user:alice", clock.Now().Add(time.Minute)))
		}
		clock.move(time.Minute)
		writesOf(t, s, touch("document:z#reader@user:alice"))
		limit := uint64(2)
		must(s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			n, limited, err := tx.DeleteRelationships(ctx, filter, options.WithDeleteLimit(&limit))
			if n != 2 || limited {
				t.Errorf("%d rows are deleted of 2, limited %v", n, limited)
			}
			return err
		}))(t)
		same(t, "then", atHead(t, s), []string{})
	})
}

// TestExpiredRowThatWasWrittenAgain: collecting an expired row leaves what was written over it since.
func TestExpiredRowThatWasWrittenAgain(t *testing.T) {
	for _, again := range []struct {
		name   string
		update func(*testClock) tuple.RelationshipUpdate
		want   int
	}{
		{"for good", func(*testClock) tuple.RelationshipUpdate { return touch("document:a#reader@user:alice") }, 1},
		{"expiring later", func(c *testClock) tuple.RelationshipUpdate {
			return expiring("document:a#reader@user:alice", c.Now().Add(100*time.Hour))
		}, 1},
		{"as deleted", func(*testClock) tuple.RelationshipUpdate { return remove("document:a#reader@user:alice") }, 0},
	} {
		t.Run(again.name, func(t *testing.T) {
			s, clock := windowed(t)
			writesOf(t, s, expiring("document:a#reader@user:alice", clock.Now().Add(time.Minute)))
			clock.move(2*time.Hour - time.Minute)
			writesOf(t, s, again.update(clock))
			// The horizon lies between the two versions, and then after both.
			for range 3 {
				collects(t, s)
				if got := len(atHead(t, s)); got != again.want {
					t.Fatalf("%d rows at the head, want %d", got, again.want)
				}
				clock.move(50 * time.Minute)
				writesOf(t, s, touch("document:z#reader@user:alice"), remove("document:z#reader@user:alice"))
			}
			if got := keyCount(t, s, kindForward); got != again.want {
				t.Errorf("%d versions of rows are left, want %d", got, again.want)
			}
			if got := must(s.Statistics(t.Context()))(t).EstimatedRelationshipCount; got != uint64(again.want) {
				t.Errorf("%d relationships are counted of %d", got, again.want)
			}
		})
	}
}

// TestRowThatHasLongExpired: a row that is written with an expiration long past is collected too, once
// the revisions before it cannot be read any more.
func TestRowThatHasLongExpired(t *testing.T) {
	s, clock := windowed(t)
	writesOf(t, s, touch("document:a#reader@user:alice"))
	clock.move(time.Minute)
	before := headOf(t, s)
	writesOf(t, s, expiring("document:a#reader@user:alice", clock.Now().Add(-1000*time.Hour)))
	collects(t, s)
	same(t, "the head", atHead(t, s), []string{})
	same(t, "what it replaced", everything(t, s.SnapshotReader(before)), []string{"document:a#reader@user:alice"})
	// The horizon comes to lie between the two.
	clock.move(time.Hour + s.readGrace() - time.Second)
	collects(t, s)
	same(t, "the head", atHead(t, s), []string{})
	passed(clock)
	writesOf(t, s, touch("document:z#reader@user:alice"))
	collects(t, s)
	same(t, "the head", atHead(t, s), []string{"document:z#reader@user:alice"})
	if forward, expirations := keyCount(t, s, kindForward), keyCount(t, s, kindExpiration); forward != 1 || expirations != 0 {
		t.Errorf("%d versions of rows and %d expirations are left, want 1 and 0", forward, expirations)
	}
}

// TestExpiredRowDoesNotUncoverWhatItReplaced: expired rows are collected although the changelog was not
// worked off, and what they replaced goes with them.
func TestExpiredRowDoesNotUncoverWhatItReplaced(t *testing.T) {
	s, clock := windowed(t)
	writesOf(t, s, touch("document:a#reader@user:alice"))
	writesOf(t, s, expiring("document:a#reader@user:alice", clock.Now().Add(time.Minute)))
	passed(clock)
	writesOf(t, s, touch("document:z#reader@user:alice"))
	gc := must(s.BuildGarbageCollector(t.Context()))(t)
	defer gc.Close()
	until := must(gc.TxIDBefore(t.Context(), clock.Now().Add(-time.Hour)))(t)
	if _, err := gc.DeleteBeforeTx(&cutting{t.Context(), 0}, until); !errors.Is(err, context.Canceled) {
		t.Fatalf("it was not cut short: %v", err)
	}
	if n := must(gc.DeleteExpiredRels(t.Context()))(t); n != 1 {
		t.Errorf("%d expired rows were collected", n)
	}
	same(t, "the head", atHead(t, s), []string{"document:z#reader@user:alice"})
	if got := keyCount(t, s, kindForward); got != 1 {
		t.Errorf("%d versions of rows are left", got)
	}
}

// cutting is a context that ends after its error was asked for so often.
type cutting struct {
	context.Context //nolint:containedctx // it is one

	left int
}

func (c *cutting) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestCollectionCutShort: a collection that is cut short anywhere is completed by the next one, and what
// can be read stays right in between.
func TestCollectionCutShort(t *testing.T) {
	for cut := 0; ; cut++ {
		fs := vfs.NewMem()
		clock := newTestClock()
		config := small(Config{Retention: time.Hour, Now: clock.Now, FS: fs})
		s, err := Open("store", config)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			writesOf(t, s, touch(fmt.Sprintf("document:a#reader@user:alice[cv%d]", i)), touch(fmt.Sprintf("document:%d#reader@user:alice", i)),
				expiring(fmt.Sprintf("document:e%d#reader@user:alice", i), clock.Now().Add(time.Minute)))
			writesOf(t, s, remove(fmt.Sprintf("document:%d#reader@user:alice", i)))
		}
		passed(clock)
		writesOf(t, s, touch("document:z#reader@user:alice"))
		want := atHead(t, s)
		letGo(t, s)
		err = runCollection(&cutting{t.Context(), cut}, s)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		same(t, "the head after a collection that was cut short", atHead(t, s), want)
		// The second one is that of the store that is opened again.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again, openErr := Open("store", config)
		if openErr != nil {
			t.Fatal(openErr)
		}
		same(t, "the head of the store that was opened again", atHead(t, again), want)
		collects(t, again)
		same(t, "the head after the second collection", atHead(t, again), want)
		if got := keyCount(t, again, kindForward); got != 2 {
			t.Fatalf("cut at %d: %d versions of rows are left of 2: %v", cut, got, want)
		}
		if got := keyCount(t, again, kindExpiration); got != 0 {
			t.Fatalf("cut at %d: %d expirations are left", cut, got)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if cut < 10 {
				t.Fatalf("the collection was only cut in %d places", cut)
			}
			return
		}
	}
}

// TestCollectionThenReopen: after a collection that left nothing but the head, a store that is opened
// again is where it was: head, schema hash, count, and revisions go on from there.
func TestCollectionThenReopen(t *testing.T) {
	fs := vfs.NewMem()
	clock := newTestClock()
	config := small(Config{Retention: time.Hour, Now: clock.Now, FS: fs})
	s := must(Open("store", config))(t)
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteStoredSchema(ctx, schemaNamed("h"))
	})
	writesOf(t, s, touch("document:a#reader@user:alice"))
	last := writesOf(t, s, touch("document:b#reader@user:alice"))
	for range 3 {
		passed(clock)
		collects(t, s)
		if got := headOf(t, s); got != last {
			t.Fatalf("the head moved from %v to %v", last, got)
		}
		head := must(s.HeadRevision(t.Context()))(t)
		if err := s.CheckRevision(t.Context(), head.Revision); err != nil {
			t.Fatalf("the head cannot be read: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		clock.move(-2 * time.Hour) // so that opening does not refresh the head
		s = must(Open("store", config))(t)
		head = must(s.HeadRevision(t.Context()))(t)
		if head.Revision != last || head.SchemaHash != "h" {
			t.Fatalf("the head is %v with hash %q, was %v with h", head.Revision, head.SchemaHash, last)
		}
		same(t, "the head's rows", atHead(t, s), []string{"document:a#reader@user:alice", "document:b#reader@user:alice"})
		if got := must(s.Statistics(t.Context()))(t).EstimatedRelationshipCount; got != 2 {
			t.Errorf("%d relationships are counted of 2", got)
		}
	}
	if next := writesOf(t, s, touch("document:c#reader@user:alice")); next <= last {
		t.Errorf("revision %v comes after %v", next, last)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOldHeadIsRefreshed: a store whose head is as old as the window makes a new revision when it is
// opened, so that who takes it does not lose it at once.
func TestOldHeadIsRefreshed(t *testing.T) {
	fs := vfs.NewMem()
	clock := newTestClock()
	config := small(Config{Retention: time.Hour, Now: clock.Now, FS: fs})
	s := must(Open("store", config))(t)
	last := writesOf(t, s, touch("document:a#reader@user:alice"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	passed(clock)
	s = opened(t, config)
	eventually(t, "a new head", func() bool { return headOf(t, s) > last })
	if got := headOf(t, s).Time(); !got.Equal(clock.Now()) {
		t.Errorf("the new head is of %v, and it is %v", got, clock.Now())
	}
	same(t, "the new head's rows", atHead(t, s), []string{"document:a#reader@user:alice"})
}

// TestWindow: a revision can be read for the window, and a reader had a little longer; what has left it is
// stale, what is not there yet or not the store's is no revision.
func TestWindow(t *testing.T) {
	s, clock := windowed(t)
	clock.move(time.Second)
	old := writesOf(t, s, touch("document:a#reader@user:alice"))
	clock.move(time.Second)
	head := writesOf(t, s, touch("document:b#reader@user:alice"))
	query := func(r datastore.Revision) error {
		_, err := texts(s.SnapshotReader(r).QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))
		return err
	}
	for _, r := range []datastore.Revision{head + 1, Revision(0), datastore.NoRevision, nil} {
		refusedAs(t, s.CheckRevision(t.Context(), r), datastore.CouldNotDetermineRevision)
		refusedAs(t, query(r), datastore.CouldNotDetermineRevision)
	}
	clock.move(time.Hour - time.Second)
	if err := errors.Join(s.CheckRevision(t.Context(), old), query(old)); err != nil {
		t.Errorf("at the end of the window: %v", err)
	}
	clock.move(time.Nanosecond)
	refusedAs(t, s.CheckRevision(t.Context(), old), datastore.RevisionStale)
	if err := query(old); err != nil {
		t.Errorf("a reader just after the window: %v", err)
	}
	clock.move(time.Minute)
	refusedAs(t, query(old), datastore.RevisionStale)
	if err := errors.Join(s.CheckRevision(t.Context(), head), query(head)); err != nil {
		t.Errorf("the head, which has left the window: %v", err)
	}
	// The clock is set back: the window ends at the head.
	clock.move(-48 * time.Hour)
	if err := errors.Join(s.CheckRevision(t.Context(), old), query(old)); err != nil {
		t.Errorf("with the clock set back: %v", err)
	}
}

// TestOneCollectionAtATime: a second one goes away.
func TestOneCollectionAtATime(t *testing.T) {
	s, _ := windowed(t)
	first := must(s.BuildGarbageCollector(t.Context()))(t)
	if !must(first.LockForGCRun(t.Context()))(t) {
		t.Fatal("there is no other one")
	}
	second := must(s.BuildGarbageCollector(t.Context()))(t)
	if must(second.LockForGCRun(t.Context()))(t) {
		t.Error("two collections at a time")
	}
	if err := errors.Join(second.UnlockAfterGCRun(), first.UnlockAfterGCRun()); err != nil {
		t.Fatal(err)
	}
	if !must(second.LockForGCRun(t.Context()))(t) {
		t.Error("the first one is done")
	}
	if err := second.UnlockAfterGCRun(); err != nil {
		t.Fatal(err)
	}
}

// TestBothDirectionsAgree looks into the database: every version of a row has its reverse key, with the
// same value, also after collections.
func TestBothDirectionsAgree(t *testing.T) {
	s, clock := windowed(t)
	for round := range 20 {
		for i := range 5 {
			writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:u%d[cv%d]", i, round%3, round)),
				remove(fmt.Sprintf("document:%d#reader@user:u%d", i, (round+1)%3)),
				expiring(fmt.Sprintf("document:%d#reader@user:x%d", i, round%3), clock.Now().Add(time.Minute)))
		}
		clock.move(20 * time.Minute)
		collects(t, s)
	}
	versions := 0
	iter := must(s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindForward}, UpperBound: []byte{kindForward + 1}}))(t)
	for valid := iter.First(); valid; valid = iter.Next() {
		versions++
		n := split(iter.Key())
		reverse := append(must(parseRow(iter.Key()[:n]))(t).appendReverse(nil), iter.Key()[n:]...)
		value, closer, err := s.db.Get(reverse)
		if err != nil {
			t.Fatalf("%q has no reverse key: %v", iter.Key(), err)
		}
		if !bytes.Equal(value, iter.Value()) {
			t.Errorf("%q has two values", iter.Key())
		}
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	if reversed := keyCount(t, s, kindReverse); reversed != versions || versions == 0 {
		t.Errorf("%d forward and %d reverse keys", versions, reversed)
	}
}
