package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

const (
	// segmentsDir is where segments lie within the directory of a journal.
	segmentsDir = "segments"
	// readBuffer is how much of a segment is read at once, in bytes.
	readBuffer = 256 << 10
)

// DamageError says where a journal's segments are not as they were written.
type DamageError struct {
	// Path is the file, and Offset how many of its bytes are as they were written.
	Path   string
	Offset int64
	// Sequence is the first record that is missing, as far as that is known.
	Sequence uint64
	// Message says what is wrong.
	Message string
}

// Error names the file and the offset in it.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s at byte %d: %s", e.Path, e.Offset, e.Message)
}

// SegmentReader reads records out of the segments of a journal in order: beside the process that writes them, or of a copy of the directory. It
// remembers where it stopped, so that reading on from there is cheap, and holds no file open in between. It is not safe for concurrent use.
type SegmentReader struct {
	fs  vfs.FS
	dir string

	// first is the segment that was read last, and next the record that comes next in it, at offset. A segment may be replaced by one that
	// begins with the same records and goes on with others (see mend.go), which is why files are opened anew.
	first  uint64
	next   uint64
	offset int64

	// mac checks the MACs of frames; nil where the journal's secret is not known.
	mac *frameMAC

	// file is open while Read runs.
	file  vfs.File
	path  string
	in    *bufio.Reader
	frame []byte
}

// NewSegmentReader returns a reader of the segments in the directory of a journal. It touches nothing yet. nil stands for the operating
// system's files.
func NewSegmentReader(fs vfs.FS, dir string) *SegmentReader {
	if fs == nil {
		fs = tree.Disk
	}
	return &SegmentReader{fs: fs, dir: fs.PathJoin(dir, segmentsDir)}
}

// Authenticate has Read check that the journal with an origin wrote each record, with its secret: a record whose MAC is wrong is damage. Without it,
// somebody who can write to the directory can have Read return records that no server wrote. Errors: the secret is too short.
func (r *SegmentReader) Authenticate(secret []byte, origin string) error {
	key, err := macKey(secret, origin)
	if err != nil {
		return err
	}
	r.mac = newFrameMAC(key)
	return nil
}

// First returns the oldest record that the segments have; false where there is no segment.
func (r *SegmentReader) First() (sequence uint64, found bool, err error) {
	firsts, err := listSegments(r.fs, r.dir)
	if err != nil || len(firsts) == 0 {
		return 0, false, err
	}
	return firsts[0], true, nil
}

// Read calls each with the records from one sequence to another, which is not among them, in order, and returns the sequence that it came to:
// less than to only where the last segment ends before. record is the encoding and is overwritten after each returns. Where the reader
// is beside a journal that is written, to is at most Journal.Written. Errors: *DamageError where a record is missing that another follows, or that is
// older than the segments; those of reading; those of each, as they are.
func (r *SegmentReader) Read(from, to uint64, each func(sequence uint64, record []byte) error) (next uint64, err error) {
	defer func() {
		if closing := r.close(); err == nil {
			err = closing
		}
	}()
	for next = from; next < to; {
		firsts, err := listSegments(r.fs, r.dir)
		if err != nil {
			return next, err
		}
		i, found := slices.BinarySearch(firsts, next)
		if !found {
			i--
		}
		if i < 0 {
			return next, &DamageError{Path: r.dir, Sequence: next, Message: fmt.Sprintf("no segment has record %d", next)}
		}
		end, last := to, i == len(firsts)-1
		if !last {
			end = min(to, firsts[i+1])
		}
		if next, err = r.readSegment(firsts[i], next, end, each); err != nil {
			return next, err
		}
		if next < end {
			if last {
				return next, nil
			}
			return next, &DamageError{
				Path: r.path, Offset: r.offset, Sequence: next,
				Message: fmt.Sprintf("record %d is missing or damaged, and the next segment begins with record %d", next, firsts[i+1]),
			}
		}
	}
	return next, nil
}

// readSegment reads records from the segment that begins with first, and returns the sequence that it came to: less than end only where the
// segment has no more whole frames.
func (r *SegmentReader) readSegment(first, from, end uint64, each func(uint64, []byte) error) (next uint64, err error) {
	if r.first != first || r.next > from || r.offset == 0 {
		r.first, r.next, r.offset = first, first, int64(segmentHeader)
	}
	if err := r.open(); err != nil {
		return from, err
	}
	for r.next < end {
		frame, err := r.readFrame()
		if err != nil || frame == nil {
			return max(r.next, from), err
		}
		sequence, record := r.next, frame[frameHeader:]
		if r.mac != nil && !r.mac.fits(frame) {
			return max(sequence, from), &DamageError{
				Path: r.path, Offset: r.offset, Sequence: sequence, Message: fmt.Sprintf("the MAC of record %d is wrong: it was changed or added by somebody "+
					"who does not have the journal's %s; or that file is another than it was, then bring it back", sequence, secretFile),
			}
		}
		if got, ok := sequenceOf(record); !ok || got != sequence {
			return max(sequence, from), &DamageError{
				Path: r.path, Offset: r.offset, Sequence: sequence, Message: fmt.Sprintf("this has to be record %d, and it is another", sequence),
			}
		}
		r.next++
		r.offset += int64(len(frame))
		if sequence < from {
			continue
		}
		if err := each(sequence, record); err != nil {
			return r.next, err
		}
	}
	return end, nil
}

// open opens the segment that was chosen, where it stopped.
func (r *SegmentReader) open() error {
	if err := r.close(); err != nil {
		return err
	}
	r.path = r.fs.PathJoin(r.dir, segmentName(r.first))
	file, err := r.fs.Open(r.path, vfs.SequentialReadsOption)
	if err != nil {
		return fmt.Errorf("journal: cannot read a segment: %w", err)
	}
	r.file = file
	header := make([]byte, segmentHeader)
	n, err := file.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("journal: cannot read a segment: %w", err)
	}
	got, err := parseSegmentHeader(header[:n])
	if err == nil && got != r.first {
		err = fmt.Errorf("its header says that it begins with record %d, and its name says another", got)
	}
	if err != nil {
		return &DamageError{Path: r.path, Sequence: r.first, Message: err.Error()}
	}
	if rest := io.NewSectionReader(file, r.offset, math.MaxInt64-r.offset); r.in == nil {
		r.in = bufio.NewReaderSize(rest, readBuffer)
	} else {
		r.in.Reset(rest)
	}
	return nil
}

// readFrame reads the next frame; nil where there is no whole one with the right sum.
func (r *SegmentReader) readFrame() (frame []byte, err error) {
	header, err := r.in.Peek(frameHeader)
	if err != nil {
		return nil, unlessEnd(err)
	}
	length := binary.LittleEndian.Uint32(header)
	if length > MaxRecord {
		return nil, nil
	}
	size := frameHeader + int(length)
	r.frame = slices.Grow(r.frame[:0], size)[:size]
	if _, err := io.ReadFull(r.in, r.frame); err != nil {
		return nil, unlessEnd(err)
	}
	if frameSum(r.frame) != binary.LittleEndian.Uint32(r.frame[4:]) {
		return nil, nil
	}
	return r.frame, nil
}

// unlessEnd is an error of reading; nil where a file ended.
func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("journal: cannot read a segment: %w", err)
}

// close closes the file that is open.
func (r *SegmentReader) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	if err != nil {
		return fmt.Errorf("journal: cannot close a segment: %w", err)
	}
	return nil
}

// sequenceOf returns the sequence that stands at the beginning of a record's encoding.
func sequenceOf(record []byte) (uint64, bool) {
	number, kind, n := protowire.ConsumeTag(record)
	if n != 1 || number != 1 || kind != protowire.Fixed64Type {
		return 0, false
	}
	sequence, n := protowire.ConsumeFixed64(record[1:])
	return sequence, n == sequenceField-1
}

// listSegments returns the first records of the segments in a directory, in order. Files with other names are not segments.
func listSegments(fs vfs.FS, dir string) ([]uint64, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot list the segments: %w", err)
	}
	firsts := make([]uint64, 0, len(names))
	for _, name := range names {
		if first, ok := segmentFirst(name); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}
