package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// actors is a set of those for whom a permission has to hold before an agent may act: the agent itself, the user or service that
// it acts for, and the delegation unless that is unscoped.
type actors uint8

const (
	agents actors = 1 << iota
	principals
	delegations
)

// needed are the actors one by one, with their names in messages.
var needed = []struct {
	actors actors
	name   string
}{
	{agents, "agent"},
	{principals, "user or service"},
	{delegations, "delegation"},
}

// actorOf says which types stand for an actor.
var actorOf = map[string]actors{
	authz.TypeAgent: agents, authz.TypeUser: principals, authz.TypeService: principals, authz.TypeDelegation: delegations,
}

// actorsIn are the actors among types of subjects.
func actorsIn(types map[string]bool) (found actors) {
	for t := range types {
		found |= actorOf[t]
	}
	return found
}

// subjectActors are the actors that can have a member.
func (c *checker) subjectActors(m *schema.Member) actors { return actorsIn(c.subjects.Of(m.Name)) }

// checkReach finds permissions that no agent can act with, whatever is granted. Where an operand of an intersection is to blame,
// that operand is an error: no relationship can ever make up for it. Where nothing admits the actor at all, it is a warning at the
// permission, because that can be meant: the permission is then for people.
func (c *checker) checkReach() {
	lacking := map[*schema.Member]actors{}
	warned := map[*schema.Member]bool{}
	for _, m := range c.members {
		is := c.subjectActors(m)
		if !m.IsPermission() || m.Member == authz.TenantMember || is == 0 && len(c.subjects.Of(m.Name)) > 0 {
			continue // a permission that holds for other objects only is a step on the way to them
		}
		// One operand can rule out several actors, which makes one finding.
		var excluding []*schema.Expression
		var excluded [][]string
		for _, n := range needed {
			if is&n.actors != 0 {
				continue
			}
			lacking[m] |= n.actors
			operand := c.excluding(m.Type, m.Expression, n.actors)
			switch i := slices.Index(excluding, operand); {
			case operand == nil:
				warned[m] = true
			case i >= 0:
				excluded[i] = append(excluded[i], n.name)
			default:
				excluding, excluded = append(excluding, operand), append(excluded, []string{n.name})
			}
		}
		for i, operand := range excluding {
			names := strings.Join(excluded[i], " or ")
			c.report(unreachable, m.Name, operand.At,
				fmt.Sprintf("%s can never hold for any %s%s: another operand of the & can, this one cannot", m, names, exceptUnscoped(names)),
				"let every operand of the & admit them, or drop this one: principal and tenant have gates of their own")
			delete(warned, m)
		}
	}
	for _, m := range c.members {
		if !warned[m] {
			continue
		}
		if names := c.lackingItself(m, lacking); names != "" {
			c.report(unreached, m.Name, nil, fmt.Sprintf("%s can hold for no %s, so no agent can act with it%s", m, names, exceptUnscoped(names)),
				"add a relation that admits "+admit(names)+", or say why it is for people only")
		}
	}
}

// exceptUnscoped is the exception for a permission that holds for no delegation.
func exceptUnscoped(names string) string {
	if names == "delegation" {
		return ", unless that is unscoped"
	}
	return ""
}

// admit names the types that a relation should admit for actors.
func admit(names string) string {
	return strings.NewReplacer("agent or delegation", "agent and delegation", "user or service", "user").Replace(names)
}

// lackingItself names the actors that a permission cannot hold for. It returns "" if they are lacking only because another
// permission, which it is computed from, lacks them: that one is reported. Permissions that are computed from each other do not
// excuse each other, or none of them would be reported.
func (c *checker) lackingItself(m *schema.Member, lacking map[*schema.Member]actors) string {
	lacks := lacking[m]
	for _, l := range c.model.Leads(m) {
		if !l.Subtracted && c.components[l.To] != c.components[m] {
			lacks &^= lacking[l.To]
		}
	}
	// Without principals there is nobody to act for, whatever the rest. Without agents, a way for delegations alone is of no use.
	if lacks&principals != 0 && lacks&agents == 0 {
		return "user or service"
	}
	if lacks&agents != 0 && lacks&delegations != 0 {
		return "agent or delegation"
	}
	var names []string
	for _, n := range needed {
		if lacks&n.actors != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, " or ")
}

// excluding returns the operand of an intersection that excludes an actor which another operand of it admits; nil if there is
// none. The innermost intersection counts, because that is the one to mend. What an exclusion takes away is not looked at: it may
// be nobody.
func (c *checker) excluding(objectType string, e *schema.Expression, actor actors) *schema.Expression {
	var without *schema.Expression
	admitted := false
	for i, operand := range e.Operands {
		if e.Op == schema.Exclusion && i > 0 {
			break
		}
		if actorsIn(c.subjects.In(objectType, operand))&actor != 0 {
			admitted = true
			continue
		}
		without = operand
		if found := c.excluding(objectType, operand, actor); found != nil {
			return found
		}
	}
	if e.Op != schema.Intersection || !admitted {
		return nil
	}
	if without == nil { // each operand admits some of them, such as users here and services there
		without = e.Operands[len(e.Operands)-1]
	}
	return without
}

// governed are the core types whose objects belong to one principal: a grant that runs through one is that principal's.
var governed = []string{authz.TypeUser, authz.TypeService, authz.TypeDelegation, authz.TypeSession}

// checkPools finds grants that agents get through a person, a delegation or a session on the way. Such a grant holds for
// every principal that the agent acts for, because a check asks whether any path leads in, not whether this principal's does.
func (c *checker) checkPools() {
	for _, m := range c.members {
		for _, l := range c.model.Leads(m) {
			if l.Subtracted || !slices.Contains(governed, l.To.Type) || c.subjectActors(l.To)&(agents|delegations) == 0 {
				continue
			}
			path := l.To.String()
			if l.Leaf != nil {
				path = l.Leaf.String()
			}
			c.report(pooled, m.Name, l.At,
				fmt.Sprintf("%s lets an agent in through any %s that leads to it (%s), whoever it acts for", m, l.To.Type, path),
				"grant to agent and delegation directly, and leave whom the agent acts for to the delegation")
		}
	}
}

// peopleOnly are names of relations whose subjects answer for something.
var peopleOnly = []string{"owner", "requester", "approver", "manager", "admin", "administrator", "supervisor", "auditor"}

// checkSubjects finds relations that admit subjects which they should not.
func (c *checker) checkSubjects() {
	open := c.openToAgents()
	for _, m := range c.members {
		for _, a := range m.Allowed {
			actor := actorOf[a.Type]
			if slices.Contains(peopleOnly, m.Member) && !a.IsUserset() && actor&(agents|delegations) != 0 {
				c.report(agentSubject, m.Name, a.At,
					fmt.Sprintf("%s admits %s: a subject that is %s answers for something, and an agent does not", m, a.Type, m.Member),
					"admit users here, and let agents do the work through a relation of their own")
			}
			if a.Wildcard && actor != 0 && open[m] {
				c.report(wildcardSubject, m.Name, a.At,
					fmt.Sprintf("%s admits %s:*, and agents can reach what it grants: for each of them one condition less is asked", m, a.Type),
					"name each one, or a group")
			}
		}
	}
}

// openToAgents are the members that grant something which an agent can have. Unlike schema.Reach it leaves out members that are
// only subtracted: a wildcard there locks subjects out, and lets none in.
func (c *checker) openToAgents() map[*schema.Member]bool {
	taken := map[*schema.Member]bool{}
	for _, m := range c.members {
		for _, l := range c.model.Leads(m) {
			taken[l.To] = taken[l.To] || l.Subtracted
		}
	}
	open := map[*schema.Member]bool{}
	var visit func(m *schema.Member)
	visit = func(m *schema.Member) {
		if open[m] {
			return
		}
		open[m] = true
		for _, l := range c.model.Leads(m) {
			if !l.Subtracted {
				visit(l.To)
			}
		}
	}
	for _, m := range c.members {
		if !taken[m] && c.subjectActors(m)&agents != 0 {
			visit(m)
		}
	}
	return open
}
