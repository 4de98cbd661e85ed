package engine

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/authzed/spicedb/pkg/caveats"
	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	diffcaveat "github.com/authzed/spicedb/pkg/diff/caveats"
	diffnamespace "github.com/authzed/spicedb/pkg/diff/namespace"
	nspkg "github.com/authzed/spicedb/pkg/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	iv1 "github.com/authzed/spicedb/pkg/proto/impl/v1"
	spiceschema "github.com/authzed/spicedb/pkg/schema"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	coreschema "github.com/deputyauth/deputy/schema"
)

// ModelSchema returns what decisions and guards need to know of a schema's text, without writing it
// anywhere. An import is refused, as in SpiceDB's WriteSchema. Errors: Invalid, with the compiler's
// words about the text.
func ModelSchema(text string) (*authz.Schema, error) {
	model, err := schemaFromText(text)
	if err != nil {
		return nil, authz.FieldErrorf("schema", "does not compile: %v", err)
	}
	return model, nil
}

// schemaFromText compiles the text and models it; the text stays with the model.
func schemaFromText(text string) (*authz.Schema, error) {
	m, err := modelFromText(text)
	return m.schema, err
}

// modelFromText is schemaFromText with the compiled types.
func modelFromText(text string) (model, error) {
	compiled, err := compile(text)
	if err != nil {
		return model{}, err
	}
	schema, err := ModelDefinitions(compiled.ObjectDefinitions, compiled.CaveatDefinitions)
	if err != nil {
		return model{}, err
	}
	schema.Text = text
	return model{schema: schema, namespaces: compiled.ObjectDefinitions}, nil
}

// ModelDefinitions is ModelSchema for definitions that are compiled already, and leaves the text out. It does not
// change them. Errors: an expression of a kind that is not known.
func ModelDefinitions(namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*authz.Schema, error) {
	if err := CheckKnown(namespaces); err != nil {
		return nil, &authz.Error{
			Kind: authz.Precondition, Reason: authz.ReasonEngineRefused, Err: err,
			Message: "the schema holds what this version of Deputy does not know: " + err.Error(),
		}
	}
	difference, err := CoreDifference(namespaces, caveats)
	if err != nil {
		return nil, err
	}
	if len(namespaces) == 0 {
		difference = NoSchema
	}
	return modelOf(difference, namespaces, caveats)
}

// Remodel is ModelDefinitions for definitions that are known, and whose core is as that of another model. Comparing the core takes
// longer than all the rest, and one type of the domain changes at a time where mutants of a schema are made.
func Remodel(other *authz.Schema, namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*authz.Schema, error) {
	return modelOf(other.CoreDifference, namespaces, caveats)
}

// modelOf models definitions that are known.
func modelOf(difference string, namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (*authz.Schema, error) {
	model := &authz.Schema{CoreDifference: difference, Types: make(map[string]*authz.Type, len(namespaces))}
	graph := make(memberGraph)
	for _, ns := range namespaces {
		t := &authz.Type{
			Name:        ns.GetName(),
			Members:     make(map[string]bool, len(ns.GetRelation())),
			FeedsTenant: map[string]bool{},
			FeedsAgents: map[authz.Edge]bool{},
			Delegable:   map[string]bool{},
		}
		for _, m := range ns.GetRelation() {
			t.Members[m.GetName()] = isPermission(m)
			if admitsDelegation(m) {
				t.Delegable[m.GetName()] = true
			}
			graph[member{t.Name, m.GetName()}] = m
		}
		model.Types[t.Name] = t
	}

	if err := graph.feedAgents(model.Types); err != nil {
		return nil, err
	}
	tenants := newReach(graph)
	for _, t := range model.Types {
		tenants.evaluate(member{t.Name, "tenant"})

		all := newReach(graph)
		for name := range t.Members {
			all.evaluate(member{t.Name, name})
		}
		t.UnsafeShape = all.unsafeShape()
		if all.err != nil {
			return nil, all.err // tenants reaches no more than all types do
		}
	}
	for _, passed := range []map[member]bool{tenants.queried, tenants.walked} {
		for m := range passed {
			model.Types[m.objectType].FeedsTenant[m.name] = true
		}
	}
	var err error
	model.Parameters, err = parametersOf(graph, caveats)
	return model, err
}

// NoSchema is the difference from the core of a graph that no schema has been written to.
const NoSchema = "no schema has been written yet"

// compile compiles schema text with the options of SpiceDB's WriteSchema.
func compile(text string) (*compiler.CompiledSchema, error) {
	return compiler.Compile(
		compiler.InputSchema{Source: input.Source("schema"), SchemaString: text},
		compiler.AllowUnprefixedObjectType(),
		compiler.CaveatTypeSet(caveattypes.Default.TypeSet),
		compiler.DisallowImportFlag(),
	)
}

// embeddedCore is core.zed, compiled once.
var embeddedCore = sync.OnceValues(func() (*compiler.CompiledSchema, error) { return compile(coreschema.Core) })

// commentDeltas are the deltas of a definition that make no difference.
var commentDeltas = map[diffnamespace.DeltaType]bool{
	diffnamespace.NamespaceCommentsChanged: true,
	diffnamespace.ChangedPermissionComment: true,
	diffnamespace.ChangedRelationComment:   true,
}

// CoreDifference says how the definitions of the core differ from core.zed, or "". Comments, the order
// of members and how a caveat's expression is laid out make no difference; other definitions are not
// looked at.
func CoreDifference(namespaces []*core.NamespaceDefinition, caveats []*core.CaveatDefinition) (string, error) {
	want, err := embeddedCore()
	if err != nil {
		return "", fmt.Errorf("core.zed does not compile: %w", err)
	}
	var differences []string
	for _, name := range authz.CoreTypes {
		delta, err := diffnamespace.DiffNamespaces(named(want.ObjectDefinitions, name), named(namespaces, name))
		if err != nil {
			return "", fmt.Errorf("cannot compare definition %s: %w", name, err)
		}
		for _, d := range delta.Deltas() {
			if commentDeltas[d.Type] {
				continue
			}
			allowed := ""
			if d.AllowedType != nil {
				allowed = spiceschema.SourceForAllowedRelation(d.AllowedType)
			}
			differences = append(differences, describe("definition "+name, string(d.Type), d.RelationName, allowed))
		}
	}
	for _, w := range want.CaveatDefinitions {
		found, err := caveatDifferences(w, named(caveats, w.GetName()))
		if err != nil {
			return "", fmt.Errorf("cannot compare caveat %s: %w", w.GetName(), err)
		}
		differences = append(differences, found...)
	}
	slices.Sort(differences) // SpiceDB's diff follows the order of a map
	return strings.Join(differences, "; "), nil
}

// caveatDifferences says how a caveat differs from the core's; got is nil if it is missing.
func caveatDifferences(want, got *core.CaveatDefinition) ([]string, error) {
	delta, err := diffcaveat.DiffCaveats(want, got, caveattypes.Default.TypeSet)
	if err != nil {
		return nil, err
	}
	var differences []string
	for _, d := range delta.Deltas() {
		if d.Type == diffcaveat.CaveatCommentsChanged {
			continue
		}
		if d.Type == diffcaveat.CaveatExpressionChanged {
			// The serialized form holds positions, so that a changed layout changes it.
			same, err := sameExpression(want, got)
			if err != nil {
				return nil, err
			}
			if same {
				continue
			}
		}
		differences = append(differences, describe("caveat "+want.GetName(), string(d.Type), d.ParameterName))
	}
	return differences, nil
}

// describe puts a delta into words: "definition tenant: relation allowed type added, member, user:*".
func describe(definition, delta string, parts ...string) string {
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	return strings.Join(append([]string{definition + ": " + strings.ReplaceAll(delta, "-", " ")}, parts...), ", ")
}

// named returns the definition of that name, or nil.
func named[D interface {
	comparable
	GetName() string
}](definitions []D, name string) D {
	var none D
	for _, d := range definitions {
		if d.GetName() == name {
			return d
		}
	}
	return none
}

// sameExpression reports whether two caveats with the same parameters say the same.
func sameExpression(a, b *core.CaveatDefinition) (bool, error) {
	var texts [2]string
	for i, c := range []*core.CaveatDefinition{a, b} {
		parameters, err := caveattypes.DecodeParameterTypes(caveattypes.Default.TypeSet, c.GetParameterTypes())
		if err != nil {
			return false, err
		}
		decoded, err := caveats.DeserializeCaveatWithDefaultTypeSet(c.GetSerializedExpression(), parameters)
		if err != nil {
			return false, err
		}
		if texts[i], err = decoded.ExprString(); err != nil {
			return false, err
		}
	}
	return texts[0] == texts[1], nil
}

// member names a relation or a permission of a type.
type member struct{ objectType, name string }

func (m member) String() string { return m.objectType + "#" + m.name }

// memberGraph holds every relation and permission of a schema.
type memberGraph map[member]*core.Relation

// reach collects the relations whose relationships SpiceDB reads to evaluate members.
type reach struct {
	graph memberGraph
	seen  map[member]bool
	// queried holds the relations in which subjects are looked for, usersets included.
	queried map[member]bool
	// walked holds the relations on the left of an arrow: only the objects in them count, whatever
	// relation a subject carries.
	walked map[member]bool
	// err is set where an expression is of a kind that this package does not know.
	err error
}

func newReach(graph memberGraph) *reach {
	return &reach{graph: graph, seen: map[member]bool{}, queried: map[member]bool{}, walked: map[member]bool{}}
}

// evaluate adds all that the member's evaluation can read; a member that does not exist reads nothing,
// as on the right of an arrow. Each member is visited once, so recursion ends.
func (r *reach) evaluate(m member) {
	relation, ok := r.graph[m]
	if !ok || r.seen[m] {
		return
	}
	r.seen[m] = true
	if isPermission(relation) {
		r.rewrite(m.objectType, relation.GetUsersetRewrite())
		return
	}
	r.queried[m] = true
	for _, allowed := range relation.GetTypeInformation().GetAllowedDirectRelations() {
		if isUserset(allowed) {
			r.evaluate(member{allowed.GetNamespace(), allowed.GetRelation()})
		}
	}
}

// rewrite adds what a permission's expression can read. An exclusion counts like the rest: taking away
// from a set changes it too.
func (r *reach) rewrite(objectType string, rewrite *core.UsersetRewrite) {
	// At most one of the three is set.
	for _, operation := range []*core.SetOperation{rewrite.GetUnion(), rewrite.GetIntersection(), rewrite.GetExclusion()} {
		for _, child := range operation.GetChild() {
			switch c := child.GetChildType().(type) {
			case *core.SetOperation_Child_ComputedUserset:
				r.evaluate(member{objectType, c.ComputedUserset.GetRelation()})
			case *core.SetOperation_Child_UsersetRewrite:
				r.rewrite(objectType, c.UsersetRewrite)
			case *core.SetOperation_Child_TupleToUserset:
				r.arrow(member{objectType, c.TupleToUserset.GetTupleset().GetRelation()}, c.TupleToUserset.GetComputedUserset())
			case *core.SetOperation_Child_FunctionedTupleToUserset:
				r.arrow(member{objectType, c.FunctionedTupleToUserset.GetTupleset().GetRelation()}, c.FunctionedTupleToUserset.GetComputedUserset())
			case *core.SetOperation_Child_XNil, *core.SetOperation_Child_XSelf:
				// They read nothing.
			default:
				r.err = fmt.Errorf("a permission of %s has an expression of an unknown kind: %T", objectType, c)
			}
		}
	}
}

func (r *reach) arrow(tupleset member, target *core.ComputedUserset) {
	relation, ok := r.graph[tupleset]
	if !ok {
		return
	}
	r.walked[tupleset] = true
	for _, allowed := range relation.GetTypeInformation().GetAllowedDirectRelations() {
		r.evaluate(member{allowed.GetNamespace(), target.GetRelation()})
	}
}

// unsafeShape names the first queried relation, by name, whose direct grants SpiceDB evaluates wrongly,
// or returns "". Walked relations are read with all their caveats and expirations.
func (r *reach) unsafeShape() string {
	first := ""
	for m := range r.queried {
		if name := m.String(); isUnsafe(r.graph[m]) && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

// isUnsafe reports whether a relation has an UnsafeGrant.
func isUnsafe(relation *core.Relation) bool { return UnsafeGrant(relation) != nil }

// UnsafeGrant returns the first allowed type of a relation that SpiceDB evaluates wrongly, or nil:
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
func UnsafeGrant(relation *core.Relation) *core.AllowedRelation {
	allowed := relation.GetTypeInformation().GetAllowedDirectRelations()
	for _, direct := range allowed {
		if isUserset(direct) {
			continue
		}
		for _, userset := range allowed {
			if !isUserset(userset) || userset.GetNamespace() != direct.GetNamespace() {
				continue
			}
			if direct.GetRequiredCaveat() != nil && userset.GetRequiredCaveat() == nil ||
				direct.GetRequiredExpiration() != nil && userset.GetRequiredExpiration() == nil {
				return direct
			}
		}
	}
	return nil
}

// isPermission reports whether a member is computed and holds no relationships.
func isPermission(m *core.Relation) bool {
	return nspkg.GetRelationKind(m) == iv1.RelationMetadata_PERMISSION
}

// admitsDelegation reports whether a plain grant to a delegation can be written to the relation: one
// without caveat and expiration, which is what a scope is made of.
func admitsDelegation(m *core.Relation) bool {
	return slices.ContainsFunc(m.GetTypeInformation().GetAllowedDirectRelations(), func(a *core.AllowedRelation) bool {
		return a.GetNamespace() == authz.TypeDelegation && a.GetRelation() == tuple.Ellipsis &&
			a.GetRequiredCaveat() == nil && a.GetRequiredExpiration() == nil
	})
}

// isUserset reports whether an allowed type is "T#rel", neither "T" nor "T:*".
func isUserset(allowed *core.AllowedRelation) bool {
	return allowed.GetPublicWildcard() == nil && allowed.GetRelation() != "" && allowed.GetRelation() != tuple.Ellipsis
}
