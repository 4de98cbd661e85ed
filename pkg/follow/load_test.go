package follow_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
)

// fill writes relationships of every trait, so many documents with three each.
func fill(t testing.TB, w *written, documents int) {
	t.Helper()
	later := time.Now().Add(time.Hour)
	var updates []tuple.RelationshipUpdate
	for i := range documents {
		updates = append(updates,
			touch(fmt.Sprintf("document:%d#viewer@user:u%d", i, i%7)),
			touch(fmt.Sprintf(`document:%d#viewer@user:c%d[weekday:{"day":"monday","hours":[%d,2.25]}]`, i, i%5, i)),
			expiring(fmt.Sprintf("document:%d#viewer@user:e%d", i, i%3), later.Add(time.Duration(i)*time.Microsecond)))
		if len(updates) >= 900 {
			w.update(t, updates...)
			updates = updates[:0]
		}
	}
	if len(updates) > 0 {
		w.update(t, updates...)
	}
}

// churn writes, in a background that ends with the test, relationships of documents that fill has written too. It goes on until stop is called.
func churn(t testing.TB, w *written, documents int) (stop func()) {
	t.Helper()
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		rng := rand.New(rand.NewPCG(1, 2))
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			default:
			}
			document := rng.IntN(documents)
			w.update(t,
				touch(fmt.Sprintf("document:%d#viewer@user:new%d", document, n%50)),
				remove(fmt.Sprintf("document:%d#viewer@user:new%d", rng.IntN(documents), rng.IntN(50))),
				remove(fmt.Sprintf("document:%d#viewer@user:u%d", document, document%7)))
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { close(over); <-ended }) }
	t.Cleanup(stop)
	return stop
}

// TestLoadWhileWriting loads page by page while somebody writes, and then follows. It runs in seconds, with 20,000 relationships more than are written to;
// DEPUTY_FOLLOW_LOAD says how many instead, and has the copy be on the disk.
func TestLoadWhileWriting(t *testing.T) { eachAuthority(t, loadWhileWriting) }

func loadWhileWriting(t *testing.T, database func(testing.TB) string) {
	const documents = 500
	w := writer(t, database(t))
	fill(t, w, documents)
	const bounded = 20_000
	config, pulls := inMemory(), 10
	config.PageSize = 500
	more := number(t, "DEPUTY_FOLLOW_LOAD", bounded)
	large(t, w.uri, more)
	if more != bounded {
		config, pulls = onDisk(t), 3
	}
	a := authority(t, w.uri, time.Hour)
	stop := churn(t, w, documents)
	pages, loaded, complete := 0, uint64(0), false
	config.Progress = func(p follow.Progress) { pages, loaded, complete = pages+1, p.Relationships, p.Complete }
	f := follower(t, config, a)
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pages < 2 || loaded < uint64(more) || !complete {
		t.Errorf("progress told of %d pages and %d relationships, complete: %v", pages, loaded, complete)
	}
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, a, reached)
	reached.Release()
	for range pulls {
		follows(t, f, a)
	}
	stop()
	follows(t, f, a)
	w.asSpiceDB(t, f)
}

// number is an environment variable's, or otherwise.
func number(t testing.TB, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, want a number from 1 on", variable, text)
	}
	return n
}

// TestKilled kills a follower before each thing that it asks of the authority, and before each sync of its disk, while it loads, follows, is made to
// load again and follows again, and while somebody writes. What a crash leaves, with half of what was not synced, is opened, has reached what it says,
// and follows.
//
// CI takes each 15th point, and leaves it to -short to take none: it is much work of one goroutine. DEPUTY_FOLLOW_EVERY=1 takes all, as make soak does.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("much work of one goroutine")
	}
	eachAuthority(t, killed)
}

func killed(t *testing.T, database func(testing.TB) string) {
	const documents = 60
	w := writer(t, database(t))
	fill(t, w, documents)
	direct := authority(t, w.uri, time.Hour)
	churn(t, w, documents)
	stride := number(t, "DEPUTY_FOLLOW_EVERY", 15)
	rng := rand.New(rand.NewPCG(3, 4))
	mem := vfs.NewCrashableMem()
	var points sync.Mutex
	seen, tried := 0, 0
	crash := func(before string) {
		points.Lock()
		defer points.Unlock()
		if seen++; seen%stride != 0 || t.Failed() {
			return
		}
		tried++
		left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		if err := survives(over(left), direct); err != nil {
			t.Errorf("point %d, before %s: %v", seen, before, err)
		}
	}
	a := &stepped{Authority: direct, step: crash}
	config := over(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			crash("a sync of " + op.Path)
		default:
		}
		return nil
	})))
	config.PageSize = 40 // a page is two questions
	config.WriteDown = time.Nanosecond
	f := follower(t, config, a)
	for range 2 {
		if err := f.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			reached, err := f.Pull(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			equal(t, direct, reached)
			reached.Release()
		}
	}
	t.Logf("%d points, %d tried", seen, tried)
	if seen < 50 {
		t.Errorf("only %d points", seen)
	}
}

// survives opens what a crash has left.
func survives(config follow.Config, a follow.Authority) (err error) {
	config.PageSize = 40
	f, err := follow.Open(config, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	check := func(reached *follow.Reached) error {
		defer reached.Release()
		different, err := follow.Compare(context.Background(), a.At(reached.Position), reached.Store, reached.Local, time.Now(), 3)
		for _, d := range different {
			err = errors.Join(err, errors.New(d.String()))
		}
		return err
	}
	switch reached, err := f.Reached(); {
	case err == nil:
		if err := check(reached); err != nil {
			return fmt.Errorf("as it was opened: %w", err)
		}
	case !errors.Is(err, follow.ErrNoCopy):
		return err
	}
	reached, err := f.Follow(context.Background())
	if err != nil {
		return err
	}
	return check(reached)
}

// TestResumed goes on with a load where it was interrupted, and begins anew where the authority cannot show that state any more.
func TestResumed(t *testing.T) { eachAuthority(t, resumed) }

func resumed(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	fill(t, w, 100)
	files := vfs.NewMem()
	config := over(files)
	config.PageSize = 50
	asked := 0
	interrupted := func(a follow.Authority, pages int) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked = 0
		s := &stepped{Authority: a, step: func(what string) {
			if !strings.HasPrefix(what, "the page") {
				return
			}
			if asked++; asked == pages {
				cancel()
			}
		}}
		f, err := follow.Open(config, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Load(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("the load was not interrupted: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	a := authority(t, w.uri, time.Hour)
	interrupted(a, 4)
	w.update(t, touch("document:later#viewer@user:alice"))
	resumed := uint64(0)
	config.Progress = func(p follow.Progress) {
		if resumed == 0 {
			resumed = p.Relationships
		}
	}
	f := follower(t, config, a)
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if resumed <= uint64(config.PageSize) {
		t.Errorf("the first page of the load that goes on makes %d relationships", resumed)
	}
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, a, reached)
	if got := len(relationships(t, reached)); got != 301 {
		t.Errorf("%d relationships of the 300 that there were when the load began, and one more", got)
	}
	reached.Release()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	// What was deleted since is collected for good, with a shorter window than the configured one.
	config = over(vfs.NewMem())
	config.PageSize = 50
	var first, last follow.Position
	config.Progress = func(p follow.Progress) { first = p.Position }
	interrupted(a, 4)
	w.update(t, remove("document:1#viewer@user:u1"))
	w.update(t, touch("document:1#viewer@user:u2"))
	w.collect(t, time.Nanosecond)
	config.Progress = func(p follow.Progress) { last = p.Position }
	again := follower(t, config, a)
	if err := again.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.State == "" || last.State == first.State {
		t.Errorf("the load goes on with %q, which was collected", first.State)
	}
	follows(t, again, a)
}

// TestLargeRelationships: pages of large relationships have fewer of them, changes of very many bytes are too many, and the copy is equal all the same.
func TestLargeRelationships(t *testing.T) { eachAuthority(t, largeRelationships) }

func largeRelationships(t *testing.T, database func(testing.TB) string) {
	const documents, long, most = 260, 200_000, 200
	w := writer(t, database(t))
	a := authority(t, w.uri, time.Hour)
	from, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	given, err := structpb.NewStruct(map[string]any{"day": strings.Repeat("x", long)})
	if err != nil {
		t.Fatal(err)
	}
	var updates []tuple.RelationshipUpdate
	for i := range documents {
		rel := tuple.MustParse(fmt.Sprintf("document:%d#viewer@user:alice", i))
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: "weekday", Context: given}
		updates = append(updates, tuple.Touch(rel))
	}
	for some := range slices.Chunk(updates, 20) {
		w.update(t, some...)
	}
	if _, err := a.ChangesSince(t.Context(), from, 200_000); servedAt(w.uri) != nil && !errors.Is(err, follow.ErrTooMany) {
		t.Errorf("the changes: %v, want %v", err, follow.ErrTooMany)
	}
	at, err := a.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, next := 0, ""
	for first := true; first || next != ""; first = false {
		page, err := a.At(at).Page(t.Context(), next, 20_000)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(page.Relationships); n > most {
			t.Errorf("a page has %d relationships of %d bytes each", n, long)
		}
		all, next = all+len(page.Relationships), page.Next
	}
	if all != documents {
		t.Errorf("the pages have %d relationships, want %d", all, documents)
	}
	f := follower(t, inMemory(), a)
	follows(t, f, a)
}

// TestChangesTooLargeForACommit: changes that are few enough, and larger than a commit of the copy may be, have it loaded anew, and not tried for ever.
func TestChangesTooLargeForACommit(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	a := authority(t, w.uri, time.Hour)
	config := inMemory()
	config.PageSize, config.Store.TransactionBytes = 50, 100<<10 // some 120 relationships
	f := follower(t, config, a)
	follows(t, f, a)
	fill(t, w, 100)
	if _, err := f.Pull(t.Context()); !errors.Is(err, follow.ErrTooMany) {
		t.Errorf("the pull: %v, want %v", err, follow.ErrTooMany)
	}
	follows(t, f, a)
}
