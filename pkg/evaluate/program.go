package evaluate

import (
	"fmt"
	"sync/atomic"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"

	"github.com/deputyauth/deputy/pkg/schema"
)

// Program is a schema, compiled to be evaluated. It is immutable but for hints, and for what is made of it when it
// is first needed. It is safe for concurrent use.
type Program struct {
	schema  *schema.Schema
	types   map[string]*objectType
	caveats map[string]*caveat
	// ways counts the ways that its members keep, see waysTo.
	ways atomic.Int64
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
	// ways are what waysTo made; nil until it was asked.
	ways atomic.Pointer[ways]
}

// subjectKind is a type of subject, with a relation or without ("").
type subjectKind struct{ objectType, relation string }

// node is a part of a permission's expression.
type node struct {
	op schema.Op
	// from is what it was compiled from.
	from     *schema.Expression
	children []*node
	// target is the other member of a schema.Computed.
	target *member
	// tupleset is the relation that an arrow follows, and permission what it looks for there.
	tupleset   *member
	permission string
}

// Compile makes a program of a schema and its caveats. Errors: a name that is not there; SpiceDB does not let such a schema in.
// Whether relationships fit the schema is not looked at.
func Compile(s *schema.Schema, caveats []*core.CaveatDefinition) (*Program, error) {
	p := &Program{schema: s, types: make(map[string]*objectType, len(s.Types)), caveats: make(map[string]*caveat, len(caveats))}
	for _, c := range caveats {
		p.caveats[c.GetName()] = &caveat{definition: c}
	}
	for name, t := range s.Types {
		made := &objectType{name: name, members: make(map[string]*member, len(t.Members))}
		for _, m := range t.Members {
			made.members[m.Member] = &member{of: made, name: m.Member}
		}
		p.types[name] = made
	}
	for _, from := range s.Members {
		if err := p.types[from.Type].members[from.Member].compile(from); err != nil {
			return nil, fmt.Errorf("evaluate: %s: %w", from.Name, err)
		}
	}
	return p, nil
}

// compile fills in a member. Errors: a name that is not there.
func (m *member) compile(from *schema.Member) (err error) {
	if from.Alias != "" {
		if m.alias, err = m.of.member(from.Alias); err != nil {
			return err
		}
	}
	if from.Expression != nil {
		m.rewrite, err = m.of.node(from.Expression)
		return err
	}
	for _, a := range from.Allowed {
		if a.Wildcard {
			m.wildcards = appendNew(m.wildcards, a.Type)
		} else {
			m.subjects = appendNew(m.subjects, subjectKind{a.Type, a.Relation})
		}
		m.usersets = m.usersets || a.Wildcard || a.IsUserset()
	}
	return nil
}

// node compiles a part of a permission.
func (t *objectType) node(e *schema.Expression) (n *node, err error) {
	n = &node{op: e.Op, from: e, permission: e.Member}
	switch {
	case e.Op == schema.Computed:
		n.target, err = t.member(e.Member)
	case e.IsArrow():
		n.tupleset, err = t.member(e.Through)
	}
	if err != nil {
		return nil, err
	}
	for _, operand := range e.Operands {
		child, err := t.node(operand)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child)
	}
	return n, nil
}

func (t *objectType) member(name string) (*member, error) {
	if m := t.members[name]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("there is no %s#%s", t.name, name)
}

// MeetsAll reports whether an arrow with .all may be on the way of a check of a permission.
func (p *Program) MeetsAll(objectType, permission string) bool {
	for m := range p.schema.Reach(p.schema.Member(schema.Name{Type: objectType, Member: permission})).Members {
		if m.IsPermission() && m.Expression.Has(schema.ArrowAll) {
			return true
		}
	}
	return false
}
