package judge

import (
	"context"
	"fmt"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// maxReasons is how many delegations that do not act the reasons of one case name.
const maxReasons = 10

// reasons says why nothing in the graph lets the agent of a case act, a sentence each: what the named session or delegation, or each
// of the agent's delegations for the principal, lacks, and who is not active. It says what a decision conceals, so it is for
// callers that may have one explained, and of what does not exist for them it says what it says of what is absent.
func (r *reader) reasons(ctx context.Context, within *authz.Bounds, c authz.Case) ([]string, error) {
	var reasons []string
	var err error
	switch {
	case c.Delegation != "":
		var d *facts.Delegation
		switch d, err = r.delegation(ctx, c.Delegation); {
		case err != nil:
		case d.Purged:
			reasons = []string{"delegation " + string(c.Delegation) + " was purged"}
		case d.Agent != c.Agent:
			reasons = []string{"delegation " + string(c.Delegation) + " is not " + agents(c.Agent, d.Agent)}
		}
	case c.Session != "":
		reasons, err = r.ofSessions(ctx, within, c)
	default:
		reasons, err = r.ofDelegations(ctx, within, c)
	}
	if err != nil {
		return nil, err
	}
	a, err := r.agent(ctx, c.Agent)
	if err != nil {
		return nil, err
	}
	life, err := r.asFor(ctx, within, c.Agent.Object(), a.Life)
	if err != nil {
		return nil, err
	}
	reasons = append(reasons, inactive(c.Agent.Object(), life, "deputy agent register registers it, with --adopt if relationships name it")...)
	for _, o := range []authz.Object{c.Principal.Object, c.Tenant.Object()} {
		if o.ID == "" {
			continue
		}
		life, err := r.life(ctx, o)
		if err != nil {
			return nil, err
		}
		if life, err = r.asFor(ctx, within, o, life); err != nil {
			return nil, err
		}
		reasons = append(reasons, inactive(o, life, "deputy principal resume "+authz.Show(o)+" activates it")...)
	}
	return reasons, nil
}

// asFor returns a life as it is for the caller: that of something absent, where it does not exist for it.
func (r *reader) asFor(ctx context.Context, within *authz.Bounds, o authz.Object, life facts.Life) (facts.Life, error) {
	there, err := r.exists(ctx, within, o)
	if err != nil || !there {
		return facts.Life{}, err
	}
	return life, nil
}

// agents goes on from "is not": it names the agent that is asked about, and the one whose it is.
func agents(asked, owner authz.AgentID) string {
	return authz.Show(asked.Object()) + "'s but " + authz.Show(owner.Object()) + "'s"
}

// inactive says that an object is not active, and how it becomes so; nothing of one that is.
func inactive(o authz.Object, life facts.Life, remedy string) []string {
	switch {
	case life.Live():
		return nil
	case life.Malformed != "":
		return []string{authz.Show(o) + " is malformed: " + life.Malformed}
	case life.Stopped:
		return []string{authz.Show(o) + " is suspended"}
	default:
		return []string{authz.Show(o) + " is not active: " + remedy}
	}
}

// ofSessions says why the named session has nothing for the case.
func (r *reader) ofSessions(ctx context.Context, within *authz.Bounds, c authz.Case) ([]string, error) {
	s, err := r.session(ctx, c.Session)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Purged:
		return []string{"session " + string(c.Session) + " was purged"}, nil
	case s.Agent != c.Agent:
		return []string{"session " + string(c.Session) + " is not " + agents(c.Agent, s.Agent)}, nil
	}
	var acts []string
	for _, l := range s.Leaves {
		if !hasLeaf(within, l.Principal, l.Tenant) {
			continue
		}
		acts = append(acts, authz.Show(l.Principal.Object)+" in "+authz.Show(l.Tenant.Object()))
	}
	text := "session " + string(c.Session) + " does not act"
	if !c.Principal.IsZero() {
		text += " for " + authz.Show(c.Principal.Object)
	}
	if c.Tenant != "" {
		text += " in " + authz.Show(c.Tenant.Object())
	}
	if len(acts) > 0 {
		text += "; it acts for " + authz.Words(authz.Distinct(acts))
	}
	return []string{text}, nil
}

// ofDelegations says what each delegation of the agent lacks that names the principal or a set of the tenant, as far as it looks
// through those, and that there is none.
func (r *reader) ofDelegations(ctx context.Context, within *authz.Bounds, c authz.Case) ([]string, error) {
	var ids []authz.DelegationID
	complete := true
	for _, subject := range []authz.Subject{
		{Object: c.Principal.Object},
		{Object: c.Tenant.Object(), Relation: facts.RelationMember}, {Object: c.Tenant.Object(), Relation: facts.RelationAdmin},
	} {
		f := facts.ListFilter(subject, true)
		f.Limit = maxMarks + 1
		rels, err := r.read(ctx, f)
		if err != nil {
			return nil, err
		}
		complete = complete && len(rels) <= maxMarks
		ids = append(ids, resources(rels)...)
	}
	ids, err := r.ofThe(ctx, c.Agent, ids)
	if err != nil {
		return nil, err
	}
	var reasons []string
	for _, id := range ids {
		d, err := r.delegation(ctx, id)
		if err != nil {
			return nil, err
		}
		var text string
		switch name := "delegation " + string(id); {
		case !d.Within(within): // it does not exist for the caller
			continue
		case d.Session != "" && (!d.Live() || d.Tenant != c.Tenant): // what sessions leave behind is of no use
			continue
		case d.Tenant != c.Tenant:
			text = name + " is in " + authz.Show(d.Tenant.Object())
		case d.Malformed != "":
			text = name + " is malformed: " + d.Malformed
		case d.Stopped:
			text = name + " is revoked"
		case !d.Active:
			text = name + " has expired"
		case d.Session != "":
			text = name + " is session " + string(d.Session) + "'s: name that session"
		case !d.AllowDirect:
			text = name + " needs a session: it was created without allow_direct"
		default:
			text = name + " is for " + authz.ShowSubject(d.Principal) + ", which " + authz.Show(c.Principal.Object) + " is not"
		}
		if reasons = append(reasons, text); len(reasons) == maxReasons {
			return reasons, nil
		}
	}
	if complete && len(reasons) == 0 {
		reasons = []string{fmt.Sprintf("%s holds no delegation for %s in %s",
			authz.Show(c.Agent.Object()), authz.Show(c.Principal.Object), authz.Show(c.Tenant.Object()))}
	}
	return reasons, nil
}

// ofThe keeps the delegations that name the agent, each once, and reads them in one go.
func (r *reader) ofThe(ctx context.Context, agent authz.AgentID, ids []authz.DelegationID) ([]authz.DelegationID, error) {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	queries := make([]authz.Query, len(ids))
	for i, id := range ids {
		queries[i] = facts.AgentQuery(id, agent)
	}
	answers, err := r.snap.Check(ctx, queries)
	if err != nil {
		return nil, err
	}
	var kept []authz.DelegationID
	var filters []authz.Filter
	for i, a := range answers {
		if a.Outcome == authz.Yes {
			kept, filters = append(kept, ids[i]), append(filters, facts.Object(ids[i].Object()))
		}
	}
	return kept, r.prefetch(ctx, filters...)
}
