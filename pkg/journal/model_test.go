package journal

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// writers is how many callers append at a time in the life of a journal.
const writers = 4

// life is what happens to a journal, and what its callers know of it.
type life struct {
	sync bool

	mu sync.Mutex
	// records are those that were handed over, and acknowledged those that were answered, with their sequences. kept are those that were
	// answered, and not written yet. durable is how many a sync has said to be.
	records      map[string]*Record
	acknowledged map[string]uint64
	kept         map[string]bool
	durable      uint64
	made         int
}

func newLife(sync bool) *life {
	return &life{sync: sync, records: map[string]*Record{}, acknowledged: map[string]uint64{}, kept: map[string]bool{}}
}

// append hands over a record and notes what became of it.
func (l *life) append(j *Journal, duty Duty) error {
	l.mu.Lock()
	r := numbered(l.made)
	l.made++
	l.records[r.GetPermission()] = proto.CloneOf(r)
	l.mu.Unlock()
	before := j.Written()
	sequence, err := j.Append(testContext, duty, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.kept[r.GetPermission()] = duty == Reserve // it is kept all the same
		return err
	case sequence >= j.Written():
		l.kept[r.GetPermission()] = true
		return nil
	case sequence < before:
		return fmt.Errorf("%s is numbered %d, and there were %d already", r.GetPermission(), sequence, before)
	}
	l.acknowledged[r.GetPermission()] = sequence
	return nil
}

// ledger is what is acknowledged, and how much of it is durable.
func (l *life) ledger() (acknowledged map[string]uint64, durable uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acknowledged), l.durable
}

// live opens a journal, writes to it in several ways, and closes it, three times. It goes on whatever fails. It reports whether the last record
// was acknowledged.
func (l *life) live(fs vfs.FS) (wellInTheEnd bool) {
	for range 3 {
		cfg := testConfig(fs)
		cfg.Sync = l.sync
		j, err := Open(cfg)
		for attempt := 0; err != nil && attempt < 20; attempt++ {
			j, err = Open(cfg)
		}
		if err != nil {
			return false
		}
		var all sync.WaitGroup
		for range writers {
			all.Go(func() {
				for range 5 {
					_ = l.append(j, Refuse)
				}
			})
		}
		all.Wait()
		for i := range 12 {
			_ = l.append(j, Duty(i%3))
			if durable, err := j.Sync(); i%5 == 4 && err == nil {
				l.mu.Lock()
				l.durable = durable
				l.mu.Unlock()
			}
		}
		wellInTheEnd = l.append(j, Refuse) == nil
		_ = j.Close()
	}
	return wellInTheEnd
}

// check compares what a directory has with what callers know: each record that was acknowledged is there once, where it was said to be, as it
// was; those from needed on need not be. Of others there are at most as many as calls are under way.
func (l *life) check(fs vfs.FS, acknowledged map[string]uint64, needed uint64) error {
	j, err := Open(testConfig(fs))
	if err != nil {
		return err
	}
	defer func() { _ = j.Close() }()
	found, err := readAll(fs)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, surplus := map[string]bool{}, 0
	for _, r := range found {
		if r.GetKind() == deputyv1.RecordKind_RECORD_KIND_NOTE {
			continue
		}
		name := r.GetPermission()
		if seen[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		sequence, known := acknowledged[name]
		if known && sequence != r.GetSequence() {
			return fmt.Errorf("%s is numbered %d, and was answered as %d", name, r.GetSequence(), sequence)
		}
		if !known && !l.kept[name] {
			surplus++
		}
		r.Sequence, r.Late = 0, false
		if want := l.records[name]; !proto.Equal(r, want) {
			return fmt.Errorf("%s is %v, want %v", name, r, want)
		}
	}
	for name, sequence := range acknowledged {
		if !seen[name] && sequence < needed {
			return fmt.Errorf("%s was acknowledged as %d, and is not there", name, sequence)
		}
	}
	if surplus > writers {
		return fmt.Errorf("%d records are there that nobody was told of", surplus)
	}
	return nil
}

// every is the stride of a sweep, or what DEPUTY_JOURNAL_EVERY says.
func every(t *testing.T, stride int) int {
	t.Helper()
	text := os.Getenv("DEPUTY_JOURNAL_EVERY")
	if text == "" {
		return stride
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DEPUTY_JOURNAL_EVERY is %q, want a number from 1 on", text)
	}
	return n
}

// TestFailingDisk fails one operation of a life, or several from there on, wherever that is. What was acknowledged is there, and the journal is
// well in the end.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		for _, failure := range []struct {
			name   string
			err    error
			length int64
		}{{"fails", syscall.EIO, 1}, {"fails for long", syscall.EIO, 40}, {"is full", syscall.ENOSPC, 1}, {"is full for long", syscall.ENOSPC, 40}} {
			t.Run(fmt.Sprintf("sync %t, disk %s", sync, failure.name), func(t *testing.T) {
				t.Parallel()
				failed := 0
				for i := int64(0); ; i += int64(every(t, 2)) {
					l, mem, ops := newLife(sync), vfs.NewCrashableMem(), newCounter()
					well := l.live(failing(mem, func(op errorfs.Op) error {
						n := ops.next()
						reading := op.Kind.ReadOrWrite() == errorfs.OpIsRead && isNoRoom(failure.err)
						if n < i || n >= i+failure.length || reading {
							return nil
						}
						return failure.err
					}))
					total := ops.next()
					if err := l.check(mem, l.acknowledged, Unrecorded); err != nil {
						t.Fatalf("operation %d of %d: %v", i, total, err)
					}
					if i+failure.length < total-60 && !well {
						t.Fatalf("operation %d of %d: the journal is not well in the end", i, total)
					}
					if i >= total {
						break
					}
					failed++
				}
				if failed*every(t, 2) < 100 {
					t.Errorf("only %d operations failed", failed)
				}
			})
		}
	}
}

// TestCrash cuts the power before each sync of a life: what was synced is left, and of the rest nothing, some, or all of it, which is what the
// death of the process leaves.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		for _, left := range []int{0, 30, 70, 100} {
			t.Run(fmt.Sprintf("sync %t, %d percent", sync, left), func(t *testing.T) {
				t.Parallel()
				for seed := range 20 / every(t, 8) {
					crashes(t, newLife(sync), left, -1, uint64(seed))
				}
			})
		}
	}
}

// TestCrashOfFailingDisk does the same while one operation fails, wherever that is.
func TestCrashOfFailingDisk(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		for _, left := range []int{0, 50, 100} {
			t.Run(fmt.Sprintf("sync %t, %d percent", sync, left), func(t *testing.T) {
				t.Parallel()
				for i := int64(20); i < 300; i += int64(every(t, 23)) {
					crashes(t, newLife(sync), left, i, uint64(i))
				}
			})
		}
	}
}

// crashes ends a life before each of its syncs, while operation fails fails; -1 stands for none.
func crashes(t *testing.T, l *life, left int, fails int64, seed uint64) {
	t.Helper()
	mem, ops, rng := vfs.NewCrashableMem(), newCounter(), rand.New(rand.NewPCG(seed, 17))
	var one sync.Mutex
	points := 0
	l.live(failing(mem, func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			one.Lock()
			defer one.Unlock()
			points++
			acknowledged, durable := l.ledger()
			needed := Unrecorded
			if !l.sync && left < 100 {
				needed = durable
			}
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: left, RNG: rng})
			if err := l.check(clone, acknowledged, needed); err != nil {
				t.Errorf("operation %d fails, crash %d: %v", fails, points, err)
			}
		}
		if ops.next() == fails {
			return syscall.EIO
		}
		return nil
	}))
	if points < 10 {
		t.Errorf("there were only %d crashes", points)
	}
}
