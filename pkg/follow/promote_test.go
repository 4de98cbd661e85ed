package follow_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
)

// anything fits.
func anything(follow.Position) error { return nil }

// TestPromote makes a store of the newest complete copy: it has what the copy had, another id than any store before, and takes writes.
func TestPromote(t *testing.T) { eachAuthority(t, promote) }

func promote(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	w.update(t, touch("document:plan#viewer@user:alice"), touch(`document:plan#viewer@user:bob[weekday:{"day":"monday"}]`))
	a := authority(t, w.uri, time.Hour)
	files := vfs.NewMem()
	config := over(files)
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	follows(t, f, a)
	w.update(t, touch("document:last#viewer@user:alice"))
	at := follows(t, f, a)
	copied, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	was, err := copied.Store.UniqueID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copied.Release()
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a copy that is open is promoted: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.update(t, touch("document:late#viewer@user:alice"))
	refused := errors.New("no")
	if _, err := follow.Promote("copies", "graph", config.Store, func(follow.Position) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a copy that does not fit is promoted: %v", err)
	}
	if err := files.MkdirAll("taken", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := follow.Promote("copies", "taken", config.Store, anything); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a copy is promoted to a place that is taken: %v", err)
	}
	// What a crash has left of a newer load does not count.
	if err := files.MkdirAll("copies/copy-7.gone", 0o700); err != nil {
		t.Fatal(err)
	}
	promoted, err := follow.Promote("copies", "graph", config.Store, anything)
	if err != nil {
		t.Fatal(err)
	}
	if promoted.Position.State != at.State || promoted.Position.Authority != at.Authority || promoted.Relationships != 3 {
		t.Errorf("promoted %+v, want the copy at %+v", promoted, at)
	}
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("the copy is promoted again: %v", err)
	}
	s, err := store.Open("graph", config.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	id, err := s.UniqueID(t.Context())
	if err != nil || id != promoted.Store || id == was || strings.Contains(string(at.Authority), id) {
		t.Errorf("the store's id is %s, want %s, and none of %s: %v", id, promoted.Store, at.Authority, err)
	}
	theirs := &written{s, w.uri}
	head, err := s.Head()
	if err != nil {
		t.Fatal(err)
	}
	before := &follow.Reached{Store: s, Local: head, Position: at}
	if has := fmt.Sprint(relationships(t, before)); !strings.Contains(has, "last") || strings.Contains(has, "late") {
		t.Errorf("the store has %s", has)
	}
	theirs.update(t, touch("document:new#viewer@user:alice"))
}

// TestPromoteHalf promotes no copy that is not complete.
func TestPromoteHalf(t *testing.T) {
	w := writer(t, served(t, store.Config{}).uri)
	fill(t, w, 50)
	files := vfs.NewMem()
	config := over(files)
	config.PageSize = 20
	asked := 0
	stop := errors.New("stop")
	a := &failing{authority(t, w.uri, time.Hour), func() error {
		if asked++; asked > 3 {
			return stop
		}
		return nil
	}}
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Load(t.Context()); !errors.Is(err, stop) {
		t.Fatalf("the load ended with %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := follow.Promote("copies", "graph", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("half a copy is promoted: %v", err)
	}
	if _, err := follow.Promote("nowhere", "graph", config.Store, anything); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("nothing is promoted: %v", err)
	}
}
