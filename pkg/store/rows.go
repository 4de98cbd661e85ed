package store

import (
	"context"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// A comparison of a store with another one reads a few relationships at a time, in both directions: those that come next in the order of the keys
// (RowsAfter), and those of some that the other side has named (RowsOf). Both return relationships that have expired and are not collected too.

// RowsAfter returns up to limit relationships of a revision, in the order of their keys: those that come after one, which need not be there itself,
// or the first ones if it is nil. It ends earlier with the one by which they have size bytes; there are none only behind the last one. Errors are those of
// a datastore.Reader.
func (s *Store) RowsAfter(
	ctx context.Context, at Revision, after *tuple.RelationshipReference, limit, size int,
) (found []tuple.Relationship, err error) {
	rows := under([]byte{kindForward}, true)
	if after != nil {
		r, err := rowOf(*after)
		if err != nil {
			return nil, err
		}
		rows.lo = successor(nil, r.forward())
	}
	r := s.reader(at)
	if r.err != nil {
		return nil, r.err
	}
	defer s.shield("reading", &err)
	err = r.view.walk([]span{rows}, time.Time{}, func(key []byte, _ Revision, value []byte) error {
		if len(found) >= limit || len(found) > 0 && size <= 0 {
			return errStop
		}
		parsed, err := parseRow(key)
		if err != nil {
			return err
		}
		rel := tuple.Relationship{RelationshipReference: parsed.reference()}
		if err := readValue(value, &rel); err != nil {
			return err
		}
		found = append(found, rel)
		size -= len(key) + len(value)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// RowsOf returns those of some relationships that are there at a revision. Errors are those of a datastore.Reader.
func (s *Store) RowsOf(ctx context.Context, at Revision, refs []tuple.RelationshipReference) (found []tuple.Relationship, err error) {
	r := s.reader(at)
	if r.err != nil {
		return nil, r.err
	}
	defer s.shield("reading", &err)
	for i := range refs {
		asked, err := rowOf(refs[i])
		if err != nil {
			return nil, err
		}
		value, _, there, err := r.view.get(asked.forward())
		if err != nil {
			return nil, err
		}
		if there {
			rel := tuple.Relationship{RelationshipReference: asked.reference()}
			if err := readValue(value, &rel); err != nil {
				return nil, err
			}
			found = append(found, rel)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}
