// Package diff compares two schemas by what they mean, whatever relationships there are. What a change does to
// the relationships that there are is pkg/fixture/plan's.
//
// What a change is called:
//
//   - breaking: requests or stored relationships that worked fail, or a subject may lose access;
//   - widening: a subject may gain access;
//   - compatible: neither.
//
// It can be both at once. Whether an expression widens or narrows a permission is proven where it can be, by
// comparing both over every assignment of their operands; where not, it counts as both.
package diff

import (
	"fmt"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema/source"
)

// Kind is what sort of change it is.
type Kind string

// The kinds of changes.
const (
	DefinitionAdded   Kind = "definition-added"
	DefinitionRemoved Kind = "definition-removed"
	RelationAdded     Kind = "relation-added"
	RelationRemoved   Kind = "relation-removed"
	// TypeAdded and TypeRemoved are about the kinds of subjects that a relation admits.
	TypeAdded   Kind = "type-added"
	TypeRemoved Kind = "type-removed"

	PermissionAdded   Kind = "permission-added"
	PermissionRemoved Kind = "permission-removed"
	PermissionChanged Kind = "permission-changed"
	// PermissionAffected: its own text says the same, and members that it refers to have changed.
	PermissionAffected Kind = "permission-affected"

	CaveatAdded      Kind = "caveat-added"
	CaveatRemoved    Kind = "caveat-removed"
	CaveatChanged    Kind = "caveat-changed"
	ParameterAdded   Kind = "parameter-added"
	ParameterRemoved Kind = "parameter-removed"
	ParameterChanged Kind = "parameter-changed"
	// CommentChanged changes nothing for anybody.
	CommentChanged Kind = "comment-changed"
)

// Change is one difference between two schemas.
type Change struct {
	Kind Kind `json:"kind"`
	// Type and Member, or Caveat, name the changed definition, member or caveat.
	Type   string `json:"type,omitempty"`
	Member string `json:"member,omitempty"`
	Caveat string `json:"caveat,omitempty"`
	// Old and New are the texts before and after: an expression, an admitted type, a parameter.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Breaking and Widening may both be true. If neither is, the change is compatible.
	Breaking bool `json:"breaking"`
	Widening bool `json:"widening"`
	// Through are the members and caveats whose change is behind a PermissionAffected.
	Through []string `json:"through,omitempty"`
	// Why gives the reason for the class, in a sentence.
	Why string `json:"why,omitempty"`
	// OldAt and NewAt are where it stands; zero where it does not.
	OldAt source.Position `json:"oldAt"`
	NewAt source.Position `json:"newAt"`
}

// Class is "breaking", "breaking, widening", "widening" or "compatible".
func (c Change) Class() string {
	var is []string
	if c.Breaking {
		is = append(is, "breaking")
	}
	if c.Widening {
		is = append(is, "widening")
	}
	if len(is) == 0 {
		return "compatible"
	}
	return strings.Join(is, ", ")
}

// At is where the change stands: in the new schema, or in the old one if it is gone.
func (c Change) At() source.Position {
	if c.NewAt != (source.Position{}) {
		return c.NewAt
	}
	return c.OldAt
}

// String describes the change in a sentence.
func (c Change) String() string {
	of := c.Type + "#" + c.Member
	switch c.Kind {
	case DefinitionAdded:
		return fmt.Sprintf("definition %s is new", c.Type)
	case DefinitionRemoved:
		return fmt.Sprintf("definition %s is gone", c.Type)
	case RelationAdded:
		return fmt.Sprintf("relation %s is new", of)
	case RelationRemoved:
		return fmt.Sprintf("relation %s is gone", of)
	case TypeAdded:
		return fmt.Sprintf("relation %s admits %s", of, c.New)
	case TypeRemoved:
		return fmt.Sprintf("relation %s no longer admits %s", of, c.Old)
	case PermissionAdded:
		return fmt.Sprintf("permission %s is new", of)
	case PermissionRemoved:
		return fmt.Sprintf("permission %s is gone", of)
	case PermissionChanged:
		return fmt.Sprintf("permission %s was %q and is %q", of, c.Old, c.New)
	case PermissionAffected:
		return fmt.Sprintf("permission %s is affected through %s", of, strings.Join(c.Through, ", "))
	case CaveatAdded:
		return fmt.Sprintf("caveat %s is new", c.Caveat)
	case CaveatRemoved:
		return fmt.Sprintf("caveat %s is gone", c.Caveat)
	case CaveatChanged:
		return fmt.Sprintf("caveat %s was %q and is %q", c.Caveat, c.Old, c.New)
	case ParameterAdded:
		return fmt.Sprintf("caveat %s takes a new parameter %s", c.Caveat, c.New)
	case ParameterRemoved:
		return fmt.Sprintf("caveat %s no longer takes the parameter %s", c.Caveat, c.Old)
	case ParameterChanged:
		return fmt.Sprintf("caveat %s took %s and takes %s", c.Caveat, c.Old, c.New)
	default:
		return "the comment changed on " + strings.Trim(of+c.Caveat, "#")
	}
}
