// Package docs asserts that what the documentation shows of the program is what the program prints, and that
// the example in it is one that runs. `make readme` writes both anew.
package docs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	guardlint "github.com/deputyauth/deputy/pkg/door/mcp/mapping/lint"
	"github.com/deputyauth/deputy/pkg/schema/lint"
)

var rewrite = flag.Bool("rewrite", false, "write what the program prints into the pages")

// run is the program with these arguments, without any environment.
func run(t *testing.T, args ...string) string {
	t.Helper()
	return ends(t, cli.ExitOK, args...)
}

// ends is run for a program that ends with an exit code.
func ends(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	streams := cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs}
	if code := cli.Run(t.Context(), args, streams, func(string) (string, bool) { return "", false }); code != want {
		t.Fatalf("deputy %s: exit code %d\n%s%s", strings.Join(args, " "), code, &out, &errs)
	}
	return out.String()
}

// shows asserts that a page holds the text between the comments <!-- name --> and <!-- /name -->.
func shows(t *testing.T, page, name, text string) {
	t.Helper()
	was, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	is, err := replaced(string(was), name, text)
	switch {
	case err != nil:
		t.Fatalf("%s: %v", page, err)
	case is == string(was):
	case *rewrite:
		if err := os.WriteFile(page, []byte(is), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the block %s of %s does not show what the code says: run make readme", name, page)
	}
}

// replaced puts text between the two comments of a page.
func replaced(page, name, text string) (string, error) {
	before, rest, found := strings.Cut(page, "<!-- "+name+" -->\n")
	_, after, closed := strings.Cut(rest, "<!-- /"+name+" -->\n")
	if !found || !closed {
		return "", fmt.Errorf("there is no block <!-- %s --> … <!-- /%[1]s -->", name)
	}
	return before + "<!-- " + name + " -->\n" + text + "<!-- /" + name + " -->\n" + after, nil
}

// usageLine matches a flag in the output of --help: name, type, meaning, variable if it has one, default.
var usageLine = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)(?: (\S+))?  +(.*?)(?: \[\$(DEPUTY_\w+)\])?(?: \(default (.*)\))?$`)

func TestOperationsListsTheSettings(t *testing.T) {
	help := run(t, "serve", "--help")
	_, flags, _ := strings.Cut(help, "\nFlags:\n")
	var table strings.Builder
	table.WriteString("| flag | variable | meaning |\n| --- | --- | --- |\n")
	settings := usageLine.FindAllStringSubmatch(flags, -1)
	settings = slices.DeleteFunc(settings, func(s []string) bool { return s[1] == "help" })
	for _, s := range settings {
		meaning, variable := s[3], ""
		if s[4] != "" {
			variable = "`" + s[4] + "`"
		}
		if s[5] != "" {
			meaning += " (default `" + strings.Trim(s[5], `"`) + "`)"
		}
		fmt.Fprintf(&table, "| `--%s` | %s | %s |\n", s[1], variable, meaning)
	}
	// Every line but that of --help, else the pattern above misses some.
	if want := strings.Count(flags, "\n") - 1; len(settings) != want {
		t.Fatalf("read %d settings of %d from\n%s", len(settings), want, flags)
	}
	shows(t, "../../docs/operations.md", "settings", table.String())
}

func TestSchemaListsTheRules(t *testing.T) {
	var table strings.Builder
	table.WriteString("| rule | severity | what is found |\n| --- | --- | --- |\n")
	for _, r := range lint.Rules {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", r.Name, r.Severity, r.Summary)
	}
	shows(t, "../../docs/schema.md", "rules", table.String())
	shows(t, "../../docs/schema.md", "explanation", "```console\n$ deputy schema lint --explain tenant-not-all\n"+
		run(t, "schema", "lint", "--explain", "tenant-not-all")+"```\n")
}

func TestMCPListsTheMethods(t *testing.T) {
	shows(t, "../../docs/mcp.md", "methods", mcp.Table())
}

func TestMCPListsTheRules(t *testing.T) {
	var table strings.Builder
	table.WriteString("| code | severity | what is found |\n| --- | --- | --- |\n")
	for _, r := range guardlint.Rules() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", r.Name, r.Severity, r.Summary)
	}
	shows(t, "../../docs/mcp.md", "codes", table.String())
}

// TestPagesQuoteExamples: the Go code on the pages is what tests run.
func TestPagesQuoteExamples(t *testing.T) {
	for page, example := range map[string]struct{ file, name string }{
		"embedding.md": {"../../pkg/daemon/example_test.go", "ExampleDaemon_Decide"},
		"api.md":       {"../../pkg/client/example_test.go", "Example"},
	} {
		source, err := os.ReadFile(example.file)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, found := strings.Cut(string(source), "\nfunc "+example.name+"() {\n")
		body, _, ended := strings.Cut(rest, "\n}\n")
		if !found || !ended {
			t.Fatalf("there is no %s in %s", example.name, example.file)
		}
		body = strings.ReplaceAll("\n"+body, "\n\t", "\n")
		shows(t, "../../docs/"+page, "example", "```go"+body+"\n```\n")
	}
}

func TestReplaced(t *testing.T) {
	got, err := replaced("a\n<!-- x -->\nold\n<!-- /x -->\nb\n", "x", "new\n")
	if err != nil || got != "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, page := range []string{"", "<!-- x -->\n", "<!-- /x -->\n<!-- y -->\n"} {
		if got, err := replaced(page, "x", ""); err == nil {
			t.Errorf("a page without the block: %q", got)
		}
	}
}
