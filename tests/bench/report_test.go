package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	measure = flag.Bool("measure", false, "measure; without it each benchmark runs once over a small graph, so that it does not rot")
	round   = flag.Duration("round", 2*time.Second, "how long a round of a rate lasts, when measuring")
	large   = flag.Int("large", 10_000_000, "relationships of the large graph")
)

// figure is one line of the report.
type figure struct {
	// Name says what was measured, Value how much of Unit.
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// OfBare is the ratio to the bare call in the same round, P50 the median of a call in microseconds;
	// both only where contenders are measured beside each other.
	OfBare float64 `json:"of_bare,omitempty"`
	P50    float64 `json:"p50_us,omitempty"`
	// Target is what is to be reached, as text; empty if there is none.
	Target string `json:"target,omitempty"`
	// Met says whether it was.
	Met *bool `json:"met,omitempty"`
}

// report gathers figures, and prints them at the end of the run: a table, and a line of JSON for each.
var report struct {
	mu      sync.Mutex
	figures []figure
}

// add adds a figure without a target.
func add(t testing.TB, name string, value float64, unit string) {
	put(t, figure{Name: name, Value: value, Unit: unit})
}

// atLeast and atMost add a figure with a target.
func atLeast(t testing.TB, name string, value float64, unit string, target float64) {
	met := value >= target
	put(t, figure{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("≥ %v", target), Met: &met})
}

func atMost(t testing.TB, name string, value float64, unit string, target float64) {
	met := value <= target
	put(t, figure{Name: name, Value: value, Unit: unit, Target: fmt.Sprintf("≤ %v", target), Met: &met})
}

func put(t testing.TB, f figure) {
	t.Helper()
	t.Logf("%s: %.4g %s %s", f.Name, f.Value, f.Unit, f.Target)
	report.mu.Lock()
	defer report.mu.Unlock()
	report.figures = append(report.figures, f)
}

// TestMain prints the report.
func TestMain(m *testing.M) {
	flag.Parse()
	code := run(m)
	if *measure {
		const row = "%-84s %12s %-18s %8s %10s  %-10s %s\n"
		fmt.Fprintf(os.Stdout, "\n"+row, "WHAT", "MEDIAN", "UNIT", "OF BARE", "P50 µs", "TARGET", "")
		for _, f := range report.figures {
			verdict := ""
			if f.Met != nil {
				verdict = map[bool]string{true: "met", false: "NOT MET"}[*f.Met]
			}
			ofBare, p50 := "", ""
			if f.OfBare != 0 {
				ofBare = number(f.OfBare)
			}
			if f.P50 != 0 {
				p50 = number(f.P50)
			}
			fmt.Fprintf(os.Stdout, row, f.Name, number(f.Value), f.Unit, ofBare, p50, f.Target, verdict)
		}
		fmt.Fprintln(os.Stdout)
		for _, f := range report.figures {
			line, err := json.Marshal(f)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
			fmt.Fprintln(os.Stdout, string(line))
		}
	}
	os.Exit(code)
}

// number writes three significant digits, and thousands in groups.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// median returns the middle of some values.
func median[T int | int64 | uint64 | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// rounds runs something several times and returns the median of what it measured.
func rounds(n int, once func() float64) float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = once()
	}
	return median(values)
}

// rate runs an operation from several goroutines for a while and returns how many a second there were.
func rate(t testing.TB, workers int, lasting time.Duration, op func(worker, i int) error) float64 {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total int
		first error
	)
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			n := 0
			for ; time.Since(start) < lasting; n++ {
				if err := op(w, n); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
					break
				}
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	wg.Wait()
	if first != nil {
		t.Fatal(first)
	}
	return float64(total) / time.Since(start).Seconds()
}

// latency runs an operation some times, one after the other, and returns the median of how long it took.
func latency(t testing.TB, times int, op func(i int) error) time.Duration {
	t.Helper()
	took := make([]time.Duration, times)
	for i := range took {
		start := time.Now()
		if err := op(i); err != nil {
			t.Fatal(err)
		}
		took[i] = time.Since(start)
	}
	return median(took)
}

// lasting is how long one round of a rate lasts.
func lasting() time.Duration {
	if *measure {
		return *round
	}
	return 20 * time.Millisecond
}

// scaled is n when measuring, and a small number otherwise.
func scaled(n, small int) int {
	if *measure {
		return n
	}
	return small
}
