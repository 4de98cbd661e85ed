package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/daemon"
)

// newPromote builds `deputy promote`. It needs no server, and none may run on the directories.
func newPromote(p *program) *cobra.Command {
	var followDir, dataDir, output string
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Make the copy of a server that followed another Deputy the durable store of a data directory",
		Long: `Make the newest complete copy in --follow-dir the durable store of --data-dir, for the engine embedded,
when the server that was followed is lost. The server that kept the copy must be stopped, and
--data-dir must have no store yet and be on the same file system, because the copy is moved.

It prints until when the copy has everything: what the lost server acknowledged later may be missing,
revocations too. See that the lost server does not run any more before the new one does.

The store gets an id of its own: session tokens, cursors and frozen sessions from before do not work
with it. Delegations and other sessions do. Servers that followed the lost one load the new one once
they are told its address.`,
		Example: `  deputy promote --follow-dir /var/lib/deputy-copy --data-dir /var/lib/deputy
  deputy serve --data-dir /var/lib/deputy --token-key-file token.key`,
		GroupID: groupServer,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&followDir, "follow-dir", "", "directory of the copy, as the server that kept it had it")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "data directory to make the store in")
	outputVar(cmd.Flags(), &output, "json")
	allowEnv(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		switch {
		case followDir == "":
			return errors.New("--follow-dir is missing")
		case dataDir == "":
			return errors.New("--data-dir is missing")
		}
		promoted, failed := daemon.Promote(followDir, dataDir, zap.NewNop())
		if failed != nil && promoted.Store == "" {
			return failed
		}
		// With an error too the copy is promoted, and the operator has to know until when it has everything.
		until := promoted.Position.At.UTC()
		age := time.Since(until).Round(time.Second)
		return errors.Join(failed, say(p.Out, output, map[string]any{
			"store": promoted.Store, "of": promoted.Position.Authority, "revision": promoted.Position.State, "complete_until": until,
			"relationships": promoted.Relationships,
		}, fmt.Sprintf("promoted the copy of %s to the store %s, with about %d relationships.\nIt has everything until %s, %s ago. "+
			"What was acknowledged later may be missing, revocations too.", promoted.Position.Authority, promoted.Store, promoted.Relationships,
			until.Format(time.RFC3339), age)))
	}
	return cmd
}
