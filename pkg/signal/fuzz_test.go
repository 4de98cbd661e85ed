package signal

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// FuzzRead: whatever a token says that its issuer signed, nothing panics, what asks for something has a target that exists in the alphabet of ids,
// of a type that the transmitter may name, and enabling or lowering asks for nothing.
func FuzzRead(f *testing.F) {
	f.Add("account-disabled", `{"reason":"x"}`, `{"format":"iss_sub","iss":"https://idp","sub":"alice"}`, int64(0))
	f.Add("risk-level-change", `{"current_level":"HIGH","event_timestamp":1}`, `{"format":"complex","user":{"format":"opaque","id":"a"},"tenant":{}}`, int64(1))
	f.Add("credential-change", `{"change_type":"revoke"}`, `{"format":"complex","tenant":{"format":"opaque","id":"acme"},"device":{}}`, int64(2))
	f.Add("session-revoked", `{}`, `{"format":"aliases","identifiers":[{"format":"email"},{"format":"opaque","id":"a"}]}`, int64(3))
	f.Add("account-enabled", `{}`, `{"format":"email","email":"a@b"}`, int64(-1))
	by := &caller.Signals{
		Issuer: "https://idp", Audiences: []string{"deputy"}, Kinds: authz.AllNames(), MaxSubjects: 1,
		Subjects: map[string]caller.SubjectName{
			"user": {Type: "user", Prefix: "idp-"}, "tenant": {Type: "tenant"}, "application": {Type: "agent"}, "run": {Type: "session"},
		},
	}
	f.Fuzz(func(t *testing.T, name, payload, subject string, hours int64) {
		if !json.Valid([]byte(payload)) || !strings.HasPrefix(payload, "{") {
			return // the verifier refuses it
		}
		uri := caep + name
		if strings.HasPrefix(name, "account-") {
			uri = risc + name
		}
		token := caller.EventToken{
			Issuer: "https://idp", ID: "1", Audiences: []string{"deputy"}, Issued: noon.Add(-time.Duration(hours%200) * time.Hour),
			Subject: json.RawMessage(subject), Events: map[string]json.RawMessage{uri: json.RawMessage(payload)},
		}
		got, err := Read(token, by, noon)
		if err != nil {
			if authz.KindOf(err) != authz.Invalid || got.Act != Nothing {
				t.Errorf("%v with %+v", err, got)
			}
			return
		}
		if age := noon.Sub(token.Issued); age > MaxAge || age < 0 {
			t.Errorf("a token of %s ago is taken", age)
		}
		asks := map[string]bool{
			"session-revoked": true, "token-claims-change": true, "credential-change": true, "risk-level-change": true, "account-disabled": true,
		}[name]
		if !asks && got.Act != Nothing {
			t.Errorf("%s asks for %v", name, got.Act)
		}
		if got.Act == Nothing {
			if !got.Target.IsZero() {
				t.Errorf("nothing is asked for of %v", got.Target)
			}
			return
		}
		if o := got.Target; !authz.IsStoredID(o.ID) || o.ID == "*" || o.Type == "user" && !strings.HasPrefix(authz.DecodeID(o.ID), "idp-") {
			t.Errorf("the target is %q", o)
		}
		if got.Tenant != "" && !authz.IsStoredID(string(got.Tenant)) {
			t.Errorf("the tenant is %q", got.Tenant)
		}
		if noon.Sub(got.Happened) > AppliedWithin && got.Waits == "" {
			t.Errorf("what happened at %s does not wait", got.Happened)
		}
	})
}
