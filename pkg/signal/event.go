package signal

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// Act is what an event asks for. A greater Act takes away more. The zero Act takes nothing away.
type Act uint8

const (
	// Nothing changes nothing.
	Nothing Act = iota
	// End ends the sessions, and revokes what agents passed on.
	End
	// Brake suspends besides.
	Brake
)

// The times of a token.
const (
	// MaxAge is how long ago a token may have been issued. An older one is refused, so that it need not be remembered longer.
	MaxAge = 72 * time.Hour
	// AppliedWithin is how long ago an event may have happened to take effect at once. An older one waits for a person, because somebody may have
	// looked into it since.
	AppliedWithin = 24 * time.Hour
)

// The URIs that names of events begin with.
const (
	caep = "https://schemas.openid.net/secevent/caep/event-type/"
	risc = "https://schemas.openid.net/secevent/risc/event-type/"
	ssf  = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// Reading is what a token asks for.
type Reading struct {
	// Events are the names of its events, sorted: "session-revoked". One that is not known is named by its URI.
	Events []string `json:"events,omitempty"`
	// Act is what is asked for. Without one the other fields are empty.
	Act Act `json:"act,omitzero"`
	// Target is the user, service, agent, tenant or session that it is about.
	Target authz.Object `json:"target,omitzero"`
	// Tenant is the tenant in which it is about the target; empty means in all that exist for the transmitter.
	Tenant authz.TenantID `json:"tenant,omitempty"`
	// Waits is why it waits for a person; empty where it does not.
	Waits string `json:"waits,omitempty"`
	// Happened is when the event happened, as far as that is said.
	Happened time.Time `json:"happened,omitzero"`
}

// Read returns what a verified token asks for, by what its transmitter may send. Errors: Invalid, with a reason that begins with SIGNAL, for
// what is not for this server, is of another time, or is about nothing that has a name here.
func Read(t caller.EventToken, by *caller.Signals, now time.Time) (Reading, error) {
	if !slices.ContainsFunc(t.Audiences, func(one string) bool { return slices.Contains(by.Audiences, one) }) {
		return Reading{}, refuse(authz.ReasonSignalAudience, `is not for this server: its "aud" has none of %q`, by.Audiences)
	}
	switch age := now.Sub(t.Issued); {
	case age < -t.Leeway:
		return Reading{}, invalid("was issued in the future, at %s", t.Issued.UTC().Format(time.RFC3339))
	case age > MaxAge:
		return Reading{}, invalid("was issued at %s, more than %s ago", t.Issued.UTC().Format(time.RFC3339), MaxAge)
	}
	out := Reading{Happened: t.Happened}
	var latest time.Time
	// atOnce is the most that is asked for without waiting.
	var atOnce Act
	for uri, payload := range t.Events {
		name := eventName(uri)
		out.Events = append(out.Events, name)
		one, waits := asks(name, payload)
		if one == Nothing {
			continue
		}
		if !by.Kinds.Has(name) {
			waits = "its transmitter may not have " + name + " take effect at once"
		}
		out.Act = max(out.Act, one)
		switch {
		case waits == "":
			atOnce = max(atOnce, one)
		case out.Waits == "":
			out.Waits = waits
		}
		if at := happened(payload); at.After(latest) {
			latest = at
		}
	}
	slices.Sort(out.Events)
	if out.Act == Nothing {
		return Reading{Events: out.Events}, nil
	}
	if atOnce == out.Act {
		out.Waits = "" // what would wait takes away no more
	}
	switch {
	case !latest.IsZero():
		out.Happened = latest
	case out.Happened.IsZero():
		out.Happened = t.Issued
	}
	waits, err := out.about(t, by)
	if err != nil {
		return Reading{}, err
	}
	if out.Waits == "" {
		out.Waits = waits
	}
	if out.Waits == "" && now.Sub(out.Happened) > AppliedWithin {
		out.Waits = "it happened more than " + AppliedWithin.String() + " ago"
	}
	return out, nil
}

// eventName is the name of an event: the last part of a URI that is known, or else the URI.
func eventName(uri string) string {
	for _, prefix := range []string{caep, risc, ssf} {
		if name, ok := strings.CutPrefix(uri, prefix); ok && known[name] == prefix {
			return name
		}
	}
	return uri
}

// known are the events that have a short name, with the URI that it follows.
var known = map[string]string{
	"session-revoked": caep, "token-claims-change": caep, "credential-change": caep, "risk-level-change": caep,
	"assurance-level-change": caep, "device-compliance-change": caep, "session-established": caep, "session-presented": caep,
	"account-disabled": risc, "account-enabled": risc,
	"verification": ssf, "stream-updated": ssf,
}

// asks returns what one event asks for, and why it waits for a person.
func asks(name string, payload json.RawMessage) (act Act, waits string) {
	switch name {
	case "session-revoked", "token-claims-change":
		return End, ""
	case "account-disabled":
		return Brake, ""
	case "credential-change":
		// Somebody took the credential away. Every other change, one that is not known too, is an occasion to log in again.
		if word(payload, "change_type") == "revoke" {
			return Brake, ""
		}
		return End, ""
	case "risk-level-change":
		return risk(word(payload, "previous_level"), word(payload, "current_level"))
	default:
		return Nothing, ""
	}
}

// risk returns what a level of risk asks for: the highest one the brake, whatever was before, so that no signal that was lost matters; one
// that was raised, or of which nothing is said, that what runs ends.
func risk(before, now string) (act Act, waits string) {
	levels := []string{"LOW", "MEDIUM", "HIGH"}
	switch is, was := slices.Index(levels, now), slices.Index(levels, before); {
	case is < 0:
		return Brake, `its "current_level" is none that is known`
	case now == "HIGH":
		return Brake, ""
	case is > was && now != "LOW":
		return End, ""
	default:
		return Nothing, ""
	}
}

// word reads a member that is a string; "" where there is none.
func word(payload json.RawMessage, name string) string {
	var members map[string]json.RawMessage
	var text string
	if json.Unmarshal(payload, &members) != nil || json.Unmarshal(members[name], &text) != nil {
		return ""
	}
	return text
}

// lastSecond is the last one that RFC 3339 can write.
const lastSecond = 253402300799

// happened is an event's "event_timestamp", zero where that is no time: a transmitter that writes it wrongly must not keep the event from
// taking effect.
func happened(payload json.RawMessage) time.Time {
	var event struct {
		At json.RawMessage `json:"event_timestamp"`
	}
	var seconds float64
	if json.Unmarshal(payload, &event) != nil || json.Unmarshal(event.At, &seconds) != nil || !(seconds > 0 && seconds <= lastSecond) {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// invalid refuses a token for what it says.
func invalid(format string, args ...any) error {
	return refuse(authz.ReasonSignalInvalid, format, args...)
}

func refuse(reason, format string, args ...any) error {
	return authz.Errorf(authz.Invalid, reason, "the security event token "+format, args...)
}
