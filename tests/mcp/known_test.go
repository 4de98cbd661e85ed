package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// lister is a guard of which the test is the agent and the server. The server answers each request with what result makes of the request's id.
type lister struct {
	guard   *mcp.Guard
	answers chan string

	mu     sync.Mutex
	result func(id string) string
}

// toAgent and toServer are the two ends of a lister's guard.
type (
	toAgent  struct{ *lister }
	toServer struct{ *lister }
)

// Send is mcp.End's.
func (e toAgent) Send(_ context.Context, m *jsonrpc.Message) error {
	e.answers <- string(m.Append(nil))
	return nil
}

// Send is mcp.End's.
func (e toServer) Send(ctx context.Context, m *jsonrpc.Message) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.guard.FromServer(ctx, []byte(e.result(m.ID.String())), m.ID)
}

// newLister starts a guard that has approved the tools of a result. known is shared where it is not nil.
func newLister(t rapid.TB, result string, known *mcp.Known, ask mcp.Asker) *lister {
	t.Helper()
	v, err := jsonrpc.ParseValue([]byte(result), jsonrpc.FromServer())
	if err != nil {
		t.Fatal(err)
	}
	pins, err := mcp.PinsOf("files", mcp.Definitions{Tools: v.At("tools").Elements()})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapping.Decode("guard.yaml", []byte(filesMap))
	if err != nil {
		t.Fatal(err)
	}
	l := &lister{answers: make(chan string, 16)}
	l.says(result)
	l.guard = mcp.Between(mcp.Config{Map: m, Pins: pins, Ask: ask, Known: known, Timeout: 20 * time.Second}, toAgent{l}, toServer{l})
	return l
}

// says has the server answer with a result from now on.
func (l *lister) says(result string) {
	l.writes(func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"result":` + result + `}` })
}

// writes has the server answer with whole messages from now on.
func (l *lister) writes(message func(id string) string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result = message
}

// ask has the agent ask, and returns what it gets.
func (l *lister) ask(t rapid.TB, method string) string {
	t.Helper()
	id, _ := jsonrpc.IDOf(jsonrpc.Text("a"))
	if err := l.guard.FromClient(context.Background(), &jsonrpc.Message{ID: id, Method: method}); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-l.answers:
		return text
	case <-time.After(30 * time.Second):
		t.Fatal("nothing comes")
		return ""
	}
}

// chosen allows what is about the tools that are named, and counts what it is asked.
type chosen struct {
	mu    sync.Mutex
	tools []string
	asked int
}

// Ask implements mcp.Asker.
func (c *chosen) Ask(_ context.Context, _ mcp.Call, asks []mapping.Ask) ([]mcp.Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers := make([]mcp.Answer, len(asks))
	for i, a := range asks {
		c.asked++
		answers[i].Allowed = slices.Contains(c.tools, strings.TrimPrefix(a.ID, "files/"))
	}
	return answers, nil
}

// Refused implements mcp.Asker.
func (*chosen) Refused(context.Context, mcp.Call, mcp.Refusal) error { return nil }

// may allows other tools from now on, and returns how many questions there were before.
func (c *chosen) may(tools ...string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tools = tools
	return c.asked
}

// toolsIn are the names of the tools in an answer.
func toolsIn(t rapid.TB, answer string) string {
	t.Helper()
	var m struct {
		Result struct{ Tools []struct{ Name string } }
		Error  struct{ Message string }
	}
	if err := json.Unmarshal([]byte(answer), &m); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, one := range m.Result.Tools {
		names = append(names, one.Name)
	}
	return strings.Join(names, " ") + m.Error.Message
}

// TestKnownListIsDecidedAnew: a list that the server has given before is decided each time, for the agent that asks now, and a list that differs from it is
// compared with what was approved.
func TestKnownListIsDecidedAnew(t *testing.T) {
	t.Parallel()
	const result = `{"tools":[{"name":"read","inputSchema":{}},{"name":"write","description":"w","inputSchema":{}},{"name":"hidden"},{"name":"search"}],"nextCursor":null}`
	known, alice, bob := &mcp.Known{}, &chosen{}, &chosen{}
	ofAlice, ofBob := newLister(t, result, known, alice), newLister(t, result, known, bob)
	gets := func(l *lister, want string) {
		t.Helper()
		if got := toolsIn(t, l.ask(t, "tools/list")); got != want {
			t.Errorf("the agent sees %s, want %s", got, want)
		}
	}
	alice.may("read", "write")
	bob.may("read", "hidden", "search")
	for range 3 {
		gets(ofAlice, "read write")
		gets(ofBob, "read search")
	}
	if asked := alice.may("search"); asked != 9 {
		t.Errorf("three lists of three mapped tools are %d questions", asked)
	}
	gets(ofAlice, "search")
	alice.may()
	gets(ofAlice, "")
	gets(ofBob, "read search")

	const unapproved = "The server's tools are not those that were approved. An operator has to look at them: deputy mcp approve."
	for _, other := range []string{
		strings.Replace(result, `"w"`, `"x"`, 1), strings.Replace(result, `"hidden"`, `"hiddem"`, 1), strings.Replace(result, `,{"name":"search"}`, "", 1),
		strings.Replace(result, `{"name":"search"}`, `{"name":"search"},{"name":"more"}`, 1),
	} {
		ofBob.says(other)
		gets(ofBob, unapproved)
		ofBob.says(result)
		gets(ofBob, "read search")
	}
	ofBob.says(strings.Replace(result, "null", `"2"`, 1)) // the same page over and over
	if got := ofBob.ask(t, "tools/list"); !strings.Contains(got, "error") {
		t.Errorf("the agent gets %s", got)
	}

	// The text of the list in answer to something else, or as an answer to nobody, is no list.
	ofBob.says(result)
	if got := ofBob.ask(t, "ping"); !strings.Contains(got, `"result":{}`) {
		t.Errorf("the answer to ping is %s", got)
	}
	for _, id := range []string{`"%s"`, "%s.0", "0%s", "-%s", "9%s", "%se0"} {
		ofBob.writes(func(sent string) string { // one that is not the answer, and then the answer
			text := `{"jsonrpc":"2.0","id":` + fmt.Sprintf(id, sent) + `,"result":` + result + `}`
			number, _ := jsonrpc.ParseValue([]byte(sent), jsonrpc.FromServer())
			answered, _ := jsonrpc.IDOf(number)
			if err := ofBob.guard.FromServer(context.Background(), []byte(text), answered); err != nil {
				t.Error(err)
			}
			return `{"jsonrpc":"2.0","id":` + sent + `,"error":{"code":1,"message":"none today"}}`
		})
		if got := toolsIn(t, ofBob.ask(t, "tools/list")); got != "none today" {
			t.Errorf("with the id %s the agent gets %s", id, got)
		}
	}
}

// TestSlowServerIsDecidedAnew: a decision that was made while a server took its time is not the one by which its list is shown.
func TestSlowServerIsDecidedAnew(t *testing.T) {
	t.Parallel()
	const result = `{"tools":[{"name":"read"},{"name":"write"}]}`
	who := &chosen{tools: []string{"read", "write"}}
	l := newLister(t, result, nil, who)
	for range 2 {
		if got := toolsIn(t, l.ask(t, "tools/list")); got != "read write" {
			t.Fatalf("the agent sees %s", got)
		}
	}
	before := who.may("read", "write")
	l.writes(func(id string) string {
		eventually(t, "the list is decided ahead", func() bool { return who.may("read", "write") > before })
		who.may("read")
		<-time.After(1200 * time.Millisecond) // it is slow
		return `{"jsonrpc":"2.0","id":` + id + `,"result":` + result + `}`
	})
	if got := toolsIn(t, l.ask(t, "tools/list")); got != "read" {
		t.Errorf("of a slow server, the agent sees %s", got)
	}
}

// TestKnownListIsTheSame: what an agent gets of a list that is known is what it gets of one that is not, whatever the server writes.
func TestKnownListIsTheSame(t *testing.T) {
	t.Parallel()
	space := rapid.SampledFrom([]string{"", " ", "\t", "  "})
	text := rapid.SampledFrom([]string{`"a"`, `"ä"`, `"\u00e4"`, `"\ud83d\ude00"`, `"a\/b"`, `"\n"`, `1`, `1.0`, `-0`, `1e3`, `12345678901234567890`, `true`, `null`, `[]`, `{}`, `[1, "b"]`, `{"x":{"X":1}}`})
	rapid.Check(t, func(r *rapid.T) {
		gap := func() string { return space.Draw(r, "space") }
		var tools []string
		mapped := false
		for _, name := range rapid.Permutation([]string{"read", "write", "search", "secret", "ask"}).Draw(r, "names") {
			if rapid.Bool().Draw(r, "left out") {
				continue
			}
			mapped = mapped || name != "secret"
			members := []string{`"name":` + gap() + `"` + name + `"`}
			for _, key := range []string{"description", "inputSchema", "ſ", "_meta"} {
				if rapid.Bool().Draw(r, key) {
					members = append(members, `"`+key+`"`+gap()+`:`+text.Draw(r, "value")+gap())
				}
			}
			tools = append(tools, `{`+strings.Join(rapid.Permutation(members).Draw(r, "members"), `,`+gap())+`}`)
		}
		members := []string{`"tools":` + gap() + `[` + strings.Join(tools, gap()+`,`) + `]`}
		for _, one := range []string{`"nextCursor":null`, `"ttlMs":60000`, `"cacheScope":"public"`, `"resultType":"complete"`, `"_meta":` + text.Draw(r, "meta")} {
			if rapid.Bool().Draw(r, one) {
				members = append(members, one)
			}
		}
		result := `{` + strings.Join(rapid.Permutation(members).Draw(r, "result"), `,`+gap()) + gap() + `}`
		front, end := rapid.SampledFrom([]string{`"jsonrpc":"2.0",`, ``}).Draw(r, "front"), gap()
		message := func(id string) string {
			if front == "" {
				return `{"result":` + result + `,"jsonrpc":"2.0", "id" : ` + id + end + `}`
			}
			return `{` + front + `"id":` + end + id + `,` + `"result":` + result + `}` + end
		}
		who := &chosen{tools: rapid.SliceOfDistinct(rapid.SampledFrom([]string{"read", "write", "search", "ask"}), rapid.ID).Draw(r, "allowed")}
		first, known := newLister(r, result, nil, who), newLister(r, result, nil, who)
		first.writes(message)
		known.writes(message)
		want := first.ask(r, "tools/list")
		for range 3 {
			if got := known.ask(r, "tools/list"); got != want {
				r.Fatalf("the agent gets %s, and at first %s", got, want)
			}
		}
		if asked := who.may(); strings.Contains(want, "error") || mapped != (asked > 0) {
			r.Fatalf("%d questions, and %s", asked, want)
		}
	})
}
