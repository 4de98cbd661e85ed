package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

// A server may read JSON in another way than the guard: take the last or the first of two members with one name, take names in another case for the
// same, end texts at U+0000, round numbers. Whatever an agent writes, every one of these readers has to see, in what the guard sends on, the call that was
// judged. What each reader would ask Deputy about the call that it sees is told here by hand, from the file of mappings, and compared with what the guard
// has asked.

// differentialMap is the file of mappings of these tests.
const differentialMap = `
version: 1
server: files
tool: {type: mcp_tool, permission: call}
prompt: {type: mcp_tool, permission: call}
tools:
  read: {checks: [{permission: read, type: file, id: path}], ignore: [note]}
  read_many: {checks: [{permission: read, type: file, id: "paths[]"}]}
  get: {checks: [{permission: read, type: number, id: number, kind: integer}]}
prompts:
  summary: {checks: [{permission: read, type: file, id: path}]}
resources:
  - {match: 'file:///(?P<path>.+)', checks: [{permission: read, type: file, id: path}]}
`

// members are an object as it is written. Other values are nil, bool, string, json.Number and []any.
type members []member

type member struct {
	name  string
	value any
}

// tree reads a text into a tree that keeps every member, with the tokens of encoding/json.
func tree(text []byte) (any, error) {
	decode := json.NewDecoder(bytes.NewReader(text))
	decode.UseNumber()
	v, err := subtree(decode)
	if err != nil {
		return nil, err
	}
	if _, err := decode.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows")
	}
	return v, nil
}

func subtree(decode *json.Decoder) (any, error) {
	token, err := decode.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for decode.More() {
			v, err := subtree(decode)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := decode.Token()
		return list, err
	case json.Delim('{'):
		object := members{}
		for decode.More() {
			name, err := decode.Token()
			if err != nil {
				return nil, err
			}
			v, err := subtree(decode)
			if err != nil {
				return nil, err
			}
			text, _ := name.(string)
			object = append(object, member{text, v})
		}
		_, err := decode.Token()
		return object, err
	}
	return token, nil
}

// reader is a program that reads JSON in its own way.
type reader struct {
	// same is what it takes for one name.
	same func(name string) string
	// first says that it takes the first of several members with one name.
	first bool
	// text is what it makes of a text, and number of a number.
	text   func(string) string
	number func(json.Number) string
}

var (
	asItIs   = func(text string) string { return text }
	asDigits = func(n json.Number) string { return n.String() }
	// folded are names as encoding/json matches them with the fields of a struct.
	folded = func(name string) string {
		return strings.Map(func(r rune) rune {
			for {
				next := unicode.SimpleFold(r)
				if next <= r {
					return next
				}
				r = next
			}
		}, name)
	}
	ended = func(text string) string { before, _, _ := strings.Cut(text, "\x00"); return before }
	// javaScript is how JavaScript makes a text of a number.
	javaScript = func(n json.Number) string {
		f, _ := strconv.ParseFloat(n.String(), 64)
		switch size := math.Abs(f); {
		case f == 0:
			return "0"
		case size < 1e21 && size >= 1e-6:
			return strconv.FormatFloat(f, 'f', -1, 64)
		}
		text := strconv.FormatFloat(f, 'e', -1, 64)
		return strings.NewReplacer("e-0", "e-", "e+0", "e+").Replace(text)
	}
)

// readers are programs as there are.
var readers = map[string]reader{
	"strict":                            {same: asItIs, text: asItIs, number: asDigits},
	"the first counts":                  {same: asItIs, first: true, text: asItIs, number: asDigits},
	"encoding/json, into a struct":      {same: folded, text: asItIs, number: asDigits},
	"any case, the first counts":        {same: folded, first: true, text: asItIs, number: asDigits},
	"JavaScript":                        {same: asItIs, text: asItIs, number: javaScript},
	"C, whose texts end at U+0000":      {same: ended, text: ended, number: asDigits},
	"C, of which the first names count": {same: ended, first: true, text: ended, number: asDigits},
}

// get is a member as the reader finds it.
func (r reader) get(v any, name string) (any, bool) {
	object, _ := v.(members)
	var found any
	has := false
	for _, m := range object {
		if r.same(m.name) == r.same(name) && (!has || !r.first) {
			found, has = m.value, true
		}
	}
	return found, has
}

func (r reader) at(v any, names ...string) any {
	for _, name := range names {
		v, _ = r.get(v, name)
	}
	return v
}

// words is a text or a number as the reader has it.
func (r reader) words(v any) string {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case json.Number:
		return r.number(v)
	default:
		return fmt.Sprintf("%T", v)
	}
}

// questions are what the reader would ask about the message that it sees; none where it sees no call.
func (r reader) questions(line []byte) (asks map[mapping.Ask]bool, err error) {
	message, err := tree(line)
	if err != nil {
		return nil, err
	}
	if r.at(message, "params", "__proto__") != nil {
		return nil, errors.New("the params have a prototype")
	}
	asks = map[mapping.Ask]bool{}
	file := func(v any) { asks[mapping.Ask{Type: "file", ID: r.words(v), Permission: "read"}] = true }
	arguments := r.at(message, "params", "arguments")
	known := []string{}
	switch method := r.words(r.at(message, "method")); method {
	case "tools/call", "prompts/get":
		name := r.words(r.at(message, "params", "name"))
		asks[mapping.Ask{Type: "mcp_tool", ID: "files/" + name, Permission: "call"}] = true
		switch {
		case method == "tools/call" && name == "read":
			known = []string{"path", "note"}
			file(r.at(arguments, "path"))
		case method == "prompts/get" && name == "summary":
			known = []string{"path"}
			file(r.at(arguments, "path"))
		case method == "tools/call" && name == "read_many":
			known = []string{"paths"}
			paths, _ := r.at(arguments, "paths").([]any)
			for _, one := range paths {
				file(one)
			}
		case method == "tools/call" && name == "get":
			known = []string{"number"}
			asks[mapping.Ask{Type: "number", ID: r.words(r.at(arguments, "number")), Permission: "read"}] = true
		default:
			return nil, fmt.Errorf("it sees a call of %q", name)
		}
	case "resources/read", "resources/subscribe":
		uri := r.words(r.at(message, "params", "uri"))
		path, ok := strings.CutPrefix(uri, "file:///")
		if !ok {
			return nil, fmt.Errorf("it sees the URI %q", uri)
		}
		file(path)
	default:
		return asks, nil
	}
	object, _ := arguments.(members)
	for _, m := range object {
		if !slices.ContainsFunc(known, func(name string) bool { return r.same(name) == r.same(m.name) }) {
			return nil, fmt.Errorf("it sees the argument %q", m.name)
		}
	}
	return asks, nil
}

// differential is a guard before a server that keeps what it gets.
type differential struct {
	toGuard io.WriteCloser
	toAgent <-chan string

	mu    sync.Mutex
	asked map[mapping.Ask]bool
	got   []string
}

// Ask implements mcp.Asker.
func (d *differential) Ask(_ context.Context, _ mcp.Call, asks []mapping.Ask) ([]mcp.Answer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	yes := make([]mcp.Answer, len(asks))
	for i, a := range asks {
		yes[i].Allowed, d.asked[a] = true, true
	}
	return yes, nil
}

// Refused implements mcp.Asker.
func (*differential) Refused(context.Context, mcp.Call, mcp.Refusal) error { return nil }

// newDifferential starts a guard that allows everything.
func newDifferential(t testing.TB) *differential {
	t.Helper()
	m, err := mapping.Decode("guard.yaml", []byte(differentialMap))
	if err != nil {
		t.Fatal(err)
	}
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	serverIn, toServer := io.Pipe()
	fromServer, serverOut := io.Pipe()
	d := &differential{toGuard: clientOut, toAgent: linesOf(clientIn), asked: map[mapping.Ask]bool{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	guard := mcp.New(mcp.Config{Map: m, Pins: &mcp.Pins{Version: 1, Server: "files"}, Ask: d, Timeout: 10 * time.Second})
	go func() {
		_ = guard.Serve(ctx, mcp.Streams{FromClient: fromClient, ToClient: toClient, FromServer: fromServer, ToServer: toServer})
		_ = toClient.Close()
		_ = toServer.Close()
	}()
	go func() {
		for line := range linesOf(serverIn) {
			var m struct {
				ID     json.RawMessage `json:"id"`
				Method string          `json:"method"`
			}
			_ = json.Unmarshal([]byte(line), &m)
			d.mu.Lock()
			if m.Method != "tools/list" {
				d.got = append(d.got, line)
			}
			d.mu.Unlock()
			answer := `{}`
			if m.Method == "tools/list" {
				answer = `{"tools":[]}`
			}
			if m.ID == nil {
				continue
			}
			if _, err := io.WriteString(serverOut, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":`+answer+"}\n"); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for _, one := range []io.Closer{clientOut, toClient, toServer, serverOut, fromClient, fromServer, clientIn, serverIn} {
			_ = one.Close()
		}
	})
	return d
}

// judge sends a line of an agent's through the guard, and compares what each reader sees of it with what was judged. It reports whether anything came
// through.
func (d *differential) judge(t testing.TB, line []byte) (through bool) {
	t.Helper()
	line = bytes.ReplaceAll(bytes.ReplaceAll(line, []byte("\n"), nil), []byte("\r"), nil)
	d.mu.Lock()
	d.got, d.asked = nil, map[mapping.Ask]bool{}
	d.mu.Unlock()
	// Once both are answered nothing of the line is on its way.
	for _, text := range []string{string(line), `{"jsonrpc":"2.0","id":"the end","method":"ping"}`} {
		if _, err := io.WriteString(d.toGuard, text+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	wanted := 1
	if expectsAnswer(line) {
		wanted = 2
	}
	for range wanted {
		select {
		case <-d.toAgent:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q is not answered", line)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, got := range d.got {
		if strings.Contains(got, `"method":"ping"`) && !strings.Contains(got, "params") {
			continue
		}
		through = true
		for name, r := range readers {
			asks, err := r.questions([]byte(got))
			if err != nil {
				t.Fatalf("%s: of %q the server gets %q, and %v", name, line, got, err)
			}
			for _, ask := range slices.Collect(maps.Keys(asks)) {
				if !d.asked[ask] {
					t.Fatalf("%s: of %q the server gets %q, which takes %q, and the guard asked %v", name, line, got, ask, d.asked)
				}
			}
		}
	}
	return through
}

// expectsAnswer reports whether the guard answers a line: what it cannot read it answers with an error. It only says what judge waits for.
func expectsAnswer(line []byte) bool {
	if len(line) == 0 {
		return false
	}
	m, err := jsonrpc.Parse(line, jsonrpc.FromClient())
	return err != nil || m.IsRequest()
}

// lines are what agents have broken gateways with, and what could.
var lines = []string{
	// CVE-2026-27896: encoding/json takes Name, and nameſ, for name.
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","Name":"get","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","argumentſ":{"path":"b"},"arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a","PATH":"b"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}`,
	// GHSA-q382-vc8q-7jhj: names that end in U+0000, and names twice.
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name\u0000":"get","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name":"get","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"},"arguments":{"path":"b"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a\u0000b"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read\u0000","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"__proto__":{"name":"get"},"name":"read","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"__proto__":{"path":"b"},"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"p\u0061th":"\u0061","note":"\ud83d\ude00"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"\ud800"}}}`,
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"read\",\"arguments\":{\"path\":\"\xff\"}}}",
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"read\",\"arguments\":{\"path\":\"a\xc0\xae\"}}}",
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","arguments":{"number":9007199254740993}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","arguments":{"number":1e2}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","arguments":{"number":-0}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","arguments":{"number":1.0000000000000000001}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","arguments":{"number":1e400}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_many","arguments":{"paths":["a","b","a"]}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_many","arguments":{"paths":{"0":"a"}}}}`,
	`{"jsonrpc":"2.0","id":"1","method":"resources/read","params":{"uri":"file:///a","URI":"file:///b"}}`,
	`{"jsonrpc":"2.0","id":"1","method":"resources/read","params":{"uri":"file:///a"}}`,
	`{"jsonrpc":"2.0","id":"1","method":"prompts/get","params":{"name":"summary","arguments":{"path":"a"}}}`,
	`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}]`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}{"jsonrpc":"2.0","id":2,"method":"ping"}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a",}}}`,
	"\xef\xbb\xbf" + `{"jsonrpc":"2.0","id":1,"method":"ping"}`,
	`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"read","arguments":{"path":"a"}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"path":"a"},"_meta":{"name":"get"}}}`,
}

// FuzzDifferentials looks for lines of which a server sees another call than the guard.
func FuzzDifferentials(f *testing.F) {
	for _, line := range lines {
		f.Add([]byte(line))
	}
	d := newDifferential(f)
	f.Fuzz(func(t *testing.T, line []byte) { d.judge(t, line) })
}

// TestDifferentials draws calls that are spelled in odd ways. DEPUTY_DIFFERENTIAL_LINES says how many.
func TestDifferentials(t *testing.T) {
	t.Parallel()
	many := 4000
	if text := os.Getenv("DEPUTY_DIFFERENTIAL_LINES"); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	d, through := newDifferential(t), 0
	for _, line := range lines {
		d.judge(t, []byte(line))
	}
	for n := range many {
		line := odd{random}.line()
		if d.judge(t, []byte(line)) {
			through++
		}
		if t.Failed() {
			t.Fatalf("seed %d, line %d", seed, n)
		}
	}
	if through < many/20 || through > many*19/20 {
		t.Errorf("of %d lines %d came through: the others, or these, are not tested", many, through)
	}
}

// odd writes messages in odd ways.
type odd struct{ *rand.Rand }

func (o odd) pick(from ...string) string { return from[o.IntN(len(from))] }

// text writes a text as JSON, with escapes where none are needed.
func (o odd) text(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case o.IntN(12) == 0 && r < 0x10000:
			_, _ = fmt.Fprintf(&b, `\u%04x`, r)
		case r == '"' || r == '\\' || r < ' ':
			_, _ = fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// name is a name, or one that some programs take for it.
func (o odd) name(name string) string {
	switch o.IntN(40) {
	case 0:
		return strings.ToUpper(name)
	case 1:
		return strings.Replace(name, "s", "ſ", 1)
	case 2:
		return name + "\x00"
	case 3:
		return strings.Replace(name, "k", "\u212a", 1)
	case 4:
		return "__proto__"
	case 5:
		return strings.ToUpper(name[:1]) + name[1:]
	}
	return name
}

// object writes members, some of them twice.
func (o odd) object(list ...[2]string) string {
	var parts []string
	for _, m := range list {
		parts = append(parts, o.text(o.name(m[0]))+o.pick(":", " : ")+m[1])
		if o.IntN(25) == 0 {
			parts = append(parts, o.text(o.name(m[0]))+":"+o.value())
		}
	}
	o.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return "{" + strings.Join(parts, ",") + "}"
}

// value is any value.
func (o odd) value() string {
	return o.pick(o.path(), o.number(), "null", "true", "[]", "{}", `["a"]`, `{"path":"b"}`, o.text("read"), o.text("get"))
}

func (o odd) path() string {
	return o.text(o.pick("a", "b", "a/b", "ä", "a\u0308", "a b", "%61", "A", "a\x00b", "😀", "a\u2028"))
}

func (o odd) number() string {
	return o.pick("1", "-1", "0", "-0", "1.0", "1e2", "1E+2", "100", "0.1", "9007199254740991", "9007199254740992", "9007199254740993", "1e21", "1e400", "01", "1.50", "123456789012345680000")
}

func (o odd) line() string {
	method, name := "tools/call", o.pick("read", "read_many", "get", "summary", "other")
	var arguments string
	switch name {
	case "read":
		arguments = o.object([2]string{"path", o.path()}, [2]string{"note", o.value()})
	case "read_many":
		arguments = o.object([2]string{"paths", "[" + o.path() + "," + o.path() + "]"})
	case "get":
		arguments = o.object([2]string{"number", o.number()})
	case "summary":
		method = "prompts/get"
		arguments = o.object([2]string{"path", o.path()})
	default:
		arguments = o.value()
	}
	params := o.object([2]string{"name", o.text(name)}, [2]string{"arguments", arguments})
	if o.IntN(8) == 0 {
		method = o.pick("resources/read", "resources/subscribe")
		params = o.object([2]string{"uri", o.text("file:///" + o.pick("a", "b", "a/../b", "%61", "ä"))})
	}
	return o.object([2]string{"jsonrpc", `"2.0"`}, [2]string{"id", o.pick("1", `"x"`, "1.5", "null", "-7")}, [2]string{"method", o.text(method)}, [2]string{"params", params}) +
		o.pick("", "", "", "", "", " ", "\t", "x", "{}")
}
