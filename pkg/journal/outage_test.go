package journal

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestSeveralAtOnce appends several records in one call, as a bulk check does: they follow each other, and what comes after follows the last.
func TestSeveralAtOnce(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	j := open(t, testConfig(mem))
	for i, want := range []uint64{0, 3, 4} {
		n := []int{3, 1, 2}[i]
		records := make([]*Record, n)
		for k := range records {
			records[k] = numbered(int(want) + k)
		}
		if first, err := j.Append(t.Context(), Refuse, records...); err != nil || first != want {
			t.Fatalf("the first of %d records is %d, want %d: %v", n, first, want, err)
		}
	}
	found, err := readAll(mem)
	if err != nil || len(found) != 6 {
		t.Fatalf("%d records: %v", len(found), err)
	}
	for i, r := range found {
		if r.GetPermission() != numbered(i).GetPermission() {
			t.Errorf("record %d is %v", i, r)
		}
	}
}

// TestUnsyncedIsBounded appends much between two checkpoints: what a power cut would lose, and what is kept in memory for it, has a bound.
func TestUnsyncedIsBounded(t *testing.T) {
	t.Parallel()
	cfg := testConfig(vfs.NewMem())
	cfg.CheckpointInterval, cfg.SegmentBytes = time.Hour, 1<<30
	j := open(t, cfg)
	r := numbered(0)
	r.GivenReason = strings.Repeat("x", 60_000)
	const records = 3 * maxUnsynced / 60_000
	for range records {
		add(t, j, Refuse, r)
	}
	left := float64(j.Written()-j.durable.Load()) * 60_000
	j.unsynced.mu.Lock()
	kept := len(j.unsynced.older) + len(j.unsynced.newer)
	j.unsynced.mu.Unlock()
	if left > maxUnsynced || kept > maxUnsynced {
		t.Errorf("%.0f bytes of records are not durable, and %d are kept in memory for that", left, kept)
	}
}

// TestCloseWritesWhatIsKept closes a journal that keeps a record in memory, on a disk that is well again: the record is there, marked late.
func TestCloseWritesWhatIsKept(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	broken, disk := breakable(mem)
	j := open(t, testConfig(disk))
	broken.Store(true)
	add(t, j, Keep, numbered(0))
	broken.Store(false)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if found, err := readAll(mem); err != nil || len(found) == 0 || found[0].GetPermission() != "view 0" || !found[0].GetLate() {
		t.Errorf("after the close there are %v, %v", found, err)
	}
}

// TestDigestsOfContextsAreKeyed: the digest of a caveat context tells those who do not have the journal's secret nothing, not even of a context
// that they can guess.
func TestDigestsOfContextsAreKeyed(t *testing.T) {
	t.Parallel()
	given := map[string]any{"hour": 12.0}
	digest := func(secret byte) []byte {
		cfg := testConfig(vfs.NewMem())
		cfg.Secret = bytes.Repeat([]byte{secret}, MinSecret)
		sum, _ := open(t, cfg).Context(given)
		return sum
	}
	one, other := digest(1), digest(2)
	if !bytes.Equal(one, digest(1)) {
		t.Error("the same context has another digest each time")
	}
	if len(one) == 0 || bytes.Equal(one, other) {
		t.Errorf("with one secret the digest is %x, and with another %x", one, other)
	}
}

// TestWaitingIsBounded has a disk that does not go on, and calls that narrow and do not wait: as many records as may wait do, and the next one is
// lost, and counted.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	g, mem := newGate(), vfs.NewMem()
	j := open(t, testConfig(failing(mem, g.pass)))
	g.on.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	keep := func() {
		t.Helper()
		if sequence, err := j.Append(ctx, Keep, numbered(0)); err != nil || sequence != Unrecorded {
			t.Fatalf("what narrows is recorded as %d: %v", sequence, err)
		}
	}
	keep()
	<-g.entered
	for range maxKept - 1 {
		keep()
	}
	if lost := j.Stats().Lost; lost != 0 {
		t.Errorf("%d records are lost", lost)
	}
	for range 5 {
		keep()
	}
	if lost := j.Stats().Lost; lost != 5 {
		t.Errorf("beyond the bound %d records are lost, want 5", lost)
	}
	g.on.Store(false)
	close(g.release)
	eventually(t, "those that waited are written", func() bool { return j.Written() >= maxKept })
}

// TestOrderOfWhatFailed: what was being synced when that failed, and what was written meanwhile, are written again in the order that they have.
func TestOrderOfWhatFailed(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	var syncs atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	cfg := testConfig(failing(mem, func(op errorfs.Op) error {
		if syncs.Load() && op.Kind == errorfs.OpFileSyncData && syncs.Swap(false) {
			close(entered)
			<-release
			return syscall.EIO
		}
		return nil
	}))
	cfg.CheckpointInterval, cfg.SegmentBytes = time.Hour, 1<<20
	j := open(t, cfg)
	add(t, j, Refuse, numbered(0))
	syncs.Store(true)
	done := make(chan error)
	go func() {
		_, err := j.Sync()
		done <- err
	}()
	<-entered
	add(t, j, Refuse, numbered(1))
	close(release)
	if err := <-done; err == nil {
		t.Fatal("the sync did not fail")
	}
	tryAgain(j)
	add(t, j, Refuse, numbered(2))
	found, err := readAll(mem)
	if err != nil || len(found) < 3 {
		t.Fatalf("there are %v: %v", found, err)
	}
	for i, r := range found[:3] {
		if r.GetPermission() != fmt.Sprintf("view %d", i) {
			t.Errorf("record %d is %q", i, r.GetPermission())
		}
	}
}

// TestNoteThatFails: where the note of an outage meets the next one, the note after that counts both.
func TestNoteThatFails(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	broken, disk := breakable(mem)
	j := open(t, testConfig(disk))
	broken.Store(true)
	for i := range 2 {
		_, err := j.Append(t.Context(), Refuse, numbered(i))
		refused(t, err)
	}
	broken.Store(false)
	j.writing <- struct{}{}
	err := j.mend()
	<-j.writing
	if err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	j.note() // the journal takes records again, and the disk does not
	_, err = j.Append(t.Context(), Refuse, numbered(2))
	if authz.KindOf(err) != authz.Unavailable {
		t.Fatal(err)
	}
	broken.Store(false)
	tryAgain(j)
	found, err := readAll(mem)
	texts := notes(found)
	if err != nil || len(texts) != 1 || !strings.Contains(texts[0], "3 records were refused") {
		t.Errorf("the journal notes %q: %v", texts, err)
	}
}

// TestSaysWhatIsRecorded: a call whose record says one code has none yet that says another: an answer that failed on its way has to be recorded.
func TestSaysWhatIsRecorded(t *testing.T) {
	t.Parallel()
	a := open(t, testConfig(vfs.NewMem())).Account("one", "Service/Method")
	if a.Says(0) {
		t.Error("before anything is recorded it says so")
	}
	if _, err := a.Record(t.Context(), Refuse, numbered(0)); err != nil {
		t.Fatal(err)
	}
	if !a.Says(0) || a.Says(14) {
		t.Errorf("of an answer it says OK: %t, UNAVAILABLE: %t", a.Says(0), a.Says(14))
	}
}

// TestExcessIsOfTheReserve: what callers have beyond their shares is part of the reserve of the quota, and keeps nobody else's records out.
func TestExcessIsOfTheReserve(t *testing.T) {
	t.Parallel()
	cfg := testConfig(vfs.NewMem())
	cfg.QuotaBytes, cfg.ReserveBytes = 1<<20, 4<<10
	j := open(t, cfg)
	for beyond, want := range map[int64]error{0: errQuota, 2 << 10: nil, 1 << 20: nil} {
		j.mu.Lock()
		used, excess := j.used, j.beyond
		j.used, j.beyond = cfg.QuotaBytes-cfg.ReserveBytes+1<<10, beyond
		got := j.refuses(Refuse)
		j.used, j.beyond = used, excess
		j.mu.Unlock()
		if got != want { //nolint:errorlint // it is returned bare
			t.Errorf("with %d bytes in excess it refuses because of %v, want %v", beyond, got, want)
		}
	}
}
