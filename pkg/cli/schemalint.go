package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/schema/lint"
)

// The forms in which findings are printed.
const (
	formatText   = "text"
	formatJSON   = "json"
	formatGitHub = "github"
)

// schemaLint is what `deputy schema lint` is told.
type schemaLint struct {
	format  string
	explain string
	globals []string
	strict  bool
}

// newSchemaLint builds `deputy schema lint`.
func newSchemaLint(p *program) *cobra.Command {
	var l schemaLint
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Find what decisions on a schema would stumble over",
		Long: `Check schemas for what the compiler lets pass: types without a tenant, permissions that no agent can have,
shapes that SpiceDB gets wrong, agents let in through somebody else's grant. FILE is the root of a schema,
whose imports are read with it; "-" is standard input. Of Deputy's core types those that it does not define
are added.

A finding is silenced by a comment above what it is about, or above its definition:

  // lint:ignore RULE reason

The exit code is 1 if there are errors, and with --strict if there is any finding that is not silenced.
--explain RULE says what a rule is for, with an example; --explain all lists the rules.`,
		Example: `  deputy schema lint --global currency schema/supportdesk/supportdesk.zed
  deputy schema lint --explain tenant-not-all`,
		Args: func(cmd *cobra.Command, args []string) error {
			if l.explain != "" {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if l.explain != "" {
				return explainRule(p.Out, l.explain)
			}
			return l.run(p, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&l.format, "format", formatText, "text for people, json for programs, github for annotations of a pull request")
	flags.StringVar(&l.explain, "explain", "", "explain a rule, or list them with all")
	flags.StringSliceVar(&l.globals, "global", nil, "object types that belong to no tenant, as the server's --global-types")
	flags.BoolVar(&l.strict, "strict", false, "end with exit code 1 for warnings too")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{formatText, formatJSON, formatGitHub}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// explainRule prints a rule's explanation.
func explainRule(out io.Writer, name string) error {
	if name == "all" {
		return writeTable(out, func(w io.Writer) {
			row(w, "RULE", "SEVERITY", "WHAT IS FOUND")
			for _, r := range lint.Rules {
				row(w, r.Name, string(r.Severity), r.Summary)
			}
		})
	}
	rule, ok := lint.Find(name)
	if !ok {
		return fmt.Errorf("--explain: there is no rule %q; --explain all lists them", name)
	}
	_, err := io.WriteString(out, rule.Explanation())
	return err
}

// run checks all files before it writes anything.
func (l *schemaLint) run(p *program, paths []string) error {
	write, ok := map[string]func(io.Writer, []lint.Finding) error{
		formatText: printText, formatJSON: printJSON, formatGitHub: printGitHub,
	}[l.format]
	if !ok {
		return fmt.Errorf("--format: %q is none of text, json, github", l.format)
	}
	var findings []lint.Finding
	known := map[string]bool{}
	for _, path := range paths {
		s, err := readSchemaFile(path, p.In)
		if err != nil {
			return err
		}
		found, err := lint.Check(s, lint.Options{Globals: l.globals})
		if err != nil {
			return err
		}
		for _, f := range found {
			if !slices.Contains(findings, f) { // two roots may import the same file
				findings = append(findings, f)
			}
		}
		for _, definition := range s.Objects {
			known[definition.GetName()] = true
		}
	}
	for _, global := range l.globals {
		if !known[global] {
			return fmt.Errorf("--global: the schema has no type %q", global)
		}
	}
	if err := write(p.Out, findings); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if slices.ContainsFunc(findings, func(f lint.Finding) bool {
		return f.Suppressed == "" && (l.strict || f.Severity == lint.Error)
	}) {
		return errDenied
	}
	return nil
}

// printText prints a line for each finding that counts, and its suggestion below.
func printText(out io.Writer, findings []lint.Finding) error {
	for _, f := range findings {
		if f.Suppressed != "" {
			continue
		}
		text := fmt.Sprintf("%s: %s: %s (%s)\n", f.Position, f.Severity, f.Message, f.Rule)
		if f.Suggestion != "" {
			text += "    " + f.Suggestion + "\n"
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// findingJSON is a finding for programs.
type findingJSON struct {
	Rule       string `json:"rule"`
	Severity   string `json:"severity"`
	File       string `json:"file"`
	Line       int    `json:"line"`
	Column     int    `json:"column"`
	Message    string `json:"message"`
	Suggestion string `json:"suggestion"`
	// Suppressed is the reason that a comment gives; "" if the finding counts.
	Suppressed string `json:"suppressed"`
}

// printJSON prints a list of all findings, the suppressed ones too.
func printJSON(out io.Writer, findings []lint.Finding) error {
	list := make([]findingJSON, 0, len(findings))
	for _, f := range findings {
		list = append(list, findingJSON{f.Rule, string(f.Severity), f.File, f.Line, f.Column, f.Message, f.Suggestion, f.Suppressed})
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}

// printGitHub prints workflow commands, which GitHub shows beside the lines of a pull request.
func printGitHub(out io.Writer, findings []lint.Finding) error {
	var failed error
	for _, f := range findings {
		if f.Suppressed != "" {
			continue
		}
		message := f.Message
		if f.Suggestion != "" {
			message += ". " + f.Suggestion
		}
		_, err := io.WriteString(out, f.Annotation(string(f.Severity), f.Rule, message))
		failed = errors.Join(failed, err)
	}
	return failed
}
