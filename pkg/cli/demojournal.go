package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// demoEvidence is what verifying the demo's journal came to: as the server left it, and after a recorded refusal was made an allowed one.
type demoEvidence struct {
	// Records is how many records the journal has.
	Records uint64 `json:"records"`
	// Verified says that all were found to be as they were written.
	Verified bool `json:"verified"`
	// Changed is the record that was changed, About the permission and the object that it refuses, and Found what verifying said of that; nil if it
	// was not found out.
	Changed uint64             `json:"changed"`
	About   string             `json:"about"`
	Found   *verifyProblemJSON `json:"found"`
}

// ok reports whether the journal was as it was written, and the change was found where it was made.
func (e *demoEvidence) ok() bool {
	return e.Verified && e.Found != nil && e.Found.Sequence == e.Changed
}

// lines tell it.
func (e *demoEvidence) lines() string {
	const unexpected = " This is not as expected."
	text := "Evidence: every answer is recorded in a journal, and a record that somebody changes is found.\n"
	if e.Verified {
		text += "  deputy journal verify: ok, every record of this run is as it was written.\n"
	} else {
		text += "  deputy journal verify: NOT ok, and nobody has changed a record." + unexpected + "\n"
	}
	text += fmt.Sprintf("  One byte is changed: the last refusal (%s) now reads as allowed.\n", e.About)
	switch {
	case e.Found == nil:
		text += "  deputy journal verify: ok." + unexpected + "\n"
	case e.Found.Sequence != e.Changed:
		text += fmt.Sprintf("  deputy journal verify: NOT ok, record %d is not as it was written. Record %d was changed.%s\n",
			e.Found.Sequence, e.Changed, unexpected)
	default:
		text += fmt.Sprintf("  deputy journal verify: NOT ok, record %d is not as it was written.\n", e.Found.Sequence)
	}
	return text
}

// verifyJournal verifies the journal that the demo's server left in a data directory, changes one byte of it, verifies it again, and changes the
// byte back.
func (r *demoRun) verifyJournal(ctx context.Context, dataDir string) error {
	dir := daemon.JournalDir(dataDir)
	report, err := verify.Run(ctx, verify.Options{Dir: dir})
	if err != nil {
		return err
	}
	r.evidence = &demoEvidence{Records: report.Records, Verified: len(report.Problems) == 0}
	path, at, refusal, err := lastRefusal(dir)
	if err != nil {
		return err
	}
	r.evidence.Changed = refusal.GetSequence()
	r.evidence.About = refusal.GetPermission() + " " + refusal.GetResourceType() + ":" + refusal.GetResourceId()
	if err := changeByte(path, at, byte(deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION)); err != nil {
		return err
	}
	report, err = verify.Run(ctx, verify.Options{Dir: dir})
	if err := errors.Join(err, changeByte(path, at, byte(deputy.Permissionship_PERMISSIONSHIP_NO_PERMISSION))); err != nil {
		return err
	}
	if found := newVerifyJSON(report).Problems; len(found) > 0 {
		r.evidence.Found = &found[0]
	}
	return nil
}

// lastRefusal finds, among the records that are still in segments, the last decision that refused: the file, where in it the answer is, and the
// record.
func lastRefusal(dir string) (path string, at int64, refusal *deputy.Record, err error) {
	var last []byte
	segments := journal.NewSegmentReader(vfs.Default, dir)
	first, _, err := segments.First()
	if err != nil {
		return "", 0, nil, err
	}
	if _, err = segments.Read(first, math.MaxUint64, func(_ uint64, record []byte) error {
		r := &deputy.Record{}
		if err := proto.Unmarshal(record, r); err != nil {
			return err
		}
		if r.GetKind() == deputy.RecordKind_RECORD_KIND_DECISION && r.GetAnswer() == deputy.Permissionship_PERMISSIONSHIP_NO_PERMISSION {
			last, refusal = slices.Clone(record), r
		}
		return nil
	}); err != nil {
		return "", 0, nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "segments", "*"))
	if err != nil || last == nil {
		return "", 0, nil, errors.Join(err, errors.New("the journal has no decision that refused"))
	}
	for _, path := range files {
		text, err := os.ReadFile(path) //nolint:gosec // a segment of the demo's own journal
		if err != nil {
			return "", 0, nil, err
		}
		if i := bytes.Index(text, last); i >= 0 {
			return path, int64(i + answerIn(last)), refusal, nil
		}
	}
	return "", 0, nil, errors.New("the last refusal is in no segment")
}

// answerIn returns where in a record's encoding its answer is, which has to be there.
func answerIn(record []byte) int {
	for at := 0; at < len(record); {
		number, kind, n := protowire.ConsumeTag(record[at:])
		if number == 18 {
			return at + n
		}
		at += n + protowire.ConsumeFieldValue(number, kind, record[at+n:])
	}
	return 0
}

// changeByte changes one byte of a file.
func changeByte(path string, at int64, to byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // as above
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{to}, at)
	return errors.Join(err, f.Close())
}
