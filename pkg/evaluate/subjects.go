package evaluate

import (
	"context"
	"slices"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// Who has a permission is found in two steps: all subjects of the type that are named anywhere on the way,
// and then a check of each. That is exact as long as no wildcard is on the way, and cheap where few are
// named, as with the tenants of an object.

// maxVisits is how many members of objects are visited for that.
const maxVisits = 4096

// Subjects returns all subjects of a type that have the permission on the resource, which names both. complete is false, and
// nothing is returned, where a wildcard is on the way, or more than is walked. An error is that of a name which the schema does not
// have, of ctx, of the rows, or of one subject's check.
func (w *Walk) Subjects(
	ctx context.Context, resource tuple.ObjectAndRelation, subjectType string, given map[string]any,
) (found []authz.SubjectAnswer, complete bool, err error) {
	w.begin(ctx)
	defer w.end()
	candidates, complete, err := w.candidates(resource, subjectType)
	if err != nil || !complete {
		return nil, false, err
	}
	checks := make([]Check, len(candidates))
	for i, id := range candidates {
		checks[i] = Check{
			Resource: resource, Subject: tuple.ObjectAndRelation{ObjectType: subjectType, ObjectID: id, Relation: tuple.Ellipsis}, Context: given,
		}
	}
	// The walk has read what these checks need, and has room for all of their subjects.
	answers := make([]Answer, len(checks))
	w.check(checks, answers)
	for i, a := range answers {
		switch a.Outcome {
		case authz.Yes, authz.Conditional:
			found = append(found, authz.SubjectAnswer{ID: candidates[i], Conditional: a.Outcome == authz.Conditional})
		case authz.Failed:
			return nil, false, a.Err
		default:
		}
	}
	return found, true, nil
}

// candidates returns the ids of all subjects of a type that could have the permission; ok is false if there
// may be others, or more than one walk has room for.
func (w *Walk) candidates(resource tuple.ObjectAndRelation, subjectType string) (ids []string, ok bool, err error) {
	m, err := w.program.member(resource.ObjectType, resource.Relation)
	if err != nil {
		return nil, false, err
	}
	t := w.program.types[subjectType]
	if t == nil {
		return nil, false, noType(subjectType)
	}
	c := &census{walk: w, of: t, seen: map[memberKey]bool{}}
	c.member(m, resource.ObjectID, maxDepth)
	if w.err != nil {
		return nil, false, w.err
	}
	return c.ids, !c.incomplete, nil
}

// census gathers the subjects of a type that are named on the way.
type census struct {
	walk *Walk
	of   *objectType
	seen map[memberKey]bool
	ids  []string
	// incomplete says that there is more: a wildcard, or what is too deep or too much to be walked.
	incomplete bool
}

func (c *census) add(id string) {
	switch {
	case slices.Contains(c.ids, id):
	case id == wildcard, len(c.ids) == maxSubjects:
		c.incomplete = true
	default:
		c.ids = append(c.ids, id)
	}
}

func (c *census) done() bool { return c.incomplete || len(c.seen) > maxVisits || c.walk.failed() }

// member gathers from a relation or permission of an object.
func (c *census) member(m *member, id string, left int) {
	key := memberKey{m, id}
	if c.seen[key] {
		return
	}
	if left == 0 || c.done() {
		c.incomplete = true
		return
	}
	c.seen[key] = true
	if m.rewrite != nil {
		c.node(m.rewrite, m, id, left)
		return
	}
	c.walk.each(m, c.walk.object(m.of, id), false, func(row *Row) bool {
		switch next := c.walk.program.types[row.SubjectType]; {
		case row.SubjectRelation == "" && next == c.of:
			c.add(row.SubjectID)
		case row.SubjectRelation != "" && (next == nil || next.members[row.SubjectRelation] == nil):
			c.incomplete = true
		case row.SubjectRelation != "":
			c.member(next.members[row.SubjectRelation], row.SubjectID, left-1)
		}
		return !c.done()
	})
}

// node gathers from a part of a permission: what is taken away adds nobody.
func (c *census) node(n *node, m *member, id string, left int) {
	switch n.op {
	case schema.Union, schema.Intersection:
		for _, child := range n.children {
			c.node(child, m, id, left)
		}
	case schema.Exclusion:
		c.node(n.children[0], m, id, left)
	case schema.Computed:
		c.member(n.target, id, left-1)
	case schema.Arrow, schema.ArrowAll:
		c.walk.each(n.tupleset, c.walk.object(n.tupleset.of, id), false, func(row *Row) bool {
			switch next := c.walk.program.types[row.SubjectType]; {
			case next == nil:
				c.incomplete = true
			case next.members[n.permission] != nil:
				c.member(next.members[n.permission], row.SubjectID, left-1)
			}
			return !c.done()
		})
	case schema.Self:
		if m.of == c.of {
			c.add(id)
		}
	case schema.Nil:
	}
}
