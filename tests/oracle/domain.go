package oracle

import (
	"slices"
	"time"
)

// Domain is the schema of the domain, to stand beside core.zed. State.Check evaluates exactly this.
const Domain = `
/** within holds up to a cap. */
caveat within(amount int, cap int) {
	amount <= cap
}

/** located holds in one region. */
caveat located(region string, wanted string) {
	region == wanted
}

/** group is a team. */
definition group {
	relation tenant: tenant
	relation member: user | service | group#member
}

/** folder holds documents and folders. Its tenant admits what a tenant should not have. */
definition folder {
	relation tenant: tenant | tenant:* | tenant with within
	relation parent: folder
	relation viewer: user | user with within | user:* | service | service with within | group#member | tenant#member | agent | agent with located | agent:* | delegation | delegation with within
	relation editor: user | user with within | service | service with within | group#member | agent | agent with located | delegation | delegation with within
	relation banned: user | user with within | agent
	permission edit = (editor + parent->edit) - banned
	permission view = (viewer + editor + parent->view) - banned
}

/** document lies in folders; its tenant is that of all of them. */
definition document {
	relation folder: folder
	relation viewer: user | user with within | user:* | service | service with within | group#member | tenant#member | agent | agent with located | agent:* | delegation | delegation with within
	relation editor: user | user with within | service | service with within | group#member | agent | agent with located | delegation | delegation with within
	relation approver: user | user with within | user:* | service | group#member | agent | agent with located | delegation | delegation with within
	relation banned: user | user with within | agent
	permission tenant = folder.all(tenant)
	permission edit = (editor + folder->edit) - banned
	permission view = (viewer + editor + folder->view) - banned
	permission sign = view & approver
}

/** note belongs to no tenant: nothing may be decided on it. */
definition note {
	relation viewer: user | agent | delegation
	permission view = viewer
}
`

// Missing is a set of caveat fields that a question did not carry.
type Missing uint8

// The fields.
const (
	MissingAmount Missing = 1 << iota
	MissingRegion
)

// Names returns the fields' names, sorted.
func (m Missing) Names() []string {
	var names []string
	if m&MissingAmount != 0 {
		names = append(names, "amount")
	}
	if m&MissingRegion != 0 {
		names = append(names, "region")
	}
	return names
}

// Truth is yes, no, or that it depends on what is missing.
type Truth struct {
	// Yes tells that it holds; Missing is empty then.
	Yes bool
	// Missing says what it depends on. Neither Yes nor Missing is no.
	Missing Missing
}

// The plain truths.
var (
	Yes = Truth{Yes: true}
	No  = Truth{}
)

// isNo reports whether it does not hold, whatever is missing.
func (t Truth) isNo() bool { return t == No }

// truth turns a bool into a Truth.
func truth(b bool) Truth { return Truth{Yes: b} }

// or holds if either does.
func or(a, b Truth) Truth {
	if a.Yes || b.Yes {
		return Yes
	}
	return Truth{Missing: a.Missing | b.Missing}
}

// and holds if both do.
func and(a, b Truth) Truth {
	if a.isNo() || b.isNo() {
		return No
	}
	return Truth{Yes: a.Yes && b.Yes, Missing: a.Missing | b.Missing}
}

// not holds if the other does not.
func not(a Truth) Truth {
	if a.Missing != 0 {
		return a
	}
	return truth(!a.Yes)
}

// holds evaluates the caveat on an edge.
func (c Condition) holds(ctx Context) Truth {
	t := Yes
	if c.Cap > 0 {
		if ctx.Amount == nil {
			t = and(t, Truth{Missing: MissingAmount})
		} else {
			t = and(t, truth(*ctx.Amount <= c.Cap))
		}
	}
	if c.Region != "" {
		if ctx.Region == "" {
			t = and(t, Truth{Missing: MissingRegion})
		} else {
			t = and(t, truth(ctx.Region == c.Region))
		}
	}
	return t
}

// question is one evaluation of the domain: the subject, the context and the time stay the same while
// it walks from object to object.
type question struct {
	state *State
	who   Object
	ctx   Context
	now   time.Time
}

// Check answers whether an object, such as a user, an agent or a delegation, has a relation or a
// permission to another. A type or a member that the schema does not have is no.
func (s *State) Check(resource Object, member string, who Object, ctx Context, now time.Time) Truth {
	if s.Ask != nil {
		return s.Ask(resource, member, who)
	}
	return question{s, who, ctx, now}.has(resource, member)
}

// has is the schema, read aloud.
func (q question) has(o Object, member string) Truth {
	switch o.Type + "." + member {
	case "folder.edit":
		return and(or(q.related(o, "editor"), q.through(o, "parent", "edit")), not(q.related(o, "banned")))
	case "folder.view":
		return and(or(or(q.related(o, "viewer"), q.related(o, "editor")), q.through(o, "parent", "view")), not(q.related(o, "banned")))
	case "document.tenant":
		return q.throughAll(o, "folder", "tenant")
	case "document.edit":
		return and(or(q.related(o, "editor"), q.through(o, "folder", "edit")), not(q.related(o, "banned")))
	case "document.view":
		return and(or(or(q.related(o, "viewer"), q.related(o, "editor")), q.through(o, "folder", "view")), not(q.related(o, "banned")))
	case "document.sign":
		return and(q.has(o, "view"), q.related(o, "approver"))
	case "tenant.member", "tenant.admin", "tenant.agent":
		return truth(q.state.stands(o.ID, member, q.who, q.now))
	case "tenant.access":
		return or(or(q.has(o, "member"), q.has(o, "admin")), q.has(o, "agent"))
	default:
		return q.related(o, member)
	}
}

// related looks at every edge of a relation.
func (q question) related(o Object, relation string) Truth {
	t := No
	for edge, condition := range q.state.Edges {
		if edge.Resource != o || edge.Relation != relation {
			continue
		}
		reaches := No
		switch {
		case edge.Subject.Relation != "":
			reaches = q.has(edge.Subject.Object, edge.Subject.Relation)
		case edge.Subject.Type == q.who.Type:
			reaches = truth(edge.Subject.ID == q.who.ID || edge.Subject.ID == "*")
		}
		t = or(t, and(reaches, condition.holds(q.ctx)))
	}
	return t
}

// through is SpiceDB's arrow: the permission on any object that the relation leads to.
func (q question) through(o Object, relation, permission string) Truth {
	t := No
	for _, next := range q.state.next(o, relation) {
		t = or(t, q.has(next, permission))
	}
	return t
}

// throughAll is SpiceDB's all arrow: the permission on every object that the relation leads to, and no
// where it leads to none.
func (q question) throughAll(o Object, relation, permission string) Truth {
	next := q.state.next(o, relation)
	t := truth(len(next) > 0)
	for _, n := range next {
		t = and(t, q.has(n, permission))
	}
	return t
}

// next returns the objects that a relation leads to.
func (s *State) next(o Object, relation string) []Object {
	var next []Object
	for edge := range s.Edges {
		if edge.Resource == o && edge.Relation == relation {
			next = append(next, edge.Subject.Object)
		}
	}
	return next
}

// stands reports whether somebody has a relation to a tenant now.
func (s *State) stands(tenant, relation string, who Object, now time.Time) bool {
	until, ok := s.Standing[Standing{tenant, relation, who}]
	return ok && (until.IsZero() || until.After(now))
}

// Tenants returns the one tenant that an object belongs to, or "" where it belongs to none, to several,
// to every tenant, or to one only under a condition. A type that has no tenant at all has none.
func (s *State) Tenants(o Object, now time.Time) string {
	// A tenant of a name that nobody has is in the object's tenants only through a wildcard.
	all := []string{"no-such-tenant"}
	for edge := range s.Edges {
		if edge.Subject.Type == "tenant" && !slices.Contains(all, edge.Subject.ID) {
			all = append(all, edge.Subject.ID)
		}
	}
	one := ""
	for _, id := range all {
		switch t := s.Check(o, "tenant", Object{"tenant", id}, Context{}, now); {
		case t.isNo():
		case !t.Yes || one != "" || id == all[0]:
			return ""
		default:
			one = id
		}
	}
	return one
}
