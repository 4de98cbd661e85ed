package differential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	model "github.com/deputyauth/deputy/pkg/schema"
)

// TestLookups compares lookups of random worlds with the checks of all that there is: what has the permission is found, and nothing
// else, in order and once, whatever the place at which a list is cut.
func TestLookups(t *testing.T) {
	worlds := uint64(160)
	if raceDetector || testing.Short() {
		worlds = 60
	}
	var count lookupTally
	for done := uint64(0); done < worlds; done += worldsPerDesk {
		d, shut, err := newDesk(false)
		if err != nil {
			t.Fatal(err)
		}
		for seed := done; seed < min(done+worldsPerDesk, worlds); seed++ {
			if err := d.lookUpWorld(t.Context(), seed+1, &count); err != nil {
				shut()
				t.Fatalf("seed %d: %v", seed+1, err)
			}
		}
		shut()
	}
	t.Logf("lookups: %+v", count)
	if least := int(worlds / 12); !count.enough(least) {
		t.Errorf("the worlds show too little: %+v", count)
	}
}

// lookupTally counts what lookups have found.
type lookupTally struct {
	resources, subjects                             int
	yes, conditional, failed, cut, wildcard, strays int
	// tooDeep are objects and subjects whose check is an error, but to which nothing leads.
	tooDeep int
	// together are objects on which several have their permissions.
	together int
}

// enough reports whether each of them was found so often.
func (c *lookupTally) enough(least int) bool {
	for _, n := range []int{c.resources, c.subjects, c.yes, c.conditional, c.failed, c.cut, c.wildcard, c.strays, c.tooDeep, c.together} {
		if n < least {
			return false
		}
	}
	return true
}

// lookUpWorld looks up in the world of a seed.
func (d *desk) lookUpWorld(ctx context.Context, seed uint64, count *lookupTally) error {
	now := time.Now()
	w := drawWorld(seed, now)
	editions, err := w.editions(d, now)
	if err != nil {
		if strings.Contains(err.Error(), "schema: ") {
			return nil
		}
		return err
	}
	w.subjects = 4
	// Those that were read before others were written are asked last: their revisions are readable still.
	slices.Reverse(editions)
	for _, e := range editions {
		l := newLookups(d, e, count)
		asked := w.questions(e, 1<<20)
		for _, q := range asked[:min(25, len(asked))] {
			if err := l.resources(ctx, q); err != nil {
				return fmt.Errorf("resources: %w", err)
			}
		}
		for i := range min(25, len(asked)) {
			if err := l.together(ctx, asked[i:]); err != nil {
				return fmt.Errorf("holders: %w", err)
			}
		}
		for _, q := range asked[:min(25, len(asked))] {
			if err := l.subjects(ctx, q); err != nil {
				return fmt.Errorf("subjects: %w", err)
			}
		}
	}
	return nil
}

// together looks up what up to three subjects have their permissions on, each of them: everything of that has to be among the candidates.
func (l *lookups) together(ctx context.Context, asked []question) error {
	first := asked[0]
	var holders []authz.Holder
	ids := l.ids(first.resource.ObjectType, first.subject.ObjectID)
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	for _, q := range asked {
		if q.resource.ObjectType != first.resource.ObjectType || len(holders) == 3 {
			continue
		}
		check := evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context}
		if l.resolves(check) != nil {
			continue
		}
		query := check.Query()
		holders = append(holders, authz.Holder{Permission: query.Permission, Subject: query.Subject})
		for _, id := range ids {
			check.Resource.ObjectID = id
			a := l.memory.Check(ctx, []evaluate.Check{check})[0]
			want[id] = want[id] && (a.Outcome == authz.Yes || a.Outcome == authz.Conditional)
		}
	}
	if len(holders) == 0 || l.strays {
		return nil
	}
	snap, err := l.memory.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return err
	}
	var all []string
	cursor := ""
	for begun := false; !begun || cursor != ""; begun = true {
		var found []authz.Resource
		reachable := authz.Reachable{ResourceType: first.resource.ObjectType, Holders: holders}
		if found, cursor, err = snap.Resources(ctx, reachable, 1+len(all)%5, cursor); err != nil {
			return err
		}
		for _, f := range found {
			all = append(all, f.ID)
		}
	}
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) < len(all) {
		return fmt.Errorf("candidates of %v are not in order: %v", holders, all)
	}
	for id, reached := range want {
		if _, found := slices.BinarySearch(all, id); reached && !found {
			return fmt.Errorf("%s is no candidate of %v\n%s\n%v", id, holders, l.text, l.edition.rows)
		}
		if reached {
			l.count.together++
		}
	}
	return nil
}

// lookups are those of one edition.
type lookups struct {
	*desk
	*edition
	count *lookupTally
	// named are the ids of all objects by type, and strays says that the schema does not admit some relationship.
	named  map[string]map[string]bool
	strays bool
}

func newLookups(d *desk, e *edition, count *lookupTally) *lookups {
	l := &lookups{desk: d, edition: e, count: count, named: map[string]map[string]bool{}}
	for _, rel := range e.rows {
		for _, o := range []tuple.ObjectAndRelation{rel.Resource, rel.Subject} {
			if l.named[o.ObjectType] == nil {
				l.named[o.ObjectType] = map[string]bool{"nobody": true}
			}
			l.named[o.ObjectType][o.ObjectID] = true
		}
		l.strays = l.strays || !l.admits(rel)
	}
	if l.strays {
		count.strays++
	}
	return l
}

// admits reports whether the schema admits the kind of a relationship's subject, whatever its caveat and expiration.
func (l *lookups) admits(rel tuple.Relationship) bool {
	member := l.memory.Rules.Schema.Member(model.Name{Type: rel.Resource.ObjectType, Member: rel.Resource.Relation})
	kind := model.KindOf(rel)
	return member != nil && slices.ContainsFunc(member.Allowed, func(a model.Allowed) bool {
		return a.Type == kind.Type && a.Relation == kind.Relation && a.Wildcard == kind.Wildcard
	})
}

// ids returns all ids of a type, and another one.
func (l *lookups) ids(objectType, more string) []string {
	all := map[string]bool{more: true}
	maps.Copy(all, l.named[objectType])
	delete(all, tuple.PublicWildcard)
	return slices.Sorted(maps.Keys(all))
}

// resources compares what a question's subject has the permission on.
func (l *lookups) resources(ctx context.Context, q question) error {
	ids := l.ids(q.resource.ObjectType, q.subject.ObjectID)
	checks := make([]evaluate.Check, len(ids))
	for i, id := range ids {
		checks[i] = evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context}
		checks[i].Resource.ObjectID = id
	}
	holder := evaluate.Holder{Permission: q.resource.Relation, Subject: q.subject}
	want, refused := l.brute(ctx, ids, checks)
	look := func(after string, yield func(evaluate.Found) error) (evaluate.Wildcard, error) {
		at, err := l.native.At(l.at)
		if err != nil {
			return evaluate.Wildcard{}, err
		}
		defer at.Close()
		return evaluate.Wildcard{}, at.LookupResources(ctx, q.resource.ObjectType, holder, q.context, after, yield)
	}
	inMemory := func(after string, yield func(evaluate.Found) error) (evaluate.Wildcard, error) {
		return evaluate.Wildcard{}, l.memory.Walk(func(w *evaluate.Walk) error {
			return w.LookupResources(ctx, q.resource.ObjectType, holder, q.context, after, yield)
		})
	}
	l.count.resources++
	return l.compare(q, "resources", want, refused, look, inMemory)
}

// subjects compares who has a question's permission, of the kind of its subject.
func (l *lookups) subjects(ctx context.Context, q question) error {
	kind := evaluate.SubjectKind{Type: q.subject.ObjectType, Relation: q.subject.Relation}
	if kind.Relation == tuple.Ellipsis {
		kind.Relation = ""
	}
	const nobody = "nobody=at=all"
	ids := append(l.ids(q.subject.ObjectType, q.resource.ObjectID), nobody)
	checks := make([]evaluate.Check, len(ids))
	for i, id := range ids {
		checks[i] = evaluate.Check{Resource: q.resource, Subject: q.subject, Context: q.context}
		checks[i].Subject.ObjectID = id
	}
	want, refused := l.brute(ctx, ids, checks)
	everybody := want[nobody]
	delete(want, nobody)
	look := func(after string, yield func(evaluate.Found) error) (evaluate.Wildcard, error) {
		at, err := l.native.At(l.at)
		if err != nil {
			return evaluate.Wildcard{}, err
		}
		defer at.Close()
		return at.LookupSubjects(ctx, q.resource, kind, q.context, after, yield)
	}
	inMemory := func(after string, yield func(evaluate.Found) error) (all evaluate.Wildcard, err error) {
		err = l.memory.Walk(func(w *evaluate.Walk) error {
			all, err = w.LookupSubjects(ctx, q.resource, kind, q.context, after, yield)
			return err
		})
		return all, err
	}
	l.count.subjects++
	if everybody.Outcome == authz.No || refused {
		return l.compare(q, "subjects", want, refused, look, inMemory)
	}
	// A subject that is not listed has what everybody has, and exceptions are subjects that have something else, or less.
	l.count.wildcard++
	for _, look := range []looking{look, inMemory} {
		listed := map[string]Answer{}
		all, err := look("", func(f evaluate.Found) error { listed[f.ID] = answerOf(f.Answer); return nil })
		if err != nil {
			return err
		}
		if all.Outcome == authz.No && everybody.Outcome == authz.Failed {
			continue // without a wildcard nobody is looked at whom nothing names
		}
		if answerOf(all.Answer) != everybody {
			return l.differs(q, "everybody", everybody, answerOf(all.Answer))
		}
		except := map[string]Answer{}
		for _, f := range all.Except {
			except[f.ID] = answerOf(f.Answer)
		}
		for id, a := range want {
			got, ok := listed[id]
			if !ok {
				if got, ok = except[id]; !ok {
					got = everybody
				}
			}
			if got != a {
				return l.differs(q, id, a, got)
			}
			if _, excepted := except[id]; excepted != (ok && a.Outcome != authz.Yes && a.Outcome != everybody.Outcome) {
				return l.differs(q, id+" as an exception", a, got)
			}
		}
	}
	return nil
}

// brute answers checks one by one. refused says that they are refused as a whole.
func (l *lookups) brute(ctx context.Context, ids []string, checks []evaluate.Check) (answers map[string]Answer, refused bool) {
	answers = map[string]Answer{}
	for i, id := range ids {
		if id == tuple.PublicWildcard {
			continue
		}
		answers[id] = answerOf(l.memory.Check(ctx, checks[i:i+1])[0])
	}
	probe := checks[0]
	return answers, errors.Is(l.resolves(probe), errRefused)
}

var errRefused = errors.New("refused")

// resolves reports whether the schema has what a check names.
func (l *lookups) resolves(c evaluate.Check) error {
	if l.memory.Rules.Lacks(c.Resource, c.Subject) != nil || c.Subject.ObjectID == tuple.PublicWildcard {
		return errRefused
	}
	return nil
}

// looking is a lookup after an id.
type looking func(after string, yield func(evaluate.Found) error) (evaluate.Wildcard, error)

// compare compares lookups with what there is, and with themselves from each place on.
func (l *lookups) compare(q question, what string, want map[string]Answer, refused bool, all ...looking) error {
	for _, look := range all {
		var found []evaluate.Found
		_, err := look("", func(f evaluate.Found) error { found = append(found, f); return nil })
		if refused != (err != nil) {
			return fmt.Errorf("%s of %s: refused: %v, error: %w", what, q, refused, err)
		}
		if refused {
			continue
		}
		if !slices.IsSortedFunc(found, func(a, b evaluate.Found) int { return strings.Compare(a.ID, b.ID) }) {
			return fmt.Errorf("%s of %s are not in order: %v", what, q, found)
		}
		listed := map[string]Answer{}
		for _, f := range found {
			if _, twice := listed[f.ID]; twice {
				return fmt.Errorf("%s of %s: %s twice", what, q, f.ID)
			}
			listed[f.ID] = answerOf(f.Answer)
			if want[f.ID] != listed[f.ID] {
				return l.differs(q, f.ID, want[f.ID], listed[f.ID])
			}
		}
		for id, a := range want {
			l.tally(a)
			if _, ok := listed[id]; ok || a.Outcome == authz.No || l.strays {
				continue
			}
			if a.Outcome != authz.Failed {
				return l.differs(q, id, a, Answer{})
			}
			l.count.tooDeep++
		}
		// A list that is cut goes on behind the last one. Of a long one, some places are tried.
		for i := 0; i < len(found); i += 1 + len(found)/12 {
			var rest []evaluate.Found
			if _, err := look(found[i].ID, func(f evaluate.Found) error { rest = append(rest, f); return nil }); err != nil {
				return err
			}
			if !slices.EqualFunc(rest, found[i+1:], func(a, b evaluate.Found) bool { return a.ID == b.ID && answerOf(a.Answer) == answerOf(b.Answer) }) {
				return fmt.Errorf("%s of %s behind %s: %v, want %v", what, q, found[i].ID, rest, found[i+1:])
			}
			l.count.cut++
		}
	}
	return nil
}

func (l *lookups) tally(a Answer) {
	switch a.Outcome {
	case authz.Yes:
		l.count.yes++
	case authz.Conditional:
		l.count.conditional++
	case authz.Failed:
		l.count.failed++
	}
}

func (l *lookups) differs(q question, id string, want, got Answer) error {
	return fmt.Errorf("lookup beside %s: of %s a check says %v, a lookup %v\n%s\n%v", q, id, want, got, l.text, l.edition.rows)
}
