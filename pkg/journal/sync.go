package journal

import (
	"errors"
	"fmt"
	"sync"
)

// maxUnsynced is how much may be written that is not known to survive a power cut, in bytes: then the goroutine that writes syncs.
const maxUnsynced = 4 << 20

// unsynced is what is written to the segment and not known to be durable. After a sync that failed the operating system may have thrown it
// away while it tells everybody else that all is well: nothing of that file is trusted then, and what is kept here is written again. Without it,
// a record that was answered could be lost to a disk that failed for a moment.
type unsynced struct {
	// syncing is held by the goroutine that syncs, and by the one that replaces the segment.
	syncing sync.Mutex

	// mu guards the rest: the frames that are being synced, or were when that failed; those that were written meanwhile; and the sequence
	// of the record behind them.
	mu           sync.Mutex
	older, newer []byte
	end          uint64
}

// add notes that frames are written, up to the record end, and reports whether there is as much of it as there may be.
func (u *unsynced) add(frames []byte, end uint64) (full bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.newer = append(u.newer, frames...)
	u.end = end
	return len(u.older)+len(u.newer) >= maxUnsynced
}

// begin returns the sequence behind the records that a sync that begins now makes durable; false where there are none.
func (u *unsynced) begin() (end uint64, found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.older) == 0 {
		u.older, u.newer = u.newer, u.older
	} else {
		u.older, u.newer = append(u.older, u.newer...), u.newer[:0]
	}
	return u.end, len(u.older) > 0
}

// succeeded forgets what a sync made durable.
func (u *unsynced) succeeded() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.older = u.older[:0]
}

// Sync has what is written survive a power cut, and returns how many records that are from the first on. It waits for no writer, and
// no writer waits for it, as long as it keeps up. Errors: the disk's, after which the journal takes no records until it is mended.
func (j *Journal) Sync() (durable uint64, err error) {
	u := &j.unsynced
	u.syncing.Lock()
	defer u.syncing.Unlock()
	if j.segment.broken {
		return j.durable.Load(), errors.New("journal: a sync of the segment has failed")
	}
	end, found := u.begin()
	if !found {
		return j.durable.Load(), nil
	}
	if err := j.segment.file.SyncData(); err != nil {
		j.segment.broken = true
		err = fmt.Errorf("cannot sync: %w", err)
		j.fail(err)
		return j.durable.Load(), fmt.Errorf("journal: %w", err)
	}
	u.succeeded()
	j.durable.Store(end)
	return end, nil
}
