package daemon

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Result is the answer to one case of DecideAll: a decision, or why there is none.
type Result struct {
	Decision authz.Decision
	Err      error
}

// Decide makes one decision in this process, without gRPC: the same as PermissionsService.CheckPermission
// makes, with every condition. It is the program's own, which nothing bounds; InProcess.Decide is that of a caller. Decision says more than a
// service is told, so what an agent gets to see is the caller's to choose.
//
// Ids in a Case are stored ones: make them with authz.NewAgentID, NewTenantID, NewUser, NewService and NewObject of those from outside, and with
// NewSessionID and NewDelegationID.
//
// The zero Freshness is the head revision. Errors are *authz.Error; with one the decision is zero, which
// denies. A panic is an error too, of kind Internal, whose cause holds the stack. It is safe for concurrent use, before
// Serve and beside it, until Close.
func (d *Daemon) Decide(ctx context.Context, c authz.Case, f authz.Freshness) (authz.Decision, error) {
	return d.program.Decide(ctx, c, f)
}

// DecideAll is Decide for many cases at one revision, which it returns: as many results as cases, in order.
// An error is the failure of the whole call.
func (d *Daemon) DecideAll(ctx context.Context, cases []authz.Case, f authz.Freshness) ([]Result, authz.Revision, error) {
	return d.program.DecideAll(ctx, cases, f)
}
