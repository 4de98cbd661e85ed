package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// heard are the messages that an agent gets.
type heard chan *jsonrpc.Message

// Send is mcp.End's.
func (h heard) Send(_ context.Context, m *jsonrpc.Message) error {
	h <- m
	return nil
}

// sent are the messages that a server gets.
type sent chan *jsonrpc.Message

// Send is mcp.End's.
func (s sent) Send(_ context.Context, m *jsonrpc.Message) error {
	s <- m
	return nil
}

// distant is an Asker that takes its time, as a Deputy in another region does.
type distant struct{ asked atomic.Int64 }

// Ask implements mcp.Asker.
func (d *distant) Ask(_ context.Context, _ mcp.Call, asks []mapping.Ask) ([]mcp.Answer, error) {
	d.asked.Add(1)
	<-time.After(150 * time.Millisecond)
	answers := make([]mcp.Answer, len(asks))
	for i := range answers {
		answers[i].Allowed = true
	}
	return answers, nil
}

// Refused implements mcp.Asker.
func (*distant) Refused(context.Context, mcp.Call, mcp.Refusal) error { return nil }

// TestDecidedOnce: a call is decided once where the server takes no time for its list of tools, however long Deputy takes.
func TestDecidedOnce(t *testing.T) {
	t.Parallel()
	deputy, agent, server := &distant{}, make(heard, 10), make(sent, 10)
	guard := mcp.Between(mcp.Config{Map: decode(t, filesMap), Pins: &mcp.Pins{}, Ask: deputy}, agent, server)
	for n := range 2 { // the second call finds the comparison of the first
		before := deputy.asked.Load()
		if err := guard.FromClient(t.Context(), parsed(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}`, n))); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			select {
			case m := <-server:
				result := `{"content":[]}`
				if m.Method == "tools/list" {
					result = `{"tools":[]}`
				}
				if err := guard.FromServer(t.Context(), []byte(`{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":`+result+`}`), m.ID); err != nil {
					t.Fatal(err)
				}
			case <-agent:
				done = true
			}
		}
		if asked := deputy.asked.Load() - before; n == 1 && asked != 1 {
			t.Errorf("the tools were compared just before, and one call came to %d decisions", asked)
		}
	}
}

// TestLongTable: an answer within 16 MiB and 200,000 values is let through, also if it is one text with many commas.
func TestLongTable(t *testing.T) {
	t.Parallel()
	agent, server := make(heard, 1), make(sent, 1)
	guard := mcp.Between(mcp.Config{Map: decode(t, filesMap), Pins: &mcp.Pins{}, Ask: &distant{}}, agent, server)
	if err := guard.FromClient(t.Context(), parsed(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	id := (<-server).ID
	table := strings.Repeat("12,", 2_400_000) // 7 MiB
	if err := guard.FromServer(t.Context(), []byte(`{"jsonrpc":"2.0","id":`+id.String()+`,"result":{"content":[{"type":"text","text":"`+table+`"}]}}`), id); err != nil {
		t.Fatal(err)
	}
	if m := <-agent; m.Failure.Kind() != jsonrpc.Null {
		t.Errorf("nothing else waits, and one text of 7 MiB is refused: %s", m.Failure)
	}
}

// TestBrokenEvents: events that broke off take no memory any more once the stream is gone on with.
func TestBrokenEvents(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	var resumed atomic.Int64
	part := strings.Repeat("x", 12<<20)
	var call atomic.Value
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		broken := func() {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "id: 1\nretry: 1\n\ndata: "+part)
		}
		if r.Method == http.MethodGet {
			if resumed.Add(1) <= 6 {
				broken()
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"at last\"}]}}\n\n", call.Load())
			return
		}
		var m struct {
			ID     json.Number
			Method string
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		result := `{"tools":[]}`
		switch m.Method {
		case "initialize":
			w.Header().Set("Mcp-Session-Id", "s")
			result = `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}`
		case "notifications/initialized":
			w.WriteHeader(http.StatusAccepted)
			return
		case "tools/call":
			call.Store(m.ID.String())
			broken()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":`+result+`}`)
	})
	s := w.proxied(t, server, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) { c.Ask = yes })
	raw := w.token(t, "alice", nil)
	id := s.begin(t, raw)
	got := s.send(t, http.MethodPost, raw, callRead, "Mcp-Session-Id: "+id)
	if !strings.Contains(got.text, "at last") {
		t.Errorf("after %d times that the stream was gone on with: %.300s", resumed.Load(), got.text)
	}
}

// TestProgressOfAnother: progress of a call whose answer is filtered is not shown as that of another call, to which the agent gave the same token.
func TestProgressOfAnother(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	say(t, r.toGuard, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"word":"x"},"_meta":{"progressToken":"p"}}}`)
	r.answerPins(t)
	search := r.last
	say(t, r.toGuard, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	r.atServer(t)
	say(t, r.toGuard, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"},"_meta":{"progressToken":"p"}}}`)
	r.atServer(t)
	// The server heard of the end too late.
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`+search+`,"progress":1,"message":"found x in b.txt"}}`)
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"content":[]}}`)
	if got := hear(t, r.toAgent); strings.Contains(got, "b.txt") {
		t.Errorf("the agent got %s", got)
	}
}

// TestProgressIsFigures: of the progress of a call whose answer is filtered the agent gets figures, and no texts in their place.
func TestProgressIsFigures(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	say(t, r.toGuard, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"word":"x"},"_meta":{"progressToken":"p"}}}`)
	r.answerPins(t)
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`+r.last+`,"progress":"b.txt","total":{"file":"b.txt"}}}`)
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"content":[]}}`)
	if got := hear(t, r.toAgent); strings.Contains(got, "b.txt") {
		t.Errorf("the agent got %s", got)
	}
}

// TestInputResponses: an agent answers what the file allows the server to ask, and nothing else.
func TestInputResponses(t *testing.T) {
	t.Parallel()
	r := between(t, "allow: [elicitation]")
	say(t, r.toGuard, callRead)
	r.answerPins(t)
	say(t, r.server, `{"jsonrpc":"2.0","id":`+r.last+`,"result":{"content":[]}}`)
	hear(t, r.toAgent)
	say(t, r.toGuard, strings.Replace(callRead, `"arguments"`, `"inputResponses":{"folders":{"roots":[{"uri":"file:///payroll"}]}},"arguments"`, 1))
	select {
	case got := <-r.toServer:
		if strings.Contains(got, "payroll") {
			t.Errorf("roots are not allowed, nobody asked for any, and the server got %s", got)
		}
	case <-r.toAgent:
	}
}

// TestAskingInLists: a server asks the agent for what the file allows, also in the answers to methods that ask for nothing.
func TestAskingInLists(t *testing.T) {
	t.Parallel()
	ask := `"resultType":"input_required","requestState":"s","inputRequests":{"a":{"method":"sampling/createMessage","params":{"messages":[]}}}`
	for method, test := range map[string][2]string{
		"tools/list": {`{}`, `{"tools":[],` + ask + `}`}, "prompts/list": {`{}`, `{"prompts":[],` + ask + `}`},
		"resources/list": {`{}`, `{"resources":[],` + ask + `}`}, "resources/templates/list": {`{}`, `{"resourceTemplates":[],` + ask + `}`},
		"resources/subscribe": {`{"uri":"file:///a"}`, `{` + ask + `}`}, "ping": {`{}`, `{` + ask + `}`},
		"subscriptions/listen": {`{"notifications":{}}`, `{` + ask + `}`},
		"completion/complete":  {`{"ref":{"type":"ref/prompt","name":"summary"},"argument":{"name":"tone","value":"a"}}`, `{"completion":{"values":[]},` + ask + `}`},
		"logging/setLevel":     {`{"level":"info"}`, `{` + ask + `}`},
	} {
		text := filesMap
		if method == "completion/complete" {
			text = "version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\nprompt: {type: mcp_tool, permission: call}\n" +
				"prompts: {summary: {checks: [{permission: read, type: file, id: path}], ignore: [tone]}}\n"
		}
		r := betweenMapped(t, text+"allow: [completion, logging]\n", 0)
		r.asks(t, "1", method, test[0])
		if got := r.answers(t, test[1]); strings.Contains(got, "sampling/createMessage") || strings.Contains(got, "input_required") {
			t.Errorf("%s: sampling is not allowed, and the agent got %s", method, got)
		}
	}
}

// TestBesideLists: of the answer to a list nothing passes beside the elements that were judged.
func TestBesideLists(t *testing.T) {
	t.Parallel()
	for method, name := range map[string]string{
		"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources", "resources/templates/list": "resourceTemplates",
	} {
		r := between(t, "")
		r.refuses.Store(true)
		r.asks(t, "1", method, `{}`)
		if got := r.answers(t, `{"`+name+`":[],"_meta":{"all":"payroll"},"more":["payroll"]}`); strings.Contains(got, "payroll") {
			t.Errorf("%s: the agent got %s", method, got)
		}
	}
}

// TestMetaMembers: the members of _meta that pass have the form that the protocol gives them.
func TestMetaMembers(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	got := r.asks(t, "1", "resources/read", `{"uri":"file:///a","_meta":{"progressToken":{"path":"payroll"},"traceparent":{"path":"payroll"},`+
		`"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1","path":"payroll"}}}`)
	if strings.Contains(got, "payroll") {
		t.Errorf("the server got %s", got)
	}
}

// TestUnsubscribeAfterRevocation: an agent can end subscriptions to resources that it may no longer read, so that there is room for others.
func TestUnsubscribeAfterRevocation(t *testing.T) {
	t.Parallel()
	deputy, agent, server := &raw{}, make(heard, 1), make(sent, 1)
	guard := mcp.Between(mcp.Config{Map: decode(t, filesMap), Pins: &mcp.Pins{}, Ask: deputy}, agent, server)
	ask := func(method, uri string) *jsonrpc.Message {
		if err := guard.FromClient(t.Context(), parsed(t, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{"uri":"`+uri+`"}}`)); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case m := <-server:
				if err := guard.FromServer(t.Context(), []byte(`{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":{}}`), m.ID); err != nil {
					t.Fatal(err)
				}
			case m := <-agent:
				return m
			}
		}
	}
	const most = 1000
	for n := range most {
		if m := ask("resources/subscribe", fmt.Sprintf("file:///%d", n)); m.Failure.Kind() != jsonrpc.Null {
			t.Fatal(n, m.Failure)
		}
	}
	deputy.refuses.Store(true) // the rights are taken away
	for n := range most {
		ask("resources/unsubscribe", fmt.Sprintf("file:///%d", n))
	}
	deputy.refuses.Store(false) // and there are others
	if m := ask("resources/subscribe", "file:///other"); m.Failure.Kind() != jsonrpc.Null {
		t.Errorf("the agent has ended all its subscriptions, and gets %s", m.Failure)
	}
}

// TestFoldedPins: tools whose names some programs take for the same are not approved, because the file of approved tools could not be read again.
func TestFoldedPins(t *testing.T) {
	t.Parallel()
	tools, err := jsonrpc.ParseValue([]byte(`[{"name":"read"},{"name":"Read"}]`), jsonrpc.FromServer())
	if err != nil {
		t.Fatal(err)
	}
	_, err = mcp.PinsOf("files", mcp.Definitions{Tools: tools.Elements()})
	if err == nil || !strings.Contains(err.Error(), `"read" and "Read"`) {
		t.Errorf("two names that differ in case: %v", err)
	}
}

// TestWatcherHasNoKeys: no process in the server's group has the variables of Deputy's own.
func TestWatcherHasNoKeys(t *testing.T) {
	t.Setenv("DEPUTY_KEY", "a-key-of-deputys")
	server, err := mcp.Start(t.Context(), []string{"sh", "-c", "cat >/dev/null"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, one := range all {
		stat, err := os.ReadFile(one)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		var state string
		var parent, group int
		if _, err := fmt.Sscan(rest, &state, &parent, &group); err != nil || parent != os.Getpid() || group == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(one), "environ"))
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(one), "cmdline"))
		if strings.Contains(string(env), "DEPUTY_KEY=") && !strings.HasPrefix(string(command), os.Args[0]) {
			t.Errorf("in the server's group is a process with Deputy's key: %q", command)
		}
	}
}

// TestNamesNotUTF8: the path that the server gets is the one that was judged, also where a link leads to a name that is not UTF-8.
func TestNamesNotUTF8(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"plans", "payroll"} {
		if err := os.Mkdir(filepath.Join(root, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"plans/caf\xe9": "plan", "payroll/secret": "secret"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			pgtest.Skip(t, "the file system takes no names that are not UTF-8")
		}
	}
	for link, to := range map[string]string{"plans/x": "caf\xe9", "plans/caf\ufffd": "../payroll/secret"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, depth := range []string{"depth: 1", "parent: true"} {
		m := decode(t, "version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\ntools: {read: {checks: "+
			"[{permission: read, type: folder, id: path, canonical: {root: "+root+", shared: true, "+depth+"}}]}}\n")
		call, err := m.CallTool("read", parsed(t, `{"jsonrpc":"2.0","method":"x","params":{"path":"plans/x"}}`).Params)
		if err != nil {
			continue // refused
		}
		var got struct{ Path string } // as the server reads it
		if err := json.Unmarshal([]byte(call.Arguments.String()), &got); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(got.Path); err != nil || string(text) != "plan" {
			t.Errorf("%s: the questions are %v, and the server opens %q, which holds %q (%v)", depth, call.Asks, got.Path, text, err)
		}
	}
}

// TestComments: comments, by which a server shows that a stream is there, take no memory, however many have come.
func TestComments(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.Number
			Method string
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		if m.Method == "tools/list" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":{"tools":[]}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		comment := ": " + strings.Repeat("x", 32<<10) + "\n\n"
		for range 2200 { // 69 MiB
			_, _ = io.WriteString(w, comment)
		}
		_, _ = io.WriteString(w, `data: {"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":{"content":[{"type":"text","text":"at last"}]}}`+"\n\n")
	})
	s := w.proxied(t, server, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) { c.Ask = yes })
	body, headers := newCall("tools/call", `"name":"read","arguments":{"path":"a"}`)
	if got := s.send(t, http.MethodPost, w.token(t, "alice", nil), body, append(headers, "Mcp-Name: read")...); !strings.Contains(got.text, "at last") {
		t.Errorf("%d %.300s", got.status, got.text)
	}
}

// TestNamesThatProgramsTrim: what the guard refuses in a path, because some programs leave it out (the server of files in Node.js does), it does not write
// into the path that the server gets.
func TestNamesThatProgramsTrim(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"plans", "payroll"} {
		if err := os.Mkdir(filepath.Join(root, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"plans/plan ": "plan", "payroll/secret": "secret"} { //nolint:gocritic // the blank is the point
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"plans/x": "plan ", "plans/plan": "../payroll/secret"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	m := decode(t, "version: 1\nserver: files\ntool: {type: mcp_tool, permission: call}\ntools: {read: {checks: "+
		"[{permission: read, type: folder, id: path, canonical: {root: "+root+", shared: true, depth: 1}}]}}\n")
	call, err := m.CallTool("read", parsed(t, `{"jsonrpc":"2.0","method":"x","params":{"path":"plans/x"}}`).Params)
	if err != nil {
		return // refused
	}
	path, _ := call.Arguments.At("path").Text()
	if text, err := os.ReadFile(strings.TrimSpace(path)); err != nil || string(text) != "plan" {
		t.Errorf("the questions are %v, and a server that trims %q opens what holds %q (%v)", call.Asks, path, text, err)
	}
}

// TestSubscribedTwice: one unsubscribe ends what an agent subscribed to more than once, as it does at the server.
func TestSubscribedTwice(t *testing.T) {
	t.Parallel()
	r := between(t, "")
	for _, method := range []string{"subscribe", "subscribe", "unsubscribe"} {
		r.asks(t, "1", "resources/"+method, `{"uri":"file:///a"}`)
		r.answers(t, `{}`)
	}
	r.mu.Lock()
	before := len(r.asked)
	r.mu.Unlock()
	say(t, r.server, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}`)
	say(t, r.server, `{"jsonrpc":"2.0","id":7,"method":"ping"}`)
	if got := hear(t, r.toAgent); !strings.Contains(got, "ping") {
		t.Errorf("the agent is subscribed to nothing, and after %d more decisions it got %s", len(r.asked)-before, got)
	}
}

// TestCountersComeBack: whatever clients and servers break off, the memory and the requests that counted are free again afterwards.
func TestCountersComeBack(t *testing.T) {
	t.Parallel()
	w := openWeb(t)
	part := strings.Repeat("x", 8<<20)
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.Number
			Method string
			Params struct{ Arguments struct{ Path string } }
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		result := `{"tools":[]}`
		switch m.Method {
		case "initialize":
			w.Header().Set("Mcp-Session-Id", "s")
			result = `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}`
		case "notifications/initialized", "notifications/cancelled":
			w.WriteHeader(http.StatusAccepted)
			return
		case "tools/call", "":
			kind := "text/event-stream"
			if m.Params.Arguments.Path == "json" {
				kind = "application/json"
			}
			w.Header().Set("Content-Type", kind)
			switch m.Params.Arguments.Path {
			case "whole":
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":{"content":[{"type":"text","text":"`+strings.Repeat("12,", 1_150_000)+`"}]}}`)
			case "break":
				_, _ = io.WriteString(w, "data: "+part)
			default: // it begins, and hangs
				_, _ = io.WriteString(w, "data: "+part)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.ID.String()+`,"result":`+result+`}`)
	})
	s := w.proxied(t, server, &mcp.Pins{Version: 1, Server: "files"}, func(c *proxy.Config) {
		c.Ask, c.Guard.Timeout = yes, 300*time.Millisecond
	})
	token := w.token(t, "alice", nil)
	session := s.begin(t, token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	do := func(wait time.Duration, method, path string, n int, old bool) string {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		body, headers := newCall("tools/call", fmt.Sprintf(`"name":"read","arguments":{"path":%q}`, path))
		headers = append(headers, "Mcp-Name: read")
		if old {
			body = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"read","arguments":{"path":%q}}}`, n, path)
			headers = []string{"Mcp-Session-Id: " + session}
		}
		if method == http.MethodGet {
			body = ""
		}
		request, err := http.NewRequestWithContext(ctx, method, s.url, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return ""
		}
		for _, one := range append(headers, "Authorization: Bearer "+token, "Accept: application/json, text/event-stream", "Content-Type: application/json") {
			name, value, _ := strings.Cut(one, ": ")
			request.Header.Set(name, value)
		}
		response, err := client.Do(request)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = response.Body.Close() }()
		text, _ := io.ReadAll(response.Body)
		return fmt.Sprintf("%d %.200s", response.StatusCode, text)
	}
	for round := range 8 {
		done := make(chan struct{})
		kinds := []func(n int){
			func(n int) { do(50*time.Millisecond, http.MethodPost, "hang", n, false) }, func(n int) { do(50*time.Millisecond, http.MethodPost, "hang", n, true) },
			func(n int) { do(5*time.Second, http.MethodPost, "hang", n, false) }, func(n int) { do(5*time.Second, http.MethodPost, "json", n, true) },
			func(n int) { do(5*time.Second, http.MethodPost, "break", n, false) }, func(n int) { do(5*time.Second, http.MethodPost, "break", n, true) },
			func(n int) { do(100*time.Millisecond, http.MethodGet, "", n, true) }, func(n int) { do(5*time.Millisecond, http.MethodPost, "whole", n, false) },
			func(n int) {
				do(50*time.Millisecond, http.MethodPost, "hang", n, true)
				s.send(t, http.MethodPost, token, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, n), "Mcp-Session-Id: "+session)
			},
		}
		for i, one := range kinds {
			go func() {
				one(100*round + i)
				done <- struct{}{}
			}()
		}
		for range kinds {
			<-done
		}
	}
	eventually(t, "what counted is free", func() bool {
		return strings.HasPrefix(do(20*time.Second, http.MethodPost, "whole", 9999, false), `200 {"jsonrpc":"2.0","id":1,"result"`)
	})
	eventually(t, "what counted of the session is free", func() bool {
		return strings.HasPrefix(do(20*time.Second, http.MethodPost, "whole", 9998, true), `200 {"jsonrpc":"2.0","id":9998,"result"`)
	})
	got := make(chan string, 128)
	for range 128 {
		go func() { got <- do(20*time.Second, http.MethodPost, "break", 0, false) }()
	}
	for range 128 {
		if one := <-got; strings.HasPrefix(one, "429") {
			t.Fatalf("128 requests are not let in: %s", one)
		}
	}
}
