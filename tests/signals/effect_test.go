//go:build unix

package signals

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// everything is what stands before any signal.
var everything = []string{
	"bot for alice in acme", "bot for alice in acme in a session", "bot for carol in acme", "bot for carol in acme in a session",
	"bot for carol in globex", "bot for carol in globex in a session", "helper for alice in acme", "helper for alice in acme in a session",
	"helper for erin in globex", "helper for erin in globex in a session",
}

// without is everything but what contains one of the texts.
func without(texts ...string) []string {
	return slices.DeleteFunc(slices.Clone(everything), func(one string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return matches(one, text) })
	})
}

// matches reports whether an act is meant: "alice in a session" by all its words.
func matches(one, text string) bool {
	in := strings.Fields(one)
	session := strings.HasSuffix(text, " in a session")
	if session && !strings.HasSuffix(one, " in a session") {
		return false
	}
	for word := range strings.FieldsSeq(strings.TrimSuffix(text, " in a session")) {
		if !slices.Contains(in, word) {
			return false
		}
	}
	return true
}

// TestEffect: what each event takes away, and that nothing else is.
func TestEffect(t *testing.T) {
	risk := func(was, is string) map[string]any {
		return map[string]any{"principal": "USER", "previous_level": was, "current_level": is}
	}
	change := func(kind string) map[string]any {
		return map[string]any{"credential_type": "fido2-roaming", "change_type": kind}
	}
	for _, test := range []struct {
		name    string
		by      string
		event   string
		subject any
		says    map[string]any
		// gone is what is not allowed afterwards.
		gone  []string
		waits string
	}{
		{"a session of the user's", wideKey, "session-revoked", user("alice"), nil, []string{"alice in a session"}, ""},
		{"a session of the provider's", wideKey, "session-revoked", members(map[string]any{
			"user": user("alice"), "session": events.Opaque("sid-1"), "device": events.Opaque("laptop"),
		}), nil, []string{"alice in a session"}, ""},
		{"claims", wideKey, "token-claims-change", user("carol"), map[string]any{"claims": map[string]any{"role": "x"}}, []string{"carol in a session"}, ""},
		{"a credential was added", wideKey, "credential-change", user("alice"), change("create"), []string{"alice in a session"}, ""},
		{"a credential was revoked", wideKey, "credential-change", user("alice"), change("revoke"), []string{"alice"}, ""},
		{"the account is disabled", wideKey, "account-disabled", user("carol"), map[string]any{"reason": "hijacking"}, []string{"carol"}, ""},
		{"the account is enabled", wideKey, "account-enabled", user("carol"), nil, nil, ""},
		{"risk raised to high", wideKey, "risk-level-change", user("alice"), risk("LOW", "HIGH"), []string{"alice"}, ""},
		{"risk stays high", wideKey, "risk-level-change", user("alice"), risk("HIGH", "HIGH"), []string{"alice"}, ""},
		{"risk raised to medium", wideKey, "risk-level-change", user("alice"), risk("LOW", "MEDIUM"), []string{"alice in a session"}, ""},
		{"risk of which nothing is said before", wideKey, "risk-level-change", user("alice"), map[string]any{"current_level": "MEDIUM"},
			[]string{"alice in a session"}, ""},
		{"risk lowered", wideKey, "risk-level-change", user("alice"), risk("HIGH", "MEDIUM"), nil, ""},
		{"risk that is not known", wideKey, "risk-level-change", user("alice"), risk("LOW", "EXTREME"), nil, "none that is known"},
		{"an agent", wideKey, "account-disabled", members(map[string]any{"application": events.Opaque("helper")}), nil, []string{"helper"}, ""},
		{"an agent's sessions", wideKey, "session-revoked", members(map[string]any{"application": events.Opaque("bot")}), nil,
			[]string{"bot in a session"}, ""},
		{"an agent for a user", wideKey, "account-disabled", members(map[string]any{
			"application": events.Opaque("bot"), "user": user("alice"),
		}), nil, nil, "would stop all agents that act for user:alice"},
		{"a user in one of two tenants, ended", wideKey, "session-revoked", members(map[string]any{
			"user": user("carol"), "tenant": events.Opaque("acme"),
		}), nil, []string{"carol acme in a session"}, ""},
		{"a user in one of two tenants, suspended", wideKey, "account-disabled", members(map[string]any{
			"user": user("carol"), "tenant": events.Opaque("acme"),
		}), nil, []string{"carol acme in a session"}, "has rights in tenants besides"},
		{"a tenant", acmeKey, "session-revoked", tenant("acme"), nil, []string{"acme in a session"}, ""},
		{"a tenant, suspended", acmeKey, "account-disabled", tenant("acme"), nil, []string{"acme"}, ""},
		{"a tenant that is too wide", wideKey, "account-disabled", tenant("acme"), nil, nil, "max_subjects"},
		{"another's tenant", acmeKey, "session-revoked", tenant("globex"), nil, nil, "beyond the bounds"},
		{"a user in another's tenant", acmeKey, "account-disabled", members(map[string]any{
			"user": user("erin"), "tenant": events.Opaque("globex"),
		}), nil, nil, "beyond the bounds"},
		{"a wildcard inside the bounds", acmeKey, "session-revoked", user("carol"), nil, []string{"carol acme in a session"}, ""},
		{"a wildcard inside the bounds, suspended", acmeKey, "account-disabled", user("alice"), nil, []string{"alice"}, ""},
		{"a wildcard that reaches beyond", acmeKey, "account-disabled", user("carol"), nil, []string{"carol acme in a session"}, "has rights in tenants besides"},
		{"nobody inside the bounds", acmeKey, "account-disabled", user("erin"), nil, nil, ""},
		{"a group of a tenant", acmeKey, "session-revoked", members(map[string]any{
			"group": events.Opaque("staff"), "tenant": events.Opaque("acme"),
		}), nil, nil, "group"},
		{"a kind outside", sessionsKey, "account-disabled", user("alice"), nil, nil, "account-disabled"},
		{"a kind inside", sessionsKey, "session-revoked", user("alice"), nil, []string{"alice in a session"}, ""},
		{"what nobody knows", wideKey, "device-is-on-fire", user("alice"), nil, nil, ""},
		{"a verification", wideKey, "verification", events.Opaque("stream-1"), map[string]any{"state": "x"}, nil, ""},
		{"a stream", wideKey, "stream-updated", events.Opaque("stream-1"), map[string]any{"status": "paused"}, nil, ""},
		{"aliases", wideKey, "account-disabled", map[string]any{"format": "aliases", "identifiers": []any{
			map[string]any{"format": "email", "email": "erin@example.com"}, user("alice"),
		}}, nil, []string{"alice"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := open(t, overMemory(t))
			if got := w.stands(); !slices.Equal(got, everything) {
				t.Fatalf("before any signal stands: %q", got)
			}
			w.send(test.by, event(test.event, test.subject, test.says))
			if got, want := w.stands(), without(test.gone...); !slices.Equal(got, want) {
				t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
			}
			waits := w.waits(harness.AdminKey)
			switch {
			case test.waits == "" && len(waits) > 0:
				t.Errorf("it waits: %v", waits)
			case test.waits != "" && (len(waits) != 1 || !strings.Contains(waits[0].GetWaitsBecause(), test.waits)):
				t.Errorf("waits: %v; want one because of %q", waits, test.waits)
			}
		})
	}
}

// TestSession: an event about one of Deputy's own sessions ends that one.
func TestSession(t *testing.T) {
	w := open(t, overMemory(t))
	w.send(wideKey, event("session-revoked", members(map[string]any{
		"user": user("alice"), "run": events.Opaque(w.sessions[acts[0]]),
	}), nil))
	if got, want := w.stands(), without("bot alice in a session"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
}

// TestOld: an event that happened long ago waits, and one that comes out of order takes effect, because only a person lets go again.
func TestOld(t *testing.T) {
	w := open(t, overMemory(t))
	old := event("account-disabled", user("alice"), map[string]any{"event_timestamp": time.Now().Add(-25 * time.Hour).Unix()})
	w.send(wideKey, old)
	if got := w.stands(); !slices.Equal(got, everything) {
		t.Errorf("an old event took effect: %q", got)
	}
	if waits := w.waits(harness.AdminKey); len(waits) != 1 || !strings.Contains(waits[0].GetWaitsBecause(), "ago") {
		t.Errorf("waits: %v", waits)
	}
	at := func(ago time.Duration) map[string]any {
		return map[string]any{"event_timestamp": time.Now().Add(-ago).Unix()}
	}
	w.send(wideKey, event("account-enabled", user("carol"), at(time.Minute)))
	w.send(wideKey, event("account-disabled", user("carol"), at(time.Hour)))
	if got, want := w.stands(), without("carol"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
}

// TestPersonDecides: what waits is applied, or dropped, by a responder for whom it exists, once.
func TestPersonDecides(t *testing.T) {
	w := open(t, overMemory(t))
	as := func(key string) deputyv1.SignalsServiceClient {
		return deputyv1.NewSignalsServiceClient(harness.Dial(t, w.Addr().String(), key))
	}
	w.send(wideKey, event("account-disabled", tenant("acme"), nil))
	w.send(wideKey, event("account-disabled", tenant("globex"), map[string]any{"event_timestamp": 1}))
	w.send(acmeKey, event("session-revoked", tenant("globex"), nil))
	all := w.waits(harness.AdminKey)
	if len(all) != 3 {
		t.Fatalf("%d signals wait: %v", len(all), all)
	}
	acme, globex := all[0].GetSignalId(), all[1].GetSignalId()
	if own := w.waits(respondsKey); len(own) != 1 || own[0].GetSignalId() != acme {
		t.Errorf("acme's responder has %v", own)
	}
	if _, err := as(respondsKey).ApplySignal(t.Context(), &deputyv1.ApplySignalRequest{SignalId: globex, Reason: "x"}); reason(err) != "SIGNAL_NOT_FOUND" {
		t.Errorf("acme's responder applied globex's signal: %v", err)
	}
	if _, err := as(respondsKey).DropSignal(t.Context(), &deputyv1.DropSignalRequest{SignalId: globex, Reason: "x"}); reason(err) != "SIGNAL_NOT_FOUND" {
		t.Errorf("acme's responder dropped globex's signal: %v", err)
	}
	done, err := as(respondsKey).ApplySignal(t.Context(), &deputyv1.ApplySignalRequest{SignalId: acme, Reason: "it is true"})
	w.must(err)
	if !done.GetComplete() || done.GetSignal().GetState() != deputyv1.SignalState_SIGNAL_STATE_APPLIED || done.GetSessionsEnded() != 3 {
		t.Errorf("applied: %v", done)
	}
	if got, want := w.stands(), without("acme"); !slices.Equal(got, want) {
		t.Errorf("allowed afterwards:\n%q\nwant\n%q", got, want)
	}
	if _, err := as(respondsKey).ApplySignal(t.Context(), &deputyv1.ApplySignalRequest{SignalId: acme, Reason: "x"}); reason(err) != "SIGNAL_NOT_FOUND" {
		t.Errorf("it was applied twice: %v", err)
	}
	_, err = as(harness.AdminKey).DropSignal(t.Context(), &deputyv1.DropSignalRequest{SignalId: globex, Reason: "a drill"})
	w.must(err)
	if left := w.waits(harness.AdminKey); len(left) != 1 || left[0].GetTransmitter() != "acme" {
		t.Errorf("left: %v", left)
	}
	if got, want := w.stands(), without("acme"); !slices.Equal(got, want) {
		t.Errorf("dropping changed something:\n%q\nwant\n%q", got, want)
	}
}

// TestPages: a list goes on where it stopped.
func TestPages(t *testing.T) {
	w := open(t, overMemory(t))
	var sent []string
	for range 5 {
		claims := event("account-disabled", tenant("acme"), nil)
		w.send(wideKey, claims)
		sent = append(sent, claims["jti"].(string))
	}
	c := deputyv1.NewSignalsServiceClient(w.Admin)
	var ids []string
	request := &deputyv1.ListSignalsRequest{Limit: 2}
	for {
		got, err := c.ListSignals(t.Context(), request)
		w.must(err)
		for _, one := range got.GetSignals() {
			ids = append(ids, one.GetSignalId())
		}
		if got.GetComplete() {
			break
		}
		request.Cursor = got.GetNext()
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(sent) {
		t.Errorf("%d signals were sent, and the pages have %d", len(sent), len(ids))
	}
}

// TestStatus keeps the answers of the door apart.
func TestStatus(t *testing.T) {
	w := open(t, overMemory(t))
	good := w.sign(event("verification", events.Opaque("x"), nil))
	for _, test := range []struct {
		key, token string
		status     int
		err        string
	}{
		{wideKey, good, http.StatusAccepted, ""},
		{"", good, http.StatusUnauthorized, "authentication_failed"},
		{"no key at all, but long", good, http.StatusUnauthorized, "authentication_failed"},
		{checksKey, good, http.StatusForbidden, "access_denied"},
		{harness.AdminKey, good, http.StatusForbidden, "access_denied"},
	} {
		if got := w.push(test.key, test.token); got.Status != test.status || got.Err != test.err {
			t.Errorf("%q: %+v", test.key, got)
		}
	}
}
