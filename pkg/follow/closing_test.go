package follow_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestCloseAtAnyPoint closes a follower at random points of a load: before something that it asks of the authority, and before something that it does
// to its disk. It does not go on to write tables, and the load ends. What is left is opened again and comes out right, and nothing else is left in
// the directory.
func TestCloseAtAnyPoint(t *testing.T) {
	const points = 40
	rng := rand.New(rand.NewPCG(5, 6))
	for range points {
		m := newModelled(rng.Uint64())
		for i := range 3000 {
			m.states[len(m.states)-1][fmt.Sprintf("%sdocument:large%d#viewer@user:%d", relationship, i, i%7)] = ""
		}
		a := modelledParts{m}
		m.giants = 25
		mem := vfs.NewMem()
		at := int64(1 + rng.IntN(120))
		var seen atomic.Int64
		reached := make(chan struct{})
		step := func() {
			if seen.Add(1) == at {
				close(reached)
			}
		}
		config := over(errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				step()
			}
			return nil
		})))
		config.PageSize, config.MaxChanges, config.Store.MemTableBytes = 100, 30, 256<<10
		f, err := follow.Open(config, &stepped{Authority: a, step: func(string) { step() }})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- f.Load(context.Background()) }()
		over := false
		select {
		case <-reached:
		case err := <-done:
			if over = true; err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := f.Close(); err != nil {
			t.Errorf("closed at point %d: %v", at, err)
		}
		if !over {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("closed at point %d, the load ended with %v", at, err)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("closed at point %d, it took %s", at, took)
		}
		config.Store.FS = mem
		again, err := follow.Open(config, a)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, err := again.Reached()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := copied(t, now), m.has(now.Position); !slices.Equal(got, want) {
			t.Errorf("closed at point %d, the copy has %d things, want %d", at, len(got), len(want))
		}
		now.Release()
		if names := list(t, config); len(names) != 1 {
			t.Errorf("closed at point %d, there are %v", at, names)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// faulty fails what changes files whose paths it is given.
type faulty struct {
	mu    sync.Mutex
	fails func(op errorfs.Op) bool
}

func (f *faulty) MaybeError(op errorfs.Op) error {
	f.mu.Lock()
	fails := f.fails
	f.mu.Unlock()
	if fails != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && fails(op) {
		return syscall.EIO
	}
	return nil
}

func (f *faulty) set(fails func(op errorfs.Op) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

func (*faulty) String() string { return "faulty" }

// TestNothingIsLeft: whatever a load fails with, and however often, its directory holds the copy that is served and the one that is being made.
func TestNothingIsLeft(t *testing.T) {
	m := newModelled(3)
	m.quiet = true
	mem, fault := vfs.NewMem(), &faulty{}
	config := over(errorfs.Wrap(mem, fault))
	config.PageSize = 5
	f := follower(t, config, m)
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := list(t, config); !slices.Equal(got, want) {
			t.Errorf("%s there are %v, want %v", what, got, want)
		}
	}
	expect("after a load", "copy-1")
	of := func(names ...string) func(op errorfs.Op) bool {
		return func(op errorfs.Op) bool {
			return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(op.Path, name) })
		}
	}
	for what, fails := range map[string]func(op errorfs.Op) bool{
		"a store that cannot be made":  of("DEPUTY"),
		"a manifest that cannot be":    of("MANIFEST"),
		"a log that cannot be":         of(".log"),
		"a directory that cannot be":   func(op errorfs.Op) bool { return of("copy-")(op) && op.Kind == errorfs.OpMkdirAll },
		"a marker that cannot be made": of("marker."),
	} {
		for range 3 {
			fault.set(fails)
			if err := f.Load(t.Context()); err == nil {
				t.Errorf("in spite of %s the load succeeded", what)
			}
			fault.set(nil)
		}
		if names := list(t, config); len(names) > 2 {
			t.Errorf("after %s, three times, there are %v", what, names)
		}
	}
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := list(t, config); len(names) != 1 {
		t.Errorf("after a load that succeeded there are %v", names)
	}

	// A copy that was begun is gone on with. Once the one that is served follows again nobody would.
	refused := errors.New("no page")
	left := 2
	half := &failing{Authority: m, fails: func() error {
		if left--; left < 0 {
			return refused
		}
		return nil
	}}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := follow.Open(config, half)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Load(t.Context()); !errors.Is(err, refused) {
			t.Fatalf("the load ended with %v", err)
		}
		if names := list(t, config); len(names) != 2 {
			t.Errorf("while a copy is half made there are %v", names)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if g, err = follow.Open(config, half); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := list(t, config); len(names) != 1 {
		t.Errorf("once the copy that is served follows there are %v", names)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLoadBesideLargeTransactions: while a copy is loaded transactions are committed that change more than one commit of it holds. The load does not begin
// again, ends, and is exact; and after an interruption in the middle of such changes it goes on.
func TestLoadBesideLargeTransactions(t *testing.T) {
	w := writer(t, pgtest.Database(t))
	fill(t, w, 100)
	a := authority(t, w.uri, time.Hour)
	heads, pages, parts := 0, 0, 0
	stops := map[int]bool{2: true, 7: true}
	var stop context.CancelFunc
	s := &stepped{Authority: a, step: func(what string) {
		switch {
		case what == "the head":
			heads++
		case what == "the next part":
			if parts++; stops[parts] {
				stop()
			}
		case strings.HasPrefix(what, "the page"):
			if pages++; pages%4 != 0 || pages > 16 {
				return
			}
			// What is ahead of the pages and what is behind them; the next one takes back a part of it.
			var updates []tuple.RelationshipUpdate
			for i := range 60 {
				updates = append(updates, remove(fmt.Sprintf("document:%d#viewer@user:u%d", (i+pages)%100, (i+pages)%100%7)),
					touch(fmt.Sprintf("document:%d#viewer@user:large%d", (i*7+pages)%100, i%3)))
				if pages > 4 && i%2 == 0 {
					updates = append(updates, remove(fmt.Sprintf("document:%d#viewer@user:large%d", (i*7+pages-4)%100, (i+1)%3)))
				}
			}
			w.update(t, dedupe(updates)...)
		}
	}}
	config := inMemory()
	config.PageSize, config.MaxChanges = 20, 50
	f := follower(t, config, s)
	load := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop = cancel
		return f.Load(ctx)
	}
	for {
		err := load()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if heads != 1 || parts < 8 {
		t.Errorf("the load began %d times, and took in %d parts of changes", heads, parts)
	}
	reached, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, a, reached)
	reached.Release()
	w.asSpiceDB(t, f)
}

// dedupe keeps the last update of each relationship.
func dedupe(updates []tuple.RelationshipUpdate) []tuple.RelationshipUpdate {
	last := map[string]int{}
	for i, u := range updates {
		last[tuple.StringWithoutCaveatOrExpiration(u.Relationship)] = i
	}
	var kept []tuple.RelationshipUpdate
	for i, u := range updates {
		if last[tuple.StringWithoutCaveatOrExpiration(u.Relationship)] == i {
			kept = append(kept, u)
		}
	}
	return kept
}
