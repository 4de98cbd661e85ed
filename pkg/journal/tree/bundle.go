package tree

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// A bundle at rest is one Zstandard frame, which holds the entry bundle of C2SP tlog-tiles, and a skippable frame, which Zstandard's tools pass
// over. All its numbers are little-endian.
//
//	frame      Zstandard's
//	magic      0x184D2A50 (4 bytes)
//	length     4 (4)
//	CRC-32C    of the frame (4)
//
// The records are what the tree proves. The sum is there so that no byte of the file can change unnoticed, not even one that means nothing.
const (
	skippable = 0x184D2A50
	trailer   = 12
)

// MaxRecord is how long a record may be, in bytes: an entry has a length of 16 bits.
const MaxRecord = 1<<16 - 1

// maxBundle is how long a bundle is at most, uncompressed.
const maxBundle = Width * (2 + MaxRecord)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The coders are safe for concurrent use. Their errors are of options, which are constant. A bundle is short, so that the sizes which the
// first three levels come to differ by two hundredths, and the third takes three times as long as the first: most of it to clear tables that
// are made for long texts.
var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBundle))
)

// EncodeBundle encodes the records of a whole bundle as they lie on disk. Errors: another number of records than Width, or one that is
// longer than MaxRecord.
func EncodeBundle(records [][]byte) ([]byte, error) {
	raw, err := AppendEntries(nil, records)
	if err != nil {
		return nil, err
	}
	b := encoder.EncodeAll(raw, nil)
	sum := crc32.Checksum(b, castagnoli)
	b = binary.LittleEndian.AppendUint32(b, skippable)
	b = binary.LittleEndian.AppendUint32(b, 4)
	return binary.LittleEndian.AppendUint32(b, sum), nil
}

// AppendEntries appends the entry bundle of C2SP tlog-tiles that has these records. Errors: those of EncodeBundle.
func AppendEntries(b []byte, records [][]byte) ([]byte, error) {
	if len(records) != Width {
		return nil, fmt.Errorf("a bundle has %d records, not %d", Width, len(records))
	}
	for _, r := range records {
		if len(r) > MaxRecord {
			return nil, fmt.Errorf("a record of %d bytes is longer than a bundle can hold", len(r))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(r))) //nolint:gosec // at most MaxRecord
		b = append(b, r...)
	}
	return b, nil
}

// Bundles decodes bundles, one after the other, into the same memory. The zero value is ready. It is not safe for concurrent use.
type Bundles struct {
	raw     []byte
	records [][]byte
}

// Decode returns the records of a bundle as it lies on disk. They are good until the next call. Errors: it is not as EncodeBundle
// writes it.
func (d *Bundles) Decode(b []byte) ([][]byte, error) {
	end := len(b) - trailer
	if end < 0 || binary.LittleEndian.Uint32(b[end:]) != skippable || binary.LittleEndian.Uint32(b[end+4:]) != 4 ||
		binary.LittleEndian.Uint32(b[end+8:]) != crc32.Checksum(b[:end], castagnoli) {
		return nil, errors.New("its checksum does not match")
	}
	if err := d.decode(b[:end]); err != nil {
		return nil, err
	}
	return d.records, nil
}

// Salvage returns the first records of a bundle that Decode refused, as many as can be read: to say which one is damaged. They are good until
// the next call, and may have been changed.
func (d *Bundles) Salvage(b []byte) [][]byte {
	d.records = d.records[:0]
	_ = d.decode(b[:max(0, len(b)-trailer)]) // what came before the error is wanted
	return d.records
}

// decode decodes the frame of a bundle. With an error, records are those before it.
func (d *Bundles) decode(frame []byte) error {
	d.records = d.records[:0]
	raw, err := decoder.DecodeAll(frame, d.raw[:0])
	if err != nil {
		err = fmt.Errorf("it cannot be decompressed: %w", err)
	}
	d.raw = raw
	for range Width {
		if len(raw) < 2 || len(raw)-2 < int(binary.BigEndian.Uint16(raw)) {
			return cmp.Or(err, errors.New("it ends in the middle of a record"))
		}
		n := 2 + int(binary.BigEndian.Uint16(raw))
		d.records = append(d.records, raw[2:n:n])
		raw = raw[n:]
	}
	if len(raw) > 0 {
		return cmp.Or(err, fmt.Errorf("%d bytes follow its last record", len(raw)))
	}
	return err
}

// DecodeBundle returns the records of a bundle as it lies on disk. Errors: it is not as EncodeBundle writes it.
func DecodeBundle(b []byte) ([][]byte, error) { return new(Bundles).Decode(b) }
