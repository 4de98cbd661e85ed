package mcp_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// answers has the server answer the request that it got last, and returns what the agent gets.
func (r *raw) answers(t *testing.T, result string) string {
	t.Helper()
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":`+result+`}`)
	return hear(t, r.toAgent)
}

// asks has the agent ask, and returns what the server gets.
func (r *raw) asks(t *testing.T, id, method, params string) string {
	t.Helper()
	say(t, r.toGuard, `{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`+params+`}`)
	return r.atServer(t)
}

// refused has the agent ask for what the server must hear nothing of, and returns what the agent gets.
func (r *raw) refused(t *testing.T, method, params string) string {
	t.Helper()
	say(t, r.toGuard, `{"jsonrpc":"2.0","id":"refused","method":"`+method+`","params":`+params+`}`)
	select {
	case line := <-r.toServer:
		t.Fatalf("%s %s: the server got %s", method, params, line)
		return ""
	case line := <-r.toAgent:
		return line
	case <-time.After(20 * time.Second):
		t.Fatal("nothing comes")
		return ""
	}
}

func wants(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if without, found := strings.CutPrefix(part, "!"); found && strings.Contains(got, without) || !found && !strings.Contains(got, part) {
			t.Errorf("got %s, want %s", got, part)
		}
	}
}

// TestCompletion: only those of prompts, where the file allows them, as the prompts are decided, and of arguments that name no object.
func TestCompletion(t *testing.T) {
	t.Parallel()
	r := betweenMapped(t, "version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\nprompt: {type: mcp_tool, permission: call}\nallow: [completion]\n"+
		"prompts: {summary: {checks: [{permission: read, type: file, id: path}], ignore: [tone]}}\n", 0)
	prompt := `{"ref":{"type":"ref/prompt","name":"summary"},"argument":{"name":"tone","value":"a"},"context":{"arguments":{"path":"payroll","tone":"b","x":1}}}`
	wants(t, r.refused(t, "completion/complete", strings.Replace(prompt, `"tone","value"`, `"path","value"`, 1)), "names an object")
	wants(t, r.refused(t, "completion/complete", strings.Replace(prompt, `"tone","value"`, `"x","value"`, 1)), "names an object, or is not mapped")
	wants(t, r.asks(t, "1", "completion/complete", prompt), `"tone":"b"`, "!payroll", `!"x"`)
	r.answers(t, `{"completion":{"values":[]}}`)
	r.asks(t, "1", "completion/complete", prompt)
	wants(t, r.answers(t, `{"completion":{"values":[]}}`), `"values":[]`)
	for _, params := range []string{
		strings.Replace(prompt, "ref/prompt", "ref/resource", 1), strings.Replace(prompt, "summary", "other", 1), strings.Replace(prompt, `"summary"`, `["summary"]`, 1),
	} {
		wants(t, r.refused(t, "completion/complete", params), "no such prompt")
	}
	r.refuses.Store(true)
	wants(t, r.refused(t, "completion/complete", prompt), "no such prompt")
}

// TestCrowds: neither side has more than 64 requests without an answer.
func TestCrowds(t *testing.T) {
	t.Parallel()
	r := between(t, "allow: [sampling]")
	for n := range 64 {
		r.asks(t, fmt.Sprint(n), "ping", "{}")
		say(t, r.server, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"sampling/createMessage","params":{}}`, n))
		hear(t, r.toAgent)
	}
	wants(t, r.refused(t, "ping", "{}"), "64 requests have no answer yet")
	say(t, r.server, `{"jsonrpc":"2.0","id":64,"method":"sampling/createMessage","params":{}}`)
	wants(t, r.atServer(t), "Too many requests have no answer yet")
	say(t, r.server, `{"jsonrpc":"2.0","id":63,"method":"sampling/createMessage","params":{}}`)
	wants(t, r.atServer(t), "Too many requests have no answer yet")
}

// TestInput: a server asks for input where the file allows it, and the call that is made again is decided again.
func TestInput(t *testing.T) {
	t.Parallel()
	r := between(t, "allow: [elicitation]")
	r.asks(t, "1", "tools/list", "{}")
	r.answers(t, `{"tools":[]}`)
	call := `{"name":"read","arguments":{"path":"a"}}`
	prompt := `{"name":"summary","arguments":{"path":"a"}}`
	resource := `{"uri":"file:///a"}`
	ask := func(method string) string {
		return `{"resultType":"input_required","inputRequests":{"x":{"method":"` + method + `","params":{}}},"requestState":"s"}`
	}
	for method, params := range map[string]string{"tools/call": call, "prompts/get": prompt, "resources/read": resource} {
		r.asks(t, "1", method, params)
		asked := r.answers(t, ask("elicitation/create"))
		wants(t, asked, `"input_required"`, "elicitation/create")
		state := requestStates.FindString(asked)
		for _, other := range []string{"sampling/createMessage", "roots/list", "tools/call", "ping", ""} {
			r.asks(t, "1", method, params)
			wants(t, r.answers(t, ask(other)), "of a kind that the guard does not let through", "!requestState")
		}
		for _, result := range []string{`{"resultType":"other"}`, `{"resultType":7}`, `{"task":{"taskId":"x"}}`} {
			r.asks(t, "1", method, params)
			wants(t, r.answers(t, result), "the guard does not let through", "!taskId")
		}
		again := strings.TrimSuffix(params, "}") + `,"inputResponses":{"x":{"action":"accept"}},` + state + `}`
		wants(t, r.asks(t, "1", method, again), `"requestState":"s"`)
		r.answers(t, `{"content":[],"contents":[]}`)
		r.refuses.Store(true)
		wants(t, r.refused(t, method, again), "may not")
		r.refuses.Store(false)
	}
}

// TestCapabilities: neither side hears that the other can do what the guard does not relay.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	r := between(t, "allow: [roots]")
	all := `{"elicitation":{},"roots":{"listChanged":true},"sampling":{},"experimental":{"x":{}},"tasks":{}}`
	server := `{"tools":{},"resources":{},"prompts":{},"logging":{},"completions":{},"tasks":{},"experimental":{"x":{}}}`
	wants(t, r.asks(t, "1", "initialize", `{"protocolVersion":"2025-11-25","capabilities":`+all+`,"clientInfo":{"name":"x","version":"1"}}`), `"capabilities":{"roots":{"listChanged":true}}`)
	wants(t, r.answers(t, `{"protocolVersion":"2025-11-25","capabilities":`+server+`}`), `"capabilities":{"tools":{},"resources":{},"prompts":{}}`)
	r.asks(t, "1", "initialize", `{"protocolVersion":"2025-11-25"}`)
	wants(t, r.answers(t, `{"protocolVersion":"2031-01-01","capabilities":{}}`), "does not know", "!2031")
	meta := `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + all + `}}`
	wants(t, r.asks(t, "1", "server/discover", meta), `"io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true}}`)
	got := r.answers(t, `{"supportedVersions":["2031-01-01","2026-07-28"],"capabilities":`+server+`,"ttlMs":60000,"cacheScope":"public"}`)
	wants(t, got, `"supportedVersions":["2026-07-28"]`, `"capabilities":{"tools":{},"resources":{},"prompts":{}}`, `"ttlMs":0`, `"cacheScope":"private"`)
	wants(t, r.asks(t, "1", "tools/list", meta), `"io.modelcontextprotocol/clientCapabilities":{"roots":{"listChanged":true}}`)
	wants(t, r.answers(t, `{"tools":[],"ttlMs":60000,"cacheScope":"public"}`), `"ttlMs":0`, `"cacheScope":"private"`)
	more := between(t, "allow: [logging, completion]")
	more.asks(t, "1", "initialize", `{"protocolVersion":"2025-11-25"}`)
	wants(t, more.answers(t, `{"protocolVersion":"2025-11-25","capabilities":`+server+`}`), `"capabilities":{"tools":{},"resources":{},"prompts":{},"logging":{},"completions":{}}`)
}

// TestIDs: each side knows a request by the id that it was given there, in all that is said about it.
func TestIDs(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	// The guard's own list of the tools is not the agent's request: it has no token of the agent's.
	wants(t, r.asks(t, `"q"`, "tools/call", `{"name":"read","arguments":{"path":"a"},"_meta":{"progressToken":"mine"}}`), "tools/list", "!mine")
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"tools":[]}}`)
	wants(t, r.atServer(t), "tools/call", `"progressToken":`+r.last)
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"mine","progress":1}}`) // which it never heard of
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`+r.last+`,"progress":2}}`)
	wants(t, hear(t, r.toAgent), `"progressToken":"mine","progress":2`)
	// The server ends a request.
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+r.last+`}}`)
	wants(t, hear(t, r.toAgent), "notifications/cancelled", `"requestId":"q"`)
	// What belongs to a subscription names it.
	r.asks(t, `"s"`, "subscriptions/listen", `{"notifications":{"toolsListChanged":true}}`)
	subscription := r.last
	told := func(id string) string {
		return `{"jsonrpc":"2.0","method":"notifications/prompts/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":` + id + `}}}`
	}
	say(t, r.server, told("999"))
	say(t, r.server, told(subscription))
	wants(t, hear(t, r.toAgent), `"io.modelcontextprotocol/subscriptionId":"s"`)
	// Of the end of a request that there is not the server hears nothing.
	say(t, r.toGuard, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nothing"}}`)
	r.asks(t, `"p"`, "ping", "{}")
	wants(t, r.answers(t, "{}"), `"id":"p"`)
}

// TestListenIsEndless: a subscription lasts longer than the server may take for an answer.
func TestListenIsEndless(t *testing.T) {
	t.Parallel()
	r := betweenFor(t, "", 200*time.Millisecond)
	r.asks(t, `"s"`, "subscriptions/listen", `{"notifications":{}}`)
	subscription := r.last
	r.asks(t, `"p"`, "ping", "{}")
	wants(t, hear(t, r.toAgent), "did not answer in time", `"id":"p"`)
	wants(t, r.atServer(t), "notifications/cancelled")
	say(t, r.server, `{"jsonrpc":"2.0","id":`+subscription+`,"result":{}}`)
	wants(t, hear(t, r.toAgent), `"id":"s"`, `"result":{}`)
}

// TestChangeWhileListing: a change that the server tells of while its tools are compared is not forgotten.
func TestChangeWhileListing(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	r.asks(t, "1", "tools/list", "{}")
	list := r.last
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
	hear(t, r.toAgent)
	r.last = list
	r.answers(t, `{"tools":[]}`)
	wants(t, r.asks(t, "1", "tools/call", `{"name":"read","arguments":{"path":"a"}}`), "tools/list")
}

// TestPages: all pages of the tools are compared and come as one.
func TestPages(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	r.asks(t, "1", "tools/list", "{}")
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"tools":[],"nextCursor":"2","_meta":{"page":1}}}`)
	wants(t, r.atServer(t), `"cursor":"2"`)
	wants(t, r.answers(t, `{"tools":[{"name":"hidden"}],"_meta":{"page":2}}`), "not those that were approved")
	r.asks(t, "1", "tools/list", "{}")
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"tools":[],"nextCursor":"2","_meta":{"page":1}}}`)
	r.atServer(t)
	wants(t, r.answers(t, `{"tools":[],"_meta":{"page":2}}`), `"tools":[]`, "!nextCursor", "!page")
}

// TestJudgedPathIsSent: the server gets the path that was judged, which is the one that the journal's digest is of, and not the one that the agent gave.
func TestJudgedPathIsSent(t *testing.T) {
	t.Parallel()
	root := folder(t, map[string]string{"alice/a.txt": "Alice's", "alice/link": "-> a.txt"})
	check := "{checks: [{permission: read, type: file, id: path, canonical: {root: " + root + ", shared: true}}]}"
	text := "version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\nprompt: {type: mcp_tool, permission: call}\n" +
		"tools: {read: " + check + "}\nprompts: {summary: " + check + "}\n"
	r := betweenMapped(t, text, 0)
	r.asks(t, "1", "tools/list", "{}")
	r.answers(t, `{"tools":[]}`)
	judged := `{"path":"` + root + `/alice/a.txt"}`
	for method, name := range map[string]string{"tools/call": "read", "prompts/get": "summary"} {
		for _, path := range []string{"alice/link", root + "/alice/../alice/./link", "alice/a.txt"} {
			wants(t, r.asks(t, "1", method, `{"name":"`+name+`","arguments":{"path":"`+path+`"}}`), `"arguments":`+judged)
			r.answers(t, `{"content":[],"messages":[]}`)
			r.mu.Lock()
			if r.arguments != judged {
				t.Errorf("%s: the arguments %s were judged", path, r.arguments)
			}
			r.mu.Unlock()
		}
	}
}

// TestUpdatesAreDecided: of a resource that may not be read the agent hears nothing.
func TestUpdatesAreDecided(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	told := func(uri string) {
		say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"`+uri+`"}}`)
	}
	for _, uri := range []string{"file:///refused", "file:///allowed"} {
		r.asks(t, "1", "resources/subscribe", `{"uri":"`+uri+`"}`)
		r.answers(t, "{}")
	}
	r.refuses.Store(true)
	told("file:///refused")
	told("other:///unmapped")
	r.asks(t, "1", "ping", "{}")
	wants(t, r.answers(t, "{}"), `"id":1`) // what came before is decided by then
	r.refuses.Store(false)
	told("file:///allowed")
	wants(t, hear(t, r.toAgent), "file:///allowed")
}

// careless is a Deputy that answers too little.
type careless struct{ mcp.Asker }

func (careless) Ask(context.Context, mcp.Call, []mapping.Ask) ([]mcp.Answer, error) {
	return []mcp.Answer{{Allowed: true}}, nil
}

// failing is a Deputy that fails to judge one of the questions, and still says yes.
type failing struct{ mcp.Decider }

func (failing) CheckAll(_ context.Context, questions ...client.Question) ([]client.Answer, error) {
	answers := make([]client.Answer, len(questions))
	for i := range answers {
		answers[i].Decision = client.Allow()
	}
	answers[len(answers)-1].Err = context.DeadlineExceeded
	return answers, nil
}

// TestPoorAnswers: what is not answered, or not whole, is not allowed.
func TestPoorAnswers(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]mcp.Asker{"too few": careless{}, "one that failed": mcp.AskerOf(failing{}, client.Question{})} {
		server := files()
		g := through(t, server, mcp.Config{Map: decode(t, filesMap), Pins: pinned(t, files()), Ask: ask}, newClient(nil), nil)
		if got := g.call(t, "read", map[string]any{"path": "a.txt"}); !strings.HasPrefix(got, "isError: Refused: Nothing is allowed") {
			t.Errorf("%s: %s", name, got)
		}
		if n := g.wire.count("tools/call"); n != 0 {
			t.Errorf("%s: the server got %d calls", name, n)
		}
	}
}

// TestPins: what belongs to a definition is pinned, and pins are one server's.
func TestPins(t *testing.T) {
	t.Parallel()
	parse := func(text string) jsonrpc.Value {
		t.Helper()
		v, err := jsonrpc.ParseValue([]byte(text), jsonrpc.FromServer())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	definition := `{"name":"read","description":"d","inputSchema":{"type":"object"},"outputSchema":{},"annotations":{"readOnlyHint":true},"_meta":{"x":1}}`
	pins, err := mcp.PinsOf("files", mcp.Definitions{Tools: []jsonrpc.Value{parse(definition)}, Instructions: "Read first."})
	if err != nil {
		t.Fatal(err)
	}
	if err := pins.Check([]jsonrpc.Value{parse(`{"description":"d", "name":"re\u0061d","inputSchema":{"type":"object"},"outputSchema":{},"_meta":{"x":1},"annotations":{"readOnlyHint":true}}`)}); err != nil {
		t.Errorf("the same definition, written otherwise: %v", err)
	}
	for old, other := range map[string]string{`"d"`: `"e"`, `"type":"object"`: `"type":"array"`, `"outputSchema":{}`: `"outputSchema":{"a":1}`, "true": "false", `"x":1`: `"x":2`, `"read"`: `"reaď"`} {
		if err := pins.Check([]jsonrpc.Value{parse(strings.Replace(definition, old, other, 1))}); err == nil {
			t.Errorf("with %s in the place of %s it is what was approved", other, old)
		}
	}
	for name, tools := range map[string][]jsonrpc.Value{"one more": {parse(definition), parse(`{"name":"new"}`)}, "none": nil, "twice": {parse(definition), parse(definition)}} {
		if err := pins.Check(tools); err == nil {
			t.Errorf("%s: it is what was approved", name)
		}
	}
	if !pins.Instruct("Read first.") || pins.Instruct("Read first") || pins.Instruct("") || (&mcp.Pins{}).Instruct("") {
		t.Error("other instructions are those that were approved")
	}
	text := pins.Append(nil)
	if same, err := mcp.ParsePins(text, "files"); err != nil || len(same.Changes(pins)) > 0 {
		t.Errorf("the pins are read as %v: %v", same, err)
	}
	if _, err := mcp.ParsePins(text, "other"); err == nil {
		t.Error("the pins of one server are another's")
	}
	if _, err := mcp.ParsePins(bytes.Replace(text, []byte(`"version": 1`), []byte(`"version": 2`), 1), "files"); err == nil {
		t.Error("pins of a later version are read")
	}
}

// TestServersEnvironment: the server gets the guard's environment but for Deputy's own variables, among which are keys.
func TestServersEnvironment(t *testing.T) {
	t.Setenv("DEPUTY_KEY", "the key")
	t.Setenv("OF_THE_SERVER", "its own")
	var errs bytes.Buffer
	p, err := mcp.Start(t.Context(), []string{"sh", "-c", "env >&2; cat >/dev/null"}, &errs)
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	wants(t, errs.String(), "OF_THE_SERVER=its own", "!DEPUTY_KEY")
}
