package lint

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// Whatever people have written is checked without a failure, and every finding has a place and a rule.
// SpiceDB's examples know no agents, so their definitions have no tenant.
func TestSpiceDBsExamples(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/authzed/spicedb").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal", "services", "integrationtesting", "testconfigs", "*.yaml*"))
	if err != nil || len(files) < 70 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ Schema string }
		if err := yaml.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		for _, withCore := range []bool{false, true} {
			s, err := source.Parse("a.zed", file.Schema, nil, source.Options{Core: withCore})
			if err != nil {
				if !withCore || strings.Contains(err.Error(), "user") || strings.Contains(err.Error(), "tenant") {
					t.Errorf("%s: %v", path, err)
				}
				continue
			}
			found, err := Check(s, Options{})
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if lines(found, NoTenant, coreDiffers) == "" {
				t.Errorf("%s: all types have a tenant", path)
			}
			for _, f := range found {
				if _, ok := Find(f.Rule); !ok || f.File != "a.zed" || f.Line == 0 && f.Rule != coreDiffers || f.Message == "" || strings.Contains(f.Message+f.Suggestion, "\n") {
					t.Errorf("%s: %+v", path, f)
				}
			}
		}
	}
}

// TestReachIsWhatCanBeGranted compares whom a permission can hold for with all ways to grant its
// relations. Each is in the expression at most once, so that nothing is asked for and taken away at once.
func TestReachIsWhatCanBeGranted(t *testing.T) {
	subjects := []string{"user", "service", "agent", "delegation"}
	relations := []string{"aaa", "bbb", "ccc", "ddd"}
	rapid.Check(t, func(t *rapid.T) {
		admits := map[string][]string{}
		var text strings.Builder
		text.WriteString("definition document {\n")
		for _, r := range relations {
			for i, subject := range subjects {
				if rapid.Bool().Draw(t, r+" admits "+subject) || i == 3 && len(admits[r]) == 0 {
					admits[r] = append(admits[r], subject)
				}
			}
			fmt.Fprintf(&text, "\trelation %s: %s\n", r, strings.Join(admits[r], " | "))
		}
		expression, holds := drawExpression(t, rapid.Permutation(relations).Draw(t, "order"))
		fmt.Fprintf(&text, "\tpermission view = %s\n}\n", expression)
		s, err := source.Parse("a.zed", text.String(), nil, source.Options{Core: true})
		if err != nil {
			t.Fatal(err)
		}
		model, err := s.Model()
		if err != nil {
			t.Fatal(err)
		}
		reach := model.Subjects().Of(schema.Name{Type: "document", Member: "view"})
		for _, subject := range subjects {
			can := false
			for set := range 1 << len(relations) {
				granted := map[string]bool{}
				for i, r := range relations {
					granted[r] = set>>i&1 == 1 && slices.Contains(admits[r], subject)
				}
				can = can || holds(granted)
			}
			if got := reach[subject]; got != can {
				t.Fatalf("%s can have view: %v, computed %v, in\n%s", subject, can, got, text.String())
			}
		}
	})
}

// drawExpression returns an expression over the relations, each used once, and what it says.
func drawExpression(t *rapid.T, relations []string) (string, func(map[string]bool) bool) {
	if len(relations) == 1 {
		return relations[0], func(granted map[string]bool) bool { return granted[relations[0]] }
	}
	cut := rapid.IntRange(1, len(relations)-1).Draw(t, "cut")
	left, l := drawExpression(t, relations[:cut])
	right, r := drawExpression(t, relations[cut:])
	switch operator := rapid.SampledFrom([]string{" + ", " & ", " - "}).Draw(t, "operator"); operator {
	case " + ":
		return "(" + left + operator + right + ")", func(g map[string]bool) bool { return l(g) || r(g) }
	case " & ":
		return "(" + left + operator + right + ")", func(g map[string]bool) bool { return l(g) && r(g) }
	default:
		return "(" + left + operator + right + ")", func(g map[string]bool) bool { return l(g) && !r(g) }
	}
}

// large is a schema of 300 types with 10 members each, documented, and with arrows and usersets along
// chains of ten types.
func large() string {
	var text strings.Builder
	text.WriteString("/** limit bounds an amount. */\ncaveat limit(amount int, most int) {\n\tamount <= most\n}\n")
	for i := range 300 {
		fmt.Fprintf(&text, `
/** type%[1]d is one of many. */
definition type%[1]d {
	/** tenant is the one tenant. */
	relation tenant: tenant

	/** parent is the object around. */
	relation parent: type%[1]d

	/** before is another object. */
	relation before: type%[2]d

	/** reader reads. */
	relation reader: user | service | type%[2]d#reader | agent | delegation

	/** writer writes. */
	relation writer: user | service | agent | delegation

	/** capped writes up to an amount. */
	relation capped: user with limit | agent with limit | delegation with limit

	/** banned does neither. */
	relation banned: user | service | agent

	/** edit lets change it. */
	permission edit = (writer + capped + parent->edit + before->edit) - banned

	/** view lets see it. */
	permission view = (reader + edit + parent->view) - banned

	/** share lets pass it on. */
	permission share = (view & edit) - banned
}
`, i, max(i-1, i/10*10))
	}
	return text.String()
}

// BenchmarkLarge times reading the large schema, and checking it.
func BenchmarkLarge(b *testing.B) {
	text := large()
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := source.Parse("a.zed", text, nil, source.Options{Core: true}); err != nil {
				b.Fatal(err)
			}
		}
	})
	s, err := source.Parse("a.zed", text, nil, source.Options{Core: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if _, err := Check(s, Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
