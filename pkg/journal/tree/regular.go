package tree

import (
	"errors"
	"io"
	iofs "io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Disk is the operating system's file system for the files of a journal: each that is opened has to be a regular one. A named pipe, a device or a
// socket in its place would have the process that opens it wait, for good and deaf to signals.
var Disk vfs.FS = regular{vfs.Default}

// regular is a file system that opens regular files only. It looks before it opens: nobody but an owner of the directory could put something
// else in the file's place in between.
type regular struct{ vfs.FS }

// check returns an error where there is something that is no regular file.
func (r regular) check(name string) error {
	info, err := r.Stat(name)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = &iofs.PathError{Op: "open", Path: name, Err: errors.New("is no regular file")}
	}
	return err //nolint:wrapcheck // it names the file
}

// Open is vfs.FS's.
func (r regular) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r.FS.Open(name, options...) //nolint:wrapcheck // the caller says what it was for
}

// OpenReadWrite is vfs.FS's.
func (r regular) OpenReadWrite(name string, category vfs.DiskWriteCategory, options ...vfs.OpenOption) (vfs.File, error) {
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r.FS.OpenReadWrite(name, category, options...) //nolint:wrapcheck // as above
}

// Create is vfs.FS's.
func (r regular) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r.FS.Create(name, category) //nolint:wrapcheck // as above
}

// Lock is vfs.FS's.
func (r regular) Lock(name string) (c io.Closer, err error) {
	if err := r.check(name); err != nil {
		return nil, err
	}
	return r.FS.Lock(name) //nolint:wrapcheck // as above
}

// Unwrap is vfs.FS's.
func (r regular) Unwrap() vfs.FS { return r.FS }
