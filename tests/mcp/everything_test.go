package mcp_test

import (
	"io"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// TestEverythingServer: the protocol's own example server, which asks and tells all that a server can: of its tools the mapped one is there, and answers.
func TestEverythingServer(t *testing.T) {
	t.Parallel()
	command := []string{anyNode(t), installed(t, "@modelcontextprotocol/server-everything/dist/index.js"), "stdio"}
	first, err := mcp.Start(t.Context(), command, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	tools, err := first.Tools(t.Context())
	first.Stop()
	if err != nil || len(tools) < 5 {
		t.Fatalf("%d tools, %v", len(tools), err)
	}
	pins, err := mcp.PinsOf("everything", tools)
	if err != nil {
		t.Fatal(err)
	}
	server, err := mcp.Start(t.Context(), command, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	w := open(t, "mcp_tool:everything/echo#caller for alice")
	m := decode(t, "version: 1\nserver: everything\ntool: {type: mcp_tool, permission: call}\ntools: {echo: {ignore: [message]}}\n")
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	go func() {
		_ = server.Serve(t.Context(), mcp.New(mcp.Config{Map: m, Pins: pins, Ask: mcp.AskerOf(w.admin, w.alice)}), fromClient, toClient)
		_ = toClient.Close()
	}()
	g := &guarded{}
	if g.session, err = newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: clientIn, Writer: clientOut}, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.session.Close() }()
	if got := g.tools(t); got != "echo" {
		t.Errorf("the agent sees %s", got)
	}
	if got := g.call(t, "echo", map[string]any{"message": "good morning"}); !strings.Contains(got, "good morning") || strings.HasPrefix(got, "isError") {
		t.Error(got)
	}
	for _, one := range tools {
		name, _ := one.At("name").Text()
		if got := g.call(t, name, nil); name != "echo" && got != noTool {
			t.Errorf("%s: %s", name, got)
		}
	}
}
