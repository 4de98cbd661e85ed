package store

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// TestRows reads a revision page by page and one by one, and gets what Each says that it has: also what has expired, and not what was deleted or
// written since.
func TestRows(t *testing.T) {
	s := opened(t, Config{})
	var updates []tuple.RelationshipUpdate
	for i := range 40 {
		// Ids that begin alike, so that a page may end within.
		updates = append(updates, touch(fmt.Sprintf("document:a%d#reader@user:u%d", i%7, i)), touch(fmt.Sprintf("folder:%d#reader@group:g%d#member", i, i%3)))
	}
	over := tuple.MustWithExpiration(tuple.MustParse("document:a1#reader@user:over"), time.Now().Add(-time.Minute))
	updates = append(updates, tuple.Touch(over), touch(`document:a1#reader@user:c[weekday:{"day":"monday"}]`))
	writesOf(t, s, updates...)
	at := writesOf(t, s, remove("document:a1#reader@user:u1"))
	writesOf(t, s, remove("document:a2#reader@user:u2"), touch("document:a3#reader@user:new"))
	var all []tuple.Relationship
	if err := s.Each(t.Context(), at, "", func(rel tuple.Relationship) error {
		all = append(all, rel)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(all) != 81 {
		t.Fatalf("the revision has %d relationships, want 81", len(all))
	}
	texts := func(all []tuple.Relationship) []string {
		found := make([]string, len(all))
		for i := range all {
			found[i] = tuple.MustString(all[i])
		}
		return found
	}
	for _, limit := range []int{1, 2, 7, 80, 81, 1000} {
		var read []tuple.Relationship
		var after *tuple.RelationshipReference
		for {
			page, err := s.RowsAfter(t.Context(), at, after, limit, plenty)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("a page of %d relationships, want at most %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			read = append(read, page...)
			after = &page[len(page)-1].RelationshipReference
		}
		if got, want := texts(read), texts(all); !slices.Equal(got, want) {
			t.Errorf("in pages of %d:\n%v\nwant\n%v", limit, got, want)
		}
	}
	// From a place at which there is nothing.
	gone := tuple.MustParse("document:a1#reader@user:u1").RelationshipReference
	page, err := s.RowsAfter(t.Context(), at, &gone, 1, plenty)
	if err != nil || len(page) != 1 || page[0].Subject.ObjectID != "u15" {
		t.Errorf("after what was deleted comes %v, %v, want that of u15", page, err)
	}
	asked := []tuple.RelationshipReference{
		gone, tuple.MustParse("document:a3#reader@user:new").RelationshipReference, tuple.MustParse("document:a#reader@user:u1").RelationshipReference,
		over.RelationshipReference, tuple.MustParse("document:a2#reader@user:u2").RelationshipReference,
		tuple.MustParse("document:a1#reader@user:c").RelationshipReference, tuple.MustParse("folder:1#reader@group:g1#member").RelationshipReference,
		tuple.MustParse("folder:1#reader@group:g1").RelationshipReference,
	}
	found, err := s.RowsOf(t.Context(), at, asked)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		tuple.MustString(over), "document:a2#reader@user:u2", `document:a1#reader@user:c[weekday:{"day":"monday"}]`, "folder:1#reader@group:g1#member",
	}
	if got := texts(found); !slices.Equal(got, want) {
		t.Errorf("of those that were asked there are\n%q\nwant\n%q", got, want)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.RowsAfter(ended, at, nil, 10, plenty); err == nil {
		t.Error("a read goes on after its context has ended")
	}
	if _, err := s.RowsOf(ended, at, asked); err == nil {
		t.Error("a read goes on after its context has ended")
	}
	if _, err := s.RowsAfter(t.Context(), at+1<<60, nil, 10, plenty); err == nil {
		t.Error("a revision is read that there is not")
	}
}
