package follow

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/pkg/turns"
)

// Defaults of GraphConfig.
const (
	DefaultWait   = 250 * time.Millisecond
	DefaultMaxAge = 10 * time.Second
)

const (
	// pullTime is how long a pull may take that is made for a call, and maxPullTime the longest that one takes after others did not get ready.
	pullTime, maxPullTime = 10 * time.Second, 2 * time.Minute
	// failurePause is how long after a failure the next pull is tried, and maxFailurePause how long after many.
	failurePause, maxFailurePause = time.Second, 15 * time.Second
	// pullsPerAge is how often the copy is brought up to date within MaxAge while nobody asks, and leastPause and pullPause the shortest and the longest
	// time between two pulls.
	pullsPerAge, leastPause, pullPause = 10, 50 * time.Millisecond, time.Second
	// linger is how long a copy that was replaced can still be read by calls that began with it.
	linger = time.Minute
	// confirmTime is how long a write waits until the authority has told its identity.
	confirmTime = 2 * time.Second
	// maxAsking is how many questions the authority's engine is asked at once for decisions that the copy does not answer.
	maxAsking = 16
)

// Local is the graph over a copy's store: what a decision at a revision of the copy is made over. It is safe for concurrent use.
type Local interface {
	// At returns a snapshot of a revision of the store, as of a moment, zero being the clock's.
	At(ctx context.Context, at store.Revision, moment time.Time) (authz.Snapshot, error)
	// Close ends it. Whatever still reads gets errors.
	Close() error
}

// GraphConfig is what a Graph is made of.
type GraphConfig struct {
	// Follower has the copy. Its owner closes it after the Graph.
	Follower *Follower
	// Engine is the authority's own engine, which takes writes, and answers what the copy does not.
	Engine authz.Graph
	// Head returns the head that take takes, as SpiceDB prints it, as a revision of Engine's; or refuses it, where Engine would.
	Head func(ctx context.Context, take func() (printed string, err error)) (authz.Revision, error)
	// Printed returns a revision of Engine's as SpiceDB prints it.
	Printed func(authz.Revision) (string, error)
	// Renewed is called when the authority's history is another one than before, so that Engine does not compare its heads with those of the lost
	// one; nil tells nobody.
	Renewed func(before, now Identity)
	// Open makes the graph over a copy's store. The store stays the follower's.
	Open func(*store.Store) (Local, error)
	// Wait is how long a decision waits until the copy has reached the authority's head; 0 means DefaultWait.
	Wait time.Duration
	// MaxAge is how long after the copy was last known to be the authority's head it answers calls that do not need the head; 0 means DefaultMaxAge.
	MaxAge time.Duration
	// Sample is how many relationships a second are compared between the copy and the authority; 0 means DefaultSample, and a negative number none.
	Sample int
	// Believed is how old a state may be for a difference at it to be believed at once. At an older one the database may have collected meanwhile, so
	// that the difference is looked at again; 0 means 30 s.
	Believed time.Duration
	// DiscardPause is how long after the second copy in a row that was found not to be what it should be the next one is loaded, and twice as long after
	// each further one, up to an hour; 0 means a minute.
	DiscardPause time.Duration
	// Served is called when the copy begins to serve, and when it does not any more; nil tells nobody.
	Served func(bool)
	// Log is told what an operator has to know; nil means nobody.
	Log *zap.Logger
}

// Graph answers decisions from a copy, and has the authority behind it. It implements authz.Graph and is safe for concurrent use.
//
//   - The head: a decision takes the authority's head after it was asked for, and the copy is brought there. Decisions that arrive together share
//     both. So it sees each write that was acknowledged before it was asked for, by whichever server. Where that takes longer than Wait, the
//     authority's engine is asked.
//   - At least as fresh as a revision, or as fast as can be: answered from the copy, if it shows the revision, and was the authority's head less
//     than MaxAge ago; else as the head.
//   - Exactly at a revision: answered from the copy if it has stood there, else by the authority's engine.
//
// The authority's engine is asked few questions at once for each caller, and for all of them, so that a copy which does not keep up does not turn a
// node's whole load on the database: beyond that calls are Unavailable. Revisions are the authority's, also of answers from the copy, and name its
// history: one of another history is OutOfRange.
type Graph struct {
	config GraphConfig
	// heads shares what brings the copy to the head.
	heads turns.Shared[*stand]
	// now is what the copy was last known to be the head at; nil if there is no such copy.
	now atomic.Pointer[stand]
	// discarded are the copies in a row that were found not to be what they should be.
	discarded discards
	// loading says that a copy is loaded, or brought to the head in several commits: decisions do not wait for it. renewing says
	// that one of both has to be done, until a copy is at the head, and hasServed that a copy has served.
	loading, renewing, hasServed atomic.Bool
	// catchingUp is since when the copy is brought to the head in several commits; nil if it is not.
	catchingUp atomic.Pointer[time.Time]
	identities identities
	asking     *turns.Set
	figures    *figures

	end   context.CancelFunc
	ended chan struct{}
	mu    sync.Mutex
	// changed has what calls Served look at once, and said is what Served was called with last.
	changed chan struct{}
	said    atomic.Bool
	// copies are those that are open, newest the one that was opened last.
	copies map[*opened]bool
	newest *opened
	stands stands

	// wake has follow look at once, verifying is held by the one comparison of the whole copy that is under way, and checks is what they came to.
	wake      chan struct{}
	verifying sync.Mutex
	checks    checks
}

var (
	_ authz.Graph     = (*Graph)(nil)
	_ authz.Histories = (*Graph)(nil)
)

// stand is where a copy has stood: the local revision that is the copy of a position of the authority's. It is immutable.
type stand struct {
	copy     *opened
	local    store.Revision
	position Position
	revision authz.Revision
	// proven is a moment after which the position was the authority's head.
	proven time.Time
}

// opened is a copy with the graph over it.
type opened struct {
	// number tells it from others, and grows.
	number uint64
	graph  Local
	hold   *Reached
	once   sync.Once
}

func (o *opened) close() (err error) {
	o.once.Do(func() {
		err = o.graph.Close()
		o.hold.Release()
	})
	return err
}

// OpenGraph returns a Graph, which begins to follow.
func OpenGraph(config GraphConfig) *Graph {
	if config.Wait == 0 {
		config.Wait = DefaultWait
	}
	if config.MaxAge == 0 {
		config.MaxAge = DefaultMaxAge
	}
	if config.Sample == 0 {
		config.Sample = DefaultSample
	}
	if config.Believed == 0 {
		config.Believed = believed
	}
	if config.DiscardPause == 0 {
		config.DiscardPause = time.Minute
	}
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	ctx, end := context.WithCancel(context.Background())
	g := &Graph{
		config: config, asking: turns.New("questions to the primary", maxAsking), copies: map[*opened]bool{}, end: end, ended: make(chan struct{}),
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	g.figures = newFigures(g)
	go func() {
		defer close(g.ended)
		var beside sync.WaitGroup
		beside.Go(func() { _ = authz.Safely("follow.sample", func() error { g.sample(ctx); return nil }) })
		beside.Go(func() { _ = authz.Safely("follow.tells", func() error { g.tells(ctx); return nil }) })
		_ = authz.Safely("follow.Graph", func() error { g.follow(ctx); return nil }) // each step recovers by itself
		beside.Wait()
	}()
	return g
}

// Close ends the following, and closes what is over the copies. The follower is to be closed after it.
func (g *Graph) Close() error {
	g.end()
	<-g.ended
	g.mu.Lock()
	open := g.copies
	g.copies, g.newest = nil, nil
	g.mu.Unlock()
	g.now.Store(nil)
	var err error
	for o := range open {
		err = errors.Join(err, o.close())
	}
	return err
}

// Serves reports whether the copy serves: whether it was the authority's head less than MaxAge ago.
func (g *Graph) Serves() bool { return g.fresh() != nil }

// Stands reports whether the copy serves, as Serves, and whether, after a copy has served, one has to be loaded or to catch up: until then the authority's
// engine answers. Both are of one moment, so that between a copy that was taken out of service and the next one there is no moment with neither.
func (g *Graph) Stands() (serves, reloads bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Serves(), g.renewing.Load() && g.hasServed.Load()
}

// fresh returns what the copy was the head at less than MaxAge ago; nil if that is longer ago.
func (g *Graph) fresh() *stand {
	if s := g.now.Load(); s != nil && time.Since(s.proven) <= g.config.MaxAge {
		return s
	}
	return nil
}

// follow brings the copy to the head now and then, and makes a new one where it cannot be, until ctx ends.
func (g *Graph) follow(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	var failures failures
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		case <-g.wake:
		}
		err := authz.Safely("follow.Graph", func() error { return g.step(ctx, failures.patience()) })
		if ctx.Err() != nil {
			return
		}
		next := min(max(g.config.MaxAge/pullsPerAge, leastPause), pullPause)
		if failures.note(err, time.Now()) {
			g.config.Log.Warn("the copy does not follow the primary; it is tried again", zap.Error(err))
		}
		if err != nil {
			next = failures.pause()
		}
		pause.Reset(next)
	}
}

// failures are those in a row of what is tried again and again. The zero value is none.
type failures struct {
	row  int
	said string
	at   time.Time
}

// sayAgain is how long after it was said a failure that goes on is said again.
const sayAgain = time.Minute

// note takes in an outcome, and reports whether it is to be said: a failure that is the first, is another one than before, or has gone on.
func (f *failures) note(err error, now time.Time) bool {
	if err == nil {
		*f = failures{}
		return false
	}
	f.row++
	if text := err.Error(); text != f.said || now.Sub(f.at) >= sayAgain {
		f.said, f.at = text, now
		return true
	}
	return false
}

// doubled doubles a time with each failure, up to a limit.
func (f *failures) doubled(first, most time.Duration) time.Duration {
	return min(first<<min(max(f.row, 0), 10), most)
}

// patience is how long the next try may take: what did not get ready in time gets more of it.
func (f *failures) patience() time.Duration { return f.doubled(pullTime, maxPullTime) }

// pause is how long after a failure the next try is made.
func (f *failures) pause() time.Duration { return f.doubled(failurePause/2, maxFailurePause) }

// discards count the copies that were discarded one after the other because they were damaged or differed from the authority. Where that goes on, the
// cause is not in the copy, and the database is spared the loads. The zero value is none.
type discards struct {
	mu   sync.Mutex
	row  int
	last time.Time
}

const (
	// forgetDiscards is how long after a copy was discarded the next one is the first.
	forgetDiscards = 6 * time.Hour
	// maxDiscardPause is the longest that a load waits.
	maxDiscardPause = time.Hour
)

var errTooOften = errors.New("one copy after the other was found not to be what it should be: the next one is loaded later, and the primary answers meanwhile")

// note takes in that a copy was discarded.
func (d *discards) note(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.last) > forgetDiscards {
		d.row = 0
	}
	d.row, d.last = d.row+1, now
}

// mayLoad reports whether a copy may be loaded: after the first that was discarded at once, then after a pause, after two, after four, and so on.
func (d *discards) mayLoad(now time.Time, pause time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.row < 2 {
		return true
	}
	return now.Sub(d.last) >= min(pause<<min(d.row-2, 10), maxDiscardPause)
}

// step brings the copy to the head, which may take some time: by one commit, else by several, else by a new copy.
func (g *Graph) step(ctx context.Context, patience time.Duration) error {
	// One that is under way may take pullTime. The question itself ends first, so that it is noted that it got no answer.
	bounded, cancel := context.WithTimeout(ctx, pullTime+patience+time.Second)
	_, err := g.heads.Get(bounded, patience, g.take)
	cancel()
	if !needsLoad(err) {
		return err
	}
	g.renewing.Store(true)
	if !g.discarded.mayLoad(time.Now(), g.config.DiscardPause) {
		if _, err := g.identityNow(ctx); err != nil { // nothing else asks whether it is still there
			return err
		}
		return errTooOften
	}
	g.loading.Store(true)
	defer g.loading.Store(false)
	// The authority tells its identity before anything of it is loaded.
	if _, err := g.identityNow(ctx); err != nil {
		return err
	}
	if err := g.renew(ctx, err); err != nil {
		return err
	}
	g.loading.Store(false) // before it is told that the copy serves: from then on decisions are to wait for it
	_, err = g.heads.Get(ctx, pullTime, g.take)
	return err
}

// renew brings the copy to the head where one commit did not, for a reason: by several commits where that is all it takes, else by a new copy.
func (g *Graph) renew(ctx context.Context, because error) error {
	began := time.Now()
	if errors.Is(because, ErrTooMany) {
		g.config.Log.Info("the copy is brought to the primary's head in several commits", zap.String("because", because.Error()))
		reached, err := g.catchUp(ctx)
		if err == nil {
			reached.Release()
			g.config.Log.Info("the copy is at the primary's head", zap.Duration("took", time.Since(began)))
			return nil
		}
		if !errors.Is(err, ErrTooMany) {
			return err // where the copy is lost, the next step sees to it that nobody uses it any more, and then loads another one
		}
		because = err
	}
	g.config.Log.Info("a copy of the primary is being loaded", zap.String("because", because.Error()))
	g.figures.loads.Inc()
	if err := g.config.Follower.Load(ctx); err != nil {
		return err
	}
	g.config.Log.Info("a copy of the primary is loaded, and followed", zap.Duration("took", time.Since(began)))
	return nil
}

// catchUp brings the copy to the head in several commits, and says so meanwhile.
func (g *Graph) catchUp(ctx context.Context) (*Reached, error) {
	began := time.Now()
	g.catchingUp.Store(&began)
	defer g.catchingUp.Store(nil)
	return g.config.Follower.CatchUp(ctx)
}

// forget takes a copy out of service, and all that is known of where it has stood: the one that is given, or any if it is nil. Calls that have begun
// with it end with it.
func (g *Graph) forget(copied *store.Store) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.now.Load()
	if copied != nil && (s == nil || s.copy.hold.Store != copied) {
		return
	}
	g.stands = stands{}
	g.now.Store(nil)
	g.renewing.Store(true)
	g.tell()
}

// tell has Served be called, if whether the copy serves has changed.
func (g *Graph) tell() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// tells calls Served when the copy begins to serve, and when it does not any more, until ctx ends: at once where a copy is taken in or out of service, and
// when one was last known to be the head MaxAge ago.
func (g *Graph) tells(ctx context.Context) {
	expiry := time.NewTimer(g.config.MaxAge)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		case <-expiry.C:
		}
		for serves := g.Serves(); serves != g.said.Load(); serves = g.Serves() { // a copy may be taken in meanwhile
			g.said.Store(serves)
			if g.config.Served != nil {
				_ = authz.Safely("follow.Served", func() error { g.config.Served(serves); return nil })
			}
		}
		next := g.config.MaxAge
		if s := g.fresh(); s != nil {
			next = time.Until(s.proven.Add(g.config.MaxAge)) + time.Millisecond // by then it is not fresh any more
		}
		expiry.Reset(max(next, time.Millisecond))
	}
}

// take brings the copy to the head. One at a time is under way; see turns.Shared.
func (g *Graph) take(ctx context.Context) (*stand, error) {
	s := &stand{proven: time.Now()}
	revision, err := g.config.Head(ctx, func() (string, error) {
		reached, err := g.config.Follower.Pull(ctx)
		if needsLoad(err) && !errors.Is(err, ErrMissed) && !errors.Is(err, ErrTooMany) {
			g.forget(nil) // there is no copy any more
		}
		if err != nil {
			return "", err
		}
		if !g.recognize(reached.Position.Authority, s.proven) {
			reached.Release()
			return "", errChanged
		}
		if s.copy, err = g.over(ctx, reached); err != nil {
			return "", err
		}
		s.local, s.position = reached.Local, reached.Position
		return g.config.Follower.authority.Revision(s.position)
	})
	if err != nil {
		return nil, err
	}
	s.revision = authz.InHistory(historyOf(s.position.Authority), revision.ZedToken())
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.copies == nil {
		return nil, errClosed
	}
	if !g.config.Follower.serves(s.copy.hold.Store) {
		return nil, ErrNoCopy
	}
	if g.identities.identity() != s.position.Authority {
		return nil, errChanged // while the copy was opened
	}
	g.stands.note(s)
	g.now.Store(s)
	g.renewing.Store(false)
	g.hasServed.Store(true)
	if !g.said.Load() {
		g.tell()
	}
	return s, nil
}

// over returns the graph over a copy, which it opens at first. It takes over what was reached.
func (g *Graph) over(ctx context.Context, reached *Reached) (*opened, error) {
	g.mu.Lock()
	newest := g.newest
	g.mu.Unlock()
	if newest != nil && newest.hold.Store == reached.Store {
		reached.Release()
		return newest, nil
	}
	local, err := g.config.Open(reached.Store)
	if err != nil {
		reached.Release()
		return nil, err
	}
	o := &opened{number: 1, graph: local, hold: reached}
	// The first look at a schema may read many relationships, which no decision should have to wait for.
	if snap, err := local.At(ctx, reached.Local, time.Time{}); err == nil {
		_, _ = snap.Schema(ctx) // a decision that needs it gets the error
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.copies == nil {
		return nil, errors.Join(errClosed, o.close())
	}
	if newest != nil {
		o.number = newest.number + 1
		time.AfterFunc(linger, func() { g.bury(newest) })
	}
	g.copies[o], g.newest, g.stands = true, o, stands{}
	return o, nil
}

// bury closes a copy that was replaced.
func (g *Graph) bury(o *opened) {
	if err := authz.Safely("follow.Graph", o.close); err != nil {
		g.config.Log.Warn("a copy of the primary that was replaced could not be closed", zap.Error(err))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.copies, o)
}

// Snapshot pins a revision; see authz.Graph and Graph.
func (g *Graph) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if !f.Exactly.IsZero() {
		if s := g.stood(ctx, f.Exactly); s != nil {
			g.figures.exactly.Inc()
			return g.at(ctx, s, f.Moment)
		}
		return g.asked(ctx, f)
	}
	if s := g.fresh(); f.Stale && s != nil && g.shows(s, f.AtLeast) && g.shows(s, f.Also) {
		return g.at(ctx, s, time.Time{})
	}
	s, err := g.head(ctx)
	if err == nil && g.shows(s, f.AtLeast) && g.shows(s, f.Also) {
		return g.at(ctx, s, time.Time{})
	}
	if ctx.Err() != nil || authz.KindOf(err) == authz.Canceled {
		return nil, endOf(ctx)
	}
	return g.asked(ctx, f)
}

// head returns the authority's head, once the copy has reached it.
func (g *Graph) head(ctx context.Context) (*stand, error) {
	if g.loading.Load() {
		return nil, ErrNoCopy
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, g.config.Wait)
	defer cancel()
	s, err := g.heads.Get(ctx, pullTime, g.take)
	g.figures.waits.Observe(time.Since(began).Seconds())
	return s, err
}

// stood returns where the copy stood at a revision, if it did and can still be read there.
func (g *Graph) stood(ctx context.Context, r authz.Revision) *stand {
	if now := g.now.Load(); r.History() == "" && now != nil {
		r = authz.InHistory(now.revision.History(), r.ZedToken())
	}
	g.mu.Lock()
	s := g.stands.at(r)
	g.mu.Unlock()
	if s == nil || s.copy.hold.Store.CheckRevision(ctx, s.local) != nil {
		return nil
	}
	return s
}

// shows reports whether a stand shows all that a revision does; the zero revision asks for nothing.
func (g *Graph) shows(s *stand, r authz.Revision) bool {
	if r.IsZero() || r == s.revision {
		return true
	}
	if sameHistory(s.position.Authority, r) != nil {
		return false // the authority may have that history by now
	}
	printed, err := g.config.Printed(r)
	if err != nil {
		return false // the engine says what is wrong with it
	}
	shows, err := g.config.Follower.authority.Shows(s.position, printed)
	return err == nil && shows
}

// endOf is the error of a call whose context has ended.
func endOf(ctx context.Context) error {
	e := &authz.Error{Op: "follow.Snapshot", Kind: authz.Canceled, Message: "the call was cancelled", Err: ctx.Err()}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Kind, e.Reason, e.Message = authz.Deadline, authz.ReasonEngineUnavailable, "the deadline passed before the answer was complete"
	}
	return e
}

// Write has the authority's engine write. It writes also where the authority's identity is not known, because a write that takes access away has to go through.
// Where the identity is not known to be the same before and after the write, its revision is good nowhere.
func (g *Graph) Write(ctx context.Context, updates []authz.Update, preconditions []authz.MustHold) (authz.Revision, error) {
	identity := func(ask func(context.Context) (Identity, error)) Identity {
		ctx, cancel := context.WithTimeout(ctx, confirmTime)
		defer cancel()
		is, err := ask(ctx)
		if err != nil {
			return ""
		}
		return is
	}
	before := identity(g.identity)
	written, err := g.config.Engine.Write(ctx, updates, preconditions)
	if err != nil {
		return authz.Revision{}, err
	}
	history := authz.NoHistory
	if before != "" && before == identity(g.identityNow) {
		history = historyOf(before)
	}
	return authz.InHistory(history, written.ZedToken()), nil
}

// Retention is the authority's.
func (g *Graph) Retention() time.Duration { return g.config.Engine.Retention() }

// ClockOffset is the authority's.
func (g *Graph) ClockOffset() time.Duration { return g.config.Engine.ClockOffset() }
