package schema

import (
	"slices"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
)

// Lead is where the evaluation of a member goes on.
type Lead struct {
	To *Member
	// Through is the relation that an arrow follows to get there, and nil where there is no arrow.
	Through *Member
	// Leaf is the part of the permission that leads there; nil for a relation, which leads on by the usersets that it admits.
	Leaf *Expression
	// Subtracted says that what is there is taken away.
	Subtracted bool
	// At is where the member says so; nil for what SpiceDB's compiler did not find.
	At *core.SourcePosition
}

// Leads returns where the evaluation of a member can go on, whatever relationships there are, in the order of the schema. A
// member that does not exist leads nowhere: on the right of an arrow, SpiceDB evaluates one as nobody. An arrow leads to the
// member of each type of object that its relation admits, whatever relation those subjects have: SpiceDB follows the object alone.
func (s *Schema) Leads(m *Member) (found []Lead) {
	if m == nil {
		return nil
	}
	for _, a := range m.Allowed {
		if to := s.Member(a.Names()); to != nil {
			found = append(found, Lead{To: to, At: a.At})
		}
	}
	for _, leaf := range m.Leaves {
		for _, to := range s.Targets(m.Type, leaf.Expression) {
			l := Lead{To: to, Leaf: leaf.Expression, Subtracted: leaf.Subtracted, At: leaf.At}
			if leaf.IsArrow() {
				l.Through = s.Member(Name{m.Type, leaf.Through})
			}
			found = append(found, l)
		}
	}
	return found
}

// Targets returns the members that a part without operands of a type's permission leads to, each once.
func (s *Schema) Targets(objectType string, leaf *Expression) (found []*Member) {
	types := []string{objectType}
	if leaf.IsArrow() {
		types = s.Member(Name{objectType, leaf.Through}).Objects()
	}
	for _, t := range types {
		if to := s.Member(Name{t, leaf.Member}); to != nil {
			found = append(found, to)
		}
	}
	return found
}

// Reach is what the evaluation of some members can read, whatever relationships there are.
type Reach struct {
	// Members are all that can be evaluated.
	Members map[*Member]bool
	// Followed are the relations that arrows follow: only the objects in them count, whatever relation a subject has. A relation can
	// be among Members too.
	Followed map[*Member]bool
}

// Relations calls fn with each relation whose relationships can be read, once.
func (r Reach) Relations(fn func(*Member)) {
	for m := range r.Members {
		if !m.IsPermission() {
			fn(m)
		}
	}
	for m := range r.Followed {
		if m.IsPermission() || !r.Members[m] {
			fn(m)
		}
	}
}

// Reach returns what the evaluation of members can read. What is taken away counts like the rest: it changes the set too.
func (s *Schema) Reach(of ...*Member) Reach {
	r := Reach{Members: map[*Member]bool{}, Followed: map[*Member]bool{}}
	for todo := slices.Clone(of); len(todo) > 0; {
		m := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if m == nil || r.Members[m] {
			continue
		}
		r.Members[m] = true
		for _, leaf := range m.Leaves {
			if through := s.Member(Name{m.Type, leaf.Through}); leaf.IsArrow() && through != nil {
				r.Followed[through] = true
			}
		}
		for _, l := range s.Leads(m) {
			todo = append(todo, l.To)
		}
	}
	return r
}

// Reads returns the members that the evaluation of a member reads itself: those that it leads to, and the relations that its
// arrows follow. An arrow whose objects have no such member leads nowhere, and follows its relation all the same. A member can
// be listed more than once.
func (s *Schema) Reads(m *Member) (found []*Member) {
	for _, l := range s.Leads(m) {
		found = append(found, l.To)
	}
	for _, leaf := range m.Leaves {
		if through := s.Member(Name{m.Type, leaf.Through}); leaf.IsArrow() && through != nil {
			found = append(found, through)
		}
	}
	return found
}

// SameObject returns the members of the same object that a permission is computed from, directly or through others of them, each
// once and in the order in which they are met. The permission itself is among them only if it is computed from itself. What only
// the given variables are computed from is left out.
func (s *Schema) SameObject(m *Member, variables ...*Member) (found []*Member) {
	for todo := []*Member{m}; len(todo) > 0; todo = todo[1:] {
		if slices.Contains(variables, todo[0]) {
			continue
		}
		for _, leaf := range todo[0].Leaves {
			to := s.Member(Name{m.Type, leaf.Member})
			if leaf.Op == Computed && to != nil && !slices.Contains(found, to) {
				found, todo = append(found, to), append(todo, to)
			}
		}
	}
	return found
}

// Dependents returns the members whose evaluation can read a member, itself included.
func (s *Schema) Dependents(of Name) map[Name]bool {
	before := map[Name][]Name{}
	for _, m := range s.Members {
		for _, read := range s.Reads(m) {
			before[read.Name] = append(before[read.Name], m.Name)
		}
	}
	found := map[Name]bool{of: true}
	for todo := []Name{of}; len(todo) > 0; todo = todo[1:] {
		for _, m := range before[todo[0]] {
			if !found[m] {
				found[m] = true
				todo = append(todo, m)
			}
		}
	}
	return found
}

// Components numbers the members so that two have the same number if evaluating either can come to the other (Tarjan's
// strongly connected components).
func (s *Schema) Components() map[*Member]int {
	component, low, index := map[*Member]int{}, map[*Member]int{}, map[*Member]int{}
	var stack []*Member
	onStack := map[*Member]bool{}
	var visit func(m *Member)
	visit = func(m *Member) {
		index[m] = len(index) + 1
		low[m] = index[m]
		stack = append(stack, m)
		onStack[m] = true
		for _, l := range s.Leads(m) {
			if index[l.To] == 0 {
				visit(l.To)
				low[m] = min(low[m], low[l.To])
			} else if onStack[l.To] {
				low[m] = min(low[m], index[l.To])
			}
		}
		if low[m] != index[m] {
			return
		}
		for {
			last := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			onStack[last] = false
			component[last] = index[m]
			if last == m {
				return
			}
		}
	}
	for _, m := range s.Members {
		if index[m] == 0 {
			visit(m)
		}
	}
	return component
}
