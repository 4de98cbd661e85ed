package arch

import (
	"go/ast"
	"slices"
	"strings"
)

// coreProto is where SpiceDB's definitions are declared.
const coreProto = "github.com/authzed/spicedb/pkg/proto/core/v1"

// expressionTypes begin the names of the types that permissions and kinds of subjects are made of.
var expressionTypes = []string{"UsersetRewrite", "SetOperation", "AllowedRelation_", "ComputedUserset", "TupleToUserset", "FunctionedTupleToUserset"}

// expressionGetters are the methods that lead from a definition into an expression.
var expressionGetters = []string{"GetUsersetRewrite", "GetRewriteOperation", "GetChildType", "GetRelationOrWildcard"}

// expressionsAreReadOnce finds code that reads the expressions of SpiceDB's definitions past pkg/schema. Tests may: they make
// what nobody knows, and the reference that evaluators are compared with would prove nothing if it shared their model.
func expressionsAreReadOnce(s *source) []string {
	if s.isTest() || strings.HasPrefix(s.path, "pkg/schema/") && strings.Count(s.path, "/") == 2 {
		return nil
	}
	return readsExpressions(s)
}

func readsExpressions(s *source) (found []string) {
	const instead = "Take a schema.Member with its Expression, Leaves and Allowed from pkg/schema, which refuses what it does not know; a " +
		"second reader would take that for nobody."
	s.selectors(coreProto, func(sel *ast.SelectorExpr) {
		if slices.ContainsFunc(expressionTypes, func(prefix string) bool { return strings.HasPrefix(sel.Sel.Name, prefix) }) {
			found = append(found, s.at(sel.Pos(), "%s is a part of an expression. %s", sel.Sel.Name, instead))
		}
	})
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains(expressionGetters, sel.Sel.Name) {
			found = append(found, s.at(sel.Pos(), "%s leads into an expression. %s", sel.Sel.Name, instead))
		}
		return true
	})
	return found
}
