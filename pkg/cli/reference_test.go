package cli

import (
	"strings"
	"testing"
)

func TestParseReferences(t *testing.T) {
	for _, test := range []struct{ text, objectType, id, relation string }{
		{"document:plan", "document", "plan", ""},
		{"document:https://example.com/a#b", "document", "https://example.com/a#b", ""},
		{"user:alice@example.com", "user", "alice@example.com", ""},
		{"tenant:acme#member", "tenant", "acme", "member"},
		{"tenant:a#b#member", "tenant", "a#b", "member"},
	} {
		got, err := parsePrincipal(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if o := got.GetObject(); o.GetObjectType() != test.objectType || o.GetObjectId() != test.id || got.GetOptionalRelation() != test.relation {
			t.Errorf("%s is read as %v", test.text, got)
		}
		if subject(got) != test.text {
			t.Errorf("%s is shown as %s", test.text, subject(got))
		}
	}
	for _, bad := range []string{"", "alice", ":alice", "user:", "tenant:acme", "tenant:acme#", "tenant:#member"} {
		if _, err := parsePrincipal(bad); err == nil || !strings.HasPrefix(err.Error(), "--principal must be ") {
			t.Errorf("%q: the error is %v", bad, err)
		}
	}
}

func TestParseScope(t *testing.T) {
	got, err := parseScope([]string{"folder:q3#reader", "document:a#b#writer"})
	if err != nil {
		t.Fatal(err)
	}
	if object(got[0].GetResource()) != "folder:q3" || got[0].GetRelation() != "reader" ||
		object(got[1].GetResource()) != "document:a#b" || got[1].GetRelation() != "writer" {
		t.Errorf("the scope is read as %v", got)
	}
	for _, bad := range []string{"", "folder:q3", "folder:q3#", "q3#reader"} {
		if _, err := parseScope([]string{bad}); err == nil || !strings.HasPrefix(err.Error(), "--scope must be ") {
			t.Errorf("%q: the error is %v", bad, err)
		}
	}
}

func TestParseContext(t *testing.T) {
	got, err := parseContext(`{"amount": 150, "who": {"role": "x"}}`)
	if err != nil || got.GetFields()["amount"].GetNumberValue() != 150 {
		t.Errorf("the context is read as %v, %v", got, err)
	}
	for _, bad := range []string{"null", "[]", "1", "{", `{"a":1} {}`, `{"a":1,"a":2}`, `{"a":9007199254740993}`, "@absent.json"} {
		if _, err := parseContext(bad); err == nil || !strings.HasPrefix(err.Error(), "--context") {
			t.Errorf("%q: the error is %v", bad, err)
		}
	}
}

func TestParseConsistency(t *testing.T) {
	for _, good := range []string{"fully_consistent", "minimize_latency", "at_least_as_fresh=t", "at_exact_snapshot=a=b"} {
		if c, err := parseConsistency(good); err != nil || c.GetRequirement() == nil {
			t.Errorf("%q: %v, %v", good, c, err)
		}
	}
	if c, err := parseConsistency("at_exact_snapshot=a=b"); err != nil || c.GetAtExactSnapshot().GetToken() != "a=b" {
		t.Errorf("the token is read as %v, %v", c, err)
	}
	for _, bad := range []string{"full", "fully_consistent=t", "at_least_as_fresh", "at_exact_snapshot=", "minimize_latency="} {
		if _, err := parseConsistency(bad); err == nil || !strings.HasPrefix(err.Error(), "--consistency must be ") {
			t.Errorf("%q: the error is %v", bad, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	got, err := parseTarget("delegation:d1,user:alice,service:nightly")
	if err != nil || got.GetDelegationId() != "d1" || len(got.GetPrincipals()) != 2 || object(got.GetPrincipals()[1]) != "service:nightly" {
		t.Errorf("the target is read as %v, %v", got, err)
	}
	for _, bad := range []string{"", ",user:alice", "d1,", "d1,alice"} {
		if _, err := parseTarget(bad); err == nil || !strings.HasPrefix(err.Error(), "--target") {
			t.Errorf("%q: the error is %v", bad, err)
		}
	}
}
