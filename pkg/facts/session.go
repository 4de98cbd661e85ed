package facts

import (
	"slices"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Session is what the graph holds about a session.
type Session struct {
	ID authz.SessionID
	Life
	Agent  authz.AgentID
	Leaves []Leaf
	// Unfrozen tells that the session's rights follow the graph.
	Unfrozen bool
	// Baseline is where a frozen session started; zero for any other.
	Baseline authz.Revision
	// BaselineAt is when that was.
	BaselineAt time.Time
	Issued     Issued
}

// Leaf is one delegation that a session holds. Principal and Tenant are hints: the delegation's own
// facts decide.
type Leaf struct {
	Delegation authz.DelegationID
	Principal  authz.Principal
	Tenant     authz.TenantID
}

// Of reports whether the leaf is for a principal, or in a tenant.
func (l Leaf) Of(o authz.Object) bool {
	return o.Type == authz.TypeTenant && string(l.Tenant) == o.ID || o.Type != authz.TypeTenant && l.Principal.Object == o
}

// Holds reports whether the session holds the delegation.
func (s *Session) Holds(id authz.DelegationID) bool {
	return slices.ContainsFunc(s.Leaves, func(l Leaf) bool { return l.Delegation == id })
}

// Within reports whether the session's agent lies within the bounds, which is half of what it takes to exist for a caller: at least one of
// its leaves has to exist, too.
func (s *Session) Within(b *authz.Bounds) bool {
	return b.AllActors() || !s.ambiguous && b.HasAgent(s.Agent)
}

// NoBaseline says of a frozen session that it has no baseline.
const NoBaseline = "the session has no baseline: start it anew"

// LostBaseline says why a frozen session's baseline cannot be read any more, which an engine has found out (authz.OutOfRange), and what to do. now is a
// revision that can be read.
func LostBaseline(baseline, now authz.Revision) string {
	if h := baseline.History(); h != "" && h != now.History() {
		return "the baseline belongs to another history of the primary, which was failed over, restored or replaced since: start the session anew"
	}
	return "the baseline has left the retention, or is from before the store was restored, promoted or replaced: start the session anew"
}

var sessionShapes = map[string]shape{
	relActive:     {types: self.types, expires: true},
	RelationAgent: {types: []string{authz.TypeAgent}, caveat: caveatIssued},
	relDelegation: {types: []string{authz.TypeDelegation}, caveat: caveatLeaf, many: true},
	relUnfrozen:   self,
	relBaseline:   {types: self.types, caveat: caveatBaseline},
}

// ReadSession reads a session from all its relationships.
func ReadSession(id authz.SessionID, rels []authz.Relationship, now time.Time) Session {
	s := Session{ID: id, Life: Life{Known: len(rels) > 0}}
	r := newReader(id.Object(), now, &s.Life)
	for _, rel := range rels {
		if rel.Relation == relEnded {
			s.Stopped = true
			continue
		}
		if r.aside(rel) {
			continue
		}
		sh, ok := sessionShapes[rel.Relation]
		if !ok {
			r.malformedf("%s is not of a kind that Deputy writes", rel)
			continue
		}
		if !r.admit(rel, sh) {
			continue
		}
		switch rel.Relation {
		case relActive:
			r.alive(rel)
		case RelationAgent:
			s.Agent = authz.AgentID(rel.Subject.ID)
			s.Issued = readIssued(rel.CaveatContext)
		case relDelegation:
			s.Leaves = append(s.Leaves, readLeaf(rel))
		case relUnfrozen:
			s.Unfrozen = true
		case relBaseline:
			s.Baseline = authz.Revision{Token: text(rel.CaveatContext["revision"])}
			s.BaselineAt = readStamp(rel.CaveatContext["at"])
		}
	}
	if s.Purged {
		return Session{ID: id, Life: Life{Stopped: true, Purged: true}}
	}
	slices.SortFunc(s.Leaves, func(a, b Leaf) int { return compare(a.Delegation, b.Delegation) })
	switch {
	case !s.Known || s.Malformed != "":
	case s.Agent == "":
		r.malformedf("it has no agent")
	case s.Unfrozen == slices.Contains(r.seen, relBaseline):
		r.malformedf("it must be either unfrozen or have a baseline")
	case !s.Unfrozen && s.Baseline.IsZero():
		r.malformedf("its baseline names no revision")
	}
	return s
}

func readLeaf(rel authz.Relationship) Leaf {
	leaf := Leaf{Delegation: authz.DelegationID(rel.Subject.ID), Tenant: authz.TenantID(text(rel.CaveatContext["tenant"]))}
	kind, id, ok := strings.Cut(text(rel.CaveatContext["principal"]), ":")
	if ok {
		leaf.Principal, _ = authz.NewPrincipal(authz.Object{Type: kind, ID: id})
	}
	return leaf
}

// Write returns the updates that create the session without what makes it live: its agent and leaves.
func (s *Session) Write() []authz.Update {
	self := s.ID.Object()
	updates := []authz.Update{{Operation: authz.Create, Relationship: s.agent()}}
	for _, l := range s.Leaves {
		updates = append(updates, authz.Update{Operation: authz.Create, Relationship: authz.Relationship{
			Resource: self, Relation: relDelegation, Subject: authz.Subject{Object: l.Delegation.Object()},
			Caveat: caveatLeaf, CaveatContext: map[string]any{"principal": l.Principal.String(), "tenant": string(l.Tenant)},
		}})
	}
	return updates
}

// agent is the fact which agent runs, with what was issued.
func (s *Session) agent() authz.Relationship {
	return authz.Relationship{
		Resource: s.ID.Object(), Relation: RelationAgent, Subject: authz.Subject{Object: s.Agent.Object()},
		Caveat: caveatIssued, CaveatContext: issuedContext(s.Issued),
	}
}

// Activate returns the updates that make the session live until s.Until, unfrozen or from its
// baseline.
func (s *Session) Activate() []authz.Update {
	self := s.ID.Object()
	mode := mark(self, relUnfrozen)
	if !s.Unfrozen {
		mode = mark(self, relBaseline)
		mode.Caveat = caveatBaseline
		mode.CaveatContext = map[string]any{"revision": s.Baseline.Token, "at": stamp(s.BaselineAt)}
	}
	updates := s.last()
	if !s.Unfrozen {
		updates = s.Extend() // it was written before
	}
	return append(updates, authz.Update{Operation: authz.Create, Relationship: mode})
}

// MustBeUnstarted holds while the session was neither made live nor ended, nor purged.
func (s *Session) MustBeUnstarted() []authz.MustHold {
	self := s.ID.Object()
	return []authz.MustHold{
		mustNot(mark(self, relActive)), mustNot(mark(self, relEnded)), mustNot(mark(self, relBaseline)), MustBeUnused(self),
	}
}

// last returns the updates that make the session last until s.Until.
func (s *Session) last() []authz.Update {
	active := mark(s.ID.Object(), relActive)
	active.ExpiresAt = s.Until
	updates := []authz.Update{{Operation: authz.Touch, Relationship: active}}
	for _, r := range s.listing() {
		updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: r})
	}
	return updates
}

// Extend returns the updates that move the session's end to s.Until. That is also noted where it does not expire, so that it is known
// afterwards since when the session has been over.
func (s *Session) Extend() []authz.Update {
	s.Issued.Until = s.Until
	return append(s.last(), authz.Update{Operation: authz.Touch, Relationship: s.agent()})
}

// End is the write that ends a session and, since leaves need their session, all that it passed on.
func (s *Session) End() []authz.Update {
	self := s.ID.Object()
	updates := []authz.Update{
		{Operation: authz.Touch, Relationship: mark(self, relEnded)},
		{Operation: authz.Delete, Relationship: mark(self, relActive)},
	}
	for _, r := range s.listing() {
		updates = append(updates, remove(r))
	}
	return updates
}

// SessionListFilter selects the sessions of an agent.
func SessionListFilter(id authz.AgentID) authz.Filter {
	return authz.Filter{
		Resource: authz.Object{Type: authz.TypeSession}, Relation: RelationAgent,
		SubjectType: authz.TypeAgent, SubjectID: string(id),
	}
}

// AgentListFilter selects every agent once: by its mark, or by its tombstone.
func AgentListFilter(suspended bool) authz.Filter {
	relation := relActive
	if suspended {
		relation = relSuspended
	}
	return authz.Filter{Resource: authz.Object{Type: authz.TypeAgent}, Relation: relation}
}

// TenantAgents selects the agents of a tenant.
func TenantAgents(id authz.TenantID) authz.Filter {
	return authz.Filter{Resource: id.Object(), Relation: RelationAgent, SubjectType: authz.TypeAgent}
}
