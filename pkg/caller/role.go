package caller

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Role is one of the contract's roles.
type Role = deputyv1.Role

// Roles is a set of roles. The zero Roles opens no method.
type Roles uint16

// RolesOf returns the set of the roles. An unspecified role is not counted.
func RolesOf(roles ...Role) Roles {
	var set Roles
	for _, r := range roles {
		if r > 0 && r < 16 {
			set |= 1 << r
		}
	}
	return set
}

// Has reports whether a role is in the set, or the admin's, which includes all.
func (r Roles) Has(role Role) bool {
	return r&(RolesOf(role)|RolesOf(deputyv1.Role_ROLE_ADMIN)) != 0 && role != deputyv1.Role_ROLE_UNSPECIFIED
}

// Any reports whether one of the roles asked for is in the set, or the admin's. It is false where none is asked for.
func (r Roles) Any(of Roles) bool {
	return of != 0 && r&(of|RolesOf(deputyv1.Role_ROLE_ADMIN)) != 0
}

// covers reports whether every role of the other set is in this one, or the admin's, which includes all.
func (r Roles) covers(other Roles) bool {
	return other&^r == 0 || r&RolesOf(deputyv1.Role_ROLE_ADMIN) != 0
}

// List returns the roles in the order of the contract.
func (r Roles) List() []Role {
	out := make([]Role, 0, bits.OnesCount16(uint16(r)))
	for i := Role(1); i < 16; i++ {
		if r&RolesOf(i) != 0 {
			out = append(out, i)
		}
	}
	return out
}

// String returns the names of the roles, with commas.
func (r Roles) String() string {
	names := make([]string, 0, 4)
	for _, one := range r.List() {
		names = append(names, RoleName(one))
	}
	return strings.Join(names, ", ")
}

// oneOf says which role it takes: one of the set, or the admin's, which includes all. That of servers which follow is named only where there is no other:
// it would be a remedy for nobody else.
func (r Roles) oneOf() string {
	if others := r &^ followers; others != 0 {
		r = others
	}
	switch {
	case r == RolesOf(deputyv1.Role_ROLE_ADMIN):
		return "the role admin"
	case len(r.List()) == 1:
		return "the role " + r.String() + " (or admin)"
	default:
		return "one of the roles " + r.String() + " (or admin)"
	}
}

// RoleName returns a role as people write it: "schema-admin".
func RoleName(r Role) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_")), "_", "-")
}

// RoleNames lists the names of all roles in the order of the contract.
func RoleNames() []string {
	names := make([]string, 0, len(deputyv1.Role_name))
	for i := Role(1); int(i) < len(deputyv1.Role_name); i++ {
		names = append(names, RoleName(i))
	}
	return names
}

// ParseRole reads the name of a role. The error says which names there are.
func ParseRole(name string) (Role, error) {
	names := RoleNames()
	if i := slices.Index(names, name); i >= 0 {
		return Role(i + 1), nil //nolint:gosec // few
	}
	meant := ""
	if near := authz.Nearest(name, names); near != "" {
		meant = fmt.Sprintf("; did you mean %q?", near)
	}
	return 0, fmt.Errorf("%q is no role; the roles are %s%s", name, strings.Join(names, ", "), meant)
}

// The roles of the two settings with preshared keys.
var (
	serviceRoles = RolesOf(deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_DELEGATOR, deputyv1.Role_ROLE_WRITER)
	adminRoles   = RolesOf(deputyv1.Role_ROLE_ADMIN)
)

// selfRoles is the one role of a caller that is Personal.
var selfRoles = RolesOf(deputyv1.Role_ROLE_SELF)
