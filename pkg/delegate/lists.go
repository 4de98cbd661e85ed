package delegate

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Place is where a list stopped. The zero Place is its beginning.
type Place struct {
	// Revision pins the list.
	Revision authz.Revision `json:"r"`
	// Engine is the engine's cursor at the start of the page that was being read.
	Engine string `json:"e,omitempty"`
	// Skip is how much of that page had been read.
	Skip int `json:"k,omitempty"`
	// Stage is which part of the list it is in.
	Stage int `json:"s,omitempty"`
}

// List is one page.
type List[T any] struct {
	Items []T
	At    authz.Revision
	// Next is where to go on; nil at the end.
	Next *Place
}

// at pins the list's revision.
func (d *Delegate) at(ctx context.Context, from Place) (*view, error) {
	if from.Revision.IsZero() {
		return d.look(ctx)
	}
	snap, err := d.graph.Snapshot(ctx, authz.Freshness{Exactly: from.Revision})
	if err != nil {
		return nil, err
	}
	return d.view(snap), nil
}

// listReads is how many objects one call of a list reads, and listTime how long it goes on with that. Then the page
// ends, with a place to go on from, even where it is empty.
const (
	listReads = 5000
	listTime  = 3 * time.Second
)

// listPage is how much of a list the engine is asked for at a time. An engine's cursor holds only for
// the page size that it came from.
const listPage = 200

// list pages through what matches the filters, one after the other, and keeps what read keeps. What it leaves out, such
// as ended sessions, takes time as well, and there may be any number of it: so a page can be short.
//
// A confined caller's page that is full ends before the next that is listed, and is complete where there is none. So where it ends
// tells neither what exists for others, nor whether the list read what is over.
func list[T any](
	ctx context.Context, d *Delegate, v *view, from Place, limit int, filters []authz.Filter,
	read func(v *view, stage int, rel authz.Relationship) (item T, listed bool, err error),
) (List[T], error) {
	out := List[T]{At: v.snap.Revision()}
	until := authz.Until(ctx, listTime)
	spent := func() bool { return v.reads > 0 && (v.reads >= d.listReads || !time.Now().Before(until)) }
	place := Place{Revision: out.At, Engine: from.Engine, Skip: from.Skip, Stage: from.Stage}
	for place.Stage < len(filters) {
		if spent() {
			out.Next = &place
			return out, nil
		}
		rels, next, err := v.snap.Page(ctx, filters[place.Stage], listPage, place.Engine)
		if err != nil {
			return List[T]{}, err
		}
		v.reads++
		for _, rel := range rels[min(place.Skip, len(rels)):] {
			full := len(out.Items) == limit
			if spent() || full && v.within.AllActors() {
				out.Next = &place
				return out, nil
			}
			item, listed, err := read(v, place.Stage, rel)
			switch exists := authz.KindOf(err) != authz.NotFound; {
			case err != nil && exists:
				return List[T]{}, err
			case !exists || !listed:
			case full:
				out.Next = &place
				return out, nil
			default:
				out.Items = append(out.Items, item)
			}
			place.Skip++
		}
		place.Engine, place.Skip = next, 0
		if next == "" {
			place.Stage++
		}
	}
	return out, nil
}

// Agents lists the registered agents: those with the active mark by id, then those that are suspended. For a confined caller it goes
// through the agents of its tenants instead, both times tenant by tenant.
func (d *Delegate) Agents(ctx context.Context, from Place, limit int) (List[facts.Agent], error) {
	if d.within.Confined() {
		return d.tenantsAgents(ctx, from, limit)
	}
	v, err := d.at(ctx, from)
	if err != nil {
		return List[facts.Agent]{}, err
	}
	filters := []authz.Filter{facts.AgentListFilter(false), facts.AgentListFilter(true)}
	return list(ctx, d, v, from, limit, filters, func(v *view, stage int, rel authz.Relationship) (facts.Agent, bool, error) {
		a, err := v.agent(ctx, authz.AgentID(rel.Resource.ID))
		// One with both marks is listed once.
		return a, stage == 1 || !a.Stopped, err
	})
}

// tenantsAgents lists the agents of a confined caller's tenants, each in the first one that has it.
func (d *Delegate) tenantsAgents(ctx context.Context, from Place, limit int) (List[facts.Agent], error) {
	v, err := d.at(ctx, from)
	if err != nil {
		return List[facts.Agent]{}, err
	}
	var filters []authz.Filter
	for _, tenant := range d.within.Tenants.List() {
		filters = append(filters, facts.TenantAgents(authz.TenantID(tenant)))
	}
	once := len(filters)
	filters = append(filters, filters...)
	return list(ctx, d, v, from, limit, filters, func(v *view, stage int, rel authz.Relationship) (facts.Agent, bool, error) {
		id := authz.AgentID(rel.Subject.ID)
		a, err := v.agent(ctx, id)
		if err != nil {
			return a, false, err
		}
		home, err := v.home(ctx, id.Object())
		if err != nil {
			return a, false, err
		}
		suspended := stage >= once
		if string(home) != rel.Resource.ID || a.Stopped != suspended || !suspended && !a.Active {
			return a, false, authz.NoAgent(id) // not at this place
		}
		a, err = v.shownAgent(ctx, a)
		return a, true, err
	})
}

// indexed reports whether all that is live is listed: else a list reads also what is over, and leaves it out.
func (v *view) indexed(ctx context.Context) (bool, error) {
	rels, err := v.read(ctx, facts.IndexFilter())
	return err == nil && facts.Indexed(rels), err
}

// Sessions lists an agent's sessions by id.
func (d *Delegate) Sessions(ctx context.Context, agent authz.AgentID, inactive bool, from Place, limit int) (List[Running], error) {
	v, err := d.at(ctx, from)
	if err != nil {
		return List[Running]{}, err
	}
	var filters []authz.Filter
	if d.within.HasAgent(agent) {
		indexed, err := v.indexed(ctx)
		switch {
		case err != nil:
			return List[Running]{}, err
		case indexed && !inactive:
			filters = []authz.Filter{facts.LiveSessionFilter(agent)}
		default:
			filters = []authz.Filter{facts.SessionListFilter(agent)}
		}
	}
	return list(ctx, d, v, from, limit, filters, func(v *view, _ int, rel authz.Relationship) (Running, bool, error) {
		s, err := v.session(ctx, authz.SessionID(rel.Resource.ID))
		if err != nil || !inactive && !s.Live() {
			return Running{}, false, err
		}
		out, err := v.running(ctx, &s)
		return out, true, err
	})
}

// Choice says which delegations to list.
type Choice struct {
	// By is the subject that they name: an agent, a tenant or a parent, or, with AsPrincipal, a
	// principal or a set.
	By          authz.Subject
	AsPrincipal bool
	// Agent, Principal, Tenant and Parent narrow further, where they are set.
	Agent     authz.AgentID
	Principal authz.Subject
	Tenant    authz.TenantID
	Parent    authz.DelegationID
	// Inactive and Leaves also list what does not act, and what sessions minted. With either the list reads all that there is.
	Inactive, Leaves bool
}

// Delegations lists delegations by id. A person's are listed by that person, whatever By says, so that the list takes no time for what others have.
func (d *Delegate) Delegations(ctx context.Context, c Choice, from Place, limit int) (List[facts.Delegation], error) {
	if person := d.within.Person; !person.IsZero() {
		c.By, c.AsPrincipal = authz.Subject{Object: person.Object}, true
	}
	v, err := d.at(ctx, from)
	if err != nil {
		return List[facts.Delegation]{}, err
	}
	var filters []authz.Filter
	if listed, err := v.lists(ctx, c); err != nil {
		return List[facts.Delegation]{}, err
	} else if listed {
		indexed, err := v.indexed(ctx)
		switch {
		case err != nil:
			return List[facts.Delegation]{}, err
		case indexed && !c.Inactive && !c.Leaves:
			filters = []authz.Filter{facts.LiveFilter(c.By, c.AsPrincipal)}
		default:
			filters = []authz.Filter{facts.ListFilter(c.By, c.AsPrincipal)}
		}
	}
	return list(ctx, d, v, from, limit, filters, func(v *view, _ int, rel authz.Relationship) (facts.Delegation, bool, error) {
		one, err := v.delegation(ctx, authz.DelegationID(rel.Resource.ID))
		keep := (c.Inactive || one.Live()) && (c.Leaves || one.Session == "") &&
			(c.Agent == "" || c.Agent == one.Agent) &&
			(c.Principal == authz.Subject{} || c.Principal == one.Principal) &&
			(c.Tenant == "" || c.Tenant == one.Tenant) &&
			(c.Parent == "" || c.Parent == one.Parent)
		if err != nil || !keep {
			return one, false, err
		}
		one, err = v.shown(ctx, one)
		return one, true, err
	})
}
