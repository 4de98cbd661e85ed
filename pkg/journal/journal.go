package journal

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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

// Config is what a journal needs; Dir and Secret are required.
type Config struct {
	// Dir is the journal's directory; it is made if it is not there.
	Dir string
	// FS is where it lies; nil means the operating system's.
	FS vfs.FS
	// Store names the store that the journal is about, in the origin of a new journal.
	Store string
	// Secret derives the ids of decisions and the digests of contexts: MinSecret bytes or more, the same on every node.
	Secret []byte
	// Sync has each record survive a power cut before its answer leaves. Without, it survives the death of the process, and
	// a power cut loses at most what came after the last checkpoint.
	Sync bool
	// OpenFields are the fields of caveat contexts that records hold as they are. Of all others they hold a keyed digest.
	OpenFields []string
	// Personal seals what of records is a person's, so that it can be erased; nil leaves records as they are.
	Personal *Personal
	// Evaluator is what evaluates the checks of decisions.
	Evaluator deputyv1.Evaluator
	// Now is the clock; nil means the system's.
	Now func() time.Time
	// Log is told what goes wrong; nil tells nobody.
	Log *zap.Logger
}

// Journal is an opened journal. It is safe for concurrent use.
type Journal struct {
	cfg    Config
	fs     vfs.FS
	origin string
	tag    [8]byte
	ids    *Ids
	// contexts is the key of the digests of contexts.
	contexts []byte

	// writing is held by the one who writes, and guards segment.
	writing sync.Mutex
	segment *segment
	// written is how many records are written, so that they may be sealed and read.
	written atomic.Uint64

	// mu guards what waits to be written.
	mu sync.Mutex
	// next is the sequence of the next record, and open the batch that it joins; nil if none waits.
	next uint64
	open *batch
	// failed is why nothing is written any more; nil while all is well.
	failed error
}

// batch is what is written in one go: by whoever began it, for all who joined.
type batch struct {
	first  uint64
	count  uint64
	frames []byte
	// done is closed once it is written, or err says why it is not.
	done chan struct{}
	err  error
}

// Duty is what a journal that cannot take a record does with it.
type Duty uint8

// The duties.
const (
	// Refuse: an error, so that what the record is about is refused. The zero value.
	Refuse Duty = iota
	// Reserve: the same, but the room that is kept in reserve is used first: for how something ended whose beginning is recorded.
	Reserve
	// Keep: no error. The reserve is used, and without it the record is kept in memory and written, marked late, once that works
	// again: for what narrows.
	Keep
)

// sequenceField is how long the first field of every record is: a tag and a fixed number.
const sequenceField = 1 + 8

// Append writes records and returns the sequence of the first; the others follow it without a gap. When it returns without an error they
// have been handed to the operating system, and with Config.Sync to the disk. A record that would be too long loses the lists in it. What is a person's is taken out of the records, where it is sealed. ctx bounds how long it waits for others' writes; with its error the records may be written nevertheless. Errors: *authz.Error of kind Unavailable.
func (j *Journal) Append(ctx context.Context, duty Duty, records ...*Record) (first uint64, err error) {
	if len(records) == 0 {
		return 0, errors.New("journal: there is nothing to append")
	}
	if err := j.sealRecords(duty, records); err != nil {
		return 0, unavailable(err)
	}
	encoded, ends, err := encode(records)
	if err != nil {
		return 0, err
	}
	defer buffers.Put(encoded)
	b, first, began, err := j.join(*encoded, ends)
	if err != nil {
		return 0, unavailable(err)
	}
	if began {
		j.write(b)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return 0, &authz.Error{
			Op: "journal.Append", Kind: authz.Unavailable, Reason: authz.ReasonJournalUnavailable,
			Message: "the journal did not take the record in time", Err: ctx.Err(),
		}
	}
	if b.err != nil {
		return 0, unavailable(b.err)
	}
	return first, nil
}

// unavailable is what callers are told.
func unavailable(err error) error {
	return &authz.Error{
		Op: "journal.Append", Kind: authz.Unavailable, Reason: authz.ReasonJournalUnavailable,
		Message: "the journal takes no records, and nothing is answered without one", Err: err,
	}
}

// buffers are what records are encoded into.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// encode encodes records one after the other, each with room for its sequence, and says where each ends.
func encode(records []*Record) (encoded *[]byte, ends []int, err error) {
	encoded, _ = buffers.Get().(*[]byte)
	b := (*encoded)[:0]
	ends = make([]int, len(records))
	for i, r := range records {
		r.Sequence = 0 // written by hand: it is not known yet, and always there
		start := len(b)
		for {
			b = protowire.AppendTag(b[:start], 1, protowire.Fixed64Type)
			b = protowire.AppendFixed64(b, 0)
			if b, err = (proto.MarshalOptions{}).MarshalAppend(b, r); err != nil {
				return nil, nil, fmt.Errorf("journal: cannot encode a record: %w", err)
			}
			if len(b)-start <= MaxRecord {
				break
			}
			if !shorten(r) {
				return nil, nil, errors.New("journal: a record is too long")
			}
		}
		ends[i] = len(b)
	}
	*encoded = b
	return encoded, ends, nil
}

// shorten takes from a record what makes it long; false where there is nothing left to take.
func shorten(r *Record) bool {
	switch {
	case len(r.Relationships) > 0:
		r.Relationships = r.Relationships[:len(r.Relationships)/2]
	case r.Context != nil:
		r.Context = nil
	case len(r.MissingContext) > 0:
		r.MissingContext = r.MissingContext[:len(r.MissingContext)/2]
	case len(r.GivenReason) > 0:
		r.GivenReason = ""
	default:
		return false
	}
	return true
}

// join gives records their sequences and puts them into the batch that waits, or begins one, which the caller has to write then.
func (j *Journal) join(encoded []byte, ends []int) (b *batch, first uint64, began bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return nil, 0, false, j.failed
	}
	if b = j.open; b == nil {
		b, began = &batch{first: j.next, done: make(chan struct{})}, true
		j.open = b
	}
	first = j.next
	start := 0
	for _, end := range ends {
		record := encoded[start:end]
		binary.LittleEndian.PutUint64(record[1:sequenceField], j.next)
		b.frames = appendFrame(b.frames, record)
		b.count++
		j.next++
		start = end
	}
	return b, first, began, nil
}

// write writes a batch once those before it are written, and tells those who wait. Until then others join it.
func (j *Journal) write(b *batch) {
	j.writing.Lock()
	defer j.writing.Unlock()
	defer close(b.done)
	j.mu.Lock()
	if j.open == b {
		j.open = nil
	}
	err := b.err // a batch before it failed
	j.mu.Unlock()
	if err == nil {
		err = j.segment.write(b.frames, j.cfg.Sync)
	}
	if err == nil {
		j.written.Store(b.first + b.count)
		return
	}
	j.fail(b, err)
}

// fail has a batch fail, and those that came after it, whose sequences have to be given again.
func (j *Journal) fail(b *batch, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b.err = err
	if j.open != nil {
		j.open.err = err
		j.open = nil
	}
	j.failed, j.next = err, j.written.Load()
}

// Err is why the journal takes no records; nil while it does.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// Written is how many records are written.
func (j *Journal) Written() uint64 { return j.written.Load() }

// Origin is the journal's name.
func (j *Journal) Origin() string { return j.origin }

// ID returns the id of a record of this journal.
func (j *Journal) ID(sequence uint64) string { return j.ids.Of(j.tag, sequence) }

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

// Open opens a journal, or makes one.
func Open(cfg Config) (*Journal, error) {
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	j := &Journal{cfg: cfg, fs: cfg.FS}
	var err error
	if j.ids, err = NewIds(cfg.Secret); err != nil {
		return nil, err
	}
	if j.contexts, err = derive(cfg.Secret, "the digests of contexts"); err != nil {
		return nil, err
	}
	segments := cfg.FS.PathJoin(cfg.Dir, "segments")
	if err := cfg.FS.MkdirAll(segments, 0o700); err != nil {
		return nil, fmt.Errorf("journal: cannot make the directory: %w", err)
	}
	// What follows is replaced by reading what there is (see open.go).
	var node [8]byte
	_, _ = rand.Read(node[:]) // never fails, see crypto/rand
	j.origin = "deputy/" + cfg.Store + "/journal/" + hex.EncodeToString(node[:])
	j.tag = Tag(j.origin)
	if j.segment, err = createSegment(cfg.FS, segments, 0); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return j, nil
}

// Close writes what waits and closes the files.
func (j *Journal) Close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	if j.failed == nil {
		j.failed = errors.New("the journal is closed")
	}
	j.mu.Unlock()
	if err := errors.Join(j.segment.file.Sync(), j.segment.file.Close()); err != nil {
		return fmt.Errorf("journal: cannot close: %w", err)
	}
	return nil
}
