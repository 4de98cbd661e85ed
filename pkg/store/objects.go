package store

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// The objects that are read again and again, a session, a folder, a group, are kept as they were read: rows,
// not answers. What is kept is exact:
//
//   - It is kept under what was asked: an object, one of its relations, one row. Before a revision becomes the
//     head, whatever its rows belong to is thrown away.
//   - Who read before that cannot bring it back: a shard refuses what was read at a revision before the
//     newest one that was written to it, and before the head that the store was opened with.
//   - It serves revisions from the one that it was read at on. Older ones are read from the database.
//   - Rows that expire are kept with their expiration, which is looked at when they are used.
//
// Nothing is invalidated by time, and collection changes nothing that a readable revision shows.

const (
	objectShards = 256
	// keptBytes is about how much is kept, with the values of caveats, unless the configuration says otherwise. A quarter of
	// a full shard is packed instead, at random. From where a shard is half full on, what is asked for once is packed too, see
	// door and packed.go. What takes more than a quarter of a shard is never kept.
	keptBytes = 192 << 20
	// rowBytes and entryBytes are about what a row and an entry take beside their text.
	rowBytes, entryBytes = 152, 384
)

// objects is what is kept. It is safe for concurrent use.
type objects struct {
	seed maphash.Seed
	// limit is how many bytes each shard keeps.
	limit  int
	shards [objectShards]objectShard
	// names are what packed answers name by a number.
	names names
	// written is what stamps are compared with, see stamp.go.
	written [stampSlots]atomic.Uint64
}

type objectShard struct {
	mu sync.RWMutex
	// written is the newest revision with a row of an object of this shard.
	written Revision
	size    int
	entries map[string]kept
	door    door
	packed  packed
	// reads is how many answers were read from the database.
	reads uint64
	_     [64]byte // not in a line of the processor's cache with the next one
}

// link leads from a row to the rows of its subject, as long as those are kept. It is safe for concurrent use.
type link struct {
	from Revision
	// to is nil once the rows are kept no more, because nobody would tell of a write. A row that was returned may outlive
	// them, and must not hold them in memory then, where they are not counted.
	to atomic.Pointer[linked]
}

// linked is what a link leads to.
type linked struct {
	rows    []Row
	expires bool
}

// rows returns the rows if they are kept still, and are those of a revision, expired ones included; nil if not.
func (l *link) rows(at Revision) *linked {
	if l.from > at {
		return nil
	}
	return l.to.Load()
}

// door lets in who knocks the second time, so that what is asked for once in a large graph, its leaves, does not
// drive out what is asked for again and again. Now and then it lets in another one, and forgets who knocked.
type door struct {
	knocked [doorBits / 64]uint64
	n       int
}

// doorBits is how many keys a door can tell apart at best; it forgets them once an eighth has knocked.
const doorBits = 1 << 16

// opens reports whether a key, by its hash, has knocked before.
func (d *door) opens(hash uint64) bool {
	word, bit := &d.knocked[hash%doorBits/64], uint64(1)<<(hash%64)
	if *word&bit != 0 {
		return true
	}
	if d.n++; d.n > doorBits/8 {
		*d = door{n: 1}
	}
	*word |= bit
	return false
}

// kept is the answer to one question about an object.
type kept struct {
	rows []Row
	// link leads to the rows, for the rows whose subject the object is.
	link *link
	// more says that there are more rows than the limit. None are kept then.
	more  bool
	limit int
	// expires says that some of the rows do.
	expires bool
	// from is the revision that it was read at.
	from Revision
	size int
}

// figures returns about how many bytes take what is kept and what is packed, and how many answers were read from the database.
func (o *objects) figures() (kept, packed int, reads uint64) {
	for i := range o.shards {
		s := &o.shards[i]
		s.mu.RLock()
		kept += s.size
		packed += s.packed.new.size() + s.packed.old.size()
		reads += s.reads
		s.mu.RUnlock()
	}
	return kept, packed, reads
}

// shard returns the shard of an object: its forward key up to its id.
func (o *objects) shard(object []byte) *objectShard {
	return &o.shards[maphash.Bytes(o.seed, object)%objectShards]
}

// get returns what is kept under a key of an object, if it serves the revision.
func (o *objects) get(s *objectShard, key []byte, at Revision) (kept, bool) {
	k, ok, wasPacked := o.look(s, key)
	if !ok || k.from > at {
		return kept{}, false
	}
	if wasPacked {
		o.again(s, key, &k)
	}
	return k, true
}

// look returns what is kept under a key, and whether it is packed.
func (o *objects) look(s *objectShard, key []byte) (k kept, ok, wasPacked bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k, ok = s.entries[string(key)]; ok {
		return k, true, false
	}
	if s.packed.limit == 0 {
		return kept{}, false, false
	}
	if found, _ := s.packed.find(key, maphash.Bytes(o.seed, key)); found != nil {
		return unpack(found, &o.names), true, true
	}
	return kept{}, false, false
}

// again keeps what was packed and is asked for again, if it is still packed: otherwise it may have been written since.
func (o *objects) again(s *objectShard, key []byte, k *kept) {
	hash := maphash.Bytes(o.seed, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	found, old := s.packed.find(key, hash)
	if found == nil {
		return
	}
	if from, _ := binary.Uvarint(found); Revision(from) != k.from {
		return
	}
	if _, ok := s.entries[string(key)]; ok {
		return
	}
	k.link = &link{from: k.from}
	if o.keep(s, key, hash, k) {
		s.packed.drop(hash)
		return
	}
	k.link = nil
	if old {
		s.packed.add(key, hash, k, &o.names)
	}
}

// serves reports whether the answer to a question with one limit answers it with another (0 is none), and
// whether there are more rows.
func (k *kept) serves(limit int) (more, ok bool) {
	if k.more {
		return true, limit > 0 && limit <= k.limit
	}
	return limit > 0 && len(k.rows) > limit, true
}

// begin refuses what is read at revisions before the head that the store was opened with.
func (o *objects) begin(head Revision) {
	for i := range o.written {
		o.written[i].Store(uint64(head))
	}
	for i := range o.shards {
		s := &o.shards[i]
		s.mu.Lock()
		s.written = max(s.written, head)
		s.mu.Unlock()
	}
}

// put keeps what was read, packed where room is short.
func (o *objects) put(s *objectShard, key []byte, k kept) {
	hash := maphash.Bytes(o.seed, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if k.from < s.written {
		return
	}
	if o.keep(s, key, hash, &k) || !s.packed.add(key, hash, &k, &o.names) {
		return
	}
	if e, ok := s.entries[string(key)]; ok {
		s.remove(string(key), e) // it did not answer the question, and would be found first
	}
}

// keep keeps an answer as it is, unless it takes more room than a few others may, or room is short. The caller has the lock, under
// which the answer is true.
func (o *objects) keep(s *objectShard, key []byte, hash uint64, k *kept) bool {
	k.size = entryBytes + len(key)
	for i := range k.rows {
		if k.size > o.limit/4 {
			return false
		}
		r := &k.rows[i]
		k.size += rowBytes + len(r.Relation) + len(r.SubjectType) + len(r.SubjectRelation) + len(r.SubjectID)
		if r.Caveat != "" {
			k.size += textBytes(r.Caveat) + valueBytes(r.Context)
		}
	}
	if k.size > o.limit/4 {
		return false
	}
	if s.entries == nil {
		s.entries = map[string]kept{}
	}
	if s.size > o.limit/2 && !s.door.opens(hash) {
		return false
	}
	o.shrink(s, k.size)
	s.drop(key, hash)
	s.size += k.size
	links := make([]atomic.Pointer[link], len(k.rows))
	for i := range k.rows {
		k.rows[i].Link = &links[i]
	}
	s.entries[string(key)] = *k
	if k.link != nil {
		k.link.to.Store(&linked{k.rows, k.expires})
	}
	return true
}

// shrink packs a quarter of what is kept, if there is no room for so many bytes more. The caller has the lock.
func (o *objects) shrink(s *objectShard, more int) {
	if s.size+more <= o.limit {
		return
	}
	for old, e := range s.entries {
		if s.size <= o.limit/4*3 {
			break
		}
		s.remove(old, e)
		if s.packed.limit > 0 {
			s.packed.add([]byte(old), maphash.String(o.seed, old), &e, &o.names)
		}
	}
}

// textBytes and valueBytes are about what a text and a JSON value take, without the place where they are put. Maps are
// made in groups of eight, as many as the next power of two says.
func textBytes(s string) int { return (len(s) + 15) &^ 15 }

func valueBytes(v any) int {
	const (
		place, header, group = 16, 48, 288
		slots                = 7
	)
	switch v := v.(type) {
	case string:
		return place + textBytes(v)
	case float64:
		return 8
	case []any:
		n := 24 + place*len(v)
		for _, e := range v {
			n += valueBytes(e)
		}
		return n
	case map[string]any:
		if v == nil {
			return 0
		}
		groups := 1
		if len(v) > slots+1 {
			groups = 1 << bits.Len(uint((len(v)-1)/slots))
		}
		n := header + groups*group
		for key, e := range v {
			n += textBytes(key) + valueBytes(e)
		}
		return n
	default:
		return 0
	}
}

// The suffixes under which questions are kept that are about more than a row and less than an object. No
// component of a key begins with one.
const (
	keptUsersets    = "\x01"
	keptSubjectType = "\x02"
)

// forget throws away what a written row belongs to: everything is kept under a beginning of the row's key, or
// under one with a suffix. Stamps of it are no longer current. A key that is no row's is not looked at.
func (o *objects) forget(key string, at Revision, buf []byte) []byte {
	if len(key) == 0 || key[0] != kindForward {
		return buf
	}
	c, _, ok := cutComponents(key)
	if !ok {
		return buf
	}
	buf = o.stampWrite(key, c, at, buf)
	buf = append(buf[:0], key[:c.object]...)
	s := o.shard(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = max(s.written, at)
	if len(s.entries) == 0 && s.packed.empty() {
		return buf
	}
	drop := func() { s.drop(buf, maphash.Bytes(o.seed, buf)) }
	drop()
	buf = append(append(buf, keptSubjectType...), key[c.relation+1:c.subjectType]...)
	drop()
	buf = append(buf[:0], key[:c.relation+1]...)
	drop()
	buf = append(buf, keptUsersets...)
	drop()
	buf = append(buf[:0], key...)
	drop()
	return buf
}

// drop throws away what is kept under a key, by its hash too. The caller has the lock.
func (s *objectShard) drop(key []byte, hash uint64) {
	if e, ok := s.entries[string(key)]; ok {
		s.remove(string(key), e)
	}
	s.packed.drop(hash)
}

// remove throws away an entry, and ends its link. The caller has the lock.
func (s *objectShard) remove(key string, e kept) {
	s.size -= e.size
	delete(s.entries, key)
	if e.link != nil {
		e.link.to.Store(nil)
	}
}
