package store

import "hash/maphash"

// A cache of values that were made of rows has to know whether the rows are still the same at another revision. The store does not
// keep that for it: it notes at which revision rows were written last, in a table that never grows. What rows fall into
// one slot of it is up to a hash, so that a write to one of them may look like one to another. That costs a reading, and
// never exactness:
//
//   - Before a revision becomes the head, it is noted in the slots of all that its rows belong to, see objects.forget. A
//     reader with a snapshot of a revision therefore sees it, and all before it, in the table.
//   - Slots hold the newest revision of a write. If that is no newer than the one at which rows were read, and the
//     snapshot is no older, then nothing was written in between: the rows are the same, expired ones included.
//   - When a store is opened its slots hold the head: what happened before is not known.

// stampSlots is how many slots there are; they take half a MiB. A write of a row falls into three of them, so that with a
// thousand rows written a second what was read from eight places is read again about once in three seconds in vain.
const stampSlots = 1 << 16

// Rows names rows of one object: all of them; with SubjectType those with a subject of that type; with all fields those of
// a relation with a subject, whatever the subject's relation is. Nothing else can be named.
type Rows struct{ ObjectType, ID, Relation, SubjectType, SubjectID string }

// Slot returns the slot in which writes of rows are noted, for Unchanged. ok is false for rows that cannot be named. It is
// safe for concurrent use.
func (s *Store) Slot(r Rows) (slot uint32, ok bool) {
	key := appendComponents([]byte{kindForward}, r.ObjectType, r.ID)
	switch {
	case r.ObjectType == "" || r.ID == "":
		return 0, false
	case r == Rows{ObjectType: r.ObjectType, ID: r.ID}:
	case r == Rows{ObjectType: r.ObjectType, ID: r.ID, SubjectType: r.SubjectType}:
		key = append(append(key, keptSubjectType...), r.SubjectType...)
	case r.Relation != "" && r.SubjectType != "" && r.SubjectID != "":
		key = append(appendComponents(key, r.Relation, r.SubjectType), r.SubjectID...)
	default:
		return 0, false
	}
	return s.objects.slot(key), true
}

// Unchanged reports whether nothing was written to the rows of some slots between two revisions. False may also mean that
// this is not known. It is safe for concurrent use.
func (s *Store) Unchanged(slots []uint32, since, at Revision) bool {
	if since > at {
		return false
	}
	for _, slot := range slots {
		if s.objects.written[slot%stampSlots].Load() > uint64(since) {
			return false
		}
	}
	return true
}

func (o *objects) slot(key []byte) uint32 {
	return uint32(maphash.Bytes(o.seed, key) % stampSlots)
}

// stampWrite notes that a row was written, by its key. Only the committer does, so that revisions only grow.
func (o *objects) stampWrite(key string, c cut, at Revision, buf []byte) []byte {
	buf = append(buf[:0], key[:c.object]...)
	o.written[o.slot(buf)].Store(uint64(at))
	buf = append(append(buf, keptSubjectType...), key[c.relation+1:c.subjectType]...)
	o.written[o.slot(buf)].Store(uint64(at))
	buf = append(append(buf[:0], key[:c.subjectType+1]...), key[c.subjectRelation+1:c.subjectID]...)
	o.written[o.slot(buf)].Store(uint64(at))
	return buf
}
