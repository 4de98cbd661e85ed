package evaluate

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// maxSets is how many sets of a subject are tried for one check.
const maxSets = 16

// errSubjects is the error of checks that are not of one subject, which would be a mistake of the caller.
var errSubjects = errors.New("evaluate: checks of several subjects are asked for together")

// Through answers checks of one subject with one context, and says by which relationships the subject has each permission: as many answers as checks,
// in order. The paths are those of Explain. A part that several paths have in common is looked for once.
func (w *Walk) Through(ctx context.Context, checks []Check, hidden func(authz.Object) (bool, error)) ([]authz.Through, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	out := make([]authz.Through, len(checks))
	t := &through{out: out, hidden: hidden}
	if err := t.paths(ctx, w, checks); err != nil {
		return nil, err
	}
	return out, t.only(ctx, w, checks)
}

// through finds by which relationships a subject has permissions.
type through struct {
	out    []authz.Through
	hidden func(authz.Object) (bool, error)
	// tried has, for each relationship that names the subject in a set, the checks that are answered again without it. order has the relationships in
	// the order in which they were met.
	tried map[row][]int
	order []row
}

// row is a relationship that names the subject.
type row struct{ objectType, id, relation string }

// paths answers the checks and finds their grants, and the sets to be tried.
func (t *through) paths(ctx context.Context, w *Walk, checks []Check) error {
	w.begin(ctx)
	defer w.end()
	_, sub, err := w.program.resolve(&checks[0])
	if err != nil {
		return err
	}
	w.add(sub)
	x := &explainer{
		Walk: w, Explaining: Explaining{Hidden: t.hidden}, of: sub, circumstances: circumstances{program: w.program, given: checks[0].Context},
		above: map[memberKey]bool{}, surveys: map[memberKey]*survey{}, paths: map[memberKey]*path{},
	}
	named := map[*member]*sets{}
	for i := range checks {
		m, other, err := w.program.resolve(&checks[i])
		if err != nil {
			return err
		}
		if other != sub {
			return errSubjects
		}
		o := w.object(m.of, checks[i].Resource.ObjectID)
		v, _ := w.member(m, o, only, maxDepth)
		a := x.outcome(v)
		t.out[i].Outcome = a.Outcome
		var root *authz.Reason
		switch a.Outcome {
		case authz.Yes:
			root = x.shortest(m, o, maxDepth)
		case authz.Conditional:
			clear(x.surveys)
			root, _ = x.member(m, o, maxDepth, a)
		default:
		}
		x.later = nil // exclusions are not shown
		if root != nil {
			t.out[i].Grant = grantOf(root)
		}
		if grant := t.out[i].Grant; grant != nil && grant.Subject.Relation != "" && a.Outcome == authz.Yes {
			t.try(i, x, root, m, named)
		}
		if w.err == nil {
			w.err = x.err
		}
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// grantOf returns the last relationship of a path: the first that names a set, or the one at its end; nil if there is none.
func grantOf(r *authz.Reason) *authz.Relationship {
	if rel := r.Relationship; r.Kind == authz.ReasonRelationship && (rel.Subject.Relation != "" || len(r.Children) == 0) {
		return rel
	}
	for _, c := range r.Children {
		if c.Subtracted {
			continue
		}
		if found := grantOf(c); found != nil {
			return found
		}
	}
	return nil
}

// try notes the sets that are to be tried for a check. A set without which the permission is lost is on every path, so that it is enough to try those
// on the path that was found. But leaving a relationship out can also make a part hold that is taken away, as c in a - (b - c). Where that can
// happen, all sets that name the subject are tried.
func (t *through) try(check int, x *explainer, root *authz.Reason, m *member, named map[*member]*sets) {
	var rows []row
	add := func(r row) {
		if !slices.Contains(rows, r) && !x.hides(&edge{row: Row{SubjectType: r.objectType, SubjectID: r.id}}) {
			rows = append(rows, r)
		}
	}
	onPath(root, false, func(rel *authz.Relationship) {
		if rel.Subject.Type == x.of.of.name && rel.Subject.ID == x.of.id && rel.Subject.Relation == x.of.relation {
			add(row{rel.Resource.Type, rel.Resource.ID, rel.Relation})
		}
	})
	if named[m] == nil {
		named[m] = x.memberships(m)
	}
	for _, r := range named[m].rows {
		add(r)
	}
	t.out[check].Cut = named[m].cut || len(rows) > maxSets
	for _, r := range rows[:min(len(rows), maxSets)] {
		if t.tried == nil {
			t.tried = map[row][]int{}
		}
		if t.tried[r] == nil {
			t.order = append(t.order, r)
		}
		t.tried[r] = append(t.tried[r], check)
	}
}

// onPath calls fn with each relationship at an end of a path that leads through a set.
func onPath(r *authz.Reason, within bool, fn func(*authz.Relationship)) {
	if r.Kind == authz.ReasonRelationship {
		if within && len(r.Children) == 0 {
			fn(r.Relationship)
		}
		within = within || r.Relationship.Subject.Relation != ""
	}
	for _, c := range r.Children {
		if !c.Subtracted {
			onPath(c, within, fn)
		}
	}
}

// sets are relationships that name the subject in sets; cut says that there are others.
type sets struct {
	rows []row
	cut  bool
}

// memberships returns the sets that name the subject and that a member can depend on otherwise than by a path.
func (x *explainer) memberships(m *member) *sets {
	found := &sets{}
	reached := x.program.schema.Reach(x.program.schema.Member(schema.Name{Type: m.of.name, Member: m.name})).Members
	simple := true
	used := map[string]bool{}
	for r := range reached {
		simple = simple && x.program.paved(r)
		for _, a := range r.Allowed {
			if a.IsUserset() {
				used[a.Type] = true
			}
		}
	}
	if simple {
		return found
	}
	var relations []*member
	for r := range reached {
		if of := x.program.types[r.Type].members[r.Member]; !r.IsPermission() && used[r.Type] && of.admits(&x.of) {
			relations = append(relations, of)
		}
	}
	slices.SortFunc(relations, func(a, b *member) int { return cmp.Or(cmp.Compare(a.of.name, b.of.name), cmp.Compare(a.name, b.name)) })
	for _, of := range relations {
		ids, more, err := x.rows.ResourceIDs(x.of.of.name, x.of.relation, x.of.id, of.of.name, of.name, "", maxSets)
		if err != nil {
			x.Walk.err = err
			return found
		}
		found.cut = found.cut || more
		for _, id := range ids {
			found.rows = append(found.rows, row{of.of.name, id, of.name})
		}
	}
	return found
}

// paved reports whether leaving relationships out never makes a member hold for somebody new: no part that it takes away has such a part itself, and
// no arrow asks for all.
func (p *Program) paved(m *schema.Member) bool {
	if !m.IsPermission() {
		return true
	}
	compiled := p.types[m.Type].members[m.Member]
	return !m.Expression.Has(schema.ArrowAll) && p.pavedNode(compiled.rewrite, compiled)
}

func (p *Program) pavedNode(n *node, m *member) bool {
	for i, c := range n.children {
		if n.op == schema.Exclusion && i > 0 && !p.steady(c, m) || !p.pavedNode(c, m) {
			return false
		}
	}
	return true
}

// only answers the checks again with each of the relationships left out that are to be tried.
func (t *through) only(ctx context.Context, w *Walk, checks []Check) error {
	for _, r := range t.order {
		some := make([]Check, len(t.tried[r]))
		for k, i := range t.tried[r] {
			some[k] = checks[i]
		}
		relation := some[0].Subject.Relation
		if relation == tuple.Ellipsis {
			relation = ""
		}
		without := &leavingOut{w.rows, r, Row{
			Relation: r.relation, SubjectType: some[0].Subject.ObjectType, SubjectRelation: relation, SubjectID: some[0].Subject.ObjectID,
		}}
		other := w.program.Walk(without)
		answers, err := other.checkAll(ctx, some)
		other.Close()
		if err != nil {
			return err
		}
		for k, i := range t.tried[r] {
			if answers[k].Outcome == authz.No {
				t.out[i].Only = append(t.out[i].Only, authz.Subject{Object: authz.Object{Type: r.objectType, ID: r.id}, Relation: r.relation})
			}
		}
	}
	return nil
}

// leavingOut are Rows without one row.
type leavingOut struct {
	Rows
	of  row
	row Row
}

// some leaves the row out of those of an object. Where a limit was not kept because of it, its walk takes another way to the same.
func (l *leavingOut) some(objectType, id string, rows []Row, more bool, err error) ([]Row, bool, error) {
	if err != nil || objectType != l.of.objectType || id != l.of.id {
		return rows, more, err
	}
	at := slices.IndexFunc(rows, func(r Row) bool { return same(&r, &l.row) })
	if at < 0 {
		return rows, more, nil
	}
	return slices.Delete(slices.Clone(rows), at, at+1), more, nil
}

// Object is as in Rows.
func (l *leavingOut) Object(objectType, id string, limit int) ([]Row, bool, error) {
	rows, more, err := l.Rows.Object(objectType, id, limit)
	return l.some(objectType, id, rows, more, err)
}

// Subject is as in Rows.
func (l *leavingOut) Subject(r *Row, limit int) ([]Row, bool, error) {
	rows, more, err := l.Rows.Subject(r, limit)
	return l.some(r.SubjectType, r.SubjectID, rows, more, err)
}

// Relation is as in Rows.
func (l *leavingOut) Relation(objectType, id, relation string, limit int) ([]Row, bool, error) {
	rows, more, err := l.Rows.Relation(objectType, id, relation, limit)
	return l.some(objectType, id, rows, more, err)
}

// Usersets is as in Rows.
func (l *leavingOut) Usersets(objectType, id, relation string, limit int) ([]Row, bool, error) {
	rows, more, err := l.Rows.Usersets(objectType, id, relation, limit)
	return l.some(objectType, id, rows, more, err)
}

// Page is as in Rows, but that a page may be shorter by the row. Pages have many rows, so that there is always one behind which to go on.
func (l *leavingOut) Page(objectType, id, relation string, usersets bool, after *Row, limit int) ([]Row, bool, error) {
	rows, more, err := l.Rows.Page(objectType, id, relation, usersets, after, limit)
	return l.some(objectType, id, rows, more, err)
}

// Find is as in Rows.
func (l *leavingOut) Find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (Row, bool, error) {
	r, found, err := l.Rows.Find(objectType, id, relation, subjectType, subjectRelation, subjectID)
	if found && objectType == l.of.objectType && id == l.of.id && same(&r, &l.row) {
		return Row{}, false, nil
	}
	return r, found, err
}
