package kept

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// found lists the objects that a request finds, "?" behind those that it finds conditionally, and what it ends with.
func (g *Graph) found(t *testing.T, req *v1.LookupResourcesRequest) (ids []string, last *v1.Cursor, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ok, err := g.LookupResources(ctx, req, func(r *v1.LookupResourcesResponse) error {
		id := r.GetResourceObjectId()
		if r.GetPermissionship() == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
			id += "?"
		}
		ids, last = append(ids, id), r.GetAfterResultCursor()
		return nil
	})
	if !ok {
		t.Fatalf("%v is left to SpiceDB", req)
	}
	return ids, last, err
}

// reach is a request for the documents that a user reaches.
func reach(permission, user string) *v1.LookupResourcesRequest {
	return &v1.LookupResourcesRequest{
		ResourceObjectType: "doc", Permission: permission, Consistency: head(),
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "person", ObjectId: user}},
	}
}

func head() *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
}

// TestLookupsOfRingsEnd looks up in graphs that lead back to themselves, of which SpiceDB's lookups are errors or never end: what is
// found is what checks say.
func TestLookupsOfRingsEnd(t *testing.T) {
	t.Parallel()
	const n = 60
	// ring returns relationships from each of n objects to the next one, and from the last to the first.
	ring := func(pattern string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, pattern+" ", i, (i+1)%n)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ schema, relationships string }{
		"union": {`definition person {}
			definition doc {
				relation editor: person | doc#viewer
				relation direct: doc#editor
				permission viewer = direct + editor
			}`, "doc:0#editor@person:ann " + ring("doc:%d#direct@doc:%d#editor") + ring("doc:%d#editor@doc:%d#viewer")},
		"intersection": {`definition person {}
			definition doc {
				relation allowed: person | doc#viewer
				relation direct: person | doc#allowed
				permission viewer = direct & allowed
			}`, "doc:0#direct@person:ann doc:0#allowed@person:ann doc:9#direct@person:ann " +
			ring("doc:%d#direct@doc:%d#allowed") + ring("doc:%d#allowed@doc:%d#viewer")},
		"groups": {`definition person {}
			definition group {
				relation member: person | group#member
			}
			definition doc {
				relation shared: group#member
				permission viewer = shared
			}`, "group:0#member@person:ann doc:a#shared@group:7#member doc:b#shared@group:59#member " + ring("group:%d#member@group:%d#member")},
		"folders": {`definition person {}
			definition folder {
				relation parent: folder
				relation shared: person
				permission viewer = shared + parent->viewer
			}
			definition doc {
				relation folder: folder
				permission viewer = folder->viewer
			}`, "folder:0#shared@person:ann doc:a#folder@folder:3 doc:b#folder@folder:59 " + ring("folder:%d#parent@folder:%d")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.schema, c.relationships)
			g := verified(t, w)
			begin := time.Now()
			yes, failed := 0, 0
			for _, user := range []string{"ann", "bob"} {
				got, _, err := g.found(t, reach("viewer", user))
				var want []string
				for _, id := range append([]string{"a", "b"}, numbers(n)...) {
					a := w.asks(t, fmt.Sprintf("doc:%s#viewer@person:%s", id, user))
					switch {
					case a.Outcome == authz.Yes:
						want = append(want, id)
					case a.Outcome == authz.Failed && user == "ann":
						failed++
					}
				}
				yes += len(want)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%s reaches %v, want %v", user, got, want)
				}
				if user == "bob" && err != nil {
					t.Errorf("nothing leads to bob: %v", err)
				}
				if user == "ann" && failed > 0 && status.Code(err) != codes.FailedPrecondition {
					t.Errorf("%d checks are errors, the lookup ends with %v", failed, err)
				}
			}
			if yes == 0 {
				t.Error("nothing is reached")
			}
			who, err := g.who(t, "0", "viewer", "person")
			if want := w.asks(t, "doc:0#viewer@person:ann"); name == "union" && (want.Outcome != authz.Yes || err != nil || !slices.Equal(who, []string{"ann"})) {
				t.Errorf("doc:0 is viewed by %v, %v", who, err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

// who lists the subjects of an object, as found does; a wildcard with its exceptions behind "-".
func (g *Graph) who(t *testing.T, id, permission, subjectType string) (who []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ok, err := g.LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Resource: &v1.ObjectReference{ObjectType: "doc", ObjectId: id}, Permission: permission, SubjectObjectType: subjectType, Consistency: head(),
	}, func(r *v1.LookupSubjectsResponse) error {
		text := r.GetSubject().GetSubjectObjectId()
		if r.GetSubject().GetPermissionship() == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
			text += "?"
		}
		for _, e := range r.GetExcludedSubjects() {
			text += "-" + e.GetSubjectObjectId()
			if e.GetPermissionship() == v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
				text += "?"
			}
		}
		who = append(who, text)
		return nil
	})
	if !ok {
		t.Fatal("it is left to SpiceDB")
	}
	return who, err
}

const shared = `use expiration
	caveat late(hour int) { hour > 17 }
	caveat broken(n int) { 1 / n > 0 }
	definition person {}
	definition group {
		relation member: person | group#member
	}
	definition doc {
		relation reader: person | person:* | group#member | person with late | person with broken
		relation banned: person | person with late
		permission view = reader - banned
		relation listed: person
		permission both = reader & listed
	}`

// TestLookupSubjects lists who views a document: by name, and everybody but some.
func TestLookupSubjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared, `doc:named#reader@person:bob doc:named#reader@person:ann doc:named#reader@person:cat[late] doc:named#banned@person:bob
		doc:named#reader@group:g#member group:g#member@group:h#member group:h#member@person:dan
		doc:public#reader@person:* doc:public#reader@person:ann doc:public#banned@person:bob doc:public#banned@person:cat[late]
		doc:hurt#reader@person:ann doc:hurt#reader@person:bob[broken:{"n":0}] doc:hurt#reader@person:cat`)
	g := verified(t, w)
	for id, want := range map[string][]string{
		"named":  {"ann", "cat?", "dan"},
		"public": {"ann", "cat?", "*-bob-cat?"},
		"hurt":   {"ann", "cat"},
		"gone":   nil,
	} {
		who, err := g.who(t, id, "view", "person")
		if !slices.Equal(who, want) {
			t.Errorf("doc:%s is viewed by %v, want %v", id, who, want)
		}
		// An answer that is an error comes after all others.
		if code := status.Code(err); id == "hurt" && code != codes.InvalidArgument || id != "hurt" && err != nil {
			t.Errorf("doc:%s ends with %v", id, err)
		}
	}
	// Everybody is in one of two, some are named in the other.
	w.write(t, "doc:public#listed@person:eve", "doc:public#listed@person:ann")
	if who, err := g.who(t, "public", "both", "person"); err != nil || !slices.Equal(who, []string{"ann", "eve"}) {
		t.Errorf("of all those who are listed %v are found, %v", who, err)
	}
	if who, err := g.who(t, "named", "reader", "group"); err != nil || len(who) > 0 {
		t.Errorf("groups: %v, %v", who, err)
	}
}

// TestWildcardInACircle: that a check of somebody whom nothing names is an error, because the object lies in a circle, is told only where a
// wildcard leads to everybody.
func TestWildcardInACircle(t *testing.T) {
	t.Parallel()
	const open = `definition person {}
		definition doc {
			relation parent: doc
			relation named: person | person:*
			relation everybody: person:*
			relation banned: person:*
			permission view = ((named + everybody) - banned) + parent->view
		}`
	ring := "doc:0#parent@doc:1 doc:1#parent@doc:0 doc:0#named@person:ann "
	for _, c := range []struct {
		more string
		want codes.Code
	}{
		{"", codes.OK},
		{"doc:1#named@person:* doc:1#banned@person:*", codes.FailedPrecondition},
		{"doc:1#everybody@person:* doc:1#banned@person:*", codes.FailedPrecondition},
	} {
		g := verified(t, newWorld(t, open, ring+c.more))
		who, err := g.who(t, "0", "view", "person")
		if !slices.Equal(who, []string{"ann"}) || status.Code(err) != c.want {
			t.Errorf("with %q: %v, %v, want %v", c.more, who, err, c.want)
		}
	}
}

// TestLookupResourcesGoesOn cuts a lookup at every length: its cursor goes on at its revision, whatever was written meanwhile, and is good
// for no other request.
func TestLookupResourcesGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared, `doc:a#reader@person:ann doc:b#reader@person:* doc:b#reader@group:g#member doc:c#reader@group:g#member
		group:g#member@person:ann doc:d#reader@person:ann[late] doc:e#reader@person:ann doc:e#banned@person:ann doc:f#reader@person:bob doc:g#reader@group:g#member`)
	g := verified(t, w)
	want := []string{"a", "b", "c", "d?", "g"}
	for limit := range 6 {
		var all []string
		req := reach("view", "ann")
		req.OptionalLimit = uint32(limit)
		for page := range 10 {
			ids, last, err := g.found(t, req)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, ids...)
			if limit == 0 || len(ids) < limit {
				break
			}
			req.OptionalCursor = last
			w.write(t, fmt.Sprintf("doc:a%d%d#reader@person:ann", limit, page), fmt.Sprintf("doc:z%d%d#reader@person:ann", limit, page))
		}
		seen := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return len(id) > 2 })
		if !slices.Equal(seen, want) || !slices.IsSorted(all) {
			t.Errorf("limit %d: %v, want %v", limit, all, want)
		}
		// What was written between the pages of this lookup is not in it.
		for _, id := range all {
			if strings.HasPrefix(id, fmt.Sprint("a", limit)) || strings.HasPrefix(id, fmt.Sprint("z", limit)) {
				t.Errorf("limit %d: %s was written later", limit, id)
			}
		}
	}
	first := reach("view", "ann")
	first.OptionalLimit = 1
	_, last, err := g.found(t, first)
	if err != nil {
		t.Fatal(err)
	}
	other := reach("view", "bob")
	other.OptionalCursor = last
	if ok, err := g.LookupResources(t.Context(), other, nil); ok || err != nil {
		t.Errorf("another request's cursor is taken: %v, %v", ok, err)
	}
}

// TestLookupIsVerified has lookups leave out an object: SpiceDB finds that, and from then on all objects are candidates.
func TestLookupIsVerified(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	w := newWorld(t, documents, "document:plan#viewer@user:alice document:other#viewer@user:bob")
	g := verified(t, w)
	candidates := func() (ids []string) {
		t.Helper()
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		found, _, err := snap.Resources(t.Context(), authz.Reachable{ResourceType: "document", Holders: []authz.Holder{
			{Permission: "view", Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "alice"}}},
		}}, 10, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			ids = append(ids, f.ID)
		}
		return ids
	}
	if got := candidates(); !slices.Equal(got, []string{"plan"}) {
		t.Fatalf("candidates are %v", got)
	}
	// What is verified of a page begins anywhere on it.
	until := func(c prometheus.Counter) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); figure(t, c) == 0; candidates() {
			if time.Now().After(deadline) {
				t.Fatal("nothing was counted")
			}
		}
	}
	until(g.verifier.verified)
	if g.Degraded() {
		t.Fatal("there is a difference")
	}
	g.mistake(t, strings.Replace(documents, "viewer - banned", "nil", 1))
	if got := candidates(); len(got) > 0 {
		t.Fatalf("candidates are %v", got)
	}
	until(g.verifier.differences)
	if got := candidates(); !g.Degraded() || !slices.Equal(got, []string{"other", "plan"}) {
		t.Errorf("candidates are %v", got)
	}
}

// TestSeveralHoldersOfASnapshot pages through what two have to reach, and goes on with another snapshot's cursor.
func TestSeveralHoldersOfASnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared, `doc:a#reader@person:ann doc:b#reader@person:ann doc:b#reader@person:bob doc:c#reader@person:*
		doc:d#reader@group:g#member group:g#member@person:ann doc:d#reader@person:bob doc:e#reader@person:bob`)
	g := verified(t, w)
	holder := func(id string) authz.Holder {
		return authz.Holder{Permission: "view", Subject: authz.Subject{Object: authz.Object{Type: "person", ID: id}}}
	}
	for limit := 1; limit < 5; limit++ {
		for _, holders := range [][]authz.Holder{{holder("ann"), holder("bob")}, {holder("bob"), holder("ann")}} {
			snap, err := g.Snapshot(t.Context(), authz.Freshness{})
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			cursor := ""
			for begun := false; !begun || cursor != ""; begun = true {
				var found []authz.Resource
				if found, cursor, err = snap.Resources(t.Context(), authz.Reachable{ResourceType: "doc", Holders: holders}, limit, cursor); err != nil {
					t.Fatal(err)
				}
				for _, f := range found {
					all = append(all, f.ID)
				}
				if len(found) > 0 && len(all) == 2 && limit == 2 { // goes on where another one stopped, as a later call does
					cursor = found[len(found)-1].After
					if snap, err = g.Snapshot(t.Context(), authz.Freshness{Exactly: snap.Revision()}); err != nil {
						t.Fatal(err)
					}
				}
			}
			missing := slices.DeleteFunc([]string{"b", "c", "d"}, func(id string) bool { return slices.Contains(all, id) })
			if len(missing) > 0 || !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) < len(all) {
				t.Errorf("limit %d: %v", limit, all)
			}
		}
	}
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := snap.Resources(t.Context(), authz.Reachable{ResourceType: "doc", Holders: []authz.Holder{holder("ann")}}, 1, "CAESAA=="); authz.KindOf(err) != authz.Invalid {
		t.Errorf("SpiceDB's cursor: %v", err)
	}
}
