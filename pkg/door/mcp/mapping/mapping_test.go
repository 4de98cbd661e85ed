package mapping_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
)

const desk = `
version: 1
server: desk
tool: {type: mcp_tool, permission: call}
tools:
  get_ticket:
    checks: [{permission: view, type: ticket, id: id}]
    ignore: [verbose, format.style]
  get_numbered: {checks: [{permission: view, type: ticket, id: n, kind: integer}]}
  get_tickets: {checks: [{permission: view, type: ticket, id: "ids[]"}]}
  link:
    checks:
      - {permission: edit, type: issue, id: [owner, repo, "to[].number"]}
      - {permission: view, type: label, id: "to[].labels[]", optional: true}
    ignore: ["to[].note"]
  comment:
    checks:
      - {permission: comment, type: ticket, cel: "args.ref.split('#')[1]", reads: [ref]}
      - {permission: use, type: feature, object: comments}
    ignore: [text]
  costly: {checks: [{permission: view, type: ticket, cel: "args.l.map(a, args.l.map(b, args.l.map(c, a + b + c)))[0][0]", reads: [l]}]}
  maybe: {checks: [{permission: view, type: ticket, id: id, optional: true}]}
  nothing: {}
prompts:
  greet: {checks: [{permission: view, type: ticket, id: id}, {permission: use, type: feature, object: prompts}]}
resources:
  - {match: "desk://ticket/(?P<id>[0-9]+)", checks: [{permission: view, type: ticket, id: id}]}
  - {match: "desk://(?P<kind>ticket|queue)/1(?P<rest>.*)x", checks: [{permission: view, type: queue, id: [kind, rest]}]}
  - {match: "desk://ticket/.*y", checks: [{permission: view, type: feature, object: all}]}
  - {match: "desk://box/(?P<box>[a-z]+)/.*", checks: [{permission: view, type: box, id: box}]}
  - {match: "desk://ticket/z?y", checks: [{permission: view, type: feature, object: all}]}
`

func decode(t *testing.T, text string) *mapping.Map {
	t.Helper()
	m, err := mapping.Decode("guard.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func value(t *testing.T, text string) jsonrpc.Value {
	t.Helper()
	v, err := jsonrpc.ParseValue([]byte(text), jsonrpc.FromClient())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// said is what asks, or an error, come to in a test's table.
func said(asks []mapping.Ask, err error) string {
	if err != nil {
		if _, ok := errors.AsType[*mapping.Refusal](err); !ok {
			return "no refusal: " + err.Error()
		}
		return err.Error()
	}
	return strings.Trim(fmt.Sprint(asks), "[]")
}

func TestCalls(t *testing.T) {
	t.Parallel()
	m := decode(t, desk)
	for _, test := range []struct{ tool, arguments, want string }{
		{"get_ticket", `{"id":"1001"}`, "call mcp_tool:desk/get_ticket view ticket:1001"},
		{"get_ticket", `{"id":"1001","verbose":{"any":[1]},"format":{"style":1}}`, "call mcp_tool:desk/get_ticket view ticket:1001"},
		{"get_ticket", `{}`, "The argument id is missing."},
		{"get_ticket", `null`, "The argument id is missing."},
		{"get_ticket", `[]`, "The arguments have to be an object, not a list."},
		{"get_ticket", `{"id":1001}`, "The argument id has to be a text, not a number."},
		{"get_ticket", `{"id":null}`, "The argument id has to be a text, not null."},
		{"get_ticket", `{"id":["1001"]}`, "The argument id has to be a text, not a list."},
		{"get_ticket", `{"id":""}`, "The argument id is empty."},
		{"get_ticket", `{"id":"*"}`, `The argument id cannot be the id of an object: it must name one object, not "*".`},
		{"get_ticket", `{"id":"a\u200bb"}`, "The argument id cannot be the id of an object: it contains the invisible character U+200B."},
		{"get_ticket", `{"id":"1","Id":"2"}`, "The argument Id is not mapped: nothing says what it may be. Leave it out."}, // refused by Parse already
		{"get_ticket", `{"id":"1","ID ":"2"}`, "The argument ID  is not mapped: nothing says what it may be. Leave it out."},
		{"get_ticket", `{"id":"1","format":{"other":1}}`, "The argument format.other is not mapped: nothing says what it may be. Leave it out."},
		{"get_ticket", `{"id":"1","format":"style"}`, "The argument format has to be an object or a list, not a text."},
		{"get_ticket", `{"id":"1","format":[{"style":1}]}`, "The argument format[] is not mapped: nothing says what it may be. Leave it out."},
		{"get_numbered", `{"n":7.0}`, "call mcp_tool:desk/get_numbered view ticket:7"},
		{"get_numbered", `{"n":7.5}`, "The argument n has to be a whole number, not a number."},
		{"get_numbered", `{"n":"7"}`, "The argument n has to be a whole number, not a text."},
		{"get_tickets", `{"ids":["1","2","1"]}`, "call mcp_tool:desk/get_tickets view ticket:1 view ticket:2"},
		{"get_tickets", `{"ids":[]}`, "The argument ids is an empty list."},
		{"get_tickets", `{"ids":"1"}`, "The argument ids has to be an object or a list, not a text."},
		{"get_tickets", `{"ids":{"0":"1"}}`, "The argument ids.0 is not mapped: nothing says what it may be. Leave it out."},
		{"get_tickets", `{"ids":["1",["2"]]}`, "The argument ids[1] has to be a text, not a list."},
		{"get_tickets", `{"ids":["1",2]}`, "The argument ids[1] has to be a text, not a number."},
		{"get_tickets", `{"ids":["` + strings.Repeat(`1","`, 1000) + `1"]}`, "The call is about more than 1000 objects. Make several calls."},
		{"link", `{"owner":"a/b","repo":"c%","to":[{"number":"1","note":7},{"number":"2","labels":["x","y"]}]}`,
			"call mcp_tool:desk/link edit issue:a%2Fb/c%25/1 edit issue:a%2Fb/c%25/2 view label:x view label:y"},
		{"link", `{"owner":"a","repo":"b","to":[{"number":"1"},{"note":7}]}`, "The argument to[1].number is missing."},
		{"link", `{"owner":"a","to":[{"number":"1"}]}`, "The argument repo is missing."},
		{"comment", `{"ref":"desk#7","text":"hi"}`, "call mcp_tool:desk/comment use feature:comments comment ticket:7"},
		{"comment", `{"ref":"desk","text":"hi"}`, "The arguments ref have no object: the mapping's expression came to nothing."},
		{"comment", `{"ref":7}`, "The arguments ref have no object: the mapping's expression came to nothing."},
		{"comment", `{"ref":"desk#"}`, "The argument ref cannot be the id of an object: it is empty."},
		{"costly", `{"l":["` + strings.Repeat(`1","`, 200) + `1"]}`, "The arguments l have no object: the mapping's expression came to nothing."},
		{"maybe", `{}`, "call mcp_tool:desk/maybe"},
		{"maybe", `{"id":null}`, "The argument id has to be a text, not null."},
		{"nothing", `{"x":1}`, "The argument x is not mapped: nothing says what it may be. Leave it out."},
		{"delete_all", `{}`, `There is no tool "delete_all".`},
		{"Get_ticket", `{"id":"1"}`, `There is no tool "Get_ticket".`},
		{"greet", `{"id":"1"}`, `There is no tool "greet".`},
	} {
		rules := jsonrpc.FromClient()
		rules.FoldDepth = 0
		arguments, err := jsonrpc.ParseValue([]byte(test.arguments), rules)
		if err != nil {
			t.Fatal(err)
		}
		call, err := m.CallTool(test.tool, arguments)
		var asks []mapping.Ask
		if call != nil {
			asks = call.Asks
		}
		if got := said(asks, err); got != test.want {
			t.Errorf("%s %.80s:\n%s, want\n%s", test.tool, test.arguments, got, test.want)
		}
	}
}

// TestListIsPartOfTheCall: what decides whether a tool is listed is asked for each call too.
func TestListIsPartOfTheCall(t *testing.T) {
	t.Parallel()
	m := decode(t, desk)
	for name, want := range map[string]string{
		"comment": "call mcp_tool:desk/comment use feature:comments", "get_ticket": "call mcp_tool:desk/get_ticket", "delete_all": "",
	} {
		asks, mapped := m.ListTool(name)
		if got := said(asks, nil); got != want || mapped != (want != "") {
			t.Errorf("%s: %s %v, want %s", name, got, mapped, want)
		}
	}
	if asks, _ := m.ListPrompt("greet"); said(asks, nil) != "use feature:prompts" {
		t.Error(asks)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	m := decode(t, desk)
	for uri, want := range map[string]string{
		"desk://ticket/7":           "view ticket:7",
		"desk://queue/1a/b%x":       "The URI has an escape",
		"desk://queue/1a/bx":        "view queue:queue/a%2Fb",
		"desk://ticket/7/":          "There is no resource",
		"xdesk://ticket/7":          "There is no resource",
		"desk://ticket/7\nx":        "The URI has an escape",
		"DESK://ticket/7":           "There is no resource",
		"desk://ticket/%37":         "The URI has an escape",
		"desk://ticket/../ticket/7": "The URI has an escape",
		"desk://ticket/zy":          "mapped twice",
		// Node.js's URL leads out of the box a with each of these.
		"desk://box/a/b":                 "view box:a",
		"desk://box/a/.\t./b/7":          "The URI has an escape",
		"desk://box/a/.\r./b/7":          "The URI has an escape",
		"desk://box/a/..?7":              "The URI has an escape",
		"desk://box/a/..#7":              "The URI has an escape",
		"desk://box/a/.. ":               "The URI has an escape",
		"desk://box/a/.\u200b./b":        "The URI has an escape",
		"desk://box/a/b c":               "view box:a",
		"desk:..x":                       "There is no resource",
		"desk://queue/1a/e\u0301x":       "NFC",
		"desk://queue/1a/...x/b..x/..bx": "view queue:queue/a%2F...x%2Fb..x%2F..b",
	} {
		asks, err := m.ReadResource(uri)
		if got := said(asks, err); !strings.Contains(got, want) || (err == nil) != (got == want) {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}

// TestJoinedIDsAreInjective: other parts make another id.
func TestJoinedIDsAreInjective(t *testing.T) {
	t.Parallel()
	m := decode(t, `
version: 1
server: s
tools: {t: {checks: [{permission: read, type: repo, id: [a, b]}, {permission: use, type: feature, object: all}]}}
`)
	part := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "/", "%2F", "%25", "%252F"}), 1, 2), func(of []string) string {
		return strings.Join(of, "")
	})
	rapid.Check(t, func(t *rapid.T) {
		ids := map[bool]string{}
		b := part.Draw(t, "b")
		pairs := [2][2]string{{part.Draw(t, "a"), b}, {part.Draw(t, "c"), b}}
		for i, pair := range pairs {
			call, err := m.CallTool("t", jsonrpc.ObjectOf(
				jsonrpc.Member{Name: "a", Value: jsonrpc.Text(pair[0])}, jsonrpc.Member{Name: "b", Value: jsonrpc.Text(pair[1])}))
			if err != nil {
				t.Fatal(err)
			}
			ids[i == 0] = call.Asks[1].ID
		}
		if (ids[true] == ids[false]) != (pairs[0] == pairs[1]) {
			t.Fatalf("%q: %v", pairs, ids)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	head := "version: 1\nserver: s\ntool: {type: mcp_tool, permission: call}\n"
	for text, want := range map[string]string{
		"":                               "is empty",
		"version: 2\nserver: s":          "version: has to be 1",
		head + "tolls: {}":               `guard.yaml:4: there is no "tolls" here; did you mean`,
		head + "tools: {a: {check: []}}": `there is no "check" here; did you mean checks?`,
		head + "tools: {a: {}, a: {}}":   `already defined`,
		head + "---\nx: 1":               "more than one YAML document",
		head + "allow: [everything]":     `allow: has "everything"; it can have completion`,
		"version: 1\nserver: s\ntools: {a: {checks: [{permission: read, type: file, id: p}]}}":                                              "tools.a: has no check that needs no argument",
		head + "tools: {a: {checks: [{permission: read, type: file}]}}":                                                                     "tools.a.checks[0]: needs exactly one of",
		head + "tools: {a: {checks: [{permission: read, type: agent, id: p}]}}":                                                             "a type of Deputy's core",
		head + "tools: {a: {checks: [{permission: read, type: Fi le, id: p}]}}":                                                             "type is",
		head + "tools: {a: {checks: [{permission: read, type: file, id: 'p[0]'}]}}":                                                         `has "p[0]"; write an argument as`,
		head + "tools: {a: {checks: [{permission: read, type: file, id: ['p[]', 'q[]']}]}}":                                                 "two lists",
		head + "tools: {a: {checks: [{permission: read, type: file, cel: 'args.', reads: [a]}]}}":                                           "is no expression",
		head + "tools: {a: {checks: [{permission: read, type: file, cel: '1', reads: [a]}]}}":                                               "makes a int",
		head + "tools: {a: {checks: [{permission: read, type: file, cel: 'args.b'}]}}":                                                      "cel and reads go together",
		head + "tools: {a: {checks: [{permission: read, type: file, id: p.q}], ignore: [p]}}":                                               "has p, and a check is about p.q",
		head + "tools: {a: {checks: [{permission: read, type: file, id: p, canonical: {root: x}}]}}":                                        "root is",
		head + "tools: {a: {checks: [{permission: read, type: file, id: p, canonical: {root: /none/such, shared: true}}]}}":                 "is not there",
		head + "tools: {a: {checks: [{permission: read, type: file, id: p, canonical: {root: /}}, {permission: read, type: file, id: p}]}}": "give both canonical",
		head + "resources: [{match: 'a(b)', checks: [{permission: read, type: file, object: x}]}]":                                          "a group without a name",
		head + "resources: [{match: 'a(?P<b>b)', checks: [{permission: read, type: file, id: c}]}]":                                         "no named group",
		head + "tools: {a: {results: [{in: content, permission: read, type: file, lines: 'a'}]}}":                                           "with the group",
		head + "tools: {a: {results: [{in: other, permission: read, type: file, lines: '(?P<id>a)'}]}}":                                     "has to be content",
		head + "tools: {a: {results: [{in: 'structuredContent.a', permission: read, type: file}]}}":                                         "needs lines for a text",
	} {
		_, err := mapping.Decode("guard.yaml", []byte(text))
		problem, ok := errors.AsType[*mapping.Problem](err)
		if !ok || !strings.Contains(problem.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestPaths: what a path comes to is where the system leads to, and what leads out, or has two readings, is refused.
func TestPaths(t *testing.T) {
	t.Parallel()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(top, "root")
	for _, dir := range []string{"root/alice/deep", "root/bob", "outside"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"root/alice/a.txt", "root/bob/b.txt", "outside/o.txt"} {
		if err := os.WriteFile(filepath.Join(top, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"root/alice/tobob": "../bob", "root/alice/out": "../../outside", "root/alice/deepest": "../bob/b.txt", "root/alice/dangling": "nowhere",
		"root/alice/loop": "loop", "rootlink": "root", "root/alice/i\u0301": "../bob", "root/alice/\u212a": "../bob",
	} {
		if err := os.Symlink(to, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	file := func(extra string) *mapping.Map {
		return decode(t, fmt.Sprintf(`
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools: {read: {checks: [{permission: read, type: file, id: path, canonical: {root: %s%s}}]}}
`, root, extra))
	}
	for _, test := range []struct{ extra, path, id, sent string }{
		{", shared: true", "alice/a.txt", "alice/a.txt", "alice/a.txt"},
		{", shared: true", root + "/alice/a.txt", "alice/a.txt", "alice/a.txt"},
		{", shared: true", "alice//deep/.././a.txt/", "alice/a.txt", "alice/a.txt"},
		{", shared: true", top + "/rootlink/alice/a.txt", "alice/a.txt", "alice/a.txt"},
		{", shared: true", "alice/tobob/b.txt", "bob/b.txt", "bob/b.txt"},
		{", shared: true", "alice/deepest", "bob/b.txt", "bob/b.txt"},
		{", shared: true", "alice/new/er.txt", "alice/new/er.txt", "alice/new/er.txt"},
		{", shared: true, parent: true", "alice/new.txt", "alice", "alice/new.txt"},
		{", shared: true, parent: true", "alice/tobob/new.txt", "bob", "bob/new.txt"},
		{", shared: true, depth: 1", "alice/deep/x.txt", "alice", "alice/deep/x.txt"},
		{", shared: true", ".", ".", ""},
		{", shared: true, parent: true", ".", "the server's folder itself", ""},
		{", shared: true", "alice/out/o.txt", "lies outside", ""},
		{", shared: true", "../outside/o.txt", "lies outside", ""},
		{", shared: true", top + "/outside/o.txt", "lies outside", ""},
		{", shared: true", root + "x", "lies outside", ""},
		{", shared: true", "alice/tobob/../a.txt", "behind a symbolic link", ""},
		{", shared: true", "alice/none/../../bob/b.txt", "not there", ""},
		{", shared: true", "alice/dangling", "to nowhere", ""},
		{", shared: true", "alice/loop", "to nowhere", ""},
		{", shared: true", `alice\a.txt`, "backslash", ""},
		{", shared: true", "~/a.txt", "~", ""},
		{", shared: true", "alice/e\u0301.txt", "NFC", ""},
		// Some servers open what has the same text to Unicode where they do not find a name.
		{", shared: true", "alice/\u00ed/b.txt", "another form of Unicode", ""},
		{", shared: true", "alice/K/b.txt", "another form of Unicode", ""},
		{", shared: true", "alice/\u00ec/b.txt", "alice/\u00ec/b.txt", "alice/\u00ec/b.txt"},
		{", shared: true, depth: 1", "alice/.. ", "a blank or a quotation mark", ""},
		{", shared: true, depth: 1", "alice/..'", "a blank or a quotation mark", ""},
		{", depth: 1", "alice/..\u200b", "a blank or a quotation mark", ""},
		{", shared: true", "ALICE/a.txt", "ALICE/a.txt", "ALICE/a.txt"}, // another file, of which nobody has granted anything
		{"", "alice/a.txt", "alice/a.txt", "alice/a.txt"},
		{"", root + "/alice/a.txt", "alice/a.txt", "alice/a.txt"},
		{"", "alice/../bob/b.txt", "canonical form", ""},
		{"", "./alice/a.txt", "canonical form", ""},
		{"", "alice//a.txt", "canonical form", ""},
		{"", "alice/", "canonical form", ""},
		{"", "..", "canonical form", ""},
		{"", "/etc/passwd", "lies outside", ""},
	} {
		call, err := file(test.extra).CallTool("read", jsonrpc.ObjectOf(jsonrpc.Member{Name: "path", Value: jsonrpc.Text(test.path)}))
		if err != nil {
			refusal, ok := errors.AsType[*mapping.Refusal](err)
			if test.sent != "" || !ok || !strings.Contains(refusal.Message+refusal.Detail, test.id) {
				t.Errorf("%q%s: %v, want %s", test.path, test.extra, err, test.id)
			}
			// What was found on the file system is for the log alone.
			if ok && refusal.Detail != "" && refusal.Message != mapping.NotAllowed {
				t.Errorf("%q%s: the agent is told %s", test.path, test.extra, refusal.Message)
			}
			for _, found := range []string{"link", "outside", "not there"} {
				if strings.Contains(test.extra, "shared") && strings.Contains(refusal.Message, found) {
					t.Errorf("%q%s: the agent is told %s", test.path, test.extra, refusal.Message)
				}
			}
			continue
		}
		sent, _ := call.Arguments.At("path").Text()
		if got := call.Asks[1].ID; got != test.id || sent != filepath.Join(root, test.sent) {
			t.Errorf("%q%s: %s, sent on as %s; want %s and %s", test.path, test.extra, got, sent, test.id, test.sent)
		}
		// The oracle: the system itself opens the same file by both paths.
		came := test.path
		if !filepath.IsAbs(came) {
			came = root + "/" + came
		}
		one, err1 := os.Stat(came)
		two, err2 := os.Stat(sent)
		if err1 == nil && (err2 != nil || !os.SameFile(one, two)) {
			t.Errorf("%q is another file than %s", test.path, sent)
		}
	}
}

func TestResults(t *testing.T) {
	t.Parallel()
	m := decode(t, `
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools:
  list:
    checks: [{permission: list, type: file, id: path, canonical: {root: /srv}}]
    results:
      - {in: content, lines: '\[(?:FILE|DIR)\] (?P<id>.+)', under: path, permission: read, type: file, canonical: {root: /srv}}
      - {in: structuredContent.text, lines: '\[(?:FILE|DIR)\] (?P<id>.+)', under: path, permission: read, type: file, canonical: {root: /srv}}
  find:
    results: [{in: 'structuredContent.found.files[]', id: path, permission: read, type: file}]
  names:
    results: [{in: 'structuredContent.names[]', permission: read, type: file}]
`)
	for _, test := range []struct{ tool, arguments, answer, asks, kept string }{
		{"list", `{"path":"/srv/a"}`,
			`{"content":[{"type":"text","text":"[FILE] x\n[DIR] y\nTotal: 2\n[FILE] ../b"},{"type":"image"}],"structuredContent":{"text":"[FILE] x\n[FILE] z"},"_meta":{}}`,
			"read file:a/x read file:a/y read file:a/z",
			`{"content":[{"type":"text","text":"[FILE] x"}],"structuredContent":{"text":"[FILE] x"}}`},
		{"find", `{}`,
			`{"resultType":"complete","content":[{"type":"text","text":"a/x, b"}],"structuredContent":{"found":{"files":[{"path":"a/x","n":1},{"path":"b"},{"n":2},7],"n":4}}}`,
			"read file:a/x read file:b", `{"resultType":"complete","content":[],"structuredContent":{"found":{"files":[{"path":"a/x","n":1}]}}}`},
		{"names", `{}`, `{"content":[],"structuredContent":{"names":["a/x","b","*"]}}`, "read file:a/x read file:b",
			`{"content":[],"structuredContent":{"names":["a/x"]}}`},
		{"names", `{}`, `{"content":[],"structuredContent":{"names":{"a":1}}}`, "The server's answer has an object at structuredContent.names, and the mapping expects a list.", ""},
		{"names", `{}`, `{"content":[{"type":"text","text":"no such file b"}],"isError":true}`, "",
			`{"content":[{"type":"text","text":"The tool failed. Its message is not passed on, because its answers are filtered."}],"isError":true}`},
	} {
		output, err := m.FilterResult(test.tool, value(t, test.arguments), value(t, test.answer))
		if err != nil {
			if err.Error() != test.asks {
				t.Errorf("%s: %v, want %s", test.answer, err, test.asks)
			}
			continue
		}
		if got := said(output.Asks, nil); got != test.asks {
			t.Errorf("%s: %s, want %s", test.answer, got, test.asks)
		}
		allowed := map[mapping.Ask]bool{{Type: "file", ID: "a/x", Permission: "read"}: true}
		if got := output.Keep(allowed).String(); got != test.kept {
			t.Errorf("%s:\n%s, want\n%s", test.answer, got, test.kept)
		}
	}
}

// TestLongResults: an answer is read only as far as its objects can be judged at once, and only so much is looked up for it.
func TestLongResults(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const many = 3000
	for i := range many {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", root, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := decode(t, strings.ReplaceAll(`
version: 1
server: files
tool: {type: mcp_tool, permission: call}
tools:
  words: {results: [{in: content, lines: '(?P<id>.+)', permission: read, type: word}]}
  ids: {results: [{in: 'structuredContent.ids[]', permission: read, type: word}]}
  paths: {results: [{in: content, lines: '(?P<id>.+)', permission: read, type: file, canonical: {root: ROOT, shared: true}}]}
  folders: {results: [{in: content, lines: '(?P<id>.+)', permission: read, type: file, canonical: {root: ROOT, shared: true, parent: true}}]}
  read: {checks: [{permission: read, type: file, id: path, canonical: {root: ROOT, shared: true}}]}
  read_many: {checks: [{permission: read, type: file, id: 'paths[]', canonical: {root: ROOT, shared: true}}]}
`, "ROOT", root))
	lines := func(n int, line func(i int) string) string {
		var all []string
		for i := range n {
			all = append(all, line(i))
		}
		return `{"content":[{"type":"text","text":` + jsonrpc.Text(strings.Join(all, "\n")).String() + `}]}`
	}
	number := func(i int) string { return fmt.Sprint(i) }
	same := func(int) string { return "7" }
	missing := func(i int) string { return fmt.Sprint("missing-", i) }
	const objects = "The answer is about more than the 1000 objects that can be judged at once. Ask for less."
	for name, test := range map[string]struct {
		tool, answer, refused string
		asks, kept            int
	}{
		"as many as can be judged":     {"words", lines(1000, number), "", 1000, 1000},
		"one more":                     {"words", lines(1001, number), objects, 0, 0},
		"the same over and over":       {"words", lines(50_000, same), "", 1, 50_000},
		"the same, too often":          {"words", lines(100_001, same), "The answer has more than 100000 lines and elements that name objects. Ask for less.", 0, 0},
		"elements":                     {"ids", `{"structuredContent":{"ids":[` + strings.Repeat("1,", 50_000) + `2]}}`, "", 2, -1},
		"too many elements":            {"ids", `{"structuredContent":{"ids":[` + strings.Repeat("1,", 100_000) + `2]}}`, "The answer has more than 100000 lines and elements that name objects. Ask for less.", 0, 0},
		"paths of one folder":          {"folders", lines(many, number), "", 1, many},
		"a path over and over":         {"paths", lines(60_000, same), "", 1, 60_000},
		"paths that are not there":     {"folders", lines(100, missing), "", 1, 100},
		"too many that are not there":  {"folders", lines(2000, missing), "The paths in the answer take more look-ups than one answer may. Ask for less.", 0, 0},
		"more paths than can be asked": {"paths", lines(many, number), objects, 0, 0},
	} {
		output, err := m.FilterResult(test.tool, value(t, `{}`), parse(t, test.answer))
		if err != nil {
			if err.Error() != test.refused {
				t.Errorf("%s: %v, want %s", name, err, test.refused)
			}
			continue
		}
		allowed := map[mapping.Ask]bool{}
		for _, a := range output.Asks {
			allowed[a] = true
		}
		text := output.Keep(allowed).At("content").String()
		if kept := strings.Count(text, `\n`) + 1; len(output.Asks) != test.asks || test.refused != "" || test.kept >= 0 && kept != test.kept {
			t.Errorf("%s: %d questions, and %d lines are kept; want %d and %d, refused: %s", name, len(output.Asks), kept, test.asks, test.kept, test.refused)
		}
	}

	// A call's arguments are bounded likewise.
	paths := func(n int) jsonrpc.Value {
		var all []jsonrpc.Value
		for i := range n {
			all = append(all, jsonrpc.Text(missing(i)))
		}
		return jsonrpc.ObjectOf(jsonrpc.Member{Name: "paths", Value: jsonrpc.List(all)})
	}
	if call, err := m.CallTool("read_many", paths(100)); err != nil || len(call.Asks) != 101 {
		t.Errorf("a hundred paths: %v", err)
	}
	if _, err := m.CallTool("read_many", paths(900)); said(nil, err) != "The paths of the call take more look-ups than one call may. Make several calls." {
		t.Errorf("nine hundred paths: %v", err)
	}
	long := value(t, `{"path":"`+strings.Repeat("../", 1400)+`"}`)
	if _, err := m.CallTool("read", long); said(nil, err) != "The argument path is longer than the 4096 bytes of a path." {
		t.Errorf("a long path: %v", err)
	}
}

// parse reads a server's answer.
func parse(t *testing.T, text string) jsonrpc.Value {
	t.Helper()
	v, err := jsonrpc.ParseValue([]byte(text), jsonrpc.FromServer())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestUndecided: what is undecided is judged like the rest of a file, and is not there for agents.
func TestUndecided(t *testing.T) {
	t.Parallel()
	file := func(undecided string) string {
		return `
version: 1
server: desk
tool: {type: mcp_tool, permission: call}
prompt: {type: mcp_tool, permission: call}
tools: {get: {checks: [{permission: view, type: ticket, id: id}]` + undecided + `}}
prompts: {sum: {checks: [{permission: view, type: ticket, id: id}]` + undecided + `}}
resources: [{match: 'desk:(?P<id>.+)', checks: [{permission: view, type: ticket, id: id}]` + undecided + `}]
`
	}
	for undecided, want := range map[string]bool{"": true, ", undecided: false": true, ", undecided: true": false} {
		m := decode(t, file(undecided))
		_, tool := m.ListTool("get")
		_, prompt := m.ListPrompt("sum")
		id := value(t, `{"id":"7"}`)
		_, called := m.CallTool("get", id)
		_, got := m.GetPrompt("sum", id)
		_, read := m.ReadResource("desk:7")
		for what, is := range map[string]bool{
			"the tool is listed": tool, "the prompt is listed": prompt, "the tool is called": called == nil, "the prompt is got": got == nil,
			"the resource is read": read == nil, "parts can be used": len(m.Parts()) > 0, "tools": len(m.Tools()) > 0,
		} {
			if is != want {
				t.Errorf("with %q: %s: %t", undecided, what, is)
			}
		}
	}
	if _, err := mapping.Decode("guard.yaml", []byte(strings.ReplaceAll(file(", undecided: true"), "type: ticket", "type: '?'"))); err == nil {
		t.Error("what is undecided is not judged")
	}
}
