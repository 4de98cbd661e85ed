package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestHTTPCalls: over HTTP, on both wires, the agent's token says for whom it acts, and a call reaches the server where that one allows it. The
// server gets the guard's own credential, and nothing of the agent's headers.
func TestHTTPCalls(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read", "read_many", "search"), "file:a.txt#reader for alice", "file:b.txt#reader for bob", "file:c.txt#writer for alice",
		"mcp_tool:files/write#caller for alice", "mcp_tool:files/secret#caller for alice")...)
	pins := pinned(t, files())
	for _, version := range versions {
		s := w.proxied(t, handler(version, files()), pins, nil)
		alice, bob := s.connect(t, "alice", version, newClient(nil)), s.connect(t, "bob", version, newClient(nil))
		if got := alice.session.InitializeResult(); got.ProtocolVersion != version {
			t.Errorf("the wire is %s, want %s", got.ProtocolVersion, version)
		}
		if got := alice.tools(t) + ", " + bob.tools(t); got != "read read_many search write, read read_many search" {
			t.Errorf("%s: the agent sees %s", version, got)
		}
		for _, test := range []struct {
			as        *guarded
			tool      string
			arguments map[string]any
			want      string
		}{
			{alice, "read", map[string]any{"path": "a.txt", "note": "x"}, "read a.txt"},
			{bob, "read", map[string]any{"path": "a.txt"}, notAllowed},
			{bob, "read", map[string]any{"path": "b.txt"}, "read b.txt"},
			{alice, "read", map[string]any{"path": "b.txt"}, notAllowed},
			{alice, "read_many", map[string]any{"paths": []string{"a.txt", "c.txt"}}, "read a.txt c.txt"},
			{alice, "read_many", map[string]any{"paths": []string{"a.txt", "b.txt"}}, notAllowed},
			{alice, "search", map[string]any{"word": "x"}, "a.txt"},
			{bob, "search", map[string]any{"word": "x"}, "b.txt"},
			{alice, "write", map[string]any{"path": "c.txt"}, "write c.txt"},
			{bob, "write", map[string]any{"path": "c.txt"}, noTool},
			{alice, "secret", map[string]any{"path": "a.txt"}, noTool},
		} {
			before := s.wire.count("tools/call")
			got := test.as.call(t, test.tool, test.arguments)
			reached := s.wire.count("tools/call") - before
			if allowed := !strings.HasPrefix(test.want, "isError"); got != test.want || (reached == 1) != allowed {
				t.Errorf("%s: %s %v: %s, and the server got %d calls; want %s", version, test.tool, test.arguments, got, reached, test.want)
			}
		}
		if _, err := alice.session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "file:///a.txt"}); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := bob.session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "file:///a.txt"}); err == nil || !strings.Contains(err.Error(), "no such resource") {
			t.Errorf("%s: %v", version, err)
		}
		s.mu.Lock()
		for _, header := range s.heads {
			if got := header.Get("Authorization"); got != "Bearer "+secret || header.Get("Cookie") != "" {
				t.Errorf("%s: the server got the headers %v", version, header)
			}
		}
		s.mu.Unlock()
		// A right that is taken away is gone with the next call.
		w.update(t, authzed.RelationshipUpdate_OPERATION_DELETE, "file:c.txt#writer@user:alice")
		if got := alice.call(t, "write", map[string]any{"path": "c.txt"}); got != notAllowed {
			t.Errorf("%s: %s", version, got)
		}
		w.write(t, "file:c.txt#writer@user:alice")
	}
}

// TestHTTPTokens: a request without a token for this guard gets no further, and says where there is one.
func TestHTTPTokens(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read"), "file:a.txt#reader for alice")...)
	s := w.proxied(t, handler("2025-11-25", files()), pinned(t, files()), nil)
	good := w.token(t, "alice", nil)
	for name, raw := range map[string]string{
		"no token":                      "",
		"not one":                       "alice",
		"for another audience":          w.token(t, "alice", map[string]any{"aud": "https://other.example.com"}),
		"for the server behind":         w.token(t, "alice", map[string]any{"aud": "https://mcp.example.com"}),
		"ended":                         w.token(t, "alice", map[string]any{"exp": time.Now().Add(-time.Second).Unix()}),
		"of another issuer":             w.token(t, "alice", map[string]any{"iss": "https://evil.example"}),
		"of nobody who acts":            w.token(t, "alice", map[string]any{"act": nil}),
		"signed by somebody":            tokenFor(t, harness.NewIssuer(t), "alice", nil),
		"changed":                       good[:len(good)-4] + "AAAA",
		"without a signature":           good[:strings.LastIndex(good, ".")+1],
		"with something else behind it": good + " " + good,
	} {
		got := s.send(t, http.MethodPost, raw, initialize)
		where := got.header.Get("WWW-Authenticate")
		if got.status != http.StatusUnauthorized || !strings.Contains(where, `resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/files"`) {
			t.Errorf("%s: %+v", name, got)
		}
		if raw != "" && strings.Contains(got.text, raw) {
			t.Errorf("%s: the answer shows the token", name)
		}
	}
	for _, path := range []string{"/.well-known/oauth-protected-resource/files", "/.well-known/oauth-protected-resource"} {
		got := s.send(t, http.MethodGet, "", "", "Path: "+path, "Authorization: ")
		var is struct {
			Resource string
			Servers  []string `json:"authorization_servers"`
		}
		if err := json.Unmarshal([]byte(got.text), &is); err != nil || is.Resource != resource || len(is.Servers) != 1 || is.Servers[0] != w.name {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	if n := s.got(); n != 0 {
		t.Errorf("the server got %d requests", n)
	}
	// With a token that ends, the session cannot be used any more, to the second.
	ends := time.Now().Add(6 * time.Second).Truncate(time.Second)
	brief := w.token(t, "alice", map[string]any{"exp": ends.Unix()})
	id := s.begin(t, brief)
	call := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{"path":"a.txt"}}}`
	if got := s.send(t, http.MethodPost, brief, call, "Mcp-Session-Id: "+id); got.status != http.StatusOK || !strings.Contains(got.text, "read a.txt") {
		t.Errorf("%+v", got)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Authorization": {"Bearer " + brief}, "Accept": {"text/event-stream"}, "Mcp-Session-Id": {id}}
	stream, err := http.DefaultTransport.RoundTrip(request)
	if err != nil || stream.StatusCode != http.StatusOK {
		t.Fatal(stream, err)
	}
	_, _ = io.Copy(io.Discard, stream.Body) // until it ends
	_ = stream.Body.Close()
	if late := time.Since(ends); late < 0 || late > 5*time.Second {
		t.Errorf("the stream ends %s after the token", late)
	}
	before := s.got()
	if got := s.send(t, http.MethodPost, brief, call, "Mcp-Session-Id: "+id); got.status != http.StatusUnauthorized || s.got() != before {
		t.Errorf("%+v, and the server got %d requests", got, s.got()-before)
	}
	// The session goes on with another token of the same agent for the same person.
	if got := s.send(t, http.MethodPost, good, call, "Mcp-Session-Id: "+id); got.status != http.StatusOK || !strings.Contains(got.text, "read a.txt") {
		t.Errorf("%+v", got)
	}
}

// TestHTTPScopes: a token needs every scope that the guard asks for. One that lacks a scope is refused before its message is read, and agents are told which
// scopes there are.
func TestHTTPScopes(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read"), "file:a.txt#reader for alice")...)
	s := w.proxied(t, handler("2025-11-25", files()), pinned(t, files()), func(c *proxy.Config) { c.Scopes = []string{"mcp:files", "read"} })
	const metadata = `resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/files"`
	const needed = `scope="mcp:files read"`
	for name, test := range map[string]struct {
		claims map[string]any
		status int
	}{
		"both, as a text":         {map[string]any{"scope": "openid read mcp:files"}, http.StatusOK},
		"both, as an array":       {map[string]any{"scope": []string{"mcp:files", "read"}}, http.StatusOK},
		"both, in scp":            {map[string]any{"scp": []string{"mcp:files", "read"}}, http.StatusOK},
		"one in each":             {map[string]any{"scp": "read", "scope": "mcp:files"}, http.StatusOK},
		"none":                    {nil, http.StatusForbidden},
		"one of them":             {map[string]any{"scope": "mcp:files"}, http.StatusForbidden},
		"others that begin so":    {map[string]any{"scope": "mcp:files:all reader"}, http.StatusForbidden},
		"in another case":         {map[string]any{"scope": "mcp:files Read"}, http.StatusForbidden},
		"with a tab between them": {map[string]any{"scope": "mcp:files\tread"}, http.StatusForbidden},
		"one text of both":        {map[string]any{"scope": []string{"mcp:files read"}}, http.StatusForbidden},
		"no scopes at all":        {map[string]any{"scope": map[string]any{"mcp:files": true, "read": true}}, http.StatusForbidden},
		"both, and it has ended":  {map[string]any{"scope": "mcp:files read", "exp": time.Now().Add(-time.Minute).Unix()}, http.StatusUnauthorized},
		"none, and it has ended":  {map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, http.StatusUnauthorized},
	} {
		before := s.got()
		got := s.send(t, http.MethodPost, w.token(t, "alice", test.claims), initialize)
		challenge := got.header.Get("WWW-Authenticate")
		if got.status != test.status || (s.got() > before) != (got.status == http.StatusOK) {
			t.Errorf("%s: %+v, want the status %d", name, got, test.status)
		}
		if test.status == http.StatusOK {
			continue
		}
		wants(t, challenge, "Bearer ", metadata, needed)
		if lacks := strings.Contains(challenge, `error="insufficient_scope"`); lacks != (test.status == http.StatusForbidden) {
			t.Errorf("%s: the challenge is %s", name, challenge)
		}
	}
	wants(t, s.send(t, http.MethodPost, "", initialize, "Authorization: ").header.Get("WWW-Authenticate"), metadata, needed, "!error")
	wants(t, s.send(t, http.MethodGet, "", "", "Path: /.well-known/oauth-protected-resource/files", "Authorization: ").text, `"scopes_supported":["mcp:files","read"]`)

	// A session that a token began that has them is not gone on with by one that does not.
	good, poor := w.token(t, "alice", map[string]any{"scope": "mcp:files read"}), w.token(t, "alice", map[string]any{"scope": "read"})
	id := s.begin(t, good)
	call := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{"path":"a.txt"}}}`
	if got := s.send(t, http.MethodPost, poor, call, "Mcp-Session-Id: "+id); got.status != http.StatusForbidden {
		t.Errorf("%+v", got)
	}
	if got := s.send(t, http.MethodPost, good, call, "Mcp-Session-Id: "+id); got.status != http.StatusOK || !strings.Contains(got.text, "read a.txt") {
		t.Errorf("%+v", got)
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if got := s.send(t, method, poor, "", "Mcp-Session-Id: "+id); got.status != http.StatusForbidden {
			t.Errorf("%s: %+v", method, got)
		}
	}
	// Without scopes to ask for none is supported, and none is needed.
	free := w.proxied(t, handler("2025-11-25", files()), pinned(t, files()), nil)
	free.begin(t, poor)
	wants(t, free.send(t, http.MethodGet, "", "", "Path: /.well-known/oauth-protected-resource", "Authorization: ").text, "!scopes_supported")
}

// TestHTTPSessions: a session is there for the agent and the person alone who began it.
func TestHTTPSessions(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read"), "file:a.txt#reader for alice", "file:a.txt#reader for bob")...)
	s := w.proxied(t, handler("2025-11-25", files()), pinned(t, files()), nil)
	alice, bob := w.token(t, "alice", nil), w.token(t, "bob", nil)
	other := w.token(t, "alice", map[string]any{"act": map[string]any{"sub": "other-bot"}})
	elsewhere := w.token(t, "alice", map[string]any{"org_id": "globex"})
	id := s.begin(t, alice)
	call := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{"path":"a.txt"}}}`
	session := "Mcp-Session-Id: " + id
	before := s.got()
	unknown := s.send(t, http.MethodPost, bob, call, "Mcp-Session-Id: ABCDEF").text
	for name, raw := range map[string]string{"Bob": bob, "another agent": other, "another tenant": elsewhere} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			body := ""
			if method == http.MethodPost {
				body = call
			}
			if got := s.send(t, method, raw, body, session); got.status != http.StatusNotFound || method == http.MethodPost && got.text != unknown {
				t.Errorf("%s of %s: %+v; want what is said of a session that there is not: %s", method, name, got, unknown)
			}
		}
	}
	for _, test := range []struct {
		body    string
		headers []string
		want    int
	}{
		{call, nil, http.StatusBadRequest},                                                             // without a session
		{initialize, []string{session}, http.StatusBadRequest},                                         // a second time
		{call, []string{session, "Mcp-Protocol-Version: 2024-01-01"}, http.StatusBadRequest},           // an unknown version
		{call, []string{session, "Mcp-Protocol-Version: 2026-07-28"}, http.StatusBadRequest},           // the other wire
		{`{"jsonrpc":"2.0","id":9,"result":{}}`, []string{session + "X"}, http.StatusNotFound},         // an answer elsewhere
		{`{"jsonrpc":"2.0","id":9,"result":{}}`, []string{session}, http.StatusAccepted},               // an answer to nothing
		{`{"jsonrpc":"2.0","method":"notifications/x"}`, []string{session}, http.StatusAccepted},       // a notification that there is not
		{`{"jsonrpc":"2.0","id":2,"method":"subscriptions/listen"}`, []string{session}, http.StatusOK}, // a method of the other wire
	} {
		if got := s.send(t, http.MethodPost, alice, test.body, test.headers...); got.status != test.want {
			t.Errorf("%s %v: %+v, want %d", test.body, test.headers, got, test.want)
		}
	}
	if n := s.got() - before; n != 0 {
		t.Errorf("the server got %d requests", n)
	}
	s.mu.Lock()
	for _, header := range s.heads {
		if header.Get("Mcp-Session-Id") == id {
			t.Error("the server sees the guard's session")
		}
	}
	s.mu.Unlock()
	if got := s.send(t, http.MethodPost, alice, call, session); got.status != http.StatusOK || !strings.Contains(got.text, "read a.txt") {
		t.Errorf("%+v", got)
	}
	if got := s.send(t, http.MethodDelete, alice, "", session); got.status != http.StatusNoContent {
		t.Errorf("%+v", got)
	}
	if got := s.send(t, http.MethodPost, alice, call, session); got.status != http.StatusNotFound {
		t.Errorf("%+v", got)
	}
}

// TestHTTPGates: each gate in front of a message answers for itself, and the server hears nothing.
func TestHTTPGates(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read"), "file:a.txt#reader for alice")...)
	s := w.proxied(t, handler("2026-07-28", files()), pinned(t, files()), func(c *proxy.Config) { c.Origins = []string{"https://chat.example.com"} })
	alice := w.token(t, "alice", nil)
	body, headers := newCall("tools/call", `"name":"secret","arguments":{"path":"a.txt"}`)
	named := append(slices.Clone(headers), "Mcp-Name: secret")
	with := func(more ...string) []string { return append(append([]string{}, named...), more...) }
	for name, test := range map[string]struct {
		method, body string
		headers      []string
		status       int
		says         string
	}{
		"a foreign page":           {"POST", body, with("Origin: https://evil.example"), 403, "Origin"},
		"no page":                  {"POST", body, with("Origin: null"), 403, "Origin"},
		"a name that leads here":   {"POST", body, with("Host: evil.example"), 403, "Host"},
		"another path":             {"POST", body, with("Path: /files/x"), 404, "nothing at this path"},
		"another method":           {"PUT", body, named, 405, "POST"},
		"a form":                   {"POST", body, with("Content-Type: application/x-www-form-urlencoded"), 415, "Content-Type"},
		"another character set":    {"POST", body, with("Content-Type: application/json; charset=utf-16"), 415, "UTF-8"},
		"packed":                   {"POST", body, with("Content-Encoding: gzip"), 415, "Content-Encoding"},
		"no streams":               {"POST", body, with("Accept: application/json"), 406, "text/event-stream"},
		"no JSON":                  {"POST", body, with("Accept: text/event-stream"), 406, "application/json"},
		"no message":               {"POST", "", named, 400, "valid JSON"},
		"a batch":                  {"POST", "[" + body + "]", named, 400, "batch"},
		"a name twice":             {"POST", strings.Replace(body, `"name"`, `"name":"read","name"`, 1), named, 400, "twice"},
		"a name in another case":   {"POST", strings.Replace(body, `"name"`, `"Name":"read","name"`, 1), named, 400, "take for the same"},
		"something behind it":      {"POST", body + body, named, 400, "something follows"},
		"too deep":                 {"POST", strings.Replace(body, `"a.txt"`, strings.Repeat("[", 99)+strings.Repeat("]", 99), 1), named, 400, "deep"},
		"too long":                 {"POST", strings.Replace(body, "a.txt", strings.Repeat("a", 4<<20), 1), named, 413, "bytes"},
		"no version":               {"POST", body, with("Mcp-Protocol-Version: "), 400, "-32020"},
		"another version":          {"POST", body, with("Mcp-Protocol-Version: 2025-11-25"), 400, "-32020"},
		"an unknown version":       {"POST", body, with("Mcp-Protocol-Version: 2027-01-01"), 400, "-32022"},
		"no version in the body":   {"POST", strings.Replace(body, "protocolVersion", "version", 1), named, 400, "-32602"},
		"no method":                {"POST", body, with("Mcp-Method: "), 400, "-32020"},
		"another method, there":    {"POST", body, with("Mcp-Method: tools/list"), 400, "-32020"},
		"no name":                  {"POST", body, headers, 400, "-32020"},
		"another name":             {"POST", body, with("Mcp-Name: read"), 400, "-32020"},
		"another name, encoded":    {"POST", body, with("Mcp-Name: =?base64?cmVhZA==?="), 400, "-32020"},
		"a name wrongly encoded":   {"POST", body, with("Mcp-Name: =?base64?!?="), 400, "-32020"},
		"an answer":                {"POST", `{"jsonrpc":"2.0","id":1,"result":{}}`, with(), 400, "sends no answers"},
		"a stream of the old wire": {"GET", "", headers, 405, "subscriptions/listen"},
		"a tool that is not seen":  {"POST", body, named, 200, "There is no such tool"},
		"that name, encoded":       {"POST", body, with("Mcp-Name: =?base64?c2VjcmV0?="), 200, "There is no such tool"},
		"from its own page":        {"POST", body, with("Origin: https://mcp.example.com"), 200, "There is no such tool"},
		"from a page that may":     {"POST", body, with("Origin: https://chat.example.com"), 200, "There is no such tool"},
	} {
		if got := s.send(t, test.method, alice, test.body, test.headers...); got.status != test.status || !strings.Contains(got.text, test.says) {
			t.Errorf("%s: %d %.300s; want %d, %s", name, got.status, got.text, test.status, test.says)
		}
	}
	for _, method := range []string{"tasks/list", "x/y", "initialize", "resources/subscribe", "notifications/x"} {
		body, headers := newCall(method, "")
		got := s.send(t, http.MethodPost, alice, body, headers...)
		if got.status != http.StatusNotFound || !strings.Contains(got.text, "-32601") {
			t.Errorf("%s: %+v", method, got)
		}
	}
	if n := s.got(); n != 0 {
		t.Errorf("the server got %d requests", n)
	}
}

// TestHTTPMirrors: arguments that headers mirror have to agree with them, and the server gets headers that the guard made of the arguments.
func TestHTTPMirrors(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("read"), "file:ä.txt#reader for alice", "file:a.txt#reader for alice")...)
	build := func() *sdk.Server {
		server := sdk.NewServer(&sdk.Implementation{Name: "files", Version: "1"}, nil)
		schema := json.RawMessage(`{"type":"object","properties":{"path":{"type":"string","x-mcp-header":"Path"}}}`)
		server.AddTool(&sdk.Tool{Name: "read", InputSchema: schema}, func(_ context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "read " + string(r.Params.Arguments) + " " + r.Extra.Header.Get("Mcp-Param-Path")}}}, nil
		})
		return server
	}
	s := w.proxied(t, handler("2026-07-28", build()), pinned(t, build()), nil)
	alice := w.token(t, "alice", nil)
	for _, test := range []struct {
		path, header, says string
		status             int
	}{
		{"a.txt", "a.txt", `a.txt\"} a.txt`, 200},
		{"ä.txt", "=?base64?w6QudHh0?=", `=?base64?w6QudHh0?=`, 200},
		{"a.txt", "b.txt", "-32020", 400},
		{"a.txt", "", "-32020", 400},
		{"b.txt", "a.txt", "The agent may not do this", 200},
	} {
		body, headers := newCall("tools/call", `"name":"read","arguments":{"path":"`+test.path+`"}`)
		before := s.wire.count("tools/call")
		got := s.send(t, http.MethodPost, alice, body, append(headers, "Mcp-Name: read", "Mcp-Param-Path: "+test.header)...)
		reached := s.wire.count("tools/call") - before
		if got.status != test.status || !strings.Contains(got.text, test.says) || (reached == 1) != strings.Contains(got.text, "read {") {
			t.Errorf("%s with the header %q: %+v, and the server got %d calls; want %d, %s", test.path, test.header, got, reached, test.status, test.says)
		}
	}
	// A client that follows the definition gets through.
	c := s.connect(t, "alice", "2026-07-28", newClient(nil))
	c.tools(t)
	if got := c.call(t, "read", map[string]any{"path": "a.txt"}); got != `read {"path":"a.txt"} a.txt` {
		t.Error(got)
	}
}

// TestHTTPCancellation: progress and cancellation pass, whichever way a wire has for them, and a server that is slow is told to stop.
func TestHTTPCancellation(t *testing.T) {
	t.Parallel()
	w := openWeb(t, everyone("wait")...)
	for _, version := range versions {
		begun, canceled, progress := make(chan struct{}, 4), make(chan struct{}, 4), make(chan struct{}, 4)
		pins := pinned(t, waiting(begun, canceled))
		s := w.proxied(t, handler(version, waiting(begun, canceled)), pins, nil)
		c := newClient(&sdk.ClientOptions{ProgressNotificationHandler: func(context.Context, *sdk.ProgressNotificationClientRequest) { progress <- struct{}{} }})
		g := s.connect(t, "alice", version, c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			params := &sdk.CallToolParams{Name: "wait"}
			params.SetProgressToken("p")
			_, err := g.session.CallTool(ctx, params)
			ended <- err
		}()
		<-begun
		<-progress
		cancel()
		<-canceled
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", version, err)
		}
		slow := w.proxied(t, handler(version, waiting(begun, canceled)), pins, func(c *proxy.Config) { c.Guard.Timeout = 300 * time.Millisecond })
		if got := slow.connect(t, "alice", version, c).call(t, "wait", nil); !strings.Contains(got, "The server did not answer in time.") {
			t.Errorf("%s: %s", version, got)
		}
		<-begun
		<-canceled
	}
}

// TestHTTPServerSpeaks: what the server asks and tells reaches the agent in the course of its request, and on the stream that each wire has for it.
func TestHTTPServerSpeaks(t *testing.T) {
	t.Parallel()
	w := openWeb(t, append(everyone("ask", "read"), "file:a.txt#reader for alice")...)
	build := func() *sdk.Server {
		server := files()
		sdk.AddTool(server, &sdk.Tool{Name: "ask"}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			answer, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "your name?", RequestedSchema: map[string]any{"type": "object"}})
			if err != nil {
				return nil, nil, err
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "answer: " + answer.Action}}}, nil, nil
		})
		return server
	}
	pins := pinned(t, build())
	for _, version := range versions {
		server := build()
		s := w.proxied(t, handler(version, server), pins, func(c *proxy.Config) { c.Guard.Map = decode(t, filesMap+"allow: [elicitation]") })
		changed := make(chan struct{}, 16)
		g := s.connect(t, "alice", version, newClient(&sdk.ClientOptions{
			ElicitationHandler: func(context.Context, *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
				return &sdk.ElicitResult{Action: "accept", Content: map[string]any{}}, nil
			},
			ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { changed <- struct{}{} },
		}))
		if version == "2025-11-25" {
			if got := g.call(t, "ask", nil); got != "answer: accept" {
				t.Errorf("%s: %s", version, got)
			}
		}
		if got := g.call(t, "read", map[string]any{"path": "a.txt"}); got != "read a.txt" {
			t.Errorf("%s: %s", version, got)
		}
		// The stream is open once a change is told; until then more changes are made.
		for told, n := false, 0; !told; n++ {
			sdk.AddTool(server, &sdk.Tool{Name: fmt.Sprint("more", n)}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
				return &sdk.CallToolResult{}, nil, nil
			})
			select {
			case <-changed:
				told = true
			case <-time.After(200 * time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("no change is told")
			}
			if n > 100 {
				t.Fatal("no change is told")
			}
		}
		if got := g.call(t, "read", map[string]any{"path": "a.txt"}); !strings.Contains(got, "not those that were approved") {
			t.Errorf("%s: %s", version, got)
		}
	}
}

// yes allows everything.
func yes(proxy.Caller) mcp.Asker { return allowing{} }

// allowing allows everything, and records nothing.
type allowing struct{}

// Ask implements mcp.Asker.
func (allowing) Ask(_ context.Context, _ mcp.Call, asks []mapping.Ask) ([]mcp.Answer, error) {
	return slices.Repeat([]mcp.Answer{{Allowed: true}}, len(asks)), nil
}

// Refused implements mcp.Asker.
func (allowing) Refused(context.Context, mcp.Call, mcp.Refusal) error { return nil }

// TestHTTPServerLies: whatever a server does, a call comes to an answer in time, and nothing of another call's or of another place.
func TestHTTPServerLies(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	defer elsewhere.Close()
	stream := func(w http.ResponseWriter, text string) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
	reply := func(w http.ResponseWriter, kind string, status int, text string) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	const result = `{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"the answer"}]}}`
	for name, test := range map[string]struct {
		does func(w http.ResponseWriter, r *http.Request, id string)
		want string
	}{
		"JSON": {func(w http.ResponseWriter, _ *http.Request, id string) {
			reply(w, "application/json", 200, strings.ReplaceAll(result, "ID", id))
		}, "the answer"},
		"a stream": {func(w http.ResponseWriter, _ *http.Request, id string) {
			stream(w, ": hi\n\nid: 1\r\nevent: message\r\ndata: "+strings.ReplaceAll(result, "ID", id)+"\r\n\r\n")
		}, "the answer"},
		"in two lines": {func(w http.ResponseWriter, _ *http.Request, id string) {
			stream(w, "data: "+strings.Replace(strings.ReplaceAll(result, "ID", id), ",", ",\ndata: ", 1)+"\n\n")
		}, "the answer"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request, _ string) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "sends the request elsewhere"},
		"a page": {func(w http.ResponseWriter, _ *http.Request, id string) {
			reply(w, "text/html", 200, strings.ReplaceAll(result, "ID", id))
		}, "neither application/json"},
		"no JSON": {func(w http.ResponseWriter, _ *http.Request, _ string) { reply(w, "application/json", 200, "<html>") }, "none to the request"},
		"another id": {func(w http.ResponseWriter, _ *http.Request, _ string) {
			reply(w, "application/json", 200, strings.ReplaceAll(result, "ID", "99"))
		}, "none to the request"},
		"another id, stream": {func(w http.ResponseWriter, _ *http.Request, _ string) {
			stream(w, "data: "+strings.ReplaceAll(result, "ID", "99")+"\n\n")
		}, "before its end"},
		"nothing": {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusAccepted) }, "HTTP status 202"},
		"an error": {func(w http.ResponseWriter, _ *http.Request, _ string) {
			reply(w, "text/plain", 500, "at line 7 of secret.go")
		}, "HTTP status 500"},
		"a refusal": {
			func(w http.ResponseWriter, _ *http.Request, _ string) {
				reply(w, "application/json", 400, `{"jsonrpc":"2.0","id":null,"error":{"code":-5,"message":"no"}}`)
			},
			`{"code":-5,"message":"no"}`,
		},
		"the guard's credential": {func(w http.ResponseWriter, _ *http.Request, _ string) { reply(w, "text/plain", 401, "") }, "HTTP status 401"},
		"an endless stream": {
			func(w http.ResponseWriter, r *http.Request, _ string) {
				for r.Context().Err() == nil {
					stream(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n")
				}
			}, "did not answer in time",
		},
		"silence": {func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }, "did not answer in time"},
		"an endless line": {
			func(w http.ResponseWriter, r *http.Request, _ string) {
				for r.Context().Err() == nil {
					stream(w, strings.Repeat("x", 1<<20))
				}
			}, "bytes",
		},
		"an end in the middle": {func(w http.ResponseWriter, _ *http.Request, _ string) {
			stream(w, "data: {")
			panic(http.ErrAbortHandler)
		}, "before its end"},
		"no answer at all": {func(http.ResponseWriter, *http.Request, string) { panic(http.ErrAbortHandler) }, "cannot be reached"},
		"an interrupted stream": {
			func(w http.ResponseWriter, r *http.Request, id string) {
				if r.Method == http.MethodGet && r.Header.Get("Last-Event-ID") == "7" {
					stream(w, "data: "+strings.ReplaceAll(result, "ID", id)+"\n\n")
					return
				}
				stream(w, "id: 7\nretry: 10\ndata:\n\n")
			}, "the answer",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			last := ""
			lying := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var m struct {
					ID     json.Number
					Method string
				}
				_ = json.NewDecoder(r.Body).Decode(&m)
				if m.ID != "" {
					last = m.ID.String()
				}
				answer := func(text string) {
					reply(w, "application/json", 200, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":`+text+`}`)
				}
				switch m.Method {
				case "initialize":
					w.Header().Set("Mcp-Session-Id", "the-servers")
					answer(`{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}`)
				case "tools/list":
					answer(`{"tools":[]}`)
				case "tools/call", "":
					test.does(w, r, last)
				default:
					w.WriteHeader(http.StatusAccepted)
				}
			})
			timeout := 20 * time.Second
			if strings.Contains(test.want, "in time") {
				timeout = 300 * time.Millisecond
			}
			s := w.proxied(t, lying, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) { c.Ask, c.Guard.Timeout = yes, timeout })
			alice := w.token(t, "alice", nil)
			id := s.begin(t, alice)
			got := s.send(t, http.MethodPost, alice, `{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}`, "Mcp-Session-Id: "+id)
			if got.status != http.StatusOK || !strings.Contains(got.text, test.want) || !strings.Contains(got.text, `"id":"q"`) || strings.Contains(got.text, "secret.go") {
				t.Errorf("%+v, want %s", got, test.want)
			}
			if got.header.Get("Mcp-Session-Id") == "the-servers" || got.header.Get("Location") != "" {
				t.Errorf("the agent got the headers %v", got.header)
			}
		})
	}
}

// TestHTTPAnotherAnswer: what a server writes into the answer of one request is no answer to another.
func TestHTTPAnotherAnswer(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	second, answered := make(chan string), make(chan struct{})
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.Number
			Method string
			Params struct{ Arguments struct{ Path string } }
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		answer := func(id, text string) string {
			return "data: {\"jsonrpc\":\"2.0\",\"id\":" + id + ",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"" + text + "\"}]}}\n\n"
		}
		w.Header().Set("Content-Type", "text/event-stream")
		switch {
		case m.Method == "initialize":
			_, _ = io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":"+m.ID.String()+",\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{}}}\n\n")
		case m.Method == "tools/list":
			_, _ = io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":"+m.ID.String()+",\"result\":{\"tools\":[]}}\n\n")
		case m.Method != "tools/call":
			w.WriteHeader(http.StatusAccepted)
		case m.Params.Arguments.Path == "first":
			_, _ = io.WriteString(w, answer(<-second, "stolen"))
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, answer(m.ID.String(), "of the first"))
		default:
			second <- m.ID.String()
			<-answered
			_, _ = io.WriteString(w, answer(m.ID.String(), "of the second"))
		}
	})
	s := w.proxied(t, server, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) { c.Ask = yes })
	alice := w.token(t, "alice", nil)
	id := s.begin(t, alice)
	call := func(of string) string {
		return s.send(t, http.MethodPost, alice, `{"jsonrpc":"2.0","id":"`+of+`","method":"tools/call","params":{"name":"read","arguments":{"path":"`+of+`"}}}`,
			"Mcp-Session-Id: "+id).text
	}
	other := make(chan string, 1)
	go func() { other <- call("second") }()
	if got := call("first"); !strings.Contains(got, "of the first") {
		t.Errorf("the first gets %s", got)
	}
	close(answered) // what came before that answer was read, too
	if got := <-other; !strings.Contains(got, "of the second") {
		t.Errorf("the second gets %s", got)
	}
}

// TestHTTPLostSession: a session that the server does not know any more is none for the agent either.
func TestHTTPLostSession(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	server := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return files() }, nil)
	var mu sync.Mutex
	handlers := []http.Handler{server, sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return files() }, nil)}
	s := w.proxied(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now := handlers[0]
		mu.Unlock()
		now.ServeHTTP(w, r)
	}), pinned(t, files()), func(c *proxy.Config) { c.Ask = yes })
	alice := w.token(t, "alice", nil)
	id := s.begin(t, alice)
	mu.Lock()
	handlers = handlers[1:] // as a server does that begins anew
	mu.Unlock()
	for range 2 {
		if got := s.send(t, http.MethodPost, alice, `{"jsonrpc":"2.0","id":2,"method":"ping"}`, "Mcp-Session-Id: "+id); got.status != http.StatusNotFound {
			t.Errorf("%+v", got)
		}
	}
	s.begin(t, alice)
}

// TestHTTPThousandSessions: a thousand sessions at once, within bounds for each person and for all, of which each takes little; and idle ones end.
func TestHTTPThousandSessions(t *testing.T) { //nolint:paralleltest // it measures memory
	w := openWeb(t)
	const all, each = 1000, 50
	lean := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.Number
			Method string
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		if m.Method != "initialize" {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Mcp-Session-Id", "s")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}}`)
	})
	sessions := func(idle time.Duration) *web {
		return w.proxied(t, lean, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) {
			c.Ask, c.MaxSessions, c.MaxPersonSessions, c.Idle = yes, all, each, idle
		})
	}
	s := sessions(time.Hour)
	heap := func() uint64 {
		for range 3 { // what is pooled outlives a collection
			runtime.GC()
		}
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	raw := w.token(t, "user-0", nil)
	s.begin(t, raw) // so that what is made once is made
	before, begun := heap(), time.Now()
	tokens := make([]string, all/each)
	for i := range tokens {
		tokens[i] = w.token(t, fmt.Sprint("user-", i), nil)
	}
	for n := 1; n < all; n++ {
		s.begin(t, tokens[n%len(tokens)])
	}
	took := time.Since(begun)
	s.wire.mu.Lock()
	s.wire.text.Reset()
	s.wire.mu.Unlock()
	s.mu.Lock()
	s.heads = nil
	s.mu.Unlock()
	per := (int64(heap()) - int64(before)) / all
	t.Logf("%d sessions began in %s, and each holds %d bytes", all, took, per)
	if per > 16<<10 {
		t.Errorf("a session holds %d bytes", per)
	}
	if got := s.send(t, http.MethodPost, w.token(t, "another", nil), initialize); got.status != http.StatusServiceUnavailable {
		t.Errorf("one more than all: %+v", got)
	}
	// One person has no more than its part.
	s = sessions(time.Hour)
	for range each {
		s.begin(t, raw)
	}
	if got := s.send(t, http.MethodPost, raw, initialize); got.status != http.StatusTooManyRequests {
		t.Errorf("one more than a person's part: %+v", got)
	}
	s.begin(t, tokens[1])
	// Sessions that nobody uses end, and make room.
	s = sessions(50 * time.Millisecond)
	for began := 0; began < 2*each; {
		switch got := s.send(t, http.MethodPost, raw, initialize); got.status {
		case http.StatusOK:
			began++
		case http.StatusTooManyRequests: // until one has ended
		default:
			t.Fatalf("a session of many: %+v", got)
		}
	}
}

// TestAllowedPages: a page of an origin that is allowed can send a request through a browser, which asks first.
func TestAllowedPages(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	const page = "https://chat.example.com"
	s := w.proxied(t, http.NotFoundHandler(), &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) { c.Ask, c.Origins = yes, []string{page} })
	got := s.send(t, http.MethodOptions, "", "", "Authorization: ", "Accept: ", "Origin: "+page, "Access-Control-Request-Method: POST",
		"Access-Control-Request-Headers: authorization,content-type,mcp-protocol-version")
	if got.status/100 != 2 || got.header.Get("Access-Control-Allow-Origin") != page {
		t.Errorf("the browser's question is answered with %d and %v, so that no page can send anything", got.status, got.header)
	}
}
