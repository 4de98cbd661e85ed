// Package delegate writes agents, principals' marks, delegations and sessions, and keeps their
// invariants: it reads the graph for a good error, and has the engine judge the same conditions again
// in the transaction that writes, so that racing writers cannot break them. What the engine's
// preconditions cannot express (a time, a count, a computed right) is harmless when it is wrong,
// because every decision checks it again.
package delegate

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
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

// Delegate is the lifecycle of everything in the core schema. It is safe for concurrent use.
type Delegate struct {
	graph         authz.Graph
	now           func() time.Time
	key           []byte
	maxSessionTTL time.Duration
	// listReads is how many objects one call of a list reads.
	listReads int
	// maxNamed and maxHeld bound a review.
	maxNamed, maxHeld int
	// reviews has room for the reviews that are under way.
	reviews chan struct{}
}

// New returns a Delegate over the graph. key derives ids from idempotency keys; now is the clock that
// expirations are set by; sessions last at most maxSessionTTL without renewal.
func New(graph authz.Graph, key []byte, maxSessionTTL time.Duration, now func() time.Time) *Delegate {
	return &Delegate{graph: graph, key: key, maxSessionTTL: maxSessionTTL, now: now, listReads: listReads, maxNamed: maxNamed, maxHeld: maxHeld,
		reviews: make(chan struct{}, maxReviews)}
}

// view is the graph at one revision and one moment, for one goroutine.
type view struct {
	snap authz.Snapshot
	now  time.Time
	// reads counts the objects that were read.
	reads int
}

// look pins the head revision and refuses while the core schema is not Deputy's.
func (d *Delegate) look(ctx context.Context) (*view, error) {
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		return nil, err
	}
	schema, err := snap.Schema(ctx)
	if err != nil {
		return nil, err
	}
	if schema.CoreDifference != "" {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonCoreSchema, "%s", schema.WrongCore())
	}
	return &view{snap: snap, now: d.now()}, nil
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
	rels, err := v.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return facts.Delegation{}, err
	}
	out := facts.ReadDelegation(id, rels, v.now)
	if !out.Known {
		return out, authz.NoDelegation(id)
	}
	return out, nil
}

func (v *view) session(ctx context.Context, id authz.SessionID) (facts.Session, error) {
	rels, err := v.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return facts.Session{}, err
	}
	out := facts.ReadSession(id, rels, v.now)
	if !out.Known {
		return out, authz.NoSession(id)
	}
	return out, nil
}

// standing is whether agents may act for a user or a service, or in a tenant.
func (v *view) standing(ctx context.Context, o authz.Object) error {
	rels, err := v.read(ctx, facts.StandingFilter(o))
	if err != nil {
		return err
	}
	standing := facts.ReadStanding(o, rels, v.now)
	if standing.Live() {
		return nil
	}
	how := "; PrincipalsService.Resume (deputy principal resume " + authz.Show(o) + ") lets agents act "
	if standing.Stopped {
		return notActive(authz.Show(o) + " is suspended" + how + "again")
	}
	return notActive(authz.Show(o) + " is not active yet" + how + "for it, or in it")
}

// write applies updates. A precondition that held when it was read and no longer does is reported as a
// conflict that a retry will explain.
func (d *Delegate) write(ctx context.Context, updates []authz.Update, must []authz.MustHold) (authz.Revision, error) {
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
