package evaluate

import "math/bits"

// set is a set of subjects of one call: bit i is its subject i.
type set uint64

// maxSubjects is how many subjects are carried through one walk.
const maxSubjects = 64

// value is what a set of subjects is to a permission or relation of an object. A subject in none of the sets is
// not in it.
type value struct {
	// yes holds the subjects that are in it, without condition.
	yes set
	// unknown holds those for which an error came up that the rest does not make up for.
	unknown set
	// maybe holds the subjects that are in it under a condition; conditions has the conditions, by subject.
	maybe      set
	conditions []condition
}

// condition is the condition under which one subject is in.
type condition struct {
	subject uint8
	when    *expression
}

// of returns a subject's condition.
func (v *value) of(subject uint8) *expression {
	for _, c := range v.conditions {
		if c.subject == subject {
			return c.when
		}
	}
	return nil
}

// when adds that a subject is in under a condition, or under another one if there is one already.
func (v *value) when(subject uint8, e *expression) {
	if v.maybe&(1<<subject) == 0 {
		v.maybe |= 1 << subject
		v.conditions = append(v.conditions, condition{subject, e})
		return
	}
	for i := range v.conditions {
		if v.conditions[i].subject == subject {
			v.conditions[i].when = or(v.conditions[i].when, e)
		}
	}
}

// settle leaves each subject in one set only: yes before unknown before maybe.
func (v *value) settle() {
	v.unknown &^= v.yes
	gone := v.maybe & (v.yes | v.unknown)
	if gone == 0 {
		return
	}
	v.maybe &^= gone
	kept := v.conditions[:0]
	for _, c := range v.conditions {
		if v.maybe&(1<<c.subject) != 0 {
			kept = append(kept, c)
		}
	}
	v.conditions = kept
}

// add makes v the union of both.
func (v *value) add(o value) {
	v.yes |= o.yes
	v.unknown |= o.unknown
	for _, c := range o.conditions {
		v.when(c.subject, c.when)
	}
	v.settle()
}

// under returns what a value is behind a relationship with a caveat; nil is none.
func (v *value) under(e *expression) value {
	if e == nil {
		return *v
	}
	out := value{unknown: v.unknown}
	for s := range v.yes.subjects {
		out.when(s, e)
	}
	for _, c := range v.conditions {
		out.when(c.subject, and(e, c.when))
	}
	return out
}

// intersect makes v what is in both.
func (v *value) intersect(o value) {
	out := value{yes: v.yes & o.yes}
	// A subject that is surely not in one of them is not in both.
	possible := (v.yes | v.unknown | v.maybe) & (o.yes | o.unknown | o.maybe)
	out.unknown = possible & (v.unknown | o.unknown)
	for s := range (possible &^ out.unknown &^ out.yes).subjects {
		switch a, b := v.of(s), o.of(s); {
		case a == nil:
			out.when(s, b)
		case b == nil:
			out.when(s, a)
		default:
			out.when(s, and(a, b))
		}
	}
	*v = out
}

// subtract takes away from v the subjects in o.
func (v *value) subtract(o value) {
	out := value{}
	possible := (v.yes | v.unknown | v.maybe) &^ o.yes
	out.unknown = possible & (v.unknown | o.unknown)
	out.yes = possible & v.yes &^ out.unknown &^ o.maybe
	for s := range (possible &^ out.unknown &^ out.yes).subjects {
		base, away := v.of(s), o.of(s)
		switch {
		case away == nil:
			out.when(s, base)
		case base == nil:
			out.when(s, not(away))
		default:
			out.when(s, and(base, not(away)))
		}
	}
	*v = out
}

// within returns the part of a value that is about some subjects.
func (v *value) within(s set) value {
	out := value{yes: v.yes & s, unknown: v.unknown & s, maybe: v.maybe & s}
	switch out.maybe {
	case 0:
	case v.maybe:
		out.conditions = v.conditions
	default:
		for _, c := range v.conditions {
			if s&(1<<c.subject) != 0 {
				out.conditions = append(out.conditions, c)
			}
		}
	}
	return out
}

// subjects is an iterator over the subjects in the set.
func (s set) subjects(yield func(uint8) bool) {
	for ; s != 0; s &= s - 1 {
		if !yield(uint8(bits.TrailingZeros64(uint64(s)))) { //nolint:gosec // at most 63
			return
		}
	}
}
