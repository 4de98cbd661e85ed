package judge

import (
	"cmp"
	"context"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

const (
	// reachBatch is how many objects are looked at together for their grants.
	reachBatch = 200
	// maxReachSets is how many sets a count counts, of which MaxReachSets are told.
	maxReachSets = 1000
)

// MaxReachGrants is how many kinds of grants a count tells.
const MaxReachGrants = 1000

// MaxReachSets is how many sets a count tells.
const MaxReachSets = 100

// ReachGrant says by which relationship one of the subjects that a decision depends on has the permission on an object.
type ReachGrant struct {
	// Holder is the principal, an agent of the chain, or a delegation whose scope it is.
	Holder       authz.Object
	Relationship authz.Relationship
	// OnlyThrough is a set that names the holder and without which the object would not be reached; zero where there is none.
	OnlyThrough authz.Subject
}

// ReachGrants counts grants of one kind to one holder.
type ReachGrants struct {
	Holder authz.Object
	// Type and Relation are those of the relationships, and Subject is their subject: all of a type where its id is "*".
	Type, Relation string
	Subject        authz.Subject
	// Objects is how many objects are reached through them, and WithoutEnd of how many the relationship does not expire.
	Objects, WithoutEnd uint64
}

// ReachSet is a set without which objects would not be reached.
type ReachSet struct {
	Holder  authz.Object
	Set     authz.Subject
	Objects uint64
}

// granting is a Snapshot that can say by which relationships a subject has a permission. It is safe for concurrent use.
type granting interface {
	// Through answers queries of one subject with one context: as many answers as queries, in order. An object that hidden reports does not exist for
	// the caller; nil hides nothing.
	Through(ctx context.Context, queries []authz.Query, hidden func(authz.Object) (bool, error)) ([]authz.Through, error)
}

// grantKind is a kind of grants.
type grantKind struct {
	holder             authz.Object
	objectType, member string
	subject            authz.Subject
}

// throughSet is a set of a holder.
type throughSet struct {
	holder authz.Object
	set    authz.Subject
}

// tally counts the grants behind a ReachCount. It holds a bounded number of kinds and sets, however many there are.
type tally struct {
	kinds  map[grantKind]*ReachGrants
	sets   map[throughSet]uint64
	others uint64
	cut    bool
	// standing says that a grant to an agent has no end, or a grant to a delegation that has none itself. wildcard says that a grant is to all of a
	// type.
	standing, wildcard bool
}

// add counts the grant of one object to a holder. ends says that the holder itself ends, whether or not its grants do.
func (t *tally) add(holder authz.Object, ends bool, found *authz.Through) {
	t.cut = t.cut || found.Cut
	for _, set := range found.Only {
		key := throughSet{holder, set}
		if _, known := t.sets[key]; !known && len(t.sets) == maxReachSets {
			t.cut = true
			continue
		}
		if t.sets == nil {
			t.sets = map[throughSet]uint64{}
		}
		t.sets[key]++
	}
	rel := found.Grant
	if rel == nil {
		t.others++
		return
	}
	t.wildcard = t.wildcard || rel.Subject.ID == "*"
	t.standing = t.standing || authz.ActsForPrincipal(holder.Type) && rel.ExpiresAt.IsZero() && !ends
	key := grantKind{holder, rel.Resource.Type, rel.Relation, rel.Subject}
	of := t.kinds[key]
	if of == nil {
		if len(t.kinds) == MaxReachGrants {
			t.others++
			return
		}
		if t.kinds == nil {
			t.kinds = map[grantKind]*ReachGrants{}
		}
		of = &ReachGrants{Holder: holder, Type: rel.Resource.Type, Relation: rel.Relation, Subject: rel.Subject}
		t.kinds[key] = of
	}
	of.Objects++
	if rel.ExpiresAt.IsZero() {
		of.WithoutEnd++
	}
}

// into puts the grants and sets into a count.
func (t *tally) into(c *ReachCount) {
	for _, of := range t.kinds {
		c.Grants = append(c.Grants, *of)
	}
	slices.SortFunc(c.Grants, func(a, b ReachGrants) int {
		return cmp.Or(cmp.Compare(b.Objects, a.Objects), cmp.Compare(a.Holder.String(), b.Holder.String()),
			cmp.Compare(a.Type, b.Type), cmp.Compare(a.Relation, b.Relation), cmp.Compare(a.Subject.String(), b.Subject.String()))
	})
	for key, n := range t.sets {
		c.Only = append(c.Only, ReachSet{key.holder, key.set, n})
	}
	slices.SortFunc(c.Only, func(a, b ReachSet) int {
		return cmp.Or(cmp.Compare(b.Objects, a.Objects), cmp.Compare(a.Holder.String(), b.Holder.String()), cmp.Compare(a.Set.String(), b.Set.String()))
	})
	c.OnlyCut = t.cut || len(c.Only) > MaxReachSets
	c.Only = c.Only[:min(len(c.Only), MaxReachSets)]
	c.Others, c.Standing, c.Wildcard, c.SingleSet = t.others, t.standing, t.wildcard, len(c.Only) > 0
}

// grantHolder is a subject that a decision depends on.
type grantHolder struct {
	authz.Object
	// ends says that it ends by itself.
	ends bool
}

// grantHolders returns the principal, and of the chain the agents and the delegations with a scope that exist for the caller.
func (r *reach) grantHolders(f *decide.Facts) []grantHolder {
	all := []grantHolder{{Object: f.Principal.Object}}
	for _, d := range f.Chain {
		one := grantHolder{Object: d.Agent.Object()}
		if r.within.HasAgent(d.Agent) && !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	for _, d := range f.Chain {
		if !d.Unscoped && d.Within(r.within) {
			all = append(all, grantHolder{d.ID.Object(), !d.Until.IsZero()})
		}
	}
	return all
}

// grants finds the grants through which objects are reached, and counts them.
func (r *reach) grants(ctx context.Context, t *candidate, objects []*ReachedObject, into *tally) error {
	var hidden func(authz.Object) (bool, error)
	if !r.within.Everything() {
		hidden = func(o authz.Object) (bool, error) {
			there, err := r.hasObject(ctx, o)
			return !there, err
		}
	}
	objects = slices.DeleteFunc(slices.Clone(objects), func(o *ReachedObject) bool { return o.Err != nil })
	queries := make([]authz.Query, len(objects))
	for _, holder := range r.grantHolders(&t.facts) {
		for i, o := range objects {
			queries[i] = authz.Query{
				Resource: o.Resource, Permission: t.c.Permission, Subject: authz.Subject{Object: holder.Object}, Context: t.c.Context,
			}
		}
		found, err := r.granting.Through(ctx, queries, hidden)
		if err != nil {
			return err
		}
		r.work += len(objects)
		for i, o := range objects {
			into.add(holder.Object, holder.ends, &found[i])
			if r.to.Object == nil || found[i].Grant == nil {
				continue
			}
			grant := ReachGrant{Holder: holder.Object, Relationship: *found[i].Grant}
			if len(found[i].Only) > 0 {
				grant.OnlyThrough = found[i].Only[0]
			}
			o.Grants = append(o.Grants, grant)
		}
	}
	return nil
}

// errNoGrants is the error of a reach whose engine cannot tell grants.
var errNoGrants = authz.Errorf(authz.Precondition, authz.ReasonNoStore,
	"grants are told only where Deputy has the graph itself, on the engine embedded and with --follow: leave with_grants out")
