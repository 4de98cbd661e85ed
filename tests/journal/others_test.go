package journal_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestDecisionsInProcessAreRecorded: a program that holds the server decides past gRPC, and what it is answered is recorded all the same.
func TestDecisionsInProcessAreRecorded(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	alice, err := authz.NewUser("alice")
	w.must(err)
	asked := authz.Case{
		Agent: "bot", Tenant: "acme", Principal: alice, Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
	}
	other := asked
	other.Resource.ID = "none"
	unknown := asked
	unknown.Resource.Type = "missing"
	w.ledger.fresh()
	decision, err := w.Decide(t.Context(), asked, authz.Freshness{})
	w.must(err)
	records := w.ledger.fresh()
	if len(records) != 1 || records[0].GetAnswer() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION || records[0].GetCaller() != "in process" ||
		records[0].GetMethod() != "in process" || decision.Permissionship != authz.HasPermission || records[0].GetResourceId() != "plan" {
		t.Errorf("the decision %v has the records %v", decision.Permissionship, records)
	}
	results, _, err := w.DecideAll(t.Context(), []authz.Case{asked, other, unknown}, authz.Freshness{})
	w.must(err)
	records = w.ledger.fresh()
	if len(records) != 3 {
		t.Fatalf("3 decisions have %d records", len(records))
	}
	for i, want := range []deputyv1.Permissionship{
		deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION, 0,
	} {
		if records[i].GetAnswer() != want || (records[i].GetCode() != 0) != (results[i].Err != nil) {
			t.Errorf("the record of decision %d says %s and code %d, and the program was told %v", i, records[i].GetAnswer(), records[i].GetCode(), results[i].Err)
		}
	}
	if _, err := w.Decide(t.Context(), unknown, authz.Freshness{}); err == nil {
		t.Error("an unknown type is decided")
	}
	if records = w.ledger.fresh(); len(records) != 1 || records[0].GetCode() == 0 || records[0].GetReason() == "" {
		t.Errorf("a decision that failed has the records %v", records)
	}
	// A call that fails as a whole, and one of a caller that may not ask.
	if _, err := w.Decide(t.Context(), asked, authz.Freshness{AtLeast: authz.Revision{Token: "none"}}); err == nil {
		t.Error("a decision is made at a revision that is none")
	}
	if records = w.ledger.fresh(); len(records) != 1 || records[0].GetCode() == 0 || records[0].GetAgentId() != "bot" {
		t.Errorf("a call that failed has the records %v", records)
	}
	as := w.As(&caller.Caller{Name: "reader", Bounds: authz.Unbounded()})
	if _, err := as.Decide(t.Context(), asked, authz.Freshness{}); authz.KindOf(err) != authz.Denied {
		t.Errorf("a caller without a role is answered %v", err)
	}
	if records = w.ledger.fresh(); len(records) != 1 || records[0].GetKind() != deputyv1.RecordKind_RECORD_KIND_REFUSED || records[0].GetCaller() != "reader" {
		t.Errorf("a refused decision has the records %v", records)
	}
	if _, err := w.As(nil).Decide(t.Context(), asked, authz.Freshness{}); authz.KindOf(err) != authz.Unauthenticated {
		t.Errorf("nobody is answered %v", err)
	}
	if records = w.ledger.fresh(); len(records) != 0 {
		t.Errorf("nobody's decision has the records %v", records)
	}
}

// TestStrangersAreCounted: calls without a valid credential leave no records of their own, however many they are, and are counted in one.
func TestStrangersAreCounted(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	wrong := harness.Dial(t, w.Addr().String(), "a-key-that-nobody-has")
	w.ledger.fresh()
	for range 40 {
		for _, conn := range []*grpc.ClientConn{w.Nobody, wrong} {
			_, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{})
			if status.Code(err) != codes.Unauthenticated {
				t.Fatal(err)
			}
		}
		if _, err := deputyv1.NewSessionsServiceClient(w.Nobody).GetSession(t.Context(), &deputyv1.GetSessionRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Fatal(err)
		}
	}
	if records := w.ledger.fresh(); len(records) != 0 {
		t.Errorf("strangers leave %d records", len(records))
	}
	w.Stop()
	<-w.Stopped
	w.must(w.Close())
	records := w.ledger.fresh()
	summaries := 0
	for _, r := range records {
		if r.GetKind() != deputyv1.RecordKind_RECORD_KIND_SUMMARY {
			continue
		}
		summaries++
		s := r.GetSummary()
		if s.GetWithoutCredential() != 80 || s.GetInvalidCredential() != 40 || s.GetUnknownCredential() != 0 || r.GetCaller() != "" ||
			s.GetFrom().AsTime().After(s.GetUntil().AsTime()) {
			t.Errorf("the summary says %v, want 80 without a credential and 40 with an invalid one", r)
		}
	}
	if summaries != 1 {
		t.Errorf("%d summaries, want 1", summaries)
	}
}
