package authz

import (
	"maps"
	"slices"
	"strings"
)

// Names is an immutable set of names, or all names. The zero Names holds none.
type Names struct {
	all  bool
	some map[string]struct{}
}

// AllNames holds every name.
func AllNames() Names { return Names{all: true} }

// NamesOf holds the names given, and no others.
func NamesOf(names ...string) Names {
	some := make(map[string]struct{}, len(names))
	for _, n := range names {
		some[n] = struct{}{}
	}
	return Names{some: some}
}

// All reports whether every name is held.
func (n Names) All() bool { return n.all }

// None reports whether no name is held.
func (n Names) None() bool { return !n.all && len(n.some) == 0 }

// Has reports whether a name is held.
func (n Names) Has(name string) bool {
	if n.all {
		return true
	}
	_, held := n.some[name]
	return held
}

// List returns the names, sorted; nil where all are held.
func (n Names) List() []string { return slices.Sorted(maps.Keys(n.some)) }

// Within reports whether every name that n holds is held by of.
func (n Names) Within(of Names) bool {
	if of.all || n.all {
		return of.all
	}
	for name := range n.some {
		if !of.Has(name) {
			return false
		}
	}
	return true
}

// Prefixes is an immutable set of beginnings of ids, or of all ids. The zero Prefixes matches no id.
type Prefixes struct {
	all  bool
	some []string
}

// AllPrefixes matches every id.
func AllPrefixes() Prefixes { return Prefixes{all: true} }

// PrefixesOf matches the ids that begin with one of the prefixes, as callers of deputy.v1 write ids: decoded. An empty prefix is left out.
func PrefixesOf(prefixes ...string) Prefixes {
	return Prefixes{some: slices.DeleteFunc(slices.Clone(prefixes), func(p string) bool { return p == "" })}
}

// All reports whether every id is matched.
func (p Prefixes) All() bool { return p.all }

// None reports whether no id is matched.
func (p Prefixes) None() bool { return !p.all && len(p.some) == 0 }

// Match reports whether a stored id, decoded, begins with one of the prefixes.
func (p Prefixes) Match(stored string) bool {
	if p.all {
		return true
	}
	id := DecodeID(stored)
	return slices.ContainsFunc(p.some, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// List returns the prefixes; nil where all ids are matched.
func (p Prefixes) List() []string { return slices.Clone(p.some) }

// Within reports whether of matches every id that p matches.
func (p Prefixes) Within(of Prefixes) bool {
	if of.all || p.all {
		return of.all
	}
	for _, prefix := range p.some {
		if !slices.ContainsFunc(of.some, func(wider string) bool { return strings.HasPrefix(prefix, wider) }) {
			return false
		}
	}
	return true
}

// Bounds say which part of the graph exists for a caller, whatever its roles are. What lies outside is answered as what does not exist. The
// zero Bounds, and nil, admit nothing. Bounds are immutable: they may be shared and read concurrently.
type Bounds struct {
	// Tenants are the tenants, by stored id. A caller that is not bound to all is confined: see Confined.
	Tenants Names
	// Agents are the agents, by stored id.
	Agents Names
	// Principals are the types of the principals that agents may act for: "user", "service".
	Principals Names
	// Person is the one principal that agents may act for, of a type in Principals; zero where there is no such bound. Then what is for a set of
	// principals lies outside, because it is others', too.
	Person Principal
	// Objects are the types of domain objects, and IDs the beginnings of their ids.
	Objects Names
	IDs     Prefixes
	// Vouch lets the caller create delegations in a person's name, on its word alone that the person granted it.
	Vouch bool
}

// Unbounded admits everything.
func Unbounded() *Bounds {
	return &Bounds{Tenants: AllNames(), Agents: AllNames(), Principals: AllNames(), Objects: AllNames(), IDs: AllPrefixes(), Vouch: true}
}

// Confined reports whether there are tenants that do not exist for the caller.
func (b *Bounds) Confined() bool { return b == nil || !b.Tenants.All() }

// AllActors reports whether every agent exists for the caller, in every tenant, for every principal.
func (b *Bounds) AllActors() bool {
	return b != nil && b.Tenants.All() && b.Agents.All() && b.AllPrincipals()
}

// AllPrincipals reports whether every principal exists for the caller, as far as it itself goes.
func (b *Bounds) AllPrincipals() bool { return b != nil && b.Principals.All() && b.Person.IsZero() }

// Everything reports whether nothing lies outside. Vouch admits no part of the graph.
func (b *Bounds) Everything() bool { return b.AllActors() && b.Objects.All() && b.IDs.All() }

// HasTenant reports whether a tenant lies within.
func (b *Bounds) HasTenant(id TenantID) bool { return b != nil && b.Tenants.Has(string(id)) }

// HasAgent reports whether the agents within can include this one. For a confined caller it has to act in a tenant within besides.
func (b *Bounds) HasAgent(id AgentID) bool { return b != nil && b.Agents.Has(string(id)) }

// HasPrincipal reports whether agents may act for a principal as far as its type goes, or for this one, where there is no other.
func (b *Bounds) HasPrincipal(p Principal) bool {
	return b != nil && b.Principals.Has(p.Type) && (b.Person.IsZero() || b.Person == p)
}

// HasPrincipals reports whether agents may act for each principal of the types.
func (b *Bounds) HasPrincipals(types ...string) bool {
	return b != nil && b.Person.IsZero() && !slices.ContainsFunc(types, func(t string) bool { return !b.Principals.Has(t) })
}

// Of returns the bounds for one principal: what they admit that is this principal's.
func (b *Bounds) Of(person Principal) *Bounds {
	if b == nil || person.IsZero() || !b.HasPrincipal(person) {
		return &Bounds{}
	}
	of := *b
	of.Person = person
	return &of
}

// HasType reports whether a type of domain objects lies within.
func (b *Bounds) HasType(objectType string) bool { return b != nil && b.Objects.Has(objectType) }

// HasObject reports whether a domain object lies within as far as its type and its id go. For a confined caller its tenants have to lie
// within besides.
func (b *Bounds) HasObject(o Object) bool { return b.HasType(o.Type) && b.IDs.Match(o.ID) }

// Within reports whether everything that b admits is admitted by of.
func (b *Bounds) Within(of *Bounds) bool {
	switch {
	case b == nil:
		return true
	case of == nil:
		return false
	}
	return b.Tenants.Within(of.Tenants) && b.Agents.Within(of.Agents) && b.Principals.Within(of.Principals) &&
		(of.Person.IsZero() || of.Person == b.Person) && b.Objects.Within(of.Objects) && b.IDs.Within(of.IDs) && (of.Vouch || !b.Vouch)
}
