package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// A segment is a file of records as they came. All numbers are little-endian.
//
//	header  "deputy journal 1" (16 bytes)
//	        sequence of the first record (8)
//	        CRC-32C of the 24 bytes before (4)
//	frame   length of the record (4)
//	        CRC-32C of the length, the MAC and the record (4)
//	        MAC of the length and the record (16), see frameMAC
//	        the record: an encoded deputy.v1.Record, whose first field is its sequence
//	frame   …
//
// The CRC tells a frame that was written whole from one that was not, and can be checked without a key. The MAC shows that this
// journal's server wrote the record, at this place: its sequence is part of it. A segment ends where the next one begins, whatever it
// has after that: those are records of a write that failed, which nobody was told of. The last one ends with its last whole frame,
// behind which there can be zeros (see ahead.go). A frame whose sum is wrong ends it too, which is what a crash in the middle of a write
// leaves.
const (
	segmentMagic  = "deputy journal 1"
	segmentHeader = len(segmentMagic) + 8 + 4
	frameHeader   = 4 + 4 + macSize
)

// MaxRecord is how long the encoding of a record may be, in bytes: an entry of C2SP tlog-tiles has a length of 16 bits.
const MaxRecord = 1<<16 - 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The same, for code that reads segments without opening the journal.
const (
	// SegmentHeader is how long the header of a segment is, in bytes.
	SegmentHeader = segmentHeader
	// FrameHeader is how long a frame is without its record, in bytes.
	FrameHeader = frameHeader
)

// SegmentName is the name of the segment that begins with a record.
func SegmentName(first uint64) string { return segmentName(first) }

// segmentName is the name of the segment that begins with a record.
func segmentName(first uint64) string { return fmt.Sprintf("%020d", first) }

// segmentFirst is the sequence in a segment's name; false for a name that is none.
func segmentFirst(name string) (uint64, bool) {
	first, err := strconv.ParseUint(name, 10, 64)
	return first, err == nil && segmentName(first) == name
}

// appendSegmentHeader appends the header of a segment.
func appendSegmentHeader(b []byte, first uint64) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseSegmentHeader returns the sequence of a segment's first record.
func parseSegmentHeader(b []byte) (first uint64, err error) {
	if len(b) < segmentHeader || string(b[:len(segmentMagic)]) != segmentMagic {
		return 0, errors.New("it does not begin as a segment does")
	}
	body, sum := b[:segmentHeader-4], binary.LittleEndian.Uint32(b[segmentHeader-4:segmentHeader])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, errors.New("the sum of its header is wrong")
	}
	return binary.LittleEndian.Uint64(body[len(segmentMagic):]), nil
}

// frameSum is the CRC-32C of a frame: of all that it has but the sum itself.
func frameSum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:4], castagnoli), castagnoli, frame[8:])
}

// frameOf is the first of the frames in b, whose lengths are right.
func frameOf(b []byte) []byte { return b[:frameHeader+binary.LittleEndian.Uint32(b)] }

// segment is the segment that is written to. It belongs to the goroutine that writes.
type segment struct {
	file vfs.File
	path string
	// first is the sequence of its first record, and size how long it is.
	first uint64
	size  int64
	// room is how long its file is with the room that is made ahead, 0 where none is, and noRoom says that none can be made.
	room   int64
	noRoom bool
	// broken says that a sync of it failed. Journal.unsynced.syncing guards it.
	broken bool
}

// newSegment is what a file's name ends with until it is whole.
const newSegment = ".new"

// createSegment makes the segment that begins with a record, and has frames, durably: under its name there is no such segment, or all of it. It
// replaces one that begins with the same record.
func createSegment(fs vfs.FS, dir string, first uint64, frames ...[]byte) (*segment, error) {
	path := fs.PathJoin(dir, segmentName(first))
	file, err := fs.Create(path+newSegment, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("cannot create a segment: %w", err)
	}
	s := &segment{file: file, path: path, first: first}
	// The frames may be needed again, and a write may change what it is given, see vfs.File.
	for _, b := range append([][]byte{appendSegmentHeader(nil, first)}, frames...) {
		if err = s.write(slices.Clone(b), false); err != nil {
			break
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = fs.Rename(path+newSegment, path)
	}
	if err == nil {
		err = tree.SyncDir(fs, dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot begin a segment: %w", err), file.Close())
	}
	return s, nil
}

// write appends bytes.
func (s *segment) write(b []byte, sync bool) error {
	if len(b) > 0 {
		n, err := s.file.Write(b)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("cannot write: %w", err)
		}
		s.size += int64(n)
	}
	if sync {
		if err := s.file.SyncData(); err != nil {
			return fmt.Errorf("cannot sync: %w", err)
		}
	}
	return nil
}
