package follow_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// large writes so many relationships in one transaction of the database's own, with what SpiceDB notes of one.
func large(b testing.TB, uri string, n int) {
	b.Helper()
	if s := servedAt(uri); s != nil {
		for i := 1; i <= n; {
			var updates []tuple.RelationshipUpdate
			for ; i <= n && len(updates) < 10_000; i++ {
				updates = append(updates, touch(fmt.Sprintf("document:document-number-%d#viewer@user:user-number-%d", i, i%1000)))
			}
			if _, err := s.ReadWriteTx(context.Background(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
				return tx.WriteRelationships(ctx, updates)
			}); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	execute(b, uri, fmt.Sprintf(`
		INSERT INTO relation_tuple (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation, caveat_name)
			SELECT 'document', 'document-number-' || i, 'viewer', 'user', 'user-number-' || i %% 1000, '...', '' FROM generate_series(1, %d) AS i;
		INSERT INTO relation_tuple_transaction DEFAULT VALUES;
		ANALYZE`, n))
}

// onDisk is a configuration as a server's, for a copy on the disk.
func onDisk(b testing.TB) follow.Config {
	b.Helper()
	config := over(vfs.Default)
	config.Dir = b.TempDir()
	config.Store.CacheBytes, config.Store.MemTableBytes = 0, 0
	return config
}

// BenchmarkLoad loads a copy from an authority on the same machine. The node's processor time has that of another Deputy in it, which is this process.
func BenchmarkLoad(b *testing.B) {
	b.Run("PostgreSQL", func(b *testing.B) { benchmarkLoad(b, pgtest.Database(b)) })
	b.Run("Deputy", func(b *testing.B) { benchmarkLoad(b, served(b, store.Config{FS: vfs.Default}).uri) })
}

func benchmarkLoad(b *testing.B, uri string) {
	b.Helper()
	w := writer(b, uri)
	n := number(b, "DEPUTY_FOLLOW_LOAD", 200_000)
	large(b, w.uri, n)
	a := authority(b, w.uri, time.Hour)
	began := cpu(b)
	for b.Loop() {
		f := follower(b, onDisk(b), a)
		if err := f.Load(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	loaded := float64(n) * float64(b.N)
	b.ReportMetric((cpu(b)-began).Seconds()*1e6/loaded, "node-cpu-µs/relationship")
	b.ReportMetric(loaded/b.Elapsed().Seconds(), "relationships/s")
}

// BenchmarkCatchUp brings a copy to the head after one transaction that wrote 250,000 relationships, which is more than one commit holds, and deleted those
// of the one before. It compares that with a load. DEPUTY_FOLLOW_LOAD is how many relationships there are besides.
func BenchmarkCatchUp(b *testing.B) {
	w := writer(b, pgtest.Database(b))
	large(b, w.uri, number(b, "DEPUTY_FOLLOW_LOAD", 200_000))
	a := authority(b, w.uri, time.Hour)
	change := func(n int) {
		execute(b, w.uri, fmt.Sprintf(`
			BEGIN;
			INSERT INTO relation_tuple_transaction DEFAULT VALUES;
			UPDATE relation_tuple SET deleted_xid = pg_current_xact_id() WHERE namespace = 'folder' AND deleted_xid = '9223372036854775807'::xid8;
			INSERT INTO relation_tuple (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation, caveat_name)
				SELECT 'folder', 'change-%d-' || i, 'viewer', 'user', 'user-number-' || i %% 1000, '...', '' FROM generate_series(1, 250000) AS i;
			COMMIT`, n))
	}
	b.Run("in several commits", func(b *testing.B) {
		f := follower(b, onDisk(b), a)
		if err := f.Load(b.Context()); err != nil {
			b.Fatal(err)
		}
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			change(n)
			b.StartTimer()
			reached, err := f.CatchUp(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			reached.Release()
		}
	})
	b.Run("by a load", func(b *testing.B) {
		for b.Loop() {
			if err := follower(b, onDisk(b), a).Load(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPull takes the head where nothing has changed, beside a write of SpiceDB's, and the head alone.
func BenchmarkPull(b *testing.B) {
	b.Run("PostgreSQL", func(b *testing.B) { benchmarkPull(b, pgtest.Database(b)) })
	b.Run("Deputy", func(b *testing.B) { benchmarkPull(b, served(b, store.Config{FS: vfs.Default}).uri) })
}

func benchmarkPull(b *testing.B, uri string) {
	b.Helper()
	w := writer(b, uri)
	large(b, w.uri, number(b, "DEPUTY_FOLLOW_LOAD", 200_000))
	a := authority(b, w.uri, time.Hour)
	f := follower(b, onDisk(b), a)
	if err := f.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	pull := func(b *testing.B) {
		b.Helper()
		reached, err := f.Pull(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		reached.Release()
	}
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			pull(b)
		}
	})
	b.Run("after a write", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			w.update(b, touch(fmt.Sprintf("document:%d#viewer@user:alice", n)))
			b.StartTimer()
			pull(b)
		}
	})
	b.Run("SpiceDB's head alone", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.HeadRevision(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSample compares a page with the copy, as the sampler does all the time: of the authority's relationships, and of the copy's. What is not
// the node's processor time is mostly PostgreSQL's.
func BenchmarkSample(b *testing.B) {
	const page = 1000
	w := writer(b, pgtest.Database(b))
	n := number(b, "DEPUTY_FOLLOW_LOAD", 200_000)
	large(b, w.uri, n)
	a := authority(b, w.uri, time.Hour)
	f := follower(b, onDisk(b), a)
	if err := f.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	reached, err := f.Reached()
	if err != nil {
		b.Fatal(err)
	}
	defer reached.Release()
	// What a load leaves to be done in the background would be counted.
	if err := reached.Store.Compact(b.Context()); err != nil {
		b.Fatal(err)
	}
	state := a.At(reached.Position)
	refs := func(all []tuple.Relationship) []tuple.RelationshipReference {
		found := make([]tuple.RelationshipReference, len(all))
		for i := range all {
			found[i] = all[i].RelationshipReference
		}
		return found
	}
	measure := func(b *testing.B, step func() int) {
		b.Helper()
		began, compared := cpu(b), 0
		for b.Loop() {
			compared += step()
		}
		b.ReportMetric((cpu(b)-began).Seconds()*1e6/float64(compared), "node-cpu-µs/relationship")
		b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(compared), "µs/relationship")
	}
	b.Run("theirs", func(b *testing.B) {
		next := ""
		measure(b, func() int {
			p, err := state.Page(b.Context(), next, page)
			if err != nil {
				b.Fatal(err)
			}
			found, err := reached.Store.RowsOf(b.Context(), reached.Local, refs(p.Relationships))
			if err != nil || len(found) != len(p.Relationships) {
				b.Fatalf("%d of %d, %v", len(found), len(p.Relationships), err)
			}
			next = p.Next
			return len(found)
		})
	})
	b.Run("ours", func(b *testing.B) {
		var after *tuple.RelationshipReference
		measure(b, func() int {
			ours, err := reached.Store.RowsAfter(b.Context(), reached.Local, after, page, 8<<20)
			if err != nil {
				b.Fatal(err)
			}
			asked := refs(ours)
			found, err := state.Of(b.Context(), asked)
			if err != nil || len(found) != len(ours) {
				b.Fatalf("%d of %d, %v", len(found), len(ours), err)
			}
			if after = nil; len(ours) == page {
				after = &asked[page-1]
			}
			return len(found)
		})
	})
}

// cpu is the time that this process has had of the processors.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
