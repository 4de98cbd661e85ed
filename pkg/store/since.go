package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
)

// A copy of a store that is kept elsewhere asks for two things: what has changed since the revision that it shows and, when it begins, everything at
// one revision, page by page. The changelog has the changes for as long as the revision can be read.

// ErrNotReached says that a store has never made a revision: it is another store's, or this one was put back to an older state.
var ErrNotReached = errors.New("store: it has never made this revision; the revision is another store's, or this store was put back to an older state")

// ErrTooMany says that more has changed than was asked for.
var ErrTooMany = errors.New("store: more has changed than was asked for")

// Changes are the differences of two revisions of a store. What came and went between them is in neither list.
type Changes struct {
	// To is the later revision: the head when the changes were read.
	To Revision
	// Revisions is how many were made since, To included.
	Revisions int
	// Written are the relationships that To shows and that were written since, in the order of their keys.
	Written []tuple.Relationship
	// Deleted are those that the revision before showed, and that To does not, likewise. They come without caveats and expirations.
	Deleted []tuple.Relationship
	// Types and Caveats are the definitions that To shows and that were written since.
	Types   []*core.NamespaceDefinition
	Caveats []*core.CaveatDefinition
	// Counters are the counters that To shows and that are new, or count something else.
	Counters []datastore.RelationshipCounter
	// DeletedTypes, DeletedCaveats and DeletedCounters name what the revision before showed and To does not, and counters that count something else.
	DeletedTypes, DeletedCaveats, DeletedCounters []string
}

// ChangesSince returns what has changed since a revision that was the head once: at most limit relationships in either list, and at most size bytes in
// all, with what came and went. Where nothing has, it reads nothing. Errors: ErrNotReached, ErrTooMany, and that of a datastore.Reader for a revision
// that was collected.
func (s *Store) ChangesSince(ctx context.Context, from Revision, limit, size int) (_ Changes, err error) {
	if err := s.enter(); err != nil {
		return Changes{}, err
	}
	defer s.leave()
	defer s.shield("reading changes", &err)
	c := Changes{To: s.head.Load().at}
	if from > c.To || from == 0 {
		return Changes{}, ErrNotReached
	}
	if from == c.To {
		return c, nil
	}
	// What the revision shows is read below, and the entries after it are not collected meanwhile.
	p := pin{from, s.config.Now().Unix()}
	if !s.leases.take(p) {
		return Changes{}, datastore.NewInvalidRevisionErr(from, datastore.RevisionStale)
	}
	defer s.leases.give(p)
	changed, err := s.changedKeys(ctx, from, &c, limit, size)
	if err != nil || len(changed) == 0 {
		return c, err
	}
	d := difference{view: view{store: s, at: from}, limit: limit, c: &c}
	for _, key := range slices.Sorted(maps.Keys(changed)) {
		if err := ctx.Err(); err != nil {
			return Changes{}, err
		}
		if err := d.add([]byte(key), changed[key]); err != nil {
			return Changes{}, err
		}
	}
	return c, nil
}

// changedKeys returns the keys that were written after a revision and up to c.To, with what they hold there, and counts the revisions. The revision is
// leased.
func (s *Store) changedKeys(ctx context.Context, from Revision, c *Changes, limit, size int) (_ map[string][]byte, err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: changelogKey(from, 0), UpperBound: changelogKey(c.To+1, 0)})
	if err != nil {
		return nil, s.readFailure(err)
	}
	defer func() {
		if closed := iter.Close(); err == nil && closed != nil {
			err = s.readFailure(closed)
		}
	}()
	gathered := gathering{changed: map[string][]byte{}, most: 2*limit + spareChanges, room: size}
	reached := false
	for valid := iter.First(); valid; valid = iter.Next() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at, chunk, err := parseChangelogKey(iter.Key())
		if err != nil {
			return nil, err
		}
		if at == from {
			reached = true
			continue
		}
		if !reached {
			break
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, s.readFailure(err)
		}
		if chunk == 0 {
			c.Revisions++
			if _, value, err = readHead(value); err != nil {
				return nil, err
			}
		}
		if err := readChanges(value, gathered.add); err != nil {
			return nil, err
		}
	}
	if err := iter.Error(); err != nil {
		return nil, s.readFailure(err)
	}
	if !reached {
		return nil, ErrNotReached
	}
	return gathered.changed, nil
}

// gathering keeps what was written last under each key. What came and went takes room too.
type gathering struct {
	changed map[string][]byte
	// rows is how many of the keys are relationships', and most how many there may be.
	rows, most int
	// room is how many more bytes of keys and values there may be.
	room int
}

func (g *gathering) add(ch change) error {
	if len(ch.key) == 0 {
		return damaged("a change of nothing")
	}
	before, there := g.changed[string(ch.key)]
	if !there {
		if ch.key[0] == kindForward {
			g.rows++
		}
		g.room -= len(ch.key)
	}
	if g.room += len(before) - len(ch.value); g.rows > g.most || g.room < 0 {
		return ErrTooMany
	}
	g.changed[string(ch.key)] = bytes.Clone(ch.value) // the whole of what it stands in would stay in memory with it
	return nil
}

// spareChanges is how many rows may have come and gone besides those that are returned.
const spareChanges = 10_000

// difference compares what was written with what a revision shows.
type difference struct {
	view  view
	limit int
	c     *Changes
}

func (d *difference) add(key, value []byte) error {
	switch key[0] {
	case kindForward:
		return d.relationship(key, value)
	case kindNamespace:
		return addRecord(d, key, value, &d.c.Types, &d.c.DeletedTypes)
	case kindCaveat:
		return addRecord(d, key, value, &d.c.Caveats, &d.c.DeletedCaveats)
	case kindCounter:
		return d.counter(key, value)
	default:
		return nil
	}
}

func (d *difference) relationship(key, value []byte) error {
	to := &d.c.Written
	if isGone(value) {
		to = &d.c.Deleted
		if _, _, found, err := d.view.getBase(key); err != nil || !found {
			return err
		}
	}
	if len(*to) == d.limit {
		return ErrTooMany
	}
	r, err := parseRow(key)
	if err != nil {
		return err
	}
	rel := tuple.Relationship{RelationshipReference: r.reference()}
	if !isGone(value) {
		if err := readValue(value, &rel); err != nil {
			return err
		}
	}
	*to = append(*to, rel)
	return nil
}

func addRecord[D any, P definition[D]](d *difference, key, value []byte, written *[]P, deleted *[]string) error {
	if !isGone(value) {
		read, err := decodeRecord[D, P](value)
		*written = append(*written, read)
		return err
	}
	_, _, found, err := d.view.getBase(key)
	if found {
		*deleted = append(*deleted, recordName(key))
	}
	return err
}

// counter compares filters: a counter's value is written under the same key.
func (d *difference) counter(key, value []byte) error {
	name := recordName(key)
	before, _, found, err := d.view.getBase(key)
	if err != nil {
		return err
	}
	var was, is datastore.RelationshipCounter
	if found {
		if was, err = decodeCounter(name, before); err != nil {
			return err
		}
	}
	if !isGone(value) {
		if is, err = decodeCounter(name, value); err != nil {
			return err
		}
		if found && was.Filter.EqualVT(is.Filter) {
			return nil
		}
		d.c.Counters = append(d.c.Counters, is)
	}
	if found {
		d.c.DeletedCounters = append(d.c.DeletedCounters, name)
	}
	return nil
}

// Page returns up to limit relationships at a revision, those that have expired and are not collected included, in the order of their keys: the
// ones after the place where the page before ended, or the first ones. A page ends earlier with the relationship by which it has size bytes. next is
// where this page ends; it is empty for the last one. A place is text, and holds as long as the revision does. Errors are otherwise those of a
// datastore.Reader.
func (s *Store) Page(ctx context.Context, at Revision, after string, limit, size int) (found []tuple.Relationship, next string, err error) {
	rest := under([]byte{kindForward}, true)
	if after != "" {
		key, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil || !whole(key) || key[0] != kindForward {
			return nil, "", fmt.Errorf("%w: %q", ErrNoPlace, after)
		}
		rest.lo = successor(nil, key)
	}
	r := s.reader(at)
	if r.err != nil {
		return nil, "", r.err
	}
	defer s.shield("reading", &err)
	var last []byte
	err = r.view.walk([]span{rest}, time.Time{}, func(key []byte, _ Revision, value []byte) error {
		if len(found) == limit || len(found) > 0 && size <= 0 {
			next = base64.RawURLEncoding.EncodeToString(last)
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
		found, last = append(found, rel), append(last[:0], key...)
		size -= len(key) + len(value)
		return ctx.Err()
	})
	if err != nil {
		return nil, "", err
	}
	return found, next, nil
}

// ErrNoPlace says that a text is no place where a page ended.
var ErrNoPlace = errors.New("store: it is no place where a page ended")
