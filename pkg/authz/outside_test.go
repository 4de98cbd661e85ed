package authz

import (
	"strings"
	"testing"
)

func TestIDsFromOutside(t *testing.T) {
	agent := func(id string) (string, error) { got, err := NewAgentID(id); return string(got), err }
	tenant := func(id string) (string, error) { got, err := NewTenantID(id); return string(got), err }
	user := func(id string) (string, error) { got, err := NewUser(id); return got.ID, err }
	service := func(id string) (string, error) { got, err := NewService(id); return got.ID, err }
	object := func(id string) (string, error) { got, err := NewObject("document", id); return got.ID, err }
	for name, encode := range map[string]func(string) (string, error){
		"agent": agent, "tenant": tenant, "user": user, "service": service, "object": object,
	} {
		for outside, want := range map[string]string{
			"alice": "alice", "alice@example.com": "=alice=40example=2Ecom", "spiffe://example.org/bot": "=spiffe=3A//example=2Eorg/bot",
		} {
			if got, err := encode(outside); err != nil || got != want {
				t.Errorf("%s %q: %q, %v, want %q", name, outside, got, err, want)
			}
		}
		for _, outside := range []string{"", "*", "a\x00b", " a", strings.Repeat("a", MaxOutsideIDBytes+1)} {
			if got, err := encode(outside); KindOf(err) != Invalid || got != "" {
				t.Errorf("%s %q: %q, %v", name, outside, got, err)
			}
		}
	}
	session := func(id string) (string, error) { got, err := NewSessionID(id); return string(got), err }
	delegation := func(id string) (string, error) { got, err := NewDelegationID(id); return string(got), err }
	for name, take := range map[string]func(string) (string, error){"session": session, "delegation": delegation} {
		if got, err := take("0123456789abcdef"); err != nil || got != "0123456789abcdef" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for _, shown := range []string{"", "*", "a:b", "a b"} {
			if got, err := take(shown); KindOf(err) != Invalid || got != "" {
				t.Errorf("%s %q: %q, %v", name, shown, got, err)
			}
		}
	}
	if p, err := NewUser("alice"); err != nil || p.Type != TypeUser {
		t.Errorf("a user: %v, %v", p, err)
	}
	if p, err := NewService("nightly"); err != nil || p.Type != TypeService {
		t.Errorf("a service: %v, %v", p, err)
	}
	if o, err := NewObject("", "plan"); KindOf(err) != Invalid || !o.IsZero() {
		t.Errorf("an object without a type: %v, %v", o, err)
	}
}
