package mcp_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// guardedFiles puts a guard before a real file server, whose folder read_text_file may read where the folder below the root is the agent's.
func guardedFiles(t *testing.T, w *world, root string) *guarded {
	t.Helper()
	first, err := mcp.Start(t.Context(), fileServer(t, root), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := first.Definitions(t.Context())
	first.Stop()
	if err != nil {
		t.Fatal(err)
	}
	pins, err := mcp.PinsOf("files", definitions)
	if err != nil {
		t.Fatal(err)
	}
	canonical := fmt.Sprintf("{root: %s, shared: true, depth: 1}", root)
	m := decode(t, strings.ReplaceAll(`
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools:
  read_text_file: {checks: [{permission: read, type: file, id: path, canonical: CANONICAL}], ignore: [head, tail]}
  list_directory: {checks: [{permission: read, type: file, id: path, canonical: CANONICAL}]}
`, "CANONICAL", canonical))
	server, err := mcp.Start(t.Context(), fileServer(t, root), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
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
	t.Cleanup(func() { _ = g.session.Close() })
	return g
}

// folder makes files of these texts, and links that begin with "-> ", and returns the folder.
func folder(t *testing.T, entries map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range entries {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, isLink := strings.CutPrefix(text, "-> "); isLink {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestPathTricks: whatever way leads from Alice's folder to another one, her agent gets nothing of Bob's, and what is hers by any way.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	w := open(t, append(everyone("read_text_file", "list_directory"), "file:alice#reader for alice", "file:bob#reader for bob")...)
	root := folder(t, map[string]string{
		"alice/a.txt": "Alice's", "alice/deep/er/d.txt": "Alice's", "alice/%2e%2e/e.txt": "Alice's", "alice/\u00e4.txt": "Alice's", "alice/... /t.txt": "Alice's",
		"alice/.../h.txt": "Alice's", "alice/trailing. /x.txt": "Alice's",
		"bob/b.txt": "Bob's", "bob/deep/d.txt": "Bob's", "bob/a.txt": "Bob's", "alicetoo/a.txt": "Bob's", "Alice/a.txt": "Bob's",
		"alice/file": "-> ../bob/b.txt", "alice/dir": "-> ../bob", "alice/nowhere": "-> ../bob/none", "alice/loop": "-> loop", "alice/ping": "-> pong",
		"alice/pong": "-> ping", "alice/chain": "-> deep/chain", "alice/deep/chain": "-> ../../bob/b.txt", "alice/root": "-> /", "alice/proc": "-> /proc/self/root",
		"alice/cwd": "-> /proc/self/cwd", "alice/self": "-> a.txt", "alice/back": "-> ../alice/deep/../a.txt", "bob/home": "-> ../alice",
		"alice/dots": "-> .", "alice/up": "-> ..",
	})
	g := guardedFiles(t, w, root)
	hers := map[string]bool{ // her own, by any way
		"alice/a.txt": true, "alice/./a.txt": true, "alice//a.txt": true, "./alice/a.txt": true, "alice/deep/../a.txt": true, "alice/self": true, "alice/back": true,
		"bob/../alice/a.txt": true, "alice/deep/er/d.txt": true, "alice/%2e%2e/e.txt": true, "alice/\u00e4.txt": true, "alice/dots/a.txt": true,
		"alice/up/alice/a.txt": true, "bob/home/a.txt": true, "alice/.../h.txt": true, "alice/root" + root + "/alice/a.txt": true,
	}
	tricks := []string{
		"bob/b.txt", "alice/../bob/b.txt", "alice/deep/../../bob/b.txt", "alice/../alice/../bob/b.txt", "alice/file", "alice/dir/b.txt", "alice/dir/deep/d.txt",
		"alice/dir/deep/../b.txt", "alice/dir/.", "alice/nowhere", "alice/nowhere/../b.txt", "alice/loop", "alice/ping", "alice/chain", "alice/deep/chain",
		"alice/root" + root + "/bob/b.txt", "alice/proc" + root + "/bob/b.txt", "/proc/self/root" + root + "/bob/b.txt", "/proc/thread-self/root" + root + "/bob/b.txt",
		"/proc/self/cwd/../bob/b.txt", "alice/cwd/bob/b.txt", "alice/up/bob/b.txt", "alice/dots/../bob/b.txt", "alice/a.txt/../../bob/b.txt", "alice/a.txt/.", "alice/a.txt/",
		"alicetoo/a.txt", "Alice/a.txt", "ALICE/a.txt", "alice /a.txt", "alice./a.txt", "alice/../alicetoo/a.txt", "alice/%2e%2e/../../bob/b.txt", "alice/%2e%2e%2fbob/b.txt",
		"alice/..%2fbob/b.txt", "alice/..%252fbob/b.txt", "%61lice/../bob/b.txt", "alice/..;/bob/b.txt", "alice/\uff0e\uff0e/bob/b.txt", "alice/\u2024\u2024/bob/b.txt",
		"alice/..\u2215bob\u2215b.txt", "alice\\..\\bob\\b.txt", "alice/..\\bob/b.txt", "alice/a\u0308.txt", "\u00c4lice/a.txt", "~/b.txt", "~bob/b.txt", "$HOME/b.txt",
		"file://" + root + "/bob/b.txt", "//" + root + "/bob/b.txt", root + "//bob//b.txt", root + "/../" + filepath.Base(root) + "/bob/b.txt", root + "bob/b.txt",
		"alice/" + strings.Repeat("./", 3000) + "../bob/b.txt", "alice/" + strings.Repeat("deep/../", 600) + "../bob/b.txt", strings.Repeat("../", 500) + root[1:] + "/bob/b.txt",
		"alice/" + strings.Repeat("x", 5000), strings.Repeat("a/", 3000), "", " ", ".", "..", "/", "alice", "bob", "alice/", "bob/", "alice/../", "\t", "bob/b.txt ", " bob/b.txt",
		"alice/\u202e../bob/b.txt", "alice/..\u200b/bob/b.txt", "\ufeffbob/b.txt", "/dev/fd/0", "/dev/stdin", "/etc/passwd", "alice/root/etc/passwd", "CON", "alice/a.txt:stream", "bob/b.txt::$DATA",
	}
	for _, path := range append(tricks, "alice/trailing. /x.txt", "alice/... /t.txt") {
		for _, way := range []string{path, root + "/" + path} {
			got := g.call(t, "read_text_file", map[string]any{"path": way})
			if strings.Contains(got, "Bob's") || strings.Contains(got, "root:") {
				t.Errorf("%.80q: the agent reads %s", way, got)
			}
			if listed := g.call(t, "list_directory", map[string]any{"path": way}); strings.Contains(listed, "[FILE] b.txt") || strings.Contains(listed, "[DIR] bob") {
				t.Errorf("%.80q: the agent sees %s", way, listed)
			}
		}
	}
	for path := range hers {
		for _, way := range []string{path, root + "/" + path} {
			if got := g.call(t, "read_text_file", map[string]any{"path": way}); got != "Alice's" {
				t.Errorf("%q: %s", way, got)
			}
		}
	}
	// A NUL ends a path for some programs: no such message is read at all.
	if got := g.call(t, "read_text_file", map[string]any{"path": "alice/a.txt\x00/../../bob/b.txt"}); !strings.Contains(got, "U+0000") {
		t.Errorf("U+0000: %s", got)
	}
}

// TestLinkThatIsSwapped: a link that leads to her file now and to Bob's then leads nowhere else than where it led when it was judged.
func TestLinkThatIsSwapped(t *testing.T) {
	t.Parallel()
	w := open(t, append(everyone("read_text_file"), "file:alice#reader for alice")...)
	root := folder(t, map[string]string{"alice/a.txt": "Alice's", "bob/a.txt": "Bob's", "alice/link": "-> a.txt"})
	g := guardedFiles(t, w, root)
	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			next := filepath.Join(root, "alice", "next")
			if err := os.Symlink([]string{"../bob/a.txt", "a.txt"}[n%2], next); err != nil {
				t.Error(err)
				return
			}
			if err := os.Rename(next, filepath.Join(root, "alice", "link")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[string]int{}
	for n := 0; n < 300 || n < 3000 && len(seen) < 2; n++ {
		seen[g.call(t, "read_text_file", map[string]any{"path": "alice/link"})]++
	}
	close(done)
	swapping.Wait()
	if len(seen) != 2 || seen["Alice's"] == 0 || seen[notAllowed] == 0 {
		t.Errorf("the agent gets %v; want her own file, or a refusal", seen)
	}
}
