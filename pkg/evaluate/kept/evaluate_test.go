package kept

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
)

// world is a store in memory with a schema and relationships.
type world struct {
	*store.Store
	evaluator *Evaluator
}

// newWorld writes a schema, and relationships, one a line.
func newWorld(t *testing.T, schema, relationships string) *world {
	t.Helper()
	return newWorldIn(t, store.Config{}, schema, relationships)
}

// newWorldIn is newWorld in a store of a configuration, made small.
func newWorldIn(t *testing.T, config store.Config, schema, relationships string) *world {
	t.Helper()
	config.FS, config.CacheBytes, config.MemTableBytes, config.DiskReserve = vfs.NewMem(), 1<<20, 1<<20, 1
	s, err := store.Open("store", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	compiled := compiled(t, schema)
	w := &world{s, New(s)}
	if _, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		if err := tx.LegacyWriteCaveats(ctx, compiled.CaveatDefinitions); err != nil {
			return err
		}
		return tx.LegacyWriteNamespaces(ctx, compiled.ObjectDefinitions...)
	}); err != nil {
		t.Fatal(err)
	}
	w.write(t, strings.Fields(relationships)...)
	return w
}

// compiled has SpiceDB compile a schema.
func compiled(t *testing.T, schema string) *compiler.CompiledSchema {
	t.Helper()
	c, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: schema}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write touches relationships.
func (w *world) write(t *testing.T, relationships ...string) {
	t.Helper()
	var updates []tuple.RelationshipUpdate
	for _, r := range relationships {
		updates = append(updates, tuple.Touch(tuple.MustParse(r)))
	}
	if _, err := w.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	}); err != nil {
		t.Fatal(err)
	}
}

// asks answers a check, written as a relationship, at the head.
func (w *world) asks(t *testing.T, check string) evaluate.Answer {
	t.Helper()
	head, err := w.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, err := w.evaluator.At(head.Revision.(store.Revision))
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	rel := tuple.MustParse(check)
	return at.Check(t.Context(), []evaluate.Check{{Resource: rel.Resource, Subject: rel.Subject}})[0]
}

// is fails the test unless a check comes to an outcome.
func (w *world) is(t *testing.T, check string, want authz.Outcome) {
	t.Helper()
	if got := w.asks(t, check); got.Outcome != want {
		t.Errorf("%s is %v (%v), want %v", check, got.Outcome, got.Err, want)
	}
}

// TestCycles: a cycle is an error of depth unless something decides, and takes no longer than its graph is
// large.
func TestCycles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `definition user {
			relation friend: user | user#friend
		}
		definition folder {
			relation sup: user#friend | folder
			relation mem: user | folder
			permission per0 = ((mem - nil) + (sup->mem + sup + sup.all(per1)))
			permission per1 = (per0 - (nil - sup->per2) - (sup.all(mem) + per0))
			permission per2 = per1 & per0
		}`, "folder:x#mem@folder:y folder:x#sup@folder:x folder:z#sup@folder:z folder:z#mem@user:cat folder:z#sup@folder:x folder:x#sup@folder:z")
	begin := time.Now()
	got := w.asks(t, "folder:x#per0@user:ann")
	if got.Outcome != authz.Failed || status.Code(got.Err) != codes.FailedPrecondition {
		t.Errorf("got %+v", got)
	}
	w.is(t, "folder:z#per0@user:cat", authz.Yes)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
