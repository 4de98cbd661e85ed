package client

import (
	"strings"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Decision is the answer to one question, and immutable. The zero Decision refuses.
//
// It says what holds at one revision. Ask again before the next act: a Decision that is kept is one that
// a revocation does not reach.
type Decision struct {
	response *deputyv1.CheckPermissionResponse
}

// Allowed reports whether every gate holds. Whatever else the answer is, a conditional one and one that
// this version does not know included, it is false.
func (d Decision) Allowed() bool {
	return d.response.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
}

// Missing names the fields of caveat context that a refusal depends on: with them the answer may be
// another. It is empty unless the answer is conditional.
func (d Decision) Missing() []string { return d.response.GetMissingContext() }

// CheckedAt is the revision of the decision; nil for the zero Decision. Session.Snapshot takes it.
func (d Decision) CheckedAt() *deputyv1.ZedToken { return d.response.GetCheckedAt() }

// ValidUntil is when the session or the delegation ends that the permission depends on: zero unless
// allowed. It is an upper bound, not a time for which the decision may be kept.
func (d Decision) ValidUntil() time.Time {
	if d.response.GetValidUntil() == nil {
		return time.Time{}
	}
	return d.response.GetValidUntil().AsTime()
}

// Response is the answer as it came: the decision's id, and as resolved the principal, the tenant, the
// delegation and the chain of agents. It is nil for the zero Decision, which its getters permit.
func (d Decision) Response() *deputyv1.CheckPermissionResponse { return d.response }

// String returns the answer in a word, with what a refusal says about itself.
func (d Decision) String() string {
	verdict := strings.TrimPrefix(d.response.GetPermissionship().String(), "PERMISSIONSHIP_")
	if missing := d.Missing(); len(missing) > 0 {
		return verdict + " (missing " + strings.Join(missing, ", ") + ")"
	}
	if side := d.response.GetRefusedBy(); side != deputyv1.RefusedBy_REFUSED_BY_UNSPECIFIED {
		return verdict + " (" + strings.ToLower(strings.TrimPrefix(side.String(), "REFUSED_BY_")) + ")"
	}
	return verdict
}

// Guard makes one error of what a Check returns: nil only where the answer allows, a *Refused where it
// does not, else what kept it from being answered.
//
//	if err := client.Guard(session.Check(ctx, question)); err != nil {
//		return err
//	}
func Guard(d Decision, err error) error {
	switch {
	case err != nil:
		return err
	case !d.Allowed():
		return &Refused{d}
	default:
		return nil
	}
}

// Refused is the error of Guard for an answer that does not allow.
type Refused struct { //nolint:errname // Reads as what it says: errors.AsType[*client.Refused](err).
	// Decision is the answer.
	Decision Decision
}

// Error says that the answer is a refusal, with the id to find it by.
func (r *Refused) Error() string {
	s := "refused: " + r.Decision.String()
	if id := r.Decision.response.GetDecisionId(); id != "" {
		s += ", decision " + id
	}
	return s
}
