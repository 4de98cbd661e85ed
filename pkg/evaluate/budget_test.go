package evaluate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// crowd is a graph that is computed: each object of type "doc" has groups in all of its relations, as many as its id says, and each group has one
// user, who has the group's number.
type crowd struct {
	Rows
	caveat string
	// heap is the most that was in use while pages were read, beyond before.
	heap, before uint64
	pages        int
}

func (c *crowd) Object(objectType, id string, limit int) ([]Row, bool, error) {
	if objectType == "group" {
		return []Row{{Relation: "member", SubjectType: "user", SubjectID: id}, {Relation: "member", SubjectType: "group", SubjectID: "empty", SubjectRelation: "member"}}, false, nil
	}
	if objectType == "doc" && number(id) > limit {
		return nil, true, nil
	}
	return nil, false, nil
}

func (c *crowd) Subject(r *Row, limit int) ([]Row, bool, error) {
	if r.SubjectID == "empty" {
		return nil, false, nil
	}
	return c.Object(r.SubjectType, r.SubjectID, limit)
}

func (c *crowd) Relation(_, _, _ string, _ int) ([]Row, bool, error) { return nil, true, nil }

func (c *crowd) Usersets(_, _, _ string, _ int) ([]Row, bool, error) { return nil, true, nil }

func (c *crowd) Find(_, _, relation, subjectType, _, subjectID string) (Row, bool, error) {
	if relation == "everybody" && subjectID == wildcard {
		return Row{Relation: relation, SubjectType: subjectType, SubjectID: wildcard}, true, nil
	}
	return Row{}, false, nil
}

func (c *crowd) Page(_, id, relation string, _ bool, after *Row, limit int) (rows []Row, more bool, err error) {
	if c.pages++; c.pages%64 == 0 {
		c.measure()
	}
	if relation == "everybody" {
		return nil, false, nil
	}
	first, all := 0, number(id)
	if after != nil {
		first = number(after.SubjectID) + 1
	}
	for i := first; i < min(first+limit, all); i++ {
		rows = append(rows, Row{Relation: relation, SubjectType: "group", SubjectID: name(i), SubjectRelation: "member", Caveat: c.caveat})
	}
	return rows, first+limit < all, nil
}

// measure looks at the heap.
func (c *crowd) measure() {
	runtime.GC()
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	if c.before == 0 {
		c.before = now.HeapAlloc
	}
	c.heap = max(c.heap, now.HeapAlloc-min(c.before, now.HeapAlloc))
}

const crowded = `caveat sunny(weather string) { weather == "sun" }
	definition user {}
	definition group {
		relation member: user | group#member
	}
	definition doc {
		relation reader: user | group#member | group#member with sunny
		relation banned: user | group#member
		relation everybody: user:*
		relation parent: group
		permission view = reader
		permission open = everybody - banned
		permission each = parent.all(member)
		permission unlisted = everybody - each
	}`

// crowdCheck asks whether a user has a permission on a document with so many groups.
func crowdCheck(groups int, permission, user string) Check {
	return Check{Resource: tuple.ONR("doc", name(groups), permission), Subject: tuple.ONR("user", user, tuple.Ellipsis)}
}

// isTooMuch fails the test unless there is no answer, because the check takes too much.
func isTooMuch(t *testing.T, what string, a Answer) {
	t.Helper()
	st := status.Convert(a.Err)
	if a.Outcome != authz.Failed || st.Code() != codes.ResourceExhausted || statuses.Info(st).GetReason() != authz.ReasonTooLarge {
		t.Errorf("%s is %v (%v), want RESOURCE_EXHAUSTED and TOO_LARGE", what, a.Outcome, a.Err)
	}
}

// TestACheckHoldsLittle: an object with very many groups is walked to its end, in memory that does not grow with them.
func TestACheckHoldsLittle(t *testing.T) {
	p := compile(t, crowded)
	const groups = 400_000
	for user, want := range map[string]authz.Outcome{name(groups - 1): authz.Yes, "nobody": authz.No} {
		rows := &crowd{}
		if a := p.Check(t.Context(), rows, []Check{crowdCheck(groups, "view", user)})[0]; a.Outcome != want {
			t.Errorf("%s: %v (%v), want %v", user, a.Outcome, a.Err, want)
		}
		if most := uint64(32 << 20); rows.heap > most {
			t.Errorf("%s: the walk holds %d MiB, want at most %d", user, rows.heap>>20, most>>20)
		}
	}
}

// TestWhatIsTooMuchIsNoAnswer: a check that reads more than it may has no answer, also where it takes something away, and however that is nested. The
// others of its call are answered.
func TestWhatIsTooMuchIsNoAnswer(t *testing.T) {
	t.Parallel()
	p := compile(t, crowded)
	checks := []Check{crowdCheck(10, "view", name(9))}
	for _, permission := range []string{"view", "open"} {
		checks = append(checks, crowdCheck(maxRead, permission, "nobody"))
	}
	checks = append(checks, crowdCheck(20, "view", "nobody"))
	answers := p.Check(t.Context(), &crowd{}, checks)
	if a := answers[0]; a.Outcome != authz.Yes {
		t.Errorf("a small check beside it is %v (%v)", a.Outcome, a.Err)
	}
	if a := answers[len(answers)-1]; a.Outcome != authz.No {
		t.Errorf("another small check beside it is %v (%v)", a.Outcome, a.Err)
	}
	for i, a := range answers[1 : len(answers)-1] {
		isTooMuch(t, checks[i+1].String(), a)
	}
	for _, permission := range []string{"each", "unlisted"} {
		c := crowdCheck(maxRead, permission, "ann")
		isTooMuch(t, c.String(), p.Check(t.Context(), &likeness{}, []Check{c})[0])
	}
}

// TestConditionsAreBounded: conditions, which cannot be let go of, are bounded.
func TestConditionsAreBounded(t *testing.T) {
	t.Parallel()
	p := compile(t, crowded)
	const groups = 1000
	everywhere := func(n int) Answer {
		return p.Check(t.Context(), &likeness{crowd{caveat: "sunny"}}, []Check{crowdCheck(n, "view", "ann")})[0]
	}
	if a := everywhere(groups); a.Outcome != authz.Conditional {
		t.Errorf("%d conditions: %v (%v)", groups, a.Outcome, a.Err)
	}
	isTooMuch(t, "a check with many conditions", everywhere(maxConditions))
}

// likeness is a crowd each of whose groups has ann.
type likeness struct{ crowd }

func (s *likeness) Subject(r *Row, _ int) ([]Row, bool, error) {
	if r.SubjectID == "empty" {
		return nil, false, nil
	}
	return []Row{{Relation: "member", SubjectType: "user", SubjectID: "ann"}}, false, nil
}

// TestLargeWalksTakeTurns: a large walk waits for its turn until its call ends. Small ones do not wait.
func TestLargeWalksTakeTurns(t *testing.T) { // alone, because it takes all turns
	p := compile(t, crowded)
	check := func(ctx context.Context, groups int) Answer {
		return p.Check(ctx, &crowd{}, []Check{crowdCheck(groups, "view", "nobody")})[0]
	}
	for i := range tiers {
		for range cap(tiers[i].taken) {
			tiers[i].taken <- struct{}{}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		held := smallWalk
		if i > 0 {
			held = tiers[i-1].most
		}
		if a := check(ctx, held); a.Outcome != authz.Failed || !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("without a turn of tier %d, a large walk is %v (%v)", i, a.Outcome, a.Err)
		}
		cancel()
		if a := check(t.Context(), smallWalk/8); a.Outcome != authz.No {
			t.Errorf("without a turn of tier %d, a small walk is %v (%v)", i, a.Outcome, a.Err)
		}
		answered := make(chan Answer)
		go func() { answered <- check(t.Context(), held) }()
		for range cap(tiers[i].taken) {
			<-tiers[i].taken
		}
		if a := <-answered; a.Outcome != authz.No {
			t.Errorf("once it has a turn of tier %d, a large walk is %v (%v)", i, a.Outcome, a.Err)
		}
	}
	for i := range tiers {
		if n := len(tiers[i].taken); n != 0 {
			t.Errorf("%d turns of tier %d are not given back", n, i)
		}
	}
}

// TestWhatWalksKeepIsBounded: walks that are not closed keep little of what they read, however many there are.
func TestWhatWalksKeepIsBounded(t *testing.T) { // alone, because it looks at all walks
	p := compile(t, crowded)
	if n := kept.Load(); n != 0 {
		t.Fatalf("%d units are kept before it begins", n)
	}
	var walks []*Walk
	rows := &crowd{}
	rows.measure()
	sum := 0
	for range 400 {
		w := p.Walk(rows)
		walks = append(walks, w)
		w.Check(t.Context(), []Check{crowdCheck(2000, "view", "nobody")})
		sum += len(w.objects)
	}
	rows.measure()
	if most := uint64(256 << 20); rows.heap > most {
		t.Errorf("the walks keep %d MiB, want at most %d", rows.heap>>20, most>>20)
	}
	if n := kept.Load(); n == 0 || n > maxKept {
		t.Errorf("%d units are kept, want up to %d", n, maxKept)
	}
	for _, w := range walks {
		w.Close()
	}
	if n := kept.Load(); n != 0 {
		t.Errorf("%d units are kept of walks that are closed", n)
	}
	if sum > maxKept {
		t.Errorf("the walks keep %d objects", sum)
	}
}

// BenchmarkManyGroups is a check of an object with many groups.
func BenchmarkManyGroups(b *testing.B) {
	p := compile(b, crowded)
	for _, groups := range []int{100, 1000, 20_000, 200_000} {
		b.Run(fmt.Sprint(groups), func(b *testing.B) {
			for b.Loop() {
				p.Check(b.Context(), &crowd{pages: 1 << 40}, []Check{crowdCheck(groups, "view", "nobody")})
			}
		})
	}
}
