package cli

import (
	"strings"
	"testing"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/schema/source"
)

// TestTrace: a trace names the operators of each permission and the relationships by which it comes from one object to the next, in the
// order of the schema.
func TestTrace(t *testing.T) {
	t.Parallel()
	parsed, err := source.Parse("s.zed", `definition user {}
definition group {
	relation member: user
}
definition folder {
	relation reader: user
	permission view = reader
}
definition document {
	relation reader: user | group#member
	relation banned: user
	relation folder: folder
	relation archive: folder
	permission view = ((reader + folder->view) & (reader + archive->view)) - banned
}`, nil, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	model, err := parsed.Model()
	if err != nil {
		t.Fatal(err)
	}
	of := func(text, permission string, children ...*deputy.CheckTrace) *deputy.CheckTrace {
		objectType, id, _ := strings.Cut(text, ":")
		return &deputy.CheckTrace{
			Resource: &deputy.ObjectReference{ObjectType: objectType, ObjectId: id}, Permission: permission, Children: children,
			Subject: &deputy.SubjectReference{Object: &deputy.ObjectReference{ObjectType: "user", ObjectId: "alice"}}, Outcome: deputy.Outcome_OUTCOME_YES,
		}
	}
	root := of("document:plan", "view",
		of("document:plan", "banned"),
		of("folder:q3", "view", of("folder:q3", "reader")),
		of("document:plan", "reader", of("group:staff", "member")))
	const want = `document:plan#view@user:alice	yes	view = ((reader + folder->view) & (reader + archive->view)) - banned
  document:plan#reader@user:alice	yes	
    group:staff#member@user:alice	yes	by document:plan#reader@group:staff#member
  folder:q3#view@user:alice	yes	by document:plan#folder@folder:q3 or document:plan#archive@folder:q3; view = reader
    folder:q3#reader@user:alice	yes	
  document:plan#banned@user:alice	yes	
`
	var got strings.Builder
	(&tracer{model}).rows(&got, nil, root, "")
	if got.String() != want {
		t.Errorf("the trace is\n%swant\n%s", got.String(), want)
	}
	got.Reset()
	if (&tracer{}).rows(&got, nil, root, ""); strings.Count(got.String(), "\n") != 6 {
		t.Errorf("without a schema the trace is\n%s", got.String())
	}
}
