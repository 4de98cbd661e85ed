package daemon

import (
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

// percent is Go's percentage as it is.
func percent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

// TestKeepHeadroom: what is in use is looked at after each collection, and the end is as the beginning was.
func TestKeepHeadroom(t *testing.T) {
	t.Setenv("GOGC", "")
	before := percent()
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
	t.Setenv("GOGC", "100")
	stop = KeepHeadroom(64 << 20)
	defer stop()
	if set := percent(); set != before {
		t.Errorf("with GOGC in the environment the percentage becomes %d", set)
	}
}
