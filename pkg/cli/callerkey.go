package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyOut is where --out puts a new key. The zero keyOut is standard output.
//
// The key is in a temporary file beside its place before the file of callers is written, so that a folder that nobody may write to is
// found out in time, and gets to its place only afterwards, so that a command that fails leaves the key that was there.
type keyOut struct {
	path      string
	temporary string
	// mayReplace says that a file that is there is replaced.
	mayReplace bool
}

// prepare writes the key beside the place of --out. callers is the file of callers, which a key cannot replace.
func (o *keyOut) prepare(key, callers string) error {
	if o.path == "" {
		return nil
	}
	if key == "" {
		return errors.New("--out is for a key, and a caller with a certificate or a token has none; leave it out")
	}
	// The file that a symbolic link leads to is replaced, as the file of callers is.
	if target, err := filepath.EvalSymlinks(o.path); err == nil {
		o.path = target
	}
	if sameFile(o.path, callers) {
		return fmt.Errorf("--out: %s is the file of callers; name another one", o.path)
	}
	switch is, err := os.Lstat(o.path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("--out: %w", err)
	case !is.Mode().IsRegular():
		return fmt.Errorf("--out: %s is no regular file; name a file for the key", o.path)
	case !o.mayReplace:
		return fmt.Errorf("--out: %s is there already, and may hold another caller's key; name another file", o.path)
	}
	f, err := os.CreateTemp(filepath.Dir(o.path), "."+filepath.Base(o.path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	o.temporary = f.Name()
	_, err = f.WriteString(key + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		o.discard()
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// sameFile reports whether two paths lead to one file, which need not be there.
func sameFile(a, b string) bool {
	if is, err := os.Stat(a); err == nil {
		other, err := os.Stat(b)
		return err == nil && os.SameFile(is, other)
	}
	one, err := filepath.Abs(a)
	other, otherErr := filepath.Abs(b)
	return err == nil && otherErr == nil && one == other
}

// commit puts the key into its place.
func (o *keyOut) commit() error {
	if o.mayReplace {
		return os.Rename(o.temporary, o.path)
	}
	// Unlike a rename, a link replaces no file that somebody else made in the meantime.
	return os.Link(o.temporary, o.path)
}

// discard removes what prepare left.
func (o *keyOut) discard() {
	if o.temporary != "" {
		_ = os.Remove(o.temporary)
	}
}
