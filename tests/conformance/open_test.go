package conformance

import (
	"sync"
	"testing"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/store"
)

// open opens a store in a directory of its own, small, and closes it when the test ends.
func open(tb testing.TB, config store.Config) (datastore.Datastore, error) {
	config.CacheBytes, config.MemTableBytes, config.DiskReserve = 1<<20, 1<<20, 1
	s, err := store.Open(tb.TempDir(), config)
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("closing: %v", err)
		}
	})
	return s, nil
}

// freezer is a file system whose files can be frozen: a goroutine that writes to one waits.
type freezer struct {
	vfs.FS
	mu     sync.Mutex
	thawed chan struct{} // closed unless frozen
}

func newFreezer() *freezer {
	f := &freezer{FS: vfs.Default, thawed: make(chan struct{})}
	close(f.thawed)
	return f
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.thawed = make(chan struct{})
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.thawed)
}

func (f *freezer) wait() {
	f.mu.Lock()
	thawed := f.thawed
	f.mu.Unlock()
	<-thawed
}

// Create is vfs.FS's.
func (f *freezer) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.wait()
	return f.FS.Create(name, category)
}
