//go:build unix

package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/cockroachdb/cockroach-go/v2/testserver"
)

// CockroachBinary is the environment variable that names a cockroach binary to test with. Without it
// the one on PATH is used.
const CockroachBinary = "COCKROACH_BINARY"

// errNoCockroach says that the machine has no CockroachDB to run.
var errNoCockroach = errors.New("no cockroach binary on PATH or in COCKROACH_BINARY")

// cockroach is the one CockroachDB of this test binary: a single node in memory, started when the first
// test asks for it and stopped by Main.
var cockroach struct {
	mu     sync.Mutex
	number int
	server testserver.TestServer
	failed error
}

// Cockroach returns the connection string of a new, empty CockroachDB database that exists until the
// test ends. It skips the test where the machine has no cockroach binary: none is ever downloaded. The
// package's TestMain has to be Main, which stops the server.
func Cockroach(t testing.TB) string {
	t.Helper()
	uri, err := cockroachDatabase(t)
	switch {
	case errors.Is(err, errNoCockroach):
		Skip(t, err.Error())
	case err != nil:
		t.Fatalf("CockroachDB: %v", err)
	}
	return uri
}

func cockroachDatabase(t testing.TB) (string, error) {
	t.Helper()
	cockroach.mu.Lock()
	defer cockroach.mu.Unlock()
	if cockroach.failed != nil {
		return "", cockroach.failed
	}
	if cockroach.server == nil {
		if cockroach.server, cockroach.failed = startCockroach(); cockroach.failed != nil {
			return "", cockroach.failed
		}
	}
	cockroach.number++
	name := databaseName(t.Name(), cockroach.number)
	root := *cockroach.server.PGURL()
	if err := cockroachExec(t.Context(), &root, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		// Not t.Context(), which has ended by now.
		if err := cockroachExec(context.Background(), &root, "DROP DATABASE "+name+" CASCADE"); err != nil {
			t.Errorf("CockroachDB: %v", err)
		}
	})
	own := root
	own.Path = "/" + name
	return own.String(), nil
}

// startCockroach starts the server from a binary that is there. The path is always given: without one
// the testserver would download a binary.
func startCockroach() (testserver.TestServer, error) {
	binary, err := cockroachBinary()
	if err != nil {
		return nil, err
	}
	return testserver.NewTestServer(testserver.CockroachBinaryPathOpt(binary))
}

// cockroachBinary finds the binary. One that is named and missing is an error, not a skip.
func cockroachBinary() (string, error) {
	if named := os.Getenv(CockroachBinary); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("%s: %w", CockroachBinary, err)
		}
		return path, nil
	}
	path, err := exec.LookPath("cockroach")
	if err != nil {
		return "", errNoCockroach
	}
	return path, nil
}

func cockroachExec(ctx context.Context, at *url.URL, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The testserver registers lib/pq as "postgres".
	db, err := sql.Open("postgres", at.String())
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

// stopCockroach stops the server if one was started.
func stopCockroach() {
	cockroach.mu.Lock()
	defer cockroach.mu.Unlock()
	if cockroach.server != nil {
		cockroach.server.Stop()
		cockroach.server = nil
	}
}
