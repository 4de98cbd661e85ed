package proxy

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// aliveEvery is how often a stream says that it is there, so that nothing on the way ends it, and an agent that is gone is noticed.
const aliveEvery = 25 * time.Second

// reply is the answer to one request over HTTP: JSON where the first message is the answer, and else a stream of events whose last is the
// answer. It is safe for concurrent use.
type reply struct {
	w http.ResponseWriter
	// status returns the status of an answer that comes as JSON.
	status func(m *jsonrpc.Message) int
	// upstream is the status with which the server refused, 0 where it did not.
	upstream atomic.Int32
	// before is told of the answer before it is written; it may be nil. Where alone is set, nothing but the answer is written.
	before func(m *jsonrpc.Message)
	alone  bool

	mu sync.Mutex
	// streaming says that the stream was begun, and closed that nothing is written any more.
	streaming, closed bool
	// broken is closed once a message could not be written, and done once there is nothing more to come.
	broken, done chan struct{}
	over         bool
}

func newReply(w http.ResponseWriter, status func(m *jsonrpc.Message) int) *reply {
	return &reply{w: w, status: status, broken: make(chan struct{}), done: make(chan struct{})}
}

// send writes a message. It returns mcp.ErrNobody where the agent is gone, or does not read.
func (r *reply) send(m *jsonrpc.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.IsAnswer() {
		defer r.overLocked()
	}
	switch {
	case r.closed:
		return mcp.ErrNobody
	case !m.IsAnswer() && r.alone:
		return nil
	case !m.IsAnswer():
		return r.writeLocked(event(m))
	}
	if r.before != nil {
		r.before(m)
	}
	if r.streaming {
		return r.writeLocked(event(m))
	}
	text := m.Append(nil)
	r.w.Header().Set("Content-Type", jsonType)
	r.w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	return r.putLocked(r.status(m), text)
}

// drop notes that no answer comes.
func (r *reply) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.streaming && !r.closed {
		_ = r.writeLocked(nil) // a stream without an answer; a client that is gone does not get it
	}
	r.overLocked()
}

// overLocked notes that nothing more comes.
func (r *reply) overLocked() {
	if r.closed = true; !r.over {
		r.over = true
		close(r.done)
	}
}

// event is a message as an event of a stream.
func event(m *jsonrpc.Message) []byte {
	return append(m.Append([]byte("event: message\ndata: ")), '\n', '\n')
}

// begin begins the stream.
func (r *reply) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writeLocked(nil)
}

// alive says that the stream is there.
func (r *reply) alive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.streaming && !r.closed {
		_ = r.writeLocked([]byte(": alive\n\n")) // a client that is gone is noticed by the next message, too
	}
}

// writeLocked writes to the stream, which it begins.
func (r *reply) writeLocked(text []byte) error {
	status := 0
	if !r.streaming {
		r.streaming, status = true, http.StatusOK
		r.w.Header().Set("Content-Type", streamType)
		r.w.Header().Set("X-Accel-Buffering", "no")
	}
	return r.putLocked(status, text)
}

// putLocked writes to the connection, in time.
func (r *reply) putLocked(status int, text []byte) error {
	control := http.NewResponseController(r.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTime))
	if status != 0 {
		r.w.WriteHeader(status)
	}
	_, err := r.w.Write(text)
	if err == nil {
		err = control.Flush()
	}
	if err != nil {
		r.closed = true
		close(r.broken) // once: nothing is written afterwards
		return mcp.ErrNobody
	}
	_ = control.SetWriteDeadline(time.Time{})
	return nil
}

// wait returns once the answer was written, the agent is gone, or ends has come, which is never where it is zero. Nothing is written afterwards. Where
// linger is set, it returns only once the request has come to an end, too.
func (r *reply) wait(ctx context.Context, ends time.Time, linger bool) {
	var late <-chan time.Time
	if !ends.IsZero() {
		timer := time.NewTimer(time.Until(ends))
		defer timer.Stop()
		late = timer.C
	}
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for waiting := true; waiting; {
		select {
		case <-r.done:
			return
		case <-ctx.Done():
			waiting = false
		case <-r.broken:
			waiting = false
		case <-late:
			waiting = false
		case <-ticker.C:
			r.alive()
		}
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	if linger {
		<-r.done
	}
}
