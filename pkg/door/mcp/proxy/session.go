package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// errOver ends what is under way in a session that has ended.
var errOver = errors.New("the session has ended")

// sessions are those of the wire 2025-11-25. They are safe for concurrent use.
type sessions struct {
	proxy *Proxy
	// leaving are the sessions whose ends the server is told.
	leaving chan *session

	mu   sync.Mutex
	byID map[string]*session
}

// session is an agent that acts for a person, as the server knows it. Its id is the proxy's own: the server's is shown to nobody.
type session struct {
	id    string
	of    person
	guard *mcp.Guard
	// ctx is over with the session.
	ctx context.Context //nolint:containedctx // the session's own life
	end context.CancelCauseFunc

	mu sync.Mutex
	// upstream is the id that the server gave it, empty where it gave none, and version what was agreed on, empty before that.
	upstream, version string
	// lost says that the server does not know the session any more.
	lost bool
	// active is how many requests are under way, and last when the last one ended. streaming says that one of them is the stream of what the
	// server says of its own accord.
	active    int
	last      time.Time
	streaming bool
}

func newSessions(p *Proxy) *sessions {
	return &sessions{proxy: p, leaving: make(chan *session, 1024), byID: map[string]*session{}}
}

// begin begins a session, within the bounds.
func (s *sessions) begin(c Caller) (*session, error) {
	one := &session{id: rand.Text(), of: c.person(), active: 1}
	one.ctx, one.end = context.WithCancelCause(context.Background())
	cfg := s.proxy.cfg.Guard
	cfg.Log, cfg.Holder = s.proxy.log(c), one.of.String()
	one.guard = mcp.Between(cfg, agent{asks: true}, &sessionEnd{s, one})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= s.proxy.cfg.MaxSessions {
		return nil, &wrong{status: http.StatusServiceUnavailable, code: jsonrpc.CodeInternal, says: "The guard has too many sessions. Try again."}
	}
	if !s.proxy.bounds.began(one.of, s.proxy.cfg.MaxPersonSessions) {
		return nil, &wrong{
			status: http.StatusTooManyRequests, code: jsonrpc.CodeInternal,
			says: "This agent has too many sessions for the person that it acts for. End one with DELETE.",
		}
	}
	s.byID[one.id] = one
	return one, nil
}

// find returns the session that a request names, and that is of the person whose token it brings: another one's is as little there as one that has
// ended. The session does not become idle before leave.
func (s *sessions) find(r *http.Request, c Caller) (*session, error) {
	id, err := only(r.Header, sessionHeader)
	switch {
	case err != nil:
		return nil, err
	case id == "":
		return nil, bad(http.StatusBadRequest, "The header %s is missing. A session begins with initialize.", sessionHeader)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byID[id]
	if found == nil || found.of != c.person() {
		return nil, bad(http.StatusNotFound, "There is no such session. Begin one with initialize.")
	}
	found.mu.Lock()
	defer found.mu.Unlock()
	found.active++
	return found, nil
}

func (one *session) leave() {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.active--
	one.last = time.Now()
}

// drop ends a session. told says whether the server is told, which is done elsewhere.
func (s *sessions) drop(one *session, told bool) {
	s.mu.Lock()
	there := s.byID[one.id] == one
	delete(s.byID, one.id)
	s.mu.Unlock()
	if !there {
		return
	}
	s.proxy.bounds.ended(one.of)
	one.end(errOver)
	if !told {
		return
	}
	select {
	case s.leaving <- one:
	default: // the server has a time of its own after which sessions end
	}
}

// began counts a session, where there may be one more.
func (b *bounds) began(of person, most int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shareLocked(of)
	if s.sessions >= most {
		return false
	}
	s.sessions++
	return true
}

// ended is the inverse of began.
func (b *bounds) ended(of person) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shareLocked(of).sessions--
	b.forgetLocked(of)
}

// farewells is how many ends of sessions the server is told of at once.
const farewells = 8

// sweep ends the sessions that are idle, and tells the server of those that have ended, until ctx is over.
func (s *sessions) sweep(ctx context.Context) {
	var all sync.WaitGroup
	for range farewells {
		all.Go(func() { _ = authz.Safely("mcp.farewells", func() error { return s.sayFarewells(ctx) }) })
	}
	ticker := time.NewTicker(max(s.proxy.cfg.Idle/8, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.endIdle(time.Now().Add(-s.proxy.cfg.Idle))
		case <-ctx.Done():
			all.Wait()
			return
		}
	}
}

// sayFarewells tells the server of sessions that have ended, one after the other.
func (s *sessions) sayFarewells(ctx context.Context) error {
	for {
		select {
		case one := <-s.leaving:
			// A server that does not hear it has a time of its own after which sessions end.
			_ = authz.Safely("mcp.farewell", func() error { return s.farewell(ctx, one) })
		case <-ctx.Done():
			return nil
		}
	}
}

// endIdle ends the sessions that were idle since.
func (s *sessions) endIdle(since time.Time) {
	s.mu.Lock()
	all := make([]*session, 0, len(s.byID))
	for _, one := range s.byID {
		one.mu.Lock()
		if one.active == 0 && one.last.Before(since) {
			all = append(all, one)
		}
		one.mu.Unlock()
	}
	s.mu.Unlock()
	for _, one := range all {
		s.drop(one, true)
	}
}

// endAll ends all sessions. The server is not told any more.
func (s *sessions) endAll() {
	s.mu.Lock()
	all := make([]*session, 0, len(s.byID))
	for _, one := range s.byID {
		all = append(all, one)
	}
	s.mu.Unlock()
	for _, one := range all {
		s.drop(one, false)
	}
}

// farewell tells the server that a session has ended.
func (s *sessions) farewell(ctx context.Context, one *session) error {
	header, ok := one.headers()
	if !ok {
		return nil
	}
	return s.proxy.cfg.Upstream.leave(ctx, header)
}

// headers are those of a request to the server in the session; false where the server has given it no id.
func (one *session) headers() (http.Header, bool) {
	one.mu.Lock()
	defer one.mu.Unlock()
	header := http.Header{}
	if one.upstream != "" {
		header.Set(sessionHeader, one.upstream)
	}
	if one.version != "" {
		header.Set(versionHeader, one.version)
	}
	return header, one.upstream != ""
}

// post takes a message of the wire 2025-11-25.
func (s *sessions) post(w http.ResponseWriter, r *http.Request, caller Caller, use *use, m *jsonrpc.Message) error {
	id, err := only(r.Header, sessionHeader)
	if err != nil {
		return err
	}
	if m.Method == "initialize" && m.IsRequest() {
		if id != "" {
			return bad(http.StatusBadRequest, "A session begins once: leave %s out of initialize.", sessionHeader)
		}
		return s.initialize(w, r, caller, use, m)
	}
	one, err := s.find(r, caller)
	if err != nil {
		if e, ok := errors.AsType[*wrong](err); ok && m.IsRequest() {
			e.id = m.ID
		}
		return err
	}
	defer one.leave()
	if m.IsRequest() {
		return one.answer(w, r, caller, use, m)
	}
	if err := one.guard.FromClient((&exchange{caller: caller, use: use}).in(one.ctx), m); err != nil {
		s.proxy.log(caller).Warn("the server does not take a message", zap.Error(err))
		return &wrong{status: http.StatusBadGateway, code: jsonrpc.CodeInternal, says: "The server does not take the message."}
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// answer answers a request. An agent that goes away has not cancelled it on this wire, so that it counts as under way until it ends.
func (one *session) answer(w http.ResponseWriter, r *http.Request, caller Caller, use *use, m *jsonrpc.Message) error {
	answer := newReply(w, func(*jsonrpc.Message) int {
		one.mu.Lock()
		defer one.mu.Unlock()
		if one.lost {
			return http.StatusNotFound
		}
		return http.StatusOK
	})
	ctx := (&exchange{caller, answer, use}).in(one.ctx)
	if err := one.guard.FromClient(ctx, m); err != nil && !errors.Is(err, mcp.ErrNobody) { //nolint:contextcheck // the session's
		return err
	}
	answer.wait(r.Context(), time.Time{}, true)
	return nil
}

// initialize begins a session. It is there once the server has agreed, and not at all where it does not.
func (s *sessions) initialize(w http.ResponseWriter, r *http.Request, caller Caller, use *use, m *jsonrpc.Message) error {
	begun, err := s.begin(caller)
	if err != nil {
		return err
	}
	defer begun.leave()
	agreed := false
	answer := newReply(w, func(*jsonrpc.Message) int { return http.StatusOK })
	answer.alone = true
	answer.before = func(m *jsonrpc.Message) {
		version, ok := m.Result.At("protocolVersion").Text()
		if agreed = ok; !agreed {
			return
		}
		begun.mu.Lock()
		begun.version = version
		begun.mu.Unlock()
		w.Header().Set(sessionHeader, begun.id)
	}
	if err := begun.guard.FromClient((&exchange{caller, answer, use}).in(begun.ctx), m); err != nil { //nolint:contextcheck // the session's
		s.drop(begun, true)
		return err
	}
	answer.wait(r.Context(), time.Time{}, true)
	if !agreed {
		s.drop(begun, true)
	}
	return nil
}

// get streams what the server says of its own accord, while the agent's token is good.
func (s *sessions) get(w http.ResponseWriter, r *http.Request, caller Caller, use *use) error { //nolint:contextcheck // it ends with the request
	version, err := versionOf(r.Header, jsonrpc.ID{})
	switch {
	case err != nil:
		return err
	case version == newVersion:
		w.Header().Set("Allow", "POST")
		return bad(http.StatusMethodNotAllowed, "The wire %s has no stream of this kind; it has subscriptions/listen.", newVersion)
	case !accepts(r.Header, streamType):
		return bad(http.StatusNotAcceptable, "The Accept header has to have %s.", streamType)
	case len(r.Header.Values(eventHeader)) > 0:
		return bad(http.StatusBadRequest, "No event has an id, so that none can be gone on from: leave %s out.", eventHeader)
	}
	found, err := s.find(r, caller)
	if err != nil {
		return err
	}
	defer found.leave()
	if !found.stream(true) {
		return bad(http.StatusConflict, "The session has such a stream already.")
	}
	defer found.stream(false)
	ctx, cancel := context.WithCancel(found.ctx)
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	answer := newReply(w, func(*jsonrpc.Message) int { return http.StatusOK })
	ctx = (&exchange{caller, answer, use}).in(ctx)
	header, _ := found.headers()
	from, err := s.proxy.cfg.Upstream.listen(ctx, header) //nolint:contextcheck // the session's, which ends with the request
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if answer.begin() != nil {
		return nil // the agent is gone
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		_ = authz.Safely("mcp.listen", func() error {
			return events(&measured{Reader: from, of: use}, func(e sse) error {
				if len(e.data) > 0 {
					_ = found.guard.FromServer(ctx, e.data, jsonrpc.ID{}) // nothing that the server says ends its stream
				}
				return ctx.Err()
			})
		})
	}()
	answer.wait(ctx, caller.Ends, false) //nolint:contextcheck // as above
	cancel()
	<-ended
	return nil
}

// stream notes that the session's stream begins or ends; false where it has begun already.
func (one *session) stream(begins bool) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	if begins && one.streaming {
		return false
	}
	one.streaming = begins
	return true
}

// delete ends a session.
func (s *sessions) delete(w http.ResponseWriter, r *http.Request, caller Caller) error {
	found, err := s.find(r, caller)
	if err != nil {
		return err
	}
	defer found.leave()
	s.drop(found, true)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// sessionEnd is the end of a session's guard at which the server is.
type sessionEnd struct {
	all *sessions
	of  *session
}

// Send is mcp.End's.
func (e *sessionEnd) Send(ctx context.Context, m *jsonrpc.Message) error {
	header, _ := e.of.headers()
	up := e.all.proxy.cfg.Upstream
	if !m.IsRequest() {
		return up.tell(ctx, m, header)
	}
	c := &call{request: m, header: header, to: e.of.guard, resumes: true}
	if m.Method == "initialize" {
		c.named = func(id string) {
			e.of.mu.Lock()
			defer e.of.mu.Unlock()
			e.of.upstream = id
		}
	} else if header.Get(sessionHeader) != "" {
		c.lost = func() {
			e.of.mu.Lock()
			e.of.lost = true
			e.of.mu.Unlock()
			e.all.forget(e.of)
		}
	}
	up.begin(ctx, c)
	return nil
}

// forget takes away a session that the server does not know any more. What is under way in it comes to its end by itself.
func (s *sessions) forget(one *session) {
	s.mu.Lock()
	there := s.byID[one.id] == one
	delete(s.byID, one.id)
	s.mu.Unlock()
	if there {
		s.proxy.bounds.ended(one.of)
	}
}

// known reports whether a version is one of this wire.
func known(version string) bool { return slices.Contains(oldVersions, version) }
