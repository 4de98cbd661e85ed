package oracle_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/oracle"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// chosenChecks is how many random worlds to try each property on, where the caller of the tests chose
// that; else it is empty, and each test knows what every run can afford.
var chosenChecks = os.Getenv("DEPUTY_RAPID_CHECKS")

// TestMain reads the flags, turns off what rapid would leave behind, and lets the collector run less
// often: the servers make much garbage and keep little.
func TestMain(m *testing.M) {
	flag.Parse()
	seeded := false
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "rapid.checks":
			chosenChecks = f.Value.String()
		case "rapid.seed":
			seeded = true
		}
	})
	set := map[string]string{"rapid.nofailfile": "true"}
	if chosenChecks == "" && !seeded {
		// The same worlds in every ordinary run, so that a change is to blame for a failure, and not a
		// draw. A caller that wants others chooses how many.
		set["rapid.seed"] = "20261123"
	}
	for name, value := range set {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	debug.SetGCPercent(400)
	pgtest.Main(m)
}

// try holds a property to so many random worlds, or as many as DEPUTY_RAPID_CHECKS or -rapid.checks say.
// Rapid has one such number for all tests: those that try something do not run in parallel.
func try(t *testing.T, worlds int, property func(*rapid.T)) {
	t.Helper()
	checks := strconv.Itoa(worlds)
	if chosenChecks != "" {
		checks = chosenChecks
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatalf("DEPUTY_RAPID_CHECKS: %v", err)
	}
	rapid.Check(t, property)
}

// deputy is a running server with a client for every service of it.
type deputy struct {
	permissions deputyv1.PermissionsServiceClient
	sessions    deputyv1.SessionsServiceClient
	delegations deputyv1.DelegationsServiceClient
	agents      deputyv1.AgentsServiceClient
	principals  deputyv1.PrincipalsServiceClient
	// graph is authzed.api.v1, and audit the permissions service, with the admin's key.
	graph v1.PermissionsServiceClient
	audit deputyv1.PermissionsServiceClient
	// reach is with the admin's key.
	reach deputyv1.ReachServiceClient
}

// bearer authenticates a connection with a preshared key.
type bearer string

// GetRequestMetadata returns the key as gRPC metadata.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity reports that the key may be sent in the clear: it never leaves the machine.
func (bearer) RequireTransportSecurity() bool { return false }

// openDeputy starts a server over a store of its own with a schema. It
// is closed at the end of the test.
func openDeputy(t *testing.T, schemaText string) *deputy {
	t.Helper()
	d, shut, err := startDeputy(schemaText)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shut(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// openFollower starts a server that follows a fresh authority, to which the schema and all else is written, and decides from a copy. It is closed at the
// end of the test, which fails if the copy did not answer most calls.
func openFollower(t *testing.T, schemaText string, open func(testing.TB) daemon.Config) *deputy {
	t.Helper()
	s := harness.StartCopy(t, open(t))
	s.WriteSchema(t, schemaText)
	t.Cleanup(func() { s.AnsweredByCopy(t) })
	return over(s.Service, s.Admin)
}

// over returns the clients of a server, with a service's and an admin's connection.
func over(service, admin grpc.ClientConnInterface) *deputy {
	return &deputy{
		permissions: deputyv1.NewPermissionsServiceClient(service),
		sessions:    deputyv1.NewSessionsServiceClient(service),
		delegations: deputyv1.NewDelegationsServiceClient(service),
		agents:      deputyv1.NewAgentsServiceClient(admin),
		principals:  deputyv1.NewPrincipalsServiceClient(admin),
		graph:       v1.NewPermissionsServiceClient(admin),
		audit:       deputyv1.NewPermissionsServiceClient(admin),
		reach:       deputyv1.NewReachServiceClient(admin),
	}
}

// startDeputy does the same as openDeputy for a caller that has to close the server itself, by calling shut.
func startDeputy(schemaText string) (_ *deputy, shut func() error, err error) {
	dir, err := os.MkdirTemp("", "deputy-oracle-")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, daemon.Config{
		PresharedKeys:      []string{"key-of-a-service-1"},
		AdminPresharedKeys: []string{"key-of-an-admin-1"},
		Engine:             engine.Config{Kind: engine.Embedded, Dir: filepath.Join(dir, "data"), CacheBytes: 8 << 20},
	}, zap.NewNop())
	if err != nil {
		cancel()
		return nil, nil, errors.Join(fmt.Errorf("open: %w", err), os.RemoveAll(dir))
	}
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	var conns []*grpc.ClientConn
	end := func() error {
		var errs []error
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		cancel()
		return errors.Join(append(errs, <-served, d.Close(), os.RemoveAll(dir))...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	for _, key := range []bearer{"key-of-a-service-1", "key-of-an-admin-1"} {
		conn, err := grpc.NewClient(d.Addr().String(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(key))
		if err != nil {
			return nil, nil, fmt.Errorf("dial: %w", err)
		}
		conns = append(conns, conn)
	}
	service, admin := conns[0], conns[1]
	start, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	_, err = v1.NewSchemaServiceClient(admin).WriteSchema(start, &v1.WriteSchemaRequest{Schema: schemaText}, grpc.WaitForReady(true))
	if err != nil {
		return nil, nil, fmt.Errorf("schema: %w", err)
	}
	return over(service, admin), end, nil
}

// domain is the schema that the oracle evaluates, beside the core.
var domain = schema.Core + oracle.Domain
