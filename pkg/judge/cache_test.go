package judge

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// rows is a snapshot of the newest revision of what it has, which makes stamps.
type rows struct {
	authz.Snapshot
	at      uint64
	rels    map[authz.Filter][]authz.Relationship
	slots   map[authz.Filter]uint32
	written []uint64 // by slot
	// read counts the filters that were read.
	read int
}

func (r *rows) slot(f authz.Filter) uint32 {
	slot, ok := r.slots[f]
	if !ok {
		if r.slots == nil {
			r.slots, r.rels = map[authz.Filter]uint32{}, map[authz.Filter][]authz.Relationship{}
		}
		slot = uint32(len(r.written))
		r.slots[f], r.written = slot, append(r.written, 0)
	}
	return slot
}

// write replaces what matches a filter.
func (r *rows) write(f authz.Filter, rels ...authz.Relationship) {
	r.at++
	r.written[r.slot(f)], r.rels[f] = r.at, rels
}

func (r *rows) Read(_ context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	lists := make([][]authz.Relationship, len(filters))
	for i, f := range filters {
		lists[i] = r.rels[f]
	}
	r.read += len(filters)
	return lists, nil
}

func (r *rows) Stamp(filters []authz.Filter) (authz.Stamp, bool) {
	stamp := authz.Stamp{At: r.at}
	for _, f := range filters {
		stamp.Slots = append(stamp.Slots, r.slot(f))
	}
	return stamp, true
}

func (r *rows) Current(stamp authz.Stamp) bool {
	if stamp.At > r.at {
		return false
	}
	for _, slot := range stamp.Slots {
		if r.written[slot] > stamp.At {
			return false
		}
	}
	return true
}

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// mark is a relationship of an object to itself, that lasts for a while, or for ever.
func mark(o authz.Object, relation string, lasts time.Duration) authz.Relationship {
	r := link(o, relation, o)
	if lasts > 0 {
		r.ExpiresAt = begin.Add(lasts)
	}
	return r
}

func link(o authz.Object, relation string, to authz.Object) authz.Relationship {
	return authz.Relationship{Resource: o, Relation: relation, Subject: authz.Subject{Object: to}}
}

func issued(r authz.Relationship) authz.Relationship {
	r.Caveat = "issued"
	return r
}

// TestCachedFacts: a candidate's facts are gathered once, and again when anything that they rest on was written or expired,
// a moment before they were read is asked for, or somebody else asks. One and the same holds whatever the root is: a user's
// own, a service's by its owner, a set's by an admin.
func TestCachedFacts(t *testing.T) {
	t.Parallel()
	alice, carol := authz.Object{Type: authz.TypeUser, ID: "alice"}, authz.Object{Type: authz.TypeUser, ID: "carol"}
	nightly := authz.Object{Type: authz.TypeService, ID: "nightly"}
	bot, acme := authz.AgentID("bot").Object(), authz.TenantID("acme").Object()
	members := authz.Subject{Object: acme, Relation: facts.RelationMember}
	for name, root := range map[string]struct {
		principal authz.Object
		of        authz.Subject
		by        authz.Object
		// beside is what else entitles.
		beside map[string]authz.Filter
	}{
		"a user":    {alice, authz.Subject{Object: alice}, alice, nil},
		"a service": {nightly, authz.Subject{Object: nightly}, carol, map[string]authz.Filter{"owner": facts.Owner(nightly, carol)}},
		"a set": {alice, members, carol, map[string]authz.Filter{
			"admin": facts.Admin("acme", carol), "member": facts.Member(members, authz.Principal{Object: alice}),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			session, top, part := authz.SessionID("s1").Object(), authz.DelegationID("d1").Object(), authz.DelegationID("l1").Object()
			granted := func(d authz.Object, to authz.Subject, by authz.Object, lasts time.Duration) []authz.Relationship {
				of := authz.Relationship{Resource: d, Relation: "principal", Subject: to}
				return []authz.Relationship{
					mark(d, "active", lasts), link(d, "agent", bot), of, link(d, "tenant", acme), issued(link(d, "granted_by", by)),
				}
			}
			type read struct {
				of   authz.Filter
				rels []authz.Relationship
			}
			all := map[string]read{
				"session": {facts.Object(session), []authz.Relationship{
					mark(session, "active", 4*time.Hour), mark(session, "unfrozen", 0), issued(link(session, "agent", bot)),
					{Resource: session, Relation: "delegation", Subject: authz.Subject{Object: part}, Caveat: "leaf", CaveatContext: map[string]any{
						"principal": root.principal.String(), "tenant": "acme",
					}},
				}},
				"root": {facts.Object(top), granted(top, root.of, root.by, 3*time.Hour)},
				"leaf": {facts.Object(part), append(granted(part, authz.Subject{Object: root.principal}, bot, 2*time.Hour),
					link(part, "parent", top), link(part, "session", session))},
				"agent":     {facts.Object(bot), []authz.Relationship{issued(mark(bot, "active", 0)), link(bot, "owner", alice)}},
				"principal": {facts.StandingFilter(root.principal), []authz.Relationship{mark(root.principal, "active", 0)}},
				"tenant":    {facts.StandingFilter(acme), []authz.Relationship{mark(acme, "active", 0)}},
			}
			for name, f := range root.beside {
				last := link(f.Resource, f.Relation, authz.Object{Type: f.SubjectType, ID: f.SubjectID})
				last.ExpiresAt = begin.Add(90 * time.Minute)
				all[name] = read{f, []authz.Relationship{last}}
			}
			r := &rows{}
			for _, p := range all {
				r.write(p.of, p.rels...)
			}
			j := New(nil, nil, time.Now)
			asked := authz.Case{Agent: "bot", Session: "s1"}
			ask := func(c authz.Case, after time.Duration) (found []decide.Facts, read int) {
				t.Helper()
				before := r.read
				found, err := j.source(r, begin.Add(after)).candidates(t.Context(), authz.Unbounded(), c)
				read = r.read - before
				want, wantErr := New(nil, nil, time.Now).source(r, begin.Add(after)).candidates(t.Context(), authz.Unbounded(), c)
				for i := range found {
					found[i].Now = want[i].Now
				}
				if fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(found, want) {
					t.Errorf("%+v after %v, from the cache:\n got %+v, %v\nwant %+v, %v", c, after, found, err, want, wantErr)
				}
				return found, read
			}
			live := func(found []decide.Facts) bool {
				if len(found) != 1 {
					return false
				}
				c := asked
				c.Resource = authz.Object{Type: "document", ID: "plan"}
				conditions := decide.Plan(c, &found[0])
				for i := range conditions {
					if q := conditions[i].Query; q != nil && q.Resource.Type == authz.TypeDelegation && conditions[i].Outcome != authz.Yes {
						return false
					}
				}
				return !decide.Refused(conditions)
			}
			if found, reads := ask(asked, 0); reads != len(all) || !live(found) {
				t.Errorf("at first %d filters are read, want %d, and the candidate is live: %v", reads, len(all), live(found))
			}
			if found, reads := ask(asked, time.Minute); reads != 0 || !live(found) {
				t.Errorf("the second time %d filters are read", reads)
			}
			if _, reads := ask(asked, -time.Minute); reads != len(all) {
				t.Errorf("before it was read, %d filters are read", reads)
			}
			for name, p := range all {
				ask(asked, time.Minute)
				r.write(p.of, p.rels[1:]...)
				if found, reads := ask(asked, time.Minute); reads == 0 || live(found) {
					t.Errorf("without the first of %s: %d filters are read, and the candidate is live: %v", name, reads, live(found))
				}
				ask(asked, time.Minute)
				r.write(p.of, p.rels...)
				if found, reads := ask(asked, time.Minute); reads == 0 || !live(found) {
					t.Errorf("with %s as it was: %d filters are read, and the candidate is live: %v", name, reads, live(found))
				}
			}
			for _, after := range []time.Duration{
				time.Minute, 90*time.Minute - 1, 90 * time.Minute, 2*time.Hour - 1, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, time.Minute,
			} {
				ask(asked, after)
			}
			for _, other := range []authz.Case{
				{Agent: "other", Session: "s1"}, {Agent: "bot", Session: "s2"}, {Agent: "bot", Session: "s1", Tenant: "globex"},
				{Agent: "bot", Session: "s1", Principal: authz.Principal{Object: carol}}, {Agent: "bot", Delegation: "l1"}, {Agent: "bot", Delegation: "d1"},
				{Agent: "bot", Delegation: "d1", Principal: authz.Principal{Object: root.principal}}, {Agent: "other", Delegation: "d1"},
			} {
				for range 2 {
					ask(asked, time.Minute)
					ask(other, time.Minute)
				}
			}
		})
	}
}

// TestUnknownIsNotKept: what an unknown delegation comes to as a candidate is not taken for an answer to a case that names it.
func TestUnknownIsNotKept(t *testing.T) {
	t.Parallel()
	alice := authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}}
	c := authz.Case{Agent: "bot", Delegation: "gone", Principal: alice, Tenant: "acme"}
	s := New(nil, nil, time.Now).source(&rows{}, begin)
	if f, err := s.facts(t.Context(), c, leaf{"gone", alice, "acme"}); err != nil || f.Leaf().Known {
		t.Fatalf("%+v, %v", f, err)
	}
	if found, err := s.candidates(t.Context(), authz.Unbounded(), c); authz.KindOf(err) != authz.NotFound {
		t.Errorf("an unknown delegation comes to %+v, %v", found, err)
	}
}

// TestCandidatesShareFacts: what several candidates of a case have in common is there once, and takes its size once; and a
// delegation without a tenant is not kept under the key of a case that leaves the tenant out.
func TestCandidatesShareFacts(t *testing.T) {
	t.Parallel()
	s := New(nil, nil, time.Now).source(&endless{owners: 3}, begin)
	r := s.reader()
	var found []decide.Facts
	for range 16 {
		f, err := r.gather(t.Context(), authz.Case{Agent: "bot", Session: "s"}, leaf{"d", authz.Principal{}, "acme"})
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, f)
	}
	first := found[0]
	for _, f := range found[1:] {
		if f.Session != first.Session || f.Chain[0] != first.Chain[0] || f.Standing.Agents["bot"] != first.Standing.Agents["bot"] {
			t.Fatal("two candidates have facts of their own of one session, delegation or agent")
		}
	}
	if _, err := s.facts(t.Context(), authz.Case{Agent: "bot"}, leaf{id: "d"}); err != nil || s.kept(actor{agent: "bot", delegation: "d"}) != nil {
		t.Errorf("without a tenant it is kept, or %v", err)
	}
}

// TestOlderRevisions: who decides at an old revision neither gets what was read at a newer one, nor puts anything in its place.
func TestOlderRevisions(t *testing.T) {
	t.Parallel()
	c, who := newCache(), actor{agent: "bot"}
	at := func(revision uint64) *entry {
		return &entry{candidates: []decide.Facts{{Tenant: authz.TenantID(fmt.Sprint(revision))}}, stamp: authz.Stamp{At: revision}, during: facts.SpanFrom(begin)}
	}
	for _, revision := range []uint64{7, 5, 7, 9, 8} {
		c.put(who, at(revision))
	}
	kept := c.get(who, &rows{at: 9}, begin).candidates
	if len(kept) != 1 || kept[0].Tenant != "9" {
		t.Errorf("what is kept is of %v", kept)
	}
	if c.get(who, &rows{at: 8}, begin) != nil {
		t.Error("an older revision finds what was read at a newer one")
	}
	if c.get(who, &rows{at: 9}, begin.Add(-1)) != nil || c.get(actor{agent: "other"}, &rows{at: 9}, begin) != nil {
		t.Error("another moment, or another actor, finds it")
	}
}

// endless is a snapshot in which every delegation is there, with an owner more or less for its agent; every string is new.
type endless struct {
	rows
	owners int
}

func (e *endless) Read(_ context.Context, filters ...authz.Filter) ([][]authz.Relationship, error) {
	lists := make([][]authz.Relationship, len(filters))
	for i, f := range filters {
		o := authz.Object{Type: f.Resource.Type, ID: strings.Clone(f.Resource.ID)}
		text := func(s string) string { return strings.Clone(s) + o.ID }
		switch o.Type {
		case authz.TypeDelegation:
			lists[i] = []authz.Relationship{
				mark(o, "active", time.Hour), link(o, "agent", authz.Object{Type: authz.TypeAgent, ID: text("agent-")}),
				link(o, "principal", authz.Object{Type: authz.TypeUser, ID: text("user-")}), link(o, "tenant", authz.Object{Type: authz.TypeTenant, ID: text("tenant-")}),
				{Resource: o, Relation: "granted_by", Subject: authz.Subject{Object: authz.Object{Type: authz.TypeUser, ID: text("user-")}}, Caveat: "issued",
					CaveatContext: map[string]any{"at": text("2026-"), "until": text("2027-"), "key": text("key-")}},
			}
		case authz.TypeAgent:
			lists[i] = []authz.Relationship{issued(mark(o, "active", 0))}
			for n := range e.owners {
				lists[i] = append(lists[i], link(o, "owner", authz.Object{Type: authz.TypeUser, ID: text(fmt.Sprint("owner", n))}))
			}
		default:
			lists[i] = []authz.Relationship{mark(o, "active", 0)}
		}
	}
	return lists, nil
}

func (e *endless) Stamp(filters []authz.Filter) (authz.Stamp, bool) {
	return authz.Stamp{At: 1, Slots: make([]uint32, len(filters))}, true
}

func (e *endless) Current(authz.Stamp) bool { return true }

// heapInUse returns how many bytes are in use.
func heapInUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep goes with the second one
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestCacheIsBounded: however many act, no more entries and bytes are kept than may be; and those bytes are what it takes,
// measured and not added up as the cache does it. Not in parallel, since it is the process's memory.
func TestCacheIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	for name, test := range map[string]struct {
		owners, actors int
		// padding is of each id.
		padding int
		// none says that nothing is kept.
		none bool
	}{
		"small": {owners: 1, actors: 30_000}, "with many owners": {owners: 40, actors: 8000}, "with long ids": {owners: 1, actors: 8000, padding: 900},
		"too large": {owners: 2000, actors: 50, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			j := New(nil, nil, time.Now)
			snap := &endless{owners: test.owners}
			before := heapInUse()
			for i := range test.actors {
				id := authz.DelegationID(fmt.Sprintf("d%d%s", i, strings.Repeat("x", test.padding)))
				s := j.source(snap, begin)
				alice := authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "user-" + string(id)}}
				if _, err := s.facts(t.Context(), authz.Case{Agent: authz.AgentID("agent-" + id)}, leaf{id, alice, authz.TenantID("tenant-" + id)}); err != nil {
					t.Fatal(err)
				}
			}
			took := heapInUse() - before
			entries, size, added := 0, 0, 0
			for i := range j.cache.shards {
				s := &j.cache.shards[i]
				entries += len(s.entries)
				size += s.size
				for _, e := range s.entries {
					added += e.size
				}
			}
			t.Logf("%d entries take %d KiB, and were counted as %d KiB", entries, took>>10, size>>10)
			switch {
			case test.none:
				if entries != 0 || size != 0 {
					t.Errorf("%d are kept", entries)
				}
				return
			case entries > cacheEntries || size > cacheBytes || size < cacheBytes/3 || size != added:
				t.Errorf("%d entries, and %d bytes are counted, and are %d", entries, size, added)
			case took > size*13/10: // less may be what another test has left to be collected
				t.Errorf("%d bytes are counted for %d", size, took)
			}
			runtime.KeepAlive(j)
		})
	}
}

// TestCacheHasSoManyEntries: entries that are small are bounded by their number.
func TestCacheHasSoManyEntries(t *testing.T) {
	t.Parallel()
	c := newCache()
	for i := range 2 * cacheEntries {
		c.put(actor{session: authz.SessionID(fmt.Sprint(i))}, &entry{size: -entryBytes})
	}
	entries := 0
	for i := range c.shards {
		entries += len(c.shards[i].entries)
	}
	if entries > cacheEntries || entries < cacheEntries/2 {
		t.Errorf("%d entries are kept, of %d", entries, cacheEntries)
	}
}
