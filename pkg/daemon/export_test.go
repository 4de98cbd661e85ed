package daemon

import "github.com/cockroachdb/pebble/v2/vfs"

// On returns the configuration of a server whose store has its files on another file system.
func (c Config) On(files vfs.FS) Config {
	c.files = files
	return c
}
