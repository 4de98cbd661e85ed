package evaluate

import (
	"context"
	"fmt"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/store"
)

// maxDepth is how many dispatches a check may take one in another: SpiceDB's default.
const maxDepth = 50

// walk is one traversal of the graph for up to maxSubjects subjects.
type walk struct {
	ctx      context.Context //nolint:containedctx // a walk is one call
	program  *program
	snapshot *store.Snapshot
	// wide says that the walk is one of those that meet many objects.
	wide bool

	subjects []subject
	// usersets are the subjects that have a relation.
	usersets set
	asked    []asked
	objects  map[objectKey]*object
	// learned are the objects of which something is known.
	learned []*object

	// err is why the walk cannot go on; all that it returns then means nothing.
	err   error
	steps int
	// blanks are used again for what is known, and unread for objects.
	blanks []*known
	unread []*object
	// wrong says, for each subject, what error other than depth came up first.
	wrong map[uint8]error
}

// subject is a subject of the walk.
type subject struct {
	of           *objectType
	id, relation string // relation is empty for an object
}

// known is what was found out of a member of an object. Once something is known of a subject with a number of
// dispatches left, more of them do not change it; while it is unknown, fewer do not.
type known struct {
	// who are the subjects for which value says what they are, if at least as many dispatches are left as they
	// need.
	who   set
	value value
	need  [maxSubjects]uint8
	// unknown are subjects for which an error came up when as many were left, or fewer.
	unknown   set
	unknownAt [maxSubjects]uint8
}

// blank returns an empty known.
func (w *walk) blank() *known {
	n := len(w.blanks)
	if n == 0 {
		return &known{}
	}
	k := w.blanks[n-1]
	w.blanks = w.blanks[:n-1]
	return k
}

// recall returns what is known of subjects with a number of dispatches left, and who they are.
func (k *known) recall(who set, left int) (v value, recalled set, need int) {
	need = 1
	for s := range (who & (k.who | k.unknown)).subjects {
		bit := set(1) << s
		switch {
		case k.who&bit != 0 && left >= int(k.need[s]):
			recalled |= bit
			need = max(need, int(k.need[s]))
		case k.unknown&bit != 0 && left <= int(k.unknownAt[s]):
			v.unknown |= bit
		}
	}
	v.add(k.value.within(recalled))
	return v, recalled | v.unknown, need
}

// remember notes what was found for subjects.
func (k *known) remember(v *value, who set, need, left int) {
	found := who &^ v.unknown
	k.value.add(v.within(found &^ k.who))
	k.who |= found
	k.unknown |= who & v.unknown
	for s := range who.subjects {
		if v.unknown&(1<<s) != 0 {
			k.unknownAt[s] = uint8(left) //nolint:gosec // at most maxDepth
		} else {
			k.need[s] = uint8(need) //nolint:gosec // as above
		}
	}
}

// failed reports whether the walk has ended, also because nobody waits for it.
func (w *walk) failed() bool {
	if w.err != nil {
		return true
	}
	if w.steps++; w.steps%64 == 0 {
		w.err = w.ctx.Err()
	}
	return w.err != nil
}

// member evaluates a relation or a permission of an object for subjects, with a number of dispatches left,
// this one included. need is how many of them that takes for what is known.
//
// An error is that of SpiceDB, which evaluates this as one dispatch.
func (w *walk) member(m *member, o *object, who set, left int) (v value, need int) {
	if left == 0 {
		return value{unknown: who}, 0
	}
	if m.alias == nil {
		return w.body(m, o, who, left)
	}
	// SpiceDB evaluates the other member in place of an alias, but not where the object may turn out to be
	// the subject.
	need = 1
	var same set
	for s := range who.subjects {
		if w.subjects[s].of == m.of {
			same |= 1 << s
		}
	}
	for _, part := range [...]struct {
		of  *member
		who set
	}{{m.alias, who &^ same}, {m, same}} {
		if part.who != 0 {
			found, n := w.body(part.of, o, part.who, left)
			v.add(found)
			need = max(need, n)
		}
	}
	return v, need
}

// body is member without regard to aliases. What was found out before is not looked for again.
func (w *walk) body(m *member, o *object, who set, left int) (v value, need int) {
	if who == 0 || w.failed() {
		return value{}, 1
	}
	v.yes = w.same(m, o, who)
	rest := who &^ v.yes
	if rest == 0 {
		return v, 1
	}
	if m.rewrite == nil && !m.usersets {
		// Looking is as cheap as remembering.
		v.add(w.direct(m, o, rest))
		return v, 1
	}
	k := o.recall(m)
	need = 1
	if k != nil {
		var recalled set
		var old value
		if old, recalled, need = k.recall(rest, left); recalled != 0 {
			v.add(old)
			if rest &^= recalled; rest == 0 {
				return v, need
			}
		}
	}
	var found value
	var n int
	if m.rewrite == nil {
		found, n = w.leading(m, o, rest, left)
	} else {
		found, n = w.node(m.rewrite, m, o, rest, left)
	}
	if w.err != nil {
		return value{}, 1
	}
	if k == nil {
		// It may have been met again on the way.
		if k = o.recall(m); k == nil {
			k = w.blank()
			if len(o.known) == 0 {
				w.learned = append(w.learned, o)
			}
			o.known = append(o.known, memberKnown{m, k})
		}
	}
	k.remember(&found, rest, n, left)
	v.add(found)
	return v, max(need, n)
}

// same returns those of the subjects that are the member of the object itself.
func (w *walk) same(m *member, o *object, who set) (found set) {
	for s := range (who & w.usersets).subjects {
		if sub := &w.subjects[s]; sub.of == m.of && sub.relation == m.name && sub.id == o.id {
			found |= 1 << s
		}
	}
	return found
}

// direct looks for the subjects, and their wildcards, in a relation.
func (w *walk) direct(m *member, o *object, who set) (v value) {
	rows, wide := w.relation(m, o)
	if wide {
		return w.lookUp(m, o.id, who)
	}
	for i := range rows {
		row := &rows[i]
		var when *expression
		for s := range (who &^ v.yes).subjects {
			sub := &w.subjects[s]
			if row.SubjectType != sub.of.name || !m.names(row, sub) {
				continue
			}
			if row.Caveat != "" && when == nil {
				when = leaf(row)
			}
			if when == nil {
				v.yes |= 1 << s
			} else {
				v.when(s, when)
			}
		}
	}
	v.settle()
	return v
}

// names reports whether a row is one that names a subject of its type: itself, or all of them. SpiceDB looks
// only for what the relation admits.
func (m *member) names(row *store.Row, s *subject) bool {
	if row.SubjectID == s.id && row.SubjectRelation == s.relation && m.admits(s) {
		return true
	}
	return row.SubjectID == wildcard && row.SubjectRelation == "" && m.admitsAll(s)
}

// wildcard is the id that stands for all objects of a type.
const wildcard = "*"

// admits reports whether the relation admits a subject of the kind.
func (m *member) admits(s *subject) bool {
	return slices.Contains(m.subjects, subjectKind{s.of.name, s.relation})
}

// admitsAll reports whether the relation admits the wildcard of the subject's type. SpiceDB looks for it for
// usersets too.
func (m *member) admitsAll(s *subject) bool {
	return slices.Contains(m.wildcards, s.of.name)
}

// lookUp is direct for a wide relation.
func (w *walk) lookUp(m *member, id string, who set) (v value) {
	find := func(s uint8, subjectRelation, subjectID string) {
		if v.yes&(1<<s) != 0 || w.failed() {
			return
		}
		row, found, err := w.snapshot.Find(m.of.name, id, m.name, w.subjects[s].of.name, subjectRelation, subjectID)
		switch {
		case err != nil:
			w.err = err
		case !found:
		case row.Caveat == "":
			v.yes |= 1 << s
		default:
			v.when(s, leaf(&row))
		}
	}
	for s := range who.subjects {
		sub := &w.subjects[s]
		if m.admits(sub) {
			find(s, sub.relation, sub.id)
		}
		if m.admitsAll(sub) {
			find(s, "", wildcard)
		}
	}
	v.settle()
	return v
}

// leading evaluates a relation that may hold usersets.
func (w *walk) leading(m *member, o *object, who set, left int) (v value, need int) {
	v, need = w.direct(m, o, who), 1
	rest := who &^ v.yes
	if rest == 0 {
		return v, need
	}
	w.each(m, o, true, func(row *store.Row) bool {
		next, err := w.program.member(row.SubjectType, row.SubjectRelation)
		if err != nil {
			w.fail(rest, err)
			v.add(value{unknown: rest})
			return true
		}
		found, n := w.member(next, w.subject(next.of, row), rest, left-1)
		v.add(found.under(leaf(row)))
		need = max(need, n+1)
		rest = who &^ v.yes
		return rest != 0
	})
	return v, need
}

// node evaluates a part of a permission's expression.
func (w *walk) node(n *node, m *member, o *object, who set, left int) (v value, need int) {
	need = 1
	switch n.op {
	case opUnion:
		for _, c := range n.children {
			if rest := who &^ v.yes; rest != 0 {
				found, k := w.node(c, m, o, rest, left)
				v.add(found)
				need = max(need, k)
			}
		}
	case opIntersection, opExclusion:
		v, need = w.node(n.children[0], m, o, who, left)
		for _, c := range n.children[1:] {
			rest := v.yes | v.unknown | v.maybe
			if rest == 0 {
				break
			}
			found, k := w.node(c, m, o, rest, left)
			if n.op == opIntersection {
				v.intersect(found)
			} else {
				v.subtract(found)
			}
			need = max(need, k)
		}
	case opComputed:
		return w.computed(n.target, o, who, left)
	case opArrow:
		return w.arrow(n, o, who, left)
	case opAll:
		return w.all(n, o, who, left)
	case opSelf:
		for s := range (who &^ w.usersets).subjects {
			if w.subjects[s].of == m.of && w.subjects[s].id == o.id {
				v.yes |= 1 << s
			}
		}
	case opNil:
	}
	return v, need
}

// computed evaluates a member in a dispatch of its own. A subject that is the member itself needs none.
func (w *walk) computed(m *member, o *object, who set, left int) (v value, need int) {
	v.yes = w.same(m, o, who)
	rest := who &^ v.yes
	if rest == 0 {
		return v, 1
	}
	found, n := w.member(m, o, rest, left-1)
	v.add(found)
	return v, n + 1
}

// arrow evaluates tupleset->permission: who has the permission on one of the objects. What relation a subject
// of the tupleset has makes no difference.
func (w *walk) arrow(n *node, o *object, who set, left int) (v value, need int) {
	need = 1
	w.each(n.tupleset, o, false, func(row *store.Row) bool {
		rest := who &^ v.yes
		found, k := w.across(n, row, rest, left)
		v.add(found.under(leaf(row)))
		need = max(need, k)
		return who&^v.yes != 0
	})
	return v, need
}

// all evaluates tupleset.all(permission): who has it on each of the objects, of which there is one at least.
func (w *walk) all(n *node, o *object, who set, left int) (v value, need int) {
	need = 1
	first := true
	w.each(n.tupleset, o, false, func(row *store.Row) bool {
		if first {
			v.yes, first = who, false
		}
		found, k := w.across(n, row, v.yes|v.unknown|v.maybe, left)
		v.intersect(found.under(leaf(row)))
		need = max(need, k)
		return v.yes|v.unknown|v.maybe != 0
	})
	return v, need
}

// across evaluates the permission of an arrow on the object that a row leads to. Where the object's type has
// no such member nobody has it; where there is no such type it is an error.
func (w *walk) across(n *node, row *store.Row, who set, left int) (v value, need int) {
	t := w.program.types[row.SubjectType]
	if t == nil {
		w.fail(who, noType(row.SubjectType))
		return value{unknown: who}, 1
	}
	m := t.members[n.permission]
	if m == nil {
		return value{}, 1
	}
	return w.computed(m, w.subject(t, row), who, left)
}

// fail notes an error for subjects.
func (w *walk) fail(who set, err error) {
	for s := range who.subjects {
		if w.wrong == nil {
			w.wrong = map[uint8]error{}
		}
		if w.wrong[s] == nil {
			w.wrong[s] = err
		}
	}
}

// member returns a relation or permission by its names. Errors have SpiceDB's status.
func (p *program) member(objectType, name string) (*member, error) {
	t := p.types[objectType]
	if t == nil {
		return nil, noType(objectType)
	}
	if m := t.members[name]; m != nil {
		return m, nil
	}
	return nil, spiceerrors.WithCodeAndDetailsAsError(
		fmt.Errorf("relation/permission `%s` not found under definition `%s`", name, objectType), //nolint:err113 // its kind is the reason
		codes.FailedPrecondition, spiceerrors.ForReason(v1.ErrorReason_ERROR_REASON_UNKNOWN_RELATION_OR_PERMISSION,
			map[string]string{"definition_name": objectType, "relation_or_permission_name": name}))
}

func noType(name string) error {
	return spiceerrors.WithCodeAndDetailsAsError(fmt.Errorf("object definition `%s` not found", name), //nolint:err113 // as above
		codes.FailedPrecondition, spiceerrors.ForReason(v1.ErrorReason_ERROR_REASON_UNKNOWN_DEFINITION,
			map[string]string{"definition_name": name}))
}

// tooDeep is the error of a check that takes too many dispatches.
func tooDeep() error {
	return spiceerrors.WithCodeAndDetailsAsError(
		fmt.Errorf("max depth exceeded: a recursive or too deep data dependency; a check takes at most %d steps", maxDepth), //nolint:err113 // as above
		codes.FailedPrecondition, spiceerrors.ForReason(v1.ErrorReason_ERROR_REASON_MAXIMUM_DEPTH_EXCEEDED,
			map[string]string{"maximum_depth_allowed": fmt.Sprint(maxDepth)}))
}
