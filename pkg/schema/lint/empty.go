package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema"
)

// checkEmpty finds parts of permissions that grant nothing or take nothing away, whatever relationships there are, and exclusions
// that can take a permission from everybody at once.
func (c *checker) checkEmpty() {
	wildcards := c.model.Wildcards()
	for _, m := range c.members {
		if !m.IsPermission() {
			continue
		}
		m.Expression.Walk(func(e *schema.Expression, _ []int, _ bool) {
			if c.contradicts(m.Type, e) {
				c.report(neverHolds, m.Name, e.At, fmt.Sprintf("%s: nobody can have %s, whatever is granted", m, e),
					"take out the operand that contradicts the others")
			}
			if e.Op != schema.Exclusion {
				return
			}
			base := c.subjects.In(m.Type, e.Operands[0])
			for _, taken := range e.Operands[1:] {
				c.checkTaken(m, e.Operands[0], taken, base, wildcards.In(m.Type, taken))
			}
		})
	}
}

// contradicts reports whether an expression never holds although each of its operands can. So of expressions within each other only
// the innermost is found, which is the one to mend.
func (c *checker) contradicts(objectType string, e *schema.Expression) bool {
	if e.Op != schema.Intersection && e.Op != schema.Exclusion {
		return false
	}
	whole := c.formulas.Expand(objectType, e)
	tables, ok := schema.NewTables(whole)
	if !ok || tables.Of(whole).Holds() {
		return false
	}
	needed := e.Operands
	if e.Op == schema.Exclusion {
		needed = needed[:1]
	}
	return !slices.ContainsFunc(needed, func(o *schema.Expression) bool { return !tables.Of(c.formulas.Expand(objectType, o)).Holds() })
}

// checkTaken looks at what a permission takes away. base is whom it takes from, everybody the types that it can take away whole.
func (c *checker) checkTaken(m *schema.Member, from, taken *schema.Expression, base, everybody map[string]bool) {
	types := c.subjects.In(m.Type, taken)
	common := maps.Clone(types)
	maps.DeleteFunc(common, func(t string, _ bool) bool { return !base[t] })
	if len(common) == 0 && len(types) > 0 && len(base) > 0 {
		c.report(idleExclusion, m.Name, taken.At,
			fmt.Sprintf("%s takes nothing away: %s can hold %s, and %s only %s", m, from, listed(base), taken, listed(types)),
			"let both sides of the - admit the same types of subjects")
		return
	}
	maps.DeleteFunc(common, func(t string, _ bool) bool { return !everybody[t] })
	if lost := actorsIn(common); lost&agents != 0 && lost&principals != 0 {
		c.report(wildcardExclusion, m.Name, taken.At,
			fmt.Sprintf("%s takes away %s, which can be everybody: then no %s has %s, whatever is granted", m, taken, listed(common), m.Member),
			"admit those by name from whom it is taken, or say that it is a switch for everybody")
	}
}

// listed lists types in a sentence.
func listed(types map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(types)), " or ")
}
