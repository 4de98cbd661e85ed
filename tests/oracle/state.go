package oracle

import (
	"maps"
	"slices"
	"time"
)

// Object is a type and an id.
type Object struct{ Type, ID string }

// String returns "type:id".
func (o Object) String() string { return o.Type + ":" + o.ID }

// Subject is an object, or everybody who has a relation to it.
type Subject struct {
	Object
	// Relation is empty for the object itself.
	Relation string
}

// String returns "type:id" or "type:id#relation".
func (s Subject) String() string {
	if s.Relation == "" {
		return s.Object.String()
	}
	return s.Object.String() + "#" + s.Relation
}

// Edge is one relationship of the domain: "resource#relation@subject". A subject id "*" is everybody of
// that type.
type Edge struct {
	Resource Object
	Relation string
	Subject  Subject
}

// Condition is the caveat on an edge. The zero Condition always holds.
type Condition struct {
	// Cap, if above zero, wants the context's amount to be at most this.
	Cap int
	// Region, if not empty, wants the context's region to be this.
	Region string
}

// Context is what a question carries for caveats.
type Context struct {
	// Amount is nil where it was not given.
	Amount *int
	// Region is empty where it was not given.
	Region string
}

// Delegation lets an agent act for a principal.
type Delegation struct {
	ID        string
	Agent     string
	Principal Subject
	Tenant    string
	GrantedBy Object
	// Parent is empty for a root.
	Parent string
	// Session is the session that minted it as a leaf, or empty.
	Session  string
	Unscoped bool
	// Direct is allow_direct, for the principal.
	Direct bool
	// Astray is another principal, which allow_direct names; else the zero value. A delegation that contradicts itself gives nothing.
	Astray  Subject
	Active  bool
	Until   time.Time
	Revoked bool
}

// Session is one run of one agent.
type Session struct {
	ID     string
	Agent  string
	Active bool
	Until  time.Time
	Ended  bool
	// Leaves are the delegations that it holds.
	Leaves []string
	// Baseline is what was the case when it started frozen; nil where it is not frozen.
	Baseline *State
}

// State is everything that is the case at one moment. It is not safe for concurrent writes.
type State struct {
	// Edges are the domain's relationships.
	Edges map[Edge]Condition
	// Active holds the users, services, tenants and agents that are marked active.
	Active map[Object]bool
	// Suspended holds those with the tombstone.
	Suspended map[Object]bool
	// Owners are the users who own a service or an agent.
	Owners map[Object]map[string]bool
	// Standing is when somebody's relation to a tenant ends: of a user or a service as member, of a
	// user as admin, of an agent as agent. The zero time is never.
	Standing    map[Standing]time.Time
	Delegations map[string]Delegation
	Sessions    map[string]Session

	// Ask answers what somebody has on an object, where the state is of another schema than Domain; nil means Domain.
	Ask func(resource Object, member string, who Object) Truth
	// Globals are the types of that schema that belong to no tenant.
	Globals []string
}

// Standing is somebody's relation to a tenant: "member", "admin" or "agent".
type Standing struct {
	Tenant   string
	Relation string
	Who      Object
}

// NewState returns a State in which nothing is the case.
func NewState() *State {
	return &State{
		Edges:       map[Edge]Condition{},
		Active:      map[Object]bool{},
		Suspended:   map[Object]bool{},
		Owners:      map[Object]map[string]bool{},
		Standing:    map[Standing]time.Time{},
		Delegations: map[string]Delegation{},
		Sessions:    map[string]Session{},
	}
}

// Clone returns a copy that shares nothing that can change. The baselines are shared: they never do.
func (s *State) Clone() *State {
	c := &State{
		Ask:         s.Ask,
		Globals:     s.Globals,
		Edges:       maps.Clone(s.Edges),
		Active:      maps.Clone(s.Active),
		Suspended:   maps.Clone(s.Suspended),
		Owners:      map[Object]map[string]bool{},
		Standing:    maps.Clone(s.Standing),
		Delegations: maps.Clone(s.Delegations),
		Sessions:    maps.Clone(s.Sessions),
	}
	for o, owners := range s.Owners {
		c.Owners[o] = maps.Clone(owners)
	}
	for id, session := range c.Sessions {
		session.Leaves = slices.Clone(session.Leaves)
		c.Sessions[id] = session
	}
	return c
}
