package delegate

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

const (
	// firstReached is how many of what a brake would stop are shown of each kind.
	firstReached = 20
	// maxParts is how many parts of one delegation are gone through.
	maxParts = 1000
)

// Reach is what a brake would stop: what is live, and exists for the caller.
type Reach struct {
	// Agents, Sessions and Delegations are how many there are: sessions' leaves are not counted as delegations.
	Agents, Sessions, Delegations int
	// Complete tells that they are all; otherwise there is more.
	Complete bool
	// FirstAgents, FirstSessions and FirstDelegations are those that were found first.
	FirstAgents      []authz.AgentID
	FirstSessions    []Running
	FirstDelegations []facts.Delegation
	// At is the revision that it was found at.
	At authz.Revision
	// Named tells that a relationship names the agent, principal or tenant.
	Named bool
}

// WouldStop says what Brake would stop, and changes nothing. It does a bounded amount of work. Errors: those of Brake.
func (d *Delegate) WouldStop(ctx context.Context, o authz.Object) (Reach, error) {
	v, err := d.head(ctx)
	if err != nil {
		return Reach{}, err
	}
	w := &walk{
		view: v, of: o, most: d.sweepReads, until: authz.Until(ctx, sweepTime), out: Reach{At: v.snap.Revision(), Complete: true, Named: true},
		agents: map[authz.AgentID]bool{}, sessions: map[authz.SessionID]bool{}, delegations: map[string]bool{},
	}
	if err := w.all(ctx); err != nil {
		return Reach{}, err
	}
	w.out.Agents, w.out.Sessions = len(w.agents), len(w.sessions)
	return w.out, nil
}

// walk goes through what a brake would stop, from the top down, for one goroutine.
type walk struct {
	*view

	of    authz.Object
	most  int
	until time.Time
	out   Reach
	// agents, sessions and delegations are those that were met.
	agents      map[authz.AgentID]bool
	sessions    map[authz.SessionID]bool
	delegations map[string]bool
	// next are the delegations whose parts are to be gone through.
	next []string
}

// spent reports whether the walk has done its share, and notes that there is more.
func (w *walk) spent() bool {
	if w.reads < w.most && time.Now().Before(w.until) {
		return false
	}
	w.out.Complete = false
	return true
}

func (w *walk) all(ctx context.Context) error {
	switch w.of.Type {
	case authz.TypeSession:
		s, err := w.session(ctx, authz.SessionID(w.of.ID))
		if err != nil {
			return err
		}
		ids := make([]string, len(s.Leaves))
		for i, l := range s.Leaves {
			ids[i] = string(l.Delegation)
		}
		if err := w.visit(ctx, ids); err != nil {
			return err
		}
	case authz.TypeDelegation:
		if _, err := w.delegation(ctx, authz.DelegationID(w.of.ID)); err != nil {
			return err
		}
		if err := w.visit(ctx, []string{w.of.ID}); err != nil {
			return err
		}
	default:
		if err := w.whole(ctx, w.of); err != nil {
			return err
		}
		if err := w.top(ctx); err != nil {
			return err
		}
	}
	return w.parts(ctx)
}

// top goes through the delegations that name an agent, a principal or a tenant.
func (w *walk) top(ctx context.Context) error {
	var err error
	if w.out.Named, err = w.named(ctx, w.of); err != nil {
		return err
	}
	if w.of.Type == authz.TypeAgent {
		a, err := w.agent(ctx, authz.AgentID(w.of.ID))
		if err != nil && authz.KindOf(err) != authz.NotFound {
			return err
		}
		if a.Live() {
			w.meet(a.ID)
		}
	}
	asPrincipal := w.of.Type == authz.TypeUser || w.of.Type == authz.TypeService
	filter := facts.ListFilter(authz.Subject{Object: w.of}, asPrincipal)
	for cursor, more := "", true; more; more = cursor != "" {
		if w.spent() {
			return nil
		}
		rels, next, err := w.snap.Page(ctx, filter, listPage, cursor)
		if err != nil {
			return err
		}
		w.reads++
		if err := w.visit(ctx, resources(rels)); err != nil {
			return err
		}
		cursor = next
	}
	return nil
}

// parts goes through the parts of delegations, and theirs. What is part of a principal's delegation, or of one in a tenant, names that
// principal, or that tenant, and was met before.
func (w *walk) parts(ctx context.Context) error {
	for len(w.next) > 0 {
		if w.spent() {
			return nil
		}
		some := w.next[:min(len(w.next), listPage)]
		w.next = w.next[len(some):]
		filters := make([]authz.Filter, len(some))
		for i, id := range some {
			filters[i] = facts.ListFilter(authz.Subject{Object: authz.DelegationID(id).Object()}, false)
			filters[i].Limit = maxParts
		}
		w.reads += len(filters)
		lists, err := w.snap.Read(ctx, filters...)
		if err != nil {
			return err
		}
		for _, rels := range lists {
			if len(rels) >= maxParts {
				w.out.Complete = false
			}
			if err := w.visit(ctx, resources(rels)); err != nil {
				return err
			}
		}
	}
	return nil
}

// resources are the ids of what relationships belong to.
func resources(rels []authz.Relationship) []string {
	ids := make([]string, len(rels))
	for i, rel := range rels {
		ids[i] = rel.Resource.ID
	}
	return ids
}

// visit counts delegations that were not met before, as far as they are live, and notes them for their parts.
func (w *walk) visit(ctx context.Context, ids []string) error {
	fresh := make([]string, 0, len(ids))
	for _, id := range ids {
		if !w.delegations[id] {
			w.delegations[id] = true
			fresh = append(fresh, id)
		}
	}
	held, err := w.view.delegations(ctx, fresh)
	if err != nil {
		return err
	}
	minted := make([]string, len(held))
	for i := range held {
		minted[i] = string(held[i].Session)
	}
	runs, err := w.runs(ctx, minted)
	if err != nil {
		return err
	}
	below := w.of.Type == authz.TypeAgent || w.of.Type == authz.TypeSession || w.of.Type == authz.TypeDelegation
	for i := range held {
		one := &held[i]
		live, err := w.count(ctx, one, runs[one.Session])
		if err != nil {
			return err
		}
		if live {
			w.meet(one.Agent)
		}
		if live && below {
			w.next = append(w.next, string(one.ID))
		}
	}
	return nil
}

// count counts a delegation, or the session that it is a leaf of, unless it is not live.
func (w *walk) count(ctx context.Context, one *facts.Delegation, s *run) (live bool, err error) {
	if !one.Live() || one.Session != "" && (s == nil || !s.Live()) {
		return false, nil
	}
	if one.Session == "" {
		w.out.Delegations++
		if len(w.out.FirstDelegations) < firstReached {
			shown, err := w.shown(ctx, *one)
			if err != nil {
				return false, err
			}
			w.out.FirstDelegations = append(w.out.FirstDelegations, shown)
		}
		return true, nil
	}
	if w.sessions[s.ID] {
		return true, nil
	}
	w.sessions[s.ID] = true
	if len(w.out.FirstSessions) < firstReached {
		shown, err := w.running(ctx, s)
		if err != nil {
			return false, err
		}
		w.out.FirstSessions = append(w.out.FirstSessions, shown)
	}
	return true, nil
}

// runs reads sessions, each once; "" is none.
func (w *walk) runs(ctx context.Context, minted []string) (map[authz.SessionID]*run, error) {
	out := map[authz.SessionID]*run{}
	var ids []string
	for _, id := range minted {
		if _, seen := out[authz.SessionID(id)]; id != "" && !seen {
			out[authz.SessionID(id)] = nil
			ids = append(ids, id)
		}
	}
	runs, err := w.view.sessions(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		out[authz.SessionID(id)] = &runs[i]
	}
	return out, nil
}

// meet notes an agent that could act less than before.
func (w *walk) meet(id authz.AgentID) {
	if w.agents[id] {
		return
	}
	w.agents[id] = true
	if len(w.out.FirstAgents) < firstReached {
		w.out.FirstAgents = append(w.out.FirstAgents, id)
	}
}
