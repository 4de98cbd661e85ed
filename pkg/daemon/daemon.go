// Package daemon opens, serves and closes a Deputy server: the one room that knows all the others.
package daemon

import (
	"context"
	"errors"
	"net"

	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Daemon is an opened server.
type Daemon struct{}

// Open opens the engine and the listener. Close releases them.
func Open(ctx context.Context, cfg Config, log *zap.Logger) (*Daemon, error) {
	return nil, errors.New("being built")
}

// Addr is the address that the server listens on.
func (d *Daemon) Addr() net.Addr { return nil }

// Engine returns the connection to the engine behind the server, past every guard: for tests.
func (d *Daemon) Engine() grpc.ClientConnInterface { return nil }

// Serve answers calls until ctx ends, then drains and returns nil.
func (d *Daemon) Serve(ctx context.Context) error { return nil }

// Close releases all that Open took. It is safe to call twice.
func (d *Daemon) Close() error { return nil }
