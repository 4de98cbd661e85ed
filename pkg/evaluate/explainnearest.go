package evaluate

import (
	"cmp"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Bounds of the search for grants that would make a no a yes.
const (
	// maxOpenings is how many sets of grants are kept for each part, and maxTries how many sets are tried in the end.
	maxOpenings, maxTries = 8, 4
	// maxNearest is how many sets are shown, and maxGrants how many grants a set has at most.
	maxNearest, maxGrants = 2, 3
)

// opening is a set of grants that may make a part yes. hops adds up how many relationships lead from the part to each of them.
type opening struct {
	grants []authz.Grant
	hops   int
}

// nearer compares openings: first the one with fewer grants, then the one with fewer hops. One without grants opens nothing and comes last.
func nearer(a, b opening) int {
	if len(a.grants) == 0 || len(b.grants) == 0 {
		return cmp.Compare(len(b.grants), len(a.grants))
	}
	return cmp.Or(cmp.Compare(len(a.grants), len(b.grants)), cmp.Compare(a.hops, b.hops))
}

// first returns the nearest of openings that are in order.
func first(all []opening) opening {
	if len(all) == 0 {
		return opening{}
	}
	return all[0]
}

// best puts openings in order, and keeps maxOpenings of them.
func best(all []opening) []opening {
	slices.SortStableFunc(all, nearer)
	return all[:min(len(all), maxOpenings)]
}

// further returns openings with one more relationship on the way to them.
func further(all []opening) []opening {
	out := slices.Clone(all)
	for i := range out {
		out[i].hops++
	}
	return out
}

// together returns the openings of two parts that are both needed.
func together(a, b []opening) (out []opening) {
	for _, one := range a {
		for _, other := range b {
			grants := slices.Clone(one.grants)
			for _, g := range other.grants {
				if !slices.Contains(grants, g) {
					grants = append(grants, g)
				}
			}
			if len(grants) <= maxGrants {
				out = append(out, opening{grants, one.hops + other.hops})
			}
		}
	}
	return best(out)
}

// nearest returns the openings that do make the check yes. It tries each over the rows with its grants added.
func (x *explainer) nearest(openings []opening) (found [][]authz.Grant) {
	openings = best(openings)
	for _, o := range openings[:min(len(openings), maxTries)] {
		if len(found) == maxNearest || x.failed() {
			break
		}
		if len(o.grants) == 0 {
			continue
		}
		w := x.program.Walk(&granted{x.rows, o.grants})
		w.lent = x.turns
		answers, err := w.checkAll(x.ctx, []Check{x.check})
		w.Close()
		if err != nil {
			// The rows or ctx failed, which says nothing of the grants.
			x.Walk.err = err
			break
		}
		if answers[0].Outcome == authz.Yes {
			found = append(found, o.grants)
		}
	}
	return found
}

// granted adds grants to rows. A grant takes the place of a row with the same relation and subject.
type granted struct {
	Rows
	grants []authz.Grant
}

// rowOf returns a grant as a row. Its caveat has no context of its own, and the row does not expire.
func rowOf(g *authz.Grant) Row {
	return Row{
		Relation: g.Relation, SubjectType: g.Subject.Type, SubjectRelation: g.Subject.Relation, SubjectID: g.Subject.ID, Caveat: g.Caveat,
	}
}

// same reports whether two rows of an object are the same relationship.
func same(a, b *Row) bool {
	return a.Relation == b.Relation && a.SubjectType == b.SubjectType && a.SubjectRelation == b.SubjectRelation && a.SubjectID == b.SubjectID
}

// of returns the grants of an object, of one relation or, if that is empty, of all.
func (a *granted) of(objectType, id, relation string, usersets bool) (rows []Row) {
	for i := range a.grants {
		g := &a.grants[i]
		if g.Resource.Type == objectType && g.Resource.ID == id && (relation == "" || g.Relation == relation) &&
			(!usersets || g.Subject.Relation != "") {
			rows = append(rows, rowOf(g))
		}
	}
	return rows
}

// with adds rows of an object to others of it, in the order of their relations.
func with(rows, added []Row) []Row {
	out := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		return slices.ContainsFunc(added, func(a Row) bool { return same(&a, &r) })
	})
	out = append(out, added...)
	slices.SortStableFunc(out, func(a, b Row) int { return cmp.Compare(a.Relation, b.Relation) })
	return out
}

// join adds grants to rows that were read up to a limit.
func join(rows []Row, more bool, err error, added []Row, limit int) ([]Row, bool, error) {
	if err != nil || more || len(added) == 0 {
		return rows, more, err
	}
	if rows = with(rows, added); limit > 0 && len(rows) > limit {
		return nil, true, nil
	}
	return rows, false, nil
}

// Object implements Rows.
func (a *granted) Object(objectType, id string, limit int) ([]Row, bool, error) {
	rows, more, err := a.Rows.Object(objectType, id, limit)
	return join(rows, more, err, a.of(objectType, id, "", false), limit)
}

// Subject implements Rows. It reads by the names of the row, because the row may be a grant, which the other rows do not know.
func (a *granted) Subject(r *Row, limit int) ([]Row, bool, error) {
	return a.Object(r.SubjectType, r.SubjectID, limit)
}

// Relation implements Rows.
func (a *granted) Relation(objectType, id, relation string, limit int) ([]Row, bool, error) {
	rows, more, err := a.Rows.Relation(objectType, id, relation, limit)
	return join(rows, more, err, a.of(objectType, id, relation, false), limit)
}

// Usersets implements Rows.
func (a *granted) Usersets(objectType, id, relation string, limit int) ([]Row, bool, error) {
	rows, more, err := a.Rows.Usersets(objectType, id, relation, limit)
	return join(rows, more, err, a.of(objectType, id, relation, true), limit)
}

// Page implements Rows, except that the grants may make the last page longer than the limit.
func (a *granted) Page(objectType, id, relation string, usersets bool, after *Row, limit int) ([]Row, bool, error) {
	rows, more, err := a.Rows.Page(objectType, id, relation, usersets, after, limit)
	if more || err != nil {
		return rows, more, err
	}
	return join(rows, false, nil, a.of(objectType, id, relation, usersets), 0)
}

// Find implements Rows.
func (a *granted) Find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (Row, bool, error) {
	for _, row := range a.of(objectType, id, relation, false) {
		if row.SubjectType == subjectType && row.SubjectRelation == subjectRelation && row.SubjectID == subjectID {
			return row, true, nil
		}
	}
	return a.Rows.Find(objectType, id, relation, subjectType, subjectRelation, subjectID)
}
