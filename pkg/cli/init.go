package cli

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/schema"
)

// newInit builds `deputy init`, which needs no server.
func newInit(p *program) *cobra.Command {
	var domain, output string
	var list bool
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Start a project: a schema, its fixtures, and a workflow that runs them",
		Long: `Write a project to start from into DIR, which is made where it does not exist: a domain of the library as
its schema, with fixtures, a GitHub workflow, a pre-commit configuration, and a README that says what to
run next. Nothing that exists is overwritten.`,
		Example: `  deputy init access --domain tickets`,
		GroupID: groupGraph,
		Args: func(cmd *cobra.Command, args []string) error {
			if !list {
				return cobra.ExactArgs(1)(cmd, args)
			}
			if len(args) > 0 {
				return fmt.Errorf("--list takes no DIR, and %q is one", args[0])
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if list {
				return listDomains(p.Out, output)
			}
			return initProject(p.Out, output, args[0], domain)
		},
	}
	cmd.Flags().StringVar(&domain, "domain", "documents", "domain of the library to start from")
	cmd.Flags().BoolVar(&list, "list", false, "list the domains, and write nothing")
	outputVar(cmd.Flags(), &output, "json")
	_ = cmd.RegisterFlagCompletionFunc("domain", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names, _ := libraryDomains()
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// projectTemplates are the files of a project that do not come from the library.
//
//go:embed project/*.tmpl
var projectTemplates embed.FS

// domainJSON is a domain for programs.
type domainJSON struct {
	Domain string `json:"domain"`
	Title  string `json:"title"`
}

// listDomains prints each domain with the title of its page.
func listDomains(out io.Writer, output string) error {
	names, err := libraryDomains()
	if err != nil {
		return err
	}
	list := make([]domainJSON, len(names))
	for i, name := range names {
		if list[i].Title, err = domainTitle(name); err != nil {
			return err
		}
		list[i].Domain = name
	}
	if output == formatJSON {
		return say(out, output, list, "")
	}
	return writeTable(out, func(w io.Writer) {
		row(w, "DOMAIN", "WHAT IT MODELS")
		for _, d := range list {
			row(w, d.Domain, d.Title)
		}
	})
}

// libraryDomains returns the names of the library's domains, sorted: those that have a fixture.
func libraryDomains() ([]string, error) {
	fixtures, err := fs.Glob(schema.Library, "library/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("the library: %w", err)
	}
	for i, fixture := range fixtures {
		fixtures[i] = strings.TrimSuffix(path.Base(fixture), ".yaml")
	}
	return fixtures, nil
}

// domainTitle returns the heading of a domain's page.
func domainTitle(domain string) (string, error) {
	page, err := libraryFile(domain + ".md")
	if err != nil {
		return "", err
	}
	heading, _, _ := strings.Cut(page, "\n")
	return strings.TrimPrefix(heading, "# "), nil
}

func libraryFile(name string) (string, error) {
	text, err := fs.ReadFile(schema.Library, "library/"+name)
	if err != nil {
		return "", fmt.Errorf("the library: %w", err)
	}
	return string(text), nil
}

// initProject writes a project and says what is in it. Either all of it is written, or none.
func initProject(out io.Writer, output, dir, domain string) error {
	names, err := libraryDomains()
	if err != nil {
		return err
	}
	if !slices.Contains(names, domain) {
		return fmt.Errorf("--domain: there is no domain %q; there are %s%s", domain, strings.Join(names, ", "), didYouMean(domain, names))
	}
	files, err := projectFiles(domain)
	if err != nil {
		return err
	}
	if err := writeNew(dir, files); err != nil {
		return err
	}
	written := make([]string, len(files))
	for i, f := range files {
		written[i] = filepath.Join(dir, filepath.FromSlash(f.path))
	}
	return say(out, output, map[string][]string{"files": written}, strings.Join(written, "\n"))
}

// projectFile is a file of a new project; path is within it, with slashes.
type projectFile struct{ path, text string }

// projectFiles returns the files of a project for a domain. The domain's own become app.*, so that a
// project has the same names whatever it started from.
func projectFiles(domain string) ([]projectFile, error) {
	title, err := domainTitle(domain)
	if err != nil {
		return nil, err
	}
	files := []projectFile{{path: "schema/core.zed", text: schema.Core}}
	for _, ending := range []string{".zed", ".yaml", ".md"} {
		text, err := libraryFile(domain + ending)
		if err != nil {
			return nil, err
		}
		text = strings.ReplaceAll(text, "schema/library/", "schema/")
		text = regexp.MustCompile(`\b`+regexp.QuoteMeta(domain)+`\.(zed|yaml|md)\b`).ReplaceAllString(text, "app.$1")
		files = append(files, projectFile{path: "schema/app" + ending, text: text})
	}
	templates, err := template.ParseFS(projectTemplates, "project/*.tmpl")
	if err != nil {
		return nil, fmt.Errorf("the project: %w", err)
	}
	values := struct{ Title, Version, Revision string }{title, "latest", "main"}
	if release := releaseVersion(); release != "" {
		values.Version, values.Revision = release, release
	}
	for _, f := range []struct{ path, template string }{
		{".github/workflows/deputy.yml", "workflow.yml.tmpl"},
		{".pre-commit-config.yaml", "pre-commit-config.yaml.tmpl"},
		{"README.md", "README.md.tmpl"},
	} {
		var text strings.Builder
		if err := templates.ExecuteTemplate(&text, f.template, values); err != nil {
			return nil, fmt.Errorf("the project: %w", err)
		}
		files = append(files, projectFile{path: f.path, text: text.String()})
	}
	return files, nil
}

// releaseVersion returns the version of this program if it is a release, else "".
func releaseVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(info.Main.Version) {
		return ""
	}
	return info.Main.Version
}

// writeNew writes files into a folder. If one of them exists, nothing is written; if one cannot be
// written, those before it are removed again.
func writeNew(dir string, files []projectFile) (err error) {
	for _, f := range files {
		at := filepath.Join(dir, filepath.FromSlash(f.path))
		switch _, err := os.Lstat(at); {
		case err == nil:
			return fmt.Errorf("%s exists, and nothing was written", at)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	var written []string
	defer func() {
		if err != nil {
			for _, at := range written {
				err = errors.Join(err, os.Remove(at))
			}
		}
	}()
	for _, f := range files {
		at := filepath.Join(dir, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(at), 0o777); err != nil { //nolint:gosec // as a person makes folders: the umask decides
			return err
		}
		// O_EXCL: what came between looking and writing is not overwritten either.
		file, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666) //nolint:gosec // likewise
		if err != nil {
			return err
		}
		written = append(written, at)
		_, err = file.WriteString(f.text)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}
