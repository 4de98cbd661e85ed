package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/schema/diff"
	"github.com/deputyauth/deputy/pkg/schema/lint"
)

// schemaLint is what `deputy schema lint` is told.
type schemaLint struct {
	output  string
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

To silence a finding, write a comment above the line that it is about, or above its definition:

  // lint:ignore RULE reason

The exit code is 1 if there are errors, and with --strict if there is any finding that is not silenced.
--explain RULE explains the purpose of a rule, with an example; --explain all lists the rules.`,
		Example: `  deputy schema lint --global currency schema/supportdesk/supportdesk.zed
  deputy schema lint --explain tenant-not-all`,
		Args: func(cmd *cobra.Command, args []string) error {
			if l.explain == "" {
				return cobra.MinimumNArgs(1)(cmd, args)
			}
			if len(args) > 0 {
				return fmt.Errorf("--explain takes no FILE, and %q is one", args[0])
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if l.explain != "" {
				return explainRule(p.Out, l.output, l.explain)
			}
			return l.run(p, args)
		},
	}
	flags := cmd.Flags()
	outputVar(flags, &l.output, formatJSON, formatGitHub)
	flags.StringVar(&l.explain, "explain", "", "explain a rule, or list them with all")
	flags.StringSliceVar(&l.globals, "global", nil, "object types that belong to no tenant, as the server's --global-types")
	flags.BoolVar(&l.strict, "strict", false, "end with exit code 1 for warnings too")
	_ = cmd.RegisterFlagCompletionFunc("explain", completeRules)
	return cmd
}

// ruleJSON is a rule for programs. Of a single one there is the explanation, too.
type ruleJSON struct {
	Rule        string `json:"rule"`
	Severity    string `json:"severity"`
	Summary     string `json:"summary"`
	Explanation string `json:"explanation,omitempty"`
}

// explainRule prints a rule's explanation, or the list of all rules.
func explainRule(out io.Writer, output, name string) error {
	if name == "all" {
		list := make([]ruleJSON, len(lint.Rules))
		for i, r := range lint.Rules {
			list[i] = ruleJSON{Rule: r.Name, Severity: string(r.Severity), Summary: r.Summary}
		}
		if output == formatJSON {
			return say(out, output, list, "")
		}
		return writeTable(out, func(w io.Writer) {
			row(w, "RULE", "SEVERITY", "WHAT IS FOUND")
			for _, r := range list {
				row(w, r.Rule, r.Severity, r.Summary)
			}
		})
	}
	rule, ok := lint.Find(name)
	if !ok {
		return fmt.Errorf("--explain: there is no rule %q%s; --explain all lists them", name, didYouMean(name, ruleNames()))
	}
	text := rule.Explanation()
	return say(out, output, ruleJSON{rule.Name, string(rule.Severity), rule.Summary, text}, text)
}

// ruleNames returns the names of all rules.
func ruleNames() []string {
	names := make([]string, len(lint.Rules))
	for i, r := range lint.Rules {
		names[i] = r.Name
	}
	return names
}

// completeRules completes the name of a rule.
func completeRules(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return append(ruleNames(), "all"), cobra.ShellCompDirectiveNoFileComp
}

// run checks all files before it writes anything.
func (l *schemaLint) run(p *program, paths []string) error {
	write := map[string]func(io.Writer, []lint.Finding) error{
		formatText: printText, formatJSON: printJSON, formatGitHub: printGitHub,
	}[l.output]
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
	return diff.WriteJSON(out, list)
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
