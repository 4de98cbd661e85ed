package daemon

import (
	"math"
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
const DefaultHeadroom = 224 << 20

// The heap grows to twice what is in use at least, which is Go's default, and to five times that at most, so that
// what it grows to before the first adjustment is bounded too.
const (
	minPercent = 100
	maxPercent = 400
)

// KeepHeadroom lets the heap of this process grow by a number of bytes between two collections, 0 being
// DefaultHeadroom, where Go's default lets it grow by less. It changes nothing where the environment says GOGC.
// A memory limit that the environment sets (GOMEMLIMIT) stays one. The function that it returns ends that, and has to be called before
// it is called again.
func KeepHeadroom(bytes int64) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	if bytes <= 0 {
		bytes = DefaultHeadroom
	}
	limit := debug.SetMemoryLimit(-1)
	h := &headroom{bytes: uint64(bytes), limit: limit, collected: make(chan struct{}, 1), stopped: make(chan struct{})}
	was := debug.SetGCPercent(minPercent)
	h.watch()
	h.adjust()
	var done sync.WaitGroup
	done.Go(h.run)
	return func() {
		close(h.stopped)
		done.Wait()
		debug.SetGCPercent(was)
		debug.SetMemoryLimit(limit)
	}
}

// headroom adjusts Go's percentage after each collection.
type headroom struct {
	bytes uint64
	// limit is the limit of the process's memory before.
	limit              int64
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

// adjust sets the percentage for what was in use after the last collection, and the memory's limit: what is in use may have grown by
// much at the next collection, and a percentage that was set for little would let the heap grow by a multiple of that, until this
// goroutine has its turn.
func (h *headroom) adjust() {
	now := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(now)
	live, others := now[0].Value.Uint64(), now[1].Value.Uint64()
	for _, heap := range now[2:] {
		others -= min(others, heap.Value.Uint64())
	}
	debug.SetMemoryLimit(min(h.limit, limitFor(h.bytes, live, others)))
	if p := percentFor(h.bytes, live); p != h.percent {
		h.percent = p
		debug.SetGCPercent(p)
	}
}

// limitFor returns how much memory the process may have until the next adjustment, where its heap has live bytes in use and everything
// else has others: what the percentage lets the heap grow to, and half of the headroom.
func limitFor(headroom, live, others uint64) int64 {
	return int64(min(others+live+max(live, headroom)+headroom/2, math.MaxInt64))
}

// percentFor returns by how much of what is in use the heap may grow.
func percentFor(headroom, live uint64) int {
	return int(min(max(headroom*100/max(live, 1), minPercent), maxPercent))
}
