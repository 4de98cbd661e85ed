package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Store is an opened store. It implements datastore.Datastore and is safe for concurrent use.
type Store struct {
	config Config
	dir    string
	id     string
	db     *pebble.DB
	files  *files
	lock   *pebble.Lock

	// head is the newest revision that is on the disk with all before it.
	head atomic.Pointer[head]
	// moved wakes the goroutines that wait for the head to move.
	moved beacon
	// rows is about how many relationships there are at the head.
	rows   atomic.Uint64
	leases leases
	// iterators keeps iterators of the database.
	iterators iterators

	submissions   chan *submission
	stopCommitter chan struct{}
	committerDone chan struct{}
	slot          slot
	failure       failure
	failOnce      sync.Once
	// flushing are the failures of making tables, impasse is when they have lasted for too long; see trouble.go.
	flushing trouble
	impasse  *impasse
	// unreadable keeps what reads meet from filling the log.
	unreadable authz.Seldom

	// What follows is the committer's.
	recent         recent
	sinceDiskCheck int
	diskChecked    time.Time
	diskFull       error
	forgetBuf      []byte

	// inside counts what uses the database, closed refuses more of it.
	gate    sync.Mutex
	inside  int
	empty   chan struct{} // closed when inside falls to zero after closed was set
	closed  atomic.Bool
	closing chan struct{}

	// aheadOver says that the reading after the start is over.
	aheadOver atomic.Bool
	collector collector
	history   history
	schemas   schemas
	objects   objects
	voids     voids
	probing   atomic.Pointer[probe]
	metrics   metrics
	// pending is about how many bytes the transactions under way hold.
	pending atomic.Int64
	// background ends the store's own work and waits for it.
	stopBackground context.CancelFunc
	background     sync.WaitGroup
}

// head is a revision with the hash of the stored schema at it, and since when that is the hash.
type head struct {
	at       Revision
	hash     string
	hashFrom Revision
}

// Open opens the store in a directory, or makes one there if it is empty or does not exist. It reads
// nothing but its own file before it knows the format, and looks for damage before it changes anything.
// Errors say what to do; ErrInUse, ErrDamaged.
func Open(dir string, config Config) (*Store, error) {
	config = config.complete()
	s, err := open(dir, config)
	if err != nil {
		return nil, fmt.Errorf("store: cannot open %s: %w", dir, err)
	}
	if own, ok := config.FS.(private); ok {
		own.hide(dir, config.Log)
	}
	return s, nil
}

func open(dir string, config Config) (_ *Store, err error) {
	d, found, err := readDescription(config.FS, dir)
	if err != nil {
		return nil, err
	}
	if !found {
		if err := makeDir(config.FS, dir); err != nil {
			return nil, err
		}
	}
	lock, err := pebble.LockDirectory(dir, config.FS)
	if unmade := (*fs.PathError)(nil); errors.As(err, &unmade) {
		return nil, fmt.Errorf("its lock cannot be made: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w by another process; stop that one, or name another directory (%w)", ErrInUse, err)
	}
	s := &Store{
		config: config, dir: dir, lock: lock,
		submissions: make(chan *submission, maxGroup), stopCommitter: make(chan struct{}), committerDone: make(chan struct{}),
		failure: failure{happened: make(chan struct{})},
		empty:   make(chan struct{}), closing: make(chan struct{}),
		metrics: newMetrics(), recent: newRecent(), impasse: newImpasse(),
	}
	s.flushing.now = time.Now
	s.leases.closed = map[pin]int{}
	s.objects.seed, s.objects.limit = maphash.MakeSeed(), int(config.KeptBytes/objectShards)
	for i := range s.objects.shards {
		s.objects.shards[i].packed.limit = packedLimit(config.PackedBytes)
	}
	s.voids.long = config.longVoid
	s.history.flushed = make(chan struct{}, 1)
	s.files = &files{
		FS: config.FS, failed: s.fail, closing: s.closing, stalled: s.stalled, recovered: s.recovered,
		waiting: trouble{now: time.Now}, tables: trouble{now: time.Now}, firstPause: config.firstPause,
	}
	defer func() {
		if err == nil {
			return
		}
		if s.hasFailed() {
			err = fmt.Errorf("its disk does not take it: %w", s.failure.cause)
		}
		err = errors.Join(err, s.closeDatabase())
	}()
	if !found {
		d = newDescription()
		if err := writeDescription(config.FS, dir, d); err != nil {
			return nil, err
		}
	}
	s.id = d.id
	s.history.says = d
	if err := s.openDatabase(d.state == stateReady); err != nil {
		return nil, err
	}
	if err := s.guarded(func() error { return s.load(d.state == stateReady) }); err != nil {
		return nil, err
	}
	if d.state == stateNew {
		d.state = stateReady
		if err := writeDescription(config.FS, dir, d); err != nil {
			return nil, err
		}
		s.history.says = d
	}
	s.start()
	return s, nil
}

// openDatabase opens Pebble. The logs of one that should be there are looked through, see logs.go. Then it is
// first opened only to be read, which replays its logs, and what the store has to know is read from it: that finds what is missing, cut short or changed
// without touching anything.
func (s *Store) openDatabase(exists bool) error {
	cache := pebble.NewCache(s.config.CacheBytes)
	defer cache.Unref()
	opts := s.options(cache)
	if exists {
		if err := checkLogs(s.config.FS, s.dir); err != nil {
			return err
		}
		probe := opts.Clone()
		probe.ReadOnly, probe.ErrorIfNotExists = true, true
		err := s.guarded(func() error {
			db, err := pebble.Open(s.dir, probe)
			if err != nil {
				return broken(err)
			}
			s.db = db
			if err = s.load(true); err == nil {
				err = s.complete(s.history.says)
			}
			s.iterators.drop(math.MaxUint64)
			s.db = nil
			return errors.Join(err, db.Close())
		})
		if err != nil {
			return err
		}
		opts.ErrorIfNotExists = true
	}
	s.files.opening.Store(true)
	var db *pebble.DB
	err := s.guarded(func() (err error) {
		db, err = pebble.Open(s.dir, opts)
		return err
	})
	if err != nil {
		return err
	}
	s.files.opening.Store(false)
	s.db = db
	return nil
}

// guarded calls what may meet an error that is fatal to Pebble, and returns it as one, see pebbleLog and
// files. Once the store has failed fn may never return, and is not waited for.
func (s *Store) guarded(fn func() error) error {
	if s.hasFailed() {
		return s.failure.refusal()
	}
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if returned {
				return
			}
			if met := recover(); met != nil {
				done <- s.panicked("work on the database", met)
				return
			}
			done <- s.failure.refusal()
		}()
		err := fn()
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-s.failure.happened:
		return s.failure.refusal()
	}
}

// broken says of a database that could not be opened to be read, or not be read when it was opened, whether
// that is the database's fault: it is unless the system says why.
func broken(err error) error {
	var errno syscall.Errno
	if err == nil || errors.Is(err, ErrDamaged) || errors.As(err, &errno) && errno != syscall.ENOENT {
		return err
	}
	return fmt.Errorf("%w: %w; nothing was changed; restore a backup into an empty directory, and keep this one to be looked at", ErrDamaged, err)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// memTables is how many memtables there may be before writes wait for one to become a table.
const memTables = 4

// options are Pebble's.
func (s *Store) options(cache *pebble.Cache) *pebble.Options {
	opts := &pebble.Options{
		FS:                          s.files,
		Comparer:                    comparer,
		FormatMajorVersion:          pebbleFormat,
		Cache:                       cache,
		MemTableSize:                s.config.MemTableBytes,
		MemTableStopWritesThreshold: memTables,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                s.config.OpenFiles,
		CompactionConcurrencyRange:  func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
		Logger:                      pebbleLog{s},
		EventListener:               s.listener(),
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].FilterType = pebble.TableFilter
	}
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionBalanced })
	return opts
}

// newest reads the newest revision and the count of rows at it; 0 if there is none.
func (s *Store) newest() (at Revision, rows uint64, err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindChangelog}, UpperBound: []byte{kindChangelog + 1}})
	if err != nil {
		return 0, 0, broken(err)
	}
	defer func() {
		if closed := iter.Close(); err == nil {
			err = broken(closed)
		}
	}()
	if !iter.Last() {
		return 0, 0, broken(iter.Error())
	}
	if at, _, err = parseChangelogKey(iter.Key()); err != nil {
		return 0, 0, err
	}
	// The first chunk has the count of rows.
	if !iter.SeekGE(changelogKey(at, 0)) {
		if err := iter.Error(); err != nil {
			return 0, 0, broken(err)
		}
		return 0, 0, damaged("a changelog without its beginning")
	}
	value, err := iter.ValueAndErr()
	if err != nil {
		return 0, 0, broken(err)
	}
	first, _, err := readHead(value)
	return at, first.rows, err
}

// load reads what the store has to know of itself. One that is not ready gets its first revision.
func (s *Store) load(ready bool) error {
	at, rows, err := s.newest()
	if err != nil {
		return err
	}
	s.rows.Store(rows)
	h := head{at: at}
	s.head.Store(&h)
	if h.at == 0 && ready {
		return damaged("no changelog")
	}
	if h.at == 0 {
		p, err := (&writes{}).propose(nil, nil)
		if err != nil {
			return err
		}
		h.at = revisionAt(s.config.Now())
		p.stamp(h.at, 0, 0)
		if err := s.apply(p); err != nil {
			return err
		}
		if err := s.db.LogData(nil, pebble.Sync); err != nil {
			return err
		}
		s.head.Store(&h)
	}
	v := view{store: s, at: h.at}
	value, from, found, err := v.get(recordKey(kindSchemaHash, ""))
	if err != nil {
		return broken(err)
	}
	if found && len(value) > 0 {
		h.hash = string(value[1:])
	}
	h.hashFrom = from
	s.head.Store(&h)
	horizon, err := s.readMeta(metaHorizon)
	if err != nil {
		return err
	}
	s.leases.horizon.Store(uint64(horizon))
	if s.collector.collected, err = s.readMeta(metaCollected); err != nil {
		return err
	}
	s.objects.begin(h.at)
	s.voids.begin(h.at)
	return s.loadSchemas()
}

// start starts the store's own work.
func (s *Store) start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stopBackground = stop
	go s.runCommitter()
	s.refreshHead(ctx) // before anybody can take the old one
	s.background.Go(func() { s.maintain(ctx) })
	s.background.Go(func() { s.attestFlushes(ctx) })
	if s.config.ReadAhead {
		s.background.Go(func() { s.readAhead(ctx); s.aheadOver.Store(true) })
	}
}

// Close ends all that reads and writes, with errors, and closes the files. It waits for reads under way
// to notice; if one does not within 10 s, the files stay open, and Close says so (ErrStillOpen). It does not
// wait for tables that are being made. It is safe to call twice.
func (s *Store) Close() error {
	s.gate.Lock()
	if s.closed.Swap(true) {
		s.gate.Unlock()
		return nil
	}
	close(s.closing)
	if s.inside == 0 {
		close(s.empty)
	}
	s.gate.Unlock()
	s.stopBackground()
	close(s.stopCommitter)
	select {
	case <-s.committerDone:
	case <-s.failure.happened: // it may be held, see files
	}
	s.background.Wait()
	s.attest()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-s.empty:
	case <-s.failure.happened: // what is inside may be held too
	case <-patience.C:
		return fmt.Errorf("store: %s stays open, because something still reads it: %w", s.dir, ErrStillOpen)
	}
	return s.closeDatabase()
}

// closePatience is how long Close waits for others.
const closePatience = 10 * time.Second

// closeDatabase closes Pebble, if it was opened, and gives the directory free. A Pebble that has failed
// stopped in the middle of what it did and would wait for itself: it is only kept from the directory.
func (s *Store) closeDatabase() error {
	var err error
	s.iterators.close()
	if s.db != nil && !s.hasFailed() {
		s.files.ending.Store(true)
		err = s.guarded(s.db.Close)
	}
	if s.hasFailed() {
		err = fmt.Errorf("store: %s was not closed cleanly: %w", s.dir, s.failure.cause)
		if !s.files.fence(closePatience) {
			return fmt.Errorf("store: %s stays locked, because the disk does not answer: %w: %w", s.dir, ErrStillOpen, s.failure.cause)
		}
	}
	return errors.Join(err, s.lock.Close())
}

// enter keeps the database open until leave is called. Errors: ErrClosed.
func (s *Store) enter() error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.closed.Load() {
		return ErrClosed
	}
	s.inside++
	return nil
}

func (s *Store) leave() {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.inside--; s.inside == 0 && s.closed.Load() {
		close(s.empty)
	}
}

func (s *Store) isClosed() bool { return s.closed.Load() }

// moveHead makes a revision the head.
func (s *Store) moveHead(h head) {
	s.head.Store(&h)
	s.moved.signal()
}

// readFailure is what a reader gets for an error of Pebble's.
func (s *Store) readFailure(err error) error {
	switch {
	case err == nil || statuses.Within(err) != nil:
		return err
	case pebble.IsCorruptionError(err):
		if kept, ok := s.unreadable.Next(); ok {
			s.config.Log.Error("the store is damaged", zap.String("directory", s.dir), zap.Int("messages left out before", kept), zap.Error(err))
		}
		return damage{fmt.Errorf("%w: %w", ErrDamaged, err)}
	case passes(err):
		return &refused{
			code: codes.Unavailable, reason: authz.ReasonEngineUnavailable, cause: err,
			message: "the store cannot read its disk at present; try again",
		}
	default:
		if kept, ok := s.unreadable.Next(); ok {
			s.config.Log.Error("the store cannot read its disk", zap.String("directory", s.dir), zap.Int("messages left out before", kept), zap.Error(err))
		}
		return &refused{
			code: codes.Unavailable, reason: authz.ReasonEngineUnavailable, cause: err,
			message: "the store cannot read its disk; the server's log says why",
		}
	}
}

// Facts about the store itself: revisions, 8 bytes each.
const (
	// metaHorizon is the lowest revision that can be read.
	metaHorizon = "horizon"
	// metaCollected is up to where what cannot be read was deleted.
	metaCollected = "collected"
)

func (s *Store) readMeta(name string) (Revision, error) {
	value, closer, err := s.db.Get(metaKey(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, broken(err)
	}
	defer func() { _ = closer.Close() }()
	if len(value) != 8 {
		return 0, damaged("%q of %d bytes", name, len(value))
	}
	return Revision(binary.BigEndian.Uint64(value)), nil
}

// beacon wakes all goroutines that wait.
type beacon struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that is closed by the next signal.
func (b *beacon) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *beacon) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// pebbleLog passes on what Pebble logs. What is fatal to Pebble stops the store's writing, and the
// goroutine in which it happened, because Pebble does not expect to be returned to.
type pebbleLog struct{ s *Store }

// Infof is pebble.Logger's. Pebble tells much.
func (l pebbleLog) Infof(format string, args ...any) {
	if ce := l.s.config.Log.Check(zap.DebugLevel, "pebble"); ce != nil {
		ce.Write(zap.String("says", fmt.Sprintf(format, args...)))
	}
}

// Errorf is pebble.Logger's.
func (l pebbleLog) Errorf(format string, args ...any) {
	if kept, ok := l.s.files.saying.Next(); ok {
		l.s.config.Log.Warn("pebble", zap.String("says", fmt.Sprintf(format, args...)), zap.Int("messages left out before", kept))
	}
}

// Fatalf is pebble.Logger's.
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.s.fail("pebble", fmt.Errorf(format, args...)) //nolint:err113 // the words are Pebble's
	runtime.Goexit()
}
