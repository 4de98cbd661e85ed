package store

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"
)

// The model test holds a store to a model of it: a list of states, one for each revision, of plain maps.
// Random operations change both, and then both are asked the same questions. Nothing of the store's code
// is in the model, nor SpiceDB's RelationshipsFilter.Test.

// tryModel holds a property to so many random histories, with -short to a tenth of them, or to as many as DEPUTY_RAPID_CHECKS or
// -rapid.checks say. Where nobody chose, they are the same ones in every run, so that a change is to blame
// for a failure, and not a draw.
func tryModel(t *testing.T, checks int, property func(*rapid.T)) {
	t.Helper()
	if testing.Short() {
		checks /= 10
	}
	set := map[string]string{"rapid.checks": strconv.Itoa(checks), "rapid.nofailfile": "true", "rapid.seed": "20261124"}
	if chosen := os.Getenv("DEPUTY_RAPID_CHECKS"); chosen != "" {
		set["rapid.checks"] = chosen
		delete(set, "rapid.seed")
	}
	flag.Visit(func(f *flag.Flag) {
		delete(set, f.Name)
		if f.Name == "rapid.checks" {
			delete(set, "rapid.seed")
		}
	})
	for name, value := range set {
		f := flag.Lookup(name)
		before := f.Value.String()
		// Not flag.Set: the next call is to see what was chosen, and not this.
		if err := f.Value.Set(value); err != nil {
			t.Fatalf("DEPUTY_RAPID_CHECKS: %v", err)
		}
		t.Cleanup(func() {
			if err := f.Value.Set(before); err != nil {
				t.Error(err)
			}
		})
	}
	rapid.Check(t, property)
}

// modelWindow is the window of the stores that are held to the model.
const modelWindow = time.Hour

// modelRow is what identifies a relationship; an ellipsis is written out.
type modelRow struct{ rtype, rid, rel, stype, sid, srel string }

// modelValue is the rest of it.
type modelValue struct {
	caveat  string
	context int
	expires int64 // seconds since 1970; 0 means never
}

// modelState is what a revision shows.
type modelState struct {
	at       Revision
	rows     map[modelRow]modelValue
	types    map[string]string // the name of the one relation
	caveats  map[string]string // the expression
	counters map[string]string // the type that is counted, and the value
	schema   string            // the hash; "" means that there is none
	// changes are what the revision changed, by what it changed. Those of optional may be missing: whether
	// the row was still there, long expired, is up to the collector.
	changes  map[string]string
	optional map[string]bool
	metadata int // 0 means none
	// own holds the rows that the draft's transaction wrote.
	own map[modelRow]bool
}

func (s *modelState) clone() *modelState {
	return &modelState{
		rows: maps.Clone(s.rows), types: maps.Clone(s.types), caveats: maps.Clone(s.caveats), counters: maps.Clone(s.counters),
		schema: s.schema, changes: map[string]string{}, optional: map[string]bool{}, own: map[modelRow]bool{},
	}
}

// model is the model of a store, with the store.
type model struct {
	s     *Store
	fs    *vfs.MemFS
	clock *testClock
	// latest is the farthest that the clock ever was.
	latest time.Time
	states []*modelState
	// horizon is the highest revision that a collection may have collected below.
	horizon Revision
}

func (m *model) config() Config {
	return small(Config{FS: m.fs, Now: m.clock.Now, Retention: modelWindow, Quantization: time.Minute})
}

func (m *model) open(t *rapid.T) {
	s, err := Open("store", m.config())
	if err != nil {
		t.Fatal(err)
	}
	m.s = s
	// Opening may have made a revision, of nothing.
	if at := headOf(t, s); len(m.states) == 0 || at != m.head().at {
		fresh := &modelState{
			rows: map[modelRow]modelValue{}, types: map[string]string{}, caveats: map[string]string{}, counters: map[string]string{},
		}
		if len(m.states) > 0 {
			fresh = m.head().clone()
		}
		m.add(t, fresh, at)
	}
}

func (m *model) head() *modelState { return m.states[len(m.states)-1] }

// add adds the state of a new revision.
func (m *model) add(t *rapid.T, s *modelState, at Revision) {
	if len(m.states) > 0 && at <= m.head().at {
		t.Fatalf("revision %v comes after %v", at, m.head().at)
	}
	s.at = at
	m.states = append(m.states, s)
}

// at returns the state that a revision shows.
func (m *model) at(r Revision) *modelState {
	i, found := slices.BinarySearchFunc(m.states, r, func(s *modelState, r Revision) int { return cmp.Compare(s.at, r) })
	if !found {
		i--
	}
	if i < 0 {
		return &modelState{} // before the store was made there was nothing
	}
	return m.states[i]
}

func (m *model) now() int64 { return m.clock.Now().UnixNano() }

// visible reports whether a relationship has not expired.
func (v modelValue) visible(now int64) bool { return v.expires == 0 || v.expires*1e9 > now }

// uncertain reports whether a row may have been collected because it expired so long ago.
func (m *model) uncertain(v modelValue) bool {
	return v.expires != 0 && time.Unix(v.expires, 0).Before(m.latest.Add(-modelWindow))
}

// relationship is a row in SpiceDB's words.
func relationship(r modelRow, v modelValue) tuple.Relationship {
	rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
		Resource: tuple.ObjectAndRelation{ObjectType: r.rtype, ObjectID: r.rid, Relation: r.rel},
		Subject:  tuple.ObjectAndRelation{ObjectType: r.stype, ObjectID: r.sid, Relation: r.srel},
	}}
	if v.caveat != "" {
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: v.caveat}
		if v.context != 0 {
			rel.OptionalCaveat.Context = &structpb.Struct{Fields: map[string]*structpb.Value{
				"number": structpb.NewNumberValue(float64(v.context)), "other": structpb.NewStringValue("x"),
			}}
		}
	}
	if v.expires != 0 {
		at := time.Unix(v.expires, 0)
		rel.OptionalExpiration = &at
	}
	return rel
}

// text is a row as the test compares it.
func text(r modelRow, v modelValue) string {
	return fmt.Sprintf("%s:%s#%s@%s:%s#%s [%s %d] %d", r.rtype, r.rid, r.rel, r.stype, r.sid, r.srel, v.caveat, v.context, v.expires)
}

// textOf is what text is of a relationship that was read.
func textOf(rel tuple.Relationship) string {
	v := modelValue{caveat: rel.OptionalCaveat.GetCaveatName(), context: int(rel.OptionalCaveat.GetContext().GetFields()["number"].GetNumberValue())}
	if rel.OptionalExpiration != nil {
		v.expires = rel.OptionalExpiration.Unix()
	}
	return text(rowRead(rel), v)
}

func rowRead(rel tuple.Relationship) modelRow {
	return modelRow{
		rel.Resource.ObjectType, rel.Resource.ObjectID, rel.Resource.Relation,
		rel.Subject.ObjectType, rel.Subject.ObjectID, rel.Subject.Relation,
	}
}

// What is drawn from. Some are the beginning of others, some sort differently with and without what comes
// after them.
var (
	modelTypes     = []string{"document", "doc", "folder"}
	modelIDs       = []string{"a", "ab", "a-b", "b", "0"}
	modelRelations = []string{"viewer", "view"}
	modelSubjects  = []string{"user", "user2", "document"}
	modelSIDs      = []string{"a", "ab", "*", "b", "a=b"}
	modelSRels     = []string{"...", "member", "view"}
	modelCaveats   = []string{"caveat", "caveat2"}
)

func one(t *rapid.T, of []string, label string) string { return rapid.SampledFrom(of).Draw(t, label) }

func some(t *rapid.T, of []string, label string) []string {
	return rapid.SliceOfN(rapid.SampledFrom(of), 1, 3).Draw(t, label)
}

// chance draws true about once in n times.
func chance(t *rapid.T, n int, label string) bool { return rapid.IntRange(1, n).Draw(t, label) == n }

func drawRow(t *rapid.T) modelRow {
	return modelRow{
		one(t, modelTypes, "type"), one(t, modelIDs, "id"), one(t, modelRelations, "relation"),
		one(t, modelSubjects, "subject type"), one(t, modelSIDs, "subject id"), one(t, modelSRels, "subject relation"),
	}
}

func (m *model) drawValue(t *rapid.T) modelValue {
	v := modelValue{}
	if chance(t, 3, "caveated") {
		v.caveat, v.context = one(t, modelCaveats, "caveat"), rapid.IntRange(0, 2).Draw(t, "context")
	}
	if chance(t, 3, "expires") {
		by := rapid.SampledFrom([]time.Duration{-100 * modelWindow, -time.Minute, 0, time.Second, modelWindow / 2, 5 * modelWindow, 1000 * modelWindow}).Draw(t, "in")
		v.expires = m.clock.Now().Add(by).Unix()
	}
	return v
}

// step moves the clock, never back by more than the window.
func (m *model) moveClock(t *rapid.T) {
	by := rapid.SampledFrom([]time.Duration{
		0, 1, time.Millisecond, time.Second, time.Minute, modelWindow / 3, modelWindow, 3 * modelWindow, -time.Second, -modelWindow / 2,
	}).Draw(t, "by")
	if m.clock.Now().Add(by).Before(m.latest.Add(-modelWindow + time.Minute)) {
		return
	}
	m.clock.move(by)
	if now := m.clock.Now(); now.After(m.latest) {
		m.latest = now
	}
}

func (m *model) restart(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

func (m *model) collect(t *rapid.T) {
	ctx := context.Background()
	if chance(t, 3, "cut short") {
		ctx = &cutting{ctx, rapid.IntRange(0, 20).Draw(t, "after")}
	}
	if err := runCollection(ctx, m.s); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m.horizon = max(m.horizon, m.windowFrom(m.s.readGrace()))
}

// windowFrom is where the window begins now, with some grace.
func (m *model) windowFrom(grace time.Duration) Revision {
	now := max(m.now(), int64(m.head().at))
	return min(m.head().at, Revision(now-int64(modelWindow)-int64(grace)))
}

// readable checks what the store says of a revision, and reports whether it can be read.
func (m *model) readable(t *rapid.T, r Revision) bool {
	err := m.s.CheckRevision(context.Background(), r)
	switch {
	case r > m.head().at:
		refusedAs(t, err, datastore.CouldNotDetermineRevision)
		_, err := texts(m.s.SnapshotReader(r).QueryRelationships(context.Background(), datastore.RelationshipsFilter{}))
		refusedAs(t, err, datastore.CouldNotDetermineRevision)
		return false
	case r != m.head().at && r < m.windowFrom(0):
		refusedAs(t, err, datastore.RevisionStale)
		// For a short while a reader can still be had.
		got, err := texts(m.s.SnapshotReader(r).QueryRelationships(context.Background(), datastore.RelationshipsFilter{}))
		if err != nil {
			refusedAs(t, err, datastore.RevisionStale)
		} else if all := (&question{}).answer(m.at(r), m.now(), options.ByResource); len(got) != len(all) {
			t.Fatalf("a reader at %v, just outside of the window, read %v, want %v", r, got, all)
		}
		return false
	case err != nil && r < m.horizon:
		refusedAs(t, err, datastore.RevisionStale)
		_, err := texts(m.s.SnapshotReader(r).QueryRelationships(context.Background(), datastore.RelationshipsFilter{}))
		refusedAs(t, err, datastore.RevisionStale)
		return false
	case err != nil:
		t.Fatalf("revision %v, of %v: %v; the head is %v, now is %v", r, r.Time(), err, m.head().at, m.clock.Now())
	}
	return true
}

// compareAt compares both sides at a revision.
func (m *model) compareAt(t *rapid.T, r Revision, questions int) {
	if !m.readable(t, r) {
		return
	}
	s, reader, now := m.at(r), m.s.SnapshotReader(r), m.now()
	for _, order := range []options.SortOrder{options.ByResource, options.BySubject} {
		all := question{sort: order}
		same(t, fmt.Sprintf("all of revision %v", r), textsOf(all.ask(t, reader, 0, nil, nil)), all.answer(s, now, order))
	}
	for range questions {
		q := drawQuestion(t)
		q.compare(t, reader, s, now)
	}
	compareSchema(t, reader, s)
	compareCounts(t, reader, s, now)
}

// compareHead compares what is known of the head.
func (m *model) compareHead(t *rapid.T) {
	h := must(m.s.HeadRevision(context.Background()))(t)
	if h.Revision != m.head().at || h.SchemaHash != m.head().schema {
		t.Fatalf("the head is %v with hash %q, want %v with %q", h.Revision, h.SchemaHash, m.head().at, m.head().schema)
	}
	o := must(m.s.OptimizedRevision(context.Background()))(t)
	if !m.readable(t, o.Revision.(Revision)) || o.SchemaHash != m.at(o.Revision.(Revision)).schema {
		t.Fatalf("the optimized revision is %v with hash %q", o.Revision, o.SchemaHash)
	}
}

// compareWatch watches from a revision to the head.
func (m *model) compareWatch(t *rapid.T, from Revision) {
	if !m.readable(t, from) || from == m.head().at {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	changes, failed := m.s.Watch(ctx, from, datastore.WatchOptions{
		Content: datastore.WatchRelationships | datastore.WatchSchema | datastore.WatchCheckpoints,
	})
	next := slices.IndexFunc(m.states, func(s *modelState) bool { return s.at > from })
	// certain skips to the next revision that has a change for certain, or is the given one.
	silent := func(s *modelState) bool {
		for key := range s.changes {
			if !s.optional[key] {
				return false
			}
		}
		return true
	}
	for {
		var c datastore.RevisionChanges
		select {
		case got, ok := <-changes:
			if !ok {
				t.Fatalf("the watch ended: %v", <-failed)
			}
			c = got
		case <-time.After(patience):
			t.Fatal("waited in vain for the watch")
		}
		for ; next < len(m.states) && m.states[next].at < c.Revision.(Revision); next++ {
			if !silent(m.states[next]) {
				t.Fatalf("revision %v is missing before %v: %v", m.states[next].at, c.Revision, m.states[next].changes)
			}
		}
		if c.IsCheckpoint {
			if c.Revision != m.head().at || next < len(m.states) && !silent(m.states[next]) {
				t.Fatalf("a checkpoint at %v, the head is %v", c.Revision, m.head().at)
			}
			return
		}
		if next == len(m.states) || m.states[next].at != c.Revision {
			t.Fatalf("revision %v was sent, and changed nothing, or was sent already", c.Revision)
		}
		m.states[next].compareChanges(t, c)
		next++
	}
}

// compareChanges compares what a revision changed.
func (s *modelState) compareChanges(t *rapid.T, c datastore.RevisionChanges) {
	got := map[string]string{}
	put := func(key, value string) {
		if _, twice := got[key]; twice {
			t.Fatalf("%s was sent twice", key)
		}
		got[key] = value
	}
	for _, u := range c.RelationshipChanges {
		key := "row " + text(rowRead(u.Relationship), modelValue{})
		if u.Operation == tuple.UpdateOperationDelete {
			put(key, "gone")
		} else {
			put(key, textOf(u.Relationship))
		}
	}
	for _, d := range c.ChangedDefinitions {
		switch d := d.(type) {
		case *core.NamespaceDefinition:
			put("type "+d.GetName(), d.GetRelation()[0].GetName())
		case *core.CaveatDefinition:
			put("caveat "+d.GetName(), string(d.GetSerializedExpression()))
		}
	}
	for _, name := range c.DeletedNamespaces {
		put("type "+name, "gone")
	}
	for _, name := range c.DeletedCaveats {
		put("caveat "+name, "gone")
	}
	for key, value := range got {
		if want, there := s.changes[key]; (!there || want != value) && !s.optional[key+" -> "+value] {
			t.Fatalf("revision %v changed %s to %s; want %q, %v", s.at, key, value, want, there)
		}
	}
	for key, value := range s.changes {
		if _, there := got[key]; !there && !s.optional[key] {
			t.Fatalf("revision %v changed %s to %s, and that was not sent", s.at, key, value)
		}
	}
	metadata := 0
	for _, md := range c.Metadatas {
		metadata = int(md.GetFields()["n"].GetNumberValue())
	}
	if metadata != s.metadata || len(c.Metadatas) > 1 {
		t.Fatalf("revision %v has metadata %v, want %d", s.at, c.Metadatas, s.metadata)
	}
}

// drawRevision draws one that there is or was, one beside it, or one that is none.
func (m *model) drawRevision(t *rapid.T) Revision {
	s := rapid.SampledFrom(m.states).Draw(t, "state")
	r := s.at + Revision(rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "plus"))
	if chance(t, 8, "beyond") {
		r = m.head().at + Revision(rapid.Uint64Range(1, 1e12).Draw(t, "by"))
	}
	return r
}

// TestModel holds the store to the model.
func TestModel(t *testing.T) {
	tryModel(t, 300, func(t *rapid.T) {
		m := &model{fs: vfs.NewMem(), clock: newTestClock()}
		m.latest = m.clock.Now()
		m.open(t)
		defer func() {
			if err := m.s.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"transact":       m.transact,
			"transact again": m.transact,
			"transact more":  m.transact,
			"move the clock": m.moveClock,
			"restart":        m.restart,
			"collect":        m.collect,
			"watch":          func(t *rapid.T) { m.compareWatch(t, m.drawRevision(t)) },
			"":               func(t *rapid.T) { m.compareHead(t); m.compareAt(t, m.drawRevision(t), 1) },
		})
		for _, s := range m.states {
			m.compareAt(t, s.at, 2)
		}
		m.compareWatch(t, m.states[0].at)
		m.restart(t)
		for _, s := range m.states {
			m.compareAt(t, s.at, 1)
			m.compareWatch(t, s.at)
		}
	})
}
