//go:build linux

package border

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// dialPatience bounds what concerns a connection alone, writePatience what a server may take to read.
	dialPatience, writePatience = 5 * time.Second, 20 * time.Second
	// rawPatience is how long a server has to hang up on bytes that are no HTTP/2.
	rawPatience = 100 * time.Millisecond
	// keptData is how much of an answer is kept, and maxData how much is read before the stream is reset.
	keptData, maxData = 64 << 10, 24 << 20
)

// conn is a client's HTTP/2 connection that does as it is told, right or wrong. It is safe for concurrent use.
type conn struct {
	net.Conn
	framer *http2.Framer

	// writing guards what is written, and the compression of headers that depends on its order.
	writing sync.Mutex
	packed  bytes.Buffer
	packer  *hpack.Encoder

	mu      sync.Mutex
	moves   *sync.Cond
	next    uint32
	streams map[uint32]*stream
	// window is how much may be sent on the connection, initial what each stream starts with.
	window, initial int64
	goaway          bool
	err             error
	held            int
}

// stream is one call.
type stream struct {
	id     uint32
	window int64
	// unread keeps what it gets from being acknowledged: its server's window closes.
	unread bool
	reply
	done chan struct{}
	over bool
}

// reply is what came back.
type reply struct {
	// http is the HTTP status, code gRPC's, each as sent, "" if none was.
	http, code, message string
	// headers are all others, trailers too.
	headers []header
	data    []byte
	got     int
	// reset is set when the server reset the stream.
	reset *http2.ErrCode
	// broken is why the connection ended before an answer; goaway, that the server had announced that.
	broken error
	goaway bool
	// cut is set when the client gave up: the call had gone on for the client's patience.
	cut bool
}

// dial opens a connection and does what HTTP/2 has first.
func dial(addr string) (*conn, error) {
	plain, err := net.DialTimeout("tcp", addr, dialPatience)
	if err != nil {
		return nil, err
	}
	c := &conn{
		Conn: plain, framer: http2.NewFramer(plain, plain), streams: map[uint32]*stream{},
		next: 1, window: 65535, initial: 65535,
	}
	c.moves = sync.NewCond(&c.mu)
	c.packer = hpack.NewEncoder(&c.packed)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = 16 << 20
	c.framer.AllowIllegalWrites = true
	_ = plain.SetWriteDeadline(time.Now().Add(writePatience))
	if _, err = io.WriteString(plain, http2.ClientPreface); err == nil {
		err = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	}
	if err != nil {
		_ = plain.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

// read takes what comes until the connection ends.
func (c *conn) read() {
	for {
		frame, err := c.framer.ReadFrame()
		if bad, ok := errors.AsType[http2.StreamError](err); ok {
			c.finish(bad.StreamID, func(s *stream) { s.broken = fmt.Errorf("the server's frame is wrong: %w", err) })
			continue
		}
		if err != nil {
			_ = c.Close()
			c.fail(err)
			return
		}
		c.take(frame)
	}
}

// fail ends all streams.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for id, s := range c.streams {
		s.broken, s.goaway = c.err, c.goaway
		c.endLocked(id)
	}
	c.moves.Broadcast()
}

func (c *conn) endLocked(id uint32) {
	if s := c.streams[id]; s != nil && !s.over {
		s.over = true
		close(s.done)
	}
	delete(c.streams, id)
}

func (c *conn) finish(id uint32, change func(*stream)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		change(s)
		c.endLocked(id)
	}
	c.moves.Broadcast()
}

func (c *conn) take(frame http2.Frame) {
	id := frame.Header().StreamID
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return
		}
		c.mu.Lock()
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			for _, s := range c.streams {
				s.window += int64(v) - c.initial
			}
			c.initial = int64(v)
		}
		c.moves.Broadcast()
		c.mu.Unlock()
		c.write(func() error { return c.framer.WriteSettingsAck() })
	case *http2.PingFrame:
		if !f.IsAck() {
			c.write(func() error { return c.framer.WritePing(true, f.Data) })
		}
	case *http2.WindowUpdateFrame:
		c.mu.Lock()
		if s := c.streams[id]; s != nil {
			s.window += int64(f.Increment)
		} else if id == 0 {
			c.window += int64(f.Increment)
		}
		c.moves.Broadcast()
		c.mu.Unlock()
	case *http2.GoAwayFrame:
		c.mu.Lock()
		c.goaway = true
		c.mu.Unlock()
	case *http2.RSTStreamFrame:
		code := f.ErrCode
		c.finish(id, func(s *stream) { s.reset = &code })
	case *http2.DataFrame:
		c.takeData(f)
	case *http2.MetaHeadersFrame:
		c.mu.Lock()
		if s := c.streams[id]; s != nil {
			s.takeHeaders(f)
		}
		c.mu.Unlock()
		if f.StreamEnded() {
			c.finish(id, func(*stream) {})
		}
	}
}

func (s *stream) takeHeaders(f *http2.MetaHeadersFrame) {
	for _, h := range f.Fields {
		switch h.Name {
		case ":status":
			s.http = h.Value
		case "grpc-status":
			s.code = h.Value
		case "grpc-message":
			if s.message = h.Value; strings.Contains(h.Value, "%") {
				if text, err := url.PathUnescape(h.Value); err == nil {
					s.message = text
				}
			}
		default:
			s.headers = append(s.headers, header{h.Name, h.Value})
		}
	}
}

func (c *conn) takeData(f *http2.DataFrame) {
	id, length := f.StreamID, f.Length
	c.mu.Lock()
	s := c.streams[id]
	acknowledge, tooMuch := s != nil && !s.unread, false
	if s != nil {
		s.got += len(f.Data())
		s.data = append(s.data, f.Data()[:min(len(f.Data()), keptData-len(s.data))]...)
		tooMuch = s.got > maxData
	}
	c.mu.Unlock()
	if length > 0 {
		c.write(func() error {
			if acknowledge && !f.StreamEnded() {
				_ = c.framer.WriteWindowUpdate(id, length)
			}
			return c.framer.WriteWindowUpdate(0, length)
		})
	}
	if f.StreamEnded() {
		c.finish(id, func(*stream) {})
	} else if tooMuch {
		c.cut(id)
	}
}

func (c *conn) write(frames func() error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(writePatience))
	if err := frames(); err != nil {
		_ = c.Close() // the reader says so to everybody
	}
}

// cut resets a stream.
func (c *conn) cut(id uint32) {
	c.write(func() error { return c.framer.WriteRSTStream(id, http2.ErrCodeCancel) })
	c.finish(id, func(s *stream) { s.cut = true })
}

// usable reports whether the connection takes new calls.
func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.goaway && c.next < 1<<30
}

// headersOf are the headers of a call.
func headersOf(in *input) []header {
	headers := []header{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", in.method},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	}
	if slices.ContainsFunc(in.parts, func(p part) bool { return p.kind == "gzip" }) {
		headers = append(headers, header{"grpc-encoding", "gzip"})
	}
	if key := keyOf(in.role); *key != "" {
		headers = append(headers, header{"authorization", "Bearer " + *key})
	}
	headers = slices.DeleteFunc(headers, func(h header) bool {
		return slices.Contains(in.without, h.name) || h.name != "authorization" && slices.ContainsFunc(in.headers, func(o header) bool { return o.name == h.name })
	})
	// Pseudo-headers come first, unless an input is about that.
	at := 0
	for _, h := range in.headers {
		if strings.HasPrefix(h.name, ":") {
			headers = slices.Insert(headers, at, h)
			at++
		} else {
			headers = append(headers, h)
		}
	}
	return headers
}

// start opens a stream with its headers.
func (c *conn) start(in *input) *stream {
	s := &stream{done: make(chan struct{}), unread: in.end == "hold"}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	s.id = c.next
	c.next += 2
	if c.err != nil {
		s.broken, s.goaway, s.over = c.err, c.goaway, true
		close(s.done)
		c.mu.Unlock()
		return s
	}
	s.window = c.initial
	c.streams[s.id] = s
	c.mu.Unlock()
	c.packed.Reset()
	for _, h := range headersOf(in) {
		_ = c.packer.WriteField(hpack.HeaderField{Name: h.name, Value: h.value})
	}
	block := c.packed.Bytes()
	const most = 16 << 10
	first := block[:min(len(block), most)]
	block = block[len(first):]
	_ = c.SetWriteDeadline(time.Now().Add(writePatience))
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: first, EndHeaders: len(block) == 0, EndStream: in.end == "early",
	})
	for len(block) > 0 && err == nil {
		next := block[:min(len(block), most)]
		block = block[len(next):]
		err = c.framer.WriteContinuation(s.id, len(block) == 0, next)
	}
	if err != nil {
		_ = c.Close()
	}
	return s
}

// send sends bytes as the windows allow, and reports whether the stream still lives.
func (c *conn) send(s *stream, b []byte, most int, end bool) bool {
	if most <= 0 || most > 16<<10 {
		most = 16 << 10
	}
	// A peer that never opens the window is given up.
	given := time.AfterFunc(writePatience, func() { c.cut(s.id) })
	defer given.Stop()
	for first := true; first || len(b) > 0; first = false {
		c.mu.Lock()
		for !s.over && c.err == nil && len(b) > 0 && (s.window <= 0 || c.window <= 0) {
			c.moves.Wait()
		}
		if s.over || c.err != nil {
			c.mu.Unlock()
			return false
		}
		n := len(b)
		if n > 0 {
			n = int(min(int64(n), int64(most), s.window, c.window))
		}
		s.window -= int64(n)
		c.window -= int64(n)
		c.mu.Unlock()
		last := end && n == len(b)
		c.write(func() error { return c.framer.WriteData(s.id, last, b[:n]) })
		b = b[n:]
	}
	return true
}

// call does what an input says on a connection, with its parts as bytes, and returns what came back. patience bounds the wait
// for an answer.
func (c *conn) call(in *input, bodies [][]byte, patience time.Duration) reply {
	s := c.start(in)
	open := in.end != "early"
	for i, b := range bodies {
		last := i == len(bodies)-1 && in.end != "hold" && in.end != "reset"
		if open = open && c.send(s, b, in.split, last); !open {
			break
		}
	}
	if open && len(bodies) == 0 && in.end != "hold" && in.end != "reset" {
		c.send(s, nil, 0, true)
	}
	switch in.end {
	case "reset":
		c.cut(s.id)
	case "hold":
		patience = min(patience, 20*time.Millisecond)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-s.done:
	case <-late.C:
		if in.end == "hold" {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.held++
			r := s.reply
			r.cut = true
			return r
		}
		c.cut(s.id)
	}
	<-s.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.reply
}

// callRaw writes bytes on a connection of its own and returns how that ended. A server may leave it open.
func callRaw(w *world, addr string, in *input) (net.Conn, error) {
	plain, err := net.DialTimeout("tcp", addr, dialPatience)
	if err != nil {
		return nil, err
	}
	_ = plain.SetDeadline(time.Now().Add(dialPatience))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, plain)
	}()
	for _, p := range in.parts {
		if _, err := plain.Write(w.body(p)); err != nil {
			break // that it hangs up is its right
		}
	}
	if in.end == "hold" {
		_ = plain.SetDeadline(time.Time{})
		return plain, nil
	}
	select {
	case <-ended:
	case <-time.After(rawPatience):
	}
	return nil, plain.Close()
}
