package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newOptions builds `deputy options`: the flags that all commands share which ask a server.
func newOptions(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "List the flags of the commands that ask a server",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			new(connection).connect(flags)
			return writeText(p.Out, "Every command that asks a server takes these flags:\n\n"+flags.FlagUsages())
		},
	}
}

// shortenHelp leaves the flags of the connection out of every command's help, and says where they are.
func shortenHelp(root *cobra.Command) {
	usage := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		hidden := 0
		for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if isConnectionFlag(f) {
					f.Hidden = true // the tree of commands is built for one run
					hidden++
				}
			})
		}
		if err := usage(cmd); err != nil || hidden == 0 {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStderr(), "\nThe server and the key are named by the flags that \"%s options\" lists.\n", root.Name())
		return err
	})
}

// refuseHelpOnNothing makes `deputy help` fail for a command that there is not.
func refuseHelpOnNothing(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"}) // it is there now
	help.Args = func(_ *cobra.Command, path []string) error {
		cmd, rest, err := root.Find(path)
		if err == nil && len(rest) > 0 && cmd.HasSubCommands() {
			return unknownCommand(cmd, rest[0])
		}
		return err
	}
}
