package lint

import (
	"context"
	"regexp"
	"strings"

	"github.com/authzed/spicedb/pkg/development"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	developer "github.com/authzed/spicedb/pkg/proto/developer/v1"
	spiceschema "github.com/authzed/spicedb/pkg/schema"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

var (
	// spiceRule is the name of the rule at the end of SpiceDB's message.
	spiceRule = regexp.MustCompile(` \(([a-z-]+)\)$`)
	// underPermission is how SpiceDB's message names the permission that it is about.
	underPermission = regexp.MustCompile(`under permission "([^"]+)"`)
	// onDefinition is how it names the type behind an arrow.
	onDefinition = regexp.MustCompile(`on definition "([^"]+)"`)
)

// checkWithSpiceDB passes on the findings of SpiceDB's own rules.
func (c *checker) checkWithSpiceDB(ctx context.Context) error {
	types := spiceschema.NewTypeSystem(spiceschema.ResolverForPredefinedDefinitions(spiceschema.PredefinedElements{
		Definitions: c.schema.Objects, Caveats: c.schema.Caveats,
	}))
	for _, t := range c.types {
		warnings, err := development.AddDefinitionWarnings(ctx, t.Definition, types)
		if err != nil {
			return err
		}
		for _, w := range warnings {
			rule := spiceRule.FindStringSubmatch(w.GetMessage())
			if rule == nil || spiceHandled(rule[1], w) {
				continue
			}
			// The position has no file: the member that the message is about has one.
			name := w.GetSourceCode()
			if in := underPermission.FindStringSubmatch(w.GetMessage()); in != nil {
				name = in[1]
			}
			c.report(rule[1], schema.Name{Type: t.Name, Member: name}, &core.SourcePosition{
				ZeroIndexedLineNumber: uint64(w.GetLine()) - 1, ZeroIndexedColumnPosition: uint64(w.GetColumn()) - 1,
			}, strings.TrimSuffix(w.GetMessage(), rule[0]), "")
		}
	}
	return nil
}

// spiceHandled reports whether a rule of SpiceDB's has nothing to add: endless says the same, an arrow to
// tenant leads to a relation on purpose, and the core's relations stay as they are.
func spiceHandled(rule string, w *developer.DeveloperWarning) bool {
	if rule == "permission-references-itself" {
		return true
	}
	on := onDefinition.FindStringSubmatch(w.GetMessage())
	return rule == "arrow-references-relation" && (on != nil && authz.IsCore(on[1]) ||
		strings.HasSuffix(w.GetSourceCode(), "->"+authz.TenantMember) || strings.HasSuffix(w.GetSourceCode(), "("+authz.TenantMember+")"))
}
