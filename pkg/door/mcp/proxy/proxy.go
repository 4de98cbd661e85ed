package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/cors"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Config is what a Proxy is made of.
type Config struct {
	// Guard is the guard's own configuration. Its Ask, Tools, Known, Mirrored and Holder are the proxy's to fill in.
	Guard mcp.Config
	// Resource is the proxy's URL as agents know it, which their tokens are for (RFC 8707). Its path is the one that messages are sent to.
	Resource *url.URL
	// AuthorizationServers are the issuers whose tokens are accepted.
	AuthorizationServers []string
	// Scopes are those that every token has to have; none asks for none.
	Scopes []string
	// Verify says whose a token is. Errors: Denied and Unauthenticated where it proves nothing, Unavailable and Exhausted where that cannot be told.
	Verify func(ctx context.Context, token string) (Caller, error)
	// Ask decides for a caller.
	Ask func(Caller) mcp.Asker
	// Upstream is the MCP server.
	Upstream *Upstream
	// Origins are those of the web pages that may send requests, beside the Resource's own.
	Origins []string
	// MaxSessions is how many sessions there are at once, MaxPersonSessions how many of them one person has with one agent, and Idle after which time
	// without a request or a stream a session ends. 0 is a default.
	MaxSessions, MaxPersonSessions int
	Idle                           time.Duration
	// TLS secures the connections; nil is without.
	TLS *tls.Config
}

// What a Config leaves out.
const (
	DefaultMaxSessions       = 10_000
	DefaultMaxPersonSessions = 100
	DefaultIdle              = 30 * time.Minute
)

const (
	// maxHeaders is the size of a request's headers, in bytes: a token has 8 KiB at most.
	maxHeaders = 32 << 10
	// headTime is how long headers may take, readTime a request's body, and idleTime how long a connection may carry no request.
	headTime, readTime, idleTime = 5 * time.Second, 30 * time.Second, time.Minute
	// writeTime is how long an agent may take to read a message, or the server to take one that it does not answer.
	writeTime = 10 * time.Second
	// maxStreams is how many requests an HTTP/2 connection may have under way.
	maxStreams = 128
)

// Proxy relays between agents and one server. It is safe for concurrent use.
type Proxy struct {
	cfg    Config
	bounds *bounds
	// tools is what is known of the server's tools on the wire without sessions.
	tools    *mcp.Tools
	sessions *sessions
	hosts    map[string]bool
	origins  map[string]bool
	// pages answers browsers that ask whether a page of another origin may send requests; nil where none may.
	pages *cors.Cors
}

// New returns a proxy.
func New(cfg Config) (*Proxy, error) {
	if err := CheckResource(cfg.Resource); err != nil {
		return nil, err
	}
	for _, one := range cfg.Scopes {
		if err := CheckScope(one); err != nil {
			return nil, err
		}
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.MaxPersonSessions == 0 {
		cfg.MaxPersonSessions = DefaultMaxPersonSessions
	}
	if cfg.Idle == 0 {
		cfg.Idle = DefaultIdle
	}
	if cfg.Guard.Timeout == 0 {
		cfg.Guard.Timeout = mcp.DefaultTimeout
	}
	if cfg.Guard.Log == nil {
		cfg.Guard.Log = zap.NewNop()
	}
	if len(cfg.Guard.StateKey) == 0 {
		cfg.Guard.StateKey = mcp.NewStateKey()
	}
	cfg.Guard.Ask, cfg.Guard.Known = askFor(cfg.Ask), &mcp.Known{}
	p := &Proxy{
		cfg: cfg, bounds: newBounds(), tools: &mcp.Tools{}, hosts: map[string]bool{strings.ToLower(cfg.Resource.Host): true},
		origins: map[string]bool{cfg.Resource.Scheme + "://" + cfg.Resource.Host: true},
	}
	for _, one := range cfg.Origins {
		p.origins[one] = true
	}
	if len(cfg.Origins) > 0 {
		p.pages = cors.New(pagesOf(cfg.Origins))
	}
	p.sessions = newSessions(p)
	return p, nil
}

// CheckResource refuses a URL that no token can be for.
func CheckResource(u *url.URL) error {
	switch {
	case u == nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil:
		return errors.New("the resource has to be the guard's URL as agents know it, such as https://mcp.example.com/files")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return fmt.Errorf("the resource %s has a query or a fragment; leave it out", u)
	}
	return nil
}

// Serve answers requests until ctx is over, and then ends what is under way. It closes the listener.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	p.hosts[listener.Addr().String()] = true
	server := &http.Server{
		Handler: p, MaxHeaderBytes: maxHeaders, ReadHeaderTimeout: headTime, IdleTimeout: idleTime, TLSConfig: p.cfg.TLS,
		ErrorLog: zap.NewStdLog(p.cfg.Guard.Log),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 16 << 10, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: idleTime, PingTimeout: headTime,
		},
		BaseContext: func(net.Listener) context.Context { return life },
	}
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		_ = authz.Safely("mcp.sweep", func() error {
			p.sessions.sweep(life)
			return nil
		})
	}()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		end(nil)
		p.sessions.endAll()
		brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), headTime)
		defer cancel()
		if server.Shutdown(brief) != nil {
			_ = server.Close()
		}
	})
	var err error
	if p.cfg.TLS != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if !stop() {
		<-stopped
	}
	end(nil)
	<-swept
	p.sessions.endAll()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// wrong is a request that gets no further: its status, and the error of JSON-RPC that says why.
type wrong struct {
	status int
	id     jsonrpc.ID
	code   int
	says   string
	data   jsonrpc.Value
}

// Error says what is wrong with it.
func (e *wrong) Error() string { return e.says }

// bad is a request that is wrong in itself.
func bad(status int, format string, args ...any) *wrong {
	return &wrong{status: status, code: jsonrpc.CodeInvalidRequest, says: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := &watched{ReadCloser: r.Body}
	r.Body = body
	err := authz.Safely("mcp.proxy", func() error { return p.serve(w, r) }) //nolint:contextcheck // a session's context is its own
	if err == nil {
		return
	}
	e, ok := errors.AsType[*wrong](err)
	if !ok {
		p.cfg.Guard.Log.Error("a request failed", zap.Error(err))
		e = &wrong{status: http.StatusInternalServerError, code: jsonrpc.CodeInternal, says: "The guard failed."}
	}
	if r.ProtoMajor == 1 && r.ContentLength != 0 && !body.ended {
		w.Header().Set("Connection", "close") // else the server would read what is left of the body before it answers
	}
	if e.status == http.StatusServiceUnavailable || e.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(1))
	}
	answer := jsonrpc.Fail(e.id, e.code, e.says)
	if e.data.Kind() == jsonrpc.Object {
		answer.Failure = answer.Failure.With("data", e.data)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	_, _ = w.Write(answer.Append(nil)) // a client that is gone does not read it
}

// watched is a body of which is known whether it was read to its end. It is not safe for concurrent use.
type watched struct {
	io.ReadCloser

	ended bool
}

// Read is io.Reader's.
func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}

// serve judges a request from its outside inwards: nothing of its body is read before it is known who sends it.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime))
	if err := p.fromHere(r); err != nil {
		return err
	}
	if p.pages != nil {
		p.pages.HandlerFunc(w, r)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			return nil // a browser asks for a page, without who sends the request that follows
		}
	}
	if p.isMetadata(r.URL.Path) {
		return p.metadata(w, r)
	}
	if r.URL.Path != p.path() {
		return bad(http.StatusNotFound, "There is nothing at this path. Messages are sent to %s.", p.cfg.Resource)
	}
	caller, err := p.caller(w, r)
	if err != nil {
		return err
	}
	use, err := p.bounds.enter(caller.person())
	if err != nil {
		return err
	}
	defer use.leave()
	switch r.Method {
	case http.MethodPost:
		return p.post(w, r, caller, use)
	case http.MethodGet:
		return p.sessions.get(w, r, caller, use)
	case http.MethodDelete:
		return p.sessions.delete(w, r, caller)
	}
	w.Header().Set("Allow", "POST, GET, DELETE")
	return bad(http.StatusMethodNotAllowed, "A message is sent with POST.")
}

// path is where messages are sent.
func (p *Proxy) path() string {
	if p.cfg.Resource.Path == "" {
		return "/"
	}
	return p.cfg.Resource.Path
}

// post takes one message.
func (p *Proxy) post(w http.ResponseWriter, r *http.Request, caller Caller, use *use) error {
	if err := checkPost(r); err != nil {
		return err
	}
	rules := jsonrpc.FromClient()
	text, err := use.read(r.Body, rules.Bytes)
	if err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else it would end a request that takes its time
	m, err := jsonrpc.Parse(text, rules)
	if problem, ok := errors.AsType[*jsonrpc.Problem](err); ok {
		p.cfg.Guard.Log.Info("refused a message of the agent", zap.String("why", problem.Message))
		return &wrong{status: http.StatusBadRequest, id: problem.ID, code: problem.Code, says: "The guard refuses the message: " + problem.Message + "."}
	}
	if err != nil {
		return err
	}
	isNew, err := wireOf(r.Header, m)
	if err != nil {
		return err
	}
	if err := spoken(m, isNew); err != nil {
		return err
	}
	switch {
	case isNew:
		return p.stateless(w, r, caller, use, m)
	default:
		return p.sessions.post(w, r, caller, use, m)
	}
}

// log is the guard's, about a caller.
func (p *Proxy) log(c Caller) *zap.Logger {
	return p.cfg.Guard.Log.WithLazy(zap.String("agent", c.Agent), zap.String("principal", c.Principal))
}
