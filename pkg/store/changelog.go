package store

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// A revision's changelog is one or more chunks, so that no value is large. The first chunk begins with a
// head; all of them go on with changes:
//
//	head     count of live rows after this revision, and the revision before it (8 bytes each,
//	         filled in at the commit; history.go says what the latter is for),
//	         metadata (length and a google.protobuf.Struct; empty if there is none)
//	change   how many bytes of the key are those of the change before; the rest: length and bytes;
//	         value: length and bytes
//
// A change is what was written under a key: the row or record as it is from this revision on, or that it
// is gone. Keys are those of rows (forward) and records, without a version, in ascending order, each at
// most once; so a chunk is short although keys are long.
type change struct {
	// key is valid until the next change is read.
	key []byte
	// value is valid as long as the chunk that it was read from.
	value []byte
}

// chunkSize is how large a chunk grows before the next one begins, in bytes.
const chunkSize = 32 << 10

// stampLen is the length of what the commit fills in.
const stampLen = 16

// stampHead fills in what is known at the commit.
func stampHead(chunk []byte, rows uint64, before Revision) {
	binary.BigEndian.PutUint64(chunk, rows)
	binary.BigEndian.PutUint64(chunk[8:], uint64(before))
}

// chunks builds the values of a revision's changelog.
type chunks struct {
	done [][]byte
	open []byte
	last []byte
}

// newChunks begins a changelog with its head.
func newChunks(metadata *structpb.Struct) (*chunks, error) {
	var encoded []byte
	if len(metadata.GetFields()) > 0 {
		var err error
		if encoded, err = (proto.MarshalOptions{Deterministic: true}).Marshal(metadata); err != nil {
			return nil, fmt.Errorf("store: the transaction's metadata: %w", err)
		}
	}
	return &chunks{open: appendBytes(make([]byte, stampLen), encoded)}, nil
}

// add appends a change. Keys come in ascending order.
func (c *chunks) add(key, value []byte) {
	if len(c.open) >= chunkSize {
		c.done = append(c.done, c.open)
		c.open, c.last = nil, c.last[:0]
	}
	shared := 0
	for shared < min(len(key), len(c.last)) && key[shared] == c.last[shared] {
		shared++
	}
	c.open = binary.AppendUvarint(c.open, uint64(shared))
	c.open = appendBytes(c.open, key[shared:])
	c.open = appendBytes(c.open, value)
	c.last = append(c.last[:0], key...)
}

// finish returns the chunks.
func (c *chunks) finish() [][]byte { return append(c.done, c.open) }

// chunkHead is the beginning of a changelog's first chunk.
type chunkHead struct {
	rows     uint64
	before   Revision
	metadata *structpb.Struct
}

// readHead reads the beginning of a first chunk and returns the rest. The metadata is nil if there is
// none.
func readHead(chunk []byte) (chunkHead, []byte, error) {
	if len(chunk) < stampLen {
		return chunkHead{}, nil, damaged("a changelog of %d bytes", len(chunk))
	}
	d := decoder{rest: chunk[stampLen:]}
	encoded := d.bytes()
	if d.failed {
		return chunkHead{}, nil, damaged("a changelog without its head")
	}
	head := chunkHead{rows: binary.BigEndian.Uint64(chunk), before: Revision(binary.BigEndian.Uint64(chunk[8:]))}
	if len(encoded) > 0 {
		head.metadata = &structpb.Struct{}
		if err := proto.Unmarshal(encoded, head.metadata); err != nil {
			return chunkHead{}, nil, damaged("the metadata of a transaction: %v", err)
		}
	}
	return head, d.rest, nil
}

// readChanges calls fn for each change of a chunk without its head.
func readChanges(chunk []byte, fn func(change) error) error {
	d := decoder{rest: chunk}
	var key []byte
	for len(d.rest) > 0 {
		shared := d.uint()
		rest := d.bytes()
		value := d.bytes()
		if d.failed || shared > uint64(len(key)) {
			return damaged("a malformed changelog")
		}
		key = append(key[:shared], rest...)
		if err := fn(change{key: key, value: value}); err != nil {
			return err
		}
	}
	return nil
}
