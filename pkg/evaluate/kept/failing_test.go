package kept

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
)

// failing are rows of a store of which so many can be read, and then none.
type failing struct {
	evaluate.Rows
	left   int
	failed bool
}

var errDisk = errors.New("the disk does not answer")

func (f *failing) read() error {
	if f.left--; f.left >= 0 {
		return nil
	}
	f.failed = true
	return errDisk
}

func (f *failing) Object(objectType, id string, limit int) ([]evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.Object(objectType, id, limit)
}

func (f *failing) Subject(r *evaluate.Row, limit int) ([]evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.Subject(r, limit)
}

func (f *failing) Relation(objectType, id, relation string, limit int) ([]evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.Relation(objectType, id, relation, limit)
}

func (f *failing) Usersets(objectType, id, relation string, limit int) ([]evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.Usersets(objectType, id, relation, limit)
}

func (f *failing) Page(objectType, id, relation string, usersets bool, after *evaluate.Row, limit int) ([]evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.Page(objectType, id, relation, usersets, after, limit)
}

func (f *failing) Find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (evaluate.Row, bool, error) {
	if err := f.read(); err != nil {
		return evaluate.Row{}, false, err
	}
	return f.Rows.Find(objectType, id, relation, subjectType, subjectRelation, subjectID)
}

func (f *failing) ResourceIDs(subjectType, subjectRelation, subjectID, objectType, relation, from string, limit int) ([]string, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.ResourceIDs(subjectType, subjectRelation, subjectID, objectType, relation, from, limit)
}

func (f *failing) SubjectIDs(objectType, id, relation, subjectType, subjectRelation, from string, limit int) ([]string, bool, error) {
	if err := f.read(); err != nil {
		return nil, false, err
	}
	return f.Rows.SubjectIDs(objectType, id, relation, subjectType, subjectRelation, from, limit)
}

// TestAStoreThatFailsIsNoAnswer: at whatever read a store fails, a lookup, a list and an explanation end with its error. What they told before is
// what they tell of a whole store.
func TestAStoreThatFailsIsNoAnswer(t *testing.T) {
	t.Parallel()
	var rows strings.Builder
	for i := range 70 { // more than a walk reads at once
		fmt.Fprintf(&rows, "doc:wide#reader@person:p%02d doc:wide#reader@group:g%02d#member group:g%02d#member@person:m%02d doc:d%02d#reader@person:ann\n", i, i, i, i, i)
	}
	w := newWorld(t, shared, rows.String()+`doc:wide#reader@person:* doc:wide#banned@person:bob doc:wide#banned@person:m01 doc:d03#banned@person:ann
		doc:few#reader@group:h#member group:h#member@group:i#member group:i#member@person:ann`)
	head, err := w.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, err := w.evaluator.At(head.Revision.(store.Revision))
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	found := func(into *[]string) func(evaluate.Found) error {
		return func(f evaluate.Found) error { *into = append(*into, f.ID+" "+f.Outcome.String()); return nil }
	}
	explain := func(check string) func(*evaluate.Walk) ([]string, error) {
		return func(walk *evaluate.Walk) ([]string, error) {
			rel := tuple.MustParse(check)
			a, why := walk.Explain(t.Context(), evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}, evaluate.Explaining{})
			if a.Err != nil {
				if why != nil {
					t.Errorf("%s is explained, though %v", check, a.Err)
				}
				return nil, a.Err
			}
			return []string{fmt.Sprint(lines(why.Reason, ""), why.Nearest, why.Cut)}, nil
		}
	}
	ann := tuple.ONR("person", "ann", tuple.Ellipsis)
	for name, ask := range map[string]func(*evaluate.Walk) ([]string, error){
		"resources": func(walk *evaluate.Walk) (ids []string, err error) {
			err = walk.LookupResources(t.Context(), "doc", evaluate.Holder{Permission: "view", Subject: ann}, nil, "", found(&ids))
			return ids, err
		},
		"subjects": func(walk *evaluate.Walk) (ids []string, err error) {
			_, err = walk.LookupSubjects(t.Context(), tuple.ONR("doc", "wide", "view"), evaluate.SubjectKind{Type: "person"}, nil, "", found(&ids))
			return ids, err
		},
		"all subjects": func(walk *evaluate.Walk) (ids []string, err error) {
			all, complete, err := walk.FewSubjects(t.Context(), tuple.ONR("doc", "few", "view"), "person", nil)
			if complete {
				ids = []string{fmt.Sprint(all)}
			}
			return ids, err
		},
		"why yes":          explain("doc:few#view@person:ann"),
		"why no":           explain("doc:wide#view@person:m01"),
		"why nothing":      explain("doc:d03#both@person:carl"),
		"why nothing wide": explain("doc:wide#both@group:g99#member"),
	} {
		walked := func(reads int) (answer []string, failed bool, err error) {
			rows := &failing{Rows: at.Snapshot, left: reads}
			walk := at.program.Walk(rows)
			defer walk.Close()
			answer, err = ask(walk)
			return answer, rows.failed, err
		}
		whole, _, err := walked(1 << 30)
		if err != nil || len(whole) == 0 {
			t.Fatalf("%s: %v, %v", name, whole, err)
		}
		reads := 0
		for ; ; reads++ {
			answer, failed, err := walked(reads)
			if !failed {
				break
			}
			if !errors.Is(err, errDisk) {
				t.Errorf("%s: the read %d fails, and it ends with %v", name, reads+1, err)
			}
			if len(answer) > len(whole) || !slices.Equal(answer, whole[:len(answer)]) {
				t.Errorf("%s: the read %d fails, and it tells %v, not %v", name, reads+1, answer, whole)
			}
		}
		if reads < 2 { // how many depends on which objects were found to be wide before
			t.Errorf("%s takes %d reads", name, reads)
		}
	}
}
