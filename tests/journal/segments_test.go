package journal_test

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ledger reads a journal's segments while the server writes them: by the format as it is drawn, and with no code of the server's.
type ledger struct {
	t   testing.TB
	dir string
	// next is the sequence of the record that is read next.
	next uint64
}

// fresh returns the records that were written since it was called last.
func (l *ledger) fresh() []*deputyv1.Record {
	l.t.Helper()
	names, err := filepath.Glob(filepath.Join(l.dir, "segments", "*"))
	if err != nil {
		l.t.Fatal(err)
	}
	slices.Sort(names)
	var found []*deputyv1.Record
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || len(b) < 28 || string(b[:16]) != "deputy journal 1" {
			continue
		}
		for b = b[28:]; len(b) >= 24; {
			length := int(binary.LittleEndian.Uint32(b))
			if length > len(b)-24 {
				break
			}
			sum := crc32.Checksum(slices.Concat(b[:4], b[8:24+length]), crc32.MakeTable(crc32.Castagnoli))
			if sum != binary.LittleEndian.Uint32(b[4:]) {
				break
			}
			r := &deputyv1.Record{}
			if err := proto.Unmarshal(b[24:24+length], r); err != nil {
				l.t.Fatalf("%s has a record that cannot be read: %v", name, err)
			}
			b = b[24+length:]
			if r.GetSequence() < l.next {
				continue
			}
			if r.GetSequence() != l.next {
				l.t.Fatalf("record %d comes after record %d", r.GetSequence(), l.next-1)
			}
			l.next++
			found = append(found, r)
		}
	}
	return found
}
