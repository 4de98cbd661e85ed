package schema

import (
	"errors"
	"fmt"

	"github.com/authzed/spicedb/pkg/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	iv1 "github.com/authzed/spicedb/pkg/proto/impl/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ErrUnknown is what the errors of Read wrap: definitions hold something of a kind that this version of Deputy does not know.
var ErrUnknown = errors.New("the schema holds what this version of Deputy does not know")

// Read reads definitions, which it does not change and which must not change afterwards. Definitions that SpiceDB's compiler
// of this version made can always be read; those that another program stored may not be.
//
// Errors wrap ErrUnknown, and name the definition and the member: an operand, a set operation, the function of an arrow, an
// allowed type or a field of a newer SpiceDB; and a member that is half of one thing and half of another, such as a relation
// with an expression.
func Read(definitions []*core.NamespaceDefinition) (*Schema, error) {
	s := &Schema{Types: make(map[string]*Type, len(definitions)), members: map[Name]*Member{}}
	for _, d := range definitions {
		t, err := readType(d)
		if err != nil {
			return nil, err
		}
		s.add(t)
	}
	return s, nil
}

// With returns the schema with another definition of one of its types; everything else is shared. Errors are those of Read.
func (s *Schema) With(d *core.NamespaceDefinition) (*Schema, error) {
	changed, err := readType(d)
	if err != nil {
		return nil, err
	}
	with := &Schema{Types: make(map[string]*Type, len(s.Types)), members: make(map[Name]*Member, len(s.members))}
	add := func(t *Type) {
		if t.Name == changed.Name {
			t = changed
		}
		if with.Types[t.Name] == nil {
			with.add(t)
		}
	}
	for _, m := range s.Members {
		add(s.Types[m.Type])
	}
	for _, t := range s.Types { // only types without members are left, which have no order
		add(t)
	}
	return with, nil
}

// add adds a type behind the others.
func (s *Schema) add(t *Type) {
	s.Types[t.Name] = t
	s.Members = append(s.Members, t.Members...)
	for _, m := range t.Members {
		s.members[m.Name] = m
	}
}

func readType(d *core.NamespaceDefinition) (*Type, error) {
	if field := unknownField(d.ProtoReflect()); field != "" {
		return nil, fmt.Errorf("%w: definition %s: %s has a field that is not known", ErrUnknown, d.GetName(), field)
	}
	t := &Type{Name: d.GetName(), Definition: d, Members: make([]*Member, 0, len(d.GetRelation()))}
	for _, r := range d.GetRelation() {
		m, err := readMember(t.Name, r)
		if err != nil {
			return nil, fmt.Errorf("%w: definition %s: %s: %w", ErrUnknown, t.Name, r.GetName(), err)
		}
		t.Members = append(t.Members, m)
	}
	return t, nil
}

// readMember reads a relation or permission. SpiceDB takes what has an expression for a permission, and its compiler marks it
// as one. Where the two disagree, one reader would see a permission and another one a relation that admits nobody.
func readMember(objectType string, r *core.Relation) (m *Member, err error) {
	m = &Member{Name: Name{objectType, r.GetName()}, Alias: r.GetAliasingRelation(), Definition: r}
	marked := namespace.GetRelationKind(r) == iv1.RelationMetadata_PERMISSION
	switch rewrite := r.GetUsersetRewrite(); {
	case rewrite == nil && marked:
		return nil, errors.New("is a permission without an expression")
	case rewrite != nil && !marked:
		return nil, fmt.Errorf("has an expression, but is of the kind %s", namespace.GetRelationKind(r))
	case rewrite != nil:
		if m.Expression, err = readRewrite(rewrite); err != nil {
			return nil, err
		}
		m.Leaves = m.Expression.leaves()
	}
	for _, a := range r.GetTypeInformation().GetAllowedDirectRelations() {
		read, err := ReadAllowed(a)
		if err != nil {
			return nil, err
		}
		m.Allowed = append(m.Allowed, read)
	}
	return m, nil
}

// ReadAllowed reads a kind of subject. Errors: one that is not known.
func ReadAllowed(a *core.AllowedRelation) (Allowed, error) {
	read := Allowed{
		Type: a.GetNamespace(), Caveat: a.GetRequiredCaveat().GetCaveatName(), Expires: a.GetRequiredExpiration() != nil, At: a.GetSourcePosition(),
	}
	switch of := a.GetRelationOrWildcard().(type) {
	case *core.AllowedRelation_PublicWildcard_:
		read.Wildcard = true
	case *core.AllowedRelation_Relation:
		switch of.Relation {
		case "":
			return Allowed{}, fmt.Errorf("admits %s with an empty relation", read.Type)
		case tuple.Ellipsis:
		default:
			read.Relation = of.Relation
		}
	default:
		return Allowed{}, fmt.Errorf("admits %s in a way of an unknown kind: %T", read.Type, of)
	}
	return read, nil
}

func readRewrite(r *core.UsersetRewrite) (*Expression, error) {
	e := &Expression{At: r.GetSourcePosition()}
	var children []*core.SetOperation_Child
	switch o := r.GetRewriteOperation().(type) {
	case *core.UsersetRewrite_Union:
		e.Op, children = Union, o.Union.GetChild()
	case *core.UsersetRewrite_Intersection:
		e.Op, children = Intersection, o.Intersection.GetChild()
	case *core.UsersetRewrite_Exclusion:
		e.Op, children = Exclusion, o.Exclusion.GetChild()
	default:
		return nil, fmt.Errorf("a set operation is of an unknown kind: %T", o)
	}
	operands := make([]*Expression, len(children))
	for i, c := range children {
		var err error
		if operands[i], err = readOperand(c); err != nil {
			return nil, err
		}
	}
	return e.With(operands...), nil
}

func readOperand(c *core.SetOperation_Child) (*Expression, error) {
	e := &Expression{At: c.GetSourcePosition()}
	switch child := c.GetChildType().(type) {
	case *core.SetOperation_Child_UsersetRewrite:
		inner, err := readRewrite(child.UsersetRewrite)
		if err != nil || e.At == nil {
			return inner, err
		}
		copied := *inner
		copied.At = e.At
		return &copied, nil
	case *core.SetOperation_Child_ComputedUserset:
		e.Op, e.Member = Computed, child.ComputedUserset.GetRelation()
	case *core.SetOperation_Child_TupleToUserset:
		arrow := child.TupleToUserset
		e.Op, e.Through, e.Member = Arrow, arrow.GetTupleset().GetRelation(), arrow.GetComputedUserset().GetRelation()
	case *core.SetOperation_Child_FunctionedTupleToUserset:
		arrow := child.FunctionedTupleToUserset
		e.Op, e.Through, e.Member = Arrow, arrow.GetTupleset().GetRelation(), arrow.GetComputedUserset().GetRelation()
		switch arrow.GetFunction() {
		case core.FunctionedTupleToUserset_FUNCTION_ANY:
		case core.FunctionedTupleToUserset_FUNCTION_ALL:
			e.Op = ArrowAll
		default:
			return nil, fmt.Errorf("an arrow has a function of an unknown kind: %s", arrow.GetFunction())
		}
	case *core.SetOperation_Child_XSelf:
		e.Op = Self
		return e, nil
	case *core.SetOperation_Child_XNil:
		return e, nil
	default:
		return nil, fmt.Errorf("an expression is of an unknown kind: %T", child)
	}
	if e.Member == "" || e.IsArrow() && e.Through == "" {
		return nil, errors.New("an operand names no relation")
	}
	return e, nil
}

// unknownField names the first message that has a field which its type does not know; "" if none has.
func unknownField(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().Name())
	}
	found := ""
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := 0; i < value.List().Len() && found == ""; i++ {
				found = unknownField(value.List().Get(i).Message())
			}
		default:
			found = unknownField(value.Message())
		}
		return found == ""
	})
	return found
}
