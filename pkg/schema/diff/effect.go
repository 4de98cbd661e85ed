package diff

import (
	"maps"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/schema"
)

// kinds is a set of types of subjects, a bit each. In a schema of more than 64 types some share a bit, so that a set may hold more
// than it should, and an effect is reported that is none. It never holds less.
type kinds uint64

// everybody is all types.
const everybody = ^kinds(0)

// effect is what a change can do to the set of subjects that have a member.
type effect struct {
	// widens: subjects of these types may get it that did not have it. narrows: they may lose it.
	widens, narrows kinds
}

func (e effect) or(o effect) effect { return effect{e.widens | o.widens, e.narrows | o.narrows} }

// none reports whether nothing changes for anybody.
func (e effect) none() bool { return e == effect{} }

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
		return effect{everybody, everybody}, false
	}
	if tables.Gains(before, after) {
		e.widens = everybody
	}
	if tables.Gains(after, before) {
		e.narrows = everybody
	}
	return e, true
}

// effects follows what changes do through the schema. A change to a relation reaches the permissions that
// refer to it; on the right side of an exclusion, narrowing the relation widens them.
type effects struct {
	before, after *side
	// bits are the types' bits in kinds.
	bits map[string]kinds
	// causes are the members that are written differently, and the caveats, which are names without a type; each with what it does
	// to members by itself.
	causes map[schema.Name][]arrival
	// users are those that refer to a member.
	users map[schema.Name]map[schema.Name]use
	// foreign is the effect on each member that does not come from how the member itself is written.
	foreign map[schema.Name]effect
}

// arrival is an effect on a member.
type arrival struct {
	at schema.Name
	is effect
}

// use is how a member refers to another one.
type use struct {
	schema.Sides

	// follows: an arrow follows the other one to its objects, so that one object more or less there is everybody whom it leads to.
	follows bool
}

// kinds returns the bits of types.
func (e *effects) kinds(types map[string]bool) (found kinds) {
	for t := range types {
		found |= e.bits[t]
	}
	return found
}

// within leaves of an effect on a member what can be one: only subjects that can have it can get it or lose it.
func (e *effects) within(m schema.Name, is effect) effect {
	return effect{is.widens & e.kinds(e.after.subjects.Of(m)), is.narrows & e.kinds(e.before.subjects.Of(m))}
}

func newEffects(before, after *side) *effects {
	e := &effects{
		before: before, after: after, bits: map[string]kinds{}, foreign: map[schema.Name]effect{},
		causes: map[schema.Name][]arrival{}, users: map[schema.Name]map[schema.Name]use{},
	}
	for _, s := range []*side{before, after} {
		for _, d := range s.Objects {
			if e.bits[d.GetName()] == 0 {
				e.bits[d.GetName()] = 1 << (len(e.bits) % 64)
			}
		}
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
					e.uses(m.Name, a.Names(), schema.Sides{Given: true}, false)
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
			e.uses(m, schema.Name{Type: m.Type, Member: v.Member}, sides, false)
			continue
		}
		through := schema.Name{Type: m.Type, Member: v.Through}
		e.uses(m, through, sides, true)
		if v.Op == schema.ArrowAll {
			// One more object on the left can be one too many: it may widen or narrow.
			e.uses(m, through, schema.Sides{Given: true, Taken: true}, true)
		}
		for _, s := range []*side{e.before, e.after} {
			for _, t := range s.model.Member(through).Objects() {
				e.uses(m, schema.Name{Type: t, Member: v.Member}, sides, false)
			}
		}
	}
}

func (e *effects) uses(m, of schema.Name, sides schema.Sides, follows bool) {
	if e.users[of] == nil {
		e.users[of] = map[schema.Name]use{}
	}
	known := e.users[of][m]
	e.users[of][m] = use{schema.Sides{Given: known.Given || sides.Given, Taken: known.Taken || sides.Taken}, known.follows || follows}
}

// add notes an effect on m of the changes in causes.
func (e *effects) add(m schema.Name, is effect, causes ...schema.Name) {
	if is = e.within(m, is); is.none() {
		return
	}
	for _, c := range causes {
		e.causes[c] = append(e.causes[c], arrival{m, is})
	}
}

// passed is what an effect on a member does to one that refers to it.
func (e *effects) passed(is effect, user schema.Name, how use) effect {
	if how.follows {
		is = effect{all(is.widens), all(is.narrows)}
	}
	return e.within(user, is.across(how.Sides))
}

// all is everybody where there is anybody.
func all(k kinds) kinds {
	if k != 0 {
		return everybody
	}
	return 0
}

// maxThrough is how many causes are named of one effect.
const maxThrough = 5

// spread carries everything that was added to the members that refer to it. It returns for each member the causes of the effects
// on it, itself left out: the first few in order, and "others" if there are more. An effect only ever grows, so recursion ends.
func (e *effects) spread() map[schema.Name][]string {
	through, known := map[schema.Name][]string{}, map[schema.Name]effect{}
	byText := func(a, b schema.Name) int { return strings.Compare(a.String(), b.String()) }
	for _, cause := range slices.SortedFunc(maps.Keys(e.causes), byText) {
		name := cause.String()
		if cause.Type == "" {
			name = "caveat " + cause.Member
		}
		reached := map[schema.Name]effect{}
		for todo := slices.Clone(e.causes[cause]); len(todo) > 0; todo = todo[1:] {
			m, is := todo[0].at, todo[0].is
			was := reached[m]
			if was.or(is) == was || len(through[m]) > maxThrough && known[m].or(is) == known[m] {
				continue // nothing that is not known, and no cause more to be named
			}
			reached[m], known[m] = was.or(is), known[m].or(is)
			switch {
			case m == cause || !was.none():
			case len(through[m]) == maxThrough:
				through[m] = append(through[m], "others")
			case len(through[m]) < maxThrough:
				through[m] = append(through[m], name)
			}
			for user, how := range e.users[m] {
				passed := e.passed(is, user, how)
				e.foreign[user] = e.foreign[user].or(passed)
				todo = append(todo, arrival{user, passed})
			}
		}
	}
	return through
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
