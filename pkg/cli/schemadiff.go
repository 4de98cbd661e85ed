package cli

import (
	"errors"
	"sync"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/schema/diff"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// The forms in which a command can print its report.
const (
	formatText   = "text"
	formatJSON   = "json"
	formatGitHub = "github"
)

// What --fail-on may name: which changes end a command with exit code 1.
const (
	failOnWidening = "widening"
	failOnBreaking = "breaking"
	failOnNone     = "none"
)

// newSchemaDiff builds `deputy schema diff`, which needs no server.
func newSchemaDiff(p *program) *cobra.Command {
	var (
		output, failOn string
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
			switch output {
			case "json":
				err = diff.JSON(p.Out, changes)
			case formatGitHub:
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
	outputVar(flags, &output, formatJSON, formatGitHub)
	addFailOn(cmd, &failOn)
	flags.BoolVarP(&verbose, "verbose", "v", false, "list changed comments too")
	return cmd
}

// failOns are the values of --fail-on, the default first.
var failOns = []string{failOnWidening, failOnBreaking, failOnNone}

// addFailOn adds the flag --fail-on.
func addFailOn(cmd *cobra.Command, failOn *string) {
	choiceVar(cmd.Flags(), failOn, "fail-on", "", failOns[0], "what the exit code 1 is for: widening (and breaking), breaking alone, or none",
		failOns...)
}

// fails reports whether changes are such that --fail-on wants the exit code 1.
func fails(failOn string, n diff.Counts) bool {
	return failOn != failOnNone && n.Breaking > 0 || failOn == failOnWidening && n.Widening > 0
}
