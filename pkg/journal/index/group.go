package index

import (
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"slices"
)

const (
	magic = "deputy index   1"
	// Wide is how many bundles a group has.
	Wide = 256
	// timesAt is the first block with times, timesIn how many bundles one has, and filterAt the first block of the first filter.
	timesAt  = 1
	timesIn  = payload / 16
	filterAt = timesAt + (Wide+timesIn-1)/timesIn
	// rowBytes is how long a row of the second filter is, and rowsIn how many a block has.
	rowBytes = Wide / 8
	rowsIn   = payload / rowBytes
	// blockBits is how many bits a block of the first filter has.
	blockBits = payload * 8

	// A group takes 6 bytes a record at most: of the first filter's blocks 112, and of the second filter's rows 9,600. With as many terms as
	// that is too little for, filters err more often, and more bundles are read.
	maxBlocks = 112
	maxRows   = 9600
	// blockTermBits and rowTermBits are how many bits the filters have for each term while there is room, and most* how many
	// of them a term sets: the first errs in 0.3 % of the groups, the second in 2 % of the bundles of those.
	blockTermBits, mostBlockHashes = 12, 8
	rowTermBits, mostRowHashes     = 8, 6
)

// Bundles is a set of the bundles of a group, by their place in it.
type Bundles [Wide / 64]uint64

// allBundles has all of them.
var allBundles = Bundles{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}

// Has reports whether a bundle is in the set.
func (s *Bundles) Has(place int) bool { return s[place/64]&(1<<(place%64)) != 0 }

// Empty reports whether none is.
func (s *Bundles) Empty() bool { return *s == Bundles{} }

func (s *Bundles) add(place int)        { s[place/64] |= 1 << (place % 64) }
func (s *Bundles) join(with *Bundles)   { s.each(with, func(a, b uint64) uint64 { return a | b }) }
func (s *Bundles) narrow(with *Bundles) { s.each(with, func(a, b uint64) uint64 { return a & b }) }

func (s *Bundles) each(with *Bundles, do func(a, b uint64) uint64) {
	for i := range s {
		s[i] = do(s[i], with[i])
	}
}

// bundle is what is kept of a bundle until its group is whole.
type bundle struct {
	// known says that it is there: bundles that were deleted before the index was built are not.
	known       bool
	first, last int64
	terms       []Term
	// any says that it has more terms than are kept.
	any bool
}

// may reports whether a bundle may have a record that is looked for.
func (b *bundle) may(q *Query) bool {
	if !b.known {
		return true
	}
	if !q.within(b.first, b.last) {
		return false
	}
	return b.any || !slices.ContainsFunc(q.All, func(either []Term) bool { return !has(b.terms, either) })
}

// head is what the first block of a group says.
type head struct {
	group       uint64
	first, last int64
	// blocks and hashes are the first filter's, and rows and rowHashes the second one's.
	blocks, hashes  uint32
	rows, rowHashes uint32
}

func (h *head) append(b []byte) []byte {
	said := binary.LittleEndian.AppendUint64([]byte(magic), h.group)
	said = binary.LittleEndian.AppendUint64(said, uint64(h.first)) //nolint:gosec // read as it is written
	said = binary.LittleEndian.AppendUint64(said, uint64(h.last))  //nolint:gosec // read as it is written
	for _, n := range []uint32{h.blocks, h.hashes, h.rows, h.rowHashes} {
		said = binary.LittleEndian.AppendUint32(said, n)
	}
	return appendBlock(b, h.group, said)
}

func readHead(file io.ReaderAt, group uint64, room []byte) (h head, err error) {
	said, err := readBlock(file, group, 0, room)
	if err != nil {
		return h, err
	}
	if string(said[:len(magic)]) != magic {
		return h, errDamaged
	}
	numbers := said[len(magic):]
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(numbers[i:]) }
	half := func(i int) uint32 { return binary.LittleEndian.Uint32(numbers[i:]) }
	h = head{at(0), int64(at(8)), int64(at(16)), half(24), half(28), half(32), half(36)} //nolint:gosec // see append
	if h.group != group || h.blocks-1 >= maxBlocks || h.rows-1 >= maxRows || h.hashes > mostBlockHashes || h.rowHashes > mostRowHashes {
		return h, errDamaged
	}
	return h, nil
}

// encodeGroup makes the file of a group.
func encodeGroup(group uint64, bundles *[Wide]bundle) []byte {
	h := head{group: group, first: noFirst, last: noLast}
	var counts []int
	var all []Term
	open := false // for any term
	for i := range bundles {
		b := &bundles[i]
		if !b.known {
			continue
		}
		h.first, h.last = min(h.first, b.first), max(h.last, b.last)
		counts, all, open = append(counts, len(b.terms)), append(all, b.terms...), open || b.any
	}
	slices.Sort(all)
	all = slices.Compact(all)
	slices.Sort(counts)
	usual := 1 // terms of a bundle: one in ten has more
	if len(counts) > 0 {
		usual = max(1, counts[len(counts)*9/10])
	}
	h.blocks, h.hashes = measure(len(all), blockTermBits, blockBits, maxBlocks, mostBlockHashes)
	h.rows, h.rowHashes = measure(usual, rowTermBits, 1, maxRows, mostRowHashes)

	out := h.append(make([]byte, 0, blockSize*(filterAt+int(h.blocks)+int(h.rows)/rowsIn+1)))
	var times []byte
	for i := range bundles {
		b := &bundles[i]
		if !b.known {
			b = &bundle{first: noFirst, last: noLast}
		}
		times = binary.LittleEndian.AppendUint64(times, uint64(b.first)) //nolint:gosec // read as it is written
		times = binary.LittleEndian.AppendUint64(times, uint64(b.last))  //nolint:gosec // read as it is written
		if len(times) == timesIn*16 || i == Wide-1 {
			out = appendBlock(out, group, times)
			times = times[:0]
		}
	}
	filter := make([]byte, int(h.blocks)*payload)
	if open {
		fill(filter)
	}
	for _, t := range all {
		block := filter[int(t.block(h.blocks))*payload:][:payload]
		for i := range h.hashes {
			bit := t.bit(i)
			block[bit/8] |= 1 << (bit % 8)
		}
	}
	for block := range slices.Chunk(filter, payload) {
		out = appendBlock(out, group, block)
	}
	rows := make([]byte, int(h.rows)*rowBytes)
	for place := range bundles {
		b := &bundles[place]
		for i := 0; b.any && i < int(h.rows); i++ {
			rows[i*rowBytes+place/8] |= 1 << (place % 8)
		}
		for _, t := range b.terms {
			for i := range h.rowHashes {
				rows[int(t.row(i, h.rows))*rowBytes+place/8] |= 1 << (place % 8)
			}
		}
	}
	for block := range slices.Chunk(rows, rowsIn*rowBytes) {
		out = appendBlock(out, group, block)
	}
	return out
}

func fill(b []byte) {
	for i := range b {
		b[i] = math.MaxUint8
	}
}

// measure returns of how many units of bits a filter for terms consists, and how many hashes err least in it.
func measure(terms, each, unit int, most, mostHashes uint32) (units, hashes uint32) {
	wanted := (terms*each + unit - 1) / unit
	units = uint32(min(max(wanted, 1), int(most))) //nolint:gosec // it is bounded by most
	best := math.Round(math.Ln2 * float64(units) * float64(unit) / float64(max(terms, 1)))
	return units, uint32(min(max(best, 1), float64(mostHashes)))
}

// block is the block of the first filter that has a term, and bit the i-th bit of it there.
func (t Term) block(of uint32) uint32 {
	hi, _ := bits.Mul64(uint64(t), uint64(of))
	return uint32(hi) //nolint:gosec // smaller than of
}

func (t Term) bit(i uint32) uint32 { return t.probe(i, 0x9e3779b97f4a7c15, blockBits) }

// row is the i-th row of the second filter that has a term.
func (t Term) row(i, of uint32) uint32 { return t.probe(i, 0xc2b2ae3d27d4eb4f, of) }

// probe is the i-th of a term's numbers below a bound, by double hashing (Kirsch, Mitzenmacher: "Less Hashing, Same Performance", 2006).
func (t Term) probe(i uint32, multiplier uint64, below uint32) uint32 {
	h := uint64(t) * multiplier
	h ^= h >> 32
	h *= multiplier
	a, b := uint32(h>>32), uint32(h)|1 //nolint:gosec // its halves
	hi, _ := bits.Mul64(uint64(a+i*b)<<32, uint64(below))
	return uint32(hi) //nolint:gosec // smaller than below
}

// mayGroup returns the bundles of a group's file that may have a record that is looked for.
func mayGroup(file io.ReaderAt, group uint64, q *Query) (Bundles, error) {
	var room [blockSize]byte
	h, err := readHead(file, group, room[:])
	if err != nil || !q.within(h.first, h.last) {
		return Bundles{}, err
	}
	for _, either := range q.All {
		found := false
		for i := 0; i < len(either) && !found; i++ {
			if found, err = h.inGroup(file, either[i], room[:]); err != nil {
				return Bundles{}, err
			}
		}
		if !found {
			return Bundles{}, nil
		}
	}
	may := allBundles
	if q.From != 0 || q.Until != 0 {
		if may, err = h.inTime(file, q, room[:]); err != nil {
			return Bundles{}, err
		}
	}
	for _, either := range q.All {
		var one Bundles
		for _, t := range either {
			with, err := h.inBundles(file, t, room[:])
			if err != nil {
				return Bundles{}, err
			}
			one.join(&with)
		}
		if may.narrow(&one); may.Empty() {
			break
		}
	}
	return may, nil
}

// inGroup reports whether the group may have a term.
func (h *head) inGroup(file io.ReaderAt, t Term, room []byte) (bool, error) {
	block, err := readBlock(file, h.group, uint64(filterAt+t.block(h.blocks)), room)
	if err != nil {
		return false, err
	}
	for i := range h.hashes {
		if bit := t.bit(i); block[bit/8]&(1<<(bit%8)) == 0 {
			return false, nil
		}
	}
	return true, nil
}

// inBundles returns the bundles that may have a term.
func (h *head) inBundles(file io.ReaderAt, t Term, room []byte) (Bundles, error) {
	may := allBundles
	for i := range h.rowHashes {
		row := t.row(i, h.rows)
		block, err := readBlock(file, h.group, uint64(filterAt+h.blocks+row/rowsIn), room)
		if err != nil {
			return Bundles{}, err
		}
		bits := block[row%rowsIn*rowBytes:]
		var one Bundles
		for word := range one {
			one[word] = binary.LittleEndian.Uint64(bits[word*8:])
		}
		if may.narrow(&one); may.Empty() {
			break
		}
	}
	return may, nil
}

// inTime returns the bundles with a record in the span of time that is asked for.
func (h *head) inTime(file io.ReaderAt, q *Query, room []byte) (Bundles, error) {
	var may Bundles
	var block []byte
	var err error
	for place := range Wide {
		in := place % timesIn
		if in == 0 {
			if block, err = readBlock(file, h.group, uint64(timesAt+place/timesIn), room); err != nil {
				return Bundles{}, err
			}
		}
		first := int64(binary.LittleEndian.Uint64(block[in*16:]))  //nolint:gosec // see encodeGroup
		last := int64(binary.LittleEndian.Uint64(block[in*16+8:])) //nolint:gosec // see encodeGroup
		if q.within(first, last) {
			may.add(place)
		}
	}
	return may, nil
}
