package facts

import (
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// StandingFilter selects what ReadStanding needs of a user, a service or a tenant: the marks, whose
// subject is the object itself, and not a tenant's members.
func StandingFilter(o authz.Object) authz.Filter {
	return authz.Filter{Resource: o, SubjectType: o.Type}
}

// ReadStanding reads the marks of a user, a service or a tenant.
func ReadStanding(o authz.Object, rels []authz.Relationship, now time.Time) Life {
	life := Life{Known: len(rels) > 0}
	r := newReader(o, now, &life)
	for _, rel := range rels {
		switch rel.Relation {
		case relActive:
			if r.admit(rel, self) {
				r.alive(rel)
			}
		case relSuspended:
			// Whatever its shape, a tombstone refuses.
			life.Stopped = true
		}
	}
	return life
}

// Agent is what the graph holds about an agent.
type Agent struct {
	ID authz.AgentID
	Life
	// Owners are the users who answer for it.
	Owners []authz.Object
	Issued Issued
	// Unregistered tells that it was suspended before it was ever registered: what lifts the suspension does not make it active.
	Unregistered bool
}

// unregistered is the subject of the tombstone of an agent that was never registered, in place of the agent itself. No agent has this
// id: it is no encoding of any.
var unregistered = authz.Object{Type: authz.TypeAgent, ID: "=unregistered"}

// ReadAgent reads an agent from all its relationships.
func ReadAgent(id authz.AgentID, rels []authz.Relationship, now time.Time) Agent {
	a := Agent{ID: id, Life: Life{Known: len(rels) > 0}}
	r := newReader(id.Object(), now, &a.Life)
	for _, rel := range rels {
		switch rel.Relation {
		case relActive:
			if r.admit(rel, shape{types: self.types, caveat: caveatIssued}) {
				r.alive(rel)
				a.Issued = readIssued(rel.CaveatContext)
			}
		case relSuspended:
			a.Stopped = true
			a.Unregistered = a.Unregistered || rel.Subject.Object == unregistered
		case relOwner:
			if r.admit(rel, shape{types: []string{authz.TypeUser}, many: true}) {
				a.Owners = append(a.Owners, rel.Subject.Object)
			}
		}
	}
	slices.SortFunc(a.Owners, func(x, y authz.Object) int { return compare(x.ID, y.ID) })
	return a
}

// Register is the write that makes an agent known: its owners and its mark.
func Register(id authz.AgentID, owners []authz.Object, issued Issued) []authz.Update {
	active := mark(id.Object(), relActive)
	active.Caveat, active.CaveatContext = caveatIssued, issuedContext(issued)
	updates := []authz.Update{{Operation: authz.Create, Relationship: active}}
	for _, o := range owners {
		updates = append(updates, authz.Update{Operation: authz.Create, Relationship: authz.Relationship{
			Resource: id.Object(), Relation: relOwner, Subject: authz.Subject{Object: o},
		}})
	}
	return updates
}

// Adopt is the write that makes active what relationships name and no mark was ever written of, and what has to hold for it:
// no mark, and no tombstone. Only an agent has owners; those that it has already stay.
func Adopt(o authz.Object, owners []authz.Object, issued Issued) ([]authz.Update, []authz.MustHold) {
	updates := []authz.Update{{Operation: authz.Create, Relationship: mark(o, relActive)}}
	if o.Type == authz.TypeAgent {
		updates = Register(authz.AgentID(o.ID), owners, issued)
		for i := range updates[1:] {
			updates[1+i].Operation = authz.Touch
		}
	}
	return updates, []authz.MustHold{
		{Filter: authz.Filter{Resource: o, Relation: relActive}}, {Filter: authz.Filter{Resource: o, Relation: relSuspended}},
	}
}

// NoTrace holds where neither the object nor a grant to it is in the graph.
func NoTrace(o authz.Object) []authz.MustHold {
	var none []authz.MustHold
	for _, f := range Naming(o) {
		none = append(none, authz.MustHold{Filter: f})
	}
	return none
}

// Suspend is the write that stops a user, a service, a tenant or an agent.
func Suspend(o authz.Object) []authz.Update {
	return []authz.Update{
		{Operation: authz.Touch, Relationship: mark(o, relSuspended)},
		{Operation: authz.Delete, Relationship: mark(o, relActive)},
	}
}

// SuspendUnregistered is Suspend for an agent that has neither a mark nor a tombstone.
func SuspendUnregistered(id authz.AgentID) []authz.Update {
	updates := Suspend(id.Object())
	updates[0].Relationship.Subject.Object = unregistered
	return updates
}

// Lift is the write that takes a tombstone away, and activates nothing.
func Lift(o authz.Object) []authz.Update {
	updates := []authz.Update{{Operation: authz.Delete, Relationship: mark(o, relSuspended)}}
	if o.Type == authz.TypeAgent {
		updates = append(updates, updates[0])
		updates[1].Relationship.Subject.Object = unregistered
	}
	return updates
}

// Resume is the write that lets it act again. An agent keeps what was issued at its registration.
func Resume(o authz.Object, issued Issued) []authz.Update {
	active := mark(o, relActive)
	if o.Type == authz.TypeAgent {
		active.Caveat, active.CaveatContext = caveatIssued, issuedContext(issued)
	}
	return append(Lift(o), authz.Update{Operation: authz.Touch, Relationship: active})
}

// MustBeActive holds while the object has its mark and no tombstone. The engine does not see expired
// marks, so an expired one does not hold.
func MustBeActive(o authz.Object) []authz.MustHold {
	return []authz.MustHold{must(mark(o, relActive)), mustNot(mark(o, tombstone(o.Type)))}
}

// tombstone is the relation that stops an object of a core type.
func tombstone(objectType string) string {
	switch objectType {
	case authz.TypeDelegation:
		return relRevoked
	case authz.TypeSession:
		return relEnded
	default:
		return relSuspended
	}
}

// Owner is the tuple that entitles a user to delegate in a service's name.
func Owner(service authz.Object, user authz.Object) authz.Filter {
	return exactly(authz.Relationship{Resource: service, Relation: relOwner, Subject: authz.Subject{Object: user}})
}

// Admin is the tuple that entitles a user to consent for all of a tenant.
func Admin(tenant authz.TenantID, user authz.Object) authz.Filter {
	return exactly(authz.Relationship{Resource: tenant.Object(), Relation: RelationAdmin, Subject: authz.Subject{Object: user}})
}

// Member is the tuple that makes a principal one of a tenant's set. The core schema lets nothing but direct tuples make one.
func Member(set authz.Subject, p authz.Principal) authz.Filter {
	return exactly(authz.Relationship{Resource: set.Object, Relation: set.Relation, Subject: authz.Subject{Object: p.Object}})
}

// Members selects the tuples that make users, or services, members of a tenant's set.
func Members(set authz.Subject, principalType string) authz.Filter {
	return authz.Filter{Resource: set.Object, Relation: set.Relation, SubjectType: principalType}
}

// Belongs are the tuples each of which makes an agent, a user or a service one of a tenant's.
func Belongs(tenant authz.TenantID, o authz.Object) []authz.Filter {
	relations := map[string][]string{
		authz.TypeAgent: {RelationAgent}, authz.TypeUser: {RelationMember, RelationAdmin}, authz.TypeService: {RelationMember},
	}[o.Type]
	filters := make([]authz.Filter, len(relations))
	for i, relation := range relations {
		filters[i] = exactly(authz.Relationship{Resource: tenant.Object(), Relation: relation, Subject: authz.Subject{Object: o}})
	}
	return filters
}

// Tenants selects all that any tenant has of an agent, a user or a service.
func Tenants(o authz.Object) authz.Filter {
	return authz.Filter{Resource: authz.Object{Type: authz.TypeTenant}, SubjectType: o.Type, SubjectID: o.ID}
}

// Holds reports whether what was read with Owner, Admin, Member or Belongs is there, at now: the direct tuple, with no caveat, and
// not expired.
func Holds(rels []authz.Relationship, now time.Time) bool {
	return slices.ContainsFunc(rels, func(r authz.Relationship) bool {
		return r.Caveat == "" && r.Subject.Relation == "" && (r.ExpiresAt.IsZero() || r.ExpiresAt.After(now))
	})
}

func compare[T ~string](x, y T) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	default:
		return 0
	}
}

// IsTombstone reports whether a relationship of that relation stops the object that it is of, whatever its subject: an
// object has it to be suspended, revoked, ended or purged, and writing it can only take access away.
func IsTombstone(resourceType, relation string) bool {
	switch resourceType {
	case authz.TypeUser, authz.TypeService, authz.TypeTenant, authz.TypeAgent:
		return relation == relSuspended
	case authz.TypeDelegation:
		return relation == relRevoked || relation == relPurged
	case authz.TypeSession:
		return relation == relEnded || relation == relPurged
	default:
		return false
	}
}
