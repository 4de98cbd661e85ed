package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// damaged is a journal of 60 records in several segments, closed, in which a test damages something.
func damaged(t *testing.T) (fs *vfs.MemFS, segments []string) {
	t.Helper()
	fs = vfs.NewMem()
	j := open(t, testConfig(fs))
	for i := range 60 {
		add(t, j, Refuse, numbered(i))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	firsts, err := listSegments(fs, j.segments)
	if err != nil || len(firsts) < 3 {
		t.Fatalf("there are the segments %v, %v", firsts, err)
	}
	for _, first := range firsts {
		segments = append(segments, fs.PathJoin(j.segments, segmentName(first)))
	}
	return fs, segments
}

// content reads a file.
func content(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// put writes a file.
func put(t testing.TB, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(slices.Clone(b)) // which it may change
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// frameAt is where the n-th frame of a segment begins.
func frameAt(segment []byte, n int) int {
	at := segmentHeader
	for range n {
		at += frameHeader + int(binary.LittleEndian.Uint32(segment[at:]))
	}
	return at
}

// TestDamage damages a segment in all ways that a crash does not: the journal is not opened, and the message says where, and what to do.
func TestDamage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		damage func(t *testing.T, fs vfs.FS, segments []string)
		want   string
	}{
		"a byte of a record in the middle": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[0])
			b[frameAt(b, 3)+20] ^= 1
			put(t, fs, s[0], b)
		}, "record 3 is missing or damaged"},
		"a record is gone": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[0])
			put(t, fs, s[0], append(b[:frameAt(b, 2):frameAt(b, 2)], b[frameAt(b, 3):]...))
		}, "this has to be record 2, and it is another"},
		"a record twice": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[1])
			put(t, fs, s[1], append(b[:frameAt(b, 2):frameAt(b, 2)], b[frameAt(b, 1):]...))
		}, "and it is another"},
		"two records change places": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[0])
			first, second, third := frameAt(b, 0), frameAt(b, 1), frameAt(b, 2)
			swapped := append(append(append([]byte{}, b[:first]...), b[second:third]...), b[first:second]...)
			put(t, fs, s[0], append(swapped, b[third:]...))
		}, "this has to be record 0, and it is another"},
		"a segment is gone": {func(t *testing.T, fs vfs.FS, s []string) {
			if err := fs.Remove(s[1]); err != nil {
				t.Fatal(err)
			}
		}, "is missing or damaged, and the next segment begins with record"},
		"a segment ends early": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[0])
			put(t, fs, s[0], b[:frameAt(b, 4)])
		}, "record 4 is missing or damaged"},
		"the header of the last segment": {func(t *testing.T, fs vfs.FS, s []string) {
			b := content(t, fs, s[len(s)-1])
			b[17] ^= 1
			put(t, fs, s[len(s)-1], b)
		}, "at byte 0: the sum of its header is wrong"},
		"a segment is empty": {func(t *testing.T, fs vfs.FS, s []string) { put(t, fs, s[1], nil) }, "at byte 0: it does not begin as a segment does"},
		"a segment has another's name": {func(t *testing.T, fs vfs.FS, s []string) {
			put(t, fs, s[1], content(t, fs, s[0]))
		}, "its header says that it begins with record 0, and its name says another"},
		"the name of the journal": {func(t *testing.T, fs vfs.FS, _ []string) {
			if err := fs.Remove(path.Join(testDir, originFile)); err != nil {
				t.Fatal(err)
			}
		}, `the file "origin", which names the journal, is missing`},
		"another name": {func(t *testing.T, fs vfs.FS, _ []string) {
			put(t, fs, path.Join(testDir, originFile), []byte("a b\n"))
		}, "this is no journal's name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, segments := damaged(t)
			test.damage(t, fs, segments)
			j, err := Open(testConfig(fs))
			if err == nil {
				_ = j.Close()
				t.Fatal("it is opened")
			}
			for _, want := range []string{test.want, "move it away"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it is refused with %q, want %q", err, want)
				}
			}
			if damage, ok := errors.AsType[*DamageError](err); ok && !strings.Contains(err.Error(), fmt.Sprintf("%s at byte %d", damage.Path, damage.Offset)) {
				t.Errorf("%q does not name the place", err)
			}
		})
	}
}

// TestTornTail cuts the last segment everywhere, and writes garbage behind: the whole records before are there, and the next one comes behind
// them.
func TestTornTail(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	whole, segments := damaged(t)
	last := segments[len(segments)-1]
	b := content(t, whole, last)
	first, _ := segmentFirst(path.Base(last))
	n := 0 // whole frames before the cut
	for cut := segmentHeader; cut <= len(b); cut++ {
		if cut == frameAt(b, n+1) {
			n++
		}
		for _, garbage := range []string{"", "\x05\x00\x00\x00garbage"} {
			fs := vfs.NewMem()
			if _, err := vfs.Clone(whole, fs, "", ""); err != nil {
				t.Fatal(err)
			}
			put(t, fs, last, append(b[:cut:cut], garbage...))
			j, err := Open(testConfig(fs))
			if err != nil {
				t.Fatalf("cut at byte %d: %v", cut, err)
			}
			if got, want := j.Written(), first+uint64(n); got != want {
				t.Errorf("cut at byte %d there are %d records, want %d", cut, got, want)
			}
			if got := add(t, j, Refuse, numbered(1000)); got != first+uint64(n) {
				t.Errorf("cut at byte %d the next record is %d", cut, got)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			if found, err := readAll(fs); err != nil || len(found) != int(first)+n+1 {
				t.Errorf("cut at byte %d there are %d records afterwards, %v", cut, len(found), err)
			}
			if frameAt(b, n) == len(b) {
				break
			}
		}
		if frameAt(b, n) == len(b) {
			break
		}
	}
	if n < 2 {
		t.Errorf("the last segment had only %d records", n)
	}
}

// FuzzSegment reads a segment of any bytes: no panic, no record but those that are framed, with the secret none but those whose MAC is right, and
// an error wherever another segment goes on with a record that this one does not have.
func FuzzSegment(f *testing.F) {
	secret := make([]byte, MinSecret)
	sound := appendSegmentHeader(nil, 5)
	for i := range 3 {
		sound = append(sound, framedBy(f, secret, testOrigin, uint64(5+i))...)
	}
	second := frameAt(sound, 1)
	f.Add(sound)
	f.Add(sound[:len(sound)-1])
	f.Add(append(sound[:segmentHeader:segmentHeader], sound[second:]...))
	f.Add(append(sound[:segmentHeader:segmentHeader], 0xff, 0xff, 0xff, 0x7f))
	f.Add(sound[:3])
	f.Add(forged(sound, second, func(frame []byte) { frame[10] ^= 1 }))
	f.Add(forged(sound, second, func(frame []byte) { frame[len(frame)-1] ^= 1 }))
	f.Add(append(sound[:second:second], framedBy(f, secret, "deputy/another/journal/1", 6)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		dir := fs.PathJoin(testDir, segmentsDir)
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, fs, fs.PathJoin(dir, segmentName(5)), b)
		read := func(r *SegmentReader) (next uint64, err error) {
			offset, n := segmentHeader, uint64(0)
			next, err = r.Read(5, math.MaxUint64, func(sequence uint64, record []byte) error {
				end := offset + 24 + len(record)
				if got, ok := sequenceOf(record); !ok || got != 5+n || sequence != got || len(b) < end || string(b[offset+24:end]) != string(record) ||
					binary.LittleEndian.Uint32(b[offset:]) != uint32(len(record)) || binary.LittleEndian.Uint32(b[offset+4:]) != sumOf(b[offset:end]) {
					t.Fatalf("record %d is read as %d from byte %d, where there is none", got, sequence, offset)
				}
				if r.mac != nil && string(b[offset+8:offset+24]) != string(macOf(t, secret, testOrigin, b[offset:end])) {
					t.Fatalf("record %d is read, and its MAC is wrong", sequence)
				}
				offset = end
				n++
				return nil
			})
			if next != 5+n {
				t.Fatalf("%d records are read, and it came to %d", n, next)
			}
			if _, ok := errors.AsType[*DamageError](err); err != nil && !ok {
				t.Fatal(err)
			}
			return next, err
		}
		with := NewSegmentReader(fs, testDir)
		if err := with.Authenticate(secret, testOrigin); err != nil {
			t.Fatal(err)
		}
		authentic, _ := read(with)
		next, _ := read(NewSegmentReader(fs, testDir))
		if authentic > next {
			t.Fatalf("with the secret %d records are read, and without %d", authentic, next)
		}
		put(t, fs, fs.PathJoin(dir, segmentName(next+1)), appendSegmentHeader(nil, next+1))
		if _, err := NewSegmentReader(fs, testDir).Read(5, math.MaxUint64, func(uint64, []byte) error { return nil }); err == nil {
			t.Fatalf("record %d is missing, and nobody notices", next)
		}
	})
}
