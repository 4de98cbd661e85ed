package schema

import (
	"github.com/authzed/spicedb/pkg/caveats"
	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
)

// CompileCaveat returns a caveat's expression, ready to be read or evaluated, with SpiceDB's own types. Errors: a parameter type
// or an expression that this version of SpiceDB does not understand.
func CompileCaveat(c *core.CaveatDefinition) (*caveats.CompiledCaveat, error) {
	types := caveattypes.Default.TypeSet
	parameters, err := caveattypes.DecodeParameterTypes(types, c.GetParameterTypes())
	if err != nil {
		return nil, err
	}
	return caveats.DeserializeCaveatWithTypeSet(types, c.GetSerializedExpression(), parameters)
}
