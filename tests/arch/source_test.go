package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is one parsed Go file.
type source struct {
	// path is relative to the repository, with slashes.
	path string
	text string
	fset *token.FileSet
	file *ast.File
}

func parse(path, text string) (*source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{path, text, fset, file}, nil
}

// at returns "path:line: message".
func (s *source) at(pos token.Pos, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: ", s.path, s.fset.Position(pos).Line) + fmt.Sprintf(format, args...)
}

func (s *source) isTest() bool {
	return strings.HasSuffix(s.path, "_test.go") || strings.HasPrefix(s.path, "tests/")
}

// localName returns the name by which the file knows an import, or "" if it does not import it.
func (s *source) localName(path string) string {
	for _, spec := range s.file.Imports {
		if unquoted, err := strconv.Unquote(spec.Path.Value); err != nil || unquoted != path {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path[strings.LastIndex(path, "/")+1:]
	}
	return ""
}

// selectors calls visit with every "pkg.Name" that refers to the import.
func (s *source) selectors(path string, visit func(sel *ast.SelectorExpr)) {
	name := s.localName(path)
	if name == "" {
		return
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
				visit(sel)
			}
		}
		return true
	})
}

// rules are what every file outside of pkg/gen is asked.
var rules = []struct {
	name string
	ask  func(*source) []string
}{
	{"main is short", mainIsShort},
	{"files are short", filesAreShort},
	{"packages are named after what they hold", packageNames},
	{"nothing is left to do", nothingLeftToDo},
	{"what is exported is documented", exportedIsDocumented},
	{"tests do not sleep", testsDoNotSleep},
	{"skips are said", skipsAreSaid},
	{"the rule is pure", theRuleIsPure},
	{"goroutines recover", goroutinesRecover},
	{"expressions are read once", expressionsAreReadOnce},
	{"statuses are made in one place", statusesAreMadeOnce},
	{"connections are tried again soon", connectionsAreTriedAgain},
}

// sources parses every file outside of pkg/gen.
func sources(t *testing.T) (all []*source) {
	t.Helper()
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages(t) {
		if roomOf(p.room()) == "pkg/gen" {
			continue
		}
		for _, path := range p.files() {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			relative, err := filepath.Rel(here, path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parse(filepath.ToSlash(relative), string(text))
			if err != nil {
				t.Error(err)
				continue
			}
			all = append(all, s)
		}
	}
	return all
}

func TestSource(t *testing.T) {
	all := sources(t)
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			for _, s := range all {
				for _, complaint := range rule.ask(s) {
					t.Error(complaint)
				}
			}
		})
	}
}

const (
	maxMainLines = 40
	maxLines     = 800
)

func mainIsShort(s *source) []string {
	if lines := strings.Count(s.text, "\n"); s.file.Name.Name == "main" && strings.HasSuffix(s.path, "/main.go") && lines >= maxMainLines {
		return []string{fmt.Sprintf("%s has %d lines, and main.go stays under %d. It calls pkg/cli; what is new belongs there, where it "+
			"can be tested.", s.path, lines, maxMainLines)}
	}
	return nil
}

func filesAreShort(s *source) []string {
	if lines := strings.Count(s.text, "\n"); lines > maxLines {
		return []string{fmt.Sprintf("%s has %d lines, more than %d. Give the part that has a name of its own a file of that name.",
			s.path, lines, maxLines)}
	}
	return nil
}

// vagueName matches names that say nothing about what a package holds.
var vagueName = regexp.MustCompile(`^(utils?|commons?|managers?|impl|helpers?|misc|shared|base)(_test)?$`)

func packageNames(s *source) []string {
	if vagueName.MatchString(s.file.Name.Name) {
		return []string{s.at(s.file.Name.Pos(), "a package named %s takes in everything. Name it after what it holds, and put the "+
			"rest with whom it serves.", s.file.Name.Name)}
	}
	return nil
}

// leftToDo matches the usual marks of unfinished work. It is written so that it does not match itself.
var leftToDo = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func nothingLeftToDo(s *source) []string {
	var found []string
	for _, group := range s.file.Comments {
		for _, comment := range group.List {
			if mark := leftToDo.FindString(comment.Text); mark != "" {
				found = append(found, s.at(comment.Pos(), "a %s in a comment. Do it now, or say in plain words what holds today and "+
					"file what is left where work is planned.", mark))
			}
		}
	}
	return found
}

func exportedIsDocumented(s *source) []string {
	if strings.HasSuffix(s.path, "_test.go") {
		return nil
	}
	var found []string
	complain := func(name *ast.Ident) {
		found = append(found, s.at(name.Pos(), "%s is exported and has no comment. Say what it holds or does: units, errors, whether it "+
			"is safe for concurrent use, what its zero value means. Or do not export it.", name.Name))
	}
	for _, decl := range s.file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Name.IsExported() && decl.Doc == nil && exportedReceiver(decl) {
				complain(decl.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				for _, name := range undocumented(decl, spec) {
					complain(name)
				}
			}
		}
	}
	return found
}

// exportedReceiver reports whether a method's type is exported; a function has none to hide it.
func exportedReceiver(decl *ast.FuncDecl) bool {
	if decl.Recv == nil {
		return true
	}
	switch receiver := ast.Unparen(decl.Recv.List[0].Type).(type) {
	case *ast.StarExpr:
		return exportedType(receiver.X)
	default:
		return exportedType(receiver)
	}
}

// exportedType reports whether a receiver's type, without the star, is exported.
func exportedType(expr ast.Expr) bool {
	switch expr := expr.(type) {
	case *ast.IndexExpr: // Generic, with one parameter.
		return exportedType(expr.X)
	case *ast.IndexListExpr:
		return exportedType(expr.X)
	case *ast.Ident:
		return expr.IsExported()
	default:
		return true
	}
}

// undocumented returns the exported names of a declaration that neither it nor its group explains.
func undocumented(group *ast.GenDecl, spec ast.Spec) []*ast.Ident {
	var names []*ast.Ident
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Doc == nil && spec.Comment == nil && (group.Doc == nil || len(group.Specs) > 1) {
			names = append(names, spec.Name)
		}
	case *ast.ValueSpec:
		if spec.Doc == nil && spec.Comment == nil && group.Doc == nil {
			names = append(names, spec.Names...)
		}
	}
	return slices.DeleteFunc(names, func(name *ast.Ident) bool { return !name.IsExported() })
}

// connectionsAreTriedAgain finds files that make gRPC connections, and do not import what says how soon one is tried again.
func connectionsAreTriedAgain(s *source) []string {
	if s.isTest() || s.localName("github.com/deputyauth/deputy/pkg/reconnect") != "" {
		return nil
	}
	var found []string
	s.selectors("google.golang.org/grpc", func(sel *ast.SelectorExpr) {
		if slices.Contains([]string{"NewClient", "Dial", "DialContext"}, sel.Sel.Name) {
			found = append(found, s.at(sel.Pos(), "gRPC by itself tries a server that was away again only after up to two minutes: pass reconnect.Option()."))
		}
	})
	return found
}

func testsDoNotSleep(s *source) []string {
	if !s.isTest() {
		return nil
	}
	var found []string
	s.selectors("time", func(sel *ast.SelectorExpr) {
		if sel.Sel.Name == "Sleep" {
			found = append(found, s.at(sel.Pos(), "a test sleeps. Wait for what it waits for: a channel, an answer, a line of a log; or "+
				"hand the code under test a clock."))
		}
	})
	return found
}

// skipsAreSaid finds calls of Skip, Skipf and SkipNow on a *testing.T, B, F or TB. rapid's Skip, which
// throws a drawn value away, is not one of them, and neither is one within "if testing.Short()": who says -short asks for it.
func skipsAreSaid(s *source) []string {
	testing := s.localName("testing")
	if testing == "" || strings.HasPrefix(s.path, "tests/pgtest/") {
		return nil
	}
	var found []string
	var walk func(n ast.Node, known map[string]bool)
	walk = func(n ast.Node, known map[string]bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Body != nil {
					walk(n.Body, withParameters(known, n.Type, testing))
				}
				return false
			case *ast.FuncLit:
				walk(n.Body, withParameters(known, n.Type, testing))
				return false
			case *ast.IfStmt:
				return !isCall(n.Cond, testing, "Short")
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && known[x.Name] && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, n.Sel.Name) {
					found = append(found, s.at(n.Pos(), "go test says nothing of a skipped test in a package that passes. Write "+
						"pgtest.Skip(%s, reason): the run repeats it at its end.", x.Name))
				}
			}
			return true
		})
	}
	walk(s.file, nil)
	return found
}

// isCall reports whether an expression is a call of a package's function, without arguments.
func isCall(e ast.Expr, of, name string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == of
}

// withParameters returns which names are of package testing's types within a function.
func withParameters(outer map[string]bool, f *ast.FuncType, testing string) map[string]bool {
	known := map[string]bool{}
	for name := range outer {
		known[name] = outer[name]
	}
	for _, field := range f.Params.List {
		is := false
		ast.Inspect(field.Type, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				x, ok := sel.X.(*ast.Ident)
				is = ok && x.Name == testing && slices.Contains([]string{"T", "B", "F", "TB"}, sel.Sel.Name)
			}
			return true
		})
		for _, name := range field.Names {
			known[name.Name] = is
		}
	}
	return known
}

// impure is what the rooms of the rule do without: everything that could give two answers to one
// question.
var impure = []string{"context", "os", "io", "net", "net/http", "log", "log/slog", "sync", "math/rand", "math/rand/v2", "crypto/rand", "database/sql"}

func theRuleIsPure(s *source) []string {
	if s.isTest() || !strings.HasPrefix(s.path, "pkg/decide/") && !strings.HasPrefix(s.path, "pkg/facts/") {
		return nil
	}
	var found []string
	for _, spec := range s.file.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil && slices.Contains(impure, path) {
			found = append(found, s.at(spec.Pos(), "the rule imports %s. It takes values and returns values: read and ask in pkg/judge, "+
				"and pass in what came of it.", path))
		}
	}
	s.selectors("time", func(sel *ast.SelectorExpr) {
		if slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}, sel.Sel.Name) {
			found = append(found, s.at(sel.Pos(), "the rule looks at a clock (time.%s). One now serves a whole decision: take it as a "+
				"value.", sel.Sel.Name))
		}
	})
	return found
}
