package signal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/authz"
)

// noon is now, until a test says otherwise.
var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func openLedger(t *testing.T, fs vfs.FS, now *time.Time) *Ledger {
	t.Helper()
	l, err := OpenLedger(Config{Dir: "signals", FS: fs, Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func entry(n int, state State) Entry {
	name := fmt.Sprint(n)
	return Entry{
		ID: ID("idp", "iss", name), Digest: sha256.Sum256([]byte(name)), Transmitter: "idp", Issuer: "iss", State: state,
		Issued: noon, Received: noon.Add(time.Duration(n) * time.Second),
		Reading: Reading{Act: Brake, Target: authz.Object{Type: "user", ID: "u" + name}}, Tenants: []string{"acme"},
	}
}

func put(t *testing.T, l *Ledger, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Put(e); err != nil {
			t.Fatal(err)
		}
	}
}

// states are those of the entries with the numbers.
func states(l *Ledger, most int) (all []State) {
	for n := range most {
		e, _ := l.Get(ID("idp", "iss", fmt.Sprint(n)))
		all = append(all, e.State)
	}
	return all
}

// TestLedgerSurvives: what was put is there after the process has died, and after everything that was not synced is lost.
func TestLedgerSurvives(t *testing.T) {
	now := noon
	fs := vfs.NewCrashableMem()
	l := openLedger(t, fs, &now)
	want := []State{Applied, Waiting, Begun, Dropped}
	for n, state := range want {
		put(t, l, entry(n, Begun), entry(n, state))
	}
	after := openLedger(t, fs.CrashClone(vfs.CrashCloneCfg{}), &now)
	if got := states(after, 4); !slices.Equal(got, want) {
		t.Errorf("after a crash: %v, want %v", got, want)
	}
	list, more := after.Waits(authz.Unbounded(), Entry{}, 10)
	if len(list) != 2 || more || list[0].Reading.Target.ID != "u1" || list[1].Reading.Target.ID != "u2" {
		t.Errorf("waiting after a crash: %+v, %v", list, more)
	}
	if _, err := OpenLedger(Config{Dir: "signals", FS: fs}); err == nil {
		t.Error("two servers have one ledger")
	}
}

// TestLedgerTorn: a frame that a crash tore is left out, wherever it was torn, and one in the middle that is damaged keeps the ledger shut.
func TestLedgerTorn(t *testing.T) {
	now := noon
	fs := vfs.NewMem()
	l := openLedger(t, fs, &now)
	put(t, l, entry(0, Applied), entry(1, Waiting))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text := read(t, fs)
	first, err := encode(&Entry{})
	if err != nil || len(first) == 0 {
		t.Fatal(err)
	}
	_, size := frame(text)
	for cut := size; cut < len(text); cut++ {
		copied := vfs.NewMem()
		write(t, copied, text[:cut])
		if got := states(openLedger(t, copied, &now), 2); !slices.Equal(got, []State{Applied, 0}) {
			t.Fatalf("torn at %d of %d: %v", cut, len(text), got)
		}
	}
	for at := range size {
		bent := slices.Clone(text)
		bent[at] ^= 0x10
		copied := vfs.NewMem()
		write(t, copied, bent)
		if l, err := OpenLedger(Config{Dir: "signals", FS: copied}); err == nil {
			t.Fatalf("byte %d is wrong, and the ledger opens with %v", at, states(l, 2))
		}
	}
}

func read(t *testing.T, fs vfs.FS) []byte {
	t.Helper()
	f, err := fs.Open("signals/" + logName)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, fs vfs.FS, text []byte) {
	t.Helper()
	if err := fs.MkdirAll("signals", 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create("signals/"+logName, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	// With the race detector a file of vfs overwrites what it was given.
	_, err = f.Write(slices.Clone(text))
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestLedgerFailingIO: whichever write fails, nothing that Put has returned well for is lost, and the ledger goes on once writes do.
func TestLedgerFailingIO(t *testing.T) {
	now := noon
	for i := int32(0); ; i++ {
		mem := vfs.NewCrashableMem()
		_ = openLedger(t, mem, &now).Close() // the directory is there
		writes := int32(0)
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			if writes++; writes == i+1 {
				return errorfs.ErrInjected
			}
			return nil
		}))
		var kept []int
		l, err := OpenLedger(Config{Dir: "signals", FS: fs, Now: func() time.Time { return now }})
		if err == nil {
			for n := range 4 {
				if err := l.Put(entry(n, Applied)); err == nil {
					kept = append(kept, n)
				} else if authz.KindOf(err) != authz.Unavailable {
					t.Fatalf("write %d failed, and Put says %v", i, err)
				}
			}
			if len(kept) < 3 {
				t.Fatalf("write %d failed, and %d of 4 were kept", i, len(kept))
			}
		}
		after := openLedger(t, mem.CrashClone(vfs.CrashCloneCfg{}), &now)
		for _, n := range kept {
			if got := states(after, 4)[n]; got != Applied {
				t.Fatalf("write %d failed: signal %d was kept, and is %v after a crash", i, n, got)
			}
		}
		if l != nil {
			_ = l.Close()
		}
		if writes <= i { // it was not reached any more
			if i < 4 {
				t.Fatalf("only %d writes were failed", i)
			}
			return
		}
	}
}

// TestLedgerForgets: what is over is forgotten once its token would be refused, and what waits is not.
func TestLedgerForgets(t *testing.T) {
	now := noon
	l := openLedger(t, vfs.NewMem(), &now)
	put(t, l, entry(0, Applied), entry(1, Waiting))
	now = noon.Add(MaxAge)
	put(t, l, entry(2, Applied))
	if got := states(l, 3); !slices.Equal(got, []State{Applied, Waiting, Applied}) {
		t.Errorf("at an age at which a token is still taken: %v", got)
	}
	now = noon.Add(MaxAge + 2*time.Hour)
	last := entry(3, Applied)
	last.Issued = now
	put(t, l, last)
	if got := states(l, 4); !slices.Equal(got, []State{0, Waiting, 0, Applied}) {
		t.Errorf("later: %v", got)
	}
}

// TestLedgerRoom: one transmitter cannot fill the list that a person has to go through without end, nor another's.
func TestLedgerRoom(t *testing.T) {
	now := noon
	l := openLedger(t, vfs.NewMem(), &now)
	for n := range maxWaiting {
		put(t, l, entry(n, Waiting))
	}
	if err := l.Put(entry(maxWaiting, Waiting)); authz.KindOf(err) != authz.Exhausted {
		t.Errorf("one more waits: %v", err)
	}
	put(t, l, entry(maxWaiting, Applied))
	other := entry(maxWaiting+1, Waiting)
	other.Transmitter = "another"
	put(t, l, other, entry(0, Dropped), entry(maxWaiting+2, Waiting))
	if _, open := l.Counts(); open != maxWaiting+1 {
		t.Errorf("%d are open", open)
	}
	// One that was begun, and then could not be applied as a whole, waits like any other.
	begun := entry(maxWaiting+3, Begun)
	put(t, l, begun)
	begun.State = Waiting
	if err := l.Put(begun); authz.KindOf(err) != authz.Exhausted {
		t.Errorf("one more comes to wait: %v", err)
	}
	put(t, l, entry(1, Dropped), begun, begun)
}

// TestLedgerBounds: a signal exists for whom its target and all of its tenants do.
func TestLedgerBounds(t *testing.T) {
	acme := authz.Unbounded()
	acme.Tenants = authz.NamesOf("acme")
	services := authz.Unbounded()
	services.Principals = authz.NamesOf("service")
	for name, test := range map[string]struct {
		change func(*Entry)
		acme   bool
	}{
		"in acme":           {func(*Entry) {}, true},
		"in both":           {func(e *Entry) { e.Tenants = []string{"acme", "globex"} }, false},
		"everywhere":        {func(e *Entry) { e.Tenants = nil }, false},
		"beyond its bounds": {func(e *Entry) { e.Beyond = true }, false},
	} {
		e := entry(0, Waiting)
		test.change(&e)
		if got := e.In(acme); got != test.acme {
			t.Errorf("%s: for acme's: %v", name, got)
		}
		if !e.In(authz.Unbounded()) || e.In(services) || e.In(nil) {
			t.Errorf("%s: for others", name)
		}
	}
}
