package journal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// testOrigin names a journal of these tests.
const testOrigin = "deputy/store/journal/0011223344556677"

// sumOf is the sum of a frame, by docs/journal.md.
func sumOf(frame []byte) uint32 {
	return crc32.Checksum(slices.Concat(frame[:4], frame[8:]), crc32.MakeTable(crc32.Castagnoli))
}

// macOf is the MAC of a frame, by docs/journal.md.
func macOf(t testing.TB, secret []byte, origin string, frame []byte) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, secret, nil, "deputy journal: the records of "+origin, 32)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, key)
	h.Write(slices.Concat(frame[:4], frame[24:]))
	return h.Sum(nil)[:16]
}

// framedBy is a record in the frame that the journal with an origin writes.
func framedBy(t testing.TB, secret []byte, origin string, sequence uint64) []byte {
	t.Helper()
	frame, err := appendFrames(nil, []*Record{numbered(int(sequence))})
	if err != nil {
		t.Fatal(err)
	}
	number(frame, sequence)
	copy(frame[8:], macOf(t, secret, origin, frame))
	binary.LittleEndian.PutUint32(frame[4:], sumOf(frame))
	return frame
}

// forged is a segment in which the frame at an offset is changed, and its sum is made right again, as anybody can.
func forged(segment []byte, at int, change func(frame []byte)) []byte {
	segment = slices.Clone(segment)
	frame := segment[at:][:24+binary.LittleEndian.Uint32(segment[at:])]
	change(frame)
	binary.LittleEndian.PutUint32(frame[4:], sumOf(frame))
	return segment
}

// onDisk is a journal on the disk that signs nothing by itself but when it is opened and closed.
func onDisk(t *testing.T) Config {
	t.Helper()
	cfg := signedConfig(t, nil)
	cfg.Dir, cfg.SegmentBytes, cfg.CheckpointInterval = filepath.Join(t.TempDir(), "journal"), 1<<20, time.Hour
	return cfg
}

// writtenElsewhere is the frame that another journal under the same keys has of a record.
func writtenElsewhere(t *testing.T, keys *Keys, sequence int) []byte {
	t.Helper()
	cfg := onDisk(t)
	cfg.Keys = keys
	j := open(t, cfg)
	for i := range sequence + 1 {
		add(t, j, Refuse, numbered(i))
	}
	b, err := os.ReadFile(filepath.Join(cfg.Dir, segmentsDir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	return b[frameAt(b, sequence):frameAt(b, sequence+1)]
}

// bend changes a file in place, as somebody does who can write to the directory while the server has it open.
func bend(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b = change(b)
		err = errors.Join(os.Truncate(path, int64(len(b))), os.WriteFile(path, b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRunningJournalSignsOnlyItsOwn: somebody changes the segment that a journal writes, with sums that are right, before it is sealed. Nothing is
// signed any more, and the error says which record it is. Once the segment is as it was, the journal is sealed again.
func TestRunningJournalSignsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(b []byte, keys *Keys) []byte
		want   string
	}{
		"a record is changed": {func(b []byte, _ *Keys) []byte {
			return forged(b, frameAt(b, 7), func(frame []byte) { frame[len(frame)-1] ^= 1 })
		}, "the MAC of record 7 is wrong"},
		"a record is another journal's": {func(b []byte, keys *Keys) []byte {
			return slices.Concat(b[:frameAt(b, 7)], writtenElsewhere(t, keys, 7), b[frameAt(b, 8):])
		}, "the MAC of record 7 is wrong"},
		"records change places, and say so": {func(b []byte, _ *Keys) []byte {
			seventh, eighth, end := frameAt(b, 7), frameAt(b, 8), frameAt(b, 9)
			swapped := slices.Concat(b[:seventh], b[eighth:end], b[seventh:eighth], b[end:])
			swapped = forged(swapped, frameAt(swapped, 7), func(frame []byte) { binary.LittleEndian.PutUint64(frame[25:], 7) })
			return forged(swapped, frameAt(swapped, 8), func(frame []byte) { binary.LittleEndian.PutUint64(frame[25:], 8) })
		}, "the MAC of record 7 is wrong"},
		"it is cut":                 {func(b []byte, _ *Keys) []byte { return b[:frameAt(b, 9)] }, "record 9 was written, and is not there any more"},
		"it is cut within a record": {func(b []byte, _ *Keys) []byte { return b[:frameAt(b, 9)+30] }, "record 9 was written, and is not there any more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := onDisk(t)
			j := open(t, cfg)
			for i := range 12 {
				add(t, j, Refuse, numbered(i))
			}
			path := filepath.Join(cfg.Dir, segmentsDir, segmentName(0))
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bend(t, path, func(b []byte) []byte { return test.change(b, cfg.Keys) })
			signed := j.Sealing().Checkpoint
			if err := j.sealer.try(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("it is sealed with the error %v, want %q", err, test.want)
			}
			if s := j.Sealing(); s.Err == nil || s.Records != 0 || string(s.Checkpoint) != string(signed) {
				t.Errorf("%d records are signed, and the error is %v", s.Records, s.Err)
			}
			live, err := j.Reader(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := live.Query(t.Context(), &Query{}, nil, func(Found) (bool, error) { return true, nil }); err == nil {
				t.Error("the server answers with records that are not as they were written")
			}
			bend(t, path, func([]byte) []byte { return before })
			add(t, j, Refuse, numbered(12))
			if err := j.sealer.try(); err != nil || j.Sealing().Records != 13 {
				t.Errorf("once the segment is as it was, %d records are signed: %v", j.Sealing().Records, err)
			}
		})
	}
}

// TestStartSignsOnlyItsOwn: somebody changes the directory of a server that was killed before its last records were signed, with sums that are right. It
// is not opened, and the error says where, and what to do.
func TestStartSignsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	const records = 300
	cfg := onDisk(t)
	j := open(t, cfg)
	for i := range records {
		add(t, j, Refuse, numbered(i))
	}
	killed := filepath.Join(t.TempDir(), "journal")
	if err := errors.Join(os.CopyFS(killed, os.DirFS(cfg.Dir)), j.Close()); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(segmentsDir, segmentName(0))
	in := func(change func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			bend(t, filepath.Join(dir, segment), change)
		}
	}
	other := signedConfig(t, nil)
	for name, test := range map[string]struct {
		bend func(t *testing.T, dir string)
		keys *Keys
		want []string // nil: it is opened
	}{
		"as it was": {func(*testing.T, string) {}, cfg.Keys, nil},
		"a record is made up": {in(func(b []byte) []byte {
			frame := framedBy(t, cfg.Keys.secret, testOrigin, records)
			copy(frame[8:24], make([]byte, 16))
			return forged(append(b, frame...), len(b), func([]byte) {})
		}), cfg.Keys, []string{"the MAC of record 300 is wrong", "move it away"}},
		"a record is another journal's": {in(func(b []byte) []byte {
			return append(b, writtenElsewhere(t, cfg.Keys, records)...)
		}), cfg.Keys, []string{"the MAC of record 300 is wrong", "move it away"}},
		"a record is changed": {in(func(b []byte) []byte {
			return forged(b, frameAt(b, 5), func(frame []byte) { frame[len(frame)-1] ^= 1 })
		}), cfg.Keys, []string{"the MAC of record 5 is wrong", "move it away"}},
		"a MAC is changed": {in(func(b []byte) []byte {
			return forged(b, frameAt(b, 5), func(frame []byte) { frame[23] ^= 1 })
		}), cfg.Keys, []string{"the MAC of record 5 is wrong"}},
		"the secret is another": {
			func(*testing.T, string) {}, &Keys{secret: other.Keys.secret, seed: cfg.Keys.seed}, []string{"the MAC of record 0 is wrong", "secret.key", "bring it back"},
		},
		"all keys are others": {func(*testing.T, string) {}, other.Keys, []string{"signing.key", "bring back that file"}},
		// Its records are those of the segment, and what it has of them is never looked at.
		"a bundle and its tile are made up": {func(t *testing.T, dir string) {
			t.Helper()
			writeBundle(t, dir, 0)
		}, cfg.Keys, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bent := cfg
			bent.Dir, bent.Keys = filepath.Join(t.TempDir(), "journal"), test.keys
			if err := os.CopyFS(bent.Dir, os.DirFS(killed)); err != nil {
				t.Fatal(err)
			}
			test.bend(t, bent.Dir)
			again, err := Open(bent)
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := again.Close(); err != nil || again.Sealing().Records != records {
					t.Fatalf("%d records are signed: %v", again.Sealing().Records, err)
				}
				if root, err := again.Tree().Root(records); err != nil || root != rootOf(t, killed) {
					t.Errorf("other records are signed than were written: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("it is opened", again.Close())
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it is refused with %q, want %q", err, want)
				}
			}
		})
	}
}

// writeBundle writes a bundle of records that nobody asked for, and the tile over it.
func writeBundle(t *testing.T, dir string, n uint64) {
	t.Helper()
	records := make([][]byte, tree.Width)
	var tile []byte
	for i := range records {
		records[i] = framedBy(t, make([]byte, MinSecret), testOrigin, n*tree.Width+uint64(i))[frameHeader:]
		records[i] = append(records[i], 0x22, 1, 'x')
		hash := tlog.RecordHash(records[i])
		tile = append(tile, hash[:]...)
	}
	bundle, err := tree.EncodeBundle(records)
	for path, b := range map[string][]byte{tree.BundlePath(n): bundle, tree.TilePath(0, n): tile} {
		path = filepath.Join(dir, filepath.FromSlash(path))
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rootOf is the root over the records in the segments of a journal.
func rootOf(t *testing.T, dir string) tlog.Hash {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = hashes[index]
		}
		return out, nil
	})
	n := int64(0)
	_, err := NewSegmentReader(nil, dir).Read(0, 1<<62, func(_ uint64, record []byte) error {
		stored, err := tlog.StoredHashes(n, record, reader)
		hashes = append(hashes, stored...)
		n++
		return err
	})
	root, hashErr := tlog.TreeHash(n, reader)
	if err = errors.Join(err, hashErr); err != nil {
		t.Fatal(err)
	}
	return root
}

// BenchmarkMAC computes the MAC of a record of a decision, which is what a frame costs more than its sum.
func BenchmarkMAC(b *testing.B) {
	frame, err := appendFrames(nil, []*Record{typical()})
	if err != nil {
		b.Fatal(err)
	}
	mac := newFrameMAC(make([]byte, MinSecret))
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		mac.of(frame)
	}
}
