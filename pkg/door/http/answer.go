package http

import (
	"context"
	"errors"
	"io"
	"math"
	nethttp "net/http"
	"time"
)

// answer is what a request is answered with, and how its body is read. It sees to it that a client takes what is sent to it in time, and that the
// connection of a body that nobody reads is not read on.
type answer struct {
	nethttp.ResponseWriter
	request *nethttp.Request
	control *nethttp.ResponseController
	// old says that the connection is to serve no more.
	old  bool
	head bool
	body *body
}

func newAnswer(w nethttp.ResponseWriter, r *nethttp.Request, old bool) *answer {
	a := &answer{ResponseWriter: w, request: r, control: nethttp.NewResponseController(w), old: old}
	if r.ProtoMajor == 1 {
		a.writeWithin(0) // what was set for the connection's request before
	}
	return a
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() nethttp.ResponseWriter { return a.ResponseWriter }

// WriteHeader is http.ResponseWriter's.
func (a *answer) WriteHeader(status int) {
	if !a.head {
		a.head = true
		if a.old || a.isUnread() {
			// Else the server would read what is left of the body before it answers.
			a.Header().Set("Connection", "close")
		}
		a.writeWithin(takeTime)
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (a *answer) Write(p []byte) (int, error) {
	if !a.head {
		a.WriteHeader(nethttp.StatusOK)
	}
	return a.ResponseWriter.Write(p)
}

// Flush is http.Flusher's.
func (a *answer) Flush() {
	if !a.head {
		a.WriteHeader(nethttp.StatusOK)
	}
	_ = a.control.Flush() // what cannot be sent is found out by the next write
}

// writeWithin has what is written fail unless the client takes it in a time; 0 is for ever.
func (a *answer) writeWithin(limit time.Duration) {
	_ = a.control.SetWriteDeadline(deadline(limit)) // all of net/http's have it
}

// readWithin has reading fail unless the body comes in a time.
func (a *answer) readWithin(limit time.Duration) { _ = a.control.SetReadDeadline(deadline(limit)) }

// deadline is when a time is over; less than 0 is over.
func deadline(limit time.Duration) time.Time {
	if limit == 0 {
		return time.Time{}
	}
	return time.Now().Add(limit)
}

// answerKey is under which the context of a call has its answer.
type answerKey struct{}

// track returns the request with a body that says whether it was read to its end, and the body.
func (a *answer) track(r *nethttp.Request) (*nethttp.Request, *body) {
	r = r.WithContext(context.WithValue(r.Context(), answerKey{}, a))
	a.body = &body{ReadCloser: r.Body, length: r.ContentLength, ended: r.ContentLength == 0}
	r.Body = a.body
	return r, a.body
}

// end ends the reading of a body that nobody has read: the server would go on with it behind the answer.
func (a *answer) end() {
	if a.isUnread() {
		a.readWithin(-time.Second)
	}
}

// isUnread reports whether there is more on the connection of the request than was read.
func (a *answer) isUnread() bool {
	return a.request.ProtoMajor == 1 && a.request.ContentLength != 0 && (a.body == nil || !a.body.ended)
}

const (
	// freeBytes is how much of a body is read without asking for room.
	freeBytes = 32 << 10
	// frameBytes is what a frame takes beside its message.
	frameBytes = 5
)

// body is the body of a request. Reading fails before it is open, so that nothing is read of a caller who is not known.
type body struct {
	io.ReadCloser
	// length is what the request says of it; less than 0 where it says nothing.
	length int64
	// limit is how long the message may be that it has, and room asks for the room that one takes beyond freeBytes.
	limit int
	room  func() error
	// free is how much may be read before room is asked for, once it is asked.
	free          int64
	asked         bool
	read          int64
	isOpen, ended bool
}

// errNotOpen is a read of a body before its caller is known, which connect-go does not do.
var errNotOpen = errors.New("http: the body of a call is read too early")

// openAll has it be read to its end, by a reader that has bounds of its own.
func (b *body) openAll() { b.isOpen, b.asked, b.limit = true, true, math.MaxInt32 }

// open has it be read, as far as a message of a limit goes. packed says that the message is compressed.
func (b *body) open(limit int, packed bool, room func(bytes int) error) error {
	if b.length > int64(limit+frameBytes) {
		return tooLarge(limit)
	}
	b.isOpen, b.limit, b.free, b.asked = true, limit, freeBytes, limit <= freeBytes
	takes := 2 * limit // it is read, and copied
	switch {
	case packed:
		takes, b.free = 3*limit, 0
	case b.length > 0:
		takes = 2 * int(b.length)
	}
	b.room = func() error { return room(takes) }
	return nil
}

// Read is io.Reader's.
func (b *body) Read(p []byte) (int, error) {
	if !b.isOpen {
		return 0, errNotOpen
	}
	if b.read > int64(b.limit+frameBytes) {
		return 0, tooLarge(b.limit)
	}
	if !b.asked && b.read >= b.free {
		b.asked = true
		if err := b.room(); err != nil {
			return 0, err
		}
	}
	if most := b.free - b.read; !b.asked && int64(len(p)) > most {
		p = p[:most]
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}

// Close is io.Closer's. What is left is not read: net/http would do so here, and the client decides how long that takes.
func (*body) Close() error { return nil }
