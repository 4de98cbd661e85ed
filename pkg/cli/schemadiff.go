package cli

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/schema/diff"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// What --fail-on may name: which changes end a command with exit code 1.
const (
	failOnBreaking = "breaking"
	failOnWidening = "widening"
	failOnNone     = "none"
)

// newSchemaDiff builds `deputy schema diff`, which needs no server.
func newSchemaDiff(p *program) *cobra.Command {
	var (
		format, failOn string
		verbose        bool
	)
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Compare two schemas by what they mean; needs no server",
		Long: `Compare the schemas in the files OLD and NEW, with their imports, by what they mean; one of them may be "-",
standard input. What either lacks of Deputy's core is added to it. Layout and order make no difference.

A change is breaking if requests or stored relationships that worked fail, or somebody may lose access;
widening if somebody may get it; compatible if neither. It can be both at once. Permissions whose own
text is the same, and that refer to what has changed, are listed too.

The exit code is 1 if something is breaking or widening, and 0 otherwise. With --fail-on=breaking it is 1
only if something is breaking.`,
		Example: `  deputy schema diff main.zed branch.zed
  deputy schema read | deputy schema diff - schema.zed`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := oneOf("format", format, "text", "json", "github"); err != nil {
				return err
			}
			if err := oneOf("fail-on", failOn, failOnWidening, failOnBreaking, failOnNone); err != nil {
				return err
			}
			if args[0] == "-" && args[1] == "-" {
				return errors.New("OLD and NEW cannot both be standard input")
			}
			var schemas [2]*source.Schema
			var failures [2]error
			var reading sync.WaitGroup
			for i, name := range args {
				reading.Go(func() { schemas[i], failures[i] = readSchemaFile(name, p.In) })
			}
			reading.Wait()
			for _, err := range failures {
				if err != nil {
					return err
				}
			}
			changes, err := diff.Diff(schemas[0], schemas[1])
			if err != nil {
				return err
			}
			switch format {
			case "json":
				err = diff.JSON(p.Out, changes)
			case "github":
				err = diff.GitHub(p.Out, changes, func(c diff.Change) bool { return fails(failOn, diff.Count([]diff.Change{c})) })
			default:
				err = diff.Text(p.Out, changes, verbose)
			}
			if err != nil {
				return err
			}
			if fails(failOn, diff.Count(changes)) {
				return errDenied
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&format, "format", "text", "text, json, or github for annotations of a GitHub workflow")
	addFailOn(cmd, &failOn)
	flags.BoolVarP(&verbose, "verbose", "v", false, "list changed comments too")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "github"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// addFailOn adds the flag --fail-on.
func addFailOn(cmd *cobra.Command, failOn *string) {
	cmd.Flags().StringVar(failOn, "fail-on", failOnWidening, "what the exit code 1 is for: widening (and breaking), breaking alone, or none")
	_ = cmd.RegisterFlagCompletionFunc("fail-on",
		cobra.FixedCompletions([]string{failOnWidening, failOnBreaking, failOnNone}, cobra.ShellCompDirectiveNoFileComp))
}

// fails reports whether changes are such that --fail-on wants the exit code 1.
func fails(failOn string, n diff.Counts) bool {
	return failOn != failOnNone && n.Breaking > 0 || failOn == failOnWidening && n.Widening > 0
}

// oneOf refuses a flag's value that is not among those that it may have.
func oneOf(flag, value string, values ...string) error {
	if slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("--%s must be one of %v, not %q", flag, values, value)
}
