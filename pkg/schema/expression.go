package schema

import (
	"slices"
	"strings"

	"github.com/authzed/spicedb/pkg/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
)

// Op is what an Expression does. The zero value is Nil, which nobody has.
type Op uint8

// The operations, as SpiceDB's schema language has them.
const (
	// Nil holds for nobody.
	Nil Op = iota
	// Union holds where an operand holds.
	Union
	// Intersection holds where all operands hold.
	Intersection
	// Exclusion holds where the first operand holds and none of the others does.
	Exclusion
	// Computed holds where another relation or permission of the same object holds.
	Computed
	// Arrow holds where a relation or permission of one of the objects in a relation holds.
	Arrow
	// ArrowAll holds where there is an object in the relation, and for all of them the relation or permission holds.
	ArrowAll
	// Self holds for the object itself.
	Self
)

// String returns the operation's name: "union", "all" for ArrowAll.
func (o Op) String() string {
	return [...]string{"nil", "union", "intersection", "exclusion", "computed", "arrow", "all", "self"}[o]
}

// Expression is a permission, or a part of one. It is immutable: what changes a part makes a new tree.
type Expression struct {
	Op Op
	// Operands are those of a Union, an Intersection or an Exclusion; there are two at least. Others have none.
	Operands []*Expression
	// Member is the member that is computed, or looked for behind an arrow. Through is the relation that an arrow follows.
	Member, Through string
	// At is where SpiceDB's compiler found it; nil for what it did not find.
	At *core.SourcePosition
}

// IsArrow reports whether the expression is an Arrow or an ArrowAll.
func (e *Expression) IsArrow() bool { return e.Op == Arrow || e.Op == ArrowAll }

// IsGroup reports whether the expression puts operands together.
func (e *Expression) IsGroup() bool { return len(e.Operands) > 0 }

// Has reports whether an operation is in the expression.
func (e *Expression) Has(op Op) bool {
	return e.Op == op || slices.ContainsFunc(e.Operands, func(o *Expression) bool { return o.Has(op) })
}

// Walk calls fn with the expression and each part of it, outermost first. path leads there from the root, by the index of
// each operand; fn may keep it. subtracted says that the part stands in the right side of an exclusion, at whatever depth.
func (e *Expression) Walk(fn func(part *Expression, path []int, subtracted bool)) {
	e.walk(nil, false, fn)
}

func (e *Expression) walk(path []int, subtracted bool, fn func(*Expression, []int, bool)) {
	fn(e, path, subtracted)
	for i, o := range e.Operands {
		o.walk(append(slices.Clone(path), i), subtracted || e.Op == Exclusion && i > 0, fn)
	}
}

// Leaf is a part of a permission that has no operands.
type Leaf struct {
	*Expression
	// Subtracted says that it stands in the right side of an exclusion, at whatever depth.
	Subtracted bool
}

// leaves collects the leaves from left to right.
func (e *Expression) leaves() (found []Leaf) {
	e.Walk(func(part *Expression, _ []int, subtracted bool) {
		if !part.IsGroup() && part.Op != Nil {
			found = append(found, Leaf{part, subtracted})
		}
	})
	return found
}

// Replace returns the expression with another part at a path, as Walk gives it.
func (e *Expression) Replace(path []int, by *Expression) *Expression {
	if len(path) == 0 {
		return by
	}
	operands := slices.Clone(e.Operands)
	operands[path[0]] = operands[path[0]].Replace(path[1:], by)
	return e.With(operands...)
}

// With returns the expression with other operands. A group of one is that one, and a group of none is Nil.
func (e *Expression) With(operands ...*Expression) *Expression {
	switch len(operands) {
	case 0:
		return &Expression{At: e.At}
	case 1:
		return operands[0]
	}
	copied := *e
	copied.Operands = operands
	return &copied
}

// Without returns the expression without operand i.
func (e *Expression) Without(i int) *Expression {
	return e.With(slices.Delete(slices.Clone(e.Operands), i, i+1)...)
}

// String returns the expression as a schema writes it, with parentheses around each group within another.
func (e *Expression) String() string {
	switch e.Op {
	case Union, Intersection, Exclusion:
		texts := make([]string, len(e.Operands))
		for i, o := range e.Operands {
			texts[i] = o.String()
			if o.IsGroup() {
				texts[i] = "(" + texts[i] + ")"
			}
		}
		return strings.Join(texts, map[Op]string{Union: " + ", Intersection: " & ", Exclusion: " - "}[e.Op])
	case Computed:
		return e.Member
	case Arrow:
		return e.Through + "->" + e.Member
	case ArrowAll:
		return e.Through + ".all(" + e.Member + ")"
	default:
		return e.Op.String()
	}
}

// Rewrite returns the expression as SpiceDB stores it, without positions.
func (e *Expression) Rewrite() *core.UsersetRewrite {
	if !e.IsGroup() {
		return namespace.Union(e.child())
	}
	children := make([]*core.SetOperation_Child, len(e.Operands))
	for i, o := range e.Operands {
		children[i] = o.child()
	}
	switch e.Op {
	case Intersection:
		return namespace.Intersection(children[0], children[1:]...)
	case Exclusion:
		return namespace.Exclusion(children[0], children[1:]...)
	default:
		return namespace.Union(children[0], children[1:]...)
	}
}

func (e *Expression) child() *core.SetOperation_Child {
	switch e.Op {
	case Computed:
		return namespace.ComputedUserset(e.Member)
	case Arrow:
		return namespace.TupleToUserset(e.Through, e.Member)
	case ArrowAll:
		return namespace.MustFunctionedTupleToUserset(e.Through, "all", e.Member)
	case Self:
		return namespace.Self()
	case Nil:
		return namespace.Nil()
	default:
		return namespace.Rewrite(e.Rewrite())
	}
}
