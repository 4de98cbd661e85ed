package persons

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

var secret = bytes.Repeat([]byte{7}, 32)

func person(n int) Person {
	return Person{Tenant: "acme", Type: "user", ID: fmt.Sprintf("person-%d", n)}
}

func open(t *testing.T, cfg Config) *Keys {
	t.Helper()
	if cfg.Secret == nil {
		cfg.Secret = secret
	}
	k, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func makeKey(t *testing.T, k *Keys, p Person) *Key {
	t.Helper()
	keys, err := k.Make(p)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0]
}

func memory(t *testing.T) (vfs.FS, Config) {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	return mem, Config{FS: mem, Dir: "keys", Secret: secret}
}

func TestAPersonHasOneKeyInEachTenant(t *testing.T) {
	t.Parallel()
	_, cfg := memory(t)
	k := open(t, cfg)
	alice := person(1)
	elsewhere := alice
	elsewhere.Tenant = "globex"
	first := makeKey(t, k, alice)
	if again := makeKey(t, k, alice); *again != *first {
		t.Error("the same person has two keys")
	}
	if other := makeKey(t, k, elsewhere); other.secret == first.secret || other.tag == first.tag {
		t.Error("a person has the same key in two tenants")
	}
	if twice, err := k.Make(person(2), person(3), person(2)); err != nil || *twice[0] != *twice[2] || *twice[0] == *twice[1] {
		t.Error("keys that are made at once are not one for each person", err)
	}
	if _, err := Open(cfg); err == nil {
		t.Error("two open the same keys to make some")
	}
	reader := cfg
	reader.ReadOnly = true
	r := open(t, reader)
	if found, err := r.Key(first.Tag()); err != nil || *found != *first {
		t.Error("a reader does not find the key", err)
	}
	late := makeKey(t, k, person(4))
	if found, err := r.Key(late.Tag()); err != nil || *found != *late {
		t.Error("a reader does not find a key that was made after it opened them", err)
	}
	if _, err := r.Make(person(9)); err == nil {
		t.Error("a reader makes a key")
	}
	if tags, err := r.Tenants(Person{Type: "user", ID: alice.ID}); err != nil || len(tags) != 2 {
		t.Error("the keys of a person in all tenants:", tags, err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if found, err := open(t, cfg).Key(first.Tag()); err != nil || *found != *first {
		t.Error("another key after opening again", err)
	}
	wrong := reader
	wrong.Secret = bytes.Repeat([]byte{8}, 32)
	if _, err := Open(wrong); err == nil || !strings.Contains(err.Error(), "secret.key") {
		t.Error("the keys open with another secret:", err)
	}
	wrong.Secret = secret[:31]
	if _, err := Open(wrong); err == nil {
		t.Error("the keys open with a short secret")
	}
}

func TestSealedOpensOnlyWithItsKeyAndWhatWasBeside(t *testing.T) {
	t.Parallel()
	_, cfg := memory(t)
	k := open(t, cfg)
	alice, bob := makeKey(t, k, person(1)), makeKey(t, k, person(2))
	sealed := alice.Seal([]byte("before"), []byte("text"), []byte("beside"))[len("before"):]
	if text, err := alice.Open(sealed, []byte("beside")); err != nil || string(text) != "text" {
		t.Fatal(string(text), err)
	}
	if len(sealed) != len("text")+Overhead {
		t.Error("the overhead is", len(sealed)-len("text"))
	}
	for name, try := range map[string]func() ([]byte, error){
		"another key":    func() ([]byte, error) { return bob.Open(sealed, []byte("beside")) },
		"another beside": func() ([]byte, error) { return alice.Open(sealed, []byte("besidf")) },
		"cut off":        func() ([]byte, error) { return alice.Open(sealed[:11], []byte("beside")) },
		"changed": func() ([]byte, error) {
			return alice.Open(append(sealed[:len(sealed)-1:len(sealed)-1], 0), []byte("beside"))
		},
	} {
		if text, err := try(); err == nil {
			t.Errorf("%s: %q", name, text)
		}
	}
	if bytes.Equal(alice.Digest("a", "bc"), alice.Digest("ab", "c")) || bytes.Equal(alice.Digest("a", "b"), bob.Digest("a", "b")) {
		t.Error("different texts or persons have the same digest")
	}
}

func TestErasingDestroysTheKeyAtOnce(t *testing.T) {
	t.Parallel()
	mem, cfg := memory(t)
	k := open(t, cfg)
	alice := person(1)
	elsewhere := alice
	elsewhere.Tenant = "globex"
	old, bob, abroad := makeKey(t, k, alice), makeKey(t, k, person(2)), makeKey(t, k, elsewhere)
	if n, err := Erase(cfg, alice, false); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if _, err := k.Key(old.Tag()); !errors.Is(err, ErrErased) {
		t.Error("an open server still has the key:", err)
	}
	for _, kept := range []*Key{bob, abroad} {
		if found, err := k.Key(kept.Tag()); err != nil || *found != *kept {
			t.Error("somebody else's key is gone", err)
		}
	}
	content := read(t, mem)
	if tag := old.Tag(); bytes.Contains(content, tag[:]) {
		t.Error("the file still names the person")
	}
	fresh := makeKey(t, k, alice)
	if fresh.secret == old.secret || fresh.tag != old.tag {
		t.Error("the person did not get a new key")
	}
	if len(read(t, mem)) != len(content) {
		t.Error("the place of the old key was not used again")
	}
	if n, err := Erase(cfg, Person{Type: "user", ID: alice.ID}, true); err != nil || n != 2 {
		t.Error("erased in all tenants:", n, err)
	}
	for _, gone := range []*Key{fresh, abroad} {
		if _, err := k.Key(gone.Tag()); !errors.Is(err, ErrErased) {
			t.Error("a key is still there:", err)
		}
	}
	if n, err := Erase(cfg, alice, false); err != nil || n != 0 {
		t.Error("nobody was erased:", n, err)
	}
	// The places of those who were erased are used again after opening the file, too.
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t, cfg)
	if _, err := k.Make(person(5), person(6)); err != nil {
		t.Fatal(err)
	}
	if len(read(t, mem)) != len(content) {
		t.Error("free places were not used again")
	}
	if found, err := k.Key(bob.Tag()); err != nil || *found != *bob {
		t.Error("somebody else's key was overwritten", err)
	}
	if _, err := Erase(Config{FS: mem, Dir: "elsewhere", Secret: secret}, alice, false); err == nil {
		t.Error("erasing in a directory without keys says that it is done")
	}
}

func read(t *testing.T, fs vfs.FS) []byte {
	t.Helper()
	f, err := fs.Open("keys/" + FileName)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestErasingIsAnotherProcess erases from a process of its own, while this one makes keys as a server does.
func TestErasingIsAnotherProcess(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("DEPUTY_TEST_ERASE"); dir != "" {
		for n := range 20 {
			if destroyed, err := Erase(Config{Dir: dir, Secret: secret}, person(n), false); err != nil || destroyed != 1 {
				t.Error(n, destroyed, err)
			}
		}
		return
	}
	dir := t.TempDir()
	k := open(t, Config{Dir: dir})
	var old []*Key
	for n := range 40 {
		old = append(old, makeKey(t, k, person(n)))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestErasingIsAnotherProcess$")
	cmd.Env = append(os.Environ(), "DEPUTY_TEST_ERASE="+dir)
	done := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		done <- err
	}()
	made := 100
	for running := true; running; made++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
			makeKey(t, k, person(made))
		}
	}
	for n, before := range old {
		switch found, err := k.Key(before.Tag()); {
		case n < 20 && !errors.Is(err, ErrErased):
			t.Errorf("person %d is not erased: %v", n, err)
		case n >= 20 && (err != nil || *found != *before):
			t.Errorf("person %d lost the key: %v", n, err)
		}
	}
	for n := 100; n < made-1; n++ {
		if _, err := k.Key(k.Tag(person(n))); err != nil {
			t.Errorf("person %d, who came meanwhile, lost the key: %v", n, err)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if tag := old[n].Tag(); bytes.Contains(content, tag[:]) {
			t.Errorf("the file still names person %d", n)
		}
	}
}

func TestThereIsABound(t *testing.T) {
	t.Parallel()
	_, cfg := memory(t)
	cfg.Max = 2
	k := open(t, cfg)
	makeKey(t, k, person(1))
	makeKey(t, k, person(2))
	if _, err := k.Make(person(3)); err == nil {
		t.Fatal("there is a third person")
	}
	makeKey(t, k, person(1))
	if _, err := Erase(cfg, person(2), false); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	makeKey(t, open(t, cfg), person(3))
}

// history makes and erases keys on a disk that may fail, and notes what it was told: the keys that it got, and who was erased. It goes on after
// failures, as a server does.
type history struct {
	keys   map[int]*Key
	erased map[int]*Key
}

func (h *history) run(cfg Config) {
	h.keys, h.erased = map[int]*Key{}, map[int]*Key{}
	var k *Keys
	for range 3 {
		var err error
		if k, err = Open(cfg); err == nil {
			break
		}
	}
	if k == nil {
		return
	}
	defer k.Close()
	for n := range 6 {
		if keys, err := k.Make(person(n), person(n%3)); err == nil {
			h.keys[n], h.keys[n%3] = keys[0], keys[1]
			delete(h.erased, n%3)
		}
		if n%2 == 0 {
			continue
		}
		gone := h.keys[n-1]
		delete(h.keys, n-1) // with an error it may be either
		if _, err := Erase(cfg, person(n-1), false); err == nil && gone != nil {
			h.erased[n-1] = gone
		}
	}
}

// check opens the keys again and compares.
func (h *history) check(t *testing.T, cfg Config, when string) {
	t.Helper()
	k, err := Open(cfg)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer k.Close()
	for n, key := range h.keys {
		if found, err := k.Key(k.Tag(person(n))); err != nil || *found != *key {
			t.Errorf("%s: the key of person %d, who has one: %v", when, n, err)
		}
	}
	for n, key := range h.erased {
		if found, err := k.Key(k.Tag(person(n))); err == nil && *found == *key {
			t.Errorf("%s: person %d, who was erased, still has the key", when, n)
		}
	}
	seen := map[Tag]int{}
	if err := each(k.file, 1, func(_ uint32, s *slot) error {
		if s.sound() {
			seen[s.tag()]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, times := range seen {
		if times > 1 {
			t.Errorf("%s: a person has %d keys", when, times)
		}
	}
}

func TestEveryFailureOfTheDisk(t *testing.T) {
	t.Parallel()
	for failing := 0; ; failing++ {
		mem, cfg := memory(t)
		count := 0
		cfg.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			count++
			if count-1 == failing {
				return errorfs.ErrInjected
			}
			return nil
		}))
		var h history
		h.run(cfg)
		if count <= failing {
			if len(h.keys) != 5 || len(h.erased) != 1 || failing < 20 {
				t.Fatalf("after %d operations: %d keys, %d erased", count, len(h.keys), len(h.erased))
			}
			return
		}
		h.check(t, Config{FS: mem, Dir: "keys", Secret: secret}, fmt.Sprintf("operation %d failed", failing))
	}
}

func TestAPowerCutAtEverySync(t *testing.T) {
	t.Parallel()
	for cut := 0; ; cut++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll("keys", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"", "keys"} {
			d, err := mem.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Sync(), d.Close()); err != nil {
				t.Fatal(err)
			}
		}
		syncs := 0
		// From the cut on nothing succeeds, so that nothing is acknowledged that the crash would have to keep.
		var after *vfs.MemFS
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if after != nil {
				return errorfs.ErrInjected
			}
			if op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData {
				return nil
			}
			if syncs++; syncs-1 == cut {
				after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(cut)))})
				return errorfs.ErrInjected
			}
			return nil
		}))
		var h history
		h.run(Config{FS: fs, Dir: "keys", Secret: secret})
		if after == nil {
			if cut < 5 {
				t.Fatalf("there were only %d syncs", syncs)
			}
			return
		}
		h.check(t, Config{FS: after, Dir: "keys", Secret: secret}, fmt.Sprintf("power cut at sync %d", cut))
	}
}

// FuzzPersons opens files that are not as they were written. Nothing panics, and a key that is found is the one that was made.
func FuzzPersons(f *testing.F) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("keys", 0o700); err != nil {
		f.Fatal(err)
	}
	k, err := Open(Config{FS: mem, Dir: "keys", Secret: secret})
	if err != nil {
		f.Fatal(err)
	}
	made, err := k.Make(person(0), person(1), person(2))
	if err != nil {
		f.Fatal(err)
	}
	if err := k.Close(); err != nil {
		f.Fatal(err)
	}
	whole := make([]byte, 4*slotSize)
	file, err := mem.Open("keys/" + FileName)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := file.ReadAt(whole, 0); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, uint16(0), byte(0), uint16(len(whole)))
	f.Add([]byte{}, uint16(200), byte(1), uint16(len(whole)))
	f.Add(bytes.Repeat([]byte{1}, slotSize), uint16(0), byte(0), uint16(300))
	f.Fuzz(func(t *testing.T, appended []byte, at uint16, flip byte, length uint16) {
		content := bytes.Clone(whole)
		content[int(at)%len(content)] ^= flip
		content = append(content[:int(length)%(len(content)+1)], appended...)
		fs := vfs.NewMem()
		if err := fs.MkdirAll("keys", 0o700); err != nil {
			t.Fatal(err)
		}
		file, err := fs.OpenReadWrite("keys/"+FileName, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		cfg := Config{FS: fs, Dir: "keys", Secret: secret}
		k, err := Open(cfg)
		if err != nil {
			return
		}
		defer k.Close()
		for _, key := range made {
			if found, err := k.Key(key.Tag()); err == nil && *found != *key {
				t.Error("a key that nobody made")
			}
		}
		fresh, err := k.Make(person(3))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Erase(cfg, person(3), false); err != nil || n < 1 {
			t.Fatal(n, err)
		}
		if _, err := k.Key(fresh[0].Tag()); !errors.Is(err, ErrErased) {
			t.Fatal("not erased")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, err := Open(Config{Dir: b.TempDir(), Secret: secret})
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	p, text := person(1), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		keys, err := k.Make(p)
		if err != nil {
			b.Fatal(err)
		}
		_ = keys[0].Seal(nil, text, nil)
	}
}
