package docs

import (
	"regexp"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
)

var took = regexp.MustCompile(`\(\d+\.\d+ s\)`)

// TestReadmeShowsTheBleed: the README shows what the isolation suite finds in a schema as they are published. How long it
// took is left as it was.
func TestReadmeShowsTheBleed(t *testing.T) {
	t.Chdir("../..")
	args := "test tests/fixtures/testdata/bleed/published.yaml"
	out := ends(t, cli.ExitDenied, "test", "tests/fixtures/testdata/bleed/published.yaml")
	shows(t, "README.md", "bleed", "```console\n$ deputy "+args+"\n"+took.ReplaceAllString(out, "(0.04 s)")+"```\n")
}
