package cli

import (
	"errors"
	"strings"
	"testing"
)

// TestDemoNoticesWrongAnswers tells a story that expects the bleed.
func TestDemoNoticesWrongAnswers(t *testing.T) {
	story := []demoChapter{{"Nobody delegated anything.", []demoStep{
		demoCheck{"triage-bot", "no session", "user:bob", "acme", "view ticket:acme-1041", "", "allowed"},
		demoCheck{"triage-bot", "no session", "user:bob", "acme", "view ticket:acme-1042", "", "refused by delegation"},
	}}}
	for output, want := range map[string]string{
		"table": "refused by delegation, EXPECTED: allowed\n",
		"json":  `"ok": false`,
	} {
		var out strings.Builder
		cmd := newDemo(&program{Streams: Streams{Out: &out}}, story)
		cmd.SetArgs([]string{"--output", output})
		if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errDenied) {
			t.Errorf("%s: the demo ended with %v, want exit code 1", output, err)
		}
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("%s: %q is not exactly once in\n%s", output, want, out.String())
		}
	}
	var out strings.Builder
	cmd := newDemo(&program{Streams: Streams{Out: &out}}, story)
	cmd.SetArgs(nil)
	_ = cmd.ExecuteContext(t.Context())
	if !strings.Contains(out.String(), "1 of 2 decisions are not as expected.") {
		t.Errorf("the summary is missing:\n%s", out.String())
	}
}
