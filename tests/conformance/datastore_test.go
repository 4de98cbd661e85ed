package conformance

import (
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	dstest "github.com/authzed/spicedb/pkg/datastore/test"

	"github.com/deputyauth/deputy/pkg/store"
)

// tester opens a store for each test of SpiceDB's suite.
type tester struct{}

// New opens a store.
func (tester) New(tb testing.TB, p dstest.RevisionParameters, watchBuffer uint16) (datastore.Datastore, error) {
	return open(tb, store.Config{
		Retention: time.Duration(p.GCRetentionWindow), CollectEvery: time.Duration(p.GCRunInterval),
		Quantization: p.Quantization, WatchBuffer: watchBuffer,
	})
}

// NewPausable opens a store on a file system that can be frozen.
func (tester) NewPausable(tb testing.TB) (datastore.Datastore, dstest.PauseFunc) {
	fs := newFreezer()
	ds, err := open(tb, store.Config{FS: fs})
	if err != nil {
		tb.Fatal(err)
	}
	return ds, func(tb testing.TB) {
		tb.Cleanup(fs.thaw)
		fs.freeze()
	}
}

// TestDatastore runs SpiceDB's suite for datastores, all of it but migrations, which this one has none of.
func TestDatastore(t *testing.T) {
	dstest.AllWithExceptions(t, dstest.NewTesterFactory(store.ErrConflict).NewTester(tester{}),
		dstest.WithCategories(dstest.MigrationCategory))
}
