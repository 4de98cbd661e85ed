package daemon

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
)

// everything are the bounds of who decides in this process.
var everything = authz.Unbounded()

// Result is the answer to one case of DecideAll: a decision, or why there is none.
type Result struct {
	Decision authz.Decision
	Err      error
}

// Decide makes one decision in this process, without gRPC: the same as PermissionsService.CheckPermission
// makes, with every condition. The caller is trusted as a service with a key is; Decision says more than a
// service is told, so what an agent gets to see is the caller's to choose.
//
// The zero Freshness is the head revision. Errors are *authz.Error; with one the decision is zero, which
// denies. A panic is an error too, of kind Internal, whose cause holds the stack. It is safe for concurrent use, before
// Serve and beside it, until Close.
func (d *Daemon) Decide(ctx context.Context, c authz.Case, f authz.Freshness) (_ authz.Decision, err error) {
	defer authz.Recover("daemon.Decide", &err)
	results, _, err := d.judge.Decide(ctx, everything, []authz.Case{c}, f, false)
	if err != nil {
		return authz.Decision{}, err
	}
	return results[0].Decision, results[0].Err
}

// DecideAll is Decide for many cases at one revision, which it returns: as many results as cases, in order.
// An error is the failure of the whole call.
func (d *Daemon) DecideAll(ctx context.Context, cases []authz.Case, f authz.Freshness) (_ []Result, _ authz.Revision, err error) {
	defer authz.Recover("daemon.DecideAll", &err)
	results, at, err := d.judge.Decide(ctx, everything, cases, f, false)
	if err != nil {
		return nil, authz.Revision{}, err
	}
	out := make([]Result, len(results))
	for i, r := range results {
		out[i] = Result{r.Decision, r.Err}
	}
	return out, at, nil
}
