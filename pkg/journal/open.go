package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

const (
	// originFile is the name of the file with a journal's name, and lockFile of the one that is locked while a journal is open.
	originFile = "origin"
	lockFile   = "lock"
	// maxOrigin bounds an origin, in bytes.
	maxOrigin = 512
)

// remedy is what an operator is told of a journal that cannot be gone on with.
const remedy = "nothing was changed. Keep the directory as evidence: move it away, and a new journal begins in its place, with an origin of its own"

// Open opens the journal in Config.Dir, or makes one. One process has it open at a time. Errors: a Config that is not complete, a directory
// that is locked or cannot be read or written, and one in which a record is missing that another follows: it says where, and what to do.
func Open(cfg Config) (*Journal, error) {
	cfg = cfg.withDefaults()
	if cfg.Keys != nil {
		cfg.Secret = cfg.Keys.Secret()
	}
	j := &Journal{cfg: cfg, fs: cfg.FS, segments: cfg.FS.PathJoin(cfg.Dir, segmentsDir), writing: make(chan struct{}, 1)}
	var err error
	if j.ids, err = NewIDs(cfg.Secret); err != nil {
		return nil, err
	}
	if j.contexts, err = derive(cfg.Secret, "the digests of contexts"); err != nil {
		return nil, err
	}
	if j.arguments, err = argumentsKey(cfg.Secret); err != nil {
		return nil, err
	}
	if err := makeDir(j.fs, j.segments); err != nil {
		return nil, fmt.Errorf("journal: cannot make the directory: %w", err)
	}
	if j.lock, err = j.fs.Lock(j.fs.PathJoin(cfg.Dir, lockFile)); err != nil {
		return nil, fmt.Errorf("journal: cannot lock %s, which another process may have open: %w", cfg.Dir, err)
	}
	if err := j.open(); err != nil {
		return nil, errors.Join(err, j.lock.Close())
	}
	j.stop, j.stopped = make(chan struct{}), make(chan struct{})
	go j.keepUp()
	j.sealer.start()
	return j, nil
}

// withDefaults fills in what may be left out.
func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = private{tree.Disk}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 64 << 20
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = 16 << 20
	}
	if c.CheckpointInterval == 0 {
		c.CheckpointInterval = time.Second
	}
	if c.CallerShare == 0 {
		c.CallerShare = 0.5
	}
	if c.pruneAtOnce == 0 {
		c.pruneAtOnce = 4096
	}
	if c.tidyEvery == 0 {
		c.tidyEvery = time.Minute
	}
	if c.retryEvery == 0 {
		c.retryEvery = time.Second
	}
	if c.retryPause == 0 {
		c.retryPause = 100 * time.Millisecond
	}
	return c
}

// open reads what is in the directory, and begins a segment behind it.
func (j *Journal) open() error {
	begun, err := j.readOrigin()
	if err != nil {
		return err
	}
	if !begun {
		next, err := j.replay()
		if err == nil && next > 0 {
			err = fmt.Errorf("journal: %s has records, and the file %q, which names the journal, is missing; %s", j.cfg.Dir, originFile, remedy)
		}
		if err == nil {
			err = j.begin()
		}
		if err != nil {
			return err
		}
	}
	if j.macs, err = macKey(j.cfg.Secret, j.origin); err != nil {
		return err
	}
	j.mac = newFrameMAC(j.macs)
	signing, err := j.signing() // before records are read: where all keys are others it says so
	if err != nil {
		return err
	}
	next, err := j.replay()
	if err != nil {
		return err
	}
	j.tag = Tag(j.origin)
	j.next = next
	j.written.Store(next)
	j.durable.Store(next)
	if j.sealer, err = j.openSealer(signing); err != nil {
		return err
	}
	// What is behind the last whole frame does not count once another segment begins there.
	if j.segment, err = createSegment(j.fs, j.segments, next); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	err = j.openReserve()
	if err == nil {
		err = j.openRoom()
	}
	if err != nil {
		return errors.Join(err, j.segment.file.Close())
	}
	return nil
}

// readOrigin reads the journal's name; false where the directory has none.
func (j *Journal) readOrigin() (bool, error) {
	path := j.fs.PathJoin(j.cfg.Dir, originFile)
	f, err := j.fs.Open(path)
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("journal: cannot read the journal's name: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxOrigin+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("journal: cannot read the journal's name: %w", err)
	}
	if j.origin, err = parseOrigin(text); err != nil {
		return false, fmt.Errorf("journal: %s: %w; %s", path, err, remedy)
	}
	return true, nil
}

// parseOrigin returns the name in an origin file.
func parseOrigin(text []byte) (string, error) {
	line, found := bytes.CutSuffix(text, []byte("\n"))
	if !found || len(line) == 0 || len(line) > maxOrigin || strings.ContainsFunc(string(line), func(r rune) bool {
		return r <= ' ' || r > '~' || r == '+' // what a C2SP checkpoint has in no origin, and a signed note in no name
	}) {
		return "", errors.New("this is no journal's name, which is one line of printable ASCII")
	}
	return string(line), nil
}

// begin names a new journal, durably.
func (j *Journal) begin() error {
	var node [8]byte
	_, _ = rand.Read(node[:]) // never fails, see crypto/rand
	j.origin = "deputy/" + j.cfg.Store + "/journal/" + hex.EncodeToString(node[:])
	text := []byte(j.origin + "\n")
	if _, err := parseOrigin(text); err != nil {
		return fmt.Errorf("journal: the store's name %q cannot be part of a journal's name", j.cfg.Store)
	}
	err := tree.WriteFile(j.fs, j.fs.PathJoin(j.cfg.Dir, originFile), text)
	for _, dir := range []string{j.cfg.Dir, j.fs.PathDir(j.cfg.Dir)} { // they may have been made just before a crash
		if err == nil {
			err = tree.SyncDir(j.fs, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("journal: cannot name the journal: %w", err)
	}
	return nil
}

// reader returns what reads the segments, and checks the MACs once the journal's name is known.
func (j *Journal) reader() *SegmentReader {
	r := NewSegmentReader(j.fs, j.cfg.Dir)
	if j.macs != nil {
		r.mac = newFrameMAC(j.macs)
	}
	return r
}

// replay reads all segments, and returns the sequence of the next record. They are durable then.
func (j *Journal) replay() (next uint64, err error) {
	firsts, err := j.sweep()
	if err != nil || len(firsts) == 0 {
		return 0, err
	}
	reader := j.reader()
	next, err = reader.Read(firsts[0], math.MaxUint64, func(uint64, []byte) error { return nil })
	if err != nil {
		if damage, ok := errors.AsType[*DamageError](err); ok {
			return 0, fmt.Errorf("journal: the journal is damaged: %w; %s", damage, remedy)
		}
		return 0, err
	}
	last := firsts[len(firsts)-1]
	path := j.fs.PathJoin(j.segments, segmentName(last))
	whole := int64(segmentHeader)
	if reader.first == last && reader.next == next {
		whole = reader.offset
	}
	rest, err := SegmentRest(j.fs, path, whole)
	if err != nil {
		return 0, err
	}
	if rest > 0 {
		j.cfg.Log.Warn("the journal's last write was cut off, and what it left does not count",
			zap.String("segment", path), zap.Int64("offset", whole), zap.Int64("bytes", rest), zap.Uint64("next record", next))
	}
	// The process before may have been killed before it synced the last segment, behind which another begins now.
	f, err := j.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, fmt.Errorf("journal: cannot open a segment: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), tree.SyncDir(j.fs, j.segments)); err != nil {
		return 0, fmt.Errorf("journal: cannot make a segment durable: %w", err)
	}
	return next, nil
}

// sweep removes what a crash left half made, and returns the segments.
func (j *Journal) sweep() ([]uint64, error) {
	names, err := j.fs.List(j.segments)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot list the segments: %w", err)
	}
	for _, name := range names {
		base, unfinished := strings.CutSuffix(name, newSegment)
		if _, ok := segmentFirst(base); ok && unfinished {
			err = j.fs.Remove(j.fs.PathJoin(j.segments, name))
		} else if !ok {
			j.cfg.Log.Warn("a file that is no segment lies among the journal's segments", zap.String("file", name))
		}
		if err != nil {
			return nil, fmt.Errorf("journal: cannot remove a segment that was not finished: %w", err)
		}
	}
	return listSegments(j.fs, j.segments)
}
