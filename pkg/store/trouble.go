package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// What the system refuses now it may grant in a moment: descriptors that connections have used up come back, room
// is made on a disk. Such an error must not end a store's writing, or a client that brings it about for a second, without
// any key, ends it until somebody opens the store again. So the store tells two kinds apart:
//
//	passing    is waited for and tried again, for as long as it lasts. Once it has lasted for Config.patience, writes
//	           are refused with what is wrong, instead of waiting without a word; they go on when it has passed.
//	others     fail the store: at once where a log or the manifest is concerned, since what was written of them is
//	           not known then; and where a table cannot be made of what the log has, once nothing else
//	           has happened for as long as that patience.
//
// How long is counted, and not how often: Pebble tries again at once, some thousand times a second.

// defaultPatience is how long the store tries before it says so.
const defaultPatience = 30 * time.Second

// Between two tries the store waits: firstPause, then twice as long each time, up to lastPause. A read that fails
// waits for firstPause, so that what Pebble reads again and again in the background does not keep a core busy.
const (
	defaultFirstPause = 5 * time.Millisecond
	lastPause         = time.Second
)

// passingErrors are those that may pass by themselves, or when somebody makes room.
var passingErrors = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.EINTR,
}

// passes reports whether an error may pass.
func passes(err error) bool {
	for _, passing := range passingErrors {
		if errors.Is(err, passing) {
			return true
		}
	}
	return isDiskFull(err)
}

// outOfRoom reports whether an error says that the disk, or a share of it, is used up.
func outOfRoom(err error) bool { return isDiskFull(err) || errors.Is(err, syscall.EDQUOT) }

// trouble is a run of failures of one kind of work, up to its next success. It is safe for concurrent use.
type trouble struct {
	now func() time.Time

	mu sync.Mutex
	// since is when the run began, hard when the run of errors that do not pass began; zero if there is none.
	since, hard time.Time
	cause       error
	tries       int
	// ongoing is set during a run, so that a success outside of one costs nothing.
	ongoing atomic.Bool
}

// failed notes a failure. It returns for how long nothing has succeeded, and for how long errors that do not pass were
// all there was.
func (t *trouble) failed(err error) (lasted, hard time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.since.IsZero() {
		t.since = now
	}
	switch {
	case passes(err):
		t.hard = time.Time{}
	case t.hard.IsZero():
		t.hard = now
	}
	t.cause = err
	t.tries++
	t.ongoing.Store(true)
	if !t.hard.IsZero() {
		hard = now.Sub(t.hard)
	}
	return now.Sub(t.since), hard
}

// over notes a success.
func (t *trouble) over() {
	if !t.ongoing.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since, t.hard, t.cause, t.tries = time.Time{}, time.Time{}, nil, 0
	t.ongoing.Store(false)
}

// why returns the last error of a run under way; nil if there is none.
func (t *trouble) why() error {
	if !t.ongoing.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cause
}

// count returns how many failures the run has.
func (t *trouble) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tries
}

// pause returns how long to wait before the next try, when that many have failed.
func pause(first time.Duration, tries int) time.Duration {
	return min(first<<min(max(tries-1, 0), 16), lastPause)
}

// impasse is a state in which writes do not come to an end: those that wait are woken and refused, and no other one
// begins.
type impasse struct {
	mu    sync.Mutex
	cause error
	// entered is closed while the state lasts.
	entered atomic.Pointer[chan struct{}]
}

func newImpasse() *impasse {
	i := &impasse{}
	open := make(chan struct{})
	i.entered.Store(&open)
	return i
}

// reached returns a channel that is closed while the state lasts, or as soon as it begins.
func (i *impasse) reached() <-chan struct{} { return *i.entered.Load() }

// enter begins the state, and reports whether it is new.
func (i *impasse) enter(cause error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	begun := i.cause == nil
	i.cause = cause
	if begun {
		close(*i.entered.Load())
	}
	return begun
}

// leave ends it, and reports whether it lasted.
func (i *impasse) leave() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cause == nil {
		return false
	}
	i.cause = nil
	open := make(chan struct{})
	i.entered.Store(&open)
	return true
}

// refusal is what a write gets meanwhile. begun says that it was on its way already.
func (i *impasse) refusal(begun bool) error {
	i.mu.Lock()
	cause := i.cause
	i.mu.Unlock()
	if cause == nil {
		cause = errPassed
	}
	return waiting(cause, begun)
}

// errPassed is the cause where it has passed by the time that somebody asks.
var errPassed = errors.New("it has passed")

// waiting is the refusal of a write while the disk takes none, for a reason that may pass.
func waiting(cause error, begun bool) error {
	outcome := "nothing was written"
	if begun {
		outcome = "whether this write was made is not known"
	}
	e := &refused{code: codes.Unavailable, reason: authz.ReasonEngineUnavailable, cause: cause, message: fmt.Sprintf(
		"the store cannot write to its disk at present, and goes on by itself once it can; %s; reads go on", outcome)}
	if outOfRoom(cause) {
		e.code, e.reason = codes.ResourceExhausted, authz.ReasonDiskFull
	}
	return e
}

// stalled notes that work which writes wait for has failed for that long, and refuses writes if that is too long.
func (s *Store) stalled(doing string, cause error, lasted time.Duration) {
	if lasted >= s.config.patience && s.impasse.enter(cause) {
		s.config.Log.Error("the store cannot write at present: writes are refused until it can, reads go on",
			zap.String("while", doing), zap.String("directory", s.dir), zap.Duration("for", lasted), zap.Error(cause))
	}
}

// recovered notes that such work has succeeded.
func (s *Store) recovered(t *trouble) {
	t.over()
	if s.flushing.why() == nil && s.files.waiting.why() == nil && s.impasse.leave() {
		s.config.Log.Warn("the store can write again", zap.String("directory", s.dir))
	}
}
