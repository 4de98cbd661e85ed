//go:build unix

package chaos

import (
	"slices"
	"testing"
)

// TestModel shows which answers the model takes for stale, and which writes for lost.
func TestModel(t *testing.T) {
	m := newModel(1)
	write := func(mark string) *object {
		o, _ := m.writes(0)
		m.acknowledged(o, mark)
		return o
	}
	wants := func(q question, granted, stale bool) {
		t.Helper()
		if got := m.stale(q, granted); got != stale {
			t.Errorf("of an answer %t to a question asked at version %d of %v the model says %t", granted, q.acked, q.o.grants, got)
		}
	}
	o := write("first")
	q := m.asks(o)
	wants(q, true, false)
	wants(q, false, true)
	m.writes(0) // under way: either is good
	wants(q, true, false)
	wants(q, false, false)
	m.acknowledged(o, "second")
	wants(q, true, false) // it was asked before
	wants(m.asks(o), true, true)
	wants(m.asks(o), false, false)

	// Another history takes the second write back.
	before := m.asks(o)
	m.darken()
	wants(before, false, false)
	wants(before, true, false)
	if stale := m.begins([]string{o.name}); stale != 0 {
		t.Errorf("%d answers are stale that are those of the history that began", stale)
	}
	if lost := m.lost([]string{"first"}); !slices.Equal(lost, []string{"second"}) {
		t.Errorf("lost are %v, want the second", lost)
	}
	wants(before, false, false) // asked before, answered after: as it was, or as it is
	wants(m.asks(o), false, true)
	wants(m.asks(o), true, false)
	m.darken()
	wants(m.asks(o), false, false)
	if stale := m.begins([]string{o.name}); stale != 1 {
		t.Errorf("%d answers are stale, want the one that no history explains", stale)
	}

	// Nothing is known of an object whose write has no known end.
	m.writes(0)
	m.unknown(0)
	wants(question{o, 0, m.history}, false, false)
	if m.any() == o {
		t.Error("an object of which nothing is known is still asked about")
	}
}
