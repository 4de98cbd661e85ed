package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
	"github.com/deputyauth/deputy/pkg/journal/verify"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// journalVerify is what `deputy journal verify` is told.
type journalVerify struct {
	output, keyDir    string
	keys, checkpoints []string
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

DIR can be a server's data directory, too, or a directory with several journals below it, such as that of
deputy journal collect: then each of them is verified. Give --key for each: a journal that somebody has
removed is noticed so.

--key is the key that verifies the checkpoints. Keep a copy of the file verifier.key elsewhere: without
--key the one in DIR is trusted, and somebody who can change DIR can replace it.

Records after the last checkpoint are not signed yet: somebody who can write to DIR can change them. Each
has a MAC under the journal's secret, which --key-dir checks: then the server wrote them. That the last
of them were removed is beyond what DIR itself can show.

So is that the whole directory was set back to an earlier state. --checkpoint compares with a checkpoint that
was kept elsewhere: deputy journal checkpoint prints one, deputy journal prove ends with one, and a witness
keeps them. The server's log has only the size and the root of each.`,
		Example: `  deputy journal checkpoint > checkpoint.friday
  deputy journal verify /var/lib/deputy/journal --key verifier.key --checkpoint checkpoint.friday
  deputy journal verify evidence --key node-1.key --key node-2.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return v.run(p, cmd, args[0]) },
	}
	flags := cmd.Flags()
	outputVar(flags, &v.output, formatJSON)
	flags.StringArrayVar(&v.keys, "key", nil,
		"a key that verifies checkpoints, or a file with it; for each journal one (default: verifier.key of each, which is then trusted)")
	flags.StringArrayVar(&v.checkpoints, "checkpoint", nil, "file with a checkpoint that was kept elsewhere, which its journal has to contain (repeatable)")
	flags.StringVar(&v.keyDir, "key-dir", "", "the journal's directory of keys, to check records that are not signed yet, and to name decisions by their ids")
	return cmd
}

// maxVerifierKey bounds a file with a key that verifies checkpoints, in bytes.
const maxVerifierKey = 1 << 12

// verified is what verifying the journal in a directory came to.
type verified struct {
	dir    string
	report *verify.Report
}

// run verifies the journals that a directory stands for, and prints what was found.
func (v *journalVerify) run(p *program, cmd *cobra.Command, dir string) error {
	dirs, collected, err := journalsIn("DIR", dir)
	if err != nil {
		return err
	}
	options, err := v.options(dirs)
	if err != nil {
		return err
	}
	var all []verified
	damaged := false
	for _, o := range options {
		report, err := runVerify(cmd.Context(), p, o)
		if err != nil {
			return err
		}
		all = append(all, verified{o.Dir, report})
		damaged = damaged || len(report.Problems) > 0
	}
	if err := v.print(p.Out, all, collected, !damaged); err != nil {
		return err
	}
	if damaged {
		return errDenied
	}
	return nil
}

// options are how each of the journals is verified.
func (v *journalVerify) options(dirs []string) ([]verify.Options, error) {
	var ids *journal.IDs
	var secret []byte
	if v.keyDir != "" {
		keys, err := journal.OpenKeys(v.keyDir, false)
		if err == nil {
			secret = keys.Secret()
			ids, err = journal.NewIDs(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("--key-dir: %w", err)
		}
	}
	keys, err := verifierKeys(v.keys)
	if err != nil {
		return nil, err
	}
	checkpoints := perJournal{flag: "--checkpoint"}
	for _, path := range v.checkpoints {
		text, err := smallfile.Read(path, tree.MaxCheckpoint)
		if err != nil {
			return nil, fmt.Errorf("--checkpoint: %w", err)
		}
		name, _, _ := strings.Cut(string(text), "\n")
		if err := checkpoints.add(name, string(text)); err != nil {
			return nil, err
		}
	}
	// Of a single journal, verifying says what is wrong with the key or the checkpoint of another one.
	given := func(p perJournal, all bool) ([]string, error) {
		if len(dirs) == 1 && len(p.of) == 1 {
			return slices.Collect(maps.Values(p.of)), nil
		}
		return p.each(dirs, all)
	}
	theirKeys, err := given(keys, true)
	if err != nil {
		return nil, err
	}
	theirCheckpoints, err := given(checkpoints, false)
	if err != nil {
		return nil, err
	}
	options := make([]verify.Options, len(dirs))
	for i, dir := range dirs {
		options[i] = verify.Options{Dir: dir, Key: theirKeys[i], IDs: ids, Secret: secret}
		if theirCheckpoints[i] != "" {
			options[i].Checkpoint = []byte(theirCheckpoints[i])
		}
	}
	return options, nil
}

// runVerify verifies a journal, with a bar that shows progress.
func runVerify(ctx context.Context, p *program, o verify.Options) (*verify.Report, error) {
	var bar *progress
	var before uint64
	o.Progress = func(records, total uint64) {
		if bar == nil {
			bar = newProgress(p.Err, "verifying", "records", int64(total)) //nolint:gosec // far below 2^63
		}
		if records > before {
			bar.add(int64(records - before)) //nolint:gosec // far below 2^63
			before = records
		}
	}
	report, err := verify.Run(ctx, o)
	if bar != nil {
		bar.clear()
	}
	return report, err
}

// print prints what was found: of one journal its report, of a directory with journals below it the report of each.
func (v *journalVerify) print(out io.Writer, all []verified, collected, ok bool) error {
	if v.output == formatJSON && !collected {
		return say(out, v.output, newVerifyJSON(all[0].report), "")
	}
	if v.output == formatJSON {
		reports := make([]map[string]any, len(all))
		for i, one := range all {
			reports[i] = map[string]any{"dir": one.dir, "report": newVerifyJSON(one.report)}
		}
		return say(out, v.output, map[string]any{"ok": ok, "journals": reports}, "")
	}
	for i, one := range all {
		if i > 0 {
			if err := writeText(out, "\n"); err != nil {
				return err
			}
		}
		if err := writeVerified(out, one.dir, one.report); err != nil {
			return err
		}
	}
	return nil
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
			if p.File != "" && !strings.Contains(p.File, "/") && p.Sequence == 0 {
				field(w, "FILE", p.File) // it is about the whole journal
			} else {
				field(w, "RECORD", fmt.Sprint(p.Sequence))
				field(w, "  DECISION", p.Decision)
				field(w, "  FILE", p.File)
			}
			field(w, "  PROBLEM", p.Message)
		}
		if more := len(r.Problems) - shownProblems; more > 0 {
			row(w, fmt.Sprintf("and %s more, which -o json shows", plural(uint64(more), "problem")))
		}
		field(w, "JOURNAL", r.Origin)
		if r.Minimum > 0 {
			field(w, "REMOVED", fmt.Sprintf("%s, as the retention says: the first one kept is record %d", plural(r.Minimum, "record"), r.Minimum))
		}
		if r.Root != (verify.Report{}).Root { // else none was verified
			field(w, "CHECKPOINT", fmt.Sprintf("signed over %s, root %s", plural(r.Signed, "record"), r.Root))
		}
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
