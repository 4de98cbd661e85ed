package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	domains "github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// stuck is an authority's engine that answers no more once it is held.
type stuck struct {
	authz.Graph

	held atomic.Bool
	// during is called while a question is under way, if it is set.
	during atomic.Pointer[func()]
}

func (s *stuck) Write(ctx context.Context, updates []authz.Update, preconditions []authz.MustHold) (authz.Revision, error) {
	if during := s.during.Load(); during != nil {
		defer (*during)()
	}
	return s.Graph.Write(ctx, updates, preconditions)
}

func (s *stuck) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if s.held.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if during := s.during.Load(); during != nil {
		defer (*during)()
	}
	return s.Graph.Snapshot(ctx, f)
}

// followed is a graph over a copy of a database, with what is behind it.
type followed struct {
	*follow.Graph
	*written

	engine *engine.Engine
	behind *stuck
	// pulls counts what the authority was asked, and block, while it is set, is waited for first.
	pulls atomic.Int64
	block atomic.Pointer[chan struct{}]
	of    *histories
	// renewed counts how often the engine was told that the history is another one.
	renewed atomic.Int64
	served  chan bool
	// also is told, if it is not nil, of what the authority is asked.
	also atomic.Pointer[func(what string)]
}

// steps has a function told of each thing that the authority is asked from here on.
func (f *followed) steps(also func(what string)) { f.also.Store(&also) }

// openCopy is the graph over a copy.
type openCopy struct {
	*kept.Graph

	spicedb *engine.Engine
}

func (c openCopy) Close() error {
	c.Graph.Close()
	return c.spicedb.Close()
}

// keptOpen is a store that is not the engine's to close.
type keptOpen struct{ *store.Store }

func (keptOpen) Close() error { return nil }

// graph opens a graph over a fresh database, and returns once its copy serves.
func graph(t *testing.T, uri string, change func(*follow.Config, *follow.GraphConfig)) *followed {
	t.Helper()
	w := writer(t, uri)
	e, head, printed, err := engineOver(t, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
	})
	f := &followed{written: w, engine: e, behind: &stuck{Graph: e}, served: make(chan bool, 100)}
	f.of = &histories{Authority: authority(t, w.uri, time.Hour)}
	a := &stepped{Authority: f.of, step: func(what string) {
		if what == "the head" {
			return // only what the copy needs is held
		}
		f.pulls.Add(1)
		if also := f.also.Load(); also != nil {
			(*also)(what)
		}
		if block := f.block.Load(); block != nil {
			<-*block
		}
	}}
	config := inMemory()
	over := follow.GraphConfig{
		Engine: f.behind, Head: head, Printed: printed, Renewed: func(follow.Identity, follow.Identity) { f.renewed.Add(1); e.BeginHistory() },
		Wait: 5 * time.Second, MaxAge: time.Minute, Log: zap.NewNop(),
		Served: func(serves bool) { f.served <- serves },
		Open: func(s *store.Store) (follow.Local, error) {
			spicedb, err := engine.OverCopy(context.Background(), engine.Config{}, keptOpen{s})
			if err != nil {
				return nil, err
			}
			return openCopy{kept.Open(kept.Config{Engine: spicedb, Store: s, Failure: engine.Failure}), spicedb}, nil
		},
	}
	if change != nil {
		change(&config, &over)
	}
	over.Follower = follower(t, config, a)
	f.Graph = follow.OpenGraph(over)
	t.Cleanup(func() {
		f.release()
		if err := f.Close(); err != nil {
			t.Errorf("closing the graph: %v", err)
		}
	})
	f.serves(t, true)
	return f
}

// engineOver opens the engine of an authority, with how it takes heads and prints revisions.
func engineOver(t *testing.T, w *written) (
	e *engine.Engine, head func(context.Context, func() (string, error)) (authz.Revision, error), printed func(authz.Revision) (string, error), err error,
) {
	t.Helper()
	s := servedAt(w.uri)
	if s == nil {
		if e, err = engine.Open(t.Context(), engine.Config{Kind: engine.Postgres, URI: w.uri}); err != nil {
			return nil, nil, nil, err
		}
		return e, e.Head, e.Printed, nil
	}
	if e, err = engine.Over(context.Background(), engine.Config{Kind: engine.Embedded}, keptOpen{s.Store}); err != nil {
		return nil, nil, nil, err
	}
	// The engine of a server that follows is one over the other server, which knows the store's id besides.
	id := "@" + strings.TrimPrefix(w.uri, "deputy:")
	head = func(ctx context.Context, take func() (string, error)) (authz.Revision, error) {
		return e.Head(ctx, func() (string, error) {
			taken, err := take()
			return strings.TrimSuffix(taken, id), err
		})
	}
	printed = func(r authz.Revision) (string, error) {
		text, err := e.Printed(r)
		return text + id, err
	}
	return e, head, printed, nil
}

// serves waits until the copy serves, or does not any more.
func (f *followed) serves(t *testing.T, want bool) {
	t.Helper()
	for limit := time.After(30 * time.Second); ; {
		select {
		case got := <-f.served:
			if got == want {
				return
			}
		case <-limit:
			t.Fatalf("the copy is not told to serve %v", want)
		}
	}
}

// hold has the authority answer no more, until release.
func (f *followed) hold() {
	block := make(chan struct{})
	f.block.Store(&block)
}

func (f *followed) release() {
	if block := f.block.Swap(nil); block != nil {
		close(*block)
	}
}

// token is the revision of a write of SpiceDB's.
func (f *followed) token(t *testing.T, updates ...tuple.RelationshipUpdate) authz.Revision {
	t.Helper()
	at, err := f.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := zedtoken.NewFromRevision(context.Background(), at, datalayer.NoSchemaHashInLegacyMode, f.Datastore)
	if err != nil {
		t.Fatal(err)
	}
	return authz.Revision{Token: token.GetToken()}
}

// viewers reads who a snapshot says are viewers of the plan.
func viewers(t *testing.T, snap authz.Snapshot) []string {
	t.Helper()
	found, err := snap.Read(context.Background(), authz.Filter{Resource: authz.Object{Type: "document", ID: "plan"}, Relation: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, rel := range found[0] {
		all = append(all, rel.Subject.ID)
	}
	slices.Sort(all)
	return all
}

// byCopy reports whether a snapshot is of the copy, which knows moments, and SpiceDB does not.
func byCopy(snap authz.Snapshot) bool {
	_, momentary := snap.(authz.Momentary)
	return momentary
}

func (f *followed) snapshot(t *testing.T, fresh authz.Freshness) authz.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	snap, err := f.Snapshot(ctx, fresh)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// TestHeadOfCopy has each snapshot at the head, made after a write of somebody else's was acknowledged, show it, by the copy and at a revision that the
// authority's engine reads the same at. Beside it somebody writes all the time.
func TestHeadOfCopy(t *testing.T) { eachAuthority(t, headOfCopy) }

func headOfCopy(t *testing.T, database func(testing.TB) string) {
	f := graph(t, database(t), nil)
	noise, quiet := context.WithCancel(context.Background())
	var noisy sync.WaitGroup
	noisy.Go(func() {
		for i := 0; noise.Err() == nil; i++ {
			_, _ = f.ReadWriteTx(noise, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch(fmt.Sprintf("document:n%d#viewer@user:alice", i%50))})
			})
		}
	})
	defer noisy.Wait()
	defer quiet()
	byCopies := 0
	for i := range 50 {
		want := []string{"alice"}
		change := touch("document:plan#viewer@user:alice")
		if i%2 == 1 {
			want, change = nil, remove("document:plan#viewer@user:alice")
		}
		f.update(t, change)
		snap := f.snapshot(t, authz.Freshness{})
		if byCopy(snap) {
			byCopies++
		}
		if got := viewers(t, snap); !slices.Equal(got, want) {
			t.Fatalf("step %d: the viewers are %v, want %v", i, got, want)
		}
		theirs, err := f.engine.Snapshot(context.Background(), authz.Freshness{Exactly: snap.Revision()})
		if err != nil {
			t.Fatal(err)
		}
		if got := viewers(t, theirs); !slices.Equal(got, want) {
			t.Fatalf("step %d: at the same revision SpiceDB says %v, want %v", i, got, want)
		}
		again := f.snapshot(t, authz.Freshness{Exactly: snap.Revision()})
		if got := viewers(t, again); !slices.Equal(got, want) || !byCopy(again) {
			t.Fatalf("step %d: at the same revision the graph says %v, by the copy: %v; want %v", i, got, byCopy(again), want)
		}
	}
	if byCopies < 45 {
		t.Errorf("of 50 snapshots the copy answered %d", byCopies)
	}
}

// TestCopyDoesNotKeepUp has the authority's engine answer once a decision has waited for long enough, for a few at a time, and refuse all others.
func TestCopyDoesNotKeepUp(t *testing.T) { eachAuthority(t, copyDoesNotKeepUp) }

func copyDoesNotKeepUp(t *testing.T, database func(testing.TB) string) {
	const wait = 100 * time.Millisecond
	f := graph(t, database(t), func(_ *follow.Config, g *follow.GraphConfig) { g.Wait = wait })
	f.update(t, touch("document:plan#viewer@user:alice"))
	f.hold()
	began := time.Now()
	snap := f.snapshot(t, authz.Freshness{})
	if byCopy(snap) || !slices.Equal(viewers(t, snap), []string{"alice"}) {
		t.Errorf("the copy does not keep up, and answers: %v; the viewers are %v", byCopy(snap), viewers(t, snap))
	}
	if took := time.Since(began); took < wait {
		t.Errorf("the snapshot waited %s, less than %s", took, wait)
	}
	// Nor does the engine answer any more.
	f.behind.held.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var refused, waited atomic.Int32
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			_, err := f.Snapshot(ctx, authz.Freshness{})
			switch {
			case authz.KindOf(err) == authz.Unavailable && ctx.Err() == nil:
				refused.Add(1)
			case err != nil:
				waited.Add(1)
			default:
				t.Error("somebody got an answer")
			}
		})
	}
	all.Wait()
	if waited.Load() > 20 || refused.Load() < 40 {
		t.Errorf("%d wait for the engine, and %d were refused in time; want at most 20, and the rest", waited.Load(), refused.Load())
	}
	f.behind.held.Store(false)
	f.release()
	if snap := f.snapshot(t, authz.Freshness{}); !slices.Equal(viewers(t, snap), []string{"alice"}) {
		t.Errorf("afterwards the viewers are %v", viewers(t, snap))
	}
}

// TestBounds has the copy answer without asking the authority where it shows a revision and is young enough, and nobody get less than the revision.
func TestBounds(t *testing.T) { eachAuthority(t, bounds) }

func bounds(t *testing.T, database func(testing.TB) string) {
	f := graph(t, database(t), func(_ *follow.Config, g *follow.GraphConfig) { g.Wait, g.MaxAge = 500*time.Millisecond, 5*time.Second })
	old := f.token(t, touch("document:plan#viewer@user:alice"))
	for limit := time.Now().Add(30 * time.Second); !byCopy(f.snapshot(t, authz.Freshness{})); { // until the copy is past it
		if time.Now().After(limit) {
			t.Fatal("the copy does not answer")
		}
	}
	f.hold()
	held := f.pulls.Load()
	for name, fresh := range map[string]authz.Freshness{
		"as fast as can be": {Stale: true}, "a revision that the copy shows": {Stale: true, AtLeast: old},
	} {
		if snap := f.snapshot(t, fresh); !byCopy(snap) || len(viewers(t, snap)) != 1 {
			t.Errorf("%s: by the copy: %v, viewers %v", name, byCopy(snap), viewers(t, snap))
		}
	}
	if asked := f.pulls.Load() - held; asked > 1 { // the graph's own goes on
		t.Errorf("the authority was asked %d times", asked)
	}
	revoked := f.token(t, remove("document:plan#viewer@user:alice"))
	for name, fresh := range map[string]authz.Freshness{
		"a revision that it does not show": {Stale: true, AtLeast: revoked}, "the head after a revision": {AtLeast: revoked}, "the head": {},
	} {
		if snap := f.snapshot(t, fresh); byCopy(snap) || len(viewers(t, snap)) != 0 {
			t.Errorf("%s: by the copy: %v, viewers %v", name, byCopy(snap), viewers(t, snap))
		}
	}
	f.serves(t, false)
	if snap := f.snapshot(t, authz.Freshness{Stale: true}); byCopy(snap) {
		t.Error("a copy that is too old answers")
	}
	f.release()
	f.serves(t, true)
	if snap := f.snapshot(t, authz.Freshness{Stale: true, AtLeast: revoked}); len(viewers(t, snap)) != 0 {
		t.Errorf("afterwards the viewers are %v", viewers(t, snap))
	}
	if _, err := f.Snapshot(t.Context(), authz.Freshness{Exactly: authz.Revision{Token: "nonsense"}}); authz.KindOf(err) != authz.OutOfRange {
		t.Errorf("a revision that is none: %v", err)
	}
}

// TestSwapped loads the authority anew, because too much has changed: stamps of the old copy are not current in the new one, revisions that it stood
// at are the authority's to answer, and who reads it still can for a while.
func TestSwapped(t *testing.T) { eachAuthority(t, swapped) }

func swapped(t *testing.T, database func(testing.TB) string) {
	f := graph(t, database(t), func(c *follow.Config, _ *follow.GraphConfig) { c.MaxChanges = 10 })
	f.update(t, touch("document:plan#viewer@user:alice"))
	before := f.snapshot(t, authz.Freshness{})
	type stamper interface {
		Stamp(filters []authz.Filter) (authz.Stamp, bool)
		Current(stamp authz.Stamp) bool
	}
	stamp, ok := before.(stamper).Stamp([]authz.Filter{{Resource: authz.Object{Type: "document", ID: "plan"}}})
	if !ok || !before.(stamper).Current(stamp) {
		t.Fatal("the copy makes no stamp, or it is not current")
	}
	updates := []tuple.RelationshipUpdate{remove("document:plan#viewer@user:alice")}
	for i := range 11 {
		updates = append(updates, touch(fmt.Sprintf("document:%d#viewer@user:alice", i)))
	}
	f.update(t, updates...)
	var after authz.Snapshot
	for limit := time.Now().Add(30 * time.Second); ; {
		after = f.snapshot(t, authz.Freshness{})
		if len(viewers(t, after)) != 0 {
			t.Fatalf("by the copy: %v, what was revoked is in force", byCopy(after))
		}
		if byCopy(after) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the authority is not loaded anew")
		}
	}
	if after.(stamper).Current(stamp) {
		t.Error("a stamp of the copy that was replaced is current in the new one")
	}
	// Where both count alike nothing else tells them apart.
	own, ok := after.(stamper).Stamp([]authz.Filter{{Resource: authz.Object{Type: "document", ID: "plan"}}})
	if !ok || !after.(stamper).Current(own) {
		t.Error("the new copy makes no stamp, or it is not current")
	}
	if own.Of = stamp.Of; after.(stamper).Current(own) {
		t.Error("a stamp of the copy that was replaced is current in the new one, where both have counted alike")
	}
	if got := viewers(t, before); !slices.Equal(got, []string{"alice"}) {
		t.Errorf("the old copy says %v", got)
	}
	old := f.snapshot(t, authz.Freshness{Exactly: before.Revision()})
	if got := viewers(t, old); byCopy(old) || !slices.Equal(got, []string{"alice"}) {
		t.Errorf("at the old revision: by the copy %v, viewers %v", byCopy(old), got)
	}
}

// grows has the copy have more relationships than change afterwards.
func (f *followed) grows(t *testing.T) {
	t.Helper()
	for i := range 10 {
		var more []tuple.RelationshipUpdate
		for k := range 8 {
			more = append(more, touch(fmt.Sprintf("document:%d-%d#viewer@user:bob", i, k)))
		}
		f.update(t, more...)
		f.snapshot(t, authz.Freshness{})
	}
}

// TestCatchesUpInPlace changes more at once than one commit of the copy holds: the copy is not loaded anew. Until it is at the head, calls that do not ask
// for the head are answered from it as it was, and others by the authority. Revisions that it stood at before are the copy's to answer afterwards too.
func TestCatchesUpInPlace(t *testing.T) {
	f := graph(t, pgtest.Database(t), func(c *follow.Config, g *follow.GraphConfig) { c.MaxChanges, c.PageSize, g.Sample = 10, 10, -1 })
	f.of.parts.Store(true)
	f.grows(t)
	granted := f.token(t, touch("document:plan#viewer@user:alice"))
	before := f.snapshot(t, authz.Freshness{})
	if !byCopy(before) {
		t.Fatal("the copy does not serve")
	}
	var asked []string
	var meanwhile atomic.Int64
	f.steps(func(what string) {
		switch {
		case what == "the next part":
			stale := f.snapshot(t, authz.Freshness{Stale: true, AtLeast: granted})
			if got := viewers(t, stale); !byCopy(stale) || !slices.Equal(got, []string{"alice"}) {
				t.Errorf("meanwhile, by the copy %v: %v", byCopy(stale), got)
			}
			if s := f.Status(); s.CatchingUp <= 0 || s.Loading != nil {
				t.Errorf("meanwhile the copy catches up for %s, and is loaded: %v", s.CatchingUp, s.Loading)
			}
			head := f.snapshot(t, authz.Freshness{})
			if got := viewers(t, head); byCopy(head) || len(got) != 0 {
				t.Errorf("the head meanwhile, by the copy %v: %v", byCopy(head), got)
			}
			meanwhile.Add(1)
		case what != "changes" && what != "changes in parts":
			asked = append(asked, what)
		}
	})
	updates := []tuple.RelationshipUpdate{remove("document:plan#viewer@user:alice")}
	for i := range 35 {
		updates = append(updates, touch(fmt.Sprintf("document:%d#viewer@user:alice", i)))
	}
	f.update(t, updates...)
	limit := time.Now().Add(30 * time.Second)
	for {
		after := f.snapshot(t, authz.Freshness{})
		if got := viewers(t, after); len(got) != 0 {
			t.Fatalf("by the copy %v: %v, what was revoked is in force", byCopy(after), got)
		}
		if byCopy(after) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the copy does not come to the head")
		}
	}
	f.steps(func(string) {})
	if len(asked) > 0 || meanwhile.Load() == 0 {
		t.Errorf("the authority was asked for %q, and %d parts were written", asked, meanwhile.Load())
	}
	old := f.snapshot(t, authz.Freshness{Exactly: before.Revision()})
	if got := viewers(t, old); !byCopy(old) || !slices.Equal(got, []string{"alice"}) {
		t.Errorf("at the old revision: by the copy %v, viewers %v", byCopy(old), got)
	}
}

// TestStrays refuses a type whose expirations somebody dropped from the schema while rows had them, as the authority's engine does, and takes it again
// once the rows are gone.
func TestStrays(t *testing.T) {
	f := graph(t, pgtest.Database(t), nil)
	f.define(t, domains.Core+"\ndefinition note {\n relation viewer: user with expiration\n}\n")
	f.update(t, expiring("note:n#viewer@user:alice", time.Now().Add(time.Hour)))
	f.define(t, domains.Core+"\ndefinition note {\n relation viewer: user\n}\n")
	stray := func(snap authz.Snapshot) string {
		t.Helper()
		found, err := snap.Schema(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if found.CoreDifference != "" {
			t.Fatalf("the core differs, and the test tests nothing: %s", found.CoreDifference)
		}
		return found.Types["note"].Stray
	}
	theirs, err := f.engine.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	snap := f.snapshot(t, authz.Freshness{})
	if got, want := stray(snap), stray(theirs); got != want || got == "" || !byCopy(snap) {
		t.Errorf("by the copy: %v; it refuses the type for %q, and the engine for %q", byCopy(snap), got, want)
	}
	f.update(t, remove("note:n#viewer@user:alice"))
	for limit := time.Now().Add(20 * time.Second); ; {
		snap := f.snapshot(t, authz.Freshness{})
		if byCopy(snap) && stray(snap) == "" {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("the row is gone, and the type is refused for %q", stray(snap))
		}
	}
}

// TestHeadIsNotBehind refuses a head that lies behind what the server has acknowledged, as a standby that lags would show.
func TestHeadIsNotBehind(t *testing.T) {
	f := graph(t, pgtest.Database(t), nil)
	head, err := f.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := head.Revision.String()
	if _, err := f.engine.Head(t.Context(), func() (string, error) { return old, nil }); err != nil {
		t.Fatalf("the head: %v", err)
	}
	written, err := f.Write(t.Context(), []authz.Update{{Operation: authz.Touch, Relationship: authz.Relationship{
		Resource: authz.Object{Type: "document", ID: "plan"}, Relation: "viewer", Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "alice"}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.engine.Head(t.Context(), func() (string, error) { return old, nil }); authz.KindOf(err) != authz.Unavailable {
		t.Errorf("a head from before an acknowledged write: %v", err)
	}
	// A write that is acknowledged while the head is on its way here does not make it an old one.
	if _, err := f.engine.Head(t.Context(), func() (string, error) {
		now, err := f.HeadRevision(t.Context())
		if err != nil {
			return "", err
		}
		_, err = f.Write(t.Context(), []authz.Update{{Operation: authz.Delete, Relationship: authz.Relationship{
			Resource: authz.Object{Type: "document", ID: "plan"}, Relation: "viewer", Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "alice"}},
		}}}, nil)
		return now.Revision.String(), err
	}); err != nil {
		t.Errorf("a head that was taken before a write: %v", err)
	}
	failed := errors.New("broken")
	if _, err := f.engine.Head(t.Context(), func() (string, error) { return "", failed }); !errors.Is(err, failed) {
		t.Errorf("a head that cannot be taken: %v", err)
	}
	if snap := f.snapshot(t, authz.Freshness{AtLeast: written}); len(viewers(t, snap)) != 0 {
		t.Errorf("the viewers are %v", viewers(t, snap))
	}
}
