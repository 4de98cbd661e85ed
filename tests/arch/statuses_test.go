package arch

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// statusMakers are the functions of google.golang.org/grpc/status that make one. FromContextError, which says whose time is over,
// is left.
var statusMakers = []string{"New", "Newf", "Error", "Errorf"}

// statusesAreMadeOnce: a status that Deputy answers with is made in pkg/statuses, with a reason and Deputy's domain. pkg/client and
// pkg/cli are on the other side: they make errors of what they were answered, or not.
func statusesAreMadeOnce(s *source) []string {
	if s.isTest() || strings.HasPrefix(s.path, "pkg/statuses/") || strings.HasPrefix(s.path, "pkg/client/") || strings.HasPrefix(s.path, "pkg/cli/") {
		return nil
	}
	var found []string
	s.selectors("google.golang.org/grpc/status", func(sel *ast.SelectorExpr) {
		if slices.Contains(statusMakers, sel.Sel.Name) {
			found = append(found, s.at(sel.Pos(), "status.%s makes a status without a reason. Make it with statuses.New, or return an *authz.Error "+
				"where pkg/rpc turns it into one.", sel.Sel.Name))
		}
	})
	return found
}

// TestErrorDomainIsNamedOnce: Deputy's domain of errors stands in pkg/authz, and everybody else takes it from there.
func TestErrorDomainIsNamedOnce(t *testing.T) {
	var places []string
	for _, s := range sources(t) {
		if !s.isTest() && strings.Contains(s.text, "\"deputy"+".dev\"") {
			places = append(places, s.path)
		}
	}
	if !slices.Equal(places, []string{"pkg/authz/errors.go"}) {
		t.Errorf("Deputy's domain of errors is written in %v. Use authz.ErrorDomain instead.", places)
	}
}
