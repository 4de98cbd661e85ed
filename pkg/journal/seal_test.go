package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// signedConfig is testConfig with keys.
func signedConfig(t testing.TB, fs vfs.FS) Config {
	t.Helper()
	cfg := testConfig(fs)
	keys, err := OpenKeys(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Keys = keys
	return cfg
}

// fill opens a journal, appends records, and closes it.
func fill(t testing.TB, cfg Config, from, to int) {
	t.Helper()
	j := open(t, cfg)
	for i := from; i < to; i++ {
		add(t, j, Refuse, numbered(i))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// copyOf is a copy of a file system in memory.
func copyOf(t testing.TB, from vfs.FS) vfs.FS {
	t.Helper()
	mem := vfs.NewMem()
	if _, err := vfs.Clone(from, mem, testDir, testDir); err != nil {
		t.Fatal(err)
	}
	return mem
}

// TestStartComparesWithCheckpoint: a journal that has less than its last checkpoint was signed over, or something else, is not opened, and the
// error says what is wrong.
func TestStartComparesWithCheckpoint(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	cfg := signedConfig(t, fs)
	fill(t, cfg, 0, 300)
	before := copyOf(t, fs)
	fill(t, cfg, 300, 700)
	other, another := vfs.NewMem(), signedConfig(t, nil)
	another.FS = other
	fill(t, another, 0, 700)
	replace := func(fs, with vfs.FS, name string) error {
		b, err := tree.ReadFile(with, testDir+"/"+name, 1<<20)
		return errors.Join(err, tree.WriteFile(fs, testDir+"/"+name, b))
	}
	for name, test := range map[string]struct {
		bend func(fs vfs.FS) error
		want string
	}{
		"set back, with the newer checkpoint": {
			func(at vfs.FS) error {
				return errors.Join(at.RemoveAll(testDir), at.MkdirAll("data", 0o700), clone(before, at), replace(at, fs, "checkpoint"))
			}, "over 700 records, and data/journal has 300: records 300 to 699 are missing",
		},
		"checkpoint missing": {func(at vfs.FS) error { return at.Remove(testDir + "/checkpoint") }, `the file "checkpoint" is missing`},
		"another journal's":  {func(at vfs.FS) error { return replace(at, other, "checkpoint") }, "not signed with the key of the journal"},
		"an older one that a witness signed, of another journal": {func(at vfs.FS) error {
			b, err := tree.ReadFile(other, testDir+"/checkpoint", 1<<20)
			return errors.Join(err, tree.WriteFile(at, testDir+"/checkpoint.witnessed", b))
		}, "checkpoint.witnessed: "},
		"key missing": {func(at vfs.FS) error { return at.Remove(testDir + "/verifier.key") }, `the file "verifier.key" is missing`},
		"another key": {func(at vfs.FS) error { return replace(at, other, "verifier.key") }, `another key than "signing.key"`},
		"a changed tile": {func(at vfs.FS) error {
			b, err := tree.ReadFile(at, testDir+"/tile/0/001", 1<<20)
			b[77] ^= 1
			return errors.Join(err, tree.WriteFile(at, testDir+"/tile/0/001", b))
		}, "a record was changed"},
		"no segments": {func(at vfs.FS) error { return at.RemoveAll(testDir + "/segments") }, "in its tree, and its segments end with record 0"},
		"no tiles":    {func(at vfs.FS) error { return at.RemoveAll(testDir + "/tile") }, "no segment has record 0"},
	} {
		at := copyOf(t, fs)
		if err := test.bend(at); err != nil {
			t.Fatal(name, err)
		}
		bent := cfg
		bent.FS = at
		j, err := Open(bent)
		if err == nil {
			_ = j.Close()
			t.Errorf("%s: it is opened", name)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, which does not say %q", name, err, test.want)
		}
	}
	fill(t, cfg, 700, 701) // as it was it goes on
	without := testConfig(fs)
	if _, err := Open(without); err == nil || !strings.Contains(err.Error(), "no directory of keys") {
		t.Errorf("without keys a signed journal is opened: %v", err)
	}
}

// clone copies a journal.
func clone(from, to vfs.FS) error {
	_, err := vfs.Clone(from, to, testDir, testDir)
	return err
}

// TestSealingFails: whichever operation of the disk fails while a journal is sealed, it is sealed when that is tried again, what was appended is
// all there, and a crash at that point is no loss: the last checkpoint that was made known is one that the journal goes on from.
func TestSealingFails(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	for operation := 0; ; operation++ {
		mem := vfs.NewCrashableMem()
		if err := errors.Join(mem.MkdirAll("data", 0o700), tree.SyncDir(mem, "")); err != nil {
			t.Fatal(err)
		}
		var counter atomic.Int64
		var armed atomic.Bool
		counter.Store(int64(operation))
		cfg := signedConfig(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if armed.Load() && counter.Add(-1) == -1 {
				return errors.New("the disk fails")
			}
			return nil
		})))
		var known [][]byte
		cfg.OnCheckpoint = func(checkpoint []byte) { known = append(known, checkpoint) }
		j := open(t, cfg)
		j.sealer.work.Lock() // so that it does not seal by itself
		for i := range 260 {
			add(t, j, Refuse, numbered(i))
		}
		armed.Store(true)
		j.sealer.work.Unlock()
		tried := j.sealer.try()
		armed.Store(false)
		crashed := cfg
		crashed.FS, crashed.OnCheckpoint = mem.CrashClone(vfs.CrashCloneCfg{}), nil
		again, openErr := Open(crashed)
		if openErr != nil {
			t.Fatalf("after a crash at operation %d: %v", operation, openErr)
		}
		_, verifier, err := cfg.Keys.Signer(j.Origin())
		if err != nil {
			t.Fatal(err)
		}
		checkKnown(t, operation, again, verifier, known)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if err := j.Err(); err != nil {
			if err := j.mendNow(); err != nil {
				t.Fatalf("operation %d: %v", operation, err)
			}
		}
		if err := j.sealer.try(); err != nil {
			t.Fatalf("operation %d: it is not sealed again: %v", operation, err)
		}
		if s := j.Sealing(); s.Records < 260 || s.Err != nil {
			t.Fatalf("operation %d: %d records are sealed (%v)", operation, s.Records, s.Err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if counter.Load() >= 0 {
			if tried != nil || operation < 20 {
				t.Fatalf("after %d operations: %v", operation, tried)
			}
			return
		}
	}
}

// mendNow mends a journal whose disk failed.
func (j *Journal) mendNow() error {
	j.writing <- struct{}{}
	defer func() { <-j.writing }()
	return j.mend()
}

// checkKnown checks that a journal goes on from checkpoints that were made known.
func checkKnown(t *testing.T, operation int, j *Journal, key string, known [][]byte) {
	t.Helper()
	verifier, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range known {
		c, _, err := tree.ParseCheckpoint(text, verifier)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := j.Tree().Root(c.Size); err != nil || root != c.Root {
			t.Fatalf("after a crash at operation %d the journal does not go on from a checkpoint over %d records (%v)", operation, c.Size, err)
		}
	}
}

// TestPruneIsSigned: what was removed is said in a note that the journal's key signed, and a journal without that note does not open as if
// nothing were missing.
func TestPruneIsSigned(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	cfg := signedConfig(t, fs)
	j := open(t, cfg)
	for i := range 600 {
		add(t, j, Refuse, numbered(i))
	}
	if err := errors.Join(j.sealer.try(), j.Prune(300)); err != nil {
		t.Fatal(err)
	}
	if got := j.Tree().Minimum(); got != 256 {
		t.Fatalf("records before %d are gone, want 256", got)
	}
	if _, _, err := j.Prove(10); !errors.Is(err, tree.ErrPruned) {
		t.Errorf("a record that was removed is proven: %v", err)
	}
	proof, leaf, err := j.Prove(300)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := cfg.Keys.Signer(j.Origin())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	if at, c, err := tree.CheckProof(proof, leaf, verifier); err != nil || at != 300 || c.Size != 600 {
		t.Errorf("the proof is of record %d of %d: %v", at, c.Size, err)
	}
	leaf[20] ^= 1
	if _, _, err := tree.CheckProof(proof, leaf, verifier); err == nil {
		t.Error("the proof proves another record")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, cfg, 600, 601)
	if err := fs.Remove(testDir + "/minimum"); err != nil {
		t.Fatal(err)
	}
	if j, err := Open(cfg); err == nil {
		_ = j.Close()
		t.Error("without the note it is opened")
	}
}

// TestPruneKeepsWhatIsNotSealed: a record that no checkpoint is over is not removed, although its bundle is saved.
func TestPruneKeepsWhatIsNotSealed(t *testing.T) {
	t.Parallel()
	cfg := signedConfig(t, vfs.NewMem())
	cfg.CheckpointInterval = time.Hour
	j := open(t, cfg)
	for i := range 600 {
		add(t, j, Refuse, numbered(i))
		if i == 299 {
			sealed(t, j)
		}
	}
	j.sealer.work.Lock()
	err := j.sealer.advance(600)
	j.sealer.work.Unlock()
	if err = errors.Join(err, j.Prune(600)); err != nil {
		t.Fatal(err)
	}
	if saved, minimum := j.Tree().Saved(), j.Tree().Minimum(); saved != 512 || minimum != 256 {
		t.Errorf("of %d records in bundles those before %d are gone, want 256", saved, minimum)
	}
}

// TestKeysAreRefused: keys that are missing, that others can read, or that are none are refused, and the error names the file and nothing of it.
func TestKeysAreRefused(t *testing.T) {
	t.Parallel()
	for name, bend := range map[string]func(dir string) error{
		"missing":   func(dir string) error { return os.Remove(filepath.Join(dir, signingFile)) },
		"mode 0644": func(dir string) error { return os.Chmod(filepath.Join(dir, signingFile), 0o644) },
		"a long line": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, signingFile), []byte("PRIVATE+KEY+x"), 0o600)
		},
		"empty": func(dir string) error { return os.WriteFile(filepath.Join(dir, signingFile), nil, 0o600) },
	} {
		dir := t.TempDir()
		if _, err := OpenKeys(dir, true); err != nil {
			t.Fatal(err)
		}
		if err := bend(dir); err != nil {
			t.Fatal(err)
		}
		_, err := OpenKeys(dir, false)
		if err == nil || !strings.Contains(err.Error(), signingFile) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if _, err := OpenKeys(dir, false); err == nil {
		t.Error("keys are made where that is not asked for")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("there are %v (%v)", names, err)
	}
}
