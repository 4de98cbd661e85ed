package schema

import (
	"slices"
	"strings"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
)

// Name names a relation or permission of a type.
type Name struct{ Type, Member string }

// String returns "type#member".
func (n Name) String() string { return n.Type + "#" + n.Member }

// Schema is all definitions of a schema.
type Schema struct {
	// Types are the object types by name.
	Types map[string]*Type
	// Members are the relations and permissions of all types, in the order of the definitions.
	Members []*Member

	members map[Name]*Member
}

// Type is an object type.
type Type struct {
	Name string
	// Members are its relations and permissions, in their order.
	Members []*Member
	// Definition is what the type was read from. It must not be changed.
	Definition *core.NamespaceDefinition
}

// Member is a relation or a permission of a type.
type Member struct {
	Name
	// Expression is what a permission is computed from; nil for a relation.
	Expression *Expression
	// Leaves are the parts of the Expression that have no operands, from left to right, Nil left out.
	Leaves []Leaf
	// Allowed are the kinds of subjects that a relation admits.
	Allowed []Allowed
	// Alias is the member that SpiceDB evaluates in place of the permission, because the permission is nothing but another name for
	// it; empty if there is none.
	Alias string
	// Definition is what the member was read from. It must not be changed.
	Definition *core.Relation
}

// Allowed is a kind of subject that a relation admits.
type Allowed struct {
	// Type is the subjects' type. Relation is their relation; empty where they are objects, or a wildcard.
	Type, Relation string
	// Wildcard says that it is all objects of the type: "user:*".
	Wildcard bool
	// Caveat is the caveat that such a relationship has to carry; empty where it carries none.
	Caveat string
	// Expires says that such a relationship has to carry an expiration.
	Expires bool
	// At is where SpiceDB's compiler found it; nil for what it did not find.
	At *core.SourcePosition
}

// IsUserset reports whether the subjects have a relation: "group#member".
func (a Allowed) IsUserset() bool { return a.Relation != "" }

// Names returns the relation or permission that the subjects have; its Member is empty where they have none.
func (a Allowed) Names() Name { return Name{a.Type, a.Relation} }

// String returns the kind of subject as a schema writes it: "user:* with caveat and expiration".
func (a Allowed) String() string {
	text := a.Type
	switch {
	case a.Wildcard:
		text += ":*"
	case a.Relation != "":
		text += "#" + a.Relation
	}
	switch {
	case a.Caveat != "" && a.Expires:
		text += " with " + a.Caveat + " and expiration"
	case a.Caveat != "":
		text += " with " + a.Caveat
	case a.Expires:
		text += " with expiration"
	}
	return text
}

// KindOf returns the kind of subject that a relation has to admit to hold a relationship.
func KindOf(r tuple.Relationship) Allowed {
	kind := Allowed{
		Type: r.Subject.ObjectType, Wildcard: r.Subject.ObjectID == tuple.PublicWildcard,
		Caveat: r.OptionalCaveat.GetCaveatName(), Expires: r.OptionalExpiration != nil,
	}
	if r.Subject.Relation != tuple.Ellipsis {
		kind.Relation = r.Subject.Relation
	}
	return kind
}

// Admits reports whether a relation admits a kind of subject, wherever it is written. A relation that does not exist admits none.
func (m *Member) Admits(kind Allowed) bool {
	return m != nil && slices.ContainsFunc(m.Allowed, func(a Allowed) bool {
		a.At, kind.At = nil, nil
		return a == kind
	})
}

// Text returns the member as a schema writes it, in one line and without its comment: "permission edit = (owner + writer) - banned".
// Expressions have parentheses around each group within another, because few readers know SpiceDB's precedence: + binds more tightly
// than & and -.
func (m *Member) Text() string {
	if m.IsPermission() {
		return "permission " + m.Member + " = " + m.Expression.String()
	}
	return "relation " + m.Member + ": " + m.Admitted()
}

// Admitted returns the kinds of subjects that a relation admits, as a schema writes them: "user | group#member".
func (m *Member) Admitted() string {
	kinds := make([]string, len(m.Allowed))
	for i, a := range m.Allowed {
		kinds[i] = a.String()
	}
	return strings.Join(kinds, " | ")
}

// IsPermission reports whether the member is computed, so that it holds no relationships.
func (m *Member) IsPermission() bool { return m != nil && m.Expression != nil }

// Member returns a relation or permission; nil if there is none of the name.
func (s *Schema) Member(n Name) *Member { return s.members[n] }

// Objects returns the types of the objects that a relation may hold, each once and in their order.
func (m *Member) Objects() []string {
	if m == nil {
		return nil
	}
	var found []string
	seen := make(map[string]bool, len(m.Allowed))
	for _, a := range m.Allowed {
		if !seen[a.Type] {
			seen[a.Type] = true
			found = append(found, a.Type)
		}
	}
	return found
}
