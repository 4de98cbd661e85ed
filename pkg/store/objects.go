package store

import (
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
	// keptBytes is about how much is kept, with the values of caveats and what was noted on it; a test may have less. A
	// quarter of a full shard is thrown away, at random. From where a shard is half full on, what is asked for
	// once is not kept, see door. What takes more than a quarter of a shard is never kept.
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
}

type objectShard struct {
	mu sync.RWMutex
	// written is the newest revision with a row of an object of this shard.
	written Revision
	size    int
	entries map[string]kept
	door    door
	_       [64]byte // not in a line of the processor's cache with the next one
}

// Note is a place beside rows that are kept, for what whoever reads them made of them. It lasts as long as they
// do: rows that were written, or thrown away, come with another one. It is safe for concurrent use.
type Note struct {
	made atomic.Pointer[any]
	from Revision
	// of is what is noted on; nil while it is not kept, because nobody would tell of a write.
	of atomic.Pointer[inKeeping]
	// shard is where it is kept, limit what that may take, size what the rows take; shard is nil if they were never kept.
	shard       *objectShard
	limit, size int
	// charged is what is counted for what was made of them, cost what of that Store was told. The shard guards them.
	charged, cost int
}

// inKeeping is what a note is on.
type inKeeping struct {
	rows    []Row
	expires bool
}

// Serves reports whether the rows are kept still, and are those of a revision, expired ones included.
func (n *Note) Serves(at Revision) bool { return n.rows(at) != nil }

// rows returns the rows if they are kept still, and are those of a revision; nil if not.
func (n *Note) rows(at Revision) *inKeeping {
	if n.from > at {
		return nil
	}
	return n.of.Load()
}

// Load returns what was stored last; nil if nothing was.
func (n *Note) Load() any {
	if made := n.made.Load(); made != nil {
		return *made
	}
	return nil
}

// Store stores what was made of the rows. bytes is about how much memory it takes, without what it shares with them:
// that is counted as kept. What is too large is not stored, nor is what comes when the rows are kept no more: the rows
// that lead to them would hold it, uncounted.
func (n *Note) Store(made any, bytes int) {
	if n.shard == nil {
		n.made.Store(&made)
		return
	}
	n.shard.mu.Lock()
	defer n.shard.mu.Unlock()
	if n.of.Load() != nil && n.charge(bytes-n.cost) {
		n.cost = bytes
		n.made.Store(&made)
	}
}

// Charge counts that many bytes more as kept, or fewer, for what was stored and grows. It returns false, and counts
// nothing, if they are too many.
func (n *Note) Charge(bytes int) bool {
	if n.shard == nil {
		return true
	}
	n.shard.mu.Lock()
	defer n.shard.mu.Unlock()
	return n.of.Load() != nil && n.charge(bytes)
}

// charge is Charge, of a note that is kept. The caller has the shard's lock.
func (n *Note) charge(bytes int) bool {
	if bytes > 0 && n.size+n.charged+bytes > n.limit/4 {
		return false
	}
	n.charged += bytes
	n.shard.size += bytes
	n.shard.shrink(n.limit, 0)
	return n.of.Load() != nil // it may have been among what was thrown away
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
	// note is there for questions whose reader may make something of the rows.
	note *Note
	// more says that there are more rows than the limit. None are kept then.
	more  bool
	limit int
	// expires says that some of the rows do.
	expires bool
	// from is the revision that it was read at.
	from Revision
	size int
}

// shard returns the shard of an object: its forward key up to its id.
func (o *objects) shard(object []byte) *objectShard {
	return &o.shards[maphash.Bytes(o.seed, object)%objectShards]
}

// get returns what is kept under a key of an object, if it serves the revision.
func (s *objectShard) get(key []byte, at Revision) (kept, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	k, ok := s.entries[string(key)]
	return k, ok && k.from <= at
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
	for i := range o.shards {
		s := &o.shards[i]
		s.mu.Lock()
		s.written = max(s.written, head)
		s.mu.Unlock()
	}
}

// put keeps what was read, unless it takes more room than a few others may, or room is short.
func (o *objects) put(s *objectShard, key []byte, k kept) {
	k.size = entryBytes + len(key)
	for i := range k.rows {
		if k.size > o.limit/4 {
			return
		}
		r := &k.rows[i]
		k.size += rowBytes + len(r.Relation) + len(r.SubjectType) + len(r.SubjectRelation) + len(r.SubjectID)
		if r.Caveat != "" {
			k.size += textBytes(r.Caveat) + valueBytes(r.Context)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.from < s.written || k.size > o.limit/4 {
		return
	}
	if s.entries == nil {
		s.entries = map[string]kept{}
	}
	if s.size > o.limit/2 && !s.door.opens(maphash.Bytes(o.seed, key)) {
		return
	}
	s.shrink(o.limit, k.size)
	s.drop(key)
	s.size += k.size
	links := make([]atomic.Pointer[Note], len(k.rows))
	for i := range k.rows {
		k.rows[i].Link = &links[i]
	}
	s.entries[string(key)] = k
	if k.note != nil {
		k.note.shard, k.note.limit, k.note.size = s, o.limit, k.size
		k.note.of.Store(&inKeeping{k.rows, k.expires})
	}
}

// shrink throws away a quarter of what is kept, if there is no room for so many bytes more. The caller has the lock.
func (s *objectShard) shrink(limit, more int) {
	if s.size+more <= limit {
		return
	}
	for old, e := range s.entries {
		if s.size <= limit/4*3 {
			break
		}
		s.remove(old, e)
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
// under one with a suffix. A key that is no row's is not looked at.
func (o *objects) forget(key string, at Revision, buf []byte) []byte {
	if len(key) == 0 || key[0] != kindForward {
		return buf
	}
	c, _, ok := cutComponents(key)
	if !ok {
		return buf
	}
	buf = append(buf[:0], key[:c.object]...)
	s := o.shard(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = max(s.written, at)
	if len(s.entries) == 0 {
		return buf
	}
	s.drop(buf)
	buf = append(append(buf, keptSubjectType...), key[c.relation+1:c.subjectType]...)
	s.drop(buf)
	buf = append(buf[:0], key[:c.relation+1]...)
	s.drop(buf)
	buf = append(buf, keptUsersets...)
	s.drop(buf)
	buf = append(buf[:0], key...)
	s.drop(buf)
	return buf
}

// drop throws away what is kept under a key. The caller has the lock.
func (s *objectShard) drop(key []byte) {
	if e, ok := s.entries[string(key)]; ok {
		s.remove(string(key), e)
	}
}

// remove throws away an entry, and ends its note. The caller has the lock.
func (s *objectShard) remove(key string, e kept) {
	s.size -= e.size
	delete(s.entries, key)
	if e.note != nil {
		s.size -= e.note.charged
		e.note.made.Store(nil)
		e.note.of.Store(nil)
	}
}
