package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// run connects to a server and makes the calls of a file.
func run(ctx context.Context, calls string, server []string, out io.Writer) (err error) {
	if calls == "" || len(server) == 0 {
		return errors.New("-calls or the server is missing: agent -calls FILE -- SERVER [ARGUMENT…]")
	}
	file, err := os.Open(calls) //nolint:gosec // the person who runs the program names it
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()                           // nothing is written
	command := exec.CommandContext(ctx, server[0], server[1:]...) //nolint:gosec // likewise
	command.Stderr = os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: command}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	var names []string
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		names = append(names, tool.Name)
	}
	fmt.Fprintf(out, "The agent sees the tools %s.\n", strings.Join(names, ", "))
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		line := strings.TrimSpace(lines.Text())
		switch tool, arguments, _ := strings.Cut(line, " "); {
		case line == "":
		case strings.HasPrefix(line, "#"):
			fmt.Fprintf(out, "\n%s\n", line)
		case !json.Valid([]byte(arguments)):
			return fmt.Errorf("the line %q is no call: write TOOL {ARGUMENTS}", line)
		default:
			fmt.Fprintf(out, "%s\n", line)
			call(ctx, session, out, tool, arguments)
		}
	}
}

// call calls a tool, and prints the text that comes back.
func call(ctx context.Context, session *mcp.ClientSession, out io.Writer, tool, arguments string) {
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: json.RawMessage(arguments)})
	if err != nil {
		fmt.Fprintf(out, "    error: %v\n", err)
		return
	}
	text := ""
	for _, one := range result.Content {
		if block, ok := one.(*mcp.TextContent); ok {
			text += block.Text + "\n"
		}
	}
	if result.StructuredContent != nil && strings.TrimSpace(text) == "" {
		if structured, err := json.Marshal(result.StructuredContent); err == nil {
			text = string(structured)
		}
	}
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(out, "    %s\n", strings.TrimRight(line, "\n"))
	}
}
