package turns_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
)

// limit is how long a taking may last.
const limit = 10 * time.Second

// oracle is an engine whose takings of the head end when the test lets them. It lives in a bubble of
// synctest.
type oracle struct {
	heads turns.Shared[string]
	// acknowledged counts the writes that were; it is the revision of a taking that starts now.
	acknowledged int
	// started counts the takings, underWay those that have not ended.
	started, underWay int
	// verdict ends the taking under way, with an error or nil.
	verdict chan error
}

// ended is what a caller got.
type ended struct {
	revision string
	err      error
}

func inBubble(t *testing.T, story func(*testing.T, *oracle)) {
	synctest.Test(t, func(t *testing.T) { story(t, &oracle{verdict: make(chan error)}) })
}

// take fixes its revision at once, and answers when the test says so.
func (o *oracle) take(ctx context.Context) (string, error) {
	o.started++
	o.underWay++
	defer func() { o.underWay-- }()
	at := strconv.Itoa(o.acknowledged)
	select {
	case err := <-o.verdict:
		return at, err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// ask lets a caller ask, and returns once it has its answer or waits for it.
func (o *oracle) ask(ctx context.Context) <-chan ended {
	answer := make(chan ended, 1)
	go func() {
		got, err := o.heads.Get(ctx, limit, o.take)
		answer <- ended{got, err}
	}()
	synctest.Wait()
	return answer
}

// write is acknowledged.
func (o *oracle) write() { o.acknowledged++ }

// end ends the taking under way, and returns once all that follows from it has happened.
func (o *oracle) end(t *testing.T, err error) {
	t.Helper()
	if o.underWay != 1 {
		t.Fatalf("%d takings are under way, not 1", o.underWay)
	}
	o.verdict <- err
	synctest.Wait()
}

// answered returns what a caller has got, or ends the test if it still waits.
func answered(t *testing.T, who string, answer <-chan ended) ended {
	t.Helper()
	select {
	case got := <-answer:
		return got
	default:
		t.Fatalf("%s still waits", who)
		return ended{}
	}
}

// gets checks that a caller has got a revision.
func gets(t *testing.T, who string, answer <-chan ended, revision string) {
	t.Helper()
	if got := answered(t, who, answer); got.err != nil || got.revision != revision {
		t.Errorf("%s got revision %q, %v; want %q", who, got.revision, got.err, revision)
	}
}

// waits checks that a caller has got nothing yet.
func waits(t *testing.T, who string, answer <-chan ended) {
	t.Helper()
	select {
	case got := <-answer:
		t.Fatalf("%s has got %+v already", who, got)
	default:
	}
}

// TestHeadFollowsWhatWasAcknowledged: a taking whose revision is fixed already is nothing to join, as a
// write may have been acknowledged since.
func TestHeadFollowsWhatWasAcknowledged(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		first := o.ask(t.Context())
		o.write()
		second := o.ask(t.Context())
		if o.started != 1 {
			t.Errorf("%d takings are under way at once", o.started)
		}
		o.end(t, nil)
		gets(t, "the first", first, "0")
		waits(t, "the second, who asked after a write", second)
		o.end(t, nil)
		gets(t, "the second", second, "1")
		// Nor is what has ended kept for those who come later.
		o.write()
		third := o.ask(t.Context())
		o.end(t, nil)
		gets(t, "the third", third, "2")
	})
}

// TestCallersShareTheNextTaking: all callers that ask while a taking is under way wait for one and the same.
func TestCallersShareTheNextTaking(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		first := o.ask(t.Context())
		var rest []<-chan ended
		for range 20 {
			o.write()
			rest = append(rest, o.ask(t.Context()))
		}
		o.end(t, nil)
		gets(t, "the first", first, "0")
		o.end(t, nil)
		for _, answer := range rest {
			gets(t, "one of the rest", answer, "20")
		}
		if o.started != 2 || o.underWay != 0 {
			t.Errorf("21 callers cost %d takings, and %d are under way; want 2 and 0", o.started, o.underWay)
		}
	})
}

// TestCallerWhoLeaves: a caller whose context ends gets an answer at once, whether its taking has
// started or not, and the others get theirs as if it had not been there.
func TestCallerWhoLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		leaves := func(who string, leave context.CancelFunc, answer <-chan ended) {
			t.Helper()
			waits(t, who, answer)
			leave()
			synctest.Wait()
			if got := answered(t, who, answer); !errors.Is(got.err, context.Canceled) {
				t.Errorf("%s got %+v, want Canceled", who, got)
			}
		}
		first := o.ask(t.Context())
		early, leaveEarly := context.WithCancel(t.Context())
		late, leaveLate := context.WithCancel(t.Context())
		// The one who leaves is the one who opened the taking.
		leaver, later, stayer := o.ask(early), o.ask(late), o.ask(t.Context())
		leaves("the one whose taking has not started", leaveEarly, leaver)
		o.end(t, nil)
		gets(t, "the first", first, "0")
		leaves("the one whose taking is under way", leaveLate, later)
		waits(t, "the one who stays", stayer)
		o.write() // too late for a taking that has started
		o.end(t, nil)
		gets(t, "the one who stays", stayer, "0")
		if o.started != 2 {
			t.Errorf("%d takings started, want 2", o.started)
		}
	})
}

// TestTakingFailsForAll: an error is everybody's who waited for it, and nobody's who comes later.
func TestTakingFailsForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		first := o.ask(t.Context())
		second, third := o.ask(t.Context()), o.ask(t.Context())
		o.end(t, nil)
		gets(t, "the first", first, "0")
		broken := errors.New("broken")
		fourth := o.ask(t.Context())
		o.end(t, broken)
		for _, answer := range []<-chan ended{second, third} {
			if got := answered(t, "one who shares", answer); !errors.Is(got.err, broken) {
				t.Errorf("one who shares got %+v, want the error", got)
			}
		}
		o.end(t, nil)
		gets(t, "the one who asked later", fourth, "0")
	})
}

// TestTakingThatNobodyWaitsFor: it does not start, or it is cancelled, so that one that hangs does not
// hold up those who come later.
func TestTakingThatNobodyWaitsFor(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		ctx, leave := context.WithCancel(t.Context())
		impatient, leaveSoon := context.WithCancel(t.Context())
		o.ask(ctx)
		o.ask(impatient)
		leaveSoon()
		synctest.Wait()
		leave()
		synctest.Wait()
		if o.started != 1 || o.underWay != 0 {
			t.Errorf("%d takings started, %d are under way; want 1 and 0", o.started, o.underWay)
		}
		// One who comes later is served.
		o.write()
		next := o.ask(t.Context())
		o.end(t, nil)
		gets(t, "the next", next, "1")
	})
}

// TestTakingThatHangs: it ends after its limit, for all who wait for it, though they would wait longer.
func TestTakingThatHangs(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		began := time.Now()
		first := o.ask(t.Context())
		second := o.ask(t.Context())
		if got := <-first; !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("the first got %+v", got)
		}
		if took := time.Since(began); took != limit {
			t.Errorf("it took %s, want %s", took, limit)
		}
		synctest.Wait()
		o.end(t, nil)
		gets(t, "the second", second, "0")
	})
}

// TestTakingThatPanics: all who wait for it get an error, and the next one is taken.
func TestTakingThatPanics(t *testing.T) {
	inBubble(t, func(t *testing.T, o *oracle) {
		_, err := o.heads.Get(t.Context(), limit, func(context.Context) (string, error) { panic("slipped") })
		if err == nil || !strings.Contains(err.Error(), "slipped") || authz.KindOf(err) != authz.Internal {
			t.Errorf("got %v", err)
		}
		next := o.ask(t.Context())
		o.end(t, nil)
		gets(t, "the next", next, "0")
	})
}

// TestManyCallers: beside a writer, no caller gets a revision from before it asked, and no two takings
// overlap.
func TestManyCallers(t *testing.T) {
	const callers, rounds = 16, 200
	var (
		heads                 turns.Shared[string]
		acknowledged, takings atomic.Int64
		underWay              atomic.Int32
		work                  sync.WaitGroup
	)
	take := func(context.Context) (string, error) {
		if underWay.Add(1) != 1 {
			t.Error("two takings overlap")
		}
		defer underWay.Add(-1)
		takings.Add(1)
		at := acknowledged.Load()
		runtime.Gosched()
		return strconv.FormatInt(at, 10), nil
	}
	for range callers {
		work.Go(func() {
			for range rounds {
				before := acknowledged.Add(1)
				got, err := heads.Get(t.Context(), limit, take)
				if at, _ := strconv.ParseInt(got, 10, 64); err != nil || at < before {
					t.Errorf("got revision %q, %v, after %d had been acknowledged", got, err, before)
				}
			}
		})
	}
	work.Wait()
	t.Logf("%d callers cost %d takings", callers*rounds, takings.Load())
}
