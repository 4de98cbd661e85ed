package diff

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// parse reads a schema with the core.
func parse(t interface {
	Helper()
	Fatal(args ...any)
}, name, text string) *source.Schema {
	t.Helper()
	s, err := source.Parse(name, text, nil, source.Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// changes compares two schemas; of each change it returns its class and what has changed.
func changes(t *testing.T, before, after string) []string {
	t.Helper()
	all, err := Diff(parse(t, "old.zed", before), parse(t, "new.zed", after))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range all {
		lines = append(lines, c.Class()+": "+c.String())
	}
	return lines
}

// domain of the tests. %s is replaced in tests of one permission.
const domain = `use expiration

caveat hours(now int, from int) {
	now >= from
}

definition group {
	relation member: user
}

definition folder {
	relation tenant: tenant
	relation parent: folder | group
	relation reader: user | group#member
	permission view = reader + parent->view
}

definition document {
	relation folder: folder
	relation reader: user | user with hours
	relation writer: user
	relation banned: user
	permission edit = writer - banned
	permission view = reader + edit + folder->view
	permission visible = view
	permission tenant = folder.all(tenant)
}
`

// TestDiff: each row replaces one text of the domain, or with "gone" puts the domain in the place of what has
// one replaced.
func TestDiff(t *testing.T) {
	for _, test := range []struct {
		name     string
		old, new string
		want     []string
	}{
		{"nothing", "", "", nil},
		{"layout", "relation banned: user\n", "relation banned:   user // as it is\n\n", nil},
		{"order", "relation writer: user\n\trelation banned: user\n", "relation banned: user\n\trelation writer: user\n", nil},
		{"a caveat's layout", "now >= from", "(now)   >= from", nil},
		{"a comment", "definition group {", "// people\ndefinition group {", []string{"compatible: the comment changed on group"}},
		{"a comment on a permission", "permission edit", "// write\n\tpermission edit", []string{"compatible: the comment changed on document#edit"}},

		{"a new definition", "definition group {", "definition team {\n}\ndefinition group {", []string{"compatible: definition team is new"}},
		{"a definition gone", "definition group {", "definition team {\n}\ndefinition group {", []string{"breaking: definition team is gone"}},
		{"a new relation", "relation member: user", "relation member: user\n\trelation admin: user", []string{"compatible: relation group#admin is new"}},
		{"a relation gone", "relation member: user", "relation member: user\n\trelation admin: user", []string{"breaking: relation group#admin is gone"}},

		{"another type", "relation banned: user", "relation banned: user | service", []string{"compatible: relation document#banned admits service"}},
		{"agents", "relation member: user", "relation member: user | agent", []string{
			"widening: relation group#member admits agent",
			"widening: permission document#view is affected through group#member",
			"widening: permission document#visible is affected through group#member",
			"widening: permission folder#view is affected through group#member",
		}},
		{"everybody, on the right of an exclusion", "relation banned: user", "relation banned: user | user:*", []string{
			"widening: relation document#banned admits user:*",
			"breaking: permission document#edit is affected through document#banned",
			"breaking: permission document#view is affected through document#banned",
			"breaking: permission document#visible is affected through document#banned",
		}},
		{"a type gone", "relation reader: user | group#member", "relation reader: user | group#member | group", []string{
			"breaking: relation folder#reader no longer admits group",
			"breaking: permission document#view is affected through folder#reader",
			"breaking: permission document#visible is affected through folder#reader",
			"breaking: permission folder#view is affected through folder#reader",
		}},
		{"a conditional type less", "relation reader: user | user with hours", "relation reader: user", []string{
			"breaking: relation document#reader no longer admits user with hours",
			"breaking: permission document#view is affected through document#reader",
			"breaking: permission document#visible is affected through document#reader",
		}},
		{"a condition gone", "relation reader: user | group#member", "relation reader: user | group#member with expiration", []string{
			"widening: relation folder#reader admits group#member",
			"breaking: relation folder#reader no longer admits group#member with expiration",
			"breaking, widening: permission document#view is affected through folder#reader",
			"breaking, widening: permission document#visible is affected through folder#reader",
			"breaking, widening: permission folder#view is affected through folder#reader",
		}},

		{"a new permission", "permission edit =", "permission print = reader\n\tpermission edit =", []string{"compatible: permission document#print is new"}},
		{"a permission gone", "permission edit =", "permission print = reader\n\tpermission edit =", []string{"breaking: permission document#print is gone"}},
		{"an arrow finds something new", "relation member: user\n}", "relation member: user\n\tpermission view = member\n}", []string{
			"compatible: permission group#view is new",
			"widening: permission document#view is affected through group#view",
			"widening: permission document#visible is affected through group#view",
			"widening: permission folder#view is affected through group#view",
		}},
		{"a union widened", "permission edit = writer - banned", "permission edit = (writer + reader) - banned", []string{
			`widening: permission document#edit was "writer - banned" and is "(writer + reader) - banned"`,
		}},
		{"an exclusion dropped", "permission edit = writer - banned", "permission edit = writer", []string{
			`widening: permission document#edit was "writer - banned" and is "writer"`,
			"widening: permission document#view is affected through document#edit",
			"widening: permission document#visible is affected through document#edit",
		}},
		{"narrowed", "permission view = reader + edit + folder->view", "permission view = reader + edit", []string{
			`breaking: permission document#view was "reader + edit + folder->view" and is "reader + edit"`,
			"breaking: permission document#visible is affected through document#view",
		}},
		{"both", "permission edit = writer - banned", "permission edit = reader - banned", []string{
			`breaking, widening: permission document#edit was "writer - banned" and is "reader - banned"`,
			"breaking: permission document#view is affected through document#edit",
			"breaking: permission document#visible is affected through document#edit",
		}},
		{"the same meaning", "permission view = reader + edit + folder->view", "permission view = folder.any(view) + reader + (writer - banned) + edit", []string{
			`compatible: permission document#view was "reader + edit + folder->view" and is "folder->view + reader + (writer - banned) + edit"`,
		}},
		{"precedence", "permission edit = writer - banned", "permission edit = writer - banned + reader", []string{
			`breaking: permission document#edit was "writer - banned" and is "writer - (banned + reader)"`,
		}},
		{"spelling", "reader + edit + folder->view", "(reader + edit) + folder.any(view)", nil},
		{"put apart", "permission view = reader + edit + folder->view", "permission direct = reader + edit\n\tpermission view = direct + folder->view", []string{
			"compatible: permission document#direct is new",
			`compatible: permission document#view was "reader + edit + folder->view" and is "direct + folder->view"`,
		}},
		{"of all or of any", "permission view = reader + parent->view", "permission view = reader + parent.all(view)", []string{
			`breaking: permission folder#view was "reader + parent->view" and is "reader + parent.all(view)"`,
			"breaking: permission document#view is affected through folder#view",
			"breaking: permission document#visible is affected through folder#view",
		}},
		{"to nobody", "permission edit = writer - banned", "permission edit = nil", []string{
			`breaking: permission document#edit was "writer - banned" and is "nil"`,
			"breaking: permission document#view is affected through document#edit",
			"breaking: permission document#visible is affected through document#edit",
		}},
		{"the tenant", "permission tenant = folder.all(tenant)", "permission tenant = folder->tenant", []string{
			`breaking, widening: permission document#tenant was "folder.all(tenant)" and is "folder->tenant"`,
		}},
		{"the tenant's relation", "relation tenant: tenant", "relation tenant: tenant | tenant:*", []string{
			"breaking, widening: relation folder#tenant admits tenant:*",
			"breaking, widening: permission document#tenant is affected through folder#tenant",
		}},

		{"a new parameter", "from int) {\n\tnow >= from", "from int, until int) {\n\tnow >= from || until > 0", []string{
			`breaking, widening: caveat hours was "now >= from" and is "now >= from || until > 0"`,
			"breaking: caveat hours takes a new parameter until",
			"breaking, widening: permission document#view is affected through caveat hours",
			"breaking, widening: permission document#visible is affected through caveat hours",
		}},
		{"a parameter gone", "from int) {\n\tnow >= from", "from int, until list<int>) {\n\tnow >= from || until == [0]", []string{
			`breaking, widening: caveat hours was "now >= from || until == [0]" and is "now >= from"`,
			"breaking, widening: caveat hours no longer takes the parameter until",
			"breaking, widening: permission document#view is affected through caveat hours",
			"breaking, widening: permission document#visible is affected through caveat hours",
		}},
		{"another type of a parameter", "now int, from int", "now double, from double", []string{
			"breaking, widening: caveat hours took from int and takes from double",
			"breaking, widening: caveat hours took now int and takes now double",
			"breaking, widening: permission document#view is affected through caveat hours",
			"breaking, widening: permission document#visible is affected through caveat hours",
		}},
		{"another expression", "now >= from", "now > from", []string{
			`breaking, widening: caveat hours was "now >= from" and is "now > from"`,
			"breaking, widening: permission document#view is affected through caveat hours",
			"breaking, widening: permission document#visible is affected through caveat hours",
		}},
		{"a new caveat", "definition group {", "caveat never(x int) {\n\tx != x\n}\ndefinition group {", []string{"compatible: caveat never is new"}},
		{"a caveat gone", "definition group {", "caveat never(x int) {\n\tx != x\n}\ndefinition group {", []string{"breaking: caveat never is gone"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(domain, test.old) {
				t.Fatalf("the domain has no %q", test.old)
			}
			before, after := domain, strings.Replace(domain, test.old, test.new, 1)
			if strings.HasSuffix(test.name, " gone") {
				before, after = after, before
			}
			if got := changes(t, before, after); !slices.Equal(got, test.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

// TestDiffPlaces: each change says where it stands on both sides, a member's in the file of its partial.
func TestDiffPlaces(t *testing.T) {
	const partial = "use partial\n\n" + "partial readers {\n\trelation reader: user | service\n}\n"
	before := parse(t, "old.zed", "definition document {\n\trelation reader: user | agent\n\trelation gone: user\n\tpermission view = reader\n}\n")
	after, err := source.Parse("new.zed", "use import\nuse partial\nimport \"parts.zed\"\n\ndefinition document {\n\t...readers\n\tpermission view = nil\n}\n",
		fstest.MapFS{"parts.zed": {Data: []byte(partial)}}, source.Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	all, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, fmt.Sprintf("%s, %s, %s, at %s", c.Kind, c.OldAt, c.NewAt, c.At()))
	}
	if want := []string{
		"relation-removed, old.zed:3:2, , at old.zed:3:2",
		"type-added, old.zed:2:2, parts.zed:4:26, at parts.zed:4:26",
		"type-removed, old.zed:2:26, parts.zed:4:2, at parts.zed:4:2",
		"permission-changed, old.zed:4:2, new.zed:7:2, at new.zed:7:2",
	}; !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// drawFormula draws an expression over the atoms, as text.
func drawFormula(t *rapid.T, atoms []string, depth int) string {
	if depth == 0 || rapid.Bool().Draw(t, "leaf") {
		return rapid.SampledFrom(atoms).Draw(t, "atom")
	}
	op := rapid.SampledFrom([]string{" + ", " & ", " - "}).Draw(t, "op")
	return "(" + drawFormula(t, atoms, depth-1) + op + drawFormula(t, atoms, depth-1) + ")"
}

// holds evaluates a formula without truth tables.
func holds(f *schema.Expression, in func(name string) bool) bool {
	if !f.IsGroup() {
		return f.Op == schema.Computed && in(f.Member)
	}
	result := f.Op != schema.Union
	for i, operand := range f.Operands {
		is := holds(operand, in)
		switch {
		case f.Op == schema.Union:
			result = result || is
		case f.Op == schema.Intersection, i == 0:
			result = result && is
		default:
			result = result && !is
		}
	}
	return result
}

// TestCompareIsExact: what compare says of two expressions is what trying every assignment says.
func TestCompareIsExact(t *testing.T) {
	names := []string{"aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg"}
	rapid.Check(t, func(t *rapid.T) {
		atoms := append(slices.Clone(names[:rapid.IntRange(1, len(names)).Draw(t, "atoms")]), "nil")
		var formulas []*schema.Expression
		for range 2 {
			text := "definition document {\n"
			for _, name := range names {
				text += "\trelation " + name + ": user\n"
			}
			text += "\tpermission part = " + drawFormula(t, atoms, 3) + "\n\tpermission view = " + drawFormula(t, append(slices.Clone(atoms), "part"), 4) + "\n}\n"
			model, err := parse(t, "schema", text).Model()
			if err != nil {
				t.Fatal(err)
			}
			formulas = append(formulas, model.Formulas().Of(model.Member(schema.Name{Type: "document", Member: "view"})))
		}
		var want effect
		for assignment := range 1 << len(names) {
			in := func(name string) bool { return assignment>>slices.Index(names, name)&1 == 1 }
			before, after := holds(formulas[0], in), holds(formulas[1], in)
			want = want.or(effect{widens: after && !before, narrows: before && !after})
		}
		if got, proven := compare(formulas[0], formulas[1]); got != want || !proven {
			t.Fatalf("got %+v, %t, want %+v", got, proven, want)
		}
	})
}

// TestCompareGivesUp: with too many operands everything may happen; with as many as are allowed it is proven.
func TestCompareGivesUp(t *testing.T) {
	for _, operands := range []int{schema.MaxVariables, schema.MaxVariables + 1} {
		text := "definition document {\n"
		var names []string
		for i := range operands {
			names = append(names, fmt.Sprintf("reader%02d", i))
			text += "\trelation " + names[i] + ": user\n"
		}
		with := func(names []string) string {
			return text + "\tpermission view = " + strings.Join(names, " + ") + "\n}\n"
		}
		got := changes(t, with(names[1:]), with(names))
		want := map[bool]string{true: "widening: ", false: "breaking, widening: "}[operands == schema.MaxVariables]
		if len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%d operands: %q, want one that is %q", operands, got, want)
		}
	}
}

// TestRecursion: permissions that refer to themselves on their own type are compared too.
func TestRecursion(t *testing.T) {
	const text = "definition document {\n\trelation reader: user\n\trelation parent: document\n\tpermission view = reader + parent->view\n" +
		"\tpermission one = reader + two\n\tpermission two = reader + one\n}\n"
	got := changes(t, text, strings.Replace(text, "two = reader + one", "two = one", 1))
	if want := []string{
		`breaking: permission document#two was "reader + one" and is "one"`,
		"breaking: permission document#one is affected through document#two",
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestArrowsForAll: one more object on the left of .all() can be one too many; and an arrow that becomes one for
// all is still followed to what its target has become.
func TestArrowsForAll(t *testing.T) {
	const text = "definition folder {\n\trelation reader: user\n\trelation writer: user\n\tpermission view = reader\n}\n" +
		"definition document {\n\trelation folder: folder\n\tpermission view = folder.all(view)\n}\n"
	got := changes(t, text, strings.Replace(text, "folder: folder", "folder: folder | agent", 1))
	if want := []string{
		"widening: relation document#folder admits agent",
		"breaking, widening: permission document#view is affected through document#folder",
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	before := strings.Replace(text, "folder.all(view)", "folder->view", 1)
	got = changes(t, before, strings.Replace(text, "view = reader", "view = reader + writer", 1))
	if want := []string{
		`breaking: permission document#view was "folder->view" and is "folder.all(view)"`,
		`widening: permission folder#view was "reader" and is "reader + writer"`,
		"widening: permission document#view is affected through folder#view",
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
