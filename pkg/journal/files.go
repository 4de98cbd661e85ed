package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
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

// writeFile writes a file durably: under its name there is what was there before, or all of text.
func writeFile(fs vfs.FS, dir, name string, text []byte) error {
	path := fs.PathJoin(dir, name)
	file, err := fs.Create(path+newSegment, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", path, err)
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = fs.Rename(path+newSegment, path)
	}
	if err == nil {
		err = syncDir(fs, dir)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

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
		if err := syncDir(fs, parent); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes durable which files a directory has.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what it was for
	}
	return errors.Join(d.Sync(), d.Close())
}

// isNotExist reports whether a file is not there.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
