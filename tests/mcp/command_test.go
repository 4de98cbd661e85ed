package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/tests/harness"
)

// deputy runs a command line.
func deputy(ctx context.Context, in io.Reader, out io.Writer, env map[string]string, args ...string) (code int, errs string) {
	var failed bytes.Buffer
	code = cli.Run(ctx, args, cli.Streams{In: in, Out: out, Err: &failed}, func(name string) (string, bool) {
		value, found := env[name]
		return value, found
	})
	return code, failed.String()
}

// TestCommands: deputy mcp approve, and deputy mcp guard over gRPC and in its own process, in front of a real file server.
func TestCommands(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name, "plan.txt"), []byte(name+"'s plan"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := fileServer(t, root)
	config := filepath.Join(t.TempDir(), "guard.yaml")
	if err := os.WriteFile(config, []byte(`
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools:
  read_text_file: {checks: [{permission: read, type: file, id: path, canonical: {root: `+root+`, shared: true, depth: 1}}], ignore: [head, tail]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	w := openAt(t, dir, append(everyone("read_text_file"), "file:alice#reader for alice", "file:bob#reader for bob")...)
	env := map[string]string{"DEPUTY_ENDPOINT": w.addr, "DEPUTY_KEY": harness.ServiceKey}
	command := func(name string, flags ...string) []string {
		return append(append([]string{"mcp", name, "--config", config}, flags...), append([]string{"--"}, server...)...)
	}
	guard := []string{"--agent", "bot", "--session", w.alice.Session}

	if code, errs := deputy(t.Context(), strings.NewReader(""), io.Discard, env, command("guard", guard...)...); code != cli.ExitError || !strings.Contains(errs, "deputy mcp approve") {
		t.Errorf("tools that nobody approved: exit code %d, %s", code, errs)
	}
	var out bytes.Buffer
	if code, errs := deputy(t.Context(), strings.NewReader(""), &out, env, command("approve", "-o", "json")...); code != cli.ExitOK {
		t.Fatalf("approve: exit code %d, %s", code, errs)
	}
	var approved struct {
		Tools   int
		Changes []string
	}
	if err := json.Unmarshal(out.Bytes(), &approved); err != nil || approved.Tools < 10 || len(approved.Changes) != approved.Tools {
		t.Errorf("approve prints %s: %v", out.String(), err)
	}
	out.Reset()
	if code, _ := deputy(t.Context(), strings.NewReader(""), &out, env, command("approve")...); code != cli.ExitOK || !strings.Contains(out.String(), "tools are approved in "+config+".lock") {
		t.Errorf("approve, again, prints %s", out.String())
	}
	guards(t, "over gRPC", env, command("guard", guard...))
	args := append([]string{"mcp", "guard", "--config", config}, guard...)
	fromNobody, agent := io.Pipe() // an agent that says nothing
	defer func() { _ = agent.Close() }()
	for want, server := range map[string][]string{
		`the command "false" has ended (exit status 1) without an answer; an MCP server reads`: {"false"},
		`has ended (exit status 7) in the middle of the conversation`:                          {"sh", "-c", "echo; exit 7"},
	} {
		code, errs := deputy(t.Context(), fromNobody, io.Discard, env, append(append(args, "--"), server...)...)
		if code != cli.ExitError || !strings.Contains(errs, want) {
			t.Errorf("in front of %v the guard ends with %d, %s", server, code, errs)
		}
	}
	w.close()
	guards(t, "in process", nil, command("guard", append(guard, "--data-dir", dir)...))
}

// guards runs the guard, and has Alice's agent read her file and Bob's.
func guards(t *testing.T, name string, env map[string]string, args []string) {
	t.Helper()
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	ended := make(chan string, 1)
	go func() {
		code, errs := deputy(t.Context(), fromClient, toClient, env, args...)
		_ = toClient.Close()
		if code == cli.ExitOK {
			errs = ""
		}
		ended <- errs
	}()
	session, err := newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: clientIn, Writer: clientOut}, nil)
	if err != nil {
		t.Fatalf("%s: %v, %s", name, err, <-ended)
	}
	g := &guarded{session: session}
	for path, want := range map[string]string{"alice/plan.txt": "alice's plan", "bob/plan.txt": notAllowed, "alice/../bob/plan.txt": notAllowed} {
		if got := g.call(t, "read_text_file", map[string]any{"path": path}); got != want {
			t.Errorf("%s: %s: %s, want %s", name, path, got, want)
		}
	}
	if got := g.tools(t); got != "read_text_file" {
		t.Errorf("%s: the agent sees %s", name, got)
	}
	_ = session.Close()
	_ = clientOut.Close()
	if errs := <-ended; errs != "" {
		t.Errorf("%s: the guard ends with %s", name, errs)
	}
}
