package mcp_test

import (
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/door/mcp"
)

// TestRefusalsInTheLog: the guard's log says of each refusal the method, the tool, what refused it, and the id by which the journal has the decision; and
// nothing of the arguments.
func TestRefusalsInTheLog(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	w := openAt(t, dir, append(everyone("read", "summary"), "file:a.txt#reader for alice", "file:b.txt#reader for bob")...)
	core, lines := observer.New(zap.DebugLevel)
	g := through(t, files(), mcp.Config{Map: decode(t, filesMap), Pins: pinned(t, files()), Ask: mcp.AskerOf(w.admin, w.alice), Log: zap.New(core)}, newClient(nil), nil)
	call := func(tool string, arguments map[string]any) func() {
		return func() { g.call(t, tool, arguments) }
	}
	for name, test := range map[string]struct {
		do               func()
		method, tool, by string
		decided          bool
	}{
		"an object":      {call("read", map[string]any{"path": "b.txt"}), "tools/call", "read", "object", true},
		"a tool":         {call("write", map[string]any{"path": "b.txt"}), "tools/call", "write", "object", true},
		"no mapping":     {call("secret", map[string]any{"path": "b.txt"}), "tools/call", "secret", "unmapped", false},
		"an argument":    {call("read", map[string]any{"path": "a.txt", "other": "b.txt"}), "tools/call", "read", "arguments", false},
		"a control mark": {call("x\n2026 INFO all is well", nil), "tools/call", "x\ufffd2026 INFO all is well", "unmapped", false},
		"a prompt": {func() {
			_, _ = g.session.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: "summary", Arguments: map[string]string{"path": "b.txt"}})
		}, "prompts/get", "summary", "object", true},
		"a resource": {func() {
			_, _ = g.session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "file:///b.txt"})
		}, "resources/read", "", "object", true},
	} {
		lines.TakeAll()
		test.do()
		found := lines.FilterMessage("refused a request of the agent").All()
		if len(found) != 1 {
			t.Fatalf("%s: the log has %v", name, lines.All())
		}
		of := found[0].ContextMap()
		text := func(key string) string { s, _ := of[key].(string); return s }
		if text("method") != test.method || text("name") != test.tool || text("refused_by") != test.by || (text("decision") != "") != test.decided {
			t.Errorf("%s: the log has %v", name, of)
		}
		if test.decided {
			var out strings.Builder
			code, errs := deputy(t.Context(), strings.NewReader(""), &out, nil, "journal", "show", text("decision"), "--dir", dir, "--key-dir", dir+".keys")
			if code != cli.ExitOK || !strings.Contains(out.String(), "NO_PERMISSION") {
				t.Errorf("%s: the journal has %s of the decision: %s", name, out.String(), errs)
			}
		}
		for _, line := range lines.All() {
			for key, value := range line.ContextMap() {
				if s, ok := value.(string); ok && strings.Contains(s, "b.txt") {
					t.Errorf("%s: the log has an argument: %s=%s", name, key, s)
				}
			}
		}
	}
}
