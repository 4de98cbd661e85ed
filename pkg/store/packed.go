package store

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// What is read and has no room among the objects is packed: the same answers, without pointers, in about a tenth of the memory. In a
// large graph that is nearly everything. Unpacking an answer costs much less than reading it from the database, even if its blocks
// are in the block cache, and Go's collector does not look into what is packed.
//
// What objects.go says of exactness holds here too. What is packed
//
//   - was refused by the door, or thrown away for want of room: it was true then, and the same writes throw it away;
//   - says at which revision it was read;
//   - has no caveats, no expirations, and is not too many rows.
//
// There are two generations. What is packed goes to the new one. When that is full the old one is thrown away, and the new one is old.
// What is found in the old one is packed again.

// indexBytes is about what an answer takes beside its bytes.
const indexBytes = 32

// packed is what is packed of a shard, whose lock guards it.
type packed struct {
	// limit is how many bytes each generation may take, with its index.
	limit    int
	new, old generation
}

// generation is where answers are, by the hashes of their keys.
type generation struct {
	index map[uint64]uint32
	bytes []byte
}

func (g *generation) size() int { return len(g.bytes) + indexBytes*len(g.index) }

// find returns what follows the key of an answer, or nil.
func (g *generation) find(key []byte, hash uint64) []byte {
	at, ok := g.index[hash]
	if !ok {
		return nil
	}
	n, width := binary.Uvarint(g.bytes[at:])
	begin := int(at) + width
	if uint64(len(key)) != n || !bytes.Equal(g.bytes[begin:begin+len(key)], key) {
		return nil
	}
	return g.bytes[begin+len(key):]
}

// find returns what follows the key of an answer, or nil, and whether it is in the old generation.
func (p *packed) find(key []byte, hash uint64) (found []byte, old bool) {
	if found = p.new.find(key, hash); found != nil {
		return found, false
	}
	found = p.old.find(key, hash)
	return found, found != nil
}

// drop throws away what is packed under a key, by its hash.
func (p *packed) drop(hash uint64) {
	delete(p.new.index, hash)
	delete(p.old.index, hash)
}

func (p *packed) empty() bool { return len(p.new.index) == 0 && len(p.old.index) == 0 }

// full reports whether what is packed next may throw away what was packed before.
func (p *packed) full() bool { return p.new.size() >= p.limit/8*7 && len(p.old.index) > 0 }

// add packs an answer, and reports whether it can be.
func (p *packed) add(key []byte, hash uint64, k *kept, names *names) bool {
	if k.more || k.expires || p.limit == 0 {
		return false
	}
	most := len(key) + 3*binary.MaxVarintLen64
	for i := range k.rows {
		if k.rows[i].Caveat != "" {
			return false
		}
		most += len(k.rows[i].SubjectID) + 2*binary.MaxVarintLen32
	}
	if most > p.limit/4 {
		return false
	}
	if p.new.size()+indexBytes+most > p.limit {
		p.old, p.new = p.new, generation{p.old.index, p.old.bytes[:0]}
		clear(p.new.index)
	}
	g := &p.new
	if g.index == nil {
		g.index = map[uint64]uint32{}
	}
	at := len(g.bytes)
	if room := cap(g.bytes); room-at < most {
		g.bytes = append(make([]byte, 0, max(at+most, min(max(2*room, 512), p.limit))), g.bytes...)
	}
	b := binary.AppendUvarint(g.bytes, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(k.from))
	b = binary.AppendUvarint(b, uint64(len(k.rows)))
	for i := range k.rows {
		name, ok := names.of(&k.rows[i])
		if !ok {
			return false
		}
		b = binary.AppendUvarint(b, uint64(name))
		b = binary.AppendUvarint(b, uint64(len(k.rows[i].SubjectID)))
		b = append(b, k.rows[i].SubjectID...)
	}
	g.bytes = b
	g.index[hash] = uint32(at) //nolint:gosec // the limit is smaller
	delete(p.old.index, hash)
	return true
}

// unpack returns the answer that begins with its revision.
func unpack(b []byte, names *names) (k kept) {
	from, n := binary.Uvarint(b)
	b = b[n:]
	count, n := binary.Uvarint(b)
	b = b[n:]
	k.from = Revision(from)
	if count == 0 {
		return k
	}
	// One string for all rows: it has their numbers between their ids.
	end := 0
	for range count {
		_, n = binary.Uvarint(b[end:])
		end += n
		length, n := binary.Uvarint(b[end:])
		end += n + int(length) //nolint:gosec // it was one when it was packed
	}
	text := string(b[:end])
	k.rows = make([]Row, count)
	known, at := names.known.Load().names, 0
	for i := range k.rows {
		name, n := binary.Uvarint(b[at:])
		at += n
		length, n := binary.Uvarint(b[at:])
		at += n
		r := &k.rows[i]
		r.Relation, r.SubjectType, r.SubjectRelation = known[name].relation, known[name].subjectType, known[name].subjectRelation
		r.SubjectID = text[at : at+int(length)] //nolint:gosec // as above
		at += int(length)                       //nolint:gosec // as above
	}
	return k
}

// names numbers what the rows of a schema have in common: the relation, and the type and relation of the subject. It is safe for
// concurrent use.
type names struct {
	mu    sync.Mutex
	known atomic.Pointer[knownNames]
}

// knownNames are never changed.
type knownNames struct {
	numbers map[name]uint32
	names   []name
}

type name struct{ relation, subjectType, subjectRelation string }

func (n name) clone() name {
	return name{strings.Clone(n.relation), strings.Clone(n.subjectType), strings.Clone(n.subjectRelation)}
}

// maxNames is how many are numbered; nothing forgets them. What has another one is not packed.
const maxNames = 4096

// of returns the number of a row's name. ok is false if there are too many.
func (n *names) of(r *Row) (number uint32, ok bool) {
	of := name{r.Relation, r.SubjectType, r.SubjectRelation}
	if known := n.known.Load(); known != nil {
		if number, ok = known.numbers[of]; ok {
			return number, true
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var next knownNames
	if known := n.known.Load(); known != nil {
		if number, ok = known.numbers[of]; ok {
			return number, true
		}
		next.names = known.names
	}
	if len(next.names) == maxNames {
		return 0, false
	}
	// Cloned, so that it does not hold the text of a whole object.
	next.names = append(slices.Clip(next.names), of.clone())
	next.numbers = make(map[name]uint32, len(next.names))
	for i, of := range next.names {
		next.numbers[of] = uint32(i)
	}
	n.known.Store(&next)
	return uint32(len(next.names) - 1), true //nolint:gosec // there are few
}

// packedLimit returns how many bytes each generation of a shard may take, if all may take so many.
func packedLimit(all int64) int { return int(min(max(all, 0)/objectShards/2, math.MaxInt32)) }
