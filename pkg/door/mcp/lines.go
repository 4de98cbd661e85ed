package mcp

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// ErrTooLong is the error of a line that is longer than its bound. The lines behind it can be read.
var ErrTooLong = errors.New("a line is too long")

// readAhead is how much is read at once.
const readAhead = 8 << 10

// LineReader reads lines.
type LineReader struct {
	from *bufio.Reader
	most int
}

// NewLineReader returns a reader of lines that have most bytes or fewer.
func NewLineReader(from io.Reader, most int) *LineReader {
	return &LineReader{bufio.NewReaderSize(from, readAhead), most}
}

// Next returns the next line without its end. It keeps no more than most bytes of one: a longer one is ErrTooLong, and the lines behind it can be
// read. The last line needs no end.
func (l *LineReader) Next() ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := l.from.ReadSlice('\n')
		if long = long || len(line)+len(part) > l.most+1; !long {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (len(line) == 0 && !long || !errors.Is(err, io.EOF)):
			return nil, err
		case long:
			return nil, ErrTooLong
		}
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		return line, nil
	}
}

// lineWriter writes messages as lines, one after the other. It is safe for concurrent use.
type lineWriter struct {
	lines chan line
}

// line is a message that is to be written. written is closed once it is.
type line struct {
	text    []byte
	written chan struct{}
}

func newLineWriter() *lineWriter { return &lineWriter{make(chan line)} }

// Send is End's. It returns once a message was written, or when ctx or the time of a message is over: then it may still be written, as a whole.
func (w *lineWriter) Send(ctx context.Context, m *jsonrpc.Message) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stuck, errStuck)
	defer cancel()
	one := line{append(m.Append(nil), '\n'), make(chan struct{})}
	select {
	case w.lines <- one:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-one.written:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes what is handed over until ctx is over, or an error.
func (w *lineWriter) write(ctx context.Context, to io.Writer) error {
	for {
		select {
		case one := <-w.lines:
			if _, err := to.Write(one.text); err != nil {
				return err
			}
			close(one.written)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
