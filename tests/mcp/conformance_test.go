package mcp_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
)

// suite is the command of the conformance suite of MCP, which `make mcp-servers` installs with the Node.js that it needs.
func suite(t *testing.T) []string {
	t.Helper()
	return []string{node(t), installed(t, "@modelcontextprotocol/conformance/dist/index.js")}
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

// summary is the line in which the suite says how a scenario came out.
var summary = regexp.MustCompile(`(?m)^\s*[✓✗] ([a-z0-9-]+): (\d+) passed, (\d+) failed`)

// passes runs the suite against a server, and returns the scenarios in which no check fails, those in which one does, and all that the suite says.
func passes(t *testing.T, command []string, version, at string) (passed, failed []string, out string) {
	t.Helper()
	run := exec.CommandContext(t.Context(), command[0], append(command[1:], "server", "--url", at, "--suite", "all", "--spec-version", version)...)
	run.Dir = t.TempDir()
	text, _ := run.CombinedOutput() // it fails where one of the scenarios does
	for _, line := range summary.FindAllStringSubmatch(string(text), -1) {
		if line[3] == "0" {
			passed = append(passed, line[1])
		} else {
			failed = append(failed, line[1])
		}
	}
	return passed, failed, string(text)
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
			direct, _, out := passes(t, command, version, server)
			if len(direct) < 25 {
				t.Fatalf("%d scenarios pass in front of the server, so that the suite says nothing:\n%s", len(direct), out)
			}
			through, failed, out := passes(t, command, version, transparent(t, server))
			t.Logf("%d scenarios pass in front of the server, and %d in front of the guard, where %v fail", len(direct), len(through), failed)
			for _, name := range direct {
				if !slices.Contains(through, name) {
					t.Errorf("%s fails in front of the guard:\n%s", name, out)
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
