package kept

import (
	"slices"
	"sync"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/evaluate"
)

// memory holds the questions of one call in the words of the evaluator, and their answers. Another call uses it again, because a lookup asks about very
// many objects, a batch of them at a time.
type memory struct {
	checks    []evaluate.Check
	answers   []evaluate.Answer
	resources []tuple.ObjectAndRelation
	listings  []evaluate.Listing
}

// maxMemory is how many checks, or resources, memory has had room for that is used again.
const maxMemory = 1 << 12

// memories are empty.
var memories = sync.Pool{New: func() any { return new(memory) }}

// newMemory returns empty memory. It has to be given back once nothing in it is needed any more.
func newMemory() *memory {
	m, _ := memories.Get().(*memory)
	return m
}

// giveBack empties the memory, so that it holds nothing of the caller's.
func (m *memory) giveBack() {
	if max(cap(m.checks), cap(m.answers), cap(m.resources), cap(m.listings)) > maxMemory {
		return
	}
	m.checks, m.answers = empty(m.checks), empty(m.answers)
	m.resources, m.listings = empty(m.resources), empty(m.listings)
	memories.Put(m)
}

// empty empties a slice, and keeps its room.
func empty[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// sized returns n empty values in place of those of an empty slice.
func sized[T any](s []T, n int) []T { return slices.Grow(s, n)[:n] }
