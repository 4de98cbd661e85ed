package judge

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// book reads facts at one snapshot and one moment, each object once. It is safe for concurrent use.
type book struct {
	snap authz.Snapshot
	// notes is the snapshot, if it keeps notes.
	notes authz.Noter
	now   time.Time

	mu sync.Mutex
	// read is looked through while it is short, which is as quick as a map; index has all of it once it is not.
	// Beyond its length are blank pages.
	read  []*page
	index map[authz.Filter]*page
}

// short is how many pages are looked through.
const short = 16

// books keeps books that nobody reads any more, for their pages.
var books = sync.Pool{New: func() any { return &book{read: make([]*page, 0, short)} }}

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
	// dossier is of the candidate that the facts, a delegation's, are of.
	dossier atomic.Pointer[dossier]
	// note is where the reading is stored.
	note *authz.Note
}

// readingBytes and factBytes are about what a reading takes, and what for each relationship: its words are those of
// the relationships.
const readingBytes, factBytes = 512, 192

// read returns the facts of a page: what was read before, unless something of it has expired since.
func read[T any](p *page, now time.Time, parse func([]authz.Relationship) T) *reading[T] {
	if r, ok := p.note.Load().(*reading[T]); ok && r.in.Holds(now) {
		return r
	}
	r := &reading[T]{facts: parse(p.rels), in: facts.SpanOf(p.rels, now), note: p.note}
	p.note.Store(r, readingBytes+factBytes*len(p.rels))
	return r
}

func newBook(snap authz.Snapshot, now time.Time) *book {
	b, _ := books.Get().(*book)
	b.snap, b.now = snap, now
	b.notes, _ = snap.(authz.Noter)
	return b
}

// done ends a book that nobody has a page of any more.
func (b *book) done() {
	if b.index != nil {
		return // it has grown
	}
	for _, p := range b.read {
		*p = page{}
	}
	b.snap, b.notes, b.read = nil, nil, b.read[:0]
	books.Put(b)
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
	n := len(b.read)
	if n < cap(b.read) {
		b.read = b.read[:n+1]
	} else {
		b.read = append(b.read, nil)
	}
	if b.read[n] == nil {
		b.read[n] = new(page)
	}
	p = b.read[n]
	p.of = f
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

// one returns the page of a filter.
func (b *book) one(ctx context.Context, f authz.Filter) (*page, error) {
	b.mu.Lock()
	p, _ := b.page(f)
	b.mu.Unlock()
	p.once.Do(func() { b.fill(ctx, p) })
	return p, p.err
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
	for _, f := range filters {
		if _, err := b.one(ctx, f); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// fill reads a page. One whose reading panics must not look empty to those who share it.
func (b *book) fill(ctx context.Context, p *page) {
	defer authz.Recover("judge.read", &p.err)
	if b.notes != nil {
		p.rels, p.note, p.err = b.notes.ReadNoted(ctx, p.of)
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
	if b.notes != nil {
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
	p, err := b.one(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	return &read(p, b.now, func(rels []authz.Relationship) facts.Session { return facts.ReadSession(id, rels, b.now) }).facts, nil
}

func (b *book) delegation(ctx context.Context, id authz.DelegationID) (*facts.Delegation, error) {
	r, err := b.readDelegation(ctx, id)
	if err != nil {
		return nil, err
	}
	return &r.facts, nil
}

func (b *book) readDelegation(ctx context.Context, id authz.DelegationID) (*reading[facts.Delegation], error) {
	p, err := b.one(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	return read(p, b.now, func(rels []authz.Relationship) facts.Delegation { return facts.ReadDelegation(id, rels, b.now) }), nil
}

func (b *book) agent(ctx context.Context, id authz.AgentID) (*facts.Agent, error) {
	p, err := b.one(ctx, facts.Object(id.Object()))
	if err != nil {
		return nil, err
	}
	return &read(p, b.now, func(rels []authz.Relationship) facts.Agent { return facts.ReadAgent(id, rels, b.now) }).facts, nil
}

// life is whether a user, a service or a tenant may act.
func (b *book) life(ctx context.Context, o authz.Object) (facts.Life, error) {
	p, err := b.one(ctx, facts.StandingFilter(o))
	if err != nil {
		return facts.Life{}, err
	}
	return read(p, b.now, func(rels []authz.Relationship) facts.Life { return facts.ReadStanding(o, rels, b.now) }).facts, nil
}

// chain walks from a delegation to its root and returns it with the root first. It stops at what is
// unknown, at a cycle and beyond the deepest chain that may act, and then says why in broken.
func (b *book) chain(ctx context.Context, id authz.DelegationID) (chain []*facts.Delegation, broken string, err error) {
	chain = make([]*facts.Delegation, 0, 2)
	for id != "" && broken == "" {
		if len(chain) > decide.MaxDepth {
			broken = "it goes on beyond the deepest chain that may act"
			break
		}
		d, err := b.delegation(ctx, id)
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
func (b *book) gather(ctx context.Context, c authz.Case, leaf leaf) (decide.Facts, error) {
	f := decide.Facts{Now: b.now, Principal: leaf.principal, Tenant: leaf.tenant}
	var err error
	if c.Session != "" {
		if f.Session, err = b.session(ctx, c.Session); err != nil {
			return f, err
		}
	}
	if f.Chain, f.Broken, err = b.chain(ctx, leaf.id); err != nil {
		return f, err
	}
	for _, d := range f.Chain {
		if d.Session == "" {
			continue
		}
		if f.Sessions == nil {
			f.Sessions = map[authz.SessionID]*facts.Session{}
		}
		if f.Sessions[d.Session], err = b.session(ctx, d.Session); err != nil {
			return f, err
		}
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
	filter, needed := entitlement(root)
	if !needed {
		return root.GrantedBy.Type == authz.TypeUser && root.GrantedBy == root.Principal.Object, nil
	}
	p, err := b.one(ctx, filter)
	if err != nil {
		return false, err
	}
	return facts.Holds(p.rels, b.now), nil
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

// standing looks up what the candidate's agents, principal and tenant are at this snapshot.
func (b *book) standing(ctx context.Context, c authz.Case, f decide.Facts) (s decide.Standing, err error) {
	s.Agents = map[authz.AgentID]*facts.Agent{c.Agent: nil}
	for _, d := range f.Chain {
		if d.Agent != "" {
			s.Agents[d.Agent] = nil
		}
	}
	if b.notes == nil {
		filters := []authz.Filter{facts.StandingFilter(f.Principal.Object), facts.StandingFilter(f.Tenant.Object())}
		for id := range s.Agents {
			filters = append(filters, facts.Object(id.Object()))
		}
		if _, err := b.fetch(ctx, filters...); err != nil {
			return decide.Standing{}, err
		}
	}
	if s.Principal, err = b.life(ctx, f.Principal.Object); err != nil {
		return decide.Standing{}, err
	}
	if s.Tenant, err = b.life(ctx, f.Tenant.Object()); err != nil {
		return decide.Standing{}, err
	}
	for id := range s.Agents {
		if s.Agents[id], err = b.agent(ctx, id); err != nil {
			return decide.Standing{}, err
		}
	}
	return s, nil
}
