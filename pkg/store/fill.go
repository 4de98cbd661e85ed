package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
)

// Fill writes relationships and a mark as one revision, as WriteMarked does, and is for many of them in a store that is being made: they are encoded as
// they are, without a transaction's memory of each. A relationship may be named once.
//
// looked says that some of the relationships may be there already: each is looked up then, and written only where its caveat or expiration differs.
// Without it none of them may be there. One that is there is written all the same, and counted twice.
//
// It ends with ctx as long as nothing is committed; the commit does not, so that it is known whether it took place. Errors: ErrMark.
func (s *Store) Fill(ctx context.Context, follows, mark []byte, rels []tuple.Relationship, looked bool) (Revision, error) {
	if len(mark) > maxMark {
		return 0, fmt.Errorf("store: a mark of %d bytes; it may have %d", len(mark), maxMark)
	}
	var f filling
	return s.within(context.WithoutCancel(ctx), func(tx *transaction) error {
		f.tx = tx
		return tx.exclusively(func() error {
			if err := tx.mark(follows, mark); err != nil {
				return err
			}
			if err := f.take(ctx, rels); err != nil {
				return err
			}
			if looked {
				return f.leaveOut(ctx)
			}
			return nil
		})
	}, func(*transaction) (*proposal, error) { return f.propose() })
}

// filling are relationships on their way into a store.
type filling struct {
	tx *transaction
	// rows are in the order of their keys, which are cut out of text.
	rows []filled
	text []byte
	// values is about how long their values are together.
	values int
	// replaced is how many of them replace one that lives.
	replaced int
}

// filled is one of them: where its forward key begins in the text, where its reverse key does and where that ends, and its value.
type filled struct {
	from, middle, to int
	value            []byte
}

func (f *filling) forward(r *filled) []byte { return f.text[r.from:r.middle] }
func (f *filling) reverse(r *filled) []byte { return f.text[r.middle:r.to] }

// take encodes relationships, and refuses one that is named twice.
func (f *filling) take(ctx context.Context, rels []tuple.Relationship) error {
	f.rows = make([]filled, 0, len(rels))
	f.text = make([]byte, 0, 192*len(rels))
	for i := range rels {
		if i%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		r, err := rowOf(rels[i].RelationshipReference)
		if err != nil {
			return err
		}
		in := filled{from: len(f.text)}
		f.text = r.appendForward(f.text)
		in.middle = len(f.text)
		f.text = r.appendReverse(f.text)
		in.to = len(f.text)
		if in.value, err = appendValue(nil, rels[i]); err != nil {
			return err
		}
		f.rows = append(f.rows, in)
		f.values += len(in.value)
		f.tx.own.size += 3*(in.to-in.from) + 2*len(in.value)
		if i%1024 == 0 {
			if err := f.tx.account(); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(f.rows, func(a, b filled) int { return bytes.Compare(f.forward(&a), f.forward(&b)) })
	for i := 1; i < len(f.rows); i++ {
		if bytes.Equal(f.forward(&f.rows[i-1]), f.forward(&f.rows[i])) {
			r, err := parseRow(f.forward(&f.rows[i]))
			if err != nil {
				return err
			}
			return fmt.Errorf("store: a relationship is named twice: %s",
				tuple.StringWithoutCaveatOrExpiration(tuple.Relationship{RelationshipReference: r.reference()}))
		}
	}
	if n := len(f.rows); n > 0 {
		// What others write there meanwhile conflicts.
		f.tx.reads.span(f.forward(&f.rows[0]), successor(nil, f.forward(&f.rows[n-1])))
	}
	return f.tx.account()
}

// leaveOut leaves out what the store has as it is, and counts what is replaced.
func (f *filling) leaveOut(ctx context.Context) error {
	kept := f.rows[:0]
	for i := range f.rows {
		if i%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		there, _, found, err := f.tx.view.peek(f.forward(&f.rows[i]))
		if err != nil {
			return err
		}
		if found && bytes.Equal(there, f.rows[i].value) {
			continue
		}
		if found {
			f.replaced++
		}
		kept = append(kept, f.rows[i])
	}
	f.rows = kept
	return nil
}

// propose encodes what is left, in runs of keys that ascend: a memtable takes these much faster than keys in turns. See writes.propose.
func (f *filling) propose() (*proposal, error) {
	log, err := newChunks(nil)
	if err != nil {
		return nil, err
	}
	versions := 2*len(f.rows) + len(f.tx.own.byKey)
	p := &proposal{
		batch:    make([]byte, batchrepr.HeaderLen, batchrepr.HeaderLen+2*len(f.text)+3*f.values+(versionLen+8)*versions+chunkSize),
		versions: make([]int, 0, versions), keys: make([]string, 0, versions),
		changes: true, rows: int64(len(f.rows) - f.replaced),
	}
	for key, own := range f.tx.own.byKey { // the mark, whose key is below those of rows
		log.add([]byte(key), own.value)
		p.put([]byte(key), own.value)
		p.keys = append(p.keys, key)
	}
	text := string(f.text)
	for i := range f.rows {
		r := &f.rows[i]
		log.add(f.forward(r), r.value)
		p.put(f.forward(r), r.value)
		p.keys = append(p.keys, text[r.from:r.middle], text[r.middle:r.to])
	}
	var key []byte
	for i := range f.rows {
		at, expires, err := expirationOf(f.rows[i].value)
		if err != nil {
			return nil, err
		}
		if expires {
			forward := f.forward(&f.rows[i])
			key = appendExpiration(key[:0], at.Unix(), 0, forward)
			p.set(key, len(forward)+versionLen, nil)
		}
	}
	slices.SortFunc(f.rows, func(a, b filled) int {
		return cmp.Or(bytes.Compare(f.reverse(&a), f.reverse(&b)), cmp.Compare(a.from, b.from))
	})
	for i := range f.rows {
		p.put(f.reverse(&f.rows[i]), f.rows[i].value)
	}
	return p.end(log)
}

// put appends a set operation whose key ends with a version.
func (p *proposal) put(key, value []byte) {
	p.batch = append(p.batch, byte(pebble.InternalKeyKindSet))
	p.batch = binary.AppendUvarint(p.batch, uint64(len(key)+versionLen))
	p.batch = append(p.batch, key...)
	p.versions = append(p.versions, len(p.batch))
	p.batch = append(p.batch, make([]byte, versionLen)...)
	p.batch = appendBytes(p.batch, value)
	p.ops++
}
