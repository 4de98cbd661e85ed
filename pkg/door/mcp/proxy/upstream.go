package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

const (
	// dialTime is how long a connection to the server may take.
	dialTime = 10 * time.Second
	// grace is how long the rest of an answer is read, so that its connection can be used again.
	grace = 250 * time.Millisecond
	// maxRefusal is how much is read of a refusal, and of the rest of an answer.
	maxRefusal = 64 << 10
	// maxResumes is how often a stream is gone on with that the server ended before the answer, and pause how long until then where the server
	// says nothing of it; maxPause is the longest.
	maxResumes      = 1000
	pause, maxPause = time.Second, 30 * time.Second
	// maxSessionID is how long the server's id of a session may be.
	maxSessionID = 1024
	// credentialAge is for how long a credential is used that was read from its file.
	credentialAge = 10 * time.Second
)

// Upstream is an MCP server over Streamable HTTP. Nothing that it sends is believed: its redirects are not followed, its answers are bounded, and
// what is none is an error in time. It is safe for concurrent use.
type Upstream struct {
	url    string
	client *http.Client
	// credential returns the proxy's own bearer token for the server; nil for none.
	credential func() (string, error)
}

// NewUpstream returns the server at a URL. credential returns a bearer token for it, which is asked for anew from time to time; nil is none.
func NewUpstream(at string, credential func() (string, error)) (*Upstream, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("the upstream %q is no URL of an MCP server; write one such as https://files.internal/mcp", at)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSHandshakeTimeout: dialTime, MaxIdleConnsPerHost: 256, MaxIdleConns: 256, IdleConnTimeout: idleTime, ForceAttemptHTTP2: true,
		DisableCompression: true, MaxResponseHeaderBytes: maxHeaders,
	}
	up := &Upstream{url: u.String(), client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if credential != nil {
		up.credential = remembered(credential)
	}
	return up, nil
}

// remembered asks for a credential at most once in credentialAge.
func remembered(credential func() (string, error)) func() (string, error) {
	var mu sync.Mutex
	var text string
	var at time.Time
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) < credentialAge {
			return text, nil
		}
		now, err := credential()
		if err != nil {
			return "", err
		}
		text, at = now, time.Now()
		return text, nil
	}
}

// do sends a request.
func (u *Upstream) do(ctx context.Context, method string, header http.Header, m *jsonrpc.Message) (*http.Response, error) {
	var body io.Reader
	if m != nil {
		body = bytes.NewReader(m.Append(nil))
	}
	request, err := http.NewRequestWithContext(ctx, method, u.url, body)
	if err != nil {
		return nil, err
	}
	request.Header = header.Clone()
	request.Header.Set("User-Agent", "deputy")
	if m != nil {
		request.Header.Set("Content-Type", jsonType)
		request.Header.Set("Accept", jsonType+", "+streamType)
	} else if method == http.MethodGet {
		request.Header.Set("Accept", streamType)
	}
	if u.credential != nil {
		text, err := u.credential()
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+text)
	}
	return u.client.Do(request)
}

// receiver takes what the server sends, as a guard does.
type receiver interface {
	FromServer(ctx context.Context, text []byte, request jsonrpc.ID) error
	Awaits(request jsonrpc.ID) bool
}

var _ receiver = (*mcp.Guard)(nil)

// call is a request to the server.
type call struct {
	request *jsonrpc.Message
	header  http.Header
	to      receiver
	// named is told the id of the session that the request began; nil where it begins none. lost is told that the server does not know the
	// session; nil where there is none.
	named func(id string)
	lost  func()
	// resumes says that a stream which ends before the answer is gone on with.
	resumes bool
}

// begin sends a request, and hands over what comes of it. There is an answer always, if only of the proxy's own.
func (u *Upstream) begin(ctx context.Context, c *call) {
	go func() {
		err := authz.Safely("mcp.upstream", func() error { return u.run(ctx, c) })
		if c.to.Awaits(c.request.ID) {
			c.fail(ctx, jsonrpc.Fail(c.request.ID, jsonrpc.CodeInternal, saying(err)))
		}
	}()
}

// saying is what an agent is told of an error.
func saying(err error) string {
	if e, ok := errors.AsType[*upstreamError](err); ok {
		return e.says
	}
	return "The server cannot be reached."
}

// upstreamError is an error of the server's, or of what the guard can hold of its answers, that the agent is told.
type upstreamError struct{ says string }

func (e *upstreamError) Error() string { return e.says }

func lies(format string, args ...any) error { return &upstreamError{fmt.Sprintf(format, args...)} }

// fail hands over an answer of the proxy's own.
func (c *call) fail(ctx context.Context, m *jsonrpc.Message) {
	_ = authz.Safely("mcp.upstream", func() error { return c.to.FromServer(ctx, m.Append(nil), c.request.ID) })
}

// run sends a request and reads what comes of it until the answer was handed over.
func (u *Upstream) run(ctx context.Context, c *call) error {
	// The end of ctx ends the request, too; but where its answer was read, the rest of the answer is given a moment.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), mcp.ErrCanceled) {
			cancel()
			return
		}
		time.AfterFunc(grace, cancel)
	})()
	response, err := u.do(life, http.MethodPost, c.header, c.request)
	if err != nil {
		return err
	}
	id := response.Header.Get(sessionHeader)
	if c.named != nil && response.StatusCode == http.StatusOK && id != "" {
		if len(id) > maxSessionID || strings.ContainsFunc(id, func(r rune) bool { return r < '!' || r > '~' }) {
			_ = response.Body.Close()
			return lies("The server names the session with what is no name.")
		}
		c.named(id)
	}
	for range maxResumes {
		last, retry, err := u.read(ctx, response, c)
		if err != nil || last == "" || !c.resumes || !c.to.Awaits(c.request.ID) {
			return err
		}
		timer := time.NewTimer(retry)
		select {
		case <-timer.C:
		case <-life.Done():
			timer.Stop()
			return life.Err()
		}
		header := c.header.Clone()
		header.Set(eventHeader, last)
		if response, err = u.do(life, http.MethodGet, header, nil); err != nil { //nolint:bodyclose // read closes it
			return err
		}
	}
	return lies("The server ended its answer too often before its end.")
}

// read reads one response. It returns the id of the last event, where the stream of events ended before the answer.
func (u *Upstream) read(ctx context.Context, response *http.Response, c *call) (last string, retry time.Duration, err error) {
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", 0, c.refused(ctx, response)
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	from := &measured{Reader: response.Body}
	if e, ok := exchangeOf(ctx); ok {
		from.of = e.use
	}
	switch kind {
	case jsonType:
		text, _ := buffers.Get().(*bytes.Buffer) // nothing else is in it
		defer giveBack(text)
		if err := readInto(text, from, jsonrpc.FromServer().Bytes); err != nil {
			return "", 0, err
		}
		_ = c.to.FromServer(ctx, text.Bytes(), c.request.ID) // a client that is gone does not get it
		if c.to.Awaits(c.request.ID) {
			return "", 0, lies("The server's answer is none to the request.")
		}
		return "", 0, nil
	case streamType:
	default:
		return "", 0, lies("The server's answer is neither %s nor %s.", jsonType, streamType)
	}
	retry = pause
	err = events(from, func(e sse) error {
		if e.id != "" {
			last = e.id
		}
		if e.retry > 0 {
			retry = min(e.retry, maxPause)
		}
		if len(e.data) > 0 {
			_ = c.to.FromServer(ctx, e.data, c.request.ID) // a client that is gone does not get it
		}
		if !c.to.Awaits(c.request.ID) {
			return io.EOF
		}
		return nil
	})
	if !c.to.Awaits(c.request.ID) {
		drained := time.AfterFunc(grace, func() { _ = response.Body.Close() })
		defer drained.Stop()
		_, _ = io.CopyN(io.Discard, response.Body, maxRefusal)
		return "", 0, nil
	}
	if _, told := errors.AsType[*upstreamError](err); told {
		return "", 0, err
	}
	if last == "" {
		return "", 0, lies("The server ended its answer before its end.")
	}
	from.passed() // of an event that broke off nothing is left either
	return last, retry, nil
}

// refused hands over the error with which the server refuses a request.
func (c *call) refused(ctx context.Context, response *http.Response) error {
	status := response.StatusCode
	if status == http.StatusNotFound && c.lost != nil {
		c.lost()
		return lies("The server does not know the session any more. Begin another one with initialize.")
	}
	text, err := readAll(response.Body, maxRefusal)
	if err != nil {
		return err
	}
	if e, ok := exchangeOf(ctx); ok && e.reply != nil && status >= 400 && status < 500 {
		e.reply.upstream.Store(int32(status))
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if m, err := jsonrpc.Parse(text, jsonrpc.FromServer()); kind == jsonType && err == nil && m.Failure.Kind() == jsonrpc.Object && status >= 400 &&
		(m.ID.IsZero() || m.ID == c.request.ID) {
		c.fail(ctx, &jsonrpc.Message{ID: c.request.ID, Failure: m.Failure})
		return nil
	}
	// A server that knows nothing of the wire 2026-07-28 is asked about itself on it first of all.
	unknown := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType}
	if c.request.Method == "server/discover" && slices.Contains(unknown, status) {
		m := jsonrpc.Fail(c.request.ID, codeVersion, "The server does not speak this version of the protocol.")
		m.Failure = m.Failure.With("data", supported(oldVersions, newVersion))
		c.fail(ctx, m)
		return nil
	}
	if status >= 300 && status < 400 {
		return lies("The server sends the request elsewhere, which is not followed.")
	}
	return lies("The server answers with the HTTP status %d.", status)
}

// buffers hold answers while they are read. Nothing of one is kept once it was handed over.
var buffers = sync.Pool{New: func() any { return &bytes.Buffer{} }}

// maxKept is the size of a buffer that is used again.
const maxKept = 1 << 20

// giveBack has a buffer used again, unless it is large.
func giveBack(b *bytes.Buffer) {
	if b.Cap() <= maxKept {
		b.Reset()
		buffers.Put(b)
	}
}

// readAll reads a body that has most bytes or fewer.
func readAll(body io.Reader, most int) ([]byte, error) {
	var text bytes.Buffer
	if err := readInto(&text, body, most); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// readInto is readAll into a buffer.
func readInto(text *bytes.Buffer, body io.Reader, most int) error {
	n, err := text.ReadFrom(io.LimitReader(body, int64(most)+1))
	_, told := errors.AsType[*upstreamError](err)
	switch {
	case told:
		return err
	case err != nil:
		return lies("The server's answer broke off.")
	case n > int64(most):
		return lies("The server's answer has more than %d bytes.", most)
	}
	return nil
}

// tell sends a message that nothing comes of.
func (u *Upstream) tell(ctx context.Context, m *jsonrpc.Message, header http.Header) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	response, err := u.do(ctx, http.MethodPost, header, m)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, maxRefusal)
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return lies("The server answers with the HTTP status %d.", response.StatusCode)
	}
	return nil
}

// leave tells the server that a session has ended.
func (u *Upstream) leave(ctx context.Context, header http.Header) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	response, err := u.do(ctx, http.MethodDelete, header, nil)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, response.Body, maxRefusal)
	return response.Body.Close()
}

// listen opens the stream of what the server says of its own accord. Errors are *wrong.
func (u *Upstream) listen(ctx context.Context, header http.Header) (io.ReadCloser, error) {
	gateway := func(says string) error {
		return &wrong{status: http.StatusBadGateway, code: jsonrpc.CodeInternal, says: says}
	}
	life, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(writeTime, cancel) // until the headers are there
	response, err := u.do(life, http.MethodGet, header, nil)
	if !late.Stop() && err == nil {
		_ = response.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, gateway("The server cannot be reached.")
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if response.StatusCode == http.StatusOK && kind == streamType {
		return &body{response.Body, cancel}, nil
	}
	_ = response.Body.Close()
	cancel()
	switch response.StatusCode {
	case http.StatusMethodNotAllowed:
		return nil, bad(http.StatusMethodNotAllowed, "The server says nothing of its own accord.")
	case http.StatusOK:
		return nil, gateway("The server's answer is not " + streamType + ".")
	default:
		return nil, gateway("The server answers with the HTTP status " + strconv.Itoa(response.StatusCode) + ".")
	}
}

// body is a body whose request is over once it is closed.
type body struct {
	io.ReadCloser

	cancel context.CancelFunc
}

// Close is io.Closer's.
func (b *body) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// sse is one event of a stream of server-sent events.
type sse struct {
	id    string
	retry time.Duration
	data  []byte
}

// maxEventID is how long the id of an event may be.
const maxEventID = 1024

// events reads events until each returns an error, which it returns, io.EOF as nil, or the stream ends. Events of another type than "message" have
// no data.
func events(from *measured, each func(e sse) error) error {
	most := jsonrpc.FromServer().Bytes
	bounded := &gauge{Reader: from}
	lines := mcp.NewLineReader(bounded, most+len("data: "))
	var e unfinished
	for {
		bounded.left = most + small // a line that does not end is not read to its end
		line, err := lines.Next()
		switch line = bytes.TrimSuffix(line, []byte("\r")); {
		case errors.Is(err, mcp.ErrTooLong):
			return lies("The server's answer has more than %d bytes.", most)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(line) > 0:
			e.add(line)
		case e.some:
			if err := each(e.event()); err != nil {
				return unlessEOF(err)
			}
			e = unfinished{}
		}
		if !e.some {
			from.passed() // of an event that was handed over, and of comments, nothing is left
		}
		if len(e.data) > most {
			return lies("The server's answer has more than %d bytes.", most)
		}
	}
}

func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// unfinished is an event of which more lines may come.
type unfinished struct {
	sse

	kind string
	some bool
}

// event is the event, once its last line has come.
func (e *unfinished) event() sse {
	if e.kind != "" && e.kind != "message" {
		e.data = nil
	}
	return e.sse
}

// add adds a line. One that begins with a colon is a comment.
func (e *unfinished) add(line []byte) {
	field, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	e.some = e.some || len(field) > 0
	switch string(field) {
	case "data":
		if e.data != nil {
			e.data = append(e.data, '\n')
		}
		e.data = append(e.data, value...)
	case "event":
		e.kind = string(value)
	case "id":
		if len(value) <= maxEventID && !bytes.ContainsAny(value, "\x00\r\n") {
			e.id = string(value)
		}
	case "retry":
		if n, err := strconv.ParseUint(string(value), 10, 31); err == nil {
			e.retry = time.Duration(n) * time.Millisecond
		}
	}
}

// gauge reads until nothing is left.
type gauge struct {
	io.Reader

	left int
}

// Read is io.Reader's.
func (g *gauge) Read(b []byte) (int, error) {
	if g.left <= 0 {
		return 0, mcp.ErrTooLong
	}
	n, err := g.Reader.Read(b)
	g.left -= n
	return n, err
}
