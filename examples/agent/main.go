// Command agent is an agent without a model: it connects to an MCP server, lists its tools, and makes the calls that a file names.
//
//	agent -calls FILE -- SERVER [ARGUMENT…]
//
// A line of the file is a tool and its arguments as JSON. Lines that begin with # are printed as they are.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	calls := flag.String("calls", "", "file with a call on each line: TOOL {ARGUMENTS}")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *calls, flag.Args(), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent: "+err.Error())
		os.Exit(1)
	}
}
