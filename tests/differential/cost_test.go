package differential

import (
	"slices"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
)

// What SpiceDB is not asked, because it would not answer in useful time: near cycles its calls multiply with
// every step, and so do the conditions that it builds.
const (
	maxCalls  = 1500
	maxWeight = 2000
)

// bill counts the calls that SpiceDB's dispatcher may make for a question, up to a limit. One for many
// resources counts for more.
type bill struct {
	*Reference
	subject tuple.ObjectAndRelation
	calls   int
}

// affordable tells whether SpiceDB can be asked.
func (r *Reference) affordable(q question, want Verdict) bool {
	if want.Weight > maxWeight {
		return false
	}
	b := bill{Reference: r, subject: q.subject}
	b.dispatch(q.resource.RelationReference(), []string{q.resource.ObjectID}, maxDispatches)
	return b.calls <= maxCalls
}

// dispatch is one call, for many resources at once.
func (b *bill) dispatch(to tuple.RelationReference, ids []string, steps int) {
	b.calls += 1 + len(ids)/4
	if b.calls > maxCalls || steps == 0 || len(ids) == 0 || !b.knows(to) {
		return
	}
	if to.ObjectType != b.subject.ObjectType {
		to.Relation = b.resolve(to.ObjectType, to.Relation)
	}
	relation := b.types[to.ObjectType][to.Relation]
	if relation.GetUsersetRewrite() != nil {
		b.rewrite(to, ids, relation.GetUsersetRewrite(), steps)
		return
	}
	b.follow(to, ids, func(s tuple.ObjectAndRelation) bool { return s.Relation != tuple.Ellipsis },
		func(to tuple.RelationReference, ids []string) { b.dispatch(to, ids, steps-1) })
}

// follow calls fn with the subjects of some rows, by type and relation.
func (b *bill) follow(
	from tuple.RelationReference, ids []string, include func(tuple.ObjectAndRelation) bool, fn func(tuple.RelationReference, []string),
) {
	next := map[tuple.RelationReference][]string{}
	for _, id := range ids {
		for _, rel := range b.rows[tuple.ONR(from.ObjectType, id, from.Relation)] {
			if key := rel.Subject.RelationReference(); include(rel.Subject) && !slices.Contains(next[key], rel.Subject.ObjectID) {
				next[key] = append(next[key], rel.Subject.ObjectID)
			}
		}
	}
	for to, ids := range next {
		fn(to, ids)
	}
}

func (b *bill) rewrite(at tuple.RelationReference, ids []string, rewrite *core.UsersetRewrite, steps int) {
	children := rewrite.GetUnion().GetChild()
	children = append(children, rewrite.GetIntersection().GetChild()...)
	children = append(children, rewrite.GetExclusion().GetChild()...)
	for _, child := range children {
		over, to := child.GetTupleToUserset().GetTupleset().GetRelation(), child.GetTupleToUserset().GetComputedUserset().GetRelation()
		if f := child.GetFunctionedTupleToUserset(); f != nil {
			over, to = f.GetTupleset().GetRelation(), f.GetComputedUserset().GetRelation()
		}
		switch {
		case child.GetComputedUserset() != nil:
			b.dispatch(tuple.RR(at.ObjectType, child.GetComputedUserset().GetRelation()), ids, steps-1)
		case child.GetUsersetRewrite() != nil:
			b.rewrite(at, ids, child.GetUsersetRewrite(), steps)
		case over != "":
			b.follow(tuple.RR(at.ObjectType, over), ids, func(tuple.ObjectAndRelation) bool { return true },
				func(subjects tuple.RelationReference, ids []string) {
					b.dispatch(tuple.RR(subjects.ObjectType, to), ids, steps-1)
				})
		}
	}
}
