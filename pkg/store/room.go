package store

import (
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Writes are refused before the disk is full, so that what the store does in the background has room:
//
//	free bytes   │← floor →│←──── reserve ────→│←─ writes ─→
//	             0    DiskReserve/4       DiskReserve
//
// Above the reserve everything is written. Within it only what takes access away: ending, revoking and suspending must
// not be refused while checks go on to allow. That is told from the proposal alone, for every writer: it deletes
// relationships, and otherwise writes nothing but tombstones (Config.Narrows) without a caveat and an expiration. A
// delete makes room in the end, and no row can be deleted twice; and one that changes nothing writes nothing
// there. Below the floor nothing is written at all, because a log that cannot be written fails for everybody.

// maxNarrowing bounds a batch that may use the reserve, in bytes: some thousand deletions.
const maxNarrowing = 1 << 20

// narrowingCost is how many bytes of the disk a byte of a batch may take before collections and compactions: in the
// log and in a table, and in the table's next version.
const narrowingCost = 3

// room is what one group may write.
type room struct {
	// full is why not everything may be written; nil if it may.
	full error
	// reserve is how much what only narrows may take of the reserve, in bytes.
	reserve uint64
}

// refuse returns why a proposal may not be written; nil if it may, and then takes its share of the reserve.
func (r *room) refuse(p *proposal) error {
	if r.full == nil {
		return nil
	}
	if !p.narrows {
		return r.full
	}
	if !p.changes {
		return nil
	}
	cost := narrowingCost * uint64(len(p.batch))
	if len(p.batch) > maxNarrowing || cost > r.reserve {
		return r.full
	}
	r.reserve -= cost
	return nil
}

// room returns what a group may write.
func (s *Store) room(group []*submission) room {
	if cause := s.flushing.why(); cause != nil && s.memTablesFull(group) {
		// Pebble would let the write wait for room that is not made.
		return room{full: waiting(cause, false)}
	}
	for _, sub := range group {
		s.sinceDiskCheck += len(sub.proposal.batch)
	}
	now := time.Now()
	if s.diskFull == nil && s.sinceDiskCheck < 8<<20 && now.Sub(s.diskChecked) < 100*time.Millisecond {
		return room{}
	}
	s.sinceDiskCheck, s.diskChecked = 0, now
	usage, err := s.config.FS.GetDiskUsage(s.dir)
	if err != nil {
		// A file system that can never tell is not checked; where it is only now that it cannot, nothing has changed, and
		// the reserve is not used.
		return room{full: s.diskFull}
	}
	was := s.diskFull
	s.diskFull = nil
	if usage.AvailBytes < s.config.DiskReserve {
		s.diskFull = nearlyFull(usage.AvailBytes, s.config.DiskReserve)
	}
	if (was == nil) != (s.diskFull == nil) {
		s.config.Log.Warn("room on the disk", zap.String("directory", s.dir), zap.Bool("writes are refused", s.diskFull != nil),
			zap.Uint64("available bytes", usage.AvailBytes), zap.Uint64("reserve bytes", s.config.DiskReserve))
	}
	r := room{full: s.diskFull}
	if floor := s.config.DiskReserve / 4; usage.AvailBytes > floor {
		r.reserve = usage.AvailBytes - floor
	}
	return r
}

// memTablesFull reports whether a group may find no room in the memtables.
func (s *Store) memTablesFull(group []*submission) bool {
	size := s.db.Metrics().MemTable.Size
	for _, sub := range group {
		size += 2 * uint64(len(sub.proposal.batch))
	}
	return size > (memTables-1)*s.config.MemTableBytes
}

// nearlyFull is the refusal of a write where the disk has no room for it.
func nearlyFull(available, reserve uint64) error {
	return &refused{code: codes.ResourceExhausted, reason: authz.ReasonDiskFull, message: fmt.Sprintf(
		"the disk is nearly full: %d MiB are left, and %d MiB are kept free; until there is room nothing is written but what "+
			"takes access away (a deletion, an end, a revocation, a suspension), and that only down to %d MiB; reads go on",
		available>>20, reserve>>20, reserve/4>>20)}
}
