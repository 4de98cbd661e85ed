package evaluate

import (
	"slices"

	"github.com/deputyauth/deputy/pkg/schema"
)

// A lookup of resources reads the schema backwards. A subject that is named by a row, or has a member of an object, may thereby have a
// member of another object: that is a way. Ways lead at least to everything that a check says yes to, or conditionally. They
// may lead to more: caveats are not looked at, of an intersection one operand is followed, of an exclusion the first. So a check
// decides each object in the end.
//
// A row that the schema does not admit, which only a schema that was written past Deputy can leave behind, is no way.

// way is a kind of rows: those of a relation, with a subject of a kind. Who has such a subject may have the member on the row's object.
type way struct {
	rowsOf *member
	kind   subjectKind
	to     *member
}

// ways are all ways to a target. They are immutable.
type ways struct {
	// objects start from an object that is the subject, and everybody from a wildcard; both by the type of the subject.
	objects, everybody map[string][]way
	// selves are the members that an object may have on itself.
	selves []*member
	// onward are the ways from a member of an object that a subject may have; they include those from all members of the same object
	// that are computed from it.
	onward map[*member][]way
	// reached are the target, and the members of its type from which it is computed on the same object.
	reached map[*member]bool
}

// waysTo returns the ways to a member.
func (p *Program) waysTo(target *member) *ways {
	if known := target.ways.Load(); known != nil {
		return known
	}
	s := search{
		program: p, found: &ways{objects: map[string][]way{}, everybody: map[string][]way{}},
		seen: map[*member]bool{}, from: map[*member][]way{}, computes: map[*member][]*member{},
	}
	s.member(target)
	s.found.onward = make(map[*member][]way, len(s.seen))
	s.found.reached = map[*member]bool{}
	for m := range s.seen {
		closure := s.closure(m)
		s.found.reached[m] = slices.Contains(closure, target)
		for _, c := range closure {
			s.found.onward[m] = appendNew(s.found.onward[m], s.from[c]...)
		}
	}
	target.ways.Store(s.found)
	return s.found
}

// search finds ways, from the target on.
type search struct {
	program *Program
	found   *ways
	seen    map[*member]bool
	// from are the ways from a member, and computes the members of the same object that are computed from it.
	from     map[*member][]way
	computes map[*member][]*member
}

// appendNew appends what is not there yet.
func appendNew[T comparable](to []T, more ...T) []T {
	for _, m := range more {
		if !slices.Contains(to, m) {
			to = append(to, m)
		}
	}
	return to
}

// member finds the ways to a relation or a permission.
func (s *search) member(m *member) {
	if s.seen[m] {
		return
	}
	s.seen[m] = true
	if m.rewrite != nil {
		s.node(m.rewrite, m)
		return
	}
	for _, kind := range m.subjects {
		if kind.relation == "" {
			s.found.objects[kind.objectType] = appendNew(s.found.objects[kind.objectType], way{m, kind, m})
		} else {
			s.leads(kind.objectType, kind.relation, way{m, kind, m})
		}
	}
	for _, t := range m.wildcards {
		s.found.everybody[t] = appendNew(s.found.everybody[t], way{m, subjectKind{objectType: t}, m})
	}
}

// leads notes a way from a member, if there is such a member.
func (s *search) leads(objectType, name string, w way) {
	t := s.program.types[objectType]
	if t == nil || t.members[name] == nil {
		return
	}
	m := t.members[name]
	s.from[m] = appendNew(s.from[m], w)
	s.member(m)
}

// node finds the ways to a part of a permission.
func (s *search) node(n *node, of *member) {
	switch n.op {
	case schema.Union:
		for _, c := range n.children {
			s.node(c, of)
		}
	case schema.Intersection:
		s.node(narrowest(n.children), of)
	case schema.Exclusion:
		s.node(n.children[0], of)
	case schema.Computed:
		s.computes[n.target] = appendNew(s.computes[n.target], of)
		s.member(n.target)
	case schema.Arrow, schema.ArrowAll:
		for _, kind := range n.tupleset.subjects {
			s.leads(kind.objectType, n.permission, way{n.tupleset, kind, of})
		}
	case schema.Self:
		s.found.selves = appendNew(s.found.selves, of)
	case schema.Nil:
	}
}

// closure returns a member, and all members of the same object that are computed from it.
func (s *search) closure(m *member) []*member {
	all := []*member{m}
	for i := 0; i < len(all); i++ {
		all = appendNew(all, s.computes[all[i]]...)
	}
	return all
}

// narrowest returns the operand of an intersection that is followed: who is in all of them is in that one. It is a guess which of them
// the fewest have: the first relation of the object itself, else the first other operand without an arrow, else the first.
func narrowest(operands []*node) *node {
	for _, fits := range []func(*node) bool{
		func(n *node) bool { return n.op == schema.Computed && n.target.rewrite == nil },
		func(n *node) bool { return !n.hasArrow() },
	} {
		if i := slices.IndexFunc(operands, fits); i >= 0 {
			return operands[i]
		}
	}
	return operands[0]
}

// hasArrow reports whether there is an arrow in the part itself.
func (n *node) hasArrow() bool {
	return n.op == schema.Arrow || n.op == schema.ArrowAll || slices.ContainsFunc(n.children, (*node).hasArrow)
}
