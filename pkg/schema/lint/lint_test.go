package lint

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/deputyauth/deputy/pkg/schema/source"
	"github.com/deputyauth/deputy/schema"
)

// check reads a schema with the core and checks it.
func check(t testing.TB, text string, o Options) []Finding {
	t.Helper()
	s, err := source.Parse("a.zed", text, nil, source.Options{Core: true})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	found, err := Check(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// lines writes findings that count as "line:column rule": those of the rules given, or of all but
// missing-doc.
func lines(found []Finding, rules ...string) string {
	var said []string
	for _, f := range found {
		if f.Suppressed == "" && (slices.Contains(rules, f.Rule) || len(rules) == 0 && f.Rule != missingDoc) {
			said = append(said, strings.TrimPrefix(f.String(), "a.zed:")+" "+f.Rule)
		}
	}
	return strings.Join(said, ", ")
}

// Each rule finds its own bad example, and nothing in its good one.
func TestRulesExplainThemselves(t *testing.T) {
	for _, r := range Rules {
		if got := check(t, r.example("bad"), Options{}); lines(got, r.Name) == "" {
			t.Errorf("%s does not find its bad example: %+v", r.Name, got)
		}
		for _, f := range check(t, r.example("good"), Options{}) {
			if f.Suppressed == "" && (f.Rule == r.Name || f.Severity == Error) {
				t.Errorf("%s: the good example has %+v", r.Name, f)
			}
		}
		for _, text := range []string{r.example("bad"), r.example("good")} {
			if formatted, err := source.Format("a.zed", text); err != nil || formatted != text {
				t.Errorf("%s: an example is not formatted: %v\n%s", r.Name, err, formatted)
			}
		}
		explained := r.Explanation()
		for _, want := range []string{r.Name + " (" + string(r.Severity) + "): ", "\n\nBad:\n\n    ", "\n\nGood:\n\n    "} {
			if !strings.Contains(explained, want) {
				t.Errorf("%s: %q is not in\n%s", r.Name, want, explained)
			}
		}
		if found, ok := Find(r.Name); !ok || found.Summary != r.Summary {
			t.Errorf("%s is not found", r.Name)
		}
	}
	if _, ok := Find("nothing"); ok {
		t.Error("a rule that is not there is found")
	}
}

func TestRules(t *testing.T) {
	const tenant = "\trelation tenant: tenant\n"
	for name, test := range map[string]struct {
		text, want string
		globals    []string
	}{
		"global":             {"definition currency {\n\trelation issuer: user\n}", "", []string{"currency"}},
		"not global":         {"definition currency {\n\trelation issuer: user\n}", "1:1 no-tenant", []string{"other"}},
		"no members":         {"definition label {}", "", nil},
		"tenant of no kind":  {"definition org {\n" + tenant + "}\ndefinition document {\n\trelation tenant: org\n}", "5:2 no-tenant", nil},
		"any, in a helper":   {"definition aaa {\n" + tenant + "}\ndefinition bbb {\n\trelation home: aaa\n\tpermission place = home->tenant\n\tpermission tenant = place\n}", "6:21 tenant-not-all", nil},
		"any, as a function": {"definition aaa {\n" + tenant + "}\ndefinition bbb {\n\trelation home: aaa\n\tpermission tenant = home.any(tenant)\n}", "6:22 tenant-not-all", nil},
		"owner:*":            {"definition aaa {\n" + tenant + "\trelation owner: user | user:*\n\trelation bot: agent | delegation\n\tpermission view = bot - owner\n}", "3:25 wildcard-tenant, 5:2 unreached, 5:26 idle-exclusion", nil},

		"two parents":                 {"definition org {\n" + tenant + "}\ndefinition aaa {\n\trelation home: org\n\trelation away: org\n\tpermission place = away.all(tenant) + home.all(tenant) + home\n\tpermission tenant = place\n}", "7:40 tenant-not-one", nil},
		"either of three":             {"definition aaa {\n\trelation one: tenant\n\trelation two: tenant\n\trelation six: tenant\n\tpermission tenant = (one & two) - (two + six) + one\n}", "5:2 precedence, 5:22 never-holds", nil},
		"one of both":                 {"definition aaa {\n\trelation one: tenant\n\trelation two: tenant\n\tpermission tenant = one & two\n}", "", nil},
		"tenants of a group":          {"definition org {\n" + tenant + "\trelation tenants: tenant\n}\ndefinition aaa {\n\trelation tenant: tenant | org#tenants\n}", "6:28 tenant-not-one", nil},
		"a caveat on the way":         {"definition org {\n" + tenant + "}\ncaveat late(now int) {\n\tnow > 0\n}\ndefinition aaa {\n\trelation home: org | org with late\n\tpermission tenant = home.all(tenant)\n}", "8:23 tenant-condition", nil},
		"a caveat beside the way":     {"caveat late(now int) {\n\tnow > 0\n}\ndefinition aaa {\n" + tenant + "\trelation bot: user with late | agent | delegation\n\tpermission view = bot\n}", "", nil},
		"itself taken away":           {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: user | agent | delegation\n\tpermission edit = writer + reader\n\tpermission view = writer + (reader - edit)\n}", "6:30 never-holds", nil},
		"two that exclude each other": {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: user | agent | delegation\n\tpermission only = writer - reader\n\tpermission view = only & reader\n}", "6:20 never-holds", nil},
		"some and all":                {"definition aaa {\n" + tenant + "\trelation top: aaa\n\trelation reader: user | agent | delegation\n\trelation writer: user | agent | delegation\n\tpermission edit = writer\n\tpermission view = top.all(edit) - top->edit\n\tpermission list = reader + top->edit - top.all(edit)\n}", "7:20 never-holds", nil},
		"taken away twice":            {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: user | agent | delegation\n\tpermission edit = writer - reader\n\tpermission view = edit - reader\n}", "", nil},
		"groups for members":          {"definition team {\n" + tenant + "\trelation member: user\n}\ndefinition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: team\n\tpermission view = reader - writer\n}", "9:29 idle-exclusion", nil},
		"a switch for principals":     {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: user:* | service:*\n\tpermission view = reader - writer\n}", "", nil},
		"a switch for agents":         {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\trelation writer: agent:* | delegation:*\n\tpermission view = reader - writer\n}", "", nil},
		"a switch for all, far away":  {"definition box {\n" + tenant + "\trelation sealed: user | user:* | agent:*\n}\ndefinition aaa {\n" + tenant + "\trelation box: box\n\trelation reader: user | service | agent | delegation\n\tpermission view = reader - box->sealed\n}", "9:29 arrow-references-relation, 9:29 wildcard-exclusion", nil},

		"unsafe, an expiration":     {"definition aaa {\n" + tenant + "\trelation member: user\n\trelation bbb: aaa with expiration | aaa#member\n}", "4:16 unsafe-shape", nil},
		"safe, both with":           {"use expiration\n\ndefinition aaa {\n" + tenant + "\trelation member: user\n\trelation bbb: aaa with expiration | aaa#member with expiration\n}", "", nil},
		"agents pass the second":    {"definition aaa {\n" + tenant + "\trelation bot: agent | delegation\n\trelation lead: user\n\tpermission view = (lead & bot) + lead\n}", "5:21 unreachable", nil},
		"a way beside":              {"definition aaa {\n" + tenant + "\trelation bot: user | agent | delegation\n\trelation lead: user\n\tpermission view = (lead & tenant->member) + bot\n}", "", nil},
		"users and services":        {"definition aaa {\n" + tenant + "\trelation one: user | agent | delegation\n\trelation two: service | agent | delegation\n\tpermission view = one & two\n}", "5:26 unreachable", nil},
		"delegations only":          {"definition aaa {\n" + tenant + "\trelation one: user | agent\n\tpermission view = one\n}", "4:2 unreached", nil},
		"root cause only":           {"definition aaa {\n" + tenant + "\trelation lead: user\n\tpermission manage = lead\n\tpermission close = manage\n}", "4:2 unreached", nil},
		"nothing":                   {"definition aaa {\n" + tenant + "\tpermission never = nil\n}", "3:2 unreached", nil},
		"a step":                    {"definition aaa {\n" + tenant + "\trelation parent: aaa\n\tpermission above = parent\n}", "", nil},
		"a step to no type":         {"definition bbb {\n" + tenant + "}\ndefinition aaa {\n" + tenant + "\trelation one: aaa\n\trelation two: bbb\n\tpermission never = one & two\n}", "8:2 unreached", nil},
		"over recursion":            {"definition aaa {\n" + tenant + "\trelation parent: aaa\n\trelation reader: user | agent | delegation\n\tpermission view = reader + parent->view\n}", "", nil},
		"pooled by a delegation":    {"definition aaa {\n" + tenant + "\trelation reader: user | delegation\n\tpermission view = reader + reader->agent\n}", "4:29 pooled", nil},
		"pooled by a session":       {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation | session#agent\n\tpermission view = reader\n}", "3:47 pooled", nil},
		"not pooled, taken away":    {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\tpermission view = reader - reader->agent\n}", "", nil},
		"not pooled, a group":       {"definition team {\n" + tenant + "\trelation member: user | agent | delegation\n}\ndefinition aaa {\n" + tenant + "\trelation reader: team#member\n\tpermission view = reader\n}", "", nil},
		"an agent approves":         {"definition aaa {\n" + tenant + "\trelation approver: user | agent | delegation\n\tpermission view = approver\n}", "3:28 agent-as-subject, 3:36 agent-as-subject", nil},
		"wildcard for people":       {"definition aaa {\n" + tenant + "\trelation reader: user:*\n\trelation bot: agent | delegation\n\tpermission view = bot - reader\n}", "5:2 unreached, 5:26 idle-exclusion", nil},
		"wildcard far away":         {"definition team {\n" + tenant + "\trelation public: user:*\n\trelation bot: agent | delegation\n\tpermission view = public + bot\n}\ndefinition aaa {\n" + tenant + "\trelation team: team\n\tpermission view = team->view\n}", "3:19 wildcard-subject", nil},
		"itself":                    {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\tpermission view = reader + view\n}", "4:2 endless", nil},
		"takes itself away":         {"definition aaa {\n" + tenant + "\trelation parent: aaa\n\trelation reader: user | agent | delegation\n\tpermission view = reader - parent->view\n}", "5:29 recursion", nil},
		"two ways":                  {"definition aaa {\n" + tenant + "\trelation parent: aaa\n\trelation reader: user | agent | delegation\n\tpermission edit = reader + parent->view\n\tpermission view = reader + parent->edit + parent->view\n}", "6:44 recursion", nil},
		"used as a userset":         {"definition team {\n" + tenant + "\trelation member: user | agent | delegation\n\trelation guest: user | agent | delegation\n\tpermission view = guest\n}\ndefinition aaa {\n" + tenant + "\trelation reader: team#member\n\tpermission view = reader\n}", "", nil},
		"used by itself only":       {"definition team {\n" + tenant + "\trelation member: user | team#member\n\trelation guest: user | agent | delegation\n\tpermission view = guest\n}", "3:2 unused-relation", nil},
		"a core relation":           {"definition aaa {\n" + tenant + "\trelation reader: user | agent | delegation\n\tpermission view = reader + tenant->agent\n}", "", nil},
		"usersets on the left":      {"definition team {\n" + tenant + "\trelation member: user | agent | delegation | team#member\n\tpermission view = member\n}\ndefinition aaa {\n" + tenant + "\trelation team: team\n\trelation banned: user\n\tpermission view = team->view - banned\n}", "", nil},
		"two arrows":                {"definition team {\n" + tenant + "\trelation one: user | agent | delegation\n\tpermission view = one\n}\ndefinition aaa {\n" + tenant + "\trelation team: team\n\trelation other: team\n\tpermission view = team->view & other->view\n}", "10:33 slow-shape", nil},
		"an arrow without usersets": {"definition team {\n" + tenant + "\trelation one: user | agent | delegation\n\tpermission view = one\n}\ndefinition aaa {\n" + tenant + "\trelation team: team\n\trelation reader: user | agent | delegation\n\tpermission view = reader & team->view\n}", "", nil},
	} {
		if strings.Contains(test.text, "expiration") && !strings.HasPrefix(test.text, "use") {
			test.text = "use expiration " + test.text
		}
		if got := lines(check(t, test.text, Options{Globals: test.globals})); got != test.want {
			t.Errorf("%s: found %q, want %q in\n%s", name, got, test.want, test.text)
		}
	}
}

func TestSuppression(t *testing.T) {
	text := `// lint:ignore no-tenant they are the same for all
// lint:ignore missing-doc all of it
definition currency {
	/**
	 * rate is set by people.
	 * lint:ignore unreached that is their work
	 */
	permission rate = issuer
	// lint:ignore unused-relation
	// lint:ignore nonsense for fun
	relation issuer: user // lint:ignore slow-shape too late
	// lint:ignore suppression never
	// lint:ignore endless it is not
	relation bot: agent
}
`
	found := check(t, text, Options{})
	var got []string
	for _, f := range found {
		if f.Suppressed != "" {
			got = append(got, f.String()+" "+f.Rule+" ("+f.Suppressed+")")
		} else {
			got = append(got, f.String()+" "+string(f.Severity)+" "+f.Rule+": "+f.Message)
		}
	}
	want := []string{
		"a.zed:3:1 missing-doc (all of it)",
		"a.zed:3:1 no-tenant (they are the same for all)",
		"a.zed:8:2 unreached (that is their work)",
		"a.zed:9:5 error suppression: lint:ignore unused-relation gives no reason, and suppresses nothing",
		`a.zed:10:5 error suppression: lint:ignore names no rule that can be suppressed: "nonsense"`,
		"a.zed:11:2 missing-doc (all of it)",
		"a.zed:11:27 warning suppression: lint:ignore slow-shape suppresses nothing: there is no such finding right below",
		`a.zed:12:5 error suppression: lint:ignore names no rule that can be suppressed: "suppression"`,
		"a.zed:13:5 warning suppression: lint:ignore endless suppresses nothing: there is no such finding right below",
		"a.zed:14:2 missing-doc (all of it)",
		"a.zed:14:2 warning unused-relation: currency#bot is read by no permission, so granting it does nothing",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A member of a partial is found once, where it is written, and suppressed there.
//
//nolint:dupword // "use partial" stands before a partial
func TestPartials(t *testing.T) {
	s, err := source.Load(fstest.MapFS{
		"root.zed": {Data: []byte("use import\nuse partial\nimport \"parts.zed\"\n// one\ndefinition one {\n\t// tenant\n\trelation tenant: tenant\n\t...parts\n}\n// two\ndefinition two {\n\t// tenant\n\trelation tenant: tenant\n\t...parts\n}\n")},
		"parts.zed": {Data: []byte("use partial\npartial parts {\n\t// owner\n\trelation owner: user | agent | delegation\n" +
			"\t// lint:ignore missing-doc it is obvious\n\trelation reader: user | agent | delegation\n\t// view\n\tpermission view = owner + reader\n}\n")},
	}, "root.zed", source.Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	found, err := Check(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.String()+" "+f.Rule+" "+f.Suppressed)
	}
	if want := "parts.zed:4:25 agent-as-subject ,parts.zed:4:33 agent-as-subject ,parts.zed:6:2 missing-doc it is obvious"; strings.Join(got, ",") != want {
		t.Errorf("found %q, want %q", strings.Join(got, ","), want)
	}
}

// The example domain has no hole, and one permission that is for people on purpose.
func TestSupportDesk(t *testing.T) {
	s, err := source.Load(schema.SupportDesk, "supportdesk/supportdesk.zed", source.Options{Core: true})
	if err != nil {
		t.Fatal(err)
	}
	found, err := Check(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Rule != unreached || !strings.HasPrefix(f.Message, "queue#manage can hold for no agent or delegation") {
			t.Errorf("%s: %s (%s)", f.Position, f.Message, f.Rule)
		}
	}
}
