//go:build unix

package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/tests/process"
)

// TestServeDrains sends SIGTERM to a `deputy serve` in the middle of an import: the import still
// finishes, new calls are refused, and only then does the process end, with exit code 0.
func TestServeDrains(t *testing.T) {
	dir := t.TempDir()
	const key = "key-of-the-admin"
	server, err := process.Start(process.Config{
		Dir: dir, Log: filepath.Join(dir, "serve.log"),
		Env:  map[string]string{"DEPUTY_ADMIN_PRESHARED_KEY": key, "DEPUTY_SHUTDOWN_GRACE": "60s"},
		Args: []string{"--addr", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	addr := server.Addr

	dial := func() authzed.PermissionsServiceClient {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return authzed.NewPermissionsServiceClient(conn)
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := authzed.NewSchemaServiceClient(conn).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: coreWith(t, `
definition document {
	relation reader: user
}`)}); err != nil {
		t.Fatal(err)
	}
	stream, err := authzed.NewPermissionsServiceClient(conn).ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const batch = 1000
	send := func(name string) {
		t.Helper()
		message := &authzed.ImportBulkRelationshipsRequest{}
		for i := range batch {
			message.Relationships = append(message.Relationships, &authzed.Relationship{
				Resource: &authzed.ObjectReference{ObjectType: "document", ObjectId: fmt.Sprintf("%s-%0500d", name, i)},
				Relation: "reader",
				Subject:  &authzed.SubjectReference{Object: &authzed.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
			})
		}
		if err := stream.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	// This is more than the server takes in unread, so it has taken up the call when the second message
	// is on its way.
	send("one")
	send("two")
	if err := server.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// New connections are refused from some moment on; that is when the server drains.
	for {
		_, err := dial().CheckPermission(ctx, &authzed.CheckPermissionRequest{})
		if status.Code(err) == codes.Unavailable {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the server still takes calls: %v", err)
		}
	}
	select {
	case <-server.Ended():
		t.Fatalf("the process ended with a call under way: %v", server.Wait())
	default:
	}
	send("three")
	answer, err := stream.CloseAndRecv()
	if err != nil {
		t.Fatalf("the import under way failed: %v\n%s", err, server.Log())
	}
	if answer.GetNumLoaded() != 3*batch {
		t.Errorf("%d relationships were written, want %d", answer.GetNumLoaded(), 3*batch)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("serve ended with %v, want exit code 0", err)
	}
}

// TestServeStaysForItsLoadBalancer: a server that is told to stop says that it is not ready, and for --shutdown-delay takes new
// connections and answers, because a load balancer still sends calls until it has noticed. Then it ends with exit code 0.
func TestServeStaysForItsLoadBalancer(t *testing.T) {
	for name, test := range map[string]struct {
		delay string
		ends  bool
	}{"within the delay": {"1h", false}, "after it": {"300ms", true}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			const key = "key-of-the-admin"
			server, err := process.Start(process.Config{
				Dir: dir, Log: filepath.Join(dir, "serve.log"), Env: map[string]string{"DEPUTY_ADMIN_PRESHARED_KEY": key},
				Args: []string{"--addr", "127.0.0.1:0", "--engine", "memory", "--journal", "off", "--shutdown-delay", test.delay},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Kill() })
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key), time.Minute)
			defer cancel()
			dial := func() *grpc.ClientConn {
				conn, err := grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				return conn
			}
			watch, err := healthv1.NewHealthClient(dial()).Watch(ctx, &healthv1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if is, err := watch.Recv(); err != nil || is.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Fatalf("the server is %v, %v", is, err)
			}
			if err := server.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if is, err := watch.Recv(); err != nil || is.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
				t.Fatalf("once it is told to stop the server is %v, %v", is, err)
			}
			if test.ends {
				if err := server.Wait(); err != nil {
					t.Errorf("the server ended with %v, want exit code 0", err)
				}
				return
			}
			if _, err := authzed.NewSchemaServiceClient(dial()).WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: coreWith(t, "")}); err != nil {
				t.Errorf("a call on a new connection, while the server is not ready: %v", err)
			}
		})
	}
}

// coreWith returns the core schema followed by other definitions.
func coreWith(t *testing.T, definitions string) string {
	t.Helper()
	core, err := os.ReadFile("../../schema/core.zed")
	if err != nil {
		t.Fatal(err)
	}
	return string(core) + definitions
}
