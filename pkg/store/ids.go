package store

import (
	"bytes"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
)

// What lookups read: ids alone, in order, from either end of the rows. None of them is kept in memory, because lists are long and
// are seldom read twice. Where many rows in turn are over, that is noted, so that the next list goes on behind them: see voids.go.

// ResourceIDs returns the ids of the objects of a type that have a row with this relation and subject; subjectRelation is empty for
// "...". They are in order, from an id on ("" is the first one), and at most limit. more reports whether others follow. It costs a
// seek, however many other rows there are.
func (sn *Snapshot) ResourceIDs(
	subjectType, subjectRelation, subjectID, objectType, relation, from string, limit int,
) (ids []string, more bool, err error) {
	sn.key = appendComponents(append(sn.key[:0], kindReverse), subjectType, subjectRelation, subjectID, objectType, relation)
	return sn.ids(from, limit, 1)
}

// SubjectIDs returns the ids of the subjects of a kind that a relation of an object names, wildcards included; see ResourceIDs.
func (sn *Snapshot) SubjectIDs(
	objectType, id, relation, subjectType, subjectRelation, from string, limit int,
) (ids []string, more bool, err error) {
	sn.key = appendComponents(append(sn.key[:0], kindForward), objectType, id, relation, subjectType, subjectRelation)
	return sn.ids(from, limit, 1)
}

// ObjectIDs returns the ids of all objects of a type that have rows; see ResourceIDs. It costs a seek or two for each of them,
// however many rows they have.
func (sn *Snapshot) ObjectIDs(objectType, from string, limit int) (ids []string, more bool, err error) {
	sn.key = appendComponents(append(sn.key[:0], kindForward), objectType)
	return sn.ids(from, limit, objectRest)
}

// NamedIDs returns the ids of all subjects of a kind that any row names, wildcards included; see ObjectIDs.
func (sn *Snapshot) NamedIDs(subjectType, subjectRelation, from string, limit int) (ids []string, more bool, err error) {
	sn.key = appendComponents(append(sn.key[:0], kindReverse), subjectType, subjectRelation)
	return sn.ids(from, limit, namedRest)
}

// Relationships returns relationships that a filter selects and that have not expired: at most limit, the ones after a relationship, if it is not nil. They
// are in an order that is fixed for the filter, whether or not that relationship is still there.
func (sn *Snapshot) Relationships(
	f datastore.RelationshipsFilter, after *tuple.Relationship, limit int,
) (found []tuple.Relationship, err error) {
	if sn.store.isClosed() {
		return nil, ErrClosed
	}
	defer sn.store.shield("reading", &err)
	v := view{store: sn.store, at: sn.at, now: sn.now}
	err = v.answer(&query{
		resourceType: f.OptionalResourceType, resourceIDs: f.OptionalResourceIds, resourceIDPrefix: f.OptionalResourceIDPrefix,
		relation: f.OptionalResourceRelation, subjects: f.OptionalSubjectsSelectors,
		caveat: f.OptionalCaveatNameFilter, expiry: f.OptionalExpirationOption,
		order: options.ChooseEfficient, after: after, limit: uint64(max(limit, 1)),
	}, func(rel tuple.Relationship) error { found = append(found, rel); return nil })
	return found, err
}

// objectRest and namedRest are how many components a key has from the id on: that of an object in a forward key, that of a subject in
// a reverse key.
const (
	objectRest = 5
	namedRest  = 4
)

// ids returns what the component after the snapshot's key is in the keys of rows that are there and have not expired: each once, in
// order, from one on, at most limit. rest is how many components such a key has after the snapshot's key.
func (sn *Snapshot) ids(from string, limit, rest int) (ids []string, more bool, err error) {
	it, err := sn.open(&sn.scans)
	if err != nil {
		return nil, false, err
	}
	prefix := len(sn.key)
	sn.key = append(sn.key, from...)
	sn.pass(sn.now)
	text, ends := sn.text[:0], sn.cuts[:0]
	valid := it.SeekGE(sn.key)
	for valid {
		key := it.Key()
		if len(key) < prefix || !bytes.Equal(key[:prefix], sn.key[:prefix]) {
			break
		}
		end, n := component(key, prefix), prefix
		for range rest {
			n = component(key, n) + 1
		}
		at, ok := versionOf(key, n)
		if n > len(key) || !ok {
			return nil, false, damaged("a key that is no row: %q", key)
		}
		if at > sn.at {
			sn.target = appendVersion(append(sn.target[:0], key[:n]...), sn.at)
			valid = it.SeekGE(sn.target)
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, false, sn.store.readFailure(err)
		}
		over, expired, err := isOver(value, sn.now)
		if err != nil {
			return nil, false, err
		}
		if over {
			valid = sn.passage.pass(it.Iterator, key[:n], at, expired)
			continue
		}
		sn.passage.end(key[:n])
		if len(ends) == limit {
			more = true
			break
		}
		text = append(text, key[prefix:end]...)
		ends = append(ends, cut{subjectID: len(text)})
		if rest == 1 {
			valid = sn.nextRow(it, key[:n])
			continue
		}
		// Past all other rows with this id.
		sn.target = append(append(sn.target[:0], key[:end]...), terminator+1)
		valid = it.SeekGE(sn.target)
	}
	sn.text, sn.cuts = text, ends
	if err := it.Error(); err != nil {
		return nil, false, sn.store.readFailure(err)
	}
	if sn.passage.met >= sn.store.voids.long {
		sn.passage.end(end(sn.key[:prefix]))
	}
	ids = make([]string, len(ends))
	all, begin := string(text), 0
	for i, e := range ends {
		ids[i], begin = all[begin:e.subjectID], e.subjectID
	}
	return ids, more, nil
}

// component returns where the component of a key that begins at n ends: at its terminator, or behind the key where it has none.
func component(key []byte, n int) int {
	if n >= len(key) {
		return len(key)
	}
	if i := bytes.IndexByte(key[n:], terminator); i >= 0 {
		return n + i
	}
	return len(key)
}

// nextRow moves to the row after one, whose key without its version is given.
func (sn *Snapshot) nextRow(it *iterator, row []byte) (valid bool) {
	// Its older versions, if there are any, are next.
	sn.target = append(sn.target[:0], row...)
	if valid = it.Next(); valid && bytes.HasPrefix(it.Key(), sn.target) {
		valid = it.NextPrefix()
	}
	return valid
}
