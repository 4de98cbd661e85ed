package cli

import (
	"github.com/spf13/cobra"
)

// newJournal builds `deputy journal`.
func newJournal(p *program) *cobra.Command {
	cmd := group(groupGovern, "journal", "Read the record of every decision, and verify it (auditors)")
	cmd.Long = `Read the journal: the record of every decision, and of everything else that callers asked of the server.`
	cmd.AddCommand(journalCommands(p)...)
	return cmd
}

// journalCommands are the subcommands, in the order of help.
func journalCommands(p *program) []*cobra.Command {
	return []*cobra.Command{newJournalVerify(p), newJournalErase(p)}
}
