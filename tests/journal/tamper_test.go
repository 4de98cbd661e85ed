package journal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// evidence is a journal that tests bend: its files, and the key that was kept elsewhere.
type evidence struct {
	files map[string][]byte
	key   string
}

// kept is a journal in memory, and its keys.
type kept struct {
	fs   vfs.FS
	keys *journal.Keys
}

// begin makes the keys of a journal.
func begin(t testing.TB) kept {
	t.Helper()
	keys, err := journal.OpenKeys(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	return kept{vfs.NewMem(), keys}
}

// keep makes a journal with so many records, and closes it.
func keep(t testing.TB, records int) evidence {
	t.Helper()
	k := begin(t)
	k.more(t, 0, records)
	return k.read(t)
}

// more opens a journal, appends records, and closes it.
func (k kept) more(t testing.TB, from, to int) {
	t.Helper()
	j, err := journal.Open(journal.Config{Dir: "j", FS: k.fs, Keys: k.keys, Store: "store", SegmentBytes: 4 << 10, ReserveBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		if _, err := j.Append(t.Context(), journal.Refuse, decision(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// decision is the record of one.
func decision(i int) *journal.Record {
	return &journal.Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE, Time: int64(i) * 1000003, Caller: "gateway",
		AgentId: fmt.Sprintf("bot-%d", i%7), PrincipalType: "user", PrincipalId: fmt.Sprintf("user-%d", i*31%97), Permission: "view",
		ResourceType: "document", ResourceId: fmt.Sprintf("plan-%d", i), Latency: int64(i * 7919 % 1000),
	}
}

// read reads the files of a journal, without what is beside the evidence.
func (k kept) read(t testing.TB) evidence {
	t.Helper()
	e := evidence{files: map[string][]byte{}}
	if err := e.walk(k.fs, "j", ""); err != nil {
		t.Fatal(err)
	}
	e.key = strings.TrimSuffix(string(e.files["verifier.key"]), "\n")
	return e
}

// walk reads the files under a directory.
func (e evidence) walk(fs vfs.FS, dir, prefix string) error {
	names, err := fs.List(dir)
	for _, name := range names {
		path := dir + "/" + name
		info, statErr := fs.Stat(path)
		if err = errors.Join(err, statErr); err != nil {
			return err
		}
		switch {
		case prefix == "" && slices.Contains([]string{"lock", "reserve", "index", "callers"}, name):
		case info.IsDir():
			err = e.walk(fs, path, prefix+name+"/")
		default:
			e.files[prefix+name], err = tree.ReadFile(fs, path, 1<<30)
		}
		if err != nil {
			return err
		}
	}
	return err
}

// with is the same evidence with one file changed; nil removes it.
func (e evidence) with(path string, b []byte) evidence {
	files := maps.Clone(e.files)
	if files[path] = b; b == nil {
		delete(files, path)
	}
	return evidence{files, e.key}
}

// disk writes the files to a file system in memory.
func (e evidence) disk(t testing.TB) vfs.FS {
	t.Helper()
	mem := vfs.NewMem()
	for path, b := range e.files {
		err := mem.MkdirAll(filepath.Dir("j/"+path), 0o700)
		f, createErr := mem.Create("j/"+path, vfs.WriteCategoryUnspecified)
		if err = errors.Join(err, createErr); err == nil {
			_, err = f.Write(slices.Clone(b)) // which it may change, see vfs.File, and under the race detector it does
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return mem
}

// first runs Deputy's verifier.
func (e evidence) first(t testing.TB, o verify.Options) *verify.Report {
	t.Helper()
	o.FS, o.Dir = e.disk(t), "j"
	if o.Key == "" {
		o.Key = e.key
	}
	report, err := verify.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// sound fails the test unless both verifiers find all as it was written.
func (e evidence) sound(t testing.TB) {
	t.Helper()
	if report := e.first(t, verify.Options{}); len(report.Problems) > 0 || len(report.Foreign) > 0 {
		t.Fatalf("Deputy's verifier finds %+v and %q", report.Problems, report.Foreign)
	}
	if wrong := verifySecond(e.files, e.key); len(wrong) > 0 {
		t.Fatalf("the second verifier finds %+v", wrong)
	}
}

// bent fails the test unless both verifiers find something, and name a record from one to another first.
func (e evidence) bent(t testing.TB, how string, from, to uint64) {
	t.Helper()
	report := e.first(t, verify.Options{})
	if len(report.Problems) == 0 {
		t.Fatalf("%s: Deputy's verifier finds nothing", how)
	}
	if p := report.Problems[0]; p.Sequence < from || p.Sequence > to || p.Message == "" {
		t.Fatalf("%s: Deputy's verifier names record %d (%s: %s), want %d to %d", how, p.Sequence, p.File, p.Message, from, to)
	}
	wrong := verifySecond(e.files, e.key)
	if len(wrong) == 0 {
		t.Fatalf("%s: the second verifier finds nothing", how)
	}
	if w := wrong[0]; w.record < from && w.record != from/256*256 || w.record > to {
		t.Fatalf("%s: the second verifier names record %d (%s), want %d to %d", how, w.record, w.why, from, to)
	}
}

// signed is how many records the journals of these tests have: two bundles, and some that are in segments only.
const signed = 2*256 + 40

// records returns the records of the bundles.
func (e evidence) records(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for n := uint64(0); e.files[tree.BundlePath(n)] != nil; n++ {
		records, err := tree.DecodeBundle(e.files[tree.BundlePath(n)])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, records...)
	}
	return out
}

// frames takes a segment apart.
func frames(segment []byte) (header []byte, frames [][]byte) {
	header, rest := segment[:journal.SegmentHeader], segment[journal.SegmentHeader:]
	for len(rest) > 0 {
		n := journal.FrameHeader + int(binary.LittleEndian.Uint32(rest))
		frames, rest = append(frames, rest[:n]), rest[n:]
	}
	return header, frames
}

// TestSound: journals of all sizes are as they were written, to both verifiers, and go on where they stopped.
func TestSound(t *testing.T) {
	t.Parallel()
	for _, records := range []int{0, 1, 255, 256, 257, signed} {
		keep(t, records).sound(t)
	}
	k := begin(t)
	for from := 0; from < 1000; from += 150 {
		k.more(t, from, from+150)
		e := k.read(t)
		e.sound(t)
		if report := e.first(t, verify.Options{}); report.Records != uint64(from+150) || report.Signed != report.Records {
			t.Fatalf("of %d records %d are there and %d are signed", from+150, report.Records, report.Signed)
		}
	}
}

// TestFlippedBytes: a byte of the evidence that is another one is found by both verifiers, and the record is named. Every fourth byte is tried, others in
// each run, of a journal with one bundle; where DEPUTY_JOURNAL_LONG is set, as in make soak, it is every byte, of one with two.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	size, stride := 256+20, 4
	if os.Getenv("DEPUTY_JOURNAL_LONG") != "" {
		size, stride = signed, 1
	}
	first := rand.IntN(stride)
	e := keep(t, size)
	e.sound(t)
	segments := 0
	for path, b := range e.files {
		level, n, isTile := tree.ParsePath(path)
		for i := first; i < len(b); i += stride {
			bent := slices.Clone(b)
			bit := i / stride % 8
			bent[i] ^= 1 << bit
			from, to := uint64(0), uint64(size)
			switch {
			case isTile && level < 0:
				from, to = n*256, n*256+255
			case isTile:
				from = n*256 + uint64(i/32)
				to = from
			case strings.HasPrefix(path, "segments/"):
				if i >= journal.SegmentHeader {
					from = recordAt(path, b, i)
					to = from
				}
				segments++
			}
			e.with(path, bent).bent(t, fmt.Sprintf("bit %d of byte %d of %s", bit, i, path), from, to)
		}
	}
	if segments == 0 {
		t.Fatal("there was no segment")
	}
}

// recordAt is the record that a byte of a segment is of.
func recordAt(path string, segment []byte, at int) uint64 {
	var sequence uint64
	_, _ = fmt.Sscanf(strings.TrimPrefix(path, "segments/"), "%d", &sequence)
	_, all := frames(segment)
	end := journal.SegmentHeader
	for _, frame := range all {
		if end += len(frame); at < end {
			return sequence
		}
		sequence++
	}
	return sequence
}

// TestBentRecords: each second record of a bundle, and each of a segment, that was dropped, swapped with another, doubled or replaced, with sums that are right
// again, is found by both verifiers, and named.
func TestBentRecords(t *testing.T) {
	t.Parallel()
	e := keep(t, signed)
	records := e.records(t)
	for i := 0; i < 255; i += 2 {
		for how, bend := range map[string]func(b [][]byte){
			"swapped":  func(b [][]byte) { b[i], b[i+1] = b[i+1], b[i] },
			"doubled":  func(b [][]byte) { copy(b[i+1:], slices.Clone(b[i:255])) },
			"dropped":  func(b [][]byte) { copy(b[i:], slices.Clone(b[i+1:])); b[255] = records[511] },
			"replaced": func(b [][]byte) { b[i] = append(slices.Clone(b[i]), 0x22, 1, 'x') },
		} {
			bundle := slices.Clone(records[256:512])
			bend(bundle)
			b, err := tree.EncodeBundle(bundle)
			if err != nil {
				t.Fatal(err)
			}
			at := uint64(256 + i)
			if how == "doubled" {
				at++
			}
			e.with(tree.BundlePath(1), b).bent(t, fmt.Sprintf("record %d %s", at, how), at, at)
		}
	}
	for path, b := range e.files {
		if !strings.HasPrefix(path, "segments/") {
			continue
		}
		header, all := frames(b)
		for i := range all {
			at := recordAt(path, b, journal.SegmentHeader+len(slices.Concat(all[:i]...)))
			for how, bend := range map[string]func(f [][]byte) [][]byte{
				"dropped": func(f [][]byte) [][]byte { return slices.Delete(f, i, i+1) },
				"doubled": func(f [][]byte) [][]byte { return slices.Insert(f, i, f[i]) },
				"swapped": func(f [][]byte) [][]byte { f[0], f[i] = f[i], f[0]; return f },
			} {
				if how == "swapped" && i == 0 {
					continue
				}
				if end := fmt.Sprintf("segments/%020d", at+1); how == "doubled" && e.files[end] != nil {
					continue // what a segment has behind the beginning of the next one does not count
				}
				segment := slices.Concat(append([][]byte{header}, bend(slices.Clone(all))...)...)
				from := at
				if how == "swapped" {
					from = 0
				}
				e.with(path, segment).bent(t, fmt.Sprintf("record %d %s in %s", at, how, path), min(from, 512), at+1)
			}
		}
	}
}

// TestTruncated: each file that was cut or removed is found by both verifiers, as long as a checkpoint is over what it had.
func TestTruncated(t *testing.T) {
	t.Parallel()
	e := keep(t, signed)
	for path, b := range e.files {
		e.with(path, nil).bent(t, path+" removed", 0, signed)
		for i := range 50 {
			if length := len(b) * i / 50; length < len(b) {
				e.with(path, b[:length]).bent(t, fmt.Sprintf("%s cut at %d", path, length), 0, signed)
			}
		}
	}
}

// TestFlippedUpperTile: a hash of a tile of level 1, which is over 65,536 records, is compared too.
func TestFlippedUpperTile(t *testing.T) {
	t.Parallel()
	k := begin(t)
	j, err := journal.Open(journal.Config{Dir: "j", FS: k.fs, Keys: k.keys, Store: "store", ReserveBytes: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 65536; i += 256 {
		batch := make([]*journal.Record, 256)
		for n := range batch {
			batch[n] = decision(i + n)
		}
		if _, err := j.Append(t.Context(), journal.Refuse, batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	e := k.read(t)
	e.sound(t)
	path := tree.TilePath(1, 0)
	for _, i := range []int{0, 7, 255} {
		bent := slices.Clone(e.files[path])
		bent[i*32+i%32] ^= 4
		e.with(path, bent).bent(t, fmt.Sprintf("hash %d of %s", i, path), uint64(i)*256, uint64(i)*256)
	}
	e.with(path, nil).bent(t, path+" removed", 0, 0)
}

// TestRewritten: a change of a record and of all tiles over it is found by the root that was signed; one that is signed anew, by the key that was
// kept; a directory that was set back, by the checkpoint that was kept.
func TestRewritten(t *testing.T) {
	t.Parallel()
	k := begin(t)
	k.more(t, 0, signed)
	older := k.read(t)
	k.more(t, signed, signed+300)
	e := k.read(t)

	records := e.records(t)[:256]
	records[17] = append(slices.Clone(records[17]), 0x22, 1, 'x')
	bundle, err := tree.EncodeBundle(records)
	if err != nil {
		t.Fatal(err)
	}
	var tile []byte
	for _, r := range records {
		hash := leafHash(r)
		tile = append(tile, hash[:]...)
	}
	e.with(tree.BundlePath(0), bundle).with(tree.TilePath(0, 0), tile).bent(t, "a record and its tile rewritten", 0, signed+300)

	if report := older.first(t, verify.Options{}); len(report.Problems) > 0 {
		t.Fatalf("nothing in a directory that was set back says so, and %+v is found", report.Problems)
	}
	report := older.first(t, verify.Options{Checkpoint: e.files["checkpoint"]})
	if len(report.Problems) != 1 || report.Problems[0].Sequence != signed {
		t.Fatalf("of a directory that was set back %+v is found", report.Problems)
	}
	if report := e.first(t, verify.Options{Checkpoint: older.files["checkpoint"]}); len(report.Problems) > 0 || report.Outside != signed {
		t.Fatalf("the journal contains an older checkpoint, and %+v is found", report.Problems)
	}

	forged := forge(t, e)
	if len(forged.first(t, verify.Options{Key: e.key}).Problems) == 0 || len(verifySecond(forged.files, e.key)) == 0 {
		t.Fatal("a journal that was signed anew is sound with the key that was kept")
	}
	mem := forged.disk(t)
	trusting, err := verify.Run(t.Context(), verify.Options{FS: mem, Dir: "j"})
	if err != nil || len(trusting.Problems) > 0 || !trusting.TrustedDirectory {
		t.Fatalf("with the directory's own key: %+v (%v)", trusting, err)
	}
}

// forge signs a journal anew, with another key.
func forge(t *testing.T, e evidence) evidence {
	t.Helper()
	keys, err := journal.OpenKeys(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	origin := strings.TrimSpace(string(e.files["origin"]))
	signer, verifier, err := keys.Signer(origin)
	if err != nil {
		t.Fatal(err)
	}
	size, root, err := openCheckpoint(string(e.files["checkpoint"]), origin, e.key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := tree.Checkpoint{Origin: origin, Size: size, Root: root}.Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	return e.with("checkpoint", text).with("verifier.key", []byte(verifier+"\n"))
}

// TestSecondIsStrict: the second verifier's sums are those of the standard library, so that a mistake in one is none in the other.
func TestSecondIsStrict(t *testing.T) {
	t.Parallel()
	if got := castagnoli([]byte("123456"), []byte("789")); got != 0xE3069283 { // the check value of CRC-32C
		t.Errorf("the CRC-32C is %#x", got)
	}
	if crc32.Castagnoli != 0x82f63b78 {
		t.Error("another polynomial")
	}
}
