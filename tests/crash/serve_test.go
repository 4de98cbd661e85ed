//go:build unix

package crash

import (
	"context"
	"path/filepath"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/tests/process"
)

// adminKey is the key of everybody here.
const adminKey = "key-of-the-admin"

// TestMain is the command line when the binary is called by its name, and else the tests.
func TestMain(m *testing.M) { process.Main(m.Run) }

// serving is a `deputy serve` in a process of its own.
type serving struct {
	*process.Server
	conn *grpc.ClientConn
}

// start starts a server on a directory and waits until it listens.
func start(t *testing.T, dir string) *serving {
	t.Helper()
	server, err := process.Start(process.Config{
		Log: filepath.Join(dir, "serve.log"),
		Env: map[string]string{"DEPUTY_PRESHARED_KEY": "key-of-the-service", "DEPUTY_ADMIN_PRESHARED_KEY": adminKey},
		Args: []string{
			"--addr", "127.0.0.1:0", "--engine", "embedded",
			"--data-dir", filepath.Join(dir, "data"), "--token-key-file", filepath.Join(dir, "token.key"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	s := &serving{Server: server}
	if s.conn, err = grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	return s
}

// kill ends the server as a power cut would, but for the system's own cache.
func (s *serving) kill(t *testing.T) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.conn.Close()
}

func (s *serving) permissions() v1.PermissionsServiceClient {
	return v1.NewPermissionsServiceClient(s.conn)
}

// context carries the key, and ends when the test should have.
func (s *serving) context(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+adminKey), patience)
}
