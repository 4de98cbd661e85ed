package delegate_test

import (
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// TestPerson: for a caller that is one person, others' delegations do not exist, nor do those for a set that the person is in.
func TestPerson(t *testing.T) {
	d, _, _ := shared(t)
	ofAlice := d.For("people", unvouched().Of(alice))
	create := func(s delegate.Spec) authz.DelegationID {
		t.Helper()
		s.Agent, s.Tenant, s.Unscoped, s.TTL = "bot", "acme", true, time.Hour
		made, _, err := d.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	carol := user("carol")
	own := create(delegate.Spec{Principal: authz.Subject{Object: alice.Object}})
	for name, id := range map[string]authz.DelegationID{
		"carol's":     create(delegate.Spec{Principal: authz.Subject{Object: carol}}),
		"all members": create(delegate.Spec{Principal: authz.Subject{Object: people[3], Relation: facts.RelationMember}, GrantedBy: carol}),
		"the service": create(delegate.Spec{Principal: authz.Subject{Object: people[2]}, GrantedBy: alice.Object}),
	} {
		if _, _, err := ofAlice.Delegation(t.Context(), id); authz.KindOf(err) != authz.NotFound {
			t.Errorf("%s is read: %v", name, err)
		}
		if _, err := ofAlice.Revoke(t.Context(), id); authz.KindOf(err) != authz.NotFound {
			t.Errorf("%s is revoked: %v", name, err)
		}
	}
	for name, c := range map[string]delegate.Choice{
		"all": {}, "of the agent": {By: authz.Subject{Object: authz.AgentID("bot").Object()}, Agent: "bot"},
		"of carol": {By: authz.Subject{Object: carol}, AsPrincipal: true},
	} {
		list, err := ofAlice.Delegations(t.Context(), c, delegate.Place{}, 10)
		if err != nil || len(list.Items) != 1 || list.Items[0].ID != own || list.Next != nil {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
	if _, err := ofAlice.Revoke(t.Context(), own); err != nil {
		t.Error(err)
	}
}
