package bench

import (
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/journal/tree"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// What a child does with its journal.
const (
	journalOff  = "off"
	journalSync = "sync"
)

// journalOf is what a child is opened with.
func journalOf(mode string) daemon.Journal {
	return daemon.Journal{Off: mode == journalOff, Sync: mode == journalSync}
}

// TestJournal measures what it costs that every decision has a record before it is answered: three servers over graphs of one shape, in turns, one
// without a journal, one as it is shipped, and one whose answers wait for the disk. Then how long the records are, and how fast they are verified.
func TestJournal(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	dirs := map[string]string{}
	open := func(name, mode string) contender {
		dirs[name] = filepath.Join(t.TempDir(), "data")
		d := dialDeputy(t, start(t, served{Kind: "deputy", Dir: dirs[name], Journal: mode}))
		return contender{name: name, ask: decide(d.decisions, cold(d.settle(t, g)))}
	}
	const offName, onName, syncName = "--journal=off", "the journal, as shipped", "--journal-sync"
	all := []contender{open(offName, journalOff), open(onName, ""), open(syncName, journalSync)}
	agree(t, 60, append([]contender{{}}, all...))
	r := contest(t, "decisions, cold, with and without the journal", 32, scaled(11, 1), all)
	atLeast(t, "decisions with the journal / without, 32 workers", r.over(onName, offName), "", 0.88)
	atLeast(t, "decisions with --journal-sync / without a journal, 32 workers", r.over(syncName, offName), "", 0.75)
	r = contest(t, "decisions, cold, with and without the journal", 1, scaled(11, 1), all)
	atMost(t, "p50 of a decision with the journal / without, 1 worker", r.slower(onName, offName), "", 1.15)
	add(t, "p50 of a decision with --journal-sync / without a journal, 1 worker: at most one sync more", r.slower(syncName, offName), "")

	dir := daemon.JournalDir(dirs[onName])
	began := time.Now()
	report, err := verify.Run(t.Context(), verify.Options{Dir: dir})
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("the journal is not as it was written: %v, %+v", err, report)
	}
	atLeast(t, "records that are verified in a second", float64(report.Records)/time.Since(began).Seconds(), "", 500_000)
	if bundles := report.Signed / tree.Width; bundles > 0 {
		bytes := sizeOf(t, filepath.Join(dir, "tile")) + sizeOf(t, filepath.Join(dir, "index"))
		atMost(t, "bytes of a decision on the disk: record, tree and index of cold decisions in sessions", float64(bytes)/float64(bundles*tree.Width), "B", 150)
	}
}

// sizeOf is how long all files below a directory are.
func sizeOf(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		bytes += info.Size()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return bytes
}
