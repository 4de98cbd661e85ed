package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
	"github.com/deputyauth/deputy/pkg/journal/verify"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// journalVerify is what `deputy journal verify` is told.
type journalVerify struct {
	output, key, checkpoint, keyDir string
}

// newJournalVerify builds `deputy journal verify`.
func newJournalVerify(p *program) *cobra.Command {
	var v journalVerify
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Find out whether any record of a journal was changed",
		Long: `Verify the journal in the directory DIR, or in a copy of it: hash every record, compute every tile of the
Merkle tree anew, and compare the root with the last signed checkpoint. No server is asked, and one may be
writing the journal meanwhile. The first record that is not as it was written is named. The exit code is 0
if all are, and 1 if not.

--key is the key that verifies the checkpoints. Keep a copy of the file verifier.key elsewhere: without
--key the one in DIR is trusted, and whoever can change DIR can replace it.

Records after the last checkpoint are not signed yet: somebody who can write to DIR can change them. Each
has a MAC under the journal's secret, which --key-dir checks: then the server wrote them. That the last
of them were removed is beyond what DIR itself can show.

A directory that was set back as a whole to an earlier state is, too. --checkpoint compares with a
checkpoint that was kept elsewhere: from the server's log, from deputy journal, or from a witness.`,
		Example: `  deputy journal verify /var/lib/deputy/journal --key verifier.key --checkpoint checkpoint.friday`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return v.run(p, cmd, args[0]) },
	}
	flags := cmd.Flags()
	outputVar(flags, &v.output, formatJSON)
	flags.StringVar(&v.key, "key", "", "the key that verifies checkpoints, or a file with it (default: DIR/verifier.key, which is then trusted)")
	flags.StringVar(&v.checkpoint, "checkpoint", "", "file with a checkpoint that was kept elsewhere, which the journal has to contain")
	flags.StringVar(&v.keyDir, "key-dir", "", "the journal's directory of keys, to check records that are not signed yet, and to name decisions by their ids")
	return cmd
}

// maxVerifierKey bounds a file with a key that verifies checkpoints, in bytes.
const maxVerifierKey = 1 << 12

// run verifies a journal and prints what was found.
func (v *journalVerify) run(p *program, cmd *cobra.Command, dir string) error {
	options := verify.Options{Dir: dir, Key: v.key}
	if v.key != "" && !strings.Contains(v.key, "+") {
		text, err := smallfile.Read(v.key, maxVerifierKey)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		options.Key = strings.TrimSpace(string(text))
	}
	if v.checkpoint != "" {
		text, err := smallfile.Read(v.checkpoint, tree.MaxCheckpoint)
		if err != nil {
			return fmt.Errorf("--checkpoint: %w", err)
		}
		options.Checkpoint = text
	}
	if v.keyDir != "" {
		keys, err := journal.OpenKeys(v.keyDir, false)
		if err != nil {
			return fmt.Errorf("--key-dir: %w", err)
		}
		options.Secret = keys.Secret()
		if options.IDs, err = journal.NewIDs(options.Secret); err != nil {
			return fmt.Errorf("--key-dir: %w", err)
		}
	}
	if about, err := os.Stat(dir); err == nil && !about.IsDir() {
		return fmt.Errorf("DIR %s is a file: name the journal's directory", dir)
	}
	var bar *progress
	var before uint64
	options.Progress = func(records, total uint64) {
		if bar == nil {
			bar = newProgress(p.Err, "verifying", "records", int64(total)) //nolint:gosec // far below 2^63
		}
		if records > before {
			bar.add(int64(records - before)) //nolint:gosec // far below 2^63
			before = records
		}
	}
	report, err := verify.Run(cmd.Context(), options)
	if bar != nil {
		bar.clear()
	}
	if err != nil {
		return err
	}
	if v.output == formatJSON {
		err = say(p.Out, v.output, newVerifyJSON(report), "")
	} else {
		err = writeVerified(p.Out, dir, report)
	}
	if err == nil && len(report.Problems) > 0 {
		err = errDenied
	}
	return err
}

// verifyJSON is what was found, for programs.
type verifyJSON struct {
	Origin string `json:"origin"`
	OK     bool   `json:"ok"`
	// Minimum is the first record that was not removed, Records how many there are, Signed how many the checkpoint is over.
	Minimum uint64 `json:"minimum"`
	Records uint64 `json:"records"`
	Signed  uint64 `json:"signed"`
	Root    string `json:"root"`
	Outside uint64 `json:"outside"`
	// MACsChecked says that the MACs of the records that are not signed yet were checked.
	MACsChecked bool                `json:"macsChecked"`
	Unread      int64               `json:"unreadBytes"`
	Key         string              `json:"key"`
	Trusted     bool                `json:"trustedDirectory"`
	Foreign     []string            `json:"foreignFiles"`
	Problems    []verifyProblemJSON `json:"problems"`
}

// verifyProblemJSON is one thing that is not as it was written.
type verifyProblemJSON struct {
	Sequence uint64 `json:"sequence"`
	Decision string `json:"decision"`
	File     string `json:"file"`
	Message  string `json:"message"`
}

// newVerifyJSON returns a report for programs.
func newVerifyJSON(r *verify.Report) verifyJSON {
	out := verifyJSON{
		Origin: r.Origin, OK: len(r.Problems) == 0, Minimum: r.Minimum, Records: r.Records, Signed: r.Signed, Root: r.Root.String(),
		Outside: r.Outside, MACsChecked: r.Authenticated, Unread: r.Unread, Key: r.Key, Trusted: r.TrustedDirectory, Foreign: append([]string{}, r.Foreign...),
		Problems: make([]verifyProblemJSON, len(r.Problems)),
	}
	for i, p := range r.Problems {
		out.Problems[i] = verifyProblemJSON{Sequence: p.Sequence, Decision: p.Decision, File: p.File, Message: p.Message}
	}
	return out
}

// shownProblems is how many problems are printed for people.
const shownProblems = 10

// writeVerified prints a report for people.
func writeVerified(w io.Writer, dir string, r *verify.Report) error {
	return writeTable(w, func(w io.Writer) {
		if len(r.Problems) == 0 {
			row(w, fmt.Sprintf("ok: the %s in %s are as they were written", plural(r.Records-r.Minimum, "record"), dir))
		} else {
			row(w, fmt.Sprintf("NOT ok: the journal in %s is not as it was written", dir))
		}
		row(w)
		for _, p := range r.Problems[:min(len(r.Problems), shownProblems)] {
			field(w, "RECORD", fmt.Sprint(p.Sequence))
			field(w, "  DECISION", p.Decision)
			field(w, "  FILE", p.File)
			field(w, "  PROBLEM", p.Message)
		}
		if more := len(r.Problems) - shownProblems; more > 0 {
			row(w, fmt.Sprintf("and %s more, which -o json shows", plural(uint64(more), "problem")))
		}
		field(w, "JOURNAL", r.Origin)
		if r.Minimum > 0 {
			field(w, "REMOVED", fmt.Sprintf("%s, as the retention says: the first one kept is record %d", plural(r.Minimum, "record"), r.Minimum))
		}
		field(w, "CHECKPOINT", fmt.Sprintf("signed over %s, root %s", plural(r.Signed, "record"), r.Root))
		if r.Records > r.Signed {
			how := "somebody who can write to the directory can change, add or remove such records; --key-dir shows which the server wrote"
			if r.Authenticated {
				how = "the server wrote them, as their MACs show; nothing would show that the last of them are missing"
			}
			field(w, "NOT SIGNED", fmt.Sprintf("%s after the checkpoint: %s", plural(r.Records-r.Signed, "record"), how))
		}
		if r.Unread > 0 {
			field(w, "NOT READ", fmt.Sprintf("%s behind the last whole record, at byte %d of the last segment: a write that was cut off, "+
				"or a damaged record that is not signed", plural(uint64(r.Unread), "byte"), r.UnreadFrom))
		}
		if r.Outside > 0 {
			field(w, "COMPARED", "with the checkpoint from outside, over "+plural(r.Outside, "record"))
		} else {
			field(w, "NOT COMPARED", "with a checkpoint from outside: if the whole directory was set back to an earlier state, only --checkpoint shows it")
		}
		field(w, "KEY", r.Key)
		if r.TrustedDirectory {
			field(w, "NOT PROVEN", "that this is the journal's key: it was read from the directory itself; name the one that you kept with --key")
		}
		for _, file := range r.Foreign {
			field(w, "NOT PART OF IT", file)
		}
	})
}
