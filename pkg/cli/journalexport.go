package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	goclient "github.com/deputyauth/deputy/pkg/client"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/export"
)

// newJournalExport builds `deputy journal export`.
func newJournalExport(p *program) *cobra.Command {
	var filter recordFilter
	var from journalFrom
	var as string
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write records as JSON lines or OCSF events, or the journal as C2SP tiles (auditors)",
		Long: `Write the records that match, the oldest first, into FILE, or to standard output if FILE is "-". FILE appears
only once it is complete, readable by its owner alone. A FILE that exists is replaced then, and stays as it is if the export fails.

  jsonl  a record a line, with the id of its decision
  ocsf   an event a line: class API Activity (6003) of the Open Cybersecurity Schema Framework
  tiles  C2SP tlog-tiles up to the newest checkpoint, for a static web server; FILE is a directory then, which must
         not be there yet, and --dir is needed. Everybody to whom the directory is served can read the records.

deputy journal erase does not reach records that were exported.`,
		Example: `  deputy journal export --as ocsf --from 24h yesterday.jsonl
  deputy journal export --as tiles --dir /var/lib/deputy/journal public/journal`,
		Args: cobra.ExactArgs(1),
	}
	filter.register(cmd.Flags())
	choiceVar(cmd.Flags(), &as, "as", "", "jsonl", "what to write", "jsonl", "ocsf", "tiles")
	from.register(p, cmd)
	cmd.RunE = from.run(true, func(ctx context.Context, s journalSource, args []string) error {
		start := time.Now()
		var count uint64
		_, err := os.Stat(args[0])
		replaced := err == nil && args[0] != "-"
		if as == "tiles" {
			count, err = exportTiles(ctx, s, &filter, args[0])
		} else {
			if args[0] == "-" && from.c.output == formatJSON {
				return errors.New("--output json needs a FILE: standard output is the export")
			}
			fill := func(w io.Writer) (err error) {
				if count, err = exportRecords(ctx, s, &filter, as == "ocsf", w); err != nil {
					return err
				}
				return whole(s)
			}
			if args[0] == "-" {
				return fill(p.Out)
			}
			err = writeWhole("FILE", args[0], 0o600, fill)
		}
		if err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		text := fmt.Sprintf("exported %s in %.1f s", plural(count, "record"), seconds)
		if replaced {
			text += "; the file that was there before is replaced"
		}
		return say(p.Out, from.c.output, map[string]any{"records": count, "seconds": seconds, "replaced": replaced}, text)
	})
	return cmd
}

// exportRecords writes the records that match.
func exportRecords(ctx context.Context, s journalSource, filter *recordFilter, ocsf bool, w io.Writer) (count uint64, err error) {
	q, err := filter.request()
	if err != nil {
		return 0, err
	}
	_, err = eachRecord(ctx, s, q, 0, func(f *deputy.FoundRecord) error {
		count++
		if !ocsf {
			return writeJSON(w, f, "")
		}
		origin, err := s.origin(ctx, f)
		if goclient.ReasonOf(err) == goclient.ReasonOutOfBounds {
			return fmt.Errorf("--as ocsf says where in the journal each record stands, which an auditor that is bound to tenants is not told: "+
				"write --as jsonl, or ask as an auditor of all tenants: %w", err)
		}
		if err != nil {
			return err
		}
		line, err := export.OCSF(f, origin)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		return err //nolint:wrapcheck // writeWhole says which file
	})
	return count, err
}

// exportTiles writes a journal as tiles.
func exportTiles(ctx context.Context, s journalSource, filter *recordFilter, dir string) (uint64, error) {
	kept, ok := s.(keptJournals)
	switch {
	case dir == "-":
		return 0, errors.New(`--as tiles writes a directory, which "-" is none: name one that is not there yet`)
	case !ok:
		return 0, errors.New("--as tiles needs --dir: a server shows records, and not its tiles")
	case len(kept) > 1:
		return 0, fmt.Errorf("--dir has %d journals, and each is a log of its own: name the directory of one", len(kept))
	case filter.set():
		return 0, errors.New("--as tiles writes all records: leave out the flags that narrow them")
	}
	return export.Tiles(ctx, kept[0], dir)
}

// newJournalCollect builds `deputy journal collect`.
func newJournalCollect(p *program) *cobra.Command {
	var into, output string
	var keys []string
	cmd := &cobra.Command{
		Use:   "collect DIR... --out DIR",
		Short: "Bring the journals of several nodes together, and verify them",
		Long: `Copy the journals in the directories DIR below the directory --out, each under its own name, and verify each copy.
DIR is a journal's directory, a data directory, or a directory with several journals below it. Servers may be writing them.
Collected again, a copy is brought up to date, and the checkpoint that it had has to be contained in the journal of now: so a node
whose journal was set back is found. query and show read all of them with --dir, and verify verifies them again. The exit code is
1 if one is not as it was written.`,
		Example: `  deputy journal collect node-1/journal node-2/journal --out evidence --key node-1.key --key node-2.key
  deputy journal query --dir evidence --agent triage-bot`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringVar(&into, "out", "", "directory to copy into; made if it is not there")
	cmd.Flags().StringArrayVar(&keys, "key", nil,
		"a key that verifies checkpoints, or a file with it; for each journal one (default: verifier.key of each, which is then trusted)")
	outputVar(cmd.Flags(), &output, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if into == "" {
			return errors.New("--out is missing: name the directory to copy into")
		}
		verifiers, err := verifierKeys(keys)
		if err != nil {
			return err
		}
		dirs, given, err := collectedFrom(args, verifiers)
		if err != nil {
			return err
		}
		var all []map[string]any
		var lines []string
		damaged := false
		for i, dir := range dirs {
			c, err := export.Collect(cmd.Context(), dir, into, given[i])
			if err != nil {
				return err
			}
			all = append(all, map[string]any{"dir": c.Dir, "report": newVerifyJSON(c.Report)})
			line := fmt.Sprintf("ok: %s in %s", plural(c.Report.Records-c.Report.Minimum, "record"), c.Dir)
			if len(c.Report.Problems) > 0 {
				damaged = true
				first := c.Report.Problems[0]
				at := fmt.Sprintf("record %d", first.Sequence)
				if first.File != "" {
					at += ", " + first.File
				}
				line = fmt.Sprintf("NOT ok: %s: %s: %s; see deputy journal verify %s", dir, at, first.Message, cmp.Or(c.Dir, dir))
				if c.Dir == "" {
					line += "; nothing was copied, and a copy from before stays as it was"
				}
			} else if c.Report.TrustedDirectory {
				line += "; its own key was trusted: name the one that you kept with --key"
			}
			lines = append(lines, line)
		}
		if err := say(p.Out, output, map[string]any{"journals": all}, strings.Join(lines, "\n")); err != nil {
			return err
		}
		if damaged {
			return errDenied
		}
		return nil
	}
	return cmd
}

// collectedFrom returns the directories of the journals that the arguments stand for, and the key of each.
func collectedFrom(args []string, keys perJournal) (dirs, given []string, err error) {
	for _, dir := range args {
		found, _, err := journalsIn("DIR", dir)
		if err != nil {
			return nil, nil, err
		}
		dirs = append(dirs, found...)
	}
	given, err = keys.each(dirs, true)
	return dirs, given, err
}
