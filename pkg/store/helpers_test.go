package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// testClock is a clock that stands still until it is told to move.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newTestClock() *testClock {
	return &testClock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// move moves the clock, forward or back.
func (c *testClock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// small makes a configuration one for tests: small, in memory unless it says otherwise, and without
// collections but those that the test asks for.
func small(config Config) Config {
	config.CacheBytes, config.MemTableBytes, config.DiskReserve = 1<<20, 1<<20, 1
	if config.FS == nil {
		config.FS = vfs.NewMem()
	}
	set(&config.patience, 300*time.Millisecond)
	set(&config.firstPause, 50*time.Microsecond)
	set(&config.longVoid, 1) // so that every test meets some
	if config.CollectEvery == 0 {
		config.CollectEvery = time.Hour
	}
	return config
}

// opened opens a small store and closes it when the test ends.
func opened(tb testing.TB, config Config) *Store {
	tb.Helper()
	s, err := Open("store", small(config))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("closing: %v", err)
		}
	})
	return s
}

// fataler is what helpers need of a test, also of one of rapid's.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must[T any](v T, err error) func(fataler) T {
	return func(t fataler) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// commits runs a transaction that is expected to be committed.
func commits(t fataler, s *Store, fn func(context.Context, datastore.ReadWriteTransaction) error) Revision {
	t.Helper()
	return must(s.ReadWriteTx(context.Background(), fn))(t).(Revision)
}

// writes commits relationships: `touch`, `create` or `delete`, and then each as SpiceDB writes it.
func writesOf(t fataler, s *Store, updates ...tuple.RelationshipUpdate) Revision {
	t.Helper()
	return commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	})
}

func touch(rel string) tuple.RelationshipUpdate  { return tuple.Touch(tuple.MustParse(rel)) }
func create(rel string) tuple.RelationshipUpdate { return tuple.Create(tuple.MustParse(rel)) }
func remove(rel string) tuple.RelationshipUpdate { return tuple.Delete(tuple.MustParse(rel)) }
func expiring(rel string, at time.Time) tuple.RelationshipUpdate {
	return tuple.Touch(tuple.MustWithExpiration(tuple.MustParse(rel), at))
}

// headOf returns the head.
func headOf(t fataler, s *Store) Revision {
	t.Helper()
	return must(s.HeadRevision(context.Background()))(t).Revision.(Revision)
}

// texts reads an iterator: each relationship as SpiceDB writes it.
func texts(it datastore.RelationshipIterator, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	all := []string{}
	for rel, err := range it {
		if err != nil {
			return all, err
		}
		all = append(all, tuple.MustString(rel))
	}
	return all, nil
}

// queried reads what matches a filter.
func queried(t fataler, r datastore.Reader, f datastore.RelationshipsFilter, opts ...options.QueryOptionsOption) []string {
	t.Helper()
	return must(texts(r.QueryRelationships(context.Background(), f, opts...)))(t)
}

// everything reads all relationships, in the order of their resources.
func everything(t fataler, r datastore.Reader) []string {
	t.Helper()
	return queried(t, r, datastore.RelationshipsFilter{}, options.WithSort(options.ByResource))
}

// atHead reads all relationships at the head.
func atHead(t fataler, s *Store) []string {
	t.Helper()
	return everything(t, s.SnapshotReader(headOf(t, s)))
}

// same fails the test unless got is what it should be.
func same[T comparable](t fataler, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// refusedAs fails the test unless an error is an invalid revision for the given reason.
func refusedAs(t fataler, err error, reason datastore.InvalidRevisionReason) {
	t.Helper()
	var invalid datastore.InvalidRevisionError
	if !errors.As(err, &invalid) || invalid.Reason() != reason {
		t.Fatalf("got %v (%T), want an invalid revision, reason %v", err, err, reason)
	}
}

// runCollection collects what has left the window, as the store does by itself.
func runCollection(ctx context.Context, s *Store) error {
	return datastore.RunGarbageCollection(ctx, s, s.config.Retention+s.readGrace())
}

// collected lets go of readers that nobody has any more, and then collects.
func collects(t fataler, s *Store) {
	t.Helper()
	letGo(t, s)
	if err := runCollection(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// letGo ends the grace of all readers.
func letGo(t fataler, s *Store) {
	t.Helper()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	clear(s.leases.recent[:])
	if n := len(s.leases.closed); n > 0 {
		t.Fatalf("%d snapshots are open", n)
	}
}

// eventually waits for a condition that comes true by itself.
func eventually(t fataler, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// keyCount counts the keys of a kind in the database, of all versions.
func keyCount(t fataler, s *Store, kind byte) int {
	t.Helper()
	iter := must(s.db.NewIter(nil))(t)
	n := 0
	for valid := iter.SeekGE([]byte{kind}); valid && iter.Key()[0] == kind; valid = iter.Next() {
		n++
	}
	if err := errors.Join(iter.Error(), iter.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// typeNamed is a namespace definition with relations.
func typeNamed(name string, relations ...string) *core.NamespaceDefinition {
	d := &core.NamespaceDefinition{Name: name}
	for _, r := range relations {
		d.Relation = append(d.Relation, &core.Relation{Name: r})
	}
	return d
}

// caveatNamed is a caveat with several parameters, so that the order of its encoding can vary.
func caveatNamed(name, expression string) *core.CaveatDefinition {
	parameters := map[string]*core.CaveatTypeReference{}
	for _, p := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		parameters[p] = &core.CaveatTypeReference{TypeName: "int"}
	}
	return &core.CaveatDefinition{Name: name, SerializedExpression: []byte(expression), ParameterTypes: parameters}
}

// schemaNamed is a stored schema with a hash.
func schemaNamed(hash string) *core.StoredSchema {
	return &core.StoredSchema{Version: 1, VersionOneof: &core.StoredSchema_V1{V1: &core.StoredSchema_V1StoredSchema{
		SchemaText: "definition " + hash + " {}", SchemaHash: hash,
	}}}
}
