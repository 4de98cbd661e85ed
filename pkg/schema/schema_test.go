package schema

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/authzed/spicedb/pkg/caveats/types"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
)

// read compiles a schema and reads it.
func read(t *testing.T, text string) *Schema {
	t.Helper()
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text},
		compiler.AllowUnprefixedObjectType(), compiler.CaveatTypeSet(types.Default.TypeSet))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(compiled.ObjectDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const documents = `use expiration
use self

caveat weekday(day string) { day != "sunday" }

definition user {}
definition agent {}
definition group {
	relation member: user | group#member
	permission active = member & member
}
definition folder {
	relation parent: folder
	relation reader: user | group#member | agent
	relation banned: user
	permission view = reader + parent->view
	permission read = view - (banned - reader)
}
definition document {
	relation folder: folder
	relation reader: user | user:* | user with weekday and expiration | agent with expiration
	permission view = (reader & folder.all(view)) + folder->view
	permission both = reader & folder->banned
	permission none = nil
	permission own = self
	permission other = view
}
`

// TestTextOfExpressions: an expression reads as the schema writes it, and what Rewrite returns is read as the same.
func TestTextOfExpressions(t *testing.T) {
	t.Parallel()
	s := read(t, documents)
	for name, want := range map[Name]string{
		{"folder", "read"}: "view - (banned - reader)", {"document", "view"}: "(reader & folder.all(view)) + folder->view",
		{"document", "none"}: "nil", {"document", "own"}: "self", {"document", "other"}: "view",
	} {
		e := s.Member(name).Expression
		if e.String() != want {
			t.Errorf("%s = %s, want %s", name, e, want)
		}
		again, err := readRewrite(e.Rewrite())
		if err != nil || again.String() != want {
			t.Errorf("%s, written and read again: %s (%v), want %s", name, again, err, want)
		}
	}
	for name, want := range map[Name]string{
		{"document", "view"}:   "permission view = (reader & folder.all(view)) + folder->view",
		{"document", "reader"}: "relation reader: user | user:* | user with weekday and expiration | agent with expiration",
	} {
		if got := s.Member(name).Text(); got != want {
			t.Errorf("%s is written %q, want %q", name, got, want)
		}
	}
}

// TestAdmits: a relationship is admitted with just the traits that the schema names, and a permission holds none.
func TestAdmits(t *testing.T) {
	t.Parallel()
	s := read(t, documents)
	for text, want := range map[string]bool{
		"document:d#reader@user:u": true, "document:d#reader@user:*": true, "document:d#reader@agent:a": false,
		"document:d#reader@agent:a[expiration:2040-01-01T00:00:00Z]":         true,
		"document:d#reader@user:u[weekday][expiration:2040-01-01T00:00:00Z]": true,
		"document:d#reader@user:u[weekday]":                                  false,
		"document:d#reader@user:*[weekday][expiration:2040-01-01T00:00:00Z]": false,
		"folder:f#reader@group:g#member":                                     true, "folder:f#reader@group:g": false, "folder:f#view@user:u": false, "folder:f#nothing@user:u": false,
	} {
		r := tuple.MustParse(text)
		kind, relation := KindOf(r), s.Member(Name{r.Resource.ObjectType, r.Resource.Relation})
		if got := relation.Admits(kind); got != want {
			t.Errorf("%s is admitted as %s: %v, want %v", text, kind, got, want)
		}
	}
}

// TestSameObject: only what is computed on the same object counts, through whatever operation, and a permission that returns
// to itself is among it.
func TestSameObject(t *testing.T) {
	t.Parallel()
	s := read(t, `definition user {}
definition thing {
	relation one: user
	relation way: thing
	permission ppp = one + qqq
	permission qqq = (way->rrr & way) - ppp
	permission rrr = ppp
}`)
	for name, want := range map[string]string{"one": "[]", "ppp": "[thing#one thing#qqq thing#way thing#ppp]", "rrr": "[thing#ppp thing#one thing#qqq thing#way]"} {
		if got := fmt.Sprint(s.SameObject(s.Member(Name{"thing", name}))); got != want {
			t.Errorf("%s is computed from %s, want %s", name, got, want)
		}
	}
}

// TestSubjects: an intersection admits what all operands admit, and an exclusion what its left side admits.
func TestSubjects(t *testing.T) {
	t.Parallel()
	s := read(t, documents)
	subjects := s.Subjects()
	for name, want := range map[Name][]string{
		{"group", "active"}: {"user"}, {"folder", "view"}: {"agent", "user"}, {"folder", "read"}: {"agent", "user"},
		{"document", "both"}: {"user"}, {"document", "none"}: nil, {"document", "own"}: {"document"}, {"document", "other"}: {"agent", "user"},
		{"document", "nothing"}: nil,
	} {
		if got := sorted(subjects.Of(name)); !slices.Equal(got, want) {
			t.Errorf("%s can hold for %q, want %q", name, got, want)
		}
	}
}

func sorted(set map[string]bool) (found []string) {
	for name := range set {
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

// TestReach: what is taken away is read too, and what an arrow follows is told apart from what is evaluated.
func TestReach(t *testing.T) {
	t.Parallel()
	s := read(t, documents)
	names := func(members map[*Member]bool) (found []string) {
		for m := range members {
			found = append(found, m.String())
		}
		slices.Sort(found)
		return found
	}
	r := s.Reach(s.Member(Name{"document", "both"}), nil)
	if got, want := names(r.Members), []string{"document#both", "document#reader", "folder#banned"}; !slices.Equal(got, want) {
		t.Errorf("evaluated: %q, want %q", got, want)
	}
	if got, want := names(r.Followed), []string{"document#folder"}; !slices.Equal(got, want) {
		t.Errorf("followed: %q, want %q", got, want)
	}
	var dependents []string
	for n := range s.Dependents(Name{"folder", "banned"}) {
		dependents = append(dependents, n.String())
	}
	slices.Sort(dependents)
	if want := []string{"document#both", "folder#banned", "folder#read"}; !slices.Equal(dependents, want) {
		t.Errorf("what reads folder#banned: %q, want %q", dependents, want)
	}
	components := s.Components()
	of := func(objectType, name string) int { return components[s.Member(Name{objectType, name})] }
	if of("folder", "view") == of("folder", "read") || of("group", "member") == of("group", "active") || of("folder", "view") == 0 {
		t.Errorf("components: %v", components)
	}
}

// TestReplace: a part that is replaced where Walk found it is the one that changes.
func TestReplace(t *testing.T) {
	t.Parallel()
	e := read(t, documents).Member(Name{"folder", "read"}).Expression
	var parts []string
	e.Walk(func(_ *Expression, path []int, subtracted bool) {
		replaced := e.Replace(path, &Expression{}).String()
		if subtracted {
			replaced += " (subtracted)"
		}
		parts = append(parts, replaced)
	})
	want := []string{
		"nil", "nil - (banned - reader)", "view - nil (subtracted)", "view - (nil - reader) (subtracted)", "view - (banned - nil) (subtracted)",
	}
	if !slices.Equal(parts, want) {
		t.Errorf("%q, want %q", parts, want)
	}
	if got := e.Without(1).String(); got != "view" {
		t.Errorf("without the right side: %s", got)
	}
}

// TestFormulas: the tables of random permissions, which name each other, are those of an evaluation that asks each
// permission anew for every assignment.
func TestFormulas(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 5))
	relations := []string{"one", "two", "way"}
	for range 200 {
		text := "definition user {}\ndefinition thing {\n\trelation one: user\n\trelation two: user\n\trelation way: thing | user\n"
		names := slices.Clone(relations)
		var expression func(depth int) string
		expression = func(depth int) string {
			switch n := random.IntN(8); {
			case depth == 0 || n < 3:
				return names[random.IntN(len(names))]
			case n == 3:
				return "way->one"
			case n == 4:
				return "way.all(one)"
			default:
				return "(" + expression(depth-1) + []string{" + ", " & ", " - "}[random.IntN(3)] + expression(depth-1) + ")"
			}
		}
		for _, name := range []string{"ppp", "qqq", "rrr"} {
			text += "\tpermission " + name + " = " + expression(3) + "\n"
			names = append(names, name)
		}
		s := read(t, text+"}\n")
		formulas := s.Formulas()
		formula := formulas.Of(s.Member(Name{"thing", "rrr"}))
		tables, ok := NewTables(formula)
		if !ok {
			t.Fatal("too many variables")
		}
		table := tables.Of(formula)
		for row := range 1 << len(tables.variables) {
			given := map[Variable]bool{}
			for v, t := range tables.variables {
				given[v] = t[0]>>row&1 == 1
			}
			possible := !given[Variable{ArrowAll, "one", "way"}] || given[Variable{Arrow, "one", "way"}]
			if _, some := tables.variables[Variable{Arrow, "one", "way"}]; !some {
				possible = true
			}
			want := possible && holds(s, s.Member(Name{"thing", "rrr"}).Expression, given)
			if got := table[0]>>row&1 == 1; got != want {
				t.Fatalf("%s\nwith %v: %v, want %v", text, given, got, want)
			}
		}
	}
}

// holds evaluates an expression of type thing.
func holds(s *Schema, e *Expression, given map[Variable]bool) bool {
	var operands []bool
	for _, o := range e.Operands {
		operands = append(operands, holds(s, o, given))
	}
	switch e.Op {
	case Union:
		return slices.Contains(operands, true)
	case Intersection:
		return !slices.Contains(operands, false)
	case Exclusion:
		return operands[0] && !slices.Contains(operands[1:], true)
	case Computed:
		if m := s.Member(Name{"thing", e.Member}); m.IsPermission() {
			return holds(s, m.Expression, given)
		}
	default:
	}
	return given[e.Variable()]
}

// TestFormulasThatReturn: a permission that comes back to itself is a variable, and so is one that is to stay one.
func TestFormulasThatReturn(t *testing.T) {
	t.Parallel()
	s := read(t, `definition user {}
definition thing {
	relation one: user
	permission ppp = one + qqq
	permission qqq = ppp
	permission rrr = qqq & sss
	permission sss = one
}`)
	r := s.Member(Name{"thing", "rrr"})
	if got := s.Formulas().Of(r).String(); got != "qqq & one" {
		t.Errorf("rrr is %s", got)
	}
	if got := s.Formulas(s.Member(Name{"thing", "sss"})).Of(r).String(); got != "qqq & sss" {
		t.Errorf("where sss stays a variable, rrr is %s", got)
	}
}

// TestSharedFormulas: permissions that name each other twice take work in proportion to the schema, not to what they come to.
func TestSharedFormulas(t *testing.T) {
	t.Parallel()
	text := "definition user {}\ndefinition thing {\n\trelation ppp: user\n"
	last := "ppp"
	for range 55 {
		text += "\tpermission " + last + "x = " + last + " + (" + last + " & " + last + ")\n"
		last += "x"
	}
	s := read(t, text+"}\n")
	formula := s.Formulas().Of(s.Member(Name{"thing", last}))
	if got := Variables(formula); !reflect.DeepEqual(got, map[Variable]Sides{{Computed, "ppp", ""}: {Given: true}}) {
		t.Errorf("variables: %v", got)
	}
	tables, ok := NewTables(formula)
	if !ok || !tables.Gains(&Expression{}, formula) || tables.Gains(&Expression{Op: Computed, Member: "ppp"}, formula) {
		t.Error("it does not hold just where ppp holds")
	}
}
