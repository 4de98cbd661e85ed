package guard

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	caveattypes "github.com/authzed/spicedb/pkg/caveats/types"
	diffcaveat "github.com/authzed/spicedb/pkg/diff/caveats"
	diffnamespace "github.com/authzed/spicedb/pkg/diff/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	spiceschema "github.com/authzed/spicedb/pkg/schema"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	coreschema "github.com/deputyauth/deputy/schema"
)

// NoSchema is the difference from the core of a graph that no schema has been written to.
const NoSchema = "no schema has been written yet (deputy schema write FILE writes one)"

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

// inWords are the words of SpiceDB's deltas, for somebody who never had what is not there.
var inWords = strings.NewReplacer("namespace-removed", "missing", "caveat-removed", "missing", "removed", "missing", "-", " ")

// describe puts a delta into words: "definition tenant: relation allowed type added, member, user:*".
func describe(definition, delta string, parts ...string) string {
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	return strings.Join(append([]string{definition + ": " + inWords.Replace(delta)}, parts...), ", ")
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
		decoded, err := schema.CompileCaveat(c)
		if err != nil {
			return false, err
		}
		if texts[i], err = decoded.ExprString(); err != nil {
			return false, err
		}
	}
	return texts[0] == texts[1], nil
}
