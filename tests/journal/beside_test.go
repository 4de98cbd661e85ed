package journal_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// TestVerifyBesideAServer: a journal that is being written, whose segments become bundles meanwhile, is as it was written each time that it is
// verified.
func TestVerifyBesideAServer(t *testing.T) {
	t.Parallel()
	keys, err := journal.OpenKeys(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/j"
	j, err := journal.Open(journal.Config{
		Dir: dir, Keys: keys, Store: "store", SegmentBytes: 64 << 10, ReserveBytes: 1 << 10, CheckpointInterval: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	moved, written := 0, 0
	for round := range 30 {
		var writer sync.WaitGroup
		writer.Go(func() {
			for range 600 {
				if _, err := j.Append(t.Context(), journal.Refuse, decision(written)); err != nil {
					t.Error(err)
					return
				}
				written++
			}
		})
		report, err := verify.Run(t.Context(), verify.Options{Dir: dir})
		if err != nil || len(report.Problems) > 0 || len(report.Foreign) > 0 {
			t.Errorf("round %d: %+v (%v)", round, report, err)
		} else if report.Records < report.Signed || report.Records < uint64(round)*600 {
			t.Errorf("round %d: %d records, of which %d are signed", round, report.Records, report.Signed)
		}
		if err == nil && report.Records > uint64(round)*600 {
			moved++
		}
		writer.Wait()
	}
	if moved == 0 {
		t.Error("nothing was ever written while it was verified")
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestForgedTail: a record that no checkpoint is over, and that somebody changed who made its sum right again, is found with the journal's secret, and
// named. Nobody finds it without: that is what the page says.
func TestForgedTail(t *testing.T) {
	t.Parallel()
	k := begin(t)
	j, err := journal.Open(journal.Config{
		Dir: "j", FS: k.fs, Keys: k.keys, Store: "store", ReserveBytes: 1 << 10, CheckpointInterval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := j.Append(t.Context(), journal.Refuse, decision(i)); err != nil {
			t.Fatal(err)
		}
	}
	e := k.read(t)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	e.sound(t)
	with := verify.Options{Secret: k.keys.Secret()}
	if r := e.first(t, with); len(r.Problems) > 0 || r.Signed != 0 || r.Records != 20 || !r.Authenticated {
		t.Fatalf("of what the server wrote: %+v", r)
	}
	path := fmt.Sprintf("segments/%020d", 0)
	header, all := frames(e.files[path])
	for i := range all {
		bent := slices.Clone(all)
		bent[i] = slices.Clone(all[i])
		bent[i][len(bent[i])-1] ^= 1
		binary.LittleEndian.PutUint32(bent[i][4:], castagnoli(bent[i][:4], bent[i][8:]))
		forged := e.with(path, slices.Concat(append([][]byte{header}, bent...)...))
		if r := forged.first(t, verify.Options{}); len(r.Problems) > 0 || r.Authenticated || len(verifySecond(forged.files, e.key)) > 0 {
			t.Errorf("record %d: without the secret: %+v", i, r)
		}
		r := forged.first(t, with)
		if len(r.Problems) == 0 || r.Problems[0].Sequence != uint64(i) || !strings.Contains(r.Problems[0].Message, "the MAC of record") {
			t.Errorf("record %d: with the secret: %+v", i, r)
		}
	}
}

// TestDamagedTail: a record of the last segment that was damaged is named itself, and not only as one of those that are missing.
func TestDamagedTail(t *testing.T) {
	t.Parallel()
	k := begin(t)
	k.more(t, 0, 30)
	e := k.read(t)
	ids, err := journal.NewIDs(k.keys.Secret())
	if err != nil {
		t.Fatal(err)
	}
	origin := strings.TrimSpace(string(e.files["origin"]))
	for path, b := range e.files {
		if !strings.HasPrefix(path, "segments/") {
			continue
		}
		header, all := frames(b)
		last := true
		for other := range e.files {
			last = last && (!strings.HasPrefix(other, "segments/") || other <= path)
		}
		for i := range all {
			at := len(header) + len(slices.Concat(all[:i]...))
			bent := slices.Clone(b)
			bent[at+20] ^= 1
			sequence := recordAt(path, b, at)
			report := e.with(path, bent).first(t, verify.Options{IDs: ids})
			if len(report.Problems) == 0 {
				t.Fatalf("record %d: nothing is found", sequence)
			}
			p := report.Problems[0]
			if p.Sequence != sequence || p.File != path || p.Decision != ids.Of(journal.Tag(origin), sequence) ||
				!strings.Contains(p.Message, fmt.Sprintf("byte %d", at)) && last {
				t.Errorf("record %d, at byte %d of %s: %+v", sequence, at, path, p)
			}
			if last && (!strings.HasPrefix(p.Message, fmt.Sprintf("record %d is damaged", sequence)) || report.UnreadFrom != int64(at)) {
				t.Errorf("record %d: %s", sequence, p.Message)
			}
		}
	}
	// What is behind the last whole record and not signed yet is no evidence that anything was bent, and is said.
	for path, b := range e.files {
		if !strings.HasPrefix(path, "segments/") || e.with(path, append(slices.Clone(b), 1, 2, 3)).first(t, verify.Options{}).Unread != 3 {
			continue
		}
		return
	}
	t.Error("what is no whole record is not said")
}
