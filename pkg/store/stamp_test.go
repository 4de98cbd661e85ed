package store

import "testing"

// TestStamps: a write changes what it is of and not what lies beside it, at revisions from its own on; and what was read before
// the store was opened, or at a newer revision, is not known to be unchanged.
func TestStamps(t *testing.T) {
	t.Parallel()
	var s *Store
	var slots [8]uint32
	for distinct := 0; distinct < len(slots); { // by a chance of one in two thousand two of them share a slot
		s = opened(t, Config{})
		seen := map[uint32]bool{}
		for i, r := range []Rows{
			{ObjectType: "document", ID: "a"}, {ObjectType: "document", ID: "a", SubjectType: "user"},
			{ObjectType: "document", ID: "a", Relation: "reader", SubjectType: "user", SubjectID: "alice"},
			{ObjectType: "document", ID: "b"}, {ObjectType: "document", ID: "a", Relation: "reader", SubjectType: "user", SubjectID: "carol"},
			{ObjectType: "document", ID: "a", Relation: "reader", SubjectType: "user", SubjectID: "dave"},
			{ObjectType: "document", ID: "a", SubjectType: "group"},
			{ObjectType: "document", ID: "a", Relation: "reader", SubjectType: "group", SubjectID: "g"},
		} {
			var ok bool
			if slots[i], ok = s.Slot(r); !ok {
				t.Fatalf("%+v cannot be named", r)
			}
			seen[slots[i]] = true
		}
		distinct = len(seen)
	}
	first := writesOf(t, s, touch("document:a#reader@user:alice"), touch("document:b#reader@user:bob"))
	whole, users, alice, beside := slots[:1], slots[1:2], slots[2:3], slots[3:5]
	for _, slots := range [][]uint32{whole, users, alice, beside, nil} {
		if !s.Unchanged(slots, first, first) || s.Unchanged(slots, first+1, first) {
			t.Error("what was read at the head is unchanged there, and what was read after a revision is not known at it")
		}
	}
	if s.Unchanged(whole, first-1, first) {
		t.Error("a write at a revision is not seen from the one before")
	}
	last := first
	for _, step := range []struct {
		text                string
		whole, users, alice bool // unchanged
	}{
		{"document:a#reader@group:g#member", false, true, true},
		{"document:a#reader@user:dave", false, false, true},
		{"document:a#reader@user:alice", false, false, false},
	} {
		update := touch(step.text)
		if !step.alice {
			update = remove(step.text)
		}
		at := writesOf(t, s, update)
		for name, c := range map[string]struct {
			slots []uint32
			want  bool
		}{"the object": {whole, step.whole}, "its users": {users, step.users}, "the row": {alice, step.alice}, "others": {beside, true}} {
			if got := s.Unchanged(c.slots, last, at); got != c.want {
				t.Errorf("after %s, %s: unchanged is %v", step.text, name, got)
			}
			if !s.Unchanged(c.slots, at, at) {
				t.Errorf("after %s, %s was read, and is not unchanged", step.text, name)
			}
		}
		last = at
	}
	for _, r := range []Rows{
		{}, {ObjectType: "document"}, {ID: "a"}, {ObjectType: "document", ID: "a", Relation: "reader"},
		{ObjectType: "document", ID: "a", Relation: "reader", SubjectType: "user"}, {ObjectType: "document", ID: "a", SubjectID: "alice"},
	} {
		if _, ok := s.Slot(r); ok {
			t.Errorf("%+v can be named", r)
		}
	}
}
