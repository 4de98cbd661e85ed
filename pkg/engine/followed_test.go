package engine

import (
	"testing"

	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/zedtoken"

	"github.com/deputyauth/deputy/pkg/authz"
)

// headOf is the head that an engine says that a store has answered with.
func headOf(t *testing.T, e *Engine, printed string) (authz.Revision, error) {
	t.Helper()
	return e.Head(t.Context(), func() (string, error) { return printed, nil })
}

// TestStoreThatWasLeft: an answer of the store that was followed before, which comes after one of the store that took its place, is refused, and changes
// nothing: tokens of the new store hold, and no head of it lies behind one that was read before.
func TestStoreThatWasLeft(t *testing.T) {
	e := &Engine{followed: &followedStore{}}
	if _, err := headOf(t, e, "100@old"); err != nil {
		t.Fatal(err)
	}
	var first authz.Revision
	_, err := e.Head(t.Context(), func() (string, error) {
		var err error
		if first, err = headOf(t, e, "20@new"); err != nil {
			t.Error(err)
		}
		return "101@old", nil
	})
	if authz.KindOf(err) != authz.Unavailable {
		t.Errorf("the store that was left answers: %v", err)
	}
	if printed, err := e.Printed(first); err != nil || printed != "20@new" {
		t.Errorf("a token of the new store is %q, %v", printed, err)
	}
	if _, err := headOf(t, e, "19@new"); authz.KindOf(err) != authz.Unavailable {
		t.Errorf("the new store goes back behind what was read of it: %v", err)
	}
	if _, err := headOf(t, e, "21@new"); err != nil {
		t.Errorf("the new store goes on: %v", err)
	}
}

// TestStoreThatWasPutBack: a store that was put back to what it was before keeps its id, and its heads are refused until they show what was read or
// acknowledged. One that was restored from a backup has another id, and begins anew: its own tokens hold, and those of before do not.
func TestStoreThatWasPutBack(t *testing.T) {
	e := &Engine{followed: &followedStore{}}
	read, err := headOf(t, e, "100@one")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(printed string) {
		t.Helper()
		if _, err := headOf(t, e, printed); authz.KindOf(err) != authz.Unavailable {
			t.Errorf("the head %s: %v, want that the store is refused", printed, err)
		}
	}
	refused("50@one")
	refused("99@one")
	written, err := zedtoken.NewFromRevision(t.Context(), decimal(120), datalayer.NoSchemaHashInLegacyMode, named("one"))
	if err != nil {
		t.Fatal(err)
	}
	e.followed.wrote(authz.Revision{Token: written.GetToken()})
	refused("100@one")
	refused("119@one")
	if _, err := headOf(t, e, "120@one"); err != nil {
		t.Errorf("the head that shows the write: %v", err)
	}
	restored, err := headOf(t, e, "50@two")
	if err != nil {
		t.Fatalf("a store that was restored: %v", err)
	}
	if err := e.followed.reaches(restored, read); authz.KindOf(err) != authz.OutOfRange {
		t.Errorf("a token of before the restore is a bound: %v", err)
	}
	if err := e.followed.reaches(restored, restored); err != nil {
		t.Errorf("a token of the restored store is no bound: %v", err)
	}
	e.followed.wrote(read) // a write that was under way: it says nothing of the store that answers now
	if _, err := headOf(t, e, "51@two"); err != nil {
		t.Errorf("the restored store goes on: %v", err)
	}
}
