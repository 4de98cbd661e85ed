package store

import (
	"bytes"
	"container/heap"
	"errors"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
)

// yielder is given one relationship after the other, until it returns false.
type yielder func(tuple.Relationship, error) bool

// run answers a query.
func (v *view) run(q *query, yield yielder) {
	err := v.answer(q, func(rel tuple.Relationship) error {
		if !yield(rel, nil) {
			return errStop
		}
		return nil
	})
	if err != nil {
		yield(tuple.Relationship{}, err)
	}
}

// answer calls emit with each relationship of the query's answer. It ends early if emit returns errStop.
func (v *view) answer(q *query, emit func(tuple.Relationship) error) error {
	p, err := v.plan(q)
	if err != nil {
		return err
	}
	if !p.sorted {
		return v.ranked(q, p, emit)
	}
	if len(p.spans) > 0 {
		if p.spans, err = clip(q, p.spans); err != nil {
			return err
		}
	}
	left := q.limit
	return v.walk(p.spans, v.moment(q), func(key []byte, _ Revision, value []byte) error {
		rel, ok, err := v.read(q, key, value)
		if err != nil || !ok {
			return err
		}
		if err := emit(rel); err != nil {
			return err
		}
		if left > 0 {
			if left--; left == 0 {
				return errStop
			}
		}
		return nil
	})
}

// moment is when rows have expired for a query: the zero moment, at which none have, if it asks for those too.
func (v *view) moment(q *query) time.Time {
	if q.expired {
		return time.Time{}
	}
	return v.now
}

// read makes a relationship of a row; ok is false if the query does not ask for it.
// Caveats and expirations are always read, whatever a query says that it can do without: SpiceDB skips
// them where one relation admits a type with them and the same type's relation without.
func (v *view) read(q *query, key, value []byte) (rel tuple.Relationship, ok bool, err error) {
	r, err := parseRow(key)
	if err != nil {
		return rel, false, err
	}
	rel.RelationshipReference = r.reference()
	if err := readValue(value, &rel); err != nil {
		return rel, false, err
	}
	return rel, q.selects(&rel), nil
}

// hasExpired reports whether something that expires at a time, or never, has expired.
func (v *view) hasExpired(at *time.Time) bool { return at != nil && !at.After(v.now) }

// clip cuts off what the query's cursors exclude from spans that are walked in the query's order.
func clip(q *query, spans []span) ([]span, error) {
	forward := spans[0].lo[0] == kindForward
	after, err := cursorKey(q.after, forward)
	if err != nil {
		return nil, err
	}
	before, err := cursorKey(q.before, forward)
	if err != nil {
		return nil, err
	}
	var out []span
	for _, s := range spans {
		if after != nil && bytes.Compare(s.lo, after) <= 0 {
			s.lo = end(after)
		}
		if before != nil && bytes.Compare(before, s.hi) < 0 {
			s.hi = end(before)
		}
		if bytes.Compare(s.lo, s.hi) < 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

// cursorKey returns the key of a cursor's row, or nil if there is no cursor.
func cursorKey(c options.Cursor, forward bool) ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	r, err := rowOf(c.RelationshipReference)
	if err != nil {
		return nil, err
	}
	if forward {
		return r.forward(), nil
	}
	return r.appendReverse(nil), nil
}

// ranked answers a query whose order is not that of the keys: it reads all that the cursors admit, keeps
// the first of them, up to the limit, and then puts them in order. A span that is ordered in itself is
// left once it has given as many as the limit.
func (v *view) ranked(q *query, p plan, emit func(tuple.Relationship) error) error {
	byResource := q.order == options.ByResource
	after, err := cursorKey(q.after, byResource)
	if err != nil {
		return err
	}
	before, err := cursorKey(q.before, byResource)
	if err != nil {
		return err
	}
	best := &ranking{byResource: byResource, limit: q.limit, after: after, before: before}
	for _, s := range p.spans {
		if s.ordered && q.after != nil {
			s.lo = resume(s, q.after)
		}
		taken := uint64(0)
		err := v.walk([]span{s}, v.moment(q), func(key []byte, _ Revision, value []byte) error {
			rank, admitted, err := best.admits(key)
			if err != nil || !admitted {
				return err
			}
			rel, ok, err := v.read(q, key, value)
			if err != nil || !ok {
				return err
			}
			best.add(rank, rel)
			if taken++; s.ordered && taken == q.limit {
				return errStop
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, rel := range best.sorted() {
		if err := emit(rel); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// resume returns where an ordered span of one subject, resource type and relation goes on after a cursor
// into that type and relation: at its resource. All other spans are read from their beginning.
func resume(s span, after options.Cursor) []byte {
	about := appendComponents([]byte{terminator}, after.Resource.ObjectType, after.Resource.Relation)
	if s.lo[0] != kindReverse || !bytes.HasSuffix(s.lo, about) {
		return s.lo
	}
	return append(bytes.Clone(s.lo), after.Resource.ObjectID...)
}

// rankedRow is a relationship with the key that it is ordered by.
type rankedRow struct {
	rank []byte
	rel  tuple.Relationship
}

// ranking keeps the first relationships of an order, up to a limit. It is a heap with the last one on top.
type ranking struct {
	byResource    bool
	limit         uint64 // 0 means none
	after, before []byte // nil means from the beginning, to the end
	rows          []rankedRow
}

// admits returns the key that a row is ordered by, and whether the cursors admit it.
func (r *ranking) admits(key []byte) (rank []byte, admitted bool, err error) {
	row, err := parseRow(key)
	if err != nil {
		return nil, false, err
	}
	if r.byResource {
		rank = row.forward()
	} else {
		rank = row.appendReverse(nil)
	}
	return rank, (r.after == nil || bytes.Compare(rank, r.after) > 0) && (r.before == nil || bytes.Compare(rank, r.before) <= 0), nil
}

// add adds a relationship, and drops the last one if there are more than the limit.
func (r *ranking) add(rank []byte, rel tuple.Relationship) {
	heap.Push(r, rankedRow{rank: rank, rel: rel})
	if r.limit > 0 && uint64(len(r.rows)) > r.limit {
		heap.Pop(r)
	}
}

// sorted returns what was kept, in order, and empties the ranking.
func (r *ranking) sorted() []tuple.Relationship {
	slices.SortFunc(r.rows, func(a, b rankedRow) int { return bytes.Compare(a.rank, b.rank) })
	sorted := make([]tuple.Relationship, len(r.rows))
	for i, row := range r.rows {
		sorted[i] = row.rel
	}
	r.rows = nil
	return sorted
}

// Len is heap.Interface's.
func (r *ranking) Len() int { return len(r.rows) }

// Less is heap.Interface's.
func (r *ranking) Less(i, j int) bool { return bytes.Compare(r.rows[i].rank, r.rows[j].rank) > 0 }

// Swap is heap.Interface's.
func (r *ranking) Swap(i, j int) { r.rows[i], r.rows[j] = r.rows[j], r.rows[i] }

// Push is heap.Interface's.
func (r *ranking) Push(x any) {
	if row, ok := x.(rankedRow); ok {
		r.rows = append(r.rows, row)
	}
}

// Pop is heap.Interface's.
func (r *ranking) Pop() any {
	last := r.rows[len(r.rows)-1]
	r.rows = r.rows[:len(r.rows)-1]
	return last
}

// checkCursor refuses a cursor into an order that the query leaves open.
func (q *query) checkCursor() error {
	if (q.after != nil || q.before != nil) && q.order == options.Unsorted {
		return datastore.ErrCursorsWithoutSorting
	}
	return nil
}
