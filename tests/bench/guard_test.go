package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"

	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/tests/harness"
)

// guardedTools is how many tools the server of TestGuard has.
const guardedTools = 200

// TestGuard measures calls of an MCP server over HTTP through the guard beside the same calls without it, and beside the decision that the guard has
// Deputy make for each. The guard verifies a token that it has verified before, and Deputy is asked over gRPC.
func TestGuard(t *testing.T) {
	d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: t.TempDir()}))
	runs := d.settle(t, sized(scaled(87_300, 5_000)))
	run := runs[0]
	draw := cold(runs[:1])
	server := httptest.NewServer(http.HandlerFunc(serveTools))
	defer server.Close()
	issuer := harness.NewIssuer(t)
	through := guardURL(t, server.URL, issuer, d, run)
	raw := issuer.ActorToken(t, run.agent, run.user)

	call := func(at string) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			name := fmt.Sprintf("tool-%d", r.IntN(guardedTools))
			text, err := post(ctx, at, raw, "tools/call", name, `"name":"`+name+`","arguments":{"document":"`+draw(r).document+`"}`)
			return err == nil && !strings.Contains(text, "Refused"), err
		}
	}
	list := func(at string) asking {
		return func(ctx context.Context, _ *rand.Rand) (bool, error) {
			text, err := post(ctx, at, raw, "tools/list", "", "")
			if n := strings.Count(text, `"inputSchema"`); err == nil && n != guardedTools {
				err = fmt.Errorf("%d tools: %.300s", n, text)
			}
			return true, err
		}
	}
	decision := func(ctx context.Context, r *rand.Rand) (bool, error) {
		r.IntN(guardedTools)
		answer, err := d.decisions.CheckPermission(ctx, draw(r).request())
		return answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, err
	}
	for i := range 60 { // the guard refuses what Deputy does
		asked := func(one asking) bool {
			yes, err := one(t.Context(), rand.New(rand.NewPCG(0, uint64(i))))
			if err != nil {
				t.Fatal(err)
			}
			return yes
		}
		if asked(call(through)) != asked(decision) {
			t.Fatalf("question %d: the guard and Deputy disagree", i)
		}
	}
	direct, guarded, decided := contender{name: "direct", ask: call(server.URL)}, contender{name: "through the guard", ask: call(through)},
		contender{name: "a decision over gRPC", ask: decision}
	r := contest(t, "tools/call", 1, scaled(11, 1), []contender{direct, guarded, decided})
	times := make([]float64, len(r[guarded.name]))
	for i := range times {
		times[i] = (r[guarded.name][i].p50 - r[direct.name][i].p50) / r[decided.name][i].p50
	}
	atMost(t, "tools/call, what the guard adds / a decision over gRPC, time of a call, 1 worker", median(times), "", 3)
	all := []contender{{name: "direct", ask: list(server.URL)}, {name: "through the guard", ask: list(through)}}
	r = contest(t, fmt.Sprintf("tools/list of %d tools", guardedTools), 1, scaled(11, 1), all)
	atMost(t, "tools/list, through the guard / direct, time of a call, 1 worker", r.slower(all[1].name, all[0].name), "", 2)
}

// tools are the definitions of the server's tools.
func tools() string {
	all := make([]string, guardedTools)
	for i := range all {
		all[i] = fmt.Sprintf(`{"name":"tool-%d","description":"Reads a document, and says what is in it, in one of the ways that there are.",`+
			`"inputSchema":{"type":"object","properties":{"document":{"type":"string","description":"The document."}},"required":["document"]}}`, i)
	}
	return `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[` + strings.Join(all, ",") + `]}`
}

// serveTools is an MCP server of the wire 2026-07-28 that does next to nothing.
func serveTools(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ID     json.RawMessage
		Method string
	}
	_ = json.NewDecoder(r.Body).Decode(&m)
	result := `{"resultType":"complete","content":[{"type":"text","text":"read"}]}`
	if m.Method == "tools/list" {
		result = tools()
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":`+result+`}`)
}

// post sends a request of the wire 2026-07-28.
func post(ctx context.Context, at, raw, method, name, params string) (string, error) {
	if params != "" {
		params = "," + params
	}
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
		`"io.modelcontextprotocol/clientCapabilities":{}}` + params + `}}`
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + raw},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {method},
	}
	if name != "" {
		request.Header.Set("Mcp-Name", name)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the status %d: %.300s", response.StatusCode, text)
	}
	return string(text), err
}

// guardURL starts a guard in front of a server, which asks about a run's session, and returns where it is.
func guardURL(t *testing.T, upstream string, issuer *harness.Issuer, d deputy, run agentRun) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var file strings.Builder
	first := firstViewed(t, d, run)
	file.WriteString("version: 1\nserver: bench\ntools:\n")
	for i := range guardedTools {
		// A tool is there for an agent that may view the first document. That of a call is a question of its own.
		fmt.Fprintf(&file, "  tool-%d: {checks: [{permission: view, type: document, object: %s}, {permission: view, type: document, id: document}]}\n", i, first)
	}
	m, err := mapping.Decode("guard.yaml", []byte(file.String()))
	must(err)
	listed, err := jsonrpc.ParseValue([]byte(tools()), jsonrpc.FromServer())
	must(err)
	pins, err := mcp.PinsOf("bench", mcp.Definitions{Tools: listed.At("tools").Elements()})
	must(err)
	known := issuer.Known(t, t.TempDir())
	keys, err := token.Open(t.Context(), []token.Issuer{known}, token.Options{})
	must(err)
	t.Cleanup(keys.Close)
	verifier, err := actor.New(keys, []actor.Issuer{issuer.Actors(t)})
	must(err)
	up, err := proxy.NewUpstream(upstream, nil)
	must(err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(err)
	at := "http://" + listener.Addr().String() + "/mcp"
	resource, err := url.Parse(at)
	must(err)
	checker := client.New(d.service)
	p, err := proxy.New(proxy.Config{
		Guard: mcp.Config{Map: m, Pins: pins}, Resource: resource, AuthorizationServers: []string{known.Issuer}, Upstream: up,
		Verify: func(ctx context.Context, raw string) (proxy.Caller, error) {
			is, err := verifier.Verify(ctx, raw, nil)
			if err != nil {
				return proxy.Caller{}, err
			}
			return proxy.Caller{Issuer: known.Issuer, Agent: is.AgentName, Principal: "user:" + is.PrincipalName, Ends: is.Ends}, nil
		},
		Ask: func(proxy.Caller) mcp.Asker {
			return mcp.AskerOf(checker, client.Question{Agent: run.agent, Session: run.session})
		},
	})
	must(err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		must(<-served)
	})
	return at
}

// firstViewed is a document that a run's session may view.
func firstViewed(t *testing.T, d deputy, run agentRun) string {
	t.Helper()
	for i := range documentsPerTenant {
		q := question{run, document(run.number, i)}
		answer, err := d.decisions.CheckPermission(t.Context(), q.request())
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			return q.document
		}
	}
	t.Fatal("the run may view no document")
	return ""
}
