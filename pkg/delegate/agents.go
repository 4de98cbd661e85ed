package delegate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Register makes an agent known. Errors: Exists where the id left any trace in the graph.
func (d *Delegate) Register(ctx context.Context, id authz.AgentID, owners []authz.Object, key string) (facts.Agent, authz.Revision, error) {
	if err := checkKey(key); err != nil {
		return facts.Agent{}, authz.Revision{}, err
	}
	slices.SortFunc(owners, byID)
	owners = slices.Compact(owners)
	if len(owners) == 0 || len(owners) > MaxOwners {
		return facts.Agent{}, authz.Revision{}, authz.FieldErrorf("owner_ids", "must name 1 to %d users", MaxOwners)
	}
	v, err := d.look(ctx)
	if err != nil {
		return facts.Agent{}, authz.Revision{}, err
	}
	issued := facts.Issued{At: v.now, KeyDigest: d.keyDigest(key, registration(owners))}
	rev, err := d.write(ctx, facts.Register(id, owners, issued), facts.NoTrace(id.Object()))
	switch {
	case err == nil:
		return facts.Agent{ID: id, Owners: owners, Issued: issued, Life: facts.Life{Known: true, Active: true}}, rev, nil
	case authz.KindOf(err) != authz.Exists && reason(err) != authz.ReasonConflict:
		return facts.Agent{}, rev, err
	}
	// It was there before: by an earlier try of the same call, or it is taken.
	if v, err = d.look(ctx); err != nil {
		return facts.Agent{}, authz.Revision{}, err
	}
	a, err := v.agent(ctx, id)
	if err != nil && authz.KindOf(err) != authz.NotFound {
		return facts.Agent{}, authz.Revision{}, err
	}
	if key == "" || a.Issued.KeyDigest != issued.KeyDigest {
		return facts.Agent{}, authz.Revision{}, authz.Errorf(authz.Exists, authz.ReasonAlreadyExists,
			"the agent id is taken, or was once: ids are not used again")
	}
	return a, v.snap.Revision(), nil
}

// Agent reads one agent.
func (d *Delegate) Agent(ctx context.Context, id authz.AgentID) (facts.Agent, authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return facts.Agent{}, authz.Revision{}, err
	}
	a, err := v.agent(ctx, id)
	return a, v.snap.Revision(), err
}

// SuspendAgent stops an agent.
func (d *Delegate) SuspendAgent(ctx context.Context, id authz.AgentID) (authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return authz.Revision{}, err
	}
	if _, err := v.agent(ctx, id); err != nil {
		return authz.Revision{}, err
	}
	return d.brake(ctx, facts.Suspend(id.Object()))
}

// ResumeAgent lets a registered agent act again.
func (d *Delegate) ResumeAgent(ctx context.Context, id authz.AgentID) (authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return authz.Revision{}, err
	}
	a, err := v.agent(ctx, id)
	if err != nil {
		return authz.Revision{}, err
	}
	if a.Issued.At.IsZero() {
		a.Issued.At = v.now
	}
	return d.write(ctx, facts.Resume(id.Object(), a.Issued), nil)
}

// Suspend stops agents from acting for a user or a service, or in a tenant.
func (d *Delegate) Suspend(ctx context.Context, o authz.Object) (authz.Revision, error) {
	if _, err := d.look(ctx); err != nil {
		return authz.Revision{}, err
	}
	return d.brake(ctx, facts.Suspend(o))
}

// Resume lets agents act for a user or a service, or in a tenant.
func (d *Delegate) Resume(ctx context.Context, o authz.Object) (authz.Revision, error) {
	if _, err := d.look(ctx); err != nil {
		return authz.Revision{}, err
	}
	return d.write(ctx, facts.Resume(o, facts.Issued{}), nil)
}

// brake writes what stops something. On an engine whose clocks may differ it returns only once every
// later head revision is known to include the write.
func (d *Delegate) brake(ctx context.Context, updates []authz.Update) (authz.Revision, error) {
	rev, err := d.write(ctx, updates, nil)
	if err != nil {
		return rev, err
	}
	return rev, settle(ctx, d.graph.ClockOffset())
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

// reason returns the reason of the first Error in the chain, or "".
func reason(err error) string {
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return e.Reason
	}
	return ""
}

func byID(a, b authz.Object) int {
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	default:
		return 0
	}
}
