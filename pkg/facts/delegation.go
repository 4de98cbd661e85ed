package facts

import (
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// MaxDepth is the most delegations that a chain may have, a session's leaf included: none deeper is written, and a decision refuses one.
const MaxDepth = 8

// Delegation is what the graph holds about a delegation.
type Delegation struct {
	ID authz.DelegationID
	Life
	Agent authz.AgentID
	// Principal is a user, a service, or a set of its own tenant.
	Principal authz.Subject
	Tenant    authz.TenantID
	// GrantedBy is a user, or the parent's agent.
	GrantedBy authz.Object
	// Parent is the delegation that this one is a part of; "" for a root.
	Parent authz.DelegationID
	// Session is the session that minted this leaf; "" for any other.
	Session  authz.SessionID
	Unscoped bool
	// AllowDirect tells that the agent may act under it without a session.
	AllowDirect bool
	Issued      Issued
}

// Set reports whether the delegation is for a set of principals.
func (d *Delegation) Set() bool { return d.Principal.Relation != "" }

// Within reports whether the delegation exists for a caller with the bounds: its tenant, its agent and its principal's type lie within. One
// of which that cannot be told, because it names several, exists for no caller with bounds.
func (d *Delegation) Within(b *authz.Bounds) bool {
	if b.AllActors() {
		return true
	}
	return !d.ambiguous && b.HasTenant(d.Tenant) && b.HasAgent(d.Agent) && HasParty(b, d.Principal)
}

// HasParty reports whether a delegation's principal lies within the bounds as far as its type goes. A set does where the types of all that
// it can hold do, since an agent may act for any of them: a tenant's admins are users, and its members users and services.
func HasParty(b *authz.Bounds, party authz.Subject) bool {
	switch {
	case party.Type != authz.TypeTenant:
		return party.Relation == "" && b.HasPrincipal(authz.Principal{Object: party.Object})
	case party.Relation == RelationAdmin:
		return b.HasPrincipals(authz.TypeUser)
	default:
		return b.HasPrincipals(authz.TypeUser, authz.TypeService)
	}
}

var delegationShapes = map[string]shape{
	relActive:     {types: self.types, expires: true},
	RelationAgent: {types: []string{authz.TypeAgent}},
	relPrincipal:  {types: principalTypes},
	relTenant:     {types: []string{authz.TypeTenant}},
	relGrantedBy:  {types: []string{authz.TypeUser, authz.TypeAgent}, caveat: caveatIssued},
	relParent:     {types: []string{authz.TypeDelegation}},
	relSession:    {types: []string{authz.TypeSession}},
	relUnscoped:   self,
	// Repeats the principal; one that does not is no mark of this delegation.
	relAllowDirect: {types: principalTypes, expires: true},
}

var principalTypes = []string{
	authz.TypeUser, authz.TypeService,
	authz.TypeTenant + "#" + RelationMember, authz.TypeTenant + "#" + RelationAdmin,
}

// ReadDelegation reads a delegation from all its relationships.
func ReadDelegation(id authz.DelegationID, rels []authz.Relationship, now time.Time) Delegation {
	d := Delegation{ID: id, Life: Life{Known: len(rels) > 0}}
	r := newReader(id.Object(), now, &d.Life)
	var direct authz.Subject
	for _, rel := range rels {
		if rel.Relation == relRevoked {
			d.Stopped = true
			continue
		}
		if r.aside(rel) {
			continue
		}
		s, ok := delegationShapes[rel.Relation]
		if !ok {
			r.malformedf("%s is not of a kind that Deputy writes", rel)
			continue
		}
		if !r.admit(rel, s) {
			continue
		}
		switch rel.Relation {
		case relActive:
			r.alive(rel)
		case RelationAgent:
			d.Agent = authz.AgentID(rel.Subject.ID)
		case relPrincipal:
			d.Principal = rel.Subject
		case relTenant:
			d.Tenant = authz.TenantID(rel.Subject.ID)
		case relGrantedBy:
			d.GrantedBy = rel.Subject.Object
			d.Issued = readIssued(rel.CaveatContext)
		case relParent:
			d.Parent = authz.DelegationID(rel.Subject.ID)
		case relSession:
			d.Session = authz.SessionID(rel.Subject.ID)
		case relUnscoped:
			d.Unscoped = true
		case relAllowDirect:
			d.AllowDirect, direct = true, rel.Subject
		}
	}
	if d.Purged {
		return Delegation{ID: id, Life: Life{Stopped: true, Purged: true}}
	}
	if d.AllowDirect && direct != d.Principal {
		r.malformedf("allow_direct names another principal")
	}
	if d.Known && d.Malformed == "" {
		d.require(r)
	}
	return d
}

// require notes what is missing.
func (d *Delegation) require(r *reader) {
	switch {
	case d.Agent == "":
		r.malformedf("it has no agent")
	case d.Principal == authz.Subject{}:
		r.malformedf("it has no principal")
	case d.Tenant == "":
		r.malformedf("it has no tenant")
	case d.GrantedBy.IsZero():
		r.malformedf("nobody granted it")
	case d.Set() && d.Principal.ID != string(d.Tenant):
		r.malformedf("its principals are a set of another tenant")
	case d.Parent == "" && d.Session != "":
		r.malformedf("it was minted by a session from no delegation")
	}
}

// Grant is one grant to a delegation: its scope.
type Grant struct {
	Resource authz.Object
	Relation string
}

// Write returns the updates that create the delegation with its scope. ID, Until and Issued have to be
// set; Active is implied.
func (d *Delegation) Write(scope []Grant) []authz.Update {
	self := d.ID.Object()
	create := func(r authz.Relationship) authz.Update {
		return authz.Update{Operation: authz.Create, Relationship: r}
	}
	link := func(relation string, subject authz.Subject) authz.Relationship {
		return authz.Relationship{Resource: self, Relation: relation, Subject: subject}
	}
	active := mark(self, relActive)
	active.ExpiresAt = d.Until
	granted := link(relGrantedBy, authz.Subject{Object: d.GrantedBy})
	granted.Caveat, granted.CaveatContext = caveatIssued, issuedContext(d.Issued)
	updates := []authz.Update{
		create(active), create(granted),
		create(link(RelationAgent, authz.Subject{Object: d.Agent.Object()})),
		create(link(relPrincipal, d.Principal)),
		create(link(relTenant, authz.Subject{Object: d.Tenant.Object()})),
	}
	if d.Parent != "" {
		updates = append(updates, create(link(relParent, authz.Subject{Object: d.Parent.Object()})))
	}
	if d.Session != "" {
		updates = append(updates, create(link(relSession, authz.Subject{Object: d.Session.Object()})))
	}
	if d.Unscoped {
		updates = append(updates, create(mark(self, relUnscoped)))
	}
	if d.AllowDirect {
		direct := link(relAllowDirect, d.Principal)
		direct.ExpiresAt = d.Until
		updates = append(updates, create(direct))
	}
	for _, r := range d.listing() {
		updates = append(updates, create(r))
	}
	for _, g := range scope {
		updates = append(updates, create(authz.Relationship{
			Resource: g.Resource, Relation: g.Relation, Subject: authz.Subject{Object: self},
		}))
	}
	return updates
}

// Revoke is the write that ends a delegation.
func (d *Delegation) Revoke() []authz.Update {
	self := d.ID.Object()
	updates := []authz.Update{
		{Operation: authz.Touch, Relationship: mark(self, relRevoked)},
		{Operation: authz.Delete, Relationship: mark(self, relActive)},
		{Operation: authz.Delete, Relationship: mark(self, relUnscoped)},
	}
	if d.Principal != (authz.Subject{}) { // else there is none to delete by
		direct := authz.Relationship{Resource: self, Relation: relAllowDirect, Subject: d.Principal}
		updates = append(updates, authz.Update{Operation: authz.Delete, Relationship: direct})
	}
	for _, r := range d.listing() {
		updates = append(updates, remove(r))
	}
	return updates
}

// DirectFilter selects the allow_direct marks for a principal or a set, up to a limit.
func DirectFilter(principal authz.Subject, limit int) authz.Filter {
	return authz.Filter{
		Resource: authz.Object{Type: authz.TypeDelegation}, Relation: relAllowDirect,
		SubjectType: principal.Type, SubjectID: principal.ID, SubjectRelation: principal.Relation, Limit: limit,
	}
}

// DirectQuery asks whether a delegation lets its agent act directly for a principal, by itself or as one of a set.
func DirectQuery(id authz.DelegationID, p authz.Principal) authz.Query {
	return authz.Query{Resource: id.Object(), Permission: relAllowDirect, Subject: authz.Subject{Object: p.Object}}
}

// AgentQuery asks whether an agent is one that a delegation names.
func AgentQuery(id authz.DelegationID, agent authz.AgentID) authz.Query {
	return authz.Query{Resource: id.Object(), Permission: RelationAgent, Subject: authz.Subject{Object: agent.Object()}}
}

// TenantQuery asks whether a tenant is one that a delegation names.
func TenantQuery(id authz.DelegationID, tenant authz.TenantID) authz.Query {
	return authz.Query{Resource: id.Object(), Permission: relTenant, Subject: authz.Subject{Object: tenant.Object()}}
}

// ListFilter selects the delegations that name a subject: an agent, a principal or a set, a tenant, or
// a parent.
func ListFilter(subject authz.Subject, asPrincipal bool) authz.Filter {
	relation := map[string]string{
		authz.TypeAgent: RelationAgent, authz.TypeTenant: relTenant, authz.TypeDelegation: relParent,
	}[subject.Type]
	if asPrincipal {
		relation = relPrincipal
	}
	return authz.Filter{
		Resource: authz.Object{Type: authz.TypeDelegation}, Relation: relation,
		SubjectType: subject.Type, SubjectID: subject.ID, SubjectRelation: subject.Relation,
	}
}

// PrincipalQuery asks whether a principal is in a delegation's set.
func (d *Delegation) PrincipalQuery(p authz.Principal) authz.Query {
	return authz.Query{Resource: d.ID.Object(), Permission: relPrincipal, Subject: authz.Subject{Object: p.Object}}
}

// PassedOnFilter selects the delegations that an agent granted: what it passed on, and the leaves of its sessions.
func PassedOnFilter(id authz.AgentID) authz.Filter {
	return authz.Filter{
		Resource: authz.Object{Type: authz.TypeDelegation}, Relation: relGrantedBy,
		SubjectType: authz.TypeAgent, SubjectID: string(id),
	}
}
