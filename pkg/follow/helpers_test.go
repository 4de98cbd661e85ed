package follow_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// schema is that of the tests: every trait that a relationship can have.
const schema = `use expiration

caveat weekday(day string, hours list<int>) { day == "monday" && 9 in hours }

definition user {}

definition group {
	relation member: user | group#member
}

definition document {
	relation viewer: user | user:* | group#member | user with weekday | user with expiration | user with weekday and expiration
	permission view = viewer
}`

// written is a database of SpiceDB's, with SpiceDB's own datastore over it, which writes.
type written struct {
	datastore.Datastore

	uri string
}

// eachAuthority runs a test on each kind of authority: database makes a fresh one, for writer.
func eachAuthority(t *testing.T, test func(t *testing.T, database func(testing.TB) string)) {
	t.Run("PostgreSQL", func(t *testing.T) { test(t, pgtest.Database) })
	t.Run("Deputy", func(t *testing.T) { test(t, func(t testing.TB) string { return served(t, store.Config{}).uri }) })
}

// writer migrates a database and opens SpiceDB's datastore over it, with a schema.
func writer(t testing.TB, uri string) *written {
	t.Helper()
	if s := servedAt(uri); s != nil {
		w := &written{s, uri}
		w.define(t, schema)
		return w
	}
	if err := engine.Migrate(t.Context(), engine.Config{Kind: engine.Postgres, URI: uri}, "head"); err != nil {
		t.Fatal(err)
	}
	w := &written{opened(t, uri), uri}
	w.define(t, schema)
	return w
}

// opened opens SpiceDB's datastore. It collects nothing by itself in the time of a test.
func opened(t testing.TB, uri string) datastore.Datastore {
	t.Helper()
	ds, err := dscfg.NewDatastore(context.Background(), dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(uri),
		dscfg.WithEnableDatastoreMetrics(false), dscfg.WithGCWindow(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ds.Close(); err != nil {
			t.Errorf("closing SpiceDB's datastore: %v", err)
		}
	})
	return ds
}

// write commits a transaction as SpiceDB does.
func (w *written) write(t testing.TB, fn func(context.Context, datastore.ReadWriteTransaction) error) {
	t.Helper()
	if _, err := w.ReadWriteTx(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// update commits updates of relationships in one transaction.
func (w *written) update(t testing.TB, updates ...tuple.RelationshipUpdate) {
	t.Helper()
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	})
}

// define writes the definitions of a schema.
func (w *written) define(t testing.TB, text string) {
	t.Helper()
	compiled, err := compiler.Compile(compiler.InputSchema{Source: "test", SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyWriteCaveats(ctx, compiled.CaveatDefinitions); err != nil {
			return err
		}
		return tx.LegacyWriteNamespaces(ctx, compiled.ObjectDefinitions...)
	})
}

// held is a transaction of SpiceDB's that has written and is not committed.
type held struct {
	release chan struct{}
	done    chan error
}

// hold begins a transaction, and returns once it has written.
func (w *written) hold(t testing.TB, updates ...tuple.RelationshipUpdate) *held {
	t.Helper()
	h := &held{make(chan struct{}), make(chan error, 1)}
	wrote := make(chan struct{})
	go func() {
		_, err := w.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			if err := tx.WriteRelationships(ctx, updates); err != nil {
				return err
			}
			close(wrote)
			<-h.release
			return nil
		}, options.WithDisableRetries(true))
		h.done <- err
	}()
	select {
	case <-wrote:
	case err := <-h.done:
		t.Fatalf("the transaction ended before it was let go: %v", err)
	}
	return h
}

// commit has it committed.
func (h *held) commit(t testing.TB) {
	t.Helper()
	close(h.release)
	if err := <-h.done; err != nil {
		t.Fatal(err)
	}
}

// collect has SpiceDB collect, with a window.
func (w *written) collect(t testing.TB, window time.Duration) {
	t.Helper()
	collecting := datastore.UnwrapAs[datastore.GarbageCollectableDatastore](w.Datastore)
	if s := servedAt(w.uri); s != nil {
		s.clock.move(2 * time.Minute) // who has read lately holds what it has read
	}
	if collecting == nil {
		t.Fatal("SpiceDB's datastore does not collect")
	}
	if err := datastore.RunGarbageCollection(context.Background(), collecting, window); err != nil {
		t.Fatal(err)
	}
}

// authority opens a database as one that is followed.
func authority(t testing.TB, uri string, window time.Duration) follow.Authority {
	t.Helper()
	if s := servedAt(uri); s != nil {
		a, err := deputy.Open(context.Background(), s.conn)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, err := postgres.Open(context.Background(), postgres.Config{URI: uri, Window: window})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// inMemory is a configuration for a copy in memory.
func inMemory() follow.Config { return over(vfs.NewMem()) }

// over is a configuration for a copy in a file system.
func over(files vfs.FS) follow.Config {
	return follow.Config{
		Dir: "copies",
		Store: store.Config{
			FS: files, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, CollectEvery: time.Hour, OpenFiles: 100, Unsynced: true,
		},
	}
}

// follower opens a follower that is closed when the test ends.
func follower(t testing.TB, config follow.Config, a follow.Authority) *follow.Follower {
	t.Helper()
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("closing the follower: %v", err)
		}
	})
	return f
}

// follows has a follower reach the head, and compares the copy with the authority at that position. It returns the position.
func follows(t testing.TB, f *follow.Follower, a follow.Authority) follow.Position {
	t.Helper()
	reached, err := f.Follow(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	equal(t, a, reached)
	return reached.Position
}

// equal fails the test where a copy differs from the authority at the copy's position.
func equal(t testing.TB, a follow.Authority, reached *follow.Reached) {
	t.Helper()
	for _, d := range compared(t, a, reached) {
		t.Errorf("at %s: %s", reached.Position.State, d)
	}
}

func compared(t testing.TB, a follow.Authority, reached *follow.Reached) []follow.Difference {
	t.Helper()
	found, err := follow.Compare(context.Background(), a.At(reached.Position), reached.Store, reached.Local, time.Now(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// relationships are those of a copy, as SpiceDB writes them, without blanks: where those are in a context is drawn.
func relationships(t testing.TB, reached *follow.Reached) []string {
	t.Helper()
	var all []string
	if err := reached.Store.Each(context.Background(), reached.Local, "", func(rel tuple.Relationship) error {
		all = append(all, strings.ReplaceAll(tuple.MustString(rel), " ", ""))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// asSpiceDB compares a copy with what SpiceDB's own reader says of the head. Nobody may write meanwhile.
func (w *written) asSpiceDB(t testing.TB, f *follow.Follower) {
	t.Helper()
	reached, err := f.Pull(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer reached.Release()
	head, err := w.HeadRevision(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]bool{}
	for _, name := range []string{"document", "group", "folder"} {
		all, err := w.SnapshotReader(head.Revision).QueryRelationships(context.Background(), datastore.RelationshipsFilter{OptionalResourceType: name})
		if err != nil {
			t.Fatal(err)
		}
		for rel, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			theirs[strings.ReplaceAll(tuple.MustString(rel), " ", "")] = true
		}
	}
	for _, rel := range relationships(t, reached) {
		if !theirs[rel] {
			t.Errorf("the copy has %s, and SpiceDB does not", rel)
		}
		delete(theirs, rel)
	}
	for rel := range theirs {
		t.Errorf("SpiceDB has %s, and the copy does not", rel)
	}
}

func touch(rel string) tuple.RelationshipUpdate  { return tuple.Touch(tuple.MustParse(rel)) }
func create(rel string) tuple.RelationshipUpdate { return tuple.Create(tuple.MustParse(rel)) }
func remove(rel string) tuple.RelationshipUpdate { return tuple.Delete(tuple.MustParse(rel)) }

func expiring(rel string, at time.Time) tuple.RelationshipUpdate {
	return tuple.Touch(tuple.MustWithExpiration(tuple.MustParse(rel), at))
}

// deleteAll deletes relationships by a filter.
func deleteAll(resourceType string) func(context.Context, datastore.ReadWriteTransaction) error {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, _, err := tx.DeleteRelationships(ctx, &v1.RelationshipFilter{ResourceType: resourceType})
		return err
	}
}

// stepped is an authority that tells somebody before each thing that it is asked.
type stepped struct {
	follow.Authority

	mu   sync.Mutex
	step func(what string)
}

func (s *stepped) before(what string) {
	s.mu.Lock()
	step := s.step
	s.mu.Unlock()
	if step != nil {
		step(what)
	}
}

func (s *stepped) Head(ctx context.Context) (follow.Position, error) {
	s.before("the head")
	return s.Authority.Head(ctx)
}

func (s *stepped) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	s.before("changes")
	return s.Authority.ChangesSince(ctx, from, limit)
}

// ChangesInParts is the authority's, if that has it.
func (s *stepped) ChangesInParts(
	ctx context.Context, from follow.Position, size int, take func(deleted, written []tuple.Relationship) error,
) (follow.Changes, error) {
	s.before("changes in parts")
	parted, ok := s.Authority.(follow.Parted)
	if !ok {
		return follow.Changes{}, follow.ErrTooMany
	}
	return parted.ChangesInParts(ctx, from, size, func(deleted, written []tuple.Relationship) error {
		s.before("the next part")
		return take(deleted, written)
	})
}

func (s *stepped) At(p follow.Position) follow.State { return &steppedState{s.Authority.At(p), s} }

type steppedState struct {
	follow.State

	of *stepped
}

func (s *steppedState) Definitions(ctx context.Context) (follow.Definitions, error) {
	s.of.before("the definitions")
	return s.State.Definitions(ctx)
}

func (s *steppedState) Digests(ctx context.Context, moment time.Time) ([]follow.Digest, error) {
	s.of.before("the digests")
	return s.State.Digests(ctx, moment)
}

func (s *steppedState) Page(ctx context.Context, next string, limit int) (follow.Page, error) {
	s.of.before(fmt.Sprintf("the page after %q", next))
	return s.State.Page(ctx, next, limit)
}

func revision(t testing.TB, r datastore.Revision) store.Revision {
	t.Helper()
	at, ok := r.(store.Revision)
	if !ok {
		t.Fatalf("a revision of type %T", r)
	}
	return at
}

func touches(rels ...string) (updates []tuple.RelationshipUpdate) {
	for _, rel := range rels {
		updates = append(updates, touch(rel))
	}
	return updates
}

// documents is what a counter of all documents counts.
func documents() *core.RelationshipFilter { return &core.RelationshipFilter{ResourceType: "document"} }
