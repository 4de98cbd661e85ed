package mcp_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// right is a relationship without which no call is allowed, and what is known about it.
type right struct {
	text string

	mu sync.Mutex
	// changes counts what began and what ended of the changes, so that it is odd during one. there says what it was after the last one.
	changes int
	there   bool
}

func (r *right) known() (changes int, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes, r.there
}

// change takes the right away, or gives it back.
func (r *right) change(t *testing.T, w *world) {
	t.Helper()
	r.mu.Lock()
	r.changes++
	r.mu.Unlock()
	operation := authzed.RelationshipUpdate_OPERATION_TOUCH
	if r.there {
		operation = authzed.RelationshipUpdate_OPERATION_DELETE
	}
	w.update(t, operation, r.text)
	r.mu.Lock()
	r.changes++
	r.there = !r.there
	r.mu.Unlock()
}

// changes takes rights away and gives them back, one after the other, with so many calls in between.
func changes(t *testing.T, w *world, done <-chan struct{}, ended <-chan struct{}, between int, rights []*right) {
	t.Helper()
	for n := 0; ; n++ {
		for range between {
			select {
			case <-ended:
			case <-done:
				return
			}
		}
		rights[n/2%len(rights)].change(t, w)
	}
}

// TestCallsUnderRevokes: while rights come and go, no call that begins after a revocation was acknowledged is allowed, and none that has all its rights
// throughout is refused. DEPUTY_MCP_CALLS says how many calls.
func TestCallsUnderRevokes(t *testing.T) {
	t.Parallel()
	calls := 1200
	if text := os.Getenv("DEPUTY_MCP_CALLS"); text != "" {
		var err error
		if calls, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const guards, workers = 4, 2
	var grants []string
	for i := range guards {
		grants = append(grants, fmt.Sprintf("file:%d.txt#reader for alice", i))
	}
	w := open(t, append(grants, everyone("read")...)...)
	pins := pinned(t, files())
	tool := []*right{
		{text: "mcp_tool:files/read#caller@user:alice", there: true}, {text: "mcp_tool:files/read#caller@agent:bot", there: true},
	}
	var left, wrong, allowed, refused, certain atomic.Int64
	left.Store(int64(calls))
	var all, changing sync.WaitGroup
	// The channels get an element where a call has ended and they have room.
	done, everyEnding := make(chan struct{}), make(chan struct{}, 1)
	tell := func(to chan<- struct{}) {
		select {
		case to <- struct{}{}:
		default:
		}
	}
	var connected []*guarded
	for i := range guards {
		g := through(t, files(), mcp.Config{Map: decode(t, filesMap), Pins: pins, Ask: mcp.AskerOf(w.admin, w.alice)}, newClient(nil), nil)
		connected = append(connected, g)
		file := fmt.Sprintf("file:%d.txt#reader@", i)
		rights := append([]*right{{text: file + "user:alice", there: true}, {text: file + "agent:bot", there: true}}, tool...)
		ended := make(chan struct{}, 1)
		for range workers {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					changes, may := make([]int, len(rights)), true
					for j, r := range rights {
						var there bool
						changes[j], there = r.known()
						may = may && there
					}
					got := g.call(t, "read", map[string]any{"path": fmt.Sprintf("%d.txt", i)})
					tell(ended)
					tell(everyEnding)
					// A right that was known to be missing, and that nobody has begun to give back, refuses, whatever the others do.
					steady, missing := true, false
					for j, r := range rights {
						now, there := r.known()
						same := now == changes[j] && now%2 == 0
						steady = steady && same
						missing = missing || same && !there
					}
					yes := strings.HasPrefix(got, "read ")
					switch {
					case yes:
						allowed.Add(1)
					case got == notAllowed || got == noTool:
						refused.Add(1)
					default:
						t.Errorf("neither allowed nor refused: %s", got)
					}
					if missing || steady {
						certain.Add(1)
					}
					if missing && yes || steady && may && !yes {
						wrong.Add(1)
						t.Errorf("wrong: missing %t, may %t: %s", missing, may, got)
					}
				}
			})
		}
		changing.Go(func() { changes(t, w, done, ended, 4, rights[:2]) })
	}
	changing.Go(func() { changes(t, w, done, everyEnding, 40, tool) })
	all.Wait()
	close(done)
	changing.Wait()
	total := 0
	for _, g := range connected {
		total += g.wire.count("tools/call")
	}
	if int64(total) != allowed.Load() {
		t.Errorf("the servers got %d calls, and %d were allowed", total, allowed.Load())
	}
	if most := int64(calls); wrong.Load() > 0 || allowed.Load() < most/20 || refused.Load() < most/20 || certain.Load() < most/20 {
		t.Errorf("of %d calls %d are allowed, %d refused, %d certain and %d wrong", calls, allowed.Load(), refused.Load(), certain.Load(), wrong.Load())
	}
	t.Logf("%d calls: %d allowed, %d refused, %d of them certain, %d wrong", calls, allowed.Load(), refused.Load(), certain.Load(), wrong.Load())
}
