package reach

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxDiffers is how many parties of a delegation, and how many objects that one of two reaches has named and the other has not, a comparison keeps.
const maxDiffers = 1_000_000

// Change is what became of a party, or of its reach.
type Change struct {
	// Before and After are the party; one of them is nil where it is in one reach only.
	Before, After *deputy.ReachParty
	// Objects are those that the reaches do not have in common, in the order of type, permission and id. Each is in one list.
	Gained, Lost []*deputy.ReachObject
	// Changed are those that both have with another answer.
	Changed []Changed
}

// Changed is an object that both reaches have, with another answer: reached, conditional or unknown.
type Changed struct{ Before, After *deputy.ReachObject }

// Party is the party after the change, or before it where it is gone.
func (c *Change) Party() *deputy.ReachParty {
	if c.After != nil {
		return c.After
	}
	return c.Before
}

// Empty tells that nothing of what is reached differs, and that no gate refuses now what it did not refuse before.
func (c *Change) Empty() bool {
	return len(c.Gained)+len(c.Lost)+len(c.Changed) == 0 && c.Before != nil && c.After != nil &&
		c.Before.GetRefusedBy() == c.After.GetRefusedBy()
}

// Stream is the messages of a Join, with objects. An error ends it.
type Stream = iter.Seq2[*Message, error]

// Compare calls yield with what differs between two reaches, party by party, in the order of delegations. Both have to be of one request, at two
// revisions or under two schemas. It reads both at once, a delegation at a time, and keeps the objects that one of them has named and the other has
// not: few, if few differ, because both come in one order. It does not depend on that order. Errors: those of a stream or of yield, delegations that
// do not come in order, and more than a million objects of one delegation that differ.
func Compare(before, after Stream, yield func(*Change) error) error {
	b, a := newSide("before", before), newSide("after", after)
	defer b.stop()
	defer a.stop()
	for {
		// What is wrong with both, such as the caller's role, is told once.
		if err := b.begin(); err != nil {
			return err
		}
		if err := a.begin(); err != nil {
			return err
		}
		d := &differences{parties: map[string]int{}, objects: map[objectKey]*deputy.ReachObject{}}
		switch {
		case b.next == nil && a.next == nil:
			return nil
		case a.next == nil:
			d.before = b
		case b.next == nil:
			d.after = a
		default:
			order := cmp.Compare(Delegation(b.next), Delegation(a.next))
			if order <= 0 {
				d.before = b
			}
			if order >= 0 {
				d.after = a
			}
		}
		if err := d.read(); err != nil {
			return err
		}
		for _, change := range d.changes() {
			if err := yield(change); err != nil {
				return err
			}
		}
	}
}

// side is one of two streams, read delegation by delegation.
type side struct {
	name string
	pull func() (*Message, error, bool)
	stop func()
	// next is the party that was read and not yet taken; nil once there is none.
	next *deputy.ReachParty
	// begun tells that the stream was read at all, and delegation which one was begun last.
	begun      bool
	delegation string
	// party is which party of the delegation the objects are of.
	party int
}

func newSide(name string, of Stream) *side {
	s := &side{name: name}
	s.pull, s.stop = iter.Pull2(of)
	return s
}

// begin finds the next delegation.
func (s *side) begin() error {
	for s.next == nil {
		m, err, ok := s.pull()
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		s.next = m.GetParty()
	}
	if s.begun && s.delegation > Delegation(s.next) {
		return fmt.Errorf("the delegations of the reach %s do not come in order, so that they cannot be compared: %s comes behind %s. Compare one "+
			"delegation at a time", s.name, Delegation(s.next), s.delegation)
	}
	return nil
}

// message returns the next message of the delegation that was begun; nil at its end.
func (s *side) message() (*Message, error) {
	if p := s.next; p != nil {
		if s.begun && Delegation(p) != s.delegation {
			return nil, nil //nolint:nilnil // nothing is left of it
		}
		s.begun, s.delegation, s.next = true, Delegation(p), nil
		return &Message{Result: &deputy.ReadReachResponse_Party{Party: p}}, nil
	}
	m, err, ok := s.pull()
	if err != nil || !ok {
		return nil, err
	}
	if p := m.GetParty(); p != nil {
		s.next = p
		return s.message()
	}
	return m, nil
}

// objectKey tells the objects of a delegation apart.
type objectKey struct {
	party                      int
	objectType, permission, id string
}

func (k objectKey) compare(other objectKey) int {
	return cmp.Or(cmp.Compare(k.party, other.party), cmp.Compare(k.objectType, other.objectType), cmp.Compare(k.permission, other.permission),
		cmp.Compare(k.id, other.id))
}

// differences are what one side has named of a delegation, and the other has not.
type differences struct {
	// before and after are the sides that have the delegation.
	before, after *side
	// parties are the places of parties in all.
	parties map[string]int
	all     []*Change
	// objects are those that one side has named. Those of before are in lost too.
	objects map[objectKey]*deputy.ReachObject
	lost    map[objectKey]bool
}

// read reads the delegation of both sides, in turns.
func (d *differences) read() error {
	d.lost = map[objectKey]bool{}
	sides := slices.DeleteFunc([]*side{d.before, d.after}, func(s *side) bool { return s == nil })
	for _, s := range sides {
		s.delegation, s.begun = Delegation(s.next), true
	}
	for len(sides) > 0 {
		for i := 0; i < len(sides); {
			m, err := sides[i].message()
			if err != nil {
				return err
			}
			if m == nil {
				sides = slices.Delete(sides, i, i+1)
				continue
			}
			d.take(sides[i], m)
			i++
		}
		if len(d.objects)+len(d.all) > maxDiffers {
			return fmt.Errorf("more than %d objects that delegation %s reaches differ: compare less at a time, such as one type or one principal",
				maxDiffers, Delegation(d.all[0].Party()))
		}
	}
	return nil
}

// take takes a message of a side.
func (d *differences) take(s *side, m *Message) {
	if p := m.GetParty(); p != nil {
		place, known := d.parties[PartyKey(p)]
		if !known {
			place = len(d.all)
			d.parties[PartyKey(p)], d.all = place, append(d.all, &Change{})
		}
		s.party = place
		if s == d.before {
			d.all[place].Before = p
		} else {
			d.all[place].After = p
		}
	}
	o := m.GetObject()
	if o == nil {
		return
	}
	key := objectKey{s.party, o.GetResource().GetObjectType(), o.GetPermission(), o.GetResource().GetObjectId()}
	other, named := d.objects[key]
	if !named || d.lost[key] == (s == d.before) {
		d.objects[key] = o
		if s == d.before {
			d.lost[key] = true
		}
		return
	}
	delete(d.objects, key)
	delete(d.lost, key)
	if s == d.before {
		o, other = other, o
	}
	if Answer(other) != Answer(o) {
		change := d.all[s.party]
		change.Changed = append(change.Changed, Changed{Before: other, After: o})
	}
}

// changes are the parties of which something differs, in the order in which they came.
func (d *differences) changes() []*Change {
	for _, key := range slices.SortedFunc(maps.Keys(d.objects), objectKey.compare) {
		if change := d.all[key.party]; d.lost[key] {
			change.Lost = append(change.Lost, d.objects[key])
		} else {
			change.Gained = append(change.Gained, d.objects[key])
		}
	}
	for _, c := range d.all {
		slices.SortFunc(c.Changed, func(a, b Changed) int {
			return cmp.Or(
				cmp.Compare(a.After.GetResource().GetObjectType(), b.After.GetResource().GetObjectType()),
				cmp.Compare(a.After.GetPermission(), b.After.GetPermission()),
				cmp.Compare(a.After.GetResource().GetObjectId(), b.After.GetResource().GetObjectId()),
			)
		})
	}
	return slices.DeleteFunc(d.all, (*Change).Empty)
}
