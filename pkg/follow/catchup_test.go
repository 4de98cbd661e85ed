package follow_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// between is a modelled authority that has something happen after each part of changes, if it is set. Its error ends the telling.
type between struct {
	modelledParts

	after func() error
}

func (b *between) ChangesInParts(
	ctx context.Context, from follow.Position, size int, take func(deleted, written []tuple.Relationship) error,
) (follow.Changes, error) {
	return b.modelledParts.ChangesInParts(ctx, from, size, func(deleted, written []tuple.Relationship) error {
		if err := take(deleted, written); err != nil || b.after == nil {
			return err
		}
		return b.after()
	})
}

// behind has a follower load a copy of a model, and then more change than one commit of the copy holds.
func behind(t *testing.T) (f *follow.Follower, a *between, config follow.Config) {
	t.Helper()
	m := newModelled(1)
	m.quiet, m.giants = true, 25
	a = &between{modelledParts: modelledParts{m}}
	config = over(vfs.NewMem())
	config.PageSize, config.MaxChanges = 2, 8
	f, err := follow.Open(config, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for !errors.Is(err, follow.ErrTooMany) {
		m.happens()
		var reached *follow.Reached
		if reached, err = f.Pull(t.Context()); err == nil {
			reached.Release()
		}
	}
	return f, a, config
}

// differs has a copy have a relationship that its authority never had, and that no change concerns.
func differs(t *testing.T, s *store.Store) {
	t.Helper()
	if _, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:never#viewer@user:granted")})
	}); err != nil {
		t.Fatal(err)
	}
}

// TestDistrustedWhileItCatchesUp: a copy that was found to differ from the authority while it is brought to the head in several commits, or after that
// was interrupted, is not used any more: neither by this follower nor by the next one.
func TestDistrustedWhileItCatchesUp(t *testing.T) {
	interrupt := func(t *testing.T, f *follow.Follower) {
		t.Helper()
		if _, err := f.CatchUp(t.Context()); !errors.Is(err, errModel) && !errors.Is(err, follow.ErrNoCopy) {
			t.Fatalf("the interrupted catching up: %v", err)
		}
	}
	for name, found := range map[string]func(t *testing.T, f *follow.Follower, a *between, distrust func()){
		"between two parts, then interrupted": func(t *testing.T, f *follow.Follower, a *between, distrust func()) {
			a.after = func() error { distrust(); return errModel }
			interrupt(t, f)
		},
		"between two parts, and not interrupted": func(t *testing.T, f *follow.Follower, a *between, distrust func()) {
			a.after = func() error { distrust(); return nil }
			if _, err := f.CatchUp(t.Context()); !errors.Is(err, follow.ErrNoCopy) {
				t.Errorf("catching up with a copy that differs: %v", err)
			}
		},
		"after it was interrupted": func(t *testing.T, f *follow.Follower, a *between, distrust func()) {
			a.after = func() error { return errModel }
			interrupt(t, f)
			distrust()
		},
		"while a load goes on with it, and is interrupted": func(t *testing.T, f *follow.Follower, a *between, distrust func()) {
			a.after = func() error { return errModel }
			interrupt(t, f)
			a.after = func() error { distrust(); return errModel }
			_ = f.Load(t.Context())
		},
		"while a load goes on with it": func(t *testing.T, f *follow.Follower, a *between, distrust func()) {
			a.after = func() error { return errModel }
			interrupt(t, f)
			a.after = func() error { distrust(); return nil }
			_ = f.Load(t.Context())
		},
	} {
		for _, again := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", and opened again"}[again], func(t *testing.T) {
				f, a, config := behind(t)
				held, err := f.Reached()
				if err != nil {
					t.Fatal(err)
				}
				differs(t, held.Store)
				told := false
				found(t, f, a, func() {
					if !told {
						f.Distrust(held.Store) // it may have been discarded already
					}
					told = true
				})
				a.after = nil
				if !again {
					defer held.Release()
				} else {
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					if f, err = follow.Open(config, a); err != nil {
						t.Fatal(err)
					}
					defer func() { _ = f.Close() }()
				}
				reached, err := f.Follow(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if reached.Store == held.Store {
					t.Error("the copy that differs is served again")
				}
				reached.Release()
				isExact(t, f, a.modelled)
			})
		}
	}
}

// TestCatchUpIsBounded: where more has changed than a load has to read, the copy is given up, and loaded.
func TestCatchUpIsBounded(t *testing.T) {
	f, a, config := behind(t)
	a.most = 300
	for range 40 {
		a.happens()
	}
	if _, err := f.CatchUp(t.Context()); !errors.Is(err, follow.ErrTooMany) {
		t.Fatalf("thousands of changes: %v", err)
	}
	if _, err := f.Reached(); !errors.Is(err, follow.ErrNoCopy) {
		t.Errorf("a torn copy is served: %v", err)
	}
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	isExact(t, f, a.modelled)
	if names := list(t, config); len(names) != 1 {
		t.Errorf("there are %q", names)
	}
}

// TestDamagedWhileItCatchesUp: a copy whose damage is found while it is brought to the head in several commits is not gone on with.
func TestDamagedWhileItCatchesUp(t *testing.T) {
	f, a, config := behind(t)
	damaged := storeOf(t, f)
	a.after = func() error { return store.ErrDamaged }
	if _, err := f.CatchUp(t.Context()); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("damage: %v", err)
	}
	a.after = nil
	if err := f.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := list(t, config); storeOf(t, f) == damaged || len(names) != 1 {
		t.Errorf("there are %q; the damaged copy serves: %v", names, storeOf(t, f) == damaged)
	}
	isExact(t, f, a.modelled)
}

// TestCrashWhileItCatchesUp: after a crash of the machine between two parts of a large change, the copy is either as it was before or one that is being
// made, whatever of the log had come to the disk.
func TestCrashWhileItCatchesUp(t *testing.T) {
	served, torn := 0, 0
	for seed := range uint64(12) {
		m := newModelled(seed)
		m.quiet, m.giants = true, 25
		a := &between{modelledParts: modelledParts{m}}
		mem := vfs.NewCrashableMem()
		config := over(mem)
		config.PageSize, config.MaxChanges = 2+int(seed)%3, 8
		f, err := follow.Open(config, a)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for !errors.Is(err, follow.ErrTooMany) {
			m.happens()
			var reached *follow.Reached
			if reached, err = f.Pull(t.Context()); err == nil {
				reached.Release()
			}
		}
		copied := storeOf(t, f)
		if err := copied.Sync(); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 9))
		var crashed []*vfs.MemFS
		a.after = func() error {
			if rng.IntN(2) == 0 {
				if err := copied.Sync(); err != nil {
					return err
				}
			}
			crashed = append(crashed, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[rng.IntN(3)], RNG: rng}))
			return nil
		}
		if _, err := f.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.after = nil
		for range 5 {
			m.happens()
		}
		for _, files := range crashed {
			config.Store.FS = files
			again, err := follow.Open(config, a)
			if err != nil {
				t.Fatal(err)
			}
			if reached, err := again.Reached(); err == nil {
				reached.Release()
				isExact(t, again, m)
				served++
			} else {
				torn++
			}
			reached, err := again.Follow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			reached.Release()
			isExact(t, again, m)
			if err := again.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if served == 0 || torn == 0 {
		t.Errorf("%d crashed copies were served, and %d were being made", served, torn)
	}
}

// TestFailoverWhileItCatchesUp: once it is found while a copy is brought to the head in several commits that the database has another history, nothing is
// answered any more from where the copy stood, also while the next one is loaded.
func TestFailoverWhileItCatchesUp(t *testing.T) {
	f := graph(t, pgtest.Database(t), func(c *follow.Config, g *follow.GraphConfig) { c.MaxChanges, c.PageSize, g.Sample = 10, 10, -1 })
	f.of.parts.Store(true)
	f.grows(t)
	before := f.snapshot(t, authz.Freshness{})
	if !byCopy(before) {
		t.Fatal("the copy does not serve")
	}
	loading, release := make(chan struct{}), make(chan struct{})
	failed, begun := false, false
	f.steps(func(what string) {
		switch {
		case what == "the next part" && !failed:
			failed = true
			f.of.failovers.Add(1)
		case what == "the definitions" && failed && !begun:
			begun = true
			close(loading)
			<-release
		}
	})
	defer close(release)
	var updates []tuple.RelationshipUpdate
	for i := range 35 {
		updates = append(updates, touch(fmt.Sprintf("document:%d#viewer@user:alice", i)))
	}
	f.update(t, updates...)
	<-loading
	for name, fresh := range map[string]authz.Freshness{"exactly": {Exactly: before.Revision()}, "at least": {Stale: true, AtLeast: before.Revision()}} {
		if snap, err := f.Snapshot(t.Context(), fresh); authz.KindOf(err) != authz.OutOfRange {
			t.Errorf("%s: %v, %v; want a revision of the lost history to be refused", name, snap, err)
		}
	}
	if now := f.snapshot(t, authz.Freshness{}); byCopy(now) || now.Revision().History() == before.Revision().History() {
		t.Errorf("the head, by the copy %v, is at %v, and was at %v", byCopy(now), now.Revision(), before.Revision())
	}
}
