package journal

import (
	"context"
	"crypto/aes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Record is one record, as the contract has it. Its Sequence is given when it is appended.
type Record = deputyv1.Record

// Config is what a journal needs; Dir is required, and Keys or Secret.
type Config struct {
	// Dir is the journal's directory; it is made if it is not there.
	Dir string
	// FS is where it lies; nil means the operating system's.
	FS vfs.FS
	// Store names the store that the journal is about, in the origin of a new journal.
	Store string
	// Keys are the journal's keys.
	Keys *Keys
	// Secret derives the ids of decisions, the digests of contexts and the MACs of segments, where Keys is nil: MinSecret bytes or more. Such
	// a journal has no checkpoints, so that a process that can write to its directory can change it unseen.
	Secret []byte
	// CheckpointInterval is how often a checkpoint is signed while records come; 0 means a second. After 10,000 records one is signed earlier.
	CheckpointInterval time.Duration
	// OnCheckpoint is called with each new checkpoint, a C2SP signed note, by one goroutine, which it must not hold up; nil if nobody wants it.
	OnCheckpoint func(checkpoint []byte)
	// Witness cosigns checkpoints; nil means that nobody does.
	Witness *WitnessConfig
	// Sync has each record survive a power cut before its answer leaves. Without, it survives the death of the process, and
	// a power cut loses at most what came after the last checkpoint.
	Sync bool
	// OpenFields are the fields of caveat contexts that records hold as they are. Of all others they hold a keyed digest.
	OpenFields []string
	// Personal seals what of records is a person's, so that it can be erased; nil leaves records as they are. It is closed with the journal.
	Personal *Personal
	// Evaluator is what evaluates the checks of decisions.
	Evaluator deputyv1.Evaluator
	// AnswerUnrecorded has Append report success, with Unrecorded, where it would refuse a record because the journal fails or is full. How many
	// there were is recorded once that works again.
	AnswerUnrecorded bool
	// Retention is how long records are kept at least. Those that are older are removed, by whole bundles of 256; 0 means that none are.
	Retention time.Duration
	// QuotaBytes is how much the directory may have, the reserve included. A journal that has used it up is full: nothing is removed that the
	// retention keeps. Records with a duty other than Refuse are still taken. 0 means no bound.
	QuotaBytes int64
	// CallerShare is how much of the quota a single caller's records may have, up to 1; 0 means half of it. Beyond it, its records of
	// duty Refuse are refused; those of others are not.
	CallerShare float64
	// SegmentBytes is how long a segment may be before another one is begun; 0 means 64 MiB.
	SegmentBytes int64
	// ReserveBytes is how much room is kept for records with a duty other than Refuse; 0 means 16 MiB.
	ReserveBytes int64
	// Now is the clock; nil means the system's.
	Now func() time.Time
	// Log is told what goes wrong; nil tells nobody.
	Log *zap.Logger

	// retryEvery is how often a journal that fails is tried again, and retryPause how long Append waits before it does so; 0 means a second
	// and a tenth of one.
	retryEvery, retryPause time.Duration
	// tidyEvery is how often what is older than the retention is removed; 0 means a minute.
	tidyEvery time.Duration
	// pruneAtOnce bounds how many bundles are looked at in one go: where there are more, it goes on after retryEvery. 0 means 4,096, which is a
	// million records a second.
	pruneAtOnce uint64
}

// Journal is an opened journal. It is safe for concurrent use.
type Journal struct {
	cfg      Config
	fs       vfs.FS
	segments string
	origin   string
	tag      [8]byte
	ids      *IDs
	// contexts is the key of the digests of contexts, and macs that of the MACs of frames.
	contexts, macs []byte
	// arguments is the key of the digests of tools' arguments.
	arguments []byte
	sealer    *sealer
	lock      io.Closer
	// stop ends what keeps the journal up, which closes stopped.
	stop, stopped chan struct{}
	closing       sync.Once

	// writing has room for the goroutine that writes, and guards segment, which syncing guards too, so that either is enough to read it.
	writing chan struct{}
	segment *segment
	// copied is a copy of the batch that is being written, and mac computes the MACs of frames. writing guards both.
	copied []byte
	mac    *frameMAC
	// written is how many records are written, so that they may be read, and durable how many of those survive a power cut.
	written, durable atomic.Uint64
	unsynced         unsynced
	// news tells the readers that follow that more is written, and indexer keeps the index; nil without Reader.
	news    news
	indexer atomic.Pointer[indexer]
	// batches and bytesWritten are how many writes there were since the journal was opened, and how long they were together.
	batches, bytesWritten atomic.Uint64

	// mu guards what waits to be written, and what is known of the disk.
	mu sync.Mutex
	// next is the sequence of the next record, and pending the batch that it joins; nil if none waits.
	next    uint64
	pending *batch
	trouble
	room
}

// batch is what is written in one go: by the goroutine that began it, for all that joined.
type batch struct {
	first  uint64
	count  uint64
	frames []byte
	// buffer is where the frames are from.
	buffer *[]byte
	// done is closed once it is written, or err says why it is not. It is nil as long as only the goroutine that writes waits for it.
	done chan struct{}
	err  error
	// left is how many of its records belong to calls that wait no more, and over says that it has been tried to write it. Journal.mu guards both.
	left uint64
	over bool
}

// Duty is what a journal that cannot take a record does with it.
type Duty uint8

// The duties.
const (
	// Refuse: an error, so that what the record is about is refused. The zero value.
	Refuse Duty = iota
	// Reserve: the room that is kept in reserve is used first. Without it there is an error, and the record is nevertheless kept in memory, as
	// with Keep: for how something ended whose beginning is recorded.
	Reserve
	// Keep: no error. The reserve is used, and without it the record is kept in memory and written, marked late, once that works
	// again: for what narrows.
	Keep
)

// Unrecorded stands for the sequence of a record that is not written: Append says when. ID makes a random id of it.
const Unrecorded uint64 = math.MaxUint64

const (
	// sequenceField is how long the first field of every record is, in bytes: a tag and a fixed number.
	sequenceField = 1 + 8
	// lateField is how long the mark of a late record is, in bytes: a tag and a bool.
	lateField = 2 + 1
	// maxGather is how long a batch that is to be synced may wait for more records. It is looked at each time that others have run.
	maxGather = time.Millisecond
	// pooled is how long a buffer may be that is used again, in bytes.
	pooled = 1 << 20
)

// Append writes records and returns the sequence of the first; the others follow it without a gap. When it returns without an error they
// have been handed to the operating system, and with Config.Sync to the disk. There are two exceptions: a record that a journal keeps in memory
// (see Keep), and Config.AnswerUnrecorded. What is a person's is taken out of the records where it is sealed (see Personal). A record that would be
// too long loses the lists in it. ctx bounds how long it waits for others' writes. Errors: *authz.Error of kind Unavailable, Exhausted for a caller over
// its share, and Canceled or Deadline once ctx is over: then the records are written nevertheless, if the journal can.
func (j *Journal) Append(ctx context.Context, duty Duty, records ...*Record) (first uint64, err error) {
	if len(records) == 0 {
		return 0, errors.New("journal: there is nothing to append")
	}
	if err := j.sealRecords(duty, records); err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.miss(missed{from: j.cfg.Now(), refused: uint64(len(records))})
		return 0, unavailable(err)
	}
	buffer, _ := buffers.Get().(*[]byte)
	defer release(buffer)
	frames, err := appendFrames((*buffer)[:0], records)
	if err != nil {
		return 0, err
	}
	*buffer = frames
	if duty != Refuse {
		return j.keep(ctx, duty, records[0].GetCaller(), slices.Clone(frames))
	}
	if first, err = j.appendFrames(ctx, duty, records[0].GetCaller(), frames); err == nil {
		return first, nil
	}
	if e, ok := errors.AsType[*authz.Error](err); ok { // the caller is over its share, or does not wait: the journal does not fail
		return 0, e
	}
	if j.pass(frames) {
		return Unrecorded, nil
	}
	return 0, unavailable(err)
}

// appendFrames is Append, with frames whose sequences, MACs and sums are not known yet. A journal that fails is tried again.
func (j *Journal) appendFrames(ctx context.Context, duty Duty, caller string, frames []byte) (first uint64, err error) {
	b, first, began, err := j.join(duty, caller, frames)
	if err != nil && j.retry(ctx, duty) {
		b, first, began, err = j.join(duty, caller, frames)
	}
	if err != nil {
		return 0, err
	}
	if began {
		if !take(ctx, j.writing) {
			go func() { // others may have joined
				_ = authz.Safely("journal.Append", func() error {
					j.writing <- struct{}{}
					j.write(b)
					return nil
				})
			}()
			return 0, j.leave(ctx, b, frames)
		}
		j.write(b)
		return first, b.err
	}
	select {
	case <-b.done:
		return first, b.err
	case <-ctx.Done():
		return 0, j.leave(ctx, b, frames)
	}
}

// take takes the room in writing. ctx bounds how long it waits: where it need not wait, it does not matter that ctx is over.
func take(ctx context.Context, writing chan struct{}) bool {
	select {
	case writing <- struct{}{}:
		return true
	default:
	}
	select {
	case writing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// leave notes that a call waits for its records no more, and returns what it is told. They are written without it. Where that fails, they are
// among those that were refused.
func (j *Journal) leave(ctx context.Context, b *batch, frames []byte) error {
	n := count(frames)
	j.mu.Lock()
	if !b.over {
		b.left += n
	} else if b.err != nil {
		j.miss(missed{from: j.cfg.Now(), refused: n})
	}
	j.mu.Unlock()
	return overtime(ctx.Err())
}

// overtime is what a call is told whose time is over: that says nothing of the journal.
func overtime(err error) error {
	kind, message := authz.Canceled, "the call was cancelled while its record waited to be written"
	if errors.Is(err, context.DeadlineExceeded) {
		kind, message = authz.Deadline, "the call's time was over while its record waited to be written"
	}
	return &authz.Error{Op: "journal.Append", Kind: kind, Message: message, Err: err}
}

// unavailable is what callers are told.
func unavailable(err error) error {
	return &authz.Error{
		Op: "journal.Append", Kind: authz.Unavailable, Reason: authz.ReasonJournalUnavailable,
		Message: "the journal takes no records, and nothing is answered without one", Err: err,
	}
}

// buffers are what records are encoded into, and batches collected in.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// release gives a buffer back.
func release(buffer *[]byte) {
	if cap(*buffer) <= pooled {
		buffers.Put(buffer)
	}
}

// appendFrames appends the frames of records, each with room for its sequence, and without its MAC and its sum.
func appendFrames(b []byte, records []*Record) ([]byte, error) {
	for _, r := range records {
		r.Sequence = 0 // written by hand: it is not known yet, and always there
		start := len(b)
		for {
			b = append(b[:start], make([]byte, frameHeader)...)
			b = protowire.AppendTag(b, 1, protowire.Fixed64Type)
			b = protowire.AppendFixed64(b, 0)
			var err error
			if b, err = (proto.MarshalOptions{}).MarshalAppend(b, r); err != nil {
				return nil, fmt.Errorf("journal: cannot encode a record: %w", err)
			}
			if len(b)-start-frameHeader <= MaxRecord-lateField {
				break
			}
			if !shorten(r) {
				return nil, errors.New("journal: a record is too long")
			}
		}
		binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-frameHeader)) //nolint:gosec // at most MaxRecord
	}
	return b, nil
}

// number gives the records in frames their sequences, from one on. It returns how many there are.
func number(frames []byte, first uint64) (count uint64) {
	for len(frames) > 0 {
		frame := frameOf(frames)
		binary.LittleEndian.PutUint64(frame[frameHeader+1:], first+count)
		count++
		frames = frames[len(frame):]
	}
	return count
}

// shorten takes from a record what makes it long; false where there is nothing left to take.
func shorten(r *Record) bool {
	switch {
	case len(r.GetRelationships()) > 0:
		r.Relationships = r.GetRelationships()[:len(r.GetRelationships())/2]
	case r.GetContext() != nil:
		r.Context = nil
	case len(r.GetMissingContext()) > 0:
		r.MissingContext = r.GetMissingContext()[:len(r.GetMissingContext())/2]
	case r.GetGivenReason() != "":
		r.GivenReason = ""
	default:
		return false
	}
	return true
}

// join gives records their sequences and puts them into the batch that waits, or begins one, which the caller has to write then.
func (j *Journal) join(duty Duty, caller string, frames []byte) (b *batch, first uint64, began bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.refuses(duty); err != nil {
		return nil, 0, false, err
	}
	if err := j.charge(duty, caller, frames); err != nil {
		return nil, 0, false, err
	}
	if b = j.pending; b == nil {
		buffer, _ := buffers.Get().(*[]byte)
		b, began = &batch{first: j.next, buffer: buffer, frames: (*buffer)[:0]}, true
		j.pending = b
	} else if b.done == nil {
		b.done = make(chan struct{})
	}
	start := len(b.frames)
	b.frames = append(b.frames, frames...)
	count := number(b.frames[start:], j.next)
	first = j.next
	b.count += count
	j.next += count
	return b, first, began, nil
}

// write writes a batch once those before it are written, and tells the callers that wait. Until then others join it. The caller has the room in
// writing, which it gives back.
func (j *Journal) write(b *batch) {
	defer func() { <-j.writing }()
	if j.cfg.Sync {
		j.gather(b)
	}
	j.mu.Lock()
	if j.pending == b {
		j.pending = nil
	}
	err := b.err // it waited while the journal was mended, so that its sequences are others' now
	if err == nil {
		err = j.failed
	}
	j.mu.Unlock()
	if err == nil {
		if err = j.put(b); err != nil {
			j.fail(err)
		}
	}
	j.mu.Lock()
	b.err, b.over = err, true
	if err != nil && b.left > 0 {
		j.miss(missed{from: j.cfg.Now(), refused: b.left})
	}
	j.mu.Unlock()
	*b.buffer = b.frames
	release(b.buffer)
	if b.done != nil {
		close(b.done)
	}
}

// gather lets the goroutines run that are ready to, as long as that brings the batch more records: a sync costs as much for one record as for many.
// It is what PostgreSQL's commit_delay does, without a clock: a caller that is alone pays nothing, and where many callers queue for the processors
// they lose nothing by it, because the processors are never idle.
func (j *Journal) gather(b *batch) {
	began := time.Now()
	for seen := uint64(0); time.Since(began) < maxGather; {
		j.mu.Lock()
		count := b.count
		j.mu.Unlock()
		if count == seen {
			return
		}
		seen = count
		runtime.Gosched()
	}
}

// put writes a batch to the segment, or to another one if that is full, and notes it.
func (j *Journal) put(b *batch) error {
	if j.segment.size >= j.cfg.SegmentBytes {
		if err := j.roll(b.first); err != nil {
			return err
		}
	}
	j.mac.seal(b.frames) // here, and not where records join: others' calls do not wait for it
	n := len(b.frames)
	if j.cfg.Sync {
		j.segment.makeRoom(n, j.ahead())
	} else {
		j.copied = append(j.copied[:0], b.frames...) // a write may change what it is given, see vfs.File
	}
	if err := j.segment.write(b.frames, j.cfg.Sync); err != nil {
		return err
	}
	end := b.first + b.count
	j.batches.Add(1)
	j.bytesWritten.Add(uint64(n))
	if j.cfg.QuotaBytes > 0 {
		j.mu.Lock()
		j.used += int64(n + n/2) // until its segment is removed it is there twice, once compressed
		j.mu.Unlock()
	}
	if j.cfg.Sync {
		j.written.Store(end)
		j.news.tell()
		j.durable.Store(end)
		return nil
	}
	full := j.unsynced.add(j.copied, end)
	j.written.Store(end)
	j.news.tell()
	if full {
		_, _ = j.Sync() // where it fails it has said so
	}
	return nil
}

// roll begins another segment, once all that the one before has is durable. The caller has the room in writing.
func (j *Journal) roll(first uint64) error {
	if _, err := j.Sync(); err != nil {
		return err
	}
	made, err := createSegment(j.fs, j.segments, first)
	if err != nil {
		return err
	}
	return j.replace(made)
}

// replace has the journal write to another segment. The caller has the room in writing.
func (j *Journal) replace(made *segment) error {
	j.unsynced.syncing.Lock()
	old := j.segment
	j.segment = made
	j.unsynced.syncing.Unlock()
	if err := old.file.Close(); err != nil {
		return fmt.Errorf("cannot close a segment: %w", err)
	}
	return nil
}

// Stats is what happened since a journal was opened, but for Records, and how it is.
type Stats struct {
	// Records is how many records it has, those that were removed included.
	Records uint64
	// Batches is how many writes there were, and Bytes how long they were together.
	Batches, Bytes uint64
	// Failures is how often it began to fail.
	Failures uint64
	// Refused records were not written, with an error. Unrecorded ones were not written, because Config.AnswerUnrecorded says so. Late ones were
	// written after their answers had left, or wait for it: InMemory are those that do. Lost ones were to be written late, and are not.
	// OverShare were refused to callers over their share.
	Refused, Unrecorded, Late, InMemory, Lost, OverShare uint64
	// Used is how many bytes its directory has, but for the reserve; 0 without a quota, which is when nobody measures it.
	Used int64
}

// Stats returns what happened since the journal was opened.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Stats{
		Records: j.written.Load(), Batches: j.batches.Load(), Bytes: j.bytesWritten.Load(), Failures: j.failures,
		Refused: j.totals.refused, Unrecorded: j.totals.unrecorded, Late: j.totals.late, InMemory: j.keptCount, Lost: j.totals.lost,
		OverShare: j.overShare, Used: j.used,
	}
}

// Written is how many records are written.
func (j *Journal) Written() uint64 { return j.written.Load() }

// Origin is the journal's name.
func (j *Journal) Origin() string { return j.origin }

// ID returns the id of a record of this journal. Of Unrecorded it returns a random one, which no record has.
func (j *Journal) ID(sequence uint64) string {
	if sequence == Unrecorded {
		var id [aes.BlockSize]byte
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
		return hex.EncodeToString(id[:])
	}
	return j.ids.Of(j.tag, sequence)
}

// Context returns what a record holds of a caveat context: a keyed digest of all of it, and those of its fields that are open.
func (j *Journal) Context(given map[string]any) (digest []byte, open map[string]any) {
	if len(given) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(given) // its keys are in order
	if err != nil {
		return nil, nil
	}
	h := hmac.New(sha256.New, j.contexts)
	_, _ = h.Write(text)
	for _, name := range j.cfg.OpenFields {
		if value, found := given[name]; found {
			if open == nil {
				open = map[string]any{}
			}
			open[name] = value
		}
	}
	return h.Sum(nil)[:16], open
}

// Close writes what waits and closes the files. No record can be appended after it. Closing again does nothing.
func (j *Journal) Close() error {
	first := false
	j.closing.Do(func() {
		first = true
		close(j.stop)
	})
	if <-j.stopped; !first {
		return nil
	}
	j.writing <- struct{}{}
	defer func() { <-j.writing }()
	j.mu.Lock()
	failed := j.failed != nil
	j.mu.Unlock()
	err := j.closeIndexer()
	if failed {
		err = errors.Join(err, j.mend()) // for what is kept in memory
	}
	if j.cfg.QuotaBytes > 0 {
		err = errors.Join(err, j.saveCallers())
	}
	j.mu.Lock()
	j.failed, j.closed = errors.New("the journal is closed"), true
	j.mu.Unlock()
	if _, syncing := j.Sync(); syncing != nil && err == nil {
		err = syncing
	}
	if j.cfg.Personal != nil {
		err = errors.Join(err, j.cfg.Personal.Close())
	}
	if err := errors.Join(err, j.sealer.close(), j.segment.file.Close(), j.lock.Close()); err != nil {
		return fmt.Errorf("journal: cannot close: %w", err)
	}
	return nil
}
