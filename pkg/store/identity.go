package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
)

// Rename gives the store in a directory, which nobody may have open, a new id, so that revisions which name it by the old one cannot name its data any
// more. It returns the new one. Errors: ErrInUse, ErrDamaged.
func Rename(dir string, config Config) (id string, err error) {
	config = config.complete()
	d, found, err := readDescription(config.FS, dir)
	if err != nil {
		return "", fmt.Errorf("store: cannot rename %s: %w", dir, err)
	}
	if !found || d.state != stateReady {
		return "", fmt.Errorf("store: cannot rename %s: it holds no store", dir)
	}
	lock, err := pebble.LockDirectory(dir, config.FS)
	if err != nil {
		return "", fmt.Errorf("store: cannot rename %s: %w by another process; stop that one (%w)", dir, ErrInUse, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// It may have been closed, and its file written, since it was read.
	if d, _, err = readDescription(config.FS, dir); err != nil {
		return "", fmt.Errorf("store: cannot rename %s: %w", dir, err)
	}
	d.id = uuid.NewString()
	if err := writeDescription(config.FS, dir, d); err != nil {
		return "", fmt.Errorf("store: cannot rename %s: %w", dir, err)
	}
	return d.id, nil
}
