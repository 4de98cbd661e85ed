package daemon_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// visited is a file system that takes three files, and tries whenever one is made whether an address takes connections.
type visited struct {
	vfs.FS
	addr       string
	tried, led atomic.Int64
}

func (v *visited) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	n := v.tried.Add(1)
	if conn, err := net.DialTimeout("tcp", v.addr, time.Second); err == nil {
		v.led.Add(1)
		_ = conn.Close()
	}
	if n > 3 {
		return nil, errors.New("no more than three files")
	}
	return v.FS.Create(name, category)
}

// TestListensOnceTheStoreIsOpen: while the store is opened nobody can connect, and wait for an answer that may never come. The store
// cannot be opened in the end, so that no file of it is made once the server listens.
func TestListensOnceTheStoreIsOpen(t *testing.T) {
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	disk := &visited{FS: vfs.NewMem(), addr: free.Addr().String()}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := daemon.Open(t.Context(), daemon.Config{
		Addr: disk.addr, Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}, AdminPresharedKeys: []string{adminKey},
	}.On(disk), zap.NewNop())
	if err == nil {
		_ = d.Close()
		t.Fatal("a store was opened on a disk that takes three files")
	}
	tried, led := disk.tried.Load(), disk.led.Load()
	if tried == 0 || led != 0 {
		t.Errorf("of %d files that the store made, a connection was taken beside %d", tried, led)
	}
}

// TestCloseEndsServe: Close ends a Serve that runs, which is no failure of it, and a client that watches the health is told.
func TestCloseEndsServe(t *testing.T) {
	for name, cfg := range map[string]daemon.Config{"serving": {}, "within the delay": {ShutdownDelay: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			cfg.AdminPresharedKeys, cfg.Engine.Kind = []string{adminKey}, engine.Memory
			d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			serving, stop := context.WithCancel(t.Context())
			defer stop()
			served := make(chan error, 1)
			go func() { served <- d.Serve(serving) }()
			conn, err := grpc.NewClient(d.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if is, err := watch.Recv(); err != nil || is.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Fatalf("the server is %v, %v", is, err)
			}
			if cfg.ShutdownDelay != 0 {
				stop()
				if is, err := watch.Recv(); err != nil || is.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
					t.Fatalf("within the delay the server is %v, %v", is, err)
				}
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Errorf("Serve ended with %v", err)
			}
			if is := daemon.HealthOf(d); is != healthv1.HealthCheckResponse_NOT_SERVING {
				t.Errorf("after Close the server says that it is %v", is)
			}
		})
	}
}
