package store

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
)

// Snapshot is the store at one revision and one moment, for code that reads many small things in a row: it holds
// open what a datastore.Reader opens for each call, and has to be closed. Objects that were read before are
// not read again as long as nothing of them was written, see objects.go. It is not safe for concurrent use.
//
// Rows that it returns are shared, and must not be changed.
type Snapshot struct {
	store *Store
	at    Revision
	now   time.Time
	pin   pin
	// until is what Until says.
	until time.Time
	// scans walks ranges, points looks up whole keys; each is opened when it is first needed.
	scans, points *iterator

	key, target []byte
	passage     passage
	// found gathers the rows of one scan; text is what they are cut out of, and cuts says where.
	found []Row
	text  []byte
	cuts  []cut
}

// cut says where in a key, or in a text, the parts of a row end.
type cut struct {
	object, relation, subjectType, subjectRelation, subjectID int
}

// Row is a relationship of an object, as far as the object does not say it. It is an alias of a struct without a name, so that
// a package that reads rows can declare what it needs of a snapshot by itself: the same struct elsewhere is the same type.
type Row = struct {
	Relation    string
	SubjectType string
	// SubjectRelation is empty where SpiceDB says "...".
	SubjectRelation string
	SubjectID       string
	// Caveat is the name of its caveat; empty if there is none.
	Caveat string
	// Context is what was written with the caveat: JSON values.
	Context map[string]any
	// ExpiresAt is zero if it does not expire. What has expired at the snapshot's moment is no row.
	ExpiresAt time.Time
	// Link leads to the rows of its subject: an *atomic.Pointer[link] if the row is kept, which is nil until they were read; see
	// Snapshot.Subject. Nobody else looks at it.
	Link any
}

func expired(r *Row, now time.Time) bool { return !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now) }

// snapshots keeps what closed snapshots read with.
var snapshots = sync.Pool{New: func() any { return new(Snapshot) }}

// Snapshot opens a snapshot. Errors are those of a datastore.Reader: the revision is in the future or has
// left the window, or the store is closed.
func (s *Store) Snapshot(at Revision) (*Snapshot, error) { return s.SnapshotOf(at, time.Time{}) }

// SnapshotOf is Snapshot, with the moment at which relationships have expired or not; zero stands for now. What has expired is kept for as long as
// revisions are.
func (s *Store) SnapshotOf(at Revision, moment time.Time) (*Snapshot, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	if err := s.checkRevision(at, s.readGrace()); err != nil {
		s.leave()
		return nil, err
	}
	now := s.config.Now()
	p := pin{at, now.Unix()}
	if !s.leases.take(p) {
		s.leave()
		return nil, datastore.NewInvalidRevisionErr(at, datastore.RevisionStale)
	}
	sn, _ := snapshots.Get().(*Snapshot)
	sn.store, sn.at, sn.now, sn.pin = s, at, now, p
	if !moment.IsZero() {
		sn.now = moment
	}
	return sn, nil
}

// Revision is what the snapshot shows.
func (sn *Snapshot) Revision() Revision { return sn.at }

// Now is the moment at which relationships have expired or not.
func (sn *Snapshot) Now() time.Time { return sn.now }

// Until is when the first of the rows expires that Object, Subject, OfSubjectType, Relation, Usersets, Page and Find have returned or looked
// through so far; zero where none of them does. Until then they return the same, at this revision.
func (sn *Snapshot) Until() time.Time { return sn.until }

// Close ends the snapshot, once; nothing may be asked of it afterwards. What went wrong was said by the read
// that it belongs to.
func (sn *Snapshot) Close() {
	for _, it := range []*iterator{sn.scans, sn.points} {
		if it != nil {
			_ = sn.store.giveBack(*it)
		}
	}
	s := sn.store
	s.leases.give(sn.pin)
	clear(sn.found)
	*sn = Snapshot{
		key: sn.key[:0], target: sn.target[:0], passage: passage{lo: sn.passage.lo, past: sn.passage.past},
		found: sn.found[:0], text: sn.text[:0], cuts: sn.cuts[:0],
	}
	snapshots.Put(sn)
	s.leave()
}

// open returns an iterator, which it opens if it has to.
func (sn *Snapshot) open(it **iterator) (*iterator, error) {
	if sn.store.isClosed() {
		return nil, ErrClosed
	}
	if *it == nil {
		opened, err := sn.store.iterator(sn.at)
		if err != nil {
			return nil, sn.store.readFailure(err)
		}
		opened.SetBounds(nil, nil)
		*it = &opened
	}
	return *it, nil
}

// Object returns the rows of an object, if there are not more than a limit. more reports whether there are
// more; then none are returned.
func (sn *Snapshot) Object(objectType, id string, limit int) (rows []Row, more bool, err error) {
	n := sn.object(objectType, id)
	k, more, err := sn.kept(n, n, "", selection{limit: limit})
	return k.rows, more, err
}

// Subject is Object for the subject of a row that the snapshot, or another one, returned. It costs next to nothing if
// both are kept.
func (sn *Snapshot) Subject(r *Row, limit int) (rows []Row, more bool, err error) {
	if sn.store.isClosed() {
		return nil, false, ErrClosed
	}
	of, linked := r.Link.(*atomic.Pointer[link])
	if linked {
		if l := of.Load(); l != nil {
			if to := l.rows(sn.at); to != nil && (limit == 0 || len(to.rows) <= limit) {
				return sn.live(kept{rows: to.rows, expires: to.expires}).rows, false, nil
			}
		}
	}
	n := sn.object(r.SubjectType, r.SubjectID)
	k, more, err := sn.kept(n, n, "", selection{limit: limit})
	if linked && k.link != nil && k.link.rows(sn.at) != nil {
		of.Store(k.link)
	}
	return k.rows, more, err
}

// OfSubjectType returns the rows of an object whose subject is of a type. It costs a seek or two for each relation,
// however many other rows there are.
func (sn *Snapshot) OfSubjectType(objectType, id, subjectType string) ([]Row, error) {
	n := sn.object(objectType, id)
	k, _, err := sn.kept(n, n, keptSubjectType+subjectType, selection{subjectType: subjectType})
	return k.rows, err
}

// Relation returns the rows of one relation of an object, if there are not more than a limit. more reports
// whether there are more; then none are returned.
func (sn *Snapshot) Relation(objectType, id, relation string, limit int) (rows []Row, more bool, err error) {
	n := sn.object(objectType, id)
	sn.key = appendComponents(sn.key, relation)
	k, more, err := sn.kept(n, len(sn.key), "", selection{limit: limit})
	return k.rows, more, err
}

// Usersets returns those rows of a relation whose subject has a relation, if there are not more than a limit;
// see Relation. It costs a seek for each type of subject, however many other rows there are.
func (sn *Snapshot) Usersets(objectType, id, relation string, limit int) (rows []Row, more bool, err error) {
	n := sn.object(objectType, id)
	sn.key = appendComponents(sn.key, relation)
	k, more, err := sn.kept(n, len(sn.key), keptUsersets, selection{limit: limit, usersets: true})
	return k.rows, more, err
}

// Page returns up to a limit of the rows of a relation, or of its usersets alone: those after a row, if it is
// not nil. more reports whether there are others.
func (sn *Snapshot) Page(objectType, id, relation string, usersets bool, after *Row, limit int) (rows []Row, more bool, err error) {
	n := sn.object(objectType, id)
	sn.key = appendComponents(sn.key, relation)
	prefix := len(sn.key)
	if after != nil {
		// The first key after all versions of the row.
		sn.key = appendComponents(sn.key, after.SubjectType, after.SubjectRelation, after.SubjectID)
		sn.key[len(sn.key)-1]++
	}
	more, err = sn.scan(n, prefix, selection{limit: limit, usersets: usersets, live: true})
	sn.note(sn.found)
	return slices.Clone(sn.found), more, err
}

// object makes the beginning of an object's keys the snapshot's key, and returns its length.
func (sn *Snapshot) object(objectType, id string) int {
	sn.key = appendComponents(append(sn.key[:0], kindForward), objectType, id)
	return len(sn.key)
}

// kept returns the rows that begin with the snapshot's key: from what is kept under it and a suffix, or read.
func (sn *Snapshot) kept(object, prefix int, suffix string, which selection) (k kept, more bool, err error) {
	if sn.store.isClosed() {
		return kept{}, false, ErrClosed
	}
	shard := sn.store.objects.shard(sn.key[:object])
	sn.key = append(sn.key, suffix...)
	if k, ok := sn.store.objects.get(shard, sn.key, sn.at); ok {
		if more, ok := k.serves(which.limit); ok && more {
			return kept{}, true, nil
		} else if ok {
			return sn.live(k), false, nil
		}
	}
	sn.key = sn.key[:prefix]
	if more, err = sn.scan(object, prefix, which); err != nil {
		return kept{}, false, err
	}
	k = kept{more: more, limit: which.limit, from: sn.at}
	if !more {
		k.rows = slices.Clone(sn.found)
		k.expires = anyExpires(k.rows)
		k.link = &link{from: sn.at}
	}
	sn.key = append(sn.key[:prefix], suffix...)
	sn.store.objects.put(shard, sn.key, k)
	return sn.live(k), more, nil
}

// anyExpires reports whether some of the rows expire.
func anyExpires(rows []Row) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return !r.ExpiresAt.IsZero() })
}

// live returns what is kept without the rows that have expired, and then without a link, which leads to all of them.
func (sn *Snapshot) live(k kept) kept {
	if !k.expires {
		return k
	}
	sn.note(k.rows)
	gone := func(r Row) bool { return expired(&r, sn.now) }
	if slices.ContainsFunc(k.rows, gone) {
		k.rows, k.link = slices.DeleteFunc(slices.Clone(k.rows), gone), nil
	}
	return k
}

// note notes when rows expire, for Until.
func (sn *Snapshot) note(rows []Row) {
	for i := range rows {
		if at := rows[i].ExpiresAt; at.After(sn.now) && (sn.until.IsZero() || at.Before(sn.until)) {
			sn.until = at
		}
	}
}

// selection says which rows of a range a scan returns.
type selection struct {
	// limit is how many at most; 0 means all.
	limit int
	// usersets says that only those count whose subject has a relation.
	usersets bool
	// subjectType is the type of their subject; empty means any.
	subjectType string
	// live leaves out those that have expired.
	live bool
}

// moment is when rows have expired for the selection; see isOver.
func (s selection) moment(now time.Time) time.Time {
	if s.live {
		return now
	}
	return time.Time{}
}

// scan reads from the snapshot's key on, as long as keys begin with its first prefix bytes, of which the
// object is the first ones. What has expired is among what it finds.
func (sn *Snapshot) scan(object, prefix int, which selection) (more bool, err error) {
	sn.text, sn.cuts, sn.found = sn.text[:0], sn.cuts[:0], sn.found[:0]
	it, err := sn.open(&sn.scans)
	if err != nil {
		return false, err
	}
	moment := which.moment(sn.now)
	sn.pass(moment)
	valid := it.SeekGE(sn.key)
	for valid {
		key := it.Key()
		if len(key) < prefix || !bytes.Equal(key[:prefix], sn.key[:prefix]) {
			break
		}
		c, n, ok := cutComponents(key)
		if !ok || c.object != object {
			return false, damaged("a key that is no row: %q", key)
		}
		if sn.target = which.past(sn.target[:0], key, c); len(sn.target) > 0 {
			sn.passage.end(key[:n])
			valid = it.SeekGE(sn.target)
			continue
		}
		from, ok := versionOf(key, n)
		if !ok {
			return false, damaged("a key without its version: %q", key)
		}
		if from > sn.at {
			sn.target = appendVersion(append(sn.target[:0], key[:n]...), sn.at)
			valid = it.SeekGE(sn.target)
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return false, sn.store.readFailure(err)
		}
		over, at, err := isOver(value, moment)
		if err != nil {
			return false, err
		}
		if over {
			valid = sn.passage.pass(it.Iterator, key[:n], from, at)
			continue
		}
		sn.passage.end(key[:n])
		row, _, err := readRow(value)
		switch {
		case err != nil:
			return false, err
		case len(sn.found) == which.limit && which.limit > 0:
			sn.cutOut()
			return true, nil
		default:
			sn.found = append(sn.found, row)
			base := len(sn.text) - object
			sn.text = append(sn.text, key[object:n]...)
			sn.cuts = append(sn.cuts, cut{
				0, base + c.relation, base + c.subjectType, base + c.subjectRelation, base + c.subjectID,
			})
		}
		// Its older versions, if there are any, are next.
		sn.target = append(sn.target[:0], key[:n]...)
		if valid = it.Next(); valid && bytes.HasPrefix(it.Key(), sn.target) {
			valid = it.NextPrefix()
		}
	}
	if err := it.Error(); err != nil {
		return false, sn.store.readFailure(err)
	}
	if sn.passage.met >= sn.store.voids.long {
		sn.passage.end(end(sn.key[:prefix]))
	}
	sn.cutOut()
	return false, nil
}

// pass begins a walk over rows that live as of a moment; see passage.
func (sn *Snapshot) pass(moment time.Time) {
	sn.passage = passage{voids: &sn.store.voids, at: sn.at, moment: moment, lo: sn.passage.lo, past: sn.passage.past}
}

// cutOut gives the rows that were found their names: one string for all of them.
func (sn *Snapshot) cutOut() {
	text, begin := string(sn.text), 0
	for i, c := range sn.cuts {
		r := &sn.found[i]
		r.Relation = text[begin:c.relation]
		r.SubjectType = text[c.relation+1 : c.subjectType]
		r.SubjectRelation = text[c.subjectType+1 : c.subjectRelation]
		r.SubjectID = text[c.subjectRelation+1 : c.subjectID]
		begin = c.subjectID + 1
	}
}

// past returns the key to go on from if a key is not selected, and nothing if it is.
func (s selection) past(target, key []byte, c cut) []byte {
	if s.usersets && c.subjectRelation == c.subjectType+1 {
		// What comes next among the usersets of this type of subject.
		return append(append(target, key[:c.subjectType+1]...), 1)
	}
	if s.subjectType == "" {
		return target
	}
	switch subject := key[c.relation+1 : c.subjectType]; {
	case string(subject) == s.subjectType:
		return target
	case string(subject) < s.subjectType:
		return appendComponents(append(target, key[:c.relation+1]...), s.subjectType)
	default:
		// The next relation.
		return append(append(target, key[:c.relation]...), terminator+1)
	}
}

// cutComponents finds where the components of a forward key end: the object after its terminator, the others
// at theirs. The version begins at n.
func cutComponents[K string | []byte](key K) (c cut, n int, ok bool) {
	n = 1
	for i, end := range [...]*int{&c.object, &c.object, &c.relation, &c.subjectType, &c.subjectRelation, &c.subjectID} {
		for n < len(key) && key[n] != terminator {
			n++
		}
		if n >= len(key) {
			return cut{}, 0, false
		}
		*end = n
		n++
		if i < 2 {
			*end = n
		}
	}
	return c, n, true
}

// Find returns the row of an object with a relation and a subject; subjectRelation is empty for "...".
func (sn *Snapshot) Find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (r Row, found bool, err error) {
	if sn.store.isClosed() {
		return Row{}, false, ErrClosed
	}
	n := sn.object(objectType, id)
	sn.key = appendComponents(sn.key, relation, subjectType, subjectRelation, subjectID)
	shard := sn.store.objects.shard(sn.key[:n])
	if k, ok := sn.store.objects.get(shard, sn.key, sn.at); ok {
		return first(sn.live(k).rows)
	}
	it, err := sn.open(&sn.points)
	if err != nil {
		return Row{}, false, err
	}
	k := kept{from: sn.at}
	prefix := len(sn.key)
	sn.key = appendVersion(sn.key, sn.at)
	if it.SeekPrefixGE(sn.key) {
		value, err := it.ValueAndErr()
		if err != nil {
			return Row{}, false, sn.store.readFailure(err)
		}
		r, live, err := readRow(value)
		if err != nil {
			return Row{}, false, err
		}
		if live {
			r.Relation, r.SubjectType, r.SubjectRelation, r.SubjectID = relation, subjectType, subjectRelation, subjectID
			k.rows, k.expires = []Row{r}, !r.ExpiresAt.IsZero()
		}
	}
	if err := it.Error(); err != nil {
		return Row{}, false, sn.store.readFailure(err)
	}
	sn.store.objects.put(shard, sn.key[:prefix], k)
	return first(sn.live(k).rows)
}

func first(rows []Row) (r Row, found bool, err error) {
	if len(rows) == 0 {
		return Row{}, false, nil
	}
	return rows[0], true, nil
}

// readRow reads a row's value; live is false if it is gone.
func readRow(value []byte) (r Row, live bool, err error) {
	if len(value) == 0 {
		return r, true, nil
	}
	if isGone(value) {
		return r, false, nil
	}
	var rel tuple.Relationship
	if err := readValue(value, &rel); err != nil {
		return r, false, err
	}
	if at := rel.OptionalExpiration; at != nil {
		r.ExpiresAt = *at
	}
	if c := rel.OptionalCaveat; c != nil {
		r.Caveat, r.Context = c.GetCaveatName(), c.GetContext().AsMap()
	}
	return r, true, nil
}
