package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// asking asks one question, drawn with r, and returns whether the answer was yes.
type asking func(ctx context.Context, r *rand.Rand) (bool, error)

// contender is one of those that are measured beside each other.
type contender struct {
	name string
	ask  asking
	// makes is how many decisions one call makes; 0 means one.
	makes int
	// made counts what its calls have made, where that differs from call to call; nil means makes for each.
	made *atomic.Int64
	// workers is how many ask it; 0 means as many as ask the others.
	workers int
}

// sample is what one contender did in one round.
type sample struct {
	// rate is decisions a second, p50 the median of a call in microseconds.
	rate, p50 float64
}

// results are the samples of a contest, by contender, a round each.
type results map[string][]sample

// over is how many times the rate of another one contender has: the median of the rounds' ratios.
func (r results) over(one, other string) float64 {
	ratios := make([]float64, len(r[one]))
	for i := range ratios {
		ratios[i] = r[one][i].rate / r[other][i].rate
	}
	return median(ratios)
}

// slower is how many times as long as another's a call of one takes.
func (r results) slower(one, other string) float64 {
	ratios := make([]float64, len(r[one]))
	for i := range ratios {
		ratios[i] = r[one][i].p50 / r[other][i].p50
	}
	return median(ratios)
}

// contest measures contenders in turns, so that what else happens on the machine happens to all of them.
// The first is the bare call, where there is one. In each round all are asked the same questions, in each round others.
func contest(t testing.TB, workload string, workers, rounds int, all []contender) results {
	t.Helper()
	r := results{}
	for round := range rounds {
		for _, c := range all {
			s := c.run(t, cmp.Or(c.workers, workers), uint64(round+1))
			r[c.name] = append(r[c.name], s)
		}
	}
	for _, c := range all {
		rates, p50s := make([]float64, rounds), make([]float64, rounds)
		for i, s := range r[c.name] {
			rates[i], p50s[i] = s.rate, s.p50
		}
		f := figure{
			Name:  workload + workersOf(c, workers) + ": " + c.name,
			Value: median(rates), Unit: "/s", P50: median(p50s),
		}
		if all[0].name == bareName {
			f.OfBare = r.over(c.name, bareName)
		}
		put(t, f)
	}
	return r
}

// workersOf names how many workers ask a contender, unless its name does.
func workersOf(c contender, workers int) string {
	switch {
	case c.workers != 0:
		return ""
	case workers == 1:
		return ", 1 worker"
	default:
		return fmt.Sprintf(", %d workers", workers)
	}
}

// run asks from several goroutines for a while.
func (c contender) run(t testing.TB, workers int, seed uint64) sample {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		times []time.Duration
		first error
	)
	var before int64
	if c.made != nil {
		before = c.made.Load()
	}
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			var own []time.Duration
			var failed error
			for now := time.Now(); now.Sub(start) < lasting() && failed == nil; {
				_, failed = c.ask(t.Context(), r)
				next := time.Now()
				own = append(own, next.Sub(now))
				now = next
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			if failed != nil {
				first = failed
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if first != nil {
		t.Fatalf("%s: %v", c.name, first)
	}
	slices.Sort(times)
	made := int64(len(times) * max(c.makes, 1))
	if c.made != nil {
		made = c.made.Load() - before
	}
	return sample{
		rate: float64(made) / took.Seconds(),
		p50:  float64(times[len(times)/2].Nanoseconds()) / 1000,
	}
}

// agree asks all contenders but the first, the bare call, the same questions: they have to give the same
// answers, and not always the same one.
func agree(t testing.TB, questions int, all []contender) {
	t.Helper()
	seen := map[bool]int{}
	for i := range questions {
		answers := map[bool][]string{}
		for _, c := range all[1:] {
			answer, err := c.ask(t.Context(), rand.New(rand.NewPCG(0, uint64(i))))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			answers[answer] = append(answers[answer], c.name)
		}
		if len(answers) != 1 {
			t.Fatalf("question %d: yes from %v, no from %v", i, answers[true], answers[false])
		}
		for answer := range answers {
			seen[answer]++
		}
	}
	if len(seen) != 2 {
		t.Fatalf("all questions have one answer: %v", seen)
	}
}
