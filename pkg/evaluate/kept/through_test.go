package kept

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

const throughSets = `
caveat hours(hour int, opens int) { hour >= opens }
definition user {}
definition group {
	relation member: user | group#member
}
definition folder {
	relation reader: user | group#member
	relation parent: folder
	permission view = reader + parent->view
}
definition document {
	relation folder: folder
	relation reader: user | user:* | user with hours | group#member
	relation approver: group#member
	relation banned: user:*
	relation exempt: group#member
	permission view = reader + folder->view
	permission sign = view & approver
	permission read = view - (banned - exempt)
}`

// through answers checks of one user, written as relationships, at the head, a line each.
func (g *Graph) through(t *testing.T, hidden func(authz.Object) (bool, error), checks ...string) (lines []string) {
	t.Helper()
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	queries := make([]authz.Query, len(checks))
	for i, check := range checks {
		rel := tuple.MustParse(check)
		queries[i] = evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}.Query()
	}
	found, err := snap.(*snapshot).Through(t.Context(), queries, hidden)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range found {
		line := checks[i] + " " + f.Outcome.String()
		if f.Grant != nil {
			line += " by " + f.Grant.String()
		}
		for _, set := range f.Only {
			line += " only " + set.String()
		}
		if f.Cut {
			line += " cut"
		}
		lines = append(lines, line)
	}
	return lines
}

// TestThrough: a grant is the last relationship on the way from the object, and a set is the only one where the check is no without it: also where it is
// what keeps somebody from being banned.
func TestThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, throughSets, "")
	w.write(t,
		"group:eng#member@user:alice", "group:ops#member@user:alice", "group:vip#member@user:alice",
		"group:eng#member@group:sub#member", "group:sub#member@user:bob",
		"document:set#reader@group:eng#member",
		"document:both#reader@group:eng#member", "document:both#reader@group:ops#member",
		"document:own#reader@user:alice", "document:own#reader@group:eng#member",
		"document:all#reader@user:*",
		"document:deep#folder@folder:inner", "folder:inner#parent@folder:outer", "folder:outer#reader@group:eng#member",
		"document:signed#reader@group:eng#member", "document:signed#approver@group:ops#member",
		"document:spared#reader@group:eng#member", "document:spared#banned@user:*", "document:spared#exempt@group:vip#member",
		`document:night#reader@user:alice[hours:{"opens":8}]`,
	)
	g := verified(t, w)
	for _, test := range []struct{ check, want string }{
		{"document:set#view@user:alice", "yes by document:set#reader@group:eng#member only group:eng#member"},
		{"document:set#view@user:bob", "yes by document:set#reader@group:eng#member only group:sub#member"},
		{"document:both#view@user:alice", "yes by document:both#reader@group:eng#member"},
		{"document:own#view@user:alice", "yes by document:own#reader@user:alice"},
		{"document:own#view@user:bob", "yes by document:own#reader@group:eng#member only group:sub#member"},
		{"document:all#view@user:alice", "yes by document:all#reader@user:*"},
		{"document:deep#view@user:alice", "yes by folder:outer#reader@group:eng#member only group:eng#member"},
		{"document:signed#sign@user:alice", "yes by document:signed#reader@group:eng#member only group:eng#member only group:ops#member"},
		{"document:spared#read@user:alice", "yes by document:spared#reader@group:eng#member only group:eng#member only group:vip#member"},
		{"document:night#view@user:alice", "conditional by document:night#reader@user:alice[hours]"},
		{"document:none#view@user:alice", "no"},
	} {
		if got := g.through(t, nil, test.check); len(got) != 1 || got[0] != test.check+" "+test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	// Checks together say what each says alone.
	checks := []string{
		"document:set#view@user:alice", "document:deep#view@user:alice", "document:spared#read@user:alice", "document:night#view@user:alice",
		"document:both#view@user:alice", "document:spared#read@user:alice",
	}
	var alone []string
	for _, check := range checks {
		alone = append(alone, g.through(t, nil, check)...)
	}
	if together := g.through(t, nil, checks...); !slices.Equal(together, alone) {
		t.Errorf("together:\n%s\nalone:\n%s", strings.Join(together, "\n"), strings.Join(alone, "\n"))
	}
	// What does not exist for the caller is not told.
	hidden := func(o authz.Object) (bool, error) { return o.ID == "eng" || o.ID == "vip", nil }
	for check, want := range map[string]string{
		"document:set#view@user:alice":    "yes",
		"document:both#view@user:alice":   "yes by document:both#reader@group:ops#member",
		"document:signed#sign@user:alice": "yes by document:signed#approver@group:ops#member only group:ops#member",
	} {
		if got := g.through(t, hidden, check); got[0] != check+" "+want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	query := evaluate.Check{Resource: tuple.MustParse(checks[0]).Resource, Subject: tuple.MustParse(checks[0]).Subject}.Query()
	if _, err := snap.(*snapshot).Through(t.Context(), []authz.Query{query}, func(authz.Object) (bool, error) { return false, broken }); err == nil {
		t.Error("what is hidden could not be told, and that is no error")
	}
}

// TestThroughLooksAtFewSets: of somebody in very many sets some are tried, and it says that they were not all.
func TestThroughLooksAtFewSets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, throughSets, "")
	rows := []string{"document:spared#banned@user:*", "document:plain#reader@group:g00#member"}
	for i := range 40 {
		rows = append(rows, fmt.Sprintf("group:g%02d#member@user:alice", i), fmt.Sprintf("document:spared#reader@group:g%02d#member", i),
			fmt.Sprintf("document:spared#exempt@group:g%02d#member", i))
	}
	w.write(t, rows...)
	got := verified(t, w).through(t, nil, "document:spared#read@user:alice", "document:plain#view@user:alice")
	if !strings.HasSuffix(got[0], "#member cut") || !strings.HasSuffix(got[1], "only group:g00#member") {
		t.Errorf("got %q", got)
	}
}
