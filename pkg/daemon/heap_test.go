package daemon

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestPercentFor: the room is what was asked for, within the bounds.
func TestPercentFor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		headroom, live uint64
		want           int
	}{
		{256 << 20, 0, maxPercent},
		{256 << 20, 1 << 20, maxPercent},
		{256 << 20, 64 << 20, 400},
		{256 << 20, 128 << 20, 200},
		{256 << 20, 256 << 20, 100},
		{256 << 20, 16 << 30, minPercent},
		{1, 1 << 20, minPercent},
	} {
		if got := percentFor(test.headroom, test.live); got != test.want {
			t.Errorf("a headroom of %d over %d is %d %%, want %d %%", test.headroom, test.live, got, test.want)
		}
	}
}

// TestLimitFor: the memory's limit is beyond what the percentage allows, and follows what is in use.
func TestLimitFor(t *testing.T) {
	t.Parallel()
	for _, live := range []uint64{0, 1 << 20, 200 << 20, 300 << 20, 4 << 30} {
		const headroom, others = 256 << 20, 30 << 20
		goal := live + live*uint64(percentFor(headroom, live))/100
		limit := uint64(limitFor(headroom, live, others))
		if limit < others+goal || limit > others+goal+headroom*3/2 {
			t.Errorf("with %d in use the heap may grow to %d, and the memory to %d", live, goal, limit)
		}
	}
	if limit := limitFor(math.MaxUint64/4, math.MaxUint64/4, 0); limit != math.MaxInt64 {
		t.Errorf("a limit of %d is not the largest", limit)
	}
}

// TestNoGrowthByAMultiple: where much more is in use at a collection than at the one before, the heap does not grow by a multiple of that
// before the next adjustment.
func TestNoGrowthByAMultiple(t *testing.T) {
	t.Setenv("GOGC", "")
	const bytes = 32 << 20
	defer KeepHeadroom(bytes)()
	runtime.GC()
	limit := debug.SetMemoryLimit(-1)
	if limit > 1<<30 {
		t.Fatalf("the limit is %d MiB", limit>>20)
	}
	much := make([]byte, 256<<20)
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		runtime.GC()
		if now := debug.SetMemoryLimit(-1); now >= limit+256<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the limit does not follow what is in use")
		}
	}
	runtime.KeepAlive(much)
}

// percent is Go's percentage as it is.
func percent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

// TestKeepHeadroom: what is in use is looked at after each collection, and the end is as the beginning was.
func TestKeepHeadroom(t *testing.T) {
	t.Setenv("GOGC", "")
	before, limit := percent(), debug.SetMemoryLimit(-1)
	stop := KeepHeadroom(64 << 20)
	until := func(what string, reached func(int) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !reached(percent()); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the percentage stays %d", what, percent())
			}
			runtime.GC()
		}
	}
	until("little in use", func(p int) bool { return p == maxPercent })
	func() {
		much := make([]byte, 256<<20)
		until("much in use", func(p int) bool { return p == minPercent })
		runtime.KeepAlive(much)
	}()
	until("little in use again", func(p int) bool { return p == maxPercent })
	stop()
	if after := percent(); after != before {
		t.Errorf("afterwards the percentage is %d, not %d", after, before)
	}
	if after := debug.SetMemoryLimit(-1); after != limit {
		t.Errorf("afterwards the memory's limit is %d, not %d", after, limit)
	}
	t.Setenv("GOGC", "100")
	stop = KeepHeadroom(64 << 20)
	defer stop()
	if set := percent(); set != before {
		t.Errorf("with GOGC in the environment the percentage becomes %d", set)
	}
}
