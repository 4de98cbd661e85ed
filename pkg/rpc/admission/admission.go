package admission

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// Settings are the bounds of a server. 0 of a field means the default.
type Settings struct {
	// Places is how many calls of known callers are under way at once, over all connections; 0 means DefaultPlaces. The last quarter is kept for
	// calls that take access away, and the last eighth for callers who can suspend in all tenants.
	Places int
	// Turns is how many calls with one answer are worked on at once; 0 means DefaultTurns.
	Turns int
	// Callers are the limits of callers that do not say otherwise.
	Callers caller.Limits
}

// The defaults of Settings, and what callers have that say nothing.
const (
	// DefaultPlaces is little enough that a server lives through it: a call whose message has not come takes some 12 KiB.
	DefaultPlaces = 10_000
	// DefaultTurns is many times what processors need: decisions share their writes to the journal.
	DefaultTurns = 256
	// DefaultConcurrent and DefaultStreams are parts of the places, of which there are four and twenty: no caller has them all.
	concurrentPart, streamsPart = 4, 20
	// narrowingPart is what part of the places one caller's narrowing calls can have, unless it can suspend in all tenants.
	narrowingPart = 16
)

// How long calls wait for a turn at most. A caller that waits for a decision wants to hear soon that there is none, and to go elsewhere; one that
// takes access away wants it to be taken away.
const (
	patience          = 500 * time.Millisecond
	narrowingPatience = 5 * time.Second
)

// Class is what an admission has to know of a call.
type Class struct {
	// Narrows says that the call only takes access away.
	Narrows bool
	// Streams says that it has more than one message or answer. Such a call lasts, and has no turn unless it Begins.
	Streams bool
	// Begins says of a stream that work comes before its first answer, as in a call with one answer: it has a turn for that, until it rests.
	Begins bool
	// Long says that it takes as long as it takes, so that it has no turn.
	Long bool
}

// turns reports whether the call is worked on in a turn.
func (c Class) turns() bool { return !c.Long && (!c.Streams || c.Begins) }

// Admission admits the calls of one server. It is safe for concurrent use.
type Admission struct {
	settings Settings
	now      func() time.Time

	calls               atomic.Int64
	ordinary, narrowing *turns

	accounts sync.Map // of *account by the caller's name
	many     atomic.Int64
}

// New returns an admission. It starts nothing.
func New(s Settings) *Admission { return newAt(s, time.Now) }

func newAt(s Settings, now func() time.Time) *Admission {
	s.Places, s.Turns = orDefault(s.Places, DefaultPlaces), orDefault(s.Turns, DefaultTurns)
	s.Callers.Concurrent = orDefault(s.Callers.Concurrent, max(s.Places/concurrentPart, 1))
	s.Callers.Streams = orDefault(s.Callers.Streams, max(s.Places/streamsPart, 1))
	return &Admission{
		settings: s, now: now,
		ordinary:  newTurns(s.Turns, patience, now),
		narrowing: newTurns(max(s.Turns/4, 8), narrowingPatience, now),
	}
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// account is what an admission knows of one caller. It is safe for concurrent use.
type account struct {
	// calls, streams and narrowing are those that are under way.
	calls, streams, narrowing atomic.Int64
	// ordinaryQueue and narrowingQueue are what waits.
	ordinaryQueue, narrowingQueue queue

	// limits are those in force, of caller; a reload brings another caller.
	limits atomic.Pointer[limits]

	mu sync.Mutex
	// shed is what no record counts yet.
	shed Shed
	told time.Time
}

// limits are the limits of a caller, with the server's defaults.
type limits struct {
	says, of caller.Limits
	// rate is nil where there is none. What it owes because of large calls is charged with mu held.
	rate *rate.Limiter
	mu   sync.Mutex
}

// maxAccounts is how many callers are known before those that have no call under way are forgotten: as many as two files can name.
const maxAccounts = 20_000

func (a *Admission) account(c *caller.Caller) *account {
	if known, ok := a.accounts.Load(c.Name); ok {
		found, _ := known.(*account)
		return found
	}
	known, loaded := a.accounts.LoadOrStore(c.Name, &account{})
	if !loaded && a.many.Add(1) > maxAccounts {
		a.forget()
	}
	found, _ := known.(*account)
	return found
}

// forget forgets the callers that have no call under way.
func (a *Admission) forget() {
	a.accounts.Range(func(name, known any) bool {
		if one, _ := known.(*account); one.calls.Load()+one.streams.Load()+one.narrowing.Load() == 0 {
			a.accounts.Delete(name)
			a.many.Add(-1)
		}
		return true
	})
}

// limitsOf returns a caller's limits. Where another file of callers is in force, its rate goes on as the file says.
func (a *Admission) limitsOf(one *account, c *caller.Caller) *limits {
	was := one.limits.Load()
	if was != nil && was.says == c.Limits {
		return was
	}
	of := c.Limits.Or(a.settings.Callers)
	if c.Name == caller.InProcessName {
		of.Rate, of.Burst = 0, 0 // it is the program itself
	}
	is := &limits{says: c.Limits, of: of}
	if of.Rate > 0 {
		is.rate = rate.NewLimiter(rate.Limit(of.Rate), of.Burst)
		if was != nil && was.rate != nil { // a reload is no way to a full bucket
			now := a.now()
			_ = is.rate.ReserveN(now, max(of.Burst-max(int(was.rate.TokensAt(now)), 0), 0))
		}
	}
	one.limits.Store(is)
	return is
}

// Ticket is one call's. It is to be left once it was entered. The zero Ticket is a call that was not entered.
type Ticket struct {
	admission *Admission
	account   *account
	limits    *limits
	class     Class
	// state is none, turned (it has a turn), rested (it has given the turn back and goes on) or left.
	state atomic.Int32
	// delivered counts what a stream has delivered or had decided.
	delivered atomic.Int64
}

const (
	none int32 = iota
	turned
	rested
	left
)

// Enter admits a call of a known caller, before anything of it is received. Errors: Exhausted, with the time after which to try again; the call
// must not be left then.
func (a *Admission) Enter(t *Ticket, c *caller.Caller, class Class) error {
	one := a.account(c)
	t.admission, t.account, t.class = a, one, class
	t.limits = a.limitsOf(one, c)
	most, places := int64(a.settings.Places), int64(a.settings.Places)
	switch {
	case c.Brakes():
	case class.Narrows:
		most -= places / 8
	default:
		most -= places / 4
	}
	if !raise(&a.calls, most) {
		return refusal(authz.ReasonBusy, time.Second, "too many calls are under way; try again")
	}
	count, own := t.counted()
	if class.Narrows && c.Brakes() {
		own = most
	}
	if !raise(count, own) {
		a.calls.Add(-1)
		return t.full(own)
	}
	err := t.early()
	if err == nil {
		err = t.charge()
	}
	if err != nil {
		count.Add(-1)
		a.calls.Add(-1)
	}
	return err
}

// early refuses a call that would wait too long for its turn, before its message is received: a server that has too much to do has no time for
// messages that nobody will look at.
func (t *Ticket) early() error {
	if !t.class.turns() {
		return nil
	}
	of, q := t.lane()
	if of.waiting.Load() == 0 {
		return nil
	}
	if wait := of.expected(q, int64(t.limits.of.Weight)); wait > of.patience {
		return overloaded(wait)
	}
	return nil
}

// counted is what counts calls like this one, and up to how many.
func (t *Ticket) counted() (count *atomic.Int64, most int64) {
	switch {
	case t.class.Narrows:
		return &t.account.narrowing, int64(max(t.admission.settings.Places/narrowingPart, 1))
	case t.class.Streams:
		return &t.account.streams, int64(t.limits.of.Streams)
	default:
		return &t.account.calls, int64(t.limits.of.Concurrent)
	}
}

// full refuses a call of a caller that has as many under way as it may have.
func (t *Ticket) full(most int64) error {
	what, wait := "calls", 5*time.Second
	if t.class.Streams {
		what = "streams"
	} else {
		of, q := t.lane()
		wait = of.expected(q, int64(t.limits.of.Weight))
	}
	return refusal(authz.ReasonConcurrencyLimit, wait, "this caller has %d %s under way, the most that it may have; try again once one has ended", most, what)
}

// charge takes one of the caller's rate.
func (t *Ticket) charge() error {
	limiter := t.limits.rate
	if limiter == nil || t.class.Narrows {
		return nil
	}
	now := t.admission.now()
	first := limiter.ReserveN(now, 1)
	if wait := first.DelayFrom(now); wait > 0 {
		first.CancelAt(now)
		return t.limited(wait)
	}
	return nil
}

// chargeMore takes of the caller's rate what a call costs that has more items than one. It passes unless the caller owes something already, and
// the caller waits longer afterwards: so a large call is not refused for ever, and costs what it costs.
func (t *Ticket) chargeMore(cost int) error {
	limiter := t.limits.rate
	if limiter == nil || t.class.Narrows || cost <= 0 {
		return nil
	}
	t.limits.mu.Lock() // of several that come at once, one passes
	defer t.limits.mu.Unlock()
	now := t.admission.now()
	if has := limiter.TokensAt(now); has < 0 {
		return t.limited(time.Duration((1 - has) / float64(limiter.Limit()) * float64(time.Second)))
	}
	for cost > 0 {
		n := min(cost, limiter.Burst())
		_ = limiter.ReserveN(now, n)
		cost -= n
	}
	return nil
}

// objectsPerToken is how many objects of a stream cost one of the rate. The first so many are what the stream cost when it was entered.
const objectsPerToken = 100

// Delivered charges a stream for objects that it has delivered, or that were decided again for it: one of the caller's rate for each hundred. Where
// that is more than the caller has left, a stream that waits does so until nothing is owed, and so all streams of one caller together go no faster
// than its rate. One that does not wait is not charged while something is owed. Errors: ctx's.
func (t *Ticket) Delivered(ctx context.Context, objects int, waits bool) error {
	if t.limits == nil || t.limits.rate == nil || t.class.Narrows || !t.class.Streams || objects <= 0 {
		return nil
	}
	all := t.delivered.Add(int64(objects))
	cost := int((all-1)/objectsPerToken - max(all-int64(objects)-1, 0)/objectsPerToken)
	if cost == 0 {
		return nil
	}
	if !waits {
		_ = t.chargeMore(cost)
		return nil
	}
	limiter := t.limits.rate
	for t.chargeMore(cost) != nil {
		if err := t.owesNothing(ctx, limiter); err != nil {
			return err
		}
	}
	return t.owesNothing(ctx, limiter)
}

// owesNothing waits until the caller owes nothing of its rate.
func (t *Ticket) owesNothing(ctx context.Context, limiter *rate.Limiter) error {
	for {
		has := limiter.TokensAt(t.admission.now())
		if has >= 0 {
			return nil
		}
		over := time.NewTimer(time.Duration(-has/float64(limiter.Limit())*float64(time.Second)) + time.Millisecond)
		select {
		case <-over.C:
		case <-ctx.Done():
			over.Stop()
			return ctx.Err()
		}
	}
}

// limited refuses a call of a caller that has used up its rate.
func (t *Ticket) limited(wait time.Duration) error {
	return refusal(authz.ReasonRateLimited, wait, "this caller has used up its rate, %d calls and items in a second; "+
		"try again after the time that the status says", t.limits.of.Rate)
}

// MessageBytes is how long a message of the caller's may be; 0 means as long as its method says.
func (t *Ticket) MessageBytes() int {
	if t.limits == nil {
		return 0
	}
	return t.limits.of.Message
}

// Take waits for the call's turn, once its message has come. items is how many items it has, 0 and 1 being a call that has none. Errors:
// Exhausted, with the time after which to try again; ctx's. It does nothing for calls that have no turns, for those that have one, and for those that were not
// entered.
func (t *Ticket) Take(ctx context.Context, items int) error {
	if t.admission == nil || !t.class.turns() || t.state.Load() != none {
		return nil
	}
	if err := t.chargeMore(items - 1); err != nil {
		return err
	}
	of, q := t.lane()
	if err := of.take(ctx, q, int64(t.limits.of.Weight), int64(max(items, 1))); err != nil {
		return err
	}
	if !t.state.CompareAndSwap(none, turned) {
		of.give(q) // it was left meanwhile
	}
	return nil
}

func (t *Ticket) lane() (*turns, *queue) {
	if t.class.Narrows {
		return t.admission.narrowing, &t.account.narrowingQueue
	}
	return t.admission.ordinary, &t.account.ordinaryQueue
}

// Rest gives back the turn of a stream that Begins, once its first answer is there. Its place it keeps until it is left.
func (t *Ticket) Rest() {
	if t.state.CompareAndSwap(turned, rested) {
		of, q := t.lane()
		of.give(q)
	}
}

// Leave gives back what the call has, once.
func (t *Ticket) Leave() {
	was := t.state.Swap(left)
	if was == left {
		return
	}
	if was == turned {
		of, q := t.lane()
		of.give(q)
	}
	count, _ := t.counted()
	count.Add(-1)
	t.admission.calls.Add(-1)
}

// UnderWay is how many calls are admitted now, and Waiting how many of them wait for a turn.
func (a *Admission) UnderWay() int { return int(a.calls.Load()) }

// Waiting is how many calls wait for a turn now.
func (a *Admission) Waiting() int {
	return int(a.ordinary.waiting.Load() + a.narrowing.waiting.Load())
}

// The least and the most that a refusal tells a caller to wait.
const (
	leastRetry = 20 * time.Millisecond
	mostRetry  = time.Minute
)

// refusal is an error of kind Exhausted that says when to try again. Some time is added at random, so that callers that are refused together
// do not come back together.
func refusal(reason string, wait time.Duration, format string, args ...any) error {
	err := authz.Errorf(authz.Exhausted, reason, format, args...)
	wait = min(max(wait, leastRetry), mostRetry)
	err.RetryAfter = wait + rand.N(wait/4+time.Millisecond) //nolint:gosec // it only spreads
	return err
}
