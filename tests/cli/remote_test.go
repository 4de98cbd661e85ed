//go:build unix

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestPlannedWrite: on an engine that cannot compare and write in one step, a planned write says so; on one that
// can there is nothing to say.
func TestPlannedWrite(t *testing.T) {
	for name, test := range map[string]struct {
		engine func(testing.TB) engine.Config
		says   string
	}{
		"remote":   {harness.Remote, "deputy: the engine behind this server cannot compare and write in one step: "},
		"embedded": {harness.Embedded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := harness.Start(t, daemon.Config{Engine: test.engine(t)})
			dir := t.TempDir()
			file, plan := filepath.Join(dir, "new.zed"), filepath.Join(dir, "plan.json")
			if err := os.WriteFile(file, []byte("definition document {\n\trelation tenant: tenant\n\trelation reader: user\n\tpermission view = reader\n}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			env := map[string]string{"DEPUTY_ENDPOINT": s.Addr().String(), "DEPUTY_KEY": harness.AdminKey}
			run := func(want int, args ...string) (stderr string) {
				t.Helper()
				var out, errs bytes.Buffer
				code := cli.Run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs},
					func(name string) (string, bool) { value, ok := env[name]; return value, ok })
				if code != want {
					t.Fatalf("%v: exit code %d\n%s%s", args, code, &out, &errs)
				}
				return errs.String()
			}
			run(cli.ExitOK, "schema", "plan", file, "--out", plan)
			if got := run(cli.ExitOK, "schema", "write", "--require-plan", plan, file); !strings.HasPrefix(got, test.says) || (got == "") != (test.says == "") {
				t.Errorf("got %q, want %q", got, test.says)
			}
			if got := run(cli.ExitError, "schema", "write", "--require-plan", plan, file); !strings.Contains(got, "not the one that was planned for") {
				t.Errorf("again: %q", got)
			}
		})
	}
}
