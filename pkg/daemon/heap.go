package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// A server's heap is small and short-lived: what it keeps is bounded, and the blocks of the files are not in it. At
// Go's default the heap is collected each time that it has doubled, for a server at work many times a second. So it
// gets some room.

// DefaultHeadroom is how much the heap may grow between two collections, in bytes.
const DefaultHeadroom = 256 << 20

// The heap grows to twice what is in use at least, which is Go's default, and to five times that at most, so that
// what it grows to before the first adjustment is bounded too.
const (
	minPercent = 100
	maxPercent = 400
)

// KeepHeadroom lets the heap of this process grow by a number of bytes between two collections, 0 being
// DefaultHeadroom, where Go's default lets it grow by less. It changes nothing where the environment says GOGC.
// The function that it returns ends that, and has to be called before it is called again.
func KeepHeadroom(bytes int64) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	if bytes <= 0 {
		bytes = DefaultHeadroom
	}
	h := &headroom{bytes: uint64(bytes), collected: make(chan struct{}, 1), stopped: make(chan struct{})}
	was := debug.SetGCPercent(minPercent)
	h.watch()
	h.adjust()
	var done sync.WaitGroup
	done.Go(h.run)
	return func() {
		close(h.stopped)
		done.Wait()
		debug.SetGCPercent(was)
	}
}

// headroom adjusts Go's percentage after each collection.
type headroom struct {
	bytes              uint64
	percent            int
	collected, stopped chan struct{}
}

// run adjusts until it is stopped.
func (h *headroom) run() {
	for {
		select {
		case <-h.stopped:
			return
		case <-h.collected:
			h.adjust()
			h.watch()
		}
	}
}

// watch has collected told of the next collection: nobody has what it makes.
func (h *headroom) watch() {
	runtime.AddCleanup(new([64]byte), func(collected chan<- struct{}) {
		select {
		case collected <- struct{}{}:
		default:
		}
	}, h.collected)
}

// adjust sets the percentage for what was in use after the last collection.
func (h *headroom) adjust() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if p := percentFor(h.bytes, live[0].Value.Uint64()); p != h.percent {
		h.percent = p
		debug.SetGCPercent(p)
	}
}

// percentFor returns by how much of what is in use the heap may grow.
func percentFor(headroom, live uint64) int {
	return int(min(max(headroom*100/max(live, 1), minPercent), maxPercent))
}
