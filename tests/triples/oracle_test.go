package triples

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/caveats/types"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/validationfile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate"
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

// authorities are the kinds of authority that a server can follow: each has a file's graph, and returns a server that follows it. filled is a store that
// has the graph.
var authorities = map[string]func(t *testing.T, f file, filled engine.Config) daemon.Config{"postgres": ofDatabase, "deputy": ofDeputy}

// ofDatabase has SpiceDB write a file's graph to a PostgreSQL.
func ofDatabase(t *testing.T, f file, _ engine.Config) daemon.Config {
	t.Helper()
	cfg := harness.Followed(t)
	theirs, err := dscfg.NewDatastore(t.Context(),
		dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(cfg.Engine.URI), dscfg.WithEnableDatastoreMetrics(false))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = validationfile.PopulateFromFiles(t.Context(), datalayer.NewDataLayer(theirs), types.Default.TypeSet, []string{f.path})
	if err = errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// ofDeputy has a Deputy serve the store.
func ofDeputy(t *testing.T, _ file, filled engine.Config) daemon.Config {
	t.Helper()
	return harness.Following(t, harness.Start(t, daemon.Config{Engine: filled, Callers: harness.Followers()}).Addr().String())
}

// follows starts a server that follows, and asks the graph that it decides over. It is the copy that has to answer. It returns the answers, and an engine
// over the copy, which the server does not use any more.
func follows(t *testing.T, cfg daemon.Config, questions []question, want []answer) ([]answer, engine.Config) {
	t.Helper()
	var graph authz.Graph
	cfg.JudgeOver = func(g authz.Graph) authz.Graph {
		graph = g
		return g
	}
	s := harness.StartCopy(t, cfg)
	byCopy, byAuthority := s.States(t) // until there was a copy the authority answered
	snap, err := graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]answer, 0, len(questions))
	for some := range slices.Chunk(questions, batch) {
		queries := make([]authz.Query, len(some))
		for i, q := range some {
			queries[i] = evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context.AsMap()}.Query()
		}
		found, err := snap.Check(t.Context(), queries)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range found {
			answers = append(answers, ofGraph(a, want[len(answers)]))
		}
	}
	if copied, beyond := s.States(t); copied <= byCopy || beyond > byAuthority {
		t.Errorf("the copy answered %v states, and the authority %v", copied-byCopy, beyond-byAuthority)
	}
	s.Stop()
	<-s.Stopped
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	copied := harness.Embedded(t)
	if err := errors.Join(os.MkdirAll(copied.Dir, 0o700), os.Rename(filepath.Join(cfg.Following.Dir, "copy-1"), daemon.StoreDir(copied.Dir))); err != nil {
		t.Fatal(err)
	}
	return answers, copied
}

// ofGraph puts what a graph answers into the words of checks. Its errors have words of their own: that it fails where SpiceDB does is all that is compared.
func ofGraph(a authz.Answer, want answer) answer {
	switch a.Outcome {
	case authz.Yes:
		return answer{permissionship: v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION}
	case authz.No:
		return answer{permissionship: v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION}
	case authz.Conditional:
		return answered(v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION, &v1.PartialCaveatInfo{MissingRequiredContext: a.Missing})
	}
	if want.code != codes.OK {
		return want
	}
	return answer{code: codes.Unknown, message: fmt.Sprint(a.Outcome, a.Err)}
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
