package judge

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
)

// fading is a graph whose pages lack the relationships of one subject once it has gone, as those of an engine that leaves out what has expired.
type fading struct {
	authz.Graph
	gone string
}

type fadingSnapshot struct {
	authz.Snapshot
	of *fading
}

func (f *fading) Snapshot(ctx context.Context, at authz.Freshness) (authz.Snapshot, error) {
	s, err := f.Graph.Snapshot(ctx, at)
	return fadingSnapshot{s, f}, err
}

func (s fadingSnapshot) Page(ctx context.Context, f authz.Filter, limit int, cursor string) ([]authz.Relationship, string, error) {
	rels, next, err := s.Snapshot.Page(ctx, f, limit, cursor)
	return slices.DeleteFunc(rels, func(r authz.Relationship) bool { return r.Subject.ID == s.of.gone }), next, err
}

// TestMemberThatExpiresAtAPlace: wherever a reach of a set's members is cut, and although the member at that place has expired when it goes on, no other
// member is told twice or missed.
func TestMemberThatExpiresAtAPlace(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	graph, _ := largeCrowd(t)
	for i := range 6 {
		touch(t, graph, reaching(authz.Object{Type: authz.TypeUser, ID: fmt.Sprintf("u%d", i)})...)
	}
	engine := &fading{Graph: graph.Graph.(*kept.Graph).Graph}
	j := New(engine, nil, time.Now)
	q := &ReachQuery{Agent: "bot", Types: []string{"document"}, Permissions: []string{"view"}, Moment: time.Now()}
	read := func(from ReachPlace, told map[string]int) *ReachPlace {
		principal := ""
		end, err := j.Reach(t.Context(), authz.Unbounded(), q, from, ReachTo{
			Party: func(p *Party) error { principal = p.Principal.ID; return nil },
			Count: func(c *ReachCount) error { told[principal] += int(c.Has); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return end.Next
	}
	whole := map[string]int{}
	read(ReachPlace{}, whole)
	if len(whole) != 7 || whole["u3"] != 1 {
		t.Fatalf("the reach is %v", whole)
	}
	cuts := 0
	for work := 1; ; work++ {
		j.lookupWork, engine.gone = work, ""
		told := map[string]int{}
		next := read(ReachPlace{}, told)
		if next == nil {
			break
		}
		if next.Begun || next.Members.Last != "" {
			cuts++
		}
		engine.gone = next.Members.Last
		if next.Begun {
			engine.gone = next.Principal.ID
		}
		j.lookupWork = lookupWork
		if next := read(*next, told); next != nil {
			t.Fatalf("it goes on at %+v", next)
		}
		for id, n := range whole {
			if told[id] != n {
				t.Errorf("cut after %d, where %q expires, %s is counted %d times", work, engine.gone, id, told[id])
			}
		}
	}
	if cuts < 6 {
		t.Errorf("it was cut at %d members", cuts)
	}
}

// TestBehindMember finds where a page goes on behind a member that is on it, and behind one that is not.
func TestBehindMember(t *testing.T) {
	for _, test := range []struct {
		page, id string
		at       int
	}{
		{"a c e", "c", 2}, {"a c e", "d", 2}, {"a c e", "f", 3}, {"a c e", "", 0}, {"", "a", 0}, {"c a e", "a", 2}, {"c a e", "d", 0},
	} {
		var page []authz.Relationship
		for id := range strings.FieldsSeq(test.page) {
			page = append(page, rel("tenant:acme", "member", "user:"+id))
		}
		if at := behindMember(page, test.id); at != test.at {
			t.Errorf("behind %q the page %q goes on at %d, not %d", test.id, test.page, at, test.at)
		}
	}
}
