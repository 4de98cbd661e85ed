package lint_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/lint"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/offer"
)

// server is what a server has.
const server = `{"tools":[
	{"name":"get_ticket","inputSchema":{"properties":{"id":{"type":"integer"},"note":{"type":"string"}},"required":["id"]}},
	{"name":"export","inputSchema":{"properties":{"id":{"type":"integer"}}},"outputSchema":{"type":"object","properties":{"rows":{"type":"array"}}}},
	{"name":"open","inputSchema":{"$ref":"#/x"}}],
	"prompts":[{"name":"summary","arguments":[{"name":"ticket_id","required":true}]}]}`

// members is a schema.
var members = map[string][]string{"mcp_tool": {"call"}, "ticket": {"queue", "view"}}

// check returns the findings about a file, which begins with four lines that are always the same, one a line.
func check(t *testing.T, text string, o lint.Options) string {
	t.Helper()
	source, err := mapping.Read("guard.yaml", []byte("version: 1\nserver: desk\ntool: {type: mcp_tool, permission: call}\nprompt: {type: mcp_tool, permission: call}\n"+text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var lines []string
	for _, f := range lint.Check(source, o) {
		line := fmt.Sprintf("%d:%d %s %s %s", f.Line, f.Column, f.Severity, f.Rule, f.Message)
		if f.Suppressed != "" {
			line += " [" + f.Suppressed + "]"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// TestRules: each rule finds something in the one file and nothing in the other.
func TestRules(t *testing.T) {
	t.Parallel()
	offered, err := offer.Parse([]byte(server))
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, test := range []struct{ rule, red, at, message, green string }{
		{"allows", "allow: [roots]", "5:9", "the agent can tell the server which folders to open", "allow: []"},
		{"canonical-not-shared", "tools:\n  read: {checks: [{permission: view, type: ticket, id: path, canonical: {root: /}}]}", "6:62", "links below /",
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: path, canonical: {root: /, shared: true}}]}"},
		{"canonical-not-shared", "tools:\n  names:\n    results: [{in: content, lines: '(?P<id>.+)', permission: view, type: ticket, canonical: {root: /}}]", "7:82", "links below /",
			"tools:\n  names:\n    results: [{in: content, lines: '(?P<id>.+)', permission: view, type: ticket, canonical: {root: /, shared: true}}]"},
		{"ignored-object", "tools:\n  read: {checks: [{permission: view, type: ticket, id: id}], ignore: [note, ticketId]}", "6:77", `"ticketId" is ignored`,
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: id}], ignore: [note, verbose]}"},
		{"ignored-object", "tools:\n  read: {checks: [{permission: view, type: ticket, id: id}], ignore: ['to.paths[]']}", "6:71", `"to.paths[]" is ignored`,
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: 'to.paths[]'}]}"},
		{"ignored-object", "tools:\n  move_file: {checks: [{permission: view, type: ticket, id: source}], ignore: [destination]}", "6:80", `the argument "destination" is ignored`,
			"tools:\n  move_file: {checks: [{permission: view, type: ticket, id: source}, {permission: view, type: ticket, id: destination}]}"},
		{"open-pattern", "resources:\n  - {match: '.+/(?P<id>.+)', checks: [{permission: view, type: ticket, id: id}]}", "6:6", "URIs of any kind",
			"resources:\n  - {match: '(?:desk|file):///(?P<id>.+)', checks: [{permission: view, type: ticket, id: id}]}"},
		{"open-pattern", "tools:\n  read: {checks: [{permission: view, type: ticket, cel: \"args.id.matches('[0-9]+') ? args.id : ''\", reads: [id]}]}", "6:52", "any part of the text",
			"tools:\n  read: {checks: [{permission: view, type: ticket, cel: \"args.id.matches('^[0-9]+$') ? args.id : ''\", reads: [id]}]}"},
		{"unknown-type", "tools:\n  read: {checks: [{permission: view, type: page, id: id}]}", "6:38", "the schema has no type page",
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: id}]}"},
		{"unknown-permission", "tools:\n  read: {checks: [{permission: edit, type: ticket, id: id}]}", "6:20", "the type ticket has no permission edit",
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: id}]}"},
		{"undecided", "tools:\n  read:\n    undecided: true", "7:5", `the tool "read" is marked undecided`, "tools:\n  read: {}"},
		{"undecided", "resources:\n  - {match: 'a:(?P<id>.+)', undecided: true, checks: [{permission: view, type: ticket, id: id}]}", "6:29", "the pattern is marked undecided",
			"resources:\n  - {match: 'a:(?P<id>.+)', checks: [{permission: view, type: ticket, id: id}]}"},
		{"unfiltered-answer", "tools:\n  read: {ignore: [note]}", "6:3", `no check says which object a call of "read" is about`,
			"tools:\n  read: {ignore: [note], results: [{in: content, lines: '(?P<id>.+)', permission: view, type: ticket}]}"},
		{"unfiltered-answer", "tools:\n  directory_tree: {checks: [{permission: view, type: ticket, id: id}]}", "6:3", `the name of "directory_tree" says that it answers with objects`,
			"tools:\n  read: {checks: [{permission: view, type: ticket, id: id}]}"},
		{"unfiltered-answer", "tools:\n  read: {checks: [{permission: view, type: ticket, id: id, optional: true}]}", "6:3", `no check says which object a call of "read" is about`,
			"tools:\n  read: {checks: [{permission: view, type: ticket, object: all}]}"},
		{"unfiltered-answer", "tools:\n  export: {checks: [{permission: view, type: ticket, id: id}]}", "6:3", `the answers of "export" hold lists`,
			"tools:\n  export: {checks: [{permission: view, type: ticket, id: id}], results: [{in: 'structuredContent.rows[]', permission: view, type: ticket}]}"},
		{"unknown-argument", "tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: number}], ignore: [id, note]}", "6:58", `no argument "number"`,
			"tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: id}], ignore: [note]}"},
		{"unknown-argument", "tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: id}], ignore: [note, more]}", "6:83", `no argument "more"`,
			"tools:\n  open: {checks: [{permission: view, type: ticket, id: id}], ignore: [more]}"},
		{"unknown-tool", "tools:\n  gone: {checks: [{permission: view, type: ticket, id: id}]}", "6:3", `the server has no tool "gone"`,
			"tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: id}], ignore: [note]}"},
		{"unmapped-argument", "tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: id}]}", "6:3", `the argument "note" of "get_ticket" is neither checked nor ignored: the guard refuses each call with it`,
			"tools:\n  get_ticket: {checks: [{permission: view, type: ticket, id: id}], ignore: [note]}"},
		{"unmapped-argument", "prompts:\n  summary: {}", "6:3", "the guard refuses every call, because the server requires it", "prompts:\n  summary: {ignore: [ticket_id]}"},
		{"unmapped-tool", "tools: {}", "5:1", `the guard hides tools of the server that the file does not name: "get_ticket", "export", "open"`,
			"tools:\n  get_ticket: {}\n  export: {}\n  open: {}\nprompts:\n  summary: {}"},
	} {
		tested[test.rule] = true
		o := lint.Options{Schema: members, Offer: offered}
		if test.rule != "unmapped-tool" && test.rule != "unknown-tool" && !strings.Contains(test.red, "export") && !strings.Contains(test.red, "get_ticket") && !strings.Contains(test.red, "prompts") {
			o.Offer = nil
		}
		found := false
		for line := range strings.SplitSeq(check(t, test.red, o), "\n") {
			found = found || strings.HasPrefix(line, test.at+" ") && strings.Contains(line, " "+test.rule+" ") && strings.Contains(line, test.message)
		}
		if !found {
			t.Errorf("%s: no %s at %s in\n%s\nbut\n%s", test.rule, test.message, test.at, test.red, check(t, test.red, o))
		}
		if got := check(t, test.green, o); strings.Contains(got, " "+test.rule+" ") {
			t.Errorf("%s in\n%s\n%s", test.rule, test.green, got)
		}
	}
	for _, r := range lint.Rules() {
		if !tested[r.Name] {
			t.Errorf("the rule %s has no case", r.Name)
		}
		if r.Summary == "" || r.Severity == "" {
			t.Errorf("the rule %s says nothing", r.Name)
		}
	}
}

// TestSilence: a comment silences a rule where it stands and below, with a reason, and no other rule.
func TestSilence(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"tools:\n  list: {} # lint:ignore unfiltered-answer names are no secret\n":                                                        "[names are no secret]",
		"tools:\n  list: # lint:ignore unfiltered-answer public\n    ignore: [note]\n":                                                    "[public]",
		"# lint:ignore unfiltered-answer all of them are public\ntools:\n  list: {}\n":                                                    "[all of them are public]",
		"tools:\n  # lint:ignore unfiltered-answer public\n  list: {}\n":                                                                  "[public]",
		"tools:\n  list: {} # lint:ignore unfiltered-answer\n":                                                                            "",
		"tools:\n  list: {} # lint:ignore undecided public\n":                                                                             "",
		"tools:\n  list: {}\n  # lint:ignore unfiltered-answer the next\n  other: {checks: [{permission: view, type: ticket, id: id}]}\n": "",
		"tools:\n  # lint:ignore unfiltered-answer the first\n  a: {checks: [{permission: view, type: ticket, id: id}]}\n  list: {}\n":    "",
	} {
		got := check(t, text, lint.Options{})
		if !strings.Contains(got, "unfiltered-answer") || strings.Contains(got, "[") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
