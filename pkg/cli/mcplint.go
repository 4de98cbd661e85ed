package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	guardlint "github.com/deputyauth/deputy/pkg/door/mcp/mapping/lint"
	"github.com/deputyauth/deputy/pkg/schema/lint"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// newMCPLint builds `deputy mcp lint`.
func newMCPLint(p *program) *cobra.Command {
	from := offers{program: p}
	var schemaFile, output string
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FILE [-- SERVER [ARGUMENT…]]",
		Short: "Find calls and answers that a file of mappings leaves unchecked",
		Long: `Check a file of mappings for calls and answers that the guard lets through unchecked: tools whose answers it does not filter, ignored arguments
whose names say that they name objects, patterns that match URIs of any kind, paths whose links only the server follows. If you name the server behind --,
or its list with --tools, the command compares the file with the server's tools. With --schema it compares the file with a schema's types and permissions.

To silence a finding, add a comment to the part of the file that it is about, or to a part around it:

  search_files: # lint:ignore RULE reason

The exit code is 1 if there are errors, and with --strict if there is any finding that is not silenced.`,
		Example: `  deputy mcp lint guard.yaml --schema files.zed -- npx -y @modelcontextprotocol/server-filesystem /srv/files`,
		Args:    cobra.MinimumNArgs(1),
	}
	from.register(cmd)
	cmd.Flags().StringVar(&schemaFile, "schema", "", "file with the schema that has the types and permissions")
	cmd.Flags().BoolVar(&strict, "strict", false, "end with exit code 1 for warnings too")
	outputVar(cmd.Flags(), &output, formatJSON, formatGitHub)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if at := cmd.ArgsLenAtDash(); at > 1 || at < 0 && len(args) > 1 {
			return errors.New("one FILE is checked at a time; name the server behind --")
		} else if at == 0 {
			return errors.New("FILE is missing: name the file of mappings before --")
		}
		mapped, err := mapping.OpenSource(args[0])
		if err != nil {
			return err
		}
		var options guardlint.Options
		if options.Offer, err = from.read(cmd.Context(), args[1:]); err != nil {
			return err
		}
		if schemaFile != "" {
			if options.Schema, err = schemaMembers(schemaFile, p.In); err != nil {
				return err
			}
		}
		return printFindings(p.Out, output, args[0], strict, guardlint.Check(mapped, options))
	}
	return cmd
}

// schemaMembers are the relations and permissions of each type of a schema.
func schemaMembers(path string, stdin io.Reader) (map[string][]string, error) {
	s, err := readSchemaFile(path, stdin)
	if err != nil {
		return nil, err
	}
	model, err := s.Model()
	if err != nil {
		return nil, err
	}
	members := map[string][]string{}
	for name, t := range model.Types {
		members[name] = []string{}
		for _, m := range t.Members {
			members[name] = append(members[name], m.Member)
		}
	}
	return members, nil
}

// printFindings prints findings as deputy schema lint does.
func printFindings(out io.Writer, output, file string, strict bool, found []guardlint.Finding) error {
	write := map[string]func(io.Writer, []lint.Finding) error{
		formatText: printText, formatJSON: printJSON, formatGitHub: printGitHub,
	}[output]
	findings := make([]lint.Finding, len(found))
	for i, f := range found {
		findings[i] = lint.Finding{
			Rule: f.Rule, Severity: lint.Severity(f.Severity), Position: source.Position{File: file, Line: f.Line, Column: f.Column},
			Message: f.Message, Suggestion: f.Suggestion, Suppressed: f.Suppressed,
		}
	}
	if err := write(out, findings); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if slices.ContainsFunc(findings, func(f lint.Finding) bool { return f.Suppressed == "" && (strict || f.Severity == lint.Error) }) {
		return errDenied
	}
	return nil
}
