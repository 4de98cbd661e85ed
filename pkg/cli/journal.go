package cli

import (
	"github.com/spf13/cobra"
)

// newJournal builds `deputy journal`.
func newJournal(p *program) *cobra.Command {
	cmd := group(groupGovern, "journal", "Read the record of every decision, and verify it (auditors)")
	cmd.Long = `Read the journal: the record of every decision, and of everything else that callers asked of the server. A server
shows it to callers with the role auditor, and not to an admin without it. With --dir the commands read a journal's directory, or a copy
of it, and need no server.`
	cmd.AddCommand(journalCommands(p)...)
	return cmd
}

// journalCommands are the subcommands, in the order of help.
func journalCommands(p *program) []*cobra.Command {
	return []*cobra.Command{
		newJournalTail(p), newJournalQuery(p), newJournalShow(p), newJournalProve(p), newJournalCheckpoint(p), newJournalVerify(p),
		newJournalExport(p), newJournalCollect(p),
		newJournalErase(p), newJournalKeys(p),
	}
}
