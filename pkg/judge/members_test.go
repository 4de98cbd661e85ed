package judge

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/facts"
	"github.com/deputyauth/deputy/pkg/store"
)

// planCase asks who reaches the document of a crowd.
var planCase = authz.Case{Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view"}

// reaching makes a member of acme one for whom bot reaches the document.
func reaching(who authz.Object) []authz.Relationship {
	text := who.Type + ":" + who.ID
	return []authz.Relationship{rel("tenant:acme", "member", text), rel(text, "active", text), rel("document:plan", "reader", text)}
}

// largeCrowd is crowd over a store on the disk, which reads a page of many relationships as quickly as one of few.
func largeCrowd(t testing.TB) (*counted, *delegate.Delegate) {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, s)
	if err != nil {
		t.Fatal(err)
	}
	g := kept.Open(kept.Config{Engine: e, Store: s, Failure: engine.Failure, Log: zap.NewNop()})
	t.Cleanup(g.Close)
	return crowdIn(t, e, g)
}

// page looks up who reaches the document, from a place on.
func page(t *testing.T, j *Judge, from Place, limit int) (found []string, end End) {
	t.Helper()
	end, err := j.Agents(t.Context(), authz.Unbounded(), planCase, authz.Freshness{}, from, limit, func(r Reacher) error {
		found = append(found, string(r.Candidate.Delegation())+" for "+r.Candidate.Principal.ID)
		return r.Err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, end
}

// TestAgentsOfALargeSetReadsFewRows: a lookup of one agent reads a page of a set with 50,000 principals, and not all of them; one that goes through many
// of them holds few at a time.
func TestAgentsOfALargeSetReadsFewRows(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, _ := largeCrowd(t)
	j := New(graph, nil, time.Now)
	rels := reaching(authz.Object{Type: authz.TypeUser, ID: "bob"})
	for i := range 50_000 {
		rels = append(rels, rel("tenant:acme", "member", fmt.Sprintf("user:u%05d", i)))
	}
	touch(t, graph, rels...)
	graph.rows.Store(0)
	found, end := page(t, j, Place{}, 1)
	if len(found) != 1 || end.Next == nil {
		t.Fatalf("found %v, and goes on at %v", found, end.Next)
	}
	if n := graph.rows.Load(); n > 2*lookupPage {
		t.Errorf("a lookup of one reads %d rows", n)
	}

	j.lookupWork = 5 * lookupPage
	call, err := j.open(t.Context(), authz.Unbounded(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	l := newLookup(t.Context(), call, 1000)
	l.until = time.Now().Add(time.Hour)
	listed, _, err := call.source.snap.Page(t.Context(), facts.LiveFilter(authz.Subject{Object: authz.TenantID("acme").Object()}, false), lookupPage, "")
	if err != nil || len(listed) != 1 {
		t.Fatalf("%v, %v", listed, err)
	}
	graph.rows.Store(0)
	var place Place
	if stopped, err := l.delegations(t.Context(), planCase, listed, &place, func(Reacher) error { return nil }); err != nil || !stopped || l.found != 2 {
		t.Fatalf("stopped %v, found %d, %v", stopped, l.found, err)
	}
	if n := graph.rows.Load(); n < 4*lookupPage || n > 8*lookupPage {
		t.Errorf("it reads %d rows of %d principals", n, l.work)
	}
	if n := len(call.source.lists); n > 3*lookupPage {
		t.Errorf("it holds %d lists of relationships", n)
	}
}

// TestPagesOfAgentsAreOneList: whatever the limit is, and wherever the budget cuts it, a lookup that goes on from place to place finds what one page does,
// in the same order, each of it once.
func TestPagesOfAgentsAreOneList(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, d := largeCrowd(t)
	j := New(graph, nil, time.Now)
	var rels []authz.Relationship
	for i := range 1200 {
		user, service := authz.Object{Type: authz.TypeUser, ID: fmt.Sprintf("u%04d", i)}, authz.Object{Type: authz.TypeService, ID: fmt.Sprintf("s%04d", i)}
		// Some are side by side, the first and the last of a page among them.
		if i%97 < 3 || i >= 497 && i < 503 {
			rels = append(rels, reaching(user)...)
		} else {
			rels = append(rels, rel("tenant:acme", "member", "user:"+user.ID))
		}
		if i < 40 {
			rels = append(rels, reaching(service)...)
		}
	}
	touch(t, graph, rels...)
	for _, principal := range []authz.Subject{
		{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}},
		{Object: authz.TenantID("acme").Object(), Relation: facts.RelationAdmin},
	} {
		spec := consent
		spec.Principal = principal
		if principal.Relation == "" {
			spec.GrantedBy = principal.Object
		}
		if _, _, err := d.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	whole, end := page(t, j, Place{}, 10_000)
	if len(whole) < 40 || end.Next != nil {
		t.Fatalf("found %d, and goes on at %v", len(whole), end.Next)
	}
	follow := func(limit, work int) {
		t.Helper()
		j.lookupWork = work
		var found []string
		calls := 1
		for place := (Place{}); ; calls++ {
			some, end := page(t, j, place, limit)
			found = append(found, some...)
			if end.Next == nil {
				break
			}
			if place = *end.Next; len(some) > limit || calls > 2000 {
				t.Fatalf("%d of at most %d, after %d calls", len(some), limit, calls)
			}
		}
		if !slices.Equal(found, whole) || calls == 1 {
			t.Errorf("with a limit of %d and a budget of %d, in %d calls: found %d, not %d:\n%v\n%v", limit, work, calls, len(found), len(whole), found, whole)
		}
	}
	for _, limit := range []int{1, 2, 5, len(whole) - 1} {
		follow(limit, lookupWork)
	}
	for _, work := range []int{1, 33, 100, 499, 1001} {
		follow(10_000, work)
	}

	// A principal, or a delegation, that was decided last and has expired since: nothing that is left is missed.
	j.lookupWork = lookupWork
	_, end = page(t, j, Place{}, len(whole)-3)
	for _, gone := range []func(*Place){
		func(p *Place) { p.Members.Last = "gone" },
		func(p *Place) { p.Leaf = "gone" },
	} {
		place := *end.Next
		gone(&place)
		rest, end := page(t, j, place, 10_000)
		for end.Next != nil {
			var more []string
			more, end = page(t, j, *end.Next, 10_000)
			rest = append(rest, more...)
		}
		for _, one := range whole[len(whole)-3:] {
			if !slices.Contains(rest, one) {
				t.Errorf("from %+v on, %s is missed", place, one)
			}
		}
	}
}
