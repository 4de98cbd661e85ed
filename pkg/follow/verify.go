package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
)

// A copy is compared with its authority at one position and one moment: at a position that it has just reached, and as of a moment at which neither
// side has collected what still lived.
//
//   - The moment is the later of the two clocks. What has expired by then is left out on both sides. So neither side's clock has come to collect,
//     when the comparison begins, what lives at that moment; and it does not come to it in the length of the window.
//   - A position that has left the window is refused by every question to the authority, and so is one whose transactions were collected. What an
//     interrupted or half-done collection takes away is not: SpiceDB deletes relationships before transactions. But it deletes only relationships
//     that were deleted before a transaction which is older than its window, and no SpiceDB is run with a window of less than a minute. So a
//     difference at a position that was the head half a minute ago is one. A difference at an older position is looked at once more, at a new one.
//   - An error is never a difference.

const (
	// believed is GraphConfig.Believed's default.
	believed = 30 * time.Second
	// attempts is how often a comparison begins again that could not be ended at one position.
	attempts = 3
	// shownDifferences is how many differences the log names.
	shownDifferences = 10
	// shownLength is how much of each of them.
	shownLength = 500
)

// MaxDifferences is the most differences that a comparison names.
const MaxDifferences = 1000

// errUnsure says that a comparison found differences that may be the work of a collection.
var errUnsure = errors.New("follow: what differed at a position that is not the head any more does not differ, or cannot be compared, at a newer one")

// Verified is what a comparison of all that a copy has came to.
type Verified struct {
	// Position is the authority's state, and Moment the time, at which both were compared.
	Position Position
	Moment   time.Time
	// Began and Ended are when the comparison did.
	Began, Ended time.Time
	// Relationships is how many of the copy's were compared.
	Relationships uint64
	// Differences are the first ones; none if both are equal. More says that the comparison has ended with them, and that there may be others.
	Differences []Difference
	More        bool
}

// Finding is a difference that took a copy out of service.
type Finding struct {
	// At is when it was found.
	At time.Time
	Difference
}

// checks are the last comparisons.
type checks struct {
	verified atomic.Pointer[Verified]
	found    atomic.Pointer[Finding]
	sampled  atomic.Pointer[Sampled]
}

// Verify compares the whole copy with the authority, at one position, and returns at most so many differences: once there are so many, or once it
// has looked into so many buckets that differ, it ends. told is told of each type of objects
// once its relationships were compared, from the first one on again where the comparison had to begin again; its error ends the comparison. A
// difference takes the copy out of service. One comparison is under way at a time.
func (g *Graph) Verify(ctx context.Context, most int, told func(Compared) error) (*Verified, error) {
	if !g.verifying.TryLock() {
		return nil, authz.Errorf(authz.Exhausted, authz.ReasonBusy, "this server is comparing its copy with the primary already: wait until that is done")
	}
	defer g.verifying.Unlock()
	most = min(max(most, 1), MaxDifferences)
	var failed error
	for range attempts {
		s, err := g.stand(ctx)
		if err != nil {
			return nil, err
		}
		v, err := g.verify(ctx, s, most, told)
		if err == nil {
			g.checks.verified.Store(v)
			return v, nil
		}
		if ctx.Err() != nil {
			return nil, endOf(ctx)
		}
		if t, stopped := errors.AsType[*toldError](err); stopped {
			return nil, t.error
		}
		failed = err
	}
	e := authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable,
		"the copy could not be compared with the primary, in %d attempts: the server's operator finds more in its log", attempts)
	e.Err = failed
	return nil, e
}

// toldError is an error of somebody who is told.
type toldError struct{ error }

// stand brings the copy to the head, and returns where it stands.
func (g *Graph) stand(ctx context.Context) (*stand, error) {
	err := ErrNoCopy
	if g.catchingUp.Load() != nil {
		err = ErrTooMany
	} else if !g.loading.Load() {
		var s *stand
		if s, err = g.heads.Get(ctx, pullTime, g.take); err == nil {
			return s, nil
		}
	}
	if ctx.Err() != nil {
		return nil, endOf(ctx)
	}
	e := authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "the copy is not at the primary's head now, so that it cannot be compared with it")
	if errors.Is(err, ErrNoCopy) {
		e.Message = "this server has no copy to compare with the primary: it is loading one"
	}
	e.Err = err
	return nil, e
}

// comparison begins a comparison at a stand.
func (g *Graph) comparison(s *stand, most int) *comparison {
	moment := time.Now()
	if s.position.At.After(moment) {
		moment = s.position.At
	}
	return &comparison{
		authority: g.config.Follower.authority.At(s.position), store: s.copy.hold.Store, at: s.local, moment: moment, most: most,
	}
}

func (g *Graph) verify(ctx context.Context, s *stand, most int, told func(Compared) error) (*Verified, error) {
	c := g.comparison(s, most)
	if told != nil {
		c.told = func(compared Compared) error {
			if err := told(compared); err != nil {
				return &toldError{err}
			}
			return nil
		}
	}
	v := &Verified{Position: s.position, Moment: c.moment, Began: time.Now()}
	if err := c.whole(ctx); err != nil {
		return nil, err
	}
	found, err := g.sure(ctx, s, c.found)
	if err != nil {
		return nil, err
	}
	v.Ended, v.Relationships, v.Differences, v.More = time.Now(), c.counted, found, c.more
	g.distrust(s, found)
	return v, nil
}

// sure returns those differences that were found at a stand that no collection has made. Errors: errUnsure.
func (g *Graph) sure(ctx context.Context, s *stand, found []Difference) ([]Difference, error) {
	if len(found) == 0 || time.Since(s.proven) <= g.config.Believed {
		return found, nil
	}
	fresh, err := g.stand(ctx)
	if err != nil {
		return nil, err
	}
	if fresh.copy != s.copy {
		return nil, errUnsure
	}
	c := g.comparison(fresh, 0)
	if err := c.again(ctx, found); err != nil {
		return nil, err
	}
	if len(c.found) == 0 || time.Since(fresh.proven) > g.config.Believed {
		return nil, errUnsure
	}
	return c.found, nil
}

// again compares what differed before.
func (c *comparison) again(ctx context.Context, before []Difference) error {
	var refs []tuple.RelationshipReference
	others := map[[2]string]bool{}
	for _, d := range before {
		if d.ref != nil {
			refs = append(refs, *d.ref)
		} else {
			others[[2]string{d.What, d.Name}] = true
		}
	}
	if len(others) > 0 {
		if err := c.definitions(ctx); err != nil {
			return err
		}
		kept := c.found[:0]
		for _, d := range c.found {
			if others[[2]string{d.What, d.Name}] {
				kept = append(kept, d)
			}
		}
		c.found = kept
	}
	return c.look(ctx, refs)
}

// distrust takes a copy out of service in which differences were found, and has another one loaded. Decisions that begin from here on do not use it.
func (g *Graph) distrust(s *stand, found []Difference) {
	if len(found) == 0 {
		return
	}
	g.discard(s)
	g.checks.found.Store(&Finding{At: time.Now(), Difference: found[0]})
	g.figures.differences.Add(float64(len(found)))
	lines := make([]string, 0, shownDifferences)
	for _, d := range found[:min(len(found), shownDifferences)] {
		lines = append(lines, d.Cut(shownLength).String())
	}
	g.config.Log.Error("the copy differs from the primary: it is taken out of service, and a new one is loaded. Please report this",
		zap.Int("differences", len(found)), zap.Strings("first", lines), zap.String("authority", string(s.position.Authority)),
		zap.String("state", s.position.State))
}

// discard takes a copy out of service at once, and has another one loaded. It returns false if the copy was not in service any more.
func (g *Graph) discard(s *stand) bool {
	if !g.config.Follower.Distrust(s.copy.hold.Store) {
		return false
	}
	g.forget(s.copy.hold.Store)
	g.discarded.note(time.Now())
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return true
}

// Cut returns the difference with at most so many bytes of its name, and of what each side has: what a database holds may be long.
func (d Difference) Cut(length int) Difference {
	d.Name, d.Authority, d.Copy = shorten(d.Name, length), shorten(d.Authority, length), shorten(d.Copy, length)
	return d
}

// shorten cuts a text that is longer than so many bytes.
func shorten(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:length], ""), len(text))
}

// Status is how a copy does.
type Status struct {
	// Serves says whether the copy serves.
	Serves bool
	// Position is the state that the copy was last known to be the head at; zero if there is none.
	Position Position
	// Age is how long ago that was.
	Age time.Duration
	// Relationships is about how many the copy has, with those that have expired and are not collected.
	Relationships uint64
	// Loading is how far a load is; nil if none is under way.
	Loading *Progress
	// CatchingUp is for how long the copy has been brought to the head in several commits; 0 if it is not.
	CatchingUp time.Duration
	// Loads is how many copies were loaded since the start, ByCopy and ByAuthority how many states each has answered, and Refused how many questions
	// to the authority were refused.
	Loads, ByCopy, ByAuthority, Refused uint64
	// Verified is the last comparison of the whole copy; nil if there was none since the start.
	Verified *Verified
	// Sampled is what the sampler does; nil if it does nothing.
	Sampled *Sampled
	// Found is the last difference; nil if there was none since the start.
	Found *Finding
	// Contact says whether the authority answers.
	Contact Contact
}

// Status returns how the copy does.
func (g *Graph) Status() Status {
	s := Status{
		Serves: g.Serves(), Loads: count(g.figures.loads), ByCopy: count(g.figures.byCopy), ByAuthority: count(g.figures.byAuthority),
		Refused: count(g.figures.refused), Verified: g.checks.verified.Load(), Sampled: g.checks.sampled.Load(), Found: g.checks.found.Load(),
		Contact: g.config.Follower.contact.now(),
	}
	if at := g.now.Load(); at != nil {
		s.Position, s.Age = at.position, time.Since(at.proven)
		if f, err := at.copy.hold.Store.Figures(); err == nil {
			s.Relationships = f.Relationships
		}
	}
	if since := g.catchingUp.Load(); since != nil {
		s.CatchingUp = time.Since(*since)
	} else if g.loading.Load() {
		p, _ := g.config.Follower.Loading()
		s.Loading = &p
	}
	return s
}

// count reads a counter.
func count(c prometheus.Counter) uint64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return 0
	}
	return uint64(m.GetCounter().GetValue())
}
