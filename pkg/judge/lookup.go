package judge

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// lookupPage is how many candidates a lookup asks the engine for, and decides, at a time.
const lookupPage = 500

// lookupWork is how many candidates one call of a lookup decides, and lookupTime how long it goes on with that. Then it
// stops with a place to go on from, even where nothing was found.
const (
	lookupWork = 20_000
	lookupTime = 5 * time.Second
)

// Place is where a lookup stopped. The zero Place is its beginning.
type Place struct {
	// Revision pins the lookup.
	Revision authz.Revision `json:"r"`
	// Leaf is the delegation that was being looked at.
	Leaf authz.DelegationID `json:"l,omitempty"`
	// Listed tells that all objects of the type are gone through, because the engine's lookup failed (LookupResources), and Last is the last object
	// before the page.
	Listed bool   `json:"t,omitempty"`
	Last   string `json:"i,omitempty"`
	// Engine is the engine's cursor: behind the last object that was decided, or at the start of the page that was being looked at
	// (LookupAgents, and where Listed).
	Engine string `json:"e,omitempty"`
	// Skip is how many objects of that page had been decided (LookupResources).
	Skip int `json:"s,omitempty"`
	// Members is where in the set that Leaf is for (LookupAgents).
	Members Members `json:"m,omitzero"`
}

// Members is where a lookup is among the principals of a set. The zero Members is its beginning.
type Members struct {
	// Users tells that the services are gone through, and Engine is the engine's cursor at the start of the page of principals.
	Users  bool   `json:"u,omitempty"`
	Engine string `json:"e,omitempty"`
	// Last is the id of the principal of that page that was decided last; "" for none.
	Last string `json:"i,omitempty"`
}

// End is how a lookup ended.
type End struct {
	// At is the revision of all results, and FreshAt a moment at which it was the newest; see authz.Decision.FreshAt.
	At      authz.Revision
	FreshAt time.Time
	// Next is where to go on; nil when everything was found.
	Next *Place
}

// Reached is one object that an acting party reaches, or for which it is not known whether it does.
type Reached struct {
	Resource       authz.Object
	Permissionship authz.Permissionship
	Missing        []string
	Principal      authz.Principal
	Tenant         authz.TenantID
	Delegation     authz.DelegationID
	// FreshAt is End's.
	FreshAt time.Time
	// Err is set where there is no answer: a check of this object alone is an error too. It is not reached then.
	Err error
}

// Resources calls yield for up to limit objects of c.Resource.Type that the case's acting party
// reaches with c.Permission: for each of its delegations alone, in the order of their ids. c.Resource.ID is
// ignored, and c.Principal and c.Tenant may be left out with a session. A place other than the zero
// one pins the lookup's revision; conditions that depend on no object then have to hold at the head
// revision too. An object that cannot be decided is yielded with its error, and the lookup goes on. An engine that
// does not answer ends it, and so does an error of yield.
func (j *Judge) Resources(
	ctx context.Context, within *authz.Bounds, c authz.Case, f authz.Freshness, from Place, limit int, yield func(Reached) error,
) (End, error) {
	call, err := j.resume(ctx, within, f, from)
	if err != nil {
		return End{}, err
	}
	if err := call.validate(c); err != nil {
		return End{}, ofType(err)
	}
	leaves, err := call.leaves(ctx, c)
	if err != nil {
		return End{}, err
	}
	if call.hidesType(c.Resource.Type) {
		return call.endAt(nil), nil
	}
	l := newLookup(ctx, call, limit)
	for _, one := range leaves {
		if one.id < from.Leaf {
			continue
		}
		place := Place{Revision: call.source.snap.Revision(), Leaf: one.id}
		if one.id == from.Leaf {
			place = from
		}
		if l.spent() {
			return call.endAt(&place), nil
		}
		next, err := l.leaf(ctx, c, one, place, yield)
		if err != nil {
			return End{}, err
		}
		if next != nil {
			return call.endAt(next), nil
		}
	}
	return call.endAt(nil), nil
}

// resume opens a lookup at its revision.
func (j *Judge) resume(ctx context.Context, within *authz.Bounds, f authz.Freshness, from Place) (*call, error) {
	if !from.Revision.IsZero() {
		f = authz.Freshness{Exactly: from.Revision}
	}
	return j.open(ctx, within, f)
}

// endAt is how a lookup ends that goes on from a place, or that has found everything.
func (c *call) endAt(next *Place) End {
	return End{At: c.source.snap.Revision(), FreshAt: freshAt(c.source.snap), Next: next}
}

// leaves lists the delegations that a lookup goes through, by id. Unlike a decision it may go through
// leaves of several principals, one after the other.
func (c *call) leaves(ctx context.Context, one authz.Case) ([]leaf, error) {
	if one.Session != "" {
		return c.source.reader().ofSession(ctx, c.within, one)
	}
	return c.source.reader().candidates(ctx, c.within, one)
}

// lookup is one lookup's progress.
type lookup struct {
	*call
	limit int
	found int
	// counts says that an object must not be told twice, whatever the engine.
	counts bool
	// work counts candidates that were decided, and until is when the call has taken long enough.
	work  int
	until time.Time
}

func newLookup(ctx context.Context, c *call, limit int) *lookup {
	return &lookup{call: c, limit: limit, until: authz.Until(ctx, c.lookupTime)}
}

// spent reports whether the call has done enough. Something is always done before that.
func (l *lookup) spent() bool {
	return l.work > 0 && (l.work >= l.lookupWork || !time.Now().Before(l.until))
}

// leaf streams what one delegation reaches, and returns where it stopped at the limit or for its budget.
func (l *lookup) leaf(ctx context.Context, c authz.Case, one leaf, from Place, yield func(Reached) error) (*Place, error) {
	l.work++
	t, err := l.ofLeaf(ctx, c, one)
	if err != nil {
		return nil, err
	}
	if !hasFacts(l.within, &t.facts) || decide.Refused(t.conditions) {
		return nil, nil //nolint:nilnil // nothing is reached, and nothing is left
	}
	return l.walk(ctx, t, one, from, yield)
}

// walk streams what a candidate reaches, and returns where it stopped.
func (l *lookup) walk(ctx context.Context, t *candidate, one leaf, from Place, yield func(Reached) error) (*Place, error) {
	actor := []*candidate{t}
	if err := l.askOfActors(ctx, actor); err != nil {
		return nil, err
	}
	objects := &pairs{call: l.call, actors: actor}
	began := from.Engine == "" && from.Skip == 0
	seen := map[string]bool{}
	for begun := false; ; begun = true {
		if begun && l.spent() {
			return &from, nil
		}
		page, next, err := l.reachable(ctx, t, &from, began)
		if err != nil {
			return nil, err
		}
		// What an earlier stream decided of this page is not decided again.
		rest := page[min(from.Skip, len(page)):]
		// The first ones are decided by themselves, so that the first result comes soon.
		for batch := firstBatch; len(rest) > 0; batch *= 4 {
			n := min(batch, len(rest))
			if full, err := l.offerAll(ctx, objects, rest[:n], seen, one, &from, yield); err != nil || full {
				return &from, err
			}
			if rest = rest[n:]; len(rest) > 0 && l.spent() {
				return &from, nil
			}
		}
		if next == "" {
			return nil, nil //nolint:nilnil // nothing is left
		}
		if len(page) > 0 {
			from.Last = page[len(page)-1].ID
		}
		from.Engine, from.Skip = next, 0
	}
}

// firstBatch is how many candidates of a page are decided first.
const firstBatch = 8

// offerAll decides objects and offers each once, and reports whether the limit stopped it: before an object that it would have offered,
// so that there is more to come. The place is behind those that it has passed.
func (l *lookup) offerAll(
	ctx context.Context, objects *pairs, page []authz.Resource, seen map[string]bool, one leaf, from *Place, yield func(Reached) error,
) (full bool, err error) {
	ids := make([]string, len(page))
	for i := range page {
		ids[i] = page[i].ID
	}
	candidates := objects.with(ids)
	l.work += len(candidates)
	if err := l.ask(ctx, candidates); err != nil {
		return false, err
	}
	for i, t := range candidates {
		v := decide.Combine(t.conditions)
		// SpiceDB names a resource once for each way in which it is reached.
		reached := !t.hidden && !seen[page[i].ID] && (v.Err != nil || v.Permissionship != authz.NoPermission)
		if reached && l.found == l.limit {
			return true, nil
		}
		if from.Listed {
			from.Skip++
		} else {
			from.Engine = page[i].After
		}
		if !reached {
			continue
		}
		seen[page[i].ID] = true
		if err := l.offer(t, v, one, yield); err != nil {
			return false, err
		}
	}
	return false, nil
}

// offer yields an object that is reached, or that failed by itself.
func (l *lookup) offer(t *candidate, v decide.Verdict, one leaf, yield func(Reached) error) error {
	if engineFailed(v.Err) {
		return v.Err
	}
	l.found++
	return yield(Reached{
		t.c.Resource, v.Permissionship, v.Missing, one.principal, one.tenant, one.id, freshAt(l.source.snap), v.Err,
	})
}

// reachable returns a page of the objects that a candidate's subjects may reach, and the cursor of the next page. A lookup of SpiceDB fails as a whole
// where one object leads back to itself, or has a caveat that cannot be evaluated. Then all objects of the type are gone through instead, from the
// beginning, and each is decided by itself; began says that the walk began at the beginning of the candidate's objects, so that it knows all that
// were told. Another walk may tell some a second time, as LookupResources may. A count must not count them twice, so there the error stands.
func (l *lookup) reachable(ctx context.Context, t *candidate, at *Place, began bool) (page []authz.Resource, next string, err error) {
	snap := l.source.snap
	if !at.Listed {
		page, next, err = snap.Resources(ctx, authz.Reachable{
			ResourceType: t.c.Resource.Type, Context: t.c.Context, Holders: holders(t.c, &t.facts),
		}, lookupPage, at.Engine)
		if err == nil || !mayBeOfOneObject(err) || l.counts && !began {
			return page, next, err
		}
		*at = Place{Revision: at.Revision, Leaf: at.Leaf, Listed: true}
	}
	// What is reached has a relationship: two different subjects have the permission on it, and it is only one of them
	// that an object can be by itself. They come in the order of their ids.
	rels, next, err := snap.Page(ctx, authz.Filter{Resource: authz.Object{Type: t.c.Resource.Type}}, lookupPage, at.Engine)
	if err != nil {
		return nil, "", err
	}
	last := at.Last
	for i := range rels {
		if id := rels[i].Resource.ID; id != last {
			page, last = append(page, authz.Resource{ID: id}), id
		}
	}
	return page, next, nil
}

// mayBeOfOneObject reports whether one object may be the reason for the error of a lookup: without it, the others could be looked up.
func mayBeOfOneObject(err error) bool {
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Field != "" {
		return false // the request is wrong, as by a cursor of another engine
	}
	switch authz.KindOf(err) {
	case authz.Precondition, authz.Invalid:
		return true
	default:
		return false
	}
}

// engineFailed reports whether an error says that the engine did not answer, or that the revision is gone, and nothing
// about one object.
func engineFailed(err error) bool {
	if err == nil {
		return false
	}
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Kind == authz.Exhausted && e.Reason == authz.ReasonTooLarge {
		return false // the check of one object takes more than a check may: others are answered
	}
	switch authz.KindOf(err) {
	case authz.Unavailable, authz.Canceled, authz.Deadline, authz.Exhausted, authz.OutOfRange:
		return true
	default:
		return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	}
}

// holders returns the subjects that need a permission on the object: the delegations with a scope, the principal, the agents, and the tenant, which
// has to be the object's. The one that probably reaches least comes first, the last delegation with a scope, because some engines look at no other.
func holders(c authz.Case, f *decide.Facts) []authz.Holder {
	var all []authz.Holder
	add := func(permission string, o authz.Object) {
		if h := (authz.Holder{Permission: permission, Subject: authz.Subject{Object: o}}); !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	for _, d := range slices.Backward(f.Chain) {
		if !d.Unscoped {
			add(c.Permission, d.ID.Object())
		}
	}
	add(c.Permission, f.Principal.Object)
	for _, d := range slices.Backward(f.Chain) {
		add(c.Permission, d.Agent.Object())
	}
	if !f.Global {
		add(authz.TenantMember, f.Tenant.Object())
	}
	return all
}

// Reacher is one agent that reaches an object for a principal, or for which it is not known whether it does.
type Reacher struct {
	Candidate authz.Candidate
	// NeedsSession tells that the agent has to start a session first.
	NeedsSession bool
	// FreshAt is End's.
	FreshAt time.Time
	// Err is set where there is no answer for this agent and principal. It does not reach the object then.
	Err error
}

// Agents calls yield for up to limit (agent, principal) pairs that reach the case's object with its
// permission: every live delegation in the object's tenant, leaves of sessions aside, for every
// principal it covers, as if its agent had started a session. c.Agent, c.Session and c.Delegation are
// ignored; c.Principal narrows. A pair that cannot be decided is yielded with its error, and the lookup goes on. An
// object whose tenants cannot be computed is in none, and nobody reaches it.
func (j *Judge) Agents(
	ctx context.Context, within *authz.Bounds, c authz.Case, f authz.Freshness, from Place, limit int, yield func(Reacher) error,
) (End, error) {
	call, err := j.resume(ctx, within, f, from)
	if err != nil {
		return End{}, err
	}
	if err := call.validate(c); err != nil {
		return End{}, err
	}
	// Each of these actors is met once: to keep their facts would drive out what decisions need.
	call.source.stamps = nil
	if call.head != nil {
		call.head.stamps = nil
	}
	snap := call.source.snap
	if call.hides(c.Resource) || !c.Principal.IsZero() && !call.within.HasPrincipal(c.Principal) {
		return call.endAt(nil), nil
	}
	// An object of a global type may be reached in any tenant.
	in := authz.Object{Type: authz.TypeTenant}
	if !j.global[c.Resource.Type] {
		tenant, err := call.tenantOf(ctx, c.Resource)
		if err != nil {
			return End{}, err
		}
		if tenant == "" || !call.within.HasTenant(tenant) {
			return call.endAt(nil), nil
		}
		in = tenant.Object()
	}
	filter, err := call.source.reader().listing(ctx, in)
	if err != nil {
		return End{}, err
	}
	l := newLookup(ctx, call, limit)
	place := Place{Revision: snap.Revision(), Leaf: from.Leaf, Engine: from.Engine, Members: from.Members}
	for {
		call.source.forget()
		rels, next, err := snap.Page(ctx, filter, lookupPage, place.Engine)
		if err != nil {
			return End{}, err
		}
		stopped, err := l.delegations(ctx, c, rels, &place, yield)
		if err != nil {
			return End{}, err
		}
		if stopped {
			return call.endAt(&place), nil
		}
		if next == "" {
			return call.endAt(nil), nil
		}
		place = Place{Revision: snap.Revision(), Engine: next}
	}
}

// pair is a delegation with one of its principals.
type pair struct {
	of *facts.Delegation
	member
	// at is the place before it.
	at Place
}

// member is a principal that a delegation covers, with the tuple that makes it one of a set; nil where that was not read.
type member struct {
	principal authz.Principal
	by        []authz.Relationship
}

// delegations goes through what is left of a page of delegations, each with all its principals, and reports whether the limit or the budget
// stopped it; place is then where. It has few principals in memory at a time, however many a set has.
func (l *lookup) delegations(ctx context.Context, c authz.Case, rels []authz.Relationship, place *Place, yield func(Reacher) error) (bool, error) {
	// A delegation that has expired since is on the page no more. Then all of the page is gone through again, so that nothing is missed.
	row := slices.IndexFunc(rels, func(r authz.Relationship) bool { return r.Resource.ID == string(place.Leaf) })
	at := *place
	if row < 0 {
		row, at.Members = 0, Members{}
	}
	var waiting []pair
	for ; row < len(rels); row, at.Members = row+1, (Members{}) {
		at.Leaf = authz.DelegationID(rels[row].Resource.ID)
		if l.spent() {
			return l.stop(ctx, c, waiting, at, place, yield)
		}
		l.work++
		d, err := l.source.reader().delegation(ctx, at.Leaf)
		if err != nil {
			return false, err
		}
		// One that does not act, is a session's leaf, or does not exist for the caller reaches nothing.
		for more := d.Live() && d.Session == "" && d.Within(l.within); more; {
			var members []member
			var next Members
			if members, next, more, err = l.members(ctx, c, d, at.Members); err != nil {
				return false, err
			}
			for _, m := range members {
				waiting = append(waiting, pair{d, m, at})
				at.Members.Last = m.principal.ID
				if len(waiting) < l.batch() {
					continue
				}
				if stopped, err := l.decide(ctx, c, waiting, place, yield); stopped || err != nil {
					return stopped, err
				}
				waiting = waiting[:0]
				if l.spent() {
					*place = at
					return true, nil
				}
			}
			at.Members = next
		}
	}
	return l.decide(ctx, c, waiting, place, yield)
}

// stop decides the pairs that wait, and stops before a place.
func (l *lookup) stop(ctx context.Context, c authz.Case, waiting []pair, at Place, place *Place, yield func(Reacher) error) (bool, error) {
	if stopped, err := l.decide(ctx, c, waiting, place, yield); stopped || err != nil {
		return stopped, err
	}
	*place = at
	return true, nil
}

// batch is how many pairs are decided at once: not many more than there is room for among the results.
func (l *lookup) batch() int { return min(max(l.limit-l.found+1, fewPairs), lookupPage) }

// fewPairs is how many pairs are decided at once at least, because most of them may reach nothing.
const fewPairs = 32

// decide decides pairs. It reports whether the limit stopped it, before a pair that reaches the object; place is then before that one.
func (l *lookup) decide(ctx context.Context, c authz.Case, pairs []pair, place *Place, yield func(Reacher) error) (bool, error) {
	l.work += len(pairs)
	if err := l.prefetch(ctx, pairs); err != nil {
		return false, err
	}
	candidates := make([]*candidate, len(pairs))
	for i, p := range pairs {
		var err error
		if candidates[i], err = l.reacher(ctx, c, p.of, p.principal); err != nil {
			return false, err
		}
	}
	if err := l.ask(ctx, candidates); err != nil {
		return false, err
	}
	for i, t := range candidates {
		v := decide.Combine(t.conditions)
		if engineFailed(v.Err) {
			return false, v.Err
		}
		if v.Err == nil && v.Permissionship == authz.NoPermission {
			continue
		}
		if l.found == l.limit {
			*place = pairs[i].at
			return true, nil
		}
		l.found++
		if err := yield(Reacher{l.report(t, v), !decide.Direct(&t.facts), freshAt(l.source.snap), v.Err}); err != nil {
			return false, err
		}
	}
	return false, nil
}

// prefetch reads the facts about the principals of pairs with one call, in place of those that were read for other principals.
func (l *lookup) prefetch(ctx context.Context, pairs []pair) error {
	for _, s := range []*source{l.source, l.head} {
		if s == nil {
			continue
		}
		s.forget()
		filters := make([]authz.Filter, 0, 2*len(pairs))
		for _, p := range pairs {
			filters = append(filters, facts.StandingFilter(p.principal.Object))
			if !p.of.Set() {
				continue
			}
			if tuple := facts.Member(p.of.Principal, p.principal); p.by != nil && s == l.source {
				s.know(tuple, p.by)
			} else {
				filters = append(filters, tuple)
			}
		}
		if err := s.prefetch(ctx, filters...); err != nil {
			return err
		}
	}
	return nil
}

// reacher plans one delegation for one principal.
func (l *lookup) reacher(ctx context.Context, c authz.Case, d *facts.Delegation, p authz.Principal) (*candidate, error) {
	c.Agent, c.Session, c.Delegation = d.Agent, "", d.ID
	t, err := l.ofLeaf(ctx, c, leaf{d.ID, p, d.Tenant})
	if err != nil {
		return nil, err
	}
	t.facts.AnySession = true
	if t.head != nil {
		t.head.AnySession = true
	}
	if err := l.baselines(ctx, t); err != nil {
		return nil, err
	}
	t.plan()
	return t, nil
}

// members returns the principals that a delegation covers and the case asks for, a page at a time: those from a place on, and where the next page
// begins, if there may be more.
func (l *lookup) members(
	ctx context.Context, c authz.Case, d *facts.Delegation, at Members,
) (page []member, next Members, more bool, err error) {
	one, ok := authz.NewPrincipal(d.Principal.Object)
	if !c.Principal.IsZero() {
		one, ok = c.Principal, true
	}
	if ok {
		if at.Last == "" {
			page = []member{{one, nil}}
		}
		return page, next, false, nil
	}
	kind := authz.TypeService
	if at.Users {
		kind = authz.TypeUser
	}
	rels, cursor, err := l.source.snap.Page(ctx, facts.Members(d.Principal, kind), lookupPage, at.Engine)
	if err != nil {
		return nil, next, false, err
	}
	for i := behindMember(rels, at.Last); i < len(rels); i++ {
		if p, ok := authz.NewPrincipal(rels[i].Subject.Object); ok {
			page = append(page, member{p, rels[i : i+1 : i+1]})
		}
	}
	switch {
	case cursor != "":
		return page, Members{Users: at.Users, Engine: cursor}, true, nil
	case !at.Users:
		return page, Members{Users: true}, true, nil
	default:
		return page, next, false, nil
	}
}

// behindMember returns where a page of members goes on behind the one with an id, "" being before all. If it is not there, because its membership has
// expired since, that is where it would be, so that no other member is told twice. On a page that is not in the order of ids it is the beginning, so
// that none is missed.
func behindMember(page []authz.Relationship, id string) int {
	byID, before := true, 0
	for i := range page {
		switch other := page[i].Subject.ID; {
		case other == id:
			return i + 1
		case other < id:
			before++
		}
		byID = byID && (i == 0 || page[i-1].Subject.ID <= page[i].Subject.ID)
	}
	if !byID {
		return 0
	}
	return before
}
