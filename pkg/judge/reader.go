package judge

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// source is where facts come from: one snapshot at one moment. What matches a filter is read once, however many goroutines ask for it. It is
// safe for concurrent use.
type source struct {
	snap authz.Snapshot
	// stamps is the snapshot, if it makes stamps.
	stamps stamper
	now    time.Time
	cache  *cache

	mu    sync.Mutex
	lists map[authz.Filter]*list
	// until is when the first of the relationships expires that the facts come from which were kept; zero where none does. The snapshot
	// itself knows that of those that were read.
	until time.Time
}

// list is what matches a filter.
type list struct {
	once sync.Once
	rels []authz.Relationship
	err  error
}

func (j *Judge) source(snap authz.Snapshot, now time.Time) *source {
	s := &source{snap: snap, now: now, cache: j.cache}
	s.stamps, _ = snap.(stamper)
	return s
}

// list returns the list of a filter; fresh says that nobody asked for it before. The caller has the lock.
func (s *source) list(f authz.Filter) (l *list, fresh bool) {
	if l = s.lists[f]; l != nil {
		return l, false
	}
	if s.lists == nil {
		s.lists = map[authz.Filter]*list{}
	}
	l = new(list)
	s.lists[f] = l
	return l, true
}

// read returns what matches a filter.
func (s *source) read(ctx context.Context, f authz.Filter) ([]authz.Relationship, error) {
	s.mu.Lock()
	l, _ := s.list(f)
	s.mu.Unlock()
	l.once.Do(func() {
		defer authz.Recover("judge.read", &l.err) // a reading that panics must not look empty to the goroutines that share it
		lists, err := s.snap.Read(ctx, f)
		if err != nil {
			l.err = err
			return
		}
		l.rels = lists[0]
	})
	return l.rels, l.err
}

// prefetch reads what matches filters in one go, as far as it was not read: over a database each reading is a round trip.
func (s *source) prefetch(ctx context.Context, filters ...authz.Filter) error {
	var missing []authz.Filter
	var fresh []*list
	s.mu.Lock()
	for _, f := range filters {
		if l, ok := s.list(f); ok {
			missing, fresh = append(missing, f), append(fresh, l)
		}
	}
	s.mu.Unlock()
	if len(missing) < 2 {
		return nil
	}
	found, err := s.snap.Read(ctx, missing...)
	if err != nil {
		return err
	}
	for i, l := range fresh {
		l.once.Do(func() { l.rels = found[i] })
	}
	return nil
}

// know notes what matches a filter, which was read otherwise.
func (s *source) know(f authz.Filter, rels []authz.Relationship) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, fresh := s.list(f); fresh {
		l.once.Do(func() { l.rels = rels })
	}
}

// forget lets go of all that was read.
func (s *source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.lists)
}

// reader reads facts from a source, and notes what they come from, for the cache. It is for one goroutine.
type reader struct {
	*source
	// filters are those that were asked for, each once.
	filters []authz.Filter
	// during is when what was read holds, and size about how much memory the facts take.
	during facts.Span
	size   int
	// What was read is shared by the candidates that have it in common, so that it takes its size once. There are few of each.
	sessions    []*facts.Session
	delegations []*facts.Delegation
	agents      []*facts.Agent
	// partial says that leaves were left out that do not exist for the caller.
	partial bool
}

func (s *source) reader() *reader { return &reader{source: s, during: facts.SpanFrom(s.now)} }

// read returns what matches a filter.
func (r *reader) read(ctx context.Context, f authz.Filter) ([]authz.Relationship, error) {
	rels, err := r.source.read(ctx, f)
	if err != nil || slices.Contains(r.filters, f) {
		return rels, err
	}
	r.filters = append(r.filters, f)
	r.during = r.during.Until(rels)
	for i := range rels {
		r.size += relationshipBytes + len(rels[i].Relation) + len(rels[i].Subject.ID)
		for _, v := range rels[i].CaveatContext {
			text, _ := v.(string) // all that caveats of the core have
			r.size += len(text)
		}
	}
	return rels, nil
}

func (r *reader) session(ctx context.Context, id authz.SessionID) (*facts.Session, error) {
	if i := slices.IndexFunc(r.sessions, func(s *facts.Session) bool { return s.ID == id }); i >= 0 {
		return r.sessions[i], nil
	}
	rels, err := r.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	s := facts.ReadSession(id, rels, r.now)
	r.sessions = append(r.sessions, &s)
	return &s, nil
}

func (r *reader) delegation(ctx context.Context, id authz.DelegationID) (*facts.Delegation, error) {
	if i := slices.IndexFunc(r.delegations, func(d *facts.Delegation) bool { return d.ID == id }); i >= 0 {
		return r.delegations[i], nil
	}
	rels, err := r.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	d := facts.ReadDelegation(id, rels, r.now)
	r.delegations = append(r.delegations, &d)
	return &d, nil
}

func (r *reader) agent(ctx context.Context, id authz.AgentID) (*facts.Agent, error) {
	if i := slices.IndexFunc(r.agents, func(a *facts.Agent) bool { return a.ID == id }); i >= 0 {
		return r.agents[i], nil
	}
	rels, err := r.read(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	a := facts.ReadAgent(id, rels, r.now)
	r.agents = append(r.agents, &a)
	return &a, nil
}

// life is whether a user, a service or a tenant may act.
func (r *reader) life(ctx context.Context, o authz.Object) (facts.Life, error) {
	rels, err := r.read(ctx, facts.StandingFilter(o))
	return facts.ReadStanding(o, rels, r.now), err
}

// member is whether a principal is in a set that a delegation is for. It is read as a fact, by Deputy's clock, because a fact
// can be kept. That says what a check would: decisions refuse unless the core schema is Deputy's, and there nothing but a
// direct tuple, with no caveat, makes a member or an admin.
func (r *reader) member(ctx context.Context, set authz.Subject, p authz.Principal) (bool, error) {
	rels, err := r.read(ctx, facts.Member(set, p))
	return facts.Holds(rels, r.now), err
}

// chain walks from a delegation to its root and returns it with the root first. It stops at what is
// unknown, at a cycle and beyond the deepest chain that may act, and then says why in broken.
func (r *reader) chain(ctx context.Context, id authz.DelegationID) (chain []*facts.Delegation, broken string, err error) {
	chain = make([]*facts.Delegation, 0, 2)
	for id != "" && broken == "" {
		if len(chain) > facts.MaxDepth {
			broken = "it goes on beyond the deepest chain that may act"
			break
		}
		d, err := r.delegation(ctx, id)
		if err != nil {
			return nil, "", err
		}
		chain = append(chain, d)
		id = d.Parent
		switch {
		case !d.Known:
			broken = "it leads to a delegation that is not there"
		case slices.ContainsFunc(chain, func(d *facts.Delegation) bool { return d.ID == id }):
			broken = "it leads back to itself"
		}
	}
	slices.Reverse(chain)
	return chain, broken, nil
}

// gather gathers all facts for the delegation, acting for the principal in the tenant.
func (r *reader) gather(ctx context.Context, c authz.Case, l leaf) (decide.Facts, error) {
	f := decide.Facts{Now: r.now, Principal: l.principal, Tenant: l.tenant}
	var err error
	if c.Session != "" {
		if f.Session, err = r.session(ctx, c.Session); err != nil {
			return f, err
		}
	}
	if f.Chain, f.Broken, err = r.chain(ctx, l.id); err != nil {
		return f, err
	}
	for _, d := range f.Chain {
		if d.Session == "" {
			continue
		}
		if f.Sessions == nil {
			f.Sessions = map[authz.SessionID]*facts.Session{}
		}
		if f.Sessions[d.Session], err = r.session(ctx, d.Session); err != nil {
			return f, err
		}
	}
	// What is left depends on no other of it, and is read side by side.
	var beside []authz.Filter
	root := &facts.Delegation{}
	if len(f.Chain) > 0 {
		root = f.Chain[0]
	}
	entitling, needed := entitlement(root)
	if needed {
		beside = append(beside, entitling)
	}
	for _, d := range f.Chain {
		if d.Set() {
			beside = append(beside, facts.Member(d.Principal, f.Principal))
		}
	}
	if f.Standing, err = r.standing(ctx, c, &f, beside...); err != nil {
		return f, err
	}
	for _, d := range f.Chain {
		if !d.Set() {
			continue
		}
		if f.Members == nil {
			f.Members = map[authz.Subject]bool{}
		}
		if f.Members[d.Principal], err = r.member(ctx, d.Principal, f.Principal); err != nil {
			return f, err
		}
	}
	if !needed {
		f.Entitled = root.GrantedBy.Type == authz.TypeUser && root.GrantedBy == root.Principal.Object
		return f, nil
	}
	rels, err := r.read(ctx, entitling)
	f.Entitled = facts.Holds(rels, r.now)
	return f, err
}

// entitlement returns what entitles a user to grant a root; needed is false for one that only the principal itself may
// grant, or nobody.
func entitlement(root *facts.Delegation) (f authz.Filter, needed bool) {
	switch {
	case root.GrantedBy.Type != authz.TypeUser:
		return f, false
	case root.Set():
		return facts.Admin(root.Tenant, root.GrantedBy), true
	case root.Principal.Type == authz.TypeService:
		return facts.Owner(root.Principal.Object, root.GrantedBy), true
	default:
		return f, false
	}
}

// standing looks up what the candidate's agents, principal and tenant are. What else is going to be read is read beside.
func (r *reader) standing(ctx context.Context, c authz.Case, f *decide.Facts, beside ...authz.Filter) (s decide.Standing, err error) {
	s.Agents = map[authz.AgentID]*facts.Agent{c.Agent: nil}
	for _, d := range f.Chain {
		if d.Agent != "" {
			s.Agents[d.Agent] = nil
		}
	}
	beside = append(beside, facts.StandingFilter(f.Principal.Object), facts.StandingFilter(f.Tenant.Object()))
	for id := range s.Agents {
		beside = append(beside, facts.Object(id.Object()))
	}
	if err := r.prefetch(ctx, beside...); err != nil {
		return decide.Standing{}, err
	}
	if s.Principal, err = r.life(ctx, f.Principal.Object); err != nil {
		return decide.Standing{}, err
	}
	if s.Tenant, err = r.life(ctx, f.Tenant.Object()); err != nil {
		return decide.Standing{}, err
	}
	for id := range s.Agents {
		if s.Agents[id], err = r.agent(ctx, id); err != nil {
			return decide.Standing{}, err
		}
	}
	return s, nil
}
