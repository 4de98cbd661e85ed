package index

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// maxTerms is how many terms of a bundle are kept: a record has some ten.
const maxTerms = 4096

// anyTerms stands for a number of terms that is more than are kept.
const anyTerms = math.MaxUint32

// partHead is how long an entry of a part is without its terms and its sum.
const partHead = 8 + 8 + 8 + 4

// appendEntry appends a bundle to a part.
func appendEntry(b []byte, number uint64, of *bundle) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, uint64(of.first)) //nolint:gosec // read as it is written
	b = binary.LittleEndian.AppendUint64(b, uint64(of.last))  //nolint:gosec // read as it is written
	count := uint32(len(of.terms))                            //nolint:gosec // at most maxTerms
	if of.any {
		count = anyTerms
	}
	b = binary.LittleEndian.AppendUint32(b, count)
	for _, t := range of.terms {
		b = binary.LittleEndian.AppendUint64(b, uint64(t))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// nextEntry returns the first entry of a part, and how long it is; 0 where there is no whole one.
func nextEntry(b []byte) (number uint64, of bundle, n int) {
	if len(b) < partHead+4 {
		return 0, of, 0
	}
	number = binary.LittleEndian.Uint64(b)
	of = bundle{known: true, first: int64(binary.LittleEndian.Uint64(b[8:])), last: int64(binary.LittleEndian.Uint64(b[16:]))} //nolint:gosec // as written
	count := binary.LittleEndian.Uint32(b[24:])
	if of.any = count == anyTerms; of.any {
		count = 0
	}
	if count > maxTerms {
		return 0, of, 0
	}
	n = partHead + int(count)*8
	if len(b) < n+4 || crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return 0, of, 0
	}
	of.terms = make([]Term, count)
	for i := range of.terms {
		of.terms[i] = Term(binary.LittleEndian.Uint64(b[partHead+i*8:]))
	}
	return number, of, n + 4
}

// collector collects the terms of a bundle, each once. It is used again, so that a bundle costs no more room than its terms.
type collector struct {
	seen Seen
	// table has terms where they hash to, and taken says for which bundle a place was taken last.
	table [4 * maxTerms]Term
	taken [4 * maxTerms]uint32
	round uint32
}

// collect reads the records of a bundle. more adds the terms of what is sealed in a record; it may be nil.
func (c *collector) collect(records [][]byte, more func(record []byte, terms []Term) []Term) bundle {
	if c.round++; c.round == 0 {
		c.taken, c.round = [len(c.taken)]uint32{}, 1
	}
	b := bundle{known: true, first: noFirst, last: noLast}
	for _, record := range records {
		if !c.seen.See(record) {
			// Nothing is known of it: the bundle is read whatever is asked for.
			return bundle{known: true, first: noLast, last: noFirst, any: true}
		}
		b.first, b.last = min(b.first, c.seen.Time), max(b.last, c.seen.Time)
		if c.seen.Sealed && more != nil {
			c.seen.Terms = more(record, c.seen.Terms)
		}
		for _, t := range c.seen.Terms {
			if b.any || !c.fresh(t) {
				continue
			}
			if b.any = len(b.terms) == maxTerms; !b.any {
				b.terms = append(b.terms, t)
			}
		}
	}
	if b.any {
		b.terms = nil
	}
	return b
}

// fresh reports whether a term is met for the first time in the bundle.
func (c *collector) fresh(t Term) bool {
	for at := uint64(t) % uint64(len(c.table)); ; at = (at + 1) % uint64(len(c.table)) {
		if c.taken[at] != c.round {
			c.table[at], c.taken[at] = t, c.round
			return true
		}
		if c.table[at] == t {
			return false
		}
	}
}
