package journal_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

const (
	auditorKey  = "the key of an auditor"
	confinedKey = "the key of a confined auditor"
	checkerKey  = "the key of a bounded checker"
)

// withAuditors adds an auditor, an auditor that is bound to another tenant, and a checker that is bound to another agent.
func withAuditors(cfg daemon.Config) daemon.Config {
	bounds := func(change func(*authz.Bounds)) *authz.Bounds {
		b := authz.Unbounded()
		change(b)
		return b
	}
	key := func(text string) []caller.Credential {
		return []caller.Credential{{ID: "key", Key: digest(text)}}
	}
	cfg.Callers = append(cfg.Callers,
		&caller.Caller{
			Name: "auditor", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
			Credentials: key(auditorKey),
		},
		&caller.Caller{
			Name: "confined", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), SpiceDB: authz.AllNames(), Credentials: key(confinedKey),
			Bounds: bounds(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("globex") }),
		},
		&caller.Caller{
			Name: "bounded", Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER), SpiceDB: authz.AllNames(), Credentials: key(checkerKey),
			Bounds: bounds(func(b *authz.Bounds) { b.Agents = authz.NamesOf("sub") }),
		},
	)
	cfg.PresharedKeys, cfg.AdminPresharedKeys = []string{harness.ServiceKey}, []string{harness.AdminKey}
	return cfg
}

func (w *world) as(key string) *grpc.ClientConn { return harness.Dial(w.t, w.Addr().String(), key) }

// question asks whether bot may view an object for alice, by itself.
func question(resource string) *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: "bot", OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: harness.Ref(resource), Permission: "view",
	}
}

// decide asks as the service does.
func (w *world) decide(q *deputyv1.CheckPermissionRequest) *deputyv1.CheckPermissionResponse {
	w.t.Helper()
	got, err := w.Permissions().CheckPermission(w.t.Context(), q)
	w.must(err)
	return got
}

// past explains a decision of the past, as an auditor.
func (w *world) past(id string, given map[string]any) (*deputyv1.ExplainPermissionResponse, error) {
	w.t.Helper()
	r := &deputyv1.ExplainPermissionRequest{DecisionId: id}
	if given != nil {
		var err error
		r.Context, err = structpb.NewStruct(given)
		w.must(err)
	}
	return deputyv1.NewPermissionsServiceClient(w.as(auditorKey)).ExplainPermission(w.t.Context(), r)
}

// until waits until a question is answered in some way.
func (w *world) until(q *deputyv1.CheckPermissionRequest, want deputyv1.Permissionship) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	for w.decide(q).GetPermissionship() != want {
		if ctx.Err() != nil {
			w.t.Fatal("it is never answered so")
		}
	}
}

const pastDomain = domain + `
definition memo {
	relation tenant: tenant
	relation reader: user with expiration | agent
	permission view = reader
}
`

const (
	has         = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	no          = deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	conditional = deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	same        = deputyv1.Agreement_AGREEMENT_SAME
	unknown     = deputyv1.Agreement_AGREEMENT_UNKNOWN
)

func TestADecisionOfThePastIsExplained(t *testing.T) { //nolint:tparallel // its subtests share a world
	t.Parallel()
	w := newWorld(t, withAuditors(daemon.Config{}))
	w.WriteSchema(t, schema.Core+pastDomain)
	w.Touch(t, "document:other#tenant@tenant:acme", "document:other#reader@user:alice", "memo:m#tenant@tenant:acme", "memo:m#reader@agent:bot")
	w.Touch(t, "memo:m#reader@user:alice[expiration:"+time.Now().Add(2*time.Second).UTC().Format(time.RFC3339)+"]")
	frozen, err := w.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: w.delegation}}, Ttl: durationpb.New(time.Hour), Frozen: true,
	})
	w.must(err)
	short, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, AllowDirect: true, Ttl: durationpb.New(2 * time.Second),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
	})
	w.must(err)
	inSession := func(session, resource string) *deputyv1.CheckPermissionRequest {
		return &deputyv1.CheckPermissionRequest{
			AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session}, Resource: harness.Ref(resource), Permission: "view",
		}
	}
	byShort := question("document:plan")
	byShort.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: short.GetDelegation().GetDelegationId()}
	withHour := question("document:daily")
	withHour.Context, err = structpb.NewStruct(map[string]any{"hour": 10})
	w.must(err)
	tests := []pastTest{
		{name: "same", ask: question("document:plan"), then: has, today: has, agreement: same},
		{name: "in a session", ask: inSession(w.session, "document:plan"), then: has, today: no, agreement: same, changed: "is live"},
		{name: "revoked", ask: inSession(w.session, "document:daily"), then: conditional, today: no, agreement: same},
		{name: "granted", ask: question("document:other"), then: no, today: has, agreement: same, changed: "document:other#view@agent:bot"},
		{name: "frozen", ask: inSession(frozen.GetSession().GetSessionId(), "document:other"), then: no, today: no, agreement: same, changed: "document:other#view@agent:bot"},
		{name: "a delegation expired", ask: byShort, then: has, today: no, agreement: same},
		{name: "a relationship expired", ask: question("memo:m"), then: has, today: no, agreement: same, changed: "memo:m#view@user:alice"},
		{name: "with its context", ask: withHour, given: map[string]any{"hour": 10}, then: has, today: has, agreement: same},
		{name: "without its context", ask: withHour, then: conditional, today: conditional, agreement: unknown, without: true},
	}
	// All is decided first; what happens since comes afterwards, all at once.
	ids := make([]string, len(tests))
	for i, d := range tests {
		answer := w.decide(d.ask)
		if ids[i] = answer.GetDecisionId(); d.agreement == same && answer.GetPermissionship() != d.then {
			t.Fatalf("%s: %s", d.name, answer.GetPermissionship())
		}
	}
	_, err = w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: w.session})
	w.must(err)
	w.Touch(t, "document:other#reader@agent:bot")
	w.until(byShort, no)
	w.until(question("memo:m"), no)
	w.WriteSchema(t, schema.Core+pastDomain+"definition more {}\n")
	for i, d := range tests {
		t.Run(d.name, func(t *testing.T) {
			got, err := w.past(ids[i], d.given)
			if err != nil {
				t.Fatal(err)
			}
			d.check(t, got)
			if got.GetDecision().GetDecisionId() == ids[i] {
				t.Error("the explanation has the id of the decision")
			}
		})
	}
}

// pastTest is a decision of the past, and what becomes of it.
type pastTest struct {
	name        string
	ask         *deputyv1.CheckPermissionRequest
	given       map[string]any
	then, today deputyv1.Permissionship
	agreement   deputyv1.Agreement
	// changed is part of a condition that has changed since; empty asks for none.
	changed string
	without bool
}

func (d *pastTest) check(t *testing.T, got *deputyv1.ExplainPermissionResponse) {
	t.Helper()
	past := got.GetPast()
	if got.GetDecision().GetPermissionship() != d.then || past.GetToday().GetPermissionship() != d.today || past.GetAgreement() != d.agreement {
		t.Errorf("then %s, today %s, %s: %s\n%v", got.GetDecision().GetPermissionship(), past.GetToday().GetPermissionship(), past.GetAgreement(),
			past.GetAgreementNote(), past)
	}
	if past.GetDiffersToday() != (past.GetRecord().GetAnswer() != d.today) || past.GetWithoutContext() != d.without || !past.GetSchemaChanged() {
		t.Errorf("differs %t, without its context %t, another schema %t", past.GetDiffersToday(), past.GetWithoutContext(), past.GetSchemaChanged())
	}
	found := d.changed == ""
	for _, c := range past.GetChanges() {
		found = found || strings.Contains(c.GetCondition(), d.changed)
	}
	if !found {
		t.Errorf("%q is not among the changes: %v", d.changed, past.GetChanges())
	}
	if past.GetRecord().GetResourceId() != d.ask.GetResource().GetObjectId() {
		t.Error("it is the explanation of another decision")
	}
}

// TestTheRecordedContextIsUsed: where a record holds all of the caveat context in the open, nobody has to give it again.
func TestTheRecordedContextIsUsed(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]daemon.Journal{
		"in the clear": {OpenFields: []string{"hour"}}, "sealed": {OpenFields: []string{"hour"}, Erasable: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, withAuditors(daemon.Config{Journal: set}))
			for _, test := range []struct {
				given   map[string]any
				then    deputyv1.Permissionship
				agrees  deputyv1.Agreement
				without bool
			}{
				{map[string]any{"hour": 10}, has, same, false},
				{map[string]any{"hour": 10, "other": "x"}, conditional, unknown, true}, // part of it is a digest only
			} {
				q := question("document:daily")
				q.Context, _ = structpb.NewStruct(test.given)
				got, err := w.past(w.decide(q).GetDecisionId(), nil)
				w.must(err)
				past := got.GetPast()
				if got.GetDecision().GetPermissionship() != test.then || past.GetAgreement() != test.agrees || past.GetWithoutContext() != test.without ||
					past.GetDiffersToday() != test.without {
					t.Errorf("with %v: %s, %v", test.given, got.GetDecision().GetPermissionship(), past)
				}
			}
		})
	}
}

func TestADecisionOfThePastIsForAuditors(t *testing.T) { //nolint:tparallel // as above
	t.Parallel()
	w := newWorld(t, withAuditors(daemon.Config{}))
	made := w.decide(question("document:plan")).GetDecisionId()
	q := question("document:daily")
	q.Context, _ = structpb.NewStruct(map[string]any{"hour": 10})
	withHour := w.decide(q).GetDecisionId()
	failed := question("missing:x")
	if _, err := w.Permissions().CheckPermission(t.Context(), failed); err == nil {
		t.Fatal("a missing type is answered")
	}
	w.ledger.fresh()
	started, err := w.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: w.session})
	w.must(err)
	_ = started
	hour := func(n int) *structpb.Struct {
		s, err := structpb.NewStruct(map[string]any{"hour": n})
		w.must(err)
		return s
	}
	for name, test := range map[string]struct {
		key     string
		request *deputyv1.ExplainPermissionRequest
		code    codes.Code
		reason  string
	}{
		"an admin":          {harness.AdminKey, &deputyv1.ExplainPermissionRequest{DecisionId: made}, codes.PermissionDenied, "ROLE_REQUIRED"},
		"a checker":         {harness.ServiceKey, &deputyv1.ExplainPermissionRequest{DecisionId: made}, codes.PermissionDenied, "ROLE_REQUIRED"},
		"out of bounds":     {confinedKey, &deputyv1.ExplainPermissionRequest{DecisionId: made}, codes.NotFound, "RECORD_NOT_FOUND"},
		"made up":           {auditorKey, &deputyv1.ExplainPermissionRequest{DecisionId: strings.Repeat("0", 32)}, codes.NotFound, "RECORD_NOT_FOUND"},
		"no id":             {auditorKey, &deputyv1.ExplainPermissionRequest{DecisionId: "x"}, codes.InvalidArgument, "INVALID_FIELD"},
		"both":              {auditorKey, &deputyv1.ExplainPermissionRequest{DecisionId: made, Check: q}, codes.InvalidArgument, "INVALID_FIELD"},
		"neither":           {auditorKey, &deputyv1.ExplainPermissionRequest{}, codes.InvalidArgument, "INVALID_FIELD"},
		"a check's context": {auditorKey, &deputyv1.ExplainPermissionRequest{Check: q, Context: hour(10)}, codes.InvalidArgument, "INVALID_FIELD"},
		"another context":   {auditorKey, &deputyv1.ExplainPermissionRequest{DecisionId: withHour, Context: hour(11)}, codes.InvalidArgument, "INVALID_FIELD"},
		"needless context":  {auditorKey, &deputyv1.ExplainPermissionRequest{DecisionId: made, Context: hour(10)}, codes.InvalidArgument, "INVALID_FIELD"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := deputyv1.NewPermissionsServiceClient(w.as(test.key)).ExplainPermission(t.Context(), test.request)
			if status.Code(err) != test.code || reason(err) != test.reason {
				t.Error(err)
			}
		})
	}
	// Both explanations are on record, and say what they are about.
	w.ledger.fresh()
	got, err := w.past(made, nil)
	w.must(err)
	var about []string
	for _, r := range w.ledger.fresh() {
		if r.GetKind() == deputyv1.RecordKind_RECORD_KIND_EXPLANATION && r.GetAboutDecision() == made && r.GetCaller() == "auditor" {
			about = append(about, r.GetAnswer().String())
		}
	}
	if len(about) != 2 {
		t.Error("the explanations are recorded as", about)
	}
	// An explanation can be explained; a call that was no decision cannot.
	if _, err := w.past(got.GetDecision().GetDecisionId(), nil); err != nil {
		t.Error(err)
	}
}

func TestWhatTheRecordDoesNotHoldIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withAuditors(daemon.Config{}))
	answer, err := deputyv1.NewPermissionsServiceClient(w.as(checkerKey)).CheckPermission(t.Context(), question("document:plan"))
	w.must(err)
	if answer.GetPermissionship() != no {
		t.Fatal("the checker is not bounded")
	}
	got, err := w.past(answer.GetDecisionId(), nil)
	w.must(err)
	if past := got.GetPast(); past.GetAgreement() != unknown || !strings.Contains(past.GetAgreementNote(), "bounded") {
		t.Error(past.GetAgreement(), past.GetAgreementNote())
	}
}

func TestADecisionAtASnapshotIsExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withAuditors(daemon.Config{}))
	q := question("document:plan")
	at := w.decide(q).GetCheckedAt()
	_, err := w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
	w.must(err)
	q.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: at}}
	q.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: w.delegation}
	refused := w.decide(q)
	if refused.GetPermissionship() != no {
		t.Fatal("somebody who was suspended since acts at a snapshot")
	}
	got, err := w.past(refused.GetDecisionId(), nil)
	w.must(err)
	if got.GetPast().GetAgreement() != same || got.GetDecision().GetPermissionship() != no {
		t.Error(got.GetPast().GetAgreement(), got.GetPast().GetAgreementNote())
	}
}

func TestARevisionThatIsGoneIsSaid(t *testing.T) {
	t.Parallel()
	cfg := withAuditors(daemon.Config{SnapshotMaxAge: time.Millisecond})
	w := newWorldOn(t, cfg, func(e *engine.Config) { e.Retention = 2 * time.Second })
	made := w.decide(question("document:plan")).GetDecisionId()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := w.past(made, nil)
		if err != nil {
			if status.Code(err) != codes.OutOfRange || reason(err) != "REVISION_UNAVAILABLE" || !strings.Contains(err.Error(), "--retention") {
				t.Error(err)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the revision stays readable")
		}
		w.Touch(t, "document:plan#reader@user:carol")
	}
}
