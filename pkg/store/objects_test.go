package store

import (
	"fmt"
	"hash/maphash"
	"testing"
)

// TestDoor: what is asked for again and again stays, however much is asked for once; and while there is room
// everything is kept at once.
func TestDoor(t *testing.T) {
	t.Parallel()
	o := &objects{seed: maphash.MakeSeed(), limit: keptBytes / objectShards}
	s := &o.shards[0]
	ask := func(key string) (found bool) {
		if _, found = o.get(s, []byte(key), 1); !found {
			o.put(s, []byte(key), kept{from: 1, rows: []Row{{Relation: "viewer", SubjectType: "user", SubjectID: key}}})
		}
		return found
	}
	const often = 100
	for i := range often {
		ask(fmt.Sprint("often", i))
	}
	for i := range often {
		if !ask(fmt.Sprint("often", i)) {
			t.Fatalf("with room for it, number %d is not kept at once", i)
		}
	}
	const once = 100_000
	missed, full := 0, false
	for i := range once {
		ask(fmt.Sprint("once", i))
		full = full || s.size > keptBytes/objectShards/2
		if i%10 == 0 && !ask(fmt.Sprint("often", i/10%often)) {
			missed++
		}
		if s.size > keptBytes/objectShards {
			t.Fatalf("the shard has %d bytes", s.size)
		}
	}
	if !full || missed > once/10/5 {
		t.Errorf("of what is asked for again and again %d were missed; the shard was full: %v", missed, full)
	}
	asked := 0
	for !ask("again") {
		if asked++; asked > 2 {
			t.Fatal("what is asked for again is not let in")
		}
	}
}
