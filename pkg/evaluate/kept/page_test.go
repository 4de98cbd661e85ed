package kept

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// pages reads all pages of a filter.
func pages(t *testing.T, s authz.Snapshot, f authz.Filter, limit int, between func()) (all []string) {
	t.Helper()
	for cursor, more := "", true; more; more = cursor != "" {
		rels, next, err := s.Page(t.Context(), f, limit, cursor)
		if err != nil || len(rels) > limit || next != "" && len(rels) < limit {
			t.Fatalf("%+v after %q: %d of at most %d, goes on at %q, %v", f, cursor, len(rels), limit, next, err)
		}
		for _, r := range rels {
			all = append(all, fmt.Sprintf("%s %s %v %v", r, r.Caveat, r.CaveatContext, r.ExpiresAt))
		}
		cursor = next
		between()
	}
	return all
}

// TestPages: the pages of a filter, whatever its shape and their limit is, are what the engine reads, each relationship once and always in the same order,
// also while others write.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `use expiration
		definition user {
			relation friend: user
		}
		caveat late(hour int) { hour > 17 }
		definition tenant {
			relation member: user | user#friend | tenant#member | user with late | user with expiration
			relation admin: user | tenant
		}
		definition tenants {
			relation member: user
		}`, `tenant:a#member@user:ann tenant:a#member@user:ann#friend tenant:a#member@user:bob[late:{"hour":3}] tenant:a#member@tenant:b#member
		tenant:a#admin@user:ann tenant:a#admin@tenant:a tenant:b#admin@user:bob user:ann#friend@user:bob tenant:aa#member@user:ann
		tenant:b#member@user:ann tenant:b#member@user:cat[expiration:2090-01-01T00:00:00Z] tenants:a#member@user:ann tenant:b#admin@user:ann`)
	g := verified(t, w)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := g.Graph.Snapshot(t.Context(), authz.Freshness{Exactly: snap.Revision()})
	if err != nil {
		t.Fatal(err)
	}
	some, written := 0, 0
	for _, resource := range []authz.Object{{}, {Type: "tenant"}, {Type: "tenant", ID: "a"}, {Type: "tenant", ID: "b"}, {Type: "tenant", ID: "none"}} {
		for _, relation := range []string{"", "member", "admin"} {
			for _, subject := range []authz.Subject{
				{}, subjectOf("user", "", ""), subjectOf("user", "ann", ""), subjectOf("user", "ann", "friend"), subjectOf("tenant", "", "member"), subjectOf("tenant", "b", "member"),
			} {
				f := authz.Filter{Resource: resource, Relation: relation, SubjectType: subject.Type, SubjectID: subject.ID, SubjectRelation: subject.Relation}
				if resource.Type == "" && (subject.Type == "" || relation != "") {
					continue
				}
				read, err := engine.Read(t.Context(), f)
				if err != nil {
					t.Fatalf("%+v: %v", f, err)
				}
				var want []string
				for _, r := range read[0] {
					want = append(want, fmt.Sprintf("%s %s %v %v", r, r.Caveat, r.CaveatContext, r.ExpiresAt))
				}
				slices.Sort(want)
				some += len(want)
				whole := pages(t, snap, f, 1000, func() {})
				if sorted := slices.Sorted(slices.Values(whole)); !slices.Equal(sorted, want) {
					t.Errorf("%+v:\n got %q\nwant %q", f, sorted, want)
				}
				for limit := 1; limit <= len(want)+1; limit++ {
					cut := pages(t, snap, f, limit, func() {
						written++
						w.write(t, fmt.Sprintf("tenant:a#member@user:an%d", written))
					})
					if !slices.Equal(cut, whole) {
						t.Errorf("%+v, %d at most:\n got %q\nwant %q", f, limit, cut, whole)
					}
				}
			}
		}
	}
	if some < 60 {
		t.Errorf("only %d relationships were read", some)
	}
}

func subjectOf(objectType, id, relation string) authz.Subject {
	return authz.Subject{Object: authz.Object{Type: objectType, ID: id}, Relation: relation}
}

// TestPageBehindAnExpiredRow: a list goes on behind a relationship that has expired since, and one as of an earlier moment has it.
func TestPageBehindAnExpiredRow(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	w := newWorldIn(t, store.Config{Now: func() time.Time { return now }, Retention: time.Hour}, `use expiration
		definition user {}
		definition tenant {
			relation member: user with expiration | user
		}`, `tenant:a#member@user:ann tenant:a#member@user:cat
		tenant:a#member@user:bob[expiration:`+now.Add(time.Minute).UTC().Format(time.RFC3339)+`]`)
	g := verified(t, w)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	then := now
	f := authz.Filter{Resource: authz.Object{Type: "tenant", ID: "a"}, Relation: "member"}
	page := func(s authz.Snapshot, limit int, cursor string) (ids []string, next string) {
		t.Helper()
		rels, next, err := s.Page(t.Context(), f, limit, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rels {
			ids = append(ids, r.Subject.ID)
		}
		return ids, next
	}
	first, cursor := page(snap, 2, "")
	if !slices.Equal(first, []string{"ann", "bob"}) {
		t.Fatalf("the first page has %q", first)
	}
	now = now.Add(2 * time.Minute)
	if rest, _ := page(snap, 2, cursor); !slices.Equal(rest, []string{"cat"}) {
		t.Errorf("behind one that has expired there are %q", rest)
	}
	if all, _ := page(snap, 10, ""); !slices.Equal(all, []string{"ann", "cat"}) {
		t.Errorf("now there are %q", all)
	}
	past, err := g.Snapshot(t.Context(), authz.Freshness{Exactly: snap.Revision(), Moment: then})
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := page(past, 10, ""); !slices.Equal(all, []string{"ann", "bob", "cat"}) {
		t.Errorf("at that moment there were %q", all)
	}
}

// TestPageRefuses: a cursor of another engine is no place, and a name that the schema lacks is an error as it is to the engine.
func TestPageRefuses(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, `definition user {}
		definition tenant {
			relation member: user
		}`, "tenant:a#member@user:ann"))
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cursor := range []string{"nonsense", listedAt, listedAt + "nonsense"} {
		_, _, err := snap.Page(t.Context(), authz.Filter{Resource: authz.Object{Type: "tenant"}}, 10, cursor)
		if authz.KindOf(err) != authz.Invalid || !strings.Contains(err.Error(), "begin again without a cursor") {
			t.Errorf("the cursor %q: %v", cursor, err)
		}
	}
	for _, f := range []authz.Filter{
		{Resource: authz.Object{Type: "nothing"}}, {Resource: authz.Object{Type: "tenant"}, Relation: "nothing"},
		{Resource: authz.Object{Type: "tenant"}, SubjectType: "nothing"}, {Resource: authz.Object{Type: "tenant"}, SubjectType: "user", SubjectRelation: "nothing"},
	} {
		if rels, _, err := snap.Page(t.Context(), f, 10, ""); authz.KindOf(err) != authz.Precondition {
			t.Errorf("%+v: %v, %v", f, rels, err)
		}
	}
}

// TestReadOneSubjectAmongManySets: what is read of one subject is found among more sets than are held at a time.
func TestReadOneSubjectAmongManySets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `definition user {}
		definition group {
			relation member: user
			relation admin: user
		}
		definition document {
			relation reader: group | group#member | group#admin
		}`, "document:a#reader@group:g1200")
	for from := 0; from < 2*pageSize+500; from += pageSize / 2 {
		var rels []string
		for i := range pageSize / 2 {
			rels = append(rels, fmt.Sprintf("document:a#reader@group:g%04d#member", from+i))
		}
		w.write(t, rels...)
	}
	w.write(t, "document:a#reader@group:g1200#admin")
	snap, err := verified(t, w).Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]string{
		"g1200": {"document:a#reader@group:g1200", "document:a#reader@group:g1200#admin", "document:a#reader@group:g1200#member"},
		"g2499": {"document:a#reader@group:g2499#member"}, "g9999": nil,
	} {
		found, err := snap.Read(t.Context(), authz.Filter{
			Resource: authz.Object{Type: "document", ID: "a"}, Relation: "reader", SubjectType: "group", SubjectID: id,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range found[0] {
			got = append(got, r.String())
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("of %s: %q, want %q", id, got, want)
		}
	}
}
