//go:build linux

package border

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// mostMemory is how far resident memory may rise, in bytes.
	mostMemory = 512 << 20
	// patience is how long a call that ends by itself may take; the server promises 10 s to one without a deadline.
	patience = 20 * time.Second
	// streamPatience is how long the client reads a stream, endlessPatience one that ends never.
	streamPatience, endlessPatience = 2 * time.Second, 50 * time.Millisecond
	// callsOfConn is how many calls share a connection.
	callsOfConn = 60
	// heldOfWorker is how many connections of a worker stay open.
	heldOfWorker = 12
	// calm is how long the server has to come to rest once its clients left.
	calm = 40 * time.Second
	// goneWithin is how long a server may still live of which a client has seen the end.
	goneWithin = 300 * time.Millisecond
	// slack is how many goroutines and descriptors more than before are rest.
	slack = 60
	// rise is by how much memory rises that is looked into, in bytes.
	rise = 80 << 20
	// remembered is how many inputs of each worker are suspected when the server dies.
	remembered = 6
)

// round is a server, and what is done to it.
type round struct {
	*world
	report *report
	// dead is closed once the server is gone or was ended for the memory it took; suspects are what was under way then.
	dead     chan struct{}
	dying    sync.Once
	overfull atomic.Bool
	mu       sync.Mutex
	recent   map[int][]*input
	// rises are what was under way when memory rose by much.
	rises    []*input
	suspects []*input
}

// begin starts a server with a watch over its memory.
func begin(ctx context.Context, rep *report, dir, engine string) (*round, error) {
	w, err := serve(ctx, dir, engine)
	if err != nil {
		return nil, err
	}
	r := &round{world: w, report: rep, dead: make(chan struct{}), recent: map[int][]*input{}}
	w.ResetPeak()
	go r.watch()
	return r, nil
}

// watch ends the round when the server is gone or takes too much.
func (r *round) watch() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for mark := r.baseline.resident; ; {
		select {
		case <-r.Ended():
			r.die()
			return
		case <-tick.C:
		}
		// The peak that the kernel keeps misses nothing between two looks.
		now, peak := r.Memory()
		if now > mark+rise {
			r.mu.Lock()
			for _, recent := range r.recent {
				r.rises = append(r.rises, recent[len(recent)-1])
			}
			r.mu.Unlock()
			mark = now
		}
		if mark = min(mark, max(now, r.baseline.resident)); peak > r.baseline.resident+mostMemory {
			r.overfull.Store(true)
			r.report.sawMemory(peak - r.baseline.resident)
			r.die()
			_ = r.Kill() // before the machine has no memory left
			return
		}
	}
}

func (r *round) die() {
	r.dying.Do(func() {
		r.mu.Lock()
		if r.overfull.Load() {
			r.suspects = slices.Clone(r.rises)
		}
		for _, recent := range r.recent {
			// The last ones first.
			for _, in := range slices.Backward(recent) {
				r.suspects = append(r.suspects, in)
			}
		}
		r.mu.Unlock()
		close(r.dead)
	})
}

func (r *round) over() bool {
	select {
	case <-r.dead:
		return true
	default:
		return false
	}
}

// gone waits for the server's end, which a client may see first.
func (r *round) gone(within time.Duration) bool {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-r.dead:
		return true
	case <-late.C:
		return false
	}
}

// note remembers what a worker does.
func (r *round) note(worker int, in *input) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent[worker] = append(r.recent[worker], in)
	r.recent[worker] = r.recent[worker][max(0, len(r.recent[worker])-remembered):]
}

// worker is one client. It has one connection for well-formed calls, and more that it holds.
type worker struct {
	*draw
	round  *round
	number int
	conn   *conn
	calls  int
	held   []io.Closer
}

// work fuzzes until the time is over or the server is gone.
//
// Each input has a source of its own, so that it is the same for the same seed whatever was answered before.
func (r *round) work(number int, seed uint64, until time.Time, roles []string) {
	k := &worker{draw: &draw{world: r.world, now: time.Now(), learned: map[string][]string{}}, round: r, number: number}
	defer k.leave()
	all := methods()
	for n := uint64(0); !r.over() && time.Now().Before(until); n++ {
		k.Rand = rand.New(rand.NewPCG(seed, uint64(number)<<32|n))
		in, m := k.input(all, roles)
		k.do(in, m)
	}
}

// leave closes what is open.
func (k *worker) leave() {
	if k.conn != nil {
		_ = k.conn.Close()
	}
	for _, h := range k.held {
		_ = h.Close()
	}
}

// hold keeps a connection open, and lets the oldest go.
func (k *worker) hold(c io.Closer) {
	if k.held = append(k.held, c); len(k.held) > heldOfWorker {
		_ = k.held[0].Close()
		k.held = k.held[1:]
	}
}

// do does what an input says and has the answers judged.
func (k *worker) do(in *input, m method) {
	r := k.round
	r.note(k.number, in)
	if in.raw {
		kept, err := callRaw(r.world, r.Addr, in)
		if err == nil && kept != nil {
			k.hold(kept)
		}
		r.report.count("(raw)", in.role, "(raw)")
		return
	}
	c := k.connection(in.alone)
	if c == nil {
		return
	}
	wait := patience
	if m.MethodDescriptor != nil && (m.IsStreamingServer() || m.IsStreamingClient()) {
		wait = streamPatience
	}
	if m.endless {
		wait = endlessPatience
	}
	var bodies [][]byte
	for _, p := range in.parts {
		bodies = append(bodies, r.body(p))
	}
	var many sync.WaitGroup
	for range max(1, in.times) {
		many.Go(func() {
			answer := c.call(in, bodies, wait)
			if r.over() || answer.broken != nil && r.gone(goneWithin) {
				return // that is a finding of its own
			}
			wrong, excused := judge(in, m, answer)
			r.report.answer(in, answer, wrong, excused, r.world)
			if in.times <= 1 && len(answer.data) > 5 && answer.data[0] == 0 && m.MethodDescriptor != nil && !m.open {
				k.learn(m, answer.data[5:])
			}
		})
	}
	many.Wait()
	if in.alone {
		if in.end == "hold" {
			k.hold(c)
		} else {
			_ = c.Close()
		}
	}
}

// connection returns the shared connection, or one for an input alone; nil if the server takes none.
func (k *worker) connection(alone bool) *conn {
	if !alone {
		if k.conn != nil && k.calls < callsOfConn && k.conn.usable() {
			k.calls++
			return k.conn
		}
		if k.conn != nil {
			_ = k.conn.Close()
			k.conn = nil
		}
	}
	c, err := dial(k.round.Addr)
	if err != nil {
		if !k.round.over() {
			k.round.report.refusedConn(err)
			select { // it may be about to end, or have no room for the moment
			case <-k.round.dead:
			case <-time.After(50 * time.Millisecond):
			}
		}
		return nil
	}
	if !alone {
		k.conn, k.calls = c, 1
	}
	return c
}

// after looks at a server that its clients have left: it comes to rest, and serves as before. An admin's fuzzing may have
// changed the world, so it is restored first, where it lets itself.
func (r *round) after(ctx context.Context, admin bool) {
	if r.over() {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, 2*calm)
	defer cancel()
	fail := func(class, format string, args ...any) {
		if !r.over() {
			r.report.found(finding{class: class, detail: fmt.Sprintf(format, args...)}, r.world)
		}
	}
	for line := range strings.Lines(r.Log()) {
		if strings.Contains(line, `"level":"error"`) {
			fail("log", "what callers send is logged as an error: %s", line)
			break
		}
	}
	rested, last := r.rests(bounded)
	if !rested {
		fail("leak", "%s after its clients left: %.0f goroutines and %.0f descriptors, before them %.0f and %.0f",
			calm, last.goroutines, last.descriptors, r.baseline.goroutines, r.baseline.descriptors)
		r.report.keepLog("leak", r.goroutines(bounded))
	}
	if admin {
		if err := r.restore(bounded); err != nil {
			// A schema, rows or a suspension of an admin's that stand in the way are no fault.
			r.report.notRestored(err)
			return
		}
	}
	answers, err := r.decisions(bounded)
	switch {
	case err != nil && !admin:
		fail("afterwards", "%v", err)
	case err == nil && answers != r.before && !admin:
		fail("afterwards", "the fixed decisions are now\n%s, and were\n%s", answers, r.before)
	}
	if err := r.wellBehaved(bounded); err != nil && !admin {
		fail("afterwards", "a client that does everything right: %v", err)
	}
	if _, peak := r.Memory(); peak > 0 {
		r.report.sawMemory(peak - r.baseline.resident)
	}
}

// rests waits until goroutines and descriptors are about as many as before.
func (r *round) rests(ctx context.Context) (bool, usage) {
	var last usage
	end := time.Now().Add(calm)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) && !r.over() {
		if now, err := r.usage(ctx); err == nil {
			last = now
			if now.goroutines <= r.baseline.goroutines+slack && now.descriptors <= r.baseline.descriptors+slack {
				return true, now
			}
		}
		<-tick.C
	}
	return r.over(), last
}

// goroutines is what a server that does not rest can tell: its log.
func (r *round) goroutines(context.Context) string { return r.Log() }

// deathLine finds how a Go program ended.
var deathLine = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|runtime: .*|SIG[A-Z]+: .*)$`)

// frameLine finds a function in a stack.
var frameLine = regexp.MustCompile(`(?m)^((?:github\.com|google\.golang\.org)/[^\s]+)\(.*$`)

// death says how the server ended.
func (r *round) death() string {
	if r.overfull.Load() {
		return fmt.Sprintf("resident memory rose by more than %d MiB", mostMemory>>20)
	}
	log := r.Log()
	cause := deathLine.FindString(log)
	if cause == "" {
		return fmt.Sprintf("the process ended: %v", r.Wait())
	}
	_, after, _ := strings.Cut(log, cause)
	if at := frameLine.FindStringSubmatch(after); at != nil {
		cause += " in " + at[1]
	}
	return cause
}

// replay does inputs one after the other on a fresh server, and returns how it died of them, "" if it did not.
func replay(ctx context.Context, rep *report, dir, engine string, ins ...*input) (string, error) {
	fresh, err := os.MkdirTemp(dir, "again-")
	if err != nil {
		return "", err
	}
	r, err := begin(ctx, rep, fresh, engine)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.end() }()
	r.each(ins)
	if !r.gone(goneWithin) {
		return "", nil
	}
	<-r.Ended()
	return r.death(), nil
}

// each does inputs one after the other, as one client, who then leaves.
func (r *round) each(ins []*input) {
	k := &worker{draw: &draw{Rand: rand.New(rand.NewPCG(1, 1)), world: r.world, learned: map[string][]string{}}, round: r}
	defer k.leave()
	byPath := map[string]method{}
	for _, m := range methods() {
		byPath[m.path] = m
	}
	for _, in := range ins {
		if r.over() {
			return
		}
		in.alone = true
		k.do(in, byPath[in.method])
	}
}

// autopsy finds which of the suspects ended the server.
func (r *round) autopsy(ctx context.Context, dir, engine string) {
	<-r.Ended()
	how, class := r.death(), "death"
	if r.overfull.Load() {
		class = "memory"
	}
	log := r.Log()
	if len(log) > 200_000 {
		log = log[:100_000] + "\n…\n" + log[len(log)-100_000:]
	}
	f := finding{class: class, detail: how}
	if r.report.known(f) {
		r.report.found(f, r.world)
		return
	}
	r.report.keepLog(class, log)
	culprits := 0
	for _, in := range r.suspects {
		again, err := replay(ctx, newReport(0, ""), dir, engine, in)
		if err != nil && !errors.Is(err, context.Canceled) {
			r.report.found(finding{class: "afterwards", detail: "the server does not start again: " + err.Error()}, r.world)
			return
		}
		if again != "" {
			f := finding{class: class, method: in.method, detail: again, in: in}
			r.report.found(f, r.world)
			if culprits++; culprits == 2 {
				break
			}
		}
	}
	if culprits == 0 {
		// Not one of them alone. All that were suspected are kept, each for itself.
		r.report.found(finding{class: class, detail: how + " (of no one input alone)"}, r.world)
		for i, in := range r.suspects {
			r.report.keep(fmt.Sprintf("%s-suspect-%d", class, i), in.text(r.world))
		}
		return
	}
	r.report.remember(f)
}
