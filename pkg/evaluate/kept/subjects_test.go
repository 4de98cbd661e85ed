package kept

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
)

// TestSubjects lists the tenants of documents, as SpiceDB does, whatever their permission is made of.
func TestSubjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `use self
		caveat late(hour int) { hour > 17 }
		definition tenant {
			relation sub: tenant
			permission itself = self + sub
		}
		definition group {
			relation member: tenant | tenant:* | group#member
		}
		definition folder {
			relation tenant: tenant | tenant with late
			relation parent: folder
			permission every = tenant + parent->every
		}
		definition document {
			relation folder: folder
			relation second: tenant
			relation banned: tenant
			relation group: group#member
			permission union = folder->tenant + second
			permission both = folder->tenant & second
			permission without = folder->every - banned
			permission from_banned = (banned + second) - folder->tenant
			permission all = folder.all(tenant)
			permission nested = folder->every
			permission grouped = group
			permission own = second->itself
			permission none = nil
		}`, `document:a#folder@folder:x document:a#folder@folder:y document:a#second@tenant:two document:a#banned@tenant:one
		folder:x#tenant@tenant:one folder:y#tenant@tenant:one folder:y#tenant@tenant:two folder:x#parent@folder:z folder:z#tenant@tenant:three[late]
		tenant:two#sub@tenant:five document:a#group@group:g#member group:g#member@group:h#member group:h#member@tenant:four
		document:b#folder@folder:z document:b#group@group:w#member group:w#member@tenant:* group:w#member@tenant:six
		document:c#folder@folder:loop folder:loop#parent@folder:loop folder:loop#tenant@tenant:one`)
	g := verified(t, w)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := g.Graph.Snapshot(t.Context(), authz.Freshness{Exactly: snap.Revision()})
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(found []authz.SubjectAnswer) []authz.SubjectAnswer {
		return slices.SortedFunc(slices.Values(found), func(a, b authz.SubjectAnswer) int { return cmp.Compare(a.ID, b.ID) })
	}
	some := 0
	for _, id := range []string{"a", "b", "nothing"} {
		for _, permission := range []string{"union", "both", "without", "from_banned", "all", "nested", "grouped", "own", "none", "second"} {
			document := authz.Object{Type: "document", ID: id}
			got, err := snap.Subjects(t.Context(), document, permission, "tenant", nil, 100)
			want, wantErr := engine.Subjects(t.Context(), document, permission, "tenant", nil, 100)
			if err != nil || wantErr != nil {
				t.Errorf("document:%s#%s: %v, %v", id, permission, err, wantErr)
			}
			some += len(want)
			if !slices.Equal(sorted(got), sorted(want)) {
				t.Errorf("document:%s#%s: got %v, want %v", id, permission, sorted(got), sorted(want))
			}
		}
	}
	if some < 15 {
		t.Errorf("there are only %d subjects in all", some)
	}
	if got, err := snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "c"}, "nested", "tenant", nil, 100); err != nil || len(got) != 1 || got[0].ID != "one" {
		// SpiceDB answers with an error of depth; who is named is in, whatever goes round.
		t.Errorf("beside a cycle: got %v, %v", got, err)
	}
	if got, err := snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "a"}, "nested", "nothing", nil, 100); err == nil {
		t.Errorf("an unknown type is %v", got)
	}
}

// TestHeld: what is asked of a snapshot that is held has the answers of one that is not, whatever was asked before.
func TestHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `definition user {}
		definition tenant {
			relation member: user
		}
		definition group {
			relation member: user | group#member
		}
		definition folder {
			relation tenant: tenant
			relation parent: folder
			relation viewer: user | group#member
			permission view = viewer + parent->view
			permission every = tenant + parent->every
		}`, `folder:a#parent@folder:b folder:b#parent@folder:c folder:a#viewer@user:ann folder:b#viewer@group:g#member
		group:g#member@group:h#member group:h#member@user:bob folder:c#viewer@user:cat folder:b#tenant@tenant:one folder:c#tenant@tenant:two
		tenant:one#member@user:ann`)
	for i := range 100 { // more subjects than one walk has room for
		w.write(t, fmt.Sprintf("group:h#member@user:many%d", i))
	}
	g := verified(t, w)
	open := func() authz.Snapshot {
		t.Helper()
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	held := open()
	hold(t, held)
	r := rand.New(rand.NewPCG(4, 4))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	yes, no, listed := 0, 0, 0
	for range 300 {
		resource := authz.Object{Type: "folder", ID: pick("a", "b", "c", "d")}
		if r.IntN(3) == 0 {
			got, err := held.Subjects(t.Context(), resource, "every", "tenant", nil, 100)
			want, wantErr := open().Subjects(t.Context(), resource, "every", "tenant", nil, 100)
			if err != nil || wantErr != nil || !slices.Equal(got, want) {
				t.Fatalf("the tenants of %v: %v, %v, want %v, %v", resource, got, err, want, wantErr)
			}
			listed += len(got)
			continue
		}
		queries := make([]authz.Query, 1+r.IntN(120))
		for i := range queries {
			user := authz.Object{Type: "user", ID: pick("ann", "bob", "cat", "dan", fmt.Sprint("many", r.IntN(150)))}
			queries[i] = authz.Query{Resource: authz.Object{Type: "folder", ID: pick("a", "b", "c", "d")}, Permission: "view", Subject: authz.Subject{Object: user}}
		}
		got, err := held.Check(t.Context(), queries)
		want, wantErr := open().Check(t.Context(), queries)
		if err != nil || wantErr != nil {
			t.Fatal(err, wantErr)
		}
		for i := range queries {
			if got[i].Outcome != want[i].Outcome {
				t.Fatalf("%s is %v, want %v", queries[i].Text(), got[i].Outcome, want[i].Outcome)
			}
			if got[i].Outcome == authz.Yes {
				yes++
			} else {
				no++
			}
		}
	}
	if yes < 100 || no < 100 || listed < 10 {
		t.Errorf("%d were yes, %d no, and %d tenants were listed", yes, no, listed)
	}
}

// TestSubjectsOfEach lists the tenants of many documents at once, as they are listed one by one: of documents that have tenants in common, that have a
// wildcard or a condition on the way, that lead back to themselves, or whose caveat cannot be evaluated.
func TestSubjectsOfEach(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `caveat ratio(part int, whole int) { part / whole == 1 }
		definition tenant {
			relation member: tenant
		}
		definition group {
			relation member: tenant | tenant:* | group#member
		}
		definition folder {
			relation tenant: tenant | tenant with ratio
			relation parent: folder
			permission every = tenant + parent->every
		}
		definition document {
			relation folder: folder
			relation group: group#member
			relation banned: tenant
			permission tenants = folder->every + group - banned
		}`, "")
	r := rand.New(rand.NewPCG(8, 8))
	one := func(kind string, n int) string { return fmt.Sprintf("%s:%s%d", kind, kind, r.IntN(n)) }
	for i := range 90 {
		w.write(t, fmt.Sprintf("document:document%d#folder@%s", i, one("folder", 20)))
		if r.IntN(4) == 0 {
			w.write(t, fmt.Sprintf("document:document%d#banned@%s", i, one("tenant", 8)))
		}
		if r.IntN(20) == 0 {
			w.write(t, fmt.Sprintf("document:document%d#group@%s#member", i, one("group", 3)))
		}
	}
	for i := range 20 {
		if i > 0 && i%3 > 0 {
			w.write(t, fmt.Sprintf("folder:folder%d#parent@%s", i, one("folder", i)))
		}
		if i%4 > 0 {
			w.write(t, fmt.Sprintf("folder:folder%d#tenant@%s", i, one("tenant", 8)))
		}
	}
	w.write(t, "folder:folder18#parent@folder:folder19")
	w.write(t, "folder:folder19#parent@folder:folder18")
	w.write(t, `folder:folder3#tenant@tenant:tenant7[ratio:{"part":1}]`)
	w.write(t, `folder:folder4#tenant@tenant:tenant7[ratio:{"part":1,"whole":0}]`)
	w.write(t, "group:group0#member@tenant:*")
	w.write(t, "group:group1#member@tenant:tenant1")
	w.write(t, "group:group2#member@group:group2#member")
	g := verified(t, w)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]int{}
	for range 60 {
		resources := make([]authz.Object, 1+r.IntN(150))
		for i := range resources {
			resources[i] = authz.Object{Type: "document", ID: fmt.Sprint("document", r.IntN(95))} // some are not there
		}
		permission := []string{"tenants", "tenants", "nothing"}[r.IntN(3)]
		all, err := snap.(*snapshot).SubjectsOfEach(t.Context(), resources, permission, "tenant", 100)
		if err != nil || len(all) != len(resources) {
			t.Fatalf("%d lists of %d documents, and %v", len(all), len(resources), err)
		}
		for i, o := range resources {
			want, wantErr := snap.Subjects(t.Context(), o, permission, "tenant", nil, 100)
			got := all[i]
			byID := func(a, b authz.SubjectAnswer) int { return cmp.Compare(a.ID, b.ID) }
			slices.SortFunc(got.Subjects, byID)
			slices.SortFunc(want, byID)
			if !slices.Equal(got.Subjects, want) || authz.KindOf(got.Err) != authz.KindOf(wantErr) || (got.Err == nil) != (wantErr == nil) {
				t.Fatalf("the %s of %v are %v, %v among %d, and %v, %v alone", permission, o, got.Subjects, got.Err, len(resources), want, wantErr)
			}
			switch {
			case wantErr != nil:
				met["failed"]++
			case len(want) == 0:
				met["none"]++
			case slices.ContainsFunc(want, func(s authz.SubjectAnswer) bool { return s.ID == "*" }):
				met["a wildcard"]++
			case slices.ContainsFunc(want, func(s authz.SubjectAnswer) bool { return s.Conditional }):
				met["conditional"]++
			case len(want) == 1:
				met["one"]++
			default:
				met["several"]++
			}
		}
	}
	t.Log(met)
	for _, kind := range []string{"failed", "none", "a wildcard", "conditional", "one", "several"} {
		if met[kind] == 0 {
			t.Errorf("no document had the tenants %q", kind)
		}
	}
}

// TestSubjectsUpToALimit: of many subjects as many are listed as are asked for, which costs the same however many there are.
func TestSubjectsUpToALimit(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	w := newWorld(t, `definition tenant {}
		definition document {
			relation tenant: tenant | tenant:*
		}`, "document:three#tenant@tenant:a document:three#tenant@tenant:b document:three#tenant@tenant:* document:many#tenant@tenant:*")
	crowd := func(document string, n int) {
		var rels []string
		for i := range n {
			rels = append(rels, fmt.Sprintf("document:%s#tenant@tenant:t%05d", document, i))
		}
		for some := range slices.Chunk(rels, 1000) {
			w.write(t, some...)
		}
	}
	crowd("few", 200)
	crowd("many", 20_000)
	crowd("sixty", 60)
	g := Open(Config{Store: w.Store, Failure: engine.Failure, Log: zap.NewNop()})
	t.Cleanup(g.Close)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	list := func(id string, limit int) []authz.SubjectAnswer {
		t.Helper()
		found, err := snap.Subjects(t.Context(), authz.Object{Type: "document", ID: id}, "tenant", "tenant", nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for id, all := range map[string]int{"three": 3, "sixty": 60, "few": 200, "many": 20_001, "nothing": 0} {
		for _, limit := range []int{1, 2, 3, 4, 59, 60, 61, 199, 200, 201, 20_000, 20_001, 20_002} {
			found := list(id, limit)
			ids := map[string]bool{}
			for _, s := range found {
				ids[s.ID] = true
			}
			if want := min(all, limit); len(found) != want || len(ids) != want {
				t.Errorf("of the %d tenants of %s, %d at most: %d, of them %d different ones", all, id, limit, len(found), len(ids))
			}
		}
	}
	few, many := testing.AllocsPerRun(20, func() { list("few", 2) }), testing.AllocsPerRun(20, func() { list("many", 2) })
	if many > 2*few {
		t.Errorf("two of 20,000 are listed with %v allocations, of 200 with %v", many, few)
	}
}
