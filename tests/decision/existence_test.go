package decision_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// vaults is a domain in which much can go wrong on the way to an answer: caveats that share a parameter's name, one that
// divides, objects that lead back to themselves, and tenants that are inherited.
const vaults = `
caveat within(amount int, cap int) {
	amount <= cap
}

caveat graded(amount string) {
	amount == "low"
}

caveat ratio(part int, whole int) {
	part / whole >= 1
}

definition vault {
	relation owner: tenant | tenant with within | tenant with ratio
	relation upper: vault | vault with graded
	relation reader: user | user with within | user with graded | user with ratio | service | agent | agent with within | agent with graded | agent with ratio | delegation | delegation with within
	relation banned: user with within | agent with ratio
	permission tenant = owner + upper->tenant
	permission view = (reader + upper->view) - banned
	permission plain = owner
}
`

// newVaults is newWorld with vaults besides documents.
func newVaults(t *testing.T, s *harness.Server) *world {
	t.Helper()
	w := newWorld(t, s)
	s.WriteSchema(t, schema.Core+domain+vaults)
	return w
}

// said is what the server answers, to the byte, apart from what is of this call alone.
func said(resp *deputyv1.CheckPermissionResponse, err error) string {
	if err != nil {
		return prototext.Format(status.Convert(err).Proto())
	}
	resp = proto.CloneOf(resp)
	resp.DecisionId, resp.CheckedAt, resp.FreshAt = "", nil, nil
	return prototext.Format(resp)
}

// saidOfItem is said for an item of a bulk call.
func saidOfItem(pair *deputyv1.CheckBulkPermissionsPair) string {
	if e := pair.GetError(); e != nil {
		return prototext.Format(e)
	}
	return said(pair.GetItem(), nil)
}

// bulkItem is a check as an item of a bulk call.
func bulkItem(c check) *deputyv1.CheckBulkPermissionsRequestItem {
	item := &deputyv1.CheckBulkPermissionsRequestItem{
		AgentId: c.GetAgentId(), OnBehalfOf: c.GetOnBehalfOf(), TenantId: c.GetTenantId(),
		Resource: c.GetResource(), Permission: c.GetPermission(), Context: c.GetContext(),
	}
	switch via := c.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: via.DelegationId}
	}
	return item
}

// draw draws graphs and requests, the same ones for a seed.
type draw struct{ *rand.Rand }

func pick[T any](d draw, all ...T) T { return all[d.IntN(len(all))] }

// caveat draws what may stand behind a relationship.
func (d draw) caveat(names ...string) string {
	switch pick(d, append(names, "")...) {
	case "within":
		return pick(d, `[within]`, `[within:{"cap":5}]`, `[within:{"amount":1,"cap":5}]`, `[within:{"amount":9,"cap":5}]`)
	case "graded":
		return pick(d, `[graded]`, `[graded:{"amount":"low"}]`)
	case "ratio":
		return pick(d, `[ratio]`, `[ratio:{"part":1,"whole":0}]`, `[ratio:{"whole":0}]`, `[ratio:{"part":2,"whole":1}]`)
	default:
		return ""
	}
}

// foreign draws an object that is not acme's alone, with all that may be on it, and returns its relationships.
func (d draw) foreign(id string) []string {
	v := "vault:" + id
	rels := []string{v + "#reader@agent:bot" + d.caveat("within", "graded", "ratio")}
	add := func(rel string) { rels = append(rels, rel) }
	for _, who := range []string{"user:alice", "user:dave", "user:carol", "agent:bot"} {
		if d.IntN(3) > 0 {
			add(v + "#reader@" + who + d.caveat("within", "graded", "ratio"))
		}
	}
	if d.IntN(4) == 0 {
		add(v + "#banned@user:alice" + pick(d, `[within]`, `[within:{"cap":5}]`))
	}
	deep := func(length int, end string) {
		last := v
		for i := range length {
			next := fmt.Sprintf("vault:%s-up%d", id, i)
			add(last + "#upper@" + next)
			last = next
		}
		if end != "" {
			add(last + "#owner@" + end)
		}
	}
	switch d.IntN(9) {
	case 0: // nobody's
	case 1:
		add(v + "#owner@tenant:globex")
	case 2:
		add(v + "#owner@tenant:acme")
		add(v + "#owner@tenant:globex")
	case 3:
		add(v + "#owner@tenant:acme" + pick(d, `[within]`, `[within:{"cap":5}]`, `[ratio:{"part":1,"whole":0}]`))
	case 4:
		add(v + "#owner@tenant:globex")
		add(v + "#upper@" + v)
	case 5:
		add(v + "#upper@vault:" + id + "-other")
		add("vault:" + id + "-other#upper@" + v)
		add("vault:" + id + "-other#owner@tenant:" + pick(d, "acme", "globex"))
	case 6:
		deep(70, "tenant:"+pick(d, "acme", "globex"))
	case 7:
		add(v + "#owner@tenant:globex")
		deep(70, "")
	case 8:
		deep(2, "tenant:globex")
	}
	// A relationship is there once, whatever its caveat.
	name := func(rel string) string { name, _, _ := strings.Cut(rel, "["); return name }
	slices.SortStableFunc(rels, func(a, b string) int { return strings.Compare(name(a), name(b)) })
	return slices.CompactFunc(rels, func(a, b string) bool { return name(a) == name(b) })
}

// values draws a context.
func (d draw) values() map[string]any {
	context := map[string]any{}
	for range d.IntN(4) {
		context[pick(d, "amount", "cap", "part", "whole", "other")] = pick[any](d, 1, 9, -1, 0, 1.5, "low", "x", "7", true, nil, []any{1.0}, map[string]any{"a": 1.0})
	}
	return context
}

// TestForeignIsAbsent: to whatever is asked, with whatever context, the answer for an object that is not the tenant's is
// that for one which does not exist, to the byte: errors, items of bulk calls and snapshots included. Nor does another
// object in the same bulk call tell them apart, and no lookup names it.
func TestForeignIsAbsent(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newVaults(t, s)
		direct := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		all := w.delegate(&deputyv1.CreateDelegationRequest{
			Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true,
		})
		scoped := w.delegate(&deputyv1.CreateDelegationRequest{AllowDirect: true})
		frozen := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(direct)}, Frozen: true})
		run := w.start(target(direct), target(all, "user:dave"))
		s.Touch(t, "vault:own#owner@tenant:acme", "vault:own#reader@user:alice", "vault:own#reader@user:dave", "vault:own#reader@agent:bot")
		rounds, questions := uint64(9), 25
		if s.SlowEngine() {
			rounds, questions = 3, 8
		}
		answers := map[string]int{}
		for seed := range rounds {
			d := draw{rand.New(rand.NewPCG(seed, 7))}
			id := fmt.Sprintf("f%d", seed)
			rels := d.foreign(id)
			s.Touch(t, rels...)
			// What existed when a frozen session started is absent now, and the other way round.
			late := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(direct)}, Frozen: true})
			at := w.decide(under(direct).view("vault:own")).GetCheckedAt()
			for range questions {
				ask := pick(d,
					func() check { return under(direct) },
					func() check { return under(all).actingFor("user:dave") },
					func() check { return under(scoped) },
					func() check { return inSession(run).actingFor("user:dave") },
					func() check { return inSession(frozen) },
					func() check { return inSession(late) },
					func() check { return asAgent("bot").actingFor("user:alice").in("acme") },
					func() check { return under(direct).actingFor("user:mallory") },
				)
				given, permission, exact := d.values(), pick(d, "view", "view", "view", "plain", "reader", "tenant"), d.IntN(4) == 0
				build := func(object string) check {
					c := ask().view(object).with(given)
					c.Permission = permission
					if exact {
						c = c.at(at)
					}
					return c
				}
				foreign, absent := build("vault:"+id), build("vault:nowhere"+id)
				f, a := said(w.Permissions().CheckPermission(t.Context(), foreign.CheckPermissionRequest)), said(w.Permissions().CheckPermission(t.Context(), absent.CheckPermissionRequest))
				if f != a {
					t.Fatalf("seed %d, %v: the foreign object answers\n%s\nan absent one\n%s\nrelationships\n%s\n%s",
						seed, foreign, f, a, strings.Join(rels, "\n"), w.why(foreign))
				}
				answers[strings.SplitN(f, "\n", 2)[0]]++
				together := func(c check) string {
					resp, err := w.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{
						Consistency: c.GetConsistency(), Items: []*deputyv1.CheckBulkPermissionsRequestItem{bulkItem(build("vault:own")), bulkItem(c)},
					})
					if err != nil {
						return said(nil, err)
					}
					return saidOfItem(resp.GetPairs()[0]) + saidOfItem(resp.GetPairs()[1])
				}
				if f, a := together(foreign), together(absent); f != a {
					t.Fatalf("seed %d, %v: in bulk, beside another object, the foreign one answers\n%s\nan absent one\n%s\nrelationships\n%s",
						seed, foreign, f, a, strings.Join(rels, "\n"))
				}
			}
			r := lookup(under(direct), 0)
			r.ResourceObjectType = "vault"
			found, failed, end, err := w.piece(r)
			w.ok(err)
			if len(found) != 1 || found[0].GetResource().GetObjectId() != "own" || len(failed) > 0 || !end.GetComplete() {
				t.Fatalf("seed %d: a lookup finds %v and %v, %v\nrelationships\n%s", seed, found, failed, end, strings.Join(rels, "\n"))
			}
			s.Delete(t, rels...)
		}
		t.Logf("answers: %v", answers)
		if len(answers) < 2 {
			t.Errorf("all answers are alike, so little was tested: %v", answers)
		}
	})
}

// TestContextIsComparedWithTheSchema: a value that no caveat on the way takes is an error that names it, whatever the
// object is; one that some caveat takes is let through, and another caveat that does not take it is a no.
func TestContextIsComparedWithTheSchema(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newVaults(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		s.Touch(t, "vault:own#owner@tenant:acme", `vault:own#reader@user:alice[within:{"cap":5}]`, "vault:own#reader@agent:bot",
			"vault:graded#owner@tenant:acme", "vault:graded#reader@user:alice[graded]", "vault:graded#reader@agent:bot",
			"vault:halves#owner@tenant:acme", "vault:halves#reader@user:alice", `vault:halves#reader@agent:bot[ratio:{"part":1}]`,
			"vault:barred#owner@tenant:acme", "vault:barred#reader@user:alice", "vault:barred#reader@agent:bot", "vault:barred#banned@user:alice[within]",
			"vault:foreign#owner@tenant:globex", `vault:foreign#reader@user:alice[within:{"cap":5}]`, `vault:foreign#reader@agent:bot[ratio:{"part":1,"whole":0}]`)
		for _, object := range []string{"vault:own", "vault:graded", "vault:foreign", "vault:nowhere"} {
			for kind, wrong := range map[string]any{"a boolean": true, "a list": []any{1}, "a map": map[string]any{"a": 1}, "a number": 1.5, "a null": nil} {
				_, err := w.Permissions().CheckPermission(t.Context(), under(d).view(object).with(map[string]any{"amount": wrong, "whole": 1}).CheckPermissionRequest)
				w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "context.amount")
				if text := status.Convert(err).Message(); text != "context.amount is "+kind+" that does not fit: the caveat graded takes string, the caveat within takes int" {
					t.Errorf("%s with %v: %q", object, wrong, text)
				}
			}
		}
		// No caveat on the way to "plain" has such a parameter, and none at all has "other".
		plain := under(d).view("vault:nowhere").with(map[string]any{"part": true, "cap": "x", "other": true})
		plain.Permission = "reader"
		_, err := w.Permissions().CheckPermission(t.Context(), plain.CheckPermissionRequest)
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "context.cap")
		for amount, want := range map[any][3]deputyv1.Permissionship{
			3: {has, no, has}, 9: {no, no, has}, "low": {no, has, no}, "high": {no, no, no},
		} {
			for i, object := range []string{"vault:own", "vault:graded", "vault:barred"} {
				c := under(d).view(object).with(map[string]any{"amount": amount, "cap": 5})
				if object == "vault:barred" {
					c = under(d).view(object).with(map[string]any{"amount": amount, "cap": 1})
				}
				if got := w.decide(c).GetPermissionship(); got != want[i] {
					t.Errorf("%s with %v: %s, want %s\n%s", object, amount, got, want[i], w.why(c))
				}
			}
		}
		// An auditor reads which caveat took the no, and which parameter.
		misfit := under(d).view("vault:own").with(map[string]any{"amount": "low", "cap": 5})
		if why, want := w.why(misfit), `the parameter "amount" of the caveat "within" does not take the value`; !strings.Contains(why, want) {
			t.Errorf("the explanation does not say that %s:\n%s", want, why)
		}
		// What is the tenant's own may say that it fails.
		_, err = w.Permissions().CheckPermission(t.Context(), under(d).view("vault:halves").with(map[string]any{"whole": 0}).CheckPermissionRequest)
		if err == nil {
			t.Error("an own object whose caveat divides by zero answers")
		}
		w.deny(under(d).view("vault:foreign").with(map[string]any{"whole": 0}), byObject)
	})
}

// TestExplainTellsWhyTenantsAreUnknown: an error while the tenants of an object are computed is a no of the tenant gate,
// and an auditor reads why; the errors of everything else are shown beside it.
func TestExplainTellsWhyTenantsAreUnknown(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newVaults(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		last := "vault:deep"
		for i := range 70 {
			next := fmt.Sprintf("vault:deeper%d", i)
			s.Touch(t, last+"#upper@"+next)
			last = next
		}
		s.Touch(t, last+"#owner@tenant:acme")
		c := under(d).view("vault:deep")
		w.deny(c, byObject)
		resp, err := w.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: c.CheckPermissionRequest})
		w.ok(err)
		if resp.GetDecision().GetPermissionship() != no {
			t.Errorf("explained: %v", resp.GetDecision())
		}
		for gate, want := range map[deputyv1.Gate]struct {
			outcome deputyv1.Outcome
			detail  string
		}{
			deputyv1.Gate_GATE_TENANT:    {deputyv1.Outcome_OUTCOME_NO, "the tenants of the object cannot be computed: "},
			deputyv1.Gate_GATE_PRINCIPAL: {deputyv1.Outcome_OUTCOME_ERROR, "lead further than the engine follows them"},
		} {
			told := slices.ContainsFunc(resp.GetCandidates()[0].GetGates(), func(g *deputyv1.GateExplanation) bool {
				return g.GetGate() == gate && slices.ContainsFunc(g.GetConditions(), func(c *deputyv1.ConditionExplanation) bool {
					return c.GetOutcome() == want.outcome && strings.Contains(c.GetDetail(), want.detail)
				})
			})
			if !told {
				t.Errorf("the gate %s does not say %q:\n%v", gate, want.detail, prototext.Format(resp))
			}
		}
		if found := w.reachersOf("vault:deep"); len(found) > 0 {
			t.Errorf("%v reach an object whose tenants cannot be computed", found)
		}
	})
}

// reachersOf looks up who reaches an object, in one piece.
func (w *world) reachersOf(object string) (found []*deputyv1.ReachingAgent) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	stream, err := w.Audit().LookupAgents(ctx, &deputyv1.LookupAgentsRequest{Resource: harness.Ref(object), Permission: "view"})
	w.ok(err)
	for {
		resp, err := stream.Recv()
		w.ok(err)
		if resp.GetEnd() != nil {
			return found
		}
		found = append(found, resp.GetAgent())
	}
}
