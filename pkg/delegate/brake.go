package delegate

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// sweepReads is how many objects one call of a brake reads, and sweepTime how long it goes on with that. Then it says where to go on.
const (
	sweepReads = 20_000
	sweepTime  = 3 * time.Second
)

// Braked is what a brake has stopped.
type Braked struct {
	// At is a revision from which on every check refuses.
	At authz.Revision
	// Named tells that a relationship named the agent, principal or tenant before.
	Named bool
	// Sessions and Delegations are how many live ones this call ended and revoked.
	Sessions, Delegations int
	// Next is where to go on; nil where everything was ended and revoked.
	Next *Place

	// written is the last revision that a sweep wrote.
	written authz.Revision
}

// Brake stops an agent, a user, a service, a tenant, a session or a delegation: the first write stops everything. Of an agent, a principal or a
// tenant it then ends the sessions, and revokes what agents passed on, so that none of it goes on once that is resumed. What users granted
// themselves stays.
//
// from is where an earlier call stopped: the zero Place begins. One call does a bounded amount of that. What keeps it from going on is an error
// only where the call has done nothing, since what it is about is stopped: who goes on meets it. Errors: those of Suspend, End and Revoke.
func (d *Delegate) Brake(ctx context.Context, o authz.Object, from Place) (Braked, error) {
	var out Braked
	var by stopped
	var err error
	switch begins := from.Revision.IsZero(); {
	case o.Type == authz.TypeSession:
		by, out.At, err = d.end(ctx, authz.SessionID(o.ID))
	case o.Type == authz.TypeDelegation:
		by, out.At, err = d.revoke(ctx, authz.DelegationID(o.ID))
	case begins:
		var was Stood
		was, out.At, err = d.Suspend(ctx, o)
		out.Named = was.Named
	default:
		out.At, out.Named = from.Revision, true
	}
	out.Sessions, out.Delegations = by.sessions, by.delegations
	if err != nil || o.Type == authz.TypeSession || o.Type == authz.TypeDelegation {
		return out, err
	}
	began := from
	from.Revision = out.At // since nothing begins under what is suspended
	if out.Next, err = d.sweep(ctx, o, from, &out); err != nil && *out.Next == began {
		return Braked{}, err
	}
	return out, nil
}

// EndAll is Brake without its first write: what was begun under an agent, a user, a service or a tenant ends, and that may begin anew. What begins
// meanwhile does not end. Of a session or a delegation it is Brake. A brake stops everything at once; this ends it page by page. Errors: those of
// Brake.
func (d *Delegate) EndAll(ctx context.Context, o authz.Object, from Place) (Braked, error) {
	if o.Type == authz.TypeSession || o.Type == authz.TypeDelegation {
		return d.Brake(ctx, o, from)
	}
	out := Braked{Named: true, At: from.Revision}
	if from.Revision.IsZero() {
		v, err := d.head(ctx)
		if err != nil {
			return Braked{}, err
		}
		exists, err := v.exists(ctx, o)
		if err != nil {
			return Braked{}, err
		}
		if !exists {
			return Braked{}, authz.NoPrincipal(o)
		}
		out.At = v.snap.Revision()
		from.Revision = out.At
	}
	began := from
	var err error
	if out.Next, err = d.sweep(ctx, o, from, &out); err != nil && *out.Next == began {
		return Braked{}, err
	}
	if !out.written.IsZero() {
		out.At = out.written
		return out, settle(ctx, d.graph.ClockOffset())
	}
	return out, nil
}

// sweeps selects what a sweep goes through, one after the other.
func sweeps(o authz.Object) []authz.Filter {
	switch o.Type {
	case authz.TypeAgent:
		return []authz.Filter{facts.SessionListFilter(authz.AgentID(o.ID)), facts.PassedOnFilter(authz.AgentID(o.ID))}
	case authz.TypeTenant:
		return []authz.Filter{facts.ListFilter(authz.Subject{Object: o}, false)}
	default:
		return []authz.Filter{facts.ListFilter(authz.Subject{Object: o}, true)}
	}
}

// sweep ends and revokes what is live below something that is suspended, page by page. It returns where it stopped: nil at the end.
func (d *Delegate) sweep(ctx context.Context, o authz.Object, from Place, out *Braked) (*Place, error) {
	until := authz.Until(ctx, sweepTime)
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{Exactly: from.Revision})
	if err != nil {
		return &from, err
	}
	v := d.view(snap)
	for all := sweeps(o); from.Stage < len(all); {
		rels, next, err := v.snap.Page(ctx, all[from.Stage], listPage, from.Engine)
		if err != nil {
			return &from, err
		}
		v.reads++
		by, err := v.below(ctx, o, from.Stage, resources(rels))
		if err != nil {
			return &from, err
		}
		for some := range slices.Chunk(by.updates, MaxUpdates) {
			at, err := d.writeStop(ctx, some)
			if err != nil {
				return &from, err
			}
			out.written = at
		}
		out.Sessions, out.Delegations = out.Sessions+by.sessions, out.Delegations+by.delegations
		from.Engine = next
		if next == "" {
			from.Stage++
		}
		if v.reads >= d.sweepReads || !time.Now().Before(until) {
			break
		}
	}
	if from.Stage == len(sweeps(o)) {
		return nil, nil //nolint:nilnil // it has ended
	}
	return &from, nil
}

// below returns what stops those of a page that are to be stopped: sessions of an agent, or delegations.
func (v *view) below(ctx context.Context, o authz.Object, stage int, ids []string) (stopped, error) {
	if o.Type == authz.TypeAgent && stage == 0 {
		return v.ends(ctx, ids)
	}
	held, err := v.delegations(ctx, ids)
	if err != nil {
		return stopped{}, err
	}
	var out stopped
	var leaves []*facts.Delegation
	for i := range held {
		switch one := &held[i]; {
		case !one.Stoppable():
		case one.Session != "":
			leaves = append(leaves, one)
		case one.Parent != "":
			out.delegation(one)
		}
	}
	if o.Type == authz.TypeAgent { // its leaves are its sessions', which have ended
		return out, nil
	}
	err = v.parts(ctx, o, leaves, &out)
	return out, err
}

// ends returns what ends sessions.
func (v *view) ends(ctx context.Context, ids []string) (stopped, error) {
	var out stopped
	runs, err := v.sessions(ctx, ids)
	for i := range runs {
		if runs[i].Stoppable() {
			out.session(&runs[i])
		}
	}
	return out, err
}

// parts stops the leaves of sessions that are a principal's, or in a tenant: a session that has no others, by ending it.
func (v *view) parts(ctx context.Context, o authz.Object, leaves []*facts.Delegation, out *stopped) error {
	ids := make([]string, len(leaves))
	for i, leaf := range leaves {
		ids[i] = string(leaf.Session)
	}
	runs, err := v.sessions(ctx, ids)
	if err != nil {
		return err
	}
	for i, leaf := range leaves {
		switch s := &runs[i]; {
		case s.Known && !s.Stoppable(): // no leaf acts without its session
		case !s.Known || slices.ContainsFunc(s.Leaves, func(l facts.Leaf) bool { return !l.Of(o) }):
			out.delegation(leaf)
		case s.Leaves[0].Delegation == leaf.ID: // once
			out.session(s)
		}
	}
	return nil
}

// sessions reads sessions. One that does not exist for the caller is not known.
func (v *view) sessions(ctx context.Context, ids []string) ([]run, error) {
	out := make([]run, len(ids))
	if !v.within.AllActors() {
		for i, id := range ids {
			var err error
			if out[i], err = v.session(ctx, authz.SessionID(id)); err != nil && authz.KindOf(err) != authz.NotFound {
				return nil, err
			}
		}
		return out, nil
	}
	lists, err := v.objects(ctx, authz.TypeSession, ids)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		out[i].Session = facts.ReadSession(authz.SessionID(id), lists[i], v.now)
	}
	return out, nil
}

// delegations reads delegations. One that does not exist for the caller is not known.
func (v *view) delegations(ctx context.Context, ids []string) ([]facts.Delegation, error) {
	lists, err := v.objects(ctx, authz.TypeDelegation, ids)
	if err != nil {
		return nil, err
	}
	out := make([]facts.Delegation, len(ids))
	for i, id := range ids {
		one := facts.ReadDelegation(authz.DelegationID(id), lists[i], v.now)
		if one.Known && one.Within(v.within) {
			out[i] = one
		}
	}
	return out, nil
}

// objects reads all facts of objects of a type.
func (v *view) objects(ctx context.Context, of string, ids []string) ([][]authz.Relationship, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	filters := make([]authz.Filter, len(ids))
	for i, id := range ids {
		filters[i] = facts.Object(authz.Object{Type: of, ID: id})
	}
	v.reads += len(ids)
	return v.snap.Read(ctx, filters...)
}
