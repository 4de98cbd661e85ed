package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/fixture/report"
)

// newTest builds `deputy test`, which needs no server.
func newTest(p *program) *cobra.Command {
	var strict bool
	var root string
	cmd := &cobra.Command{
		Use:   "test [PATH…]",
		Short: "Run fixtures: assertions, decisions, isolation, coverage and mutants of a schema",
		Long: `Run fixtures in this process, without a server. PATH is a file, a folder with fixtures in it, or a folder
followed by "/..." for all below it; without one it is "./...".`,
		Example: `  deputy test schema/...`,
		GroupID: groupGraph,
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "make errors of what SpiceDB would overlook, also in its own files")
	cmd.Flags().StringVar(&root, "root", "", "folder that nothing outside of is read for; the current one if left out")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		files, err := locate(root, args)
		if err != nil {
			return err
		}
		r, err := fixture.Run(cmd.Context(), files, fixture.Options{Strict: strict}, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		if err := report.Text(p.Out, r); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		if !r.OK() {
			return errDenied
		}
		return nil
	}
	return cmd
}

// locate finds the fixtures that the arguments of a command name. A file that is outside of the root, but was
// named, has its own folder as its project.
func locate(root string, args []string) ([]fixture.Located, error) {
	if root == "" {
		root = "."
	}
	if len(args) == 0 {
		args = []string{"./..."}
	}
	var found []fixture.Located
	for _, arg := range args {
		files, err := locateOne(root, arg)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			same := func(g fixture.Located) bool { return g.Prefix == f.Prefix && g.Name == f.Name }
			if !slices.ContainsFunc(found, same) {
				found = append(found, f)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no fixtures in %s", strings.Join(args, ", "))
	}
	return found, nil
}

func locateOne(root, arg string) ([]fixture.Located, error) {
	name, deep := strings.CutSuffix(filepath.ToSlash(arg), "/...")
	if arg == "..." {
		name, deep = ".", true
	}
	info, err := os.Stat(filepath.FromSlash(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, bare(err))
	}
	if deep && !info.IsDir() {
		return nil, fmt.Errorf("%s: it is no folder", arg)
	}
	folder := name
	if !info.IsDir() {
		folder = path.Dir(name)
	}
	prefix, within, err := project(root, folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, err)
	}
	opened, err := os.OpenRoot(filepath.FromSlash(orHere(prefix)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, bare(err))
	}
	located := func(name string) fixture.Located {
		return fixture.Located{Project: opened.FS(), Name: name, Prefix: prefix}
	}
	if !info.IsDir() {
		return []fixture.Located{located(path.Join(within, path.Base(name)))}, nil
	}
	var found []fixture.Located
	err = fs.WalkDir(opened.FS(), within, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && at != within && (!deep || strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.IsDir() || (path.Ext(at) != ".yaml" && path.Ext(at) != ".yml"):
			return nil
		}
		contents, err := fs.ReadFile(opened.FS(), at)
		if err != nil {
			return err
		}
		if fixture.IsFixture(contents) {
			found = append(found, located(at))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, bare(err))
	}
	return found, nil
}

// project returns the folder that a folder's files may be read with, as the user would name it, and the latter
// within it: the root, or itself if it is outside.
func project(root, folder string) (prefix, within string, err error) {
	absoluteRoot, err := filepath.Abs(root)
	if err != nil {
		return "", "", err
	}
	absolute, err := filepath.Abs(filepath.FromSlash(folder))
	if err != nil {
		return "", "", err
	}
	relative, err := filepath.Rel(absoluteRoot, absolute)
	if err == nil && filepath.IsLocal(relative) {
		if root == "." {
			return "", filepath.ToSlash(relative), nil
		}
		return filepath.ToSlash(filepath.Clean(root)), filepath.ToSlash(relative), nil
	}
	return folder, ".", nil
}

// orHere is the current folder if there is no other.
func orHere(folder string) string {
	if folder == "" {
		return "."
	}
	return folder
}

// bare is an error without the path that it is about, for who names it already.
func bare(err error) error {
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		return of.Err
	}
	return err
}
