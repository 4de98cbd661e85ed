package harness

import (
	"context"
	"errors"
	"math"

	"github.com/authzed/spicedb/pkg/cmd/server"
	"github.com/authzed/spicedb/pkg/cmd/util"
	"github.com/authzed/spicedb/pkg/datastore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// SpiceDB starts SpiceDB's own server over a datastore, to be an oracle: in this process, without the dispatch
// caches, which would keep an answer beyond an expiration. It shares nothing with pkg/engine, so that what
// Deputy sets up cannot be wrong on both sides. stop ends it, and leaves the datastore open.
func SpiceDB(ds datastore.Datastore) (conn *grpc.ClientConn, stop func() error, err error) {
	off := server.CacheConfig{Enabled: false}
	life, end := context.WithCancel(context.Background())
	srv, err := server.NewConfigWithOptionsAndDefaults(
		server.WithDatastore(ds),
		server.WithGRPCServer(util.GRPCServerConfig{
			Network: util.BufferedNetwork, Enabled: true, MaxConnAge: math.MaxInt64, BufferSize: 1 << 20,
		}),
		server.WithGRPCAuthFunc(func(ctx context.Context) (context.Context, error) { return ctx, nil }),
		server.WithDispatchServer(util.GRPCServerConfig{Enabled: false}),
		server.WithMetricsAPI(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithHTTPGateway(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithDispatchCacheConfig(off),
		server.WithClusterDispatchCacheConfig(off),
		server.WithDispatchClientMetricsEnabled(false),
		server.WithDispatchClusterMetricsEnabled(false),
		server.WithExperimentalSchemaMode("read-legacy-write-legacy"),
		server.WithEnableMemoryProtectionMiddleware(false),
		server.WithSilentlyDisableTelemetry(true),
	).Complete(life)
	if err != nil {
		end()
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- srv.Run(life) }()
	wait := func() error {
		end()
		// A server that is stopped before it began to serve says so.
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}
	conn, err = srv.NewClient(grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, errors.Join(err, wait())
	}
	return conn, func() error { return errors.Join(conn.Close(), wait()) }, nil
}
