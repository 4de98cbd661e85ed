package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping/cases"
	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// newMCPTest builds `deputy mcp test`.
func newMCPTest(p *program) *cobra.Command {
	t := &mappingTest{program: p}
	cmd := &cobra.Command{
		Use:   "test FILE CASES",
		Short: "Run cases of a file of mappings: the questions of calls, refusals, filtered answers",
		Long: `Run cases of a file of mappings, without an MCP server and without a Deputy server. Each case is a call: it says which questions the guard asks
for the call, or with which message it refuses it, and which part of an answer it lets through. If the cases name a fixture, the questions are decided
too, for an agent that acts for a person.

The command ends with a list of the parts of the mapping that no case uses: tools, checks, ignored arguments and results.

The exit code is 0 if all is well, 1 if a case fails or the minimum of --min-coverage is missed, and 2 if a file could not be read.`,
		Example: `  deputy mcp test guard.yaml cases.yaml
  deputy mcp test --min-coverage 1 guard.yaml cases.yaml`,
		Args: cobra.ExactArgs(2),
	}
	outputVar(cmd.Flags(), &t.output, formatJSON)
	cmd.Flags().BoolVarP(&t.verbose, "verbose", "v", false, "list the cases that pass, too")
	cmd.Flags().Var(&t.minimum, "min-coverage", "least coverage that is good enough, from 0 to 1")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.run(cmd.Context(), args[0], args[1]) }
	return cmd
}

// mappingTest is what `deputy mcp test` is told.
type mappingTest struct {
	program *program
	output  string
	verbose bool
	minimum share
}

func (t *mappingTest) run(ctx context.Context, file, of string) error {
	mapped, err := mapping.OpenSource(file)
	if err != nil {
		return err
	}
	text, err := mapping.ReadFile(of, cases.MaxBytes)
	if err != nil {
		return err
	}
	f, err := cases.Read(of, text)
	if err != nil {
		return err
	}
	var decide cases.Decide
	if f.Fixture != "" {
		suite, err := t.fixture(ctx, of, f.Fixture)
		if err != nil {
			return err
		}
		defer suite.Close()
		decide = func(ctx context.Context, d cases.Decision, a mapping.Ask) (bool, string, error) {
			return decideIn(ctx, suite, d, a)
		}
	}
	report, err := cases.Run(ctx, mapped, f, decide)
	if err != nil {
		return err
	}
	if t.output == formatJSON {
		err = say(t.program.Out, t.output, reportJSON(report), "")
	} else {
		err = t.print(file, of, report)
	}
	if err != nil {
		return err
	}
	if used, all := report.Used(""); report.Failed() > 0 || float64(used) < float64(t.minimum)*float64(all) {
		return errDenied
	}
	return nil
}

// fixture reads the fixture that a file of cases names, beside it.
func (t *mappingTest) fixture(ctx context.Context, of, name string) (suite *fixture.Suite, err error) {
	found, err := find("", []string{filepath.Join(filepath.Dir(of), name)})
	if err != nil {
		return nil, fmt.Errorf("%s: fixture: %w", of, err)
	}
	defer func() { _ = found.Close() }()
	located := found.files[0]
	if suite, err = fixture.Read(ctx, located.Project, located.Name, fixture.Options{}); err != nil {
		return nil, fmt.Errorf("%s: fixture: %w", of, err)
	}
	return suite, nil
}

// decideIn decides one question in the graph of a fixture.
func decideIn(ctx context.Context, suite *fixture.Suite, d cases.Decision, a mapping.Ask) (allowed bool, answer string, err error) {
	verdict, err := suite.Decide(ctx, &fixture.Decision{
		Agent: d.Agent, Session: d.Session, Delegation: d.Delegation, OnBehalfOf: d.OnBehalfOf, Tenant: d.Tenant,
		Resource: a.Type + ":" + a.ID, Permission: a.Permission, Gate: "any",
	})
	if err != nil {
		return false, "", err
	}
	allowed = verdict.Decision != nil && verdict.Decision.Permissionship == authz.HasPermission
	return allowed, everyday(verdict.Answer), nil
}

// print prints what the cases came to.
func (t *mappingTest) print(file, of string, r *cases.Report) error {
	return writeTable(t.program.Out, func(w io.Writer) {
		for _, one := range r.Results {
			at := source.Position{File: of, Line: one.Line, Column: one.Column}
			switch {
			case len(one.Problems) > 0:
				row(w, fmt.Sprintf("FAIL  %s: %s", at, one.Name))
				for _, problem := range one.Problems {
					row(w, "      "+problem)
				}
			case t.verbose:
				row(w, fmt.Sprintf("ok    %s: %s", at, one.Name))
			}
		}
		for _, part := range r.Parts {
			if !part.Used {
				row(w, fmt.Sprintf("%s: no case uses %s", source.Position{File: file, Line: part.Line, Column: part.Column}, part.At))
			}
		}
		verdict := "ok  "
		if r.Failed() > 0 {
			verdict = "FAIL"
		}
		used, all := r.Used("")
		var kinds []string
		for _, kind := range []string{"tools", "prompts", "resources", "checks", "ignore", "results"} {
			if used, all := r.Used(kind); all > 0 {
				kinds = append(kinds, fmt.Sprintf("%s %d/%d", kind, used, all))
			}
		}
		row(w, fmt.Sprintf("%s  %s, %d failed; %d of %d parts of the mapping used: %s",
			verdict, plural(len(r.Results), "case"), r.Failed(), used, all, strings.Join(kinds, ", ")))
	})
}

// reportJSON is a report for programs.
func reportJSON(r *cases.Report) any {
	type caseJSON struct {
		Line     int      `json:"line"`
		Column   int      `json:"column"`
		Name     string   `json:"name"`
		OK       bool     `json:"ok"`
		Problems []string `json:"problems"`
	}
	type partJSON struct {
		Part   string `json:"part"`
		Kind   string `json:"kind"`
		Line   int    `json:"line"`
		Column int    `json:"column"`
		Used   bool   `json:"used"`
	}
	of := struct {
		OK    bool       `json:"ok"`
		Cases []caseJSON `json:"cases"`
		Parts []partJSON `json:"parts"`
	}{r.Failed() == 0, []caseJSON{}, []partJSON{}}
	for _, one := range r.Results {
		of.Cases = append(of.Cases, caseJSON{one.Line, one.Column, one.Name, len(one.Problems) == 0, append([]string{}, one.Problems...)})
	}
	for _, p := range r.Parts {
		of.Parts = append(of.Parts, partJSON{p.At, p.Kind, p.Line, p.Column, p.Used})
	}
	return of
}
