package kept

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
)

const reasons = `
use expiration
use self
caveat hours(hour int, opens int) { hour >= opens }
caveat ratio(part int, whole int) { part / whole > 0 }
definition user {}
definition group {
	relation member: user | group#member
}
definition folder {
	relation parent: folder
	relation reader: user
	permission view = reader + parent->view
}
definition document {
	relation folder: folder
	relation label: folder
	relation first: user
	relation second: user
	relation third: user
	relation fourth: user
	relation team: group#member
	relation guest: user:* | user with hours
	relation timed: user with expiration
	relation open: user | user:* with hours
	relation shared: user | group#member | group#member with hours
	relation some: user with hours | user with ratio | user:* with ratio
	relation other: user with ratio
	relation banned: user | user with hours
	relation pardoned: user
	permission base = first
	permission read = base - banned
	permission forgiven = first - (banned - pardoned)
	permission either = first + second + third
	permission four = first & second & third & fourth
	permission pair = first & second
	permission farther = (first & second) + third
	permission nearer = folder->view + first
	permission twice = first & (first + second)
	permission own = first - (first & second)
	permission only_first = first - second
	permission failing = some + other
	permission longer = team + first
	permission sides = longer & team
	permission alias = first
	permission around = team + folder->view
	permission labelled = label.all(view)
	permission above = folder->view
}`

// TestReasons: what is said of each kind of outcome, and which grants are offered.
func TestReasons(t *testing.T) { //nolint:tparallel // its subtests share a world
	t.Parallel()
	var wide strings.Builder
	for i := range 70 { // more than a walk reads at once
		fmt.Fprintf(&wide, "document:wide#open@user:u%02d document:wide#second@user:u%02d\n", i, i)
	}
	for i := range 9 {
		fmt.Fprintf(&wide, "document:many#label@folder:dark%d document:most#label@folder:light%d folder:light%d#reader@user:amy\n", i, i, i)
	}
	w := newWorld(t, reasons, wide.String()+`
		document:wide#open@user:*[hours:{"opens":9}]
		document:d#guest@user:cat[hours:{"opens":9}]
		document:d#shared@group:g#member[hours:{"opens":9}]
		group:g#member@group:h#member
		group:h#member@user:amy
		document:d#some@user:bob[hours:{"opens":9}]
		document:d#some@user:*[ratio:{"part":0,"whole":1}]
		document:f#some@user:bob[ratio:{"part":1,"whole":0}]
		document:f#other@user:bob[ratio:{"part":2,"whole":0}]
		document:d#first@user:dan
		document:d#banned@user:dan[hours:{"opens":9}]
		document:d#first@user:eve
		document:d#banned@user:eve
		document:d#pardoned@user:eve
		document:own#second@user:bob
		document:d#folder@folder:left
		document:d#folder@folder:right
		folder:left#parent@folder:root
		folder:right#parent@folder:root
		document:s#team@group:g#member
		document:s#first@user:amy
		document:v#team@group:k#member
		group:k#member@user:amy
		document:v#folder@folder:left
		folder:root#reader@user:amy`)
	g := verified(t, w)
	for _, test := range []struct {
		name, check string
		given       map[string]any
		hidden      string
		want        string
	}{
		{"the base of an exclusion is missing", "document:none#read@user:bob", nil, "", `
member document:none#read no
  operation base - banned no
    member document:none#base no
      absent document:none#first admits no
nearest document:none#first@user:bob`},
		{"nothing is taken away", "document:s#read@user:amy", nil, "", `
member document:s#read yes
  operation base - banned yes
    member document:s#base yes
      member document:s#first yes
        by document:s#first@user:amy yes
    member document:s#banned minus no`},
		{"what is taken away is open", "document:d#read@user:dan", nil, "", `
member document:d#read conditional
  operation base - banned conditional
    member document:d#base yes
    member document:d#banned minus conditional
      by document:d#banned@user:dan[hours] hours [{opens 9 true}] missing [hour] conditional`},
		{"what takes nothing away hangs on a relationship", "document:d#forgiven@user:eve", nil, "", `
member document:d#forgiven yes
  operation first - (banned - pardoned) yes
    member document:d#first yes
      by document:d#first@user:eve yes
    operation banned - pardoned minus no
      member document:d#banned yes
      member document:d#pardoned minus yes
        by document:d#pardoned@user:eve yes`},
		{"of three grants that would do, two are offered", "document:none#either@user:bob", nil, "", `
member document:none#either no
  absent document:none#first admits no
  absent document:none#second admits no
  absent document:none#third admits no
nearest document:none#first@user:bob
nearest document:none#second@user:bob`},
		{"four grants at once are too many", "document:none#four@user:bob", nil, "", `
member document:none#four no
  operation first & second & third & fourth no
    absent document:none#first admits no
    absent document:none#second admits no
    absent document:none#third admits no
    absent document:none#fourth admits no`},
		{"one grant comes before two", "document:none#farther@user:bob", nil, "", `
member document:none#farther no
  operation first & second no
    absent document:none#first admits no
    absent document:none#second admits no
  absent document:none#third admits no
nearest document:none#third@user:bob
nearest document:none#first@user:bob document:none#second@user:bob`},
		{"a grant here comes before one farther away", "document:d#nearer@user:bob", nil, "", `
member document:d#nearer no
  by document:d#folder@folder:left no
    member folder:left#view no
      absent folder:left#reader admits no
      by folder:left#parent@folder:root no
        member folder:root#view no
          absent folder:root#reader admits no
          absent folder:root#parent no
  by document:d#folder@folder:right no
    member folder:right#view no
      absent folder:right#reader admits no
      by folder:right#parent@folder:root no
        above folder:root#view no
  absent document:d#first admits no
nearest document:d#first@user:bob
nearest folder:left#reader@user:bob`},
		{"a grant that serves twice is named once", "document:none#twice@user:bob", nil, "", `
member document:none#twice no
  operation first & (first + second) no
    absent document:none#first admits no
    operation first + second no
      absent document:none#first admits no
      absent document:none#second admits no
nearest document:none#first@user:bob
nearest document:none#first@user:bob document:none#second@user:bob`},
		{"a grant that would not help is not offered", "document:own#own@user:bob", nil, "", `
member document:own#own no
  operation first - (first & second) no
    absent document:own#first admits no`},
		{"a grant in one relation is none in another, wide one", "document:wide#only_first@user:bob", nil, "", `
member document:wide#only_first no
  operation first - second no
    absent document:wide#first admits no
nearest document:wide#first@user:bob`},
		{"a grant in a wide relation", "document:wide#second@user:bob", nil, "", `
absent document:wide#second admits no
nearest document:wide#second@user:bob`},
		{"a row of a wide relation", "document:wide#open@user:u05", nil, "", `
member document:wide#open yes
  by document:wide#open@user:u05 yes`},
		{"a wildcard in a wide relation", "document:wide#open@user:bob", map[string]any{"hour": 10.0}, "", `
member document:wide#open yes
  by document:wide#open@user:*[hours] hours [{hour 10 false} {opens 9 true}] missing [] yes`},
		{"a wildcard under a false caveat", "document:wide#open@user:bob", map[string]any{"hour": 8.0}, "", `
member document:wide#open no
  by document:wide#open@user:*[hours] hours [{hour 8 false} {opens 9 true}] missing [] no
nearest document:wide#open@user:bob`},
		{"a relation that cannot name the subject", "document:none#team@user:bob", nil, "", `
absent document:none#team no`},
		{"the grant of a relation that admits everybody, or one under a caveat", "document:none#guest@user:bob", map[string]any{"hour": 9.0, "opens": 1.0}, "", `
absent document:none#guest admits no
nearest document:none#guest@user:bob[hours]`},
		{"what is written with a caveat wins", "document:d#guest@user:cat", map[string]any{"hour": 8.0, "opens": 1.0}, "", `
member document:d#guest no
  by document:d#guest@user:cat[hours] hours [{hour 8 false} {opens 9 true}] missing [] no`},
		{"behind a false caveat", "document:d#shared@user:amy", map[string]any{"hour": 8.0}, "", `
member document:d#shared admits no
  by document:d#shared@group:g#member[hours] hours [{hour 8 false} {opens 9 true}] missing [] no
    member group:g#member yes
nearest document:d#shared@user:amy`},
		{"behind an open caveat", "document:d#shared@user:amy", nil, "", `
member document:d#shared conditional
  by document:d#shared@group:g#member[hours] hours [{opens 9 true}] missing [hour] conditional
    member group:g#member yes`},
		{"behind an open caveat, hidden", "document:d#shared@user:amy", nil, "g", `
member document:d#shared conditional
  hidden :# conditional`},
		{"one relationship is open, and another one false", "document:d#some@user:bob", nil, "", `
member document:d#some conditional
  by document:d#some@user:bob[hours] hours [{opens 9 true}] missing [hour] conditional`},
		{"one error is enough", "document:f#failing@user:bob", nil, "", `
member document:f#failing error
  member document:f#some error
    by document:f#some@user:bob[ratio] ratio [{part 1 true} {whole 0 true}] missing [] error`},
		{"the shortest way of one side", "document:s#sides@user:amy", nil, "", `
member document:s#sides yes
  operation longer & team yes
    member document:s#longer yes
      member document:s#first yes
        by document:s#first@user:amy yes
    member document:s#team yes
      by document:s#team@group:g#member yes
        member group:g#member yes
          by group:g#member@group:h#member yes
            member group:h#member yes
              by group:h#member@user:amy yes`},
		{"another name of a relation", "document:none#alias@user:bob", nil, "", `
member document:none#alias no
  absent document:none#first admits no
nearest document:none#first@user:bob`},
		{"of all objects, some", "document:many#labelled@user:bob", nil, "", `
member document:many#labelled no
  operation label.all(view) no and 4 others
    by document:many#label@folder:dark0 no
      member folder:dark0#view no
        absent folder:dark0#reader admits no
        absent folder:dark0#parent no
    by document:many#label@folder:dark1 no
      member folder:dark1#view no
        absent folder:dark1#reader admits no
        absent folder:dark1#parent no
    by document:many#label@folder:dark2 no
      member folder:dark2#view no
        absent folder:dark2#reader admits no
        absent folder:dark2#parent no
    by document:many#label@folder:dark3 no
      member folder:dark3#view no
        absent folder:dark3#reader admits no
        absent folder:dark3#parent no
    by document:many#label@folder:dark4 no
      member folder:dark4#view no
        absent folder:dark4#reader admits no
        absent folder:dark4#parent no`},
		{"all that leads on is hidden", "document:d#above@user:bob", nil, "left right", `
member document:d#above no
  absent document:d#folder no`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var hidden func(authz.Object) (bool, error)
			if test.hidden != "" {
				hidden = func(o authz.Object) (bool, error) { return strings.Contains(" "+test.hidden+" ", " "+o.ID+" "), nil }
			}
			if got := g.explained(t, test.check, test.given, hidden); strings.TrimSpace(got) != strings.TrimSpace(test.want) {
				t.Errorf("got\n%swant%s", got, test.want)
			}
		})
	}
	t.Run("what is hidden is not counted", func(t *testing.T) {
		some := func(o authz.Object) (bool, error) { return strings.HasSuffix(o.ID, "8"), nil }
		for check, least := range map[string]int{"document:many#labelled@user:bob": 20, "document:most#labelled@user:amy": 20} {
			if got := g.explained(t, check, nil, nil); !strings.Contains(got, "and 4 others") {
				t.Errorf("%s:\n%s", check, got)
			}
			if got := g.explained(t, check, nil, some); strings.Contains(got, "others") || strings.Count(got, "\n") < least {
				t.Errorf("%s, where one is hidden:\n%s", check, got)
			}
		}
	})
	t.Run("a way around what is hidden", func(t *testing.T) {
		hides := func(o authz.Object) (bool, error) { return o.ID == "k", nil }
		if got := g.explained(t, "document:v#around@user:amy", nil, nil); !strings.Contains(got, "by group:k#member@user:amy") {
			t.Errorf("the shortest is\n%s", got)
		}
		if got := g.explained(t, "document:v#around@user:amy", nil, hides); !strings.Contains(got, "by folder:root#reader@user:amy") || strings.Contains(got, "hidden") {
			t.Errorf("the one around is\n%s", got)
		}
	})
	t.Run("an error of telling what is hidden", func(t *testing.T) {
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range []string{"document:d#above@user:bob", "document:v#team@user:amy", "document:d#shared@user:amy"} {
			rel := tuple.MustParse(check)
			q := evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}.Query()
			q.Explain = &authz.Explaining{Hidden: func(authz.Object) (bool, error) { return false, errDisk }}
			answers, err := snap.Check(t.Context(), []authz.Query{q})
			if err != nil || answers[0].Outcome != authz.Failed || answers[0].Explanation != nil {
				t.Errorf("%s: %+v, %v", check, answers, err)
			}
		}
	})
	t.Run("an error of finding what has expired", func(t *testing.T) {
		rel := tuple.MustParse("document:none#timed@user:bob")
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		at, err := g.evaluator.At(snap.(*snapshot).at)
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		c := evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}
		find := func(found bool, err error) func(_, _, _, _, _, _ string) (evaluate.Row, bool, error) {
			return func(_, _, _, _, _, _ string) (evaluate.Row, bool, error) { return evaluate.Row{}, found, err }
		}
		if a, why := at.Explain(t.Context(), c, evaluate.Explaining{Expired: find(false, errDisk)}); !errors.Is(a.Err, errDisk) || why != nil {
			t.Errorf("%+v, %+v", a, why)
		}
		a, why := at.Explain(t.Context(), c, evaluate.Explaining{Expired: find(false, nil)})
		if a.Outcome != authz.No || len(why.Nearest) != 1 || !why.Nearest[0][0].Expires {
			t.Errorf("%+v, the nearest grants of %+v are to expire", a, why)
		}
	})
	t.Run("expressions are told", func(t *testing.T) {
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		at, err := g.evaluator.At(snap.(*snapshot).at)
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		rel := tuple.MustParse("document:s#longer@user:amy")
		if _, why := at.Explain(t.Context(), evaluate.Check{Resource: rel.Resource, Subject: rel.Subject}, evaluate.Explaining{}); why.Reason.Expression != "team + first" {
			t.Errorf("got %+v", why.Reason)
		}
	})
}

// TestALongSearchFindsAPath: where the shortest path takes too long to be found, another one is told.
func TestALongSearchFindsAPath(t *testing.T) {
	t.Parallel()
	const chains, length = 120, 20
	rows := make([]string, 0, chains*(length+1))
	for i := range chains {
		rows = append(rows, fmt.Sprintf("document:d#team@group:c%d-0#member", i), fmt.Sprintf("group:c%d-%d#member@user:amy", i, length-1))
		for k := range length - 1 {
			rows = append(rows, fmt.Sprintf("group:c%d-%d#member@group:c%d-%d#member", i, k, i, k+1))
		}
	}
	g := verified(t, newWorld(t, reasons, strings.Join(rows, "\n")))
	got := g.explained(t, "document:d#team@user:amy", nil, nil)
	if strings.Contains(got, "cut") || strings.Count(got, "by group:") != length {
		t.Errorf("got\n%s", got)
	}
}

// TestAWideNoIsCountedInPart: of a relation with a great many groups some are explained, some more are counted, and the others are not looked at.
func TestAWideNoIsCountedInPart(t *testing.T) {
	t.Parallel()
	const groups = 3000
	rows := make([]string, groups)
	for i := range rows {
		rows[i] = fmt.Sprintf("document:d#team@group:g%04d#member", i)
	}
	g := verified(t, newWorld(t, reasons, strings.Join(rows, "\n")))
	got := g.explained(t, "document:d#team@user:amy", nil, nil)
	var others int
	if _, err := fmt.Sscanf(got, "member document:d#team no and %d others", &others); err != nil || others < 1000 || others > 1100 || strings.Contains(got, "cut") {
		t.Errorf("%d others, %v:\n%s", others, err, got)
	}
	hidden := func(o authz.Object) (bool, error) { return strings.HasPrefix(o.ID, "g1"), nil }
	if got := g.explained(t, "document:d#team@user:amy", nil, hidden); strings.Contains(got, "others") || strings.Contains(got, "group:g1") {
		t.Errorf("where some are hidden:\n%s", got)
	}
}

// TestEachCheckHasItsTrace: SpiceDB's traces are those of the checks that they are with.
func TestEachCheckHasItsTrace(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, documents, "document:plan#viewer@user:alice document:memo#viewer@user:alice"))
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	var queries []authz.Query
	for i, id := range []string{"plan", "none", "memo"} {
		q := authz.Query{
			Resource: authz.Object{Type: "document", ID: id}, Permission: "view", Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "alice"}},
			Explain: &authz.Explaining{Trace: true},
		}
		if i == 1 {
			q.Explain = nil
		}
		queries = append(queries, q)
	}
	answers, err := snap.Check(t.Context(), queries)
	if err != nil || answers[1].Explanation != nil {
		t.Fatalf("%+v, %v", answers, err)
	}
	for _, i := range []int{0, 2} {
		if got := answers[i].Explanation.Trace; got == nil || got.Resource != queries[i].Resource {
			t.Errorf("%v is traced as %+v", queries[i].Resource, got)
		}
	}
}
