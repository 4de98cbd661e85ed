package cli

import (
	"context"
	"io"
)

// readFunc is an io.Reader.
type readFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// untilDone reads from a reader until ctx ends, even while nothing comes: a command that waits for its input has to end on a
// signal like any other. What the abandoned read still brings is lost.
func untilDone(ctx context.Context, from io.Reader) io.Reader {
	type result struct {
		n   int
		err error
	}
	return readFunc(func(b []byte) (int, error) {
		// The read goes into a buffer of its own, because b is the caller's again once this returns.
		buffer, done := make([]byte, len(b)), make(chan result, 1)
		go func() {
			n, err := from.Read(buffer)
			done <- result{n, err}
		}()
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case r := <-done:
			return copy(b, buffer[:r.n]), r.err
		}
	})
}
