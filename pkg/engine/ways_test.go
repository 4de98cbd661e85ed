package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// groups is a schema of which SpiceDB keeps a subject once for each way that leads to it.
const groups = `definition person {}

caveat odd(n int) {
	n % 2 == 1
}

definition group {
	relation member: person | person with odd | group#member
}

definition folder {
	relation parent: folder
	relation reader: person | person:* | group#member
	permission read = reader + parent->read
	permission all = parent.all(read)
	permission except = reader - parent->read
}`

// lattice are layers of two groups, each of which has both of the next layer as members, with people in the last two.
func lattice(layers, people int) (relationships []string) {
	for i := range layers {
		for _, from := range []string{"a", "b"} {
			for _, to := range []string{"a", "b"} {
				relationships = append(relationships, fmt.Sprintf("group:%s%d#member@group:%s%d#member", from, i, to, i+1))
			}
		}
	}
	for i := range people {
		relationships = append(relationships,
			fmt.Sprintf("group:a%d#member@person:p%d", layers, i), fmt.Sprintf("group:b%d#member@person:p%d", layers, i))
	}
	return relationships
}

// openGroups opens an engine with relationships of the schema groups.
func openGroups(t *testing.T, relationships ...string) *Engine {
	t.Helper()
	e, err := over(t.Context(), Config{Kind: Memory}, memory(t, nil), usual)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	fill(t, e, groups, relationships...)
	return e
}

// subjectsOf looks the people up of something, and counts the answers.
func subjectsOf(ctx context.Context, e *Engine, resource, permission string) (n int, err error) {
	kind, id, _ := strings.Cut(resource, ":")
	stream, err := v1.NewPermissionsServiceClient(e.Conn()).LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Consistency: atHead, Resource: &v1.ObjectReference{ObjectType: kind, ObjectId: id},
		Permission: permission, SubjectObjectType: "person",
	})
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			n++
		}
	}
	return n, toTheEnd(stream, err)
}

// heapAbove returns what returns by how much the heap in use has been above what it is now, at most.
func heapAbove(t *testing.T) (most func() uint64) {
	t.Helper()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	before, highest := stats.HeapInuse, uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			highest = max(highest, stats.HeapInuse)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-stopped
		return max(highest, before) - before
	}
}

// A lookup whose answers have too many ways to them is refused before SpiceDB holds them all, however few rows
// the graph has.
func TestLookupWithTooManyWays(t *testing.T) {
	circle := []string{"group:a0#member@group:a0#member", "group:a0#member@group:b0#member", "group:b0#member@group:a0#member",
		"group:b0#member@group:b0#member", "group:b0#member@person:ann"}
	for name, test := range map[string]struct {
		resource, permission string
		relationships        []string
		bound                string
	}{
		"lattice of 14 layers": {"group:a0", "member", lattice(14, 100), "200000 ways"},
		"lattice of 40 layers": {"group:a0", "member", lattice(40, 1), "200000 ways"},
		"circle":               {"group:a0", "member", circle, "200000 ways"},
		// Its own answers are few, but SpiceDB joins them of as many as the lattice has.
		"permission": {"folder:f", "read", append(lattice(14, 100), "folder:f#reader@group:a0#member"), "200000 ways"},
		"caveats": {"folder:f", "read", append(lattice(11, 100), "folder:f#reader@group:a0#member",
			`group:a3#member@person:ann[odd:{"n":1}]`), "50000 ways"},
	} {
		t.Run(name, func(t *testing.T) {
			e := openGroups(t, test.relationships...)
			most := heapAbove(t)
			n, err := subjectsOf(t.Context(), e, test.resource, test.permission)
			if grown := most(); grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), test.bound) {
				t.Errorf("%d answers and %v, want RESOURCE_EXHAUSTED and the bound", n, err)
			}
		})
	}
}

// What is counted is what SpiceDB would stream: for random groups of groups, in which SpiceDB joins nothing, the bound is exact.
func TestWaysAreCountedAsSpiceDBWalksThem(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 11))
	for round := range 40 {
		var relationships []string
		const size = 6
		for from := range size {
			for range 1 + random.IntN(4) {
				// To later ones only, or SpiceDB refuses the walk.
				if to := from + 1 + random.IntN(size); to < size {
					relationships = append(relationships, fmt.Sprintf("group:%d#member@group:%d#member", from, to))
				}
				person := fmt.Sprintf("group:%d#member@person:p%d", from, random.IntN(4))
				relationships = append(relationships, person)
			}
		}
		e := openGroups(t)
		slices.Sort(relationships)
		fill(t, e, groups, slices.Compact(relationships)...)
		answers, err := subjectsOf(t.Context(), e, "group:0", "member")
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, strings.Join(relationships, "\n"))
		}
		within, ok := e.ds.(*bounded)
		if !ok {
			t.Fatal("the engine's datastore has no bounds")
		}
		within.bounds.ways = int64(answers)
		if _, err := subjectsOf(t.Context(), e, "group:0", "member"); err != nil {
			t.Errorf("round %d: with %d ways allowed: %v\n%s", round, answers, err, strings.Join(relationships, "\n"))
		}
		within.bounds.ways--
		if _, err := subjectsOf(t.Context(), e, "group:0", "member"); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("round %d: with %d ways allowed: %v\n%s", round, answers-1, err, strings.Join(relationships, "\n"))
		}
	}
}

// Expressions of every kind are weighed as what they are made of, and lookups that are small go through.
func TestOrdinaryLookupsAreWeighedAndPass(t *testing.T) {
	e := openGroups(t,
		"folder:top#reader@person:ann", "folder:top#reader@person:*", "folder:sub#parent@folder:top", "folder:sub#reader@group:g#member",
		"group:g#member@person:bob", `group:g#member@person:cem[odd:{"n":1}]`, "folder:sub#parent@folder:gone")
	for _, test := range []struct {
		permission string
		want       int
	}{{"reader", 2}, {"read", 4}, {"all", 0}, {"except", 0}} {
		if n, err := subjectsOf(t.Context(), e, "folder:sub", test.permission); n != test.want || err != nil {
			t.Errorf("%s: %d answers, %v; want %d", test.permission, n, err, test.want)
		}
	}
	// What SpiceDB refuses, it still refuses by itself.
	if _, err := subjectsOf(t.Context(), e, "folder:sub", "nothing"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an unknown permission: %v", err)
	}
	if _, err := subjectsOf(t.Context(), e, "nothing:sub", "read"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an unknown type: %v", err)
	}
}

// Lookups that are as large as they may be, made by many callers who leave at once, take a bounded part of memory.
func TestLargeLookupsOfManyCallers(t *testing.T) {
	e := openGroups(t, lattice(11, 90)...)
	most := heapAbove(t)
	var callers sync.WaitGroup
	for range 24 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, _ = subjectsOf(ctx, e, "group:a0", "member")
		})
	}
	callers.Wait()
	// The next one waits until a turn is free.
	n, err := subjectsOf(t.Context(), e, "group:a0", "member")
	if err != nil || n != 90<<11 {
		t.Errorf("%d answers, %v; want %d", n, err, 90<<11)
	}
	grown := most()
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > 512<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}
