package journal

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// refused asserts that a record was refused because of the journal, without a word of why.
func refused(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != authz.Unavailable || e.Reason != authz.ReasonJournalUnavailable || strings.Contains(e.Message, "space") {
		t.Errorf("it came to %v, want UNAVAILABLE/JOURNAL_UNAVAILABLE", err)
	}
}

// tryAgain has a journal look at its disk, as it does by itself every second.
func tryAgain(j *Journal) {
	j.writing <- struct{}{}
	_ = j.mend()
	<-j.writing
	j.note()
}

// notes are the texts of the journal's own records.
func notes(records []*Record) (texts []string) {
	for _, r := range records {
		if r.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE {
			texts = append(texts, r.GetNote())
		}
	}
	return texts
}

// TestFullDisk fills a disk: then what narrows, and how things ended, is still written, as far as the reserve goes, and nothing else; what is
// beyond it is written late; with room again, all is.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	d := &smallDisk{FS: vfs.NewMem()}
	d.left.Store(40 << 10)
	cfg := testConfig(d)
	cfg.ReserveBytes, cfg.Sync = 8<<10, true
	j := open(t, cfg)
	n := 0
	for ; ; n++ {
		if _, err := j.Append(t.Context(), Refuse, numbered(n)); err != nil {
			refused(t, err)
			break
		}
	}
	if n < 100 {
		t.Fatalf("only %d records were written", n)
	}
	if err := j.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the journal says that it fails with %v", err)
	}
	written, reserve, late := n, 0, 0
	for first := true; late < 10; n++ {
		sequence, err := j.Append(t.Context(), Keep, numbered(n))
		if err != nil || sequence != uint64(written) {
			t.Fatalf("what narrows is record %d, want %d: %v", sequence, written, err)
		}
		written++
		if sequence < j.Written() {
			reserve++
			if first {
				// Only what uses the reserve is written, though there is room.
				_, err := j.Append(t.Context(), Refuse, numbered(0))
				refused(t, err)
				if sequence, err := j.Append(t.Context(), Reserve, numbered(n+1)); err != nil || sequence != uint64(written) {
					t.Errorf("an end is record %d, want %d: %v", sequence, written, err)
				}
				n++
				written++
			}
			first = false
			continue
		}
		late++
		n++
		_, err = j.Append(t.Context(), Reserve, numbered(n)) // it is told, and kept nevertheless
		refused(t, err)
		late++
		written++
	}
	if reserve < 50 {
		t.Errorf("only %d records were written to the reserve", reserve)
	}
	d.left.Add(10 << 10) // for what is kept, and not for the reserve
	tryAgain(j)
	if got := j.Written(); got != uint64(written) {
		t.Errorf("%d records are written, want %d", got, written)
	}
	_, err := j.Append(t.Context(), Refuse, numbered(0))
	refused(t, err)
	d.left.Add(20 << 10)
	tryAgain(j)
	if err := j.Err(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	add(t, j, Refuse, numbered(n))
	found, err := readAll(d)
	if err != nil {
		t.Fatal(err)
	}
	i, marked := 0, 0
	for _, r := range found {
		if r.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE {
			continue
		}
		if r.GetPermission() != numbered(i).GetPermission() {
			t.Fatalf("record %d is %q, want %q", r.GetSequence(), r.GetPermission(), numbered(i).GetPermission())
		}
		i++
		if r.GetLate() {
			marked++
		}
	}
	if i != n+1 || marked != late {
		t.Errorf("%d records are there, %d of them late; want %d and %d", i, marked, n+1, late)
	}
	if texts := notes(found); len(texts) != 1 || !strings.Contains(texts[0], "3 records were refused") || !strings.Contains(texts[0], "10 records were written late") {
		t.Errorf("the journal notes %q", texts)
	}
}

// TestFullFromTheStart opens a journal on a disk that has no room for the reserve.
func TestFullFromTheStart(t *testing.T) {
	t.Parallel()
	d := &smallDisk{FS: vfs.NewMem()}
	d.left.Store(3 << 10)
	j := open(t, testConfig(d))
	_, err := j.Append(t.Context(), Refuse, numbered(0))
	refused(t, err)
	add(t, j, Keep, numbered(1))
	d.left.Add(20 << 10)
	add(t, j, Refuse, numbered(2)) // the call itself tries again
	if _, err := d.Stat(d.PathJoin(testDir, reserveFile)); err != nil {
		t.Errorf("there is no reserve: %v", err)
	}
}

// TestReserveIsKept opens a journal that has its reserve.
func TestReserveIsKept(t *testing.T) {
	t.Parallel()
	d := &smallDisk{FS: vfs.NewMem()}
	d.left.Store(40 << 10)
	if err := open(t, testConfig(d)).Close(); err != nil {
		t.Fatal(err)
	}
	before := d.left.Load()
	j := open(t, testConfig(d))
	if taken := before - d.left.Load(); taken > 100 || !j.reserved {
		t.Errorf("it took %d bytes to open it, and the reserve is there: %t", taken, j.reserved)
	}
}

// TestAnswerUnrecorded has a journal pass what it cannot write, because the operator said so: with ids that no record has, and a record of how
// many there were.
func TestAnswerUnrecorded(t *testing.T) {
	t.Parallel()
	mem, broken := vfs.NewMem(), atomic.Bool{}
	cfg := testConfig(failing(mem, func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	}))
	cfg.AnswerUnrecorded = true
	j := open(t, cfg)
	add(t, j, Refuse, numbered(0))
	broken.Store(true)
	ids := map[string]bool{j.ID(0): true, j.ID(1): true, j.ID(2): true}
	for i := range 7 {
		sequence := add(t, j, Refuse, numbered(1+i))
		if id := j.ID(sequence); sequence != Unrecorded || len(id) != len(j.ID(0)) || ids[id] {
			t.Fatalf("a record that is not written is %d, with the id %s", sequence, id)
		} else {
			ids[id] = true
		}
	}
	if j.Err() == nil {
		t.Error("the journal does not say that it fails")
	}
	broken.Store(false)
	if sequence := add(t, j, Refuse, numbered(8)); sequence >= j.Written() {
		t.Errorf("once the disk is well a record is %d", sequence)
	}
	found, err := readAll(mem)
	if err != nil || len(found) != 3 {
		t.Fatalf("%d records, %v", len(found), err)
	}
	if texts := notes(found); len(texts) != 1 || !strings.Contains(texts[0], "7 answers were given without a record") {
		t.Errorf("the journal notes %q", texts)
	}
	// A journal that is closed is not one that fails.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = j.Append(t.Context(), Refuse, numbered(9))
	refused(t, err)
}

// TestKeptIsBounded keeps no more in memory than it may, and says how many are lost.
func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	mem, broken := vfs.NewMem(), atomic.Bool{}
	j := open(t, testConfig(failing(mem, func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	})))
	broken.Store(true)
	many := make([]*Record, 1000)
	for i := range many {
		many[i] = &Record{Permission: "view"}
	}
	for i := range 12 {
		sequence, err := j.Append(t.Context(), Keep, many...)
		if want := uint64(i * len(many)); err != nil || i < 10 && sequence != want || i >= 10 && sequence != Unrecorded {
			t.Fatalf("records of a journal that fails: %d, %v, want %d", sequence, err, want)
		}
	}
	broken.Store(false)
	tryAgain(j)
	found, err := readAll(mem)
	if err != nil || len(found) != maxKept+1 || !found[0].GetLate() {
		t.Fatalf("%d records, %v", len(found), err)
	}
	if texts := notes(found); len(texts) != 1 || !strings.Contains(texts[0], "2000 that should have been are lost") {
		t.Errorf("the journal notes %q", texts)
	}
}

// TestStats asks a journal how it is, while it fails and after.
func TestStats(t *testing.T) {
	t.Parallel()
	mem, broken := vfs.NewMem(), atomic.Bool{}
	j := open(t, testConfig(failing(mem, func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	})))
	add(t, j, Refuse, numbered(0))
	broken.Store(true)
	_, err := j.Append(t.Context(), Refuse, numbered(1), numbered(2))
	refused(t, err)
	add(t, j, Keep, numbered(3))
	got := j.Stats()
	if want := (Stats{Records: 1, Batches: 1, Bytes: got.Bytes, Failures: 1, Refused: 2, Late: 1, InMemory: 1}); got != want || got.Bytes == 0 {
		t.Errorf("while it fails: %+v, want %+v", got, want)
	}
	broken.Store(false)
	tryAgain(j)
	got = j.Stats()
	// The late one, and a note of it.
	if want := (Stats{Records: 3, Batches: 2, Bytes: got.Bytes, Failures: 1, Refused: 2, Late: 1}); got != want {
		t.Errorf("afterwards: %+v, want %+v", got, want)
	}
}
