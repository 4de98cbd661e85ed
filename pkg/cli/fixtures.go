package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/fixture/endpoint"
	"github.com/deputyauth/deputy/pkg/fixture/report"
	"github.com/deputyauth/deputy/pkg/fixture/run"
)

// fixturesCommand is what `deputy test` was asked to do.
type fixturesCommand struct {
	program *program
	paths   []string

	output, out, html, root, cases string
	coverage, mutation, isolation  when
	minCoverage, minMutation       share
	strict, watch, verbose, all    bool
	overwrite                      bool
	server                         *connection
	options                        run.Options
	formatted                      report.Format
}

// newTest builds `deputy test`, which needs no server.
func newTest(p *program) *cobra.Command {
	t := &fixturesCommand{program: p, server: &connection{program: p}}
	cmd := &cobra.Command{
		Use:   "test [PATH…]",
		Short: "Run fixtures: assertions, decisions, isolation, coverage and mutants of a schema",
		Long: `Run fixtures in this process, without a server. PATH is a file, a folder with fixtures in it, or a
folder followed by "/..." for all below it; without one it is "./...".

A fixture is a validation file of SpiceDB's, to which delegations, sessions and decisions on behalf of
somebody can be added. For files that have such sections more is done, unless it is turned off: coverage
says which parts of the schema no case exercises, and mutation changes the schema in many small ways,
each of which a case has to notice. For other files that is done if a flag asks for it, as a minimum and
--coverage-html do. Wherever a schema has agents, the isolation suite makes decisions for everybody in the
file and looks for leaks.

With --endpoint one file is run against a server too, over gRPC as an admin: its schema and relationships are written
there, its steps are done there in their order, and what counts are the server's answers. A server that holds a schema
is refused, unless --overwrite is given. What else it holds stays there; a case whose answer differs
from the one in memory fails.

The exit code is 0 if all is well; 1 if a case fails, something leaks or a minimum is missed; and 2 if a
file could not be run, or a flag is wrong. Files that can be run are run and reported all the same.`,
		Example: `  deputy test schema/...
  deputy test --min-coverage 1 --min-mutation-score 0.95 schema/...
  deputy test --output junit --out report.xml schema/...
  deputy test --watch schema/documents
  deputy test --endpoint 127.0.0.1:50051 schema/supportdesk/decisions.yaml`,
		GroupID: groupGraph,
		RunE: func(cmd *cobra.Command, args []string) error {
			t.paths = args
			if err := t.prepare(cmd.Flags()); err != nil {
				return err
			}
			if t.watch {
				return t.watching(cmd.Context())
			}
			return t.once(cmd.Context())
		},
	}
	f := cmd.Flags()
	t.server.credentials(f)
	allowEnv(f)
	// No environment variable turns a test into one that writes to a server.
	f.StringVar(&t.server.endpoint, "endpoint", "", "host and port of a server to run one file against, as an admin")
	f.BoolVar(&t.overwrite, "overwrite", false, "write to the server at --endpoint although it holds a schema")
	outputVar(f, &t.output, "json", "junit", "github")
	f.StringVar(&t.out, "out", "", "file for the report, instead of standard output, which then gets it as text")
	f.BoolVarP(&t.verbose, "verbose", "v", false, "list the cases that pass, too")
	f.BoolVar(&t.all, "all", false, "list all that is not covered and all mutants that survive, not only the first")
	f.StringVar(&t.cases, "run", "", "run only cases whose \"group: name\" matches this `regexp`; nothing is measured unless asked for")
	f.BoolVar(&t.strict, "strict", false, "make errors of what SpiceDB would overlook, also in its own files")
	f.BoolVar(&t.watch, "watch", false, "run again whenever a file changes; without mutants unless --mutation is given")
	f.StringVar(&t.root, "root", "", "folder that nothing outside of is read for (default: the current one, or that of a file elsewhere)")
	const auto = ": on, off, or auto: for files with sections of Deputy's, and their schemas"
	f.Var(&t.coverage, "coverage", "measure coverage"+auto)
	f.StringVar(&t.html, "coverage-html", "", "file for the coverage line by line, as a page")
	f.Var(&t.minCoverage, "min-coverage", "least coverage that is good enough, from 0 to 1")
	f.Var(&t.mutation, "mutation", "judge mutants of the schema"+auto)
	f.Var(&t.minMutation, "min-mutation-score", "least share of mutants that a case has to notice, from 0 to 1")
	f.Var(&t.isolation, "isolation", "run the isolation suite: on, off, or auto: where the schema has agents, and users or services")
	return cmd
}

// prepare reads the flags.
func (t *fixturesCommand) prepare(flags *pflag.FlagSet) (err error) {
	if t.formatted, err = report.ParseFormat(t.output); err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if t.watch && t.formatted != report.Text && (t.out == "" || t.out == "-") {
		return fmt.Errorf("--watch writes text to standard output: name a file for --output %s with --out", t.output)
	}
	t.options.Strict = t.strict
	if t.cases != "" {
		pattern, err := regexp.Compile(t.cases)
		if err != nil {
			return fmt.Errorf("--run: %w", err)
		}
		t.options.Selected = func(c *fixture.Case) bool { return pattern.MatchString(string(c.Group) + ": " + c.Name) }
	}
	t.server.insecureUnsaid = !flags.Changed("insecure")
	switch {
	case t.overwrite && t.server.endpoint == "":
		return errors.New("--overwrite needs --endpoint")
	case t.watch && t.server.endpoint != "":
		return errors.New("--watch and --endpoint exclude each other: the server would hold what the run before has written")
	}
	// What a part of the cases comes to says little about the schema, and a watcher waits for every run.
	t.options.Isolation = t.isolation.or(t.cases != "", false)
	t.options.Coverage = t.coverage.or(t.cases != "", flags.Changed("min-coverage") || t.html != "")
	t.options.Mutation = t.mutation.or(t.cases != "" || t.watch, flags.Changed("min-mutation-score"))
	t.options.MinCoverage, t.options.MinMutation = float64(t.minCoverage), float64(t.minMutation)
	switch {
	case t.options.Coverage == run.Never && flags.Changed("min-coverage"):
		return errors.New("--min-coverage needs coverage, which --coverage=off turns off")
	case t.options.Coverage == run.Never && t.html != "":
		return errors.New("--coverage-html needs coverage, which --coverage=off turns off")
	case t.options.Mutation == run.Never && flags.Changed("min-mutation-score"):
		return errors.New("--min-mutation-score needs mutants, which --mutation=off turns off")
	}
	return nil
}

// once runs all, and reports it.
func (t *fixturesCommand) once(ctx context.Context) (err error) {
	found, err := find(t.root, t.paths)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	return t.test(ctx, found, func() {})
}

// test runs the fixtures that were found, and reports it. It calls before once all is read that has to be, and
// nothing is printed yet.
func (t *fixturesCommand) test(ctx context.Context, found *search, before func()) (err error) {
	bars := &bars{w: t.program.Err}
	t.options.Progress = bars.show
	r, err := run.Run(ctx, found.files, t.options)
	bars.clear()
	if err != nil {
		return err
	}
	defer r.Close()
	if t.server.endpoint != "" {
		if err := t.against(ctx, r); err != nil {
			return err
		}
	}
	before()
	if err := t.write(r); err != nil {
		return err
	}
	switch {
	case r.Broken() > 0:
		return fmt.Errorf("%d of %d could not be run; the report says why", r.Broken(), len(r.Files))
	case r.Cases() == 0 && t.cases != "":
		return fmt.Errorf("--run %s selects no case", t.cases)
	case !r.OK():
		return errDenied
	}
	return nil
}

// against runs the file of a report against the server, whose answers take the place of those in memory.
func (t *fixturesCommand) against(ctx context.Context, r *run.Report) error {
	if len(r.Files) != 1 {
		return fmt.Errorf("--endpoint takes one file, because each writes a schema of its own; there are %d", len(r.Files))
	}
	f := &r.Files[0]
	if f.Err != nil {
		return nil // the report says it, and nothing was written
	}
	s, err := t.server.dial() //nolint:contextcheck // Dial takes no context
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	on := endpoint.NewServer(s.conn, s.conn)
	switch err := on.Load(ctx, f.Suite, t.overwrite); {
	case errors.Is(err, endpoint.ErrHolds):
		return fmt.Errorf("--endpoint: the server at %s holds a schema already: take an empty one, or --overwrite it", t.server.endpoint)
	case err != nil:
		return err
	}
	f.Server = t.server.endpoint
	f.Results, err = on.Run(ctx, f.Suite, f.Results)
	return err
}

// readable is the mode of files that every user who looks at a CI's results may read.
const readable = 0o644

// write writes what was asked for.
func (t *fixturesCommand) write(r *run.Report) error {
	text := report.Options{Verbose: t.verbose, Color: t.colorful(), All: t.all}
	if t.html != "" {
		if err := writeWhole("--coverage-html", t.html, readable, func(w io.Writer) error { return report.WriteHTML(w, r) }); err != nil {
			return err
		}
	}
	if t.out == "" || t.out == "-" {
		return report.Write(t.program.Out, t.formatted, r, text)
	}
	plain := report.Options{Verbose: t.verbose, All: t.all}
	if err := writeWhole("--out", t.out, readable, func(w io.Writer) error { return report.Write(w, t.formatted, r, plain) }); err != nil {
		return err
	}
	return report.Write(t.program.Out, report.Text, r, text)
}

// colorful reports whether there may be colours on standard output.
func (t *fixturesCommand) colorful() bool {
	no, _ := t.program.env("NO_COLOR")
	return no == "" && isTerminal(t.program.Out)
}

// watching runs all whenever something changes, until ctx ends.
func (t *fixturesCommand) watching(ctx context.Context) error {
	changes, err := newWatch()
	if err != nil {
		return err
	}
	defer func() { _ = changes.Close() }()
	var last *search
	for {
		found, err := find(t.root, t.paths)
		if err == nil {
			last = found
			changes.add(found.around())
			err = t.test(ctx, found, func() { changes.add(found.around()) })
			err = errors.Join(err, found.Close())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case last == nil:
			return err // there is nothing to watch
		case err != nil && !errors.Is(err, errDenied):
			fmt.Fprintln(t.program.Err, "deputy: "+describe(nil, err).line)
		}
		fmt.Fprintln(t.program.Out, "waiting for changes")
		err = changes.next(ctx, func(name string) bool { return last.concerns(name) && !t.writes(name) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(t.program.Out)
	}
}

// writes reports whether a file is one that the command itself writes.
func (t *fixturesCommand) writes(name string) bool {
	return name == path.Clean(filepath.ToSlash(t.out)) || name == path.Clean(filepath.ToSlash(t.html))
}
