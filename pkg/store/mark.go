package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
)

// A store may be the copy of something else. The code that keeps it so writes a mark with each of its transactions: bytes that say
// of which state of the original the revision is the copy. The store promises:
//
//   - A mark is in the same batch as the rest of its transaction. After a crash both are there or neither.
//   - A transaction names the mark that it follows. If that is not the newest one it is not committed (ErrMark), so a writer that was not told
//     whether a transaction of its own took place cannot build on the wrong state.
//   - The mark of a revision is that of the newest marked transaction up to it, and can be read for as long as the revision can.
//   - The mark is this directory's. A backup does not take it along, so a store that was restored is not taken for a copy.
//
// What the bytes mean is their writer's. A store without marks is no copy.

// maxMark bounds a mark, in bytes.
const maxMark = 1 << 20

// ErrMark says that the newest mark of a store is not the one that a transaction follows. Nothing of the transaction was written.
var ErrMark = errors.New("store: the newest mark is another one than the transaction follows")

// WriteMarked is ReadWriteTx for a transaction that follows one mark, nil for none, and leaves another. It takes a revision also where nothing
// changes but the mark. Errors: ErrMark.
func (s *Store) WriteMarked(
	ctx context.Context, follows, mark []byte, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption,
) (Revision, error) {
	if len(mark) > maxMark {
		return 0, fmt.Errorf("store: a mark of %d bytes; it may have %d", len(mark), maxMark)
	}
	at, err := s.ReadWriteTx(ctx, func(ctx context.Context, rwt datastore.ReadWriteTransaction) error {
		tx, ok := rwt.(*transaction)
		if !ok {
			return fmt.Errorf("store: a mark in a transaction of type %T", rwt)
		}
		if err := tx.exclusively(func() error { return tx.mark(follows, mark) }); err != nil {
			return err
		}
		return fn(ctx, rwt)
	}, opts...)
	if err != nil {
		return 0, err
	}
	revision, ok := at.(Revision)
	if !ok {
		return 0, fmt.Errorf("store: a commit at a revision of type %T", at)
	}
	return revision, nil
}

// mark writes a mark, if the newest is the one that it follows. That is noted as read, so a mark that is committed meanwhile conflicts.
func (tx *transaction) mark(follows, mark []byte) error {
	value, _, found, err := tx.view.get(recordKey(kindMark, ""))
	switch {
	case err != nil:
		return err
	case found && len(value) == 0:
		return damaged("a malformed mark")
	case found != (follows != nil), found && !bytes.Equal(value[1:], follows):
		return ErrMark
	}
	return tx.setRecord(kindMark, "", encodeRecord(mark))
}

// Mark returns the mark of a revision; found is false if no marked transaction is in it. Errors are those of a datastore.Reader.
func (s *Store) Mark(at Revision) (mark []byte, found bool, err error) {
	r := s.reader(at)
	if r.err != nil {
		return nil, false, r.err
	}
	defer s.shield("reading", &err)
	value, _, found, err := r.view.get(recordKey(kindMark, ""))
	if err != nil || !found {
		return nil, false, err
	}
	if len(value) == 0 {
		return nil, false, damaged("a malformed mark")
	}
	return bytes.Clone(value[1:]), true, nil
}

// Each calls fn with every relationship at a revision, those that have expired and are not collected included: of one type of resource, or
// of all types if it is empty, in the order of their keys. It ends with fn's first error, and returns that. Errors are otherwise those of a datastore.Reader.
func (s *Store) Each(ctx context.Context, at Revision, resourceType string, fn func(tuple.Relationship) error) (err error) {
	if err := checkComponent(resourceType); err != nil {
		return err
	}
	r := s.reader(at)
	if r.err != nil {
		return r.err
	}
	// A reader is kept for a minute, and this may take longer.
	p := pin{at, r.view.now.Unix()}
	if !s.leases.take(p) {
		return datastore.NewInvalidRevisionErr(at, datastore.RevisionStale)
	}
	defer s.leases.give(p)
	defer s.shield("reading", &err)
	prefix := []byte{kindForward}
	if resourceType != "" {
		prefix = appendComponents(prefix, resourceType)
	}
	return r.view.walk([]span{under(prefix, true)}, time.Time{}, func(key []byte, _ Revision, value []byte) error {
		found, err := parseRow(key)
		if err != nil {
			return err
		}
		rel := tuple.Relationship{RelationshipReference: found.reference()}
		if err := readValue(value, &rel); err != nil {
			return err
		}
		if err := fn(rel); err != nil {
			return err
		}
		return ctx.Err()
	})
}
