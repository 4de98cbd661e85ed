package evaluate

import (
	"fmt"
	"slices"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Program is a schema, compiled to be evaluated. It is immutable but for the hints of its types and members, and safe for
// concurrent use.
type Program struct {
	types   map[string]*objectType
	caveats map[string]*caveat
}

// objectType is a definition.
type objectType struct {
	name    string
	members map[string]*member
	// wide hints at whether objects of the type have many rows, see objects.go.
	wide hint
}

// member is a relation or a permission.
type member struct {
	of   *objectType
	name string
	// alias is the member that the permission stands for; nil if it is no alias.
	alias *member
	// rewrite is a permission's expression; nil for a relation.
	rewrite *node

	// What follows is a relation's. subjects are the kinds of subjects that it admits; wildcards are the
	// types that may be there as a whole.
	subjects  []subjectKind
	wildcards []string
	// usersets says that rows may lead on: SpiceDB looks for them unless all allowed types are plain
	// objects.
	usersets bool

	wide hint
}

// subjectKind is a type of subject, with a relation or without ("").
type subjectKind struct{ objectType, relation string }

// operation is what a node does with its children.
type operation uint8

const (
	opUnion operation = iota
	opIntersection
	// opExclusion takes the others away from the first.
	opExclusion
	// opComputed evaluates another member of the same object.
	opComputed
	// opArrow and opAll evaluate a member of each object in a relation, of which one or all have to have the
	// subject.
	opArrow
	opAll
	// opSelf is the object itself.
	opSelf
	opNil
)

// node is a part of a permission's expression.
type node struct {
	op       operation
	children []*node
	// target is the other member of opComputed.
	target *member
	// tupleset is the relation that an arrow follows, and permission what it looks for there.
	tupleset   *member
	permission string
}

// Compile makes a program of definitions. Errors: an expression of a kind that is not known, or a name that
// is not there; SpiceDB does not let such a schema in. Whether relationships fit the definitions is not looked at.
func Compile(namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*Program, error) {
	p := &Program{types: make(map[string]*objectType, len(namespaces)), caveats: make(map[string]*caveat, len(caveats))}
	for _, c := range caveats {
		p.caveats[c.GetName()] = &caveat{definition: c}
	}
	for _, ns := range namespaces {
		if hasUnknown(ns.ProtoReflect()) {
			return nil, fmt.Errorf("evaluate: definition %s has a field that this version of Deputy does not know", ns.GetName())
		}
		t := &objectType{name: ns.GetName(), members: make(map[string]*member, len(ns.GetRelation()))}
		p.types[t.name] = t
		for _, r := range ns.GetRelation() {
			t.members[r.GetName()] = &member{of: t, name: r.GetName()}
		}
	}
	for _, ns := range namespaces {
		t := p.types[ns.GetName()]
		for _, r := range ns.GetRelation() {
			m := t.members[r.GetName()]
			if name := r.GetAliasingRelation(); name != "" {
				if m.alias = t.members[name]; m.alias == nil {
					return nil, fmt.Errorf("evaluate: %s#%s is an alias of %q, which is not there", t.name, m.name, name)
				}
			}
			if r.GetUsersetRewrite() == nil {
				if err := m.allow(r.GetTypeInformation().GetAllowedDirectRelations()); err != nil {
					return nil, fmt.Errorf("evaluate: %s#%s: %w", t.name, m.name, err)
				}
				continue
			}
			var err error
			if m.rewrite, err = t.rewrite(r.GetUsersetRewrite()); err != nil {
				return nil, fmt.Errorf("evaluate: %s#%s: %w", t.name, m.name, err)
			}
		}
	}
	return p, nil
}

// allow notes what a relation admits. Errors: a kind of subject that is not known.
func (m *member) allow(allowed []*core.AllowedRelation) error {
	for _, a := range allowed {
		switch of := a.GetRelationOrWildcard().(type) {
		case *core.AllowedRelation_PublicWildcard_:
			m.wildcards = append(m.wildcards, a.GetNamespace())
		case *core.AllowedRelation_Relation:
			relation := of.Relation
			switch relation {
			case tuple.Ellipsis:
				relation = ""
			case "":
				return fmt.Errorf("admits %s with an empty relation", a.GetNamespace())
			}
			m.subjects = append(m.subjects, subjectKind{a.GetNamespace(), relation})
		default:
			return fmt.Errorf("admits %s in a way of an unknown kind: %T", a.GetNamespace(), of)
		}
		m.usersets = m.usersets || a.GetRelation() != tuple.Ellipsis
	}
	return nil
}

func (t *objectType) rewrite(r *core.UsersetRewrite) (*node, error) {
	var n *node
	var children []*core.SetOperation_Child
	switch {
	case r.GetUnion() != nil:
		n, children = &node{op: opUnion}, r.GetUnion().GetChild()
	case r.GetIntersection() != nil:
		n, children = &node{op: opIntersection}, r.GetIntersection().GetChild()
	case r.GetExclusion() != nil:
		n, children = &node{op: opExclusion}, r.GetExclusion().GetChild()
	default:
		return nil, unknown(r.GetRewriteOperation())
	}
	for _, child := range children {
		c, err := t.child(child)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, c)
	}
	switch {
	case len(n.children) == 0:
		return &node{op: opNil}, nil
	case len(n.children) == 1 && n.op != opExclusion:
		return n.children[0], nil
	}
	return n, nil
}

func (t *objectType) child(child *core.SetOperation_Child) (*node, error) {
	switch c := child.GetChildType().(type) {
	case *core.SetOperation_Child_ComputedUserset:
		target, err := t.member(c.ComputedUserset.GetRelation())
		return &node{op: opComputed, target: target}, err
	case *core.SetOperation_Child_UsersetRewrite:
		return t.rewrite(c.UsersetRewrite)
	case *core.SetOperation_Child_TupleToUserset:
		return t.arrow(opArrow, c.TupleToUserset.GetTupleset().GetRelation(), c.TupleToUserset.GetComputedUserset())
	case *core.SetOperation_Child_FunctionedTupleToUserset:
		f := c.FunctionedTupleToUserset
		switch f.GetFunction() {
		case core.FunctionedTupleToUserset_FUNCTION_ANY:
			return t.arrow(opArrow, f.GetTupleset().GetRelation(), f.GetComputedUserset())
		case core.FunctionedTupleToUserset_FUNCTION_ALL:
			return t.arrow(opAll, f.GetTupleset().GetRelation(), f.GetComputedUserset())
		default:
			return nil, unknown(f.GetFunction())
		}
	case *core.SetOperation_Child_XSelf:
		return &node{op: opSelf}, nil
	case *core.SetOperation_Child_XNil:
		return &node{op: opNil}, nil
	default:
		return nil, unknown(c)
	}
}

func (t *objectType) arrow(op operation, tupleset string, permission *core.ComputedUserset) (*node, error) {
	m, err := t.member(tupleset)
	return &node{op: op, tupleset: m, permission: permission.GetRelation()}, err
}

func (t *objectType) member(name string) (*member, error) {
	if m := t.members[name]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("there is no %s#%s", t.name, name)
}

// hasUnknown reports whether a message, or one within it, has a field that its type does not know.
func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := 0; i < value.List().Len() && !found; i++ {
				found = hasUnknown(value.List().Get(i).Message())
			}
		default:
			found = found || hasUnknown(value.Message())
		}
		return !found
	})
	return found
}

func unknown(what any) error { return fmt.Errorf("an expression of an unknown kind: %T", what) }

// leads calls fn with each member that the evaluation of this one may dispatch to.
func (p *Program) leads(m *member, fn func(*member)) {
	if m.rewrite == nil {
		for _, kind := range m.subjects {
			if kind.relation == "" {
				continue
			}
			if t := p.types[kind.objectType]; t != nil && t.members[kind.relation] != nil {
				fn(t.members[kind.relation])
			}
		}
		return
	}
	var visit func(n *node)
	visit = func(n *node) {
		switch n.op {
		case opComputed:
			fn(n.target)
		case opArrow, opAll:
			for _, t := range n.tupleset.objects(p) {
				if next := t.members[n.permission]; next != nil {
					fn(next)
				}
			}
		default:
		}
		for _, c := range n.children {
			visit(c)
		}
	}
	visit(m.rewrite)
}

// MeetsAll reports whether an arrow with .all may be on the way of a check of a permission.
func (p *Program) MeetsAll(objectType, permission string) bool {
	m, err := p.member(objectType, permission)
	return err == nil && p.meetsAll(m, map[*member]bool{})
}

func (p *Program) meetsAll(m *member, seen map[*member]bool) bool {
	if seen[m] {
		return false
	}
	seen[m] = true
	if m.rewrite != nil && m.rewrite.has(opAll) {
		return true
	}
	found := false
	p.leads(m, func(next *member) { found = found || p.meetsAll(next, seen) })
	return found
}

// has reports whether an operation is in an expression.
func (n *node) has(op operation) bool {
	return n.op == op || slices.ContainsFunc(n.children, func(c *node) bool { return c.has(op) })
}

// objects returns the types of the objects that a relation may hold.
func (m *member) objects(p *Program) []*objectType {
	seen := map[*objectType]bool{}
	var found []*objectType
	add := func(name string) {
		if t := p.types[name]; t != nil && !seen[t] {
			seen[t] = true
			found = append(found, t)
		}
	}
	for _, kind := range m.subjects {
		add(kind.objectType)
	}
	for _, name := range m.wildcards {
		add(name)
	}
	return found
}
