package follow_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/follow"
)

// copies lists what is in a follower's directory.
func copies(t testing.TB, files vfs.FS) []string {
	t.Helper()
	names, err := files.List("copies")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestHeld goes on to read a copy that is held after another one has taken its place, and removes it once it is given back.
func TestHeld(t *testing.T) { eachAuthority(t, heldCopy) }

func heldCopy(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	w.update(t, touch("document:old#viewer@user:alice"))
	a := authority(t, w.uri, time.Hour)
	files := vfs.NewMem()
	f := follower(t, over(files), a)
	follows(t, f, a)
	old, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	w.update(t, touch("document:new#viewer@user:alice"))
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := copies(t, files), []string{"copy-1", "copy-2"}; !slices.Equal(got, want) {
		t.Errorf("while the old copy is held there are %v, want %v", got, want)
	}
	if got := relationships(t, old); !slices.Equal(got, []string{"document:old#viewer@user:alice"}) {
		t.Errorf("the old copy has %v", got)
	}
	equal(t, a, old)
	current, err := f.Reached()
	if err != nil {
		t.Fatal(err)
	}
	if got := relationships(t, current); len(got) != 2 {
		t.Errorf("the new copy has %v", got)
	}
	current.Release()
	old.Release()
	old.Release() // does nothing
	if got, want := copies(t, files), []string{"copy-2"}; !slices.Equal(got, want) {
		t.Errorf("once it was given back there are %v, want %v", got, want)
	}
}

// TestOpened: a follower that is opened again has its copy at the position that it has reached, and follows from there without a load. A copy that
// is damaged, or that was removed by hand, is loaded anew.
func TestOpened(t *testing.T) { eachAuthority(t, openedAgain) }

func openedAgain(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	w.update(t, touch("document:plan#viewer@user:alice"))
	a := authority(t, w.uri, time.Hour)
	files := vfs.NewMem()
	reopened := func(loads int) follow.Position {
		t.Helper()
		config := over(files)
		config.Progress = func(follow.Progress) { loads-- }
		f, err := follow.Open(config, a)
		if err != nil {
			t.Fatal(err)
		}
		w.update(t, touch("document:next#viewer@user:alice"), remove("document:plan#viewer@user:alice"))
		at := follows(t, f, a)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.Reached(); err == nil {
			t.Error("a follower that was closed still serves")
		}
		if loads != 0 {
			t.Errorf("%d loads fewer than expected", loads)
		}
		return at
	}
	first := reopened(1)
	second := reopened(0)
	if first.Authority != second.Authority || !second.At.After(first.At) {
		t.Errorf("positions %v and %v", first, second)
	}
	t.Run("damaged", func(t *testing.T) {
		names, err := files.List("copies/copy-1")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "MANIFEST") {
				file, err := files.Create("copies/copy-1/"+name, vfs.WriteCategoryUnspecified)
				if err := errors.Join(err, file.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}
		reopened(1)
	})
	t.Run("removed", func(t *testing.T) {
		if err := files.RemoveAll("copies"); err != nil {
			t.Fatal(err)
		}
		reopened(1)
	})
}

// TestCloseEndsALoad: a follower that is closed does not wait for a load, which goes on when it is opened again.
func TestCloseEndsALoad(t *testing.T) { eachAuthority(t, closeEndsALoad) }

func closeEndsALoad(t *testing.T, database func(testing.TB) string) {
	w := writer(t, database(t))
	fill(t, w, 50)
	a := authority(t, w.uri, time.Hour)
	config := over(vfs.NewMem())
	config.PageSize = 20
	asked, released := make(chan string), make(chan struct{})
	defer close(released)
	f := follower(t, config, &stepped{Authority: a, step: func(what string) {
		select {
		case asked <- what:
		case <-released:
		}
	}})
	done := make(chan error, 1)
	go func() { done <- f.Load(context.Background()) }()
	for range 6 { // the head, the definitions, and twice what has changed and a page
		<-asked
	}
	// The third page is not answered.
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the load ended with %v", err)
	}
	follows(t, follower(t, config, a), a)
}
