package follow_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/store"
)

// servedStore is a store that followers can reach, and that a test writes to as SpiceDB does.
type servedStore struct {
	*store.Store

	uri   string
	conn  *grpc.ClientConn
	clock *movable
}

// allServed are the stores of all tests, by what stands for the connection string of a database.
var allServed sync.Map

func servedAt(uri string) *servedStore {
	if !strings.HasPrefix(uri, "deputy:") {
		return nil
	}
	found, _ := allServed.Load(uri)
	s, _ := found.(*servedStore)
	return s
}

// served opens a store and serves it, until the test ends.
func served(t testing.TB, config store.Config) *servedStore {
	t.Helper()
	dir := "store"
	switch config.FS {
	case nil:
		config.FS = vfs.NewMem()
	case vfs.Default:
		dir = t.TempDir() + "/store"
	}
	config.CacheBytes, config.MemTableBytes, config.DiskReserve, config.OpenFiles = 1<<20, 1<<20, 1, 100
	clock := &movable{}
	config.Now = clock.now
	if config.CollectEvery == 0 {
		config.CollectEvery = time.Hour
	}
	opened, err := store.Open(dir, config)
	if err != nil {
		t.Fatal(err)
	}
	id, err := opened.UniqueID(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	service, err := deputy.NewServer(context.Background(), opened)
	if err != nil {
		t.Fatal(err)
	}
	// Errors become statuses as at the border of a server.
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			resp, err := handler(ctx, req)
			return resp, statusOf(ctx, err)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return statusOf(stream.Context(), handler(srv, stream))
		}))
	deputyv1.RegisterFollowServiceServer(server, service)
	listener := bufconn.Listen(1 << 20)
	over := make(chan error, 1)
	go func() { over <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:store", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	s := &servedStore{opened, "deputy:" + id, conn, clock}
	allServed.Store(s.uri, s)
	t.Cleanup(func() {
		allServed.Delete(s.uri)
		_ = conn.Close()
		server.Stop()
		if err := <-over; err != nil {
			t.Errorf("the server of a store: %v", err)
		}
		if err := opened.Close(); err != nil {
			t.Errorf("closing a store: %v", err)
		}
	})
	return s
}

func statusOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return statuses.Of(statuses.Visible(ctx, err)).Err()
}

// failing is an authority whose pages fail where it says so.
type failing struct {
	follow.Authority

	fails func() error
}

func (f *failing) At(p follow.Position) follow.State { return &failingState{f.Authority.At(p), f} }

type failingState struct {
	follow.State

	of *failing
}

func (s *failingState) Page(ctx context.Context, next string, limit int) (follow.Page, error) {
	if err := s.of.fails(); err != nil {
		return follow.Page{}, err
	}
	return s.State.Page(ctx, next, limit)
}
