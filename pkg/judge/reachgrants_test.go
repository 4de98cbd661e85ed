package judge

import (
	"fmt"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestTallyIsBounded: however many kinds of grants and sets there are, a count has a bounded number of them, says that there are more, and counts the
// objects of the others.
func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	holder := rel("user:alice", "", "").Resource
	through := func(group int) *authz.Through {
		grant := rel("document:d", "reader", fmt.Sprint("group:g", group))
		grant.Subject.Relation = "member"
		return &authz.Through{Grant: &grant, Only: []authz.Subject{grant.Subject}}
	}
	for _, test := range []struct {
		groups, kinds, sets int
		others              uint64
		cut                 bool
	}{
		{100, 100, 100, 0, false},
		{101, 101, 100, 0, true},
		{1000, 1000, 100, 0, true},
		{1003, 1000, 100, 3, true},
	} {
		var counted tally
		for group := range test.groups {
			counted.add(holder, false, through(group))
		}
		counted.add(holder, false, through(0)) // which leads to two objects, and so comes first
		var c ReachCount
		counted.into(&c)
		if len(c.Grants) != test.kinds || len(c.Only) != test.sets || c.Others != test.others || c.OnlyCut != test.cut {
			t.Errorf("of %d sets the count has %d kinds, %d sets and %d others, cut: %v; want %+v", test.groups, len(c.Grants), len(c.Only), c.Others, c.OnlyCut, test)
		}
		if len(counted.sets) > maxReachSets || c.Grants[0].Objects != 2 || c.Only[0].Objects != 2 || c.Only[0].Set.ID != "g0" {
			t.Errorf("of %d sets %d are counted, and the first is %+v, %+v", test.groups, len(counted.sets), c.Grants[0], c.Only[0])
		}
	}
	var counted tally
	counted.add(holder, false, &authz.Through{Cut: true})
	var c ReachCount
	if counted.into(&c); !c.OnlyCut || c.Others != 1 {
		t.Errorf("where not all memberships were tried, and no grant is known: %+v", c)
	}
}
