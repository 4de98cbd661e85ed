package load

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/tests/harness"
)

var (
	capacity = flag.Int("capacity", 40, "how many decisions a second the gate lets through")
	lasts    = flag.Duration("lasts", 6*time.Second, "how long the server is overloaded")
	rewrite  = flag.Bool("rewrite", false, "write the table into docs/load.md")
)

// page is where the table stands.
const page = "../../docs/load.md"

// strays is how many agents each of those who suspend has.
const strays = 16

// outcome is what became of a caller's calls.
type outcome struct {
	mu                                sync.Mutex
	offered, answered, refused, other int
	first                             error
	took                              []time.Duration
}

func (o *outcome) note(err error, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offered++
	switch {
	case err == nil:
		o.answered++
		o.took = append(o.took, took)
	case status.Code(err) == codes.ResourceExhausted && statuses.RetryAfter(status.Convert(err)) > 0:
		o.refused++
	default:
		o.other++
		if o.first == nil {
			o.first = err
		}
	}
}

// part is the share of calls that took no longer than what is returned.
func (o *outcome) part(p float64) time.Duration {
	if len(o.took) == 0 {
		return 0
	}
	slices.Sort(o.took)
	return o.took[int(float64(len(o.took)-1)*p)]
}

// most is how many calls one caller has under way in the test. One that would be more is not made, nor counted: what waits in a client is its
// own business, and all of this shares one machine.
const most = 2_000

// offer makes calls at a rate until ctx ends, whatever becomes of them, and waits for the last.
func offer(ctx context.Context, rate float64, into *outcome, call func(ctx context.Context) error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	free := make(chan struct{}, most)
	began, made := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; float64(made) < time.Since(began).Seconds()*rate; made++ {
			select {
			case free <- struct{}{}:
			default:
				continue
			}
			wg.Go(func() {
				defer func() { <-free }()
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				came := time.Now()
				into.note(call(ctx), time.Since(came))
			})
		}
	}
}

// inUse is how much memory is in use.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestOverload offers ten times as much as the server can do: nearly all of it by one caller, a little less than its share by each of two
// others. Meanwhile access is taken away, by a responder and by the greedy caller itself.
func TestOverload(t *testing.T) {
	const checker, responder = deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_RESPONDER
	cfg := daemon.Config{
		Engine: harness.Embedded(t), JudgeOver: gated(*capacity), MaxActiveCalls: max(*capacity/5, 16),
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		Callers: []*caller.Caller{
			called("greedy", caller.Limits{}, checker, responder), called("desk", caller.Limits{}, checker),
			called("shop", caller.Limits{}, checker), called("ops", caller.Limits{}, responder),
		},
	}
	w := open(t, cfg)
	check := func(name string, connections int) func(context.Context) error {
		var asks []deputyv1.PermissionsServiceClient
		for range connections {
			asks = append(asks, deputyv1.NewPermissionsServiceClient(w.asks(name)))
		}
		var n atomic.Uint64
		return func(ctx context.Context) error {
			answer, err := asks[n.Add(1)%uint64(len(asks))].CheckPermission(ctx, w.question())
			if err == nil && answer.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
				return fmt.Errorf("the answer is %s", answer.GetPermissionship())
			}
			return err
		}
	}
	brake := func(name string) func(context.Context) error {
		asks := deputyv1.NewAgentsServiceClient(w.asks(name))
		var n atomic.Int64
		return func(ctx context.Context) error {
			agent := fmt.Sprintf("%s-stray-%d", name, n.Add(1)%strays) // who suspends one agent twice at once waits for himself
			_, err := asks.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: agent})
			return err
		}
	}
	for _, by := range []string{"ops", "greedy"} {
		for i := range strays {
			_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{
				AgentId: fmt.Sprintf("%s-stray-%d", by, i), OwnerIds: []string{"alice"},
			})
			w.must(err)
		}
	}
	// What the server can do is what it does for one caller that always has some calls under way.
	can := func() float64 {
		ctx, cancel := context.WithTimeout(t.Context(), max(*lasts/4, 3*time.Second))
		defer cancel()
		var done atomic.Int64
		var wg sync.WaitGroup
		ask := check("desk", 1)
		began := time.Now()
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := ask(context.WithoutCancel(ctx)); err != nil {
						t.Error(err)
						return
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(done.Load()) / time.Since(began).Seconds()
	}()
	if t.Failed() {
		return
	}

	ctx, cancel := context.WithTimeout(t.Context(), *lasts)
	defer cancel()
	rows := []struct {
		name string
		rate float64
		call func(context.Context) error
		outcome
	}{
		{name: "greedy", rate: 9.5 * can, call: check("greedy", 8)},
		{name: "desk", rate: 0.25 * can, call: check("desk", 1)},
		{name: "shop", rate: 0.25 * can, call: check("shop", 1)},
		{name: "ops, suspending", rate: 5, call: brake("ops")},
		{name: "greedy, suspending", rate: 5, call: brake("greedy")},
	}
	var wg sync.WaitGroup
	began := time.Now()
	for i := range rows {
		wg.Go(func() { offer(ctx, rows[i].rate, &rows[i].outcome, rows[i].call) })
	}
	// A third of the time is for everything to be there that is needed at once.
	<-time.After(*lasts / 3)
	before, goroutines := inUse(), runtime.NumGoroutine()
	<-time.After(*lasts / 2)
	after, later := inUse(), runtime.NumGoroutine()
	wg.Wait()
	took := time.Since(began).Seconds()

	var b strings.Builder
	fmt.Fprintf(&b, "| caller | offered/s | answered/s | refused | answered in: median | 99 %% | the longest |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	answered := 0
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.1f %% | %s | %s | %s |\n", r.name, float64(r.offered)/took, float64(r.answered)/took,
			100*float64(r.refused)/float64(max(r.offered, 1)), round(r.part(0.5)), round(r.part(0.99)), round(r.part(1)))
		if r.other > 0 {
			t.Errorf("%s: %d of %d calls failed otherwise than refused: %v", r.name, r.other, r.offered, r.first)
		}
		if i < 3 {
			answered += r.answered
		}
	}
	goodput := float64(answered) / took / can
	fmt.Fprintf(&b, "\nThe server can do %.0f decisions in a second, and did %.0f, %.2f of it, while %.0f were asked for. ", can, float64(answered)/took, goodput,
		float64(rows[0].offered+rows[1].offered+rows[2].offered)/took)
	fmt.Fprintf(&b, "After a third of the time %d MiB were in use, and near the end %d MiB, clients included.\n", before>>20, after>>20)
	t.Logf("\n%s\n%d goroutines after a third of the time, and %d near the end", b.String(), goroutines, later)

	if goodput < 0.9 {
		t.Errorf("of what it can do the server did %.2f", goodput)
	}
	for i := range rows[1:3] {
		r := &rows[1+i]
		if got := float64(r.answered) / float64(r.offered); got < 0.9 {
			t.Errorf("%s asks for less than its share, and was answered %.2f of it", r.name, got)
		}
	}
	for i := range rows[:3] {
		if p99 := rows[i].part(0.99); p99 > 3*time.Second {
			t.Errorf("99 %% of the answers to %s took up to %v", rows[i].name, p99)
		}
	}
	for i := range rows[3:] {
		r := &rows[3+i]
		if r.refused > 0 || r.part(1) > 5*time.Second {
			t.Errorf("%s: %d of %d calls were refused, and the longest took %v", r.name, r.refused, r.offered, r.part(1))
		}
	}
	if after > before*3/2+32<<20 {
		t.Errorf("%d MiB were in use after a third of the time, and %d MiB near the end", before>>20, after>>20)
	}
	if offered := float64(rows[0].offered+rows[1].offered+rows[2].offered) / took; offered < 4*can {
		t.Errorf("%.0f decisions a second were asked for, which is too little to be an overload: the machine is too slow for -capacity %d", offered, *capacity)
	}
	if *rewrite && !t.Failed() {
		text, err := os.ReadFile(page)
		w.must(err)
		const from, to = "<!-- overload -->\n", "<!-- /overload -->"
		head, rest, found := strings.Cut(string(text), from)
		_, tail, ended := strings.Cut(rest, to)
		if !found || !ended {
			t.Fatalf("%s has no place for the table", page)
		}
		w.must(os.WriteFile(page, []byte(head+from+b.String()+to+tail), 0o644))
	}
}

// round is a time in milliseconds.
func round(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
