package schema

import "maps"

// Subjects is, for each member, the types of the objects that can have it, whatever relationships there are. For an
// intersection those are the types that all operands admit. What an exclusion takes away may be nobody, so it does not count.
type Subjects struct {
	schema *Schema
	types  map[Name]map[string]bool
	// wildcards: only wildcards count.
	wildcards bool
}

// Subjects finds out which types of objects can have each member. What is known of one member only ever grows while more is
// known of the others, so that recursion ends: this is the least fixed point.
func (s *Schema) Subjects() *Subjects { return s.fixedPoint(false) }

// Wildcards finds out of which types all objects can have each member by one relationship.
func (s *Schema) Wildcards() *Subjects { return s.fixedPoint(true) }

func (s *Schema) fixedPoint(wildcards bool) *Subjects {
	found := &Subjects{s, map[Name]map[string]bool{}, wildcards}
	for changed := true; changed; {
		changed = false
		for _, m := range s.Members {
			if now := found.member(m); len(now) > len(found.types[m.Name]) {
				found.types[m.Name], changed = now, true
			}
		}
	}
	return found
}

// Of returns the types of the objects that can have a member. The map must not be changed.
func (s *Subjects) Of(m Name) map[string]bool { return s.types[m] }

// In returns the types of the objects for which an expression of a type's permission can hold.
func (s *Subjects) In(objectType string, e *Expression) map[string]bool {
	found := map[string]bool{}
	switch e.Op {
	case Computed, Arrow, ArrowAll:
		for _, m := range s.schema.Targets(objectType, e) {
			maps.Copy(found, s.types[m.Name])
		}
	case Self:
		if !s.wildcards {
			found[objectType] = true
		}
	case Union:
		for _, operand := range e.Operands {
			maps.Copy(found, s.In(objectType, operand))
		}
	case Intersection:
		found = s.In(objectType, e.Operands[0])
		for _, operand := range e.Operands[1:] {
			other := s.In(objectType, operand)
			maps.DeleteFunc(found, func(t string, _ bool) bool { return !other[t] })
		}
	case Exclusion:
		found = s.In(objectType, e.Operands[0])
	case Nil:
	}
	return found
}

func (s *Subjects) member(m *Member) map[string]bool {
	if m.IsPermission() {
		return s.In(m.Type, m.Expression)
	}
	found := map[string]bool{}
	for _, a := range m.Allowed {
		if a.IsUserset() {
			maps.Copy(found, s.types[a.Names()])
		} else if a.Wildcard || !s.wildcards {
			found[a.Type] = true
		}
	}
	return found
}
