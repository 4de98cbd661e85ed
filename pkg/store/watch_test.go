package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// received waits for the next change of a watch.
func received(t *testing.T, changes <-chan datastore.RevisionChanges, failed <-chan error) datastore.RevisionChanges {
	t.Helper()
	select {
	case c, ok := <-changes:
		if !ok {
			t.Fatalf("the watch ended: %v", <-failed)
		}
		return c
	case <-time.After(patience):
		t.Fatal("waited in vain for a change")
	}
	return datastore.RevisionChanges{}
}

// ended waits for the end of a watch, and returns why it ended.
func ended(t *testing.T, changes <-chan datastore.RevisionChanges, failed <-chan error) error {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-changes:
			if !ok {
				changes = nil
			}
		case err := <-failed:
			return err
		case <-deadline:
			t.Fatal("waited in vain for the end of a watch")
		}
	}
}

// described is a change in words.
func described(c datastore.RevisionChanges) string {
	if c.IsCheckpoint {
		return "checkpoint"
	}
	var words []string
	for _, u := range c.RelationshipChanges {
		verb := "touch "
		if u.Operation == tuple.UpdateOperationDelete {
			verb = "delete "
		}
		words = append(words, verb+tuple.MustString(u.Relationship))
	}
	for _, d := range c.ChangedDefinitions {
		words = append(words, fmt.Sprintf("%T %s", d, d.GetName()))
	}
	for _, name := range c.DeletedNamespaces {
		words = append(words, "no type "+name)
	}
	for _, name := range c.DeletedCaveats {
		words = append(words, "no caveat "+name)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// changesOf is a transaction with a bit of everything.
func changesOf(t *testing.T, s *Store) Revision {
	t.Helper()
	writesOf(t, s, touch("document:old#reader@user:alice"))
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return errors.Join(tx.LegacyWriteNamespaces(ctx, typeNamed("folder", "reader")),
			tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed("oldcaveat", "x")}))
	})
	return commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return errors.Join(
			tx.LegacyWriteNamespaces(ctx, typeNamed("document", "reader")),
			tx.LegacyDeleteNamespaces(ctx, []string{"folder"}, datastore.DeleteNamespacesOnly),
			tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed("caveat", "x")}),
			tx.LegacyDeleteCaveats(ctx, []string{"oldcaveat"}),
			tx.WriteStoredSchema(ctx, schemaNamed("hash")),
			tx.RegisterCounter(ctx, "counter", &core.RelationshipFilter{ResourceType: "document"}),
			tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:a#reader@user:alice[caveat]"), remove("document:old#reader@user:alice")}),
		)
	})
}

// TestWatchContent: a watcher gets what it asked for, and a revision without any of that is left out.
func TestWatchContent(t *testing.T) {
	rows := "delete document:old#reader@user:alice, touch document:a#reader@user:alice[caveat]"
	schema := "*corev1.CaveatDefinition caveat, *corev1.NamespaceDefinition document, no caveat oldcaveat, no type folder"
	schemaBefore := "*corev1.CaveatDefinition oldcaveat, *corev1.NamespaceDefinition folder"
	first := "touch document:old#reader@user:alice"
	for _, c := range []struct {
		name    string
		content datastore.WatchContent
		want    []string
	}{
		{"relationships", datastore.WatchRelationships, []string{first, rows}},
		{"schema", datastore.WatchSchema, []string{schemaBefore, schema}},
		{"both", datastore.WatchRelationships | datastore.WatchSchema, []string{first, schemaBefore, "*corev1.CaveatDefinition caveat, *corev1.NamespaceDefinition document, delete document:old#reader@user:alice, no caveat oldcaveat, no type folder, touch document:a#reader@user:alice[caveat]"}},
		{"checkpoints", datastore.WatchCheckpoints, []string{"checkpoint"}},
		{"relationships and checkpoints", datastore.WatchRelationships | datastore.WatchCheckpoints, []string{first, rows, "checkpoint"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := opened(t, Config{})
			from := headOf(t, s)
			last := changesOf(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			changes, failed := s.Watch(ctx, from, datastore.WatchOptions{Content: c.content})
			var got []string
			for range c.want {
				change := received(t, changes, failed)
				got = append(got, described(change))
				if change.Revision.GreaterThan(last) {
					t.Errorf("a change at %v, the last revision is %v", change.Revision, last)
				}
			}
			same(t, "changes", got, c.want)
			// What comes next is the next change that was asked for.
			row := writesOf(t, s, touch("document:next#reader@user:alice"))
			definition := commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				return tx.LegacyWriteNamespaces(ctx, typeNamed("next", "reader"))
			})
			want := row
			if c.content == datastore.WatchSchema {
				want = definition
			}
			next := received(t, changes, failed)
			if c.content == datastore.WatchCheckpoints {
				// One checkpoint may stand for both.
				want = next.Revision.(Revision)
			}
			if next.Revision != want || next.Revision.LessThan(row) || next.IsCheckpoint != (c.content == datastore.WatchCheckpoints) {
				t.Errorf("then came %s at %v, want %v", described(next), next.Revision, want)
			}
		})
	}
}

// TestWatchMetadata: a change comes with the metadata of its own transaction, and without where there is
// none.
func TestWatchMetadata(t *testing.T) {
	s := opened(t, Config{})
	from := headOf(t, s)
	metadata := must(structpb.NewStruct(map[string]any{"who": "alice", "why": map[string]any{"ticket": 7.0}}))(t)
	for i, opts := range [][]options.RWTOptionsOption{{options.WithMetadata(metadata)}, nil, {options.WithMetadata(&structpb.Struct{})}} {
		must(s.ReadWriteTx(t.Context(), writing(touch(fmt.Sprintf("document:%d#reader@user:alice", i))), opts...))(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := s.Watch(ctx, from, datastore.WatchJustRelationships())
	if got := received(t, changes, failed).Metadatas; len(got) != 1 || !proto.Equal(got[0], metadata) {
		t.Errorf("metadata %v, want %v", got, metadata)
	}
	for range 2 {
		if got := received(t, changes, failed).Metadatas; len(got) != 0 {
			t.Errorf("metadata %v where none was given", got)
		}
	}
}

// TestWatchCheckpoints: a checkpoint is at a revision up to which everything was sent, also where a
// revision has nothing to send.
func TestWatchCheckpoints(t *testing.T) {
	s := opened(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := s.Watch(ctx, headOf(t, s), datastore.WatchOptions{Content: datastore.WatchRelationships | datastore.WatchCheckpoints})
	for i := range 5 {
		at := writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
		if c := received(t, changes, failed); c.IsCheckpoint || c.Revision != at {
			t.Fatalf("got %s at %v, want the change at %v", described(c), c.Revision, at)
		}
		if c := received(t, changes, failed); !c.IsCheckpoint || c.Revision != at {
			t.Fatalf("got %s at %v, want a checkpoint at %v", described(c), c.Revision, at)
		}
		// A transaction that wrote what was there makes a revision, and changes nothing.
		at = writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
		if c := received(t, changes, failed); !c.IsCheckpoint || c.Revision != at {
			t.Fatalf("got %s at %v, want a checkpoint at %v", described(c), c.Revision, at)
		}
	}
}

// TestSlowWatcher: a watcher that does not read is disconnected; writers do not wait for it. It goes on
// from the last change that it got.
func TestSlowWatcher(t *testing.T) {
	s := opened(t, Config{WatchBuffer: 2, WatchPatience: time.Millisecond})
	from := headOf(t, s)
	changes, failed := s.Watch(t.Context(), from, datastore.WatchJustRelationships())
	var want []string
	for i := range 10 {
		rel := fmt.Sprintf("document:%d#reader@user:alice", i)
		writesOf(t, s, touch(rel))
		want = append(want, "touch "+rel)
	}
	select {
	case err := <-failed:
		if !errors.As(err, &datastore.WatchDisconnectedError{}) {
			t.Fatalf("the watch ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("a watcher that does not read is not disconnected")
	}
	var got []string
	last := from
	for c := range changes {
		got = append(got, described(c))
		last = c.Revision.(Revision)
	}
	if len(got) != 2 {
		t.Errorf("%d changes were in a buffer of 2", len(got))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed = s.Watch(ctx, last, datastore.WatchOptions{Content: datastore.WatchRelationships, WatchBufferLength: 100})
	for len(got) < len(want) {
		got = append(got, described(received(t, changes, failed)))
	}
	same(t, "the changes of both watches", got, want)
}

// TestPatientWatcher: a watcher that says itself how long a change may wait is given that.
func TestPatientWatcher(t *testing.T) {
	s := opened(t, Config{WatchPatience: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := s.Watch(ctx, headOf(t, s), datastore.WatchOptions{
		Content: datastore.WatchRelationships, WatchBufferLength: 1, WatchBufferWriteTimeout: patience,
	})
	for i := range 5 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	eventually(t, "a full buffer", func() bool { return len(changes) == 1 })
	for range 5 {
		received(t, changes, failed)
	}
}

// TestWatchPages: more than a page of revisions comes in order, each once, from before and after a
// restart.
func TestWatchPages(t *testing.T) {
	config := small(Config{FS: vfs.NewMem()})
	s := must(Open("store", config))(t)
	from := headOf(t, s)
	var want []string
	n := 2*watchPage + 17
	for i := range n {
		if i == watchPage+3 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open("store", config))(t)
		}
		rel := fmt.Sprintf("document:%d#reader@user:alice", i)
		at := writesOf(t, s, touch(rel))
		want = append(want, at.String()+" touch "+rel)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, skip := range []int{0, 1, watchPage - 1, watchPage, watchPage + 1} {
		ctx, cancel := context.WithCancel(t.Context())
		start := from
		if skip > 0 {
			at, _, _ := strings.Cut(want[skip-1], " ")
			start = must(parseRevision(at))(t)
		}
		changes, failed := s.Watch(ctx, start, datastore.WatchOptions{Content: datastore.WatchRelationships, WatchBufferWriteTimeout: patience})
		var got []string
		for range n - skip {
			c := received(t, changes, failed)
			got = append(got, c.Revision.String()+" "+described(c))
		}
		same(t, "changes", got, want[skip:])
		cancel()
		if err := ended(t, changes, failed); !errors.As(err, &datastore.WatchCanceledError{}) {
			t.Errorf("a watch that was canceled ended with %v", err)
		}
	}
}

// TestLargeRevision: a revision of many chunks comes as one.
func TestLargeRevision(t *testing.T) {
	s := opened(t, Config{})
	from := headOf(t, s)
	var updates []tuple.RelationshipUpdate
	for i := range 20_000 {
		updates = append(updates, touch(fmt.Sprintf("document:%05d#reader@user:alice-with-a-long-name-%d", i, i*i)))
	}
	at := writesOf(t, s, updates...)
	writesOf(t, s, touch("document:next#reader@user:alice"))
	if n := keyCount(t, s, kindChangelog); n < 10 {
		t.Fatalf("%d chunks: the revision is not large", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := s.Watch(ctx, from, datastore.WatchJustRelationships())
	c := received(t, changes, failed)
	if c.Revision != at || len(c.RelationshipChanges) != len(updates) {
		t.Fatalf("%d changes at %v, want %d at %v", len(c.RelationshipChanges), c.Revision, len(updates), at)
	}
	for i, u := range c.RelationshipChanges {
		if tuple.MustString(u.Relationship) != tuple.MustString(updates[i].Relationship) {
			t.Fatalf("change %d is %v", i, u)
		}
	}
	if got := described(received(t, changes, failed)); got != "touch document:next#reader@user:alice" {
		t.Errorf("then came %s", got)
	}
	limited, failed := s.Watch(ctx, from, datastore.WatchOptions{Content: datastore.WatchRelationships, MaximumBufferedChangesByteSize: 100_000})
	if err := ended(t, limited, failed); !errors.As(err, &datastore.MaximumChangesSizeExceededError{}) {
		t.Errorf("a revision over the limit ended the watch with %v", err)
	}
}

// TestWatchAmongWriters: watchers that are disconnected again and again, and go on from where they were,
// get every change once and in order, beside writers that commit at the same time.
func TestWatchAmongWriters(t *testing.T) {
	s := opened(t, Config{})
	from := headOf(t, s)
	const writers, each = 6, 60
	var (
		mu      sync.Mutex
		want    = map[Revision]string{}
		clients sync.WaitGroup
	)
	for w := range writers {
		clients.Go(func() {
			for i := range each {
				rel := fmt.Sprintf("document:%d-%d#reader@user:alice", w, i)
				at, err := s.ReadWriteTx(context.Background(), writing(touch(rel)))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[at.(Revision)] = "touch " + rel
				mu.Unlock()
			}
		})
	}
	got := map[Revision]string{}
	last := from
	for n := 1; len(got) < writers*each; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		changes, failed := s.Watch(ctx, last, datastore.WatchOptions{Content: datastore.WatchRelationships, WatchBufferWriteTimeout: patience})
		for range min(n, writers*each-len(got)) {
			c := received(t, changes, failed)
			at := c.Revision.(Revision)
			if at <= last {
				t.Fatalf("revision %v came after %v", at, last)
			}
			last, got[at] = at, described(c)
		}
		cancel()
	}
	clients.Wait()
	for at, rel := range want {
		if got[at] != rel {
			t.Errorf("revision %v: got %q, want %q", at, got[at], rel)
		}
	}
}

// TestWatchFromNowhere: a watch from a revision that has left the window, was collected, is not there yet
// or is another datastore's ends at once, and says why.
func TestWatchFromNowhere(t *testing.T) {
	s, clock := windowed(t)
	clock.move(time.Second)
	old := writesOf(t, s, touch("document:a#reader@user:alice"))
	passed(clock)
	head := writesOf(t, s, touch("document:b#reader@user:alice"))
	watch := func(from datastore.Revision) error {
		changes, failed := s.Watch(t.Context(), from, datastore.WatchJustRelationships())
		return ended(t, changes, failed)
	}
	refusedAs(t, watch(old), datastore.RevisionStale)
	collects(t, s)
	refusedAs(t, watch(old), datastore.RevisionStale)
	// The clock is set back: the window would have it, and it was collected.
	clock.move(-100 * time.Hour)
	refusedAs(t, watch(old), datastore.RevisionStale)
	refusedAs(t, watch(head+1), datastore.CouldNotDetermineRevision)
	refusedAs(t, watch(datastore.NoRevision), datastore.CouldNotDetermineRevision)
	changes, failed := s.Watch(t.Context(), head, datastore.WatchOptions{
		Content: datastore.WatchRelationships | datastore.WatchCheckpoints, EmissionStrategy: datastore.EmitImmediatelyStrategy,
	})
	if err := ended(t, changes, failed); err == nil {
		t.Error("changes were to be emitted immediately, which is not supported")
	}
}

// TestWatchThatFellBehindTheHorizon: what a watcher has not read yet was collected. It ends as stale, and
// never leaves a change out.
func TestWatchThatFellBehindTheHorizon(t *testing.T) {
	s, clock := windowed(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := s.Watch(ctx, headOf(t, s), datastore.WatchOptions{Content: datastore.WatchRelationships, WatchBufferLength: 1, WatchBufferWriteTimeout: patience})
	n := watchPage + 50
	for i := range n {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	eventually(t, "a full buffer", func() bool { return len(changes) == 1 })
	passed(clock)
	writesOf(t, s, touch("document:last#reader@user:alice"))
	collects(t, s)
	got := 0
	for c := range changes {
		if want := fmt.Sprintf("touch document:%d#reader@user:alice", got); described(c) != want {
			t.Fatalf("got %s, want %s", described(c), want)
		}
		got++
	}
	refusedAs(t, <-failed, datastore.RevisionStale)
	if got == 0 || got >= n {
		t.Errorf("got %d changes of %d before it fell behind", got, n)
	}
}

// TestWatchOfAClosedStore: closing ends the watches.
func TestWatchOfAClosedStore(t *testing.T) {
	s := must(Open("store", small(Config{})))(t)
	head := headOf(t, s)
	changes, failed := s.Watch(t.Context(), head, datastore.WatchJustRelationships())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, changes, failed); !errors.Is(err, ErrClosed) {
		t.Errorf("the watch ended with %v", err)
	}
	changes, failed = s.Watch(t.Context(), head, datastore.WatchJustRelationships())
	if err := ended(t, changes, failed); !errors.Is(err, ErrClosed) {
		t.Errorf("a watch of a closed store ended with %v", err)
	}
}
