package evaluate

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// formula is a graph that is computed, so that it takes no memory: user:ann is in groups, and each document has a group as its viewer.
type formula struct {
	Rows
	groups, documents int
	// folders says that documents are in one another instead, the first in the second and so on in a ring, and that ann views the first.
	ring bool
	// squads say that each thousandth document is signed by one, of which ann is a member; all says that ann owns all.
	squads int
	all    bool
	// held is the most ids that one call returned, and calls how many there were.
	held, calls int
}

func name(i int) string { return fmt.Sprintf("n%07d", i) }

func number(id string) (n int) {
	_, _ = fmt.Sscanf(id, "n%07d", &n) // "" is before the first
	return n
}

// every returns the names of first, first+step, … below end, from one on.
func (f *formula) every(first, step, end int, from string, limit int) (ids []string, more bool, err error) {
	f.calls++
	for i := first; i < end; i += step {
		if i+step < number(from) {
			i += (number(from) - i) / step * step
		}
		if id := name(i); id >= from {
			if len(ids) == limit {
				return ids, true, nil
			}
			ids = append(ids, id)
			f.held = max(f.held, len(ids))
		}
	}
	return ids, false, nil
}

func (f *formula) ResourceIDs(subjectType, _, subjectID, objectType, _, from string, limit int) ([]string, bool, error) {
	switch {
	case subjectType == "user" && objectType == "squad":
		return f.every(0, 1, f.squads, from, limit)
	case subjectType == "squad":
		return f.every(1000*number(subjectID), 1, 1000*number(subjectID)+1, from, limit)
	case subjectType == "user" && objectType == "document" && f.all:
		return f.every(0, 1, f.documents, from, limit)
	case subjectType == "user" && objectType == "group":
		return f.every(0, 1, f.groups, from, limit)
	case subjectType == "group" && objectType == "document":
		return f.every(number(subjectID), f.groups, f.documents, from, limit)
	case subjectType == "user" && objectType == "document" && f.ring:
		return f.every(0, 1, 1, from, limit)
	case subjectType == "document" && f.ring:
		n := (number(subjectID) + 1) % f.documents
		return f.every(n, 1, n+1, from, limit)
	}
	return nil, false, nil
}

func (f *formula) ObjectIDs(objectType, from string, limit int) ([]string, bool, error) {
	if objectType != "document" {
		return nil, false, errors.New("nobody asked for those")
	}
	return f.every(0, 1, f.documents, from, limit)
}

func compile(t testing.TB, text string) *Program {
	t.Helper()
	c, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		t.Fatal(err)
	}
	s, err := schema.Read(c.ObjectDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(s, c.CaveatDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCandidatesAreBounded goes through the candidates of a lookup that finds a great many: all are found, in order and once, and hardly
// anything is held meanwhile, whether what leads to them is few, or more than is noted.
func TestCandidatesAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	p := compile(t, `definition user {}
		definition group {
			relation member: user
		}
		definition document {
			relation viewer: user | group#member
			relation parent: document
			permission flat = viewer
			permission view = viewer + parent->view
		}`)
	ann := tuple.ONR("user", "ann", tuple.Ellipsis)
	for what, f := range map[string]*formula{
		"few groups":                      {groups: 100, documents: 200_000},
		"many groups":                     {groups: 60_000, documents: 200_000},
		"more groups than are noted":      {groups: maxReached + 1, documents: 200_000},
		"a ring":                          {groups: 1, documents: 5000, ring: true},
		"a longer ring than can be noted": {groups: 1, documents: maxReached + 10, ring: true},
	} {
		permission := "flat"
		if f.ring { // what is reached leads on
			permission = "view"
		}
		c, err := p.ResourceCandidates("document", Holder{permission, ann})
		if err != nil {
			t.Fatal(err)
		}
		var before, now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var peak uint64
		n := 0
		for more := true; more; {
			var ids []string
			if ids, more, err = c.Next(t.Context(), f, 500); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if id != name(n) {
					t.Fatalf("%s: the candidate %d is %s", what, n, id)
				}
				n++
			}
			if n%20_000 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
		}
		if n != f.documents {
			t.Errorf("%s: %d candidates, want %d", what, n, f.documents)
		}
		// More than may be noted is not noted.
		if tooMany := f.groups > maxReached || f.ring && f.documents > maxReached; tooMany != (c.sets[0].state == unbounded) {
			t.Errorf("%s: all documents are gone through: %v", what, !tooMany)
		}
		if f.held > listMax {
			t.Errorf("%s: %d ids were read at once", what, f.held)
		}
		const most = 48 << 20
		if grown := int64(peak) - int64(before.HeapAlloc); grown > most {
			t.Errorf("%s: %d bytes are held, want at most %d", what, grown, most)
		}
	}
}

// TestSeveralHolders lists what several have to reach: the one that reaches little is enough to bound the work.
func TestSeveralHolders(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition group {
			relation member: user
		}
		definition document {
			relation owner: user
			relation viewer: group#member
			permission view = viewer
			permission own = owner
		}`)
	f := &formula{groups: 2000, documents: 200_000, ring: true}
	ann := tuple.ONR("user", "ann", tuple.Ellipsis)
	for _, holders := range [][]Holder{{{"view", ann}, {"own", ann}}, {{"own", ann}, {"view", ann}}} {
		f.calls = 0
		c, err := p.ResourceCandidates("document", holders...)
		if err != nil {
			t.Fatal(err)
		}
		ids, more, err := c.Next(t.Context(), f, 10)
		if err != nil || more || !slices.Equal(ids, []string{name(0)}) {
			t.Errorf("%v: got %v, more %v, %v", holders, ids, more, err)
		}
		// Few of the groups are read to be followed, before the own ones are found to bound them.
		if f.calls > 20 {
			t.Errorf("%v: %d lists were read", holders, f.calls)
		}
	}
}

// TestAgreed merges sets: candidates are in each of them.
func TestAgreed(t *testing.T) {
	t.Parallel()
	for _, sets := range [][][]string{
		{{"a", "c", "e"}, {"b", "c", "d", "e", "f"}}, {{"b", "c", "d", "e", "f"}, {"a", "c", "e"}},
		{{"c", "e"}, {"a", "c", "d", "e"}, {"b", "c", "e", "f"}},
	} {
		c := &Candidates{settled: true}
		for _, ids := range sets {
			s := &candidates{state: bounded}
			s.addWritten(slices.Clone(ids))
			c.sets = append(c.sets, s)
		}
		if got, more, err := c.Next(t.Context(), nil, 10); err != nil || more || !slices.Equal(got, []string{"c", "e"}) {
			t.Errorf("%v have %v in common, more %v, %v", sets, got, more, err)
		}
	}
}

// TestHoldersJoin: one holder's candidates come at once and are many, another's take a while to be found, and are few. They bound the
// first one's before long.
func TestHoldersJoin(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition squad {
			relation member: user
		}
		definition document {
			relation owner: user
			relation signer: squad#member
		}`)
	f := &formula{documents: 200_000, squads: 200, all: true}
	ann := tuple.ONR("user", "ann", tuple.Ellipsis)
	c, err := p.ResourceCandidates("document", Holder{"owner", ann}, Holder{"signer", ann})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for more := true; more; {
		var ids []string
		if ids, more, err = c.Next(t.Context(), f, 50); err != nil {
			t.Fatal(err)
		}
		all = append(all, ids...)
	}
	for i := range f.squads {
		if _, found := slices.BinarySearch(all, name(1000*i)); !found {
			t.Errorf("%s is missing", name(1000*i))
		}
	}
	if len(all) > 2000 || !slices.IsSorted(all) {
		t.Errorf("there are %d candidates, for %d documents", len(all), f.squads)
	}
}

// TestExceptionsAreBounded refuses to gather more exceptions of a wildcard than it holds in memory.
func TestExceptionsAreBounded(t *testing.T) {
	t.Parallel()
	p := compile(t, `definition user {}
		definition document {
			relation viewer: user:*
			relation banned: user
			permission view = viewer - banned
		}`)
	w := p.Walk(&public{banned: maxExcept + 1})
	defer w.Close()
	listed := 0
	_, err := w.LookupSubjects(t.Context(), tuple.ONR("document", "plan", "view"), SubjectKind{Type: "user"}, nil, "", func(Found) error { listed++; return nil })
	if err == nil || listed > 0 {
		t.Errorf("%d were listed, %v", listed, err)
	}
	w = p.Walk(&public{banned: 100})
	defer w.Close()
	all, err := w.LookupSubjects(t.Context(), tuple.ONR("document", "plan", "view"), SubjectKind{Type: "user"}, nil, "", func(Found) error { listed++; return nil })
	if err != nil || listed > 0 || len(all.Except) != 100 || all.Outcome != authz.Yes {
		t.Errorf("%d were listed, and %d excepted of %v, %v", listed, len(all.Except), all.Outcome, err)
	}
}

// public is a document that everybody views but those who are banned.
type public struct {
	Rows
	banned int
}

func (p *public) Object(_, _ string, _ int) ([]Row, bool, error) { return nil, true, nil }

func (p *public) Relation(_, _, _ string, _ int) ([]Row, bool, error) { return nil, true, nil }

func (p *public) Usersets(_, _, _ string, _ int) ([]Row, bool, error) { return nil, false, nil }

func (p *public) Page(_, _, _ string, _ bool, _ *Row, _ int) ([]Row, bool, error) {
	return nil, false, nil
}

func (p *public) Find(_, _, relation, subjectType, _, subjectID string) (Row, bool, error) {
	found := relation == "viewer" && subjectID == wildcard || relation == "banned" && subjectID != nobody
	return Row{Relation: relation, SubjectType: subjectType, SubjectID: subjectID}, found, nil
}

func (p *public) SubjectIDs(_, _, relation, _, _, from string, limit int) ([]string, bool, error) {
	if relation == "viewer" {
		return []string{wildcard}, false, nil
	}
	return (&formula{}).every(0, 1, p.banned, from, limit)
}

// TestWaysAreBounded: of a schema in which everything leads to everything a program keeps few ways. The lookups go through all objects then, and so
// does any that comes when a program keeps as many as it may, whose ways are found anew.
func TestWaysAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	var text strings.Builder
	text.WriteString("definition user {}\ndefinition document {\n")
	const members = 220
	for i := range members {
		fmt.Fprintf(&text, "\trelation rel%d: user | document#per%d\n\tpermission per%d = rel%d", i, i, i, i)
		if i > 0 {
			fmt.Fprintf(&text, " + per%d", i-1)
		}
		text.WriteString("\n")
	}
	text.WriteString("}\n")
	p := compile(t, text.String())
	held := func(name string) bool {
		m := p.types["document"].members[name]
		ways := p.waysTo(m)
		count := 0
		for _, onward := range ways.onward {
			count += len(onward)
		}
		if count > 1<<16 || ways.tooMany != (count == 0) {
			t.Errorf("%s has %d ways, too many: %v", name, count, ways.tooMany)
		}
		return m.ways.Load() != nil
	}
	if !held("per50") || !held(fmt.Sprintf("per%d", members-1)) {
		t.Error("the ways are not kept")
	}
	all := 0
	for i := 0; i < members; i += 2 {
		if held(fmt.Sprintf("per%d", i)) {
			all++
		}
	}
	if got := p.ways.Load(); got > 1<<20 || all == members/2 || all < members/4 {
		t.Errorf("the ways of %d of %d permissions are kept, %d in all", all, members/2, got)
	}
	for name, everything := range map[string]bool{"per10": false, fmt.Sprintf("per%d", members-1): true} {
		f := &formula{documents: 3}
		c, err := p.ResourceCandidates("document", Holder{name, tuple.ONR("user", "ann", tuple.Ellipsis)})
		if err != nil {
			t.Fatal(err)
		}
		ids, more, err := c.Next(t.Context(), f, 10)
		if err != nil || more || (len(ids) == f.documents) != everything {
			t.Errorf("%s: %v, %v, %v", name, ids, more, err)
		}
	}
}
