package journal_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// responder is a caller that brakes within a tenant.
func responder(name string) *caller.Caller {
	bounds := *authz.Unbounded()
	bounds.Tenants = authz.NamesOf("acme")
	return &caller.Caller{
		Name: name, Roles: caller.RolesOf(deputyv1.Role_ROLE_RESPONDER), Bounds: &bounds, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: digest("the-key-of-" + name)}},
	}
}

// TestNoCallerFillsTheJournal: a confined responder that ends sessions which do not exist is told that its share is used up, and writes no more.
// Everybody else goes on, and what the responder itself narrows is done, and recorded once.
func TestNoCallerFillsTheJournal(t *testing.T) {
	w := newWorld(t, daemon.Config{
		Callers: []*caller.Caller{responder("loud"), responder("quiet")},
		Journal: daemon.Journal{QuotaBytes: 256 << 20, CallerShare: 0.0002},
	})
	loud := client.New(harness.Dial(t, w.Addr().String(), "the-key-of-loud"))
	flood := func(calls int, want codes.Code) {
		t.Helper()
		got := codes.OK
		for i := range calls {
			id := w.session[:len(w.session)-3] + "xyz" // of no session
			if i%2 == 1 {
				id = strings.Repeat("s", 1040)
			}
			_, err := loud.Sessions.EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: id})
			got = status.Code(err)
		}
		if got != want {
			t.Fatalf("the last call is answered %v, want %v", got, want)
		}
	}
	w.ledger.fresh()
	flood(1, codes.NotFound)
	flood(2, codes.InvalidArgument)
	for _, r := range w.ledger.fresh() {
		if r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_ENDED && len(r.GetSessionId()) > 600 {
			t.Errorf("the record of a refused call has %d bytes of the id that it names", len(r.GetSessionId()))
		}
	}
	flood(400, codes.ResourceExhausted)
	w.ledger.fresh()
	flood(100, codes.ResourceExhausted)
	if records := w.ledger.fresh(); len(records) > 0 {
		t.Errorf("a caller over its share leaves %d records that narrow nothing", len(records))
	}
	for range 20 {
		w.check("document:plan", "acme")
	}
	w.ledger.fresh()
	for _, name := range []string{"quiet", "loud"} {
		c := client.New(harness.Dial(t, w.Addr().String(), "the-key-of-"+name))
		_, err := c.Sessions.EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: w.session})
		w.must(err)
		w.renew()
		var of []*deputyv1.Record
		for _, r := range w.ledger.fresh() {
			if r.GetCaller() == name {
				of = append(of, r)
			}
		}
		want := map[string]int{"quiet": 2, "loud": 1}[name]
		if len(of) != want || of[len(of)-1].GetCode() != 0 {
			t.Errorf("a session that %s ended has the records %v", name, of)
		}
	}
}

// TestUnknownMethodsAreRecorded: a call of a method that does not exist is refused, with a record if its caller is known, and is counted else.
func TestUnknownMethodsAreRecorded(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	w.ledger.fresh()
	long := "/" + strings.Repeat("x", 2000) + "/Y"
	for _, method := range []string{"/no.such.Service/Do", "/deputy.v1.SessionsService/Steal", long} {
		err := w.Service.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != codes.Unimplemented || client.ReasonOf(err) != client.ReasonMethodNotServed {
			t.Errorf("%.40s is answered %v", method, err)
		}
		records := w.ledger.fresh()
		if len(records) != 1 {
			t.Fatalf("%.40s leaves %d records", method, len(records))
		}
		r := records[0]
		if r.GetCaller() != "service" || r.GetKind() != deputyv1.RecordKind_RECORD_KIND_REFUSED || r.GetCode() != int32(codes.Unimplemented) ||
			!strings.HasPrefix(method[1:], strings.TrimSuffix(r.GetMethod(), "…")) || len(r.GetMethod()) > 300 {
			t.Errorf("%.40s leaves the record %v", method, r)
		}
	}
	for range 3 {
		err := w.Nobody.Invoke(t.Context(), "/no.such.Service/Do", &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("nobody is answered %v", err)
		}
	}
	w.Stop()
	<-w.Stopped
	w.must(w.Close())
	counted := uint64(0)
	for _, r := range w.ledger.fresh() {
		counted += r.GetSummary().GetWithoutCredential()
	}
	if counted != 3 {
		t.Errorf("%d calls of nobody are counted, want 3", counted)
	}
}

// TestBoundsHideHowMuchThereIs: an auditor with bounds gets no sequences, and finds its records by their ids all the same.
func TestBoundsHideHowMuchThereIs(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	decision := w.check("document:plan", "acme").GetDecisionId()
	w.check("document:plan", "acme")
	for _, name := range []string{"acme", "bots", "auditor"} {
		c := w.client(t, name)
		found, err := c.QueryRecords(client.RecordQuery{}).Collect(t.Context())
		w.must(err)
		one, err := c.Journal.GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: decision})
		w.must(err)
		told := false
		for _, f := range append(found, one.GetRecord()) {
			told = told || f.GetRecord().GetSequence() != 0 || f.GetRecord().GetBegun() != 0
			if f.GetDecisionId() == "" {
				t.Errorf("%s gets a record without an id", name)
			}
		}
		if len(found) < 2 || told != (name == "auditor") {
			t.Errorf("%s finds %d records, and is told their sequences: %v", name, len(found), told)
		}
	}
}
