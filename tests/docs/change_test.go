package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
)

// TestChange: the plan on the page about changing a schema is what the program prints for such a change.
func TestChange(t *testing.T) {
	page, err := filepath.Abs("../../docs/change.md")
	if err != nil {
		t.Fatal(err)
	}
	const schema = "definition document {\n\trelation tenant: tenant\n\trelation reader: user | agent\n\tpermission view = reader\n}\n"
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"old.zed":   schema,
		"new.zed":   strings.Replace(schema, "view = reader", "view = reader + tenant->agent", 1),
		"graph.txt": "document:plan#tenant@tenant:acme\ndocument:plan#reader@user:alice\ntenant:acme#member@user:alice\ntenant:acme#agent@agent:bot\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"schema", "plan", "new.zed", "--against", "graph.txt", "--schema", "old.zed"}
	out := ends(t, cli.ExitDenied, args...)
	shows(t, page, "plan", "```console\n$ deputy "+strings.Join(args, " ")+"\n"+out+"```\n")
}
