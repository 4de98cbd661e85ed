package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// clock is one that tests set, while a journal reads it.
type clock struct{ nanoseconds atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.pass(1_000_000 * time.Second)
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.nanoseconds.Load()) }

func (c *clock) pass(d time.Duration) { c.nanoseconds.Add(int64(d)) }

// of is a record of a caller, now.
func (c *clock) of(caller string) *Record {
	return &Record{Caller: caller, Time: c.nanoseconds.Load(), Permission: "view", ResourceId: strings.Repeat("x", 100)}
}

// sealed waits until a journal has sealed all that is written.
func sealed(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.sealer.seal(); err != nil {
		t.Fatal(err)
	}
}

// bytesOf counts what each caller has of a journal, from its records.
func bytesOf(t *testing.T, j *Journal) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for n := j.Tree().Minimum() / tree.Width; n*tree.Width < j.Tree().Size(); n++ {
		records, err := j.Tree().Bundle(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			_, caller := timeAndCaller(r)
			all[caller] += int64(frameHeader + len(r))
		}
	}
	return all
}

// TestRetention removes whole bundles of records that are all older than the retention, and none that has a younger one.
func TestRetention(t *testing.T) {
	t.Parallel()
	c := newClock()
	cfg := testConfig(vfs.NewMem())
	cfg.Retention, cfg.Now = 24*time.Hour, c.now
	j := open(t, cfg)
	for i := range 3*tree.Width + 10 {
		if i == tree.Width+1 {
			c.pass(time.Hour) // in the second bundle
		}
		r := c.of("one")
		if i == 2*tree.Width-1 {
			r.Time -= int64(time.Hour) // the clock was put back, so that the last one is not the youngest
		}
		add(t, j, Refuse, r)
	}
	sealed(t, j)
	for _, step := range []struct {
		pass time.Duration
		want uint64
	}{{22 * time.Hour, 0}, {time.Hour, 0}, {time.Nanosecond, 1}, {time.Hour - 2*time.Nanosecond, 1}, {2 * time.Nanosecond, 3}, {48 * time.Hour, 3}} {
		c.pass(step.pass)
		j.tidy()
		if got := j.Tree().Minimum(); got != step.want*tree.Width {
			t.Errorf("after %s the first record is %d, want %d", step.pass, got, step.want*tree.Width)
		}
	}
	if _, err := j.Tree().Bundle(2); !errors.Is(err, tree.ErrPruned) {
		t.Errorf("what was removed is read: %v", err)
	}
}

// TestRetentionCatchesUp has more to remove than is removed in one go: it goes on with that at once, and not only with the next minute.
func TestRetentionCatchesUp(t *testing.T) {
	t.Parallel()
	c, mem := newClock(), vfs.NewMem()
	cfg := signedConfig(t, mem)
	cfg.Now = c.now
	j := open(t, cfg)
	for range 5 * tree.Width {
		add(t, j, Refuse, c.of("one"))
	}
	sealed(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	c.pass(48 * time.Hour)
	cfg.Retention, cfg.tidyEvery, cfg.retryEvery, cfg.pruneAtOnce = 24*time.Hour, time.Hour, time.Millisecond, 1
	cfg.QuotaBytes = 1 << 30
	j = open(t, cfg)
	eventually(t, "all is removed", func() bool { return j.Tree().Minimum() == 5*tree.Width })
	eventually(t, "all is counted", j.hasCounted)
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := j.bytes["one"]; n != 0 {
		t.Errorf("its caller is said to have %d bytes of what is removed", n)
	}
}

// quotaJournal is a journal with a quota.
func quotaJournal(t *testing.T, fs vfs.FS, c *clock) *Journal {
	t.Helper()
	cfg := testConfig(fs)
	cfg.Retention, cfg.Now, cfg.QuotaBytes, cfg.tidyEvery = 24*time.Hour, c.now, 400<<10, time.Hour
	j := open(t, cfg)
	eventually(t, "what each caller has is counted", j.hasCounted)
	return j
}

// TestQuota fills a journal up to its quota: it removes nothing that the retention keeps, and takes what narrows.
func TestQuota(t *testing.T) {
	t.Parallel()
	c, mem := newClock(), vfs.NewMem()
	j := quotaJournal(t, mem, c)
	var err error
	for n := 0; err == nil; n++ {
		if n > 20_000 {
			t.Fatal("the journal is never full")
		}
		_, err = j.Append(t.Context(), Refuse, c.of(fmt.Sprint("caller ", n%4)))
		if n%1000 == 0 {
			sealed(t, j)
			j.tidy()
		}
	}
	refused(t, err)
	if !errors.Is(j.Err(), errQuota) || !strings.Contains(j.Err().Error(), "quota") {
		t.Errorf("the journal says %v", j.Err())
	}
	size, err := treeSize(mem, testDir)
	if err != nil || size > 400<<10 || size < 300<<10 {
		t.Errorf("the directory has %d bytes, %v", size, err)
	}
	j.tidy()
	if j.Tree().Minimum() != 0 {
		t.Error("a full journal removes what the retention keeps")
	}
	add(t, j, Keep, c.of("caller 0"))
	add(t, j, Reserve, c.of("caller 0"))
	c.pass(25 * time.Hour)
	sealed(t, j)
	j.tidy()
	j.note()
	if err := j.Err(); err != nil || j.Tree().Minimum() == 0 {
		t.Errorf("after the retention: %v, from record %d on", err, j.Tree().Minimum())
	}
	add(t, j, Refuse, c.of("caller 0"))
}

// TestQuotaIsMeasuredBeforeItIsFull writes what compresses well: the journal is not full while its directory is nearly empty, and what was removed
// from it is not counted.
func TestQuotaIsMeasuredBeforeItIsFull(t *testing.T) {
	t.Parallel()
	c, mem := newClock(), vfs.NewMem()
	j := quotaJournal(t, mem, c)
	for n := range 3000 {
		if n%250 == 0 {
			sealed(t, j)
		}
		if _, err := j.Append(t.Context(), Refuse, c.of(fmt.Sprint("caller ", n%8))); err != nil {
			size, _ := treeSize(mem, testDir)
			t.Fatalf("record %d, with %d bytes in the directory: %v", n, size, err)
		}
	}
	j.mu.Lock()
	j.used = j.cfg.QuotaBytes // as it was estimated
	j.mu.Unlock()
	j.look()
	if err := j.Err(); err != nil {
		t.Errorf("the journal stays full: %v", err)
	}
	for range 100 {
		add(t, j, Refuse, c.of("caller 1"))
	}
	before := j.Stats().Used
	sealed(t, j)
	if after := j.Stats().Used; after >= before {
		t.Errorf("once segments are removed %d bytes are used, and %d before", after, before)
	}
}

// TestShare has one caller write what it can: it is stopped at half of the quota, and nobody else is.
func TestShare(t *testing.T) {
	t.Parallel()
	c, mem := newClock(), vfs.NewMem()
	j := quotaJournal(t, mem, c)
	stop := func() (written int) {
		t.Helper()
		for n := 0; ; n++ {
			if n%500 == 0 {
				sealed(t, j)
				j.tidy()
			}
			_, err := j.Append(t.Context(), Refuse, c.of("loud"))
			if err == nil {
				continue
			}
			if e, ok := errors.AsType[*authz.Error](err); !ok || e.Kind != authz.Exhausted || e.Reason != authz.ReasonJournalShare {
				t.Fatalf("its record %d came to %v", n, err)
			}
			return n
		}
	}
	had := stop()
	if err := j.Err(); err != nil {
		t.Fatalf("one caller fills the journal: %v", err)
	}
	sealed(t, j)
	j.tidy()
	if used := j.used; used < 150<<10 || used > 260<<10 {
		t.Errorf("it had %d bytes of 400 KiB", used)
	}
	add(t, j, Keep, c.of("loud"))
	for range 300 {
		add(t, j, Refuse, c.of("other"))
	}
	// A restart knows, even if it is one after a crash.
	clone := vfs.NewMem()
	if _, err := vfs.Clone(mem, clone, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, after := range []struct {
		name string
		fs   vfs.FS
	}{{"a crash", clone}, {"a restart", mem}} {
		j = quotaJournal(t, after.fs, c)
		// It is a share of the disk, on which the same records take more room or less with how many of them are in bundles.
		if more := stop(); more > had/10 {
			t.Errorf("after %s it goes on, with %d records behind %d", after.name, more, had)
		}
		add(t, j, Refuse, c.of("other"))
		eventually(t, "after "+after.name+" the callers are said to have what they have", func() bool { // it may just note what it refused
			sealed(t, j)
			want := bytesOf(t, j)
			j.mu.Lock()
			defer j.mu.Unlock()
			return maps.Equal(j.bytes, want)
		})
	}
	// What the retention removes is no caller's any more.
	c.pass(25 * time.Hour)
	j.tidy()
	if j.Tree().Minimum() == 0 {
		t.Fatal("nothing was removed")
	}
	add(t, j, Refuse, c.of("loud"))
	sealed(t, j)
	if got, want := j.bytes, bytesOf(t, j); got["loud"] != want["loud"] || got["other"] != want["other"] {
		t.Errorf("the callers are said to have %v, and have %v", got, want)
	}
	j.tidy()
	found, err := readAll(mem)
	if err != nil {
		t.Fatal(err)
	}
	if texts := notes(found); len(texts) == 0 || !strings.Contains(strings.Join(texts, "\n"), "had used up their share") {
		t.Errorf("the journal notes %q", texts)
	}
}

// TestCallersFileIsDerived opens a journal whose file of counts is damaged, or gone: all is counted again.
func TestCallersFileIsDerived(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "{", `{"from":0,"through":1000000,"bytes":{"a":5}}`, `{"from":5,"through":1,"bytes":{}}`} {
		c, mem := newClock(), vfs.NewMem()
		j := quotaJournal(t, mem, c)
		for i := range 700 {
			add(t, j, Refuse, c.of(fmt.Sprint("caller ", i%3)))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		path := mem.PathJoin(testDir, callersFile)
		if err := mem.Remove(path); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			if err := tree.WriteFile(mem, path, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		j = quotaJournal(t, mem, c)
		sealed(t, j)
		if want := bytesOf(t, j); !maps.Equal(j.bytes, want) || len(want) != 3 {
			t.Errorf("with %q the callers are said to have %v, and have %v", content, j.bytes, want)
		}
	}
}

// TestManyCallers counts no more callers than it may.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	var r room
	r.add("large", 1<<30)
	for i := range maxCallers + 10 {
		r.add(fmt.Sprint(i), 100)
	}
	if len(r.bytes) > maxCallers || r.bytes["large"] != 1<<30 {
		t.Errorf("%d callers are counted, and the largest has %d", len(r.bytes), r.bytes["large"])
	}
}

// TestNoCallerFillsTheReserve has one caller write what it can with the duties that use the reserve: it refuses nobody else's records, and what it
// has in excess of its share is bounded, and counted beyond.
func TestNoCallerFillsTheReserve(t *testing.T) {
	t.Parallel()
	c, mem := newClock(), vfs.NewMem()
	j := quotaJournal(t, mem, c)
	highest := int64(0)
	flood := func(records int) {
		t.Helper()
		for n := range records {
			if n%500 == 0 {
				sealed(t, j)
				j.tidy()
				highest = max(highest, j.limit)
			}
			r := c.of("loud")
			r.ResourceId = fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprint(n)))) // it does not compress
			if _, err := j.Append(t.Context(), Keep, r); err != nil {
				t.Fatalf("its record %d of duty Keep came to %v", n, err)
			}
		}
	}
	flood(8000) // several times the quota
	if !j.OverShare("loud") || j.OverShare("other") || j.OverShare("") {
		t.Error("it is not known who is over its share")
	}
	sealed(t, j)
	j.tidy()
	if err := j.Err(); err != nil {
		t.Fatalf("one caller fills the journal: %v", err)
	}
	if had, most := j.bytes["loud"], highest+j.quotaReserve(); had > most {
		t.Errorf("it has %d bytes, of at most %d", had, most)
	}
	for range 100 {
		add(t, j, Refuse, c.of("other"))
	}
	if sequence := add(t, j, Keep, c.of("other")); sequence == Unrecorded {
		t.Error("what another caller narrows is not recorded")
	}
	if _, err := j.Append(t.Context(), Reserve, c.of("loud")); authz.KindOf(err) != authz.Exhausted {
		t.Errorf("its record of duty Reserve came to %v", err)
	}
	j.tidy()
	sealed(t, j)
	var found []*Record
	for n := uint64(0); n*tree.Width < j.Tree().Size(); n++ {
		records, err := j.Tree().Bundle(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, encoded := range records {
			r := &Record{}
			if err := proto.Unmarshal(encoded, r); err != nil {
				t.Fatal(err)
			}
			found = append(found, r)
		}
	}
	written, unwritten := 0, 0
	for _, r := range found {
		if r.GetCaller() == "loud" {
			written++
		}
	}
	for _, text := range notes(found) {
		if n, caller := 0, ""; strings.Contains(text, "were not written") {
			if _, err := fmt.Sscanf(text, "%d records of the caller %q,", &n, &caller); err == nil && caller == "loud" {
				unwritten += n
			}
		}
	}
	if written+unwritten != 8001 || unwritten == 0 {
		t.Errorf("%d of its 8001 records are written, and %d counted", written, unwritten)
	}
}
