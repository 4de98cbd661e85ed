package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// pastTable writes about a decision of the past what its record says, whether the decision comes to the same when it is judged again, and what the
// answer would be today.
//
//	recorded     HAS_PERMISSION
//	judged again HAS_PERMISSION, as recorded
//	today        NO_PERMISSION
//
//	It would be answered differently today:
//	  principal    document:plan#view@user:alice   yes, today no
func pastTable(w io.Writer, e *deputy.ExplainPermissionResponse, t *tracer) {
	past := e.GetPast()
	r := past.GetRecord()
	row(w, "decided", time.Unix(0, r.GetTime()).UTC().Format(time.RFC3339Nano))
	row(w, "asked", fmt.Sprintf("may agent:%s %s %s:%s?", r.GetAgentId(), r.GetPermission(), r.GetResourceType(), r.GetResourceId()))
	if r.GetPrincipalId() != "" {
		field(w, "principal", r.GetPrincipalType()+":"+r.GetPrincipalId())
	}
	field(w, "tenant", r.GetTenantId())
	field(w, "caller", r.GetCaller())
	recorded := permissionship(r.GetAnswer())
	if r.GetRefusedBy() != 0 {
		recorded += " by the gate " + gateName(r.GetRefusedBy())
	}
	row(w, "recorded", recorded)
	row(w, "judged again", answerOr(e.GetDecision(), past.GetFailure())+", "+agreement(past.GetAgreement()))
	row(w, "today", answerOr(past.GetToday(), past.GetFailureToday()))
	if past.GetAgreementNote() != "" {
		row(w, "")
		row(w, past.GetAgreementNote()+".")
	}
	row(w, "")
	switch {
	case past.GetWithoutContext() && past.GetToday().GetPermissionship() == deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		row(w, "Whether it would be answered the same today depends on the caveat context that the decision had: give it with --context.")
	case past.GetDiffersToday():
		row(w, "It would be answered differently today.")
	case len(past.GetChanges()) > 0:
		row(w, "It would be answered the same today, though not for the same reasons.")
	default:
		row(w, "It would be answered the same today.")
	}
	if past.GetSchemaChanged() {
		row(w, "The schema is another one today.")
	}
	for _, reason := range past.GetReasonsToday() {
		row(w, "  today: "+reason)
	}
	for _, c := range past.GetChanges() {
		row(w, "  "+gateName(c.GetGate()), c.GetCondition(), outcome(c.GetThen())+", today "+outcome(c.GetToday()), c.GetDetail())
	}
	row(w, "")
	row(w, "Judged again at its revision:")
	candidateTables(w, e.GetCandidates(), e.GetReasons(), t)
	row(w, "")
	row(w, "Today:")
	candidateTables(w, past.GetCandidatesToday(), past.GetReasonsToday(), t)
}

// answerOr returns an answer, or why there is none.
func answerOr(d *deputy.CheckPermissionResponse, failure *deputy.ErrorStatus) string {
	switch {
	case failure != nil:
		return "no answer: " + failure.GetMessage()
	case len(d.GetMissingContext()) > 0:
		return permissionship(d.GetPermissionship()) + " on " + strings.Join(d.GetMissingContext(), ", ")
	default:
		return permissionship(d.GetPermissionship())
	}
}

// agreement says whether a record is right. An agreement that this program does not know counts as none.
func agreement(a deputy.Agreement) string {
	switch a {
	case deputy.Agreement_AGREEMENT_SAME:
		return "as recorded"
	case deputy.Agreement_AGREEMENT_DIFFERENT:
		return "WHICH IS NOT WHAT IS RECORDED"
	default:
		return "and whether that is as recorded is not known"
	}
}
