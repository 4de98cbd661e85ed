package journal

// The records that are in no bundle yet are at the end of a segment, which is long and can be read from its beginning only: that
// would take a query for the newest records a hundred times as long as a decision. So the server's own reader takes what the sealer
// has of them in memory, and goes on in the segment where the sealer stopped.

// segmentPlace is a place in the segments, where one reader stopped and another can go on. The zero segmentPlace is none.
type segmentPlace struct {
	first, next uint64
	offset      int64
}

// place is where the reader stopped.
func (r *SegmentReader) place() segmentPlace { return segmentPlace{r.first, r.next, r.offset} }

// skip has the reader go on at a place, unless that is behind a record, or the reader is nearer to it already.
func (r *SegmentReader) skip(to segmentPlace, record uint64) {
	if to.offset > 0 && to.next <= record && (r.next > record || r.next < to.next) {
		r.first, r.next, r.offset = to.first, to.next, to.offset
	}
}

// stopped notes where the sealer stopped in the segments.
func (s *sealer) stopped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place = s.reader.place()
}

// unsealed returns the records of a chunk that the tree has, and a place in the segments before the others.
func (s *sealer) unsealed(n uint64) ([][]byte, segmentPlace) {
	s.mu.Lock()
	place := s.place
	s.mu.Unlock()
	records, err := s.tree.Bundle(n) // after the place, so that the tree has what is before that
	if err != nil {
		return nil, place // the segments have it, or say what is wrong
	}
	return records, place
}
