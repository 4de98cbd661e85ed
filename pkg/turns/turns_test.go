package turns_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/turns"
)

func as(ctx context.Context, caller string) context.Context { return authz.WithCaller(ctx, caller) }

// isBusy fails the test unless a call was refused because there is no turn, and told when to come again.
func isBusy(t *testing.T, what string, err error) {
	t.Helper()
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != authz.Exhausted || e.Reason != authz.ReasonBusy || e.RetryAfter <= 0 {
		t.Errorf("%s: %v, want BUSY with a time", what, err)
	}
}

// TestOneCallerHoldsNotAll: however many calls one caller makes, there is a turn for another one at once, for sets of every size.
func TestOneCallerHoldsNotAll(t *testing.T) {
	t.Parallel()
	for most := range int64(41) {
		s := turns.New("lookups", most)
		var has []*turns.Turn
		var err error
		for len(has) < 200 {
			var one *turns.Turn
			if one, err = s.Take(as(t.Context(), "greedy"), 1, 0); err != nil {
				break
			}
			has = append(has, one)
		}
		isBusy(t, "one more of the greedy caller", err)
		if int64(len(has)) != max(most, 1) {
			t.Errorf("of %d turns for one caller it has %d", most, len(has))
		}
		modest, err := s.Take(as(t.Context(), "modest"), 1, 0)
		if err != nil {
			t.Errorf("of %d turns for one caller none is left for another: %v", most, err)
		}
		for _, one := range append(has, modest) {
			one.Give()
			one.Give() // which does nothing
		}
		if s.Free() != s.All() {
			t.Errorf("%d of %d turns are free afterwards", s.Free(), s.All())
		}
	}
}

// TestPatience: a call waits until its patience or its context is over, whichever is sooner, and leaves no trace. One that gets its turn at the moment
// at which it gives up has it.
func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := turns.New("lookups", 1)
		has, err := s.Take(t.Context(), 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = s.Take(t.Context(), 1, 5*time.Second)
		isBusy(t, "a call that waits", err)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it waited for %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Take(ctx, 1, 5*time.Second); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 6*time.Second {
			t.Errorf("a call with a second: %v after %v", err, time.Since(began))
		}
		if _, err := s.Take(ctx, 1, 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call whose time is over: %v", err)
		}
		go func() {
			<-time.After(time.Second)
			has.Give()
		}()
		one, err := s.Take(t.Context(), 1, 5*time.Second)
		if err != nil || time.Since(began) != 7*time.Second {
			t.Errorf("a call that gets its turn: %v after %v", err, time.Since(began))
		}
		one.Give()
		if s.Free() != s.All() {
			t.Errorf("%d of %d turns are free afterwards", s.Free(), s.All())
		}
	})
}

// TestQueueIsBounded: of one caller's calls only so many wait, and another caller's wait all the same.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := turns.New("lookups", 1)
		var waiting, refused atomic.Int64
		var calls sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		take := func(caller string) {
			calls.Go(func() {
				waiting.Add(1)
				defer waiting.Add(-1)
				one, err := s.Take(as(ctx, caller), 1, time.Hour)
				if err == nil {
					<-ctx.Done()
					one.Give()
				} else if !errors.Is(err, context.Canceled) {
					refused.Add(1)
				}
			})
		}
		for range 3000 {
			take("greedy")
		}
		for i := range 3 {
			take(fmt.Sprint("other ", i))
		}
		synctest.Wait()
		if n := waiting.Load(); n != 1+1024+3 || refused.Load() != 3000-1-1024 {
			t.Errorf("%d calls are there and %d were refused", n, refused.Load())
		}
		cancel()
		calls.Wait()
		if s.Free() != s.All() {
			t.Errorf("%d of %d turns are free afterwards", s.Free(), s.All())
		}
	})
}

// call is one in the model.
type call struct {
	caller string
	amount int64
	// came counts the events before it came.
	came   int
	cancel context.CancelFunc
	done   chan struct{}
	turn   *turns.Turn
	err    error
	// waits, has and gone say what the model knows of it.
	waits, has bool
}

// office is the model: every call in one list, and the rule of the package's comment, applied anew each time.
type office struct {
	most, all int64
	calls     []*call
	// placed is the event at which a caller was served, or began to wait.
	placed map[string]int
	events int
}

func (o *office) held(caller string) (n int64) {
	for _, c := range o.calls {
		if c.has && c.caller == caller {
			n += c.amount
		}
	}
	return n
}

func (o *office) free() int64 {
	n := o.all
	for _, c := range o.calls {
		if c.has {
			n -= c.amount
		}
	}
	return n
}

// first is the call that waits longest of the caller whose turn it is; nil where none waits.
func (o *office) first() (first *call) {
	callers := map[string]*call{}
	for _, c := range o.calls {
		if c.waits && (callers[c.caller] == nil || c.came < callers[c.caller].came) {
			callers[c.caller] = c
		}
	}
	for _, c := range callers {
		if first == nil || o.held(c.caller) < o.held(first.caller) ||
			o.held(c.caller) == o.held(first.caller) && o.placed[c.caller] < o.placed[first.caller] {
			first = c
		}
	}
	return first
}

func (o *office) serve() {
	for c := o.first(); c != nil; c = o.first() {
		left := o.free() - c.amount
		if left < 0 || o.held(c.caller) > 0 && left < o.all-o.most {
			return
		}
		c.waits, c.has = false, true
		o.events++
		o.placed[c.caller] = o.events
	}
}

// TestModel: calls come, leave and give back at random, of callers that want one turn or many. After each event those have a turn that the rule says;
// never are there more than there are, no caller has more than its part, and in the end all turns are free.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.Int64Range(1, 9).Draw(r, "most")
		large := rapid.Bool().Draw(r, "large")
		steps := rapid.IntRange(1, 60).Draw(r, "steps")
		synctest.Test(t, func(*testing.T) {
			s := turns.New("lookups", most)
			o := &office{most: most, all: s.All(), placed: map[string]int{}}
			come := func() {
				c := &call{caller: rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(r, "caller"), amount: 1, done: make(chan struct{})}
				if large {
					c.amount = rapid.Int64Range(1, most).Draw(r, "amount")
				}
				ctx, cancel := context.WithCancel(as(context.Background(), c.caller))
				c.cancel = cancel
				go func() {
					defer close(c.done)
					c.turn, c.err = s.Take(ctx, c.amount, time.Hour)
				}()
				synctest.Wait()
				o.events++
				if !slices.ContainsFunc(o.calls, func(x *call) bool { return x.waits && x.caller == c.caller }) {
					o.placed[c.caller] = o.events
				}
				c.came, c.waits = o.events, true
				o.calls = append(o.calls, c)
			}
			some := func(which func(*call) bool) *call {
				var all []*call
				for _, c := range o.calls {
					if which(c) {
						all = append(all, c)
					}
				}
				if len(all) == 0 {
					return nil
				}
				return all[rapid.IntRange(0, len(all)-1).Draw(r, "which")]
			}
			give := func(c *call) {
				c.turn.Give()
				c.has = false
				synctest.Wait()
			}
			leave := func(c *call) {
				c.cancel()
				synctest.Wait()
				c.waits = false
			}
			check := func() {
				o.serve()
				var taken int64
				for i, c := range o.calls {
					got := false
					select {
					case <-c.done:
						got = c.err == nil
					default:
					}
					if c.has && !got || c.waits && got {
						r.Fatalf("call %d of %s has a turn: %t, want %t (%v)", i, c.caller, got, c.has, c.err)
					}
					if c.has {
						taken += c.amount
					}
				}
				if free := s.Free(); free != s.All()-taken || free < 0 {
					r.Fatalf("%d turns are free of %d, of which %d are taken", free, s.All(), taken)
				}
				for _, caller := range []string{"", "a", "b", "c", "d"} {
					if held := o.held(caller); held > s.Most() {
						r.Fatalf("%q has %d turns", caller, held)
					}
				}
			}
			for range steps {
				switch rapid.IntRange(0, 4).Draw(r, "event") {
				case 0, 1:
					come()
				case 2, 3:
					if c := some(func(c *call) bool { return c.has }); c != nil {
						give(c)
					}
				default:
					if c := some(func(c *call) bool { return c.waits }); c != nil {
						leave(c)
					}
				}
				check()
			}
			for _, c := range o.calls {
				c.cancel()
			}
			synctest.Wait()
			for _, c := range o.calls {
				<-c.done
				c.turn.Give()
			}
			if s.Free() != s.All() {
				r.Fatalf("%d of %d turns are free in the end", s.Free(), s.All())
			}
		})
	})
}

// TestNobodyStarves: beside callers that always have calls waiting, one that makes a call now and then is served before any of them is served twice.
func TestNobodyStarves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := turns.New("lookups", 2) // there are 3
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		const greedy, takes = 8, time.Second
		for i := range greedy {
			for range 20 {
				calls.Go(func() {
					for ctx.Err() == nil {
						if one, err := s.Take(as(ctx, fmt.Sprint("greedy ", i)), 1, time.Hour); err == nil {
							<-time.After(takes)
							one.Give()
						}
					}
				})
			}
		}
		for range 50 {
			<-time.After(7*takes + takes/3)
			began := time.Now()
			one, err := s.Take(as(ctx, "modest"), 1, time.Hour)
			// Three are served in a second, so that eight take three, and the one that is under way up to one.
			if took := time.Since(began); err != nil || took > (greedy/3+2)*takes {
				t.Errorf("it was served after %v: %v", took, err)
			}
			<-time.After(takes)
			one.Give()
		}
		cancel()
		calls.Wait()
		if s.Free() != s.All() {
			t.Errorf("%d of %d turns are free afterwards", s.Free(), s.All())
		}
	})
}

// TestNoTurnIsLost: turns are taken, given back and waited for in vain by many at once, and all of them are free in the end.
func TestNoTurnIsLost(t *testing.T) {
	t.Parallel()
	s := turns.New("bytes", 5)
	var calls sync.WaitGroup
	var taken atomic.Int64
	for i := range 32 {
		calls.Go(func() {
			for n := range 1_000 {
				ctx, cancel := context.WithCancel(as(t.Context(), fmt.Sprint(i%6)))
				if (n+i)%5 == 0 {
					go cancel()
				}
				amount := int64(1 + n%5)
				if one, err := s.Take(ctx, amount, time.Minute); err == nil {
					if all := taken.Add(amount); all > s.All() {
						t.Errorf("%d turns of %d are taken", all, s.All())
					}
					taken.Add(-amount)
					one.Give()
				}
				cancel()
			}
		})
	}
	calls.Wait()
	if s.Free() != s.All() {
		t.Errorf("%d of %d turns are free in the end", s.Free(), s.All())
	}
}

// BenchmarkFree is a turn that is free.
func BenchmarkFree(b *testing.B) {
	s := turns.New("lookups", 128)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			one, err := s.Take(context.Background(), 1, 0)
			if err == nil {
				one.Give()
			}
		}
	})
}
