package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/journal"
)

// newJournalKeys builds `deputy journal keys`.
func newJournalKeys(p *program) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "keys DIR",
		Short: "Make the keys of a journal, before a server does",
		Long: `Make the keys of a journal in the directory DIR: secret.key, from which the ids of decisions are derived, and
signing.key, which signs checkpoints. A server makes its own at its first start. Make them yourself where
several servers share them, or where they come from a store of secrets: the server reads them in
--journal-key-dir. Keys that are there stay as they are.`,
		Example: `  deputy journal keys journal-keys
  deputy serve --data-dir /var/lib/deputy --journal-key-dir journal-keys`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := journal.OpenKeys(args[0], true); err != nil {
				return err
			}
			if output == formatJSON {
				return json.NewEncoder(p.Out).Encode(map[string]string{"keyDir": args[0]})
			}
			if _, err := fmt.Fprintf(p.Out, "the keys of the journal are in %s\n", args[0]); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			return nil
		},
	}
	outputVar(cmd.Flags(), &output, formatJSON)
	return cmd
}
