package evaluate

import (
	"context"
	"slices"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// The subjects with a permission are found in two steps: a census of all subjects of the type that relationships on the way name, and then a check of
// each. That is exact as long as no wildcard is on the way, and cheap where few are named, as with the tenants of an object.
//
// spreadSubjects goes the same ways for LookupSubjects. It reads them in pages, however many there are, and holds nothing but where it has been. A
// census reads through the walk instead, so that the checks, which need the same relationships, find them read: a decision takes one for its object's
// tenant.

// maxVisits is how many members of objects a census visits.
const maxVisits = 4096

// FewSubjects returns all subjects of a type that have the permission on the resource, which names both. complete is false, and nothing is returned,
// where a wildcard is on the way, or where there is more than a census visits: then LookupSubjects finds them. Errors are those of a name that the
// schema does not have, of ctx, of the rows, and of a subject's check.
func (w *Walk) FewSubjects(
	ctx context.Context, resource tuple.ObjectAndRelation, subjectType string, given map[string]any,
) (found []authz.SubjectAnswer, complete bool, err error) {
	w.begin(ctx)
	defer w.end()
	candidates, complete, err := w.candidates(subjectType, resource)
	if err != nil || !complete {
		return nil, false, err
	}
	checks := appendChecks(nil, resource, subjectType, candidates, given)
	// The walk has read what these checks need, and has room for all of their subjects.
	answers := make([]Answer, len(checks))
	w.check(checks, answers)
	found, err = listed(candidates, answers)
	return found, err == nil, err
}

// Listing is the result of FewSubjects for one resource.
type Listing struct {
	Found    []authz.SubjectAnswer
	Complete bool
	Err      error
}

// FewSubjectsOfEach is FewSubjects for each of several resources, in their order. It puts its results into all, which has a zero Listing for each of
// them. Relationships on the way from several resources are walked once for up to maxSubjects of them.
func (w *Walk) FewSubjectsOfEach(
	ctx context.Context, resources []tuple.ObjectAndRelation, subjectType string, given map[string]any, all []Listing,
) {
	for from := 0; from < len(resources); from += maxSubjects {
		part, into := resources[from:min(from+maxSubjects, len(resources))], all[from:]
		done := len(part) > 1 && w.together(ctx, part, subjectType, given, into)
		for i := range part {
			// A resource that cannot be listed with the others, as for a wildcard, is listed alone, so that its list does not depend on the others.
			if !done || into[i].Err != nil {
				into[i].Found, into[i].Complete, into[i].Err = w.FewSubjects(ctx, part[i], subjectType, given)
			}
		}
	}
}

// together lists the subjects of several resources: it takes one census for all of them, and checks each subject for each resource. It returns false,
// and no lists, where the resources cannot be listed together. A resource with a check that fails has an error.
func (w *Walk) together(
	ctx context.Context, resources []tuple.ObjectAndRelation, subjectType string, given map[string]any, into []Listing,
) bool {
	w.begin(ctx)
	defer w.end()
	candidates, complete, err := w.candidates(subjectType, resources...)
	if err != nil || !complete {
		return false
	}
	w.checks = slices.Grow(w.checks[:0], len(resources)*len(candidates))
	for _, resource := range resources {
		w.checks = appendChecks(w.checks, resource, subjectType, candidates, given)
	}
	w.answers = slices.Grow(w.answers[:0], len(w.checks))[:len(w.checks)]
	w.check(w.checks, w.answers)
	for i := range resources {
		into[i].Complete = true
		into[i].Found, into[i].Err = listed(candidates, w.answers[i*len(candidates):][:len(candidates)])
	}
	w.emptyChecks()
	return true
}

// appendChecks appends a check of a resource for each subject of a type with one of the ids.
func appendChecks(checks []Check, resource tuple.ObjectAndRelation, subjectType string, ids []string, given map[string]any) []Check {
	for _, id := range ids {
		checks = append(checks, Check{
			Resource: resource, Subject: tuple.ObjectAndRelation{ObjectType: subjectType, ObjectID: id, Relation: tuple.Ellipsis}, Context: given,
		})
	}
	return checks
}

// listed returns those of the candidates that were not refused.
func listed(candidates []string, answers []Answer) (found []authz.SubjectAnswer, err error) {
	for i, a := range answers {
		switch a.Outcome {
		case authz.Yes, authz.Conditional:
			found = append(found, authz.SubjectAnswer{ID: candidates[i], Conditional: a.Outcome == authz.Conditional})
		case authz.Failed:
			return nil, a.Err
		default:
		}
	}
	return found, nil
}

// candidates returns the ids of all subjects of a type that may have the permission on one of the resources. ok is false if there
// may be others, or more than one walk has room for.
func (w *Walk) candidates(subjectType string, resources ...tuple.ObjectAndRelation) (ids []string, ok bool, err error) {
	t := w.program.types[subjectType]
	if t == nil {
		return nil, false, noType(subjectType)
	}
	c := &census{walk: w, of: t, seen: w.newVisited()}
	defer w.spareVisited(c.seen)
	for _, resource := range resources {
		m, err := w.program.member(resource.ObjectType, resource.Relation)
		if err != nil {
			return nil, false, err
		}
		c.member(m, resource.ObjectID, maxDepth)
	}
	if w.err != nil {
		return nil, false, w.err
	}
	return c.ids, !c.incomplete, nil
}

// census gathers the subjects of a type that relationships on the way name.
type census struct {
	walk *Walk
	of   *objectType
	seen map[memberKey]bool
	ids  []string
	// incomplete says that there may be other subjects: a wildcard is on the way, or the way is too deep or too long to be walked.
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

// node gathers from a part of a permission. The part that an exclusion takes away adds nobody.
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
