package journal_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// This file is a second verifier of journals. It knows what docs/journal.md publishes of their files, C2SP's tlog-tiles, tlog-checkpoint and
// signed-note, and RFC 6962, and uses nothing of Deputy: a reader who does not trust Deputy's verifier can write one like it. It is simple and
// slow, and reads journals of which nothing was removed.

// found is what the second verifier found: the first record that is not as it was written, as far as it can tell, and why.
type found struct {
	record uint64
	why    string
}

// second is one run of the second verifier over the files of a journal, by their paths.
type second struct {
	files  map[string][]byte
	leaves [][32]byte
	wrong  []found
}

// verifySecond returns what is wrong with a journal, by record. key verifies its checkpoint, in the notation of C2SP signed-note.
func verifySecond(files map[string][]byte, key string) []found {
	s := &second{files: files}
	s.all(key)
	slices.SortStableFunc(s.wrong, func(a, b found) int { return int(a.record) - int(b.record) })
	return s.wrong
}

func (s *second) note(record uint64, why string, args ...any) {
	s.wrong = append(s.wrong, found{record, fmt.Sprintf(why, args...)})
}

// all verifies everything.
func (s *second) all(key string) {
	origin, _, _ := strings.Cut(key, "+")
	if string(s.files["origin"]) != origin+"\n" || string(s.files["verifier.key"]) != key+"\n" {
		s.note(0, "origin or verifier.key are others")
	}
	s.bundles()
	whole := uint64(len(s.leaves))
	s.segments(whole)
	s.tiles(whole)
	size, root, err := openCheckpoint(string(s.files["checkpoint"]), origin, key)
	switch {
	case err != nil:
		s.note(0, "checkpoint: %v", err)
	case size > uint64(len(s.leaves)):
		s.note(uint64(len(s.leaves)), "there are %d records, and the checkpoint is over %d", len(s.leaves), size)
	case treeHash(s.leaves[:size]) != root && len(s.wrong) == 0:
		s.note(0, "the checkpoint is over another root")
	}
}

// treeHash is MTH of RFC 6962, section 2.1.
func treeHash(leaves [][32]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		left, right := treeHash(leaves[:k]), treeHash(leaves[k:])
		return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
	}
}

// leafHash is the hash of a leaf.
func leafHash(record []byte) [32]byte { return sha256.Sum256(append([]byte{0}, record...)) }

// standsAt reports whether a record says that it has a place: its first field is number 1, fixed64.
func standsAt(record []byte, place uint64) bool {
	return len(record) >= 9 && record[0] == 0x09 && binary.LittleEndian.Uint64(record[1:]) == place
}

// tilePath is where tlog-tiles puts a number.
func tilePath(n int) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	return path
}

// bundles reads bundles until one is missing.
func (s *second) bundles() {
	for n := 0; ; n++ {
		first := uint64(n) * 256
		b, there := s.files["tile/entries/"+tilePath(n)+".zst"]
		if !there {
			for path := range s.files {
				if rest, ok := strings.CutPrefix(path, "tile/entries/"); ok && rest > tilePath(n)+".zst" {
					s.note(first, "a bundle is missing, and another follows")
					return
				}
			}
			return
		}
		entries, ok := openBundle(b)
		if !ok {
			s.note(first, "a bundle is damaged")
			entries = make([][]byte, 256)
		}
		tile := s.files["tile/0/"+tilePath(n)]
		for i, entry := range entries {
			hash := leafHash(entry)
			if ok && !standsAt(entry, first+uint64(i)) {
				s.note(first+uint64(i), "another record stands there")
			} else if ok && (len(tile) != 8192 || !bytes.Equal(tile[i*32:i*32+32], hash[:])) {
				s.note(first+uint64(i), "its hash in the tile is another")
			}
			s.leaves = append(s.leaves, hash)
		}
	}
}

// decoder decompresses bundles. It is safe for concurrent use, and its error is of options.
var decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0))

// openBundle takes a bundle apart: a Zstandard frame, and a skippable one with its CRC-32C.
func openBundle(b []byte) (entries [][]byte, ok bool) {
	if len(b) < 12 {
		return nil, false
	}
	frame, end := b[:len(b)-12], b[len(b)-12:]
	want := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0}, crc32.Checksum(frame, crc32.MakeTable(crc32.Castagnoli)))
	if !bytes.Equal(end, want) {
		return nil, false
	}
	raw, err := decoder.DecodeAll(frame, nil)
	for err == nil && len(raw) >= 2 {
		n := int(binary.BigEndian.Uint16(raw))
		if len(raw) < 2+n {
			return nil, false
		}
		entries, raw = append(entries, raw[2:2+n]), raw[2+n:]
	}
	return entries, err == nil && len(raw) == 0 && len(entries) == 256
}

// tiles computes all tiles over whole bundles, and compares.
func (s *second) tiles(whole uint64) {
	for level, width := 0, 1; width*256 <= int(whole); level, width = level+1, width*256 {
		for n := 0; (n+1)*256*width <= int(whole); n++ {
			var want []byte
			for i := n * 256; i < (n+1)*256; i++ {
				hash := treeHash(s.leaves[i*width : (i+1)*width])
				want = append(want, hash[:]...)
			}
			got := s.files[fmt.Sprintf("tile/%d/%s", level, tilePath(n))]
			for i := range 256 {
				if len(got) != len(want) || !bytes.Equal(got[i*32:i*32+32], want[i*32:i*32+32]) {
					s.note(uint64((n*256+i)*width), "a hash in a tile of level %d is another", level)
					break
				}
			}
		}
	}
}

// segments reads the records behind the last bundle, and compares the others.
func (s *second) segments(whole uint64) {
	var firsts []uint64
	for path := range s.files {
		if name, ok := strings.CutPrefix(path, "segments/"); ok {
			if first, err := strconv.ParseUint(name, 10, 64); err == nil {
				firsts = append(firsts, first)
			}
		}
	}
	slices.Sort(firsts)
	for i, first := range firsts {
		b := s.files[fmt.Sprintf("segments/%020d", first)]
		if len(b) < 28 || string(b[:16]) != "deputy journal 1" || binary.LittleEndian.Uint64(b[16:]) != first ||
			binary.LittleEndian.Uint32(b[24:]) != castagnoli(b[:24]) {
			s.note(first, "a segment does not begin as one")
			return
		}
		next := first
		for b = b[28:]; len(b) >= 24 && (i == len(firsts)-1 || next < firsts[i+1]); next++ {
			length := uint64(binary.LittleEndian.Uint32(b))
			if length > uint64(len(b)-24) || castagnoli(b[:4], b[8:24+length]) != binary.LittleEndian.Uint32(b[4:]) {
				break
			}
			record := b[24 : 24+length] // behind a MAC, which takes the journal's secret to check
			b = b[24+length:]
			hash := leafHash(record)
			switch {
			case !standsAt(record, next):
				s.note(next, "another record stands there in a segment")
				return
			case next < whole && hash != s.leaves[next]:
				s.note(next, "a segment and a bundle have another record")
			case next == uint64(len(s.leaves)):
				s.leaves = append(s.leaves, hash)
			case next > uint64(len(s.leaves)):
				s.note(uint64(len(s.leaves)), "the segments begin with a later record")
				return
			}
		}
		if i < len(firsts)-1 && next < firsts[i+1] {
			s.note(next, "a record is missing in a segment, and another segment follows")
			return
		}
	}
}

// castagnoli is the CRC-32C over parts.
func castagnoli(parts ...[]byte) uint32 {
	return crc32.Checksum(slices.Concat(parts...), crc32.MakeTable(crc32.Castagnoli))
}

// openCheckpoint takes a checkpoint apart, which has to be written as one is.
func openCheckpoint(text, origin, key string) (size uint64, root [32]byte, err error) {
	_, rest, _ := strings.Cut(key, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	public, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(public) != 33 || public[0] != 1 {
		return 0, root, fmt.Errorf("the key is not one of Ed25519")
	}
	if sum := sha256.Sum256(slices.Concat([]byte(origin+"\n"), public)); fmt.Sprintf("%x", sum[:4]) != hash {
		return 0, root, fmt.Errorf("the key has another hash")
	}
	lines := strings.Split(text, "\n")
	if len(lines) != 6 || lines[0] != origin || lines[3] != "" || lines[5] != "" {
		return 0, root, fmt.Errorf("it is not written as one")
	}
	if size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return 0, root, fmt.Errorf("it has no size")
	}
	digest, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(digest) != 32 {
		return 0, root, fmt.Errorf("it has no root")
	}
	line, ok := strings.CutPrefix(lines[4], "— "+origin+" ")
	signature, err := base64.StdEncoding.Strict().DecodeString(line)
	if !ok || err != nil || len(signature) != 68 || fmt.Sprintf("%x", signature[:4]) != hash ||
		!ed25519.Verify(public[1:], []byte(strings.Join(lines[:3], "\n")+"\n"), signature[4:]) {
		return 0, root, fmt.Errorf("its signature is not the journal's")
	}
	return size, [32]byte(digest), nil
}
