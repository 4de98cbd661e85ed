package kept

import (
	"fmt"
	"slices"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// hold holds a snapshot until the test ends.
func hold(t *testing.T, s authz.Snapshot) {
	t.Helper()
	held, ok := s.(*snapshot)
	if !ok {
		t.Fatalf("a %T cannot be held", s)
	}
	held.Hold()
	t.Cleanup(held.Release)
}

// TestRead reads by filters of every shape, twice, the same as the engine.
func TestRead(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, `definition user {
			relation friend: user
		}
		caveat late(hour int) { hour > 17 }
		definition tenant {
			relation member: user | user#friend | tenant#member | user with late
			relation admin: user | tenant
		}`, `tenant:a#member@user:ann tenant:a#member@user:ann#friend tenant:a#member@user:bob[late:{"hour":3}] tenant:a#member@tenant:b#member
		tenant:a#admin@user:ann tenant:a#admin@tenant:a tenant:b#admin@user:bob user:ann#friend@user:bob`))
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	hold(t, snap)
	engine, err := g.Graph.Snapshot(t.Context(), authz.Freshness{Exactly: snap.Revision()})
	if err != nil {
		t.Fatal(err)
	}
	texts := func(s authz.Snapshot, f authz.Filter) []string {
		t.Helper()
		found, err := s.Read(t.Context(), f)
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		all := []string{}
		for _, r := range found[0] {
			all = append(all, fmt.Sprintf("%s %s %v %v", r, r.Caveat, r.CaveatContext, r.ExpiresAt.IsZero()))
		}
		slices.Sort(all)
		return all
	}
	some := 0
	for _, id := range []string{"a", "b", "c", ""} {
		for _, relation := range []string{"", "member", "admin"} {
			for _, subjectType := range []string{"", "user", "tenant"} {
				for _, subject := range []struct{ id, relation string }{{}, {"ann", ""}, {"ann", "friend"}, {"", "member"}, {"a", ""}, {"b", ""}, {"b", "member"}} {
					f := authz.Filter{Resource: authz.Object{Type: "tenant", ID: id}, Relation: relation}
					if subjectType != "" {
						f.SubjectType, f.SubjectID, f.SubjectRelation = subjectType, subject.id, subject.relation
					}
					want := texts(engine, f)
					some += len(want)
					for range 2 { // what was kept answers the second time
						if got := texts(snap, f); !slices.Equal(got, want) {
							t.Errorf("%+v:\n got %q\nwant %q", f, got, want)
						}
					}
				}
			}
		}
	}
	if some < 100 {
		t.Errorf("only %d relationships were found in all", some)
	}
}
