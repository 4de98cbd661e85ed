package evaluate

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/spiceerrors"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/schema"
)

// maxDepth is how many dispatches a check may take one in another: SpiceDB's default.
const maxDepth = 50

// Walk answers checks over the rows of one revision, one call after the other: what one has read the next does not read again.
// It has to be closed, and is not safe for concurrent use.
//
// A decision takes three or four calls of a few microseconds each, so that half of its time would go into making maps and
// slices. So a walk that is closed is used again. What is used again is listed in rest, forget and Close, which build everything
// else anew: a field that they do not name is empty afterwards.
type Walk struct {
	program *Program
	rows    Rows
	// objects are what was read. It outlives rounds and calls, until it is too much or a call fails.
	objects map[objectKey]*object
	round
	spare
	budget
}

// round is one traversal of the graph, for up to maxSubjects subjects. Nothing of it but err and ctx outlives it.
type round struct {
	ctx      context.Context //nolint:containedctx // of one call
	subjects []subject
	// usersets are the subjects that have a relation.
	usersets set
	asked    []asked
	// learned are the objects of which something is known of the subjects.
	learned []*object

	// err is why the call cannot go on; all that it returns then means nothing.
	err   error
	steps int
	// wrong says, for each subject, what error other than depth came up first.
	wrong map[uint8]error
}

// spare is what is empty, and used again.
type spare struct {
	knowns []*known
	unread []*object
	// many is what objects is once it is large; nil if that has to be made.
	many map[objectKey]*object
	// checks and answers are those of FewSubjectsOfEach, and visited is for its census.
	checks  []Check
	answers []Answer
	visited map[memberKey]bool
}

const (
	// maxObjects is how many objects, and how many knowns, are spared.
	maxObjects = smallWalk
	// maxMap is how many objects, or members of objects, a map has held that is used again: emptying it costs what it once held. maxMany is that for
	// spare.many, and how many checks are spared.
	maxMap, maxMany = 128, 1 << 11
)

// walks are walks that were closed.
var walks = sync.Pool{New: func() any { return &Walk{objects: map[objectKey]*object{}} }}

// Walk returns a walk over rows.
func (p *Program) Walk(rows Rows) *Walk {
	w, _ := walks.Get().(*Walk)
	w.program, w.rows = p, rows
	return w
}

// Over goes on over other Rows of the same revision: those from before may have ended.
func (w *Walk) Over(rows Rows) { w.rows = rows }

// Close ends the walk, once; nothing may be asked of it afterwards.
func (w *Walk) Close() {
	w.forget()
	w.program, w.rows = nil, nil
	walks.Put(w)
}

// begin begins a call.
func (w *Walk) begin(ctx context.Context) {
	w.unkeep()
	w.ctx, w.most, w.read = ctx, smallWalk, 0
}

// rest ends a round, so that another one can begin at the same revision, with what was read.
func (w *Walk) rest() {
	for _, o := range w.learned {
		for _, k := range o.known {
			*k.known = known{}
			w.knowns = append(w.knowns, k.known)
		}
		clear(o.known)
		o.known = o.known[:0]
	}
	w.pages, w.conditions = 0, 0
	clear(w.learned)
	clear(w.asked)
	clear(w.subjects)
	w.round = round{ctx: w.ctx, err: w.err, learned: w.learned[:0], asked: w.asked[:0], subjects: w.subjects[:0]}
}

// end ends a call. Where it failed, what was read may be half of what is there. What is a lot is forgotten, because the walk may be kept for as
// long as somebody holds the revision.
func (w *Walk) end() {
	w.rest()
	w.giveBack()
	if !w.keep() {
		w.forget()
		w.spare = spare{}
	}
	w.ctx, w.err = nil, nil
}

// forget makes the walk a new one over the same rows.
func (w *Walk) forget() {
	w.rest()
	w.unkeep()
	for _, o := range w.objects {
		if len(w.unread) == maxObjects {
			break
		}
		clear(o.relations)
		*o = object{known: o.known, relations: o.relations[:0]}
		w.unread = append(w.unread, o)
	}
	switch n := len(w.objects); {
	case n > maxMany:
		w.objects = map[objectKey]*object{}
	case n > maxMap:
		clear(w.objects)
		w.many, w.objects = w.objects, map[objectKey]*object{}
	default:
		clear(w.objects)
	}
	w.knowns = w.knowns[:min(len(w.knowns), maxObjects)]
	*w = Walk{
		program: w.program, rows: w.rows, objects: w.objects, spare: w.spare,
		round: round{learned: w.learned, asked: w.asked, subjects: w.subjects},
	}
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

// newVisited returns an empty map.
func (s *spare) newVisited() map[memberKey]bool {
	m := s.visited
	if s.visited = nil; m == nil {
		m = map[memberKey]bool{}
	}
	return m
}

// spareVisited spares a map that newVisited returned.
func (s *spare) spareVisited(m map[memberKey]bool) {
	if len(m) <= 4*maxMap {
		clear(m)
		s.visited = m
	}
}

// emptyChecks empties checks and answers.
func (s *spare) emptyChecks() {
	if cap(s.checks) > maxMany {
		s.checks, s.answers = nil, nil
	}
	clear(s.checks)
	clear(s.answers)
}

// newKnown returns an empty known.
func (s *spare) newKnown() *known {
	n := len(s.knowns)
	if n == 0 {
		return &known{}
	}
	k := s.knowns[n-1]
	s.knowns = s.knowns[:n-1]
	return k
}

// newObject returns an empty object.
func (s *spare) newObject() *object {
	n := len(s.unread)
	if n == 0 {
		return &object{}
	}
	o := s.unread[n-1]
	s.unread = s.unread[:n-1]
	return o
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
func (w *Walk) failed() bool {
	if w.err != nil {
		return true
	}
	if w.steps++; w.steps%64 == 0 {
		w.err = w.ctx.Err()
		if w.turns > 0 {
			runtime.Gosched() // so that a small walk that came meanwhile does not wait for large ones
		}
	}
	return w.err != nil
}

// member evaluates a relation or a permission of an object for subjects, with a number of dispatches left,
// this one included. need is how many of them that takes for what is known.
//
// An error is that of SpiceDB, which evaluates this as one dispatch.
func (w *Walk) member(m *member, o *object, who set, left int) (v value, need int) {
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
func (w *Walk) body(m *member, o *object, who set, left int) (v value, need int) {
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
			k = w.newKnown()
			if len(o.known) == 0 {
				w.learned = append(w.learned, o)
			}
			o.known = append(o.known, memberKnown{m, k})
			w.hold(1)
		}
	}
	k.remember(&found, rest, n, left)
	v.add(found)
	return v, max(need, n)
}

// same returns those of the subjects that are the member of the object itself.
func (w *Walk) same(m *member, o *object, who set) (found set) {
	for s := range (who & w.usersets).subjects {
		if sub := &w.subjects[s]; sub.of == m.of && sub.relation == m.name && sub.id == o.id {
			found |= 1 << s
		}
	}
	return found
}

// direct looks for the subjects, and their wildcards, in a relation.
func (w *Walk) direct(m *member, o *object, who set) (v value) {
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
func (m *member) names(row *Row, s *subject) bool {
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
func (w *Walk) lookUp(m *member, id string, who set) (v value) {
	find := func(s uint8, subjectRelation, subjectID string) {
		if v.yes&(1<<s) != 0 || w.failed() {
			return
		}
		w.read++
		row, found, err := w.rows.Find(m.of.name, id, m.name, w.subjects[s].of.name, subjectRelation, subjectID)
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
func (w *Walk) leading(m *member, o *object, who set, left int) (v value, need int) {
	v, need = w.direct(m, o, who), 1
	rest := who &^ v.yes
	if rest == 0 {
		return v, need
	}
	w.each(m, o, true, func(row *Row) bool {
		next, err := w.program.member(row.SubjectType, row.SubjectRelation)
		if err != nil {
			w.fail(rest, err)
			v.add(value{unknown: rest})
			return true
		}
		found, n := w.member(next, w.subject(next.of, row), rest, left-1)
		v.add(w.behind(row, &found))
		need = max(need, n+1)
		rest = who &^ v.yes
		return rest != 0
	})
	return v, need
}

// node evaluates a part of a permission's expression.
func (w *Walk) node(n *node, m *member, o *object, who set, left int) (v value, need int) {
	need = 1
	switch n.op {
	case schema.Union:
		for _, c := range n.children {
			if rest := who &^ v.yes; rest != 0 {
				found, k := w.node(c, m, o, rest, left)
				v.add(found)
				need = max(need, k)
			}
		}
	case schema.Intersection, schema.Exclusion:
		v, need = w.node(n.children[0], m, o, who, left)
		for _, c := range n.children[1:] {
			rest := v.yes | v.unknown | v.maybe
			if rest == 0 {
				break
			}
			found, k := w.node(c, m, o, rest, left)
			if n.op == schema.Intersection {
				v.intersect(found)
			} else {
				v.subtract(found)
			}
			w.gather(&v)
			need = max(need, k)
		}
	case schema.Computed:
		return w.computed(n.target, o, who, left)
	case schema.Arrow:
		return w.arrow(n, o, who, left)
	case schema.ArrowAll:
		return w.all(n, o, who, left)
	case schema.Self:
		for s := range (who &^ w.usersets).subjects {
			if w.subjects[s].of == m.of && w.subjects[s].id == o.id {
				v.yes |= 1 << s
			}
		}
	case schema.Nil:
	}
	return v, need
}

// computed evaluates a member in a dispatch of its own. A subject that is the member itself needs none.
func (w *Walk) computed(m *member, o *object, who set, left int) (v value, need int) {
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
func (w *Walk) arrow(n *node, o *object, who set, left int) (v value, need int) {
	need = 1
	w.each(n.tupleset, o, false, func(row *Row) bool {
		rest := who &^ v.yes
		found, k := w.across(n, row, rest, left)
		v.add(w.behind(row, &found))
		need = max(need, k)
		return who&^v.yes != 0
	})
	return v, need
}

// all evaluates tupleset.all(permission): who has it on each of the objects, of which there is one at least.
func (w *Walk) all(n *node, o *object, who set, left int) (v value, need int) {
	need = 1
	first := true
	w.each(n.tupleset, o, false, func(row *Row) bool {
		if first {
			v.yes, first = who, false
		}
		found, k := w.across(n, row, v.yes|v.unknown|v.maybe, left)
		v.intersect(w.behind(row, &found))
		w.gather(&v)
		need = max(need, k)
		return v.yes|v.unknown|v.maybe != 0
	})
	return v, need
}

// across evaluates the permission of an arrow on the object that a row leads to. Where the object's type has
// no such member nobody has it; where there is no such type it is an error.
func (w *Walk) across(n *node, row *Row, who set, left int) (v value, need int) {
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
func (w *Walk) fail(who set, err error) {
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
func (p *Program) member(objectType, name string) (*member, error) {
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
