// Package reconnect says how soon a gRPC connection is tried again that broke or could not be made.
package reconnect

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// leastPause and mostPause are how long after a failure the first next try is made, and the longest time between two tries, give or take a fifth.
	leastPause, mostPause = 100 * time.Millisecond, time.Second
	// connectTime is how long one try may take, as it is by itself: many clients together may have a server that comes up be slow with their handshakes.
	connectTime = 20 * time.Second
)

// Option has a connection be tried again within 1.2 s of a try that failed. By itself gRPC waits up to two minutes, which grow
// with the time that the server was away. Where servers are restarted one after the other, the next ones are stopped meanwhile, and no server is left.
func Option() grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: leastPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: mostPause},
		MinConnectTimeout: connectTime,
	})
}
