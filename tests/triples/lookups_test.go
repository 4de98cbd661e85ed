package triples

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/fixture/world"
)

// TestLookups takes all triples of every file through both lookups: what a subject reaches, and who reaches a resource, is what
// the checks of the triples say.
func TestLookups(t *testing.T) {
	t.Parallel()
	triples, lookups, found := 0, 0, 0
	for _, f := range files(t) {
		rules, err := world.NewRules(f.definitions, f.caveats)
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		w := world.New(time.Now)
		w.Touch(f.parsed.Relationships.Relationships...)
		graph := w.Under(rules)
		var all []triple
		for _, one := range f.triples() {
			if rules.Lacks(one.resource, one.subject) == nil && one.subject.ObjectID != tuple.PublicWildcard {
				all = append(all, one)
			}
		}
		checks := make([]evaluate.Check, len(all))
		for i, one := range all {
			checks[i] = evaluate.Check{Resource: one.resource, Subject: one.subject}
		}
		answers := map[triple]evaluate.Answer{}
		for i, a := range graph.Check(t.Context(), checks) {
			answers[all[i]] = a
		}
		triples += len(all)
		n := lookUp(t, f, graph, answers)
		lookups, found = lookups+n[0], found+n[1]
	}
	t.Logf("%d triples, %d lookups, %d found", triples, lookups, found)
	if found < 5000 {
		t.Errorf("only %d are found", found)
	}
}

// lookUp compares both lookups of everything that answers are of, and returns how many there were and how much they found.
func lookUp(t *testing.T, f file, graph *world.Graph, answers map[triple]evaluate.Answer) (count [2]int) {
	t.Helper()
	// Each lookup is named by a triple without the id that it finds.
	resources, subjects := map[triple]bool{}, map[triple]bool{}
	for one := range answers {
		byResource, bySubject := one, one
		byResource.resource.ObjectID, bySubject.subject.ObjectID = "", ""
		resources[byResource], subjects[bySubject] = true, true
	}
	compare := func(what string, one triple, whole func(id string) triple, found map[string]evaluate.Answer) {
		count[0]++
		count[1] += len(found)
		for id, a := range found {
			if want, asked := answers[whole(id)]; asked && fmt.Sprint(want.Outcome, want.Missing) != fmt.Sprint(a.Outcome, a.Missing) {
				t.Errorf("%s: %s of %s: %s is %v %v, a check says %v %v", f.name, what, one, id, a.Outcome, a.Missing, want.Outcome, want.Missing)
			}
		}
	}
	missing := func(what string, one triple, a evaluate.Answer) {
		if a.Outcome == authz.Yes || a.Outcome == authz.Conditional {
			t.Errorf("%s: %s leave out %s, of which a check says %v", f.name, what, one, a.Outcome)
		}
	}
	byText := func(a, b triple) int { return cmp.Compare(a.String(), b.String()) }
	listed := map[triple]map[string]evaluate.Answer{}
	for _, one := range slices.SortedFunc(maps.Keys(resources), byText) {
		into := map[string]evaluate.Answer{}
		if err := graph.Walk(func(w *evaluate.Walk) error {
			holder := evaluate.Holder{Permission: one.resource.Relation, Subject: one.subject}
			return w.LookupResources(t.Context(), one.resource.ObjectType, holder, nil, "", func(f evaluate.Found) error { into[f.ID] = f.Answer; return nil })
		}); err != nil {
			t.Fatalf("%s: %s: %v", f.name, one, err)
		}
		listed[one] = into
		compare("resources", one, func(id string) triple { w := one; w.resource.ObjectID = id; return w }, into)
	}
	for one, a := range answers {
		by := one
		by.resource.ObjectID = ""
		if _, ok := listed[by][one.resource.ObjectID]; !ok {
			missing("resources", one, a)
		}
	}
	everybody := map[triple]evaluate.Wildcard{}
	listed = map[triple]map[string]evaluate.Answer{}
	for _, one := range slices.SortedFunc(maps.Keys(subjects), byText) {
		into := map[string]evaluate.Answer{}
		kind := evaluate.SubjectKind{Type: one.subject.ObjectType, Relation: one.subject.Relation}
		if kind.Relation == tuple.Ellipsis {
			kind.Relation = ""
		}
		if err := graph.Walk(func(w *evaluate.Walk) (err error) {
			everybody[one], err = w.LookupSubjects(t.Context(), one.resource, kind, nil, "", func(f evaluate.Found) error { into[f.ID] = f.Answer; return nil })
			return err
		}); err != nil {
			t.Fatalf("%s: %s: %v", f.name, one, err)
		}
		for _, except := range everybody[one].Except {
			into[except.ID] = except.Answer
		}
		listed[one] = into
		compare("subjects", one, func(id string) triple { w := one; w.subject.ObjectID = id; return w }, into)
	}
	for one, a := range answers {
		by := one
		by.subject.ObjectID = ""
		if _, ok := listed[by][one.subject.ObjectID]; ok {
			continue
		}
		if all := everybody[by]; all.Outcome != authz.No {
			if all.Outcome != a.Outcome {
				t.Errorf("%s: everybody is %v, of %s a check says %v", f.name, all.Outcome, one, a.Outcome)
			}
			continue
		}
		missing("subjects", one, a)
	}
	return count
}
