package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestProposalInFrontOfRealServer: a file that deputy mcp map proposes for a real file server is loaded by the guard, which shows the
// agent what the proposal is sure of, decides it, and refuses the rest.
func TestProposalInFrontOfRealServer(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.txt", "b.txt"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("text of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := fileServer(t, root)
	config := filepath.Join(t.TempDir(), "guard.yaml")
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code, errs := deputy(t.Context(), strings.NewReader(""), &out, nil, append(append(args, "--"), server...)...); code != want {
			t.Fatalf("%q: exit code %d, %s", args, code, errs)
		}
		return out.String()
	}
	run(cli.ExitOK, "mcp", "map", "--server", "files", "--root", root, "--out", config)
	run(cli.ExitOK, "mcp", "approve", "--config", config)
	var found []struct{ Rule, Message string }
	if err := json.Unmarshal([]byte(run(cli.ExitOK, "mcp", "lint", config, "-o", "json")), &found); err != nil {
		t.Fatal(err)
	}
	// Nothing of the server is missing in its own proposal, and nothing is in it that the server does not have.
	for _, f := range found {
		if f.Rule != "undecided" && f.Rule != "unfiltered-answer" && f.Rule != "ignored-object" {
			t.Errorf("the proposal has the finding %s: %s", f.Rule, f.Message)
		}
	}
	for _, tool := range []string{"search_files", "directory_tree", "list_directory"} {
		if !slices.ContainsFunc(found, func(f struct{ Rule, Message string }) bool {
			return f.Rule == "unfiltered-answer" && strings.Contains(f.Message, `"`+tool+`"`)
		}) {
			t.Errorf("nothing says that nobody filters the answers of %s", tool)
		}
	}

	w := open(t, append(everyone("read_text_file", "write_file", "search_files"), "file:a.txt#reader for alice", "file:b.txt#reader for bob")...)
	env := map[string]string{"DEPUTY_ENDPOINT": w.addr, "DEPUTY_KEY": harness.ServiceKey}
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	ended := make(chan string, 1)
	go func() {
		_, errs := deputy(t.Context(), fromClient, toClient, env, append([]string{"mcp", "guard", "--config", config, "--agent", "bot", "--session", w.alice.Session, "--"}, server...)...)
		_ = toClient.Close()
		ended <- errs
	}()
	session, err := newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: clientIn, Writer: clientOut}, nil)
	if err != nil {
		t.Fatalf("%v, %s", err, <-ended)
	}
	g := &guarded{session: session}
	if got := g.tools(t); got != "read_text_file write_file" {
		t.Errorf("the agent sees %s", got)
	}
	for _, call := range []struct {
		tool      string
		arguments map[string]any
		want      string
	}{
		{"read_text_file", map[string]any{"path": "a.txt", "head": 1}, "text of a.txt"},
		{"read_text_file", map[string]any{"path": "b.txt"}, notAllowed},
		{"write_file", map[string]any{"path": "a.txt", "content": "x"}, notAllowed},
		{"search_files", map[string]any{"path": ".", "pattern": "*"}, noTool},
	} {
		if got := g.call(t, call.tool, call.arguments); got != call.want {
			t.Errorf("%s %v: %s, want %s", call.tool, call.arguments, got, call.want)
		}
	}
	_ = session.Close()
	_ = clientOut.Close()
	<-ended
}

// TestOffers: all that a server lists is read, page by page, and a server that lacks a list has none.
func TestOffers(t *testing.T) {
	t.Parallel()
	read := func(server *sdk.Server) *offer.Offer {
		t.Helper()
		serverIn, toServer := io.Pipe()
		fromServer, serverOut := io.Pipe()
		go func() { _ = server.Run(t.Context(), &sdk.IOTransport{Reader: serverIn, Writer: serverOut}) }()
		lists, err := mcp.ReadOffers(t.Context(), fromServer, toServer)
		if err != nil {
			t.Fatal(err)
		}
		o, err := offer.Of(lists)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := read(files())
	var names []string
	for _, tool := range o.Tools {
		names = append(names, tool.Name)
	}
	if got := strings.Join(names, " "); o.Server != "files" || got != "read read_many search secret write" {
		t.Errorf("the server %s has the tools %s", o.Server, got)
	}
	if len(o.Prompts) != 2 || !slices.Equal(o.Resources, []string{"file:///a.txt", "file:///b.txt"}) || len(o.Templates) != 2 {
		t.Errorf("the server has %v, %v and %v", o.Prompts, o.Resources, o.Templates)
	}
	bare := sdk.NewServer(&sdk.Implementation{Name: "many", Version: "1"}, &sdk.ServerOptions{PageSize: 3})
	for i := range 10 {
		sdk.AddTool(bare, &sdk.Tool{Name: fmt.Sprintf("tool%d", i)}, func(context.Context, *sdk.CallToolRequest, pathArgs) (*sdk.CallToolResult, any, error) {
			return nil, nil, nil
		})
	}
	if o := read(bare); len(o.Tools) != 10 || len(o.Prompts)+len(o.Resources)+len(o.Templates) > 0 {
		t.Errorf("a server with 10 tools has %d, %d prompts, %d resources", len(o.Tools), len(o.Prompts), len(o.Resources))
	}
}
