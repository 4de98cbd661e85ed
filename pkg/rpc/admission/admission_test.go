package admission

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// The classes of calls.
var (
	checks = Class{}
	brakes = Class{Narrows: true}
	stream = Class{Streams: true}
)

func checker(name string, l caller.Limits) *caller.Caller {
	return &caller.Caller{Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), Bounds: authz.Unbounded(), Limits: l}
}

func responder(name string, tenants ...string) *caller.Caller {
	c := &caller.Caller{Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_RESPONDER), Bounds: authz.Unbounded()}
	if len(tenants) > 0 {
		c.Bounds.Tenants = authz.NamesOf(tenants...)
	}
	return c
}

// fill enters calls until one is refused, which it returns why.
func fill(t *testing.T, a *Admission, c *caller.Caller, class Class) (in []*Ticket, refused *authz.Error) {
	t.Helper()
	for len(in) < 1000 {
		ticket := &Ticket{}
		err := a.Enter(ticket, c, class)
		if err != nil {
			e, ok := errors.AsType[*authz.Error](err)
			if !ok || e.Kind != authz.Exhausted || e.RetryAfter <= 0 {
				t.Fatalf("refused with %v", err)
			}
			return in, e
		}
		in = append(in, ticket)
	}
	t.Fatal("calls have no bound")
	return nil, nil
}

// TestPlaces: calls of services stop short of those that take access away, and those stop short of admins': whatever checks are under way, a
// session can be ended, and whatever services do, an admin can suspend. A responder that is bound to some tenants is no admin in this, and no
// caller has all of what is kept for narrowing.
func TestPlaces(t *testing.T) {
	t.Parallel()
	a := New(Settings{Places: 80, Callers: caller.Limits{Concurrent: 50}})
	first, refused := fill(t, a, checker("one", caller.Limits{}), checks)
	if len(first) != 50 || refused.Reason != authz.ReasonConcurrencyLimit {
		t.Errorf("one caller has %d calls and then %s, want 50", len(first), refused.Reason)
	}
	second, refused := fill(t, a, checker("two", caller.Limits{}), checks)
	if len(second) != 10 || refused.Reason != authz.ReasonBusy {
		t.Errorf("the next caller has %d calls and then %s, want 10 of 60", len(second), refused.Reason)
	}
	bound, refused := fill(t, a, responder("bound", "acme"), brakes)
	if len(bound) != 5 || refused.Reason != authz.ReasonConcurrencyLimit {
		t.Errorf("a confined responder has %d brakes and then %s, want 5", len(bound), refused.Reason)
	}
	another, refused := fill(t, a, responder("another", "globex"), brakes)
	if len(another) != 5 || refused.Reason != authz.ReasonBusy {
		t.Errorf("another one has %d and then %s, want 5", len(another), refused.Reason)
	}
	third, refused := fill(t, a, responder("third", "initech"), brakes)
	if len(third) != 0 || refused.Reason != authz.ReasonBusy {
		t.Errorf("a third one has %d and then %s, want 0", len(third), refused.Reason)
	}
	admins, refused := fill(t, a, responder("ops"), brakes)
	if len(admins) != 10 || refused.Reason != authz.ReasonBusy {
		t.Errorf("a responder of all tenants has %d and then %s, want 10", len(admins), refused.Reason)
	}
	for _, one := range first {
		one.Leave()
		one.Leave() // twice is once
	}
	if a.UnderWay() != 30 {
		t.Errorf("%d calls are under way, want 30", a.UnderWay())
	}
	again, _ := fill(t, a, checker("one", caller.Limits{Concurrent: 7}), checks)
	if len(again) != 7 {
		t.Errorf("with another limit the caller has %d calls, want 7", len(again))
	}
	if streams, refused := fill(t, a, checker("two", caller.Limits{Streams: 3}), stream); len(streams) != 3 || refused.Reason != authz.ReasonConcurrencyLimit {
		t.Errorf("a caller has %d streams and then %s, want 3", len(streams), refused.Reason)
	}
}

// TestRate: a caller over its rate is refused, and is not refused when it does as it is told. What narrows has no rate, and the items of a call
// count.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{})
		c := checker("one", caller.Limits{Rate: 10, Burst: 4})
		in, refused := fill(t, a, c, checks)
		if len(in) != 4 || refused.Reason != authz.ReasonRateLimited {
			t.Fatalf("%d calls at once and then %s, want 4", len(in), refused.Reason)
		}
		if refused.RetryAfter < 100*time.Millisecond || refused.RetryAfter > 150*time.Millisecond {
			t.Errorf("try again after %v, want a tenth of a second and little more", refused.RetryAfter)
		}
		if err := a.Enter(&Ticket{}, c, brakes); err != nil {
			t.Errorf("what narrows: %v", err)
		}
		for range 20 {
			pass(refused.RetryAfter)
			ticket := &Ticket{}
			if err := a.Enter(ticket, c, checks); err != nil {
				t.Fatalf("after it waited as long as it was told: %v", err)
			}
			ticket.Leave()
			if in, refused = fill(t, a, c, checks); len(in) > 1 {
				t.Fatalf("%d more at once", len(in))
			}
		}
		// A call of 41 items is let through, once there is something, and paid for afterwards.
		pass(time.Second)
		ticket := &Ticket{}
		if err := a.Enter(ticket, c, checks); err != nil {
			t.Fatal(err)
		}
		if err := ticket.Take(t.Context(), 41); err != nil {
			t.Fatalf("a large call: %v", err)
		}
		ticket.Leave()
		if _, refused = fill(t, a, c, checks); refused.RetryAfter < 3700*time.Millisecond || refused.RetryAfter > 5*time.Second {
			t.Errorf("after 41 items of 4 and 10 a second, try again after %v", refused.RetryAfter)
		}
		// Another file is in force: the bucket stays as empty as it was.
		c = checker("one", caller.Limits{Rate: 10, Burst: 400})
		if in, _ = fill(t, a, c, checks); len(in) != 0 {
			t.Errorf("a reload let %d calls through", len(in))
		}
		pass(time.Second)
		if in, _ = fill(t, a, c, checks); len(in) < 9 || len(in) > 11 {
			t.Errorf("a second later %d calls are let through, want 10", len(in))
		}
	})
}

// TestLargeCallOfASmallRate: a call of many items passes however small the burst is.
func TestLargeCallOfASmallRate(t *testing.T) {
	t.Parallel()
	a := New(Settings{})
	c := checker("one", caller.Limits{Rate: 1, Burst: 1})
	ticket := &Ticket{}
	if err := errors.Join(a.Enter(ticket, c, checks), ticket.Take(t.Context(), 100)); err != nil {
		t.Fatal(err)
	}
	ticket.Leave()
	if _, refused := fill(t, a, c, checks); refused.RetryAfter < 50*time.Second {
		t.Errorf("after 100 items at 1 a second, try again after %v", refused.RetryAfter)
	}
}

// TestTwoLargeCalls: of several large calls that came while there was something, the first is let through, and not all.
func TestTwoLargeCalls(t *testing.T) {
	t.Parallel()
	a := New(Settings{})
	c := checker("one", caller.Limits{Rate: 10, Burst: 5})
	var tickets [4]Ticket
	through := 0
	for i := range tickets {
		if err := a.Enter(&tickets[i], c, checks); err != nil {
			t.Fatal(err)
		}
	}
	for i := range tickets {
		if tickets[i].Take(t.Context(), 10_000) == nil {
			through++
		}
		tickets[i].Leave()
	}
	if through != 1 {
		t.Errorf("%d calls of 10,000 items were let through at once, want 1", through)
	}
}

// TestBrakesDoNotWait: while a caller has all turns, and more calls wait, a call that narrows has its turn at once, of the same caller too.
func TestBrakesDoNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 4})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		both := checker("one", caller.Limits{Rate: 1_000_000, Concurrent: 40})
		both.Roles |= caller.RolesOf(deputyv1.Role_ROLE_RESPONDER)
		both.Bounds.Tenants = authz.NamesOf("acme")
		in, _ := fill(t, a, both, checks)
		for _, ticket := range in {
			go func() { _ = ticket.Take(ctx, 1) }()
		}
		synctest.Wait()
		if a.Waiting() != 38 {
			t.Fatalf("%d calls wait, want 38: one caller has half of 4 turns", a.Waiting())
		}
		came := time.Now()
		brake := &Ticket{}
		if err := a.Enter(brake, both, brakes); err != nil {
			t.Fatal(err)
		}
		if err := brake.Take(t.Context(), 1); err != nil || time.Since(came) != 0 {
			t.Errorf("a brake: %v after %v", err, time.Since(came))
		}
		brake.Leave()
		cancel()
		synctest.Wait()
		for _, ticket := range in {
			ticket.Leave()
		}
		if a.UnderWay() != 0 || a.Waiting() != 0 || a.ordinary.running.Load() != 0 {
			t.Errorf("afterwards %d calls are under way, %d wait, %d turns are taken", a.UnderWay(), a.Waiting(), a.ordinary.running.Load())
		}
	})
}

// TestRefusedBeforeItsMessage: while its caller has more waiting than is served in time, a call is refused when it begins, and another caller's is
// not.
func TestRefusedBeforeItsMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 2})
		greedy, end := checker("greedy", caller.Limits{}), time.Now().Add(5*time.Second)
		early, late := 0, 0
		var wg sync.WaitGroup
		for time.Now().Before(end) { // a thousand a second, of which 100 are served
			ticket := &Ticket{}
			if a.Enter(ticket, greedy, checks) != nil {
				early++
			} else {
				wg.Go(func() {
					defer ticket.Leave()
					if ticket.Take(t.Context(), 1) == nil {
						pass(10 * time.Millisecond)
					}
				})
			}
			pass(time.Millisecond)
			synctest.Wait()
			if time.Now().Before(end.Add(-time.Second)) {
				continue
			}
			other := &Ticket{}
			if err := a.Enter(other, checker("other one", caller.Limits{}), checks); err != nil {
				t.Fatalf("another caller: %v", err)
			}
			other.Leave()
			late++
		}
		wg.Wait()
		if early < 3000 || late < 900 {
			t.Errorf("of 5,000 calls, 4,500 too many, %d were refused before their message", early)
		}
	})
}

// TestLeftWhileItWaits: a call that ends while its handler still waits for a turn gives that back too, once it gets it.
func TestLeftWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 1})
		c := checker("one", caller.Limits{})
		var first, second Ticket
		if err := errors.Join(a.Enter(&first, c, checks), a.Enter(&second, c, checks), first.Take(t.Context(), 1)); err != nil {
			t.Fatal(err)
		}
		go func() { _ = second.Take(t.Context(), 1) }()
		synctest.Wait()
		second.Leave()
		first.Leave()
		synctest.Wait()
		if a.ordinary.running.Load() != 0 || a.UnderWay() != 0 {
			t.Errorf("afterwards %d turns are taken, and %d calls are under way", a.ordinary.running.Load(), a.UnderWay())
		}
	})
}

// TestShedIsCounted: refusals of one caller are recorded once a second, with how many there were, and none is forgotten.
func TestShedIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{})
		c := checker("one", caller.Limits{Rate: 1})
		var counted uint64
		records := 0
		for range 1_000 {
			ticket := &Ticket{}
			if err := a.Enter(ticket, c, checks); err == nil {
				ticket.Leave()
				counted++
			} else if shed, due := ticket.Shed(c.Name, "/m", "R"); due {
				records++
				counted += shed.Calls
			}
			pass(10 * time.Millisecond)
		}
		pass(time.Second)
		for _, shed := range a.Unrecorded() {
			if shed.Caller != "one" || shed.Method != "/m" || shed.Reason != "R" {
				t.Errorf("counted are %+v", shed)
			}
			counted += shed.Calls
		}
		if counted != 1_000 || records < 9 || records > 11 {
			t.Errorf("%d calls of 1,000 are accounted for, in %d records of 10 seconds", counted, records)
		}
		if again := a.Unrecorded(); again != nil {
			t.Errorf("counted again are %+v", again)
		}
	})
}

// TestManyCallers: callers that are gone are forgotten, and those with a call are not.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	a := New(Settings{})
	stays := &Ticket{}
	if err := a.Enter(stays, checker("stays", caller.Limits{Concurrent: 1}), checks); err != nil {
		t.Fatal(err)
	}
	for i := range maxAccounts + 10 {
		ticket := &Ticket{}
		if err := a.Enter(ticket, checker(string(rune('a'+i%26))+string(rune(0x100+i)), caller.Limits{}), checks); err != nil {
			t.Fatal(err)
		}
		ticket.Leave()
	}
	if n := a.many.Load(); n > maxAccounts/2 {
		t.Errorf("%d callers are known", n)
	}
	if err := a.Enter(&Ticket{}, checker("stays", caller.Limits{Concurrent: 1}), checks); err == nil {
		t.Error("a caller with a call under way was forgotten")
	}
}

// TestStreamsPayForWhatTheyDeliver: a stream costs one of the rate for each hundred objects. A short one costs what it did when it began, and one that
// lasts goes no faster than its caller's rate, together with the others of that caller.
func TestStreamsPayForWhatTheyDeliver(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, l caller.Limits, streams int) (all []*Ticket, c *caller.Caller, a *Admission) {
		t.Helper()
		a, c = New(Settings{}), checker("one", l)
		for range streams {
			ticket := &Ticket{}
			if err := a.Enter(ticket, c, stream); err != nil {
				t.Fatal(err)
			}
			all = append(all, ticket)
		}
		return all, c, a
	}
	deliver := func(t *testing.T, ticket *Ticket, objects, each int, waits bool) {
		t.Helper()
		for range objects / each {
			if err := ticket.Delivered(t.Context(), each, waits); err != nil {
				t.Error(err)
				return
			}
		}
	}
	tenth := caller.Limits{Rate: 10, Burst: 10}
	for _, each := range []int{1, 20} {
		synctest.Test(t, func(t *testing.T) {
			streams, c, a := begin(t, tenth, 1)
			began := time.Now()
			deliver(t, streams[0], 100, each, true)
			in, _ := fill(t, a, c, checks)
			if len(in) != 9 || time.Since(began) != 0 {
				t.Errorf("after a stream of 100 objects, %d calls of 9 are within the rate, after %v", len(in), time.Since(began))
			}
		})
		synctest.Test(t, func(t *testing.T) {
			streams, _, _ := begin(t, tenth, 2)
			began := time.Now()
			var both sync.WaitGroup
			for _, one := range streams {
				both.Go(func() { deliver(t, one, 5_100, each, true) })
			}
			both.Wait()
			// Each costs 1 and 50, of which the burst has 10.
			if took := time.Since(began); took < 9*time.Second || took > 9500*time.Millisecond {
				t.Errorf("two streams of 5,100 objects took %v at 10 a second and 10 at once, want 9.2 s", took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		streams, c, a := begin(t, tenth, 1)
		began := time.Now()
		deliver(t, streams[0], 1_000_000, 50, false)
		if time.Since(began) != 0 {
			t.Errorf("a stream that does not wait took %v", time.Since(began))
		}
		in, refused := fill(t, a, c, checks)
		if len(in) != 0 || refused.Reason != authz.ReasonRateLimited || refused.RetryAfter > time.Second {
			t.Errorf("afterwards %d calls pass, and then %v, to try again after %v", len(in), refused, refused.RetryAfter)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		streams, _, _ := begin(t, caller.Limits{Rate: 1, Burst: 1}, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := streams[0].Delivered(ctx, 10_000, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stream whose time is over: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		streams, _, _ := begin(t, caller.Limits{}, 1)
		began := time.Now()
		deliver(t, streams[0], 1_000_000, 50, true)
		if time.Since(began) != 0 {
			t.Errorf("without a rate a stream took %v", time.Since(began))
		}
	})
}

// BenchmarkCall is what a call pays where nothing is short: with and without a rate, by callers of their own and by one.
func BenchmarkCall(b *testing.B) {
	for name, limits := range map[string]caller.Limits{"no rate": {}, "a rate": {Rate: caller.MaxRate}} {
		b.Run(name, func(b *testing.B) {
			a := New(Settings{Turns: 128})
			c := checker("one", limits)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					ticket := &Ticket{}
					if a.Enter(ticket, c, checks) == nil {
						_ = ticket.Take(b.Context(), 1)
						ticket.Leave()
					}
				}
			})
		})
	}
}

// TestRefusedKeepsNothing: a caller that goes on calling over its rate has no more places for that: neither its own nor the server's.
func TestRefusedKeepsNothing(t *testing.T) {
	t.Parallel()
	a := New(Settings{Places: 40})
	c := checker("one", caller.Limits{Rate: 1, Burst: 2, Concurrent: 5})
	in, _ := fill(t, a, c, checks)
	for range 100 {
		if err := a.Enter(&Ticket{}, c, checks); err == nil {
			t.Fatal("it is over its rate, and let through")
		}
	}
	if a.UnderWay() != len(in) {
		t.Errorf("%d calls are under way, want the %d that were let through", a.UnderWay(), len(in))
	}
	for _, one := range in {
		one.Leave()
	}
	if own := a.account(c).calls.Load(); own != 0 {
		t.Errorf("the caller has %d calls under way after all have ended", own)
	}
}

// TestStreamsTakeNoTurns: while all turns are taken and calls wait, a stream begins at once, and what takes as long as it takes: they would keep a turn
// from all others for as long as they last.
func TestStreamsTakeNoTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 2})
		end := time.Now().Add(2 * time.Second)
		var wg sync.WaitGroup
		for range 30 { // as many as are served in more than calls wait
			wg.Go(func() {
				for time.Now().Before(end) {
					ticket := &Ticket{}
					if a.Enter(ticket, checker("one", caller.Limits{}), checks) != nil {
						pass(10 * time.Millisecond)
						continue
					}
					if ticket.Take(t.Context(), 1) == nil {
						pass(50 * time.Millisecond)
					}
					ticket.Leave()
				}
			})
		}
		pass(time.Second)
		synctest.Wait()
		if a.Waiting() == 0 {
			t.Fatal("no call waits")
		}
		for _, class := range []Class{stream, {Long: true}} {
			came, ticket := time.Now(), &Ticket{}
			if err := errors.Join(a.Enter(ticket, checker("one", caller.Limits{}), class), ticket.Take(t.Context(), 100)); err != nil || time.Since(came) != 0 {
				t.Errorf("%+v: %v after %v", class, err, time.Since(came))
			}
			if ticket.state.Load() == turned {
				t.Errorf("%+v has a turn", class)
			}
			ticket.Leave()
		}
		wg.Wait()
	})
}

// TestItemsCountInTurns: a caller that has had a turn for a call of many items waits while others, whose calls have one, have theirs.
func TestItemsCountInTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 2})
		var before [2]Ticket
		for i := range before {
			if err := errors.Join(a.Enter(&before[i], checker(string(rune('x'+i)), caller.Limits{}), checks), before[i].Take(t.Context(), 1)); err != nil {
				t.Fatal(err)
			}
		}
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		ask := func(name string, items int) {
			wg.Go(func() {
				ticket := &Ticket{}
				if err := errors.Join(a.Enter(ticket, checker(name, caller.Limits{}), checks), ticket.Take(t.Context(), items)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				ticket.Leave()
			})
			synctest.Wait()
		}
		for range 2 {
			ask("large", 50)
		}
		for range 3 {
			ask("small", 1)
		}
		before[0].Leave()
		wg.Wait()
		before[1].Leave()
		if last := order[len(order)-1]; last != "large" {
			t.Errorf("turns were had by %v, want the second call of 50 items last", order)
		}
	})
}

// TestTheProgramHasNoRate: what a program asks of the server that it holds has no rate, whatever callers have that say nothing; and how long a caller's messages
// may be is what its limits say.
func TestTheProgramHasNoRate(t *testing.T) {
	t.Parallel()
	a := New(Settings{Places: 400, Callers: caller.Limits{Rate: 1, Burst: 1, Concurrent: 50, Message: 1000}})
	if in, refused := fill(t, a, caller.InProcess(), checks); len(in) != 50 || refused.Reason != authz.ReasonConcurrencyLimit {
		t.Errorf("the program has %d calls and then %s, want 50", len(in), refused.Reason)
	}
	for _, one := range []struct{ says, want int }{{0, 1000}, {10, 10}} {
		ticket := &Ticket{}
		if err := a.Enter(ticket, checker(string(rune('a'+one.says)), caller.Limits{Message: one.says}), checks); err != nil {
			t.Fatal(err)
		}
		if got := ticket.MessageBytes(); got != one.want {
			t.Errorf("a caller whose limit is %d may send %d bytes, want %d", one.says, got, one.want)
		}
	}
}

// TestRest: a stream that begins like a call has a turn for that, waits for it behind its caller's calls, and gives it back while it goes on. Another
// stream has none.
func TestRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := New(Settings{Turns: 1})
		c := checker("one", caller.Limits{})
		begins := Class{Streams: true, Begins: true}
		var first, second, last, plain Ticket
		if err := errors.Join(a.Enter(&first, c, begins), a.Enter(&second, c, begins), a.Enter(&last, c, checks), a.Enter(&plain, c, stream)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(first.Take(t.Context(), 1), plain.Take(t.Context(), 1)); err != nil {
			t.Fatal(err)
		}
		took := make(chan error, 1)
		go func() { took <- second.Take(t.Context(), 1) }()
		synctest.Wait()
		if a.Waiting() != 1 {
			t.Fatalf("%d wait while one begins, want 1", a.Waiting())
		}
		first.Rest()
		first.Rest() // twice is once
		if err := <-took; err != nil {
			t.Fatal(err)
		}
		second.Rest()
		if err := last.Take(t.Context(), 1); err != nil {
			t.Fatalf("a call beside two streams that rest: %v", err)
		}
		for _, ticket := range []*Ticket{&first, &second, &last, &plain} {
			ticket.Leave()
		}
		if a.ordinary.running.Load() != 0 || a.UnderWay() != 0 || a.account(c).streams.Load() != 0 {
			t.Errorf("afterwards %d turns are taken, %d calls are under way", a.ordinary.running.Load(), a.UnderWay())
		}
	})
}
