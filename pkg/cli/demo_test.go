package cli

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/journal/verify"
	"github.com/deputyauth/deputy/schema"
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

// TestDemoVerifiesItsJournal: the demo's journal is found as it was written, and the change of one byte where it was made, which is then undone.
func TestDemoVerifiesItsJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var out strings.Builder
	p := &program{Streams: Streams{Out: &out}}
	cmd := newDemo(p, schema.SupportDesk, "supportdesk/decisions.yaml")
	cmd.SetArgs([]string{"--output", "json", "--data-dir", dir})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var told struct{ Journal demoEvidence }
	if err := json.Unmarshal([]byte(out.String()), &told); err != nil {
		t.Fatal(err)
	}
	if e := told.Journal; !e.Verified || e.Found == nil || e.Found.Sequence != e.Changed || e.Records <= e.Changed {
		t.Errorf("the evidence is %+v, and %+v was found", e, e.Found)
	}
	report, err := verify.Run(t.Context(), verify.Options{Dir: daemon.JournalDir(dir)})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("the journal that stays is not as it was written: %v, %+v", err, report)
	}
}
