package rpc

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestGatesOnTheWire: each field of a gate, its conditions and their explanations is in the message.
func TestGatesOnTheWire(t *testing.T) {
	t.Parallel()
	plan, bob := authz.Object{Type: "document", ID: "plan"}, authz.Subject{Object: authz.Object{Type: "user", ID: "bob"}}
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	conditions := []authz.Condition{
		{Gate: authz.GateAgent, Outcome: authz.No},
		{
			Gate: authz.GatePrincipal, Outcome: authz.Conditional, Text: "document:plan#view@user:bob", Detail: "why", Missing: []string{"hour"}, Baseline: true,
			Explanation: &authz.Explanation{
				Outcome: authz.Conditional, Missing: []string{"hour"}, Cut: true,
				Nearest: [][]authz.Grant{{{Resource: plan, Relation: "reader", Subject: bob, Caveat: "late", Expires: true}}},
				Reason: &authz.Reason{
					Kind: authz.ReasonOperation, Outcome: authz.Conditional, Expression: "reader - banned", Operation: "exclusion", Others: 3,
					Children: []*authz.Reason{
						{
							Kind: authz.ReasonRelationship, Outcome: authz.Conditional, Detail: "zero", Subtracted: true,
							Relationship: &authz.Relationship{Resource: plan, Relation: "reader", Subject: bob, Caveat: "late", ExpiresAt: until},
							Caveat: &authz.CaveatReason{
								Name: "late", Outcome: authz.Conditional, Missing: []string{"hour"},
								Values: []authz.CaveatValue{{Name: "opens", Value: 9.0, Written: true}, {Name: "day", Value: "monday"}},
							},
						},
						{Kind: authz.ReasonAbsent, Object: plan, Member: "banned", Admits: true},
					},
				},
				Trace: &authz.Trace{Resource: plan, Permission: "view", IsPermission: true, Subject: bob, Outcome: authz.Conditional, Caveat: "late"},
			},
		},
		{Gate: authz.GatePrincipal, Outcome: authz.Failed, Text: "broken"},
		{Gate: authz.GatePrincipal, Outcome: authz.Yes, Text: "live"},
	}
	const object, subject = `{"objectType":"document","objectId":"plan"}`, `{"object":{"objectType":"user","objectId":"bob"}}`
	for g, text := range map[authz.Gate]string{
		authz.GateAgent:    `{"gate":"GATE_AGENT","outcome":"OUTCOME_NO","conditions":[{"outcome":"OUTCOME_NO"}]}`,
		authz.GateScope:    `{"gate":"GATE_SCOPE","outcome":"OUTCOME_NOT_JUDGED"}`,
		authz.GateBaseline: `{"gate":"GATE_BASELINE","outcome":"OUTCOME_YES","conditions":[{"outcome":"OUTCOME_YES","condition":"no session behind this is frozen"}]}`,
		authz.GatePrincipal: `{"gate":"GATE_PRINCIPAL","outcome":"OUTCOME_ERROR","conditions":[
			{"condition":"document:plan#view@user:bob","outcome":"OUTCOME_CONDITIONAL","detail":"why","missingContext":["hour"],"atBaseline":true,
			"trace":{"resource":` + object + `,"permission":"view","isPermission":true,"subject":` + subject + `,"outcome":"OUTCOME_CONDITIONAL","caveat":"late"},
			"explanation":{"outcome":"OUTCOME_CONDITIONAL","missingContext":["hour"],"cut":true,
				"nearest":[{"grants":[{"resource":` + object + `,"relation":"reader","subject":` + subject + `,"caveat":"late","needsExpiration":true}]}],
				"reason":{"kind":"REASON_KIND_OPERATION","outcome":"OUTCOME_CONDITIONAL","expression":"reader - banned","operation":"exclusion","others":3,"children":[
					{"kind":"REASON_KIND_RELATIONSHIP","outcome":"OUTCOME_CONDITIONAL","detail":"zero","subtracted":true,
						"relationship":{"resource":` + object + `,"relation":"reader","subject":` + subject + `,"caveat":"late","expiresAt":"2030-01-02T03:04:05Z"},
						"caveat":{"name":"late","outcome":"OUTCOME_CONDITIONAL","missing":["hour"],
							"values":[{"name":"opens","value":9,"written":true},{"name":"day","value":"monday"}]}},
					{"kind":"REASON_KIND_ABSENT","outcome":"OUTCOME_NO","object":` + object + `,"relation":"banned","admits":true}]}}},
			{"condition":"broken","outcome":"OUTCOME_ERROR"},{"condition":"live","outcome":"OUTCOME_YES"}]}`,
	} {
		want := &deputyv1.GateExplanation{}
		if err := protojson.Unmarshal([]byte(text), want); err != nil {
			t.Fatal(err)
		}
		got := gateProto(g, conditions)
		for _, r := range reasonsOf(got) { // of what is about no object it says nothing
			if r.GetObject().GetObjectType() == "" {
				r.Object = nil
			}
		}
		if !proto.Equal(got, want) {
			t.Errorf("%v: got\n%s\nwant\n%s", g, prototext.Format(got), prototext.Format(want))
		}
	}
}

// reasonsOf are all reasons of a gate.
func reasonsOf(g *deputyv1.GateExplanation) (all []*deputyv1.Reason) {
	var add func(r *deputyv1.Reason)
	add = func(r *deputyv1.Reason) {
		all = append(all, r)
		for _, c := range r.GetChildren() {
			add(c)
		}
	}
	for _, c := range g.GetConditions() {
		if r := c.GetExplanation().GetReason(); r != nil {
			add(r)
		}
	}
	return all
}
