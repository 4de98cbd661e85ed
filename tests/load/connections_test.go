package load

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestConnectionsAge: a client that keeps its connection is told to make another one, and no call of it is lost.
func TestConnectionsAge(t *testing.T) {
	t.Parallel()
	w := open(t, daemon.Config{Engine: harness.Embedded(t), MaxConnectionAge: 300 * time.Millisecond})
	c, err := client.Dial(w.Addr().String(), client.WithPresharedKey(harness.ServiceKey), client.WithoutRetries())
	w.must(err)
	t.Cleanup(func() { _ = c.Close() })
	connections, calls := map[string]bool{}, 0
	eventually(t, "it has made three connections", func() bool {
		var by peer.Peer
		for range 20 {
			_, err := c.Permissions.CheckPermission(t.Context(), w.question(), grpc.Peer(&by))
			w.must(err)
			connections[by.LocalAddr.String()] = true
			calls++
		}
		return len(connections) >= 3
	})
	t.Logf("%d calls on %d connections", calls, len(connections))
}

// TestBalancing: a client that balances calls a server that takes calls, and none that is about to stop, although that still answers others.
func TestBalancing(t *testing.T) {
	t.Parallel()
	w := open(t, daemon.Config{Engine: harness.Embedded(t), ShutdownDelay: 5 * time.Second})
	dial := func(opts ...client.Option) func() error {
		c, err := client.Dial(w.Addr().String(), append(opts, client.WithPresharedKey(harness.ServiceKey), client.WithoutRetries())...)
		w.must(err)
		t.Cleanup(func() { _ = c.Close() })
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := c.Permissions.CheckPermission(ctx, w.question())
			return err
		}
	}
	plain, balanced := dial(), dial(client.WithBalancing())
	w.must(balanced())
	w.must(plain())
	w.Stop()
	eventually(t, "the client leaves the server out", func() bool { return status.Code(balanced()) == codes.Unavailable })
	if err := plain(); err != nil {
		t.Errorf("a client that does not balance, while the server still takes calls: %v", err)
	}
}
