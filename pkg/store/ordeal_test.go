package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/types/known/structpb"
)

// An ordeal is a sequence of transactions that a store goes through while its file system fails it. It
// remembers what was tried and what was acknowledged, and can tell of any store that should be the same
// one, reopened, whether it is.
//
// Each transaction, a deed, touches a mark: a row of its own that nothing deletes. So whether a deed took
// place can be read off the store, and everything else follows: the state is that of all deeds that have
// their mark, in their order, and the changelog has each of them once, with exactly its changes.
type ordeal struct {
	mu    sync.Mutex
	deeds []*deed
	now   atomic.Int64
	// steps makes the names of deeds.
	steps int
}

// deed is one transaction.
type deed struct {
	name   string
	touch  []tuple.Relationship
	remove []tuple.Relationship
	// clear names a resource whose rows are deleted by a filter, "type:id"; "" means none.
	clear string
	// bulk says that the rows, but for the mark, are loaded in bulk.
	bulk bool
	// hash is the schema that is written; "" means none.
	hash string
	// counter is registered; "" means none.
	counter string

	// at is the revision that was acknowledged; 0 means that it is not known whether the deed was done.
	at Revision
	// undone says that a reopened store was seen without it, done that one was seen with it.
	undone, done bool
}

// ordealStart is when the clock of an ordeal begins.
var ordealStart = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

// ordealRetention is the window of an ordeal's stores.
const ordealRetention = time.Hour

// ordealDir lies two directories deep, so that opening a store has to make several.
const ordealDir = "var/lib/store"

func newOrdeal() *ordeal {
	o := &ordeal{}
	o.now.Store(ordealStart.UnixNano())
	return o
}

// clock returns the time, which moves a little with each look.
func (o *ordeal) clock() time.Time { return time.Unix(0, o.now.Add(int64(time.Microsecond))).UTC() }

func (o *ordeal) pass(d time.Duration) { o.now.Add(int64(d)) }

// config is for a store that sorts into files often, and collects only when it is told to.
func (o *ordeal) config(fs vfs.FS) Config {
	return Config{
		Retention: ordealRetention, CollectEvery: 24 * time.Hour, CacheBytes: 1 << 20, MemTableBytes: 64 << 10,
		DiskReserve: 1, FS: fs, Now: o.clock, patience: 300 * time.Millisecond, firstPause: 20 * time.Microsecond,
	}
}

// kinds of objects that an ordeal writes.
var ordealResources, ordealSubjects = []string{"mark", "doc", "folder"}, []string{"user", "team"}

// next makes a deed of some rows. Every third one undoes a part of one before.
func (o *ordeal) next() *deed {
	o.steps++
	n := o.steps
	d := o.named()
	for i := range 3 {
		d.touch = append(d.touch,
			tuple.MustParse(fmt.Sprintf("doc:%s-%d#reader@user:u%d", d.name, i, n%5)),
			tuple.MustParse(fmt.Sprintf("folder:%s#parent@team:t%d#member", d.name, i)))
	}
	switch n % 4 {
	case 1:
		d.touch = append(d.touch, tuple.MustParse(fmt.Sprintf(`doc:%s-c#reader@user:c[weekday:{"day":%d}]`, d.name, n)))
	case 2: // It expires while the ordeal lasts, and nothing else touches it.
		d.touch = append(d.touch, tuple.MustParse(fmt.Sprintf("doc:%s-e#reader@user:e[expiration:%s]",
			d.name, ordealStart.Add(10*time.Minute).Format(time.RFC3339))))
	}
	if before := n - 3; n%3 == 0 && before > 0 {
		// The rows may not be there: then nothing happens to them.
		for i := range 2 {
			d.remove = append(d.remove, tuple.MustParse(fmt.Sprintf("doc:%s-%d#reader@user:u%d", deedName(before), i, before%5)))
		}
	}
	return d
}

func deedName(n int) string { return fmt.Sprintf("d%03d", n) }

// named makes a deed that only leaves its mark.
func (o *ordeal) named() *deed {
	name := deedName(o.steps)
	return &deed{name: name, touch: []tuple.Relationship{tuple.MustParse("mark:" + name + "#made@user:" + name)}}
}

// bulk makes a deed of many rows, too large for the store's buffers.
func (o *ordeal) bulk(rows int) *deed { return o.bulkOf(rows, 30) }

// bulkOf makes one whose rows' names are longer by that much.
func (o *ordeal) bulkOf(rows, longer int) *deed {
	o.steps++
	d := o.named()
	d.bulk = true
	for i := range rows {
		d.touch = append(d.touch, tuple.MustParse(fmt.Sprintf("doc:bulk-%s#reader@user:%s-%04d", d.name, strings.Repeat("b", longer), i)))
	}
	return d
}

// unload makes a deed that deletes by a filter what another one loaded.
func (o *ordeal) unload(loaded *deed) *deed {
	o.steps++
	d := o.named()
	d.clear = "doc:bulk-" + loaded.name
	return d
}

// schema makes a deed that writes a schema.
func (o *ordeal) schema() *deed {
	d := o.next()
	d.hash = "hash-" + d.name
	return d
}

// count makes a deed that registers a counter.
func (o *ordeal) count() *deed {
	d := o.next()
	d.counter = "counter-" + d.name
	return d
}

// do runs a deed, and notes whether it was acknowledged.
func (o *ordeal) do(s *Store, d *deed) error {
	o.mu.Lock()
	o.deeds = append(o.deeds, d)
	o.mu.Unlock()
	metadata, err := structpb.NewStruct(map[string]any{"deed": d.name})
	if err != nil {
		return err
	}
	at, err := s.ReadWriteTx(context.Background(), d.run, options.WithMetadata(metadata))
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d.at = at.(Revision)
	return nil
}

// run is the deed's transaction.
func (d *deed) run(ctx context.Context, tx datastore.ReadWriteTransaction) error {
	touch := d.touch
	if d.bulk {
		touch = d.touch[:1]
		rest := d.touch[1:]
		if _, err := tx.BulkLoad(ctx, &ordealSource{rest}); err != nil {
			return err
		}
	}
	var updates []tuple.RelationshipUpdate
	for _, rel := range touch {
		updates = append(updates, tuple.Touch(rel))
	}
	for _, rel := range d.remove {
		updates = append(updates, tuple.Delete(rel))
	}
	if err := tx.WriteRelationships(ctx, updates); err != nil {
		return err
	}
	if d.clear != "" {
		kind, id, _ := strings.Cut(d.clear, ":")
		if _, _, err := tx.DeleteRelationships(ctx, &v1.RelationshipFilter{ResourceType: kind, OptionalResourceId: id}); err != nil {
			return err
		}
	}
	if d.hash != "" {
		if err := tx.LegacyWriteNamespaces(ctx, &core.NamespaceDefinition{Name: "kind-" + d.name}); err != nil {
			return err
		}
		schema := &core.StoredSchema{VersionOneof: &core.StoredSchema_V1{V1: &core.StoredSchema_V1StoredSchema{SchemaText: "definition user {}", SchemaHash: d.hash}}}
		if err := tx.WriteStoredSchema(ctx, schema); err != nil {
			return err
		}
	}
	if d.counter != "" {
		return tx.RegisterCounter(ctx, d.counter, &core.RelationshipFilter{ResourceType: "doc"})
	}
	return nil
}

// ordealSource is a datastore.BulkWriteRelationshipSource.
type ordealSource struct{ rest []tuple.Relationship }

func (s *ordealSource) Next(context.Context) (*tuple.Relationship, error) {
	if len(s.rest) == 0 {
		return nil, nil //nolint:nilnil // that is how the interface says that there are no more
	}
	rel := s.rest[0]
	s.rest = s.rest[1:]
	return &rel, nil
}

// ordealState is what a store holds.
type ordealState struct {
	// rows are by what identifies them.
	rows     map[string]tuple.Relationship
	hash     string
	kinds    []string
	counters []string
}

func (d *deed) mark() string { return rowName(d.touch[0]) }

func rowName(rel tuple.Relationship) string { return tuple.StringWithoutCaveatOrExpiration(rel) }

// apply does a deed to a state, and returns its changes: rows by their name, "" for those that went.
func (d *deed) apply(state *ordealState) map[string]string {
	changes := map[string]string{}
	for _, rel := range d.touch {
		name := rowName(rel)
		if there, found := state.rows[name]; !found || tuple.MustString(there) != tuple.MustString(rel) {
			changes[name] = tuple.MustString(rel)
		}
		state.rows[name] = rel
	}
	gone := func(name string) {
		if _, found := state.rows[name]; found {
			changes[name] = ""
			delete(state.rows, name)
		}
	}
	for _, rel := range d.remove {
		gone(rowName(rel))
	}
	if d.clear != "" {
		for name := range state.rows {
			if strings.HasPrefix(name, d.clear+"#") {
				gone(name)
			}
		}
	}
	if d.hash != "" {
		state.hash = d.hash
		state.kinds = append(state.kinds, "kind-"+d.name)
	}
	if d.counter != "" {
		state.counters = append(state.counters, d.counter)
	}
	return changes
}

// visible returns the rows that have not expired, as text.
func visible(rows map[string]tuple.Relationship, now time.Time) map[string]string {
	seen := map[string]string{}
	for name, rel := range rows {
		if rel.OptionalExpiration == nil || rel.OptionalExpiration.After(now) {
			seen[name] = tuple.MustString(rel)
		}
	}
	return seen
}

// ledger is what an ordeal knew at some moment.
func (o *ordeal) ledger() []deed {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := make([]deed, len(o.deeds))
	for i, d := range o.deeds {
		known[i] = *d
	}
	return known
}

// errWrong says that a store is not what it should be, and not only that it cannot be read.
var errWrong = errors.New("wrong")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errWrong, fmt.Sprintf(format, args...))
}

// verify reads all of a store: it has every deed that was acknowledged, all or nothing of the others, the
// same in both directions and in its changelog. It returns the names of those that it has. Errors that are
// not errWrong are the store's own.
func (o *ordeal) verify(s *Store, known []deed) (present map[string]bool, err error) {
	ctx := context.Background()
	head, err := s.HeadRevision(ctx)
	if err != nil {
		return nil, err
	}
	at := head.Revision.(Revision)
	now := o.clock()
	rows, err := readRows(s, at)
	if err != nil {
		return nil, err
	}
	// What took place, in order, and what that comes to.
	want := &ordealState{rows: map[string]tuple.Relationship{}}
	present = map[string]bool{}
	var done []deed
	changes := map[string]map[string]string{}
	newest := Revision(0)
	for _, d := range known {
		_, found := rows[d.mark()]
		switch {
		case !found && (d.at != 0 || d.done):
			return nil, wrong("%s was acknowledged at %d and is missing; the head is %d", d.name, d.at, at)
		case found && d.undone:
			return nil, wrong("%s was not there before and is now", d.name)
		case !found:
			continue
		}
		present[d.name] = true
		done = append(done, d)
		changes[d.name] = d.apply(want)
		newest = max(newest, d.at)
	}
	if newest > at {
		return nil, wrong("the head is %d, and %d was acknowledged", at, newest)
	}
	if err := sameRows("the head", visible(want.rows, now), visible(rows, now)); err != nil {
		return nil, err
	}
	if err := verifyRecords(s, want, head); err != nil {
		return nil, err
	}
	// The changelog, from the first revision that can still be read.
	for i, d := range done {
		if d.at == 0 || s.CheckRevision(ctx, d.at) != nil {
			continue
		}
		return present, verifyChangelog(s, d.at, at, done[i+1:], changes, visible(rows, now), now)
	}
	return present, nil
}

// verifyRecords compares what is no row.
func verifyRecords(s *Store, want *ordealState, head datastore.RevisionWithSchemaHash) error {
	if head.SchemaHash != want.hash {
		return wrong("the schema's hash is %q, want %q", head.SchemaHash, want.hash)
	}
	reader := s.SnapshotReader(head.Revision)
	definitions, err := reader.LegacyListAllNamespaces(context.Background())
	if err != nil {
		return err
	}
	var kinds, counters []string
	for _, d := range definitions {
		kinds = append(kinds, d.Definition.GetName())
	}
	stored, err := reader.ReadStoredSchema(context.Background())
	switch {
	case want.hash == "" && !errors.Is(err, datastore.ErrSchemaNotFound):
		return wrong("a schema that nobody wrote: %v", err)
	case want.hash != "" && err != nil:
		return err
	case want.hash != "" && stored.Get().GetV1().GetSchemaHash() != want.hash:
		return wrong("the schema is %v, want %q", stored.Get(), want.hash)
	}
	registered, err := reader.LookupCounters(context.Background())
	if err != nil {
		return err
	}
	for _, c := range registered {
		counters = append(counters, c.Name)
	}
	if !slices.Equal(kinds, want.kinds) || !slices.Equal(counters, want.counters) {
		return wrong("definitions %q and counters %q, want %q and %q", kinds, counters, want.kinds, want.counters)
	}
	return nil
}

// readRows reads all rows at a revision, from both sides. Those that have expired may be missing.
func readRows(s *Store, at Revision) (map[string]tuple.Relationship, error) {
	reader := s.SnapshotReader(at)
	forward, reverse := map[string]tuple.Relationship{}, map[string]tuple.Relationship{}
	take := func(into map[string]tuple.Relationship, found datastore.RelationshipIterator, err error) error {
		if err != nil {
			return err
		}
		for rel, err := range found {
			if err != nil {
				return err
			}
			if _, twice := into[rowName(rel)]; twice {
				return wrong("%s comes twice", rowName(rel))
			}
			into[rowName(rel)] = rel
		}
		return nil
	}
	for _, kind := range ordealResources {
		found, err := reader.QueryRelationships(context.Background(), datastore.RelationshipsFilter{OptionalResourceType: kind})
		if err := take(forward, found, err); err != nil {
			return nil, err
		}
	}
	for _, kind := range ordealSubjects {
		found, err := reader.ReverseQueryRelationships(context.Background(), datastore.SubjectsFilter{SubjectType: kind})
		if err := take(reverse, found, err); err != nil {
			return nil, err
		}
	}
	return forward, sameRows("reverse", visible(forward, time.Time{}), visible(reverse, time.Time{}))
}

// sameRows says what differs.
func sameRows(where string, want, got map[string]string) error {
	if maps.Equal(want, got) {
		return nil
	}
	var differ []string
	for name, rel := range want {
		if is, found := got[name]; !found || is != rel {
			differ = append(differ, fmt.Sprintf("%s should be %q and is %q, %v", name, rel, is, found))
		}
	}
	for name, rel := range got {
		if _, expected := want[name]; !expected {
			differ = append(differ, rel+" is too much")
		}
	}
	slices.Sort(differ)
	return wrong("%s: of %d rows %d differ: %s", where, len(want), len(differ), strings.Join(differ[:min(len(differ), 5)], "; "))
}

// verifyChangelog replays the changes after a revision, which has to lead to the head by way of each deed
// since, once, in order, at its revision.
func verifyChangelog(s *Store, from, head Revision, since []deed, changes map[string]map[string]string, want map[string]string, now time.Time) error {
	replay, err := readRows(s, from)
	if err != nil {
		return err
	}
	last := from
	err = replayChanges(s, from, head, func(c datastore.RevisionChanges) error {
		at := c.Revision.(Revision)
		if at <= last {
			return wrong("the changelog has %d after %d", at, last)
		}
		last = at
		if len(since) == 0 {
			return wrong("the changelog has %d, which is too much", at)
		}
		d := since[0]
		since = since[1:]
		if d.at != 0 && d.at != at {
			return wrong("the changelog has %s, which was acknowledged at %d, at %d", d.name, d.at, at)
		}
		if len(c.Metadatas) != 1 || c.Metadatas[0].GetFields()["deed"].GetStringValue() != d.name {
			return wrong("the changelog has %v where %s is expected", c.Metadatas, d.name)
		}
		got := map[string]string{}
		for _, u := range c.RelationshipChanges {
			if u.Operation == tuple.UpdateOperationDelete {
				got[rowName(u.Relationship)] = ""
				delete(replay, rowName(u.Relationship))
				continue
			}
			got[rowName(u.Relationship)] = tuple.MustString(u.Relationship)
			replay[rowName(u.Relationship)] = u.Relationship
		}
		return sameRows("the changelog of "+d.name, changes[d.name], got)
	})
	if err != nil {
		return err
	}
	if len(since) > 0 {
		return wrong("the changelog ends before %s", since[0].name)
	}
	return sameRows("the replay", want, visible(replay, now))
}

// replayChanges watches from a revision up to the head.
func replayChanges(s *Store, from, head Revision, visit func(datastore.RevisionChanges) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	changes, failed := s.Watch(ctx, from, datastore.WatchOptions{
		Content: datastore.WatchRelationships | datastore.WatchSchema | datastore.WatchCheckpoints, WatchBufferWriteTimeout: time.Minute,
	})
	if from == head {
		return nil
	}
	for c := range changes {
		// A write whose outcome was not known may still move the head.
		if at := c.Revision.(Revision); at > head || c.IsCheckpoint && at == head {
			return nil
		}
		if c.IsCheckpoint {
			continue
		}
		if err := visit(c); err != nil {
			return err
		}
	}
	return <-failed
}

// onward writes once more, to see that revisions go on where they were.
func (o *ordeal) onward(s *Store, known []deed) error {
	before, err := s.HeadRevision(context.Background())
	if err != nil {
		return err
	}
	fresh := &deed{name: "onward", touch: []tuple.Relationship{tuple.MustParse("mark:onward#made@user:onward")}}
	at, err := s.ReadWriteTx(context.Background(), fresh.run)
	if err != nil {
		return err
	}
	if !at.GreaterThan(before.Revision) {
		return wrong("a write got revision %v, after %v", at, before.Revision)
	}
	for _, d := range known {
		if !at.GreaterThan(d.at) {
			return wrong("a write got revision %v, after %v was acknowledged", at, d.at)
		}
	}
	return nil
}

// collectNow runs a collection as the store's own timer would.
func collectNow(s *Store) error {
	return datastore.RunGarbageCollection(context.Background(), s, ordealRetention)
}

// reopened opens what should be the same store, verifies it, writes to it and closes it.
func (o *ordeal) reopened(fs vfs.FS, known []deed) (present map[string]bool, err error) {
	s, err := Open(ordealDir, o.config(fs))
	if err != nil {
		return nil, err
	}
	present, err = o.verify(s, known)
	if err == nil {
		err = o.onward(s, known)
	}
	if closed := s.Close(); err == nil && closed != nil {
		err = fmt.Errorf("closing: %w", closed)
	}
	return present, err
}

// ordealStep says what an ordeal did.
type ordealStep string

const (
	didOpen    ordealStep = "open"
	didWrite   ordealStep = "transaction"
	didCollect ordealStep = "collection"
	didClose   ordealStep = "close"
)

// live is the sequence: several lives of one store. After each step outcome is told what came of it, with
// the store that is open now, if one is; the ordeal goes on if it returns true. A store that cannot be
// opened is opened again.
func (o *ordeal) live(fs vfs.FS, outcome func(ordealStep, *Store, error) bool) {
	var s *Store
	do := func(d *deed) bool { return outcome(didWrite, s, o.do(s, d)) }
	open := func() bool {
		for {
			var err error
			s, err = Open(ordealDir, o.config(fs))
			if !outcome(didOpen, s, err) {
				return false
			}
			if err == nil {
				return true
			}
		}
	}
	several := func(n int) bool {
		for range n {
			if !do(o.next()) {
				return false
			}
		}
		return true
	}
	loaded := (*deed)(nil)
	load := func(rows int) bool {
		loaded = o.bulk(rows)
		return do(loaded)
	}
	collect := func() bool { return outcome(didCollect, s, collectNow(s)) }
	closing := func() bool {
		err := s.Close()
		s = nil
		return outcome(didClose, nil, err)
	}
	pass := func(d time.Duration) bool { o.pass(d); return true }
	_ = open() && do(o.schema()) && several(5) && load(150) && several(2) && do(o.unload(loaded)) && closing() &&
		open() && several(4) && pass(40*time.Minute) && load(400) && do(o.count()) && several(4) && load(300) && pass(40*time.Minute) &&
		do(o.schema()) && collect() && several(3) && closing() &&
		open() && load(400) && several(8) && pass(30*time.Minute) && collect() && do(o.unload(loaded)) && collect() && several(2) && closing()
	if s != nil {
		_ = s.Close()
	}
}

// TestOrdeal goes through it with a file system that fails nothing.
func TestOrdeal(t *testing.T) {
	t.Parallel()
	o, fs := newOrdeal(), vfs.NewCrashableMem()
	o.live(fs, func(did ordealStep, s *Store, err error) bool {
		if err != nil {
			t.Fatalf("%s: %v", did, err)
		}
		if s != nil {
			if _, err := o.verify(s, o.ledger()); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	if present, err := o.reopened(fs, o.ledger()); err != nil || len(present) != o.steps {
		t.Errorf("%d of %d deeds were done, %v", len(present), o.steps, err)
	}
}

// meddling is a file system with an injector for everything; errorfs leaves out files that are used again.
type meddling struct {
	*errorfs.FS
	inject errorfs.Injector
}

func meddle(fs vfs.FS, inject errorfs.Injector) vfs.FS {
	return &meddling{errorfs.Wrap(fs, inject), inject}
}

func (m *meddling) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := m.FS.ReuseForWrite(oldname, newname, category)
	if err != nil {
		return nil, err
	}
	return errorfs.WrapFile(f, errorfs.InjectorFunc(func(op errorfs.Op) error {
		op.Path = newname
		return m.inject.MaybeError(op)
	})), nil
}
