// Package smallfile reads the small files of settings and secrets: keys, certificates, the file of callers.
package smallfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Read returns the text of a regular file that has most bytes or fewer. Anything else, such as a named pipe, a device or a folder, is an error, and
// is never waited for: it is opened without blocking, and asked what it is once it is open, so that nothing takes its place in between.
// Errors are *fs.PathError, and show nothing of the text.
func Read(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the person who runs the program names it
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing is written
	refuse := func(why string) ([]byte, error) {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New(why)}
	}
	about, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !about.Mode().IsRegular():
		return refuse("is no regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > most:
		return refuse(fmt.Sprintf("has more than %d bytes", most))
	}
	return text, nil
}
