// Package delegate writes agents, principals' marks, delegations and sessions, and keeps their
// invariants: it reads the graph for a good error, and has the engine judge the same conditions again
// in the transaction that writes, so that racing writers cannot break them. What the engine's
// preconditions cannot express (a time, a count, a computed right) is harmless when it is wrong,
// because every decision checks it again.
package delegate

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
	"github.com/deputyauth/deputy/pkg/turns"
)

// Limits.
const (
	// MaxUpdates is the most relationships that one call writes; SpiceDB's own limit.
	MaxUpdates = 1000
	// MaxPrincipals is the most principals that one session acts for.
	MaxPrincipals = 100
	// MaxTargets is the most targets of one session.
	MaxTargets = 64
	// MaxScope is the most grants of one delegation's scope.
	MaxScope = 500
	// MaxOwners is the most owners of an agent.
	MaxOwners = 32
	// MaxKeyBytes is the longest idempotency key.
	MaxKeyBytes = 128
	// MaxTTL is the longest that a delegation lasts.
	MaxTTL = 10 * 365 * 24 * time.Hour
	// DefaultSessionTTL is how long a session lasts unless it says.
	DefaultSessionTTL = time.Hour
)

// Delegate is the lifecycle of everything in the core schema, for one caller. It is safe for concurrent use.
type Delegate struct {
	// caller is the caller's name, and within its bounds, which are never nil.
	caller string
	// first says that the caller's name is left out of digests; see First.
	first  bool
	within *authz.Bounds

	graph         authz.Graph
	now           func() time.Time
	key           []byte
	maxSessionTTL time.Duration
	// listReads is how many objects one call of a list reads.
	listReads int
	// sweepReads is how many objects one call of a brake reads.
	sweepReads int
	// maxNamed and maxHeld bound a review.
	maxNamed, maxHeld int
	// reviews are the turns of reviews.
	reviews *turns.Set
}

// New returns a Delegate over the graph, for nobody: nothing exists for it until For names a caller. key derives ids from idempotency keys;
// now is the clock that expirations are set by; sessions last at most maxSessionTTL without renewal.
func New(graph authz.Graph, key []byte, maxSessionTTL time.Duration, now func() time.Time) *Delegate {
	return &Delegate{
		first: true, within: &authz.Bounds{},
		graph: graph, key: key, maxSessionTTL: maxSessionTTL, now: now,
		listReads: listReads, sweepReads: sweepReads, maxNamed: maxNamed, maxHeld: maxHeld, reviews: turns.New("reviews", maxReviews),
	}
}

// For returns the Delegate for a caller: within is what exists for it, nil nothing, and idempotency keys are its own.
func (d *Delegate) For(caller string, within *authz.Bounds) *Delegate {
	if within == nil {
		within = &authz.Bounds{}
	}
	of := *d
	of.caller, of.first, of.within = caller, false, within
	return &of
}

// First returns the Delegate for the same caller as the first one that there was: its ids and digests are those of the versions that knew of no
// other, so that its retries survive an upgrade. At most one caller can be that.
func (d *Delegate) First() *Delegate {
	of := *d
	of.first = true
	return &of
}

// view is the graph as it is for a caller, at one revision and one moment, for one goroutine. Everything that the graph says of agents,
// principals, tenants, delegations and sessions is read through it: see within.go.
type view struct {
	snap   authz.Snapshot
	now    time.Time
	caller string
	within *authz.Bounds
	// tenants are those of a confined caller, by id.
	tenants []authz.TenantID
	// homes are the tenants within that have an agent, a user or a service, as far as they were looked for, and stands the relationships
	// that say so.
	homes  map[authz.Object]authz.TenantID
	stands []authz.MustHold
	// reads counts the objects that were read.
	reads int
}

// view returns the view of a snapshot.
func (d *Delegate) view(snap authz.Snapshot) *view {
	v := &view{snap: snap, now: d.now(), caller: d.caller, within: d.within}
	if d.within.Confined() {
		v.homes = map[authz.Object]authz.TenantID{}
		for _, id := range d.within.Tenants.List() {
			v.tenants = append(v.tenants, authz.TenantID(id))
		}
	}
	return v
}

// head pins the head revision, whatever the schema is: for what takes access away.
func (d *Delegate) head(ctx context.Context) (*view, error) {
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return nil, err
	}
	return d.view(snap), nil
}

// look pins the head revision and refuses while the core schema is not Deputy's.
func (d *Delegate) look(ctx context.Context) (*view, error) {
	v, err := d.head(ctx)
	if err != nil {
		return nil, err
	}
	schema, err := v.snap.Schema(ctx)
	if err != nil {
		return nil, err
	}
	if schema.CoreDifference != "" {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonCoreSchema, "%s", schema.WrongCore())
	}
	return v, nil
}

func (v *view) read(ctx context.Context, f authz.Filter) ([]authz.Relationship, error) {
	v.reads++
	lists, err := v.snap.Read(ctx, f)
	if err != nil {
		return nil, err
	}
	return lists[0], nil
}

func (v *view) agent(ctx context.Context, id authz.AgentID) (facts.Agent, error) {
	if exists, err := v.exists(ctx, id.Object()); err != nil {
		return facts.Agent{}, err
	} else if !exists {
		return facts.Agent{}, authz.NoAgent(id)
	}
	rels, err := v.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return facts.Agent{}, err
	}
	a := facts.ReadAgent(id, rels, v.now)
	if !a.Known {
		return a, authz.NoAgent(id)
	}
	return a, nil
}

// liveAgent is an agent that may act as far as it is up to itself.
func (v *view) liveAgent(ctx context.Context, id authz.AgentID) error {
	a, err := v.agent(ctx, id)
	switch {
	case err != nil:
		return err
	case !a.Live():
		return notActive("the agent is not active")
	case len(a.Owners) == 0:
		return notActive("the agent has no owner")
	}
	return nil
}

func (v *view) delegation(ctx context.Context, id authz.DelegationID) (facts.Delegation, error) {
	out, err := v.link(ctx, id)
	if err != nil {
		return facts.Delegation{}, err
	}
	if !out.Known || !out.Within(v.within) {
		return facts.Delegation{}, authz.NoDelegation(id)
	}
	return out, nil
}

// link reads a delegation for the chain of one that exists for the caller, whether or not it does so itself: it is not told, but for
// whether it is live.
func (v *view) link(ctx context.Context, id authz.DelegationID) (facts.Delegation, error) {
	rels, err := v.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return facts.Delegation{}, err
	}
	return facts.ReadDelegation(id, rels, v.now), nil
}

// run is a session as it is for a caller.
type run struct {
	facts.Session
	// leaves are the delegations of its leaves; nil until they are read.
	leaves []facts.Delegation
	// beyond tells that it has other leaves, which do not exist for the caller and are not among Leaves.
	beyond bool
}

func (v *view) session(ctx context.Context, id authz.SessionID) (run, error) {
	rels, err := v.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return run{}, err
	}
	out := run{Session: facts.ReadSession(id, rels, v.now)}
	if !out.Known || !out.Within(v.within) {
		return run{}, authz.NoSession(id)
	}
	if v.within.AllActors() {
		return out, nil
	}
	all := out.Leaves
	held, err := v.leaves(ctx, all)
	if err != nil {
		return run{}, err
	}
	out.Leaves, out.leaves = nil, nil
	for i := range held {
		if !held[i].Known || !held[i].Within(v.within) {
			out.beyond = true
			continue
		}
		out.Leaves, out.leaves = append(out.Leaves, all[i]), append(out.leaves, held[i])
	}
	if len(out.Leaves) == 0 {
		return run{}, authz.NoSession(id)
	}
	if out.beyond {
		out.part()
	}
	return out, nil
}

// part makes of a session that acts beyond the caller's bounds what a session with the caller's leaves alone is.
func (r *run) part() {
	r.Until = until(r.Until, r.leaves)
	r.Active = r.Active && !r.Until.IsZero()
	if !slices.ContainsFunc(r.leaves, func(d facts.Delegation) bool { return !d.Stopped }) {
		r.Stopped = true // this is how the caller's part of it ends: see End
	}
}

// leaves reads the delegations of leaves.
func (v *view) leaves(ctx context.Context, leaves []facts.Leaf) ([]facts.Delegation, error) {
	filters := make([]authz.Filter, len(leaves))
	for i, l := range leaves {
		filters[i] = facts.Object(l.Delegation.Object())
	}
	v.reads += len(filters)
	lists, err := v.snap.Read(ctx, filters...)
	if err != nil {
		return nil, err
	}
	out := make([]facts.Delegation, len(leaves))
	for i, l := range leaves {
		out[i] = facts.ReadDelegation(l.Delegation, lists[i], v.now)
	}
	return out, nil
}

// standing is whether agents may act for a user or a service, or in a tenant.
func (v *view) standing(ctx context.Context, o authz.Object) error {
	exists, err := v.exists(ctx, o)
	if err != nil {
		return err
	}
	var standing facts.Life
	if exists {
		rels, err := v.read(ctx, facts.StandingFilter(o))
		if err != nil {
			return err
		}
		standing = facts.ReadStanding(o, rels, v.now)
	}
	if standing.Live() {
		return nil
	}
	how := "; PrincipalsService.Resume (deputy principal resume " + authz.Show(o) + ") lets agents act "
	if standing.Stopped {
		return notActive(authz.Show(o) + " is suspended" + how + "again")
	}
	return notActive(authz.Show(o) + " is not active yet" + how + "for it, or in it")
}

// write applies updates that stand on what the view has read. A precondition that held when it was read and no longer does is reported as a
// conflict that a retry will explain.
func (d *Delegate) write(ctx context.Context, v *view, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	return d.apply(ctx, updates, slices.Concat(must, v.stands))
}

// apply applies updates.
func (d *Delegate) apply(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
	if len(updates) > MaxUpdates {
		return authz.Revision{}, authz.Errorf(authz.Invalid, authz.ReasonInvalidField,
			"this takes %d relationships, more than the %d that one call writes", len(updates), MaxUpdates)
	}
	rev, err := d.graph.Write(ctx, updates, must)
	if authz.KindOf(err) == authz.Precondition && reason(err) == authz.ReasonConflict {
		return rev, &authz.Error{
			Op: "delegate.write", Kind: authz.Precondition, Reason: authz.ReasonConflict,
			Message: "what this stands on changed while it was written", Err: err,
		}
	}
	return rev, err
}

func notActive(message string) error {
	return authz.Errorf(authz.Precondition, authz.ReasonNotActive, "%s", message)
}
