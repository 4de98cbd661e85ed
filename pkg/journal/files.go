package journal

import (
	"errors"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// private is the operating system's file system, with files that only their owner reads, whatever the umask: a journal tells who
// asked for what.
type private struct{ vfs.FS }

// Create is vfs.FS's.
func (p private) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	made, err := p.FS.Create(name, category)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what it was for
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// Unwrap is vfs.FS's.
func (p private) Unwrap() vfs.FS { return p.FS }

// makeDir makes a directory, and those that it lies in, durably.
func makeDir(fs vfs.FS, dir string) error {
	var made []string
	for at := dir; ; {
		if _, err := fs.Stat(at); err == nil {
			break
		}
		parent := fs.PathDir(at)
		made = append(made, parent)
		if parent == at || parent == "." || parent == "" {
			break
		}
		at = parent
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err //nolint:wrapcheck // the caller says what it was for
	}
	for _, parent := range made {
		if err := tree.SyncDir(fs, parent); err != nil {
			return err //nolint:wrapcheck // as above
		}
	}
	return nil
}

// isNotExist reports whether a file is not there.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
