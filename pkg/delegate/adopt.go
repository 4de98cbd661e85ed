package delegate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Limits of an adoption. Each bounds memory: what is beyond is refused, or counted and not shown.
const (
	// MaxAdoptions is the most objects that one call adopts.
	MaxAdoptions = 20
	// MaxReviewed is the most objects that a review is asked for by name.
	MaxReviewed = 100
	// maxReviews is how many reviews one caller has under way at most, beside one of another caller; each was seen to take 55 MB of a large graph.
	maxReviews = 4
	// maxNamed is the most agents, users, services and tenants that a review of the whole graph keeps in memory.
	maxNamed = 200_000
	// maxHeld is the most that one candidate may hold, and be named by, to be adopted with a digest.
	maxHeld = 100_000
	// maxTenants is how many tenants of objects a review keeps.
	maxTenants = 100_000
	// The most that is shown of a candidate's holdings, of the objects of one, and of what names it.
	shownHoldings, shownObjects, shownNaming = 200, 5, 20
	// reviewPage is how much the engine is asked for at a time, and reviewTime how long a review goes on.
	reviewPage = 1000
	reviewTime = 5 * time.Minute
)

// Actors are the types of objects that are active or not, and that an adoption makes active.
var Actors = []string{authz.TypeAgent, authz.TypeService, authz.TypeTenant, authz.TypeUser}

// Shown is the beginning of a list, and how long all of it is.
type Shown[T any] struct {
	First []T
	Total int
}

func (s *Shown[T]) add(item T, most int) {
	if s.Total < most {
		s.First = append(s.First, item)
	}
	s.Total++
}

// Holding is what a candidate holds of one permission in one tenant, "" for objects without one.
type Holding struct {
	Tenant           authz.TenantID
	Type, Permission string
	Objects          Shown[string]
}

// Candidate is an agent, a user, a service or a tenant that is not active, with what it would hold if it were. One with the id
// "*" has what wildcards grant to every object of the type.
type Candidate struct {
	Object   authz.Object
	Life     facts.Life
	Holdings Shown[Holding]
	// Naming are the relationships on core types that name it, without those of Delegations and Sessions.
	Naming      Shown[authz.Relationship]
	Delegations Shown[facts.Delegation]
	Sessions    Shown[Running]
	// Digest identifies all of that; empty where Refusal says why it cannot be adopted.
	Digest, Refusal string

	agent facts.Agent
}

// ReviewPlace is where a review stopped. The zero ReviewPlace is its beginning.
type ReviewPlace struct {
	// Revision pins the review.
	Revision authz.Revision `json:"r"`
	// Type and ID are the last object that was looked at.
	Type string `json:"t,omitempty"`
	ID   string `json:"i,omitempty"`
}

// Review hands up to limit candidates to send, in order of type and id: those among the objects, or, if there are none, all that
// relationships name, and wildcards. It also stops after a while, or half of the time that the caller has left. It returns where
// to go on, nil at the end. Errors: Exhausted where relationships name more than a review keeps in memory, and where maxReviews are
// under way: each may take as much; Denied for a caller with bounds.
func (d *Delegate) Review(
	ctx context.Context, objects []authz.Object, from ReviewPlace, limit int, send func(Candidate) error,
) (authz.Revision, *ReviewPlace, error) {
	if err := d.wholly(); err != nil {
		return authz.Revision{}, nil, err
	}
	turn, err := d.reviews.Take(ctx, 1, 0)
	if err != nil {
		return authz.Revision{}, nil, err
	}
	defer turn.Give()
	v, err := d.at(ctx, Place{Revision: from.Revision})
	if err != nil {
		return authz.Revision{}, nil, err
	}
	r, err := d.review(ctx, v)
	if err != nil {
		return authz.Revision{}, nil, err
	}
	if len(objects) == 0 {
		if objects, err = r.named(ctx); err != nil {
			return authz.Revision{}, nil, err
		}
	}
	slices.SortFunc(objects, byTypeAndID)
	objects = slices.Compact(objects)
	until := authz.Until(ctx, reviewTime)
	place := &ReviewPlace{Revision: v.snap.Revision(), Type: from.Type, ID: from.ID}
	for _, o := range objects {
		switch {
		case byTypeAndID(o, authz.Object{Type: from.Type, ID: from.ID}) <= 0:
			continue
		case limit == 0 || !time.Now().Before(until):
			return v.snap.Revision(), place, nil
		}
		c, err := r.candidate(ctx, o)
		if err != nil {
			return authz.Revision{}, nil, err
		}
		if c != nil {
			limit--
			if err := send(*c); err != nil {
				return authz.Revision{}, nil, err
			}
		}
		place.Type, place.ID = o.Type, o.ID
	}
	return v.snap.Revision(), nil, nil
}

// Adoption names one that is to become active.
type Adoption struct {
	Object authz.Object
	// Owners are an agent's.
	Owners []authz.Object
	// Digest is the candidate's, as it was shown.
	Digest string
}

// Adopted is what an adoption made active.
type Adopted struct {
	// Active are those that it made active.
	Active []authz.Object
	// Unnamed are those of their owners that no relationship named before.
	Unnamed []authz.Object
}

// Adopt makes candidates active, all or none, and returns those that it did: what is active already stays as it is. Errors:
// Invalid for what the request gets wrong by itself, Precondition where a candidate cannot be adopted, or is no longer what was
// shown. A relationship that is written between its last look and its write counts as written after the adoption.
func (d *Delegate) Adopt(ctx context.Context, adoptions []Adoption) (Adopted, authz.Revision, error) {
	none := func(err error) (Adopted, authz.Revision, error) { return Adopted{}, authz.Revision{}, err }
	if err := d.wholly(); err != nil {
		return none(err)
	}
	if len(adoptions) == 0 || len(adoptions) > MaxAdoptions {
		return none(authz.FieldErrorf("adoptions", "must hold 1 to %d objects, not %d", MaxAdoptions, len(adoptions)))
	}
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	r, err := d.review(ctx, v)
	if err != nil {
		return none(err)
	}
	var (
		out     Adopted
		owners  []authz.Object
		updates []authz.Update
		must    []authz.MustHold
	)
	for i, a := range adoptions {
		field := fmt.Sprintf("adoptions[%d]", i)
		if slices.ContainsFunc(adoptions[:i], func(b Adoption) bool { return b.Object == a.Object }) {
			return none(authz.FieldErrorf(field, "names %s twice", authz.Show(a.Object)))
		}
		if a.Object.ID == "*" {
			return none(authz.FieldErrorf(field, "must name one object, not all of a type"))
		}
		isAgent := a.Object.Type == authz.TypeAgent
		if isAgent {
			if a.Owners, err = checkOwners(field+".owner_ids", a.Owners); err != nil {
				return none(err)
			}
		} else if len(a.Owners) > 0 {
			return none(authz.FieldErrorf(field+".owner_ids", "is for agents only, and %s is none", authz.Show(a.Object)))
		}
		c, err := r.candidate(ctx, a.Object)
		switch {
		case err != nil:
			return none(err)
		case c == nil:
			continue
		case c.Refusal != "":
			return none(notActive(authz.Show(a.Object) + " cannot be adopted: " + c.Refusal))
		case c.Digest == "" || c.Digest != a.Digest:
			return none(authz.Errorf(authz.Precondition, authz.ReasonConflict,
				"%s is not what the digest was given for: what it holds, or what names it, has changed: review it again",
				authz.Show(a.Object)))
		}
		if isAgent {
			if err := adoptable(c.agent, a.Owners); err != nil {
				return none(err)
			}
		}
		write, hold := facts.Adopt(a.Object, a.Owners, facts.Issued{At: v.now})
		out.Active, owners = append(out.Active, a.Object), append(owners, a.Owners...)
		updates, must = append(updates, write...), append(must, hold...)
	}
	if len(out.Active) == 0 {
		return out, v.snap.Revision(), nil
	}
	slices.SortFunc(owners, byID)
	if out.Unnamed, err = v.unnamed(ctx, slices.Compact(owners)); err != nil {
		return none(err)
	}
	rev, err := d.write(ctx, v, updates, must)
	if err != nil {
		return none(err)
	}
	return out, rev, nil
}

// review looks at candidates at one revision, for one goroutine.
type review struct {
	*view
	// types are the domain's object types by name, each with its permissions and relations.
	types []reviewed
	// all are all types by name.
	all []string
	// tenants are those of objects that were met.
	tenants map[authz.Object][]string
	// known is how many there are among tenants.
	known int
	// anybody is an id that nothing names: what it holds, wildcards grant.
	anybody string
	// maxNamed and maxHeld are the Delegate's.
	maxNamed, maxHeld int
}

// reviewed is an object type, and what a candidate can hold on its objects.
type reviewed struct {
	name    string
	safe    bool
	members []string
}

// review starts a review at a revision.
func (d *Delegate) review(ctx context.Context, v *view) (*review, error) {
	schema, err := v.snap.Schema(ctx)
	if err != nil {
		return nil, err
	}
	r := &review{
		view: v, all: slices.Sorted(maps.Keys(schema.Types)), tenants: map[authz.Object][]string{},
		anybody: d.mint("anybody", "", 0), maxNamed: d.maxNamed, maxHeld: d.maxHeld,
	}
	for _, name := range r.all {
		if t := schema.Types[name]; !authz.IsCore(name) {
			members := slices.DeleteFunc(slices.Sorted(maps.Keys(t.Members)), func(m string) bool { return m == authz.TenantMember })
			r.types = append(r.types, reviewed{name, t.TenantSafe(), members})
		}
	}
	return r, nil
}

// named reads the whole graph, and returns the agents, users, services and tenants that it names, and their wildcards.
func (r *review) named(ctx context.Context) ([]authz.Object, error) {
	seen := map[authz.Object]struct{}{}
	for _, kind := range Actors {
		if kind != authz.TypeTenant {
			seen[authz.Object{Type: kind, ID: "*"}] = struct{}{}
		}
	}
	for _, name := range r.all {
		err := r.each(ctx, authz.Filter{Resource: authz.Object{Type: name}}, func(rel authz.Relationship) error {
			for _, o := range []authz.Object{rel.Resource, rel.Subject.Object} {
				if slices.Contains(Actors, o.Type) && o.ID != "*" {
					seen[o] = struct{}{}
				}
			}
			if len(seen) > r.maxNamed {
				return authz.Errorf(authz.Exhausted, authz.ReasonTooLarge,
					"relationships name more than %d agents, users, services and tenants: review them by name", r.maxNamed)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Collect(maps.Keys(seen)), nil
}

// each reads what matches a filter, page by page.
func (r *review) each(ctx context.Context, f authz.Filter, do func(authz.Relationship) error) error {
	for cursor, more := "", true; more; more = cursor != "" {
		rels, next, err := r.snap.Page(ctx, f, reviewPage, cursor)
		if err != nil {
			return err
		}
		for _, rel := range rels {
			if err := do(rel); err != nil {
				return err
			}
		}
		cursor = next
	}
	return nil
}

// candidate looks at one object; nil if it is active, or a wildcard that grants nothing.
func (r *review) candidate(ctx context.Context, o authz.Object) (*Candidate, error) {
	c := &candidate{
		Candidate: Candidate{Object: o}, holdings: map[holdingKey]*Holding{}, delegations: map[authz.DelegationID]bool{}, maxItems: r.maxHeld,
	}
	wildcard := o.ID == "*"
	if !wildcard {
		active, err := r.stands(ctx, c)
		if err != nil || active {
			return nil, err
		}
	}
	err := r.holdings(ctx, c)
	if err == nil && !wildcard {
		err = r.naming(ctx, c)
	}
	if refused, ok := errors.AsType[refusal](err); ok {
		c.Refusal, err = string(refused), nil
	}
	if err != nil {
		return nil, err
	}
	c.finish()
	if wildcard {
		c.Digest = ""
		if c.Holdings.Total == 0 && c.Refusal == "" {
			return nil, nil //nolint:nilnil // there is none
		}
	}
	return &c.Candidate, nil
}

// candidate is one that is being looked at.
type candidate struct {
	Candidate
	holdings map[holdingKey]*Holding
	// items are what the digest identifies, each as a text, up to maxItems.
	items    []string
	maxItems int
	// delegations are those that were met.
	delegations map[authz.DelegationID]bool
}

type holdingKey struct {
	tenant           string
	kind, permission string
}

// refusal ends the look at a candidate that cannot be adopted, and says why.
type refusal string

// Error returns why.
func (r refusal) Error() string { return string(r) }

const errTooMuch = refusal("it holds, or is named by, more than a digest covers: deputy agent register --adopt and " +
	"deputy principal resume make it active without one")

// note adds an item to what the digest identifies.
func (c *candidate) note(item string) error {
	if len(c.items) >= c.maxItems {
		return errTooMuch
	}
	c.items = append(c.items, item)
	return nil
}

// finish sorts what was found, so that it is the same on every engine, and makes the digest.
func (c *candidate) finish() {
	holdings := slices.Collect(maps.Values(c.holdings))
	slices.SortFunc(holdings, func(a, b *Holding) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Permission, b.Permission))
	})
	for _, h := range holdings {
		c.Holdings.add(*h, shownHoldings)
	}
	if c.Refusal != "" {
		return
	}
	slices.Sort(c.items)
	sum := sha256.New()
	for _, item := range c.items {
		_, _ = fmt.Fprintf(sum, "%d:%s", len(item), item)
	}
	c.Digest = hex.EncodeToString(sum.Sum(nil)[:16])
}

// stands reads whether it is active, and otherwise what is in the way of making it so.
func (r *review) stands(ctx context.Context, c *candidate) (active bool, err error) {
	filter := facts.StandingFilter(c.Object)
	if c.Object.Type == authz.TypeAgent {
		filter = facts.Object(c.Object)
	}
	rels, err := r.read(ctx, filter)
	if err != nil {
		return false, err
	}
	if c.Object.Type != authz.TypeAgent {
		c.Life = facts.ReadStanding(c.Object, rels, r.now)
	} else {
		c.agent = facts.ReadAgent(authz.AgentID(c.Object.ID), rels, r.now)
		c.Life = c.agent.Life
	}
	isOrphan := c.Life.Live() && c.Object.Type == authz.TypeAgent && len(c.agent.Owners) == 0
	switch {
	case c.Life.Stopped:
		c.Refusal = "it is suspended, and an adoption never lifts a suspension"
	case c.Life.Malformed != "":
		c.Refusal = c.Life.Malformed
	case isOrphan:
		c.Refusal = "it has the mark of a registered agent and no owner: write the relationship " + c.Object.String() + "#owner@user:ID"
	}
	return c.Life.Live() && !isOrphan, nil
}

// holdings looks up everything that the candidate holds. For a tenant that is the objects that belong to it.
func (r *review) holdings(ctx context.Context, c *candidate) error {
	subject := authz.Subject{Object: c.Object}
	if subject.ID == "*" {
		subject.ID = r.anybody
	}
	for _, t := range r.types {
		members := t.members
		if c.Object.Type == authz.TypeTenant {
			members = nil
			if t.safe {
				members = []string{authz.TenantMember}
			}
		}
		for _, permission := range members {
			reachable := authz.Reachable{ResourceType: t.name, Holders: []authz.Holder{{Permission: permission, Subject: subject}}}
			ids, err := r.reached(ctx, reachable)
			if err != nil {
				return unanswered(err, t.name+"#"+permission)
			}
			for _, id := range ids {
				if err := r.holds(ctx, c, t, id, permission); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reached looks up objects, and returns each once, in order.
func (r *review) reached(ctx context.Context, what authz.Reachable) ([]string, error) {
	var all []string
	for cursor, more := "", true; more; more = cursor != "" {
		found, next, err := r.snap.Resources(ctx, what, reviewPage, cursor)
		if err != nil {
			return nil, err
		}
		queries := make([]authz.Query, len(found))
		for i, f := range found {
			queries[i] = authz.Query{
				Resource:   authz.Object{Type: what.ResourceType, ID: f.ID},
				Permission: what.Holders[0].Permission, Subject: what.Holders[0].Subject,
			}
		}
		answers, err := r.snap.Check(ctx, queries)
		if err != nil {
			return nil, err
		}
		for i, a := range answers {
			switch a.Outcome {
			case authz.Failed:
				return nil, a.Err
			case authz.Yes, authz.Conditional:
				all = append(all, found[i].ID)
			default:
			}
		}
		if len(all) > r.maxHeld {
			return nil, errTooMuch
		}
		cursor = next
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// holds notes that the candidate holds a permission on an object.
func (r *review) holds(ctx context.Context, c *candidate, t reviewed, id, permission string) error {
	o := authz.Object{Type: t.name, ID: id}
	tenants := []string{c.Object.ID}
	if c.Object.Type != authz.TypeTenant {
		var err error
		if tenants, err = r.tenantsOf(ctx, o, t.safe); err != nil {
			return err
		}
	}
	for _, tenant := range tenants {
		if err := c.note("holds " + tenant + " " + o.String() + "#" + permission); err != nil {
			return err
		}
		key := holdingKey{tenant, t.name, permission}
		if c.holdings[key] == nil {
			c.holdings[key] = &Holding{Tenant: authz.TenantID(tenant), Type: t.name, Permission: permission}
		}
		c.holdings[key].Objects.add(id, shownObjects)
	}
	return nil
}

// tenantsOf returns the ids of the tenants that an object belongs to: "" for none.
func (r *review) tenantsOf(ctx context.Context, o authz.Object, safe bool) ([]string, error) {
	if !safe {
		return []string{""}, nil
	}
	if known, ok := r.tenants[o]; ok {
		return known, nil
	}
	found, err := r.snap.Subjects(ctx, o, authz.TenantMember, authz.TypeTenant, nil, r.maxHeld+1)
	switch {
	case err != nil:
		return nil, unanswered(err, o.Type+"#"+authz.TenantMember)
	case len(found) > r.maxHeld:
		return nil, errTooMuch
	}
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID)
	}
	if len(ids) == 0 {
		ids = []string{""}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if r.known+len(ids) > maxTenants {
		clear(r.tenants)
		r.known = 0
	}
	r.tenants[o] = ids
	r.known += len(ids)
	return ids, nil
}

// unanswered turns an error about the graph into a refusal. What ends the whole call stays its error.
func unanswered(err error, what string) error {
	ofTheGraph := []authz.Kind{authz.Invalid, authz.Precondition, authz.Exhausted}
	if e, ok := errors.AsType[*authz.Error](err); ok && slices.Contains(ofTheGraph, e.Kind) && e.Reason != authz.ReasonBusy {
		return refusal("it is not known what it holds of " + what + ": " + e.Message)
	}
	return err
}

// naming reads every relationship that names the candidate, and all of the delegations and sessions among them, and of the
// delegations for sets that it is in.
func (r *review) naming(ctx context.Context, c *candidate) error {
	isNamed := false
	for i, f := range facts.Naming(c.Object) {
		err := r.each(ctx, f, func(rel authz.Relationship) error {
			if i > 0 && rel.Resource == c.Object {
				return nil // it was found as the candidate's own
			}
			isNamed = true
			return r.mentioned(ctx, c, rel)
		})
		if err != nil {
			return err
		}
	}
	if !isNamed {
		return refusal("no relationship names it")
	}
	return nil
}

// mentioned notes a relationship that names the candidate.
func (r *review) mentioned(ctx context.Context, c *candidate, rel authz.Relationship) error {
	caveatContext, err := json.Marshal(rel.CaveatContext)
	if err != nil {
		return fmt.Errorf("cannot encode a caveat's context: %w", err)
	}
	if err := c.note("named " + rel.String() + " " + string(caveatContext)); err != nil {
		return err
	}
	switch rel.Resource.Type {
	case authz.TypeDelegation:
		return r.delegated(ctx, c, authz.DelegationID(rel.Resource.ID))
	case authz.TypeSession:
		return r.ran(ctx, c, authz.SessionID(rel.Resource.ID))
	}
	if !authz.IsCore(rel.Resource.Type) {
		return nil // it is among the holdings
	}
	c.Naming.add(rel, shownNaming)
	if rel.Resource.Type != authz.TypeTenant || rel.Subject.Object != c.Object {
		return nil
	}
	sets := facts.ListFilter(authz.Subject{Object: rel.Resource, Relation: rel.Relation}, true)
	return r.each(ctx, sets, func(set authz.Relationship) error {
		return r.delegated(ctx, c, authz.DelegationID(set.Resource.ID))
	})
}

// delegated reads a delegation that names the candidate, or a set that it is in, once.
func (r *review) delegated(ctx context.Context, c *candidate, id authz.DelegationID) error {
	if c.delegations[id] {
		return nil
	}
	c.delegations[id] = true
	d, err := r.delegation(ctx, id)
	if err != nil {
		return err
	}
	c.Delegations.add(d, shownNaming)
	return r.reaches(ctx, c, d)
}

// reaches notes what a delegation is, with its scope, and what it is a part of: all of it decides what the candidate may do by it.
func (r *review) reaches(ctx context.Context, c *candidate, d facts.Delegation) error {
	for depth := 0; ; depth++ {
		if err := c.note(fmt.Sprintf("delegation %s agent %s principal %s tenant %s parent %s session %s unscoped %t direct %t live %t %s",
			d.ID, d.Agent, d.Principal, d.Tenant, d.Parent, d.Session, d.Unscoped, d.AllowDirect, d.Live(), d.Until.UTC())); err != nil {
			return err
		}
		scope := authz.Filter{SubjectType: authz.TypeDelegation, SubjectID: string(d.ID)}
		if err := r.each(ctx, scope, func(rel authz.Relationship) error { return c.note("scope " + rel.String()) }); err != nil {
			return err
		}
		if d.Parent == "" || depth == facts.MaxDepth {
			return nil
		}
		var err error
		if d, err = r.delegation(ctx, d.Parent); err != nil {
			return err
		}
	}
}

// ran reads a session that names the candidate.
func (r *review) ran(ctx context.Context, c *candidate, id authz.SessionID) error {
	s, err := r.session(ctx, id)
	if err != nil {
		return err
	}
	c.Sessions.add(Running{Session: s.Session}, shownNaming)
	var leaves []string
	for _, l := range s.Leaves {
		leaves = append(leaves, string(l.Delegation))
	}
	return c.note(fmt.Sprintf("session %s agent %s frozen %t live %t %s leaves %s",
		id, s.Agent, !s.Unfrozen, s.Live(), s.Until.UTC(), strings.Join(leaves, " ")))
}

func byTypeAndID(a, b authz.Object) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
}
