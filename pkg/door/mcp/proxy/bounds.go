package proxy

import (
	"io"
	"net/http"
	"sync"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

const (
	// maxRequests is how many requests, streams among them, are under way at once, and maxPersonRequests how many of one person's.
	maxRequests, maxPersonRequests = 8192, 128
	// small is the size of a message that needs no turn, in bytes; maxLarge is how many larger ones of agents are held at once, and maxPersonLarge how
	// many of one person's.
	small                    = 64 << 10
	maxLarge, maxPersonLarge = 32, 4
	// maxHeld is how much memory the server's answers may take until they have been sent, in bytes as jsonrpc.Weight reckons them, and maxPersonHeld how
	// much those to one person's requests.
	maxHeld, maxPersonHeld = 1 << 30, 256 << 20
)

// bounds are how much there may be at once. It is safe for concurrent use.
type bounds struct {
	mu sync.Mutex
	// requests, large and held are those of all people.
	requests, large, held int
	people                map[person]*share
}

// share is what one person has.
type share struct{ requests, large, held, sessions int }

func newBounds() *bounds { return &bounds{people: map[person]*share{}} }

// use is a request that was let in.
type use struct {
	bounds *bounds
	of     person
	large  bool
	held   int
	// left says that the request is answered.
	left bool
}

func busy(who string) *wrong {
	return &wrong{status: http.StatusTooManyRequests, code: jsonrpc.CodeInternal, says: "Too many requests of " + who + " are under way. Wait for one."}
}

// enter lets a request in.
func (b *bounds) enter(of person) (*use, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.requests >= maxRequests {
		return nil, &wrong{status: http.StatusServiceUnavailable, code: jsonrpc.CodeInternal, says: "The guard has too many requests under way. Try again."}
	}
	s := b.shareLocked(of)
	if s.requests >= maxPersonRequests {
		b.forgetLocked(of)
		return nil, busy("this agent, for the person that it acts for,")
	}
	b.requests, s.requests = b.requests+1, s.requests+1
	return &use{bounds: b, of: of}, nil
}

// leave notes that a request is answered.
func (u *use) leave() {
	b := u.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shareLocked(u.of)
	b.requests, s.requests = b.requests-1, s.requests-1
	if u.large {
		b.large, s.large = b.large-1, s.large-1
	}
	b.held, s.held, u.left = b.held-u.held, s.held-u.held, true
	b.forgetLocked(u.of)
}

func (b *bounds) shareLocked(of person) *share {
	s := b.people[of]
	if s == nil {
		s = &share{}
		b.people[of] = s
	}
	return s
}

func (b *bounds) forgetLocked(of person) {
	if s := b.people[of]; s != nil && *s == (share{}) {
		delete(b.people, of)
	}
}

// read reads a body. One that is larger than small counts until the request is answered.
func (u *use) read(body io.Reader, most int) ([]byte, error) {
	unreadable := func(err error) error {
		if err == nil {
			return nil
		}
		return bad(http.StatusBadRequest, "The body broke off, or took too long.")
	}
	text, err := io.ReadAll(io.LimitReader(body, small+1))
	if err != nil || len(text) <= small {
		return text, unreadable(err)
	}
	if err := u.enlarge(); err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(io.LimitReader(body, int64(most-len(text)+1)))
	if text = append(text, rest...); err == nil && len(text) > most {
		return nil, bad(http.StatusRequestEntityTooLarge, "The message has more than %d bytes.", most)
	}
	return text, unreadable(err)
}

func (u *use) enlarge() error {
	b := u.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shareLocked(u.of)
	switch {
	case b.large >= maxLarge:
		return &wrong{status: http.StatusServiceUnavailable, code: jsonrpc.CodeInternal, says: "The guard has too many large messages under way. Try again."}
	case s.large >= maxPersonLarge:
		return busy("this agent, with large messages,")
	}
	b.large, s.large, u.large = b.large+1, s.large+1, true
	return nil
}

// hold counts memory that the server's answers take, until the request is answered. The nil use counts nothing.
func (u *use) hold(bytes int) error {
	if u == nil {
		return nil
	}
	b := u.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	if u.left {
		return lies("The request is answered already.")
	}
	s := b.shareLocked(u.of)
	switch {
	case u.held+bytes > maxPersonHeld:
		return &upstreamError{mcp.TooHeavy}
	case bytes > 0 && (b.held+bytes > maxHeld || s.held+bytes > maxPersonHeld):
		return &upstreamError{mcp.TooMany}
	}
	b.held, s.held, u.held = b.held+bytes, s.held+bytes, u.held+bytes
	return nil
}

// measured is what the server sends, whose memory counts as that of a request. It is not safe for concurrent use.
type measured struct {
	io.Reader

	of      *use
	weigher jsonrpc.Weigher
	// counted is what counts already, and owed what was read since.
	counted, owed int
}

// Read is io.Reader's. It fails where there is no room for more.
func (m *measured) Read(b []byte) (int, error) {
	n, err := m.Reader.Read(b)
	if m.owed += m.weigher.Add(b[:n]); m.owed < small {
		return n, err
	}
	if err := m.of.hold(m.owed); err != nil {
		return 0, err
	}
	m.counted, m.owed = m.counted+m.owed, 0
	return n, err
}

// passed notes that nothing is left of what was read.
func (m *measured) passed() {
	_ = m.of.hold(-m.counted) // there is always room for less
	m.counted, m.owed = 0, 0
}
