package judge

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// ReachQuery asks for the reach of an agent, a delegation or a session: one of the three.
type ReachQuery struct {
	Agent      authz.AgentID
	Delegation authz.DelegationID
	Session    authz.SessionID
	// Principal and Tenant narrow the reach; zero does not.
	Principal authz.Principal
	Tenant    authz.TenantID
	// Types and Permissions narrow it to these types, and to these permissions or relations of the types that have them; none do not.
	Types, Permissions []string
	// Context is caveat context: JSON values.
	Context map[string]any
	// Fresh chooses the revision, and Moment is the moment by which relationships expire, where the engine heeds one: see authz.Momentary.
	Fresh  authz.Freshness
	Moment time.Time
	// Grants asks through which grants objects are reached.
	Grants bool
}

// Party is an agent that acts for one principal, in one tenant, under one delegation.
type Party struct {
	Agent authz.AgentID
	// Agents and Chain are those of the delegation's chain that exist for the caller, the root's first.
	Agents    []authz.AgentID
	Chain     []authz.DelegationID
	Session   authz.SessionID
	Principal authz.Principal
	// Set is the set through which the delegation covers the principal; zero where it names the principal.
	Set    authz.Subject
	Tenant authz.TenantID
	// ValidUntil is the first end of a delegation of the chain or a session behind it; zero where there is none.
	ValidUntil time.Time
	// Unscoped says that no delegation of the chain has a scope, NeedsSession that the agent has to start a session to act, and Frozen that a
	// session behind it is bound to the revision at which it started.
	Unscoped, NeedsSession, Frozen bool
	// Standing says that the delegations of the chain are live and nothing ends by itself.
	Standing bool
	// RefusedBy is the first gate that refuses whatever the object is; 0 where none does.
	RefusedBy authz.Gate
}

// ReachedObject is an object that a party reaches, or for which it is not known whether it does.
type ReachedObject struct {
	Resource       authz.Object
	Permission     string
	Permissionship authz.Permissionship
	Missing        []string
	// Err is set where a check of the object is an error; it is not reached then.
	Err error
	// Grants has one grant of each holder, where grants were asked for.
	Grants []ReachGrant
}

// ReachCount is how many objects of a type a party reaches with a permission.
type ReachCount struct {
	Type, Permission         string
	Has, Conditional, Failed uint64

	// The fields from here on are set where grants were asked for. Grants has at most MaxReachGrants kinds. Others counts the objects whose grants are
	// of other kinds or not known: with them, the objects of each holder are as many as are reached.
	Grants []ReachGrants
	Others uint64
	// Only has the sets without which objects would not be reached, at most MaxReachSets, the one with the most objects first. OnlyCut says that there
	// may be others.
	Only    []ReachSet
	OnlyCut bool
	// Standing, Wildcard and SingleSet tell a reviewer where to look: at grants without an end to agents, or to delegations without an end; at grants to
	// all of a type; and at objects that are reached through one set alone.
	Standing, Wildcard, SingleSet bool
}

// ReachTo takes a reach, in this order: a party, then for each type and permission the objects and their count, then the next party. An error of one
// of its functions ends the reach.
type ReachTo struct {
	Party  func(*Party) error
	Object func(*ReachedObject) error
	Count  func(*ReachCount) error
}

// ReachPlace is where a reach stopped. The zero ReachPlace is its beginning.
type ReachPlace struct {
	// Revision pins the reach. Past says that the caller named it, so that it may not have been the head when the reach began.
	Revision authz.Revision `json:"r"`
	Past     bool           `json:"x,omitempty"`
	// FreshAt is a moment at which the revision was the newest, for who tells the caller; Reach leaves it as it is.
	FreshAt time.Time `json:"f,omitzero"`
	// Page is the engine's cursor at the start of the page of delegations.
	Page string `json:"d,omitempty"`
	// Leaf is the delegation that was being looked at, and Members where in the set that it is for. Begun says that the party behind that, Leaf
	// for Principal, has been told.
	Leaf      authz.DelegationID `json:"l,omitempty"`
	Members   Members            `json:"m,omitzero"`
	Begun     bool               `json:"b,omitempty"`
	Principal authz.Principal    `json:"p,omitzero"`
	// Kind is which of the types with their permissions was being looked at, and At is where among its objects.
	Kind int   `json:"k,omitempty"`
	At   Place `json:"a,omitzero"`
}

// ReachEnd is how a reach ended.
type ReachEnd struct {
	// At is the revision of all of it, and FreshAt a moment at which it was the newest; see authz.Decision.FreshAt.
	At      authz.Revision
	FreshAt time.Time
	// Next is where to go on; nil when everything was told.
	Next *ReachPlace
}

// Reach tells the objects that an agent, a delegation or a session reaches, for each principal: all that Decide allows at the revision and the
// moment. An agent or a delegation is judged as if the agent had started a session. A reach is evidence, also of the past, and no answer to act on,
// because nothing is judged at the head revision besides. It records nothing. Errors: NotFound for an agent, a delegation or a session that does not
// exist for the caller.
//
// A reach stops when it has taken much work; then it goes on from its place. The counts of the parts add up.
func (j *Judge) Reach(ctx context.Context, within *authz.Bounds, q *ReachQuery, from ReachPlace, to ReachTo) (ReachEnd, error) {
	call, err := j.openReach(ctx, within, q, &from)
	if err != nil {
		return ReachEnd{}, err
	}
	r := &reach{lookup: newLookup(ctx, call, math.MaxInt), q: q, to: to}
	if q.Grants {
		var ok bool
		if r.granting, ok = call.source.snap.(granting); !ok {
			return ReachEnd{}, errNoGrants
		}
	}
	r.counts = true
	if r.kinds, err = call.kinds(q); err != nil {
		return ReachEnd{}, err
	}
	end := ReachEnd{At: from.Revision, FreshAt: freshAt(call.source.snap)}
	stopped, err := r.all(ctx, &from)
	if err != nil {
		return ReachEnd{}, err
	}
	if stopped {
		end.Next = &from
	}
	return end, nil
}

// openReach opens the revision and the moment of a reach, and notes the revision in its place.
func (j *Judge) openReach(ctx context.Context, within *authz.Bounds, q *ReachQuery, place *ReachPlace) (*call, error) {
	if within == nil {
		within = &authz.Bounds{}
	}
	f := q.Fresh
	if place.Revision.IsZero() {
		place.Past = !f.Exactly.IsZero()
	} else {
		f = authz.Freshness{Exactly: place.Revision}
	}
	if !f.Exactly.IsZero() {
		f.Moment = q.Moment
	}
	snap, err := j.graph.Snapshot(ctx, f)
	if err != nil {
		return nil, err
	}
	place.Revision = snap.Revision()
	if _, heeds := snap.(authz.Momentary); heeds && f.Moment.IsZero() {
		// All parts of a reach are as of one moment, the first one too.
		if snap, err = j.graph.Snapshot(ctx, authz.Freshness{Exactly: place.Revision, Moment: q.Moment}); err != nil {
			return nil, err
		}
	}
	c := &call{Judge: j, within: within, source: j.source(snap, q.Moment), past: place.Past}
	// Each of these actors is met once: to keep their facts would drive out what decisions need.
	c.source.stamps = nil
	c.schema, err = coreSchema(ctx, snap)
	return c, err
}

// reachKind is a type with a permission.
type reachKind struct{ objectType, permission string }

// kinds returns the types with the permissions that a reach is about, in the order of the types' names and of the schema's permissions. Errors:
// Invalid for a name that does not exist for the caller, and the errors of Decide for a case of such a type that depend on no object.
func (c *call) kinds(q *ReachQuery) ([]reachKind, error) {
	types := q.Types
	if len(types) == 0 {
		for _, name := range slices.Sorted(maps.Keys(c.schema.Types)) {
			if c.decidesOn(c.schema.Types[name]) {
				types = append(types, name)
			}
		}
	}
	var kinds []reachKind
	for _, name := range types {
		t := c.schema.Types[name]
		if t == nil || c.hidesType(name) {
			return nil, &authz.Error{
				Kind: authz.Invalid, Reason: authz.ReasonUnknownType, Field: "resource_object_types",
				Message: c.schema.Within(c.within).NoType(name),
			}
		}
		permissions := t.Permissions
		if len(q.Permissions) > 0 {
			permissions = q.Permissions
		}
		for _, permission := range permissions {
			_, has := t.Members[permission]
			if !has || len(q.Permissions) == 0 && permission == authz.TenantMember {
				continue
			}
			one := authz.Case{Resource: authz.Object{Type: name}, Permission: permission, Context: q.Context}
			if err := c.validate(one); err != nil {
				return nil, err
			}
			kinds = append(kinds, reachKind{name, permission})
		}
	}
	for _, permission := range q.Permissions {
		if !slices.ContainsFunc(kinds, func(k reachKind) bool { return k.permission == permission }) {
			return nil, &authz.Error{
				Kind: authz.Invalid, Reason: authz.ReasonUnknownPermission, Field: "permissions",
				Message: "names " + permission + ", and none of the types that are looked at has a permission or relation of that name",
			}
		}
	}
	return kinds, nil
}

// decidesOn reports whether there are decisions about objects of a type: not where every check of them is an error.
func (c *call) decidesOn(t *authz.Type) bool {
	return (t.TenantSafe() || c.global[t.Name]) && t.UnsafeShape == "" && t.Stray == "" && !c.hidesType(t.Name) && !authz.IsCore(t.Name)
}

// reach is one reach's progress.
type reach struct {
	*lookup
	q     *ReachQuery
	to    ReachTo
	kinds []reachKind
	// granting is nil where no grants are asked for.
	granting granting
}

// all tells every party from a place on, and reports whether it stopped there.
func (r *reach) all(ctx context.Context, place *ReachPlace) (stopped bool, err error) {
	c := authz.Case{
		Agent: r.q.Agent, Delegation: r.q.Delegation, Session: r.q.Session, Principal: r.q.Principal, Tenant: r.q.Tenant, Context: r.q.Context,
	}
	switch {
	case c.Session != "":
		return r.ofSession(ctx, c, place)
	case c.Delegation != "":
		d, err := r.source.reader().delegation(ctx, c.Delegation)
		if err != nil {
			return false, err
		}
		if ok, err := admit(r.within, c, nil, d); !ok {
			return false, err
		}
		return r.delegation(ctx, d, place)
	default:
		return r.ofAgent(ctx, c, place)
	}
}

// ofSession tells the parties of a session.
func (r *reach) ofSession(ctx context.Context, c authz.Case, place *ReachPlace) (stopped bool, err error) {
	s, err := r.source.reader().session(ctx, c.Session)
	if err != nil {
		return false, err
	}
	if ok, err := admit(r.within, c, s, nil); !ok {
		return false, err
	}
	c.Agent = s.Agent
	leaves, err := r.source.reader().ofSession(ctx, r.within, c)
	if err != nil {
		return false, err
	}
	for _, l := range leaves {
		if l.id < place.Leaf {
			continue
		}
		if l.id != place.Leaf {
			place.to(l.id)
		}
		if d, err := r.source.reader().delegation(ctx, l.id); err != nil {
			return false, err
		} else if d.Known && !d.Within(r.within) {
			continue
		}
		if stopped, err := r.party(ctx, c, l, place); stopped || err != nil {
			return stopped, err
		}
	}
	return false, nil
}

// to moves the place to a delegation.
func (p *ReachPlace) to(id authz.DelegationID) {
	*p = ReachPlace{Revision: p.Revision, Past: p.Past, Page: p.Page, Leaf: id}
}

// ofAgent tells the parties of an agent: of all live delegations of its own.
func (r *reach) ofAgent(ctx context.Context, c authz.Case, place *ReachPlace) (stopped bool, err error) {
	a, err := r.source.reader().agent(ctx, c.Agent)
	if err != nil {
		return false, err
	}
	if there, err := r.source.reader().exists(ctx, r.within, c.Agent.Object()); err != nil {
		return false, err
	} else if !there || !a.Known {
		return false, authz.NoAgent(c.Agent)
	}
	if ok, err := admit(r.within, c, nil, nil); !ok {
		return false, err
	}
	filter, err := r.source.reader().listing(ctx, c.Agent.Object())
	if err != nil {
		return false, err
	}
	if _, heeds := r.source.snap.(authz.Momentary); place.Past && !heeds {
		// Engines that know no other moment than the clock's leave out what was listed as live then and has expired since.
		filter = facts.ListFilter(authz.Subject{Object: c.Agent.Object()}, false)
	}
	for {
		rels, next, err := r.source.snap.Page(ctx, filter, lookupPage, place.Page)
		if err != nil {
			return false, err
		}
		ids := resources(rels) // in their order, by which the place is found again
		slices.Sort(ids)
		if place.Leaf != "" {
			ids = slices.DeleteFunc(ids, func(id authz.DelegationID) bool { return id <= place.Leaf })
			ids = append([]authz.DelegationID{place.Leaf}, ids...)
		}
		for _, id := range ids {
			if id != place.Leaf {
				place.to(id)
			}
			if stopped, err := r.own(ctx, c, place); stopped || err != nil {
				return stopped, err
			}
		}
		if next == "" {
			return false, nil
		}
		r.source.forget()
		*place = ReachPlace{Revision: place.Revision, Past: place.Past, Page: next}
	}
}

// errEnded is the error of a reach that stopped in a party whose delegation has ended since.
var errEnded = &authz.Error{
	Kind: authz.OutOfRange, Reason: authz.ReasonSnapshotTooOld, Field: "cursor",
	Message: "stopped at a delegation that has ended since: read the reach again, without a cursor",
}

// own tells the parties of the delegation at a place, if it is a live one of the agent's own.
func (r *reach) own(ctx context.Context, c authz.Case, place *ReachPlace) (stopped bool, err error) {
	if r.spent() && !place.Begun {
		return true, nil
	}
	d, err := r.source.reader().delegation(ctx, place.Leaf)
	if err != nil {
		return false, err
	}
	switch {
	case d.Live() && d.Session == "" && d.Agent == c.Agent && d.Within(r.within):
		return r.delegation(ctx, d, place)
	case place.Begun:
		return false, errEnded
	default:
		r.work++
		return false, nil
	}
}

// delegation tells the parties of a delegation: one for each principal that it covers.
func (r *reach) delegation(ctx context.Context, d *facts.Delegation, place *ReachPlace) (stopped bool, err error) {
	if place.Leaf != d.ID {
		place.to(d.ID)
	}
	c := authz.Case{Agent: d.Agent, Delegation: d.ID, Principal: r.q.Principal, Context: r.q.Context}
	if r.q.Tenant != "" && d.Tenant != r.q.Tenant || d.Principal == (authz.Subject{}) { // purged, or malformed
		return false, nil
	}
	if !c.Principal.IsZero() {
		if covered, err := r.covers(ctx, d, c.Principal); !covered {
			return false, err
		}
	}
	tell := func(p authz.Principal) (bool, error) { return r.party(ctx, c, leaf{d.ID, p, d.Tenant}, place) }
	if place.Begun {
		// A member whose row has expired since is on the page no more.
		if stopped, err := tell(place.Principal); stopped || err != nil {
			return stopped, err
		}
	}
	for more := true; more; {
		var members []member
		var next Members
		if members, next, more, err = r.members(ctx, c, d, place.Members); err != nil {
			return false, err
		}
		for _, m := range members {
			if err := r.prefetch(ctx, []pair{{of: d, member: m}}); err != nil {
				return false, err
			}
			if stopped, err := tell(m.principal); stopped || err != nil {
				return stopped, err
			}
		}
		place.Members = next
	}
	return false, nil
}

// covers reports whether a delegation is for a principal, by itself or as one of a set.
func (r *reach) covers(ctx context.Context, d *facts.Delegation, p authz.Principal) (bool, error) {
	if d.Set() {
		return r.source.reader().member(ctx, d.Principal, p)
	}
	return d.Principal.Object == p.Object, nil
}

// party tells one party and what it reaches, from a place on that is before it or in it, and moves the place behind it. It reports whether it
// stopped at the place.
func (r *reach) party(ctx context.Context, c authz.Case, l leaf, place *ReachPlace) (stopped bool, err error) {
	if !place.Begun && r.spent() {
		return true, nil
	}
	t, told, err := r.open(ctx, c, l)
	if err != nil {
		return false, err
	}
	if err := r.to.Party(told); err != nil {
		return false, err
	}
	if !place.Begun { // else the earlier stream has counted it
		r.work++
	}
	place.Begun, place.Principal = true, l.principal
	if told.RefusedBy == 0 {
		for ; place.Kind < len(r.kinds); place.Kind, place.At = place.Kind+1, (Place{}) {
			if r.spent() {
				return true, nil
			}
			if stopped, err := r.kind(ctx, t, l, r.kinds[place.Kind], &place.At); stopped || err != nil {
				return stopped, err
			}
		}
	}
	place.Begun, place.Principal, place.Kind, place.At = false, authz.Principal{}, 0, Place{}
	place.Members.Last = l.principal.ID
	return false, nil
}

// open reads the facts of a party, and judges the conditions that depend on no object.
func (r *reach) open(ctx context.Context, c authz.Case, l leaf) (*candidate, *Party, error) {
	f, err := r.source.facts(ctx, c, l)
	if err != nil {
		return nil, nil, err
	}
	f.AnySession = c.Session == ""
	t, err := r.plan(ctx, c, f)
	if err != nil {
		return nil, nil, err
	}
	if r.within.Confined() {
		explained := *r.call
		explained.explain = true // because RefusedBy names a gate, as an explanation does
		if err := explained.conceal(ctx, &t.facts); err != nil {
			return nil, nil, err
		}
		t.plan()
	}
	t.hidden = true // there is no object yet
	if err := r.ask(ctx, []*candidate{t}); err != nil {
		return nil, nil, err
	}
	v := decide.Combine(slices.DeleteFunc(slices.Clone(t.conditions), func(c decide.Condition) bool { return c.Side != authz.SideActor }))
	if engineFailed(v.Err) {
		return nil, nil, v.Err
	}
	told := &Party{
		Agent: c.Agent, Session: c.Session, Principal: l.principal, Tenant: l.tenant, ValidUntil: decide.ValidUntil(&t.facts),
		Unscoped: true, Standing: decide.ValidUntil(&t.facts).IsZero(),
		NeedsSession: c.Session == "" && !decide.Direct(&t.facts), Frozen: len(decide.Frozen(&t.facts)) > 0,
	}
	for _, d := range t.facts.Chain {
		if d.Within(r.within) {
			told.Chain = append(told.Chain, d.ID)
		}
		if r.within.HasAgent(d.Agent) {
			told.Agents = append(told.Agents, d.Agent)
		}
		told.Unscoped, told.Standing = told.Unscoped && d.Unscoped, told.Standing && d.Live()
	}
	if d := t.facts.Leaf(); d.Set() {
		told.Set = d.Principal
	}
	if v.Err == nil && v.Permissionship == authz.NoPermission {
		told.RefusedBy = v.Gate
	}
	return t, told, nil
}

// kind tells the objects of a type that a party reaches with a permission, from a place on, and reports whether it stopped.
func (r *reach) kind(ctx context.Context, t *candidate, l leaf, k reachKind, at *Place) (stopped bool, err error) {
	r.work++
	again := *t
	again.hidden, again.facts.Global = false, r.global[k.objectType]
	again.c.Resource, again.c.Permission = authz.Object{Type: k.objectType}, k.permission
	again.plan()
	count := &ReachCount{Type: k.objectType, Permission: k.permission}
	var grants tally
	var waiting []*ReachedObject
	flush := func() error {
		if r.granting != nil {
			if err := r.grants(ctx, &again, waiting, &grants); err != nil {
				return err
			}
		}
		if r.to.Object != nil {
			for _, o := range waiting {
				if err := r.to.Object(o); err != nil {
					return err
				}
			}
		}
		waiting = waiting[:0]
		return nil
	}
	next, err := r.walk(ctx, &again, l, *at, func(found Reached) error {
		switch {
		case found.Err != nil:
			count.Failed++
		case found.Permissionship == authz.ConditionalPermission:
			count.Conditional++
		default:
			count.Has++
		}
		if r.to.Object == nil && r.granting == nil {
			return nil
		}
		waiting = append(waiting, &ReachedObject{
			Resource: found.Resource, Permission: k.permission, Permissionship: found.Permissionship, Missing: found.Missing, Err: found.Err,
		})
		if r.granting != nil && len(waiting) < reachBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return false, err
	}
	grants.into(count)
	if next == nil {
		return false, r.to.Count(count)
	}
	*at = *next
	if count.Has+count.Conditional+count.Failed == 0 {
		return true, nil
	}
	return true, r.to.Count(count)
}
