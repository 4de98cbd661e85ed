package guard

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestParameters: the parameters that a member's evaluation can meet are those of all caveats on the way: on the
// relation itself, through usersets, on both sides of an arrow, and under an exclusion; and no others.
func TestParameters(t *testing.T) {
	model, err := Requested(`
caveat within(amount int, cap int) { amount <= cap }
caveat graded(amount string) { amount == "low" }
caveat placed(region string) { region == "eu" }
caveat listed(names list<string>) { "a" in names }
caveat unused(nothing bool) { nothing }

definition user {}
definition group {
	relation member: user with placed | group#member
}
definition folder {
	relation upper: folder with listed
	relation reader: user with within | group#member
	permission view = reader + upper->view
}
definition document {
	relation folder: folder
	relation owner: user
	relation banned: user with graded
	permission view = folder->view - banned
	permission own = owner
	permission both = view & own
}`)
	if err != nil {
		t.Fatal(err)
	}
	for member, want := range map[string]string{
		"group#member":    "region placed string",
		"folder#reader":   "amount within int, cap within int, region placed string",
		"folder#upper":    "names listed list<string>",
		"folder#view":     "amount within int, cap within int, names listed list<string>, region placed string",
		"document#view":   "amount graded string, amount within int, cap within int, names listed list<string>, region placed string",
		"document#both":   "amount graded string, amount within int, cap within int, names listed list<string>, region placed string",
		"document#own":    "",
		"document#nobody": "",
		"nothing#view":    "",
	} {
		objectType, name, _ := strings.Cut(member, "#")
		var got []string
		found := model.Parameters(objectType, name)
		for _, parameter := range slices.Sorted(maps.Keys(found)) {
			for _, p := range found[parameter] {
				got = append(got, parameter+" "+p.Caveat+" "+p.Type)
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s: %s, want %s", member, text, want)
		}
	}
	fits := func(parameter, caveat string, value any) bool {
		found := model.Parameters("document", "view")[parameter]
		i := slices.IndexFunc(found, func(p authz.Parameter) bool { return p.Caveat == caveat })
		return i >= 0 && found[i].Fits(value)
	}
	for _, c := range []struct {
		parameter, caveat string
		value             any
		want              bool
	}{
		{"amount", "within", 1.0, true},
		{"amount", "within", "7", true}, // as SpiceDB takes large numbers
		{"amount", "within", 1.5, false},
		{"amount", "within", "low", false},
		{"amount", "within", nil, false},
		{"amount", "graded", "low", true},
		{"amount", "graded", 1.0, false},
		{"names", "listed", []any{"a", "b"}, true},
		{"names", "listed", []any{"a", 1.0}, false},
		{"names", "listed", "a", false},
	} {
		if got := fits(c.parameter, c.caveat, c.value); got != c.want {
			t.Errorf("%s of %s: %v fits %v, want %v", c.parameter, c.caveat, c.value, got, c.want)
		}
	}
}
