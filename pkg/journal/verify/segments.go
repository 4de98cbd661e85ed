package verify

import (
	"context"
	"errors"
	iofs "io/fs"
	"math"
	"path"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// rest is what the last segment has behind its last whole record.
type rest struct {
	file          string
	offset, bytes int64
}

// readSteady is readSegments beside a server, which moves records from segments to bundles: as long as the oldest segment that was listed is there
// after the segments were read, the bundles that were listed have all records that these do not have. Otherwise both are looked at again.
func (v *run) readSteady(ctx context.Context) error {
	for again := 20; ; again-- {
		known := len(v.report.Problems)
		err := v.readSegments(ctx)
		if again == 0 || ctx.Err() != nil || len(v.files.segments) == 0 {
			return err
		}
		_, gone := v.FS.Stat(v.FS.PathJoin(v.Dir, "segments", journal.SegmentName(v.files.segments[0])))
		if !errors.Is(gone, iofs.ErrNotExist) {
			return err
		}
		if v.files, err = list(v.FS, v.Dir); err != nil {
			return err
		}
		v.report.Foreign = v.files.foreign
		v.report.Problems, v.segments, v.rest = v.report.Problems[:known], nil, rest{}
	}
}

// readSegments hashes the records of the segments: those that are in no bundle yet, and some that are, which have to be the same.
func (v *run) readSegments(ctx context.Context) error {
	v.oldest = math.MaxUint64
	if len(v.files.segments) == 0 {
		return nil
	}
	v.oldest = v.files.segments[0]
	last := v.files.segments[len(v.files.segments)-1]
	size := int64(journal.SegmentHeader)
	reader := journal.NewSegmentReader(v.FS, v.Dir)
	if v.Secret != nil {
		if err := reader.Authenticate(v.Secret, v.report.Origin); err != nil {
			return err //nolint:wrapcheck // it says what is wrong
		}
		v.report.Authenticated = true
	}
	_, err := reader.Read(v.oldest, math.MaxUint64, func(sequence uint64, record []byte) error {
		if sequence >= last {
			size += int64(journal.FrameHeader + len(record))
		}
		v.segments = append(v.segments, tlog.RecordHash(record))
		return ctx.Err()
	})
	if damage, ok := errors.AsType[*journal.DamageError](err); ok {
		v.problemf(damage.Sequence, "segments/"+path.Base(damage.Path), "at byte %d: %s", damage.Offset, damage.Message)
		return nil
	}
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	name := "segments/" + journal.SegmentName(last)
	unread, err := journal.SegmentRest(v.FS, v.FS.PathJoin(v.Dir, "segments", journal.SegmentName(last)), size)
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	if unread > 0 {
		v.rest = rest{name, size, unread}
		v.report.Unread, v.report.UnreadFrom = v.rest.bytes, v.rest.offset
	}
	return nil
}

// inSegments returns the hash that the segments have of a record; false where they do not have it.
func (v *run) inSegments(sequence uint64) (tlog.Hash, bool) {
	if sequence < v.oldest || sequence-v.oldest >= uint64(len(v.segments)) {
		return tlog.Hash{}, false
	}
	return v.segments[sequence-v.oldest], true
}

// readTail goes on from the last bundle with the segments.
func (v *run) readTail() {
	whole := v.bundles * tree.Width
	switch end := v.oldest + uint64(len(v.segments)); {
	case len(v.segments) == 0 || end <= whole:
	case v.oldest > whole:
		v.problemf(whole, "", "records %d to %d are missing: no bundle has them, and the segments begin with record %d", whole, v.oldest-1, v.oldest)
	default:
		v.tail = v.segments[whole-v.oldest:]
		v.report.Records = end
	}
}
