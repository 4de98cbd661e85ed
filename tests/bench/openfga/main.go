// Command openfga serves OpenFGA for the benchmarks of tests/bench: the server as a library, with the
// settings that `openfga run` has when nothing is set, over gRPC, without its interceptors.
//
// It reads relationships from standard input, a line each ("user:alice member group:staff"), until a line
// that is empty; then it prints its address and the ids of its store and model, and serves until standard
// input ends.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"
	"github.com/openfga/openfga/pkg/server"
	"github.com/openfga/openfga/pkg/storage"
	"github.com/openfga/openfga/pkg/storage/memory"
	"github.com/openfga/openfga/pkg/storage/migrate"
	"github.com/openfga/openfga/pkg/storage/postgres"
	"github.com/openfga/openfga/pkg/storage/sqlcommon"
	"google.golang.org/grpc"
)

// model is the graph "folders" in OpenFGA's words.
//
//go:embed model.fga
var model string

// perTransaction is how many relationships PostgreSQL is given at once.
const perTransaction = 1000

func main() {
	uri := flag.String("postgres", "", "connection string of an empty PostgreSQL database; empty means OpenFGA's memory datastore")
	flag.Parse()
	if err := serve(context.Background(), *uri, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "openfga:", err)
		os.Exit(1)
	}
}

// serve loads what in says, says on out where it listens, and serves until in ends.
func serve(ctx context.Context, uri string, in io.Reader, out io.Writer) error {
	ds, err := open(uri)
	if err != nil {
		return err
	}
	defer ds.Close()
	s, err := server.NewServerWithOpts(server.WithDatastore(ds))
	if err != nil {
		return fmt.Errorf("building the server: %w", err)
	}
	defer s.Close()
	store, err := s.CreateStore(ctx, &openfgav1.CreateStoreRequest{Name: "folders"})
	if err != nil {
		return fmt.Errorf("creating a store: %w", err)
	}
	parsed, err := transformer.TransformDSLToProto(model)
	if err != nil {
		return fmt.Errorf("reading the model: %w", err)
	}
	written, err := s.WriteAuthorizationModel(ctx, &openfgav1.WriteAuthorizationModelRequest{
		StoreId: store.GetId(), SchemaVersion: parsed.GetSchemaVersion(), TypeDefinitions: parsed.GetTypeDefinitions(),
	})
	if err != nil {
		return fmt.Errorf("writing the model: %w", err)
	}
	lines := bufio.NewScanner(in)
	if err := load(ctx, ds, store.GetId(), uri != "", lines); err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	if uri != "" {
		if err := analyze(ctx, uri); err != nil {
			return fmt.Errorf("analysing the database: %w", err)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	g := grpc.NewServer()
	openfgav1.RegisterOpenFGAServiceServer(g, s)
	go func() {
		for lines.Scan() { // until the process that started it is gone
		}
		g.Stop()
	}()
	fmt.Fprintln(out, listener.Addr(), store.GetId(), written.GetAuthorizationModelId())
	return g.Serve(listener)
}

// open opens a datastore, PostgreSQL's migrated.
func open(uri string) (storage.OpenFGADatastore, error) {
	if uri == "" {
		return memory.New(), nil
	}
	if err := migrate.RunMigrations(migrate.MigrationConfig{Engine: "postgres", URI: uri, Timeout: time.Minute, PingTimeout: time.Minute}); err != nil {
		return nil, fmt.Errorf("migrating: %w", err)
	}
	ds, err := postgres.New(uri, sqlcommon.NewConfig(sqlcommon.WithMaxOpenConns(30), sqlcommon.WithMaxIdleConns(10)))
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL: %w", err)
	}
	return ds, nil
}

// load writes the relationships straight to the datastore: through the API it takes minutes. To memory it
// is one write, because each walks all that is there.
func load(ctx context.Context, ds storage.OpenFGADatastore, store string, inParts bool, lines *bufio.Scanner) error {
	var batch storage.Writes
	for lines.Scan() && lines.Text() != "" {
		words := strings.Fields(lines.Text())
		if len(words) != 3 {
			return fmt.Errorf("%q is not a user, a relation and an object", lines.Text())
		}
		batch = append(batch, &openfgav1.TupleKey{User: words[0], Relation: words[1], Object: words[2]})
		if inParts && len(batch) == perTransaction {
			if err := ds.Write(ctx, store, nil, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	if err := lines.Err(); err != nil || len(batch) == 0 {
		return err
	}
	return ds.Write(ctx, store, nil, batch)
}

// analyze tells PostgreSQL's planner what is there, as its own housekeeping does after a while.
func analyze(ctx context.Context, uri string) error {
	conn, err := pgx.Connect(ctx, uri)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "ANALYZE")
	return err
}
