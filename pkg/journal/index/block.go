package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	blockSize = 512
	payload   = blockSize - 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is the error of a file that is not as it was written.
var errDamaged = errors.New("it is not as it was written")

// sum is what a block ends with.
func sum(group, number uint64, said []byte) uint32 {
	var at [16]byte
	binary.LittleEndian.PutUint64(at[:], group)
	binary.LittleEndian.PutUint64(at[8:], number)
	return crc32.Update(crc32.Checksum(at[:], castagnoli), castagnoli, said)
}

// appendBlock appends a block that says something, payload bytes at most; b consists of whole blocks.
func appendBlock(b []byte, group uint64, said []byte) []byte {
	start := len(b)
	b = append(b, said...)
	b = append(b, make([]byte, payload-len(said))...)
	return binary.LittleEndian.AppendUint32(b, sum(group, uint64(start/blockSize), b[start:]))
}

// readBlock reads what a block says into b, which has blockSize bytes.
func readBlock(file io.ReaderAt, group, number uint64, b []byte) ([]byte, error) {
	if n, err := file.ReadAt(b, int64(number)*blockSize); n < len(b) { //nolint:gosec // files are far shorter
		if errors.Is(err, io.EOF) {
			return nil, errDamaged
		}
		return nil, fmt.Errorf("cannot read: %w", err)
	}
	if sum(group, number, b[:payload]) != binary.LittleEndian.Uint32(b[payload:]) {
		return nil, errDamaged
	}
	return b[:payload], nil
}
