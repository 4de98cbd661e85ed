package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cmd/server"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// Everything that is measured over gRPC runs in a process of its own, a child of the test binary, so that
// what the client costs is the same for all.

// serveVariable tells a child of the test binary what to serve, as JSON of a served.
const serveVariable = "DEPUTY_BENCH_SERVE"

// served says what a child serves.
type served struct {
	// Kind is "deputy", "spicedb" or "bare".
	Kind string
	// Dir is Deputy's data directory, or that of its copy.
	Dir string `json:",omitempty"`
	// Journal is journalOff or journalSync; empty means a journal as it is shipped.
	Journal string `json:",omitempty"`
	// Evaluator is Deputy's; empty means as it is shipped.
	Evaluator string `json:",omitempty"`
	// Metrics is where Deputy's figures are; empty means nowhere.
	Metrics string `json:",omitempty"`
	// Datastore and URI are SpiceDB's. A Deputy with a URI follows that database, with its copy in Dir.
	Datastore string `json:",omitempty"`
	URI       string `json:",omitempty"`
	// Decision and Check are what the bare server answers, on the wire.
	Decision []byte `json:",omitempty"`
	Check    []byte `json:",omitempty"`
}

// start starts a child that serves until the test ends, and returns where it listens.
func start(t testing.TB, s served) (addr string) {
	t.Helper()
	what, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestServe$") // it ends by itself, see launch
	child.Env = append(os.Environ(), serveVariable+"="+string(what))
	return launch(t, child, nil)
}

// launch starts a process, feeds it, and returns the first line that it prints. It ends when its standard
// input does: with the test, or with this process, however that ends.
func launch(t testing.TB, child *exec.Cmd, feed func(io.Writer) error) string {
	t.Helper()
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Errorf("%s: %v", child.Path, err)
		}
		if err := child.Wait(); err != nil {
			t.Errorf("%s: %v", child.Path, err)
		}
	})
	if feed != nil {
		if err := feed(in); err != nil {
			t.Fatalf("feeding %s: %v", child.Path, err)
		}
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s printed %q: %v", child.Path, line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// TestServe is what start runs.
func TestServe(t *testing.T) {
	text := os.Getenv(serveVariable)
	if text == "" {
		return
	}
	var s served
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	// Until the process that started it closes its input, or is gone.
	life, end := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	serve := map[string]func(context.Context, served) error{"deputy": serveDeputy, "spicedb": serveSpiceDB, "bare": serveBare}[s.Kind]
	if err := serve(life, s); err != nil {
		t.Fatal(err)
	}
}

// listening says where a child listens.
func listening(addr string) { fmt.Fprintln(os.Stdout, addr) }

func serveDeputy(life context.Context, s served) error {
	log := zap.Must(zap.Config{
		Level: zap.NewAtomicLevelAt(zap.WarnLevel), Encoding: "console", OutputPaths: []string{"stderr"},
		EncoderConfig: zap.NewDevelopmentEncoderConfig(),
	}.Build())
	cfg := daemon.Config{
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		Engine: engine.Config{Kind: engine.Embedded, Dir: s.Dir}, Evaluator: cmp.Or(s.Evaluator, daemon.EvaluatorNative), Journal: journalOf(s.Journal),
		MetricsAddr: s.Metrics,
	}
	if s.URI != "" {
		cfg.Engine, cfg.Evaluator = engine.Config{Kind: engine.Postgres, URI: s.URI}, ""
		cfg.Following, cfg.TokenKey = daemon.Following{On: true, Dir: s.Dir}, []byte("a token key of at least 32 bytes")
	}
	d, err := daemon.Open(life, cfg, log)
	if err != nil {
		return err
	}
	defer daemon.KeepHeadroom(0)() // as `deputy serve` does
	listening(d.Addr().String())
	return errors.Join(d.Serve(life), d.Close())
}

// serveSpiceDB is `spicedb serve` with what it has when nothing is set, its caches above all, but for the
// listener of its metrics, and for telling its makers about itself.
func serveSpiceDB(life context.Context, s served) error {
	cfg := server.NewConfigWithOptionsAndDefaults(
		server.WithPresharedSecureKey(harness.AdminKey),
		server.WithSilentlyDisableTelemetry(true),
	)
	cfg.DatastoreConfig.Engine, cfg.DatastoreConfig.URI = s.Datastore, s.URI
	cfg.MetricsAPI.HTTPEnabled = false
	// It does not tell which port the system picked, so one that was free a moment ago is named.
	free, err := freeAddr(life)
	if err != nil {
		return err
	}
	cfg.GRPCServer.Address = free
	srv, err := cfg.Complete(life)
	if err != nil {
		return err
	}
	listening(cfg.GRPCServer.Address) // soon
	if err := srv.Run(life); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// freeAddr returns an address that was free a moment ago.
func freeAddr(ctx context.Context) (string, error) {
	free, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return free.Addr().String(), free.Close()
}

// bareDecisions and bareChecks answer without looking: the limit for anything that is asked over gRPC.
type bareDecisions struct {
	deputyv1.UnimplementedPermissionsServiceServer
	answer *deputyv1.CheckPermissionResponse
}

// CheckPermission answers what Deputy answered before.
func (b *bareDecisions) CheckPermission(context.Context, *deputyv1.CheckPermissionRequest) (*deputyv1.CheckPermissionResponse, error) {
	return b.answer, nil
}

type bareChecks struct {
	v1.UnimplementedPermissionsServiceServer
	answer *v1.CheckPermissionResponse
}

// CheckPermission answers what Deputy answered before.
func (b *bareChecks) CheckPermission(context.Context, *v1.CheckPermissionRequest) (*v1.CheckPermissionResponse, error) {
	return b.answer, nil
}

func serveBare(life context.Context, s served) error {
	decisions := &bareDecisions{answer: &deputyv1.CheckPermissionResponse{}}
	checks := &bareChecks{answer: &v1.CheckPermissionResponse{}}
	if err := errors.Join(proto.Unmarshal(s.Decision, decisions.answer), proto.Unmarshal(s.Check, checks.answer)); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(life, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	deputyv1.RegisterPermissionsServiceServer(g, decisions)
	v1.RegisterPermissionsServiceServer(g, checks)
	context.AfterFunc(life, g.Stop)
	listening(listener.Addr().String())
	return g.Serve(listener)
}
