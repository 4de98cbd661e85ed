//go:build unix

package crash

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/pkg/cli"
)

// program is the name under which this test binary is the command line.
const program = "deputy"

// adminKey is the key of everybody here.
const adminKey = "the-admin-key"

// TestMain is the command line when the binary is called by its name, and else the tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == program {
		// As in cmd/deputy.
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.LookupEnv))
	}
	os.Exit(m.Run())
}

// serving is a `deputy serve` in a process of its own.
type serving struct {
	process *exec.Cmd
	conn    *grpc.ClientConn
	logPath string
}

// start starts a server on a directory and waits until it listens.
func start(t *testing.T, dir string) *serving {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{logPath: filepath.Join(dir, "serve.log")}
	s.process = exec.CommandContext(t.Context(), self, "serve", "--addr", "127.0.0.1:0", "--engine", "embedded",
		"--data-dir", filepath.Join(dir, "data"), "--token-key-file", filepath.Join(dir, "token.key"))
	s.process.Args[0] = program
	s.process.Env = []string{"DEPUTY_PRESHARED_KEY=a-services-key", "DEPUTY_ADMIN_PRESHARED_KEY=" + adminKey}
	stdout, err := s.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(s.logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s.process.Stderr = log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "deputy listens on ")
	if err != nil || !found {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
		t.Fatalf("serve printed %q: %v\n%s", line, err, s.log())
	}
	if s.conn, err = grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	return s
}

// kill ends the server as a power cut would, but for the system's own cache.
func (s *serving) kill(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.process.Wait()
	_ = s.conn.Close()
}

// log returns what the server has logged.
func (s *serving) log() string {
	text, err := os.ReadFile(s.logPath)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *serving) permissions() v1.PermissionsServiceClient {
	return v1.NewPermissionsServiceClient(s.conn)
}

// context carries the key, and ends when the test should have.
func (s *serving) context(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+adminKey), patience)
}
