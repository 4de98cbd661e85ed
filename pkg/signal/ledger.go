package signal

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/authz"
)

// State is what has become of a signal. The zero State is none.
type State uint8

const (
	// Begun says that it was received, and that what it asks for may have been done or not: it is done again where the token comes again.
	Begun State = iota + 1
	// Waiting says that it waits for a person.
	Waiting
	// Applied says that what it asks for is done.
	Applied
	// Recorded says that there was nothing to be done.
	Recorded
	// Dropped says that a person dropped it.
	Dropped
)

// Entry is a signal that was received. Of one that is over only ID, Digest, Transmitter, Issued and State are kept.
type Entry struct {
	// ID names it: see ID.
	ID string `json:"id"`
	// Digest is the digest of the token's payload: another token of the same name is none of a transmitter's that keeps to the standard.
	Digest [sha256.Size]byte `json:"digest"`
	// Transmitter is the name of the caller that sent it.
	Transmitter string `json:"transmitter"`
	// Issued is when its token was issued, and Received when it came first.
	Issued   time.Time `json:"issued"`
	Received time.Time `json:"received,omitzero"`
	State    State     `json:"state"`

	// Issuer is its "iss".
	Issuer string `json:"issuer,omitempty"`
	// Reading is what it asks for.
	Reading Reading `json:"reading,omitzero"`
	// Tenants are those in which it takes effect; nil is all of them. Beyond says that it reaches beyond its transmitter's.
	Tenants []string `json:"tenants,omitempty"`
	Beyond  bool     `json:"beyond,omitempty"`
}

// Open reports whether it is not over.
func (e *Entry) Open() bool { return e.State == Begun || e.State == Waiting }

// In reports whether it exists for a caller with the bounds: its target and all tenants in which it takes effect lie within.
func (e *Entry) In(b *authz.Bounds) bool {
	switch {
	case b == nil || !HasTarget(b, e.Reading.Target):
		return false
	case !b.Confined():
		return true
	case e.Beyond || len(e.Tenants) == 0:
		return false
	}
	return !slices.ContainsFunc(e.Tenants, func(one string) bool { return !b.Tenants.Has(one) })
}

// HasTarget reports whether bounds include what a signal is about, as far as agents and types of principals go.
func HasTarget(b *authz.Bounds, target authz.Object) bool {
	if target.Type == authz.TypeAgent {
		return b.HasAgent(authz.AgentID(target.ID))
	}
	p, is := authz.NewPrincipal(target)
	return !is || b.HasPrincipal(p)
}

// ID is the name of a signal: a digest of its transmitter, and of the issuer and the "jti", which are one token's alone. The transmitter counts,
// because one that may do less with a token must not use it up for another.
func ID(transmitter, issuer, jti string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s%s", len(transmitter), transmitter, len(issuer), issuer, jti))
	return hex.EncodeToString(sum[:16])
}

// What a ledger holds at most. One that is full takes no more signals until some are forgotten, or a person has gone through those that wait.
const (
	maxEntries       = 400_000
	maxOfTransmitter = 100_000
	maxWaiting       = 1_000
)

// Config is where a Ledger is.
type Config struct {
	// Dir is its directory, which is made if it is not there.
	Dir string
	// FS has the directory; nil means the operating system's.
	FS vfs.FS
	// Now is the clock that signals are forgotten by; nil means time.Now.
	Now func() time.Time
}

// Ledger keeps which signals were received, durably, until their tokens are too old to be taken again. It belongs to one server: its directory
// is locked. It is safe for concurrent use.
type Ledger struct {
	cfg  Config
	lock interface{ Close() error }

	mu sync.Mutex
	// entries are all, by id; open are the ids of those that are open, by when they were received.
	entries map[string]*Entry
	open    []string
	// of counts the entries, and waits those that are open, of each transmitter.
	of, waits map[string]int
	// busy are the signals that are being worked on; each channel is closed once that is over.
	busy map[string]chan struct{}
	// forgot is when entries were forgotten last.
	forgot time.Time
	log    logFile
	closed bool
}

// OpenLedger opens the ledger in a directory. Errors: that the directory is another server's, or that its file is damaged.
func OpenLedger(cfg Config) (*Ledger, error) {
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Ledger{
		cfg: cfg, entries: map[string]*Entry{}, of: map[string]int{}, waits: map[string]int{}, busy: map[string]chan struct{}{},
		log: logFile{fs: cfg.FS, dir: cfg.Dir},
	}
	fail := func(err error) (*Ledger, error) {
		return nil, fmt.Errorf("the signals in %s cannot be opened: %w", cfg.Dir, err)
	}
	if err := cfg.FS.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fail(err)
	}
	// The directory itself may have been made just now: without its parent it would be gone after a power cut.
	if err := syncDir(cfg.FS, cfg.FS.PathDir(cfg.Dir)); err != nil {
		return fail(err)
	}
	lock, err := cfg.FS.Lock(cfg.FS.PathJoin(cfg.Dir, "LOCK"))
	if err != nil {
		return fail(fmt.Errorf("another server may have them open: %w", err))
	}
	l.lock = lock
	if err := l.log.read(l.putLocked); err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	l.forgetLocked()
	if err := l.rewriteLocked(); err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	return l, nil
}

// Close closes it. Later calls of others are errors.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return errors.Join(l.log.close(), l.lock.Close())
}

// Claim waits until nobody works on a signal, and keeps others from it until release is called.
func (l *Ledger) Claim(ctx context.Context, id string) (release func(), err error) {
	for {
		l.mu.Lock()
		taken := l.busy[id]
		if taken == nil {
			mine := make(chan struct{})
			l.busy[id] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.busy, id)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return nil, unavailable("the same signal is being worked on", ctx.Err())
		}
	}
}

// Get returns a signal. found is false for one that was not received, or is forgotten.
func (l *Ledger) Get(id string) (e Entry, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if has := l.entries[id]; has != nil {
		return *has, true
	}
	return Entry{}, false
}

// Put keeps a signal, or what has become of it, durably: it is on the disk once Put returns. Errors: Exhausted where too many are kept, which for
// one that is kept already is so only where it comes to wait; Unavailable where it cannot be written: then what was kept before stands.
func (l *Ledger) Put(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return unavailable("the server stops", nil)
	}
	if now := l.cfg.Now(); now.Sub(l.forgot) > time.Hour {
		l.forgetLocked()
	}
	if err := l.roomLocked(l.entries[e.ID], &e); err != nil {
		return err
	}
	if !e.Open() {
		e = Entry{ID: e.ID, Digest: e.Digest, Transmitter: e.Transmitter, Issued: e.Issued, State: e.State}
	}
	if l.log.failed || l.log.frames > 2*len(l.entries)+1000 {
		// A file that could not be written to is not written to again: nobody knows what of it is on the disk.
		if err := l.rewriteLocked(); err != nil {
			return unavailable("they cannot be written", err)
		}
	}
	if err := l.log.append(&e); err != nil {
		return unavailable("it cannot be written", err)
	}
	l.putLocked(&e)
	return nil
}

// roomLocked refuses a signal for which there is no room. was is what is kept of it, nil before: then it counts among those that are open.
func (l *Ledger) roomLocked(was, e *Entry) error {
	full := func(format string, args ...any) error {
		err := authz.Errorf(authz.Exhausted, authz.ReasonSignalsUnavailable, format, args...)
		err.RetryAfter = time.Minute
		return err
	}
	others := l.waits[e.Transmitter]
	if was != nil && was.Open() {
		others--
	}
	switch {
	case e.State == Waiting && (was == nil || was.State != Waiting) && others >= maxWaiting:
		return full("%d signals of %s wait for a person: no more can wait until some are applied or dropped", maxWaiting, e.Transmitter)
	case was != nil:
		return nil
	case l.of[e.Transmitter] >= maxOfTransmitter, len(l.entries) >= maxEntries:
		return full("too many signals were received within %s: no more are taken until some are older", MaxAge)
	}
	return nil
}

// putLocked has the memory hold an entry.
func (l *Ledger) putLocked(e *Entry) {
	l.dropLocked(e.ID)
	l.entries[e.ID] = e
	l.of[e.Transmitter]++
	if e.Open() {
		l.waits[e.Transmitter]++
		at, _ := slices.BinarySearchFunc(l.open, e, func(id string, e *Entry) int { return order(l.entries[id], e) })
		l.open = slices.Insert(l.open, at, e.ID)
	}
}

// dropLocked has the memory forget an entry.
func (l *Ledger) dropLocked(id string) {
	was := l.entries[id]
	if was == nil {
		return
	}
	count(l.of, was.Transmitter)
	if was.Open() {
		count(l.waits, was.Transmitter)
		at, found := slices.BinarySearchFunc(l.open, was, func(id string, e *Entry) int { return order(l.entries[id], e) })
		if found {
			l.open = slices.Delete(l.open, at, at+1)
		}
	}
	delete(l.entries, id)
}

func count(of map[string]int, name string) {
	if of[name]--; of[name] == 0 {
		delete(of, name)
	}
}

// order is that of the list.
func order(a, b *Entry) int { return cmp.Or(a.Received.Compare(b.Received), cmp.Compare(a.ID, b.ID)) }

// forgetLocked forgets signals that are over, and whose tokens are too old to be taken: a minute more than MaxAge, by which clocks may differ.
func (l *Ledger) forgetLocked() {
	l.forgot = l.cfg.Now()
	for id, e := range l.entries {
		if !e.Open() && l.forgot.Sub(e.Issued) > MaxAge+time.Minute {
			l.dropLocked(id)
		}
	}
}

// rewriteLocked writes all entries into a new file, which takes the place of the old one.
func (l *Ledger) rewriteLocked() error {
	return l.log.rewrite(func(yield func(*Entry) bool) {
		for _, e := range l.entries {
			if !yield(e) {
				return
			}
		}
	})
}

// Waits returns up to limit of the signals that are open and exist within the bounds, the oldest first, after the one that an earlier call
// returned last; and whether there are more.
func (l *Ledger) Waits(b *authz.Bounds, after Entry, limit int) (list []Entry, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.open {
		e := l.entries[id]
		if after.ID != "" && order(e, &after) <= 0 || !e.In(b) {
			continue
		}
		if len(list) == limit {
			return list, true
		}
		list = append(list, *e)
	}
	return list, false
}

// Counts returns how many signals are kept, and how many of them are open.
func (l *Ledger) Counts() (kept, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries), len(l.open)
}

// unavailable says that signals cannot be kept now.
func unavailable(why string, cause error) error {
	return &authz.Error{
		Op: "signal.Ledger", Kind: authz.Unavailable, Reason: authz.ReasonSignalsUnavailable, Err: cause,
		Message: "the signal cannot be kept: " + why + "; send it again",
	}
}
