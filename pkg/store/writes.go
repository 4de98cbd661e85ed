package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
)

// writes are what a transaction has written and not committed.
type writes struct {
	// byKey has rows by their forward key and records by their key, without versions.
	byKey map[string]*write
	// any is set by each call that writes, also by one that changes nothing.
	any bool
	// size is about how many bytes the writes take.
	size int
	// sorted holds the forward or record keys, reversed the reverse keys, in order; nil after a write.
	sorted, reversed []ownRow
}

// write is the newest value of a row or record, and the one that it replaces.
type write struct {
	// row is set for rows.
	row   row
	isRow bool
	value []byte
	// before is what was there, and wasThere says whether anything was.
	before   []byte
	wasThere bool
}

// ownRow is a write with the key that it is found by.
type ownRow struct {
	key   []byte
	value []byte
}

// changes reports whether the write makes a difference.
func (w *write) changes() bool {
	if isGone(w.value) {
		return w.wasThere
	}
	return !w.wasThere || !bytes.Equal(w.value, w.before)
}

// get returns the transaction's own value under a key.
func (w *writes) get(key []byte) ([]byte, bool) {
	if w == nil {
		return nil, false
	}
	own, ok := w.byKey[string(key)]
	if !ok {
		return nil, false
	}
	return own.value, true
}

// set writes a value under a key. before is what the store has there.
func (w *writes) set(key []byte, isRow bool, r row, value, before []byte, wasThere bool) {
	w.sorted, w.reversed = nil, nil
	if own, ok := w.byKey[string(key)]; ok {
		w.size += 2 * (len(value) - len(own.value))
		own.value = value
		return
	}
	w.byKey[string(key)] = &write{row: r, isRow: isRow, value: value, before: bytes.Clone(before), wasThere: wasThere}
	w.size += writeBytes + 3*len(key) + 2*len(value)
}

// between returns the transaction's own rows in a span, in order.
func (w *writes) between(s span) []ownRow {
	if w == nil || len(w.byKey) == 0 {
		return nil
	}
	all := &w.sorted
	if s.lo[0] == kindReverse {
		all = &w.reversed
	}
	if *all == nil {
		*all = make([]ownRow, 0, len(w.byKey))
		for key, own := range w.byKey {
			switch {
			case s.lo[0] != kindReverse:
				*all = append(*all, ownRow{key: []byte(key), value: own.value})
			case own.isRow:
				*all = append(*all, ownRow{key: own.row.appendReverse(nil), value: own.value})
			}
		}
		slices.SortFunc(*all, func(a, b ownRow) int { return bytes.Compare(a.key, b.key) })
	}
	at := func(key []byte) int {
		i, _ := slices.BinarySearchFunc(*all, key, func(r ownRow, k []byte) int { return bytes.Compare(r.key, k) })
		return i
	}
	return (*all)[at(s.lo):at(s.hi)]
}

// A proposal is a transaction's changes, encoded for Pebble but for the revision, which the commit fills in.
type proposal struct {
	// batch is Pebble's representation of a batch, see its package batchrepr. It has as many operations as ops says.
	batch []byte
	ops   uint32
	// versions are where in the batch a version belongs (8 bytes), revisions where a revision does, and
	// head is where the changelog begins.
	versions, revisions []int
	head                int
	// keys are those that conflict with the transactions that read them: forward, reverse and record keys.
	keys []string
	// rows is by how much the number of live rows grows.
	rows int64
	// hash is the new hash of the stored schema; nil if it stays.
	hash *string
	// schema says that a definition is written or deleted.
	schema bool
	// changes says that it writes anything, narrows that it only takes access away; see room.go.
	changes, narrows bool
}

// maxProposal bounds a batch: Pebble's limit is 4 GiB. Config.TransactionBytes bounds what is held in memory before.
const maxProposal = 1 << 30

// writeBytes is about what a write takes in memory, beside its key and value, until it is committed.
const writeBytes = 512

// narrowing reports whether a write only takes access away.
func (w *write) narrowing(narrows func(resourceType, relation string) bool) bool {
	switch {
	case !w.isRow:
		return false
	case isGone(w.value):
		return true
	default:
		return narrows != nil && len(w.value) == 0 && narrows(w.row.resourceType, w.row.relation)
	}
}

// propose encodes the changes. narrows is Config's.
func (w *writes) propose(metadata *structpb.Struct, narrows func(resourceType, relation string) bool) (*proposal, error) {
	log, err := newChunks(metadata)
	if err != nil {
		return nil, err
	}
	p := &proposal{batch: make([]byte, batchrepr.HeaderLen, batchrepr.HeaderLen+(w.size-writeBytes*len(w.byKey))*3/2+256)}
	type keyed struct {
		key string
		*write
	}
	changed := make([]keyed, 0, len(w.byKey))
	for key, own := range w.byKey {
		if own.changes() {
			changed = append(changed, keyed{key, own})
		}
	}
	slices.SortFunc(changed, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	p.keys = make([]string, 0, 2*len(changed))
	p.changes, p.narrows = len(changed) > 0, true
	var key []byte
	for _, c := range changed {
		key = append(key[:0], c.key...)
		log.add(key, c.value)
		p.narrows = p.narrows && c.narrowing(narrows)
		p.set(append(key, make([]byte, versionLen)...), versionLen, c.value)
		p.keys = append(p.keys, c.key)
		if !c.isRow {
			p.schema = p.schema || c.key[0] == kindNamespace || c.key[0] == kindCaveat
			if c.key[0] == kindSchemaHash {
				hash := ""
				if !isGone(c.value) {
					hash = string(c.value[1:])
				}
				p.hash = &hash
			}
			continue
		}
		key = c.row.appendReverse(key[:0])
		p.keys = append(p.keys, string(key))
		p.set(append(key, make([]byte, versionLen)...), versionLen, c.value)
		switch {
		case isGone(c.value):
			p.rows--
			continue
		case !c.wasThere:
			p.rows++
		}
		at, expires, err := expirationOf(c.value)
		if err != nil {
			return nil, err
		}
		if expires {
			key = appendExpiration(key[:0], at.Unix(), 0, []byte(c.key))
			p.set(key, len(c.key)+versionLen, nil)
		}
	}
	return p.end(log)
}

// end appends the changelog, with which a proposal is complete, and refuses one that is too large.
func (p *proposal) end(log *chunks) (*proposal, error) {
	for i, chunk := range log.finish() {
		value := p.op(changelogKey(0, uint32(i)), chunk)
		p.revisions = append(p.revisions, value.key+1)
		if i == 0 {
			p.head = value.value
		}
	}
	if len(p.batch) > maxProposal {
		return nil, tooLarge(maxProposal)
	}
	batchrepr.SetCount(p.batch, p.ops)
	return p, nil
}

// ErrTooLarge says that a transaction takes more memory than one may have; see Config.TransactionBytes.
var ErrTooLarge = errors.New("store: the transaction is too large")

func tooLarge(limit uint64) error {
	return &refused{code: codes.ResourceExhausted, reason: authz.ReasonTooLarge, cause: ErrTooLarge, message: fmt.Sprintf(
		"the transaction takes more than %d MiB of memory; write in several, or delete with a limit", limit>>20)}
}

// position says where in a batch an operation's key and value begin.
type position struct{ key, value int }

// op appends a set operation to the batch.
func (p *proposal) op(key, value []byte) position {
	p.batch = append(p.batch, byte(pebble.InternalKeyKindSet))
	p.batch = appendBytes(p.batch, key)
	at := position{key: len(p.batch) - len(key)}
	p.batch = appendBytes(p.batch, value)
	at.value = len(p.batch) - len(value)
	p.ops++
	return at
}

// set appends a set operation whose key has a version that many bytes before its end.
func (p *proposal) set(key []byte, versionFromEnd int, value []byte) {
	p.versions = append(p.versions, p.op(key, value).key+len(key)-versionFromEnd)
}

// stamp fills in what is known at the commit: its revision, how many rows there are then, and the revision
// before it.
func (p *proposal) stamp(r Revision, rows uint64, before Revision) {
	var version [versionLen]byte
	appendVersion(version[:0], r)
	for _, at := range p.versions {
		copy(p.batch[at:], version[:])
	}
	for _, at := range p.revisions {
		binary.BigEndian.PutUint64(p.batch[at:], uint64(r))
	}
	stampHead(p.batch[p.head:], rows, before)
}
