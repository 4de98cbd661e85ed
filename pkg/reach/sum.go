package reach

import (
	"cmp"
	"maps"
	"slices"
	"time"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// A right is one permission on one object for one party: what a Sum counts. An object that is reached for two principals is two of them.

// maxKept is how many of a kind a Sum keeps by themselves, and what it has no room for is counted together.
const maxKept = 1_000

// Sum is a reach added up. It takes the messages of a Join, and is not safe for concurrent use.
type Sum struct {
	// At is the revision, once the end was taken.
	At string
	// Parties is how many parties there are, and Refused how many of them a gate refuses.
	Parties, Refused int
	// Granted tells that the reach says through which grants.
	Granted bool
	// Unnamed is how many rights come, for some holder, through grants that the server does not name, and SetsCut that there may be more sets than
	// are named.
	Unnamed uint64
	SetsCut bool
	// Frozen tells that a party is bound to the revision of its session's start.
	Frozen bool

	rows       map[[2]string]*Row
	order      [][2]string
	agents     tally[string, *Actor]
	principals tally[string, *Actor]
	grants     map[Role]*tally[grantKey, *Grants]
	sets       tally[setKey, *Set]
	under      tally[string, bool]
	others     map[Role]uint64
	tenants    map[string]bool
	flags      []deputy.ReachFlag
	unscoped   int
	scoped     int
	until      Until
	// now is the party that counts are of, and party are the flags of parties.
	now   *deputy.ReachParty
	party []deputy.ReachFlag
}

// Row is how much of a type is reached with a permission.
type Row struct {
	Type, Permission         string
	Has, Conditional, Failed uint64
	Flags                    []deputy.ReachFlag
}

// Actor is a chain of agents, or a principal in a tenant.
type Actor struct {
	// Name is "triage-bot > reply-bot", or "user:alice".
	Name, Tenant string
	// Rights is how much they reach, with and without conditions.
	Rights uint64
	// Parties is how many parties they are in, Refused how many of them a gate refuses, and By the first such gate.
	Parties, Refused int
	By               deputy.Gate
	// Until is until when they act.
	Until Until
}

// Until is the latest end of several parties.
type Until struct {
	// Endless tells that one of them has none.
	Endless bool
	// Last is the latest of the others.
	Last time.Time
}

// add takes the end of a party.
func (u *Until) add(p *deputy.ReachParty) {
	if p.GetValidUntil() == nil {
		u.Endless = true
	} else if at := p.GetValidUntil().AsTime(); at.After(u.Last) {
		u.Last = at
	}
}

// Role is how a decision depends on the holder of a grant.
type Role int

// The roles. Everybody in any of them has to have the permission.
const (
	RoleAgent Role = iota
	RolePrincipal
	RoleScope
)

// RoleOf returns the role of a holder.
func RoleOf(holder *deputy.ObjectReference) Role {
	switch holder.GetObjectType() {
	case "agent":
		return RoleAgent
	case "delegation":
		return RoleScope
	default:
		return RolePrincipal
	}
}

// Grants are grants of one kind to all holders of a role.
type Grants struct {
	// Type and Relation are the relationships': "folder", "reader".
	Type, Relation string
	// How says by which subject they name the holders: "directly", "as member of group:staff".
	How string
	// Everybody tells that they name all of a type.
	Everybody bool
	// Rights is how many rights come through them, and WithoutEnd of how many the relationship has no end.
	Rights, WithoutEnd uint64
}

// Set is a set without which something would not be reached.
type Set struct {
	// Holder is named in Name: "group:support#member".
	Holder, Name string
	Role         Role
	Rights       uint64
}

// tally keeps the first maxKept of a kind by themselves.
type tally[K comparable, V any] struct {
	of   map[K]V
	more int
}

// at returns what is kept under a key, or the zero V where there is no room.
func (t *tally[K, V]) at(key K, fresh func() V) (v V, kept bool) {
	if v, kept = t.of[key]; kept {
		return v, true
	}
	if len(t.of) == maxKept {
		t.more++
		return v, false
	}
	if t.of == nil {
		t.of = map[K]V{}
	}
	v = fresh()
	t.of[key] = v
	return v, true
}

// NewSum returns an empty Sum.
func NewSum() *Sum {
	return &Sum{rows: map[[2]string]*Row{}, grants: map[Role]*tally[grantKey, *Grants]{}, others: map[Role]uint64{}, tenants: map[string]bool{}}
}

// Add takes the next message.
func (s *Sum) Add(m *Message) {
	switch {
	case m.GetParty() != nil:
		s.addParty(m.GetParty())
	case m.GetCount() != nil && s.now != nil:
		s.addCount(m.GetCount())
	case m.GetEnd() != nil:
		s.At = m.GetEnd().GetLookedUpAt().GetToken()
	}
}

// refused reports whether a gate refuses all objects.
func refused(p *deputy.ReachParty) bool { return p.GetRefusedBy() != deputy.Gate_GATE_UNSPECIFIED }

// actors are the chain of agents and the principal of the party, where there is room for them.
func (s *Sum) actors() (all []*Actor) {
	p := s.now
	if a, kept := s.agents.at(Agents(p), func() *Actor { return &Actor{Name: Agents(p)} }); kept {
		all = append(all, a)
	}
	name, tenant := Object(p.GetPrincipal()), p.GetTenantId()
	if a, kept := s.principals.at(name+"\x00"+tenant, func() *Actor { return &Actor{Name: name, Tenant: tenant} }); kept {
		all = append(all, a)
	}
	return all
}

func (s *Sum) addParty(p *deputy.ReachParty) {
	s.now = p
	s.Parties++
	s.Frozen = s.Frozen || p.GetFrozen()
	for _, a := range s.actors() {
		a.Parties++
		if refused(p) {
			a.Refused++
			a.By = p.GetRefusedBy()
		} else {
			a.Until.add(p)
		}
	}
	if refused(p) {
		s.Refused++
		return
	}
	s.until.add(p)
	s.under.at(Delegation(p), func() bool { return true })
	if len(s.tenants) < maxKept {
		s.tenants[p.GetTenantId()] = true
	}
	s.flags, s.party = union(s.flags, p.GetFlags()), union(s.party, p.GetFlags())
	if p.GetUnscoped() {
		s.unscoped++
	} else {
		s.scoped++
	}
}

func (s *Sum) addCount(c *deputy.ReachCount) {
	key := [2]string{c.GetResourceObjectType(), c.GetPermission()}
	row := s.rows[key]
	if row == nil {
		row = &Row{Type: key[0], Permission: key[1]}
		s.rows[key], s.order = row, append(s.order, key)
	}
	row.Has += c.GetHas()
	row.Conditional += c.GetConditional()
	row.Failed += c.GetFailed()
	row.Flags = union(row.Flags, c.GetFlags())
	s.flags = union(s.flags, c.GetFlags())
	for _, a := range s.actors() {
		a.Rights += c.GetHas() + c.GetConditional()
	}
	s.Granted = s.Granted || len(c.GetGrants()) > 0
	s.Unnamed += c.GetOthers()
	s.SetsCut = s.SetsCut || c.GetOnlyThroughCut()
	for _, g := range c.GetGrants() {
		s.addGrants(g)
	}
	for _, o := range c.GetOnlyThrough() {
		set := &Set{Holder: Object(o.GetHolder()), Name: Subject(o.GetSet()), Role: RoleOf(o.GetHolder())}
		if set, kept := s.sets.at(setKeyOf(o), func() *Set { return set }); kept {
			set.Rights += o.GetObjects()
		}
	}
}

func (s *Sum) addGrants(g *deputy.ReachGrants) {
	role, key := RoleOf(g.GetHolder()), keyOf(g)
	// Those that name the holders themselves are one kind, however many holders there are.
	way := how(key.holder, g.GetSubject())
	if key.subject == key.holder {
		key.subject = ""
	}
	key.holder = ""
	if s.grants[role] == nil {
		s.grants[role] = &tally[grantKey, *Grants]{}
	}
	kind, kept := s.grants[role].at(key, func() *Grants {
		return &Grants{Type: key.objectType, Relation: key.relation, How: way, Everybody: g.GetSubject().GetObject().GetObjectId() == "*"}
	})
	if !kept {
		s.others[role] += g.GetObjects()
		return
	}
	kind.Rights += g.GetObjects()
	kind.WithoutEnd += g.GetWithoutEnd()
}

// Rows returns how much is reached by type and permission, in the order in which the server sent them, without those of which nothing is.
func (s *Sum) Rows() []Row {
	var rows []Row
	for _, key := range s.order {
		if r := s.rows[key]; r.Has+r.Conditional+r.Failed > 0 {
			rows = append(rows, *r)
		}
	}
	return rows
}

// Rights is how much is reached in all, with and without conditions.
func (s *Sum) Rights() (n uint64) {
	for _, r := range s.rows {
		n += r.Has + r.Conditional
	}
	return n
}

// Flags returns all flags, in the order of the enum.
func (s *Sum) Flags() []deputy.ReachFlag { return s.flags }

// Agents returns the chains of agents, those that reach most first, and of how many more there was no room.
func (s *Sum) Agents() (all []*Actor, more int) { return sortedActors(s.agents) }

// Principals returns the principals by tenant, those for whom most is reached first, and of how many more there was no room.
func (s *Sum) Principals() (all []*Actor, more int) { return sortedActors(s.principals) }

func sortedActors(t tally[string, *Actor]) ([]*Actor, int) {
	all := slices.SortedFunc(maps.Values(t.of), func(a, b *Actor) int {
		return cmp.Or(cmp.Compare(b.Rights, a.Rights), cmp.Compare(a.Refused, b.Refused), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Tenant, b.Tenant))
	})
	return all, t.more
}

// Grants returns the kinds of grants to the holders of a role, those with most rights first, and how many rights come through others.
func (s *Sum) Grants(role Role) (all []*Grants, others uint64) {
	others = s.others[role]
	if s.grants[role] == nil {
		return nil, others
	}
	return slices.SortedFunc(maps.Values(s.grants[role].of), func(a, b *Grants) int {
		return cmp.Or(cmp.Compare(b.Rights, a.Rights), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Relation, b.Relation), cmp.Compare(a.How, b.How))
	}), others
}

// Sets returns the sets without which rights would be gone, those with most first.
func (s *Sum) Sets() []*Set {
	return slices.SortedFunc(maps.Values(s.sets.of), func(a, b *Set) int {
		return cmp.Or(cmp.Compare(b.Rights, a.Rights), cmp.Compare(a.Holder, b.Holder), cmp.Compare(a.Name, b.Name))
	})
}

// delegations is under how many delegations something may be reached. Of more than maxKept, some count several times.
func (s *Sum) delegations() int { return len(s.under.of) + s.under.more }

// Tenants returns the tenants in which something may be reached.
func (s *Sum) Tenants() []string { return slices.Sorted(maps.Keys(s.tenants)) }
