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
	// Leaf is the delegation that was being looked at (LookupResources).
	Leaf authz.DelegationID `json:"l,omitempty"`
	// Listed tells that the objects of the type are gone through, because the engine could not look up what is reached
	// (LookupResources), and Last is the last one that was, before the page.
	Listed bool   `json:"t,omitempty"`
	Last   string `json:"i,omitempty"`
	// Engine is the engine's cursor: behind the last object that was decided, or at the start of the page that was being looked at
	// (LookupAgents, and where Listed).
	Engine string `json:"e,omitempty"`
	// Row is how many delegations of that page had been decided (LookupAgents).
	Row int `json:"d,omitempty"`
	// Skip is how many objects of that page, or principals of the next delegation, had been decided.
	Skip int `json:"s,omitempty"`
}

// End is how a lookup ended.
type End struct {
	// At is the revision of all results.
	At authz.Revision
	// Next is where to go on; nil when everything was found.
	Next *Place
}

// Reached is one object that an acting party reaches, or of which that is not known.
type Reached struct {
	Resource       authz.Object
	Permissionship authz.Permissionship
	Missing        []string
	Principal      authz.Principal
	Tenant         authz.TenantID
	Delegation     authz.DelegationID
	// Err is set where there is no answer: a check of this object alone is an error too. It is not reached then.
	Err error
}

// Resources calls yield for up to limit objects of c.Resource.Type that the case's acting party
// reaches with c.Permission: for each of its delegations alone, in the order of ids. c.Resource.ID is
// ignored, and so may c.Principal and c.Tenant be left out with a session. A place other than the zero
// one pins the lookup's revision; what does not depend on an object then has to hold at the head
// revision too. An object that cannot be decided is yielded with its error, and the lookup goes on; an engine that
// does not answer ends it, and so does an error of yield.
func (j *Judge) Resources(
	ctx context.Context, within *authz.Bounds, c authz.Case, f authz.Freshness, from Place, limit int, yield func(Reached) error,
) (End, error) {
	call, err := j.resume(ctx, within, f, from)
	if err != nil {
		return End{}, err
	}
	if err := call.validate(c); err != nil {
		if e, ok := errors.AsType[*authz.Error](err); ok && e.Field == "resource.object_type" {
			e.Field = "resource_object_type" // as the request has it, which names no object
		}
		return End{}, err
	}
	leaves, err := call.leaves(ctx, c)
	if err != nil {
		return End{}, err
	}
	if call.hidesType(c.Resource.Type) {
		return End{At: call.source.snap.Revision()}, nil
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
			return End{At: place.Revision, Next: &place}, nil
		}
		next, err := l.leaf(ctx, c, one, place, yield)
		if err != nil {
			return End{}, err
		}
		if next != nil {
			return End{At: call.source.snap.Revision(), Next: next}, nil
		}
	}
	return End{At: call.source.snap.Revision()}, nil
}

// resume opens a lookup at its revision.
func (j *Judge) resume(ctx context.Context, within *authz.Bounds, f authz.Freshness, from Place) (*call, error) {
	if !from.Revision.IsZero() {
		f = authz.Freshness{Exactly: from.Revision}
	}
	return j.open(ctx, within, f)
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
	// work counts what was decided, and until is when the call has taken long enough.
	work  int
	until time.Time
}

func newLookup(ctx context.Context, c *call, limit int) *lookup {
	return &lookup{call: c, limit: limit, until: authz.Until(ctx, lookupTime)}
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
	if decide.Refused(t.conditions) {
		return nil, nil //nolint:nilnil // nothing is reached, and nothing is left
	}
	seen := map[string]bool{}
	for begun := false; ; begun = true {
		if begun && l.spent() {
			return &from, nil
		}
		page, next, err := l.reachable(ctx, t, &from)
		if err != nil {
			return nil, err
		}
		// What an earlier stream decided of this page is not decided again.
		rest := page[min(from.Skip, len(page)):]
		// The first ones are decided by themselves, so that the first result comes soon.
		for batch := firstBatch; len(rest) > 0; batch *= 4 {
			n := min(batch, len(rest))
			if full, err := l.offerAll(ctx, t, rest[:n], seen, one, &from, yield); err != nil || full {
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
	ctx context.Context, t *candidate, page []authz.Resource, seen map[string]bool, one leaf, from *Place, yield func(Reached) error,
) (full bool, err error) {
	candidates, err := l.each(ctx, t, page)
	if err != nil {
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
	return yield(Reached{t.c.Resource, v.Permissionship, v.Missing, one.principal, one.tenant, one.id, v.Err})
}

// each decides a candidate like one for each of several objects.
func (l *lookup) each(ctx context.Context, t *candidate, page []authz.Resource) ([]*candidate, error) {
	candidates := make([]*candidate, len(page))
	for i, r := range page {
		again := *t
		again.c.Resource.ID, again.hidden = r.ID, l.hides(authz.Object{Type: t.c.Resource.Type, ID: r.ID})
		again.plan()
		candidates[i] = &again
	}
	l.work += len(candidates)
	return candidates, l.ask(ctx, candidates)
}

// reachable returns a page of what a candidate's subjects may reach, and the cursor of the next page. SpiceDB fails as a whole where
// one object leads back to itself, or has a caveat that cannot be evaluated; then it is every object of the type, from the beginning,
// and each is decided by itself.
func (l *lookup) reachable(ctx context.Context, t *candidate, at *Place) (page []authz.Resource, next string, err error) {
	snap := l.source.snap
	if !at.Listed {
		page, next, err = snap.Resources(ctx, authz.Reachable{
			ResourceType: t.c.Resource.Type, Context: t.c.Context, Holders: holders(t.c, &t.facts),
		}, lookupPage, at.Engine)
		if err == nil || engineFailed(err) {
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

// engineFailed reports whether an error says that the engine did not answer, or that the revision is gone, and nothing
// about one object.
func engineFailed(err error) bool {
	if err == nil {
		return false
	}
	switch authz.KindOf(err) {
	case authz.Unavailable, authz.Canceled, authz.Deadline, authz.Exhausted, authz.OutOfRange:
		return true
	default:
		return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	}
}

// holders are all who need a permission on the object: the delegations with a scope, the principal, the agents, and the tenant, which has
// to be the object's. The one that probably reaches least is first, the last delegation with a scope, for engines that look at no
// other.
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

// Reacher is one agent that reaches an object for a principal, or of which that is not known.
type Reacher struct {
	Candidate authz.Candidate
	// NeedsSession tells that the agent has to start a session first.
	NeedsSession bool
	// Err is set where there is no answer for this agent and principal. It does not reach the object then.
	Err error
}

// Agents calls yield for up to limit (agent, principal) pairs that reach the case's object with its
// permission: every live delegation in the object's tenant, leaves of sessions aside, for every
// principal it covers, as if its agent had started a session. c.Agent, c.Session and c.Delegation are
// ignored; c.Principal narrows. A pair that cannot be decided is yielded with its error, and the lookup goes on. An
// object whose tenants cannot be computed is in none, and reached by nobody.
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
		return End{At: snap.Revision()}, nil
	}
	// An object of a global type may be reached in any tenant.
	in := authz.Object{Type: authz.TypeTenant}
	if !j.global[c.Resource.Type] {
		tenant, err := call.tenantOf(ctx, c.Resource)
		if err != nil {
			return End{}, err
		}
		if tenant == "" || !call.within.HasTenant(tenant) {
			return End{At: snap.Revision()}, nil
		}
		in = tenant.Object()
	}
	filter := facts.ListFilter(authz.Subject{Object: in}, false)
	if rels, err := call.source.reader().read(ctx, facts.IndexFilter()); err != nil {
		return End{}, err
	} else if facts.Indexed(rels) {
		filter = facts.LiveFilter(authz.Subject{Object: in}, false)
	}
	l := newLookup(ctx, call, limit)
	place := Place{Revision: snap.Revision(), Engine: from.Engine, Row: from.Row, Skip: from.Skip}
	for {
		rels, next, err := snap.Page(ctx, filter, lookupPage, place.Engine)
		if err != nil {
			return End{}, err
		}
		stopped, err := l.delegations(ctx, c, rels, &place, yield)
		if err != nil {
			return End{}, err
		}
		if stopped {
			return End{At: snap.Revision(), Next: &place}, nil
		}
		if next == "" {
			return End{At: snap.Revision()}, nil
		}
		place.Engine, place.Row, place.Skip = next, 0, 0
	}
}

// pair is a delegation with one of its principals, ready to be decided. row and skip are its place on the page.
type pair struct {
	*candidate
	row, skip int
}

// delegations decides what is left of a page of delegations, each for all its principals, and reports whether the limit
// or the budget stopped it; place is then where.
func (l *lookup) delegations(ctx context.Context, c authz.Case, rels []authz.Relationship, place *Place, yield func(Reacher) error) (bool, error) {
	var waiting []pair
	for row := place.Row; row < len(rels); row++ {
		if l.spent() {
			return l.decide(ctx, waiting, place, yield, true)
		}
		l.work++
		id := authz.DelegationID(rels[row].Resource.ID)
		d, principals, err := l.covered(ctx, c, id)
		if err != nil {
			return false, err
		}
		skip := 0
		if row == place.Row {
			skip = min(place.Skip, len(principals))
		}
		for ; skip < len(principals); skip++ {
			t, err := l.reacher(ctx, c, d, principals[skip])
			if err != nil {
				return false, err
			}
			waiting = append(waiting, pair{t, row, skip})
			if len(waiting) < lookupPage {
				continue
			}
			stopped, err := l.decide(ctx, waiting, place, yield, false)
			if stopped || err != nil {
				return stopped, err
			}
			waiting = waiting[:0]
			if l.spent() {
				return true, nil
			}
		}
		if len(waiting) == 0 {
			place.Row, place.Skip = row+1, 0
		}
	}
	return l.decide(ctx, waiting, place, yield, false)
}

// decide decides pairs, and moves the place behind each. It returns whether the limit stopped it, before a pair that reaches the object, or
// stopped.
func (l *lookup) decide(ctx context.Context, pairs []pair, place *Place, yield func(Reacher) error, stopped bool) (bool, error) {
	candidates := make([]*candidate, 0, len(pairs))
	for _, p := range pairs {
		if !decide.Refused(p.conditions) {
			candidates = append(candidates, p.candidate)
		}
	}
	l.work += len(candidates)
	if err := l.ask(ctx, candidates); err != nil {
		return false, err
	}
	for _, p := range pairs {
		place.Row, place.Skip = p.row, p.skip+1
		v := decide.Combine(p.conditions)
		if engineFailed(v.Err) {
			return false, v.Err
		}
		if v.Err == nil && v.Permissionship == authz.NoPermission {
			continue
		}
		if l.found == l.limit {
			place.Skip = p.skip
			return true, nil
		}
		l.found++
		if err := yield(Reacher{l.report(p.candidate, v), !decide.Direct(&p.facts), v.Err}); err != nil {
			return false, err
		}
	}
	return stopped, nil
}

// covered returns a delegation with the principals that it covers; none where it does not act, is a session's leaf, or does not exist for
// the caller.
func (l *lookup) covered(ctx context.Context, c authz.Case, id authz.DelegationID) (*facts.Delegation, []authz.Principal, error) {
	d, err := l.source.reader().delegation(ctx, id)
	if err != nil || !d.Live() || d.Session != "" || !d.Within(l.within) {
		return nil, nil, err
	}
	principals, err := l.principals(ctx, c, d)
	return d, principals, err
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

// principals lists whom a delegation covers, as far as the case asks for them, by type and id.
func (l *lookup) principals(ctx context.Context, c authz.Case, d *facts.Delegation) ([]authz.Principal, error) {
	if !c.Principal.IsZero() {
		return []authz.Principal{c.Principal}, nil
	}
	if p, ok := authz.NewPrincipal(d.Principal.Object); ok {
		return []authz.Principal{p}, nil
	}
	var out []authz.Principal
	for _, kind := range []string{authz.TypeService, authz.TypeUser} {
		q := d.PrincipalQuery(authz.Principal{})
		members, err := l.source.snap.Subjects(ctx, q.Resource, q.Permission, kind, nil)
		if err != nil {
			return nil, err
		}
		first := len(out)
		for _, m := range members {
			if p, ok := authz.NewPrincipal(authz.Object{Type: kind, ID: m.ID}); ok {
				out = append(out, p)
			}
		}
		slices.SortFunc(out[first:], func(a, b authz.Principal) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
	}
	return out, nil
}
