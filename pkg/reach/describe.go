package reach

import (
	"fmt"
	"strings"
	"time"
)

// Describe says in sentences what WritePicture draws, and names all that the picture has room for.
func Describe(of string, s *Sum) string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	say("The reach of %s. An object counts only where the agent, the principal and the delegation all have the permission on it, in the tenant.", of)
	agents, more := s.Agents()
	for _, a := range agents[:min(len(agents), shownAgents)] {
		say("Who acts: %s, with %s.", strings.ReplaceAll(a.Name, " > ", ", which passes on to "), rights(a.Rights))
	}
	if rest := len(agents) - shownAgents + more; rest > 0 {
		say("So do %d more chains of agents.", rest)
	}
	principals, more := s.Principals()
	for _, a := range principals[:min(len(principals), shownPrincipals)] {
		if a.Refused == a.Parties {
			say("For %s in tenant %s nothing is reached: it is refused by %s.", a.Name, a.Tenant, Gate(a.By))
		} else {
			say("For %s in tenant %s: %s.", a.Name, a.Tenant, rights(a.Rights))
		}
	}
	if rest := len(principals) - shownPrincipals + more; rest > 0 {
		say("And for %d more.", rest)
	}
	if s.Parties == 0 {
		say("Nothing is reached: there is no delegation under which it could act.")
		return strings.Join(all, " ")
	}
	say("%s, by which it acts, %s.", Plural(uint64(s.delegations()), "delegation"), &s.until) //nolint:gosec // a count
	for role, title := range []string{"Grants to the agent", "Grants to the principal", "Passed on by the delegation"} {
		if parts := s.describeGrants(Role(role)); len(parts) > 0 {
			say("%s: %s.", title, strings.Join(parts, "; "))
		}
	}
	for i, set := range s.Sets() {
		if i == shownSets {
			break
		}
		say("%s of these hold only while %s is in %s.", rights(set.Rights), set.Holder, set.Name)
	}
	rows := s.Rows()
	for _, r := range rows {
		text := fmt.Sprintf("%s %s: %s", r.Type, r.Permission, Plural(r.Has+r.Conditional, "object"))
		if r.Conditional > 0 {
			text += fmt.Sprintf(", %s of them on a condition", grouped(r.Conditional))
		}
		if r.Failed > 0 {
			text += fmt.Sprintf(", and %s of which that is unknown", grouped(r.Failed))
		}
		say("%s.", text)
	}
	if len(rows) == 0 {
		say("Nothing is reached.")
	}
	for _, f := range s.Flags() {
		say("Flag %s: %s.", FlagWord(f), FlagMeaning(f))
	}
	return strings.Join(all, " ")
}

// describeGrants names the grants to a role.
func (s *Sum) describeGrants(role Role) (parts []string) {
	grants, others := s.Grants(role)
	for i, g := range grants {
		if i >= shownGrants {
			others += g.Rights
			continue
		}
		text := fmt.Sprintf("%s of %s, %s: %s", g.Relation, g.Type, g.How, grouped(g.Rights))
		if g.WithoutEnd > 0 {
			text += fmt.Sprintf(", of which %s have no end", grouped(g.WithoutEnd))
		}
		parts = append(parts, text)
	}
	if others > 0 {
		parts = append(parts, "other grants: "+grouped(others))
	}
	if role == RoleScope && s.unscoped > 0 {
		parts = append(parts, "everything, where there is no scope")
	}
	return parts
}

// String says until when.
func (u *Until) String() string {
	switch {
	case u.Endless:
		return "without an end"
	case u.Last.IsZero():
		return "but not now"
	default:
		return "until " + u.Last.UTC().Format(time.RFC3339)
	}
}
