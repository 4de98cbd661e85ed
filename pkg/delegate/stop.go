package delegate

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// What takes access away is here. It is not refused because the core schema differs, and writes whatever has changed since it was looked at.

// Suspend stops an agent, or stops agents from acting for a user or a service, or in a tenant. What takes access away is never
// refused, so any id will do, unless the caller has bounds. Errors: NotFound for what does not exist for the caller, Denied where a tenant
// outside its bounds has the agent or the principal, too.
func (d *Delegate) Suspend(ctx context.Context, o authz.Object) (Stood, authz.Revision, error) {
	v, err := d.head(ctx)
	if err != nil {
		return Stood{}, authz.Revision{}, err
	}
	if err := v.whole(ctx, o); err != nil {
		return Stood{}, authz.Revision{}, err
	}
	named, err := v.named(ctx, o)
	if err != nil {
		named = true // it is no more than a hint, and must not keep anybody from suspending
	}
	updates := facts.Suspend(o)
	if o.Type == authz.TypeAgent {
		if a, err := v.agent(ctx, authz.AgentID(o.ID)); err == nil && !a.Active && !a.Stopped || authz.KindOf(err) == authz.NotFound {
			updates = facts.SuspendUnregistered(authz.AgentID(o.ID))
		}
	}
	rev, err := d.brake(ctx, updates)
	return Stood{Named: named}, rev, err
}

// End ends a session and all that was passed on from it. Ending an ended one succeeds. Of a session that acts beyond the caller's bounds it
// ends the caller's part, by revoking its leaves, and touches nothing else.
func (d *Delegate) End(ctx context.Context, id authz.SessionID) (authz.Revision, error) {
	_, rev, err := d.end(ctx, id)
	return rev, err
}

// end is End, and tells what it stopped.
func (d *Delegate) end(ctx context.Context, id authz.SessionID) (stopped, authz.Revision, error) {
	v, err := d.head(ctx)
	if err != nil {
		return stopped{}, authz.Revision{}, err
	}
	s, err := v.session(ctx, id)
	if err != nil {
		return stopped{}, authz.Revision{}, err
	}
	var all stopped
	all.session(&s)
	rev, err := d.brake(ctx, all.updates)
	return all, rev, err
}

// Revoke ends a delegation and, since every decision walks the chain, all that was passed on from it.
func (d *Delegate) Revoke(ctx context.Context, id authz.DelegationID) (authz.Revision, error) {
	_, rev, err := d.revoke(ctx, id)
	return rev, err
}

// revoke is Revoke, and tells what it stopped.
func (d *Delegate) revoke(ctx context.Context, id authz.DelegationID) (stopped, authz.Revision, error) {
	v, err := d.head(ctx)
	if err != nil {
		return stopped{}, authz.Revision{}, err
	}
	found, err := v.delegation(ctx, id)
	if err != nil {
		return stopped{}, authz.Revision{}, err
	}
	var all stopped
	all.delegation(&found)
	rev, err := d.brake(ctx, all.updates)
	return all, rev, err
}

// stopped is what is stopped by some updates.
type stopped struct {
	updates []authz.Update
	// sessions and delegations count those that were live.
	sessions, delegations int
}

// session stops a session, or the caller's part of it, which is the whole of it to the caller.
func (s *stopped) session(one *run) {
	if one.Live() {
		s.sessions++
	}
	if one.beyond {
		for i := range one.leaves {
			s.updates = append(s.updates, one.leaves[i].Revoke()...)
		}
		return
	}
	s.updates = append(s.updates, one.End()...)
}

// delegation stops a delegation.
func (s *stopped) delegation(one *facts.Delegation) {
	if one.Live() {
		s.delegations++
	}
	s.updates = append(s.updates, one.Revoke()...)
}

// brakeTries is how often a brake is written that other writes meet.
const brakeTries = 8

// brake is writeStop. On an engine whose clocks may differ it returns only once every later head revision is known to include the write.
func (d *Delegate) brake(ctx context.Context, updates []authz.Update) (authz.Revision, error) {
	rev, err := d.writeStop(ctx, updates)
	if err != nil {
		return rev, err
	}
	return rev, settle(ctx, d.graph.ClockOffset())
}

// writeStop writes what stops something, whatever has changed since it was looked at. What the engine does not take of it, because its schema
// lacks a relation, or its disk the room, is left out, but for the tombstones: they refuse by themselves.
func (d *Delegate) writeStop(ctx context.Context, updates []authz.Update) (authz.Revision, error) {
	rev, err := d.writeAgain(ctx, updates)
	if kind := authz.KindOf(err); err != nil && kind != authz.Unavailable && kind != authz.Deadline {
		deletes := func(u authz.Update) bool { return u.Operation == authz.Delete }
		if again, err := d.writeAgain(ctx, slices.DeleteFunc(slices.Clone(updates), deletes)); err == nil {
			return again, nil
		}
	}
	return rev, err
}

// writeAgain writes, again where another write met it.
func (d *Delegate) writeAgain(ctx context.Context, updates []authz.Update) (rev authz.Revision, err error) {
	for range brakeTries {
		if rev, err = d.apply(ctx, updates, nil); authz.KindOf(err) != authz.Aborted {
			break
		}
	}
	return rev, err
}

// settle waits as long as two clocks of the engine may differ.
func settle(ctx context.Context, offset time.Duration) error {
	if offset <= 0 {
		return nil
	}
	t := time.NewTimer(offset)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return &authz.Error{
			Op: "delegate.settle", Kind: authz.Deadline, Reason: authz.ReasonEngineUnavailable,
			Message: "it was written, but not yet known to be seen everywhere", Err: ctx.Err(),
		}
	}
}
