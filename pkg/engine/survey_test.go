package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
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
}

caveat listed(these list<string>) {
	"x" in these
}

definition other {}

definition box {
	relation reader: person | person with listed | person:* | person:* with listed
	relation banned: person
	relation parent: box | other | other with listed
	permission everyone = reader - banned
	permission both = reader & parent->everyone
	permission same = reader & parent->reader
	permission every = parent.all(reader)
	permission free = everyone + parent->free
	permission deep = reader + parent->deep
}`

// many are as many relationships, of which each is made of its number.
func many(n int, format string) (relationships []string) {
	for i := range n {
		relationships = append(relationships, strings.ReplaceAll(format, "N", strconv.Itoa(i)))
	}
	return relationships
}

// boxes are layers of two boxes, each of which lies in both of the next layer, with one reader in each of the last two.
func boxes(layers int) (relationships []string) {
	for i := range layers {
		for _, from := range []string{"a", "b"} {
			for _, to := range []string{"a", "b"} {
				relationships = append(relationships, fmt.Sprintf("box:%s%d#parent@box:%s%d", from, i, to, i+1))
			}
		}
	}
	return append(relationships, fmt.Sprintf("box:a%d#reader@person:ann", layers), fmt.Sprintf("box:b%d#reader@person:ann", layers))
}

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

// heapAbove returns what returns by how much the heap that is in use has been above what it is now, at most. Garbage is not in use: how much of
// that there is depends on how soon the collector gets a processor. So what it marked is looked at, and it runs each time that the heap has grown
// by a quarter, so that it misses no more than that.
func heapAbove(t *testing.T) (most func() uint64) {
	t.Helper()
	marked := func() uint64 {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		return live[0].Value.Uint64()
	}
	was := debug.SetGCPercent(25)
	runtime.GC()
	before, highest := marked(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			highest = max(highest, marked())
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
		debug.SetGCPercent(was)
		return max(highest, before) - before
	}
}

// A lookup whose answers have too many ways to them is refused before SpiceDB holds them all, however few rows
// the graph has.
func TestLookupsThatAreTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
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
		"permission":           {"folder:f", "read", append(lattice(14, 100), "folder:f#reader@group:a0#member"), "200000 ways"},
		"caveats on every way": {"group:a0", "member", append(lattice(9, 0), many(300, `group:a9#member@person:pN[odd:{"n":1}]`)...), "32 MiB of caveats"},
		"a caveat that is large": {"box:a", "same", slices.Concat(many(900, "box:a#reader@person:pN"), many(900, "box:a#parent@box:pN"),
			many(900, `box:pN#reader@person:*[listed:{"these":["`+strings.Repeat("y", 1000)+`"]}]`)), "wildcard with caveats"},
		"caveats of a wildcard, for each person": {"box:a", "same", slices.Concat(many(900, "box:a#reader@person:pN"), many(900, "box:a#parent@box:pN"),
			many(900, `box:pN#reader@person:*[listed]`)), "wildcard with caveats"},
		"a wildcard for which all have to hold": {"box:a", "every", slices.Concat([]string{"box:a#parent@box:first"}, many(900, "box:first#reader@person:pN"),
			many(900, "box:a#parent@box:pN"), many(900, `box:pN#reader@person:*[listed]`)), "wildcard with caveats"},
		"exclusions of a wildcard, for each person": {"box:a", "both", slices.Concat(many(30_000, "box:a#reader@person:pN"),
			[]string{"box:a#parent@box:p", "box:p#reader@person:*"}, many(30_000, "box:p#banned@person:pN")), "wildcard with 30000 exclusions"},
		// SpiceDB works on a hundred folders at a time, and holds what each of them comes to.
		"a lattice for each of many folders": {"folder:top", "read", slices.Concat(lattice(11, 45), many(50, "folder:top#parent@folder:fN"),
			many(50, "folder:fN#reader@group:a0#member"), many(50, "folder:fN#reader@group:b0#member")), "permissions together"},
		// The caveats count also where the type has no such relation.
		"caveats for which all have to hold": {"box:a", "every", slices.Concat(many(400, "box:p#reader@person:pN"), []string{"box:a#parent@box:p"},
			many(900, "box:a#parent@other:oN[listed]")), "32 MiB of caveats"},
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

// expandOf asks for a tree, and returns how many subjects its leaves have.
func expandOf(ctx context.Context, e *Engine, resource, permission string) (int, error) {
	kind, id, _ := strings.Cut(resource, ":")
	resp, err := v1.NewPermissionsServiceClient(e.Conn()).ExpandPermissionTree(ctx, &v1.ExpandPermissionTreeRequest{
		Consistency: atHead, Resource: &v1.ObjectReference{ObjectType: kind, ObjectId: id}, Permission: permission,
	})
	var leaves func(*v1.PermissionRelationshipTree) int
	leaves = func(t *v1.PermissionRelationshipTree) int {
		n := len(t.GetLeaf().GetSubjects())
		for _, child := range t.GetIntermediate().GetChildren() {
			n += leaves(child)
		}
		return n
	}
	return leaves(resp.GetTreeRoot()), err
}

// A tree that would have too many branches is refused before SpiceDB makes it, and an ordinary one is made.
func TestTreesThatAreTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	for name, test := range map[string]struct {
		relationships []string
		refused       bool
		leaves        int
	}{
		"ladder of 45":   {boxes(45), true, 0},
		"ladder of 18":   {boxes(18), true, 0},
		"ladder of 6":    {boxes(6), false, 64},
		"circle":         {[]string{"box:a0#parent@box:a0", "box:a0#parent@box:b0", "box:b0#parent@box:a0", "box:b0#parent@box:b0"}, true, 0},
		"empty branches": {slices.Concat(boxes(12), many(500, "box:a12#parent@other:N"), many(500, "box:b12#parent@other:N")), true, 0},
		"many readers":   {append(many(3000, "box:p#reader@person:pN"), "box:a0#parent@box:p"), false, 3000},
		"large caveats":  {slices.Concat(boxes(10), many(60, `box:a10#reader@person:pN[listed:{"these":["`+strings.Repeat("y", 1000)+`"]}]`)), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := openGroups(t, test.relationships...)
			most := heapAbove(t)
			n, err := expandOf(t.Context(), e, "box:a0", "deep")
			if grown := most(); grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if test.refused && status.Code(err) != codes.ResourceExhausted || !test.refused && (err != nil || n != test.leaves) {
				t.Errorf("%d leaves, %v; want %d, and that it is refused: %t", n, err, test.leaves, test.refused)
			}
		})
	}
}

// A trace grows with each read, so a check with one may read less than others, and few are under way at once.
func TestChecksWithATrace(t *testing.T) {
	const size = 40
	var ring []string
	for i := range size {
		ring = append(ring, many(size, fmt.Sprintf("group:g%d#member@group:gN#member", i))...)
	}
	e := openGroups(t, ring...)
	check := func(ctx context.Context, traced bool) error {
		_, err := v1.NewPermissionsServiceClient(e.Conn()).CheckPermission(ctx, &v1.CheckPermissionRequest{
			Consistency: atHead, Resource: &v1.ObjectReference{ObjectType: "group", ObjectId: "g0"}, Permission: "member",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "person", ObjectId: "ann"}}, WithTracing: traced,
		})
		return err
	}
	most := heapAbove(t)
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if i%2 == 0 {
				ctx = metadata.AppendToOutgoingContext(ctx, "io.spicedb.requestdebuginfo", "1")
			}
			if err := check(ctx, i%2 == 1); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%v, want RESOURCE_EXHAUSTED: it reads more than a check with a trace may", err)
			}
		})
	}
	callers.Wait()
	grown := most()
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	e = openGroups(t, "group:g0#member@person:ann")
	if err := check(t.Context(), true); err != nil {
		t.Error(err)
	}
}

// What is counted is what SpiceDB would stream: for random groups of groups, in which SpiceDB joins nothing, the bound is exact.
func TestWaysAreCountedAsSpiceDBWalksThem(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
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

// A caveat somewhere leaves what has none as it is: many people in folders that lie in each other are found.
func TestCaveatsCountWhereTheyAre(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	relationships := append(many(6000, "group:g#member@person:pN"), `group:other#member@person:ann[odd:{"n":1}]`, "folder:f0#reader@group:other#member")
	for i := range 40 {
		relationships = append(relationships, fmt.Sprintf("folder:f%d#parent@folder:f%d", i, i+1), fmt.Sprintf("folder:f%d#reader@group:g#member", i))
	}
	e := openGroups(t, relationships...)
	if n, err := subjectsOf(t.Context(), e, "folder:f0", "read"); n != 6001 || err != nil {
		t.Errorf("%d answers, %v; want 6001", n, err)
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

// Lookups that are as large as they may be, made by many callers at once who do not wait for the end, take a bounded part of memory.
func TestLargeLookupsOfManyCallers(t *testing.T) {
	e := openGroups(t, lattice(11, 90)...)
	most := heapAbove(t)
	var callers sync.WaitGroup
	for range 24 {
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
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
	if grown > 200<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// Exclusions of a wildcard that are as many as they may be, on many ways.
func TestExclusionsOnManyWays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	const boxes, banned = 130, 1400
	e := openGroups(t, slices.Concat(many(boxes, "box:a#parent@box:mN"), many(boxes, "box:mN#parent@box:q"),
		[]string{"box:q#reader@person:*"}, many(banned, "box:q#banned@person:pN"))...)
	most := heapAbove(t)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			n, err := subjectsOf(t.Context(), e, "box:a", "free")
			if err != nil || n != 1 {
				t.Errorf("%d answers, %v", n, err)
			}
		})
	}
	callers.Wait()
	grown := most()
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > 200<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}
