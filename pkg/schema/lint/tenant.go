package lint

import (
	"fmt"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// checkTenants finds types whose objects have no tenant, or not surely one.
func (c *checker) checkTenants() {
	var tenants []*schema.Member
	for _, t := range c.types {
		at := schema.Name{Type: t.Name, Member: authz.TenantMember}
		m := c.model.Member(at)
		switch {
		case len(t.Members) == 0, m == nil && slices.Contains(c.options.Globals, t.Name):
		case m == nil:
			c.report(NoTenant, schema.Name{Type: t.Name}, nil,
				fmt.Sprintf("%s does not say which tenant its objects belong to, so every decision on it is refused", t.Name),
				"add `relation tenant: tenant`, or `permission tenant = parent.all(tenant)` if another object decides; or pass --global "+t.Name)
		case !c.subjects.Of(at)[authz.TypeTenant]:
			c.report(NoTenant, at, nil, at.String()+" never leads to a tenant, so every decision is refused",
				"let it admit the type tenant, or lead to one that does")
		default:
			c.checkAll(m)
		}
		tenants = append(tenants, m)
	}
	// A wildcard or a caveat far from the tenant that is computed from it is as bad as one in the tenant itself.
	feeds := c.model.Reach(tenants...)
	for _, m := range c.members {
		for _, a := range m.Allowed {
			feeds := feeds.Members[m] || feeds.Followed[m]
			if a.Wildcard && (a.Type == authz.TypeTenant || feeds || m.Member == "owner") {
				c.report(wildcardTenant, m.Name, a.At,
					fmt.Sprintf("%s admits %s:*, so one relationship makes everything and everyone its %s", m, a.Type, m.Member),
					"name each one; a decision refuses a tenant that is a wildcard")
			}
			if a.Caveat != "" && feeds {
				c.report(tenantCondition, m.Name, a.At,
					fmt.Sprintf("%s admits %s, so an object can be in a tenant under a condition, which every decision refuses", m, a),
					"admit it without the caveat, and put the condition into the permissions")
			}
		}
	}
}

// checkAll finds what can give an object more than one tenant, among the members of its type that the tenant is computed from: an
// arrow without .all, two ways put together, a userset. The types behind an arrow have tenants of their own, which are checked there.
func (c *checker) checkAll(tenant *schema.Member) {
	from := c.model.SameObject(tenant)
	if !slices.Contains(from, tenant) {
		from = append(from, tenant)
	}
	for _, m := range from {
		for _, leaf := range m.Leaves {
			if leaf.Op == schema.Arrow {
				c.report(tenantNotAll, m.Name, leaf.At,
					fmt.Sprintf("%s takes the tenant of any %s: an object with two of them would belong to both tenants", m, leaf.Through),
					fmt.Sprintf("write %s.all(%s)", leaf.Through, leaf.Member))
			}
		}
		if m.IsPermission() {
			m.Expression.Walk(func(e *schema.Expression, _ []int, subtracted bool) {
				if e.Op == schema.Union && !subtracted {
					c.checkOne(m, e)
				}
			})
		}
		for _, a := range m.Allowed {
			if a.IsUserset() && c.subjects.Of(a.Names())[authz.TypeTenant] {
				c.report(tenantNotOne, m.Name, a.At,
					fmt.Sprintf("%s admits %s: one relationship puts an object into every tenant that has it", m, a), "admit the type tenant")
			}
		}
	}
}

// checkOne finds the second operand of a union from which a tenant can come, and those after it.
func (c *checker) checkOne(m *schema.Member, union *schema.Expression) {
	var first *schema.Expression
	for _, operand := range union.Operands {
		switch {
		case !c.subjects.In(m.Type, operand)[authz.TypeTenant]:
		case first == nil:
			first = operand
		default:
			c.report(tenantNotOne, m.Name, operand.At,
				fmt.Sprintf("%s puts %s and %s together: an object with both would belong to two tenants", m, first, operand),
				"let one of them decide; who shares the object belongs in its permissions, not in its tenant")
		}
	}
}
