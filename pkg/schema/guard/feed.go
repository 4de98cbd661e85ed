package guard

import (
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// feedAgents fills in, for each type, which relationships can change what an agent or a delegation reaches. The
// answer is a bound from the types alone: what it leaves out can change nothing for any of them, whatever is stored.
func feedAgents(s *schema.Schema, types map[string]*authz.Type) {
	holds := agentHolders(s)
	for _, m := range s.Members {
		for _, a := range m.Allowed {
			if authz.ActsForPrincipal(a.Type) || a.IsUserset() && holds[s.Member(a.Names())] {
				types[m.Type].FeedsAgents[edge(m, a)] = true
			}
		}
		for _, leaf := range m.Leaves {
			left := s.Member(schema.Name{Type: m.Type, Member: leaf.Through})
			if !leaf.IsArrow() || left == nil {
				continue
			}
			leads := func(a schema.Allowed) bool { return holds[s.Member(schema.Name{Type: a.Type, Member: leaf.Member})] }
			// Where all have to hold, an object on which no agent can hold anything takes away, too.
			all := leaf.Op == schema.ArrowAll && slices.ContainsFunc(left.Allowed, leads)
			for _, a := range left.Allowed {
				if all || leads(a) {
					types[m.Type].FeedsAgents[edge(left, a)] = true
				}
			}
		}
	}
}

// agentHolders returns the relations and permissions in whose evaluation an agent or a delegation can turn up, also
// as the subject that an exclusion takes away. What an arrow follows does not count: only its objects do, not who can be
// found in it.
func agentHolders(s *schema.Schema) map[*schema.Member]bool {
	holds := make(map[*schema.Member]bool, len(s.Members))
	for changed := true; changed; {
		changed = false
		for _, m := range s.Members {
			if !holds[m] && (holdsAgent(m) || slices.ContainsFunc(s.Leads(m), func(l schema.Lead) bool { return holds[l.To] })) {
				holds[m], changed = true, true
			}
		}
	}
	return holds
}

// holdsAgent reports whether an agent or a delegation can turn up in a member itself, not only in what it leads to.
func holdsAgent(m *schema.Member) bool {
	return slices.ContainsFunc(m.Allowed, func(a schema.Allowed) bool { return !a.IsUserset() && authz.ActsForPrincipal(a.Type) }) ||
		authz.ActsForPrincipal(m.Type) && slices.ContainsFunc(m.Leaves, func(l schema.Leaf) bool { return l.Op == schema.Self })
}

func edge(relation *schema.Member, a schema.Allowed) authz.Edge {
	return authz.Edge{Relation: relation.Member, SubjectType: a.Type, SubjectRelation: a.Relation}
}
