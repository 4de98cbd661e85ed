package evaluate

import (
	"context"
	"fmt"
	"strings"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// A lookup of subjects walks everything from which the permission on the object is computed. On its way it notes members of objects, and
// the relations that can name subjects of the kind; the lists of those subjects are then merged. If a wildcard may be on the way, a subject
// that no row names has what the wildcard gives it, and each subject that a row names may have more or less than that. Then the walk also
// follows the parts that take away, and every operand of an intersection.

// nobody is an id that no subject can have. So the subject with this id has exactly what a wildcard gives.
const nobody = "\x01"

// SubjectKind is a kind of subjects: objects of a type, or those with a relation or permission of an object ("group#member").
type SubjectKind struct {
	Type string
	// Relation is empty for objects.
	Relation string
}

// SubjectCandidates returns the subjects of a kind that may have a permission on an object. Wildcards are not among them. Errors are
// those of Resolve.
func (p *Program) SubjectCandidates(resource tuple.ObjectAndRelation, of SubjectKind) (*Candidates, error) {
	target, sub, err := p.resolve(&Check{Resource: resource, Subject: of.subject(nobody)})
	if err != nil {
		return nil, err
	}
	return &Candidates{sets: []*candidates{{spread: &spreadSubjects{
		program: p, of: sub.of, relation: sub.relation, start: memberKey{target, resource.ObjectID},
		thorough: p.admitsAll(target, sub.of), seen: map[memberKey]struct{}{},
	}}}}, nil
}

// subject returns the subject of the kind that has an id.
func (k SubjectKind) subject(id string) tuple.ObjectAndRelation {
	s := tuple.ObjectAndRelation{ObjectType: k.Type, ObjectID: id, Relation: k.Relation}
	if s.Relation == "" {
		s.Relation = tuple.Ellipsis
	}
	return s
}

// admitsAll reports whether a relation from which a member is computed admits the wildcard of a type.
func (p *Program) admitsAll(m *member, t *objectType) bool {
	return len(p.waysTo(m).everybody[t.name]) > 0
}

// spreadSubjects finds the subjects of a kind that may have a member of an object.
type spreadSubjects struct {
	program  *Program
	of       *objectType
	relation string
	start    memberKey
	// thorough says that a wildcard may be on the way, so that parts which take away, and all operands of an intersection, have to be followed too.
	thorough bool
	begun    bool

	seen map[memberKey]struct{}
	// own has the ids of the subjects that were noted on the way: sets, or objects that are the subject themselves.
	own []string
	// open has the rows that lead on and are not read to their end yet.
	open []*rest
}

// rest stands for the rows of a relation, or for its usersets alone, that are not read yet.
type rest struct {
	memberKey
	usersets bool
	after    *Row
	// permission is the one that an arrow looks for; it is empty where the relation of each row's subject leads on.
	permission string
}

func (s *spreadSubjects) reached() int { return max(len(s.seen), len(s.open)) }

func (s *spreadSubjects) forget() { s.seen, s.own, s.open = nil, nil, nil }

// all implements spread. An object on the way may be the subject itself: then a row names it, with whatever relation, or it is the resource.
func (s *spreadSubjects) all() (lists []list, own []string) {
	lists = []list{{of: namedIDs, kind: subjectKind{objectType: s.of.name}}}
	for name := range s.of.members {
		lists = append(lists, list{of: namedIDs, kind: subjectKind{s.of.name, name}})
	}
	if s.start.of.of == s.of {
		own = []string{s.start.id}
	}
	return lists, own
}

// step implements spread: it reads a page of rows that lead on.
func (s *spreadSubjects) step(rows Rows, m *merged) (work int, done bool, err error) {
	before := len(m.front)
	if !s.begun {
		s.begun = true
		s.note(s.start.of, s.start.id, m)
	}
	n := len(s.open)
	if n == 0 {
		m.addWritten(s.own)
		s.seen, s.own = nil, nil
		return len(m.front) - before, true, nil
	}
	r := s.open[n-1]
	page, more, err := rows.Page(r.of.of.name, r.id, r.of.name, r.usersets, r.after, listMax)
	if err != nil {
		return 0, false, err
	}
	if more {
		last := page[len(page)-1]
		r.after = &last
	} else {
		s.open = s.open[:n-1]
	}
	for i := range page {
		row := &page[i]
		name := r.permission
		if name == "" {
			name = row.SubjectRelation
		}
		if t := s.program.types[row.SubjectType]; t != nil && t.members[name] != nil {
			s.note(t.members[name], row.SubjectID, m)
		}
	}
	return len(page) + len(m.front) - before, false, nil
}

// note notes a member of an object, and follows everything that leads on from there.
func (s *spreadSubjects) note(of *member, id string, m *merged) {
	key := memberKey{of, strings.Clone(id)}
	if _, known := s.seen[key]; known {
		return
	}
	s.seen[key] = struct{}{}
	if s.relation != "" && of.of == s.of && of.name == s.relation {
		s.own = append(s.own, key.id)
	}
	if of.rewrite != nil {
		s.node(of.rewrite, key, m)
		return
	}
	// Where only a wildcard is admitted it is all that there can be: it is no candidate, but it is noted that it came by.
	if of.admits(&subject{of: s.of, relation: s.relation}) || s.relation == "" && of.admitsAll(&subject{of: s.of}) {
		m.add(list{of: subjectIDs, rowsOf: of, kind: subjectKind{s.of.name, s.relation}, id: key.id})
	}
	if of.usersets {
		s.open = append(s.open, &rest{memberKey: key, usersets: true})
	}
}

// node follows a part of a permission.
func (s *spreadSubjects) node(n *node, key memberKey, m *merged) {
	switch n.op {
	case schema.Union:
		s.nodes(n.children, key, m)
	case schema.Intersection:
		if s.thorough {
			s.nodes(n.children, key, m)
		} else {
			s.node(narrowest(n.children), key, m)
		}
	case schema.Exclusion:
		if s.thorough {
			s.nodes(n.children, key, m)
		} else {
			s.node(n.children[0], key, m)
		}
	case schema.Computed:
		s.note(n.target, key.id, m)
	case schema.Arrow, schema.ArrowAll:
		s.open = append(s.open, &rest{memberKey: memberKey{n.tupleset, key.id}, permission: n.permission})
	case schema.Self:
		if s.relation == "" && key.of.of == s.of {
			s.own = append(s.own, key.id)
		}
	case schema.Nil:
	}
}

func (s *spreadSubjects) nodes(all []*node, key memberKey, m *merged) {
	for _, n := range all {
		s.node(n, key, m)
	}
}

// Wildcard is the answer for all subjects of a kind that no row names.
type Wildcard struct {
	// Answer is what a check of such a subject answers. It is No where there is no wildcard.
	Answer
	// Except has, in order, the subjects that a row names and for which a check answers something else, other than Yes. It is empty
	// where Answer is No.
	Except []Found
}

// maxExcept is how many exceptions a wildcard has at most.
const maxExcept = 10_000

// LookupSubjects calls yield, in order, with each subject of a kind that has the permission on the resource, conditionally or not, and with each
// whose check fails. It begins behind an id; "" is before all. Then it returns the answer for all other subjects, with those exceptions that come
// behind the id. An error of yield ends it, and so does FailedPrecondition where a wildcard has too many exceptions.
func (w *Walk) LookupSubjects(
	ctx context.Context, resource tuple.ObjectAndRelation, of SubjectKind, given map[string]any, after string, yield func(Found) error,
) (everybody Wildcard, err error) {
	c, err := w.program.SubjectCandidates(resource, of)
	if err != nil {
		return Wildcard{}, err
	}
	if after != "" {
		c.After(after)
	}
	return w.SubjectsAmong(ctx, c, resource, of, given, yield)
}

// tooManyExceptions is the error of a list that would have to name more than maxExcept exceptions.
func tooManyExceptions() error {
	return statuses.New(codes.FailedPrecondition, authz.ReasonTooLarge, "",
		fmt.Sprintf("a wildcard has the permission, but more than %d subjects are excluded from it: check subjects one by one", maxExcept)).Err()
}
