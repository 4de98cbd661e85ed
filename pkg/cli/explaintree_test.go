package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestTree: gates and reasons of each kind in lines, none of which is longer than a terminal is wide.
func TestTree(t *testing.T) {
	t.Parallel()
	gate := &deputy.GateExplanation{}
	if err := protojson.Unmarshal([]byte(`{"gate":"GATE_PRINCIPAL","outcome":"OUTCOME_NO","conditions":[
		{"condition":"user:bob is live","outcome":"OUTCOME_YES"},
		{"condition":"document:plan#read@user:bob","outcome":"OUTCOME_NO","explanation":{"outcome":"OUTCOME_NO","cut":true,
			"nearest":[{"grants":[{"resource":{"objectType":"document","objectId":"plan"},"relation":"reader","caveat":"hours","needsExpiration":true,
				"subject":{"object":{"objectType":"user","objectId":"bob"}}}]}],
			"reason":{"kind":"REASON_KIND_MEMBER","outcome":"OUTCOME_NO","object":{"objectType":"document","objectId":"plan"},"relation":"read",
				"expression":"(reader & folder->view) - banned","children":[
				{"kind":"REASON_KIND_OPERATION","operation":"exclusion","expression":"(reader & folder->view) - banned","outcome":"OUTCOME_NO","children":[
					{"kind":"REASON_KIND_OPERATION","operation":"intersection","expression":"reader & folder->view","outcome":"OUTCOME_NO","others":2,"children":[
						{"kind":"REASON_KIND_ABSENT","outcome":"OUTCOME_NO","admits":true,"object":{"objectType":"document","objectId":"plan"},"relation":"reader"},
						{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_NO","relationship":{"resource":{"objectType":"document","objectId":"plan"},
							"relation":"reader","subject":{"object":{"objectType":"user","objectId":"*"}},"caveat":"hours","expiresAt":"2027-01-01T00:00:00Z"},
							"caveat":{"name":"hours","outcome":"OUTCOME_NO","values":[{"name":"hour","value":8},{"name":"opens","value":9,"written":true}],"missing":["day"]}},
						{"kind":"REASON_KIND_HIDDEN","outcome":"OUTCOME_NO"},
						{"kind":"REASON_KIND_CYCLE","outcome":"OUTCOME_ERROR","object":{"objectType":"group","objectId":"one"},"relation":"member"},
						{"kind":"REASON_KIND_DEPTH","outcome":"OUTCOME_ERROR","object":{"objectType":"group","objectId":"far"},"relation":"member"},
						{"kind":"REASON_KIND_ABOVE","outcome":"OUTCOME_NO","object":{"objectType":"folder","objectId":"q3"},"relation":"view"},
						{"kind":"REASON_KIND_SELF","outcome":"OUTCOME_NO","object":{"objectType":"user","objectId":"al"}},
						{"kind":"REASON_KIND_ABSENT","outcome":"OUTCOME_NO","admits":true,"object":{"objectType":"group","objectId":"g"},"relation":"member",
							"relationship":{"expiresAt":"2020-01-01T00:00:00Z"}},
						{"kind":"REASON_KIND_UNSPECIFIED","outcome":"OUTCOME_NO"}]},
					{"kind":"REASON_KIND_MEMBER","outcome":"OUTCOME_YES","subtracted":true,"object":{"objectType":"document","objectId":"plan"},"relation":"banned","children":[
						{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_YES","relationship":{"resource":{"objectType":"document","objectId":"plan"},
							"relation":"banned","subject":{"object":{"objectType":"group","objectId":"barred"},"optionalRelation":"member"}},"children":[
							{"kind":"REASON_KIND_MEMBER","outcome":"OUTCOME_YES","object":{"objectType":"group","objectId":"barred"},"relation":"member","children":[
								{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_YES","relationship":{"resource":{"objectType":"group","objectId":"barred"},
									"relation":"member","subject":{"object":{"objectType":"user","objectId":"bob"}}}}]}]}]}]}]}}}]}`), gate); err != nil {
		t.Fatal(err)
	}
	const want = `└ principal: no (1 fact holds)
  └ document:plan#read@user:bob: no
    ├ read = (reader & folder->view) - banned
    │ ├ reader & folder->view: no
    │ │ ├ document:plan#reader does not name user:bob
    │ │ ├ document:plan#reader@user:*[hours], until 2027-01-01T00:00:00Z, which
    │ │ │   is every user, where hours is false: hour = 8 (given), opens = 9
    │ │ │   (written), missing: day
    │ │ ├ something that you may not see
    │ │ ├ which leads back to group:one#member
    │ │ ├ group:far#member is more steps away than a check may take
    │ │ ├ folder:q3#view: no, as explained elsewhere
    │ │ ├ self: user:al is not user:bob
    │ │ ├ group:g#member@user:bob expired at 2020-01-01T00:00:00Z
    │ │ ├ the rest is left out
    │ │ └ and 2 others
    │ └ minus document:plan#banned: yes
    │   ├ document:plan#banned@group:barred#member
    │   └ group:barred#member@user:bob
    ├ it would be yes with document:plan#reader@user:bob[hours] with an
    │   expiration
    └ parts were left out, because there is too much to show
`
	var got strings.Builder
	if writeTree(&got, gateBranches([]*deputy.GateExplanation{gate}), ""); got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// TestTreeFitsATerminal: however long a name is, and however deep a line.
func TestTreeFitsATerminal(t *testing.T) {
	t.Parallel()
	long := branch{text: "document:" + strings.Repeat("x", 300) + " is long"}
	for i := range 60 {
		long = branch{text: fmt.Sprintf("level %d of a tree that is %s deep", i, strings.Repeat("very ", 20)), below: []branch{long, {text: "and more"}}}
	}
	var got strings.Builder
	started := time.Now()
	writeTree(&got, []branch{long, {text: "document:" + strings.Repeat("x", 300)}}, "")
	for line := range strings.Lines(got.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > terminal {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(got.String(), "more: see -o json") || time.Since(started) > 5*time.Second {
		t.Errorf("the depth is not cut:\n%s", got.String())
	}
}

// TestConditionLines: what is said of conditions and their reasons, line by line.
func TestConditionLines(t *testing.T) {
	t.Parallel()
	const plan, bob = `{"objectType":"document","objectId":"plan"}`, `{"object":{"objectType":"user","objectId":"bob"}}`
	reader := func(caveat string) string {
		return `{"resource":` + plan + `,"relation":"reader","subject":` + bob + `,"caveat":"` + caveat + `"}`
	}
	missing := `{"kind":"REASON_KIND_ABSENT","outcome":"OUTCOME_NO","admits":true,"object":` + plan + `,"relation":"reader"}`
	for name, test := range map[string]struct{ conditions, want string }{
		"a fact that refuses": {`{"condition":"user:bob is live","outcome":"OUTCOME_NO","detail":"suspended"},{"condition":"user:bob is known","outcome":"OUTCOME_YES"}`, `
└ principal: no (1 fact holds)
  └ user:bob is live: no, suspended`},
		"the tenant": {`{"condition":"document:plan#tenant is tenant:acme and no other","outcome":"OUTCOME_NO","detail":"it is in no tenant",
			"explanation":{"reason":{"kind":"REASON_KIND_ABSENT","outcome":"OUTCOME_NO","admits":true,"object":` + plan + `,"relation":"tenant"}}}`, `
└ principal: no
  └ document:plan#tenant is tenant:acme and no other: no, it is in no tenant
    └ document:plan#tenant does not name tenant:acme`},
		"at the head, and at a baseline": {`{"condition":"document:plan#view@user:bob, at the head revision","outcome":"OUTCOME_NO","explanation":{"reason":` + missing + `}},
			{"condition":"document:plan#view@user:bob","atBaseline":true,"outcome":"OUTCOME_CONDITIONAL","missingContext":["hour","day"]}`, `
└ principal: no
  ├ document:plan#view@user:bob, at the head revision: no
  │ └ document:plan#reader does not name user:bob
  └ document:plan#view@user:bob (at the baseline): conditional, missing context:
      hour, day`},
		"a caveat that is broken": {`{"condition":"document:plan#view@user:bob","outcome":"OUTCOME_ERROR","explanation":{"reason":{"kind":"REASON_KIND_RELATIONSHIP",
			"outcome":"OUTCOME_ERROR","relationship":` + reader("ratio") + `,"detail":"zero","caveat":{"name":"ratio","outcome":"OUTCOME_ERROR"}}}}`, `
└ principal: no
  └ document:plan#view@user:bob: error
    └ document:plan#reader@user:bob[ratio], where ratio is broken: zero`},
		"a caveat that is open": {`{"condition":"document:plan#view@user:bob","outcome":"OUTCOME_CONDITIONAL","explanation":{"reason":{"kind":"REASON_KIND_MEMBER",
			"outcome":"OUTCOME_CONDITIONAL","object":` + plan + `,"relation":"reader","caveat":{"name":"late","outcome":"OUTCOME_CONDITIONAL"},"children":[
			{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_CONDITIONAL","relationship":` + reader("late") + `,
				"caveat":{"name":"late","outcome":"OUTCOME_CONDITIONAL","missing":["hour"]}}]}}}`, `
└ principal: no
  └ document:plan#view@user:bob: conditional
    ├ document:plan#reader@user:bob[late], where late is open: missing: hour
    └ its caveat late: conditional`},
		"what is not named, and what would do": {`{"condition":"document:plan#view@user:bob","outcome":"OUTCOME_NO","explanation":{
			"nearest":[{"grants":[` + reader("") + `]},{"grants":[` + reader("late") + `]}],
			"reason":{"kind":"REASON_KIND_MEMBER","outcome":"OUTCOME_NO","admits":true,"object":` + plan + `,"relation":"reader","children":[
			{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_NO","relationship":{"resource":` + plan + `,"relation":"reader",
				"subject":{"object":{"objectType":"group","objectId":"g"},"optionalRelation":"member"}}}]}}}`, `
└ principal: no
  └ document:plan#view@user:bob: no
    ├ document:plan#reader does not name user:bob
    ├ document:plan#reader@group:g#member
    ├ it would be yes with document:plan#reader@user:bob
    └ or with document:plan#reader@user:bob[late]`},
	} {
		gate := &deputy.GateExplanation{}
		if err := protojson.Unmarshal([]byte(`{"gate":"GATE_PRINCIPAL","outcome":"OUTCOME_NO","conditions":[`+test.conditions+`]}`), gate); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got strings.Builder
		if writeTree(&got, gateBranches([]*deputy.GateExplanation{gate}), ""); strings.TrimSpace(got.String()) != strings.TrimSpace(test.want) {
			t.Errorf("%s: got\n%swant%s", name, got.String(), test.want)
		}
	}
}
