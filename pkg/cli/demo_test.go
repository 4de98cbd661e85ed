package cli

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

// TestDemoNoticesWrongAnswers tells a story that expects the bleed.
func TestDemoNoticesWrongAnswers(t *testing.T) {
	files := fstest.MapFS{"story.yaml": {Data: []byte(`
schema: |-
  use expiration

  definition ticket {
    relation tenant: tenant
    relation reader: user | agent
    permission view = reader
  }
relationships: |-
  ticket:one#tenant@tenant:acme
  ticket:one#reader@user:bob
  ticket:one#reader@agent:triage-bot
  tenant:acme#member@user:bob
steps:
  - about: Nobody delegated anything.
  - decide: {agent: triage-bot, on_behalf_of: "user:bob", tenant: acme, resource: "ticket:one", permission: view, expect: HAS_PERMISSION}
  - decide: {agent: triage-bot, on_behalf_of: "user:bob", tenant: acme, resource: "ticket:two", permission: view, expect: NO_PERMISSION, gate: delegation}
`)}}
	for output, want := range map[string]string{
		"text": "refused, EXPECTED: allowed\n",
		"json": `"ok": false`,
	} {
		var out strings.Builder
		cmd := newDemo(&program{Streams: Streams{Out: &out}}, files, "story.yaml")
		cmd.SetArgs([]string{"--output", output})
		if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errDenied) {
			t.Errorf("%s: the demo ended with %v, want exit code 1", output, err)
		}
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("%s: %q is not exactly once in\n%s", output, want, out.String())
		}
	}
	var out strings.Builder
	cmd := newDemo(&program{Streams: Streams{Out: &out}}, files, "story.yaml")
	cmd.SetArgs(nil)
	_ = cmd.ExecuteContext(t.Context())
	if !strings.Contains(out.String(), "1 of 2 answers are not as expected.") {
		t.Errorf("the summary is missing:\n%s", out.String())
	}
}
