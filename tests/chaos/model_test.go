//go:build unix

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
)

// model is what was acknowledged. It is safe for concurrent use.
type model struct {
	mu sync.Mutex
	// live are the objects that are written to and asked about. One belongs to one writer at a time.
	live []*object
	made int
	// marks are the names of the writes that were acknowledged: each leaves a relationship of that name behind.
	marks []string
	// history counts failovers. While dark is set, the history that the database shows is about to be another one, and answers of both are good;
	// those that the old one does not explain wait in pending until the new one is known.
	history int
	dark    bool
	pending []claim
}

// object is a document that somebody may or may not view.
type object struct {
	name string
	// grants says of each version whether it grants. The first is that of before any write in this history, and acked the newest that was acknowledged.
	grants []bool
	acked  int
	// before is what grants was in the history before.
	before []bool
	// open says that a write to it has no known end, so that nothing is known of it.
	open bool
}

// claim is what an answer says of an object.
type claim struct {
	o       *object
	granted bool
}

// question is one that was asked, with what was acknowledged by then.
type question struct {
	o             *object
	acked, during int
}

func newModel(objects int) *model {
	m := &model{}
	for range objects {
		m.live = append(m.live, m.another())
	}
	return m
}

func (m *model) another() *object {
	m.made++
	return &object{name: fmt.Sprintf("o%d", m.made), grants: []bool{false}}
}

// any returns one of the objects.
func (m *model) any() *object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live[rand.IntN(len(m.live))]
}

// writes notes that a write begins, and returns its object and whether it grants: the opposite of what was.
func (m *model) writes(index int) (o *object, grant bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o = m.live[index]
	grant = !o.grants[len(o.grants)-1]
	o.grants = append(o.grants, grant)
	return o, grant
}

// acknowledged notes that the write that has begun to an object was acknowledged.
func (m *model) acknowledged(o *object, mark string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.acked = len(o.grants) - 1
	m.marks = append(m.marks, mark)
}

// unknown notes that the write that has begun has no known end: another object takes the place of its own.
func (m *model) unknown(index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live[index].open = true
	m.live[index] = m.another()
}

// asks notes what is acknowledged when a question is asked.
func (m *model) asks(o *object) question {
	m.mu.Lock()
	defer m.mu.Unlock()
	return question{o, o.acked, m.history}
}

// stale reports whether an answer, which has just come, is older than what was acknowledged when it was asked for.
func (m *model) stale(q question, granted bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case q.o.open:
		return false
	case q.during != m.history: // it was asked in the dark
		return !slices.Contains(q.o.before[q.acked:], granted) && !slices.Contains(q.o.grants, granted)
	case slices.Contains(q.o.grants[q.acked:], granted):
		return false
	case m.dark:
		m.pending = append(m.pending, claim{q.o, granted})
		return false
	default:
		return true
	}
}

// lost returns the marks that are not among those that are there, and forgets them.
func (m *model) lost(there []string) (lost []string) {
	is := map[string]bool{}
	for _, mark := range there {
		is[mark] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marks = slices.DeleteFunc(m.marks, func(mark string) bool {
		if !is[mark] {
			lost = append(lost, mark)
		}
		return !is[mark]
	})
	return lost
}

// darken says that another history is about to begin. No write may be under way.
func (m *model) darken() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dark = true
}

// begins says that another history has begun, in which only these objects are granted. It returns how many answers of the time between neither history
// explains.
func (m *model) begins(granted []string) (stale int) {
	is := map[string]bool{}
	for _, name := range granted {
		is[name] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.live {
		o.before, o.grants, o.acked = o.grants, []bool{is[o.name]}, 0
	}
	for _, c := range m.pending {
		if !c.o.open && c.granted != is[c.o.name] {
			stale++
		}
	}
	m.history++
	m.dark, m.pending = false, nil
	return stale
}
