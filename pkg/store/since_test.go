package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// plenty is more bytes than a test has.
const plenty = 1 << 20

// TestChangesSinceAreTheDifference writes at random, and compares the changes between each two revisions with the difference of what a reader
// sees at either of them.
func TestChangesSinceAreTheDifference(t *testing.T) {
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now})
	rng := rand.New(rand.NewPCG(5, 6))
	at := func(r Revision) map[string]string {
		all := map[string]string{}
		if err := s.Each(t.Context(), r, "", func(rel tuple.Relationship) error {
			all[tuple.StringWithoutCaveatOrExpiration(rel)] = tuple.MustString(rel)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	revisions := []Revision{headOf(t, s)}
	for range 60 {
		var updates []tuple.RelationshipUpdate
		for _, n := range rng.Perm(12)[:1+rng.IntN(4)] {
			rel := fmt.Sprintf("document:d%d#reader@user:alice", n)
			switch rng.IntN(4) {
			case 0, 1:
				updates = append(updates, remove(rel))
			case 2:
				updates = append(updates, touch(rel))
			default:
				updates = append(updates, expiring(rel, time.Date(2900, 1, 1, 0, 0, rng.IntN(3), 0, time.UTC)))
			}
		}
		clock.move(time.Second)
		writesOf(t, s, updates...)
		revisions = append(revisions, headOf(t, s))
		from := revisions[rng.IntN(len(revisions))]
		c := must(s.ChangesSince(t.Context(), from, 100, plenty))(t)
		before, after := at(from), at(c.To)
		if c.To != headOf(t, s) {
			t.Fatalf("the changes lead to %d, and the head is %d", c.To, headOf(t, s))
		}
		if want := len(revisions) - 1 - slices.Index(revisions, from); c.Revisions != want {
			t.Fatalf("%d revisions, want %d", c.Revisions, want)
		}
		applied := maps.Clone(before)
		for _, rel := range c.Deleted {
			name := tuple.StringWithoutCaveatOrExpiration(rel)
			if _, there := before[name]; !there {
				t.Fatalf("%s is deleted, and was not there", name)
			}
			delete(applied, name)
		}
		for _, rel := range c.Written {
			applied[tuple.StringWithoutCaveatOrExpiration(rel)] = tuple.MustString(rel)
		}
		if !maps.Equal(applied, after) {
			t.Fatalf("from %d the changes lead to\n%v\nand there is\n%v", from, applied, after)
		}
	}
}

// TestChangesSinceRefuses what it cannot tell: since a revision that the store has not made, or that was collected, and more than was asked for.
func TestChangesSinceRefuses(t *testing.T) {
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now, Retention: time.Minute})
	clock.move(time.Second)
	first := writesOf(t, s, touch("document:d#reader@user:alice"))
	second := writesOf(t, s, touch("document:d#reader@user:bob"), touch("document:d#reader@user:carol"))
	for name, c := range map[string]struct {
		from        Revision
		limit, size int
		want        error
	}{
		"none": {0, 10, plenty, ErrNotReached}, "the future": {second + 1, 10, plenty, ErrNotReached}, "between two": {first - 1, 10, plenty, ErrNotReached},
		"too many": {first, 1, plenty, ErrTooMany}, "too many bytes": {first, 10, 40, ErrTooMany},
	} {
		if _, err := s.ChangesSince(t.Context(), c.from, c.limit, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if c := must(s.ChangesSince(t.Context(), first, 2, 120))(t); len(c.Written) != 2 {
		t.Errorf("%d written, want 2", len(c.Written))
	}
	clock.move(10 * time.Minute)
	third := writesOf(t, s, touch("document:d#reader@user:dave"))
	if _, err := s.ChangesSince(t.Context(), second, 10, plenty); err != nil {
		t.Errorf("before a collection: %v", err)
	}
	clock.move(time.Second)
	collects(t, s)
	var stale datastore.InvalidRevisionError
	if _, err := s.ChangesSince(t.Context(), second, 10, plenty); !errors.As(err, &stale) || stale.Reason() != datastore.RevisionStale {
		t.Errorf("after a collection: %v", err)
	}
	if c, err := s.ChangesSince(t.Context(), third, 10, plenty); err != nil || c.To != third {
		t.Errorf("since the head: %v", err)
	}
}

// TestChangesSinceASnapshotOfTheDisk: a store that was put back to what it was before does not take its old revisions for made.
func TestChangesSinceASnapshotOfTheDisk(t *testing.T) {
	clock := newTestClock()
	files := vfs.NewCrashableMem()
	s := opened(t, Config{FS: files, Now: clock.Now})
	writesOf(t, s, touch("document:d#reader@user:alice"))
	before := files.CrashClone(vfs.CrashCloneCfg{})
	clock.move(time.Second)
	lost := writesOf(t, s, touch("document:d#reader@user:bob"))
	back := must(Open("store", small(Config{FS: before, Now: clock.Now})))(t)
	defer func() { _ = back.Close() }()
	if _, err := back.ChangesSince(t.Context(), lost, 10, plenty); !errors.Is(err, ErrNotReached) {
		t.Errorf("behind its head: %v", err)
	}
	clock.move(time.Second)
	writesOf(t, back, touch("document:d#reader@user:carol"))
	if _, err := back.ChangesSince(t.Context(), lost, 10, plenty); !errors.Is(err, ErrNotReached) {
		t.Errorf("once it has gone on: %v", err)
	}
}

// TestPages: all pages of a revision are what a reader sees there, whatever is written meanwhile, and go on at a place in a store that was opened
// again.
func TestPages(t *testing.T) {
	files := vfs.NewMem()
	s := must(Open("store", small(Config{FS: files})))(t)
	var updates []tuple.RelationshipUpdate
	for i := range 25 {
		updates = append(updates, touch(fmt.Sprintf("document:d%d#reader@user:u%d", i%7, i)))
	}
	writesOf(t, s, updates...)
	writesOf(t, s, remove("document:d1#reader@user:u1"))
	at := headOf(t, s)
	want := everything(t, s.SnapshotReader(at))
	var got []string
	next, pages := "", 0
	for {
		found, after, err := s.Page(context.Background(), at, next, 7, plenty)
		if err != nil {
			t.Fatal(err)
		}
		for _, rel := range found {
			got = append(got, tuple.MustString(rel))
		}
		if pages++; pages == 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open("store", small(Config{FS: files})))(t)
		}
		writesOf(t, s, touch(fmt.Sprintf("document:d%d#reader@user:new", pages)), remove(fmt.Sprintf("document:d%d#reader@user:u6", pages)))
		if next = after; next == "" {
			break
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || pages != 4 {
		t.Errorf("%d pages have\n%v\nwant\n%v", pages, got, want)
	}
}

// TestLargePages: a page ends with the relationship by which it has as many bytes as it may, and has one at least.
func TestLargePages(t *testing.T) {
	s := opened(t, Config{})
	long := strings.Repeat("x", 1000)
	for i := range 12 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d-%s#reader@user:u", i, long)))
	}
	for _, c := range []struct{ size, want int }{{0, 1}, {1, 1}, {900, 1}, {2500, 3}, {plenty, 5}} {
		rows, err := s.RowsAfter(t.Context(), headOf(t, s), nil, 5, c.size)
		if err != nil || len(rows) != c.want {
			t.Errorf("%d rows of %d bytes, %v; want %d", len(rows), c.size, err, c.want)
		}
		next, seen := "", 0
		for {
			found, after, err := s.Page(t.Context(), headOf(t, s), next, 5, c.size)
			if err != nil {
				t.Fatal(err)
			}
			if seen += len(found); len(found) > c.want || after != "" && len(found) < c.want {
				t.Errorf("a page of %d bytes has %d relationships, want %d", c.size, len(found), c.want)
			}
			if next = after; next == "" {
				break
			}
		}
		if seen != 12 {
			t.Errorf("pages of %d bytes have %d relationships, want 12", c.size, seen)
		}
	}
}
