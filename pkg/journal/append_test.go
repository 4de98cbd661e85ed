package journal

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// gate has the writes of a file system wait until they are let go, once it is on.
type gate struct {
	entered, release chan struct{}
	on               atomic.Bool
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 100), release: make(chan struct{})} }

func (g *gate) pass(op errorfs.Op) error {
	if g.on.Load() && op.Kind == errorfs.OpFileWrite {
		g.entered <- struct{}{}
		<-g.release
	}
	return nil
}

// TestGroup has many callers share writes: while one is under way, all others wait for a single one.
func TestGroup(t *testing.T) {
	t.Parallel()
	const callers = 64
	g, writes := newGate(), atomic.Int64{}
	j := open(t, testConfig(failing(vfs.NewMem(), func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			writes.Add(1)
		}
		return g.pass(op)
	})))
	g.on.Store(true)
	writes.Store(0)
	var all sync.WaitGroup
	var sequences sync.Map
	appendOne := func(i int) {
		sequence, err := j.Append(t.Context(), Refuse, numbered(i))
		if _, twice := sequences.LoadOrStore(sequence, i); twice || err != nil {
			t.Errorf("record %d is numbered %d, as another is: %v", i, sequence, err)
		}
	}
	all.Go(func() { appendOne(0) })
	<-g.entered
	for i := 1; i < callers; i++ {
		all.Go(func() { appendOne(i) })
	}
	eventually(t, "all have joined", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.next == callers
	})
	close(g.release)
	all.Wait()
	if n := writes.Load(); n != 2 {
		t.Errorf("%d records took %d writes, want 2", callers, n)
	}
	if n := j.Written(); n != callers {
		t.Errorf("%d records are written", n)
	}
}

// TestGather has callers on one processor append to a journal that syncs, on a disk that makes nobody wait: those who are ready to run share a
// sync, and who is alone does not wait for others.
func TestGather(t *testing.T) { //nolint:paralleltest // the number of processors is the process's
	const callers = 32
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	cfg := testConfig(vfs.NewMem())
	cfg.Sync, cfg.SegmentBytes = true, 1<<20
	j := open(t, cfg)
	add(t, j, Refuse, numbered(0))
	if batches := j.Stats().Batches; batches != 1 {
		t.Fatalf("a caller who is alone made %d batches", batches)
	}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() { add(t, j, Refuse, numbered(1+i)) })
	}
	all.Wait()
	if batches := j.Stats().Batches - 1; batches > callers/8 {
		t.Errorf("%d records that came at once took %d syncs", callers, batches)
	}
}

// TestAppendInTime has calls whose time is over while the disk hangs: they return, whether they write or wait.
func TestAppendInTime(t *testing.T) {
	t.Parallel()
	g, mem, cancelled := newGate(), vfs.NewMem(), atomic.Int64{}
	j := open(t, testConfig(failing(mem, g.pass)))
	g.on.Store(true)
	var all sync.WaitGroup
	all.Go(func() { add(t, j, Refuse, numbered(0)) })
	<-g.entered
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 5 {
		all.Go(func() {
			_, err := j.Append(ctx, Refuse, numbered(1+i))
			if authz.KindOf(err) != authz.Canceled {
				t.Errorf("a call whose time is over got %v", err)
			}
			cancelled.Add(1)
		})
	}
	cancel()
	eventually(t, "all calls return whose time is over", func() bool { return cancelled.Load() == 5 })
	// What narrows does not wait for a disk that hangs.
	began := time.Now()
	if sequence, err := j.Append(t.Context(), Keep, numbered(6)); sequence != Unrecorded || err != nil || time.Since(began) > time.Minute {
		t.Errorf("while the disk hangs: %d, %v", sequence, err)
	}
	g.on.Store(false)
	close(g.release)
	all.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := readAll(mem)
	if err != nil {
		t.Fatal(err)
	}
	kept := false
	for _, r := range found {
		kept = kept || r.GetPermission() == numbered(6).GetPermission()
	}
	if !kept {
		t.Errorf("what narrows is not recorded once the disk goes on: %v", found)
	}
}

// TestCancelled appends for calls whose time is over, to a journal that is well: their records are written, and it says of itself nothing that is
// not so. Where they would have to wait, they are told that their time is over, and a record that comes to nothing is counted once.
func TestCancelled(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	broken, disk := breakable(mem)
	j := open(t, testConfig(disk))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		if sequence, err := j.Append(ctx, Refuse, numbered(i)); err != nil || sequence != uint64(i) {
			t.Fatalf("record %d is %d: %v", i, sequence, err)
		}
	}
	late, end := context.WithTimeout(t.Context(), -time.Second)
	defer end()
	j.writing <- struct{}{}
	for over, want := range map[context.Context]authz.Kind{ctx: authz.Canceled, late: authz.Deadline} {
		for _, duty := range []Duty{Refuse, Reserve} {
			if _, err := j.Append(over, duty, numbered(0)); authz.KindOf(err) != want {
				t.Errorf("a call whose time is over got %v", err)
			}
		}
	}
	eventually(t, "all have joined", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.next == 104
	})
	<-j.writing
	eventually(t, "all are written", func() bool { return j.Written() == 104 })
	tryAgain(j)
	if s := j.Stats(); s.Refused != 0 || s.Records != 104 {
		t.Errorf("of a journal that is well: %+v", s)
	}
	j.writing <- struct{}{}
	if _, err := j.Append(ctx, Refuse, numbered(0)); authz.KindOf(err) != authz.Canceled {
		t.Errorf("a call whose time is over got %v", err)
	}
	broken.Store(true)
	<-j.writing
	eventually(t, "its record is refused", func() bool { return j.Stats().Refused == 1 })
}

// TestTooLong appends a record that is longer than a record may be: it loses its lists, and nothing else.
func TestTooLong(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	j := open(t, testConfig(fs))
	r := numbered(1)
	for range 3000 {
		r.Relationships = append(r.Relationships, "touch document:plan#viewer@user:alice with a rather long name")
	}
	add(t, j, Refuse, r)
	found, err := readAll(fs)
	if err != nil || len(found) != 1 || found[0].GetPermission() != "view 1" || len(found[0].GetRelationships()) == 0 {
		t.Fatalf("%d records, %v", len(found), err)
	}
	if _, err := j.Append(t.Context(), Refuse, &Record{ResourceId: string(make([]byte, MaxRecord))}); err == nil {
		t.Error("a record that cannot be made short is appended")
	}
	if add(t, j, Refuse, numbered(2)) != 1 {
		t.Error("a record that was not written has a number")
	}
}

// typical is a record of a decision as they are.
func typical() *Record {
	return &Record{
		Time: 1764354695123456789, Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE,
		Caller: "orders-api", Method: "deputy.v1.PermissionsService/CheckPermission", AgentId: "triage-bot", AgentChain: []string{"triage-bot"},
		PrincipalType: "user", PrincipalId: "alice", TenantId: "acme", SessionId: "5b1fca9d1a2e4b60a8c8a1f7ae1be001",
		DelegationId: "9f5df1c6f9a44c0baff3e8a1c2d3e4f5", ResourceType: "document", ResourceId: "plan", Permission: "view",
		Answer: deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, Revision: "GhUKEzE3NjQzNTQ2OTUxMjM0NTY3ODk=", Schema: []byte("12345678"),
		Evaluator: deputyv1.Evaluator_EVALUATOR_NATIVE, Latency: 182_345,
	}
}

// BenchmarkAppend appends records of decisions from so many callers at a time, to the disk that there is.
func BenchmarkAppend(b *testing.B) {
	for _, synced := range []bool{false, true} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(map[bool]string{false: "written", true: "synced"}[synced]+"/"+strconv.Itoa(callers), func(b *testing.B) {
				j, err := Open(Config{Dir: b.TempDir(), Store: "store", Secret: make([]byte, MinSecret), Sync: synced})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = j.Close() })
				b.ReportAllocs()
				b.ResetTimer()
				left := atomic.Int64{}
				left.Store(int64(b.N))
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						r := typical()
						for left.Add(-1) >= 0 {
							if _, err := j.Append(testContext, Refuse, r); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
