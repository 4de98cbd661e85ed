package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
	"github.com/deputyauth/deputy/pkg/reach"
)

// maxKinds is how many kinds of grants the text shows for each holder. -o json has all that the server sent.
const maxKinds = 8

// reachTable prints a reach party by party, as it comes: objects at once, and the rest of a party when it is whole. So it holds one party.
type reachTable struct {
	out  io.Writer
	sum  *reach.Sum
	list bool
	of   string

	party *deputy.ReachParty
	all   []*deputy.ReachCount
}

// add takes the next message.
func (t *reachTable) add(m *reach.Message) error {
	switch {
	case m.GetParty() != nil:
		if err := t.finish(); err != nil {
			return err
		}
		return t.begin(m.GetParty())
	case m.GetObject() != nil:
		if !t.list {
			return nil // it is asked for by --csv
		}
		_, err := fmt.Fprintln(t.out, notation.Visible("  "+objectLine(m.GetObject())))
		return err
	case m.GetCount() != nil:
		t.all = append(t.all, m.GetCount())
		return nil
	case m.GetEnd() != nil:
		if err := t.finish(); err != nil {
			return err
		}
		return writeTable(t.out, t.end)
	default:
		return nil
	}
}

// objectLine shows an object: "document:plan view", with what is known of it where it is not just reached.
func objectLine(o *deputy.ReachObject) string {
	line := object(o.GetResource()) + " " + o.GetPermission()
	if o.GetPermissionship() != deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION || o.GetError() != nil {
		line += ", " + reach.Answer(o)
	}
	return line
}

// partyLine names a party: "triage-bot for user:alice in acme".
func partyLine(p *deputy.ReachParty) string {
	return reach.Agents(p) + " for " + object(p.GetPrincipal()) + " in " + p.GetTenantId()
}

// begin shows who acts, for whom, and how.
func (t *reachTable) begin(p *deputy.ReachParty) error {
	t.party = p
	return writeTable(t.out, func(w io.Writer) {
		if t.sum.Parties > 1 {
			row(w, "")
		}
		row(w, partyLine(p))
		field(w, "  delegation", strings.Join(p.GetDelegationChain(), " > "))
		field(w, "  covers", subject(p.GetPrincipalSet()))
		field(w, "  session", p.GetSessionId())
		if p.GetRefusedBy() != deputy.Gate_GATE_UNSPECIFIED {
			field(w, "  reaches", "nothing: refused by the gate "+reach.Gate(p.GetRefusedBy()))
			return
		}
		field(w, "  until", cmp.Or(moment(p.GetValidUntil()), "nothing ends it by itself"))
		if p.GetNeedsSession() {
			field(w, "  acts", "in sessions only")
		}
		if p.GetFrozen() {
			field(w, "  frozen", "what was granted after the session's start does not count")
		}
		field(w, "  flags", reach.FlagWords(p.GetFlags()))
		if t.list {
			row(w, "")
		}
	})
}

// finish shows how much the party reaches.
func (t *reachTable) finish() error {
	p, all := t.party, t.all
	t.party, t.all = nil, nil
	if p == nil || p.GetRefusedBy() != deputy.Gate_GATE_UNSPECIFIED {
		return nil
	}
	all = slices.DeleteFunc(all, func(c *deputy.ReachCount) bool { return c.GetHas()+c.GetConditional()+c.GetFailed() == 0 })
	return writeTable(t.out, func(w io.Writer) {
		if len(all) > 0 || !t.list { // the list has left a line blank
			row(w, "")
		}
		if len(all) == 0 {
			row(w, "  It reaches nothing.")
			return
		}
		row(w, "  TYPE", "PERMISSION", "OBJECTS", "CONDITIONAL", "FLAGS")
		for _, c := range all {
			row(w, "  "+c.GetResourceObjectType(), c.GetPermission(), number(c.GetHas()), number(c.GetConditional()), reach.FlagWords(c.GetFlags()))
		}
		grantsTable(w, all)
		for _, c := range all {
			if c.GetFailed() > 0 {
				row(w, "")
				row(w, fmt.Sprintf("  Of %s it is not known whether it reaches them with %s, because a check fails; --list names them.",
					reach.Plural(c.GetFailed(), c.GetResourceObjectType()), c.GetPermission()))
			}
		}
	})
}

// number is a count, or nothing for none.
func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// through is what comes through grants of one kind, or while a set has a member.
type through struct {
	holder, text string
	role         reach.Role
	rights       uint64
	reaches      []string
}

// throughs are several of them, by holder and text.
type throughs map[[2]string]*through

// add notes how many objects of a count come through one.
func (t throughs) add(holder *deputy.ObjectReference, text string, objects uint64, c *deputy.ReachCount) {
	key := [2]string{object(holder), text}
	if t[key] == nil {
		t[key] = &through{holder: key[0], text: text, role: reach.RoleOf(holder)}
	}
	t[key].rights += objects
	t[key].reaches = append(t[key].reaches, fmt.Sprintf("%s %s %d", c.GetResourceObjectType(), c.GetPermission(), objects))
}

// sorted returns them by holder, those of the principal first, and those with most first.
func (t throughs) sorted() []*through {
	role := map[reach.Role]int{reach.RolePrincipal: 0, reach.RoleAgent: 1, reach.RoleScope: 2}
	return slices.SortedFunc(maps.Values(t), func(a, b *through) int {
		return cmp.Or(cmp.Compare(role[a.role], role[b.role]), cmp.Compare(a.holder, b.holder), cmp.Compare(b.rights, a.rights), cmp.Compare(a.text, b.text))
	})
}

// grantsTable shows through which grants, and what is reached through one set alone.
func grantsTable(w io.Writer, all []*deputy.ReachCount) {
	kinds, sets := throughs{}, throughs{}
	var others uint64
	cut := false
	for _, c := range all {
		others += c.GetOthers()
		cut = cut || c.GetOnlyThroughCut()
		for _, g := range c.GetGrants() {
			kinds.add(g.GetHolder(), reach.Kind(g), g.GetObjects(), c)
		}
		for _, s := range c.GetOnlyThrough() {
			sets.add(s.GetHolder(), subject(s.GetSet()), s.GetObjects(), c)
		}
	}
	if len(kinds) > 0 {
		row(w, "")
		row(w, "  GRANTED TO", "AS", "WHICH REACHES")
	}
	shown := map[string]int{}
	for _, k := range kinds.sorted() {
		switch shown[k.holder]++; {
		case shown[k.holder] <= maxKinds:
			row(w, "  "+k.holder, k.text, strings.Join(k.reaches, ", "))
		case shown[k.holder] == maxKinds+1:
			row(w, "  "+k.holder, "more kinds of grants: see -o json")
		}
	}
	if others > 0 {
		row(w, fmt.Sprintf("  Through grants that the server does not name: %s.", reach.Plural(others, "object")))
	}
	if len(sets) > 0 {
		row(w, "")
		row(w, "  ONLY WHILE", "IS IN", "IS REACHED")
	}
	for i, s := range sets.sorted() {
		if i == maxKinds {
			row(w, "  More such sets: see -o json")
			break
		}
		row(w, "  "+s.holder, s.text, strings.Join(s.reaches, ", "))
	}
	if cut {
		row(w, "  There may be more such sets: of some objects not all were looked at.")
	}
}

// end shows what all parties come to, what the flags mean, and the revision.
func (t *reachTable) end(w io.Writer) {
	s := t.sum
	if s.Parties == 0 {
		row(w, "There is no delegation under which "+t.of+" could act, so that it reaches nothing.")
	}
	if s.Parties > 1 {
		row(w, "")
		text := fmt.Sprintf("All %d parties together. An object that several of them reach counts once for each:", s.Parties)
		if s.Refused > 0 {
			text = fmt.Sprintf("All %d parties together, of which %d are refused. An object that several of them reach counts once for each:", s.Parties, s.Refused)
		}
		row(w, text)
		row(w, "")
		row(w, "  TYPE", "PERMISSION", "OBJECTS", "CONDITIONAL", "FLAGS")
		for _, r := range s.Rows() {
			row(w, "  "+r.Type, r.Permission, number(r.Has), number(r.Conditional), reach.FlagWords(r.Flags))
		}
	}
	if flags := s.Flags(); len(flags) > 0 {
		row(w, "")
		for _, f := range flags {
			row(w, reach.FlagWord(f), reach.FlagMeaning(f))
		}
	}
	row(w, "")
	row(w, "revision", s.At)
}
