package journal_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// ended is the record of how the only call of a method ended since the ledger was read.
func (w *world) ended(method string) *deputyv1.Record {
	w.t.Helper()
	var found *deputyv1.Record
	for _, r := range w.ledger.fresh() {
		if r.GetMethod() == "deputy.v1."+method && r.GetStage() != deputyv1.RecordStage_RECORD_STAGE_BEGUN {
			found = r
		}
	}
	if found == nil {
		w.t.Fatalf("no record of how %s ended", method)
	}
	return found
}

// TestRecordsNameWhatWasMade: the ids that the server made, and the people and the tenant that it found, are in the record of how the call ended.
func TestRecordsNameWhatWasMade(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "sub", OwnerIds: []string{"carol"}})
	w.must(err)
	w.ledger.fresh()

	made, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "sub", ParentDelegationId: w.delegation, Unscoped: true, Ttl: durationpb.New(time.Minute),
	})
	w.must(err)
	r := w.ended("DelegationsService/CreateDelegation")
	if r.GetDelegationId() != made.GetDelegation().GetDelegationId() || r.GetPrincipalId() != "alice" || r.GetTenantId() != "acme" || r.GetAgentId() != "sub" {
		t.Errorf("a delegation is made, and its record says %v", r)
	}

	w.renew()
	r = w.ended("SessionsService/StartSession")
	if r.GetSessionId() != w.session || r.GetPrincipalType() != "user" || r.GetPrincipalId() != "alice" || r.GetTenantId() != "acme" ||
		r.GetDelegationId() != w.delegation || r.GetAgentId() != "bot" {
		t.Errorf("the session %s is started, and its record says %v", w.session, r)
	}

	// Two principals in one tenant: it names the tenant, and neither of them.
	other, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, Ttl: durationpb.New(time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:carol")},
	})
	w.must(err)
	both, err := w.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Ttl: durationpb.New(time.Hour),
		Targets: []*deputyv1.SessionTarget{{DelegationId: w.delegation}, {DelegationId: other.GetDelegation().GetDelegationId()}},
	})
	w.must(err)
	r = w.ended("SessionsService/StartSession")
	if r.GetSessionId() != both.GetSession().GetSessionId() || r.GetPrincipalType() != "" || r.GetPrincipalId() != "" || r.GetTenantId() != "acme" {
		t.Errorf("a session for two is started, and its record says %v", r)
	}
}

// TestRecordsTellADryRun: what would be done is not taken for what was done, and both say of how many sessions and delegations.
func TestRecordsTellADryRun(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	w.ledger.fresh()
	for _, dry := range []bool{true, false} {
		got, err := deputyv1.NewBrakeServiceClient(w.Admin).Brake(t.Context(), &deputyv1.BrakeRequest{
			Target: &deputyv1.BrakeRequest_SessionId{SessionId: w.session}, Reason: "a drill", DryRun: dry,
		})
		w.must(err)
		r := w.ended("BrakeService/Brake")
		want := got.GetSessionsEnded() + got.GetDelegationsRevoked()
		if dry {
			want = got.GetWouldStop().GetSessions() + got.GetWouldStop().GetDelegations()
		}
		if r.GetDryRun() != dry || r.GetResults() != want || want == 0 || r.GetSessionId() != w.session || r.GetGivenReason() != "a drill" {
			t.Errorf("a brake with dry_run %t is answered %v, and its record says %v", dry, got, r)
		}
		purged, err := deputyv1.NewRetentionServiceClient(w.Admin).Purge(t.Context(), &deputyv1.PurgeRequest{
			OlderThan: durationpb.New(30 * 24 * time.Hour), DryRun: dry,
		})
		w.must(err)
		if r := w.ended("RetentionService/Purge"); r.GetDryRun() != dry || r.GetResults() != purged.GetSessions()+purged.GetDelegations() {
			t.Errorf("a purge with dry_run %t is answered %v, and its record says %v", dry, purged, r)
		}
	}
}
