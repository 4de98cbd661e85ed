package confinement

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestForeignIsAbsent asks confined callers' questions about what the other tenant has and, word for word, about what is nowhere: whatever is
// decided, looked up or explained, the answers are the same bytes, but for the names that the questions hold.
func TestForeignIsAbsent(t *testing.T) {
	for _, name := range []string{"embedded", "memory", "postgres"} {
		t.Run(name, func(t *testing.T) {
			s := harness.Start(t, daemon.Config{
				Engine: harness.Engines()[name](t), Callers: callers(), GlobalTypes: []string{"tool"},
				PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
			})
			foreignIsAbsent(t, s, fill(t, s))
		})
	}
}

func foreignIsAbsent(t *testing.T, s *harness.Server, grants []grant) {
	const absent = "nowhere"
	names := map[string]string{} // of the other tenant's ids, by ids that nothing has
	own := map[string]grant{}
	var theirs []grant
	for i, g := range grants {
		switch {
		case g.beyond:
		case g.tenant == other:
			g.delegation, g.session = named(names, g.delegation, i), named(names, g.session, i)
			theirs = append(theirs, g)
		case g.session != "":
			own["session"] = g
		case g.agent == "acme-bot" && g.principal == "user:acme-ann":
			own["delegation"] = g
		}
	}
	check := func(g grant, resource string) *deputyv1.CheckPermissionRequest {
		r := &deputyv1.CheckPermissionRequest{AgentId: g.agent, OnBehalfOf: harness.Ref(g.principal), TenantId: g.tenant, Resource: harness.Ref(resource), Permission: "view"}
		if g.relation != "" {
			r.OnBehalfOf = harness.Ref("user:both-dan")
		}
		switch {
		case g.session != "":
			r.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: g.session}
		case g.delegation != "":
			r.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: g.delegation}
		}
		return r
	}
	var questions []proto.Message
	ask := func(r *deputyv1.CheckPermissionRequest) {
		questions = append(questions, r, &deputyv1.ExplainPermissionRequest{Check: r})
	}
	for _, g := range theirs {
		ask(check(g, "document:acme-d4"))
		alone := g
		alone.delegation, alone.session = "", ""
		ask(check(alone, "document:acme-d4"))
		questions = append(questions, &deputyv1.LookupResourcesRequest{
			AgentId: g.agent, Via: &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: g.delegation + g.session},
			OnBehalfOf: harness.Ref(g.principal), TenantId: g.tenant, ResourceObjectType: "document", Permission: "view",
		})
	}
	for _, g := range own {
		for d := range 7 {
			ask(check(g, fmt.Sprintf("document:globex-d%d", d)))
		}
		ask(check(g, "document:globex-two"))
		there := g
		there.tenant = other
		ask(check(there, "document:acme-d4"))
		there = g
		there.principal = "user:globex-ann"
		ask(check(there, "document:acme-d4"))
		there = g
		there.agent = "globex-bot"
		ask(check(there, "document:acme-d4"))
	}
	for d := range 7 {
		questions = append(questions, &deputyv1.LookupAgentsRequest{Resource: harness.Ref(fmt.Sprintf("document:globex-d%d", d)), Permission: "view"})
	}
	questions = append(questions, &deputyv1.LookupAgentsRequest{
		Resource: harness.Ref("document:acme-d4"), Permission: "view", OnBehalfOf: harness.Ref("user:globex-ann"),
	})
	for _, one := range []string{"acme-auditor", "acme-checker-of-bots", "acme-admin", "acme-checker-of-users"} {
		conn := harness.Dial(t, s.Addr().String(), keyOf(one))
		for _, q := range questions {
			// The twin has ids that are nobody's in place of the other tenant's.
			p := pairs{toB: map[string]string{}, toA: map[string]string{}}
			for unknown, id := range names {
				p.learn(unknown, id)
			}
			foreign := proto.Clone(q)
			p.translate(foreign.ProtoReflect())
			twin := proto.Clone(q)
			rename(twin.ProtoReflect(), other, absent)
			m, err := methodOf("/deputy.v1.PermissionsService/" + strings.TrimSuffix(string(q.ProtoReflect().Descriptor().Name()), "Request"))
			if err != nil {
				t.Fatal(err)
			}
			got, want := m.ask(t.Context(), conn, foreign), m.ask(t.Context(), conn, twin)
			shown, wanted := p.show(whole(got), false), p.show(whole(want), true)
			if strings.ReplaceAll(shown, other, absent) != wanted {
				t.Errorf("%s asks %s\n%v\nof what is foreign: %s\nof what is absent:  %s", one, m.full, foreign, shown, wanted)
			}
		}
	}
}

// named returns an id that nothing has, by which an id goes that something has.
func named(names map[string]string, id string, i int) string {
	if id == "" {
		return ""
	}
	unknown := fmt.Sprintf("%032x", i+1)
	names[unknown] = id
	return unknown
}

// whole is an answer as one value.
func whole(a answer) map[string]any {
	return map[string]any{"code": a.Code, "message": a.Message, "details": a.Details, "body": a.Body}
}
