package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// image is the content of a store's directory.
type image map[string][]byte

// imageOf reads a directory. The lock, which has no content, is left out.
func imageOf(t *testing.T, fs vfs.FS) image {
	t.Helper()
	names, err := fs.List(ordealDir)
	if err != nil {
		t.Fatal(err)
	}
	files := image{}
	for _, name := range names {
		if name == "LOCK" {
			continue
		}
		f, err := fs.Open(fs.PathJoin(ordealDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if files[name], err = io.ReadAll(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return files
}

// restore writes a directory into a new file system.
func (files image) restore(t *testing.T) vfs.FS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll(ordealDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		f, err := fs.Create(fs.PathJoin(ordealDir, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		// With the race detector the file system changes what it has written, to find out who looks at it again.
		if _, err := f.Write(bytes.Clone(content)); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return fs
}

// diff names the files that differ.
func (files image) diff(other image) (differ []string) {
	for name := range files {
		if there, found := other[name]; !found || !bytes.Equal(there, files[name]) {
			differ = append(differ, name)
		}
	}
	for name := range other {
		if _, found := files[name]; !found {
			differ = append(differ, name)
		}
	}
	return differ
}

// with returns a copy with another content of a file; nil removes it.
func (files image) with(name string, content []byte) image {
	changed := maps.Clone(files)
	if content == nil {
		delete(changed, name)
	} else {
		changed[name] = content
	}
	return changed
}

// kill returns what an ordeal's directory is in the middle of its last life, with tables and a log
// that was not closed, and what was acknowledged until then.
func kill(t *testing.T) (*ordeal, image, []deed) {
	t.Helper()
	o, mem := newOrdeal(), vfs.NewCrashableMem()
	var files image
	var known []deed
	lives, since := 0, 0
	o.live(mem, func(did ordealStep, s *Store, err error) bool {
		if err != nil {
			t.Fatal(err)
		}
		if did == didOpen {
			lives++
			since = 0
		}
		if since++; did == didOpen || lives < 3 || since < 9 {
			return true
		}
		eventually(t, "the flushes are noted", func() bool {
			return s.db.Metrics().Flush.NumInProgress == 0 && s.history.attested.Load() == s.history.flushes.Load()
		})
		known = o.ledger()
		files = imageOf(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 2))}))
		return false
	})
	kinds := map[string]int{}
	for name, content := range files {
		kinds[kindOfFile(name)]++
		t.Logf("%s: %d bytes", name, len(content))
	}
	if kinds["sst"] < 1 || kinds["log"] < 1 || kinds["marker"] < 2 {
		t.Fatalf("%v: the ordeal is too short", kinds)
	}
	return o, files, known
}

// TestDamage changes each file of a store that was killed. What comes of it is an error that says that the
// store is damaged, with nothing touched if it is Open's, or the right answers. A log that is cut or gone, and
// a change in its last commit, look like a write that was torn by a crash (see history.go): there the newest
// deeds may be missing, and those alone.
func TestDamage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	o, files, known := kill(t)
	if _, err := o.reopened(files.restore(t), known); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	stride := everyPoint(t, 0) // 0 means a dozen flips for each file
	outcomes := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content := files[name]
		try := func(what string, damaged image, lost int) {
			if !isLog(name) {
				lost = 0
			}
			outcome, err := o.examine(t, damaged, known, lost)
			if err != nil {
				t.Errorf("%s %s: %v", name, what, err)
			}
			outcomes[kindOfFile(name)+": "+outcome]++
		}
		try("removed", files.with(name, nil), len(known))
		for _, n := range []int{0, len(content) / 2, len(content) - 1} {
			if n >= 0 && n < len(content) {
				try(fmt.Sprintf("cut to %d bytes of %d", n, len(content)), files.with(name, content[:n:n]), len(known))
			}
		}
		step := stride
		if step == 0 {
			step = max(1, len(content)/12)
		}
		for at := 0; at < len(content); at += step {
			flipped := bytes.Clone(content)
			flipped[at] ^= 1 << (at % 8)
			try(fmt.Sprintf("flipped at %d of %d", at, len(content)), files.with(name, flipped), 1)
		}
	}
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%s: %d", outcome, outcomes[outcome])
	}
}

// examine opens a damaged directory and says what came of it. An error is what must not come of it. As many
// of the newest deeds as lost says may be missing, as long as no later one is there.
func (o *ordeal) examine(t *testing.T, damaged image, known []deed, lost int) (outcome string, err error) {
	t.Helper()
	fs := damaged.restore(t)
	s, err := Open(ordealDir, o.config(fs))
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "it holds other files") && !strings.Contains(err.Error(), "and this version reads formats up to") {
			return "refused", fmt.Errorf("refused, not as damaged: %w", err)
		}
		if differ := damaged.diff(imageOf(t, fs)); len(differ) > 0 {
			return "refused", fmt.Errorf("refused, and touched %q: %w", differ, err)
		}
		return "refused", nil
	}
	outcome = "no difference"
	_, err = o.verify(s, known)
	if errors.Is(err, errWrong) && lost > 0 {
		outcome = "a torn write"
		err = o.verifyBeginning(s, known, lost)
	}
	closed := s.Close()
	switch {
	case errors.Is(err, ErrDamaged):
		return "found when it was read", nil
	case err != nil:
		return "", err
	case closed != nil:
		return "", fmt.Errorf("closing: %w", closed)
	}
	return outcome, nil
}

// verifyBeginning verifies a store that may lack some of the newest deeds.
func (o *ordeal) verifyBeginning(s *Store, known []deed, lost int) error {
	known = slices.Clone(known)
	for i := len(known) - lost; i < len(known); i++ {
		known[i].at = 0
	}
	present, err := o.verify(s, known)
	if err != nil {
		return err
	}
	for i, d := range known {
		if present[d.name] != (i < len(present)) {
			return wrong("of %d deeds %d are left, and they are not the first", len(known), len(present))
		}
	}
	return nil
}

// TestDamagedYoung takes its only log from a store that has nothing else yet. It is not taken for a new one.
func TestDamagedYoung(t *testing.T) {
	t.Parallel()
	o, mem := newOrdeal(), vfs.NewCrashableMem()
	s, err := Open(ordealDir, o.config(mem))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.do(s, o.next()); err != nil {
		t.Fatal(err)
	}
	files := imageOf(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for name := range files {
		if !isLog(name) {
			continue
		}
		for what, content := range map[string][]byte{"removed": nil, "cut to nothing": {}} {
			tried++
			fs := files.with(name, content).restore(t)
			if s, err := Open(ordealDir, o.config(fs)); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s %s: %v, %v", name, what, s, err)
			}
		}
	}
	if tried != 2 {
		t.Errorf("%d logs were taken away", tried)
	}
}
