// Command deputy decides, before an AI agent acts, whether it may: it serves the decisions, asks for
// them, and governs the agents, delegations and sessions that they rest on.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/deputyauth/deputy/pkg/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends what runs in an orderly way; the second one kills, as it does by default.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.LookupEnv))
}
