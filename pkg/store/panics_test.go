package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// defect is a clock and a disk that panic when they are told to.
type defect struct{ clock, reads atomic.Bool }

func (d *defect) now() time.Time {
	if d.clock.Load() {
		panic("the clock is broken")
	}
	return time.Now()
}

func (d *defect) MaybeError(op errorfs.Op) error {
	if d.reads.Load() && op.Kind == errorfs.OpFileReadAt && filepath.Ext(op.Path) == ".sst" {
		panic("the disk is broken")
	}
	return nil
}

func (d *defect) String() string { return "a defect" }

// TestPanicInACall: a panic is the error of the call that met it, in the goroutine that SpiceDB calls from, and the store
// goes on.
func TestPanicInACall(t *testing.T) {
	t.Parallel()
	d := &defect{}
	s := opened(t, Config{Now: d.now})
	at := commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyWriteNamespaces(ctx, typeNamed("document", "reader")); err != nil {
			return err
		}
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:a#reader@user:alice"), touch("document:b#reader@user:alice")})
	})
	reader := s.SnapshotReader(at)
	begun := must(s.begin())(t)
	defer begun.lease.release()
	defer begun.finish()
	for name, call := range map[string]func() error{
		"query": func() error {
			_, err := texts(reader.QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))
			return err
		},
		"type":     func() error { _, _, err := reader.LegacyReadNamespaceByName(t.Context(), "document"); return err },
		"types":    func() error { _, err := reader.LegacyListAllNamespaces(t.Context()); return err },
		"caveats":  func() error { _, err := reader.LegacyListAllCaveats(t.Context()); return err },
		"schema":   func() error { _, err := reader.ReadStoredSchema(t.Context()); return err },
		"counters": func() error { _, err := reader.LookupCounters(t.Context()); return err },
		"count":    func() error { _, err := reader.CountRelationships(t.Context(), "counter"); return err },
		"write": func() error {
			return begun.WriteRelationships(t.Context(), []tuple.RelationshipUpdate{touch("document:c#reader@user:alice")})
		},
		"collection": func() error { _, err := (&collection{store: s}).DeleteExpiredRels(t.Context()); return err },
	} {
		d.clock.Store(true)
		err := call()
		d.clock.Store(false)
		if met := (*panicError)(nil); !errors.As(err, &met) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := len(everything(t, reader)); got != 2 {
		t.Errorf("%d relationships are read afterwards", got)
	}
	writesOf(t, s, touch("document:d#reader@user:alice"))

	// A panic of who reads is not the store's.
	func() {
		defer func() {
			if met := recover(); met != "mine" {
				t.Errorf("the caller's own panic came back as %v", met)
			}
		}()
		for range must(reader.QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))(t) {
			panic("mine")
		}
	}()
}

// TestPanicWhileWatching: a watcher that meets a panic is told, and the process goes on.
func TestPanicWhileWatching(t *testing.T) {
	t.Parallel()
	d := &defect{}
	s := must(Open("store", small(Config{FS: errorfs.Wrap(vfs.NewMem(), d)})))(t)
	first := writesOf(t, s, touch("document:a#reader@user:alice"))
	for i := range 200 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	d.reads.Store(true)
	changes, failed := s.Watch(t.Context(), first, datastore.WatchJustRelationships())
	for range changes {
	}
	err := <-failed
	d.reads.Store(false)
	if met := (*panicError)(nil); !errors.As(err, &met) {
		t.Errorf("the watcher got %v", err)
	}
	_ = s.Close() // something of Pebble's was left open
}

// TestPanicInTheCommitter: what was being committed is not known then, so the store fails, and nobody waits for ever; reads
// go on.
func TestPanicInTheCommitter(t *testing.T) {
	t.Parallel()
	d := &defect{}
	s := must(Open("store", small(Config{Now: d.now})))(t)
	writesOf(t, s, touch("document:a#reader@user:alice"))
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			defer d.clock.Store(true)
			return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch("document:b#reader@user:alice")})
		})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the write got %v", err)
		}
	}()
	within(t, "the write's answer", answered)
	d.clock.Store(false)
	if !s.hasFailed() {
		t.Error("the store has not failed")
	}
	if _, err := s.ReadWriteTx(t.Context(), writing(touch("document:c#reader@user:alice"))); status.Code(err) != codes.Unavailable {
		t.Errorf("another write got %v", err)
	}
	same(t, "the head", atHead(t, s), []string{"document:a#reader@user:alice"})
	if err := s.Close(); err == nil {
		t.Error("it was closed as if nothing had happened")
	}
}

// endless gives relationships without an end.
type endless struct{ n int }

func (e *endless) Next(context.Context) (*tuple.Relationship, error) {
	e.n++
	rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
		Resource: tuple.ONR("document", fmt.Sprint(e.n), "reader"), Subject: tuple.ONR("user", "alice", tuple.Ellipsis),
	}}
	return &rel, nil
}

// deletingAll deletes all documents, or as many as the limit says.
func deletingAll(limit uint64) func(context.Context, datastore.ReadWriteTransaction) error {
	return func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		var opts []options.DeleteOptionsOption
		if limit > 0 {
			opts = append(opts, options.WithDeleteLimit(&limit))
		}
		_, _, err := tx.DeleteRelationships(ctx, &v1.RelationshipFilter{ResourceType: "document"}, opts...)
		return err
	}
}

// TestTransactionTooLarge: what a transaction takes in memory is bounded, and so is what all of them take; a refused one gives
// all of it back.
func TestTransactionTooLarge(t *testing.T) {
	t.Parallel()
	s := opened(t, Config{TransactionBytes: 8 << 20})
	before := headOf(t, s)
	source := &endless{}
	load := func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		_, err := tx.BulkLoad(ctx, source)
		return err
	}
	if _, err := s.ReadWriteTx(t.Context(), load); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a load without an end got %v", err)
	}
	if source.n < 5000 || source.n > 8<<20/writeBytes+loadSize {
		t.Errorf("%d relationships were taken", source.n)
	}
	if at := headOf(t, s); at != before || s.pending.Load() != 0 {
		t.Errorf("the head is %d, was %d; %d bytes are counted", at, before, s.pending.Load())
	}
	// Together.
	var open []*transaction
	var err error
	for len(open) < 20 && err == nil {
		tx := must(s.begin())(t)
		open = append(open, tx)
		for i := 0; i < 10_000 && err == nil; i += 100 {
			var updates []tuple.RelationshipUpdate
			for j := range 100 {
				updates = append(updates, touch(fmt.Sprintf("document:%d#reader@user:alice", i+j)))
			}
			err = tx.WriteRelationships(t.Context(), updates)
		}
	}
	if status.Code(err) != codes.ResourceExhausted || len(open) < maxTransactions || len(open) > 3*maxTransactions {
		t.Errorf("%d transactions: %v", len(open), err)
	}
	for _, tx := range open {
		tx.finish()
		s.pending.Add(-int64(tx.counted))
		tx.lease.release()
	}
	// What is there can be deleted, some at a time.
	for i := range 4 {
		var updates []tuple.RelationshipUpdate
		for j := range 5000 {
			updates = append(updates, touch(fmt.Sprintf("document:%d-%d#reader@user:alice", i, j)))
		}
		writesOf(t, s, updates...)
	}
	if _, err := s.ReadWriteTx(t.Context(), deletingAll(0)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("deleting more than it takes: %v", err)
	}
	for range 4 {
		commits(t, s, deletingAll(5000))
	}
	if left := len(atHead(t, s)); left != 0 || s.pending.Load() != 0 {
		t.Errorf("%d are left; %d bytes are counted", left, s.pending.Load())
	}
}
