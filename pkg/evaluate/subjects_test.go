package evaluate

import (
	"cmp"
	"slices"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
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
			got, err := snap.Subjects(t.Context(), document, permission, "tenant", nil)
			want, wantErr := engine.Subjects(t.Context(), document, permission, "tenant", nil)
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
	if got, err := snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "c"}, "nested", "tenant", nil); err != nil || len(got) != 1 || got[0].ID != "one" {
		// SpiceDB answers with an error of depth; who is named is in, whatever goes round.
		t.Errorf("beside a cycle: got %v, %v", got, err)
	}
	if got, err := snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "a"}, "nested", "nothing", nil); err == nil {
		t.Errorf("an unknown type is %v", got)
	}
}
