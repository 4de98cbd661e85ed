package cli

import (
	"context"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/schema"
)

func TestFlattenAddsTheCore(t *testing.T) {
	flat, err := flatten(t.Context(), "root.zed", `
		use import
		use partial
		import "shared.zed"
		definition document {
			relation tenant: tenant
			...shared
		}`, fstest.MapFS{"shared.zed": {Data: []byte("use partial\n// shared\npartial shared {\n\trelation reader: user | agent | delegation\n}")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"definition session {", "relation active: session with expiration", "caveat issued(", "definition document {", "relation reader: user | agent | delegation"} {
		if strings.Count(flat.text, want) != 1 {
			t.Errorf("%q is not exactly once in\n%s", want, flat.text)
		}
	}
	for _, composed := range []string{"import", "partial", "..."} {
		if strings.Contains(flat.text, composed) {
			t.Errorf("%q is still in the flat text", composed)
		}
	}
	if flat.definitions != 7 || flat.caveats != 3 {
		t.Errorf("%d definitions and %d caveats, want 7 and 3", flat.definitions, flat.caveats)
	}
	if !strings.HasPrefix(flat.text, "use expiration\n") {
		t.Error("the flag that the core needs is missing")
	}
	again, err := flatten(t.Context(), "again.zed", flat.text, fstest.MapFS{})
	if err != nil || again != flat {
		t.Errorf("flat text does not stay as it is: %v\n%s", err, again.text)
	}
}

// TestFlattenKeepsOwnCore: what a schema says about the core itself is the server's to refuse.
func TestFlattenKeepsOwnCore(t *testing.T) {
	flat, err := flatten(t.Context(), "root.zed", "definition user {\n relation friend: user\n}", fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(flat.text, "relation friend: user") || strings.Count(flat.text, "definition user ") != 1 {
		t.Errorf("the schema's own user is gone:\n%s", flat.text)
	}
}

func TestFlattenSupportDesk(t *testing.T) {
	files, err := fs.Sub(schema.SupportDesk, "supportdesk")
	if err != nil {
		t.Fatal(err)
	}
	text, err := fs.ReadFile(files, "supportdesk.zed")
	if err != nil {
		t.Fatal(err)
	}
	flat, err := flatten(t.Context(), "supportdesk.zed", string(text), files)
	if err != nil {
		t.Fatal(err)
	}
	// A "+" binds tighter than a "-", so the parentheses of the source are not needed.
	if !strings.Contains(flat.text, "permission view = reader + writer + parent->view - banned") {
		t.Errorf("a permission has changed:\n%s", flat.text)
	}
}

// TestFlattenKeepsMeaning: SpiceDB's generator leaves parentheses out where it thinks that they say
// nothing. Over random expressions, the flat permission has to hold for the same sets of relations as
// the one that was written.
func TestFlattenKeepsMeaning(t *testing.T) {
	relations := []string{"aaa", "bbb", "ccc", "ddd"}
	rapid.Check(t, func(t *rapid.T) {
		expression := drawExpression(t, relations, 4)
		text := "definition document {\n\trelation " + strings.Join(relations, ": user\n\trelation ") +
			": user\n\tpermission view = " + expression + "\n}\n"
		flat, err := flatten(context.Background(), "root.zed", text, fstest.MapFS{})
		if err != nil {
			t.Fatal(err)
		}
		wrote, sent := viewOf(t, text), viewOf(t, flat.text)
		for set := range 1 << len(relations) {
			held := map[string]bool{}
			for i, relation := range relations {
				held[relation] = set>>i&1 == 1
			}
			if holds(t, wrote, held) != holds(t, sent, held) {
				t.Fatalf("%s has become, in\n%s\ndifferent for %v", expression, flat.text, held)
			}
		}
	})
}

// drawExpression returns a permission expression with parentheses around everything, or around
// nothing, at each level.
func drawExpression(t *rapid.T, relations []string, depth int) string {
	if depth == 0 || rapid.IntRange(0, 3).Draw(t, "leaf") == 0 {
		return rapid.SampledFrom(relations).Draw(t, "relation")
	}
	left, right := drawExpression(t, relations, depth-1), drawExpression(t, relations, depth-1)
	text := left + rapid.SampledFrom([]string{" + ", " & ", " - "}).Draw(t, "operator") + right
	if rapid.Bool().Draw(t, "parentheses") {
		return "(" + text + ")"
	}
	return text
}

// viewOf compiles a schema and returns document's permission view.
func viewOf(t *rapid.T, text string) *core.UsersetRewrite {
	compiled, err := compile("view.zed", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, definition := range compiled.ObjectDefinitions {
		for _, relation := range definition.GetRelation() {
			if definition.GetName() == "document" && relation.GetName() == "view" {
				return relation.GetUsersetRewrite()
			}
		}
	}
	t.Fatal("there is no document#view")
	return nil
}

// holds evaluates a permission where exactly the relations in held hold.
func holds(t *rapid.T, rewrite *core.UsersetRewrite, held map[string]bool) bool {
	child := func(c *core.SetOperation_Child) bool {
		if nested := c.GetUsersetRewrite(); nested != nil {
			return holds(t, nested, held)
		}
		return held[c.GetComputedUserset().GetRelation()]
	}
	var children []*core.SetOperation_Child
	switch {
	case rewrite.GetUnion() != nil:
		return slices.ContainsFunc(rewrite.GetUnion().GetChild(), child)
	case rewrite.GetIntersection() != nil:
		children = rewrite.GetIntersection().GetChild()
		return !slices.ContainsFunc(children, func(c *core.SetOperation_Child) bool { return !child(c) })
	case rewrite.GetExclusion() != nil:
		children = rewrite.GetExclusion().GetChild()
		return child(children[0]) && !slices.ContainsFunc(children[1:], child)
	default:
		t.Fatal("an operation that the test does not know")
		return false
	}
}

func TestFlattenRefused(t *testing.T) {
	imports := fstest.MapFS{"broken.zed": {Data: []byte("definition user {\n  relation : user\n}")}}
	for _, test := range []struct{ text, want string }{
		{"definition document {\n  relation viewer user\n}", "root.zed:2:19: "},
		{"use import\n// parts\nimport \"absent.zed\"", "absent.zed"},
		{"use import\n// parts\nimport \"../secret.zed\"", "'..'"},
		{"use import\n// parts\nimport \"broken.zed\"", "broken.zed:2:12: "},
		{"", "root.zed defines nothing"},
		{"// only a comment", "root.zed defines nothing"},
	} {
		if _, err := flatten(t.Context(), "root.zed", test.text, imports); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: the error is %v, want %q in it", test.text, err, test.want)
		}
	}
}
