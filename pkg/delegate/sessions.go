package delegate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Target is one thing that a session is to act for.
type Target struct {
	Delegation authz.DelegationID
	// Principals may be empty where the delegation's principal is one user or service.
	Principals []authz.Principal
	// Scope is a task scope for the leaves; none means all that the delegation reaches.
	Scope []facts.Grant
}

// Start asks for a session.
type Start struct {
	Agent   authz.AgentID
	Targets []Target
	// Tenant is the tenant that all targets have to be in; empty lets them be in any.
	Tenant authz.TenantID
	// TTL is how long it lasts without renewal; 0 means DefaultSessionTTL.
	TTL    time.Duration
	Frozen bool
	// Key is the idempotency key, or empty.
	Key string
}

// Running is a session with its leaves' delegations.
type Running struct {
	facts.Session
	// Parents holds the delegation that each leaf was minted from, where it is known.
	Parents map[authz.DelegationID]authz.DelegationID
	// Lost says why the baseline of a frozen session that is active cannot be read any more, and what to do; see facts.LostBaseline. Session alone looks.
	// It is empty where the baseline can be read, or where that could not be found out.
	Lost string
}

// frozenMargin is how long before the engine may forget a frozen session's start the session has to
// have ended.
const frozenMargin = time.Minute

// StartSession starts a session and mints a leaf for every principal of every target. A frozen one is
// written in two steps: first all but what makes it live, then, with the revision of that as its
// baseline, the rest; in between it does not act.
func (d *Delegate) StartSession(ctx context.Context, s Start) (Running, authz.Revision, error) {
	none := func(err error) (Running, authz.Revision, error) { return Running{}, authz.Revision{}, err }
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	plan, err := d.plan(ctx, v, s)
	if err != nil {
		return none(err)
	}
	if s.Key != "" {
		if err := v.unused(ctx, plan.session.ID.Object()); err != nil {
			return none(err)
		}
		plan.must = append(plan.must, facts.MustBeUnused(plan.session.ID.Object()))
	}
	updates := plan.session.Write()
	for i := range plan.leaves {
		updates = append(updates, plan.leaves[i].Write(plan.scopes[i])...)
	}
	if !s.Frozen {
		updates = append(updates, plan.session.Activate()...)
	}
	rev, err := d.write(ctx, v, updates, plan.must)
	if authz.KindOf(err) == authz.Exists && s.Key != "" {
		return d.started(ctx, plan)
	}
	if err != nil {
		return none(err)
	}
	if !s.Frozen {
		return plan.running(), rev, nil
	}
	frozen, err := d.freeze(ctx, plan, rev)
	if s.Key != "" && raced(err) {
		// Another try with the same key went on from what this one has written.
		return d.started(ctx, plan)
	}
	if err != nil {
		return none(err)
	}
	return plan.running(), frozen, nil
}

// freeze makes a frozen session live, from the revision at which it was written.
func (d *Delegate) freeze(ctx context.Context, p *sessionPlan, rev authz.Revision) (authz.Revision, error) {
	p.session.Baseline, p.session.BaselineAt = rev, d.now()
	must := append(facts.MustBeActive(p.session.Agent.Object()), p.session.MustBeUnstarted()...)
	return d.apply(ctx, p.session.Activate(), must)
}

// raced reports whether a write lost against another one.
func raced(err error) bool {
	return err != nil && (reason(err) == authz.ReasonConflict || authz.KindOf(err) == authz.Exists)
}

// startedTries is how often a session that another try with the same key is starting is looked at again.
const startedTries = 8

// started returns what an earlier try with the same idempotency key wrote, or one beside this one, if it is what is
// asked for. A frozen session that the other try did not get to make live is made live now.
func (d *Delegate) started(ctx context.Context, p *sessionPlan) (Running, authz.Revision, error) {
	none := func(err error) (Running, authz.Revision, error) { return Running{}, authz.Revision{}, err }
	for try := 1; ; try++ {
		v, err := d.look(ctx)
		if err != nil {
			return none(err)
		}
		got, err := v.session(ctx, p.session.ID)
		switch {
		case authz.KindOf(err) == authz.NotFound:
			return none(keyReused()) // for what lies outside the bounds that the caller has now
		case err != nil:
			return none(err)
		}
		if got.Issued.KeyDigest != p.session.Issued.KeyDigest {
			return none(keyReused())
		}
		begun := got.Unfrozen || !got.Baseline.IsZero()
		if begun || got.Stopped || p.session.Unfrozen {
			out := p.running()
			out.Session = got.Session
			return out, v.snap.Revision(), nil
		}
		p.session.Issued.At = got.Issued.At
		// No matter which try makes it live, all return what is stored then. A try that loses looks again, and finds why: a
		// session that is live, or an agent that no longer is.
		if _, err := d.freeze(ctx, p, v.snap.Revision()); err != nil && (!raced(err) || try == startedTries) {
			return none(err)
		}
	}
}

// sessionPlan is a session that is about to be written.
type sessionPlan struct {
	session facts.Session
	leaves  []facts.Delegation
	scopes  [][]facts.Grant
	must    []authz.MustHold
}

func (p *sessionPlan) running() Running {
	out := Running{Session: p.session, Parents: map[authz.DelegationID]authz.DelegationID{}}
	for _, l := range p.leaves {
		out.Parents[l.ID] = l.Parent
	}
	return out
}

// plan checks a request and lays out what to write.
func (d *Delegate) plan(ctx context.Context, v *view, s Start) (*sessionPlan, error) {
	if err := checkKey(s.Key); err != nil {
		return nil, err
	}
	ttl, err := d.sessionTTL(s.TTL)
	if err != nil {
		return nil, err
	}
	if len(s.Targets) == 0 || len(s.Targets) > MaxTargets {
		return nil, authz.FieldErrorf("targets", "must name 1 to %d delegations", MaxTargets)
	}
	if err := v.liveAgent(ctx, s.Agent); err != nil {
		return nil, err
	}
	p := &sessionPlan{
		session: facts.Session{
			ID: authz.SessionID(d.mint(authz.TypeSession, s.Key, 0)), Agent: s.Agent, Unfrozen: !s.Frozen,
			Life: facts.Life{Known: true, Active: true},
		},
		must: facts.MustBeActive(s.Agent.Object()),
	}
	for i, t := range s.Targets {
		if err := d.target(ctx, v, p, s, i, t); err != nil {
			return nil, err
		}
	}
	most := v.now.Add(ttl).Truncate(time.Microsecond) // as every engine stores it, so that a retry reads the same
	p.session.Until = until(most, p.leaves)
	if retention := d.graph.Retention(); s.Frozen && p.session.Until.After(v.now.Add(retention-frozenMargin)) {
		return nil, authz.FieldErrorf("ttl", "goes beyond what the engine remembers (%s), and a frozen session needs its start", retention)
	}
	p.session.Issued = facts.Issued{At: v.now, Until: p.session.Until, KeyDigest: d.keyDigest(s.Key, s.request())}
	slices.SortFunc(p.session.Leaves, func(a, b facts.Leaf) int {
		return byID(a.Delegation.Object(), b.Delegation.Object())
	})
	return p, nil
}

func (d *Delegate) sessionTTL(ttl time.Duration) (time.Duration, error) {
	switch {
	case ttl < 0:
		return 0, authz.FieldErrorf("ttl", "must be positive")
	case ttl == 0:
		return min(DefaultSessionTTL, d.maxSessionTTL), nil
	case ttl > d.maxSessionTTL:
		return 0, authz.FieldErrorf("ttl", "is longer than %s", d.maxSessionTTL)
	}
	return ttl, nil
}

// target lays out the leaves of one target.
func (d *Delegate) target(ctx context.Context, v *view, p *sessionPlan, s Start, i int, t Target) error {
	field := func(name string) string { return fmt.Sprintf("targets[%d].%s", i, name) }
	chain, err := v.chain(ctx, t.Delegation)
	// Another agent's delegation is told in no other way than one that does not exist.
	if authz.KindOf(err) == authz.NotFound || err == nil && chain[0].Agent != s.Agent {
		return authz.Errorf(authz.NotFound, authz.ReasonDelegationNotFound,
			"agent:%s holds no delegation with the id %q", authz.DecodeID(string(s.Agent)), string(t.Delegation))
	}
	if err != nil {
		return err
	}
	parent := chain[0]
	switch {
	case parent.Session != "":
		return authz.FieldErrorf(field("delegation_id"), "is a session's leaf: name what it was minted from")
	case s.Tenant != "" && parent.Tenant != s.Tenant:
		return authz.FieldErrorf(field("delegation_id"), "is in the tenant %q, and the session is to act in %q only",
			authz.DecodeID(string(parent.Tenant)), authz.DecodeID(string(s.Tenant)))
	case len(chain)+1 > facts.MaxDepth:
		return authz.Errorf(authz.Precondition, authz.ReasonTooDeep, "a chain has at most %d delegations, the session's leaf included", facts.MaxDepth)
	}
	end := parent.Until
	for _, up := range chain {
		if !up.Live() {
			return notActive(fmt.Sprintf("targets[%d]: the delegation, or one above it, is not active", i))
		}
		if up.Until.Before(end) {
			end = up.Until
		}
	}
	principals := t.Principals
	if len(principals) == 0 {
		own, ok := authz.NewPrincipal(parent.Principal.Object)
		if !ok || parent.Set() {
			return authz.FieldErrorf(field("principals"), "is required: the delegation is for a set of principals")
		}
		principals = []authz.Principal{own}
	}
	if err := checkScope(ctx, v, field("scope"), t.Scope); err != nil {
		return err
	}
	p.must = append(p.must, facts.MustBeActive(parent.ID.Object())...)
	for n, who := range principals {
		if slices.Contains(principals[:n], who) {
			return authz.FieldErrorf(field("principals"), "names %s twice", authz.Show(who.Object))
		}
		if err := v.covered(ctx, chain, authz.Subject{Object: who.Object}); err != nil {
			if authz.KindOf(err) != authz.Invalid {
				return err
			}
			return authz.FieldErrorf(fmt.Sprintf("targets[%d].principals[%d]", i, n), "is not one that the delegation covers")
		}
		if err := v.standing(ctx, who.Object); err != nil {
			return err
		}
		p.must = append(p.must, facts.MustBeActive(who.Object)...)
		d.leaf(v, p, s, parent, who, t.Scope, end)
	}
	if len(p.leaves) > MaxPrincipals {
		return authz.FieldErrorf("targets", "name more than %d principals together", MaxPrincipals)
	}
	return nil
}

// leaf lays out one leaf.
func (d *Delegate) leaf(v *view, p *sessionPlan, s Start, parent facts.Delegation, who authz.Principal, scope []facts.Grant, end time.Time) {
	leaf := facts.Delegation{
		ID:        authz.DelegationID(d.mint(authz.TypeSession, s.Key, len(p.leaves)+1)),
		Agent:     s.Agent,
		Principal: authz.Subject{Object: who.Object},
		Tenant:    parent.Tenant,
		GrantedBy: s.Agent.Object(),
		Parent:    parent.ID,
		Session:   p.session.ID,
		Unscoped:  len(scope) == 0,
		Life:      facts.Life{Known: true, Active: true, Until: end},
		Issued:    facts.Issued{At: v.now, Until: end},
	}
	p.leaves = append(p.leaves, leaf)
	p.scopes = append(p.scopes, scope)
	p.session.Leaves = append(p.session.Leaves, facts.Leaf{Delegation: leaf.ID, Principal: who, Tenant: parent.Tenant})
}

// Session reads one session with its leaves.
func (d *Delegate) Session(ctx context.Context, id authz.SessionID) (Running, authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return Running{}, authz.Revision{}, err
	}
	s, err := v.session(ctx, id)
	if err != nil {
		return Running{}, authz.Revision{}, err
	}
	out, err := v.running(ctx, &s)
	if err != nil {
		return Running{}, authz.Revision{}, err
	}
	out.Lost, err = d.lost(ctx, v, &out.Session)
	return out, v.snap.Revision(), err
}

// lost says why the baseline of a session cannot be read any more, "" if it is not known that it cannot. An engine that does not answer about the past
// keeps nobody from seeing the session; the end of ctx does.
func (d *Delegate) lost(ctx context.Context, v *view, s *facts.Session) (string, error) {
	switch {
	case s.Unfrozen || !s.Live():
		return "", nil
	case s.Baseline.IsZero():
		return facts.NoBaseline, nil
	}
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{Exactly: s.Baseline})
	if err == nil { // an engine elsewhere finds out only when it is read
		_, err = snap.Read(ctx, authz.Filter{Resource: s.ID.Object()})
	}
	switch {
	case authz.KindOf(err) == authz.OutOfRange:
		return facts.LostBaseline(s.Baseline, v.snap.Revision()), nil
	case ctx.Err() != nil:
		return "", err
	}
	return "", nil
}

// running reads what a session's leaves were minted from.
func (v *view) running(ctx context.Context, s *run) (Running, error) {
	if s.leaves == nil {
		var err error
		if s.leaves, err = v.leaves(ctx, s.Leaves); err != nil {
			return Running{}, err
		}
	}
	if err := v.orphan(ctx, s.leaves); err != nil {
		return Running{}, err
	}
	out := Running{Session: s.Session, Parents: map[authz.DelegationID]authz.DelegationID{}}
	for i := range s.leaves {
		out.Parents[s.leaves[i].ID] = s.leaves[i].Parent
	}
	return out, nil
}

// until is when a session ends whose time is up at most: with the last of its leaves that is live, if that is before; zero where none is live.
func until(most time.Time, leaves []facts.Delegation) time.Time {
	var latest time.Time
	for i := range leaves {
		if leaf := &leaves[i]; leaf.Live() && leaf.Until.After(latest) {
			latest = leaf.Until
		}
	}
	if latest.Before(most) {
		return latest
	}
	return most
}

// Renew moves the end of a live session to ttl from now, never beyond its delegations' end, nor, for a
// frozen one, beyond what the engine remembers. Errors: Denied for a session that acts beyond the caller's bounds.
func (d *Delegate) Renew(ctx context.Context, id authz.SessionID, ttl time.Duration) (Running, authz.Revision, error) {
	none := func(err error) (Running, authz.Revision, error) { return Running{}, authz.Revision{}, err }
	ttl, err := d.sessionTTL(ttl)
	if err != nil {
		return none(err)
	}
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	s, err := v.session(ctx, id)
	if err != nil {
		return none(err)
	}
	switch {
	case s.beyond:
		return none(outOfBounds("the session acts beyond the bounds of the caller %s, too: start another one", d.caller))
	case !s.Live():
		return none(notActive("the session has ended: start another one"))
	}
	if err := v.liveAgent(ctx, s.Agent); err != nil {
		return none(err)
	}
	out, err := v.running(ctx, &s)
	if err != nil {
		return none(err)
	}
	out.Until = until(v.now.Add(ttl), s.leaves)
	if !out.Until.After(v.now) {
		return none(notActive("none of the session's delegations is active"))
	}
	if retention := d.graph.Retention(); !s.Unfrozen && out.Until.After(s.BaselineAt.Add(retention-frozenMargin)) {
		return none(authz.FieldErrorf("ttl", "goes beyond what the engine remembers (%s), and a frozen session needs its start", retention))
	}
	must := append(facts.MustBeActive(id.Object()), facts.MustBeActive(s.Agent.Object())...)
	rev, err := d.write(ctx, v, out.Extend(), must)
	if err != nil {
		return none(err)
	}
	return out, rev, nil
}
