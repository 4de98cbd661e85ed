package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/store"
)

// openStore opens a store that is closed with the test.
func openStore(t testing.TB, dir string, config store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(dir, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fill loads a graph through the datastore's interface, a tenant a transaction.
func fill(t testing.TB, s datastore.Datastore, g graph) time.Duration {
	t.Helper()
	start := time.Now()
	var next atomic.Int64
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			for {
				tenant := int(next.Add(1)) - 1
				if tenant >= g.tenants {
					errs <- nil
					return
				}
				var rels []tuple.Relationship
				_ = eachOf(tenant, func(r tuple.Relationship) error { rels = append(rels, r); return nil })
				if _, err := s.ReadWriteTx(t.Context(), func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
					_, err := tx.BulkLoad(ctx, &load{rels: rels})
					return err
				}); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(start)
}

// touch writes one relationship.
func touch(ctx context.Context, s datastore.Datastore, id string) error {
	_, err := s.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, []tuple.RelationshipUpdate{tuple.Touch(tuple.Relationship{
			RelationshipReference: tuple.RelationshipReference{
				Resource: tuple.ObjectAndRelation{ObjectType: "document", ObjectID: id, Relation: "owner"},
				Subject:  tuple.ObjectAndRelation{ObjectType: "user", ObjectID: "somebody", Relation: tuple.Ellipsis},
			},
		})})
	})
	return err
}

// TestCommit measures commits: of one writer beside the disk's own fsync, and of 64.
func TestCommit(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, filepath.Join(dir, "store"), store.Config{})
	file, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	line := make([]byte, 256)
	times := scaled(2000, 20)
	var ratios, disks, commits []float64
	for round := range scaled(5, 1) {
		disk := latency(t, times, func(int) error {
			if _, err := file.Write(line); err != nil {
				return err
			}
			return file.Sync()
		})
		commit := latency(t, times, func(i int) error { return touch(t.Context(), s, fmt.Sprintf("one-%d-%d", round, i)) })
		disks, commits = append(disks, float64(disk.Microseconds())), append(commits, float64(commit.Microseconds()))
		ratios = append(ratios, float64(commit)/float64(disk))
	}
	add(t, "an append and fsync of the disk, p50", median(disks), "µs")
	add(t, "a commit by one writer, p50", median(commits), "µs")
	atMost(t, "a commit by one writer / an fsync", median(ratios), "", 2)
	n := 0
	many := rounds(scaled(5, 1), func() float64 {
		n++
		return rate(t, 64, lasting(), func(w, i int) error { return touch(t.Context(), s, fmt.Sprintf("many-%d-%d-%d", n, w, i)) })
	})
	atLeast(t, "commits by 64 writers", many, "/s", 30_000)
}

// forward reads the few rows of one document.
func forward(t testing.TB, g graph, s *store.Store, times int) float64 {
	t.Helper()
	head, err := s.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reader := s.SnapshotReader(head.Revision)
	r := rand.New(rand.NewPCG(7, 7))
	read := func(n int) {
		for range n {
			it, err := reader.QueryRelationships(t.Context(), datastore.RelationshipsFilter{
				OptionalResourceType: "document", OptionalResourceIds: []string{document(r.IntN(g.tenants), r.IntN(documentsPerTenant))},
			}, options.WithSort(options.ByResource))
			if err != nil {
				t.Fatal(err)
			}
			rows := 0
			for _, err := range it {
				if err != nil {
					t.Fatal(err)
				}
				rows++
			}
			if rows != 2 {
				t.Fatalf("a document has %d rows", rows)
			}
		}
	}
	read(times) // warm
	return rounds(scaled(5, 1), func() float64 {
		start := time.Now()
		read(times)
		return float64(time.Since(start).Nanoseconds()) / float64(times) / 1000
	})
}

// TestForwardRead measures a forward read of a document's two rows, uniformly random.
func TestForwardRead(t *testing.T) {
	g := sized(scaled(100_000, 5_000))
	s := openStore(t, t.TempDir(), store.Config{})
	fill(t, s, g)
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	atMost(t, fmt.Sprintf("a forward read of two rows, decoded, of %d relationships", g.relationships()), forward(t, g, s, scaled(100_000, 100)), "µs", 3)
}

// Variables that a child of the test binary is told its work by.
const (
	// childDir names the directory that it writes to until it is killed.
	childDir = "DEPUTY_BENCH_CHILD"
	// readerDir names the directory that it reads, readerTenants how large the graph in it is.
	readerDir     = "DEPUTY_BENCH_READER"
	readerTenants = "DEPUTY_BENCH_TENANTS"
)

// reading is what a child measured.
type reading struct {
	// Opened is in seconds, Read in microseconds, Resident in MiB (0 where it cannot be told).
	Opened, Read, Resident float64
}

// readAlone has a process of its own open a store and read it.
func readAlone(t testing.TB, dir string, g graph) (r reading) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReader$", fmt.Sprintf("-measure=%v", *measure))
	child.Env = append(os.Environ(), readerDir+"="+dir, readerTenants+"="+strconv.Itoa(g.tenants))
	out, err := child.Output()
	if err != nil {
		t.Fatalf("the child: %v\n%s", err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatalf("the child printed %q: %v", out, err)
	}
	return r
}

// TestReader is what readAlone runs.
func TestReader(t *testing.T) {
	dir := os.Getenv(readerDir)
	if dir == "" {
		return
	}
	tenants, err := strconv.Atoi(os.Getenv(readerTenants))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s := openStore(t, dir, store.Config{CacheBytes: 384 << 20})
	r := reading{Opened: time.Since(start).Seconds()}
	r.Read = forward(t, graph{tenants: tenants}, s, scaled(200_000, 100))
	if resident, ok := residentBytes(); ok {
		r.Resident = resident / (1 << 20)
	}
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stdout, string(line))
}

// kill has a process of its own write to a store from 64 goroutines, and kills it in the middle.
func kill(t testing.TB, dir string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// It says so once it has written enough.
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "written\n" {
		t.Errorf("the child printed %q: %v", line, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
}

// TestChild is what kill runs.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var written atomic.Int64
	for w := range 64 {
		go func() {
			for i := 0; ; i++ {
				if err := touch(context.Background(), s, fmt.Sprintf("child-%d-%d", w, i)); err != nil {
					panic(err)
				}
				if written.Add(1) == 50_000 {
					fmt.Fprintln(os.Stdout, "written")
				}
			}
		}()
	}
	select {}
}

// liveBytes is what the files in use take.
func liveBytes(t testing.TB, s *store.Store) (total int64) {
	t.Helper()
	f, err := s.Figures()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range f.Levels {
		total += l.Bytes
	}
	return total
}

// residentBytes is the resident memory of this process; ok is false where it cannot be told.
func residentBytes() (bytes float64, ok bool) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024, err == nil
		}
	}
	return 0, false
}
