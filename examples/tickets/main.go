// Command tickets is an MCP server with the tickets of a support desk. It does whatever it is asked: the guard decides who may ask.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := newServer().Run(ctx, &mcp.StdioTransport{})
	failed := err != nil && ctx.Err() == nil
	stop()
	if failed {
		fmt.Fprintln(os.Stderr, "tickets: "+err.Error())
		os.Exit(1)
	}
}
