package triples

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/caveats/types"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/validationfile"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/postgres"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/harness"
)

// fill writes a file's graph, and then updates, into the store of a fresh engine and has SpiceDB's server over it
// answer without and with those, before Deputy opens the same directory: the guarded door would refuse the
// schema, which has no core or another one. The guard is on writing only; a check is judged by no schema of
// Deputy's.
func fill(
	t *testing.T, cfg engine.Config, f file, updates []tuple.RelationshipUpdate,
	ask func(conn grpc.ClientConnInterface, without, with *v1.ZedToken),
) {
	t.Helper()
	graph, err := store.Open(daemon.StoreDir(cfg.Dir), store.Config{CacheBytes: cfg.CacheBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := graph.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	layer := datalayer.NewDataLayer(graph)
	if _, _, err := validationfile.PopulateFromFiles(t.Context(), layer, types.Default.TypeSet, []string{f.path}); err != nil {
		t.Fatal(err)
	}
	conn, stop, err := harness.SpiceDB(graph)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Errorf("SpiceDB: %v", err)
		}
	}()
	without := head(t, conn)
	if len(updates) > 0 {
		if _, err := layer.ReadWriteTx(t.Context(), func(ctx context.Context, tx datalayer.ReadWriteTransaction) error {
			return tx.WriteRelationships(ctx, updates)
		}); err != nil {
			t.Fatal(err)
		}
	}
	ask(conn, without, head(t, conn))
}

// follows has SpiceDB write a file's graph to a PostgreSQL, has a follower load a copy of that, and returns an engine over the copy.
func follows(t *testing.T, f file) engine.Config {
	t.Helper()
	uri := harness.Postgres(t).URI
	theirs, err := dscfg.NewDatastore(t.Context(), dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(uri), dscfg.WithEnableDatastoreMetrics(false))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = validationfile.PopulateFromFiles(t.Context(), datalayer.NewDataLayer(theirs), types.Default.TypeSet, []string{f.path})
	if err = errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	authority, err := postgres.Open(t.Context(), postgres.Config{URI: uri, Window: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer authority.Close()
	dir := t.TempDir()
	follower, err := follow.Open(follow.Config{Dir: dir, Store: store.Config{CacheBytes: 8 << 20}}, authority)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(follower.Load(t.Context()), follower.Close()); err != nil {
		t.Fatal(err)
	}
	cfg := harness.Embedded(t)
	if err := errors.Join(os.MkdirAll(cfg.Dir, 0o700), os.Rename(filepath.Join(dir, "copy-1"), daemon.StoreDir(cfg.Dir))); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// head returns the newest revision.
func head(t *testing.T, conn grpc.ClientConnInterface) *v1.ZedToken {
	t.Helper()
	schema, err := v1.NewSchemaServiceClient(conn).ReadSchema(t.Context(), &v1.ReadSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return schema.GetReadAt()
}

// open opens Deputy with an evaluator over a directory that was filled.
func open(t *testing.T, cfg engine.Config, evaluator string) *grpc.ClientConn {
	t.Helper()
	return harness.Start(t, daemon.Config{Engine: cfg, Evaluator: evaluator}).Service
}
