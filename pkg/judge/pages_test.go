package judge

import (
	"slices"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestPagesAreOfOneRevision: what was written after the first page of a lookup is on none of its pages, though the next lookup finds it.
func TestPagesAreOfOneRevision(t *testing.T) {
	graph, _ := largeCrowd(t)
	j := New(graph, nil, time.Now)
	document := func(id string) []authz.Relationship {
		d := "document:" + id
		return []authz.Relationship{rel(d, "tenant", "tenant:acme"), rel(d, "reader", "user:alice"), rel(d, "reader", "agent:bot")}
	}
	touch(t, graph, slices.Concat(document("m"), document("z"), reaching(authz.Object{Type: authz.TypeUser, ID: "bob"}))...)
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	c := authz.Case{Agent: "bot", Principal: alice, Tenant: "acme", Resource: authz.Object{Type: "document"}, Permission: "view"}
	resources := func(from Place, limit int) (ids []string, end End) {
		t.Helper()
		end, err := j.Resources(t.Context(), authz.Unbounded(), c, authz.Freshness{}, from, limit, func(r Reached) error {
			ids = append(ids, r.Resource.ID)
			return r.Err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids, end
	}
	first, end := resources(Place{}, 1)
	agents, endOfAgents := page(t, j, Place{}, 1)
	if !slices.Equal(first, []string{"m"}) || end.Next == nil || len(agents) != 1 || endOfAgents.Next == nil {
		t.Fatalf("the first pages are %v and %v, and go on at %v and %v", first, agents, end.Next, endOfAgents.Next)
	}
	touch(t, graph, document("s")...)
	touch(t, graph, reaching(authz.Object{Type: authz.TypeUser, ID: "zoe"})...)
	if rest, last := resources(*end.Next, 10); !slices.Equal(rest, []string{"plan", "z"}) || last.At != end.At || last.Next != nil {
		t.Errorf("the rest is %v at %v, of a lookup at %v", rest, last.At, end.At)
	}
	if found, _ := resources(Place{}, 10); !slices.Equal(found, []string{"m", "plan", "s", "z"}) {
		t.Errorf("a later lookup finds %v", found)
	}
	rest, _ := page(t, j, *endOfAgents.Next, 10)
	later, _ := page(t, j, Place{}, 10)
	if len(rest) != 1 || len(later) != 3 || !slices.Contains(later, rest[0]) || rest[0] == agents[0] {
		t.Errorf("of the agents %v come first, then %v; a later lookup finds %v", agents, rest, later)
	}
}
