package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// module is the path that every room's import path starts with.
const module = "github.com/deputyauth/deputy/"

// root is the repository, seen from here.
const root = "../.."

// goPackage is what `go list` says about one package.
type goPackage struct {
	ImportPath string
	Dir        string
	Name       string
	Imports    []string
	// Files that the build takes, files that build tags leave out here, and test files.
	GoFiles, IgnoredGoFiles, TestGoFiles, XTestGoFiles []string
}

// room is the import path without the module: "pkg/authz".
func (p goPackage) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// files returns the paths of all Go files, tests included.
func (p goPackage) files() []string {
	var paths []string
	for _, names := range [][]string{p.GoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles} {
		for _, name := range names {
			paths = append(paths, filepath.Join(p.Dir, name))
		}
	}
	return paths
}

// packages lists the packages of the module.
func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e",
		"-json=ImportPath,Dir,Name,Imports,GoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list names only %d packages: is this still the repository's root?", len(all))
	}
	return all
}
