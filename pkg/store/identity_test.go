package store

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRename: a store that was given another id has that one, and all that it had; one that is open, or none, gets no other.
func TestRename(t *testing.T) {
	files := vfs.NewMem()
	config := small(Config{FS: files})
	s := must(Open("store", config))(t)
	writesOf(t, s, touch("document:d#reader@user:alice"))
	was := must(s.UniqueID(context.Background()))(t)
	if _, err := Rename("store", config); !errors.Is(err, ErrInUse) {
		t.Errorf("one that is open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	is := must(Rename("store", config))(t)
	if is == was || is == "" {
		t.Errorf("its id is %q, and was %q", is, was)
	}
	s = must(Open("store", config))(t)
	defer func() { _ = s.Close() }()
	if id := must(s.UniqueID(context.Background()))(t); id != is {
		t.Errorf("its id is %q, want %q", id, is)
	}
	if got := atHead(t, s); len(got) != 1 {
		t.Errorf("it has %v", got)
	}
	if _, err := Rename("nothing", config); err == nil {
		t.Error("a directory without a store gets an id")
	}
}
