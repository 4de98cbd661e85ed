package journal

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// The files of a journal that the sealer writes. A checkpoint goes into checkpointFile, and with a witness's signature, once that has come, into
// witnessedFile. minimumFile is there once records were removed: a note, signed as a checkpoint is, of the origin and "minimum N".
const (
	verifierFile   = "verifier.key"
	checkpointFile = "checkpoint"
	witnessedFile  = "checkpoint.witnessed"
	minimumFile    = "minimum"
)

const (
	// sealEvery is after how many records a checkpoint is signed, however little time has passed.
	sealEvery = 10_000
	// saveEvery bounds how many records wait in memory to be written as tiles.
	saveEvery = 64 * tree.Width
	// maxVerifier bounds what is read of verifierFile.
	maxVerifier = 1 << 12
)

// Sealing says how far a journal is sealed.
type Sealing struct {
	// Records is how many records the newest checkpoint is over, and without keys how many are in the tree.
	Records uint64
	// Checkpoint is the newest checkpoint, a C2SP signed note, and At when it was signed. Empty without keys.
	Checkpoint []byte
	At         time.Time
	// Err is why the sealer does not get on; nil while it does. It goes on trying.
	Err error
	// Witness is how far the witness is.
	Witness Witnessing
}

// sealer reads records that are written, puts them into the tree, and signs checkpoints over those that are durable. All of that happens off the
// path of decisions. An error stops nothing: it is logged, and tried again.
type sealer struct {
	fs     vfs.FS
	dir    string
	origin string
	log    *zap.Logger
	now    func() time.Time
	// signer is nil without keys: the journal has a tree then, and no checkpoints.
	signer note.Signer
	// written is how many records are written, and durable makes them durable first, and returns how many are.
	written func() uint64
	durable func() (uint64, error)
	// bundle is called with each bundle once it is saved; nil if nobody wants to know.
	bundle func(n uint64, records [][]byte)
	// dropped is called with how many bytes the segments had that are removed; nil if nobody wants to know.
	dropped  func(bytes int64)
	emit     func(checkpoint []byte)
	interval time.Duration

	// work is held by the goroutine that seals or prunes, and guards reader.
	work   sync.Mutex
	reader *SegmentReader
	tree   *tree.Tree

	mu    sync.Mutex
	state Sealing
	// place is where reader stopped, which others may know.
	place segmentPlace

	witness    *witness
	stop, done chan struct{}
}

// openSealer opens the tree of a journal, reads what it does not have yet from the segments, and compares both with the last checkpoint. Of the
// tree on the disk it takes no more than that checkpoint is over: somebody who can write to the directory can write bundles and tiles behind it,
// which would be signed next. The segments still have those records, and show that this journal wrote them. Errors: the journal does not go on
// from that checkpoint, and those of reading.
func (j *Journal) openSealer(k signing) (*sealer, error) {
	s := &sealer{
		fs: j.fs, dir: j.cfg.Dir, origin: j.origin, log: j.cfg.Log, now: j.cfg.Now, written: j.Written, durable: j.Sync,
		bundle: j.bundled, dropped: j.dropped, emit: j.cfg.OnCheckpoint, interval: j.cfg.CheckpointInterval,
		signer: k.signer, reader: j.reader(), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := s.keepVerifier(k); err != nil {
		return nil, err
	}
	minimum, err := ReadMinimum(s.fs, s.dir, s.origin, k.verifier)
	if err != nil {
		return nil, fmt.Errorf("journal: %w; %s", err, remedy)
	}
	text, signed, err := s.signed(k.verifier)
	if err != nil {
		return nil, err
	}
	if s.tree, err = tree.Open(s.fs, s.dir, minimum, signed.Size); err != nil {
		return nil, fmt.Errorf("journal: the tree in %s: %w; %s", s.dir, err, remedy)
	}
	if s.tree.Size() > j.Written() {
		return nil, fmt.Errorf("journal: %s has records up to %d in its tree, and its segments end with record %d; %s",
			s.dir, s.tree.Size(), j.Written(), remedy)
	}
	if err := s.compare(k.verifier, text, signed); err != nil {
		return nil, err
	}
	if err := s.advance(j.Written()); err != nil {
		return nil, err
	}
	if j.cfg.Witness == nil {
		return s, nil
	}
	if s.signer == nil {
		return nil, errors.New("journal: a witness is configured, and no directory of keys: nothing is signed that it could see")
	}
	s.witness, err = openWitness(s, *j.cfg.Witness)
	return s, err
}

// Sealing says how far the journal is sealed.
func (j *Journal) Sealing() Sealing { return j.sealer.sealing() }

// Tree is the journal's tree, to be read: the records that are in bundles, and proofs of those that a checkpoint is over.
func (j *Journal) Tree() *tree.Tree { return j.sealer.tree }

// Prune removes records before one, by whole bundles of 256, and nothing that no checkpoint is over. Proofs of what remains still work.
// Errors: those of the disk, after which it can be called again.
func (j *Journal) Prune(minimum uint64) error {
	defer j.pruned()
	return j.sealer.prune(minimum)
}

// Prove returns a C2SP tlog-proof that a record is in the journal, and its encoding, which is the leaf that is proven. The proof is against the
// newest checkpoint. Errors: tree.ErrAbsent where that does not reach the record yet, tree.ErrPruned, and those of reading.
func (j *Journal) Prove(sequence uint64) (proof, leaf []byte, err error) {
	checkpoint, size := j.sealer.newest()
	if checkpoint == nil || sequence >= size {
		return nil, nil, tree.ErrAbsent
	}
	records, err := j.sealer.tree.Bundle(sequence / tree.Width)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // it says what is wrong
	}
	proof, err = j.sealer.tree.Proof(sequence, size, checkpoint)
	return proof, records[sequence%tree.Width], err //nolint:wrapcheck // as above
}

// start begins to seal, and to send checkpoints to the witness.
func (s *sealer) start() {
	go s.run()
	if s.witness != nil {
		s.witness.wake()
		go s.witness.run()
	}
}

// signing is the key that signs a journal's checkpoints, and what verifies them; the zero value is that of a journal without keys.
type signing struct {
	signer   note.Signer
	verifier note.Verifier
	// line is verifierFile, which is still to be written where missing says so.
	line    string
	missing bool
}

// signing chooses the key that signs, and compares it with the one that the journal says verifies it.
func (j *Journal) signing() (k signing, err error) {
	text, err := tree.ReadFile(j.fs, j.fs.PathJoin(j.cfg.Dir, verifierFile), maxVerifier)
	k.missing = errors.Is(err, iofs.ErrNotExist)
	if err != nil && !k.missing {
		return k, fmt.Errorf("journal: cannot read the key that verifies it: %w", err)
	}
	if j.cfg.Keys == nil {
		if !k.missing {
			return k, fmt.Errorf("journal: the checkpoints of %s are signed, and no directory of keys is configured: name it", j.cfg.Dir)
		}
		return signing{}, nil // a journal without keys has no checkpoints
	}
	signer, verifier, err := j.cfg.Keys.Signer(j.origin)
	if err != nil {
		return k, err
	}
	k.signer, k.line = signer, verifier+"\n"
	if !k.missing && string(text) != k.line {
		return k, fmt.Errorf("journal: the checkpoints of %s are signed with another key than %q in the directory of keys: bring back that file; "+
			"or move the journal's directory away, and a new journal begins in its place", j.cfg.Dir, signingFile)
	}
	k.verifier, err = note.NewVerifier(verifier)
	return k, err //nolint:wrapcheck // it was just made
}

// keepVerifier writes verifierFile for a journal that is new.
func (s *sealer) keepVerifier(k signing) error {
	switch {
	case !k.missing:
		return nil
	case s.written() > 0:
		return fmt.Errorf("journal: %s has records, and the file %q is missing; %s", s.dir, verifierFile, remedy)
	default:
		return s.write(verifierFile, []byte(k.line))
	}
}

// signed reads the last checkpoint. Without one text is nil, and c is over all that there may be: a journal without keys signs nothing, and one
// that is new has nothing yet.
func (s *sealer) signed(verifier note.Verifier) (text []byte, c tree.Checkpoint, err error) {
	none := tree.Checkpoint{Size: math.MaxUint64}
	if verifier == nil {
		return nil, none, nil
	}
	path := s.fs.PathJoin(s.dir, checkpointFile)
	text, err = tree.ReadFile(s.fs, path, tree.MaxCheckpoint)
	switch {
	case errors.Is(err, iofs.ErrNotExist) && s.written() > 0:
		return nil, c, fmt.Errorf("journal: %s has records, and the file %q is missing; %s", s.dir, checkpointFile, remedy)
	case errors.Is(err, iofs.ErrNotExist):
		return nil, none, nil
	case err != nil:
		return nil, c, fmt.Errorf("journal: cannot read the last checkpoint: %w", err)
	}
	if c, _, err = tree.ParseCheckpoint(text, verifier); err != nil {
		return nil, c, fmt.Errorf("journal: the checkpoint %s: %w; %s", path, err, remedy)
	}
	return text, c, nil
}

// compare compares the tree and the segments with the last checkpoint, and with the last one that a witness signed.
func (s *sealer) compare(verifier note.Verifier, text []byte, last tree.Checkpoint) error {
	if verifier == nil {
		return nil
	}
	if text == nil {
		return s.checkpoint() // so that from the first record on there is one to compare with
	}
	if err := s.match(s.fs.PathJoin(s.dir, checkpointFile), last); err != nil {
		return err
	}
	s.state.Records, s.state.Checkpoint = last.Size, text
	path := s.fs.PathJoin(s.dir, witnessedFile)
	witnessed, err := tree.ReadFile(s.fs, path, tree.MaxCheckpoint)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("journal: cannot read the last checkpoint that a witness signed: %w", err)
	}
	c, _, err := tree.ParseCheckpoint(witnessed, verifier)
	if err != nil {
		return fmt.Errorf("journal: the checkpoint %s: %w; %s", path, err, remedy)
	}
	return s.match(path, c)
}

// match compares with one checkpoint.
func (s *sealer) match(path string, c tree.Checkpoint) error {
	if c.Size > s.written() {
		return fmt.Errorf("journal: the checkpoint %s is over %d records, and %s has %d: records %d to %d are missing; %s",
			path, c.Size, s.dir, s.written(), s.written(), c.Size-1, remedy)
	}
	if err := s.read(c.Size); err != nil {
		return err
	}
	root, err := s.tree.Root(c.Size)
	if err != nil && !errors.Is(err, tree.ErrPruned) {
		return fmt.Errorf("journal: the tree in %s: %w; %s", s.dir, err, remedy)
	}
	if err == nil && root != c.Root {
		return fmt.Errorf("journal: the checkpoint %s is over %d records with the root %s, and those in %s have the root %s: a record was changed "+
			"(deputy journal verify names it); %s", path, c.Size, c.Root, s.dir, root, remedy)
	}
	return nil
}

// read reads records from the segments into the tree, which then has so many.
func (s *sealer) read(size uint64) error {
	from := s.tree.Size()
	if from >= size {
		return nil
	}
	next, err := s.reader.Read(from, size, func(_ uint64, record []byte) error { return s.tree.Add(record) })
	if err == nil && next < size {
		err = &DamageError{
			Path: s.reader.path, Offset: s.reader.offset, Sequence: next, Message: fmt.Sprintf("record %d was written, and is not there any more", next),
		}
	}
	if damage, ok := errors.AsType[*DamageError](err); ok {
		return fmt.Errorf("journal: its records are not as they were written, and nothing more is signed: %w; keep the directory as evidence", damage)
	}
	if err != nil {
		return fmt.Errorf("journal: cannot read what is to be sealed: %w", err)
	}
	s.stopped()
	return nil
}

// advance reads records from the segments into the tree until it has so many, and saves whole bundles.
func (s *sealer) advance(size uint64) error {
	for s.tree.Size() < size {
		if err := s.read(min(size, s.tree.Saved()+saveEvery)); err != nil {
			return err
		}
		if err := s.save(); err != nil {
			return err
		}
	}
	return s.save()
}

// save saves whole bundles, and passes each to bundle.
func (s *sealer) save() error {
	first, end := s.tree.Saved()/tree.Width, s.tree.Size()/tree.Width
	bundles := make([][][]byte, 0, end-first)
	for n := first; n < end; n++ {
		records, err := s.tree.Bundle(n)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		bundles = append(bundles, records)
	}
	if err := s.tree.Save(); err != nil {
		return fmt.Errorf("journal: cannot save the tree: %w", err)
	}
	if s.bundle != nil {
		for i, records := range bundles {
			s.bundle(first+uint64(i), records)
		}
	}
	return nil
}

// seal puts what is written into the tree, and signs a checkpoint over it.
func (s *sealer) seal() error {
	s.work.Lock()
	defer s.work.Unlock()
	size, err := s.durable()
	if err != nil {
		return err
	}
	if err := s.advance(size); err != nil {
		return err
	}
	if err := s.checkpoint(); err != nil {
		return err
	}
	bytes, err := dropSegments(s.fs, s.dir, s.tree.Saved())
	if s.dropped != nil && bytes > 0 {
		s.dropped(bytes)
	}
	return err
}

// checkpoint signs a checkpoint over the whole tree, keeps it, and makes it known.
func (s *sealer) checkpoint() error {
	size := s.tree.Size()
	if s.signer == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state.Records = size
		return nil
	}
	if state := s.sealing(); state.Checkpoint != nil && state.Records == size {
		return nil
	}
	root, err := s.tree.Root(size)
	if err != nil {
		return fmt.Errorf("journal: cannot read the tree: %w", err)
	}
	text, err := tree.Checkpoint{Origin: s.origin, Size: size, Root: root}.Sign(s.signer)
	if err != nil {
		return fmt.Errorf("journal: cannot sign a checkpoint: %w", err)
	}
	if err := s.write(checkpointFile, text); err != nil {
		return err
	}
	s.mu.Lock()
	s.state.Records, s.state.Checkpoint, s.state.At = size, text, s.now()
	s.mu.Unlock()
	s.tell(size, root, text)
	return nil
}

// tell makes a checkpoint known outside of the directory: only what has left it shows later that it was cut.
func (s *sealer) tell(size uint64, root tlog.Hash, text []byte) {
	s.log.Info("journal checkpoint", zap.String("origin", s.origin), zap.Uint64("size", size), zap.Stringer("root", root))
	if s.emit != nil {
		s.emit(text)
	}
	if s.witness != nil {
		s.witness.wake()
	}
}

// write writes a file of the journal whole, durably.
func (s *sealer) write(name string, text []byte) error {
	err := tree.WriteFile(s.fs, s.fs.PathJoin(s.dir, name), text)
	if err == nil {
		err = tree.SyncDir(s.fs, s.dir)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// run seals whatever is written, until the sealer is closed.
func (s *sealer) run() {
	defer close(s.done)
	ticker := time.NewTicker(s.interval / 10)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		state := s.sealing()
		lag := s.written() - state.Records
		soon := lag >= sealEvery && state.Err == nil
		if lag > 0 && (soon || time.Since(last) >= s.interval) {
			_ = s.try() // it notes its error
			last = time.Now()
		}
	}
}

// try seals, and notes why it could not.
func (s *sealer) try() error {
	err := authz.Safely("journal.seal", s.seal)
	s.mu.Lock()
	before := s.state.Err
	s.state.Err = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("the journal cannot be sealed; its records are kept, and it is tried again", zap.Error(err))
	case err == nil && before != nil:
		s.log.Info("the journal is sealed again")
	}
	return err
}

// close seals what there is and stops.
func (s *sealer) close() error {
	close(s.stop)
	<-s.done
	err := s.try()
	if s.witness != nil {
		s.witness.close()
	}
	return err
}

// sealing is how far it is.
func (s *sealer) sealing() Sealing {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	if s.witness != nil {
		state.Witness = s.witness.witnessing()
	}
	return state
}

// prune removes whole bundles before a record. It says first, signed, that it will, so that what is missing later is known to have been removed.
func (s *sealer) prune(minimum uint64) error {
	s.work.Lock()
	defer s.work.Unlock()
	minimum = min(minimum, s.tree.Saved(), s.sealing().Records) / tree.Width * tree.Width
	if minimum > s.tree.Minimum() {
		text := []byte(minimumText(s.origin, minimum))
		if s.signer != nil {
			var err error
			if text, err = note.Sign(&note.Note{Text: string(text)}, s.signer); err != nil {
				return fmt.Errorf("journal: cannot sign what is removed: %w", err)
			}
		}
		if err := s.write(minimumFile, text); err != nil {
			return err
		}
	}
	if err := s.tree.Prune(minimum); err != nil {
		return fmt.Errorf("journal: cannot remove records: %w", err)
	}
	return nil
}

// minimumText says from which record on there are any.
func minimumText(origin string, minimum uint64) string {
	return fmt.Sprintf("%s\nminimum %d\n", origin, minimum)
}

// ReadMinimum returns the first record of a journal that was not removed: 0 where its directory does not say. verifier is the journal's key; nil
// for one without keys. Errors: the file is not as it was written.
func ReadMinimum(fs vfs.FS, dir, origin string, verifier note.Verifier) (uint64, error) {
	path := fs.PathJoin(dir, minimumFile)
	b, err := tree.ReadFile(fs, path, tree.MaxCheckpoint)
	if errors.Is(err, iofs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err //nolint:wrapcheck // it names the file
	}
	text := string(b)
	if verifier != nil {
		if text, err = tree.OpenNote(b, verifier); err != nil {
			return 0, fmt.Errorf("%s, which says which records were removed: %w", path, err)
		}
	}
	line := strings.TrimSuffix(strings.TrimPrefix(text, origin+"\nminimum "), "\n")
	minimum, err := strconv.ParseUint(line, 10, 64)
	if err != nil || text != minimumText(origin, minimum) || minimum%tree.Width != 0 {
		return 0, fmt.Errorf("%s, which says which records were removed, is not as it was written", path)
	}
	return minimum, nil
}

// dropSegments removes segments whose records all come before one, and returns how many bytes those had. The last segment stays, because it is
// written to.
func dropSegments(fs vfs.FS, dir string, before uint64) (bytes int64, err error) {
	segments := fs.PathJoin(dir, segmentsDir)
	firsts, err := listSegments(fs, segments)
	if err != nil {
		return 0, err
	}
	dropped := false
	for i := 0; i+1 < len(firsts) && firsts[i+1] <= before; i++ {
		path, size := fs.PathJoin(segments, segmentName(firsts[i])), int64(0)
		if info, err := fs.Stat(path); err == nil {
			size = info.Size()
		}
		if err := fs.Remove(path); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return bytes, fmt.Errorf("journal: cannot remove a segment: %w", err)
		}
		bytes += size
		dropped = true
	}
	if !dropped {
		return 0, nil
	}
	if err := tree.SyncDir(fs, segments); err != nil {
		return bytes, fmt.Errorf("journal: %w", err)
	}
	return bytes, nil
}
