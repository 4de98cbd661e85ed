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

// book reads facts at one snapshot and one moment, each object once. It is safe for concurrent use.
type book struct {
	snap authz.Snapshot
	now  time.Time

	mu sync.Mutex
	// read is looked through while it is short, which is as quick as a map; index has all of it once it is not.
	read  []*page
	index map[authz.Filter]*page
}

// short is how many pages are looked through.
const short = 16

// page is what matches a filter.
type page struct {
	of   authz.Filter
	once sync.Once
	rels []authz.Relationship
	// note has what was made of them: the snapshot's, so that the next decision finds it, or the page's own.
	note *authz.Note
	err  error
}

// reading is what is noted on a page: the facts that were read from it, and when they hold.
type reading[T any] struct {
	facts T
	in    facts.Span
}

// read returns the facts of a page: what was read before, unless something of it has expired since.
func read[T any](p *page, now time.Time, parse func([]authz.Relationship) T) *T {
	if r, ok := p.note.Load().(*reading[T]); ok && r.in.Holds(now) {
		return &r.facts
	}
	r := &reading[T]{parse(p.rels), facts.SpanOf(p.rels, now)}
	p.note.Store(r)
	return &r.facts
}

func newBook(snap authz.Snapshot, now time.Time) *book {
	return &book{snap: snap, now: now, read: make([]*page, 0, 12)}
}

// page returns the page of a filter; fresh says that it was not there. The caller has the lock.
func (b *book) page(f authz.Filter) (p *page, fresh bool) {
	if b.index == nil {
		for _, p := range b.read {
			if p.of == f {
				return p, false
			}
		}
	} else if p := b.index[f]; p != nil {
		return p, false
	}
	p = &page{of: f}
	b.read = append(b.read, p)
	switch {
	case b.index != nil:
		b.index[f] = p
	case len(b.read) > short:
		b.index = make(map[authz.Filter]*page, 4*short)
		for _, p := range b.read {
			b.index[p.of] = p
		}
	}
	return p, true
}

// fetch returns the pages of filters; what is new is read in one go.
func (b *book) fetch(ctx context.Context, filters ...authz.Filter) ([]*page, error) {
	pages := make([]*page, len(filters))
	var missing []authz.Filter
	b.mu.Lock()
	for i, f := range filters {
		p, fresh := b.page(f)
		if fresh {
			missing = append(missing, f)
		}
		pages[i] = p
	}
	b.mu.Unlock()
	if len(missing) > 1 {
		if err := b.prefetch(ctx, missing); err != nil {
			return nil, err
		}
	}
	for _, p := range pages {
		if p.once.Do(func() { b.fill(ctx, p) }); p.err != nil {
			return nil, p.err
		}
	}
	return pages, nil
}

// fill reads a page.
func (b *book) fill(ctx context.Context, p *page) {
	if n, ok := b.snap.(authz.Noter); ok {
		p.rels, p.note, p.err = n.ReadNoted(ctx, p.of)
	} else if lists, err := b.snap.Read(ctx, p.of); err != nil {
		p.err = err
	} else {
		p.rels = lists[0]
	}
	if p.note == nil {
		p.note = new(authz.Note)
	}
}

// prefetch reads several filters side by side, but for those that the snapshot may have a note on.
func (b *book) prefetch(ctx context.Context, filters []authz.Filter) error {
	if _, ok := b.snap.(authz.Noter); ok {
		filters = slices.DeleteFunc(filters, func(f authz.Filter) bool { return f.Resource.ID != "" })
	}
	if len(filters) < 2 {
		return nil
	}
	lists, err := b.snap.Read(ctx, filters...)
	if err != nil {
		return err
	}
	for i, f := range filters {
		b.mu.Lock()
		p, _ := b.page(f)
		b.mu.Unlock()
		p.once.Do(func() { p.rels, p.note = lists[i], new(authz.Note) })
	}
	return nil
}

func (b *book) session(ctx context.Context, id authz.SessionID) (*facts.Session, error) {
	pages, err := b.fetch(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	return read(pages[0], b.now, func(rels []authz.Relationship) facts.Session { return facts.ReadSession(id, rels, b.now) }), nil
}

func (b *book) delegation(ctx context.Context, id authz.DelegationID) (*facts.Delegation, error) {
	pages, err := b.fetch(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	return read(pages[0], b.now, func(rels []authz.Relationship) facts.Delegation { return facts.ReadDelegation(id, rels, b.now) }), nil
}

// chain walks from a delegation to its root and returns it with the root first. It stops at what is
// unknown, at a cycle and beyond the deepest chain that may act, and then says why in broken.
func (b *book) chain(ctx context.Context, id authz.DelegationID) (chain []facts.Delegation, broken string, err error) {
	seen := map[authz.DelegationID]bool{}
	for id != "" && broken == "" {
		if len(chain) > decide.MaxDepth {
			broken = "it goes on beyond the deepest chain that may act"
			break
		}
		d, err := b.delegation(ctx, id)
		if err != nil {
			return nil, "", err
		}
		seen[id] = true
		chain = append(chain, *d)
		id = d.Parent
		switch {
		case !d.Known:
			broken = "it leads to a delegation that is not there"
		case seen[id]:
			broken = "it leads back to itself"
		}
	}
	slices.Reverse(chain)
	return chain, broken, nil
}

// candidate gathers all facts for the delegation, acting for the principal in the tenant.
func (b *book) candidate(ctx context.Context, c authz.Case, leaf leaf) (decide.Facts, error) {
	f := decide.Facts{Now: b.now, Principal: leaf.principal, Tenant: leaf.tenant, Sessions: map[authz.SessionID]facts.Session{}}
	var err error
	if c.Session != "" {
		s, err := b.session(ctx, c.Session)
		if err != nil {
			return f, err
		}
		f.Session = s
	}
	if f.Chain, f.Broken, err = b.chain(ctx, leaf.id); err != nil {
		return f, err
	}
	for _, d := range f.Chain {
		if d.Session == "" {
			continue
		}
		s, err := b.session(ctx, d.Session)
		if err != nil {
			return f, err
		}
		f.Sessions[d.Session] = *s
	}
	if f.Entitled, err = b.entitled(ctx, f); err != nil {
		return f, err
	}
	f.Standing, err = b.standing(ctx, c, f)
	return f, err
}

// entitled looks up whether the root's grantor may grant it at this snapshot.
func (b *book) entitled(ctx context.Context, f decide.Facts) (bool, error) {
	if len(f.Chain) == 0 {
		return false, nil
	}
	root := f.Chain[0]
	var filter authz.Filter
	switch {
	case root.GrantedBy.Type != authz.TypeUser:
		return false, nil
	case root.Set():
		filter = facts.Admin(root.Tenant, root.GrantedBy)
	case root.Principal.Type == authz.TypeService:
		filter = facts.Owner(root.Principal.Object, root.GrantedBy)
	default:
		return root.GrantedBy == root.Principal.Object, nil
	}
	pages, err := b.fetch(ctx, filter)
	if err != nil {
		return false, err
	}
	return facts.Entitled(pages[0].rels, b.now), nil
}

// standing looks up what the candidate's agents, principal and tenant are at this snapshot.
func (b *book) standing(ctx context.Context, c authz.Case, f decide.Facts) (decide.Standing, error) {
	agents := []authz.AgentID{c.Agent}
	for _, d := range f.Chain {
		if d.Agent != "" && !slices.Contains(agents, d.Agent) {
			agents = append(agents, d.Agent)
		}
	}
	filters := []authz.Filter{facts.StandingFilter(f.Principal.Object), facts.StandingFilter(f.Tenant.Object())}
	for _, id := range agents {
		filters = append(filters, facts.Object(id.Object()))
	}
	pages, err := b.fetch(ctx, filters...)
	if err != nil {
		return decide.Standing{}, err
	}
	life := func(p *page, o authz.Object) facts.Life {
		return *read(p, b.now, func(rels []authz.Relationship) facts.Life { return facts.ReadStanding(o, rels, b.now) })
	}
	s := decide.Standing{
		Agents:    map[authz.AgentID]facts.Agent{},
		Principal: life(pages[0], f.Principal.Object), Tenant: life(pages[1], f.Tenant.Object()),
	}
	for i, id := range agents {
		s.Agents[id] = *read(pages[i+2], b.now, func(rels []authz.Relationship) facts.Agent { return facts.ReadAgent(id, rels, b.now) })
	}
	return s, nil
}
