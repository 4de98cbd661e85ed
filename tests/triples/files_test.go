package triples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/caveats/types"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/validationfile"
)

// fewest is how many files there are at least: fewer means that they were moved, and that nothing is asked.
const fewest = 70

// file is one of SpiceDB's test files.
type file struct {
	name, path  string
	parsed      *validationfile.ValidationFile
	definitions []*core.NamespaceDefinition
	caveats     []*core.CaveatDefinition
}

// files reads SpiceDB's test files out of the module cache, the one that SpiceDB skips too.
func files(t *testing.T) []file {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/authzed/spicedb").Output()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)),
		"internal", "services", "integrationtesting", "testconfigs", "*.yaml*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < fewest {
		t.Fatalf("%d files, fewer than %d: SpiceDB keeps them elsewhere now", len(paths), fewest)
	}
	all := make([]file, 0, len(paths))
	for _, path := range paths {
		all = append(all, read(t, path))
	}
	return all
}

func read(t *testing.T, path string) file {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := file{name: filepath.Base(path), path: path}
	if f.parsed, err = validationfile.DecodeValidationFile(text); err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	compiled, err := validationfile.CompileSchema(
		compiler.InputSchema{Source: input.Source(f.name), SchemaString: f.parsed.Schema.Schema}, types.Default.TypeSet)
	if err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	f.definitions, f.caveats = compiled.ObjectDefinitions, compiled.CaveatDefinitions
	return f
}
