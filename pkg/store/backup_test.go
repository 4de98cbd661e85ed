package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// backedUp is a store with something of everything in it.
func backedUp(t *testing.T) *Store {
	t.Helper()
	s := opened(t, Config{})
	commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return errors.Join(
			tx.LegacyWriteNamespaces(ctx, typeNamed("document", "reader"), typeNamed("user")),
			tx.LegacyWriteCaveats(ctx, []*core.CaveatDefinition{caveatNamed("some", "a > 1")}),
			tx.WriteStoredSchema(ctx, schemaNamed("some hash")),
			tx.RegisterCounter(ctx, "documents", &core.RelationshipFilter{ResourceType: "document"}),
		)
	})
	var updates []tuple.RelationshipUpdate
	for i := range 3000 {
		updates = append(updates, touch(fmt.Sprintf("document:d%d#reader@user:u%d", i%200, i)))
	}
	writesOf(t, s, updates...)
	writesOf(t, s,
		touch(`document:d1#reader@user:caveated[some:{"a": 2}]`),
		expiring("document:d1#reader@user:expiring", time.Date(2900, 1, 1, 0, 0, 0, 0, time.UTC)),
		touch("document:d1#reader@group:g#member"), remove("document:d2#reader@user:u2"))
	return s
}

// backup returns a backup of a store.
func backup(t *testing.T, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	summary := must(s.Backup(t.Context(), &b))(t)
	if summary.Store != s.id || summary.Revision != headOf(t, s) {
		t.Errorf("the backup says %+v", summary)
	}
	return b.Bytes()
}

// TestBackup: what is restored is what was backed up, with another id.
func TestBackup(t *testing.T) {
	s := backedUp(t)
	kept := backup(t, s)
	fs := vfs.NewMem()
	summary := must(Restore(t.Context(), bytes.NewReader(kept), "restored/graph", small(Config{FS: fs})))(t)
	if summary.Store != s.id || summary.Revision != headOf(t, s) || summary.Entries == 0 {
		t.Errorf("the restored backup says %+v", summary)
	}
	restored := must(Open("restored/graph", small(Config{FS: fs})))(t)
	defer func() {
		if err := restored.Close(); err != nil {
			t.Error(err)
		}
	}()
	if restored.id == s.id {
		t.Error("tokens from before would name the restored store's data")
	}
	same(t, "relationships", atHead(t, restored), atHead(t, s))
	for _, query := range []datastore.SubjectsFilter{{SubjectType: "user", OptionalSubjectIds: []string{"u7"}}, {SubjectType: "group"}} {
		got := must(texts(restored.SnapshotReader(headOf(t, restored)).ReverseQueryRelationships(t.Context(), query)))(t)
		same(t, "by subject", got, must(texts(s.SnapshotReader(headOf(t, s)).ReverseQueryRelationships(t.Context(), query)))(t))
	}
	was, is := s.SnapshotReader(headOf(t, s)), restored.SnapshotReader(headOf(t, restored))
	if n := must(is.CountRelationships(t.Context(), "documents"))(t); n != must(was.CountRelationships(t.Context(), "documents"))(t) {
		t.Errorf("the counter counts %d", n)
	}
	if c, _, err := is.LegacyReadCaveatByName(t.Context(), "some"); err != nil || c.GetName() != "some" {
		t.Errorf("the caveat is %v, %v", c, err)
	}
	if types := must(is.LegacyListAllNamespaces(t.Context()))(t); len(types) != 2 {
		t.Errorf("there are %d definitions", len(types))
	}
	if h := must(restored.HeadRevision(t.Context()))(t); h.SchemaHash != "some hash" {
		t.Errorf("the schema's hash is %q", h.SchemaHash)
	}
	if restored.rows.Load() != s.rows.Load() {
		t.Errorf("%d relationships are counted, and %d were", restored.rows.Load(), s.rows.Load())
	}
	// It goes on like any other.
	writesOf(t, restored, create("document:new#reader@user:alice"))
}

// TestBackupAmongWriters: a backup shows one revision, whatever is written meanwhile. Each transaction writes a
// relationship and a definition, which lie far from each other in a backup.
func TestBackupAmongWriters(t *testing.T) {
	s := opened(t, Config{})
	var filling []tuple.RelationshipUpdate
	for i := range 3000 {
		// Long and unlike one another, so that the backup is written out before it is read to its end.
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		filling = append(filling, touch(fmt.Sprintf("filling:%x#reader@user:u", sum)))
	}
	writesOf(t, s, filling...)
	pair := func(i int) {
		commits(t, s, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
			return errors.Join(
				tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{touch(fmt.Sprintf("pair:p%d#reader@user:u", i))}),
				tx.LegacyWriteNamespaces(ctx, typeNamed(fmt.Sprintf("p%d", i))),
			)
		})
	}
	pair(0)
	written := 1
	var b bytes.Buffer
	must(s.Backup(t.Context(), writerFunc(func(p []byte) (int, error) {
		pair(written)
		written++
		return b.Write(p)
	})))(t)
	if written < 3 {
		t.Fatalf("only %d transactions while the backup was made", written-1)
	}
	fs := vfs.NewMem()
	must(Restore(t.Context(), &b, "restored", small(Config{FS: fs})))(t)
	restored := must(Open("restored", small(Config{FS: fs})))(t)
	defer func() { _ = restored.Close() }()
	reader := restored.SnapshotReader(headOf(t, restored))
	rels := queried(t, reader, datastore.RelationshipsFilter{OptionalResourceType: "pair"})
	types := must(reader.LegacyListAllNamespaces(t.Context()))(t)
	if len(rels) != 1 || len(types) != 1 || types[0].Definition.GetName() != "p0" {
		t.Errorf("the backup has the relationships %v and %d definitions, and began when there was one of each", rels, len(types))
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestRestoreChecks: a backup with any bit changed, cut off anywhere, or with something after its end makes
// no store, and leaves nothing behind.
func TestRestoreChecks(t *testing.T) {
	s := opened(t, Config{})
	writesOf(t, s, touch("document:d1#reader@user:alice"), touch(`document:d1#reader@user:bob[some:{"a": 2}]`))
	whole := backup(t, s)
	refuses := func(what string, text []byte) {
		t.Helper()
		fs := vfs.NewMem()
		if err := fs.MkdirAll("data", 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := Restore(t.Context(), bytes.NewReader(text), "data/graph", small(Config{FS: fs}))
		if err == nil {
			t.Errorf("%s makes a store", what)
		}
		if left := must(fs.List("data"))(t); len(left) != 0 {
			t.Errorf("%s leaves %v behind", what, left)
		}
	}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1 << (i % 8)
		refuses(fmt.Sprintf("byte %d changed", i), changed)
		refuses(fmt.Sprintf("the first %d bytes", i), whole[:i])
	}
	refuses("more than there was", append(bytes.Clone(whole), 0))
	refuses("two of them", append(bytes.Clone(whole), whole...))

	// And where there is a store already, it stays as it is.
	fs := vfs.NewMem()
	must(Restore(t.Context(), bytes.NewReader(whole), "graph", small(Config{FS: fs})))(t)
	if _, err := Restore(t.Context(), bytes.NewReader(whole), "graph", small(Config{FS: fs})); err == nil || !strings.Contains(err.Error(), "it holds a store") {
		t.Errorf("restoring over a store: %v", err)
	}
	again := must(Open("graph", small(Config{FS: fs})))(t)
	same(t, "relationships", atHead(t, again), atHead(t, s))
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestBackupEnds: a backup whose writer fails, or whose context ends, says so.
func TestBackupEnds(t *testing.T) {
	s := backedUp(t)
	gone := errors.New("the writer is gone")
	if _, err := s.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, gone })); !errors.Is(err, gone) {
		t.Errorf("a writer that fails: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Backup(ended, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	// It holds nothing any more.
	if n := len(s.leases.closed); n != 0 {
		t.Errorf("%d leases are held", n)
	}
}

// TestFigures: what is said of a store is so.
func TestFigures(t *testing.T) {
	s := backedUp(t)
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := must(s.Figures())(t)
	if f.ID != s.id || f.Head != headOf(t, s) || f.Relationships != uint64(len(atHead(t, s))) || !f.Writing || f.DiskBytes == 0 || f.Retention != 24*time.Hour {
		t.Errorf("the figures are %+v", f)
	}
	files := int64(0)
	for _, l := range f.Levels {
		files += l.Files
	}
	if files == 0 {
		t.Errorf("after a compaction no level has files: %+v", f)
	}
}
