package oracle_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// reachedBy is an object that a party reaches.
type reachedBy struct {
	party  *deputyv1.ReachParty
	object *deputyv1.ReachObject
}

// readGrants reads a reach with its objects and grants, and returns these and the counts, each with its party.
func (w *world) readGrants(request *deputyv1.ReadReachRequest) (objects []reachedBy, counts map[*deputyv1.ReachCount]*deputyv1.ReachParty) {
	w.t.Helper()
	request.WithObjects, request.WithGrants = true, true
	counts = map[*deputyv1.ReachCount]*deputyv1.ReachParty{}
	stream, err := w.deputy.reach.ReadReach(w.ctx, request)
	if err != nil {
		w.t.Fatalf("reach: %v", err)
	}
	var party *deputyv1.ReachParty
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return objects, counts
		}
		if err != nil {
			w.t.Fatalf("reach: %v", err)
		}
		switch m := message.GetResult().(type) {
		case *deputyv1.ReadReachResponse_Party:
			party = m.Party
		case *deputyv1.ReadReachResponse_Object:
			objects = append(objects, reachedBy{party, m.Object})
		case *deputyv1.ReadReachResponse_Count:
			counts[m.Count] = party
		case *deputyv1.ReadReachResponse_End:
			if !m.End.GetComplete() {
				w.t.Fatalf("the reach of a small world is cut")
			}
		}
	}
}

func objectOf(o *deputyv1.ObjectReference) oracle.Object {
	return oracle.Object{Type: o.GetObjectType(), ID: o.GetObjectId()}
}

func subjectOf(s *deputyv1.SubjectReference) oracle.Subject {
	return oracle.Subject{Object: objectOf(s.GetObject()), Relation: s.GetOptionalRelation()}
}

// memberships are the states that lack one set that somebody is named in, by the set.
func memberships(state *oracle.State, who oracle.Object) map[oracle.Subject]*oracle.State {
	without := map[oracle.Subject]*oracle.State{}
	for edge := range state.Edges {
		if edge.Subject == (oracle.Subject{Object: who}) && edge.Resource.Type == "group" && edge.Relation == "member" {
			one := state.Clone()
			delete(one.Edges, edge)
			without[oracle.Subject{Object: edge.Resource, Relation: "member"}] = one
		}
	}
	for standing := range state.Standing {
		if standing.Who == who && standing.Relation == "member" {
			one := state.Clone()
			delete(one.Standing, standing)
			without[oracle.Subject{Object: oracle.Object{Type: "tenant", ID: standing.Tenant}, Relation: "member"}] = one
		}
	}
	return without
}

// names reports whether a relationship that was told is there, and names its holder, a set that it is in, or all of its type.
func (r *random) names(g *deputyv1.ReachGrant, now time.Time) string {
	holder, to := objectOf(g.GetHolder()), subjectOf(g.GetRelationship().GetSubject())
	edge := oracle.Edge{Resource: objectOf(g.GetRelationship().GetResource()), Relation: g.GetRelationship().GetRelation(), Subject: to}
	_, granted := r.state.Edges[edge]
	switch {
	case !granted:
		return "there is no such relationship"
	case to.Relation != "" && !r.state.Check(to.Object, to.Relation, holder, oracle.Context{}, now).Yes:
		return "the holder is not in the set"
	case to.Relation == "" && to.Object != holder && (to.Type != holder.Type || to.ID != "*"):
		return "it is somebody else's"
	}
	return ""
}

// TestReachTellsWhatGrants draws worlds and reads through which grants objects are reached: each is there and gives its holder the permission; a set is
// told where the oracle says no without it, and nowhere else; and the counts are those of the objects.
func TestReachTellsWhatGrants(t *testing.T) {
	d := openDeputy(t, domain)
	met := map[string]int{}
	try(t, 12, func(rt *rapid.T) {
		r := newRandom(t.Context(), rt, d, size{tenants: 1, users: 3, services: 1, agents: 3, groups: 3, folders: 3, documents: 6})
		for range 3 + r.below(5) {
			r.drawDelegation()
			if r.chance(40) {
				r.drawSession()
			}
		}
		for range 5 {
			given := r.drawContext()
			request := r.drawReach(given)
			now := time.Now()
			objects, counts := r.readGrants(request)
			told := map[string]uint64{}
			only := map[string]uint64{}
			for _, one := range objects {
				place := fmt.Sprint(one.party.GetDelegationChain(), one.party.GetPrincipal(), one.object.GetResource().GetObjectType(), one.object.GetPermission())
				holders := map[string]bool{}
				for _, g := range one.object.GetGrants() {
					holder, resource := objectOf(g.GetHolder()), objectOf(one.object.GetResource())
					if holders[holder.String()] {
						rt.Fatalf("two grants of %s: %v", holder, one.object)
					}
					holders[holder.String()] = true
					if wrong := r.names(g, now); wrong != "" {
						rt.Fatalf("%s: %v\n%s", wrong, g, r.state.Explain())
					}
					to := subjectOf(g.GetRelationship().GetSubject())
					told[fmt.Sprint(place, holder, g.GetRelationship().GetResource().GetObjectType(), g.GetRelationship().GetRelation(), to)]++
					met["grants"]++
					if to.ID == "*" {
						met["wildcards"]++
					}
					is := r.state.Check(resource, one.object.GetPermission(), holder, given, now)
					if !is.Yes && is.Missing == 0 {
						rt.Fatalf("%s has no %s on %s", holder, one.object.GetPermission(), resource)
					}
					if !is.Yes {
						continue
					}
					some := false
					for set, state := range memberships(r.state, holder) {
						if after := state.Check(resource, one.object.GetPermission(), holder, given, now); !after.Yes && after.Missing == 0 {
							only[fmt.Sprint(place, holder, set)]++
							some = some || g.GetOnlyThrough() != nil && subjectOf(g.GetOnlyThrough()) == set
							met["single sets"]++
						} else if g.GetOnlyThrough() != nil && subjectOf(g.GetOnlyThrough()) == set {
							rt.Fatalf("without %s it is still reached: %v\n%s", set, g, r.state.Explain())
						} else if to.Relation != "" {
							met["sets besides others"]++
						}
					}
					if some != (g.GetOnlyThrough() != nil) {
						rt.Fatalf("a single set is told, and there is none, or the other way round: %v\n%s", g, r.state.Explain())
					}
				}
			}
			gotTold, gotOnly := map[string]uint64{}, map[string]uint64{}
			for count, party := range counts {
				place := fmt.Sprint(party.GetDelegationChain(), party.GetPrincipal(), count.GetResourceObjectType(), count.GetPermission())
				sums := map[string]uint64{}
				for _, g := range count.GetGrants() {
					gotTold[fmt.Sprint(place, objectOf(g.GetHolder()), g.GetResourceObjectType(), g.GetRelation(), subjectOf(g.GetSubject()))] += g.GetObjects()
					sums[objectOf(g.GetHolder()).String()] += g.GetObjects()
					if g.GetWithoutEnd() != g.GetObjects() {
						rt.Fatalf("no relationship of the domain expires: %v", g)
					}
				}
				for _, set := range count.GetOnlyThrough() {
					gotOnly[fmt.Sprint(place, objectOf(set.GetHolder()), subjectOf(set.GetSet()))] += set.GetObjects()
				}
				reached, held := count.GetHas()+count.GetConditional(), uint64(0)
				for _, n := range sums {
					held += n
				}
				if sum := held + count.GetOthers(); reached == 0 && sum > 0 || reached > 0 && (sum%reached != 0 || sum < reached) {
					rt.Fatalf("the grants of %d objects add up to %d: %v", reached, sum, count)
				}
				if flagged := strings.Contains(fmt.Sprint(count.GetFlags()), "SINGLE_SET"); flagged != (len(count.GetOnlyThrough()) > 0) || count.GetOnlyThroughCut() {
					rt.Fatalf("flags of %v", count)
				}
			}
			if !maps.Equal(gotTold, told) || !maps.Equal(gotOnly, only) {
				rt.Fatalf("counted %v\nand told %v\nsingle sets counted %v\nand true %v", gotTold, told, gotOnly, only)
			}
		}
	})
	t.Log(met)
	for _, kind := range []string{"grants", "single sets", "wildcards", "sets besides others"} {
		if met[kind] == 0 && chosenChecks == "" {
			t.Errorf("the worlds no longer try %q", kind)
		}
	}
}
