// Package guard finds out what decisions, and the door in front of SpiceDB, need to know of a schema: whether its core is
// Deputy's, which relationships a tenant or an agent's reach is computed from, which relations SpiceDB evaluates wrongly, and
// which parameters of caveats an evaluation can ask for. It stands on the one model, pkg/schema, and writes nothing.
package guard

import (
	"slices"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// Model is a schema. It is immutable and safe for concurrent use.
type Model struct {
	// Schema is what decisions and the door need to know of it.
	Schema *authz.Schema
	// Definitions are its object types, as they were read.
	Definitions *schema.Schema
}

// Requested returns the model of a text that a caller wants to write as the schema. An import is refused, as in SpiceDB's
// WriteSchema. Errors: Invalid, with the compiler's words about the text, or about permissions that SpiceDB's WriteSchema fails over.
func Requested(text string) (*authz.Schema, error) {
	m, err := Compile(text)
	if err != nil {
		return nil, authz.FieldErrorf("schema", "does not compile: %v", err)
	}
	if cycle := m.Definitions.AliasCycle(); cycle != nil {
		line := cycle[0].Definition.GetSourcePosition().GetZeroIndexedLineNumber() + 1
		return nil, authz.FieldErrorf("schema", "is wrong at line %d: %v", line, schema.AliasCycleError(cycle))
	}
	return m.Schema, nil
}

// Compile is Read for a schema's text, which stays with the model. Errors: also those of SpiceDB's compiler.
func Compile(text string) (*Model, error) {
	compiled, err := compile(text)
	if err != nil {
		return nil, err
	}
	m, err := Read(compiled.ObjectDefinitions, compiled.CaveatDefinitions)
	if err == nil {
		m.Schema.Text = text
	}
	return m, err
}

// compile compiles schema text with the options of SpiceDB's WriteSchema.
func compile(text string) (*compiler.CompiledSchema, error) {
	return compiler.Compile(
		compiler.InputSchema{Source: input.Source("schema"), SchemaString: text},
		compiler.AllowUnprefixedObjectType(),
		compiler.CaveatTypeSet(caveattypes.Default.TypeSet),
		compiler.DisallowImportFlag(),
	)
}

// Read models definitions, which it does not change and which must not change afterwards. The text of the model is left out.
// Errors: Precondition, wrapping schema.ErrUnknown, where a definition holds what is not known; and those of caveats with
// parameters of a type that is not known.
func Read(types []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*Model, error) {
	definitions, err := schema.Read(types)
	if err != nil {
		return nil, &authz.Error{Kind: authz.Precondition, Reason: authz.ReasonEngineRefused, Message: err.Error(), Err: err}
	}
	difference, err := CoreDifference(types, caveats)
	if err != nil {
		return nil, err
	}
	if len(types) == 0 {
		difference = NoSchema
	}
	s, err := model(difference, definitions, caveats)
	if err != nil {
		return nil, err
	}
	return &Model{s, definitions}, nil
}

// Like models definitions whose core is the same as that of another model. Comparing the core takes longer than all the rest, and
// of a schema's mutants only one type of the domain differs. Errors: as those of Read for caveats.
func Like(other *authz.Schema, definitions *schema.Schema, caveats []*core.CaveatDefinition) (*authz.Schema, error) {
	return model(other.CoreDifference, definitions, caveats)
}

// model models definitions with what their core differs by.
func model(difference string, definitions *schema.Schema, caveats []*core.CaveatDefinition) (s *authz.Schema, err error) {
	s = &authz.Schema{CoreDifference: difference, Types: make(map[string]*authz.Type, len(definitions.Types))}
	var tenants []*schema.Member
	for _, t := range definitions.Types {
		of := &authz.Type{
			Name:        t.Name,
			Members:     make(map[string]bool, len(t.Members)),
			UnsafeShape: unsafeShape(definitions.Reach(t.Members...)),
			FeedsTenant: map[string]bool{},
			FeedsAgents: map[authz.Edge]bool{},
			Delegable:   map[string]bool{},
		}
		for _, m := range t.Members {
			if of.Members[m.Member] = m.IsPermission(); m.IsPermission() {
				of.Permissions = append(of.Permissions, m.Member)
			}
			// A scope is made of plain grants to a delegation.
			if m.Admits(schema.Allowed{Type: authz.TypeDelegation}) {
				of.Delegable[m.Member] = true
			}
		}
		s.Types[t.Name] = of
		tenants = append(tenants, definitions.Member(schema.Name{Type: t.Name, Member: authz.TenantMember}))
	}
	definitions.Reach(tenants...).Relations(func(m *schema.Member) { s.Types[m.Type].FeedsTenant[m.Member] = true })
	feedAgents(definitions, s.Types)
	s.Admits = func(objectType, relation string) (kinds []string) {
		if m := definitions.Member(schema.Name{Type: objectType, Member: relation}); m != nil {
			for _, a := range m.Allowed {
				kinds = append(kinds, a.String())
			}
		}
		return kinds
	}
	s.Parameters, err = parametersOf(definitions, caveats)
	return s, err
}

// unsafeShape names the first relation, by name, that is evaluated and has an UnsafeGrant, or returns "". Relations that arrows
// follow are read with all their caveats and expirations.
func unsafeShape(r schema.Reach) (first string) {
	for m := range r.Members {
		if name := m.String(); (first == "" || name < first) && UnsafeGrant(m) != nil {
			first = name
		}
	}
	return first
}

// UnsafeGrant returns the first kind of subject that a relation admits and that SpiceDB evaluates wrongly, or nil:
// "T with caveat" or "T with expiration" (or "T:*" with either) beside a userset "T#rel" of the same
// type without it.
//
// SpiceDB v1.56.2 looks direct subjects and wildcards up without caveats when the number of T's allowed
// types that have no caveat, usersets included, equals the number of direct types and wildcards; the
// same goes for expirations. So a userset without the trait makes up for a direct type with it, and the
// look-up skips it: an expired grant answers HAS_PERMISSION; a caveated one is granted without its
// caveat on the SQL datastores, and lost on memdb.
//
// The rule here is wider than the bug on purpose: with two usersets beside one direct type the numbers
// differ and the answer is right, but adding or removing one userset would turn it wrong. It is narrower
// in that it does not look at checks whose subject is itself a userset, because no decision has one.
func UnsafeGrant(relation *schema.Member) *schema.Allowed {
	for i, direct := range relation.Allowed {
		if !direct.IsUserset() && slices.ContainsFunc(relation.Allowed, func(a schema.Allowed) bool {
			return a.IsUserset() && a.Type == direct.Type && (direct.Caveat != "" && a.Caveat == "" || direct.Expires && !a.Expires)
		}) {
			return &relation.Allowed[i]
		}
	}
	return nil
}
