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
	"github.com/deputyauth/deputy/pkg/turns"
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
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
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
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
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
	take := func(i int) (all []*turns.Turn) {
		for range tiers[i].turns.Most() {
			one, err := tiers[i].turns.Take(t.Context(), 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, one)
		}
		return all
	}
	for i := range tiers {
		taken := take(i)
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
		another := authz.WithCaller(t.Context(), "another")
		if a := check(another, held); a.Outcome != authz.No {
			t.Errorf("while one caller has all that it can have of tier %d, a large walk of another is %v (%v)", i, a.Outcome, a.Err)
		}
		for _, one := range taken {
			one.Give()
		}
		if a := <-answered; a.Outcome != authz.No {
			t.Errorf("once it has a turn of tier %d, a large walk is %v (%v)", i, a.Outcome, a.Err)
		}
	}
	for i := range tiers {
		if n := tiers[i].turns.All() - tiers[i].turns.Free(); n != 0 {
			t.Errorf("%d turns of tier %d are not given back", n, i)
		}
	}
}

// TestWhatWalksKeepIsBounded: walks that are not closed keep little of what they read, however many there are.
func TestWhatWalksKeepIsBounded(t *testing.T) { // alone, because it looks at all walks
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
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

// tunnel is a crowd whose last group leads on to ann, through so many others.
type tunnel struct {
	crowd
	last string
	long int
}

func (d *tunnel) Subject(r *Row, limit int) ([]Row, bool, error) {
	step := 0
	if _, err := fmt.Sscanf(r.SubjectID, "t%d", &step); err != nil && r.SubjectID != d.last {
		return d.crowd.Subject(r, limit)
	}
	if step == d.long {
		return []Row{{Relation: "member", SubjectType: "user", SubjectID: "ann"}}, false, nil
	}
	return []Row{{Relation: "member", SubjectType: "group", SubjectID: fmt.Sprintf("t%d", step+1), SubjectRelation: "member"}}, false, nil
}

// TestAPathIsFoundAmongMany: an explanation goes through the relationships of an object a few times, however long the path is that it looks for.
func TestAPathIsFoundAmongMany(t *testing.T) {
	t.Parallel()
	const groups, long = 10_000, 30
	rows := &tunnel{last: name(groups - 1), long: long}
	w := compile(t, crowded).Walk(rows)
	defer w.Close()
	a, why := w.Explain(t.Context(), crowdCheck(groups, "view", "ann"), Explaining{})
	if a.Outcome != authz.Yes || why == nil || why.Cut {
		t.Fatalf("%+v, %+v", a, why)
	}
	length := 0
	for r := why.Reason; r != nil && len(r.Children) > 0; r = r.Children[0] {
		length++
	}
	if length < long {
		t.Errorf("the path has %d steps, want %d relationships at least", length, long)
	}
	if once := groups/page + 1; rows.pages > 5*once {
		t.Errorf("%d pages are read, want at most 5 times the %d that there are", rows.pages, once)
	}
}

// forked is a graph that is computed: every group is in each relation of very many groups, and so is ann.
type forked struct {
	Rows
	groups int
}

func (f *forked) ResourceIDs(_, _, _, objectType, _, from string, limit int) ([]string, bool, error) {
	if objectType != "group" {
		return nil, false, nil
	}
	return (&formula{}).every(0, 1, f.groups, from, limit)
}

// forks is a schema in which many ways lead on from a group.
func forks(t *testing.T) *Program {
	t.Helper()
	const relations = 30
	subjects := "user"
	for i := range relations {
		subjects += fmt.Sprintf(" | group#in%02d", i)
	}
	text := "definition user {}\ndefinition group {\n"
	for i := range relations {
		text += fmt.Sprintf("relation in%02d: %s\n", i, subjects)
	}
	return compile(t, text+"}\ndefinition doc {\nrelation reader: group#in00\npermission view = reader\n}")
}

// TestOpenListsAreBounded: a lookup that meets too many lists that lead on takes all ids, and holds nothing of them.
func TestOpenListsAreBounded(t *testing.T) {
	p := forks(t)
	c, err := p.ResourceCandidates("doc", Holder{"view", tuple.ONR("user", "ann", tuple.Ellipsis)})
	if err != nil {
		t.Fatal(err)
	}
	set := c.sets[0]
	spread, _ := set.spread.(*spreadObjects)
	most := 0
	for set.state == spreading {
		if err := set.advance(t.Context(), &forked{groups: 50_000}, 1); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(spread.open))
	}
	if set.state != unbounded || most > maxReached+30*listMax || len(spread.open)+len(spread.seen)+len(set.front) > 0 {
		t.Errorf("the lookup is in state %d, and held %d lists, want at most some %d; it keeps %d", set.state, most, maxReached, len(spread.open))
	}
}

// TestLookupsTogetherNoteLittle: what lookups note that are left alone is bounded, and taken back when they are gone.
func TestLookupsTogetherNoteLittle(t *testing.T) { // alone, because it looks at all lookups
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	p := compile(t, "definition user {}\ndefinition group {\nrelation member: user\n}\ndefinition doc {\nrelation reader: group#member\npermission view = reader\n}")
	rows := &forked{groups: 20_000}
	before := noted.Load()
	var all []*Candidates
	states := map[candidatesState]int{}
	for range 200 {
		c, err := p.ResourceCandidates("doc", Holder{"view", tuple.ONR("user", "ann", tuple.Ellipsis)})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if err := c.sets[0].advance(t.Context(), rows, 1<<30); err != nil {
			t.Fatal(err)
		}
		states[c.sets[0].state]++
	}
	if states[bounded] == 0 || states[unbounded] == 0 || noted.Load() > maxNoted {
		t.Errorf("the lookups are in states %v, and note %d, want some bounded, some not, and at most %d", states, noted.Load(), maxNoted)
	}
	runtime.KeepAlive(all)
	clear(all)
	for end := time.Now().Add(time.Minute); noted.Load() > before; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("%d are noted of lookups that are gone", noted.Load()-before)
		}
	}
}
