package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// drawRecord is a record as servers write them, with ids that are met often and ids that are met seldom.
func drawRecord(random *rand.Rand) *Record {
	id := func(kind string, of int) string {
		if random.IntN(8) == 0 {
			return ""
		}
		return fmt.Sprint(kind, "-", int(float64(of)*random.Float64()*random.Float64()))
	}
	r := &Record{
		Time: 1_700_000_000_000_000_000 + random.Int64N(1_000_000_000), Kind: deputyv1.RecordKind(1 + random.IntN(12)),
		Stage: deputyv1.RecordStage_RECORD_STAGE_WHOLE, Caller: id("caller", 3), AgentId: id("agent", 40),
		PrincipalType: []string{"user", "service"}[random.IntN(2)], PrincipalId: id("someone", 60), TenantId: id("tenant", 5),
		ResourceType: "document", ResourceId: id("document", 500), Permission: id("permission", 4), SessionId: id("session", 80),
		DelegationId: id("delegation", 80), Answer: deputyv1.Permissionship(random.IntN(4)), RefusedBy: deputyv1.Gate(random.IntN(8)),
		Revision: "GhUKEzE3MDAwMDAwMDAwMDAwMDAwMDA=",
	}
	if random.IntN(3) > 0 {
		r.ToolCall = &deputyv1.ToolCall{Server: "files", Method: "tools/call", Name: id("tool", 20), ArgumentsHash: []byte(fmt.Sprintf("%016d", random.IntN(9)))}
	}
	for range random.IntN(3) {
		r.AgentChain = append(r.AgentChain, id("agent", 40))
	}
	return r
}

// drawQuery draws a query that a record answers, mostly, and the same question by hand.
func drawQuery(random *rand.Rand, about *Record) (*Query, func(*Record) bool) {
	q := &Query{}
	var holds []func(*Record) bool
	for _, narrow := range []func() func(*Record) bool{
		func() func(*Record) bool {
			q.Agent = about.GetAgentId()
			return func(r *Record) bool {
				return q.Agent == "" || r.GetAgentId() == q.Agent || slices.Contains(r.GetAgentChain(), q.Agent)
			}
		},
		func() func(*Record) bool {
			if about.GetPrincipalId() == "" {
				return func(*Record) bool { return true }
			}
			q.PrincipalType, q.PrincipalID = about.GetPrincipalType(), about.GetPrincipalId()
			return func(r *Record) bool {
				return r.GetPrincipalType() == q.PrincipalType && r.GetPrincipalId() == q.PrincipalID
			}
		},
		func() func(*Record) bool {
			q.Tenant = about.GetTenantId()
			return func(r *Record) bool { return q.Tenant == "" || r.GetTenantId() == q.Tenant }
		},
		func() func(*Record) bool {
			if about.GetResourceId() == "" {
				return func(*Record) bool { return true }
			}
			q.ResourceType, q.ResourceID = "document", about.GetResourceId()
			return func(r *Record) bool { return r.GetResourceId() == q.ResourceID }
		},
		func() func(*Record) bool {
			q.Permission, q.Caller = about.GetPermission(), about.GetCaller()
			return func(r *Record) bool {
				return (q.Permission == "" || r.GetPermission() == q.Permission) && (q.Caller == "" || r.GetCaller() == q.Caller)
			}
		},
		func() func(*Record) bool {
			q.Session = about.GetSessionId()
			return func(r *Record) bool { return q.Session == "" || r.GetSessionId() == q.Session }
		},
		func() func(*Record) bool {
			q.Delegation = about.GetDelegationId()
			return func(r *Record) bool { return q.Delegation == "" || r.GetDelegationId() == q.Delegation }
		},
		func() func(*Record) bool {
			q.Answer, q.RefusedBy = about.GetAnswer(), about.GetRefusedBy()
			return func(r *Record) bool {
				return (q.Answer == 0 || r.GetAnswer() == q.Answer) && (q.RefusedBy == 0 || r.GetRefusedBy() == q.RefusedBy)
			}
		},
		func() func(*Record) bool {
			q.Kinds = []deputyv1.RecordKind{about.GetKind(), deputyv1.RecordKind(1 + random.IntN(12))}
			return func(r *Record) bool { return r.GetKind() == q.Kinds[0] || r.GetKind() == q.Kinds[1] }
		},
		func() func(*Record) bool {
			if about.GetToolCall() == nil {
				return func(*Record) bool { return true }
			}
			q.Tool = &deputyv1.ToolCall{Name: about.GetToolCall().GetName()}
			if random.IntN(2) == 0 {
				q.Tool.ArgumentsHash = about.GetToolCall().GetArgumentsHash()
			}
			return func(r *Record) bool {
				c := r.GetToolCall()
				return c != nil && (q.Tool.GetName() == "" || c.GetName() == q.Tool.GetName()) &&
					(q.Tool.GetArgumentsHash() == nil || string(c.GetArgumentsHash()) == string(q.Tool.GetArgumentsHash()))
			}
		},
		func() func(*Record) bool {
			q.From = time.Unix(0, about.GetTime()-random.Int64N(100_000_000))
			return func(r *Record) bool { return !time.Unix(0, r.GetTime()).Before(q.From) }
		},
		func() func(*Record) bool {
			q.Until = time.Unix(0, about.GetTime()+1+random.Int64N(100_000_000))
			return func(r *Record) bool { return time.Unix(0, r.GetTime()).Before(q.Until) }
		},
		func() func(*Record) bool {
			q.Admits = func(r *Record) bool { return r.GetTenantId() == "tenant-1" || r.GetTenantId() == "tenant-0" }
			q.WithinTenants = []string{"tenant-0", "tenant-1"}
			return q.Admits
		},
	} {
		if random.IntN(6) == 0 {
			holds = append(holds, narrow())
		}
	}
	return q, func(r *Record) bool {
		return !slices.ContainsFunc(holds, func(holds func(*Record) bool) bool { return !holds(r) })
	}
}

// pages runs a query page after page, and returns the sequences that it found.
func pages(t *testing.T, r *Reader, q *Query, size int) (found []uint64) {
	t.Helper()
	var at Place
	for {
		n := 0
		next, err := r.Query(t.Context(), q, at, func(f Found) (bool, error) {
			found = append(found, f.Record.GetSequence())
			n++
			return size == 0 || n < size, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next == nil {
			return found
		}
		at = next
	}
}

// saveBundles has the tree of a journal save what is written, as the sealer does, and returns how many bundles there are.
func saveBundles(t *testing.T, fs vfs.FS, dir string) uint64 {
	t.Helper()
	saved, err := tree.Open(fs, dir, 0, math.MaxUint64)
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewSegmentReader(fs, dir).Read(saved.Size(), 1<<62, func(_ uint64, record []byte) error { return saved.Add(record) })
	if err == nil {
		err = saved.Save()
	}
	if err != nil {
		t.Fatal(err)
	}
	return saved.Saved() / tree.Width
}

// TestQuery: whatever is asked, forward and backward, on pages of any size, of bundles, of segments, with and without an index, is what a look
// at every record by hand finds: each once, in order.
func TestQuery(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	random := rand.New(rand.NewPCG(11, 12))
	fs := vfs.NewMem()
	cfg := testConfig(fs)
	cfg.SegmentBytes = 64 << 10
	j := open(t, cfg)
	live, err := j.Reader(nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Record
	for step := range 6 {
		for range random.IntN(900) {
			r := drawRecord(random)
			r.Sequence = add(t, j, Refuse, r)
			all = append(all, proto.CloneOf(r))
		}
		if step%3 == 1 {
			bundles := saveBundles(t, fs, testDir)
			j.indexer.Load().poke()
			if step == 4 {
				indexed(t, j, bundles)
			}
		}
		offline, err := OpenReader(ReaderConfig{Dir: testDir, FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		for range 16 {
			q, holds := drawQuery(random, all[random.IntN(len(all))])
			q.Newest = random.IntN(2) == 0
			var want []uint64
			for _, r := range all {
				if holds(r) {
					want = append(want, r.GetSequence())
				}
			}
			if q.Newest {
				slices.Reverse(want)
			}
			for name, reader := range map[string]*Reader{"live": live, "of the directory": offline} {
				if got := pages(t, reader, q, []int{0, 3, 50}[random.IntN(3)]); !slices.Equal(got, want) {
					t.Fatalf("step %d, %s: %+v finds %d records %v, want %d %v", step, name, q, len(got), got, len(want), want)
				}
			}
		}
		for range 20 {
			want := all[random.IntN(len(all))]
			for _, reader := range []*Reader{live, offline} {
				b, err := reader.Record(want.GetSequence())
				var got Record
				if err != nil || proto.Unmarshal(b, &got) != nil || !proto.Equal(&got, want) {
					t.Fatalf("record %d is read as %v, %v", want.GetSequence(), &got, err)
				}
			}
		}
		if _, err := live.Record(uint64(len(all))); !errors.Is(err, ErrNoRecord) {
			t.Errorf("a record that was not written yet is read: %v", err)
		}
	}
}

// indexed waits until so many bundles are indexed.
func indexed(t *testing.T, j *Journal, bundles uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, behind := j.indexer.Load().index.Missing(bundles); !behind {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the index does not catch up")
		}
		if err := rest(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFollow: one that follows gets each record that matches, once, in order, however they are written, and stops with its context.
func TestFollow(t *testing.T) {
	fs := vfs.NewMem()
	j := open(t, testConfig(fs))
	add(t, j, Refuse, numbered(0))
	live, err := j.Reader(nil)
	if err != nil {
		t.Fatal(err)
	}
	offline, err := OpenReader(ReaderConfig{Dir: testDir, FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	const records = 600
	for _, reader := range []*Reader{live, offline} {
		from := j.Written()
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan uint64, records)
		ended := make(chan error, 1)
		go func() {
			_, err := reader.Follow(ctx, &Query{Caller: "caller 1"}, &from, func(f Found) (bool, error) {
				got <- f.Record.GetSequence()
				return true, nil
			})
			ended <- err
		}()
		var want []uint64
		for i := range records {
			if sequence := add(t, j, Refuse, numbered(i)); i%3 == 1 {
				want = append(want, sequence)
			}
			if i == records/2 {
				saveBundles(t, fs, testDir)
			}
		}
		for _, sequence := range want {
			if next := <-got; next != sequence {
				t.Fatalf("record %d comes where %d has to", next, sequence)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ends with %v", err)
		}
		if len(got) > 0 {
			t.Errorf("record %d comes besides", <-got)
		}
	}
}

// TestQueryStops: a query that is given no time says where to go on, and one whose context ends fails.
func TestQueryStops(t *testing.T) {
	fs := vfs.NewMem()
	j := open(t, testConfig(fs))
	for i := range 3 * tree.Width {
		add(t, j, Refuse, numbered(i))
	}
	r, err := j.Reader(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, newest := range []bool{false, true} {
		found := 0
		next, err := r.Query(t.Context(), &Query{Budget: 1, Newest: newest}, nil, func(Found) (bool, error) { found++; return true, nil })
		if err != nil || next == nil || found > tree.Width {
			t.Errorf("newest first %v: %d records are found in no time, and the query is over: %v, %v", newest, found, next == nil, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Query(ctx, &Query{Newest: newest}, nil, func(Found) (bool, error) { return true, nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("newest first %v: a query whose context ended ends with %v", newest, err)
		}
	}
}

// TestMissingRecordsAreAnError: what is missing or damaged in a directory fails a query over it, and is not passed over.
func TestMissingRecordsAreAnError(t *testing.T) {
	fs := vfs.NewMem()
	cfg := testConfig(fs)
	cfg.SegmentBytes = 8 << 10
	j := open(t, cfg)
	for i := range 4*tree.Width + 50 {
		add(t, j, Refuse, numbered(i))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	saveBundles(t, fs, testDir)
	segments, err := listSegments(fs, fs.PathJoin(testDir, segmentsDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range segments {
		if first < 3*tree.Width {
			if err := fs.Remove(fs.PathJoin(testDir, segmentsDir, segmentName(first))); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() (n int, err error) {
		r, err := OpenReader(ReaderConfig{Dir: testDir, FS: fs})
		if err != nil {
			return 0, err
		}
		_, err = r.Query(t.Context(), &Query{}, nil, func(Found) (bool, error) { n++; return true, nil })
		return n, err
	}
	if n, err := count(); n != 4*tree.Width+50 || err != nil {
		t.Fatalf("%d records are found, %v", n, err)
	}
	path := fs.PathJoin(testDir, "tile", "entries", "001.zst")
	whole, err := tree.ReadFile(fs, path, maxBundleFile)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(whole)
	bad[len(bad)/2] ^= 1
	if err := tree.WriteFile(fs, path, bad); err != nil {
		t.Fatal(err)
	}
	if n, err := count(); err == nil {
		t.Errorf("a bundle is damaged, and %d records are found without an error", n)
	}
	if err := fs.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n, err := count(); err == nil {
		t.Errorf("a bundle is missing, and %d records are found without an error", n)
	}
}
