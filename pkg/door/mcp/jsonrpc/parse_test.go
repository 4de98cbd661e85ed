package jsonrpc_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// call is a tool call with arguments.
func call(arguments string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":` + arguments + `}}`
}

// refused are messages that an agent may not send, each with a part of what it is told.
var refused = map[string]string{
	// Two readings of one name.
	call(`{"path":"/a","path":"/b"}`):                     `has the name "path" twice`,
	call(`{"path":"/a","\u0070ath":"/b"}`):                `has the name "path" twice`,
	call(`{"path":"/a","Path":"/b"}`):                     `"path" and "Path", which some programs take for the same`,
	call(`{"task":"/a","taſk":"/b"}`):                     `which some programs take for the same`,
	call(`{"key":"/a","` + "\u212a" + `ey":"/b"}`):        `which some programs take for the same`,
	call(`[{"deep":[{"a":1,"A":2}]}]`):                    `which some programs take for the same`,
	call(`{"path\u0000":"/b"}`):                           `holds the character U+0000`,
	call(`{"path":"/a\u0000.txt"}`):                       `holds the character U+0000`,
	call(`{"__proto__":{"path":"/b"}}`):                   `__proto__`,
	`{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}`:  `which some programs take for the same`,
	`{"jsonrpc":"2.0","id":1,"method":"a","METHODS":"b"}`: `the message has "METHODS"`,
	`{"jsonrpc":"2.0","ID":1,"method":"a"}`:               `the message has "ID"`,
	`{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}`:        `has the name "id" twice`,
	`{"jsonrpc":"2.0","id":1,"method":"a","result":{}}`:   `one of a request`,
	`{"jsonrpc":"2.0","id":1,"params":{}}`:                `one of a request`,
	`{"jsonrpc":"2.0","id":1,"method":"a","params":[]}`:   `params has to be an object, not a list`,
	`{"jsonrpc":"2.0","id":1,"method":"a","params":null}`: `params has to be an object, not null`,
	`{"jsonrpc":"2.0","id":1.5,"method":"a"}`:             `id has to be`,
	`{"jsonrpc":"2.0","id":null,"method":"a"}`:            `id has to be`,
	`{"jsonrpc":"2.0","id":1,"method":""}`:                `method has to be`,
	`{"jsonrpc":"2.0","id":1,"method":["a"]}`:             `method has to be`,
	`{"jsonrpc":2.0,"id":1,"method":"a"}`:                 `jsonrpc has to be`,
	`{"id":1,"method":"a"}`:                               `jsonrpc has to be`,
	`[{"jsonrpc":"2.0","id":1,"method":"a"}]`:             `batch`,
	`"a"`: `has to be an object, not a text`,
	// Numbers.
	call(`{"id":9007199254740993}`): `beyond 2^53`,
	call(`{"id":1e400}`):            `out of the range`,
	call(`{"id":-1e16}`):            `beyond 2^53`,
	// No JSON, or more than one value.
	call(`{"path":"/a"}`) + call(`{"path":"/b"}`): `follows the message`,
	call(`{"path":"/a"}`) + "x":                   `follows the message`,
	call(`{"path":'/a'}`):                         `not valid JSON`,
	call(`{"path":"/a",}`):                        `not valid JSON`,
	call(`{"path":"/a"/**/}`):                     `not valid JSON`,
	call(`{"path":NaN}`):                          `not valid JSON`,
	call(`{"path":01}`):                           `not valid JSON`,
	call("{\"path\":\"\xff\"}"):                   `not valid JSON`,
	call("{\"path\":\"\xc0\xaf\"}"):               `not valid JSON`,
	call(`{"path":"\ud800"}`):                     `not valid JSON`,
	call("{\"path\":\"a\x01b\"}"):                 `not valid JSON`,
	"\ufeff" + call(`{}`):                         `not valid JSON`,
	"":                                            `not valid JSON`,
	call(strings.Repeat("[", 70) + strings.Repeat("]", 70)): `more than 64 deep`,
	call("[" + strings.Repeat("0,", 100_000) + "0]"):        `more than 100000 values`,
	call(`{"text":"` + strings.Repeat("x", 4<<20) + `"}`):   `more than 4194304 bytes`,
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for text, want := range refused {
		_, err := jsonrpc.Parse([]byte(text), jsonrpc.FromClient())
		problem, ok := errors.AsType[*jsonrpc.Problem](err)
		if !ok || !strings.Contains(problem.Message, want) || problem.Code == 0 {
			t.Errorf("%.120q: %v, want %q", text, err, want)
		}
	}
}

// TestRefusedIsAnswered: a request that is refused gets its answer where its id is beyond doubt.
func TestRefusedIsAnswered(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		call(`{"path":"/a","Path":"/b"}`):              "1",
		`{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}`: "null",
		`{"jsonrpc":"2.0","id":1,"Id":2,"method":"a"}`: "null",
		`{"jsonrpc":"2.0","method":"a","params":[]}`:   "null",
		call(`{"path":`): "null",
	} {
		_, err := jsonrpc.Parse([]byte(text), jsonrpc.FromClient())
		problem, ok := errors.AsType[*jsonrpc.Problem](err)
		if !ok || problem.ID.String() != want {
			t.Errorf("%s: id %v, want %s", text, problem.ID, want)
		}
	}
}

// accepted are messages as they come, and as they are sent on.
var accepted = map[string]string{
	call(`{ "path" : "\u002fa" }`):                                          call(`{"path":"/a"}`),
	call(`{"n":[1.0,1e2,-0,0.10,1E-7,5e-324,0.1000000000000000055]}`):       call(`{"n":[1,100,0,0.1,1e-7,5e-324,0.1]}`),
	call(`{"t":"\u00e9\ud83d\ude00\/\u2028<&>\n"}`):                         call(`{"t":"é😀/` + "\u2028" + `<&>\n"}`),
	call(`{"a":{"b":[true,false,null,{}]},"c":[]}`):                         call(`{"a":{"b":[true,false,null,{}]},"c":[]}`),
	`{"method":"a","jsonrpc":"2.0"}`:                                        `{"jsonrpc":"2.0","method":"a"}`,
	`{"jsonrpc":"2.0","id":"x","result":{"b":1,"a":2}}`:                     `{"jsonrpc":"2.0","id":"x","result":{"b":1,"a":2}}`,
	`{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"m","data":[1]}}`: `{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"m","data":[1]}}`,
	`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}`:         `{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}`,
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	for text, want := range accepted {
		m, err := jsonrpc.Parse([]byte(text), jsonrpc.FromClient())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := string(m.Append(nil)); got != want {
			t.Errorf("%s is sent on as\n%s, want\n%s", text, got, want)
		}
	}
}

// TestServersData: the data of a server passes as it is, and what its envelope and its members are called stays unambiguous.
func TestServersData(t *testing.T) {
	t.Parallel()
	data := `{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{"a":12345678901234567890,"A":1.0,"t":"\u0000"}}}`
	m, err := jsonrpc.Parse([]byte(data), jsonrpc.FromServer())
	if err != nil || string(m.Append(nil)) != data {
		t.Errorf("%v, %v", m, err)
	}
	for _, text := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{"tools":[],"Tools":[{}]}}`,
		`{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"x":{"a":1,"a":2}}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"x":{"a\u0000":1}}}`,
	} {
		if m, err := jsonrpc.Parse([]byte(text), jsonrpc.FromServer()); err == nil {
			t.Errorf("%s is accepted: %s", text, m.Append(nil))
		}
	}
}

// lenient is how a server with Go's encoding/json reads a call.
type lenient struct {
	ID     any    `json:"id"`
	Method string `json:"method"`
	Params struct {
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
		URI       string         `json:"uri"`
	} `json:"params"`
	Result any `json:"result"`
}

// agrees fails where a lenient reader of what is sent on sees anything but what was judged.
func agrees(t *testing.T, m *jsonrpc.Message) {
	sent := m.Append(nil)
	var got any
	if err := json.Unmarshal(sent, &got); err != nil {
		t.Fatalf("%s cannot be read: %v", sent, err)
	}
	judged, err := jsonrpc.ParseValue(sent, jsonrpc.FromClient())
	if err != nil {
		t.Fatalf("%s is sent on, and would be refused: %v", sent, err)
	}
	if string(judged.Append(nil)) != string(sent) || !reflect.DeepEqual(judged.Any(), got) {
		t.Fatalf("%s is judged as %v and read as %v", sent, judged.Any(), got)
	}
	var read lenient
	if json.Unmarshal(sent, &read) != nil {
		return // a member of another kind, which both see
	}
	name, _ := m.Params.At("name").Text()
	uri, _ := m.Params.At("uri").Text()
	if read.Method != m.Method {
		t.Fatalf("%s: the method is judged as %q and read as %q", sent, m.Method, read.Method)
	}
	// Names of parameters that the protocol knows are refused where they differ in case alone: see the table of methods.
	for _, member := range m.Params.Members() {
		for _, known := range []string{"name", "arguments", "uri"} {
			if member.Name != known && strings.EqualFold(member.Name, known) {
				return
			}
		}
	}
	if read.Params.Name != name || read.Params.URI != uri {
		t.Fatalf("%s: name and uri are judged as %q and %q, and read as %q and %q", sent, name, uri, read.Params.Name, read.Params.URI)
	}
	arguments, _ := m.Params.At("arguments").Any().(map[string]any)
	if len(arguments)+len(read.Params.Arguments) > 0 && !reflect.DeepEqual(arguments, read.Params.Arguments) {
		t.Fatalf("%s: arguments are judged as %v and read as %v", sent, arguments, read.Params.Arguments)
	}
}

// FuzzParse compares what is judged with what Go's lenient parser makes of what is sent on.
func FuzzParse(f *testing.F) {
	for text := range refused {
		if len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	for text := range accepted {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := jsonrpc.Parse(text, jsonrpc.FromClient())
		if err == nil {
			agrees(t, m)
		}
		if m, err := jsonrpc.Parse(text, jsonrpc.FromServer()); err == nil {
			if again, err := jsonrpc.Parse(m.Append(nil), jsonrpc.FromServer()); err != nil || !reflect.DeepEqual(m, again) {
				t.Fatalf("%q is sent on as %s, which is another message: %v", text, m.Append(nil), err)
			}
		}
	})
}

// TestNode compares what is judged with what JavaScript reads, for numbers, texts and names of every kind.
func TestNode(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("node")
	if err != nil {
		pgtest.Skip(t, "Node.js is missing: install node")
	}
	cmd := exec.CommandContext(t.Context(), program, "-e", `
		require("readline").createInterface({input: process.stdin}).on("line", l => console.log(JSON.stringify(JSON.parse(l))))`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	texts := []string{
		call(`{"n":[0.1,1e-7,0.000001,123456789.125,9007199254740991,-9007199254740991,5e-324,333333333.33333329,4.50,2e-3,-0,-0.0,1e-400]}`),
		call(`{"t":"\u2028\u2029\u007f\u0080\ud83d\ude00\"\\\b\f\n\r\t\u0001","constructor":1,"toString":{"prototype":[]}}`),
	}
	for text := range accepted {
		texts = append(texts, text)
	}
	for _, text := range texts {
		m, err := jsonrpc.Parse([]byte(text), jsonrpc.FromClient())
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		sent := m.Append(nil)
		if _, err := in.Write(append(sent, '\n')); err != nil || !lines.Scan() {
			t.Fatalf("node: %v, %v", err, lines.Err())
		}
		if got := lines.Text(); got != string(sent) {
			t.Errorf("%s is judged, and JavaScript reads\n%s", sent, got)
		}
	}
}

// TestAroundID: a text with another id between what is around it is the same message with that id.
func TestAroundID(t *testing.T) {
	t.Parallel()
	for text, has := range map[string]bool{
		`{"jsonrpc":"2.0","id":1,"result":{"id":2}}`:                                  true,
		"{\t\"result\" : {\"id\":[{\"id\":3}]} , \"id\" : 17 , \"jsonrpc\":\"2.0\" }": true,
		`{"result":{"a":"\"id\":4"},"\u0069d":"x","jsonrpc":"2.0"}`:                   true,
		`{"jsonrpc":"2.0","method":"x","params":{"id":1}}`:                            false,
		`[{"id":1}]`: false,
	} {
		before, behind, ok := jsonrpc.AroundID([]byte(text))
		if ok != has {
			t.Errorf("%s has an id: %t", text, ok)
		}
		if !ok {
			continue
		}
		of, err := jsonrpc.Parse([]byte(text), jsonrpc.FromServer())
		if err != nil {
			t.Fatal(err)
		}
		other, err := jsonrpc.Parse([]byte(string(before)+`"another"`+string(behind)), jsonrpc.FromServer())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if same := other.Result.String() == of.Result.String(); !same || other.ID != jsonrpc.TextID("another") {
			t.Errorf("%s comes to %s", text, other.Append(nil))
		}
	}
}

// TestFold: names that encoding/json takes for each other fold to one, and others do not.
func TestFold(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"name", "NAME"}, {"tasks", "taſks"}, {"key", "\u212aey"}, {"Σ", "ς"}} {
		if jsonrpc.Fold(pair[0]) != jsonrpc.Fold(pair[1]) || !strings.EqualFold(pair[0], pair[1]) {
			t.Errorf("%q and %q differ", pair[0], pair[1])
		}
	}
	if jsonrpc.Fold("name") == jsonrpc.Fold("names") {
		t.Error("name is names")
	}
}

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestWeight: a text weighs for each of its values, wherever it is cut, and what is within a string is no value.
func TestWeight(t *testing.T) {
	t.Parallel()
	const perByte, perValue = 4, 150
	for text, values := range map[string]int{
		`[0,0,0]`: 3, `{"a":[{},{}],"b":{}}`: 7, `"[,{"`: 0, `["\",[",0]`: 2, `["\\",0]`: 2, "": 0,
		": \"\ndata: [0,0]": 2, "\"\\\n[0,\"\n[0,0]": 4, // where no string can be, as between the events of a stream
	} {
		want := perByte*len(text) + perValue*values
		if got := jsonrpc.Weight([]byte(text)); got != want {
			t.Errorf("%q weighs %d, want %d", text, got, want)
		}
		for cut := range text {
			var w jsonrpc.Weigher
			if got := w.Add([]byte(text[:cut])) + w.Add([]byte(text[cut:])); got != want {
				t.Errorf("%q, cut at %d, weighs %d, want %d", text, cut, got, want)
			}
		}
	}
}
