package kept

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

const explained = `
use expiration
caveat hours(hour int, opens int) { hour >= opens }
definition user {}
definition group {
	relation member: user | group#member | user with expiration | user with hours
}
definition folder {
	relation reader: user
	relation parent: folder
	permission view = reader + parent->view
}
definition document {
	relation folder: folder
	relation reader: user | user:* | user with hours | group#member
	relation approver: user | group#member
	relation banned: user | group#member
	relation label: folder
	permission view = reader + folder->view
	permission read = view - banned
	permission sign = view & approver
	permission labelled = label.all(view)
	permission short = approver + reader
}`

// lines shows a reason, a node a line.
func lines(r *authz.Reason, indent string) string {
	kind := map[authz.ReasonKind]string{
		authz.ReasonMember: "member", authz.ReasonRelationship: "by", authz.ReasonOperation: "operation", authz.ReasonAbsent: "absent",
		authz.ReasonCycle: "cycle", authz.ReasonAbove: "above", authz.ReasonHidden: "hidden", authz.ReasonDepth: "deep", authz.ReasonCut: "cut",
	}[r.Kind]
	text := indent + kind + " "
	switch {
	case r.Kind == authz.ReasonRelationship:
		text += r.Relationship.String()
	case r.Expression != "" && r.Kind == authz.ReasonOperation:
		text += r.Expression
	default:
		text += r.Object.String() + "#" + r.Member
	}
	if r.Kind == authz.ReasonAbsent && r.Relationship != nil {
		text += " expired"
	}
	if r.Subtracted {
		text += " minus"
	}
	if r.Admits {
		text += " admits"
	}
	if c := r.Caveat; c != nil {
		text += fmt.Sprintf(" %s %v missing %v", c.Name, c.Values, c.Missing)
	}
	text += " " + r.Outcome.String()
	if r.Others > 0 {
		text += fmt.Sprintf(" and %d others", r.Others)
	}
	text += "\n"
	for _, c := range r.Children {
		text += lines(c, indent+"  ")
	}
	return text
}

// explained explains a check, written as a relationship, at the head.
func (g *Graph) explained(t *testing.T, check string, given map[string]any, hidden func(authz.Object) (bool, error)) string {
	t.Helper()
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	rel := tuple.MustParse(check)
	q := evaluate.Check{Resource: rel.Resource, Subject: rel.Subject, Context: given}.Query()
	plain, err := snap.Check(t.Context(), []authz.Query{q})
	if err != nil {
		t.Fatal(err)
	}
	q.Explain = &authz.Explaining{Hidden: hidden}
	answers, err := snap.Check(t.Context(), []authz.Query{q})
	if err != nil {
		t.Fatal(err)
	}
	got := answers[0]
	why := got.Explanation
	if why == nil || why.Reason == nil {
		t.Fatalf("%s is not explained: %+v", check, got)
	}
	if got.Outcome != plain[0].Outcome || why.Outcome != got.Outcome || why.Reason.Outcome != got.Outcome || !slices.Equal(why.Missing, plain[0].Missing) {
		t.Errorf("%s: %s, explained as %s and %s", check, plain[0].Outcome, got.Outcome, why.Outcome)
	}
	text := lines(why.Reason, "")
	for _, set := range why.Nearest {
		text += "nearest"
		for _, one := range set {
			text += " " + one.String()
		}
		text += "\n"
	}
	if why.Cut {
		text += "cut\n"
	}
	return text
}

// TestExplanations: what is said of each kind of outcome.
func TestExplanations(t *testing.T) { //nolint:tparallel // its subtests share a world
	t.Parallel()
	w := newWorld(t, explained, `
		document:plan#folder@folder:q3
		folder:q3#parent@folder:root
		folder:root#reader@user:ann
		document:plan#reader@group:far#member
		group:far#member@group:staff#member
		group:staff#member@user:amy
		document:plan#reader@user:amy
		document:plan#approver@user:ann
		document:plan#banned@group:barred#member
		group:barred#member@user:ann
		document:open#reader@user:*
		document:late#reader@user:bob[hours:{"opens":9}]
		document:late#reader@group:gone#member
		document:ring#reader@group:one#member
		group:one#member@group:two#member
		group:two#member@group:one#member
		document:short#approver@group:far#member
		document:short#reader@user:amy
		document:firm#reader@user:amy[hours:{"opens":1}]
		document:firm#approver@group:staff#member
		document:two#label@folder:root
		document:two#label@folder:dark
		document:three#label@folder:root
		document:three#label@folder:dark
		document:three#label@folder:dusk
		document:lit#label@folder:root
		document:lit#label@folder:lamp
		document:lit#label@folder:torch
		folder:lamp#reader@user:ann
		folder:torch#reader@user:ann
		document:both#reader@group:am#member
		document:both#reader@group:pm#member
		group:am#member@user:kim[hours:{"opens":9}]
		group:pm#member@user:kim[hours:{"opens":13}]
		group:gone#member@user:bob[expiration:2020-01-01T00:00:00Z]`)
	g := verified(t, w)
	for _, test := range []struct {
		name, check string
		given       map[string]any
		want        string
	}{
		{"the shortest path", "document:plan#view@user:amy", nil, `
member document:plan#view yes
  member document:plan#reader yes
    by document:plan#reader@user:amy yes`},
		{"the shortest path, which is not the first", "document:short#short@user:amy", nil, `
member document:short#short yes
  member document:short#reader yes
    by document:short#reader@user:amy yes`},
		{"a path without a condition", "document:firm#short@user:amy", map[string]any{"hour": 9.0}, `
member document:firm#short yes
  member document:firm#approver yes
    by document:firm#approver@group:staff#member yes
      member group:staff#member yes
        by group:staff#member@user:amy yes`},
		{"a path over objects", "document:plan#view@user:ann", nil, `
member document:plan#view yes
  by document:plan#folder@folder:q3 yes
    member folder:q3#view yes
      by folder:q3#parent@folder:root yes
        member folder:root#view yes
          member folder:root#reader yes
            by folder:root#reader@user:ann yes`},
		{"who is banned by what", "document:plan#read@user:ann", nil, `
member document:plan#read no
  operation view - banned no
    member document:plan#view yes
    member document:plan#banned minus yes
      by document:plan#banned@group:barred#member yes
        member group:barred#member yes
          by group:barred#member@user:ann yes`},
		{"the side that is missing", "document:plan#sign@user:amy", nil, `
member document:plan#sign no
  operation view & approver no
    member document:plan#view yes
    absent document:plan#approver admits no
nearest document:plan#approver@user:amy`},
		{"both sides are missing", "document:open#sign@group:staff#member", nil, `
member document:open#sign no
  operation view & approver no
    member document:open#view no
      absent document:open#reader admits no
      absent document:open#folder no
    absent document:open#approver admits no
nearest document:open#reader@group:staff#member document:open#approver@group:staff#member`},
		{"a wildcard", "document:open#view@user:zoe", nil, `
member document:open#view yes
  member document:open#reader yes
    by document:open#reader@user:* yes`},
		{"the object that lacks it", "document:two#labelled@user:ann", nil, `
member document:two#labelled no
  operation label.all(view) no
    by document:two#label@folder:dark no
      member folder:dark#view no
        absent folder:dark#reader admits no
        absent folder:dark#parent no
nearest folder:dark#reader@user:ann`},
		{"no object", "document:plan#labelled@user:ann", nil, `
member document:plan#labelled no
  operation label.all(view) no
    absent document:plan#label no`},
		{"a caveat that is false, and what has expired", "document:late#view@user:bob", map[string]any{"hour": 8.0}, `
member document:late#view no
  member document:late#reader no
    by document:late#reader@user:bob[hours] hours [{hour 8 false} {opens 9 true}] missing [] no
    by document:late#reader@group:gone#member no
      absent group:gone#member expired admits no
  absent document:late#folder no
nearest document:late#reader@user:bob
nearest group:gone#member@user:bob`},
		{"a caveat that is open", "document:late#view@user:bob", nil, `
member document:late#view conditional
  member document:late#reader conditional
    by document:late#reader@user:bob[hours] hours [{opens 9 true}] missing [hour] conditional`},
		{"a ring", "document:ring#view@user:bob", nil, `
member document:ring#view error
  member document:ring#reader error
    by document:ring#reader@group:one#member error
      member group:one#member error
        by group:one#member@group:two#member error
          member group:two#member error
            by group:two#member@group:one#member error
              cycle group:one#member error`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := g.explained(t, test.check, test.given, nil); strings.TrimSpace(got) != strings.TrimSpace(test.want) {
				t.Errorf("got\n%swant%s", got, test.want)
			}
		})
	}
	t.Run("hidden", func(t *testing.T) {
		hidden := func(o authz.Object) (bool, error) { return o.ID == "far" || o.ID == "q3" || o.ID == "barred", nil }
		if got := g.explained(t, "document:plan#view@user:ann", nil, hidden); !strings.Contains(got, "hidden") || strings.Contains(got, "q3") {
			t.Errorf("a yes by what is hidden:\n%s", got)
		}
		if got := g.explained(t, "document:plan#view@user:bob", nil, hidden); strings.Contains(got, "far") || strings.Contains(got, "q3") || strings.Contains(got, "hidden") {
			t.Errorf("a no:\n%s", got)
		}
		// However many hidden objects an outcome comes from, one line stands for them.
		for _, test := range []struct {
			name, check string
			hidden      []string
			want        int
		}{
			{"a no of .all by hidden objects alone", "document:three#labelled@user:ann", []string{"dark", "dusk"}, 1},
			{"a no of .all by one that may be seen too", "document:three#labelled@user:ann", []string{"dusk"}, 0},
			{"a yes of .all", "document:lit#labelled@user:ann", []string{"lamp", "torch"}, 1},
			{"a condition", "document:both#view@user:kim", []string{"am", "pm"}, 1},
		} {
			hidden := func(o authz.Object) (bool, error) { return slices.Contains(test.hidden, o.ID), nil }
			got := g.explained(t, test.check, nil, hidden)
			if n := strings.Count(got, "hidden"); n != test.want || slices.ContainsFunc(test.hidden, func(id string) bool { return strings.Contains(got, ":"+id+"#") }) {
				t.Errorf("%s: %d lines about what is hidden, want %d:\n%s", test.name, n, test.want, got)
			}
		}
	})
}

// TestAnExplanationIsBounded: of what is wide a few are shown, and the rest is counted; what is long is cut, and a deep one ends.
func TestAnExplanationIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	var rows []string
	for i := range 300 {
		rows = append(rows, fmt.Sprintf("document:wide#reader@group:g%03d#member", i), fmt.Sprintf("document:wide#reader@user:u%03d", i))
	}
	for i := range 2500 {
		rows = append(rows, fmt.Sprintf("document:veiled#reader@group:v%04d#member", i), fmt.Sprintf("document:lit#reader@group:l%04d#member", i),
			fmt.Sprintf("group:l%04d#member@user:lea", i))
	}
	for i := range 60 {
		rows = append(rows, fmt.Sprintf("folder:f%02d#parent@folder:f%02d", i, i+1))
	}
	rows = append(rows, "document:deep#folder@folder:f00", "group:g299#member@user:amy", "document:bushy#reader@group:t#member")
	groups := []string{"t"}
	for range 4 { // each group has four groups, so that there are 341
		var below []string
		for _, name := range groups {
			for _, child := range "abcd" {
				below = append(below, name+string(child))
				rows = append(rows, fmt.Sprintf("group:%s#member@group:%s%c#member", name, name, child))
			}
		}
		groups = below
	}
	w := newWorld(t, explained, strings.Join(rows, "\n"))
	g := verified(t, w)
	started := time.Now()
	if got := g.explained(t, "document:wide#view@user:bob", nil, nil); strings.Count(got, "\n") > 20 || !strings.Contains(got, "and 295 others") {
		t.Errorf("a wide no:\n%s", got)
	}
	if got := g.explained(t, "document:wide#view@user:amy", nil, nil); !strings.Contains(got, "group:g299#member@user:amy") || strings.Contains(got, "g000") {
		t.Errorf("a wide yes:\n%s", got)
	}
	if got := g.explained(t, "document:deep#view@user:bob", nil, nil); !strings.Contains(got, "deep folder:f") && !strings.Contains(got, "\ncut\n") {
		t.Errorf("a deep one:\n%s", got)
	}
	if got := g.explained(t, "document:bushy#view@user:bob", nil, nil); strings.Count(got, "\n") > 250 || !strings.Contains(got, "cut ") || !strings.HasSuffix(got, "\ncut\n") {
		t.Errorf("a bushy no, of %d lines:\n%s", strings.Count(got, "\n"), got)
	}
	asked := 0
	hidden := func(o authz.Object) (bool, error) { asked++; return o.Type == "group", nil }
	if got := g.explained(t, "document:veiled#view@user:bob", nil, hidden); asked > 1100 || strings.Contains(got, "group:v") || !strings.Contains(got, "\ncut\n") {
		t.Errorf("%d objects were asked about for a no by hidden ones:\n%s", asked, got)
	}
	if got := g.explained(t, "document:lit#view@user:lea", nil, hidden); strings.Contains(got, "group:l") || strings.Count(got, "hidden") != 1 {
		t.Errorf("a yes by hidden ones:\n%s", got)
	}
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestAnExplanationOfThen: a decision of the past is explained by what had not expired then.
func TestAnExplanationOfThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, explained, "group:g#member@user:bob[expiration:2020-01-01T00:00:00Z]")
	g := verified(t, w)
	head, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	then, err := g.Snapshot(t.Context(), authz.Freshness{Exactly: head.Revision(), Moment: time.Date(2019, 12, 31, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	rel := tuple.MustParse("group:g#member@user:bob")
	q := evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}.Query()
	q.Explain = &authz.Explaining{Trace: true}
	answers, err := then.Check(t.Context(), []authz.Query{q})
	if err != nil || answers[0].Outcome != authz.Yes || !strings.Contains(lines(answers[0].Explanation.Reason, ""), "by group:g#member@user:bob") {
		t.Errorf("%+v, %v", answers, err)
	}
	if answers[0].Explanation.Trace != nil {
		t.Error("SpiceDB, which judges by the clock, is asked about then")
	}
}

// TestTheStricterAnswerHasNoReasons: where SpiceDB's answer holds because the two differ, the evaluator's reasons, which are of another
// answer, are left out.
func TestTheStricterAnswerHasNoReasons(t *testing.T) {
	t.Parallel()
	w := newWorld(t, explained, "document:plan#reader@user:amy")
	g := verified(t, w)
	g.verifier.distrust(permissionName{"document", "view"})
	refuse(g).Store(true)
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	rel := tuple.MustParse("document:plan#view@user:amy")
	q := evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}.Query()
	q.Explain = &authz.Explaining{}
	answers, err := snap.Check(t.Context(), []authz.Query{q})
	if err != nil || answers[0].Outcome != authz.No || answers[0].Explanation != nil {
		t.Errorf("%+v, %v", answers, err)
	}
}

// refuse has a graph's engine answer every check with no, while the switch is on that it returns. It is called before anything is asked, because what
// verifies answers reads the engine too.
func refuse(g *Graph) *atomic.Bool {
	on := &atomic.Bool{}
	g.Graph = refusing{g.Graph, on}
	return on
}

type refusing struct {
	authz.Graph

	on *atomic.Bool
}

func (r refusing) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	snap, err := r.Graph.Snapshot(ctx, f)
	if err != nil || !r.on.Load() {
		return snap, err
	}
	return refusingSnapshot{snap}, nil
}

type refusingSnapshot struct{ authz.Snapshot }

func (refusingSnapshot) Check(_ context.Context, queries []authz.Query) ([]authz.Answer, error) {
	return make([]authz.Answer, len(queries)), nil
}
