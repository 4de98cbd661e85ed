package mcp

import (
	"bytes"
	"strconv"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

const (
	// maxKnown is how many answers of one server are known: agents of both wires get different ones.
	maxKnown = 4
	// maxKnownBytes is how long an answer may be to become known.
	maxKnownBytes = 1 << 20
)

// Known are the last answers of a server to tools/list whose tools were those that were approved. Where the server gives the very same answer again, it
// need not be read, compared and written again. Nothing in it is of an agent, and no decision: those are made for each list anew. Guards of one server
// that have the same Map and Pins can share it. The zero Known knows nothing. It is safe for concurrent use.
type Known struct {
	mu   sync.RWMutex
	last []*toolList
	// next is which of the last gives way to another one.
	next int
	// expected are the lists that the server is taken to give next, on the older wires and on the wire 2026-07-28; nil where nothing is expected.
	expected [2]*toolList
}

// toolList is a whole list of tools that was approved. It is immutable.
type toolList struct {
	// before and behind are the answer's text but for its id. They are nil where the list came in several pages.
	before, behind []byte
	// result is the answer's result, with the tools packed.
	result jsonrpc.Value
	// mirrors are the arguments that headers mirror, by the tools' names.
	mirrors map[string][]Mirror
	// asks are the questions that decide which of the tools are shown, each once, and of each tool the places of its own among them. A tool without
	// any is not shown.
	asks []mapping.Ask
	of   [][]int
}

// newToolList returns the list of the tools that a result has.
func newToolList(m *mapping.Map, result jsonrpc.Value) *toolList {
	tools := result.At("tools").Elements()
	l := &toolList{mirrors: map[string][]Mirror{}, of: make([][]int, len(tools))}
	packed := make([]jsonrpc.Value, len(tools))
	places := map[mapping.Ask]int{}
	for i, one := range tools {
		name, _ := one.At("name").Text()
		if mirrored := mirrorsOf(one); len(mirrored) > 0 {
			l.mirrors[name] = mirrored
		}
		asks, _ := m.ListTool(name)
		for _, a := range asks {
			if _, found := places[a]; !found {
				places[a] = len(l.asks)
				l.asks = append(l.asks, a)
			}
			l.of[i] = append(l.of[i], places[a])
		}
		packed[i] = one.Packed()
	}
	l.result = result.With("tools", jsonrpc.List(packed))
	return l
}

// shown is the result with the tools about which all questions are answered with yes.
func (l *toolList) shown(answers []Answer) jsonrpc.Value {
	kept := make([]jsonrpc.Value, 0, len(l.of))
	for i, one := range l.result.At("tools").Elements() {
		may := len(l.of[i]) > 0
		for _, place := range l.of[i] {
			may = may && answers[place].Allowed
		}
		if may {
			kept = append(kept, one)
		}
	}
	return l.result.With("tools", jsonrpc.List(kept))
}

// wire is the place of a wire among those for which something is expected.
func wire(isNew bool) int {
	if isNew {
		return 1
	}
	return 0
}

// expects returns the list that the server is taken to give; nil where nothing is expected.
func (k *Known) expects(isNew bool) *toolList {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.expected[wire(isNew)]
}

// gave notes which list the server gave, nil where it gave none that was approved, and which was expected. Where it gave another one than that, nothing is
// expected the next time.
func (k *Known) gave(isNew bool, list, expected *toolList) {
	if expected == list {
		return
	}
	if expected != nil || list == nil || list.before == nil {
		list = nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expected[wire(isNew)] = list
}

// ahead is a decision about the list that the server is taken to give. It is made for one request, while the server answers it.
type ahead struct {
	list *toolList
	// at is when it was asked for, and done is closed once answers, or err, is there.
	at      time.Time
	done    chan struct{}
	answers []Answer
	err     error
}

// soon is how long a decision that was made ahead may wait for the server. After that it is made anew.
const soon = time.Second

// askAhead begins to decide about a list that is expected. With nil it returns nil.
func (g *Guard) askAhead(f *flight, list *toolList) *ahead {
	if list == nil {
		return nil
	}
	a, ctx, call := &ahead{list: list, at: time.Now(), done: make(chan struct{})}, f.ctx, f.call
	go func() {
		defer close(a.done)
		a.err = authz.Safely("mcp.ahead", func() (err error) {
			a.answers, err = g.answers(ctx, call, list.asks, maxListAsks)
			return err
		})
	}()
	return a
}

// decided decides about the list that the server gave, unless that was done ahead.
func (g *Guard) decided(f *flight, list *toolList, early *ahead) ([]Answer, error) {
	if early != nil && early.list == list && time.Since(early.at) < soon {
		<-early.done // its end is that of the request, at the latest
		return early.answers, early.err
	}
	return g.answers(f.ctx, f.call, list.asks, maxListAsks)
}

// find returns the list that an answer of the server has, and which request it answers; nil where it is none that is known.
func (k *Known) find(text []byte) (*toolList, jsonrpc.ID) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, l := range k.last {
		if id, same := l.answers(text); same {
			return l, id
		}
	}
	return nil, jsonrpc.ID{}
}

// answers reports whether a text is that of the list with another id: one that the guard gave, a whole number as it writes it.
func (l *toolList) answers(text []byte) (jsonrpc.ID, bool) {
	const digits = 16
	n := len(text) - len(l.before) - len(l.behind)
	if n < 1 || n > digits || !bytes.HasPrefix(text, l.before) || !bytes.HasSuffix(text, l.behind) {
		return jsonrpc.ID{}, false
	}
	written := string(text[len(l.before) : len(l.before)+n])
	number, err := strconv.ParseInt(written, 10, 64)
	if err != nil || strconv.FormatInt(number, 10) != written {
		return jsonrpc.ID{}, false
	}
	return jsonrpc.IDOf(jsonrpc.Whole(number))
}

// add remembers a list that was approved, and the text of the answer that has it.
func (k *Known) add(l *toolList, text []byte) {
	before, behind, ok := jsonrpc.AroundID(text)
	if !ok || len(text) > maxKnownBytes {
		return
	}
	l.before, l.behind = bytes.Clone(before), bytes.Clone(behind)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.last) < maxKnown {
		k.last = append(k.last, l)
		return
	}
	k.last[k.next] = l
	k.next = (k.next + 1) % maxKnown
}
