package schema

import (
	"fmt"
	"strings"
)

// AliasCycle returns the first permissions, in the order of the definitions, that are nothing but names for each other in a circle; nil if
// there are none. SpiceDB's compiler takes such permissions, and its WriteSchema fails without a word about where they are.
func (s *Schema) AliasCycle() []*Member {
	for _, first := range s.Members {
		cycle := []*Member{first}
		for m := s.aliased(first); m != nil && len(cycle) <= len(s.Types[first.Type].Members); m = s.aliased(m) {
			if m == first {
				return cycle
			}
			cycle = append(cycle, m)
		}
	}
	return nil
}

// aliased returns the member that a permission is nothing but another name for; nil for any other member.
func (s *Schema) aliased(m *Member) *Member {
	if m.Expression == nil || m.Expression.Op != Computed {
		return nil
	}
	return s.Member(Name{m.Type, m.Expression.Member})
}

// AliasCycleError is what is wrong with the permissions of an AliasCycle.
type AliasCycleError []*Member

// Error names the permissions in the order in which they lead to each other.
func (c AliasCycleError) Error() string {
	names := make([]string, len(c), len(c)+1)
	for i, m := range c {
		names[i] = m.Member
	}
	return fmt.Sprintf("permissions of %s are names for each other, in a circle, and say nothing else: %s",
		c[0].Type, strings.Join(append(names, names[0]), " = "))
}
