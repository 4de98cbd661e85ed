package judge

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// cache keeps the facts behind decisions. What an agent asks for next is mostly another object, in the same session, for the
// same principal: everything about the actor is then what it was a moment ago, and is not read again.
//
// The key is who acts, see actor: the agent, the session or delegation, the principal and the tenant, as a case names them.
//
// The value is all facts of what such a case may be decided by: for each candidate its session, its chain of delegations with
// the sessions that minted them, whether the root's grantor was entitled to grant it (as a service's owner or a tenant's admin
// is), whether the principal is in the set that a delegation is for, and what the agents, the principal and the tenant are.
// These are facts and no outcomes. The rule is applied to them in each decision, and nothing that depends on an object is kept.
//
// A value is valid at a snapshot and a moment if
//   - its stamp is current there: none of the relationships that any of its filters match has been written between the revision
//     at which they were read and the snapshot's, and the snapshot's is not the older one; and
//   - the moment is in its span: not before the facts were read, and before the first of those relationships expires.
//
// That is exact. The facts are a function of the key, of what the filters matched, and of the moment (pkg/facts is pure), and
// the moment is compared with nothing but expirations. The stamp names every filter that was read, those that matched
// nothing too: a tombstone that is written later changes a stamp. So at such a snapshot and moment reading again would
// return the same. What has no stamp is never kept: lists over many objects, with which a decision by agent alone begins, and
// everything that comes from an engine without stamps. A candidate whose delegation is unknown is not kept either, so that a
// case which names it stays an error. A restored backup is opened by another engine, with another Judge.
//
// The cache has room for a number of entries and of bytes, as counted by size. Where one of both is used up a random
// quarter goes. What takes more than a quarter of a shard is not kept.
//
// It is safe for concurrent use. Values are shared between decisions, and never changed.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

const (
	cacheShards = 64
	// cacheEntries and cacheBytes are how much is kept in all.
	cacheEntries, cacheBytes = 64 << 10, 64 << 20
	// entryBytes is about what an entry takes without what was read for it, and relationshipBytes what each relationship adds,
	// without its texts.
	entryBytes, relationshipBytes = 1024, 128
)

type cacheShard struct {
	mu      sync.RWMutex
	entries map[actor]*entry
	// size is what the entries take, in bytes.
	size int
	_    [64]byte // not in a line of the processor's cache with the next one
}

// actor is who acts: what a case names, or a candidate of it with nothing left out. What a case leaves out is zero.
type actor struct {
	agent      authz.AgentID
	session    authz.SessionID
	delegation authz.DelegationID
	principal  authz.Principal
	tenant     authz.TenantID
}

// entry is a value. It is immutable.
type entry struct {
	candidates []decide.Facts
	stamp      authz.Stamp
	during     facts.Span
	size       int
}

// stamper is a Snapshot by which facts can be kept: it can tell whether what was read at another revision is the same at its
// own. It is safe for concurrent use.
type stamper interface {
	// Stamp returns a stamp of what matches the filters at the snapshot; ok is false if it makes none for one of them.
	Stamp(filters []authz.Filter) (stamp authz.Stamp, ok bool)
	// Current reports whether what a stamp of a snapshot of this graph is of is the same at this one, expired relationships
	// included. False may also mean that this is not known.
	Current(stamp authz.Stamp) bool
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

func (c *cache) shard(who actor) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, who)%cacheShards]
}

// get returns what is kept for an actor, if it is valid at a snapshot and a moment; nil if not.
func (c *cache) get(who actor, at stamper, now time.Time) *entry {
	s := c.shard(who)
	s.mu.RLock()
	e := s.entries[who]
	s.mu.RUnlock()
	if e == nil || !e.during.Holds(now) || !at.Current(e.stamp) {
		return nil
	}
	return e
}

// put keeps an entry for an actor, unless it is too large, or one of a newer revision is there: who decides at old revisions
// must not take from others what they need at the head.
func (c *cache) put(who actor, e *entry) {
	for _, text := range [...]string{
		string(who.agent), string(who.session), string(who.delegation), who.principal.Type, who.principal.ID, string(who.tenant),
	} {
		e.size += len(text)
	}
	e.size += entryBytes
	if e.size > cacheBytes/cacheShards/4 {
		return
	}
	s := c.shard(who)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries[who]
	switch {
	case old != nil && newer(old.stamp, e.stamp):
		return
	case old != nil:
		s.size -= old.size
	case s.entries == nil:
		s.entries = map[actor]*entry{}
	}
	s.entries[who] = e
	s.size += e.size
	if len(s.entries) <= cacheEntries/cacheShards && s.size <= cacheBytes/cacheShards {
		return
	}
	for other, victim := range s.entries {
		if len(s.entries) <= cacheEntries/cacheShards/4*3 && s.size <= cacheBytes/cacheShards/4*3 {
			return
		}
		delete(s.entries, other)
		s.size -= victim.size
	}
}

// newer reports whether a stamp is of a newer revision than another.
func newer(a, b authz.Stamp) bool { return a.Of > b.Of || a.Of == b.Of && a.At > b.At }

// candidates returns all facts of what a case may be decided by and exists for the caller, at the source's snapshot and moment, in the order
// of ids. None means that nothing lets the agent act. They are shared, and must not be changed. Errors: NotFound for an
// unknown session or delegation, Invalid where the case leaves a choice that it has to make.
func (s *source) candidates(ctx context.Context, within *authz.Bounds, c authz.Case) ([]decide.Facts, error) {
	named := c.Session != "" || c.Delegation != ""
	who := actor{c.Agent, c.Session, c.Delegation, c.Principal, c.Tenant}
	if named {
		if kept := s.kept(who); kept != nil {
			return admitKept(within, c, kept)
		}
	}
	r := s.reader()
	leaves, err := r.candidates(ctx, within, c)
	if err != nil {
		return nil, err
	}
	found := make([]decide.Facts, len(leaves))
	for i, l := range leaves {
		if !named || r.partial {
			// How it was found has no stamp, or is not what another caller would find. What it is has one.
			found[i], err = s.facts(ctx, c, l)
		} else {
			found[i], err = r.gather(ctx, c, l)
		}
		if err != nil {
			return nil, err
		}
	}
	if named && !r.partial {
		s.keep(who, r, found)
	}
	return present(within, found), nil
}

// facts returns all facts of one candidate of a case. They are shared, and must not be changed.
func (s *source) facts(ctx context.Context, c authz.Case, l leaf) (decide.Facts, error) {
	who := actor{c.Agent, c.Session, l.id, l.principal, l.tenant}
	if kept := s.kept(who); kept != nil {
		return kept[0], nil
	}
	r := s.reader()
	f, err := r.gather(ctx, c, l)
	if err != nil {
		return decide.Facts{}, err
	}
	if l.tenant != "" { // with the key of a case that leaves the tenant out, a delegation without one would be told for that
		s.keep(who, r, []decide.Facts{f})
	}
	return f, nil
}

// kept returns what the cache has for an actor at the snapshot and the moment.
func (s *source) kept(who actor) []decide.Facts {
	if s.stamps == nil {
		return nil
	}
	e := s.cache.get(who, s.stamps, s.now)
	if e == nil {
		return nil
	}
	s.mu.Lock()
	s.until = earliest(s.until, e.during.End())
	s.mu.Unlock()
	return e.candidates
}

// keep keeps what a reader has read of an actor's candidates.
func (s *source) keep(who actor, r *reader, found []decide.Facts) {
	unknown := func(f decide.Facts) bool { return !f.Leaf().Known }
	if s.stamps == nil || len(found) == 0 || slices.ContainsFunc(found, unknown) {
		return
	}
	// What was written since, as seen from an old revision, is of no use to anybody.
	if stamp, ok := s.stamps.Stamp(r.filters); ok && s.stamps.Current(stamp) {
		s.cache.put(who, &entry{candidates: found, stamp: stamp, during: r.during, size: r.size})
	}
}
