package evaluate

import (
	"maps"
	"sync/atomic"
)

// How objects are read: all rows of an object in one scan, if they are few, because most of what a check
// needs of an object lies together. If they are many, a relation is read by itself; if those are many too,
// subjects are looked up one by one, and only usersets are listed.
const (
	// narrowObject and narrowRelation are how many rows are few.
	narrowObject   = 32
	narrowRelation = 64
	// page is how many rows of a wide relation are read at once.
	page = 256
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

// object is what is known of an object.
type object struct {
	of *objectType
	id string
	// by is a row whose subject it is; nil if it was not reached by one.
	by *Row
	// read says that its rows were tried to be read; whole that rows are all of them, in the order of their
	// relations.
	read, whole bool
	rows        []Row
	// relations are those of a wide object that were read.
	relations []relationRows
	// known is what was found out of its members.
	known []memberKnown
}

type memberKnown struct {
	of *member
	*known
}

// recall returns what is known of a member; nil if that is nothing. They are few.
func (o *object) recall(m *member) *known {
	for _, k := range o.known {
		if k.of == m {
			return k.known
		}
	}
	return nil
}

// relationRows are the rows of a relation; none if it is wide.
type relationRows struct {
	of   *member
	rows []Row
	wide bool
}

// object returns what is known of an object, so far.
func (w *Walk) object(t *objectType, id string) *object {
	key := objectKey{t, id}
	o := w.objects[key]
	if o == nil {
		o = w.newObject()
		o.of, o.id = t, id
		w.hold(1)
		if len(w.objects) == maxMap && w.many != nil {
			maps.Copy(w.many, w.objects)
			w.objects, w.many = w.many, nil
		}
		w.objects[key] = o
	}
	return o
}

// subject returns what is known of the subject of a row, so far.
func (w *Walk) subject(t *objectType, row *Row) *object {
	o := w.object(t, row.SubjectID)
	if !o.read {
		o.by = row
	}
	return o
}

// readObject reads all rows of an object, if they are few.
func (w *Walk) readObject(o *object) {
	o.read = true
	if !o.of.wide.narrow() {
		return
	}
	var rows []Row
	var more bool
	var err error
	if o.by != nil {
		rows, more, err = w.rows.Subject(o.by, narrowObject)
	} else {
		rows, more, err = w.rows.Object(o.of.name, o.id, narrowObject)
	}
	if err != nil {
		w.err = err
	}
	o.by = nil // so that the page that the row is of may go
	w.holdRead(len(rows))
	if o.rows, o.whole = rows, !more; more {
		o.of.wide.sawWide()
	}
}

// relation returns the rows of a relation of an object. wide says that they are many, and were not read.
func (w *Walk) relation(m *member, o *object) (rows []Row, wide bool) {
	if !o.read {
		w.readObject(o)
	}
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
	for i := range o.relations {
		if o.relations[i].of == m {
			return o.relations[i].rows, o.relations[i].wide
		}
	}
	read := relationRows{of: m, wide: true}
	if m.wide.narrow() {
		var err error
		if read.rows, read.wide, err = w.rows.Relation(o.of.name, o.id, m.name, narrowRelation); err != nil {
			w.err = err
		}
		if read.wide {
			m.wide.sawWide()
		}
	}
	w.holdRead(len(read.rows))
	o.relations = append(o.relations, read)
	return read.rows, read.wide
}

// each calls fn with each row of a relation, or with its usersets alone, until it returns false.
func (w *Walk) each(m *member, o *object, usersets bool, fn func(*Row) bool) {
	rows, wide := w.relation(m, o)
	if wide && usersets && !w.failed() {
		// Mostly there are many subjects and few usersets.
		rows, wide, w.err = w.rows.Usersets(o.of.name, o.id, m.name, narrowRelation)
		w.read += 1 + len(rows)
	}
	if !wide {
		visit(rows, usersets, fn)
		return
	}
	var after *Row
	for more := true; more && !w.failed(); {
		if rows, more, w.err = w.rows.Page(o.of.name, o.id, m.name, usersets, after, page); w.err != nil {
			return
		}
		w.beginPage(len(rows))
		on := visit(rows, usersets, fn)
		w.endPage(len(rows))
		if !on {
			return
		}
		if n := len(rows); n > 0 {
			last := rows[n-1] // alone, so that the page may go
			after = &last
		}
	}
}

// visit calls fn with rows, until it returns false.
func visit(rows []Row, usersets bool, fn func(*Row) bool) bool {
	for i := range rows {
		if (!usersets || rows[i].SubjectRelation != "") && !fn(&rows[i]) {
			return false
		}
	}
	return true
}
