package mcp_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// fileServer is the command of @modelcontextprotocol/server-filesystem, which `make mcp-servers` installs.
func fileServer(t *testing.T, root string) []string {
	t.Helper()
	return []string{anyNode(t), installed(t, "@modelcontextprotocol/server-filesystem/dist/index.js"), root}
}

// TestFileServer: a real file server, a file of Alice's, one of Bob's, and every path that could lead from the one to the other.
func TestFileServer(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(filepath.Dir(root), "outside")
	for path, text := range map[string]string{
		root + "/alice/a.txt": "Alice's", root + "/alice/ä.txt": "umlaut", root + "/bob/b.txt": "Bob's", outside + "/o.txt": "outside",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range map[string]string{
		"/alice/link.txt": "../bob/b.txt", "/alice/bobs": "../bob", "/alice/out": outside, "/alice/self.txt": "a.txt",
		"/alice/u\u0308": "../bob", // "ü" in two characters: the file server finds it under the one
	} {
		if err := os.Symlink(to, root+path); err != nil {
			t.Fatal(err)
		}
	}
	server, err := mcp.Start(t.Context(), fileServer(t, root), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	tools, err := server.Tools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pins, err := mcp.PinsOf("files", tools)
	if err != nil {
		t.Fatal(err)
	}
	canonical := fmt.Sprintf("{root: %s, shared: true, depth: 1}", root)
	m := decode(t, strings.NewReplacer("CANONICAL", canonical).Replace(`
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools:
  read_text_file:
    checks: [{permission: read, type: file, id: path, canonical: CANONICAL}]
    ignore: [head, tail]
  read_multiple_files: {checks: [{permission: read, type: file, id: "paths[]", canonical: CANONICAL}]}
  write_file:
    checks: [{permission: write, type: file, id: path, canonical: CANONICAL}]
    ignore: [content]
  search_files:
    checks: [{permission: list, type: file, id: path, canonical: CANONICAL}]
    ignore: [pattern, excludePatterns]
    results:
      - {in: content, lines: '(?P<id>/.+)', permission: read, type: file, canonical: CANONICAL}
      - {in: structuredContent.content, lines: '(?P<id>/.+)', permission: read, type: file, canonical: CANONICAL}
`))
	names := []string{"read_text_file", "read_multiple_files", "write_file", "search_files", "move_file"}
	w := open(t, append(everyone(names...), "file:alice#writer for alice", "file:bob#writer for bob", "file:.#lister for alice")...)
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	second, err := mcp.Start(t.Context(), fileServer(t, root), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	go func() {
		_ = second.Serve(t.Context(), mcp.New(mcp.Config{Map: m, Pins: pins, Ask: mcp.AskerOf(w.admin, w.alice)}), fromClient, toClient)
		_ = toClient.Close()
	}()
	g := &guarded{}
	if g.session, err = newClient(nil).Connect(t.Context(), &sdk.IOTransport{Reader: clientIn, Writer: clientOut}, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.session.Close() }()
	if got := g.tools(t); got != "read_text_file read_multiple_files write_file search_files" {
		t.Errorf("alice's agent sees %s", got)
	}
	for path, want := range map[string]string{
		root + "/alice/a.txt":                    "Alice's",
		"alice/a.txt":                            "Alice's",
		root + "/alice/../alice/a.txt":           "Alice's",
		root + "/alice/self.txt":                 "Alice's",
		root + "/alice/ä.txt":                    "umlaut",
		root + "/bob/b.txt":                      notAllowed,
		root + "/alice/../bob/b.txt":             notAllowed,
		root + "/alice/link.txt":                 notAllowed,
		root + "/alice/bobs/b.txt":               notAllowed,
		root + "/alice/bobs/../alice/a.txt":      notAllowed,
		root + "/alice/out/o.txt":                notAllowed,
		root + "/alice/\u00fc/b.txt":             notAllowed,
		root + "/ALICE/a.txt":                    notAllowed,
		outside + "/o.txt":                       notAllowed,
		"/etc/passwd":                            notAllowed,
		"~/.ssh/id_rsa":                          "isError: Refused: The argument path begins with ~",
		root + "/alice/a\u0308.txt":              "isError: Refused: The argument path is not in Unicode's form NFC",
		root + `/alice/..\bob\b.txt`:             "isError: Refused: The argument path has a backslash",
		"file://" + root + "/bob/b.txt":          notAllowed,
		root + "/alice/%2e%2e/bob/b.txt":         "isError: ", // the server's own: there is no such file
		strings.Repeat("../", 30) + "etc/passwd": notAllowed,
		root + "/bob":                            notAllowed,
		root:                                     notAllowed,
	} {
		if got := g.call(t, "read_text_file", map[string]any{"path": path}); got != want && (!strings.HasPrefix(got, want) || want == notAllowed || !strings.HasPrefix(want, "isError")) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := g.call(t, "read_multiple_files", map[string]any{"paths": []string{root + "/alice/a.txt", root + "/bob/b.txt"}}); got != notAllowed {
		t.Error(got)
	}
	if got := g.call(t, "write_file", map[string]any{"path": root + "/alice/bobs/new.txt", "content": "x"}); got != notAllowed {
		t.Error(got)
	}
	if got := g.call(t, "write_file", map[string]any{"path": "alice/new.txt", "content": "x"}); !strings.Contains(got, "Successfully") {
		t.Error(got)
	}
	if got := g.call(t, "write_file", map[string]any{"path": root + "/alice/\u00fc/new.txt", "content": "x"}); got != notAllowed {
		t.Error(got)
	}
	if _, err := os.Stat(root + "/bob/new.txt"); err == nil {
		t.Error("the agent wrote into Bob's folder")
	}
	got := g.call(t, "search_files", map[string]any{"path": root, "pattern": "**/*.txt"})
	for path := range strings.FieldsSeq(got) {
		if target, err := filepath.EvalSymlinks(path); err != nil || !strings.HasPrefix(target, root+"/alice/") {
			t.Errorf("the search shows %s", path)
		}
	}
	if !strings.Contains(got, root+"/alice/a.txt") {
		t.Errorf("the search does not show Alice's file: %s", got)
	}
	if got := g.call(t, "move_file", map[string]any{"source": root + "/bob/b.txt", "destination": root + "/alice/b.txt"}); got != noTool {
		t.Error(got)
	}
}
