package evaluate

import (
	"sync/atomic"

	"github.com/deputyauth/deputy/pkg/store"
)

// How objects are read: all rows of an object in one scan, if they are few, because most of what a check
// needs of an object lies together. If they are many, a relation is read by itself; if those are many too,
// subjects are looked up one by one, and only usersets are listed.
const (
	// narrowObject and narrowRelation are how many rows are few.
	narrowObject   = 32
	narrowRelation = 64
	// page is how many rows of a wide relation are read at once.
	page = 1024
	// skips is for how many objects, or relations, of a kind that showed a wide one the scan is not tried.
	skips = 16
)

// hint remembers that the last one of a kind that was looked at was wide. It changes what is tried first,
// and no answer.
type hint struct{ left atomic.Int32 }

// narrow reports whether it is worth to try.
func (h *hint) narrow() bool {
	if h.left.Load() <= 0 {
		return true
	}
	h.left.Add(-1)
	return false
}

func (h *hint) sawWide() { h.left.Store(skips) }

// objectKey names an object, and memberKey a relation or permission of one.
type objectKey struct {
	of *objectType
	id string
}

type memberKey struct {
	of *member
	id string
}

// object is what was read of an object.
type object struct {
	// whole says that rows are all rows of it, in the order of their relations.
	whole bool
	rows  []store.Row
	// relations are those of a wide object that were read.
	relations map[*member]relationRows
}

// relationRows are the rows of a relation; none if it is wide.
type relationRows struct {
	rows []store.Row
	wide bool
}

// relation returns the rows of a relation of an object. wide says that they are many, and were not read.
func (w *walk) relation(m *member, id string) (rows []store.Row, wide bool) {
	o := w.object(m.of, id)
	if o.whole {
		first := 0
		for first < len(o.rows) && o.rows[first].Relation != m.name {
			first++
		}
		last := first
		for last < len(o.rows) && o.rows[last].Relation == m.name {
			last++
		}
		return o.rows[first:last], false
	}
	if known, ok := o.relations[m]; ok {
		return known.rows, known.wide
	}
	read := relationRows{wide: true}
	if m.wide.narrow() {
		var err error
		if read.rows, read.wide, err = w.snapshot.Relation(m.of.name, id, m.name, narrowRelation); err != nil {
			w.err = err
		}
		if read.wide {
			m.wide.sawWide()
		}
	}
	if o.relations == nil {
		o.relations = map[*member]relationRows{}
	}
	o.relations[m] = read
	return read.rows, read.wide
}

// object returns what is known of an object; at least whether it is narrow.
func (w *walk) object(t *objectType, id string) *object {
	key := objectKey{t, id}
	if o := w.objects[key]; o != nil {
		return o
	}
	o := &object{}
	if t.wide.narrow() {
		rows, more, err := w.snapshot.Object(t.name, id, narrowObject)
		if err != nil {
			w.err = err
		}
		if o.rows, o.whole = rows, !more; more {
			t.wide.sawWide()
		}
	}
	w.objects[key] = o
	return o
}

// each calls fn with each row of a relation, or with its usersets alone, until it returns false.
func (w *walk) each(m *member, id string, usersets bool, fn func(*store.Row) bool) {
	rows, wide := w.relation(m, id)
	if wide && usersets && !w.failed() {
		// Mostly there are many subjects and few usersets.
		rows, wide, w.err = w.snapshot.Usersets(m.of.name, id, m.name, narrowRelation)
	}
	if !wide {
		visit(rows, usersets, fn)
		return
	}
	var after *store.Row
	for more := true; more && !w.failed(); {
		if rows, more, w.err = w.snapshot.Page(m.of.name, id, m.name, usersets, after, page); w.err != nil || !visit(rows, usersets, fn) {
			return
		}
		if len(rows) > 0 {
			after = &rows[len(rows)-1]
		}
	}
}

// visit calls fn with rows, until it returns false.
func visit(rows []store.Row, usersets bool, fn func(*store.Row) bool) bool {
	for i := range rows {
		if (!usersets || rows[i].SubjectRelation != "") && !fn(&rows[i]) {
			return false
		}
	}
	return true
}
