package follow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/store"
)

// Config is how an authority is followed.
type Config struct {
	// Dir is where the copy is: a directory of its own, which is made if it does not exist.
	Dir string
	// Store is how the copy's store is opened.
	Store store.Config
	// MaxChanges is how many relationships one local commit writes, and how many it deletes, at most; 0 means 200,000.
	MaxChanges int
	// PageSize is how many relationships a load reads at a time; 0 means 20,000.
	PageSize int
	// WriteDown is how old the position on the disk becomes while nothing changes; 0 means a minute.
	WriteDown time.Duration
	// Log is told what an operator has to know; nil means nobody.
	Log *zap.Logger
	// Progress is told how far a load is, after each page, if it is not nil.
	Progress func(Progress)
}

// Progress is how far a load is.
type Progress struct {
	// Position is what is loaded.
	Position Position
	// Relationships is how many there are so far, Complete whether these are all.
	Relationships uint64
	Complete      bool
}

func (c Config) complete() Config {
	if c.MaxChanges == 0 {
		c.MaxChanges = 200_000
	}
	if c.PageSize == 0 {
		c.PageSize = 20_000
	}
	if c.WriteDown == 0 {
		c.WriteDown = time.Minute
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Store.Log == nil {
		c.Store.Log = c.Log
	}
	return c
}

// files is where the copies are.
func (c Config) files() vfs.FS {
	if c.Store.FS != nil {
		return c.Store.FS
	}
	return vfs.Default
}

// ErrNoCopy says that there is no copy yet.
var ErrNoCopy = errors.New("there is no copy of the primary to decide from: none was made yet, or the last one was taken out of service")

// errClosed says that a follower is used after Close.
var errClosed = errors.New("follow: the follower is closed")

// Follower keeps a copy of an authority. It is safe for concurrent use; Pull and Load run one at a time.
//
// Its directory has a directory for each copy, copy-1, copy-2 and so on, each of them a store that says itself whether it is complete. The
// complete one with the highest number counts. One with a higher number that is not complete is being loaded.
type Follower struct {
	config    Config
	authority Authority
	contact   contact
	// life ends with Close, and with it what is under way.
	life context.Context //nolint:containedctx // the follower's own life
	end  context.CancelFunc

	// turn is held while a copy is changed.
	turn sync.Mutex
	// half is a copy that is being loaded, newest the highest number that a copy has had.
	half   *replica
	newest int
	// left are copies that were to be removed and are still there.
	left left

	// mu guards what follows, and the holders of copies. It is never held while the disk or the authority is waited for.
	mu      sync.Mutex
	serving *replica
	// proven is what serving has reached.
	proven reached
	// retired are copies that are not served any more and that somebody still reads.
	retired map[*replica]bool
	closed  bool

	// progress is that of the load that is under way; nil if there is none.
	progress atomic.Pointer[Progress]
}

// Open opens the copy that there is, and asks nothing of the authority. Copies that are not needed any more are removed, and so is one that cannot be read.
func Open(config Config, authority Authority) (*Follower, error) {
	f := &Follower{config: config.complete(), authority: authority, retired: map[*replica]bool{}}
	f.noteProgress()
	f.life, f.end = context.WithCancel(context.Background())
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("follow: cannot open %s: %w", config.Dir, errors.Join(err, f.Close()))
	}
	return f, nil
}

const (
	copyPrefix = "copy-"
	// goneSuffix ends the name of what is being removed.
	goneSuffix = ".gone"
)

func (f *Follower) open() error {
	files := f.config.files()
	numbers, gone, err := copiesIn(files, f.config.Dir)
	if err != nil {
		return err
	}
	for _, name := range gone {
		if err := files.RemoveAll(files.PathJoin(f.config.Dir, name)); err != nil {
			return err
		}
	}
	if len(numbers) > 0 {
		f.newest = numbers[0]
	}
	for _, n := range numbers {
		if err := f.consider(n); err != nil {
			return err
		}
	}
	return nil
}

// copiesIn returns the numbers of the copies in a follower's directory, the newest first, and the names of what was being removed. A directory that does
// not exist has none.
func copiesIn(files vfs.FS, dir string) (numbers []int, gone []string, err error) {
	names, err := files.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, name := range names {
		rest, ours := strings.CutPrefix(name, copyPrefix)
		n, err := strconv.Atoi(rest)
		switch {
		case ours && strings.HasSuffix(name, goneSuffix):
			gone = append(gone, name)
		case ours && err == nil && n > 0 && rest == strconv.Itoa(n):
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, gone, nil
}

// copyDir is the directory of a copy.
func copyDir(files vfs.FS, dir string, number int) string {
	return files.PathJoin(dir, copyPrefix+strconv.Itoa(number))
}

// consider opens a copy, from the newest down, and keeps it or removes it.
func (f *Follower) consider(number int) error {
	dir := f.path(number)
	if f.serving != nil {
		return f.remove(dir)
	}
	r, err := openReplica(dir, number, f.config.Store)
	switch {
	case errors.Is(err, errNoMark):
		// It ended before its first commit.
		return f.remove(dir)
	case errors.Is(err, store.ErrDamaged):
		f.config.Log.Warn("the copy of the primary is damaged, and is loaded anew", zap.String("directory", dir), zap.Error(err))
		return f.remove(dir)
	case err != nil:
		return err
	case r.mark.Loading == nil:
		f.replace(r)
		return nil
	case f.half != nil:
		return f.drop(r)
	default:
		f.half = r
		return nil
	}
}

func (f *Follower) path(number int) string {
	return copyDir(f.config.files(), f.config.Dir, number)
}

// remove removes a copy that is not open, so that what is left of it after a crash is not taken for one.
func (f *Follower) remove(dir string) error {
	files := f.config.files()
	gone := dir + goneSuffix
	if err := errors.Join(files.RemoveAll(gone), files.Rename(dir, gone)); err != nil {
		return err
	}
	// The new name has to be on the disk before the first file is removed.
	if err := syncDir(files, f.config.Dir); err != nil {
		return err
	}
	return files.RemoveAll(gone)
}

// Close ends what is under way and closes the copy. Reading a copy that is still held fails from then on.
func (f *Follower) Close() error {
	f.end()
	f.turn.Lock()
	defer f.turn.Unlock()
	f.expel()
	f.mu.Lock()
	open := slices.Collect(maps.Keys(f.retired))
	if f.serving != nil {
		open = append(open, f.serving)
	}
	f.serving, f.closed = nil, true
	clear(f.retired)
	f.mu.Unlock()
	if f.half != nil {
		open = append(open, f.half)
		f.half = nil
	}
	var err error
	for _, r := range open {
		err = errors.Join(err, r.store.Close())
	}
	return err
}

// Reached is a state of the authority that the copy has reached. Its store stays open until Release is called, once; but for Follower.Close.
type Reached struct {
	// Store is the copy, Local its revision that is the copy of Position.
	Store *store.Store
	Local store.Revision
	// Position is the state. At Position.At the authority showed it as its head.
	Position Position

	release func()
}

// Release gives the copy back.
func (r *Reached) Release() { r.release() }

// Reached returns the state that was reached last. It never waits. Errors: ErrNoCopy.
func (f *Follower) Reached() (*Reached, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.serving
	switch {
	case f.closed:
		return nil, errClosed
	case r == nil, r.distrusted:
		return nil, ErrNoCopy
	}
	r.holders++
	var once sync.Once
	return &Reached{
		Store: r.store, Local: f.proven.local, Position: f.proven.position,
		release: func() { once.Do(func() { f.giveBack(r) }) },
	}, nil
}

// giveBack ends a hold, and removes a copy that nobody needs any more.
func (f *Follower) giveBack(r *replica) {
	f.mu.Lock()
	r.holders--
	over := f.retired[r] && r.holders == 0
	if over {
		delete(f.retired, r)
	}
	f.mu.Unlock()
	if over {
		f.bury(r)
	}
}

// replace has another copy served, or none, and removes the one that was once nobody holds it.
func (f *Follower) replace(r *replica) {
	f.mu.Lock()
	old := f.serving
	f.serving, f.proven = r, reached{}
	if r != nil {
		f.proven = r.at
	}
	over := old != nil && old.holders == 0
	if old != nil && !over {
		f.retired[old] = true
	}
	f.mu.Unlock()
	if over {
		f.bury(old)
	}
}

// prove notes what the copy that is served has reached.
func (f *Follower) prove(r *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.serving == r {
		f.proven = r.at
	}
}

// bury removes a copy that is not served any more. If it cannot be removed the next start does.
func (f *Follower) bury(r *replica) {
	if err := f.drop(r); err != nil {
		f.config.Log.Warn("a copy of the primary that is not needed any more could not be removed",
			zap.String("directory", r.dir), zap.Error(err))
	}
}

// turnOf waits for the turn, and returns a context that also ends with the follower. over gives the turn back.
func (f *Follower) turnOf(ctx context.Context) (_ context.Context, over func()) {
	f.turn.Lock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.life, cancel)
	return ctx, func() {
		stop()
		cancel()
		f.turn.Unlock()
	}
}

// Pull asks the authority for its head and for what has changed since the copy's position, and applies it. What it returns has been the
// authority's head after Pull was called.
//
// Errors: ErrNoCopy; those of Authority.ChangesSince; store.ErrDamaged, and ErrStopped where the copy's store takes no writes any more. After
// ErrMissed and ErrTooMany the copy stays where it is, after the others that were named there is none. In these cases Load makes a new one; after
// ErrTooMany CatchUp may do without.
func (f *Follower) Pull(ctx context.Context) (*Reached, error) {
	ctx, over := f.turnOf(ctx)
	defer over()
	r, err := f.served() //nolint:contextcheck // a mark of distrust is written in any case
	if err != nil {
		return nil, err
	}
	if r.mark.Loading != nil {
		return nil, ErrTooMany // CatchUp was interrupted
	}
	return f.settle(ctx, r, f.advance(ctx, r))
}

// CatchUp is Pull in several commits, for where Pull comes to ErrTooMany. Until it returns, what was reached before is what is reached. Where ctx ends
// first that stays so, Pull comes to ErrTooMany again, and the next CatchUp goes on.
//
// Errors are those of Pull. ErrTooMany says that the authority does not tell changes in parts, or that they are more than a load has to read. After
// any other error than ctx's, and once a commit was made, there is no copy: one that is always interrupted would never come to the head.
func (f *Follower) CatchUp(ctx context.Context) (*Reached, error) {
	ctx, over := f.turnOf(ctx)
	defer over()
	r, err := f.served() //nolint:contextcheck // a mark of distrust is written in any case
	if err != nil {
		return nil, err
	}
	stats, err := r.store.Statistics(ctx)
	if err != nil {
		return nil, err
	}
	if err = f.catchUp(ctx, r, stats.EstimatedRelationshipCount+uint64(f.config.MaxChanges)); err == nil { //nolint:gosec // it is small
		err = f.advance(ctx, r)
	}
	return f.settle(ctx, r, err)
}

// settle notes what bringing the copy that is served to the head came to, and returns what was reached. The turn is held.
func (f *Follower) settle(ctx context.Context, r *replica, err error) (*Reached, error) {
	torn := r.mark.Loading != nil
	if !torn {
		f.prove(r)
	}
	switch {
	case err == nil:
		f.abandon()
		return f.Reached()
	case r.store.Failed() != nil:
		err = fmt.Errorf("%w: %w", ErrStopped, r.store.Failed())
	}
	if errors.Is(err, ErrOther) || errors.Is(err, ErrStopped) || errors.Is(err, store.ErrDamaged) || torn && ctx.Err() == nil {
		f.config.Log.Warn("the copy is discarded", zap.Error(err))
		if torn { // it is not to be gone on with by the next start either
			f.mu.Lock()
			r.distrusted = true
			f.mu.Unlock()
		}
		f.expel() //nolint:contextcheck // the mark is written in any case
		f.replace(nil)
	}
	return nil, err
}

// ErrStopped says that a copy's store has failed to write, and takes no writes any more.
var ErrStopped = errors.New("the copy's store takes no writes any more")

// needsLoad reports whether an error of Pull's says that a copy has to be loaded.
func needsLoad(err error) bool {
	for _, one := range []error{ErrNoCopy, ErrOther, ErrMissed, ErrTooMany, ErrStopped, store.ErrDamaged} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

// advance brings a copy to the head. The turn is held.
func (f *Follower) advance(ctx context.Context, r *replica) error {
	changes, err := f.changesSince(ctx, r.at.position)
	if err != nil {
		return err
	}
	return r.apply(ctx, &changes, f.config.WriteDown)
}

// served is the copy that is served. The turn is held.
func (f *Follower) served() (*replica, error) {
	f.expel()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, errClosed
	case f.serving == nil:
		return nil, ErrNoCopy
	default:
		return f.serving, nil
	}
}

// Follow is Pull, CatchUp where too much has changed for that, and Load where there is no copy or where it has to be discarded. It may take as long as a
// load does.
func (f *Follower) Follow(ctx context.Context) (*Reached, error) {
	reached, err := f.Pull(ctx)
	if errors.Is(err, ErrTooMany) {
		reached, err = f.CatchUp(ctx)
	}
	if !needsLoad(err) {
		return reached, err
	}
	f.config.Log.Info("a copy of the primary is being loaded", zap.String("because", err.Error()))
	if err := f.Load(ctx); err != nil {
		return nil, err
	}
	return f.Pull(ctx)
}
