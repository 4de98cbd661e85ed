package admission

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/authz"
)

// customer is a caller of a simulated server.
type customer struct {
	weight int64
	// cost is that of each of its calls.
	cost int64
	// outstanding is how many calls it always has under way; 0 for one that makes calls at a rate.
	outstanding int
	// every is how long it waits between two calls, where it makes them at a rate.
	every time.Duration
}

// demand is how much cost a customer asks for in a second.
func (c customer) demand() float64 {
	if c.outstanding > 0 {
		return math.Inf(1)
	}
	return float64(c.cost) / c.every.Seconds()
}

// served is what became of a customer's calls.
type served struct {
	mu      sync.Mutex
	cost    int64
	refused int
	waits   []time.Duration
}

// simulate lets customers ask a server for a while, whose turns take a time for each unit of cost. It runs in a bubble, where time is virtual.
func simulate(t *turns, unit, lasts time.Duration, customers []customer) []*served {
	all := make([]*served, len(customers))
	var wg sync.WaitGroup
	end := time.Now().Add(lasts)
	for i, c := range customers {
		got, q := &served{}, &queue{}
		all[i] = got
		one := func() {
			came := time.Now()
			err := t.take(context.Background(), q, c.weight, c.cost)
			got.mu.Lock()
			got.waits = append(got.waits, time.Since(came))
			if err != nil {
				got.refused++
			}
			got.mu.Unlock()
			if err != nil {
				pass(unit)
				return
			}
			pass(unit * time.Duration(c.cost))
			if time.Now().Before(end) {
				got.mu.Lock()
				got.cost += c.cost
				got.mu.Unlock()
			}
			t.give(q)
		}
		for range c.outstanding {
			wg.Go(func() {
				for time.Now().Before(end) {
					one()
				}
			})
		}
		if c.every > 0 {
			wg.Go(func() {
				for time.Now().Before(end) {
					wg.Go(one)
					pass(c.every)
				}
			})
		}
	}
	wg.Wait()
	return all
}

// pass lets time pass, which is virtual in a bubble: nobody waits.
func pass(d time.Duration) { <-time.After(d) }

// fair is max-min fairness, by filling: everybody gets the same for each unit of weight, but for those who ask for less, or may have no more.
// It is how the shares are defined, and shares no code with turns.
func fair(capacity, most float64, customers []customer) []float64 {
	got := make([]float64, len(customers))
	wants := make([]float64, len(customers))
	for i, c := range customers {
		wants[i] = min(c.demand(), most)
	}
	open := map[int]bool{}
	for i := range customers {
		open[i] = true
	}
	for left := capacity; len(open) > 0; {
		var weights float64
		for i := range open {
			weights += float64(customers[i].weight)
		}
		level := left / weights
		filled := false
		for i := range open {
			if wants[i] <= level*float64(customers[i].weight) {
				got[i], filled = wants[i], true
				left -= wants[i]
				delete(open, i)
			}
		}
		if !filled {
			for i := range open {
				got[i] = level * float64(customers[i].weight)
			}
			return got
		}
	}
	return got
}

// TestSharesAreFair: whatever callers ask for, each gets its share by max-min fairness, whatever the others have waiting and however large
// their calls are.
func TestSharesAreFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.IntRange(2, 6).Draw(r, "turns") * 2
		unit := time.Millisecond
		customers := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) customer {
			c := customer{weight: rapid.Int64Range(1, 4).Draw(r, "weight"), cost: rapid.SampledFrom([]int64{1, 1, 1, 7, 50}).Draw(r, "cost")}
			if rapid.Bool().Draw(r, "greedy") {
				c.outstanding = rapid.IntRange(16, 40).Draw(r, "outstanding")
				return c
			}
			// It asks for a small part, so that no burst of its own takes longer than the test.
			c.every = time.Duration(c.cost) * unit * time.Duration(rapid.IntRange(2, 40).Draw(r, "pause"))
			return c
		}), 1, 5).Draw(r, "customers")
		synctest.Test(t, func(*testing.T) {
			const lasts = 4 * time.Second
			of := newTurns(most, time.Hour, time.Now)
			all := simulate(of, unit, lasts, customers)
			capacity := float64(most) / unit.Seconds()
			for i, want := range fair(capacity, capacity/2, customers) {
				got := float64(all[i].cost) / lasts.Seconds()
				// A call more or less for each turn is nobody's fault.
				slack := 0.05*want + float64(int64(most)*customers[i].cost)/lasts.Seconds()*2
				if math.Abs(got-want) > slack {
					r.Fatalf("customer %d of %+v with %d turns got %.0f/s, and its share is %.0f/s", i, customers, most, got, want)
				}
			}
			if of.running.Load() != 0 || of.waiting.Load() != 0 || of.weights != 0 || of.cost != 0 {
				r.Fatalf("afterwards %d turns are taken, %d calls wait, weights %d, cost %d", of.running.Load(), of.waiting.Load(), of.weights, of.cost)
			}
		})
	})
}

// TestAFullShareIsKept: a caller that has all of its share, and is not to give any of it up, keeps it although large calls of another one wait: also
// where turns are given back at the same moment.
func TestAFullShareIsKept(t *testing.T) {
	t.Parallel()
	customers := []customer{{weight: 4, cost: 1, outstanding: 19}, {weight: 1, cost: 50, outstanding: 24}, {weight: 3, cost: 1, outstanding: 37}}
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			const lasts = 4 * time.Second
			all := simulate(newTurns(4, time.Hour, time.Now), time.Millisecond, lasts, customers)
			for i, want := range fair(4000, 2000, customers) {
				if got := float64(all[i].cost) / lasts.Seconds(); math.Abs(got-want) > 0.05*want+50 {
					t.Errorf("customer %d got %.0f/s, and its share is %.0f/s", i, got, want)
				}
			}
		})
	}
}

// TestOverload: of ten times as much as the server can do, it does as much as it can, lets nobody wait for longer than it lets calls wait, and
// callers that ask for less than their share are neither refused nor kept waiting.
func TestOverload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			most, unit = 8, 8 * time.Millisecond // 1,000 a second
			lasts      = 30 * time.Second
		)
		of := newTurns(most, patience, time.Now)
		all := simulate(of, unit, lasts, []customer{
			{weight: 1, cost: 1, every: time.Second / 9_500},
			{weight: 1, cost: 1, every: time.Second / 250},
			{weight: 1, cost: 1, every: time.Second / 250},
		})
		var total int64
		for i, one := range all {
			slices.Sort(one.waits)
			p99, last := one.waits[len(one.waits)*99/100], one.waits[len(one.waits)-1]
			t.Logf("caller %d: %d/s done, %d/s refused, 99 %% waited no longer than %v", i, one.cost/30, one.refused/30, p99)
			total += one.cost
			if last > patience {
				t.Errorf("a call of caller %d waited for %v", i, last)
			}
			if i > 0 && (one.refused > 0 || p99 > 50*time.Millisecond) {
				t.Errorf("caller %d, which asks for less than its share, was refused %d times, and waited for %v", i, one.refused, p99)
			}
		}
		if done := float64(total) / lasts.Seconds(); done < 950 {
			t.Errorf("the server did %.0f/s of 1,000/s", done)
		}
	})
}

// TestDeadline: a call whose time is not enough is refused when it comes, and not when its time is over.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of, greedy := newTurns(2, patience, time.Now), &queue{}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 40 { // 100 a second each of 2, of which one caller can have one
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if of.take(context.Background(), greedy, 1, 1) == nil {
						pass(10 * time.Millisecond)
						of.give(greedy)
					}
				}
			})
		}
		pass(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		came := time.Now()
		err := of.take(ctx, greedy, 1, 1)
		e, ok := errors.AsType[*authz.Error](err)
		if !ok || e.Reason != authz.ReasonOverloaded || time.Since(came) != 0 {
			t.Errorf("a call with 50ms behind 400ms: %v after %v", err, time.Since(came))
		} else if e.RetryAfter < 100*time.Millisecond || e.RetryAfter > time.Second {
			t.Errorf("it is to try again after %v, and 39 calls before it take some 390ms", e.RetryAfter)
		}
		// Another caller has a turn at once: nobody has both.
		if err := of.take(ctx, &queue{}, 1, 1); err != nil || time.Since(came) != 0 {
			t.Errorf("another caller: %v after %v", err, time.Since(came))
		}
		close(stop)
		wg.Wait()
	})
}

// TestAbandoned: a call that waits no longer leaves no trace, and those behind it go on.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of, q, other := newTurns(1, time.Minute, time.Now), &queue{}, &queue{}
		if err := of.take(t.Context(), q, 1, 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		outcomes := make(chan error, 2)
		go func() { outcomes <- of.take(ctx, q, 1, 5) }()
		synctest.Wait()
		go func() { outcomes <- of.take(t.Context(), other, 1, 3) }()
		synctest.Wait()
		cancel()
		if err := <-outcomes; !errors.Is(err, context.Canceled) {
			t.Errorf("the call that was cancelled: %v", err)
		}
		if n := of.waiting.Load(); n != 1 || of.cost != 3 || of.weights != 1 {
			t.Errorf("%d calls wait, of cost %d and weight %d; want one, 3 and 1", n, of.cost, of.weights)
		}
		of.give(q)
		if err := <-outcomes; err != nil {
			t.Errorf("the call behind it: %v", err)
		}
	})
}

// TestNoTurnIsLost: turns are taken and given back by many at once, abandoned ones among them, and all of them are free in the end.
func TestNoTurnIsLost(t *testing.T) {
	t.Parallel()
	of := newTurns(3, time.Minute, time.Now)
	queues := []*queue{{}, {}, {}, {}}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for n := range 2_000 {
				ctx, cancel := context.WithCancel(t.Context())
				if (n+i)%5 == 0 {
					go cancel()
				}
				if err := of.take(ctx, queues[i%4], 1, int64(1+n%3)); err == nil {
					if r := of.running.Load(); r > 3 {
						panic(fmt.Sprintf("%d turns of 3 are taken", r))
					}
					of.give(queues[i%4])
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if of.running.Load() != 0 || of.waiting.Load() != 0 || of.weights != 0 || of.cost != 0 || len(of.ready) != 0 {
		t.Errorf("afterwards %d turns are taken, %d calls wait, weights %d, cost %d", of.running.Load(), of.waiting.Load(), of.weights, of.cost)
	}
}

// BenchmarkFree is a turn that is free.
func BenchmarkFree(b *testing.B) {
	of := newTurns(128, patience, time.Now)
	b.RunParallel(func(p *testing.PB) {
		q := &queue{}
		for p.Next() {
			if of.take(context.Background(), q, 1, 1) == nil {
				of.give(q)
			}
		}
	})
}

// TestIdleIsNoCredit: a caller that asked for nothing for a while gets its share from then on, and not what it left unused.
func TestIdleIsNoCredit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const unit, idle, both = 10 * time.Millisecond, 20 * time.Second, 5 * time.Second // 6 turns: 600 a second, of which one caller can have 300
		of, end := newTurns(6, time.Hour, time.Now), time.Now().Add(idle+both)
		late := time.Now().Add(idle)
		var done [3]atomic.Int64
		var wg sync.WaitGroup
		for i := range done {
			q := &queue{}
			for range 20 {
				wg.Go(func() {
					if i == 2 {
						pass(idle)
					}
					for time.Now().Before(end) && of.take(context.Background(), q, 1, 1) == nil {
						pass(unit)
						if time.Now().After(late) {
							done[i].Add(1)
						}
						of.give(q)
					}
				})
			}
		}
		wg.Wait()
		for i := range done {
			if n := done[i].Load(); n < 900 || n > 1100 {
				t.Errorf("in 5 s caller %d of 3, of which the last came late, was served %d times, want 1000", i, n)
			}
		}
	})
}
