//go:build unix

package signals

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/cli"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/signals/events"
)

// auditsKey is an auditor's.
const auditsKey = "key-of-the-auditor"

// audited has an auditor besides.
func audited(cfg *daemon.Config) {
	cfg.Callers = append(cfg.Callers, &caller.Caller{
		Name: "audits", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(auditsKey))}},
	})
}

// recorded are the newest records of how calls of a method ended, the newest first.
func (w *world) recorded(method string, most uint32) (all []*deputyv1.Record) {
	w.t.Helper()
	stream, err := deputyv1.NewJournalServiceClient(harness.Dial(w.t, w.Addr().String(), auditsKey)).QueryRecords(w.t.Context(),
		&deputyv1.QueryRecordsRequest{NewestFirst: true, Limit: most})
	w.must(err)
	for {
		got, err := stream.Recv()
		w.must(err)
		if got.GetEnd() != nil {
			return all
		}
		if r := got.GetRecord().GetRecord(); r.GetMethod() == method && r.GetStage() != deputyv1.RecordStage_RECORD_STAGE_BEGUN {
			all = append(all, r)
		}
	}
}

// TestRecords: of each signal the journal says what it was about and what has become of it, with the token's digest, and without the token.
func TestRecords(t *testing.T) {
	w := open(t, audited)
	const receives = "deputy.v1.SignalsService/ReceiveSignal"
	disabled := w.sign(event("account-disabled", user("alice"), nil))
	rogue, err := w.rogue.Token(event("account-disabled", user("carol"), nil))
	w.must(err)
	for _, test := range []struct {
		key, token string
		status     int
		user, says string
		code       int32
	}{
		{wideKey, disabled, http.StatusAccepted, "alice", "account-disabled from " + issuer + ": applied", 0},
		{wideKey, disabled, http.StatusAccepted, "alice", ": received before, and applied", 0},
		{wideKey, w.sign(event("account-enabled", user("alice"), nil)), http.StatusAccepted, "", "account-enabled from " + issuer + ": recorded", 0},
		{sessionsKey, w.sign(event("account-disabled", user("carol"), nil)), http.StatusAccepted, "carol", ": waiting", 0},
		{wideKey, rogue, http.StatusBadRequest, "", "", 3},
	} {
		if got := w.push(test.key, test.token); got.Status != test.status {
			t.Fatalf("%+v", got)
		}
		r := w.recorded(receives, 4)[0]
		request, err := proto.MarshalOptions{Deterministic: true}.Marshal(&deputyv1.ReceiveSignalRequest{Token: test.token})
		w.must(err)
		digest := sha256.Sum256(request)
		if r.GetKind() != deputyv1.RecordKind_RECORD_KIND_BRAKE || r.GetPrincipalId() != test.user || !strings.Contains(r.GetGivenReason(), test.says) ||
			r.GetCode() != test.code || !bytes.Equal(r.GetRequestHash(), digest[:]) {
			t.Errorf("want %q about %q; the record says %v", test.says, test.user, r)
		}
		text, err := proto.Marshal(r)
		w.must(err)
		if bytes.Contains(text, []byte(test.token)) || bytes.Contains(text, []byte(strings.Split(test.token, ".")[2])) {
			t.Errorf("the record has the token: %v", r)
		}
	}
	if got := w.push(checksKey, disabled); got.Status != http.StatusForbidden {
		t.Errorf("%+v", got)
	}
	if r := w.recorded(receives, 2)[0]; r.GetCaller() != "checks" || r.GetKind() != deputyv1.RecordKind_RECORD_KIND_REFUSED {
		t.Errorf("a call that is not a transmitter's is recorded as %v", r)
	}
	id := w.waits(harness.AdminKey)[0].GetSignalId()
	_, err = deputyv1.NewSignalsServiceClient(w.Admin).ApplySignal(t.Context(), &deputyv1.ApplySignalRequest{SignalId: id, Reason: "it is true"})
	w.must(err)
	if r := w.recorded("deputy.v1.SignalsService/ApplySignal", 4)[0]; r.GetPrincipalId() != "carol" || r.GetGivenReason() != "it is true (signal "+id+")" {
		t.Errorf("applied: %v", r)
	}
}

// TestCommandLine: a responder lists what waits, applies and drops, also as JSON.
func TestCommandLine(t *testing.T) {
	w := open(t, overMemory(t))
	run := func(args ...string) string {
		t.Helper()
		var out, wrong bytes.Buffer
		env := map[string]string{"DEPUTY_ENDPOINT": w.Addr().String(), "DEPUTY_KEY": harness.AdminKey}
		code := cli.Run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &wrong}, func(name string) (string, bool) {
			value, found := env[name]
			return value, found
		})
		if code != cli.ExitOK {
			t.Fatalf("%q: exit code %d: %s", args, code, wrong.String())
		}
		return out.String()
	}
	w.send(wideKey, event("account-disabled", tenant("acme"), nil))
	w.send(wideKey, event("session-revoked", members(map[string]any{"user": user("carol"), "tenant": events.Opaque("globex")}),
		map[string]any{"event_timestamp": 1}))
	ids := w.waits(harness.AdminKey)
	list := run("signal", "list")
	for _, text := range []string{ids[0].GetSignalId(), "tenant:acme", "suspend", "user:carol in globex", "end sessions", "max_subjects", "24h"} {
		if !strings.Contains(list, text) {
			t.Errorf("the list lacks %q:\n%s", text, list)
		}
	}
	if got := run("signal", "apply", ids[0].GetSignalId(), "--reason", "it is true"); !strings.Contains(got, "tenant:acme is suspended") ||
		!strings.Contains(got, "Ended: 3 live sessions") {
		t.Error(got)
	}
	if got := run("signal", "drop", ids[1].GetSignalId(), "--reason", "a drill", "-o", "json"); !strings.Contains(got, `"SIGNAL_STATE_DROPPED"`) {
		t.Error(got)
	}
	if left := w.waits(harness.AdminKey); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
