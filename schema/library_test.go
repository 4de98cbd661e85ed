package schema_test

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"

	"github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/schema"
)

// libraryFolder is the source folder of the library.
func libraryFolder(t *testing.T) fs.FS {
	t.Helper()
	sub, err := fs.Sub(schema.Library, "library")
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// domains returns the names of the library's domains.
func domains(t *testing.T) []string {
	t.Helper()
	files, err := fs.Glob(libraryFolder(t), "*.zed")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if file != "core.zed" {
			names = append(names, strings.TrimSuffix(file, path.Ext(file)))
		}
	}
	if len(names) < 6 {
		t.Fatalf("the library has only %v", names)
	}
	return names
}

// compileDomain returns the definitions of one domain.
func compileDomain(t *testing.T, name string) *compiler.CompiledSchema {
	t.Helper()
	text, err := fs.ReadFile(libraryFolder(t), name+".zed")
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile(
		compiler.InputSchema{Source: input.Source(name + ".zed"), SchemaString: string(text)},
		compiler.AllowUnprefixedObjectType(), compiler.SourceFS(libraryFolder(t)))
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// TestLibraryKeepsCore holds the library's copy of the core to the original.
func TestLibraryKeepsCore(t *testing.T) {
	text, err := fs.ReadFile(schema.Library, "library/core.zed")
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != schema.Core {
		t.Error("library/core.zed differs from core.zed: copy it again")
	}
}

// TestLibraryIsComplete asserts that each domain has a fixture and a page, and that nothing else is there.
func TestLibraryIsComplete(t *testing.T) {
	want := []string{"core.zed"}
	for _, name := range domains(t) {
		want = append(want, name+".zed", name+".yaml", name+".md")
	}
	entries, err := fs.ReadDir(libraryFolder(t), ".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the library has %v, want %v", got, want)
	}
}

// TestLibraryIsSafe asserts of each domain what the design asks of one: the core unchanged, a tenant on
// each type, no shape that SpiceDB evaluates wrongly, and agents and delegations among the subjects.
func TestLibraryIsSafe(t *testing.T) {
	for _, name := range domains(t) {
		t.Run(name, func(t *testing.T) {
			compiled := compileDomain(t, name)
			model, err := guard.Requested(flat(t, compiled))
			if err != nil {
				t.Fatal(err)
			}
			if model.CoreDifference != "" {
				t.Errorf("the core differs: %s", model.CoreDifference)
			}
			delegable := false
			for _, object := range model.Types {
				if isCore(object.Name) {
					continue
				}
				if object.UnsafeShape != "" {
					t.Errorf("%s leads to %s, which SpiceDB evaluates wrongly", object.Name, object.UnsafeShape)
				}
				if !object.TenantSafe() {
					t.Errorf("%s has no tenant", object.Name)
				}
				delegable = delegable || len(object.Delegable) > 0
				for e := range object.FeedsAgents {
					// Services place new objects under what lies in one tenant.
					if of := model.Types[e.SubjectType]; !isCore(e.SubjectType) && !of.TenantSafe() {
						t.Errorf("a service cannot place a %s: %s leads to %s, which has no tenant", object.Name, e.Relation, e.SubjectType)
					}
				}
			}
			if !delegable {
				t.Error("no relation admits a delegation, so nothing can be in a scope")
			}
			for _, definition := range compiled.ObjectDefinitions {
				documented(t, definition.Name, definition.Metadata)
				for _, member := range definition.Relation {
					documented(t, definition.Name+"#"+member.Name, member.Metadata)
				}
			}
			for _, caveat := range compiled.CaveatDefinitions {
				documented(t, caveat.Name, caveat.Metadata)
			}
		})
	}
}
