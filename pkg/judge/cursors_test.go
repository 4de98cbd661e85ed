package judge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
)

// documents writes so many documents, by name in order, all of which bot reaches for alice.
func documents(t *testing.T, g authz.Graph, n int) {
	t.Helper()
	var rels []authz.Relationship
	for i := range n {
		id := fmt.Sprintf("document:d%04d", i)
		rels = append(rels, rel(id, "tenant", "tenant:acme"), rel(id, "reader", "agent:bot"), rel(id, "reader", "user:alice"))
	}
	touch(t, g, rels...)
}

// documentsOf looks up the documents that bot reaches for alice.
func documentsOf(t *testing.T, j *Judge, from Place, limit int) (ids []string, next *Place, err error) {
	t.Helper()
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	c := authz.Case{Agent: "bot", Principal: alice, Tenant: "acme", Resource: authz.Object{Type: "document"}, Permission: "view"}
	end, err := j.Resources(t.Context(), authz.Unbounded(), c, authz.Freshness{}, from, limit, func(r Reached) error {
		ids = append(ids, r.Resource.ID)
		return r.Err
	})
	return ids, end.Next, err
}

// TestCursorOfTheOtherEvaluator: a lookup that goes on at a place of the other evaluator, as after a restart with another --evaluator, says so. It does
// not begin again, which would name objects a second time.
func TestCursorOfTheOtherEvaluator(t *testing.T) {
	graph, _ := largeCrowd(t)
	documents(t, graph, 4)
	own, ok := graph.Graph.(*kept.Graph)
	if !ok {
		t.Fatalf("the graph is a %T", graph.Graph)
	}
	judges := map[string]*Judge{"Deputy's": New(own, nil, time.Now), "SpiceDB's": New(own.Graph, nil, time.Now)}
	for name, j := range judges {
		first, next, err := documentsOf(t, j, Place{}, 2)
		if err != nil || len(first) != 2 || next == nil {
			t.Fatalf("%s first page is %v and goes on at %v: %v", name, first, next, err)
		}
		for other, k := range judges {
			rest, _, err := documentsOf(t, k, *next, 10)
			if k == j {
				if err != nil || len(rest) != 3 || slices.Contains(rest, first[0]) || slices.Contains(rest, first[1]) {
					t.Errorf("%s pages are %v and %v: %v", name, first, rest, err)
				}
				continue
			}
			wrong, ok := errors.AsType[*authz.Error](err)
			if !ok || wrong.Kind != authz.Invalid || wrong.Field != "cursor" || len(rest) != 0 {
				t.Errorf("behind %s first page %s evaluator names %v: %v", name, other, rest, err)
			}
		}
	}
}

// deepAfter is a graph whose lookups of resources fail behind their first page, as SpiceDB's do where an object of a later page leads back to itself.
type deepAfter struct{ authz.Graph }

type deepAfterSnapshot struct{ authz.Snapshot }

func (d deepAfter) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	s, err := d.Graph.Snapshot(ctx, f)
	return deepAfterSnapshot{s}, err
}

func (s deepAfterSnapshot) Resources(ctx context.Context, r authz.Reachable, limit int, cursor string) ([]authz.Resource, string, error) {
	if cursor != "" {
		return nil, "", &authz.Error{Kind: authz.Precondition, Reason: authz.ReasonTooDeep, Message: "they lead back to where they began"}
	}
	return s.Snapshot.Resources(ctx, r, limit, cursor)
}

// TestLookupThatFailsOnTheWay: where an engine's lookup fails behind its first page, because of one object, all objects are gone through instead. In the
// same call each of them is told once. A count that goes on in a later call ends with the error, because it would count some twice.
func TestLookupThatFailsOnTheWay(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, _ := largeCrowd(t)
	const n = lookupPage + 60 // and the one that is there
	documents(t, graph, n-1)
	j := New(deepAfter{graph.Graph.(*kept.Graph).Graph}, nil, time.Now)
	j.lookupTime = time.Hour // on any machine one call goes through all of them
	found, next, err := documentsOf(t, j, Place{}, 2*n)
	slices.Sort(found)
	if err != nil || next != nil || len(found) != n || len(slices.Compact(found)) != n {
		t.Errorf("a lookup names %d of %d documents, and goes on at %v: %v", len(found), n, next, err)
	}
	_, next, err = documentsOf(t, j, Place{}, 10)
	if err != nil || next == nil {
		t.Fatalf("the first page goes on at %v: %v", next, err)
	}
	if found, _, err = documentsOf(t, j, *next, 2*n); err != nil || len(found) < n-10 {
		t.Errorf("behind its first 10, a lookup names %d of %d documents: %v", len(found), n, err)
	}

	q := &ReachQuery{Agent: "bot", Types: []string{"document"}, Permissions: []string{"view"}, Moment: time.Now()}
	count := func(from ReachPlace) (n uint64, next *ReachPlace, err error) {
		end, err := j.Reach(t.Context(), authz.Unbounded(), q, from, ReachTo{
			Party: func(*Party) error { return nil }, Count: func(c *ReachCount) error { n += c.Has; return nil },
		})
		return n, end.Next, err
	}
	if has, next, err := count(ReachPlace{}); err != nil || next != nil || has != n {
		t.Errorf("a reach counts %d of %d documents, and goes on at %v: %v", has, n, next, err)
	}
	j.lookupWork = 20
	has, at, err := count(ReachPlace{})
	if err != nil || at == nil || has == 0 || has >= n {
		t.Fatalf("the first part of a reach counts %d, and goes on at %v: %v", has, at, err)
	}
	if _, _, err := count(*at); authz.KindOf(err) != authz.Precondition {
		t.Errorf("the second part of a reach ends with %v", err)
	}
}
