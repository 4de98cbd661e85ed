package oracle_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// answer is what the server says, in terms that compare with the oracle's.
type answer struct {
	oracle.Answer
	// missing are the names of the fields.
	missing []string
}

// codeOf maps the oracle's failures to what the wire contract promises.
var codeOf = map[oracle.Failure]codes.Code{
	oracle.NotFound:     codes.NotFound,
	oracle.Invalid:      codes.InvalidArgument,
	oracle.Precondition: codes.FailedPrecondition,
}

// show describes a question for the message of a failed test.
func show(q oracle.Question) string {
	amount := "-"
	if q.Context.Amount != nil {
		amount = fmt.Sprint(*q.Context.Amount)
	}
	return fmt.Sprintf("may %s (session %q, delegation %q) for %s in %q do %s on %s, amount %s, region %q",
		q.Agent, q.Session, q.Delegation, q.Principal, q.Tenant, q.Permission, q.Resource, amount, q.Context.Region)
}

// caveatContext returns a context as deputy.v1 takes it.
func caveatContext(c oracle.Context) *structpb.Struct {
	fields := map[string]any{}
	if c.Amount != nil {
		fields["amount"] = *c.Amount
	}
	if c.Region != "" {
		fields["region"] = c.Region
	}
	if len(fields) == 0 {
		return nil
	}
	s, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return s
}

// checkRequest returns a question as CheckPermission takes it.
func checkRequest(q oracle.Question) *deputyv1.CheckPermissionRequest {
	r := &deputyv1.CheckPermissionRequest{
		AgentId:    q.Agent,
		OnBehalfOf: reference(q.Principal),
		TenantId:   q.Tenant,
		Resource:   reference(q.Resource),
		Permission: q.Permission,
		Context:    caveatContext(q.Context),
	}
	switch {
	case q.Session != "":
		r.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		r.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: q.Delegation}
	}
	return r
}

// bulkItem returns a question as an item of CheckBulkPermissions.
func bulkItem(q oracle.Question) *deputyv1.CheckBulkPermissionsRequestItem {
	single := checkRequest(q)
	r := &deputyv1.CheckBulkPermissionsRequestItem{
		AgentId:    single.AgentId,
		OnBehalfOf: single.OnBehalfOf,
		TenantId:   single.TenantId,
		Resource:   single.Resource,
		Permission: single.Permission,
		Context:    single.Context,
	}
	switch {
	case q.Session != "":
		r.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		r.Via = &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: q.Delegation}
	}
	return r
}

// verdicts maps what the wire says to the oracle's verdicts.
var verdicts = map[deputyv1.Permissionship]oracle.Verdict{
	deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION:          oracle.Denied,
	deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION: oracle.Conditional,
	deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION:         oracle.Allowed,
}

// sides maps what the wire says to the oracle's sides.
var sides = map[deputyv1.RefusedBy]oracle.Side{
	deputyv1.RefusedBy_REFUSED_BY_UNSPECIFIED: oracle.Neither,
	deputyv1.RefusedBy_REFUSED_BY_ACTOR:       oracle.ByActor,
	deputyv1.RefusedBy_REFUSED_BY_OBJECT:      oracle.ByObject,
}

// read turns a decision into an answer.
func (w *world) read(r *deputyv1.CheckPermissionResponse) answer {
	w.t.Helper()
	verdict, known := verdicts[r.Permissionship]
	side, knownSide := sides[r.RefusedBy]
	if !known || !knownSide {
		w.t.Errorf("unknown answer %s, %s", r.Permissionship, r.RefusedBy)
	}
	a := answer{missing: r.MissingContext, Answer: oracle.Answer{
		Verdict:    verdict,
		Side:       side,
		Tenant:     r.TenantId,
		Agents:     r.AgentChain,
		Delegation: r.DelegationId,
	}}
	if r.Principal != nil {
		a.Principal = oracle.Object{Type: r.Principal.ObjectType, ID: r.Principal.ObjectId}
	}
	if r.ValidUntil != nil {
		a.Until = r.ValidUntil.AsTime()
	}
	if r.DecisionId == "" {
		w.t.Errorf("a decision without an id")
	}
	return a
}

// ask asks one question by CheckPermission.
func (w *world) ask(q oracle.Question) (answer, error) {
	w.t.Helper()
	response, err := w.deputy.permissions.CheckPermission(w.ctx, checkRequest(q))
	if err != nil {
		return answer{}, err
	}
	return w.read(response), nil
}

// askAll asks questions by CheckBulkPermissions. A failed item has its status as error.
func (w *world) askAll(questions []oracle.Question) ([]answer, []error) {
	w.t.Helper()
	answers, errs := make([]answer, len(questions)), make([]error, len(questions))
	at := 0
	for part := range slices.Chunk(questions, 1000) {
		request := &deputyv1.CheckBulkPermissionsRequest{}
		for _, q := range part {
			request.Items = append(request.Items, bulkItem(q))
		}
		response, err := w.deputy.permissions.CheckBulkPermissions(w.ctx, request)
		if err != nil {
			w.t.Fatalf("bulk check: %v", err)
		}
		if len(response.Pairs) != len(part) {
			w.t.Fatalf("%d answers to %d questions", len(response.Pairs), len(part))
		}
		for _, pair := range response.Pairs {
			switch r := pair.Response.(type) {
			case *deputyv1.CheckBulkPermissionsPair_Item:
				answers[at] = w.read(r.Item)
			case *deputyv1.CheckBulkPermissionsPair_Error:
				errs[at] = status.Error(codes.Code(r.Error.Code), r.Error.Message)
			default:
				errs[at] = status.Error(codes.Unknown, "neither an answer nor an error")
			}
			at++
		}
	}
	return answers, errs
}

// difference says how an answer differs from what the oracle says, or "".
func difference(got answer, err error, want oracle.Answer) string {
	if want.Failure != oracle.NoFailure || err != nil {
		if status.Code(err) != codeOf[want.Failure] {
			return fmt.Sprintf("got %s and error %v, want error %s and %s", got.Verdict, err, want.Failure, want.Verdict)
		}
		return ""
	}
	var wrong []string
	differs := func(what string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			wrong = append(wrong, fmt.Sprintf("%s: got %v, want %v", what, got, want))
		}
	}
	differs("permissionship", got.Verdict, want.Verdict)
	differs("refused_by", got.Side, want.Side)
	differs("missing_context", got.missing, want.Missing.Names())
	if want.Verdict == oracle.Denied {
		want.Principal, want.Tenant, want.Agents, want.Delegation = oracle.Object{}, "", nil, ""
	}
	differs("principal", got.Principal, want.Principal)
	differs("tenant_id", got.Tenant, want.Tenant)
	differs("agent_chain", got.Agents, want.Agents)
	differs("delegation_id", got.Delegation, want.Delegation)
	if has := want.Verdict == oracle.Allowed; has == got.Until.IsZero() {
		wrong = append(wrong, fmt.Sprintf("valid_until: got %s on %s", got.Until, want.Verdict))
	} else if has && got.Until.After(want.Until) {
		wrong = append(wrong, fmt.Sprintf("valid_until: got %s, after %s", got.Until, want.Until))
	}
	return strings.Join(wrong, "; ")
}

// compare asks all questions at once, and the first few one by one as well, the first with its
// reasons too, and holds each answer to the oracle's. It returns the oracle's answers.
func (w *world) compare(questions []oracle.Question) []oracle.Answer {
	w.t.Helper()
	if len(questions) == 0 {
		return nil
	}
	now := time.Now()
	want := make([]oracle.Answer, len(questions))
	for i, q := range questions {
		want[i] = w.state.Decide(q, now)
	}
	got, errs := w.askAll(questions)
	for i, q := range questions {
		if d := difference(got[i], errs[i], want[i]); d != "" {
			w.fail("bulk: "+d, q)
		}
		if i >= 4 {
			continue
		}
		single, err := w.ask(q)
		if d := difference(single, err, want[i]); d != "" {
			w.fail("check: "+d, q)
		}
		if i >= 1 {
			continue
		}
		explained, err := w.deputy.audit.ExplainPermission(w.ctx, &deputyv1.ExplainPermissionRequest{Check: checkRequest(q)})
		var decision answer
		if err == nil {
			decision = w.read(explained.Decision)
		}
		if d := difference(decision, err, want[i]); d != "" {
			w.fail("explain: "+d, q)
		}
	}
	return want
}

// fail reports a difference with everything that is needed to understand it: the question, the chain
// and, from ExplainPermission, each gate that did not hold.
func (w *world) fail(what string, q oracle.Question) {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", what, show(q))
	explained, err := w.deputy.audit.ExplainPermission(w.ctx, &deputyv1.ExplainPermissionRequest{Check: checkRequest(q)})
	if err != nil {
		fmt.Fprintf(&b, "explain: %v\n", err)
	}
	for _, c := range explained.GetCandidates() {
		fmt.Fprintf(&b, "candidate %v, agents %v, for %s in %s: %s\n", c.DelegationChain, c.AgentChain, c.Principal, c.TenantId, c.Permissionship)
		for _, g := range c.Gates {
			for _, condition := range g.Conditions {
				if condition.Outcome != deputyv1.Outcome_OUTCOME_YES {
					fmt.Fprintf(&b, "  %s: %s: %s %s, at baseline %v\n", g.Gate, condition.Condition, condition.Outcome, condition.Detail, condition.AtBaseline)
				}
			}
		}
	}
	for id, d := range w.state.Delegations {
		fmt.Fprintf(&b, "delegation %s: %+v\n", id, d)
	}
	for id, s := range w.state.Sessions {
		s.Baseline = nil
		fmt.Fprintf(&b, "session %s: %+v\n", id, s)
	}
	fmt.Fprintf(&b, "active %v\nsuspended %v\nstanding %v\n%s", w.state.Active, w.state.Suspended, w.state.Standing, w.state.Explain())
	w.t.Fatalf("%s", b.String())
}
