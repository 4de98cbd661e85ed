package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// Pebble takes the end of a log, and of its manifest, for torn where it cannot read it, and goes on without
// it. After a crash that is right: what was torn had not been synced, so nobody was told of it. Damage looks
// the same, and takes away what was acknowledged: commits, or with an entry of the manifest a whole table of
// them, whose log is deleted by then. Pebble does not look for it; two things here do.
//
//	a gap     every revision names the one before it. Open follows them from the newest down; the one
//	          where they end must be the first ever, or one that collection left.
//	an end    the file DEPUTY names a revision that was on the disk. The newest one that is found must not
//	          be older. It is brought up to date when a table was written, before long its log goes; when
//	          the store is closed; and with every collection.
//
// What is left: a log that is cut at its end, or gone, in a store that was killed. Those commits were in the
// log alone, so what is left is what a crash before them would have left.

// followed is how many revisions are followed down when a store is opened. What a crash and damage leave
// above a gap was in the logs, which hold this many of the shortest commits.
const followed = 1_000_000

// history is what a store knows of what it has written.
type history struct {
	// applied is the newest revision that Pebble was given, or is about to be.
	applied atomic.Uint64
	// flushes counts how often Pebble has written tables of what was in a log; flushed is signalled then, and
	// has room for one. attested is how many of those DEPUTY knows of.
	flushes, attested atomic.Uint64
	flushed           chan struct{}

	// mu guards the file DEPUTY and what it says.
	mu   sync.Mutex
	says description
}

// complete returns ErrDamaged if revisions are missing: below the head, which load has read, or above it.
func (s *Store) complete(says description) (err error) {
	head := s.head.Load().at
	if head < says.reached {
		return damaged("its newest revision is %d, and it had reached %d", head, says.reached)
	}
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindChangelog}, UpperBound: []byte{kindChangelog + 1}})
	if err != nil {
		return broken(err)
	}
	defer func() {
		if closed := iter.Close(); err == nil {
			err = broken(closed)
		}
	}()
	valid := iter.Last()
	before := head
	for n := 0; valid && n < followed; n++ {
		at, chunk, err := parseChangelogKey(iter.Key())
		if err != nil {
			return err
		}
		if at != before {
			return damaged("revision %d is missing, and later ones are there", before)
		}
		if chunk > 0 && !iter.SeekGE(changelogKey(at, 0)) {
			break // with an error
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return broken(err)
		}
		first, _, err := readHead(value)
		if err != nil {
			return err
		}
		before = first.before
		valid = iter.Prev()
		if !valid && before != 0 && at > s.leases.lowest() {
			return damaged("revision %d is missing, and later ones are there", before)
		}
	}
	return broken(iter.Error())
}

// emptyTable is what Pebble's error for a flush says that had nothing to write. It has no name outside.
const emptyTable = "pebble: empty table"

// noteFlush is called when Pebble has written tables, or could not. It must not wait. Pebble tries again after the
// pause that files makes, and for ever; meanwhile writes wait for room.
func (s *Store) noteFlush(info pebble.FlushInfo) {
	// A flush of what was deleted before it has nothing to write, which Pebble reports as an error.
	if info.Err != nil && info.Err.Error() != emptyTable {
		if errors.Is(info.Err, errFenced) || errors.Is(info.Err, errEnding) {
			return
		}
		lasted, hard := s.flushing.failed(info.Err)
		if hard >= s.config.patience {
			s.fail("writing a table", info.Err)
			return
		}
		s.stalled("writing a table", info.Err, lasted)
		return
	}
	s.files.tables.over()
	s.recovered(&s.flushing)
	s.history.flushes.Add(1)
	select {
	case s.history.flushed <- struct{}{}:
	default: // somebody is about to look already
	}
}

// attest brings the file DEPUTY up to date: the head is on the disk. Where that cannot be written nothing is
// lost but a later look at what is missing.
func (s *Store) attest() {
	at := s.head.Load().at
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	if at <= s.history.says.reached || s.hasFailed() {
		return
	}
	says := s.history.says
	says.reached = at
	if err := writeDescription(s.config.FS, s.dir, says); err != nil {
		s.config.Log.Warn("how far the store has come could not be noted", zap.String("directory", s.dir), zap.Error(err))
		return
	}
	s.history.says = says
}

// attestFlushes attests after tables were written, once the head has reached what is in them, until ctx ends.
func (s *Store) attestFlushes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.history.flushed:
		}
		flushes := s.history.flushes.Load()
		for written := Revision(s.history.applied.Load()); ; {
			moved := s.moved.wait()
			if s.head.Load().at >= written {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-s.failure.happened:
				return
			case <-moved:
			}
		}
		s.shielded("noting how far the store has come", s.attest)
		s.history.attested.Store(flushes)
	}
}
