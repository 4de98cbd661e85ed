package follow_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// histories is a database that says that it is another one after each time it was failed over. Its rows stay: what the tests look at is what
// becomes of the copy and of revisions. tests/follow fails over a real one.
type histories struct {
	follow.Authority

	failovers atomic.Int64
	// silent is whether the database does not say what its head is.
	silent atomic.Bool
	// parts is whether it tells changes in parts, if the database does.
	parts atomic.Bool
}

// ChangesInParts is follow.Parted's.
func (h *histories) ChangesInParts(
	ctx context.Context, from follow.Position, size int, take func(deleted, written []tuple.Relationship) error,
) (follow.Changes, error) {
	if parted, ok := h.Authority.(follow.Parted); ok && h.parts.Load() {
		return parted.ChangesInParts(ctx, from, size, take)
	}
	return follow.Changes{}, follow.ErrTooMany
}

const failedOver = ", failed over"

func (h *histories) suffix() string { return strings.Repeat(failedOver, int(h.failovers.Load())) }

func (h *histories) Head(ctx context.Context) (follow.Position, error) {
	if h.silent.Load() {
		return follow.Position{}, errors.New("no answer")
	}
	suffix := h.suffix()
	p, err := h.Authority.Head(ctx)
	p.Authority += follow.Identity(suffix)
	return p, err
}

func (h *histories) ChangesSince(ctx context.Context, from follow.Position, limit int) (follow.Changes, error) {
	suffix := h.suffix()
	own, ours := strings.CutSuffix(string(from.Authority), suffix)
	if !ours || strings.HasSuffix(own, failedOver) {
		return follow.Changes{}, follow.ErrOther
	}
	from.Authority = follow.Identity(own)
	c, err := h.Authority.ChangesSince(ctx, from, limit)
	c.To.Authority += follow.Identity(suffix)
	return c, err
}

func (h *histories) At(p follow.Position) follow.State {
	p.Authority = follow.Identity(strings.TrimSuffix(string(p.Authority), h.suffix()))
	return h.Authority.At(p)
}

// touchPlan is an update that lets somebody view the plan.
func touchPlan(subject string) []authz.Update {
	return []authz.Update{{Operation: authz.Touch, Relationship: authz.Relationship{
		Resource: authz.Object{Type: "document", ID: "plan"}, Relation: "viewer", Subject: authz.Subject{Object: authz.Object{Type: "user", ID: subject}},
	}}}
}

// TestOtherHistory fails a database over: what names a revision of the lost history is refused, no matter which engine would
// answer, and the server goes on with a copy of the new one.
func TestOtherHistory(t *testing.T) {
	f := graph(t, pgtest.Database(t), func(_ *follow.Config, g *follow.GraphConfig) { g.Wait = time.Second })
	read := f.snapshot(t, authz.Freshness{}).Revision()
	written, err := f.Write(t.Context(), touchPlan("alice"), nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs := f.token(t)
	if read.History() == "" || read.History() != written.History() {
		t.Fatalf("a snapshot is of the history %q, and a write of %q", read.History(), written.History())
	}
	for name, fresh := range map[string]authz.Freshness{
		"a revision that was read": {AtLeast: read}, "one that was written": {AtLeast: written}, "exactly": {Exactly: written},
		"one without a history": {AtLeast: theirs}, "exactly one without": {Exactly: authz.Revision{Token: read.ZedToken()}},
	} {
		if snap := f.snapshot(t, fresh); snap.Revision().History() != read.History() {
			t.Errorf("%s: answered at %v", name, snap.Revision())
		}
	}

	f.of.failovers.Add(1)
	f.serves(t, false)
	f.serves(t, true)
	if told := f.renewed.Load(); told != 1 {
		t.Errorf("the engine was told %d times that the history is another one", told)
	}
	now := f.snapshot(t, authz.Freshness{})
	if !byCopy(now) || now.Revision().History() == read.History() || now.Revision().History() == "" {
		t.Fatalf("by the copy: %v, at %v, and before at %v", byCopy(now), now.Revision(), read)
	}
	lost := map[string]authz.Freshness{
		"a revision that was read": {AtLeast: read}, "one that was written": {AtLeast: written}, "as fresh as it": {AtLeast: written, Stale: true},
		"exactly": {Exactly: read},
	}
	refused := func(by string) {
		t.Helper()
		for name, fresh := range lost {
			if snap, err := f.Snapshot(t.Context(), fresh); authz.KindOf(err) != authz.OutOfRange {
				t.Errorf("%s, by %s: %v, %v", name, by, snap, err)
			}
		}
	}
	refused("the copy")
	good := f.snapshot(t, authz.Freshness{AtLeast: now.Revision()})
	if good.Revision().History() != now.Revision().History() {
		t.Errorf("answered at %v", good.Revision())
	}
	f.hold() // the database answers, after some seconds
	refused("the database")
	if snap := f.snapshot(t, authz.Freshness{}); byCopy(snap) || snap.Revision().History() != now.Revision().History() {
		t.Errorf("by the copy: %v, at %v", byCopy(snap), snap.Revision())
	}
}

// TestFailoverDuringCall fails a database over while a call is under way: its answer is of neither history.
func TestFailoverDuringCall(t *testing.T) {
	f := graph(t, pgtest.Database(t), func(_ *follow.Config, g *follow.GraphConfig) { g.Wait = 100 * time.Millisecond })
	f.hold()
	f.behind.during.Store(new(func() { f.of.failovers.Add(1) }))
	if snap, err := f.Snapshot(t.Context(), authz.Freshness{}); authz.KindOf(err) != authz.Unavailable {
		t.Errorf("the database became another one meanwhile: %v, %v", snap, err)
	}
	written, err := f.Write(t.Context(), touchPlan("alice"), nil)
	if err != nil {
		t.Fatalf("the write took place, and the call says: %v", err)
	}
	f.behind.during.Store(nil)
	if snap, err := f.Snapshot(t.Context(), authz.Freshness{AtLeast: written}); authz.KindOf(err) != authz.OutOfRange {
		t.Errorf("a revision of a write during which the database became another one: %v, %v", snap, err)
	}
	f.release()
	f.serves(t, true)
}

// TestWriteGoesThrough has somebody write while the database does not say who it is: the write takes place, and its revision is good nowhere.
func TestWriteGoesThrough(t *testing.T) {
	f := graph(t, pgtest.Database(t), nil)
	f.of.silent.Store(true)
	written, err := f.Write(t.Context(), touchPlan("alice"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.of.silent.Store(false)
	if snap, err := f.Snapshot(t.Context(), authz.Freshness{AtLeast: written}); authz.KindOf(err) != authz.OutOfRange {
		t.Errorf("a revision of a write of which it is not known where: %v, %v", snap, err)
	}
	if got := viewers(t, f.snapshot(t, authz.Freshness{})); !slices.Equal(got, []string{"alice"}) {
		t.Errorf("the viewers are %v", got)
	}
}

// damagedOnce is the graph over a copy, which finds damage when it is told to.
type damagedOnce struct {
	openCopy

	damaged *atomic.Bool
}

func (d damagedOnce) At(ctx context.Context, at store.Revision, moment time.Time) (authz.Snapshot, error) {
	if d.damaged.Swap(false) {
		return nil, errors.Join(errors.New("a block"), store.ErrDamaged)
	}
	return d.openCopy.At(ctx, at, moment)
}

// TestDamageWhileServing has a copy in which a decision finds damage be taken out of service, and be made anew.
func TestDamageWhileServing(t *testing.T) {
	var damaged atomic.Bool
	f := graph(t, pgtest.Database(t), func(_ *follow.Config, g *follow.GraphConfig) {
		g.Open = func(s *store.Store) (follow.Local, error) {
			spicedb, err := engine.OverCopy(context.Background(), engine.Config{}, keptOpen{s})
			if err != nil {
				return nil, err
			}
			return damagedOnce{openCopy{kept.Open(kept.Config{Engine: spicedb, Store: s, Failure: engine.Failure}), spicedb}, &damaged}, nil
		}
	})
	before := f.snapshot(t, authz.Freshness{})
	damaged.Store(true)
	if _, err := f.Snapshot(t.Context(), authz.Freshness{Stale: true}); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("damage is not told: %v", err)
	}
	f.serves(t, false)
	f.serves(t, true)
	after := f.snapshot(t, authz.Freshness{})
	stamped := func(snap authz.Snapshot) uint64 {
		stamp, _ := snap.(interface {
			Stamp(filters []authz.Filter) (authz.Stamp, bool)
		}).Stamp([]authz.Filter{{Resource: authz.Object{Type: "document", ID: "plan"}}})
		return stamp.Of
	}
	if !byCopy(after) || stamped(after) == stamped(before) {
		t.Errorf("by the copy: %v, which is copy %d, and was copy %d", byCopy(after), stamped(after), stamped(before))
	}
}

// TestOutOfServiceReloads: from the moment on at which a copy is out of service because the authority has another history, another one is known to be
// needed, so that a server which still has the authority's answers is ready all the time.
func TestOutOfServiceReloads(t *testing.T) {
	f := graph(t, pgtest.Database(t), nil)
	if serves, reloads := f.Stands(); !serves || reloads {
		t.Fatalf("at first it serves: %v, and reloads: %v", serves, reloads)
	}
	f.hold() // the next copy is not even begun
	f.of.failovers.Add(1)
	if _, err := f.HistoryNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if serves, reloads := f.Stands(); serves || !reloads {
		t.Errorf("with another history it serves: %v, and reloads: %v; want a copy to be made anew", serves, reloads)
	}
}

// TestServedIsTold: that a copy does not serve any more is told when that is so, and not once the authority has answered, or has not in time.
func TestServedIsTold(t *testing.T) {
	f := graph(t, pgtest.Database(t), func(_ *follow.Config, g *follow.GraphConfig) { g.MaxAge = time.Second })
	f.hold()
	began := time.Now()
	f.serves(t, false)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it is told after %s that the copy has not been known to be the head for a second", took)
	}
}
