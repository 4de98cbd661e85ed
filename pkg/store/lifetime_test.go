package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// within waits for what has to come back.
func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// TestCloseBesideWriters: every transaction that meets a closing store gets an answer, and what was
// acknowledged is there when the store is opened again.
func TestCloseBesideWriters(t *testing.T) {
	fs := vfs.NewMem()
	want := map[string]bool{}
	for round := range 20 {
		s, err := Open("store", small(Config{FS: fs}))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, rel := range atHead(t, s) {
			found[rel] = true
		}
		for rel := range want {
			if !found[rel] {
				t.Fatalf("%s was acknowledged and is lost", rel)
			}
		}
		var (
			mu      sync.Mutex
			writers sync.WaitGroup
			wrote   = make(chan struct{}, 1)
		)
		for w := range 16 {
			writers.Go(func() {
				for i := 0; ; i++ {
					rel := fmt.Sprintf("document:%d-%d-%d#reader@user:alice", round, w, i)
					_, err := s.ReadWriteTx(context.Background(), writing(create(rel)))
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("a writer got %v", err)
						}
						return
					}
					mu.Lock()
					want[rel] = true
					mu.Unlock()
					select {
					case wrote <- struct{}{}:
					default:
					}
				}
			})
		}
		<-wrote
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { writers.Wait(); close(done) }()
		within(t, "the writers of a closed store", done)
	}
}

// TestCloseBesideTransactions: a store that is closed while transactions are under way ends them with
// errors. It closes whether they have looked something up or not.
func TestCloseBesideTransactions(t *testing.T) {
	s, err := Open("store", small(Config{}))
	if err != nil {
		t.Fatal(err)
	}
	writesOf(t, s, touch("document:a#reader@user:alice"))
	read, closing, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, err := s.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			if err := writing(touch("document:a#reader@user:bob"))(ctx, tx); err != nil {
				return err
			}
			close(read)
			<-closing
			return writing(touch("document:a#reader@user:carol"))(ctx, tx)
		})
		if !errors.Is(err, ErrClosed) {
			t.Errorf("a transaction of a closed store got %v", err)
		}
	}()
	within(t, "the transaction", read)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.committerDone
	for range 1000 {
		runtime.Gosched() // let it close the files under the transaction, if it would
	}
	close(closing)
	within(t, "the transaction's end", done)
	if err := <-closed; err != nil {
		t.Errorf("closing: %v", err)
	}
}

// TestConcurrentUseOfATransaction: the calls of several goroutines on one transaction come one after the
// other, reads too. It is for the race detector.
func TestConcurrentUseOfATransaction(t *testing.T) {
	s := opened(t, Config{})
	for i := range 50 {
		writesOf(t, s, touch(fmt.Sprintf("document:%d#reader@user:alice", i)))
	}
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		var all sync.WaitGroup
		for g := range 8 {
			all.Go(func() {
				for i := range 20 {
					it, err := tx.QueryRelationships(ctx, datastore.RelationshipsFilter{OptionalResourceType: "document"})
					if err != nil {
						t.Error(err)
						return
					}
					n := 0
					for _, err := range it {
						if err != nil {
							t.Error(err)
						}
						// Writing while reading is what a caller may do.
						if n++; n%25 == 0 {
							if err := tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch(fmt.Sprintf("folder:%d#reader@user:u%d", g, i))}); err != nil {
								t.Error(err)
							}
						}
					}
					if n != 50 {
						t.Errorf("read %d rows of 50", n)
					}
					if _, _, err := tx.LegacyReadNamespaceByName(ctx, fmt.Sprintf("type%d", g)); !errors.As(err, &datastore.NamespaceNotFoundError{}) {
						t.Errorf("a type that is not there: %v", err)
					}
				}
			})
		}
		all.Wait()
		return nil
	})
}

// TestTransactionAfterItsEnd: who keeps a transaction gets errors, and the same for an iterator of it.
func TestTransactionAfterItsEnd(t *testing.T) {
	s := opened(t, Config{})
	writesOf(t, s, touch("document:a#reader@user:alice"))
	var (
		kept datastore.ReadWriteTransaction
		it   datastore.RelationshipIterator
	)
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) (err error) {
		kept = tx
		it, err = tx.QueryRelationships(ctx, datastore.RelationshipsFilter{})
		return err
	})
	if _, err := texts(kept.QueryRelationships(t.Context(), datastore.RelationshipsFilter{})); err == nil {
		t.Error("a transaction that has ended was read")
	}
	if err := kept.WriteRelationships(t.Context(), []tuple.RelationshipUpdate{touch("document:a#reader@user:bob")}); err == nil {
		t.Error("a transaction that has ended was written to")
	}
	if _, _, err := kept.LegacyReadNamespaceByName(t.Context(), "document"); err == nil || errors.As(err, &datastore.NamespaceNotFoundError{}) {
		t.Errorf("a type was looked up in a transaction that has ended: %v", err)
	}
	if _, err := texts(it, nil); err == nil {
		t.Error("an iterator of a transaction that has ended was read")
	}
}
