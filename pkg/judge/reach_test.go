package judge

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// readPart reads a part of a reach, and tells each line of it once it has come.
func readPart(t *testing.T, j *Judge, q *ReachQuery, from ReachPlace, tell func(line string, n uint64)) ReachEnd {
	t.Helper()
	party := ""
	end, err := j.Reach(t.Context(), authz.Unbounded(), q, from, ReachTo{
		Party: func(p *Party) error {
			party = fmt.Sprintf("%v for %s, refused by %s", p.Chain, p.Principal, p.RefusedBy)
			return nil
		},
		Object: func(o *ReachedObject) error {
			tell(fmt.Sprintf("%s: %s on %s", party, o.Permission, o.Resource), 1)
			return o.Err
		},
		Count: func(c *ReachCount) error {
			tell(fmt.Sprintf("%s: so many %s#%s", party, c.Type, c.Permission), c.Has)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// TestPartsOfReachAddUp: wherever the budget cuts it, a reach that goes on from place to place tells each object once, and the counts of its parts add
// up to those of one part, whether or not the engine knows other moments than the clock's.
func TestPartsOfReachAddUp(t *testing.T) {
	graph, d := largeCrowd(t)
	var rels []authz.Relationship
	for i := range 30 {
		user := fmt.Sprintf("user:u%04d", i)
		rels = append(rels, rel("tenant:acme", "member", user), rel("tenant:acme", "member", fmt.Sprintf("service:s%04d", i)))
		if i%4 == 0 {
			rels = append(rels, rel(user, "active", user))
		}
	}
	for i := range 60 {
		id := fmt.Sprintf("document:d%04d", i)
		rels = append(rels, rel(id, "tenant", "tenant:acme"), rel(id, "reader", "agent:bot"), rel(id, "reader", "user:alice"))
		if i%3 == 0 {
			rels = append(rels, rel(id, "reader", fmt.Sprintf("user:u%04d", i%8)))
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
	for name, g := range map[string]authz.Graph{"by the clock": graph, "by a moment": graph.Graph} {
		j := New(g, nil, time.Now)
		query := func() *ReachQuery {
			return &ReachQuery{Agent: "bot", Permissions: []string{"view", "reader"}, Moment: time.Now()}
		}
		whole := map[string]uint64{}
		if end := readPart(t, j, query(), ReachPlace{}, func(line string, n uint64) { whole[line] += n }); end.Next != nil {
			t.Fatalf("%s: it goes on at %+v", name, end.Next)
		}
		if len(whole) < 150 {
			t.Fatalf("%s: there are no more than %d lines", name, len(whole))
		}
		for _, work := range []int{1, 2, 7, 33, 100} {
			j.lookupWork = work
			q, parts := query(), 1
			lines := map[string]uint64{}
			for place := (ReachPlace{}); ; parts++ {
				end := readPart(t, j, q, place, func(line string, n uint64) { lines[line] += n })
				if end.Next == nil {
					break
				}
				if place = *end.Next; parts > 3000 {
					t.Fatalf("%s: it does not end: %+v", name, place)
				}
			}
			if !maps.Equal(lines, whole) || parts == 1 {
				t.Errorf("%s, with a budget of %d, in %d parts: %d lines, not %d", name, work, parts, len(lines), len(whole))
			}
		}
	}
}

// TestReachAsOfAMoment: at a revision that is asked for, a member whose row expires is one of a set until that moment, whatever the clock says.
func TestReachAsOfAMoment(t *testing.T) {
	graph, _ := largeCrowd(t)
	now := time.Now()
	member := rel("tenant:acme", "member", "user:dave")
	member.ExpiresAt = now.Add(20 * time.Minute)
	touch(t, graph, member, rel("user:dave", "active", "user:dave"), rel("document:plan", "reader", "user:dave"))
	j := New(graph.Graph, nil, time.Now)
	at, err := graph.Graph.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for moment, want := range map[time.Time]int{now.Add(time.Minute): 2, now.Add(30 * time.Minute): 1} {
		found := map[string]uint64{}
		q := &ReachQuery{Agent: "bot", Fresh: authz.Freshness{Exactly: at.Revision()}, Moment: moment}
		if end := readPart(t, j, q, ReachPlace{}, func(line string, n uint64) { found[line] += n }); end.Next != nil || end.At != at.Revision() {
			t.Errorf("it ends with %+v", end)
		}
		objects := 0
		for line := range found {
			if strings.Contains(line, "on document:plan") {
				objects++
			}
		}
		if objects != want {
			t.Errorf("after %s: %v, for %d principals and not for %d", moment.Sub(now), found, objects, want)
		}
	}
}
