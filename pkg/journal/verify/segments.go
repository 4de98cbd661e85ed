package verify

import (
	"context"
	"errors"
	"fmt"
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

// String says so, behind a comma; nothing where there is no rest.
func (r rest) String() string {
	if r.bytes == 0 {
		return ""
	}
	return fmt.Sprintf(", and from byte %d on %s holds no whole record", r.offset, r.file)
}

// readSegments reads the segments: the records that are in no bundle yet, and some that are, which have to be the same.
func (v *run) readSegments(ctx context.Context) error {
	if len(v.files.segments) == 0 {
		return nil
	}
	whole := v.bundles * tree.Width
	last := v.files.segments[len(v.files.segments)-1]
	size := int64(journal.SegmentHeader)
	reader := journal.NewSegmentReader(v.FS, v.Dir)
	_, err := reader.Read(v.oldest, math.MaxUint64, func(sequence uint64, record []byte) error {
		if sequence >= last {
			size += int64(journal.FrameHeader + len(record))
		}
		hash := tlog.RecordHash(record)
		switch {
		case sequence >= whole:
			if v.report.Records < sequence {
				v.problem(v.report.Records, "", "records %d to %d are missing: no bundle has them, and the segments begin with record %d",
					v.report.Records, sequence-1, sequence)
				return errStop
			}
			v.tail = append(v.tail, hash)
			v.report.Records = sequence + 1
		case sequence >= v.report.Minimum:
			leaves, err := v.leavesOf(sequence / tree.Width)
			if err == nil && leaves[sequence%tree.Width] != hash {
				v.problem(sequence, "segments/"+v.files.segmentOf(sequence), "record %d is another one than in %s", sequence,
					tree.BundlePath(sequence/tree.Width))
			}
		}
		return ctx.Err()
	})
	if errors.Is(err, errStop) {
		return nil
	}
	if damage, ok := errors.AsType[*journal.DamageError](err); ok {
		v.problem(damage.Sequence, "segments/"+path.Base(damage.Path), "at byte %d: %s", damage.Offset, damage.Message)
		return nil
	}
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	name := "segments/" + journal.SegmentName(last)
	info, err := v.FS.Stat(v.FS.PathJoin(v.Dir, name))
	if err != nil {
		return fmt.Errorf("cannot read a segment: %w", err)
	}
	if info.Size() > size {
		v.rest = rest{name, size, info.Size() - size}
	}
	return nil
}

// errStop ends the reading of segments.
var errStop = errors.New("there is nothing to go on from")
