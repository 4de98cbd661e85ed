package cases_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/cases"
)

const desk = `version: 1
server: desk
tool: {type: mcp_tool, permission: call}
prompt: {type: mcp_tool, permission: call}
tools:
  get:
    checks:
      - {permission: view, type: ticket, id: id, kind: integer}
      - {permission: view, type: queue, id: queue, optional: true}
    ignore: [note]
  list:
    results:
      - {in: content, lines: '(?P<id>\d+) .*', permission: view, type: ticket}
      - {in: 'structuredContent.all[]', permission: view, type: ticket}
  free: {}
prompts:
  sum: {checks: [{permission: view, type: ticket, id: id}]}
resources:
  - {match: 'desk:(?P<id>\d+)', checks: [{permission: view, type: ticket, id: id}]}
`

// run runs cases, and returns the problems of each and the parts that no case uses.
func run(t *testing.T, text string, decide cases.Decide) (problems []string, unused string) {
	t.Helper()
	source, err := mapping.Read("guard.yaml", []byte(desk))
	if err != nil {
		t.Fatal(err)
	}
	f, err := cases.Read("cases.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	report, err := cases.Run(t.Context(), source, f, decide)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		problems = append(problems, strings.Join(r.Problems, "; "))
	}
	var left []string
	for _, p := range report.Parts {
		if !p.Used {
			left = append(left, fmt.Sprintf("%d:%d %s", p.Line, p.Column, p.At))
		}
	}
	return problems, strings.Join(left, ", ")
}

// TestCases: each case is right or wrong in one way.
func TestCases(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{tool: get, arguments: {id: 7}, asks: ["mcp_tool:desk/get#call", "ticket:7#view"]}`:                                                                                           "",
		`{tool: get, arguments: {id: 7}, asks: ["ticket:7#view", "mcp_tool:desk/get#call"]}`:                                                                                           "",
		`{tool: get, arguments: {id: 7}, asks: ["mcp_tool:desk/get#call"]}`:                                                                                                            "it asks ticket:7#view too",
		`{tool: get, arguments: {id: 7}, asks: ["mcp_tool:desk/get#call", "ticket:8#view"]}`:                                                                                           "it does not ask ticket:8#view; it asks ticket:7#view too",
		`{tool: get, arguments: {id: 7}, refused: whole}`:                                                                                                                              "it is not refused, and asks mcp_tool:desk/get#call, ticket:7#view",
		`{tool: get, arguments: {id: "7"}, refused: a whole number}`:                                                                                                                   "",
		`{tool: get, arguments: {id: "7"}, refused: missing}`:                                                                                                                          "it is refused with another message: The argument id has to be a whole number, not a text.",
		`{tool: get, arguments: {id: "7"}, asks: []}`:                                                                                                                                  "it is refused: The argument id has to be a whole number, not a text.",
		`{tool: gone, refused: There is no tool}`:                                                                                                                                      "",
		`{tool: get, arguments: {id: 7, note: x}, sends: {note: x, id: 7}, asks: ["mcp_tool:desk/get#call", "ticket:7#view"]}`:                                                         "",
		`{tool: get, arguments: {id: 7, note: x}, sends: {id: 7}, asks: ["mcp_tool:desk/get#call", "ticket:7#view"]}`:                                                                  `it sends {"id":7,"note":"x"}`,
		`{prompt: sum, arguments: {id: x#y}, asks: ["mcp_tool:desk/sum#call", "ticket:x#y#view"]}`:                                                                                     "",
		`{resource: "desk:7", asks: ["ticket:7#view"]}`:                                                                                                                                "",
		`{resource: "desk:x", refused: There is no resource}`:                                                                                                                          "",
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {content: [{type: text, text: "1 a\n2 b\nTotal"}]}, allowed: ["ticket:2#view"], keeps: "2 b"}`:                        "",
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {content: [{type: text, text: "1 a\n2 b"}]}, allowed: ["ticket:2#view"], keeps: "1 a"}`:                               `what is left of the answer is the text "2 b"`,
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {structuredContent: {all: [1, 2]}}, allowed: ["ticket:1#view"], keeps: {content: [], structuredContent: {all: [1]}}}`: "",
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {structuredContent: {all: [1, 2]}}, keeps: {content: [], structuredContent: {all: [1]}}}`:                             `what is left of the answer is {"content":[],"structuredContent":{"all":[]}}`,
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {structuredContent: {all: [1]}}, allowed: ["ticket:9#view"], keeps: {content: [], structuredContent: {all: []}}}`:     "the answer does not ask ticket:9#view, which is allowed; it asks ticket:1#view",
		`{tool: list, asks: ["mcp_tool:desk/list#call"], answer: {structuredContent: {all: 7}}, keeps: ""}`:                                                                            "the answer is refused: The server's answer has a number at structuredContent.all, and the mapping expects a list.",
		`{tool: free, asks: ["mcp_tool:desk/free#call"], answer: {content: [{type: text, text: all of it}]}, keeps: all of it}`:                                                        "",
		`{tool: free, asks: ["mcp_tool:desk/free#call"], answer: {content: []}, allowed: ["ticket:1#view"], keeps: ""}`:                                                                `the answers of "free" are not filtered: it has no results`,
	} {
		if got, _ := run(t, "version: 1\ncases:\n- "+text, nil); got[0] != want {
			t.Errorf("%s:\n%s, want\n%s", text, got[0], want)
		}
	}
}

// TestCoverage: a part is used by a call that is not refused, or by an answer in which it finds something.
func TestCoverage(t *testing.T) {
	t.Parallel()
	if _, got := run(t, `version: 1
cases:
- {tool: get, arguments: {id: 7}, asks: []}
- {tool: get, arguments: {id: x, note: y}, refused: number}
- {tool: list, asks: ["mcp_tool:desk/list#call"], answer: {content: [{type: text, text: 1 a}], structuredContent: {all: []}}, keeps: ""}
- {resource: "desk:7", asks: ["ticket:7#view"]}
`, nil); got != "9:9 tools.get.checks[1], 10:14 tools.get.ignore[0], 14:9 tools.list.results[1], 15:3 tools.free, 17:3 prompts.sum, 17:18 prompts.sum.checks[0]" {
		t.Error(got)
	}
	if _, got := run(t, `version: 1
cases:
- {tool: get, arguments: {id: 7, queue: x, note: y}, asks: []}
- {tool: list, asks: [], answer: {content: [{type: text, text: 1 a}], structuredContent: {all: [1]}}, keeps: ""}
- {tool: free, asks: []}
- {prompt: sum, arguments: {id: x}, asks: []}
- {resource: "desk:7", asks: []}
`, nil); got != "" {
		t.Error(got)
	}
}

// TestDecide: a call is allowed where all its questions are.
func TestDecide(t *testing.T) {
	t.Parallel()
	decide := func(_ context.Context, d cases.Decision, a mapping.Ask) (bool, string, error) {
		return d.Agent == "bot" && (a.Type == "mcp_tool" || a.ID == "7"), "refused by principal", nil
	}
	got, _ := run(t, `version: 1
fixture: x.yaml
cases:
- {tool: get, arguments: {id: 7}, asks: ["mcp_tool:desk/get#call", "ticket:7#view"], decide: [{agent: bot, expect: allowed}, {agent: other, expect: refused}]}
- {tool: get, arguments: {id: 8}, asks: ["mcp_tool:desk/get#call", "ticket:8#view"], decide: [{agent: bot, delegation: alices, expect: allowed}]}
`, decide)
	if got[0] != "" || got[1] != "for bot alices it is refused: ticket:8#view comes to refused by principal" {
		t.Errorf("%q", got)
	}
}

// TestRead: what is wrong with a file is said with its line.
func TestRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "cases.yaml: is empty; a file of cases needs version: 1 and cases",
		"version: 2\ncases: [{tool: a, asks: []}]": "cases.yaml: version has to be 1, the version of the format",
		"version: 1": "cases.yaml: has no cases; add one",
		"version: 1\ncases:\n- {tool: a, ask: []}":                                                 "cases.yaml:3: there is no \"ask\" here; did you mean asks?",
		"version: 1\ncases:\n- {tool: a, prompt: b, asks: []}":                                     "cases.yaml:3: a case needs exactly one of tool, prompt and resource",
		"version: 1\ncases:\n- {tool: a}":                                                          "cases.yaml:3: a case needs either asks, the questions of the call, or refused, a part of the message",
		"version: 1\ncases:\n- {tool: a, asks: [], refused: x}":                                    "cases.yaml:3: a case needs either asks, the questions of the call, or refused, a part of the message",
		"version: 1\ncases:\n- {resource: a, arguments: {}, asks: []}":                             "cases.yaml:3: a resource has no arguments",
		"version: 1\ncases:\n- {tool: a, refused: x, sends: {}}":                                   "cases.yaml:3: a call that is refused sends nothing, has no answer, and is not decided",
		"version: 1\ncases:\n- {tool: a, asks: [], answer: {}}":                                    "cases.yaml:3: answer and keeps go together: what the server answers, and what is left of it",
		"version: 1\ncases:\n- {prompt: a, asks: [], answer: {}, keeps: {}}":                       "cases.yaml:3: only answers of tools are filtered",
		"version: 1\ncases:\n- {tool: a, asks: [], allowed: []}":                                   "cases.yaml:3: allowed is about the questions of an answer; add answer",
		"version: 1\ncases:\n- {tool: a, asks: [], decide: [{agent: b, expect: allowed}]}":         "cases.yaml:3: decide needs a fixture: name one in the file, beside version",
		"version: 1\ncases:\n- {tool: a, asks: [ticket#view]}":                                     "cases.yaml:3: \"ticket#view\" is no question; write it as type:id#permission",
		"version: 1\nfixture: f\ncases:\n- {tool: a, asks: [], decide: [{agent: b, expect: yes}]}": "cases.yaml:4: expect is \"yes\"; it can be allowed or refused",
		"version: 1\ncases:\n- {tool: a, asks: [], arguments: {1: 2}}":                             "cases.yaml:3: is nothing that JSON can say: the names in an object have to be texts",
	} {
		if _, err := cases.Read("cases.yaml", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s:\n%v, want\n%s", text, err, want)
		}
	}
}
