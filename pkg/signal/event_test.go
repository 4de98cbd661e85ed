package signal

import (
	"encoding/json"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// TestSeveralEvents: an event that would wait keeps no other from taking effect at once, unless it takes away more.
func TestSeveralEvents(t *testing.T) {
	t.Parallel()
	by := &caller.Signals{
		Issuer: "https://idp", Audiences: []string{"deputy"}, Kinds: authz.NamesOf("account-disabled", "token-claims-change", "risk-level-change"),
		Subjects: map[string]caller.SubjectName{"user": {Type: "user"}},
	}
	disabled, ended, claims, risk := risc+"account-disabled", caep+"session-revoked", caep+"token-claims-change", caep+"risk-level-change"
	for name, test := range map[string]struct {
		events map[string]json.RawMessage
		act    Act
		waits  bool
	}{
		"a kind outside, alone":               {map[string]json.RawMessage{ended: []byte(`{}`)}, End, true},
		"a kind outside that does less":       {map[string]json.RawMessage{disabled: []byte(`{}`), ended: []byte(`{}`)}, Brake, false},
		"a kind outside that does as much":    {map[string]json.RawMessage{claims: []byte(`{}`), ended: []byte(`{}`)}, End, false},
		"a level that is not known":           {map[string]json.RawMessage{disabled: []byte(`{}`), risk: []byte(`{"current_level":"X"}`)}, Brake, false},
		"a level that is not known does more": {map[string]json.RawMessage{claims: []byte(`{}`), risk: []byte(`{"current_level":"X"}`)}, Brake, true},
	} {
		got, err := Read(caller.EventToken{
			Issuer: "https://idp", ID: "1", Audiences: []string{"deputy"}, Issued: noon, Subject: []byte(`{"format":"opaque","id":"alice"}`), Events: test.events,
		}, by, noon)
		if err != nil || got.Act != test.act || (got.Waits != "") != test.waits {
			t.Errorf("%s: %+v, %v; want %v, waiting %v", name, got, err, test.act, test.waits)
		}
	}
}
