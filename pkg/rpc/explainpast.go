package rpc

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/judge"
)

// explainPast explains a decision that is in the journal.
func (p *permissions) explainPast(ctx context.Context, r *deputyv1.ExplainPermissionRequest) (*deputyv1.ExplainPermissionResponse, error) {
	if r.GetCheck() != nil {
		return nil, authz.FieldErrorf("decision_id", "is not to be combined with check")
	}
	if err := mayReadRecords(ctx); err != nil {
		return nil, err
	}
	records := &journals{border: p.border}
	reader, err := records.reader()
	if err != nil {
		return nil, err
	}
	found, _, err := records.get(ctx, reader, r.GetDecisionId())
	if err != nil {
		return nil, err
	}
	given, err := caveatContext(r.GetContext())
	if err != nil {
		return nil, err
	}
	past := pastDecision{Record: foundProto(ctx, reader, found).GetRecord()}
	if len(given) == 0 && len(past.GetContextHash()) > 0 {
		given = past.recorded(reader)
		past.without = len(given) == 0
	}
	if err := past.check(reader, found.Erased, given); err != nil {
		return nil, err
	}
	asked, err := past.asked(given)
	if err != nil {
		return nil, err
	}
	asked.ID = r.GetDecisionId()
	caller := by(ctx)
	caller.Trace = r.GetWithTrace()
	end, err := p.explaining.begin(ctx, r.GetWithTrace())
	if err != nil {
		return nil, err
	}
	defer end()
	again, err := p.Judge.Explain(ctx, caller, asked)
	if authz.KindOf(err) == authz.OutOfRange {
		return nil, past.gone(p.Judge.Retention(), err)
	}
	if err != nil {
		return nil, err
	}
	out := p.again(ctx, &past, again)
	if out.GetPast().GetAgreement() == deputyv1.Agreement_AGREEMENT_DIFFERENT {
		p.Figures.disagreed()
		p.Log.Error("a decision that is judged again at its revision is not the recorded one", zap.String("decision", r.GetDecisionId()),
			zap.Uint64("record", past.GetSequence()), zap.Stringer("recorded", past.GetAnswer()),
			zap.Stringer("again", permissionship(again.Then.Decision.Permissionship)), zap.Error(again.Then.Err))
	}
	return out, nil
}

// mayReadRecords refuses callers that may explain, and may not read the journal.
func mayReadRecords(ctx context.Context) error {
	m := *caller.MethodOf(deputyv1.PermissionsService_ExplainPermission_FullMethodName)
	m.WithoutAdmin = true
	return caller.Of(ctx).May(&m)
}

// pastDecision is a decision as its record has it.
type pastDecision struct {
	*journal.Record

	// without says that it had a caveat context, and that none is given here.
	without bool
}

// recorded returns the caveat context where the record holds all of it; nil where it does not.
func (d *pastDecision) recorded(reader *journal.Reader) map[string]any {
	open, err := caveatContext(d.GetContext())
	if err != nil || len(open) == 0 {
		return nil
	}
	if whole, err := reader.SameContext(d.Record, open); err != nil || !whole {
		return nil
	}
	return open
}

// check refuses what cannot be judged again, and a caveat context other than the recorded one.
func (d *pastDecision) check(reader *journal.Reader, erased bool, given map[string]any) error {
	refuse := func(reason, text string, args ...any) error {
		return authz.Errorf(authz.Precondition, reason, text, args...)
	}
	kind := d.GetKind()
	switch {
	case erased:
		return refuse(authz.ReasonErased, "the person in this record was erased, so that nobody can tell what was decided for whom")
	case kind != deputyv1.RecordKind_RECORD_KIND_DECISION && kind != deputyv1.RecordKind_RECORD_KIND_EXPLANATION,
		d.GetActingUnder() == deputyv1.ActingUnder_ACTING_UNDER_UNSPECIFIED, d.GetRevision() == "":
		return refuse(authz.ReasonNotADecision, "this record of %s is not of a decision of CheckPermission, of an item of CheckBulkPermissions or of an "+
			"explanation, and only those can be judged again; deputy journal show prints it", d.GetMethod())
	case d.GetCode() != 0:
		return refuse(authz.ReasonNotADecision, "this call has failed with %s, so that there is no answer to compare with; deputy journal show prints it",
			d.GetReason())
	case len(given) == 0:
		return nil
	}
	if len(d.GetContextHash()) == 0 {
		return authz.FieldErrorf("context", "was not given with this decision: leave it out")
	}
	same, err := reader.SameContext(d.Record, given)
	switch {
	case errors.Is(err, journal.ErrErased):
		return refuse(authz.ReasonErased, "the person in this record was erased, and with it the digest of the context")
	case err != nil:
		return err
	case !same:
		return authz.FieldErrorf("context", "is not the one of this decision: its digest is another one than the record has")
	}
	return nil
}

// asked is the decision as the judge takes it.
func (d *pastDecision) asked(given map[string]any) (judge.Past, error) {
	question := &deputyv1.CheckPermissionRequest{
		AgentId: d.GetAgentId(), TenantId: d.GetTenantId(), Permission: d.GetPermission(),
		Resource: &deputyv1.ObjectReference{ObjectType: d.GetResourceType(), ObjectId: d.GetResourceId()},
	}
	if d.GetPrincipalId() != "" {
		question.OnBehalfOf = &deputyv1.ObjectReference{ObjectType: d.GetPrincipalType(), ObjectId: d.GetPrincipalId()}
	}
	under := d.GetActingUnder()
	switch under {
	case deputyv1.ActingUnder_ACTING_UNDER_SESSION:
		question.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: d.GetSessionId()}
	case deputyv1.ActingUnder_ACTING_UNDER_DELEGATION:
		question.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: d.GetDelegationId()}
	case deputyv1.ActingUnder_ACTING_UNDER_NEITHER, deputyv1.ActingUnder_ACTING_UNDER_UNSPECIFIED:
	}
	today, err := caseOf(question)
	if err != nil {
		return judge.Past{}, err
	}
	today.Context = given
	then := today
	if under == deputyv1.ActingUnder_ACTING_UNDER_NEITHER {
		then.Delegation = authz.DelegationID(d.GetDelegationId())
	}
	began := time.Unix(0, d.GetTime())
	return judge.Past{
		Then: then, Today: today, Revision: authz.Revision{Token: d.GetRevision()}, Head: authz.Revision{Token: d.GetHead()},
		From: began, Until: began.Add(time.Duration(d.GetLatency())), Schema: d.GetSchema(), Same: d.same,
	}, nil
}

// same reports whether an answer is the recorded one. A decision stops at the first refusal, and an explanation goes on: the gate that is recorded
// has to be among those that refuse.
func (d *pastDecision) same(r judge.Result) bool {
	if r.Err != nil || permissionship(r.Decision.Permissionship) != d.GetAnswer() || !slices.Equal(r.Decision.Missing, d.GetMissingContext()) {
		return false
	}
	if r.Decision.Permissionship != authz.NoPermission || deputyv1.Gate(r.Decision.Gate) == d.GetRefusedBy() {
		return true
	}
	chosen := r.Decision.Chosen()
	return chosen != nil && slices.ContainsFunc(chosen.Conditions, func(c authz.Condition) bool {
		return deputyv1.Gate(c.Gate) == d.GetRefusedBy() && c.Outcome == authz.No
	})
}

// gone says why a decision cannot be judged again, and since when at the latest. Its revision may have been written long before the decision.
func (d *pastDecision) gone(retention time.Duration, err error) error {
	made := time.Unix(0, d.GetTime()).UTC()
	return &authz.Error{
		Op: "rpc.ExplainPermission", Kind: authz.OutOfRange, Reason: authz.ReasonRevision, Field: "decision_id", Err: err,
		Message: "is of a decision that was made at " + made.Format(time.RFC3339) + ", at a revision that is not readable any more: a revision stays readable for " +
			retention.String() + " after it was written (this one until " + made.Add(retention).Format(time.RFC3339) + " at the latest), which --retention sets. " +
			"deputy journal show prints the record",
	}
}

// again is a decision that was judged again.
func (p *permissions) again(ctx context.Context, d *pastDecision, again *judge.Again) *deputyv1.ExplainPermissionResponse {
	past := &deputyv1.PastDecision{Record: d.Record, SchemaChanged: again.OtherSchema, WithoutContext: d.without}
	out := &deputyv1.ExplainPermissionResponse{Past: past}
	made := time.Unix(0, d.GetTime())
	if then := &again.Then; then.Err != nil {
		past.Failure = toErrorStatus(ctx, then.Err)
	} else {
		// Its token is as old as the decision, so that nobody takes it for a snapshot of today, and a reach at it is as of that moment.
		out.Decision = p.decision(&then.Decision, p.Sealer.token(then.Decision.CheckedAt, made), proof{})
		out.Candidates, out.Reasons = candidates(&then.Decision), then.Decision.Reasons
	}
	if today := &again.Today; today.Err != nil {
		past.FailureToday = toErrorStatus(ctx, today.Err)
	} else {
		past.Today = p.decision(&today.Decision, p.token(ctx, today.Decision.CheckedAt), proof{})
		past.CandidatesToday, past.ReasonsToday = candidates(&today.Decision), today.Decision.Reasons
	}
	past.Agreement, past.AgreementNote = d.agreement(again, caller.Of(ctx).Bounds)
	past.DiffersToday = again.Today.Err != nil || permissionship(again.Today.Decision.Permissionship) != d.GetAnswer() ||
		!slices.Equal(again.Today.Decision.Missing, d.GetMissingContext())
	past.Changes = changes(again.Then.Decision.Chosen(), again.Today.Decision.Chosen())
	return out
}

// agreement says whether a decision, judged again, is the recorded one, and why that may not be so.
func (d *pastDecision) agreement(again *judge.Again, within *authz.Bounds) (deputyv1.Agreement, string) {
	const unknown = deputyv1.Agreement_AGREEMENT_UNKNOWN
	switch {
	case d.same(again.Then):
		return deputyv1.Agreement_AGREEMENT_SAME, ""
	case d.without:
		return unknown, "the decision had a caveat context, and it was judged again without one"
	case d.GetBounded():
		return unknown, "the caller " + d.GetCaller() + " was bound to part of the graph, and its bounds of then are not recorded"
	case !within.Everything():
		return unknown, "you are bound to part of the graph, and it was judged again within your bounds"
	case again.ByClock:
		return unknown, "this engine judges by its own clock which relationships have expired, and some may have expired since"
	default:
		return deputyv1.Agreement_AGREEMENT_DIFFERENT, "THE RECORD SAYS SOMETHING ELSE: the settings of the server have changed since (its global types, or " +
			"another version), or the record or the store is not as it was; run deputy journal verify"
	}
}

// changes are the conditions that have another outcome today.
func changes(then, today *authz.Candidate) []*deputyv1.ConditionChange {
	if then == nil || today == nil {
		return nil
	}
	type key struct {
		gate     authz.Gate
		baseline bool
		text     string
	}
	keyOf := func(c *authz.Condition) key { return key{c.Gate, c.Baseline, c.Text} }
	was := map[key]authz.Outcome{}
	for i := range then.Conditions {
		was[keyOf(&then.Conditions[i])] = then.Conditions[i].Outcome
	}
	var out []*deputyv1.ConditionChange
	for i := range today.Conditions {
		c := &today.Conditions[i]
		before, found := was[keyOf(c)]
		delete(was, keyOf(c))
		if !found {
			before = authz.NotJudged
		}
		if before != c.Outcome {
			out = append(out, &deputyv1.ConditionChange{
				Gate: deputyv1.Gate(c.Gate), Condition: c.Text, Then: outcomeProto(before), Today: outcomeProto(c.Outcome), Detail: c.Detail,
			})
		}
	}
	for i := range then.Conditions {
		c := &then.Conditions[i]
		if before, left := was[keyOf(c)]; left {
			delete(was, keyOf(c))
			out = append(out, &deputyv1.ConditionChange{
				Gate: deputyv1.Gate(c.Gate), Condition: c.Text, Then: outcomeProto(before), Today: deputyv1.Outcome_OUTCOME_NOT_JUDGED,
			})
		}
	}
	return out
}
