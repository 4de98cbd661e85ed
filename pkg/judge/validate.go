package judge

import (
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
)

// validate checks what the schema says of the case, whatever the object.
func (c *call) validate(one authz.Case) error {
	resourceType, permission := one.Resource.Type, one.Permission
	t := c.schema.Types[resourceType]
	if t == nil || !c.within.HasType(resourceType) && !authz.IsCore(resourceType) {
		return &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonUnknownType, Field: "resource.object_type",
			Message: c.schema.Within(c.within).NoType(resourceType),
		}
	}
	if _, ok := t.Members[permission]; !ok {
		return &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonUnknownPermission, Field: "permission",
			Message: t.NoMember(permission),
		}
	}
	if !t.TenantSafe() && !c.global[resourceType] {
		return authz.Errorf(authz.Precondition, authz.ReasonNotTenantSafe,
			"%s has no tenant relation or permission, so that its objects belong to nobody; give it one, or name it "+
				"in --global-types of the server", resourceType)
	}
	if t.UnsafeShape != "" {
		return authz.Errorf(authz.Precondition, authz.ReasonUnsafeShape,
			"%s admits a caveat or an expiration beside a userset of the same type, which SpiceDB evaluates wrongly", strings.TrimSpace(t.UnsafeShape))
	}
	if t.Stray != "" {
		return authz.Errorf(authz.Precondition, authz.ReasonExpiredRows,
			"%s admits no expiration but holds relationships that have one, and SpiceDB would count them after they have expired; "+
				"let the relation admit the expiration again, or delete its relationships and write those that are to hold", t.Stray)
	}
	return fits(c.schema, one)
}

// fits refuses a value of the context that no caveat on the way takes: which caveats those are depends on the type and
// the permission alone, so that the error says nothing about the object. A value that one caveat takes and another one
// with a parameter of the same name does not is let through; see decide.Settle.
func fits(schema *authz.Schema, c authz.Case) error {
	if len(c.Context) == 0 || schema.Parameters == nil {
		return nil
	}
	known := schema.Parameters(c.Resource.Type, c.Permission)
	first := ""
	for name, value := range c.Context {
		taken := func(p authz.Parameter) bool { return p.Fits(value) }
		if p := known[name]; len(p) > 0 && !slices.ContainsFunc(p, taken) && (first == "" || name < first) {
			first = name
		}
	}
	if first == "" {
		return nil
	}
	var wanted []string
	for _, p := range known[first] {
		wanted = append(wanted, "the caveat "+p.Caveat+" takes "+p.Type)
	}
	slices.Sort(wanted)
	return authz.FieldErrorf("context."+first, "is %s that does not fit: %s", kindOf(c.Context[first]), authz.Words(wanted))
}

// kindOf says which kind a JSON value is of.
func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "a null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	default:
		return "a number"
	}
}
