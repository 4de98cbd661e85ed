package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A log of Pebble's consists of blocks of 32 KiB, and a block of chunks, none of which crosses into the next
// block; what is left of a block and too short for a header is filled up:
//
//	checksum   CRC-32C of what follows, rotated (4 bytes)
//	length     of the payload (2)
//	type       9 to 12 (1)
//	log        the log's number, so that a file can be used again (4)
//	synced     up to where the log was synced when the chunk was written (8)
//	payload    a transaction, or a part of one
//
// Reading a log, Pebble takes a chunk that it cannot read for the end, where a crash tore a write, unless a
// block after that one begins with chunks that were written after the unreadable one had been synced. So
// with Pebble alone a byte that is changed in the last 32 KiB would take away all commits after it, and
// nobody would know. checkLog looks at all that follows, byte by byte.
//
// What cannot be told from a torn write here: a log that is cut, or changed after the last chunk that promises
// anything, which is about the last group of commits. And a log whose file is gone, unless the store has
// nothing else: an opening that was cut short may leave none. The manifest has the same weakness. See history.go
// for what finds those.
const (
	logBlock       = 32 << 10
	logHeader      = 19
	logFirstType   = 9
	logLastType    = 12
	logSyncedBegin = 11
)

// checkLogs looks for damage in a directory's logs.
func checkLogs(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, ".log"), 10, 64)
		if err != nil || !isLog(name) {
			continue
		}
		content, err := readFile(fs, fs.PathJoin(dir, name))
		if err != nil {
			return err
		}
		if at, ok := checkLog(content, uint32(number)); !ok { //nolint:gosec // so does Pebble
			return broken(fmt.Errorf("the log %s is unreadable at byte %d, and goes on after that", name, at)) //nolint:err113 // broken says which error it is
		}
	}
	return nil
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return content, err
}

// checkLog returns false if a chunk is unreadable that had been synced, and where it is.
func checkLog(content []byte, number uint32) (at int, ok bool) {
	for at < len(content) {
		if logBlock-at%logBlock < logHeader {
			at += logBlock - at%logBlock
			continue
		}
		_, length, ok := readChunk(content, at, number)
		if !ok {
			break
		}
		at += length
	}
	for later := at + 1; later < len(content); later++ {
		if synced, _, ok := readChunk(content, later, number); ok && synced > uint64(at) {
			return at, false
		}
	}
	return 0, true
}

// readChunk reads the chunk at an offset, if one is there: up to where the log was synced when it was
// written, and its length.
func readChunk(content []byte, at int, number uint32) (synced uint64, length int, ok bool) {
	inBlock := content[at:min(len(content), at+logBlock-at%logBlock)]
	if len(inBlock) < logHeader || inBlock[6] < logFirstType || inBlock[6] > logLastType ||
		binary.LittleEndian.Uint32(inBlock[7:]) != number {
		return 0, 0, false
	}
	length = logHeader + int(binary.LittleEndian.Uint16(inBlock[4:]))
	if length > len(inBlock) {
		return 0, 0, false
	}
	sum := crc32.Checksum(inBlock[6:length], castagnoli)
	if (sum>>15|sum<<17)+0xa282ead8 != binary.LittleEndian.Uint32(inBlock) {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint64(inBlock[logSyncedBegin:]), length, true
}
