package evaluate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// chain is a graph that is computed: of so many objects of a type, each but the first has a row with the one before it as its subject.
type chain struct {
	Rows
	objectType, relation, subjectRelation string
	length                                int
	// wide are so many groups that a document has as its viewers instead, each with a user.
	wide int
}

func (c *chain) ResourceIDs(_, subjectRelation, subjectID, objectType, relation, from string, limit int) ([]string, bool, error) {
	n := number(subjectID) + 1
	if objectType != c.objectType || relation != c.relation || subjectRelation != c.subjectRelation || n == c.length {
		return nil, false, nil
	}
	return (&formula{}).every(n, 1, n+1, from, limit)
}

func (c *chain) ObjectIDs(_, from string, limit int) ([]string, bool, error) {
	return (&formula{}).every(1, 1, c.length, from, limit)
}

func (c *chain) NamedIDs(_, subjectRelation, from string, limit int) ([]string, bool, error) {
	if subjectRelation != c.subjectRelation {
		return nil, false, nil
	}
	return (&formula{}).every(0, 1, c.length-1, from, limit)
}

func (c *chain) SubjectIDs(objectType, id, _, subjectType, _, from string, limit int) ([]string, bool, error) {
	if objectType != "group" || subjectType != "user" {
		return nil, false, nil
	}
	return (&formula{}).every(number(id), 1, number(id)+1, from, limit)
}

func (c *chain) Page(objectType, id, relation string, _ bool, after *Row, limit int) (rows []Row, more bool, err error) {
	if c.wide > 0 {
		if objectType == "group" {
			return nil, false, nil
		}
		first := 0
		if after != nil {
			first = number(after.SubjectID) + 1
		}
		for i := first; i < min(first+limit, c.wide); i++ {
			rows = append(rows, Row{Relation: relation, SubjectType: "group", SubjectID: name(i), SubjectRelation: "member"})
		}
		return rows, first+limit < c.wide, nil
	}
	if number(id) == 0 {
		return nil, false, nil
	}
	return []Row{{Relation: relation, SubjectType: c.objectType, SubjectID: name(number(id) - 1), SubjectRelation: c.subjectRelation}}, false, nil
}

// all draws candidates until there are no more.
func all(t *testing.T, c *Candidates, rows Rows) (ids []string) {
	t.Helper()
	for more := true; more; {
		var some []string
		var err error
		if some, more, err = c.Next(t.Context(), rows, 500); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, some...)
	}
	return ids
}

// TestAChainOfObjects: the first and the last of a chain, which have no rows of the one or of the other kind, are candidates like those
// between them, also where the chain is longer than is noted.
func TestAChainOfObjects(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	p := compile(t, `use self
		definition document {
			relation parent: document
			permission near = self + parent->near
		}
		definition group {
			relation member: group#member
			permission near = self + member->near
		}`)
	for _, length := range []int{100, maxReached + 10} {
		for _, c := range []*chain{
			{objectType: "document", relation: "parent", length: length},
			{objectType: "group", relation: "member", subjectRelation: "member", length: length},
		} {
			last := func(relation string) tuple.ObjectAndRelation {
				return tuple.ONR(c.objectType, name(length-1), relation)
			}
			lists := map[string]func() (*Candidates, error){
				"subjects": func() (*Candidates, error) { return p.SubjectCandidates(last("near"), SubjectKind{Type: c.objectType}) },
			}
			if c.subjectRelation == "" {
				lists["resources"] = func() (*Candidates, error) {
					return p.ResourceCandidates(c.objectType, Holder{"near", tuple.ONR(c.objectType, name(0), tuple.Ellipsis)})
				}
			} else {
				lists["usersets"] = func() (*Candidates, error) {
					return p.SubjectCandidates(last(c.relation), SubjectKind{c.objectType, c.subjectRelation})
				}
			}
			for what, list := range lists {
				found, err := list()
				if err != nil {
					t.Fatal(err)
				}
				ids := all(t, found, c)
				if len(ids) != length || ids[0] != name(0) || ids[length-1] != name(length-1) || !slices.IsSorted(ids) {
					t.Errorf("%s of type %s: %d candidates of a chain of %d", what, c.objectType, len(ids), length)
				}
				if unbound := found.sets[0].state == unbounded; unbound != (length > maxReached) {
					t.Errorf("%s of type %s: of a chain of %d all ids are taken: %v", what, c.objectType, length, unbound)
				}
			}
		}
	}
}

// TestManyGroupsOfADocument: the members of all groups that a document has are found, however many pages of groups there are.
func TestManyGroupsOfADocument(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition group {
			relation member: user | group#member
		}
		definition document {
			relation viewer: group#member
		}`)
	const groups = 5000
	c, err := p.SubjectCandidates(tuple.ONR("document", "plan", "viewer"), SubjectKind{Type: "user"})
	if err != nil {
		t.Fatal(err)
	}
	if ids := all(t, c, &chain{wide: groups}); len(ids) != groups || ids[groups-1] != name(groups-1) {
		t.Errorf("%d candidates of %d groups", len(ids), groups)
	}
}

// TestAHolderThatReachesTooMuchBoundsNothing: of two holders, one reaches all documents at once, and the other one too much to be noted.
// What was found of the other's by then does not bound the candidates.
func TestAHolderThatReachesTooMuchBoundsNothing(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition group {
			relation member: user
		}
		definition document {
			relation owner: user
			relation viewer: group#member
		}`)
	ann := tuple.ONR("user", "ann", tuple.Ellipsis)
	f := &formula{groups: maxReached + 1000, documents: maxReached + 1000, all: true}
	c, err := p.ResourceCandidates("document", Holder{"owner", ann}, Holder{"viewer", ann})
	if err != nil {
		t.Fatal(err)
	}
	if ids := all(t, c, f); len(ids) != f.documents {
		t.Errorf("%d candidates of %d documents that both reach", len(ids), f.documents)
	}
	if len(c.sets) != 1 || len(c.waiting) > 0 {
		t.Errorf("%d sets are looked at, and %d wait", len(c.sets), len(c.waiting))
	}
}

// TestFewIdsAreHeld: of many lists, a few ids each are read ahead.
func TestFewIdsAreHeld(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	p := compile(t, `definition user {}
		definition group {
			relation member: user
		}
		definition document {
			relation viewer: group#member
		}`)
	f := &formula{groups: 2000, documents: 200_000}
	c, err := p.ResourceCandidates("document", Holder{"viewer", tuple.ONR("user", "ann", tuple.Ellipsis)})
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for more := true; more; {
		if _, more, err = c.Next(t.Context(), f, 10_000); err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, list := range c.sets[0].front {
			held += len(list.ids)
		}
		most = max(most, held)
	}
	if most > 2*readAhead {
		t.Errorf("%d ids of all lists are held, want about %d", most, readAhead)
	}
}

// writtenSets returns candidates in sets of ids.
func writtenSets(sets ...[]string) *Candidates {
	c := &Candidates{settled: true}
	for _, ids := range sets {
		s := &candidates{state: bounded}
		s.addWritten(slices.Clone(ids))
		c.sets = append(c.sets, s)
	}
	return c
}

// TestSetsThatHardlyAgree: one call goes through so much of two sets that have nothing in common, and says where to go on; and the one id that
// they do have in common is found wherever it is, also where a call, or a part of it, ends.
func TestSetsThatHardlyAgree(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	var even, odd []string
	for i := 0; i < 2*maxWork; i += 2 {
		even, odd = append(even, name(i)), append(odd, name(i+1))
	}
	c := writtenSets(even, odd)
	ids, more, err := c.Next(t.Context(), nil, 10)
	if err != nil || len(ids) > 0 || !more {
		t.Fatalf("the first call returns %v, more %v, %v", ids, more, err)
	}
	if place := number(c.Place()); place < maxWork/2 || place > 2*maxWork-100 {
		t.Errorf("it goes on at %s", c.Place())
	}
	if ids := all(t, c, nil); len(ids) > 0 {
		t.Errorf("found %v", ids)
	}
	for i := range 3 * maxRound {
		both := name(i)
		c := writtenSets(append([]string{both}, even[:4*maxRound]...), append([]string{both}, odd[:4*maxRound]...))
		if ids := all(t, c, nil); !slices.Equal(ids, []string{both}) {
			t.Fatalf("%s is in both, found %v", both, ids)
		}
	}
}

// leaving are rows whose reader leaves while it reads.
type leaving struct {
	Rows
	leave func()
	// after is how many calls come before that, and calls how many there were.
	after, calls int
}

func (l *leaving) called() {
	if l.calls++; l.calls == l.after {
		l.leave()
	}
}

func (l *leaving) ResourceIDs(subjectType, subjectRelation, subjectID, objectType, relation, from string, limit int) ([]string, bool, error) {
	l.called()
	return l.Rows.ResourceIDs(subjectType, subjectRelation, subjectID, objectType, relation, from, limit)
}

// TestALookupEndsWithItsCaller: wherever a lookup is when its caller leaves, it ends soon, with ctx's error.
func TestALookupEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition group {
			relation member: user
		}
		definition document {
			relation owner: user
			relation viewer: group#member
			relation parent: document
			permission view = owner + parent->view
		}`)
	ann := tuple.ONR("user", "ann", tuple.Ellipsis)
	for _, test := range []struct {
		name, permission string
		rows             *formula
		after, most      int
	}{
		{"while it spreads", "view", &formula{documents: 20_000, ring: true}, 50, 2},
		{"soon after the lists are begun", "viewer", &formula{documents: 20_000, groups: 20_000}, 60, 64},
		{"while the lists are begun", "viewer", &formula{documents: 20_000, groups: 20_000}, 2000, 64},
		{"while they are merged", "owner", &formula{documents: 200_000, all: true}, 50, 2},
	} {
		ctx, leave := context.WithCancel(t.Context())
		rows := &leaving{Rows: test.rows, leave: leave, after: test.after}
		c, err := p.ResourceCandidates("document", Holder{test.permission, ann})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = c.Next(ctx, rows, 1<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: it ends with %v", test.name, err)
		}
		if more := rows.calls - test.after; more < 0 || more > test.most {
			t.Errorf("%s: there were %d calls more", test.name, more)
		}
		leave()
	}
}

// owned are documents each of which ann owns.
type owned struct {
	formula
	read int
}

func (o *owned) Object(_, _ string, _ int) ([]Row, bool, error) {
	o.read++
	return []Row{{Relation: "owner", SubjectType: "user", SubjectID: "ann"}}, false, nil
}

// TestALookupDecidesFewAtOnce: the first result comes after a few checks, and later ones after a bounded number of them.
func TestALookupDecidesFewAtOnce(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition document {
			relation owner: user
		}`)
	rows := &owned{formula: formula{documents: 20_000, all: true}}
	w := p.Walk(rows)
	defer w.Close()
	found := 0
	if err := w.LookupResources(t.Context(), "document", Holder{"owner", tuple.ONR("user", "ann", tuple.Ellipsis)}, nil, "", func(f Found) error {
		if f.Outcome != authz.Yes || f.ID != name(found) {
			return fmt.Errorf("%s is %v", f.ID, f.Outcome)
		}
		if ahead := rows.read - found; found == 0 && ahead > firstBatch || ahead > maxBatch {
			return fmt.Errorf("%d are decided before the result %d", ahead, found)
		}
		found++
		return nil
	}); err != nil || found != rows.documents {
		t.Errorf("found %d of %d, %v", found, rows.documents, err)
	}
}

// TestIDsThatBeginAlike: a list goes on with the very next id, whatever the last one and the next one have in common.
func TestIDsThatBeginAlike(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "a+", "a-b", "a/b", "a0", "aa", "b"}
	c := writtenSets(ids, ids)
	for i, id := range ids {
		got, more, err := c.Next(t.Context(), nil, 1)
		if err != nil || !slices.Equal(got, []string{id}) || !more {
			t.Fatalf("%d: got %v, more %v, %v, want %s", i, got, more, err, id)
		}
	}
}
