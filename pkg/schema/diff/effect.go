package diff

import (
	"maps"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema"
)

// effect is what a change can do to the set of subjects that have a member.
type effect struct {
	// widens: a subject may get it that did not have it. narrows: a subject may lose it.
	widens, narrows bool
}

func (e effect) or(o effect) effect { return effect{e.widens || o.widens, e.narrows || o.narrows} }

// none reports whether nothing changes for anybody.
func (e effect) none() bool { return !e.widens && !e.narrows }

// across is the effect on a formula of an effect on one of its variables, which stands on these sides of exclusions. To narrow
// a set that is taken away is to widen the rest.
func (e effect) across(sides schema.Sides) (out effect) {
	if sides.Given {
		out = e
	}
	if sides.Taken {
		out = out.or(effect{widens: e.narrows, narrows: e.widens})
	}
	return out
}

// compare returns what it does to put one formula in the place of another, whatever their variables are. proven is false where
// there are too many of those: then both may happen.
func compare(before, after *schema.Expression) (e effect, proven bool) {
	tables, ok := schema.NewTables(before, after)
	if !ok {
		return effect{true, true}, false
	}
	return effect{widens: tables.Gains(before, after), narrows: tables.Gains(after, before)}, true
}

// effects follows what changes do through the schema. A change to a relation reaches the permissions that
// refer to it; on the right side of an exclusion, narrowing the relation widens them.
type effects struct {
	before, after *side
	// of is the effect on each member of its own changes and of those that it refers to.
	of map[schema.Name]effect
	// foreign is that part of it which does not come from how the member itself is written.
	foreign map[schema.Name]effect
	// causes are the members that are written differently, and the caveats, which are names without a type; each with the
	// members that it changes by itself.
	causes map[schema.Name][]schema.Name
	// users are those that refer to a member.
	users map[schema.Name]map[schema.Name]schema.Sides
}

func newEffects(before, after *side) *effects {
	e := &effects{
		before: before, after: after, of: map[schema.Name]effect{}, foreign: map[schema.Name]effect{},
		causes: map[schema.Name][]schema.Name{}, users: map[schema.Name]map[schema.Name]schema.Sides{},
	}
	for _, m := range after.model.Members {
		was := before.model.Member(m.Name)
		switch {
		case was == nil || was.IsPermission() != m.IsPermission():
			// It has no meaning that could shift.
		case m.IsPermission():
			e.usesOperands(was, m)
		default:
			for _, a := range m.Allowed {
				if a.IsUserset() {
					e.uses(m.Name, a.Names(), schema.Sides{Given: true})
				}
			}
		}
	}
	return e
}

// usesOperands notes what a permission refers to. Only variables of both its expressions can pass an effect on:
// the comparison of the two holds for all values of the others. It takes an arrow for all and one for any of the same for two
// that depend on each other, so here they are one.
func (e *effects) usesOperands(before, after *schema.Member) {
	one := func(v schema.Variable) schema.Variable {
		if v.Op == schema.ArrowAll {
			v.Op = schema.Arrow
		}
		return v
	}
	stood := map[schema.Variable]bool{}
	for v := range schema.Variables(e.before.formulas.Of(before)) {
		stood[one(v)] = true
	}
	m := after.Name
	for v, sides := range schema.Variables(e.after.formulas.Of(after)) {
		if !stood[one(v)] {
			continue
		}
		if v.Op == schema.Computed {
			e.uses(m, schema.Name{Type: m.Type, Member: v.Member}, sides)
			continue
		}
		through := schema.Name{Type: m.Type, Member: v.Through}
		e.uses(m, through, sides)
		if v.Op == schema.ArrowAll {
			// One more object on the left can be one too many: it may widen or narrow.
			e.uses(m, through, schema.Sides{Given: true, Taken: true})
		}
		for _, s := range []*side{e.before, e.after} {
			for _, t := range s.model.Member(through).Objects() {
				e.uses(m, schema.Name{Type: t, Member: v.Member}, sides)
			}
		}
	}
}

func (e *effects) uses(m, of schema.Name, sides schema.Sides) {
	if e.users[of] == nil {
		e.users[of] = map[schema.Name]schema.Sides{}
	}
	known := e.users[of][m]
	e.users[of][m] = schema.Sides{Given: known.Given || sides.Given, Taken: known.Taken || sides.Taken}
}

// add notes an effect on m of the changes in causes.
func (e *effects) add(m schema.Name, is effect, causes ...schema.Name) {
	if is.none() {
		return
	}
	e.of[m] = e.of[m].or(is)
	for _, c := range causes {
		e.causes[c] = append(e.causes[c], m)
	}
}

// spread carries everything that was added to the members that refer to it. An effect only ever grows, so recursion ends.
func (e *effects) spread() {
	for todo := slices.Collect(maps.Keys(e.of)); len(todo) > 0; todo = todo[1:] {
		m := todo[0]
		for user, sides := range e.users[m] {
			was, is := e.of[user], e.of[m].across(sides)
			e.foreign[user] = e.foreign[user].or(is)
			if e.of[user] = was.or(is); e.of[user] != was {
				todo = append(todo, user)
			}
		}
	}
}

// maxThrough is how many causes are named of one effect.
const maxThrough = 5

// causedBy returns for each member the causes of the effects on it, itself left out: the first few in order, and
// "others" if there are more.
func (e *effects) causedBy() map[schema.Name][]string {
	found := map[schema.Name][]string{}
	byText := func(a, b schema.Name) int { return strings.Compare(a.String(), b.String()) }
	for _, cause := range slices.SortedFunc(maps.Keys(e.causes), byText) {
		name := cause.String()
		if cause.Type == "" {
			name = "caveat " + cause.Member
		}
		seen := map[schema.Name]bool{}
		for todo := slices.Clone(e.causes[cause]); len(todo) > 0; todo = todo[1:] {
			m := todo[0]
			if seen[m] || len(found[m]) > maxThrough {
				continue
			}
			seen[m] = true
			switch {
			case m == cause:
			case len(found[m]) == maxThrough:
				found[m] = append(found[m], "others")
			default:
				found[m] = append(found[m], name)
			}
			for user := range e.users[m] {
				todo = append(todo, user)
			}
		}
	}
	return found
}

// rewritten are the permissions of one type, written differently themselves, that the formula of m is made of.
func (e *effects) rewritten(m schema.Name, changed map[schema.Name]bool) []schema.Name {
	found := map[schema.Name]bool{}
	for _, s := range []*side{e.before, e.after} {
		at := s.model.Member(m)
		for _, part := range append(s.model.SameObject(at), at) {
			if changed[part.Name] {
				found[part.Name] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}
