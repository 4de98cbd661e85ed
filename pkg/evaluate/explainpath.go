package evaluate

import (
	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// maxLooked is how many members are looked at to find a shortest path. If that is not enough, the first path that is found is taken, and
// as many members are looked at for that.
const maxLooked = 10_000

// path is what is known of the shortest path to a member.
type path struct {
	// reason is the path; nil if none was found. It takes at most hops relationships one after another, with left dispatches left.
	reason     *authz.Reason
	hops, left int
	// failedHops and failedLeft are the relationships and dispatches within which there is no path.
	failedHops, failedLeft int
}

// shortest returns the path of fewest relationships to a member that is yes, and prefers paths without a condition. Each operand of an
// intersection has a path of its own, and the longest of them counts. A path leads through hidden objects only where there is no other.
func (x *explainer) shortest(m *member, o *object, left int) *authz.Reason {
	r := x.fewest(maxDepth+1, func(hops int) *authz.Reason { return x.path(m, o, left, hops) })
	if r != nil {
		return r
	}
	return x.noPath(about(authz.ReasonCut, m, o, Answer{Outcome: authz.Yes}))
}

// shortestPart does for a part of an expression what shortest does for a member.
func (x *explainer) shortestPart(n *node, m *member, o *object, left int) *authz.Reason {
	r := x.fewest(maxDepth+1, func(hops int) *authz.Reason { return x.pathOf(n, m, o, left, hops, false) })
	if r != nil {
		return r
	}
	return x.noPath(operation(n, authz.Yes))
}

// noPath turns the reason of a member whose path would take too long to find into one that says that it is left out.
func (x *explainer) noPath(r *authz.Reason) *authz.Reason {
	if x.looked <= maxLooked && x.heldEdges <= maxLooked && !x.failed() && x.Walk.err == nil && x.err == nil {
		x.Walk.err = errNoPath
	}
	x.cut = true
	r.Kind = authz.ReasonCut
	return r
}

// fewest calls find with more and more relationships until it returns a path.
func (x *explainer) fewest(most int, find func(hops int) *authz.Reason) *authz.Reason {
	search := func() *authz.Reason {
		for hops := 0; hops <= most && x.looked <= maxLooked; hops++ {
			if r := find(hops); r != nil {
				return r
			}
		}
		return nil
	}
	if x.looked = 0; x.Hidden != nil {
		x.veiled = false
		if r := search(); r != nil {
			return r
		}
		x.veiled = true
		defer func() { x.veiled = false }()
		clear(x.paths)
		defer clear(x.paths)
		x.looked = 0
	}
	r := search()
	if r == nil && x.looked > maxLooked {
		x.looked = 0
		r = find(most)
	}
	return r
}

// path returns a path of at most hops relationships to a member that is yes with so many dispatches left; nil if there is none.
func (x *explainer) path(m *member, o *object, left, hops int) *authz.Reason {
	if x.of.relation != "" && x.of.of == m.of && x.of.relation == m.name && x.of.id == o.id {
		return about(authz.ReasonSelf, m, o, Answer{Outcome: authz.Yes})
	}
	key := memberKey{m, o.id}
	known := x.paths[key]
	switch {
	case known == nil:
		known = &path{failedHops: -1}
		x.paths[key] = known
	case known.reason != nil && known.hops <= hops && known.left <= left:
		return known.reason
	case hops <= known.failedHops && left <= known.failedLeft:
		return nil
	}
	if x.looked++; x.looked > maxLooked || x.failed() {
		return nil
	}
	v, _ := x.Walk.member(m, o, only, left)
	firm := v.yes != 0
	body := m
	if m.alias != nil && x.of.of != m.of {
		body = m.alias // as Walk.member does
	}
	var child *authz.Reason
	switch {
	case body.rewrite != nil:
		child = x.pathOf(body.rewrite, body, o, left, hops, firm)
	default:
		child = x.pathOfRelation(body, o, left, hops, firm)
		if body != m && child != nil {
			below := about(authz.ReasonMember, body, o, Answer{Outcome: authz.Yes})
			below.Children = []*authz.Reason{child}
			child = below
		}
	}
	switch {
	case child != nil:
		r := about(authz.ReasonMember, m, o, Answer{Outcome: authz.Yes})
		r.Children = []*authz.Reason{child}
		known.reason, known.hops, known.left = r, hops, left
		return r
	case x.looked <= maxLooked:
		known.failedHops, known.failedLeft = hops, left
	}
	return nil
}

// pathOf does for a part of an expression what path does for a member. There is no path where the part is not yes. If firm is set the path
// must have no condition. That matters beside an error: only a yes without a condition outweighs it, so a path of conditions alone would
// not explain the yes.
func (x *explainer) pathOf(n *node, m *member, o *object, left, hops int, firm bool) *authz.Reason {
	v, _ := x.node(n, m, o, only, left)
	if firm && v.yes == 0 || x.outcome(v).Outcome != authz.Yes {
		return nil
	}
	firm = v.yes != 0
	switch n.op {
	case schema.Union:
		for _, c := range n.children {
			if r := x.pathOf(c, m, o, left, hops, firm); r != nil {
				return r
			}
		}
		return nil
	case schema.Computed:
		return x.path(n.target, o, left-1, hops)
	case schema.Arrow:
		return x.pathBy(o, edgesKey{n, memberKey{n.tupleset, o.id}, left}, x.arrows(n, o, left), hops, firm)
	default:
	}
	r := operation(n, authz.Yes)
	switch n.op {
	case schema.Self:
		return &authz.Reason{Kind: authz.ReasonSelf, Object: authz.Object{Type: o.of.name, ID: o.id}, Outcome: authz.Yes}
	case schema.Intersection:
		for _, c := range n.children {
			side := x.fewestWithin(hops, func(hops int) *authz.Reason { return x.pathOf(c, m, o, left, hops, firm) })
			if side == nil {
				return nil
			}
			r.Children = append(r.Children, side)
		}
	case schema.Exclusion:
		base := x.pathOf(n.children[0], m, o, left, hops, firm)
		if base == nil {
			return nil
		}
		r.Children = []*authz.Reason{base}
		if x.later == nil {
			x.later = map[*authz.Reason]func() []*authz.Reason{}
		}
		x.later[r] = func() (taken []*authz.Reason) {
			for _, c := range n.children[1:] {
				taken = append(taken, x.notTaken(c, m, o, left))
			}
			return taken
		}
	case schema.ArrowAll:
		if !x.pathOfAll(r, n, o, left, hops, firm) {
			return nil
		}
	default:
	}
	return r
}

// pathOfAll adds a path by each of the objects of an arrow with .all, and reports whether each of them has one.
func (x *explainer) pathOfAll(r *authz.Reason, n *node, o *object, left, hops int, firm bool) bool {
	whole, hidden := true, 0
	x.arrows(n, o, left)(func(e *edge) bool {
		if len(r.Children) == maxBranches {
			if x.Hidden == nil {
				r.Others++
			}
			return r.Others > 0 && r.Others < maxCounted
		}
		way := x.fewestWithin(hops, func(hops int) *authz.Reason { return x.pathVia(o, e, hops, firm) })
		if whole = way != nil; !whole {
			return false
		}
		if way.Kind != authz.ReasonHidden {
			r.Children = append(r.Children, way)
		} else if hidden++; hidden == 1 {
			r.Children = append(r.Children, way)
		}
		return !x.tooMany(hidden)
	})
	return whole
}

// fewestWithin is fewest for a part of a path: it neither begins a new count of members nor treats hidden objects in another way.
func (x *explainer) fewestWithin(most int, find func(hops int) *authz.Reason) *authz.Reason {
	for hops := 0; hops <= most && x.looked <= maxLooked; hops++ {
		if r := find(hops); r != nil {
			return r
		}
	}
	return nil
}

// notTaken says of a part that is right of a minus that it takes nothing away. It also says why, if taking a relationship away could change
// that.
func (x *explainer) notTaken(n *node, m *member, o *object, left int) *authz.Reason {
	a := x.part(n, m, o, left)
	r := brief(n, o, a)
	if !x.program.steady(n, m) {
		whole, _ := x.operand(n, m, o, left, a)
		copied := *whole
		r = &copied
	}
	r.Subtracted = true
	return r
}

// steady reports whether a part of a permission that is no stays a no whatever relationships are taken away. It does if the part leads to no
// exclusion and to no arrow with .all.
func (p *Program) steady(n *node, m *member) bool {
	var targets []*schema.Member
	steady := true
	n.from.Walk(func(part *schema.Expression, _ []int, _ bool) {
		steady = steady && part.Op != schema.Exclusion && part.Op != schema.ArrowAll
		if part.Op == schema.Computed || part.IsArrow() {
			targets = append(targets, p.schema.Targets(m.of.name, part)...)
		}
	})
	for reached := range p.schema.Reach(targets...).Members {
		steady = steady && (!reached.IsPermission() || !reached.Expression.Has(schema.Exclusion) && !reached.Expression.Has(schema.ArrowAll))
	}
	return steady
}

// pathOfRelation does for the rows of a relation what path does for a member.
func (x *explainer) pathOfRelation(m *member, o *object, left, hops int, firm bool) *authz.Reason {
	if hops == 0 {
		return nil
	}
	var found *Row
	named := x.named(m, o)
	for i := range named {
		// A row without a caveat is the better explanation.
		if (found == nil || found.Caveat != "") && (!firm || named[i].Caveat == "") && x.circumstances.judgeRow(&named[i]).outcome == authz.Yes {
			found = &named[i]
		}
	}
	if found != nil {
		return x.relationship(o, found, Answer{Outcome: authz.Yes})
	}
	if !m.usersets {
		return nil
	}
	return x.pathBy(o, edgesKey{nil, memberKey{m, o.id}, left}, x.usersets(m, o, left), hops, firm)
}

// edgesKey names edges: those of an arrow, or of a relation if arrow is nil, with so many dispatches left.
type edgesKey struct {
	arrow *node
	memberKey
	left int
}

// pathBy returns a path by one of several edges.
func (x *explainer) pathBy(o *object, key edgesKey, all edges, hops int, firm bool) *authz.Reason {
	if hops == 0 {
		return nil
	}
	for _, e := range x.holding(key, all) {
		if r := x.pathVia(o, e, hops, firm); r != nil || x.looked > maxLooked {
			return r
		}
	}
	return nil
}

// holding returns those of edges that are yes. A search comes here once for each number of hops, and there may be very many edges that are no: so it
// goes through all of them once, and stops at as many as it has a use for.
func (x *explainer) holding(key edgesKey, all edges) []*edge {
	if found, ok := x.held[key]; ok {
		return found
	}
	var found []*edge
	all(func(e *edge) bool {
		if e.out.Outcome != authz.Yes {
			return !x.failed()
		}
		found = append(found, e)
		x.heldEdges++
		return x.heldEdges <= maxLooked
	})
	if x.held == nil {
		x.held = map[edgesKey][]*edge{}
	}
	x.held[key] = found
	return found
}

// pathVia returns a path by an edge.
func (x *explainer) pathVia(o *object, e *edge, hops int, firm bool) *authz.Reason {
	if hops == 0 || e.out.Outcome != authz.Yes || firm && !e.firm {
		return nil
	}
	if x.hides(e) {
		if x.veiled {
			return hiddenReason(authz.Yes)
		}
		x.looked++ // so that the search ends, however many there are
		return nil
	}
	next := x.path(e.to, e.object, e.left, hops-1)
	if next == nil {
		return nil
	}
	r := x.relationship(o, &e.row, e.out)
	r.Children = []*authz.Reason{next}
	return r
}
