package store

import (
	"errors"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// private is the operating system's file system, with files that nobody but their owner reads: Pebble makes them as the umask
// says. A store holds who may do what, and ids of sessions.
type private struct{ vfs.FS }

// hidden takes the rights of others from a file that was just made.
func (private) hidden(name string, made vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// Create is vfs.FS's.
func (p private) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	made, err := p.FS.Create(name, category)
	return p.hidden(name, made, err)
}

// OpenReadWrite is vfs.FS's.
func (p private) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	made, err := p.FS.OpenReadWrite(name, category, opts...)
	return p.hidden(name, made, err)
}

// Unwrap is vfs.FS's.
func (p private) Unwrap() vfs.FS { return p.FS }

// hide takes the rights of others from a store's directory and from all its files, which somebody else, or an earlier version, may
// have made. Where that cannot be done the log says so.
func (private) hide(dir string, log *zap.Logger) {
	entries, err := os.ReadDir(dir)
	if err == nil {
		err = os.Chmod(dir, 0o700) //nolint:gosec // a directory has to be entered
	}
	var within *os.Root
	if err == nil {
		if within, err = os.OpenRoot(dir); err == nil {
			defer func() { _ = within.Close() }()
		}
	}
	for _, e := range entries {
		if e.Type().IsRegular() && err == nil {
			err = within.Chmod(e.Name(), 0o600)
		}
		if errors.Is(err, os.ErrNotExist) { // Pebble has taken the file away meanwhile
			err = nil
		}
	}
	if err != nil {
		log.Warn("others may be able to read the store: its rights cannot be changed", zap.String("directory", dir), zap.Error(err))
	}
}
