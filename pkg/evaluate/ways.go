package evaluate

import (
	"slices"

	"github.com/deputyauth/deputy/pkg/schema"
)

// A lookup of resources reads the schema backwards. A subject that a row names, or that has a member of an object, may thereby have a
// member of another object: that is a way. The ways lead to every object for which a check answers yes or conditional. They may lead to
// other objects too, because they ignore caveats, and follow only one operand of an intersection and only the first of an exclusion. So a
// check decides each object in the end.
//
// A row that the schema does not admit is no way. Only a schema that was written past Deputy can leave such a row behind.

// way is a kind of rows: those of a relation whose subject is of a kind. A subject that such a row names, or that is in the set that it
// names, may have the member to on the row's object.
type way struct {
	rowsOf *member
	kind   subjectKind
	to     *member
}

// ways are all ways to a target. They are immutable.
type ways struct {
	// objects has the ways that start from a subject that is an object, and everybody those that start from a wildcard; both by the
	// type of the subject.
	objects, everybody map[string][]way
	// selves has the members that an object may have on itself.
	selves []*member
	// onward has the ways that lead on from a member that a subject may have on an object. They include the ways from all members of
	// the same object that are computed from it.
	onward map[*member][]way
	// reached says of a member whether it is the target, or one from which the target is computed on the same object.
	reached map[*member]bool
	// tooMany says that there are more ways than maxWays. Then onward and reached are empty, and a lookup takes all ids of the type.
	tooMany bool
}

const (
	// maxWays is how many ways may lead on to one target, counted with the members that they start from. A chain of some 180 permissions
	// has as many, if each is computed from the one before and can be had by a set of the next: the number grows with the square.
	maxWays = 1 << 16
	// maxHeldWays is about how many ways a program keeps, of all targets together. Further ones are found anew for each lookup.
	maxHeldWays = 1 << 20
)

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
	held := int64(len(s.seen) + s.onward(target))
	if p.ways.Add(held) > maxHeldWays || !target.ways.CompareAndSwap(nil, s.found) {
		p.ways.Add(-held)
	}
	return s.found
}

// onward fills in the ways that lead on from each member, and returns how many there are.
func (s *search) onward(target *member) (n int) {
	w := s.found
	w.onward, w.reached = make(map[*member][]way, len(s.seen)), make(map[*member]bool, len(s.seen))
	for m := range s.seen {
		closure := s.closure(m)
		there := map[way]bool{}
		for _, c := range closure {
			w.reached[m] = w.reached[m] || c == target
			for _, next := range s.from[c] {
				if !there[next] {
					there[next] = true
					w.onward[m] = append(w.onward[m], next)
				}
			}
		}
		if n += len(closure) + len(w.onward[m]); n > maxWays {
			w.onward, w.reached, w.tooMany = nil, nil, true
			return 0
		}
	}
	return n
}

// search finds ways, from the target on.
type search struct {
	program *Program
	found   *ways
	seen    map[*member]bool
	// from has the ways from a member, and computes the members of the same object that are computed from it.
	from     map[*member][]way
	computes map[*member][]*member
}

// appendNew appends those elements that the slice does not have yet.
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
			s.found.objects[kind.objectType] = append(s.found.objects[kind.objectType], way{m, kind, m})
		} else {
			s.leads(kind.objectType, kind.relation, way{m, kind, m})
		}
	}
	for _, t := range m.wildcards {
		s.found.everybody[t] = append(s.found.everybody[t], way{m, subjectKind{objectType: t}, m})
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
	all, there := []*member{m}, map[*member]bool{m: true}
	for i := 0; i < len(all); i++ {
		for _, c := range s.computes[all[i]] {
			if !there[c] {
				there[c] = true
				all = append(all, c)
			}
		}
	}
	return all
}

// narrowest returns the operand of an intersection that is followed: a subject that is in all of them is in that one. It guesses which
// operand the fewest subjects have: the first relation of the object itself, else the first other operand without an arrow, else the first.
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
