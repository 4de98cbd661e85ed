package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/fixture/plan"
	"github.com/deputyauth/deputy/pkg/schema/lint"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// newSchema builds `deputy schema`.
func newSchema(p *program) *cobra.Command {
	cmd := group(groupGraph, "schema", "Write, read, compile, format, lint, diff and plan the schema")
	c := &connection{program: p}
	write, read, planning := newSchemaWrite(c), newSchemaRead(c), newSchemaPlan(c)
	c.register(write.Flags())
	c.register(read.Flags())
	c.connect(planning.Flags()) // it has forms of its own
	cmd.AddCommand(write, read, newSchemaCompile(p), newSchemaFmt(p), newSchemaLint(p), newSchemaDiff(p), planning)
	return cmd
}

// newSchemaWrite builds `deputy schema write`. SpiceDB's API takes flat schema text only: composing is
// the client's work, as it is with zed.
func newSchemaWrite(c *connection) *cobra.Command {
	var require string
	cmd := &cobra.Command{
		Use:   "write FILE",
		Short: "Replace the schema (schema admins)",
		Long: `Replace the schema with the one in FILE, or on standard input if FILE is "-". Imports and partials are
resolved here, beside FILE. Of Deputy's core types those that the file does not define are added; the
server refuses a schema whose core differs from its own. A type without a tenant is written with a
warning: every decision on it is refused, unless the server lists it in --global-types.

With --require-plan FILE is written only if it is the schema that deputy schema plan --out has planned,
and if the schema in force is still the one that it was planned for.`,
		Example: `  deputy schema write schema/supportdesk/supportdesk.zed
  deputy schema write --require-plan plan.json schema.zed`,
		Args: cobra.ExactArgs(1),
		RunE: c.run(func(ctx context.Context, s *server, args []string) error {
			file, err := readSchemaFile(args[0], c.program.In) //nolint:contextcheck // files are read to their end
			if err != nil {
				return err
			}
			flat, err := flatten(file) //nolint:contextcheck // a schema in memory
			if err != nil {
				return err
			}
			warnings, err := withoutTenant(file) //nolint:contextcheck // a schema in memory
			if err != nil {
				return err
			}
			var answer *authzed.WriteSchemaResponse
			if require == "" {
				answer, err = s.schema.WriteSchema(ctx, &authzed.WriteSchemaRequest{Schema: flat.text})
			} else {
				answer, err = writePlanned(ctx, c.program, s, require, flat.text)
			}
			if err != nil {
				return err
			}
			if c.output == formatText { // a program that reads JSON finds nothing else
				_, _ = io.WriteString(c.program.Err, warnings)
			}
			return c.printDone(answer, fmt.Sprintf("The schema is written: %d definitions, %d caveats", flat.definitions, flat.caveats))
		}),
	}
	cmd.Flags().StringVar(&require, "require-plan", "", "plan that deputy schema plan --out has written: write only the schema that it planned")
	return cmd
}

// withoutTenant warns of the types on which every decision will be refused. Which types are global only the server knows.
func withoutTenant(s *source.Schema) (warnings string, err error) {
	findings, err := lint.Check(s, lint.Options{})
	for _, f := range findings {
		if f.Rule == lint.NoTenant && f.Suppressed == "" {
			warnings += fmt.Sprintf("deputy: warning: %s: %s, unless the server lists it in --global-types\n", f.Position, f.Message)
		}
	}
	return warnings, err
}

// writePlanned writes what was planned, and says it where the server could not make sure in one step.
func writePlanned(ctx context.Context, p *program, s *server, name, flat string) (*authzed.WriteSchemaResponse, error) {
	file, err := os.Open(name) //nolint:gosec // reading it is what was asked for
	if err != nil {
		return nil, fmt.Errorf("--require-plan: %w", err)
	}
	defer func() { _ = file.Close() }()
	planned, err := plan.ReadPlan(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	guard, answer, err := plan.Write(ctx, s.schema, planned, flat)
	if err == nil && guard != plan.Locked {
		_, _ = fmt.Fprintln(p.Err, "deputy: the engine behind this server cannot compare and write in one step: "+
			"a schema that was written in between is overwritten; see docs/change.md")
	}
	return answer, err
}

// newSchemaRead builds `deputy schema read`.
func newSchemaRead(c *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "read",
		Short: "Print the schema",
		Args:  cobra.NoArgs,
		RunE: c.run(func(ctx context.Context, s *server, _ []string) error {
			answer, err := s.schema.ReadSchema(ctx, &authzed.ReadSchemaRequest{})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return writeJSON(c.program.Out, answer, "  ")
			}
			return writeText(c.program.Out, answer.GetSchemaText())
		}),
	}
}

// newSchemaCompile builds `deputy schema compile`, which needs no server: a CI can compile a schema, and
// a person can look at what will be written.
func newSchemaCompile(p *program) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "compile FILE",
		Short: "Print the flat schema that write would send; needs no server",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			flat, err := flattenFile(args[0], p.In)
			if err != nil {
				return err
			}
			return say(p.Out, output, map[string]string{"schemaText": flat.text}, flat.text)
		},
	}
	outputVar(cmd.Flags(), &output, "json")
	return cmd
}

// writeText writes text with a newline at its end.
func writeText(out io.Writer, text string) error {
	if text == "" {
		return errors.New("there is no schema")
	}
	if text[len(text)-1] != '\n' {
		text += "\n"
	}
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
