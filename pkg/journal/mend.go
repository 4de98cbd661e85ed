package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deputyauth/deputy/pkg/authz"
)

// A journal whose disk fails takes no records until it is mended: then another segment begins with the first record that is not known to be
// durable, and what the one before has from there on does not count.
//
// A disk without room is one that fails, and has a cure. The journal gives up a file that holds room for this case, and goes on, full:
// with records of a duty other than Refuse only. It is full until there is room to make that file again, so that it does not change
// its mind with every record.

const (
	// maxKept and maxKeptBytes bound the records that are kept in memory.
	maxKept, maxKeptBytes = 10_000, 4 << 20
	// patience is how long a call with the duty Keep waits for the disk.
	patience = time.Second
)

// trouble is what is known of a journal that fails or is full. Journal.mu guards it.
type trouble struct {
	// failed is why nothing can be written, and full why only what uses the reserve is; nil while all is well. closed is for good.
	failed, full error
	closed       bool
	// tried is when it was last tried to mend it.
	tried time.Time
	// reserved says that the reserve is there.
	reserved bool
	// kept are the frames of records that wait in memory, in order: they are the next ones to be written. keptCount is how many they are.
	// The goroutine that changes them has the room in writing, too.
	kept      []byte
	keptCount uint64
	// waiting is how many calls with the duty Keep are under way.
	waiting atomic.Int64
	// failures is how often it began to fail.
	failures uint64
	// missed is what has to be recorded of it.
	missed missed
	// totals is the same, since the journal was opened.
	totals missed
}

// missed counts records that were not written when they should have been.
type missed struct {
	from                            time.Time
	refused, unrecorded, late, lost uint64
}

// add adds others.
func (m *missed) add(o missed) {
	if m.from.IsZero() || !o.from.IsZero() && o.from.Before(m.from) {
		m.from = o.from
	}
	m.refused += o.refused
	m.unrecorded += o.unrecorded
	m.late += o.late
	m.lost += o.lost
}

// isNoRoom reports whether a disk, or one's share of it, is full.
func isNoRoom(err error) bool {
	return vfs.IsNoSpaceError(err) || errors.Is(err, syscall.EDQUOT)
}

// Err is why the journal refuses records; nil while it takes all. That is also where the keys of persons can be neither read nor made.
func (j *Journal) Err() error {
	err := j.troubled()
	if err == nil && j.cfg.Personal != nil && !j.cfg.Personal.keys.ReadOnly() {
		err = j.cfg.Personal.keys.Err()
	}
	return err
}

// troubled is why the journal's own disk or quota has it refuse records.
func (j *Journal) troubled() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.refuses(Refuse)
}

// refuses is why records with a duty are not taken; nil while they are. j.mu is held.
func (j *Journal) refuses(duty Duty) error {
	if j.failed != nil || duty != Refuse {
		return j.failed
	}
	if j.full != nil {
		return j.full
	}
	return j.overQuota()
}

// fail has the journal take no records until it is mended.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	was := j.failed
	if was == nil {
		j.failed = err
		j.failures++
	}
	j.mu.Unlock()
	if was == nil {
		j.cfg.Log.Error("the journal takes no records", zap.String("directory", j.cfg.Dir), zap.Error(err))
	}
}

// pass notes that records were not written, and reports whether their caller is to be told of no error.
func (j *Journal) pass(frames []byte) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := missed{from: j.cfg.Now()}
	passed := j.cfg.AnswerUnrecorded && !j.closed
	if passed {
		m.unrecorded = count(frames)
	} else {
		m.refused = count(frames)
	}
	j.miss(m)
	return passed
}

// miss notes what has to be recorded later. j.mu is held.
func (j *Journal) miss(m missed) {
	j.missed.add(m)
	j.totals.add(m)
}

// count returns how many frames there are.
func count(frames []byte) (n uint64) {
	for ; len(frames) > 0; n++ {
		frames = frames[len(frameOf(frames)):]
	}
	return n
}

// ErrLate is why a record of duty Reserve has an error that is written nevertheless.
var ErrLate = errors.New("the record is kept in memory, and written once that works again")

// keep is Append for records with a duty other than Refuse: they are written as soon as that is possible, whether their call waits or not.
func (j *Journal) keep(ctx context.Context, duty Duty, caller string, frames []byte) (first uint64, err error) {
	if j.waiting.Add(1) > maxKept {
		j.waiting.Add(-1)
		j.lose(frames)
		return j.answer(duty, Unrecorded, errLost)
	}
	type outcome struct {
		first uint64
		err   error
	}
	done := make(chan outcome, 1)
	go func() { //nolint:contextcheck // it goes on when the call is over
		defer j.waiting.Add(-1)
		is := outcome{Unrecorded, errLost}
		_ = authz.Safely("journal.Append", func() error {
			is.first, is.err = j.writeOrKeep(duty, caller, frames)
			return nil
		})
		done <- is
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case is := <-done:
		return j.answer(duty, is.first, is.err)
	case <-ctx.Done():
		err = overtime(ctx.Err())
	case <-timer.C:
		err = ErrLate
	}
	return j.answer(duty, Unrecorded, err) // it will be written, and nobody knows yet where
}

// answer is what keep returns of records that are not written, or not yet, where err says so.
func (j *Journal) answer(duty Duty, first uint64, err error) (uint64, error) {
	if err == nil || duty == Keep {
		return first, nil
	}
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return 0, e
	}
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if j.cfg.AnswerUnrecorded && !closed {
		return first, nil
	}
	return 0, unavailable(err)
}

// errLost is why a record of duty Reserve has an error that is not kept either.
var errLost = errors.New("the record is lost: no more are kept in memory")

// writeOrKeep writes records, or keeps them in memory while that fails: then its error is ErrLate, and first where they will be.
func (j *Journal) writeOrKeep(duty Duty, caller string, frames []byte) (first uint64, err error) {
	for range 3 { // the journal may be mended just when they are to be kept
		first, err := j.appendFrames(context.Background(), duty, caller, frames)
		if err == nil {
			return first, nil
		}
		if _, ok := errors.AsType[*authz.Error](err); ok { // its caller has used up its share, which is counted
			return Unrecorded, err
		}
		if first, kept := j.remember(frames); kept {
			return first, ErrLate
		}
	}
	j.lose(frames)
	return Unrecorded, errLost
}

// remember keeps records in memory until they can be written, marked late. It returns the sequence that the first of them has then.
func (j *Journal) remember(frames []byte) (first uint64, kept bool) {
	late := markLate(frames)
	n := count(late)
	j.writing <- struct{}{} // nobody writes: it is known how many records are written
	defer func() { <-j.writing }()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil || j.closed || j.keptCount+n > maxKept || len(j.kept)+len(late) > maxKeptBytes {
		return 0, false
	}
	first = j.written.Load() + j.keptCount
	j.kept = append(j.kept, late...)
	j.keptCount += n
	j.miss(missed{from: j.cfg.Now(), late: n})
	return first, true
}

// lose notes that records of duty Keep are not written at all.
func (j *Journal) lose(frames []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.miss(missed{from: j.cfg.Now(), lost: count(frames)})
}

// markLate returns the frames with the mark of a late record in each. A field may be anywhere in an encoding.
func markLate(frames []byte) []byte {
	out := make([]byte, 0, len(frames)+lateField)
	for len(frames) > 0 {
		frame := frameOf(frames)
		frames = frames[len(frame):]
		start := len(out)
		out = append(out, frame...)
		out = protowire.AppendTag(out, 32, protowire.VarintType)
		out = protowire.AppendVarint(out, 1)
		binary.LittleEndian.PutUint32(out[start:], uint32(len(out)-start-frameHeader)) //nolint:gosec // at most MaxRecord
	}
	return out
}

// retry tries to mend a journal that refuses records, unless that was just done. It reports whether it is worthwhile to try again.
func (j *Journal) retry(ctx context.Context, duty Duty) bool {
	if duty == Refuse && j.remeasure() {
		return true
	}
	now := j.cfg.Now()
	j.mu.Lock()
	due := !j.closed && j.refuses(duty) != nil
	if since := now.Sub(j.tried); since >= 0 && since < j.cfg.retryPause {
		// Records with a duty that may use the reserve use it at once.
		due = due && duty != Refuse && j.reserved && isNoRoom(j.failed)
	}
	if due {
		j.tried = now
	}
	j.mu.Unlock()
	if !due {
		return false
	}
	if !take(ctx, j.writing) {
		return false
	}
	err := j.mend()
	<-j.writing
	j.note() //nolint:contextcheck // it is not the call's
	return err == nil
}

// keepUp looks after a journal until it is closed.
func (j *Journal) keepUp() {
	defer close(j.stopped)
	var beside sync.WaitGroup
	defer beside.Wait()
	ticker := time.NewTicker(j.cfg.retryEvery)
	defer ticker.Stop()
	if j.cfg.QuotaBytes > 0 {
		beside.Go(func() {
			if err := authz.Safely("journal.recount", j.recount); err != nil {
				j.cfg.Log.Error("the journal cannot count what each caller has of it", zap.Error(err))
			}
		})
	}
	more := false
	for tidied := (time.Time{}); ; {
		if more || time.Since(tidied) >= j.cfg.tidyEvery {
			more = false
			j.safely(func() error { more = j.tidy(); return nil })
			tidied = time.Now()
		}
		select {
		case <-ticker.C:
		case <-j.stop:
			return
		}
		j.safely(func() error { j.look(); return nil })
	}
}

// safely does something that no call waits for. Where it fails, or panics, the log says so.
func (j *Journal) safely(do func() error) {
	if err := authz.Safely("journal.keepUp", do); err != nil {
		j.cfg.Log.Error("the journal cannot be looked after", zap.Error(err))
	}
}

// look tries again to mend a journal that refuses records, and records what was missed.
func (j *Journal) look() {
	j.remeasure()
	if j.troubled() != nil {
		select {
		case j.writing <- struct{}{}:
		case <-j.stop:
			return
		}
		_ = j.mend() // where it fails it is tried again
		<-j.writing
	}
	j.note()
}

// mend has a journal that fails, or is full, take records again, if that is possible by now. The caller has the room in writing.
func (j *Journal) mend() error {
	j.mu.Lock()
	j.tried = j.cfg.Now()
	failed, full, closed := j.failed, j.full, j.closed
	if failed != nil && j.pending != nil {
		// It waits to be written, with sequences that are given again now.
		j.pending.err = failed
		j.pending = nil
	}
	j.mu.Unlock()
	switch {
	case closed:
		return failed
	case failed != nil:
		if err := j.renewOnReserve(failed); err != nil {
			j.mu.Lock()
			j.failed = err
			j.mu.Unlock()
			return err
		}
		j.cfg.Log.Info("the journal takes records again", zap.Uint64("from", j.written.Load()), zap.Bool("on its reserve", full != nil))
	case full != nil:
		return j.refill()
	}
	return nil
}

// renewOnReserve begins another segment, and gives up the reserve where there is no room.
func (j *Journal) renewOnReserve(cause error) error {
	if isNoRoom(cause) {
		j.giveUpReserve(cause)
	}
	err := j.renew()
	if isNoRoom(err) && j.giveUpReserve(err) {
		err = j.renew()
	}
	return err
}

// renew begins a segment with the first record that is not known to be durable, and with those that are kept in memory. All that is in it when
// it returns is durable. The caller has the room in writing.
func (j *Journal) renew() error {
	u := &j.unsynced
	u.syncing.Lock()
	defer u.syncing.Unlock()
	written := j.written.Load()
	kept := number(j.kept, written)
	j.mac.seal(j.kept)
	made, err := createSegment(j.fs, j.segments, j.durable.Load(), u.older, u.newer, j.kept)
	if err != nil {
		return err
	}
	_ = j.segment.file.Close() // whatever comes of it, nothing of it is needed
	j.segment = made
	u.older, u.newer = u.older[:0], u.newer[:0]
	written += kept
	j.durable.Store(written)
	j.written.Store(written)
	j.news.tell()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed, j.next, j.kept, j.keptCount = nil, written, nil, 0
	return nil
}

// note records what was missed, once all is well.
func (j *Journal) note() {
	j.mu.Lock()
	m := j.missed
	if j.refuses(Refuse) != nil || m == (missed{}) {
		j.mu.Unlock()
		return
	}
	j.missed = missed{}
	j.mu.Unlock()
	now := j.cfg.Now()
	err := j.Note(fmt.Sprintf("between %s and %s the journal could not be written: %d records were refused with what they are about, "+
		"%d answers were given without a record, %d records were written late, and %d that should have been are lost",
		m.from.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), m.refused, m.unrecorded, m.late, m.lost))
	if err != nil {
		j.mu.Lock()
		j.missed.add(m)
		j.mu.Unlock()
	}
}
