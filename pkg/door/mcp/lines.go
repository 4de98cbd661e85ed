package mcp

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// errTooLong is the error of a line that is longer than its bound. The lines behind it can be read.
var errTooLong = errors.New("a line is too long")

// lineReader reads lines.
type lineReader struct {
	from *bufio.Reader
	most int
}

func newLineReader(from io.Reader, most int) *lineReader {
	return &lineReader{bufio.NewReaderSize(from, 64<<10), most}
}

// next returns the next line without its end. It keeps no more than most bytes of one. The last line needs no end.
func (l *lineReader) next() ([]byte, error) {
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
			return nil, errTooLong
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

// send returns once a message was written, or when ctx is over: then it may still be written, as a whole.
func (w *lineWriter) send(ctx context.Context, m *jsonrpc.Message) error {
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
