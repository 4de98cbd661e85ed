package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// checkCore finds core definitions that are not core.zed's.
func (c *checker) checkCore() error {
	difference, err := guard.CoreDifference(c.schema.Objects, c.schema.Caveats)
	if difference == "" || err != nil {
		return err
	}
	differences := map[string][]string{}
	var order []string
	for difference := range strings.SplitSeq(difference, "; ") {
		definition, how, _ := strings.Cut(difference, ": ")
		_, name, _ := strings.Cut(definition, " ") // "definition user", "caveat leaf"
		if differences[name] == nil {
			order = append(order, name)
		}
		differences[name] = append(differences[name], how)
	}
	for _, name := range order {
		about := schema.Name{Type: name}
		place, ok := c.place(about)
		if !ok {
			place.Position = source.Position{File: c.schema.Root}
		}
		c.add(coreDiffers, about, place.Position, fmt.Sprintf("%s differs from Deputy's core: %s", name, strings.Join(differences[name], "; ")),
			"leave the core as core.zed has it, and define types of your own beside it")
	}
	return nil
}

// checkDefinitions looks at each member on its own.
func (c *checker) checkDefinitions() {
	used := c.used()
	for _, t := range c.types {
		c.documented("definition", schema.Name{Type: t.Name})
		// The relations of a type without permissions are asked for themselves.
		computes := slices.ContainsFunc(t.Members, func(m *schema.Member) bool { return m.IsPermission() && m.Member != authz.TenantMember })
		for _, m := range t.Members {
			if m.IsPermission() {
				c.documented("permission", m.Name)
				if c.schema.MixesOperators(m.Name) {
					c.report(precedence, m.Name, nil, fmt.Sprintf("%s mixes operators without parentheses: SpiceDB reads it as %s", m, m.Expression),
						"write the parentheses that are meant")
				}
				c.checkSlow(m, m.Expression)
				continue
			}
			c.documented("relation", m.Name)
			if unsafe := guard.UnsafeGrant(m); unsafe != nil {
				c.report(unsafeShape, m.Name, unsafe.At,
					fmt.Sprintf("%s admits %s beside a userset of %s: SpiceDB then skips the caveat or the expiration",
						m, unsafe, unsafe.Type),
					"split it into two relations, and put them together in a permission")
			}
			if computes && m.Member != authz.TenantMember && !used[m] {
				c.report(unusedRelation, m.Name, nil, m.String()+" is read by no permission, so granting it does nothing",
					"use it in a permission, or remove it")
			}
		}
	}
	for _, caveat := range c.schema.Caveats {
		if !c.coreCaveat(caveat.GetName()) {
			c.documented("caveat", schema.Name{Type: caveat.GetName()})
		}
	}
}

// coreCaveat reports whether a caveat is one of the core's.
func (c *checker) coreCaveat(name string) bool {
	return slices.ContainsFunc(c.model.Members, func(m *schema.Member) bool {
		return authz.IsCore(m.Type) && slices.ContainsFunc(m.Allowed, func(a schema.Allowed) bool { return a.Caveat == name })
	})
}

// documented finds a definition, member or caveat without a comment above it.
func (c *checker) documented(kind string, about schema.Name) {
	if place, ok := c.place(about); !ok || place.Doc != "" {
		return
	}
	c.report(missingDoc, about, nil, fmt.Sprintf("%s %s has no comment above it", kind, strings.TrimSuffix(about.String(), "#")),
		"say in a sentence who gets it, and what it lets them do")
}

// used are the members that another member reads.
func (c *checker) used() map[*schema.Member]bool {
	used := map[*schema.Member]bool{}
	for _, m := range c.model.Members {
		for _, read := range c.model.Reads(m) {
			used[read] = used[read] || read != m
		}
	}
	return used
}

// checkSlow finds expressions for which SpiceDB has to collect large sets to take them apart again.
func (c *checker) checkSlow(m *schema.Member, e *schema.Expression) {
	arrows := 0
	for i, operand := range e.Operands {
		c.checkSlow(m, operand)
		if !operand.IsArrow() || e.Op == schema.Union {
			continue
		}
		arrows++
		switch {
		case e.Op == schema.Intersection && arrows > 1:
			c.report(slowShape, m.Name, operand.At, fmt.Sprintf("%s intersects two arrows: look-ups collect both sides whole", m),
				"walk the arrow once, and intersect in a permission of the object that it leads to")
		case i > 0 && c.readsUsersets(m.Type, operand):
			c.report(slowShape, m.Name, operand.At,
				fmt.Sprintf("%s narrows by %s, behind which are usersets: each candidate of a look-up expands them anew", m, operand),
				"keep what narrows a relation of the object itself, with direct subjects")
		}
	}
}

// readsUsersets reports whether the members that an arrow leads to read a relation that admits usersets.
func (c *checker) readsUsersets(objectType string, arrow *schema.Expression) bool {
	for m := range c.model.Reach(c.model.Targets(objectType, arrow)...).Members {
		if slices.ContainsFunc(m.Allowed, schema.Allowed.IsUserset) {
			return true
		}
	}
	return false
}

// checkRecursion finds permissions whose evaluation never ends, or ends badly.
func (c *checker) checkRecursion() {
	circular := map[*schema.Member]bool{}
	for _, m := range c.members {
		if circle := c.circle(m); circle != nil {
			// A circle is reported once, at the first of its members.
			known := slices.ContainsFunc(circle, func(m *schema.Member) bool { return circular[m] })
			names := make([]string, 0, len(circle)+1)
			for _, in := range circle {
				circular[in] = true
				names = append(names, in.Member)
			}
			if !known {
				c.report(endless, m.Name, nil, fmt.Sprintf("%s is computed from itself on the same object (%s), so every check of it fails",
					m, strings.Join(append(names, m.Member), " -> ")),
					"break the circle; only an arrow to another object may come back to a permission")
			}
			continue
		}
		// One arrow that comes back is how a tree of objects is walked, and costs one question a level. Each one more doubles that.
		recursive := 0
		for _, leaf := range m.Leaves {
			if !leaf.IsArrow() || !c.comesBack(m, leaf.Expression) {
				continue
			}
			recursive++
			switch {
			case leaf.Subtracted:
				c.report(recursion, m.Name, leaf.At,
					fmt.Sprintf("%s takes away %s, which comes back to itself: the set of its holders depends on how deep a check looks", m, leaf),
					"take away a relation or a permission that is not computed from this one")
			case recursive == 2:
				c.report(recursion, m.Name, leaf.At,
					fmt.Sprintf("%s comes back to itself in two ways: each level doubles the work, 50 levels deep", m),
					"follow one relation to the objects above, and let that one admit both kinds")
			}
		}
	}
}

// comesBack reports whether evaluating an arrow of a permission can come to the permission again.
func (c *checker) comesBack(m *schema.Member, arrow *schema.Expression) bool {
	return slices.ContainsFunc(c.model.Targets(m.Type, arrow), func(to *schema.Member) bool { return c.components[to] == c.components[m] })
}

// circle returns the members through which a permission comes to itself on the same object, or nil.
func (c *checker) circle(m *schema.Member) []*schema.Member {
	seen := map[*schema.Member]bool{nil: true}
	var visit func(from *schema.Member) []*schema.Member
	visit = func(from *schema.Member) []*schema.Member {
		for _, leaf := range from.Leaves {
			next := c.model.Member(schema.Name{Type: m.Type, Member: leaf.Member})
			if leaf.Op != schema.Computed || seen[next] {
				continue
			}
			if next == m {
				return []*schema.Member{from}
			}
			seen[next] = true
			if rest := visit(next); rest != nil {
				return append([]*schema.Member{from}, rest...)
			}
		}
		return nil
	}
	return visit(m)
}
