package persons

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const eraseLockName = "persons.erase.lock"

// Erase destroys the key of a person in a tenant, and with allTenants those in all tenants, whose Tenant is then not read. It may be called beside
// the server that has the keys open: what is sealed under them is gone at once. It returns how many keys were destroyed; they are durably gone
// when it returns without an error, and after an error it has to be called again. The person can get another key, with which nothing of before
// opens. Of cfg, Dir, FS and Secret are read.
func Erase(cfg Config, p Person, allTenants bool) (destroyed int, err error) {
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	path := cfg.FS.PathJoin(cfg.Dir, FileName)
	defer func() {
		if err != nil {
			err = fmt.Errorf("persons: cannot erase from %s: %w", path, err)
		}
	}()
	c, err := newCrypto(cfg.Secret)
	if err != nil {
		return 0, err
	}
	if _, err := cfg.FS.Stat(path); err != nil {
		return 0, err //nolint:wrapcheck // the path is named above
	}
	lock, err := cfg.FS.Lock(cfg.FS.PathJoin(cfg.Dir, eraseLockName))
	if err != nil {
		return 0, fmt.Errorf("another erasure is running: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	f, err := cfg.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err //nolint:wrapcheck // the path is named above
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var head slot
	if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("cannot read: %w", err)
	}
	if err := c.checkHeader(&head); err != nil {
		return 0, err
	}
	return destroy(c, f, p, allTenants)
}

// destroy overwrites slots. Those that are not sound are overwritten too, if what is left of them names the person.
func destroy(c *crypto, f vfs.File, p Person, allTenants bool) (destroyed int, err error) {
	tag, person := c.tag(p), c.person(p)
	err = each(f, 1, func(n uint32, s *slot) error {
		if s.tag() != tag && (!allTenants || s.person() != person) {
			return nil
		}
		if err := writeSlot(f, n, new(slot)); err != nil {
			return err
		}
		destroyed++
		return nil
	})
	if err != nil {
		return 0, err
	}
	// Also where nothing was found: an erasure before this one may have failed to sync.
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("cannot sync: %w", err)
	}
	return destroyed, nil
}
