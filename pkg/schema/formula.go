package schema

import (
	"maps"
	"slices"
)

// Variable is a part of a formula whose meaning lies outside of it: a relation, an arrow, the object itself, or a permission
// that is not written out.
type Variable struct {
	Op              Op
	Member, Through string
}

// Variable returns the variable that a part without operands is.
func (e *Expression) Variable() Variable { return Variable{e.Op, e.Member, e.Through} }

// Formulas writes permissions out: a formula is an expression in which every permission of the same object stands with what it
// is computed from. A permission that refers to itself on the same object stays a variable. Formulas share parts, so the work
// is in proportion to the schema, however often its permissions name each other. It is for one goroutine.
type Formulas struct {
	schema *Schema
	fixed  map[*Member]bool
	known  map[*Member]*Expression
}

// Formulas returns the schema's formulas. The given members stay variables too, so that what comes to itself through one of them is
// written out.
func (s *Schema) Formulas(variables ...*Member) *Formulas {
	f := &Formulas{schema: s, fixed: map[*Member]bool{}, known: map[*Member]*Expression{}}
	for _, m := range s.Members {
		f.fixed[m] = slices.Contains(variables, m) || slices.Contains(s.SameObject(m, variables...), m)
	}
	return f
}

// IsVariable reports whether a member stands in formulas as it is.
func (f *Formulas) IsVariable(m *Member) bool { return !m.IsPermission() || f.fixed[m] }

// Of returns the formula of a permission. It is immutable.
func (f *Formulas) Of(m *Member) *Expression {
	formula := f.known[m]
	if formula == nil {
		formula = f.Expand(m.Type, m.Expression)
		f.known[m] = formula
	}
	return formula
}

// Expand returns the formula of an expression of a type.
func (f *Formulas) Expand(objectType string, e *Expression) *Expression {
	if e.Op == Computed {
		if m := f.schema.Member(Name{objectType, e.Member}); !f.IsVariable(m) {
			return f.Of(m)
		}
	}
	if !e.IsGroup() {
		return e
	}
	operands := make([]*Expression, len(e.Operands))
	for i, o := range e.Operands {
		operands[i] = f.Expand(objectType, o)
	}
	return e.With(operands...)
}

// Sides tells on which sides of exclusions a variable stands: what is taken away from what is taken away is given.
type Sides struct{ Given, Taken bool }

// Variables returns the variables of formulas, with the sides on which they stand.
func Variables(formulas ...*Expression) map[Variable]Sides {
	type visit struct {
		e     *Expression
		taken bool
	}
	found, seen := map[Variable]Sides{}, map[visit]bool{}
	var walk func(v visit)
	walk = func(v visit) {
		if seen[v] { // parts are shared
			return
		}
		seen[v] = true
		if !v.e.IsGroup() && v.e.Op != Nil {
			s := found[v.e.Variable()]
			found[v.e.Variable()] = Sides{s.Given || !v.taken, s.Taken || v.taken}
		}
		for i, o := range v.e.Operands {
			walk(visit{o, v.taken != (v.e.Op == Exclusion && i > 0)})
		}
	}
	for _, f := range formulas {
		walk(visit{e: f})
	}
	return found
}

// Tables computes the truth tables of formulas over the same variables, and so compares permissions whatever the
// relationships are. It is for one goroutine.
type Tables struct {
	space     Space
	variables map[Variable]Table
	possible  Table
	known     map[*Expression]Table
}

// NewTables returns the tables of formulas; ok is false if they have more than MaxVariables.
func NewTables(formulas ...*Expression) (t *Tables, ok bool) {
	variables := slices.Collect(maps.Keys(Variables(formulas...)))
	if len(variables) > MaxVariables {
		return nil, false
	}
	t = &Tables{space: Space(len(variables)), variables: map[Variable]Table{}, known: map[*Expression]Table{}}
	for i, v := range variables {
		t.variables[v] = t.space.Variable(i)
	}
	// Where an arrow holds for all objects it holds for one, so the assignments that say otherwise cannot be.
	t.possible = t.space.Always()
	for i, v := range variables {
		if some, ok := t.variables[Variable{Arrow, v.Member, v.Through}]; v.Op == ArrowAll && ok {
			impossible := t.space.Variable(i)
			impossible.Without(some)
			t.possible.Without(impossible)
		}
	}
	return t, true
}

// Of returns where one of the formulas, or an expression of their variables, holds among the assignments that can be.
func (t *Tables) Of(e *Expression) Table {
	table := slices.Clone(t.of(e))
	table.And(t.possible)
	return table
}

// of is Of without regard to what can be. Its table must not be changed.
func (t *Tables) of(e *Expression) Table {
	if e.Op == Nil {
		return t.space.Never()
	}
	if !e.IsGroup() {
		return t.variables[e.Variable()]
	}
	if table, ok := t.known[e]; ok {
		return table
	}
	table := slices.Clone(t.of(e.Operands[0]))
	for _, o := range e.Operands[1:] {
		switch operand := t.of(o); e.Op {
		case Union:
			table.Or(operand)
		case Intersection:
			table.And(operand)
		default:
			table.Without(operand)
		}
	}
	t.known[e] = table
	return table
}

// Gains returns whether there are assignments in which one formula holds and the other does not.
func (t *Tables) Gains(before, after *Expression) bool {
	gained := t.Of(after)
	gained.Without(t.of(before))
	return gained.Holds()
}
