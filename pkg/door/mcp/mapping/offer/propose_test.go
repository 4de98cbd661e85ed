package offer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
)

// parse reads lists.
func parse(t *testing.T, text string) *offer.Offer {
	t.Helper()
	o, err := offer.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// propose proposes a file and reads it.
func propose(t *testing.T, o *offer.Offer, options offer.Options) (*mapping.Source, string) {
	t.Helper()
	p, err := offer.Propose(o, options)
	if err != nil {
		t.Fatal(err)
	}
	again, err := offer.Propose(o, options)
	if err != nil || string(again.Text) != string(p.Text) {
		t.Fatalf("the same lists come to another proposal: %v", err)
	}
	source, err := mapping.Read("guard.yaml", p.Text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, p.Text)
	}
	return source, string(p.Text)
}

func recorded(t *testing.T, name string) *offer.Offer {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// visible are the tools that an agent could see.
func visible(m *mapping.Map) string { return strings.Join(m.Tools(), " ") }

// TestRealServers: the lists of two servers as they answered. The oracle is what their documentation says that their tools do.
func TestRealServers(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := recorded(t, "filesystem")
	source, text := propose(t, files, offer.Options{Root: root})
	m := source.Map
	if m.Server() != "secure-filesystem-server" {
		t.Errorf("the server's name is %s", m.Server())
	}
	// Those that read or change one file that they are told. move_file has arguments whose names say nothing, and the others list.
	if got := visible(m); got != "create_directory edit_file get_file_info read_file read_media_file read_multiple_files read_text_file write_file" {
		t.Errorf("agents could see %s in\n%s", got, text)
	}
	for call, want := range map[string]string{
		`read_text_file {"path":"a.txt","head":3}`:                                         "call mcp_tool:secure-filesystem-server/read_text_file, read file:a.txt",
		`read_multiple_files {"paths":["a","b"]}`:                                          "call mcp_tool:secure-filesystem-server/read_multiple_files, read file:a, read file:b",
		`write_file {"path":"a.txt","content":"x"}`:                                        "call mcp_tool:secure-filesystem-server/write_file, write file:a.txt",
		`edit_file {"path":"a.txt","edits":[{"oldText":"x","newText":"y"}],"dryRun":true}`: "call mcp_tool:secure-filesystem-server/edit_file, write file:a.txt",
		`edit_file {"path":"a.txt","edits":[{"oldText":"x","file":"y"}]}`:                  "The argument edits[].file is not mapped: nothing says what it may be. Leave it out.",
		`read_text_file {"path":"../x"}`:                                                   mapping.NotAllowed,
		`read_text_file {"head":3}`:                                                        "The argument path is missing.",
		`move_file {"source":"a","destination":"b"}`:                                       `There is no tool "move_file".`,
		`search_files {"path":".","pattern":"x"}`:                                          `There is no tool "search_files".`,
	} {
		if got := asked(t, m, call); got != want {
			t.Errorf("%s: %s, want %s", call, got, want)
		}
	}
	// Without a folder nothing is known of paths.
	source, _ = propose(t, files, offer.Options{Server: "files"})
	if got := visible(source.Map); got != "" {
		t.Errorf("without --root agents could see %s", got)
	}

	everything := recorded(t, "everything")
	source, text = propose(t, everything, offer.Options{})
	// It has one tool with an id, whose type its name does not say, and the rest are about no object.
	if got := visible(source.Map); got != "" {
		t.Errorf("agents could see %s in\n%s", got, text)
	}
	for _, want := range []string{
		"server: mcp-servers-everything", "simple-prompt:", `"demo://resource/dynamic/text/(?P<resourceId>[^/]+)"`, "{permission: read, type: resource, id: resourceId}",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}

// asked makes a call, and returns what it asks or is refused with.
func asked(t *testing.T, m *mapping.Map, text string) string {
	t.Helper()
	tool, arguments, _ := strings.Cut(text, " ")
	v, err := jsonrpc.ParseValue([]byte(arguments), jsonrpc.FromClient())
	if err != nil {
		t.Fatal(err)
	}
	call, err := m.CallTool(tool, v)
	if err != nil {
		return err.Error()
	}
	var asks []string
	for _, a := range call.Asks {
		asks = append(asks, a.String())
	}
	return strings.Join(asks, ", ")
}

// schema is a list with one tool.
func schema(name, input string) string {
	return fmt.Sprintf(`{"tools":[{"name":%q,"inputSchema":%s}]}`, name, input)
}

// TestProposals: what names and kinds of arguments come to.
func TestProposals(t *testing.T) {
	t.Parallel()
	object := func(properties string) string { return `{"type":"object","properties":{` + properties + `}}` }
	for _, test := range []struct{ name, tool, input, want string }{
		{"an id, whose type the tool says", "get_ticket", object(`"id":{"type":"integer"}`), "{permission: read, type: ticket, id: id, kind: integer}"},
		{"an id, whose type it says itself", "assign", object(`"ticket_id":{"type":"string"}`), "{permission: write, type: ticket, id: ticket_id}"},
		{"a list of ids", "closeTickets", object(`"ticketIds":{"type":"array","items":{"type":"string"}}`), `{permission: write, type: ticket, id: "ticketIds[]"}`},
		{"an id in an object", "get", object(`"at":{"type":"object","properties":{"folderId":{"type":"string"}}}`), `{permission: read, type: folder, id: "at.folderId"}`},
		{"a repository", "get_file", object(`"owner":{"type":"string"},"repo":{"type":"string"}`), "{permission: read, type: repository, id: [owner, repo]}"},
		{"an amount", "get_ticket", object(`"id":{"type":"integer"},"max_lines":{"type":"integer"}`), "- max_lines # by its name it names no object"},
	} {
		source, text := propose(t, parse(t, schema(test.tool, test.input)), offer.Options{})
		if !strings.Contains(text, test.want) || visible(source.Map) != test.tool {
			t.Errorf("%s: %s is missing, or the tool is hidden:\n%s", test.name, test.want, text)
		}
	}
	for _, test := range []struct{ name, tool, input, why string }{
		{"no arguments", "get_env", object(``), "none of its arguments names the object"},
		{"no schema", "get_ticket", `7`, "it has no schema of its arguments"},
		{"a path", "read", object(`"path":{"type":"string"}`), `"path" is a path`},
		{"a URI", "fetch", object(`"url":{"type":"string"}`), `"url" is a URI`},
		{"a name that is no id", "get_user", object(`"email":{"type":"string"}`), `"email" names a email, and nothing says that the name is its id`},
		{"a type of the core", "get", object(`"user_id":{"type":"string"}`), `"user_id" names a user, which is no type that a check can have`},
		{"an argument of which nothing is known", "get_ticket", object(`"id":{"type":"integer"},"query":{"type":"string"}`), `nothing says what "query" names`},
		{"an id of an unknown type", "get", object(`"id":{"type":"string"}`), `"id" is the id of an object whose type nothing says`},
		{"a listing", "list_tickets", object(`"queue_id":{"type":"string"}`), "its answers name objects that its arguments do not"},
		{"a reference", "get_ticket", `{"type":"object","properties":{"id":{"type":"integer"}},"$ref":"#/x"}`, "its schema has $ref"},
		{"an issue of a repository", "get_issue", object(`"owner":{"type":"string"},"repo":{"type":"string"},"issue_number":{"type":"number"}`), `"issue_number" names something in the repository`},
		{"an argument that cannot be written", "get_ticket", object(`"id":{"type":"integer"},"a.b":{"type":"string"}`), `its argument "a.b" has a name that this file cannot write`},
		{"a kind that is not said", "get_ticket", object(`"id":{}`), `the schema does not say what "id" is`},
		{"a switch that takes in more", "delete_ticket", object(`"id":{"type":"integer"},"recursive":{"type":"boolean"}`), `nothing says what "recursive" names`},
	} {
		source, text := propose(t, parse(t, schema(test.tool, test.input)), offer.Options{})
		if !strings.Contains(text, test.why) || visible(source.Map) != "" {
			t.Errorf("%s: %s is missing, or the tool can be seen:\n%s", test.name, test.why, text)
		}
	}
	// What a name says of reading is believed only while nothing speaks against it.
	for tool, want := range map[string]string{
		`{"name":"get_ticket","inputSchema":{"properties":{"id":{"type":"integer"}}}}`:                                                "permission: read",
		`{"name":"get_ticket","annotations":{"readOnlyHint":false},"inputSchema":{"properties":{"id":{"type":"integer"}}}}`:           "permission: write",
		`{"name":"get_and_delete_ticket","annotations":{"readOnlyHint":true},"inputSchema":{"properties":{"id":{"type":"integer"}}}}`: "permission: write",
		`{"name":"ticket","annotations":{"readOnlyHint":true},"inputSchema":{"properties":{"id":{"type":"integer"}}}}`:                "permission: write",
	} {
		if _, text := propose(t, parse(t, `{"tools":[`+tool+`]}`), offer.Options{}); !strings.Contains(text, want) {
			t.Errorf("%s: not %s in\n%s", tool, want, text)
		}
	}
}

// TestProposedResults: a list in the answers of a tool whose elements have ids of a type that arguments name by their ids is proposed to be filtered by them. The
// tool stays hidden, and what its answers hold besides is said.
func TestProposedResults(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const get = `{"name":"get_ticket","inputSchema":{"properties":{"id":{"type":"integer"}},"required":["id"]}},
		{"name":"read_file","inputSchema":{"properties":{"path":{"type":"string"}},"required":["path"]}}`
	list := func(of string) string { return `{"type":"array","items":` + of + `}` }
	object := func(properties string) string { return `{"type":"object","properties":{` + properties + `}}` }
	for _, test := range []struct{ name, tool, output, want string }{
		{"ids under the list's word", "find", `"tickets":` + list(object(`"title":{"type":"string"},"id":{"type":"integer"}`)),
			`{in: "structuredContent.tickets[]", id: id, permission: read, type: ticket}`},
		{"ids under the tool's word", "list_tickets", `"found":` + list(object(`"id":{"type":"string"}`)), `{in: "structuredContent.found[]", id: id, permission: read, type: ticket}`},
		{"ids that say their type", "find", `"rows":` + list(object(`"ticketId":{"type":"string"},"owner_id":{"type":"string"}`)),
			`{in: "structuredContent.rows[]", id: ticketId, permission: read, type: ticket}`},
		{"an id before another's", "find", `"tickets":` + list(object(`"ticket_id":{"type":"string"},"id":{"type":"string"}`)),
			`{in: "structuredContent.tickets[]", id: id, permission: read, type: ticket}`},
		{"plain ids", "find", `"ticket_ids":` + list(`{"type":"string"}`), `{in: "structuredContent.ticket_ids[]", permission: read, type: ticket}`},
		{"deep", "find", `"page":` + object(`"tickets":`+list(object(`"id":{"type":"string"}`))), `{in: "structuredContent.page.tickets[]", id: id, permission: read, type: ticket}`},
		{"paths", "search_files", `"hits":` + list(object(`"path":{"type":"string"}`)),
			`{in: "structuredContent.hits[]", id: path, permission: read, type: file, canonical: {root: "` + root + `", shared: true}}`},
		{"a type that no argument names", "find", `"queues":` + list(object(`"id":{"type":"string"}`)), ""},
		{"two as good", "find", `"rows":` + list(object(`"ticket_id":{"type":"string"},"parent_ticket":{"type":"string"},"file":{"type":"string"}`)), ""},
		{"in the elements of another list", "find", `"rows":` + list(object(`"tickets":`+list(object(`"id":{"type":"string"}`)))), ""},
		{"no id", "find", `"tickets":` + list(object(`"title":{"type":"string"}`)), ""},
		{"one object", "get_ticket_of", `"ticket":` + object(`"id":{"type":"string"}`), ""},
		{"a name that cannot be written", "find", `"tic.kets":` + list(object(`"id":{"type":"string"}`)), ""},
	} {
		text := `{"tools":[` + get + `,{"name":"` + test.tool + `","inputSchema":{"properties":{}},"outputSchema":` + object(test.output) + `}]}`
		source, proposed := propose(t, parse(t, text), offer.Options{Root: root})
		results := source.File.Tools[test.tool].Results
		if test.want == "" {
			if len(results) > 0 {
				t.Errorf("%s: results are proposed:\n%s", test.name, proposed)
			}
			continue
		}
		if !strings.Contains(proposed, "      - "+test.want+"\n") || len(results) != 1 || !strings.Contains(proposed, "only the elements of its answers that results name are let through") {
			t.Errorf("%s: %s is missing:\n%s", test.name, test.want, proposed)
		}
		if visible(source.Map) != "get_ticket read_file" {
			t.Errorf("%s: agents could see %s", test.name, visible(source.Map))
		}
		// Once somebody has decided that it is right, it filters.
		decided, err := mapping.Decode("guard.yaml", []byte(strings.ReplaceAll(proposed, "    undecided: true\n", "")))
		if err != nil || !decided.Filters(test.tool) {
			t.Errorf("%s: decided, it does not filter: %v", test.name, err)
		}
	}
	// Without the folder, paths are not looked up, and so none is proposed.
	text := `{"tools":[` + get + `,{"name":"find","inputSchema":{"properties":{}},"outputSchema":` + object(`"hits":`+list(object(`"path":{"type":"string"}`))) + `}]}`
	if source, proposed := propose(t, parse(t, text), offer.Options{}); len(source.File.Tools["find"].Results) > 0 {
		t.Errorf("without a folder:\n%s", proposed)
	}
}

// TestUntrustedText: what a server writes comes out of the file as it went in, or not at all.
func TestUntrustedText(t *testing.T) {
	t.Parallel()
	name := "a: {b}\\\"'#☃𝄞\u202e"
	source, text := propose(t, parse(t, fmt.Sprintf(`{"tools":[{"name":%s,"description":"one\n  two: three\n\u202e\u2028tools: {}","inputSchema":{"properties":{"true":{"type":"string"},"#":{"type":"string"}}}}]}`,
		jsonrpc.Text(name))), offer.Options{})
	a, found := source.File.Tools[name]
	if !found || !slices.Equal(a.Ignore, []string{"true", "#"}) {
		t.Errorf("the tools are %v in\n%s", source.File.Tools, text)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r > '~' || r < ' ' && r != '\n' }) {
		t.Errorf("the text has characters beyond ASCII:\n%s", text)
	}
	for list, want := range map[string]string{
		`{"tools":[{"name":"a\nb"}]}`:                                        "the name of tools[0] holds a control character",
		`{"tools":[{"name":"a","description":"\u001b[2J"}]}`:                 `the description of the tool "a" holds a control character`,
		`{"tools":[{"name":"a"},{"name":"a"}]}`:                              `two tools with the name "a"`,
		`{"tools":[{}]}`:                                                     "tools[0] has no name",
		`{"tools":[{"name":"a","inputSchema":{"properties":{"\u0007":1}}}]}`: "has an argument whose name holds a control character",
		`{"tools":[],"resources":[{"uri":"a\u0000"}]}`:                       "the uri of resources[0] holds a control character",
		`{"tools":{}}`:                        "it has no list",
		`[]`:                                  "it has no list",
		`{"tools":[{"name":"a","name":"b"}]}`: "twice",
	} {
		if _, err := offer.Parse([]byte(list)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
}

// failer is a test, or one draw of a property.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// holds asserts what is true of every proposal: it loads, names every tool, lists every argument once that it can write, and lets none
// through that it does not list.
func holds(t failer, o *offer.Offer, source *mapping.Source, text string) {
	t.Helper()
	if len(source.File.Tools) != len(o.Tools) || len(source.File.Prompts) != len(o.Prompts) {
		t.Fatalf("%d tools and %d prompts come to\n%s", len(o.Tools), len(o.Prompts), text)
	}
	for _, tool := range o.Tools {
		a, found := source.File.Tools[tool.Name]
		if !found {
			t.Fatalf("the tool %q is missing in\n%s", tool.Name, text)
		}
		var named []string
		for _, c := range a.Checks {
			named = append(append(named, c.ID...), c.Reads...)
		}
		named = append(named, a.Ignore...)
		for _, argument := range tool.Arguments {
			if n := len(slices.DeleteFunc(slices.Clone(named), func(path string) bool { return path != argument.Path })); n != 1 {
				t.Fatalf("the argument %q of %q is there %d times in\n%s", argument.Path, tool.Name, n, text)
			}
		}
		foreign := jsonrpc.ObjectOf(jsonrpc.Member{Name: "no such argument", Value: jsonrpc.Text("x")})
		call, err := source.Map.CallTool(tool.Name, foreign)
		if err == nil {
			t.Fatalf("%q lets an argument through that it does not name: %v\n%s", tool.Name, call.Asks, text)
		}
		if _, listed := source.Map.ListTool(tool.Name); listed == a.Undecided {
			t.Fatalf("%q: undecided is %t, and an agent could see it: %t", tool.Name, a.Undecided, listed)
		}
	}
}

// FuzzPropose: whatever a server lists is refused, or comes to a proposal that holds.
func FuzzPropose(f *testing.F) {
	for _, name := range []string{"filesystem", "everything"} {
		text, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"tools":[{"name":"<<","inputSchema":{"properties":{"a":{"type":["string","null"]},"b":{"type":"array","items":{"type":"object","properties":{"id":{"type":"integer"},"~":{}}}}}}},{"name":"null"},{"name":"*"},{"name":"0x1"}]}`))
	f.Add([]byte(`{"tools":[],"prompts":[{"name":"y","arguments":[{"name":"id"},{"name":"id"},{}]}],"resources":[{"uri":"a:b"}],"resourceTemplates":[{"uriTemplate":"a:{+b}("}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		o, err := offer.Parse(text)
		if err != nil {
			return
		}
		p, err := offer.Propose(o, offer.Options{})
		if err != nil {
			if strings.Contains(err.Error(), "is longer than") {
				return
			}
			t.Fatalf("no proposal of %q: %v", text, err)
		}
		source, err := mapping.Read("guard.yaml", p.Text)
		if err != nil {
			t.Fatal(err)
		}
		holds(t, o, source, string(p.Text))
	})
}

// TestProposalsOfAnything: tools whose names and arguments are drawn, of which a mapping can be proposed.
func TestProposalsOfAnything(t *testing.T) {
	t.Parallel()
	names := rapid.OneOf(
		rapid.SampledFrom([]string{"get_ticket", "id", "ids", "ticketId", "user_id", "path", "owner", "repo", "null", "<<", "~", "a.b", "x[]", "#", "- a", "y: z", "🎫", "limit"}),
		rapid.StringMatching(`[a-z:#{}"'\[\]&*!|>%@\x{80}-\x{2FFF}\\ -]{1,12}`),
	)
	var schemas func(depth int) *rapid.Generator[jsonrpc.Value]
	schemas = func(depth int) *rapid.Generator[jsonrpc.Value] {
		return rapid.Custom(func(t *rapid.T) jsonrpc.Value {
			kind := rapid.SampledFrom([]string{"string", "integer", "number", "boolean", "object", "array", "?"}).Draw(t, "kind")
			v := jsonrpc.ObjectOf(jsonrpc.Member{Name: "type", Value: jsonrpc.Text(kind)})
			if depth > 0 && kind == "array" {
				return v.With("items", schemas(depth-1).Draw(t, "items"))
			}
			if depth > 0 && kind == "object" {
				properties := jsonrpc.ObjectOf()
				for _, name := range rapid.SliceOfNDistinct(names, 0, 4, rapid.ID).Draw(t, "names") {
					properties = properties.With(name, schemas(depth-1).Draw(t, "property"))
				}
				return v.With("properties", properties)
			}
			return v
		})
	}
	rapid.Check(t, func(r *rapid.T) {
		var tools []jsonrpc.Value
		for _, name := range rapid.SliceOfNDistinct(names, 0, 5, rapid.ID).Draw(r, "tools") {
			tool := jsonrpc.ObjectOf(jsonrpc.Member{Name: "name", Value: jsonrpc.Text(name)}, jsonrpc.Member{Name: "description", Value: jsonrpc.Text(name + "\n" + name)})
			tools = append(tools, tool.With("inputSchema", schemas(3).Draw(r, "schema")))
		}
		o, err := offer.Of(jsonrpc.ObjectOf(jsonrpc.Member{Name: "tools", Value: jsonrpc.List(tools)}))
		if err != nil {
			if !strings.Contains(err.Error(), "control character") {
				r.Fatal(err)
			}
			return
		}
		p, err := offer.Propose(o, offer.Options{})
		if err != nil {
			r.Fatal(err)
		}
		source, err := mapping.Read("guard.yaml", p.Text)
		if err != nil {
			r.Fatalf("%v in\n%s", err, p.Text)
		}
		holds(r, o, source, string(p.Text))
	})
}

// TestProposalsHold: the lists of real servers.
func TestProposalsHold(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"filesystem", "everything"} {
		o := recorded(t, name)
		source, text := propose(t, o, offer.Options{})
		holds(t, o, source, text)
	}
}
